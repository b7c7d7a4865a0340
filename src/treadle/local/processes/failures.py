"""Exceptions on their way between processes."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, TypeAlias

from treadle.errors import ResultNotSerializableError
from treadle.local.trim import annotate

__all__ = ["Packed", "pack_error", "pack_refusal", "unpack_error"]

#: ``("error", pickle, "", "")``, or ``("refused", b"", what could not be pickled, why)``.
Packed: TypeAlias = "tuple[str, bytes, str, str]"


def pack_error(error: BaseException) -> Packed:
    """A task's exception with its traceback; ``("error", pickle, …)``, or a refusal if it cannot travel."""
    from tblib import pickling_support

    try:
        pickling_support.install(error)
        data = _dumps_in_band(error)
        pickle.loads(data)  # many exception classes pickle well and cannot be read back
    except Exception as reason:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return "refused", b"", f"exception {error!r}", f"{type(reason).__name__}: {reason}\n\n{text}"
    return "error", data, "", ""


def pack_refusal(type_name: str, reason: Exception) -> Packed:
    return "refused", b"", f"result of type {type_name}", f"{type(reason).__name__}: {reason}"


def _dumps_in_band(value: Any) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, 5)
    return data


def unpack_error(packed: Packed, key: object) -> BaseException:
    """What a worker says of a failed task, as the exception that the caller should see."""
    kind, data, what, reason = packed
    if kind == "refused":
        return ResultNotSerializableError(key, what, reason)
    try:
        error: BaseException = pickle.loads(data)
    except Exception as raised:
        return ResultNotSerializableError(key, "exception", f"{type(raised).__name__}: {raised}")
    return annotate(error, key)
