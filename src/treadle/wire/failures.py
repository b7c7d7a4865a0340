"""What went wrong with a task, on its way from the worker through the scheduler to the client.

An error is ``(kind, blob, text, info)``:

========== ================================ =========================== ==========================================
kind       blob                             text                        info
========== ================================ =========================== ==========================================
raised     the exception, pickled, or empty the traceback, formatted    empty
refused    empty                            empty, or what was raised   ``what`` cannot be pickled, and the ``reason``
died       empty                            empty                       key, deaths, exitcode, host, pid, log
lost       empty                            empty                       key, worker; of an actor also ``actor``
========== ================================ =========================== ==========================================
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from typing import Any, TypeAlias

from treadle.errors import ActorLostError, DataLostError, KilledWorkerError, PeerError, ResultNotSerializableError
from treadle.local.trim import annotate
from treadle.wire.pickling import dump_error
from treadle.wire.values import brief

__all__ = ["PackedError", "pack_error", "pack_refusal", "unpack_error"]

PackedError: TypeAlias = "tuple[str, bytes, str, dict[str, Any]]"


def pack_error(error: BaseException) -> PackedError:
    """The exception of a task, with its traceback; a refusal if it cannot be pickled and read back."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        return "raised", dump_error(error), text, {}
    except Exception as reason:
        return "refused", b"", text, {"what": f"exception {error!r}", "reason": f"{brief(reason)}\n\n{text}"}


def pack_refusal(what: str, reason: BaseException) -> PackedError:
    """The task ran, but its result cannot leave the worker. ``what`` says what it is: ``"result of type lock"``."""
    return "refused", b"", "", {"what": what, "reason": brief(reason)}


def unpack_error(error: PackedError, key: object, culprit: object = None) -> BaseException:
    """The exception that the caller of a task should see.

    :param key: of the task that was asked for.
    :param culprit: of the task that failed, if it is another one, on which this one depends.
    """
    kind, blob, text, info = error
    failed = key if culprit is None else culprit
    if kind == "raised" and not blob:
        return PeerError(f"the task {failed!r} failed:\n{text}")
    if kind == "raised":
        return _raised(blob, text, failed)
    if kind == "refused":
        return ResultNotSerializableError(failed, _text(info, "what"), _text(info, "reason"))
    if kind == "died":
        return KilledWorkerError(
            failed,
            _number(info, "deaths") or 0,
            _number(info, "exitcode"),
            _text(info, "host"),
            _number(info, "pid") or 0,
            _text(info, "log"),
            bool(info.get("away")),
        )
    if kind == "lost" and info.get("actor"):
        return ActorLostError(
            info.get("key", failed), _text(info, "worker"), _text(info, "class"), _text(info, "reason")
        )
    if kind == "lost":
        return DataLostError(failed, _text(info, "worker"))
    return PeerError(f"the task {failed!r} failed for a reason that this version does not know ({kind}): {text}")


def _raised(blob: bytes, text: str, failed: object) -> BaseException:
    try:
        error: Any = pickle.loads(blob)
        if not isinstance(error, BaseException):
            raise TypeError(f"it is a {type(error).__name__}, and no exception")
    except Exception as reason:
        why = f"what was pickled cannot be read back, {brief(reason)}\n\n{text}"
        return ResultNotSerializableError(failed, "exception", why)
    return annotate(error, failed)


def _text(info: Mapping[str, Any], name: str) -> str:
    return str(info.get(name, ""))


def _number(info: Mapping[str, Any], name: str) -> int | None:
    value = info.get(name)
    return value if isinstance(value, int) else None
