"""Exceptions on their way between processes."""

from __future__ import annotations

import functools
import io
import pickle
import traceback
from types import TracebackType
from typing import Any, TypeAlias

from treadle.errors import ResultNotSerializableError
from treadle.local.processes.blob import Blob, loads
from treadle.local.trim import annotate

__all__ = ["Packed", "load_result", "pack_error", "pack_refusal", "unpack_error", "unreadable"]

#: ``("error", pickle, "", "")``, or ``("refused", b"", what could not be pickled, why)``.
Packed: TypeAlias = "tuple[str, bytes, str, str]"


def pack_error(error: BaseException) -> Packed:
    """A task's exception with its traceback; ``("error", pickle, …)``, or a refusal if it cannot travel."""
    try:
        file = io.BytesIO()
        _pickler()(file, 5).dump(error)
        data = file.getvalue()
        pickle.loads(data)  # many exception classes pickle well and cannot be read back
    except Exception as reason:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return "refused", b"", f"exception {error!r}", f"{type(reason).__name__}: {reason}\n\n{text}"
    return "error", data, "", ""


def pack_refusal(type_name: str, reason: Exception) -> Packed:
    return "refused", b"", f"result of type {type_name}", f"{type(reason).__name__}: {reason}"


@functools.cache
def _pickler() -> Any:
    """The class of a pickler for exceptions: with their tracebacks, their causes and their contexts."""
    import cloudpickle
    from tblib.pickling_support import pickle_traceback

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException):
                return _reduce(obj)
            if isinstance(obj, TracebackType):
                return pickle_traceback(obj)
            return super().reducer_override(obj)

    return Pickler


def _reduce(error: BaseException) -> tuple[Any, ...]:
    reduced: Any = error.__reduce__()
    make, args, *rest = reduced
    try:
        again = make(*args)
        faithful = type(again) is type(error) and bool(again.args == error.args)
    except Exception:
        faithful = False
    if not faithful:
        # The constructor takes something else than what it hands on to its base class.
        make, args = _construct, (type(error), args if make is type(error) else error.args)
    links = (error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__)
    return make, args, (rest[0] if rest else None, links), None, None, _restore


def _construct(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception that only the constructor of its nearest builtin base has seen."""
    base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error: BaseException = base.__new__(cls, *args)
    base.__init__(error, *args)  # type: ignore[misc]
    return error


def _restore(error: BaseException, state: tuple[Any, tuple[Any, ...]]) -> None:
    attributes, links = state
    if attributes is not None:
        error.__setstate__(attributes)
    error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__ = links


def unpack_error(packed: Packed, *keys: object) -> BaseException:
    """What a worker says of a failed task (or of several), as the exception that the caller should see."""
    kind, data, what, reason = packed
    if kind == "refused":
        return ResultNotSerializableError(keys[0], what, reason)
    try:
        error: BaseException = pickle.loads(data)
    except Exception as raised:
        return ResultNotSerializableError(keys[0], "exception", unreadable(raised))
    return annotate(error, *keys)


def load_result(blob: Blob, key: object) -> Any:
    """A result as it came from another process.

    :raises ResultNotSerializableError: it cannot be made from its pickle.
    """
    try:
        return loads(blob)
    except Exception as error:
        raise ResultNotSerializableError(key, "result", unreadable(error)) from None


def unreadable(error: BaseException) -> str:
    """Why what was pickled in one process is of no use in another one."""
    return f"what was pickled cannot be read back, {type(error).__name__}: {error}"
