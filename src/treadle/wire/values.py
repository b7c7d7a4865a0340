"""Python values, calls and errors as bytes.

A *packed value* is one msgpack value for the scalars that any language knows, and a pickle for everything else; the
first byte tells which, because no scalar begins like a pickle. A *payload* holds the arguments of one call, with the
places marked where the values of other tasks go.
"""

from __future__ import annotations

import operator
import pickle
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from treadle.errors import TaskNotSerializableError
from treadle.graph.node import Listed, Template, evaluate
from treadle.wire.pickling import dump
from treadle.wire.sizes import size_told, sizeof

__all__ = [
    "SCALARS",
    "Slot",
    "brief",
    "dependency_value",
    "dump_parts",
    "dump_plain",
    "find_bulky",
    "find_dependencies",
    "load_parts",
    "pack_call",
    "pack_value",
    "unpack_call",
    "unpack_value",
]

#: The types whose values are packed as msgpack (integers of at most 64 bits, text that is valid Unicode).
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})

#: From this size on a buffer travels beside the pickle instead of in it.
APART: Final = 4096
#: The first byte of a pickle of protocol 2 or later; in msgpack the empty map, which is no scalar.
PICKLED: Final = 0x80
#: The code of the msgpack extension that stands for the value of a dependency.
DEPENDENCY: Final = 1
#: How deep lists within arguments may be for the quick form of a payload.
MAX_DEPTH: Final = 4

#: The map without entries, in the form that does not begin like a pickle.
_EMPTY_MAP: Final = b"\xde\x00\x00"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

# Values


def pack_value(value: Any) -> bytes:
    """One value in one piece.

    :raises Exception: whatever pickling raises.
    """
    if type(value) in SCALARS:
        try:
            return _encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a bigger integer, or a string with lone surrogates
    return dump(value)


def unpack_value(packed: bytes | bytearray | memoryview) -> Any:
    """The value of :func:`pack_value`.

    :raises Exception: whatever unpickling raises.
    """
    if packed[0] == PICKLED:
        return pickle.loads(packed)
    return _decode(packed)


def dump_parts(value: Any) -> list[bytes | memoryview]:
    """A value as a packed value and the raw memory of its big buffers, which is not copied.

    :raises Exception: whatever pickling raises.
    """
    kind = type(value)
    if kind in SCALARS:
        if kind is not bytes or len(value) < APART:
            return [pack_value(value)]
        value = _Bytes(value)
    apart: list[pickle.PickleBuffer] = []
    data = dump(value, apart, APART)
    return [data, *(buffer.raw() for buffer in apart)]


def dump_plain(value: Any) -> bytes:
    """A value as a packed value that is no pickle, for those who read none: what is lost is what msgpack does not tell
    apart, such as lists, tuples and sets.

    :raises Exception: there is no msgpack for it.
    """
    packed = _encode(value)
    return packed if packed[0] != PICKLED else _EMPTY_MAP


def load_parts(parts: Sequence[bytes | bytearray | memoryview]) -> Any:
    """The value of :func:`dump_parts`. Arrays are built on the memory that is given, without a copy.

    :raises Exception: whatever unpickling raises.
    """
    if len(parts) == 1:
        return unpack_value(parts[0])
    return pickle.loads(parts[0], buffers=parts[1:])


class _Bytes:
    """Makes a pickle of bytes whose content travels beside it."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._value),)


# Calls


class Slot:
    """Stands among the arguments of a call for the value of the task's dependency number ``index``."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"Slot({self.index})"

    def __reduce__(self) -> tuple[Any, ...]:
        return dependency_value, (self.index,)


class _Reader(threading.local):
    """Reads payloads, in each thread with the values of the call that is being read."""

    def __init__(self) -> None:
        self.values: Sequence[Any] = ()
        self.decode = msgspec.msgpack.Decoder(list[Any], ext_hook=self._extension).decode

    def _extension(self, code: int, data: memoryview) -> Any:
        if code != DEPENDENCY:
            raise ValueError(f"the payload of a call has an extension of the unknown type {code}")
        return self.values[int.from_bytes(data, "little")]


_reader: Final = _Reader()


def dependency_value(index: int) -> Any:
    """What a :class:`Slot` is unpickled to. The name is part of the protocol."""
    return _reader.values[index]


def _mark(index: int) -> msgspec.msgpack.Ext:
    width = 1 if index < 1 << 8 else 2 if index < 1 << 16 else 4
    return msgspec.msgpack.Ext(DEPENDENCY, index.to_bytes(width, "little"))


#: The marks of the first dependencies, and the payloads of calls whose arguments are just these, one after another.
_MARKS: Final = [_mark(index) for index in range(256)]
_PLAIN: Final = [_encode(_MARKS[:count]) for count in range(9)]


def pack_call(
    key: object,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    deps: Sequence[Any] = (),
    nested: bool = False,
) -> bytes:
    """The payload of a call.

    :param key: names the task in errors.
    :param deps: the objects that stand for dependencies wherever they occur in the arguments, told by identity:
        nodes of a graph, or futures. Their order gives the number of each. A :class:`Slot` may stand there, too.
    :param nested: True if there are templates (:class:`treadle.graph.node.Template`) among the arguments.
    :raises TaskNotSerializableError: names the argument that cannot be pickled, and why.
    """
    if not kwargs:
        count = len(args)
        if count == len(deps) and count < 9 and all(map(operator.is_, args, deps)):
            return _PLAIN[count]
    numbers = {id(dep): index for index, dep in enumerate(deps)}
    if not kwargs:
        flat = _flatten(args, numbers, MAX_DEPTH)
        if flat is not None:
            try:
                return _encode(flat)
            except (OverflowError, UnicodeEncodeError):
                pass

    def stand_in(obj: Any) -> Any:
        index = numbers.get(id(obj))
        return NotImplemented if index is None else (dependency_value, (index,))

    try:
        return dump((tuple(args), dict(kwargs) if kwargs else None, nested), stand_in=stand_in)
    except Exception as error:
        raise _why_not(key, args, kwargs or {}, stand_in, error) from None


def unpack_call(payload: bytes | memoryview, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any] | None]:
    """The arguments of :func:`pack_call`, with ``values[i]`` in place of dependency ``i``.

    :raises Exception: whatever unpickling raises.
    """
    count = len(values)
    if count < 9 and payload == _PLAIN[count]:
        return list(values), None
    reader = _reader
    before, reader.values = reader.values, values
    try:
        if payload[0] != PICKLED:
            return reader.decode(payload), None
        args, kwargs, nested = pickle.loads(payload)
    finally:
        reader.values = before
    if not nested:
        return list(args), kwargs
    words = {word: evaluate(value) for word, value in kwargs.items()} if kwargs else None
    return [evaluate(arg) for arg in args], words


def find_dependencies(args: Iterable[Any], kwargs: Mapping[str, Any] | None, cls: type[Any]) -> list[Any]:
    """The distinct instances of ``cls`` among the arguments of a call, also within lists, tuples, sets and dicts."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    stack: list[Iterable[Any]] = [kwargs.values()] if kwargs else []
    stack.append(args)
    while stack:
        for item in stack.pop():
            kind = type(item)
            if kind in SCALARS:
                continue
            if isinstance(item, cls):
                found.setdefault(id(item), item)
            elif kind in _CONTAINERS and id(item) not in seen:
                seen.add(id(item))
                parts = (item.keys(), item.values()) if kind is dict else (item,)
                stack.extend(part for part in parts if not SCALARS.issuperset(map(type, part)))
    return list(found.values())


_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})


def find_bulky(args: Sequence[Any], kwargs: Mapping[str, Any] | None, deps: Sequence[Any], least: int) -> list[Any]:
    """The distinct values of at least ``least`` bytes among the arguments of a call that could be dependencies too.

    These are text, bytes and containers that are arguments, and arrays and tables wherever they are.

    :param deps: as of :func:`pack_call`. A container with one of them inside is no value.
    :raises Exception: whatever pickling raises.
    """
    found: dict[int, Any] = {}
    known = {id(dep) for dep in deps}
    kinds: Any = tuple({type(dep) for dep in deps})

    def stand_in(obj: Any) -> Any:
        if id(obj) not in known:
            if size_told(obj) < least:
                return NotImplemented
            found[id(obj)] = obj
        return dependency_value, (0,)

    others: list[Any] = []
    for arg in [*args, *(kwargs or {}).values()]:
        plain = type(arg) in SCALARS or type(arg) in _CONTAINERS
        if plain and sizeof(arg) >= least and not find_dependencies((arg,), None, kinds):
            found[id(arg)] = arg
        else:
            others.append(arg)
    dump(others, stand_in=stand_in)
    return list(found.values())


def _flatten(items: Iterable[Any], numbers: dict[int, int], depth: int) -> list[Any] | None:
    """Arguments with marks in place of dependencies; None if the quick form of a payload cannot hold them."""
    flat: list[Any] = []
    for item in items:
        kind = type(item)
        if kind in SCALARS:
            flat.append(item)
            continue
        index = item.index if kind is Slot else numbers.get(id(item), -1)
        if index >= 0:
            flat.append(_MARKS[index] if index < len(_MARKS) else _mark(index))
            continue
        inner = item if kind is list else item.items if kind is Listed and item.make is None else None
        if inner is None or depth == 0:
            return None
        within = inner if SCALARS.issuperset(map(type, inner)) else _flatten(inner, numbers, depth - 1)
        if within is None:
            return None
        flat.append(within)
    return flat


def _why_not(
    key: object, args: Sequence[Any], kwargs: Mapping[str, Any], stand_in: Callable[[Any], Any], error: Exception
) -> TaskNotSerializableError:
    """Which argument it is that cannot be pickled."""
    for name, arg in zip([*range(1, len(args) + 1), *map(repr, kwargs)], [*args, *kwargs.values()]):
        try:
            dump(arg, stand_in=stand_in)
        except Exception as reason:
            kind = "container" if isinstance(arg, Template) else type(arg).__name__
            return TaskNotSerializableError(key, f"its argument {name} (a {kind})", brief(reason))
    return TaskNotSerializableError(key, "one of its arguments", brief(error))


def brief(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"
