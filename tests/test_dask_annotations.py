"""``dask.annotate``: options for some tasks of a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from client_parts import FakeCluster

import treadle
from treadle import Client, LocalCluster
from treadle.client.varied import Varied
from treadle.integrations.annotations import heed
from treadle.testing.tasks import Boom, inc
from treadle.wire import messages

# Untyped, in part.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")
dd: Any = import_module("dask.dataframe")
base: Any = import_module("dask.base")
expressions: Any = import_module("dask._expr")
run_fused: Any = getattr(import_module("dask._task_spec"), "_execute_subgraph")  # noqa: B009

ASKED = {"priority": 5, "retries": 2}

#: Made here, because dataframes warn once if they are made where something annotates.
FRAMES = [dd.from_pandas(pd.DataFrame({"number": range(10)}), npartitions=2)]


def expression(*collections: Any, finalize: bool = False) -> Any:
    """What Dask hands a scheduler."""
    made = base.collections_to_expr(list(collections))
    return (expressions.FinalizeCompute(made) if finalize else made).optimize()


def chain(size: int = 3, **annotations: Any) -> Any:
    """Layers ``first``, ``second`` and ``third``; the second one has annotations."""
    first = da.ones(size, chunks=1).map_blocks(inc, name="first")
    with dask.annotate(**annotations):
        second = first.map_blocks(inc, name="second")
    return second.map_blocks(inc, name="third")


def heeded(graph: Any, **given: Any) -> tuple[dict[Any, Any], Varied]:
    """The tasks, and options that differ."""
    tasks, options = heed(graph, given)
    assert isinstance(options, Varied)
    return tasks, options


def options_of(graph: Any, **given: Any) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The tasks, and the options of each layer whose tasks have the same ones."""
    tasks, options = heeded(graph, **given)
    found: dict[str, Any] = {}
    for key in tasks:
        own = options.special.get(key, options.usual)
        assert found.setdefault(key[0], own) == own
    return tasks, found


def test_layers_are_not_fused_with_those_of_other_options() -> None:
    tasks, options = options_of(expression(chain(**ASKED)))
    assert options == {"first": None, "second": ASKED, "third": None}
    assert len(tasks) == 9
    assert len(expression(chain()).__dask_graph__()) == 3  # otherwise they are


def test_layers_of_the_same_options_are_fused() -> None:
    with dask.annotate(**ASKED):
        third = chain()
    tasks, options = heeded(expression(third.map_blocks(inc, name="fourth")))
    assert sorted(tasks) == [(name, index) for name in ("fourth", "third") for index in range(3)]
    assert options.special == {("third", index): ASKED for index in range(3)}


def test_what_is_said_where_goes_before_what() -> None:
    collection = chain(retries=2, priority=1)
    with dask.annotate(priority=7, retries=9):
        _, options = options_of(expression(collection), retries=3)
    usual = {"priority": 7, "retries": 3}
    assert options == {"first": usual, "second": {"priority": 1, "retries": 2}, "third": usual}


def test_nothing_is_looked_at_twice_if_nobody_annotates() -> None:
    for graph in (expression(chain()), expression(chain(mine="own")), {"x": 1}, expression(*FRAMES)):
        assert heed(graph, {}) == (graph, None)
        assert heed(graph, {"priority": 3, "timeout": 7}) == (graph, {"priority": 3})
    with dask.annotate(priority=3):
        graph = expression(chain(), finalize=True)
        assert heed(graph, {}) == (graph, {"priority": 3})


def test_functions_of_keys() -> None:
    collection = chain(priority=lambda key: key[1], workers=lambda key: None if key[1] else "alice")
    tasks, options = heeded(expression(collection))
    assert len(tasks) == 9
    one, two, three = (options.special["second", index] for index in range(3))
    assert (one, two, three) == ({"workers": ["alice"]}, {"priority": 1}, {"priority": 2})
    assert options.special.get(("third", 1)) is None
    with dask.annotate(retries=lambda key: key[1]):  # around the call: for all tasks
        tasks, options = heeded(expression(chain()))
        assert {key: value or {} for key, value in options.special.items()} == {
            key: {"retries": key[1]} if key[1] else {} for key in tasks
        }
        graph = expression(*FRAMES)
        tasks, options = heeded(graph)
    assert options.special == {key: {"retries": key[1]} if key[1] else None for key in tasks}


def test_equal_options_are_one_object() -> None:
    _, options = heeded(expression(chain(priority=lambda key: 3)))
    assert len({id(value) for value in options.special.values()}) == 1


def test_chains_of_bags_are_not_fused_with_those_of_other_options() -> None:
    bag = db.from_sequence(range(4), npartitions=2).map(inc)
    with dask.annotate(**ASKED):
        bag = bag.map(inc).map(inc)
    bag = bag.map(inc)
    tasks, options = heeded(expression(bag))
    careful = dict(zip(bag.dask.layers, (False, False, True, True, False)))
    fused = {key: task.args[0] for key, task in tasks.items() if getattr(task, "func", None) is run_fused}
    for key in tasks:
        parts = {careful[part[0]] for part in (key, *fused.get(key, ())) if part[0] in careful}
        assert parts == {options.special.get(key) == ASKED}
    assert [list(part) for part in treadle.sync.get(tasks, bag.__dask_keys__())] == [[4, 5], [6, 7]]


def test_chains_that_are_renamed_keep_their_options() -> None:
    call = dask.delayed(inc)
    with dask.annotate(**ASKED):
        careful = call(call(1, dask_key_name="a"), dask_key_name="b")
    with dask.config.set({"optimization.fuse.delayed": True}):
        tasks, options = heeded(expression(careful, chain()))
        assert options.special == {"b": ASKED, "a-b": ASKED}
        assert treadle.sync.get(tasks, "b") == 3


def test_delayed_values_and_several_collections() -> None:
    with dask.annotate(**ASKED):
        careful = dask.delayed(inc)(1, dask_key_name="careful")
    usual = dask.delayed(inc)(careful, dask_key_name="usual")
    for graph in (usual.dask, expression(usual, chain(), finalize=True), expression(usual)):
        tasks, options = heeded(graph)
        assert options.special == {"careful": ASKED}
        assert "usual" in tasks


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"workers": "alice"}, {"workers": ["alice"]}),
        ({"workers": ["alice", "10.0.0.1:8000"]}, {"workers": ["alice", "10.0.0.1:8000"]}),
        ({"workers": "alice", "allow_other_workers": True, "priority": 1}, {"priority": 1}),
        ({"workers": "alice", "allow_other_workers": False}, {"workers": ["alice"]}),
        ({"resources": {"GPU": 1}, "mine": object()}, {"resources": {"GPU": 1.0}}),
        ({"priority": -2.0, "retries": np.int64(3)}, {"priority": -2, "retries": 3}),
    ],
)
def test_what_is_sent(said: dict[str, Any], sent: dict[str, Any]) -> None:
    _, options = options_of(expression(chain(**said)))
    assert options == {"first": None, "second": sent, "third": None}


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        ({"priority": 1.5}, ValueError, r"'second', \d.*priority must be a whole number, not 1.5"),
        ({"priority": 1 << 30}, ValueError, r"'second', \d.*between -1,048,576 and 1,048,576"),
        ({"priority": float("inf")}, ValueError, r"'second', \d.*cannot convert float infinity to integer"),
        ({"retries": -1}, ValueError, "retries must be a whole number between 0 and 1,048,576, not -1"),
        ({"retries": lambda key: "often"}, TypeError, r"'second', \d.*retries must be a whole number, not 'often'"),
        ({"workers": lambda key: [3]}, TypeError, "workers must be names, idents, addresses or hosts"),
        ({"resources": lambda key: "GPU"}, TypeError, "resources must be a dict of amounts.*not 'GPU'"),
        ({"resources": {"GPU": -1}}, ValueError, "a task cannot need -1.0 of 'GPU'"),
        ({"allow_other_workers": lambda key: "yes"}, TypeError, "allow_other_workers must be True or False, not 'yes'"),
    ],
)
def test_bad_values(said: dict[str, Any], error: type[Exception], match: str) -> None:
    graph = expression(chain(**said))
    with pytest.raises(error, match=match):
        heed(graph, {})


# What travels


def submitted(fake: FakeCluster, client: Client) -> list[messages.Submit]:
    """All messages with tasks up to now."""
    client.submit(inc, 1, key="the last one")
    found: list[messages.Submit] = []
    while True:
        message = fake.expect(messages.Submit)
        if message.keys == ["the last one"]:
            return found
        found.append(message)


def sent_options(message: messages.Submit) -> dict[str, Any]:
    given = message.options
    return {} if given is None else {"priority": given.priority, "retries": given.retries}


def layer_of(key: str) -> str:
    """The layer and the number of a block in it."""
    return key.rpartition("~")[0]


def test_messages_are_cut_where_options_change(fake: FakeCluster) -> None:
    with fake.client() as client:
        plain = client.persist(chain(), optimize_graph=False)
        (whole,) = submitted(fake, client)
        assert len(whole.keys) == 12
        held = client.persist(chain(**ASKED), optimize_graph=False)
        parts = submitted(fake, client)
        assert [layer_of(key) for part in parts for key in part.keys] == [layer_of(key) for key in whole.keys]
        for part in parts:
            careful = {"second" in key for key in part.keys}
            assert careful == {sent_options(part) == ASKED}
        seen: set[str] = set()
        wanted: set[str] = set()
        for part in parts:
            for index, key in enumerate(part.keys):
                for dep in part.deps[index] if part.deps else ():
                    if isinstance(dep, int):
                        assert dep < index
                    else:
                        assert dep in seen & wanted  # else it might be forgotten already
                if part.wanted is None or index in part.wanted:
                    wanted.add(key)
            seen.update(part.keys)
        del plain, held


def test_what_is_needed_only_on_the_way_is_released(fake: FakeCluster) -> None:
    with fake.client() as client:
        held = client.persist(chain(1, **ASKED))
        client.submit(inc, 1, key="the last one")
        found: list[Any] = []
        while not (found and found[-1].keys == ["the last one"]):
            message: Any = fake.received.get(timeout=30)
            if isinstance(message, (messages.Submit, messages.Release)):
                found.append(message)
        first, second, third, dropped, _ = found
        assert [layer_of(key) for part in (first, second, third) for key in part.keys] == [
            "('first', 0)",
            "('second', 0)",
            "('third', 0)",
        ]
        assert dropped.keys == [*first.keys, *second.keys]
        assert [sent_options(part) for part in (first, second, third)] == [{}, ASKED, {}]
        del held


# On a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, 1, resources={"GPU": 1}) as cluster:
        yield cluster


@pytest.fixture
def client(default_client: Client) -> Client:
    return default_client


def here(value: Any) -> str:
    return str(treadle.get_worker().name)


def names_of(client: Client) -> list[str]:
    return sorted(worker["name"] for worker in client.scheduler_info()["workers"].values())


def placed(kind: str, where: dict[str, Any]) -> Any:
    """A collection whose value is where its annotated tasks have run."""
    if kind == "array":
        x = da.ones((6, 6), chunks=2) + 1
        with dask.annotate(**where):
            x = x.map_blocks(lambda block: np.full((1, 1), here(block)), dtype=str, chunks=(1, 1))
        return x.ravel().map_blocks(lambda block: block)
    if kind == "bag":
        bag = db.from_sequence(range(8), npartitions=8)
        with dask.annotate(**where):
            bag = bag.map(here)
        return bag.map(str)
    with dask.annotate(**where):
        calls = [dask.delayed(here)(number) for number in range(8)]
    return dask.delayed(list)(calls)


@pytest.mark.parametrize("kind", ["array", "bag", "delayed"])
def test_workers(client: Client, kind: str) -> None:
    names = names_of(client)
    for name in names:
        collection = placed(kind, {"workers": name, "priority": 3})
        for value in (
            collection.compute(),
            collection.compute(scheduler=client),
            collection.persist().compute(),
            client.compute(collection).result(),
            client.persist(collection).compute(),
        ):
            assert set(value) == {name}
    with treadle.use(client):
        assert set(placed(kind, {"workers": lambda key: [name]}).compute()) == {name}


def test_dataframes_heed_what_surrounds_the_call(client: Client) -> None:
    name, _ = names_of(client)
    (frame,) = FRAMES
    named = frame.map_partitions(lambda part: pd.Series([here(part)]), meta=pd.Series(dtype=object))
    with dask.annotate(workers=[name], resources={"GPU": 1}):
        assert set(named.compute()) == {name}


def fail_once(path: str, block: Any) -> Any:
    """Fails in the first call for each block."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        raise Boom("not yet")
    return block


def test_retries(client: Client, tmp_path: Path) -> None:
    def flaky(name: str) -> Callable[[Any], Any]:
        return lambda block: fail_once(str(tmp_path / name), block)

    x = da.ones(2, chunks=2)
    with dask.annotate(retries=1):
        careful = x.map_blocks(flaky("careful"), dtype=float, meta=np.ones(0))
    assert (careful + 1).sum().compute() == 4
    careless = careful.map_blocks(flaky("careless"), dtype=float, meta=np.ones(0))
    with pytest.raises(Boom, match="not yet"):
        careless.sum().compute()


def test_what_was_persisted_before(client: Client) -> None:
    held = client.persist(da.ones(4, chunks=2))
    with dask.annotate(retries=1):
        more = held + 1
    again = (more * 2).persist()
    assert (again + held).sum().compute() == 20


def test_bad_values_in_calls(client: Client) -> None:
    x = chain(priority=0.5)
    for call in (x.compute, x.persist, lambda: client.compute(x)):
        with pytest.raises(ValueError, match=r"priority must be a whole number, not 0\.5"):
            call()
    with pytest.raises(ValueError, match="option of this call: retries must be a whole number between 0 and"):
        chain().compute(retries=-1)


@pytest.mark.parametrize("scheduler", ["sync", "threads", treadle.threaded.get, treadle.sync.get])
def test_schedulers_of_one_machine_ignore_them(scheduler: Any) -> None:
    with dask.annotate(workers=["nobody"], resources={"none": 1}, mine=1):
        x = da.ones(4, chunks=2) + 1
        assert x.sum().compute(scheduler=scheduler) == 8
