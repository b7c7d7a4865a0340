"""Functions as bytes: pickled, as seldom as is safe; or, by those who have no pickle, the path to import them by."""

from __future__ import annotations

import functools
import operator
import pickle
from collections.abc import Callable
from hashlib import blake2b
from importlib import import_module
from inspect import iscoroutinefunction
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from treadle.errors import TaskNotSerializableError, UserError
from treadle.wire.pickling import dump
from treadle.wire.values import PICKLED, brief

__all__ = [
    "ACTOR",
    "ASYNCHRONOUS",
    "PURE",
    "STARTS",
    "PackedFunction",
    "display_name",
    "pack_function",
    "unpack_function",
]


#: What kinds of functions there are: the sum of what applies.
PURE: Final = 1  #: equal calls give equal results
ASYNCHRONOUS: Final = 2  #: a coroutine function: runs on the worker's event loop, and occupies no thread
STARTS: Final = 4  #: the clients are told when a task starts
ACTOR: Final = 8  #: what it returns stays where it is, and cannot be computed again


class PackedFunction(NamedTuple):
    """A function on its way: ``digest`` (16 bytes) tells it from all others."""

    name: str
    digest: bytes
    blob: bytes
    #: ``ASYNCHRONOUS`` or 0.
    kind: int = 0


_PICKLED: Final = bytes([PICKLED])
_decode_path: Final = msgspec.msgpack.Decoder(str).decode

#: What a function refers to, and how to look whether it still does.
_Capture: TypeAlias = "tuple[Callable[[], Any], Any]"


class _Entry(NamedTuple):
    #: Kept, so that nothing else gets its id.
    func: Any
    packed: PackedFunction
    #: Empty if the function is pickled by reference.
    captured: list[_Capture]


_entries: dict[int, _Entry] = {}
_MAX_ENTRIES: Final = 2048


def pack_function(func: Callable[..., Any], key: object = None) -> PackedFunction:
    """A function (or anything else that can be called): its name, its digest and its pickle.

    A function that can be imported is pickled once. One that travels by value is pickled again only if something that
    it refers to has changed, or might have without being seen.

    :param key: names the task in errors.
    :raises TaskNotSerializableError: it cannot be pickled.
    """
    entry = _entries.get(id(func))
    if entry is not None:
        for look, value in entry.captured:
            if look() is not value:
                break
        else:
            return entry.packed
    try:
        blob = dump(func)
    except Exception as error:
        raise TaskNotSerializableError(key, f"its function {display_name(func)!r}", brief(error)) from None
    kind = ASYNCHRONOUS if iscoroutinefunction(func) else 0
    packed = PackedFunction(display_name(func), blake2b(blob, digest_size=16).digest(), blob, kind)
    captured = [] if _is_reference(blob) else _captured(func)
    if captured is not None:
        if len(_entries) >= _MAX_ENTRIES:
            _entries.clear()
        _entries[id(func)] = _Entry(func, packed, captured)
    return packed


def unpack_function(blob: bytes) -> Any:
    """The function of :func:`pack_function`, or of an import path such as ``"operator:add"``, one msgpack string.

    :raises UserError: an import path leads nowhere.
    :raises Exception: whatever importing or unpickling raises.
    """
    return pickle.loads(blob) if blob[:1] == _PICKLED else _imported(blob)


def _imported(blob: bytes) -> Any:
    try:
        path = _decode_path(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"a function is a pickle, or its import path as one msgpack string ({error})") from None
    name, _, qualname = path.partition(":")
    if not all(map(str.isidentifier, [*name.split("."), *qualname.split(".")])):
        raise UserError(f"an import path of a function is 'module:qualname', such as 'operator:add', not {path!r:.200}")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and one that it imports is not
        raise UserError(
            f"the import path {path!r:.200} leads nowhere: there is no module {error.name!r} here"
        ) from None
    try:
        func = operator.attrgetter(qualname)(module)
    except AttributeError as error:
        raise UserError(f"the import path {path!r:.200} leads nowhere: {error}") from None
    if not callable(func):
        raise UserError(f"the import path {path!r:.200} leads to a {type(func).__name__}, which cannot be called")
    return func


def display_name(func: Any) -> str:
    """A short name for people to read: ``"load"``, also for ``functools.partial(load, path)``."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None) or type(func).__name__
    return str(name)


# What may be kept.

#: Values that cannot change.
_ATOMS: Final = (type(None), bool, int, float, complex, str, bytes, type(...), ModuleType)

#: How the pickle of a thing that is found by its name ends: look it up, remember it, stop.
_REFERENCE: Final = pickle.STACK_GLOBAL + pickle.MEMOIZE + pickle.STOP

_MISSING: Final = object()


def _captured(func: Any) -> list[_Capture] | None:
    """What has to be looked at before a pickle of ``func`` is used again; None if that would not be enough."""
    found: list[_Capture] = []
    seen: set[int] = set()
    stack = [func]
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind in _ATOMS or id(value) in seen:
            continue
        seen.add(id(value))
        if kind in (tuple, frozenset):
            stack.extend(value)
        elif _by_reference(value):
            continue
        elif kind is FunctionType:
            parts = _parts(value)
            found.extend(parts)
            stack.extend(part for _, part in parts if part is not _MISSING and type(part) is not CodeType)
        else:
            return None
    return found


def _by_reference(value: Any) -> bool:
    """Whether this is a function, a class or the like that is pickled as the name of its module and its own name."""
    if not callable(value):
        return False
    try:
        return _is_reference(pickle.dumps(value, 5))
    except Exception:
        return False


def _is_reference(blob: bytes) -> bool:
    return blob.endswith(_REFERENCE) and b"__main__" not in blob


def _parts(func: FunctionType) -> list[_Capture]:
    """What a function consists of that can be replaced."""
    parts: list[_Capture] = [
        (functools.partial(getattr, func, name), getattr(func, name)) for name in ("__code__", "__defaults__")
    ]
    keywords, attributes = func.__kwdefaults__ or {}, func.__dict__
    for space in (keywords, attributes):
        parts.append((functools.partial(len, space), len(space)))
        parts.extend((functools.partial(space.get, name), value) for name, value in space.items())
    for cell in func.__closure__ or ():
        look = functools.partial(_content, cell)
        parts.append((look, look()))
    known = func.__globals__
    for name in _names(func.__code__):
        parts.append((functools.partial(known.get, name, _MISSING), known.get(name, _MISSING)))
    return parts


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _names(code: CodeType) -> set[str]:
    """The global names that a function may use, those of functions within it included."""
    names: set[str] = set()
    stack = [code]
    while stack:
        code = stack.pop()
        names.update(code.co_names)
        stack.extend(inner for inner in code.co_consts if isinstance(inner, CodeType))
    return names
