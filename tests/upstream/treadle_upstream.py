"""A plugin of pytest that has Dask's own tests use Treadle, whichever scheduler they name.

    python -m pytest -p treadle_upstream --treadle threads --pyargs dask.array

What is known to fail, and why, is listed in ``known.txt`` beside this file; it is expected to. A name stands for the
test with all parameters, unless it has some.

At the end there is the time that the tests have taken, without their preparation, by the clock and of CPU. For that of
Dask's own threads run the same with ``--treadle dask``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

import treadle

KNOWN = Path(__file__).with_name("known.txt")


def known(kind: str) -> dict[str, str]:
    """The tests that fail with one kind of scheduler, and the reasons."""
    found: dict[str, str] = {}
    for line in KNOWN.read_text().splitlines():
        if line and not line.startswith("#"):
            kinds, name, reason = line.split(" | ")
            if kind in kinds.split():
                found[name] = reason
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--treadle",
        default="threads",
        help="threads, sync, cluster (2 workers), dask: the threads of Dask, or own: what each test of Dask names",
    )
    parser.addoption("--times", type=Path, help="a file to add a line to: the scheduler, its seconds, and those of CPU")


def _results_of(scheduler: Any) -> Any:
    """A function that runs graphs as ``scheduler`` does.

    That one also holds what is persisted as futures; what compares arrays in Dask's tests persists them first, and
    wants to see blocks.
    """

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        return scheduler(graph, keys, **options)

    return get


@pytest.fixture(scope="session", autouse=True)
def _use_treadle(request: pytest.FixtureRequest) -> Iterator[None]:
    dask: Any = import_module("dask")
    kind = request.config.getoption("--treadle")
    with ExitStack() as stack:
        if kind == "own":
            yield
            return
        if kind == "cluster":
            cluster = stack.enter_context(treadle.LocalCluster(n_workers=2, threads_per_worker=1))
            stack.enter_context(treadle.Client(cluster))
            get: Any = _results_of(dask.config.get("scheduler"))
        else:
            dasks = import_module("dask.threaded").get
            get = {"threads": treadle.threaded.get, "sync": treadle.sync.get, "dask": dasks}[kind]
        for name in dask.base.named_schedulers:
            dask.base.named_schedulers[name] = get
        stack.enter_context(dask.config.set(scheduler=get))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    expected = known(config.getoption("--treadle"))
    for item in items:
        name = f"{item.path.as_posix().rpartition('/dask/')[2]}::{item.name}"
        reason = expected.get(name, expected.get(name.partition("[")[0]))
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True, run=not reason.startswith("crashes")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    start, cpu = perf_counter(), process_time()
    try:
        return (yield)
    finally:
        item.user_properties.append(("took", [perf_counter() - start, process_time() - cpu]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # whoever has started this process sums up
    reports = [report for group in terminalreporter.stats.values() for report in group]
    took = [dict(report.user_properties)["took"] for report in reports if getattr(report, "when", "") == "call"]
    kind, wall, cpu = config.getoption("--treadle"), sum(pair[0] for pair in took), sum(pair[1] for pair in took)
    terminalreporter.write_line(f"{kind}: {len(took)} tests took {wall:.1f} s, and {cpu:.1f} s of CPU in this process")
    times = config.getoption("--times")
    if times is not None:
        with open(times, "a") as file:
            file.write(f"{kind} {wall:.3f} {cpu:.3f}\n")
