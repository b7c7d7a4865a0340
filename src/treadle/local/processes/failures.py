"""Exceptions on their way between processes."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, TypeAlias

from treadle.errors import ResultNotSerializableError
from treadle.local.processes.blob import Blob, loads
from treadle.local.trim import annotate
from treadle.wire.pickling import dump_error

__all__ = ["Packed", "load_result", "pack_error", "pack_refusal", "unpack_error", "unreadable"]

#: ``("error", pickle, "", "")``, or ``("refused", b"", what could not be pickled, why)``.
Packed: TypeAlias = "tuple[str, bytes, str, str]"


def pack_error(error: BaseException) -> Packed:
    """A task's exception with its traceback; ``("error", pickle, …)``, or a refusal if it cannot travel."""
    try:
        return "error", dump_error(error), "", ""
    except Exception as reason:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return "refused", b"", f"exception {error!r}", f"{type(reason).__name__}: {reason}\n\n{text}"


def pack_refusal(type_name: str, reason: Exception) -> Packed:
    return "refused", b"", f"result of type {type_name}", f"{type(reason).__name__}: {reason}"


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
