"""Graphs of Dask's collections give the results that Dask itself gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from operator import add, mul
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import treadle.sync
import treadle.threaded
from treadle.errors import CycleError, GraphError, MissingDependencyError
from treadle.graph import Ref, Task, cull, dependencies, fuse, inline
from treadle.graph.foreign import NATIVE, foreign_kind
from treadle.graph.plan import MAX_NESTING, as_dict, read

# Dask is annotated here and there, and calls between the two kinds of code do not pass a strict check.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")
dd: Any = import_module("dask.dataframe")
delayed: Any = dask.delayed
spec: Any = import_module("dask._task_spec")
Alias, DataNode, TaskRef, DaskTask = spec.Alias, spec.DataNode, spec.TaskRef, spec.Task
Dict, List, Set, Tuple = spec.Dict, spec.List, spec.Set, spec.Tuple
HighLevelGraph: Any = import_module("dask.highlevelgraph").HighLevelGraph

Get = Callable[..., Any]
GETS: list[Get] = [treadle.sync.get, treadle.threaded.get]


class Point(NamedTuple):
    x: Any
    y: Any


def inc(value: Any) -> Any:
    return value + 1


def call(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def get(graph: Any, keys: Any) -> Any:
    return treadle.sync.get(graph, keys)


def fingerprint(value: Any) -> Any:
    """Something that equals another one's if the values are the same, NaN and types included."""
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, repr(value.tolist())
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        return type(value).__name__, repr(value), str(getattr(value, "dtypes", None))
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [fingerprint(item) for item in value]
    if isinstance(value, dict):
        return "dict", [(key, fingerprint(item)) for key, item in value.items()]
    return type(value).__name__, repr(value)


def answer(get: Callable[..., Any], graph: Any, keys: Any) -> Any:
    """The fingerprint of what a scheduler gives. Where keys are in lists, Dask's gives tuples, and ours do so for its
    own graphs.
    """

    def shaped(keys: Any, values: Any) -> Any:
        return [shaped(*pair) for pair in zip(keys, values)] if isinstance(keys, list) else values

    return fingerprint(shaped(keys, get(graph, keys)))


def reference(graph: Any, keys: Any) -> Any:
    """The answer of Dask's own scheduler."""
    return answer(dask.get, graph, keys)


# Task objects, one by one


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (DaskTask("n", call, TaskRef("a"), 5), ((10, 5), {})),
        (DaskTask("n", call, Alias("a"), k=TaskRef("b"), args=1, func=TaskRef("a")), None),
        (DaskTask("n", call, [TaskRef("a")], "a"), (([TaskRef("a")], "a"), {})),
        (DaskTask("n", call, List(TaskRef("a"), 5, List("a"))), (([10, 5, ["a"]],), {})),
        (DaskTask("n", call, Tuple(TaskRef("a"), Tuple()), Set(TaskRef("a"), 5)), (((10, ()), {10, 5}), {})),
        (DaskTask("n", call, Dict({"k": TaskRef("a"), "a": List(TaskRef("b"))})), (({"k": 10, "a": [20]},), {})),
        (DaskTask("n", call, Dict(k=DataNode(None, "a")), k=Dict({})), (({"k": "a"},), {"k": {}})),
        (DaskTask("n", add, DaskTask(None, mul, TaskRef("a"), 2), DaskTask(None, inc, TaskRef("b"))), 41),
        (Alias("n", "a"), 10),
        (Alias("n", "c"), 20),
        (DataNode("n", ["a", (inc, "a")]), ["a", (inc, "a")]),
        (List(TaskRef("a"), "b"), [10, "b"]),
        (Dict({"k": TaskRef("b")}), {"k": 20}),
        (TaskRef("a"), 10),
        ((add, TaskRef("a"), "b"), 30),
        ((call, [TaskRef("a"), DaskTask(None, inc, TaskRef("b"))], "a"), (([10, 21], 10), {})),
        ([TaskRef("a"), "b", DataNode(None, "a")], [10, 20, "a"]),
        (Task(call, Ref("a"), "a"), ((10, "a"), {})),
    ],
)
def test_task_objects(node: Any, value: Any) -> None:
    if value is None:
        # Dask does not allow keywords that its own constructor uses.
        value = ((10,), {"k": 20, "args": 1, "func": 10})
    graph = {"a": DataNode("a", 10), "b": DaskTask("b", mul, 2, TaskRef("a")), "c": Alias("c", "b"), "n": node}
    for module in (treadle.sync, treadle.threaded):
        assert module.get(graph, "n") == value
    for run in (cull, fuse, inline):
        assert get(run(graph, "n"), "n") == value
    assert get(inline(graph, "n", functions=[mul, inc]), "n") == value
    assert set(dependencies(graph)["n"]) <= {"a", "b"}


def test_literals_of_task_objects_are_not_searched() -> None:
    inner: list[Any] = ["a", ("a",), {"a": "a"}]
    graph: dict[Any, Any] = {"a": 1, "b": DaskTask("b", call, inner, k=inner), "c": DataNode("c", inner)}
    (listed,), words = get(graph, "b")
    assert listed is words["k"] is inner
    assert get(graph, "c") is inner
    assert [node.key for node in read(graph, "b").nodes] == ["b"]
    (listed,), words = get(fuse({**graph, "d": DaskTask("d", call, TaskRef("b"), k=inner)}, "d"), "d")[0][0]
    assert listed is words["k"] is inner


def test_fused_task_objects() -> None:
    steps = [
        DaskTask("x", add, TaskRef("a"), TaskRef("b")),
        DaskTask("y", inc, TaskRef("x")),
        DaskTask("z", call, List(TaskRef("y"), TaskRef("x")), TaskRef("a")),
    ]
    graph: dict[Any, Any] = {"a": 1, "b": (inc, "a"), "z": spec.GraphNode.fuse(*steps)}
    assert get(graph, "z") == (([4, 3], 1), {})
    assert get(fuse(graph, "z"), "z") == (([4, 3], 1), {})
    assert get(inline(graph, "z", [inc]), "z") == (([4, 3], 1), {})


def test_errors_in_graphs_of_task_objects() -> None:
    with pytest.raises(CycleError) as cycle:
        get({"a": DaskTask("a", inc, List(TaskRef("b"))), "b": Alias("b", "a")}, "b")
    assert cycle.value.keys == ["a", "a"]
    with pytest.raises(CycleError) as cycle:
        get({"a": Alias("a", "b"), "b": Alias("b", "a")}, "b")
    assert cycle.value.keys == ["b", "a", "b"]
    for missing in (
        DaskTask("a", inc, TaskRef("b")),
        Alias("a", "b"),
        List(TaskRef("b")),
        DaskTask("a", call, k=Alias("b")),
    ):
        with pytest.raises(MissingDependencyError) as caught:
            get({"a": missing, "bb": 1}, "a")
        assert (caught.value.key, caught.value.dependency) == ("a", "b")
    nested: Any = TaskRef("b")
    for _ in range(MAX_NESTING + 1):
        nested = List(nested)
    with pytest.raises(GraphError, match="nested more than"):
        get({"a": DaskTask("a", call, nested), "b": 1}, "a")


def test_other_types_are_values() -> None:
    class Template:
        key = "a"

        def render(self) -> str:
            return self.key

    for cls in (Template, Point, str, object, pd.DataFrame, np.ndarray, type, HighLevelGraph, dict, Path):
        assert foreign_kind(cls) == NATIVE
    template = Template()
    assert get({"a": 1, "b": (call, template, [template])}, "b") == ((template, [template]), {})


# Collections


def frame() -> Any:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"k": rng.integers(0, 7, 200), "x": rng.normal(size=200), "s": rng.choice(list("abc"), 200)})
    data.loc[::17, "x"] = np.nan
    return dd.from_pandas(data, npartitions=6)


def array() -> Any:
    return da.arange(400, chunks=50).reshape((20, 20)).rechunk((7, 6))


def records() -> Any:
    return db.from_sequence(range(60), npartitions=7)


def total_delayed() -> Any:
    double = delayed(mul, pure=True)
    parts = [double(i, 2) for i in range(5)]
    return delayed(call)(
        parts, {"k": parts[0], "l": [parts[1]]}, (parts[2],), Point(parts[3], 1), {"s", 5}, key=parts[4]
    )


COLLECTIONS: dict[str, Callable[[], Any]] = {
    "array": array,
    "array sum": lambda: (array() + array().T).sum(),
    "array slice": lambda: array()[3:15:2, ::-1][:, [5, 1, 1, 8]],
    "array dot": lambda: (array() @ array().T).mean(axis=0),
    "array rechunk": lambda: array().rechunk((20, 3)).cumsum(axis=1),
    "array overlap": lambda: da.overlap.overlap(array(), depth=1, boundary="reflect").map_blocks(np.sort),
    "array where": lambda: da.where(array() % 3 == 0, array(), -1).std(),
    "array stack": lambda: da.stack([array(), array() * 2]).transpose((2, 0, 1)),
    "array qr": lambda: da.linalg.qr(da.ones((40, 4), chunks=(10, 4)))[1],
    "array percentile": lambda: da.percentile(da.arange(100, chunks=30), [10, 50]),
    "bag": records,
    "bag map": lambda: records().map(inc).filter(lambda i: i % 3).map(lambda x, y: x + y, y=records().sum()),
    "bag fold": lambda: records().fold(add, initial=0),
    "bag frequencies": lambda: records().map(lambda i: i % 4).frequencies(sort=True),
    "bag groupby": lambda: records().groupby(lambda i: i % 3, shuffle="tasks").map(lambda g: (g[0], sorted(g[1]))),
    "bag foldby": lambda: records().foldby(lambda i: i % 3, add, 0),
    "bag topk": lambda: records().topk(5, key=lambda i: -i),
    "bag join": lambda: records().join([1, 2, 3], lambda i: i),
    "bag repartition": lambda: records().repartition(npartitions=3).map(inc),
    "frame": frame,
    "frame sum": lambda: frame().x.sum(),
    "frame groupby": lambda: frame().groupby("k").agg({"x": ["mean", "count"], "s": "first"}),
    "frame groupby split": lambda: frame().groupby("s", sort=True).x.sum(split_out=3),
    "frame apply": lambda: frame().groupby("k").x.apply(lambda x: x.max(), meta=("x", "f8")).reset_index(),
    "frame repartition": lambda: frame().repartition(npartitions=4).x.cumsum(),
    "frame shuffle": lambda: frame().shuffle("k", shuffle_method="tasks").k.map_partitions(len),
    "frame shuffle on disk": lambda: frame().shuffle("k", shuffle_method="disk").k.map_partitions(len),
    "frame set index": lambda: frame().set_index("k", shuffle_method="tasks").x,
    "frame merge": lambda: frame().merge(frame().groupby("k").x.max().to_frame("m").reset_index(), on="k").m.sum(),
    "frame sort": lambda: frame().sort_values("x", shuffle_method="tasks").reset_index(drop=True),
    "frame counts": lambda: frame().s.value_counts().nlargest(2),
    "frame loc": lambda: frame().loc[20:90, ["k"]].rolling(3).sum(),
    "frame to array": lambda: frame()[["k", "x"]].to_dask_array(lengths=True).sum(axis=0),
    "frame to bag": lambda: frame().to_bag().map(len),
    "delayed": total_delayed,
    "delayed from array": lambda: delayed(np.concatenate)(array().to_delayed().ravel().tolist()[0:1]),
}

collections = pytest.mark.parametrize("name", list(COLLECTIONS))


@collections
def test_collections_compute(name: str) -> None:
    collection = COLLECTIONS[name]()
    expected = fingerprint(collection.compute(scheduler="sync"))
    for ours in GETS:
        assert fingerprint(collection.compute(scheduler=ours)) == expected


@collections
def test_graphs_of_collections(name: str) -> None:
    """What ``__dask_graph__`` gives, not optimized: layers, aliases, plain tuples and task objects."""
    collection = COLLECTIONS[name]()
    graph, keys = collection.__dask_graph__(), collection.__dask_keys__()
    expected = reference(graph, keys)
    for ours in GETS:
        assert answer(ours, graph, keys) == expected


@collections
def test_optimization_of_collections(name: str) -> None:
    collection = COLLECTIONS[name]()
    expression = dask.base.collections_to_expr([collection]).optimize()
    keys = expression.__dask_keys__()
    graph = as_dict(expression)
    expected = reference(graph, keys)
    functions = [value.func for value in list(graph.values())[::3] if isinstance(value, DaskTask)]
    for run in (cull, fuse, inline, lambda graph, keys: inline(graph, keys, functions=functions)):
        smaller = run(graph, keys)
        assert len(smaller) <= len(graph)
        assert answer(get, smaller, keys) == expected
        assert answer(treadle.threaded.get, fuse(smaller, keys), keys) == expected


@pytest.mark.parametrize("ours", GETS)
def test_lists_of_keys_are_answered_as_the_maker_of_the_graph_expects(ours: Get) -> None:
    plain = {"a": 1, "b": (inc, "a")}
    assert ours(plain, ["a", ["b"]]) == [1, [2]]
    dasks = {"a": 1, "b": DaskTask("b", inc, TaskRef("a"))}
    assert ours(dasks, ["a", ["b"]]) == dask.get(dasks, ["a", ["b"]]) == (1, (2,))


@pytest.mark.parametrize("ours", GETS)
def test_what_dask_hands_to_a_scheduler(ours: Get) -> None:
    kinds: list[str] = []

    def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
        kinds.append(type(graph).__name__)
        return ours(graph, keys, **options)

    mixed = (array().sum(), records().max(), total_delayed())
    expected = dask.compute(*mixed, 5, {"k": mixed[0]}, scheduler="sync")
    assert fingerprint(dask.compute(*mixed, 5, {"k": mixed[0]}, scheduler=scheduler)) == fingerprint(expected)
    assert fingerprint(dask.compute(frame(), scheduler=scheduler)) == fingerprint((frame().compute(scheduler="sync"),))
    assert not any(kind in ("dict", "HighLevelGraph") for kind in kinds)
    assert len(kinds) == 2


@pytest.mark.parametrize("ours", GETS)
def test_the_configured_scheduler_of_dask(ours: Get) -> None:
    calls: list[Any] = []

    def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
        calls.append(keys)
        return ours(graph, keys, **options)

    with dask.config.set(scheduler=scheduler):
        assert array().max().compute() == 399
        assert frame().k.size.compute() == 200
        persisted = records().map(inc).persist()
        assert persisted.sum().compute() == 60 * 61 // 2
    assert len(calls) == 4
    assert persisted.sum().compute(scheduler=ours, num_workers=3, optimize_graph=False) == 60 * 61 // 2


def test_high_level_graphs_and_nested_keys() -> None:
    collection = array()
    graph = HighLevelGraph.from_collections("n", {"n": (call, [collection.__dask_keys__()])}, [collection])
    (blocks,), _ = get(graph, "n")
    assert np.block(blocks[0]).tolist() == collection.compute(scheduler="sync").tolist()


def test_an_exception_in_a_collection_is_the_users() -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("by a task")

    for ours in GETS:
        with pytest.raises(ZeroDivisionError, match="by a task") as caught:
            records().map(fail).compute(scheduler=ours)
        assert any(note.startswith("while running task ") for note in caught.value.__notes__)  # type: ignore[attr-defined, unused-ignore]


def test_dask_is_never_imported_by_treadle() -> None:
    script = """
import sys
import treadle
from treadle.graph import cull, fuse, inline
graph = {"a": 1, "b": (abs, "a"), "c": treadle.Task(sum, [treadle.Ref("b")]), "d": (len, ["b", object()])}
for scheduler in ("sync", "threads"):
    assert treadle.get(graph, ["c", "d"], scheduler=scheduler) == [1, 2]
assert treadle.get(fuse(inline(cull(graph, "d"), "d"), "d"), "d") == 2
heavy = {"dask", "distributed", "numpy", "pandas", "rich", "graphviz", "asyncio", "cloudpickle"}
print(sorted(heavy & set(sys.modules)))
"""
    path = [str(Path(treadle.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
