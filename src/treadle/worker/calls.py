"""Calling a task, and what the user sees of what goes wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from treadle.local.trim import trim_error
from treadle.wire.failures import PackedError, pack_error, pack_refusal
from treadle.wire.values import pack_value, unpack_call

__all__ = ["INLINE", "call", "failure", "pack_small", "refusal"]

#: A result of at most this many bytes, packed, is sent along with the news that its task has finished.
INLINE: Final = 16 * 1024


def call(func: Callable[..., Any], payload: bytes, values: Sequence[Any]) -> Any:
    """The result of a task.

    :param values: of its dependencies.
    :raises BaseException: whatever the task raises.
    """
    args, kwargs = unpack_call(payload, values)
    if kwargs is None:
        return func(*args)
    return func(*args, **kwargs)


def failure(error: BaseException) -> PackedError:
    """The exception of a task, packed, with the user's own frames only. Never raises."""
    try:
        return _sendable(pack_error(trim_error(error)))
    except Exception as reason:  # its class has methods that raise, too
        return (
            "refused",
            b"",
            "",
            {"what": f"exception of type {type(error).__name__}", "reason": type(reason).__name__},
        )


def refusal(value: Any, reason: Exception) -> PackedError:
    """Why a result cannot leave this process. Never raises."""
    what = f"result of type {type(value).__name__}"
    if isinstance(value, (GeneratorType, AsyncGeneratorType)):
        reason = TypeError(
            f"{reason}. To have its items while it runs, use client.stream(function, …) in the place of "
            "client.submit(function, …); to have all at once, return a list"
        )
    try:
        return _sendable(pack_refusal(what, reason))
    except Exception:  # the exception that says why has methods that raise, too
        return "refused", b"", "", {"what": what, "reason": type(reason).__name__}


def pack_small(value: Any) -> tuple[bytes | None, PackedError | None]:
    """A small result, packed; None if it turns out to be big. Or why it can never be."""
    try:
        packed = pack_value(value)
    except Exception as error:
        return None, refusal(value, error)
    return (packed if len(packed) <= INLINE else None), None


def _sendable(error: PackedError) -> PackedError:
    """Exceptions may have texts that are no valid Unicode: names of files, for example."""
    kind, blob, text, info = error
    return kind, blob, _valid(text), {name: _valid(fact) if type(fact) is str else fact for name, fact in info.items()}


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
