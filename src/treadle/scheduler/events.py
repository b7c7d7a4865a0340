"""Which method of the core hears of which message: one table for each role.

A decoder accepts the messages of its role only, so every message that arrives is in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from treadle.core.records import Client, Worker
from treadle.core.scheduler import Scheduler
from treadle.wire import messages

__all__ = ["FROM_CLIENT", "FROM_WORKER", "Handler"]

#: ``handler(core, peer, message, now)``
Handler: TypeAlias = Callable[[Scheduler, Any, Any, float], None]

#: Priority, workers, resources and retries of a submission that says nothing of them.
_DEFAULTS: Final = (0, None, None, 0)


def _functions(core: Scheduler, client: Client, message: messages.Functions, now: float) -> None:
    core.on_functions(client, message.rows)


def _submit(core: Scheduler, client: Client, message: messages.Submit, now: float) -> None:
    given = message.options
    options = _DEFAULTS if given is None else (given.priority, given.workers, given.resources, given.retries)
    core.on_submit(
        client, message.keys, message.functions, message.payloads, message.deps, message.wanted, options, now
    )


def _want(core: Scheduler, client: Client, message: messages.Want, now: float) -> None:
    core.on_want(client, message.keys, now)


def _release(core: Scheduler, client: Client, message: messages.Release, now: float) -> None:
    core.on_release(client, message.keys, now)


def _cancel(core: Scheduler, client: Client, message: messages.Cancel, now: float) -> None:
    core.on_cancel(client, message.keys, now, message.force)


def _retry(core: Scheduler, client: Client, message: messages.Retry, now: float) -> None:
    core.on_retry(client, message.keys, now)


def _placed(core: Scheduler, client: Client, message: messages.Placed, now: float) -> None:
    core.on_placed(client, message.rows, now)


def _client_missing(core: Scheduler, client: Client, message: messages.ClientMissing, now: float) -> None:
    core.on_client_missing(client, message.rows, now)


def _fence(core: Scheduler, client: Client, message: messages.Fence, now: float) -> None:
    core.on_fence(client, message.number)


def _finished(core: Scheduler, worker: Worker, message: messages.Finished, now: float) -> None:
    core.on_finished(worker, message.rows, now)


def _failed(core: Scheduler, worker: Worker, message: messages.Failed, now: float) -> None:
    core.on_failed(worker, message.attempt, message.seconds, message.error, now)


def _acquired(core: Scheduler, worker: Worker, message: messages.Acquired, now: float) -> None:
    core.on_acquired(worker, message.rows, now)


def _missing(core: Scheduler, worker: Worker, message: messages.Missing, now: float) -> None:
    core.on_missing(worker, message.rows, now)


def _unusable(core: Scheduler, worker: Worker, message: messages.Unusable, now: float) -> None:
    core.on_unusable(worker, message.keys, now)


def _returned(core: Scheduler, worker: Worker, message: messages.Returned, now: float) -> None:
    core.on_returned(worker, message.attempts, now)


def _stopped(core: Scheduler, worker: Worker, message: messages.Stopped, now: float) -> None:
    core.on_stopped(worker, message.attempts, now)


def _seceded(core: Scheduler, worker: Worker, message: messages.Seceded, now: float) -> None:
    core.on_seceded(worker, message.attempts, now)


def _rejoined(core: Scheduler, worker: Worker, message: messages.Rejoined, now: float) -> None:
    core.on_rejoined(worker, message.attempts, now)


def _started(core: Scheduler, worker: Worker, message: messages.Started, now: float) -> None:
    core.on_started(worker, message.attempts, now)


def _heartbeat(core: Scheduler, worker: Worker, message: messages.Heartbeat, now: float) -> None:
    core.on_heartbeat(worker, message.rss, message.cpu, message.fetched_bytes, message.fetch_seconds, now)


#: Without :class:`~treadle.wire.messages.Ask` and its withdrawal, which are for the process itself.
FROM_CLIENT: Final[Mapping[type[messages.Message], Handler]] = {
    messages.Functions: _functions,
    messages.Submit: _submit,
    messages.Want: _want,
    messages.Release: _release,
    messages.Cancel: _cancel,
    messages.Retry: _retry,
    messages.Placed: _placed,
    messages.ClientMissing: _client_missing,
    messages.Fence: _fence,
}

#: Without :class:`~treadle.wire.messages.Leaving`, which is about the connection, and what is for services.
FROM_WORKER: Final[Mapping[type[messages.Message], Handler]] = {
    messages.Finished: _finished,
    messages.Failed: _failed,
    messages.Acquired: _acquired,
    messages.Missing: _missing,
    messages.Unusable: _unusable,
    messages.Returned: _returned,
    messages.Stopped: _stopped,
    messages.Seceded: _seceded,
    messages.Rejoined: _rejoined,
    messages.Started: _started,
    messages.Heartbeat: _heartbeat,
}
