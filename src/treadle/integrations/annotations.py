"""What ``dask.annotate`` says, as options of the tasks of a graph.

Dask keeps annotations with the layers of a collection's graph, and loses them when it optimizes arrays and bags: these
become one dict, whose tasks are fused with no regard to them. So they are read here before that; and the optimization
is told that it must keep every result which goes from a task to one with other options, as if the user wanted it.

Dataframes have no layers. For them there is what is said around the call of ``compute`` or ``persist``, which holds for
all tasks of any collection whose layers do not say otherwise; see `dask.annotate
<https://docs.dask.org/en/stable/api.html#dask.annotate>`_.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from numbers import Real
from typing import Any, Final, NamedTuple

from treadle.client.calls import options_of
from treadle.client.outbox import Options
from treadle.client.varied import Varied
from treadle.graph.foreign import ALIAS, foreign_kind
from treadle.graph.plan import as_dict

__all__ = ["heed"]

_dask: Any = import_module("dask")
_expr: Any = import_module("dask._expr")
_core: Any = import_module("dask.core")
_highlevelgraph: Any = import_module("dask.highlevelgraph")

#: The annotations that mean something here. All others are the user's own.
_OPTIONS: Final = frozenset({"allow_other_workers", "priority", "resources", "retries", "workers"})

#: What annotations say: by name, a value, or a function from a key to a value.
_Words = dict[str, Any]


class _Layered(NamedTuple):
    """A graph in layers, and how to optimize it."""

    graph: Any
    optimize: Any
    keys: list[Any]


def heed(graph: Any, given: Mapping[str, Any]) -> tuple[Any, Options]:
    """A graph of Dask's, and the options of its tasks.

    An annotation of a layer goes before what was given to the call, and that before what surrounds the call.

    :param given: the options of the call, which may hold others than are meant here.
    :returns: a graph of the same tasks, which is a dict if their options differ, and those.
    :raises TypeError: an annotation is of a wrong type. :raises ValueError: it has a value that it cannot have.
    """
    # A priority of 0, or no retries, is what holds without a word.
    said = {name: value for name, value in _words(given).items() if value is not None and value != 0}
    usual = {**_words(_dask.get_annotations()), **said}
    reader = _Reader(usual)
    parts = list(_layered(graph))
    if not _varies(usual) and not any(
        reader.is_special(layer) for part in parts for layer in part.graph.layers.values()
    ):
        return graph, reader.usual
    if not parts:
        tasks: dict[Any, Any] = as_dict(graph)
        return tasks, Varied(None, {key: reader.options(usual, key) for key in tasks})
    tasks = {}
    special: dict[Any, Options] = {}
    for part in parts:
        optimized, asked = reader.optimized(part)
        tasks.update(optimized)
        special.update(asked)
    return tasks, Varied(reader.usual, special)


def _layered(graph: Any) -> Iterator[_Layered]:
    """The graphs in layers that a graph is made of; none if it knows no layers."""
    if isinstance(graph, _highlevelgraph.HighLevelGraph):
        yield _Layered(graph, None, [])
    elif isinstance(graph, _expr.HLGExpr):
        yield _Layered(graph.hlg, graph.low_level_optimizer, list(_core.flatten(graph.__dask_keys__())))
    elif isinstance(graph, _expr._HLGExprSequence):
        for each in graph.operands:
            yield from _layered(each)


def _words(annotations: Mapping[str, Any] | None) -> _Words:
    return {name: annotations[name] for name in sorted(_OPTIONS & annotations.keys())} if annotations else {}


def _varies(words: _Words) -> bool:
    return any(map(callable, words.values()))


class _Reader:
    """Reads the annotations of one graph.

    :param usual: what holds where no layer says otherwise.
    """

    def __init__(self, usual: _Words) -> None:
        self._words = usual
        #: Equal options as one object.
        self._known: dict[str, Options] = {}
        #: The options of most tasks.
        self.usual: Options = None if _varies(usual) else self.options(usual, None)

    def is_special(self, layer: Any) -> bool:
        """Whether the annotations of a layer say anything new."""
        own = _words(layer.annotations)
        return bool(own) and {**self._words, **own} != self._words

    def optimized(self, part: _Layered) -> tuple[dict[Any, Any], dict[Any, Options]]:
        """The tasks of a graph, optimized, and the options of those that are not the usual ones."""
        layers = part.graph.layers
        words = {name: {**self._words, **_words(layer.annotations)} for name, layer in layers.items()}
        special: dict[Any, Options] = {}
        for name, layer in layers.items():
            special.update(self._options_of_layer(words[name], layer.get_output_keys()))
        tasks = part.graph
        if part.optimize is not None:
            kept = [key for name in _borders(part.graph, words) for key in layers[name].get_output_keys()]
            tasks = part.optimize(tasks, list(dict.fromkeys([*part.keys, *kept])))
        tasks = as_dict(tasks)
        return tasks, _of_tasks(tasks, part.graph.get_all_external_keys(), special)

    def _options_of_layer(self, words: _Words, keys: Iterable[Any]) -> dict[Any, Options]:
        if _varies(words):
            return {key: self.options(words, key) for key in keys}
        first = next(iter(keys), None)
        options = self.options(words, first)
        return {} if options is self.usual else dict.fromkeys(keys, options)

    def options(self, words: _Words, key: Any) -> Options:
        """The options of the task ``key``."""
        said = {name: value(key) if callable(value) else value for name, value in words.items()}
        said = {name: value for name, value in said.items() if not _is_nothing(value)}
        try:
            made = _options(said)
        except (TypeError, ValueError, OverflowError) as error:
            whose = "this call" if key is None else f"the task {key!r}"
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"wrong annotation or option of {whose}: {error}") from None
        return self._known.setdefault(repr(made), made)


def _is_nothing(value: Any) -> bool:
    """Whether a function has said nothing of a key: None, or what Dask has for it."""
    return value is None or isinstance(value, _expr._AnnotationsTombstone)


def _options(said: _Words) -> Options:
    others = said.get("allow_other_workers", False)
    if not isinstance(others, bool):
        raise TypeError(f"allow_other_workers must be True or False, not {others!r}")
    # Workers are either binding or left to the scheduler, which knows where the data is.
    workers = None if others else said.get("workers")
    return options_of(workers, said.get("resources"), _whole("priority", said), _whole("retries", said))


def _whole(name: str, said: _Words) -> int:
    """A whole number, which may be written as another kind of number."""
    value = said.get(name, 0)
    if not isinstance(value, Real) and not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value != int(value):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return int(value)


def _borders(graph: Any, words: Mapping[str, _Words]) -> Iterator[str]:
    """The layers whose tasks must not become part of others: those with other options need them."""
    dependents: dict[str, list[str]] = {name: [] for name in graph.layers}
    for name, deps in graph.dependencies.items():
        for dep in deps:
            if dep in dependents:
                dependents[dep].append(name)
    for name, above in dependents.items():
        own = words[name]
        if _varies(own) or any(words[each] != own for each in above):
            yield name


def _of_tasks(tasks: Mapping[Any, Any], written: Any, options: Mapping[Any, Options]) -> dict[Any, Options]:
    """The options of those tasks that are left.

    A chain that was fused under a new name has those of the key that is another name of it now.

    :param written: the keys that there were before.
    """
    found: dict[Any, Options] = {}
    for key, value in tasks.items():
        if key in options:
            found[key] = options[key]
            if foreign_kind(type(value)) == ALIAS and value.target not in written:
                found[value.target] = options[key]
    return found
