"""Random graphs, for property tests with Hypothesis.

A :class:`GraphCase` is a graph of integers in every form that Treadle reads, with the keys to ask for. Its shape
varies: chains, diamonds, wide layers, results with many users, aliases, literals, and containers within containers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from hypothesis import strategies as st

from treadle.graph.spec import Data, Ref, Task

__all__ = ["GraphCase", "cases", "checksum"]

Draw: TypeAlias = Callable[[Any], Any]


class GraphCase(NamedTuple):
    """A graph, the keys to ask for, and the dependencies of every key."""

    graph: dict[Any, Any]
    keys: Any
    deps: dict[Any, set[Any]]


def checksum(*args: Any, **kwargs: Any) -> int:
    """A number that tells by which arguments a task was called, and in which containers they were."""
    return _mix(["call", list(args), kwargs])


def _mix(value: Any) -> int:
    if isinstance(value, (set, frozenset)):
        parts = sorted(_mix(item) for item in value)
    elif isinstance(value, dict):
        parts = [_mix([key, item]) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [_mix(item) for item in value]
    else:
        parts = [value if isinstance(value, int) else sum(getattr(value, "__name__", str(value)).encode())]
    code = len(type(value).__name__)
    for part in parts:
        code = (code * 31 + part) % 1_000_003
    return code


@st.composite
def cases(draw: Draw, max_tasks: int = 25) -> GraphCase:
    """Graphs of up to ``max_tasks`` keys without cycles."""
    count = draw(st.integers(1, max_tasks))
    # How far back a task reaches shapes the graph: 1 makes chains, all of it shares the first results.
    reach = draw(st.sampled_from([1, 2, 5, max_tasks]))
    graph: dict[Any, Any] = {}
    deps: dict[Any, set[Any]] = {}
    names: list[Any] = []
    for index in range(count):
        key = draw(st.sampled_from([f"k{index}", ("k", index), ("k", str(index), 0)]))
        used: set[Any] = set()
        graph[key] = _value(draw, names[-reach:], used)
        deps[key] = used
        names.append(key)
    order = draw(st.permutations(names))
    keys = draw(st.one_of(st.sampled_from(names), st.lists(_shaped(names), max_size=4)))
    return GraphCase({key: graph[key] for key in order}, keys, deps)


def _shaped(names: list[Any]) -> Any:
    one = st.sampled_from(names)
    return st.one_of(one, st.lists(one, max_size=3))


def _value(draw: Draw, names: list[Any], used: set[Any]) -> Any:
    kind = draw(st.sampled_from(["plain", "plain", "plain", "explicit", "explicit", "alias", "literal", "container"]))
    if kind == "literal" or (kind == "alias" and not names):
        return draw(st.sampled_from([7, [1, 2], Data((checksum, 1)), {"x": (1,)}]))
    if kind == "alias":
        key = draw(st.sampled_from(names))
        used.add(key)
        return draw(st.sampled_from([key, Ref(key)]))
    if kind == "container":
        return [_argument(draw, names, used, False, 2) for _ in range(draw(st.integers(0, 3)))]
    explicit = kind == "explicit"
    args = [_argument(draw, names, used, explicit, 2) for _ in range(draw(st.integers(0, 3)))]
    if not explicit:
        return (checksum, *args)
    words = draw(st.lists(st.sampled_from(["a", "b"]), unique=True))
    return Task(checksum, *args, **{word: _argument(draw, names, used, True, 1) for word in words})


def _argument(draw: Draw, names: list[Any], used: set[Any], explicit: bool, depth: int) -> Any:
    kinds = ["literal", *["key"] * 4 * bool(names), *["list", "tuple", "dict", "task"] * bool(depth)]
    kind = draw(st.sampled_from(kinds))
    if kind == "literal":
        return draw(st.sampled_from([0, -3, "text", ()]))
    if kind == "key":
        key = draw(st.sampled_from(names))
        used.add(key)
        return Ref(key) if explicit else key
    items = [_argument(draw, names, used, explicit, depth - 1) for _ in range(draw(st.integers(0, 2)))]
    if kind == "list":
        return items
    if kind == "tuple":
        return ("not a function", *items)
    if kind == "dict":
        return {f"w{index}": item for index, item in enumerate(items)}
    return Task(checksum, *items) if explicit else (checksum, *items)
