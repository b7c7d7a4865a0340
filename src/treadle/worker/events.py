"""What each message of the scheduler means to the worker's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from treadle.core.worker import WorkerState
from treadle.wire import messages

__all__ = ["feed"]

Handler = Callable[[WorkerState, Any], None]

_HANDLERS: Final[dict[type, Handler]] = {
    messages.WorkerFunctions: lambda state, message: state.on_functions(message.rows),
    messages.Run: lambda state, message: state.on_run(message.rows, message.where),
    messages.Remake: lambda state, message: state.on_remake(message.rows),
    messages.Where: lambda state, message: state.on_where(message.rows),
    messages.Acquire: lambda state, message: state.on_acquire(message.rows),
    messages.Recall: lambda state, message: state.on_recall(message.attempts),
    messages.CancelAttempts: lambda state, message: state.on_cancel(message.attempts),
    messages.ReleaseKeys: lambda state, message: state.on_release(message.keys),
}


def feed(state: WorkerState, received: list[Any]) -> list[Any]:
    """Hand messages to the state. Returns those that are not for it but for the process.

    :raises ProtocolError: the scheduler has said what it must not.
    """
    others: list[Any] = []
    for message in received:
        handler = _HANDLERS.get(type(message))
        if handler is None:
            others.append(message)
        else:
            handler(state, message)
    return others
