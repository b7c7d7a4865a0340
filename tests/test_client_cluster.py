"""The client on a real cluster: tasks, data and questions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import operator
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, cast

import pytest

import treadle
from treadle import Client, Future, LocalCluster, delayed, wait
from treadle.client.default import current
from treadle.errors import ResultNotSerializableError, TaskNotSerializableError, UserError
from treadle.testing.tasks import Boom, Pair, add, boom, called_with, eventually, inc, meet, pipes, same, total


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, resources={"token": 1}, name="here") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def hold(client: Client, tmp_path: Path) -> Iterator[Any]:
    """``hold()`` returns a task that runs until ``hold.go()`` is called, or the test ends."""
    held: list[threading.Thread] = []

    def start(**options: Any) -> Future[Any]:
        folder = tmp_path / str(len(held))
        folder.mkdir()
        one, two = pipes(folder, 2)
        future = client.submit(start_and_meet, one, two, str(folder / "started"), pure=False, **options)
        client.session.flush()
        eventually((folder / "started").exists)
        held.append(threading.Thread(target=meet, args=(two, one)))
        return future

    def go() -> None:
        for thread in held:
            if not thread.ident:
                thread.start()
            thread.join()

    start.go = go  # type: ignore[attr-defined]
    yield start
    go()


def start_and_meet(one: str, two: str, started: str) -> None:
    Path(started).touch()
    meet(one, two)


# Tasks


def test_submit(client: Client) -> None:
    assert client.submit(inc, 1).result() == 2
    assert client.submit(called_with, 1, "a", b=[2.5, None]).result() == ((1, "a"), {"b": [2.5, None]})
    assert client.submit(lambda x: -x, x=3).result() == -3
    assert client.submit(functools.partial(add, 1), 2).result() == 3
    assert client.submit(Pair, 1, (2,)).result() == Pair(1, (2,))


def test_what_msgpack_cannot_hold(client: Client) -> None:
    for value in (2**100, -(2**80), "\ud800", 1.5, True, None, b"x", (1, [2, (3,)]), {"a": {1}}, inc):
        result = client.submit(same, value).result()
        assert (result, type(result)) == (value, type(value))


def test_futures_as_arguments(client: Client) -> None:
    one, two = client.submit(inc, 0), client.submit(inc, 1)
    assert client.submit(add, one, two).result() == 3
    assert client.submit(called_with, [one, (two, {"k": one})], k={two}).result() == (
        ([1, (2, {"k": 1})],),
        {"k": {2}},
    )
    assert client.submit(total, [one] * 3).result() == 3
    assert client.map(add, [one, two], [two, 5], pure=False)[0].result() == 3
    assert client.gather(client.map(called_with, [1], k=one)) == [((1,), {"k": 1})]


def test_a_chain_whose_futures_are_forgotten(client: Client) -> None:
    future = client.submit(inc, 0)
    for _ in range(100):
        future = client.submit(inc, future)
    assert future.result() == 101


def test_an_error_reaches_all_that_depend_on_it(client: Client) -> None:
    bad = client.submit(boom, "it broke")
    worse = client.submit(inc, bad)
    with pytest.raises(Boom, match="it broke") as caught:
        worse.result()
    assert caught.value.__notes__ == [f"while running task {bad.key!r}"]  # type: ignore[attr-defined]


def test_map(client: Client) -> None:
    assert client.gather(client.map(inc, range(5))) == [1, 2, 3, 4, 5]
    assert client.gather(client.map(add, [1, 2, 3], iter([10, 20]))) == [11, 22]
    assert client.gather(client.map(called_with, ["a"], b=[1])) == [(("a",), {"b": [1]})]
    assert client.gather(client.map(inc, [1, 2**90, 1.5])) == [2, 2**90 + 1, 2.5]
    assert client.gather(client.map(same, [[1], {"a": 2}, [1]])) == [[1], {"a": 2}, [1]]
    assert client.map(inc, []) == []
    with pytest.raises(TypeError, match="something to map over"):
        client.map(inc)
    with pytest.raises(TypeError, match="must be the function to call, not 3"):
        client.map(3, [1])  # type: ignore[call-overload]


def test_keys(client: Client) -> None:
    assert client.submit(inc, 1, key="mine").key == "mine"
    assert [future.key for future in client.map(inc, [1, 2], key="each")] == ["each-0", "each-1"]
    assert [future.key for future in client.map(inc, [1, 2], key=["one", "two"])] == ["one", "two"]
    with pytest.raises(ValueError, match="1 keys were given for 2 calls"):
        client.map(inc, [1, 2], key=["one"])
    for key in ("", 3, ("x", 1)):
        with pytest.raises(TypeError, match="key must be a str"):
            client.submit(inc, 1, key=key)  # type: ignore[arg-type]


def test_equal_calls_share_a_task(client: Client) -> None:
    one, two = client.submit(inc, 1), client.submit(inc, 1)
    assert one.key == two.key
    assert one.key.startswith("inc-")
    different = [
        one,
        client.submit(inc, 1.0),
        client.submit(inc, True),
        client.submit(same, 1),
        client.submit(inc, 1, pure=False),
        client.submit(inc, 1, pure=False),
        client.submit(inc, [1]),
        client.submit(inc, one),
        client.submit(inc, client.submit(inc, 2)),
        client.submit(inc, value=1),
    ]
    assert len({future.key for future in different}) == len(different)
    assert client.submit(inc, [one, {"a": 1}]).key == client.submit(inc, [two, {"a": 1}]).key
    assert client.map(inc, [1, 1])[1].key == one.key
    assert client.gather(client.map(inc, [1, 2, 1])) == [2, 3, 2]
    no_content = object.__new__(object)
    with pytest.raises(TaskNotSerializableError):
        client.submit(same, threading.Lock())
    assert client.submit(type, no_content).key != client.submit(type, no_content).key


def test_a_function_that_has_changed_is_another_one(client: Client) -> None:
    offset = 1

    def shift(value: int) -> int:
        return value + offset

    assert client.submit(shift, 1).result() == 2
    offset = 10
    assert client.submit(shift, 1).result() == 11


def test_clients_share_pure_tasks(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "runs"

    def note(where: str) -> str:
        with open(where, "a") as file:
            file.write("x")
        return "done"

    mine = client.submit(note, str(path))
    assert mine.result() == "done"
    with Client(cluster, set_as_default=False) as other:
        theirs = other.submit(note, str(path))
        assert theirs.key == mine.key
        assert theirs.result() == "done"
    assert path.read_text() == "x"
    assert client.who_has([mine])[mine.key] != []


# Options


def test_workers(client: Client) -> None:
    info = client.scheduler_info()["workers"]
    for ident, about in info.items():
        for name in (ident, about["name"], [about["address"]]):
            future = client.submit(inc, 1, pure=False, workers=name)
            future.result()
            assert client.who_has(future)[future.key] == [ident]


def test_what_no_worker_has(client: Client) -> None:
    future = client.submit(inc, 1, pure=False, resources={"unicorn": 2})
    nowhere = client.submit(inc, 2, pure=False, workers="elsewhere")
    assert "unicorn" in client.explain(future)
    assert "elsewhere" in client.explain(nowhere.key)
    assert future.status == "pending"
    client.cancel([future, nowhere])
    eventually(lambda: future.status == nowhere.status == "cancelled")


def test_resources(client: Client, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    # Both need the only token of a worker: they meet because there are two workers.
    pair = [client.submit(meet, *names, pure=False, resources={"token": 1}) for names in ((one, two), (two, one))]
    assert client.gather(pair) == [None, None]


def test_priority(client: Client, hold: Any, tmp_path: Path) -> None:
    names = [about["name"] for about in client.scheduler_info()["workers"].values()]
    path = tmp_path / "order"

    def note(what: str) -> None:
        with open(path, "a") as file:
            file.write(what)

    held = [hold(workers=name) for name in names]
    low = client.submit(note, "low ", workers=names[0], priority=-1)
    high = client.submit(note, "high ", workers=names[0], priority=1)
    client.run(abs, -1)  # when it is answered the worker has got to know both
    hold.go()
    client.gather([*held, low, high])
    assert path.read_text() == "high low "


@pytest.mark.parametrize("count", [1, 100_000])
def test_results_that_cannot_be_pickled(client: Client, count: int) -> None:
    """A small one is found out when it is made, a big one when it is fetched."""

    def locks(count: int) -> list[Any]:
        return [threading.Lock()] * count

    future = client.submit(locks, count)
    with pytest.raises(ResultNotSerializableError, match="result of type list cannot leave the worker process"):
        future.result()
    if count > 1:
        assert client.submit(len, future).result() == count, "on the worker it can be used"


def test_retries(client: Client, tmp_path: Path) -> None:
    def fail_twice(path: str) -> int:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            count = len(file.read())
        if count < 3:
            raise Boom(count)
        return count

    assert client.submit(fail_twice, str(tmp_path / "one"), retries=2).result() == 3
    with pytest.raises(Boom):
        client.submit(fail_twice, str(tmp_path / "two"), retries=1).result()


@pytest.mark.parametrize(
    "options",
    [
        {"workers": [3]},
        {"resources": {"GPU": "many"}},
        {"resources": {"GPU": -1}},
        {"priority": 2**30},
        {"retries": -1},
    ],
    ids=str,
)
def test_options_that_cannot_be(client: Client, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        client.submit(inc, 1, **options)
    with pytest.raises((TypeError, ValueError)):
        client.map(inc, [1], **options)


# What cannot be sent


@pytest.mark.parametrize(
    ("func", "args", "part"),
    [(same, (threading.Lock(),), "argument 1"), (threading.Lock().acquire, (), "function 'acquire'")],
    ids=["argument", "function"],
)
def test_what_cannot_be_pickled_is_named(client: Client, func: Any, args: Any, part: str) -> None:
    before = set(client.session.registry.futures)  # of other tests, some of which may just be going
    with pytest.raises(TaskNotSerializableError, match=part):
        client.submit(func, *args)
    with pytest.raises(TaskNotSerializableError, match=part):
        client.map(func, [*args, threading.Lock()])
    assert before.issuperset(client.session.registry.futures)
    assert client.submit(inc, 1).result() == 2


def test_futures_and_delayed_values_that_do_not_belong(cluster: LocalCluster, client: Client) -> None:
    with Client(cluster, set_as_default=False, name="other") as other:
        theirs = other.submit(inc, 1)
        for use in (lambda: client.submit(inc, theirs), lambda: client.get({"x": (inc, theirs)}, "x")):
            with pytest.raises(UserError, match="belongs to the client other-"):
                use()
        with pytest.raises(UserError, match="belongs to another client"):
            client.gather([theirs])
    released = client.submit(inc, 1)
    released.release()
    with pytest.raises(UserError, match="was released"):
        client.submit(inc, [released])
    with pytest.raises(UserError, match=r"client\.compute"):
        client.submit(inc, [delayed(1)])


def test_a_big_argument(client: Client) -> None:
    data = bytes(12_000_000)
    with pytest.warns(UserWarning, match=r"the argument 2 \(a bytes\) of the task 'x' takes 12,0.*scatter") as warned:
        future = client.submit(called_with, 1, data, key="x")
    assert warned[0].filename == __file__
    client.cancel(future)
    with pytest.warns(UserWarning, match="argument 1") as warned:
        futures = client.map(len, [data, data + b"1"])
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert client.gather(futures) == [12_000_000, 12_000_001]
    before = set(client.session.registry.futures)
    with pytest.raises(UserWarning, match="key"):  # a warning that is an error comes before anything is sent
        client.submit(len, data, key="key")
    assert before.issuperset(client.session.registry.futures)
    with pytest.raises(UserError, match="no more than"):
        client.submit(len, bytes(140_000_000))


# Gathering and scattering


def test_gather(client: Client) -> None:
    one, two = client.map(inc, [0, 1])
    assert client.gather(one) == 1
    assert client.gather({"a": [one, (two, "x")], "b": Pair(one, {two})}) == {"a": [1, (2, "x")], "b": Pair(1, {2})}
    assert client.gather(iter([one, two])) == [1, 2]
    assert client.gather([one, 3, [one]]) == [1, 3, [1]]
    assert client.gather([]) == []


def test_gather_with_errors(client: Client) -> None:
    good, bad = client.submit(inc, 0), client.submit(boom, "gather")
    with pytest.raises(Boom, match="gather"):
        client.gather([good, bad])
    assert client.gather([good, bad, good], errors="skip") == [1, 1]
    assert client.gather({"a": good, "b": [bad]}, errors="skip") == {"a": 1, "b": []}
    assert client.gather(bad, errors="skip") is None
    with pytest.raises(ValueError, match="errors must be"):
        client.gather([good], errors="ignore")


def test_gather_does_not_wait_for_the_others(client: Client, hold: Any) -> None:
    held = hold()
    with pytest.raises(Boom):
        client.gather([held, client.submit(boom, "early")])
    assert held.status == "pending"


def test_big_results(client: Client) -> None:
    numpy = pytest.importorskip("numpy")
    futures = client.map(numpy.full, [50_000 + index for index in range(8)], range(8), pure=False)
    arrays = client.gather(futures)
    assert [(len(array), array[-1]) for array in arrays] == [(50_000 + index, index) for index in range(8)]
    arrays[0][0] = 5
    assert client.submit(numpy.sum, futures[1]).result() == 50_001


def test_scatter(client: Client) -> None:
    assert client.gather(client.scatter([1, "two", [3]])) == [1, "two", [3]]
    assert client.gather(client.scatter({"a": 1, ("b", 2): None})) == {"a": 1, ("b", 2): None}
    future = client.scatter(b"x" * 1_000_000)
    assert (future.status, client.submit(len, future).result()) == ("finished", 1_000_000)
    assert future.result() == b"x" * 1_000_000
    assert client.scatter([]) == []
    assert client.gather(client.scatter(iter([1, 2]))) == [1, 2]
    with pytest.raises(TaskNotSerializableError, match=r"a value \(a lock\)"):
        client.scatter([threading.Lock()])


def test_scatter_spreads(client: Client) -> None:
    futures = client.scatter([bytes(10_000 + index) for index in range(10)])
    holders = client.who_has(futures)
    counts = [sum(holders[future.key] == [ident] for future in futures) for ident in client.has_what()]
    assert sorted(counts) == [5, 5]
    (name, _) = sorted(about["name"] for about in client.scheduler_info()["workers"].values())
    chosen = client.scatter([1, 2, 3], workers=name)
    assert len({ident for idents in client.who_has(chosen).values() for ident in idents}) == 1
    with pytest.raises(UserError, match="there are: here-0, here-1"):
        client.scatter(1, workers="elsewhere")


def test_values_that_are_scattered_one_by_one_spread(client: Client) -> None:
    gc.collect()  # errors of other tests, whose tracebacks lead to futures
    eventually(lambda: not any(client.has_what().values()))
    futures = [client.scatter(bytes(20_000 + index)) for index in range(6)]
    holders = Counter(holder for (holder,) in client.who_has(futures).values())
    assert sorted(holders.values()) == [3, 3]


# Graphs and delayed values


def test_graphs_with_futures(client: Client) -> None:
    future = client.submit(inc, 1)
    graph = {"a": (inc, future), "b": (total, ["a", [future][0], future]), "c": future, "d": [future, "a"]}
    assert client.get(graph, ["b", "c", "d"]) == [7, 2, [2, 3]]


def test_a_value_that_many_tasks_need_travels_once(client: Client) -> None:
    data = list(range(10_000))
    sent: list[int] = []
    link: Any = client.session._link
    send = link.send

    def count(batch: Any, *rest: Any) -> None:
        sent.extend(sum(map(len, message[3])) for message in batch if message[0] == "submit")
        send(batch, *rest)

    link.send = count
    try:
        graph: dict[Any, Any] = {("x", index): (operator.getitem, "data", index) for index in range(50)}
        graph["data"] = data
        graph["nested"] = (called_with, [["data"]], {"k": "data"})
        assert client.get(graph, [("x", index) for index in range(50)]) == data[:50]
        assert client.get(graph, "nested") == (([[data]], {"k": data}), {})
    finally:
        del link.send
    assert sum(sent) < 200_000


def test_graphs_of_many_bytes_go_in_pieces(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.client.graphs.CHUNK", 1000)
    graph: dict[Any, Any] = {("x", index): (len, "y" * 300 + str(index)) for index in range(20)}
    graph["sum"] = (total, [("x", index) for index in range(20)])
    graph["more"] = (add, "sum", ("x", 3))
    assert client.get(graph, ["more", ("x", 0)]) == [10 * 301 + 10 * 302 + 301, 301]
    assert client.gather(client.map(len, ["z" * 300 + str(index) for index in range(20)])) == [301] * 10 + [302] * 10


def test_two_graphs_may_use_the_same_keys(client: Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        graphs = [{"x": (inc, number), "y": (inc, "x")} for number in range(20)]
        assert list(pool.map(lambda graph: client.get(graph, "y"), graphs)) == list(range(2, 22))


def test_nothing_is_kept_of_a_graph(client: Client) -> None:
    assert client.get({"a": (inc, 1), "b": (inc, "a")}, ["a", "b"]) == [2, 3]
    with pytest.raises(Boom):
        client.get({"a": (boom,), "b": (inc, "a")}, ["a", "b"])
    client.scheduler_info()
    left = client.scheduler_info()
    assert not [key for keys in client.has_what().values() for key in keys if "~" in key], left


def test_compute(client: Client) -> None:
    lazy = delayed(inc)(1)
    both = delayed(add)(lazy, lazy)
    future = client.compute(both)
    assert isinstance(future, Future)
    assert future.key == both.key
    assert future.result() == 4
    futures = client.compute([lazy, both], lazy, 5)
    assert client.gather(futures) == ([2, 4], 2, 5)
    assert client.compute(lazy, both, sync=True) == (2, 4)
    assert client.compute(delayed([1, 2]), sync=True) == [1, 2]
    with pytest.raises(Boom):
        client.compute(delayed(boom)(lazy), sync=True)


def test_compute_with_collections_of_dask(client: Client) -> None:
    array = pytest.importorskip("dask.array")
    assert client.compute(array.ones(100, chunks=10).sum()).result() == 100


def test_persist(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "runs"

    def note(number: int) -> int:
        with open(path, "a") as file:
            file.write("x")
        return number

    lazy = client.persist(delayed(note)(20))
    more = delayed(add)(lazy, delayed(inc)(lazy))
    assert more.compute(scheduler=client) == 41
    assert client.compute(more, lazy, sync=True) == (41, 20)
    assert lazy.compute(scheduler="sync") == 20
    assert client.persist([lazy, more])[1].compute(scheduler=client) == 41
    assert path.read_text() == "x"
    with pytest.raises(TypeError, match="unexpected keyword argument 'sync'"):
        client.persist(lazy, sync=True)  # type: ignore[call-arg]


def test_the_default_client(cluster: LocalCluster) -> None:
    graph = {"x": (called_with, 1)}
    where = {"x": (_pid,)}
    here = treadle.get(where, "x")
    with Client(cluster) as client:
        assert treadle.get(where, "x") != here
        assert delayed(_pid)().compute() != here
        assert treadle.compute(delayed(_pid)())[0] != here
        assert treadle.get(where, "x", "threads") == here
        with treadle.config.set(scheduler="sync"):
            assert treadle.get(where, "x") == here
        with treadle.config.set(scheduler=client):
            assert treadle.get(where, "x") != here
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert treadle.get(where, "x", pool=pool) == here
        with Client(cluster) as inner:
            assert treadle.get(graph, "x") == ((1,), {})
            assert current() is inner
        assert treadle.get(where, "x") != here
        with pytest.raises(TypeError, match="Did you mean 'callbacks'"):
            treadle.get(graph, "x", callback=[])
    assert treadle.get(where, "x") == here


def _pid() -> int:
    import os

    return os.getpid()


# Questions


def test_questions(cluster: LocalCluster, client: Client) -> None:
    future = client.submit(inc, 1)
    future.result()
    info = client.scheduler_info()
    assert {about["name"] for about in info["workers"].values()} == {"here-0", "here-1"}
    assert info["address"] == cluster.address == client.address
    (holder,) = client.who_has(future)[future.key]
    assert future.key in client.has_what()[holder]
    assert future.key in client.has_what(holder)[holder]
    assert set(client.who_has({"a": [future]})) == {future.key}
    assert future.key in client.who_has()
    assert future.key in client.explain(future)
    with pytest.raises(UserError, match="elsewhere"):
        client.has_what("elsewhere")


def test_cancel(client: Client, hold: Any) -> None:
    held = [hold(), hold()]
    waiting = client.submit(inc, held[0])
    client.cancel({"a": waiting})
    with pytest.raises(CancelledError):
        waiting.result()
    client.cancel(held)
    client.scheduler_info()
    assert [future.status for future in held] == ["cancelling"] * 2  # they occupy threads
    hold.go()
    eventually(lambda: [future.status for future in held] == ["cancelled"] * 2)
    assert client.submit(inc, 1, pure=False).result() == 2


# The asynchronous client


def test_the_asynchronous_client(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            assert not [thread for thread in threading.enumerate() if client._name in thread.name]
            future = client.submit(inc, 1)
            assert await future == 2
            assert await client.gather(client.map(inc, range(3))) == [1, 2, 3]
            big: concurrent.futures.Future[Any] = client.submit(bytes, 1_000_000)
            for _ in range(2):  # before it is done, and after
                assert len(await asyncio.wrap_future(big)) == 1_000_000
            await wait([done := client.submit(bytes, 1_000_001)])
            assert len(await asyncio.wrap_future(cast(Any, done))) == 1_000_001
            assert await client.submit(len, await client.scatter([1, 2], workers=None)) == 2
            assert await client.get({"x": (inc, 1)}, ["x"]) == [2]
            assert await client.compute(delayed(inc)(1)) == 2
            assert await client.compute(delayed(inc)(1), sync=True) == 2
            assert future.key in await client.explain(future)
            assert future.key in await client.who_has()
            with pytest.raises(Boom):
                await client.submit(boom)
            with pytest.raises(Boom):
                await client.gather([future, client.submit(boom)])
            with pytest.raises(UserError, match="an asynchronous client is the default here"):
                treadle.get({"x": (inc, 1)}, "x")
            with pytest.raises(UserError, match="Write `await`"):
                client.submit(inc, 77).result()
            other = client.submit(inc, 78)
            assert await asyncio.get_running_loop().run_in_executor(None, other.result) == 79
        assert client.closed
        assert treadle.get({"x": (inc, 1)}, "x") == 2

    asyncio.run(main())


def test_the_asynchronous_client_has_to_be_opened(cluster: LocalCluster) -> None:
    async def main() -> None:
        client = Client(cluster, asynchronous=True)
        with pytest.raises(UserError, match="`await` it first"):
            client.submit(inc, 1)
        assert "not connected" in repr(client)
        assert await client is client
        assert await (await client).submit(inc, 1) == 2
        await client.close()
        with pytest.raises(UserError, match="this client is closed"):
            await client.get({"x": 1}, "x")

    asyncio.run(main())
    with pytest.raises(UserError, match="by `async with`"), Client(cluster, asynchronous=True):
        pass


def test_ten_asynchronous_chains_at_once(cluster: LocalCluster) -> None:
    async def chain(client: Client, start: int) -> int:
        value = start
        for _ in range(10):
            value = await client.submit(inc, value)
        return value

    async def main() -> list[int]:
        async with Client(cluster, asynchronous=True) as client:
            return await asyncio.gather(*[chain(client, 100 * number) for number in range(10)])

    assert asyncio.run(main()) == [100 * number + 10 for number in range(10)]
