"""A plugin of pytest that has Dask's own tests use Treadle, whichever scheduler they name.

    python -m pytest -p treadle_upstream --treadle threads --pyargs dask.array

What is known to fail, and why, is listed in ``known.txt`` beside this file; it is expected to. A name stands for the
test with all parameters, unless it has some.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
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
    parser.addoption("--treadle", default="threads", help="threads, sync, cluster (2 workers), or dask: its own")


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
        if kind == "dask":
            yield
            return
        if kind == "cluster":
            cluster = stack.enter_context(treadle.LocalCluster(n_workers=2, threads_per_worker=1))
            stack.enter_context(treadle.Client(cluster))
            get: Any = _results_of(dask.config.get("scheduler"))
        else:
            get = {"threads": treadle.threaded.get, "sync": treadle.sync.get}[kind]
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
