"""Dask's arrays, bags, dataframes and delayed values, computed by Treadle with no other change."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
import pytest

import treadle
from treadle import Client, LocalCluster
from treadle.client import default
from treadle.errors import TaskNotSerializableError, UserError
from treadle.integrations import adoption
from treadle.testing.tasks import Boom, eventually

# Untyped, in part.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")
dd: Any = import_module("dask.dataframe")


@pytest.fixture
def client(default_client: Client) -> Client:
    return default_client


def table() -> pd.DataFrame:
    numbers = np.arange(1000)
    return pd.DataFrame({"key": numbers % 7, "text": (numbers % 3).astype(str), "value": numbers * 0.5})


def programs() -> dict[str, Any]:
    """Collections of all kinds, and operations of all kinds on them."""
    x = da.from_array(np.arange(600.0).reshape(20, 30), chunks=(7, 11))
    frame = dd.from_pandas(table(), npartitions=5)
    other = dd.from_pandas(table().iloc[:7, [0, 2]].rename(columns={"value": "factor"}), npartitions=2)
    bag = db.from_sequence(range(100), npartitions=6)
    return {
        "array": (x + x.mean(axis=0)).T,
        "array sum": x.sum(),
        "array product": x @ x.T,
        "array rechunk": x.rechunk((20, 3)) - 1,
        "array slice": x[3:11, ::4],
        "array cumsum": x.cumsum(axis=1),
        "array svd": da.linalg.svd(x.rechunk((20, 30)))[1],
        "bag map": bag.map(lambda number: number + 1).filter(lambda number: number % 2),
        "bag fold": bag.sum(),
        "bag groupby": bag.groupby(lambda number: number % 3).map(lambda pair: (pair[0], sorted(pair[1]))),
        "frame group-by": frame.groupby("key").value.agg(["sum", "mean", "count"]),
        "frame join": frame.merge(other, on="key")[["key", "value", "factor"]],
        "frame shuffle": frame.set_index("key").value,
        "frame window": frame.value.rolling(5).mean(),
        "frame categories": frame.categorize("text").groupby("text", observed=True).value.sum(),
        "frame strings": frame.text.str.upper().drop_duplicates(),
        "frame quantile": frame.value.quantile(0.5),
        "delayed": dask.delayed(sum)([dask.delayed(abs)(-number) for number in range(10)]),
    }


PROGRAMS = programs()


def check(found: Any, expected: Any) -> None:
    if isinstance(expected, (pd.DataFrame, pd.Series)):
        # The order of rows, and an index without a name, say nothing after a shuffle.
        found, expected = (frame.reset_index(drop=frame.index.name is None) for frame in (found, expected))
        if isinstance(expected, pd.DataFrame):
            order = list(expected.columns)
            found, expected = (frame.sort_values(order, ignore_index=True) for frame in (found, expected))
            pd.testing.assert_frame_equal(found, expected)
        else:
            pd.testing.assert_series_equal(*(frame.sort_values(ignore_index=True) for frame in (found, expected)))
    elif isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected)
    elif isinstance(expected, list):
        assert sorted(found) == sorted(expected)
    else:
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_the_cluster(client: Client, name: str) -> None:
    with dask.config.set(scheduler="sync"):
        expected = PROGRAMS[name].compute()
    check(PROGRAMS[name].compute(), expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_threads(name: str) -> None:
    expected = PROGRAMS[name].compute(scheduler="sync")
    with treadle.use("threads", num_workers=2):
        check(PROGRAMS[name].compute(), expected)
    check(PROGRAMS[name].compute(scheduler=treadle.threaded.get), expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_persist(client: Client, name: str) -> None:
    expected = PROGRAMS[name].compute(scheduler="sync")
    held = PROGRAMS[name].persist()
    assert type(held) is type(PROGRAMS[name])
    check(held.compute(), expected)
    del held
    eventually(lambda: not client.session.persisted)


def count(path: str, block: Any) -> Any:
    with open(path, "a") as file:
        file.write(".")
    return block


def test_what_is_persisted_is_computed_once(client: Client, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    x = da.ones((6, 6), chunks=3).map_blocks(lambda block: count(str(calls), block), dtype=float, meta=np.ones((0, 0)))
    held, total = dask.persist(x + 1, x.sum())
    again = (held * 2).persist()
    assert (again.sum() + held.sum()).compute() == 36 * 2 * 2 + 36 * 2
    assert total.compute() == 36
    assert held[0, 0].compute() == 2
    assert calls.read_text() == "." * 4


def test_values_of_all_kinds_are_persisted_together(client: Client) -> None:
    doubled = treadle.delayed(int.__mul__)(3, 2)
    array, [bag, ours], number = client.persist(da.ones(4, chunks=2), [db.from_sequence([1, 2]), doubled], 5)
    assert array.sum().compute() == 4
    assert bag.compute() == [1, 2]
    assert ours.compute() == 6
    assert number == 5


def test_futures_of_collections(client: Client) -> None:
    array, bag = client.compute(da.arange(10, chunks=3), db.from_sequence([1, 2, 3]).sum())
    assert array.result().tolist() == list(range(10))
    assert bag.result() == 6
    held = da.arange(10, chunks=3).persist()
    assert client.compute(held.sum()).result() == 45


def test_errors_and_explicit_schedulers(client: Client) -> None:
    def fail(block: Any) -> Any:
        raise Boom("in a block")

    failing = da.ones(4, chunks=2).map_blocks(fail, meta=np.ones(0))
    for scheduler in (None, client, "sync", treadle.threaded.get):
        with pytest.raises(Boom, match="in a block"):
            failing.compute(scheduler=scheduler)
    held = failing.persist()
    with pytest.raises(Boom, match="in a block"):
        held.sum().compute()
    assert da.ones(4, chunks=2).sum().compute(scheduler=client) == 4


def test_nested_keys_are_answered_with_tuples() -> None:
    x = da.ones((4, 4), chunks=2)
    (blocks,) = treadle.threaded.get(dask.base.collections_to_expr(x), [x.__dask_keys__()])
    assert isinstance(blocks, tuple)
    assert [type(row) for row in blocks] == [tuple, tuple]


def test_opening_and_closing_clients(cluster: LocalCluster) -> None:
    before = dask.config.get("scheduler", None), dask.config.get("dataframe.shuffle.method", None)
    with Client(cluster):
        assert copy.deepcopy(dask.config.config)["scheduler"] == dask.config.get("scheduler")
        with Client(cluster) as inner, inner.as_current():
            assert da.ones(4, chunks=2).sum().compute() == 4
        assert da.ones(4, chunks=2).sum().compute() == 4
        assert dask.config.get("dataframe.shuffle.method") == "tasks"
        with dask.config.set(scheduler="sync"):
            assert da.ones(4, chunks=2).sum().compute() == 4
    assert (dask.config.get("scheduler", None), dask.config.get("dataframe.shuffle.method", None)) == before
    with Client(cluster, set_as_default=False):
        assert dask.config.get("scheduler", None) == before[0]


def test_a_client_that_is_opened_while_the_last_one_is_closed(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    release = adoption.release
    before = dask.config.get("scheduler")
    try:

        def open_another() -> None:
            monkeypatch.undo()
            default.register(client)
            release()

        monkeypatch.setattr(adoption, "release", open_another)
        default.forget(client)
        assert dask.config.get("scheduler") == before
    finally:
        assert default.registered() is client


def test_what_the_user_says_meanwhile_stays(cluster: LocalCluster) -> None:
    with dask.config.set(scheduler=None):
        with Client(cluster):
            dask.config.set(scheduler="sync")
        assert dask.config.get("scheduler") == "sync"


def test_an_asynchronous_client_has_to_be_awaited(cluster: LocalCluster, client: Client) -> None:
    async def work() -> None:
        async with Client(cluster, asynchronous=True) as ours:
            assert await ours.compute(da.arange(10, chunks=5).sum()) == 45
            held = ours.persist(da.arange(10, chunks=5))
            assert await ours.compute(held.sum()) == 45
            for call in (dask.compute, dask.persist):
                with pytest.raises(UserError, match="would block its event loop"):
                    call(da.ones(4, chunks=2).sum())

    asyncio.run(work())
    assert da.ones(4, chunks=2).sum().compute() == 4


def test_use_with_the_default_client(client: Client) -> None:
    with treadle.use("sync"):
        assert da.ones(4, chunks=2).sum().compute() == 4
        with treadle.use(client):
            assert da.ones(4, chunks=2).sum().persist().compute() == 4
            assert client.session.persisted == {}
        with treadle.use():
            assert da.ones(4, chunks=2).sum().compute() == 4
    with pytest.raises(concurrent.futures.TimeoutError):  # the options of a call go to its tasks
        da.ones(4, chunks=2).sum().compute(workers=["nobody"], timeout=0.1)


def test_bad_use() -> None:
    with pytest.raises(UserError, match="there is no scheduler 'thread'"):
        treadle.use("thread")


PROGRAM = """
import sys
from treadle import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(1, 1) as cluster, Client(cluster) as client:
        assert "dask" not in sys.modules
        import dask.array as da
        assert da.ones(10, chunks=5).map_blocks(lambda block: block + 1).sum().compute() == 20
        held = da.arange(10, chunks=5).persist()
        assert len(client.session.persisted) == 2
        assert (held + 1).sum().compute() == 55
    assert "distributed" not in sys.modules
    assert da.ones(10, chunks=5).sum().compute() == 10
    print("good")
"""


def test_dask_is_imported_after_the_client_was_opened(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "good\n", done.stderr


def test_what_another_client_has_persisted(cluster: LocalCluster, client: Client) -> None:
    with Client(cluster) as other:
        held = other.persist(da.ones(4, chunks=2))
        with client.as_current(), pytest.raises(UserError, match=r"persisted by the client client-\w+ \(open\)"):
            held.sum().compute()
        assert held.sum().compute() == 4
    with pytest.raises(UserError, match=r"\(closed\), and this is the client .* or persist it again"):
        client.compute(held.sum())


class Guarded(WeakValueDictionary[Any, Any]):
    """Knows that several threads use it."""

    lock: Any = None

    def items(self) -> Any:
        assert self.lock.locked()
        return super().items()

    def update(self, *args: Any, **more: Any) -> None:
        assert self.lock is None or self.lock.locked()
        super().update(*args, **more)


def test_threads_that_persist_while_others_compute(client: Client) -> None:
    client.session.persisted = persisted = Guarded()
    persisted.lock = client.session.lock
    held = client.persist(da.ones(4, chunks=2))
    assert len(persisted) == 2
    assert client.compute(held.sum()).result() == 4


def test_nothing_is_left_of_what_was_persisted(client: Client) -> None:
    held = [client.persist(da.ones(2, chunks=1)) for _ in range(3)]
    (kind,) = {type(value) for each in held for value in each.__dask_graph__().values()}
    assert kind.__name__ == "Persisted"
    held.clear()
    eventually(lambda: not client.session.persisted and not client.session.registry.futures)


class Look:
    """Says whether garbage was collected while it was pickled, or cannot be pickled."""

    def __init__(self, seen: list[bool], fails: bool) -> None:
        self.seen = seen
        self.fails = fails

    def __reduce__(self) -> tuple[Any, ...]:
        self.seen.append(gc.isenabled())
        if self.fails:
            raise RuntimeError("no")
        return int, (1,)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_a_graph_is_read_and_packed_without_collecting_garbage(client: Client, before: bool, fails: bool) -> None:
    seen: list[bool] = []
    enabled = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        if fails:
            with pytest.raises(TaskNotSerializableError):
                client.get({"x": (abs, Look(seen, fails))}, "x")
        else:
            assert client.get({"x": (abs, Look(seen, fails))}, "x") == 1
        assert gc.isenabled() is before
    finally:
        (gc.enable if enabled else gc.disable)()
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_was_frozen_before_a_graph_stays_so(client: Client, frozen: bool) -> None:
    before = gc.get_freeze_count()
    if frozen:
        gc.freeze()
    try:
        count = gc.get_freeze_count()
        assert client.get({"x": (abs, -1)}, "x") == 1
        # What somebody lets go of is frozen no longer.
        assert gc.get_freeze_count() > count // 2 if frozen else gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
