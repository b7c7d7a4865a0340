"""``futures_of`` and ``progress`` of what was persisted."""

from __future__ import annotations

import asyncio
import io
import signal
import threading
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Script, finish
from rich.console import Console

import treadle
from treadle import Client, Event, LocalCluster
from treadle.client import meters
from treadle.diagnostics import screen
from treadle.errors import UserError
from treadle.testing.tasks import inc

# Untyped, in part.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")
dd: Any = import_module("dask.dataframe")


@pytest.fixture
def client(default_client: Client) -> Client:
    return default_client


def collections() -> dict[str, tuple[Any, int]]:
    """Collections of all kinds, and of how many parts each is."""
    return {
        "array": (da.ones((4, 4), chunks=2) + 1, 4),
        "bag": (db.from_sequence(range(6), npartitions=3).map(inc), 3),
        "frame": (dd.from_pandas(pd.DataFrame({"x": range(6)}), npartitions=2) + 1, 2),
        "delayed": (dask.delayed(inc)(1), 1),
        "our delayed": (treadle.delayed(inc)(1), 1),
    }


COLLECTIONS = collections()


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_futures_of(client: Client, kind: str) -> None:
    collection, parts = COLLECTIONS[kind]
    assert treadle.futures_of(collection) == []
    held = client.persist(collection)
    futures = treadle.futures_of(held)
    assert len({future.key for future in futures}) == len(futures) == parts
    assert all(isinstance(future, treadle.Future) for future in futures)
    done, not_done = treadle.wait(futures, timeout=60)
    assert (len(done), len(not_done)) == (parts, 0)
    assert len(client.gather(futures)) == parts
    client.replicate(futures)
    del futures, done
    assert np.all(client.compute(held).result() is not None)


def test_futures_of_what_is_made_of_it(client: Client) -> None:
    held = client.persist(da.arange(6, chunks=2))
    assert [future.result().tolist() for future in treadle.futures_of(held)] == [[0, 1], [2, 3], [4, 5]]
    assert set(treadle.futures_of((held + 1).sum())) == set(treadle.futures_of(held))
    lists = treadle.delayed(list)(client.persist(treadle.delayed(inc)(1)))
    assert [future.result() for future in treadle.futures_of(lists)] == [2]


def test_futures_of_containers(client: Client) -> None:
    array, bag = client.persist(da.arange(6, chunks=2), db.from_sequence([1, 2], npartitions=2))
    own = client.submit(inc, 1)
    everything = {"arrays": [array, (array, own)], "others": {own}, "bag": bag, "none": [None, 3]}
    assert treadle.futures_of(everything) == [*treadle.futures_of(array), own, *treadle.futures_of(bag)]
    assert treadle.futures_of(iter([own, own])) == [own]
    assert treadle.futures_of(da.Array) == []


# progress


def hold(name: str, value: Any) -> Any:
    Event(name).wait()
    return value


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("kind", ["array", "frame"])
def test_progress(client: Client, kind: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = threading.Event()
    show = screen.show

    def noticed(meter: Any, console: Any) -> None:
        show(meter, console)
        shown.set()

    monkeypatch.setattr(meters, "show", noticed)
    go = Event()
    if kind == "array":
        lazy = da.ones(6, chunks=2).map_blocks(partial(hold, go.name), dtype=float, meta=np.ones(0))
    else:
        lazy = COLLECTIONS["frame"][0].map_partitions(partial(hold, go.name), meta={"x": int})
    held = lazy.persist()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    thread = threading.Thread(target=lambda: treadle.progress([held], notebook=False, console=console))
    thread.start()
    assert shown.wait(60)
    go.set()
    thread.join(60)
    assert not thread.is_alive()
    assert all(future.done() for future in treadle.futures_of(held))
    parts = len(treadle.futures_of(held))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert (f"{parts}/{parts}" if terminal else f": {parts} of {parts} tasks in ") in text


def test_progress_of_nothing_on_a_cluster(client: Client) -> None:
    with pytest.raises(UserError, match="needs futures to wait for: persist or compute"):
        treadle.progress(da.ones(4, chunks=2))
    with pytest.raises(UserError, match="leave out notebook=True"):
        treadle.progress(da.ones(4, chunks=2).persist(), notebook=True)


def test_progress_in_a_coroutine(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            held = client.persist(da.ones(4, chunks=2))
            await treadle.progress(held, console=Console(file=io.StringIO()))
            assert all(future.done() for future in treadle.futures_of(held))

    asyncio.run(main())


def test_ctrl_c_ends_only_the_display(script: Script) -> None:
    process = script(
        """
        import treadle
        from rich.console import Console

        def hold(number):
            treadle.Event("go").wait()
            return number

        with treadle.LocalCluster(n_workers=1, threads_per_worker=1) as cluster, treadle.Client(cluster) as client:
            console = Console(quiet=True)
            treadle.progress(client.submit(abs, 1), console=console)  # imports what it needs: those are not interrupted
            held = client.persist([treadle.delayed(hold)(number) for number in range(3)])
            try:
                print("ready", flush=True)
                treadle.progress(held, console=console)
            except KeyboardInterrupt:
                print("interrupted")
            treadle.Event("go").set()
            print(client.compute(held, sync=True))
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted\n[0, 1, 2]\n"
