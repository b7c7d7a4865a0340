"""Every error that Treadle raises on its own account.

The tree has three branches: what the user wrote (:class:`UserError`), what a worker process did
(:class:`PeerError`), and what Treadle itself got wrong (:class:`InternalError`). An exception that a
task raises is none of these: it reaches the caller as itself.
"""

from __future__ import annotations

import signal as _signal
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor as _BrokenExecutor

__all__ = [
    "ActorLostError",
    "AddressInUseError",
    "BrokenClusterError",
    "ClosedError",
    "ConnectError",
    "CycleError",
    "DataLostError",
    "DuplicateKeyError",
    "GraphError",
    "InternalError",
    "InvalidKeyError",
    "KilledWorkerError",
    "LeaseLostError",
    "MissingDependencyError",
    "MissingKeyError",
    "MissingPackageError",
    "NotHeldError",
    "NotInTaskError",
    "NotSerializableError",
    "PeerError",
    "PluginError",
    "PreloadError",
    "ProtocolError",
    "RefusedError",
    "ResultNotSerializableError",
    "StreamLostError",
    "TaskNotSerializableError",
    "TreadleError",
    "UserError",
    "VersionMismatchError",
    "WorkerDiedError",
]


class TreadleError(Exception):
    """Base of all errors of Treadle's own."""


class UserError(TreadleError):
    """Something in the caller's graph, arguments or environment has to change."""


class PeerError(TreadleError):
    """Another process failed or misbehaved."""


class InternalError(TreadleError):
    """An invariant of Treadle's own is broken: a bug worth reporting."""


class GraphError(UserError, ValueError):
    """The graph cannot be computed as it is written."""


class CycleError(GraphError):
    """Tasks that wait for one another in a circle.

    ``keys`` holds the keys on the cycle: each one depends on the next, and the last one equals the first.
    """

    def __init__(self, keys: Sequence[object]) -> None:
        self.keys = list(keys)
        super().__init__(self.keys)

    def __str__(self) -> str:
        shown = [repr(key) for key in self.keys]
        if len(shown) > 20:
            shown[10:-10] = [f"… {len(shown) - 20} more …"]
        return (
            f"the graph has a cycle: {' -> '.join(shown)} (an arrow reads 'depends on'). "
            "None of these tasks can ever start; remove one of the dependencies."
        )


class MissingKeyError(GraphError, KeyError):
    """A key was asked for that the graph does not define."""

    def __init__(self, key: object, similar: Sequence[object] = ()) -> None:
        self.key = key
        self.similar = list(similar)
        super().__init__(key, self.similar)

    def __str__(self) -> str:
        return f"the key {self.key!r} was asked for, but the graph has no such key.{_did_you_mean(self.similar)}"


class MissingDependencyError(GraphError):
    """A task refers, in explicit form, to a key that the graph does not define."""

    def __init__(self, key: object, dependency: object, similar: Sequence[object] = ()) -> None:
        self.key = key
        self.dependency = dependency
        self.similar = list(similar)
        super().__init__(key, dependency, self.similar)

    def __str__(self) -> str:
        return (
            f"the task {self.key!r} depends on {self.dependency!r}, but the graph has no such key. "
            f"Add the task, or pass the value itself instead of a Ref.{_did_you_mean(self.similar)}"
        )


class InvalidKeyError(GraphError, TypeError):
    """A key is of a type that no key may have."""

    def __init__(self, key: object) -> None:
        self.key = key
        super().__init__(key)

    def __str__(self) -> str:
        return (
            f"{self.key!r} (a {type(self.key).__name__}) cannot be a key: keys are str, bytes, int, float, "
            "or tuples of these. Several keys are asked for with a list."
        )


class NotSerializableError(UserError, TypeError):
    """Something cannot be pickled on its way to, or from, another process."""


class TaskNotSerializableError(NotSerializableError):
    """A task cannot be sent to a process. ``part`` names what of it: the function or one argument."""

    def __init__(self, key: object, part: str, reason: str) -> None:
        self.key = key
        self.part = part
        self.reason = reason
        super().__init__(key, part, reason)

    def __str__(self) -> str:
        return (
            f"the task {self.key!r} cannot be sent to a worker process: {self.part} cannot be pickled ({self.reason}). "
            "Create that object inside the task, pass something picklable instead, or use the threads scheduler."
        )


class ResultNotSerializableError(NotSerializableError):
    """A task ran in a worker process, but what it returned (or raised) cannot be sent back."""

    def __init__(self, key: object, type_name: str, reason: str) -> None:
        self.key = key
        self.type_name = type_name
        self.reason = reason
        super().__init__(key, type_name, reason)

    def __str__(self) -> str:
        return (
            f"the task {self.key!r} ran, but its {self.type_name} cannot leave the worker process: it cannot be "
            f"pickled ({self.reason}). Return something picklable, or use the threads scheduler."
        )


class WorkerDiedError(PeerError):
    """A worker process ended while it had tasks to run, or results that others needed.

    ``keys`` are the tasks that it was running; ``exitcode`` is its exit status, negative for a signal.
    """

    def __init__(self, keys: Sequence[object], pid: int, exitcode: int | None) -> None:
        self.keys = list(keys)
        self.pid = pid
        self.exitcode = exitcode
        super().__init__(self.keys, pid, exitcode)

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the process, if one did."""
        if self.exitcode is not None and self.exitcode < 0:
            return -self.exitcode
        return None

    def __str__(self) -> str:
        if self.keys:
            doing = "while it ran " + ", ".join(repr(key) for key in self.keys)
        else:
            doing = "while it had tasks to start, or results that other tasks needed"
        hint = ""
        if self.signal == _signal.SIGKILL:
            hint = " SIGKILL often means that the system ran out of memory."
        return (
            f"a worker process (pid {self.pid}) {_how_it_ended(self.exitcode)} {doing}.{hint} The pool has replaced it."
        )


class KilledWorkerError(PeerError):
    """A task was given up, because every worker that ran it died while it ran.

    ``key`` is the task, ``deaths`` how many workers died, ``exitcode`` the exit status of the last one (negative for a
    signal, None if nobody saw it end), ``host`` and ``pid`` where that was, ``log`` the last lines that it wrote.
    ``away`` is true if the task occupied no thread then: it was asynchronous, or waited for something.
    """

    def __init__(
        self,
        key: object,
        deaths: int,
        exitcode: int | None,
        host: str,
        pid: int,
        log: str = "",
        away: bool = False,
    ) -> None:
        self.key = key
        self.deaths = deaths
        self.exitcode = exitcode
        self.host = host
        self.pid = pid
        self.log = log
        self.away = away
        super().__init__(key, deaths, exitcode, host, pid, log, away)

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the last process, if one did."""
        if self.exitcode is not None and self.exitcode < 0:
            return -self.exitcode
        return None

    def __str__(self) -> str:
        hint = " SIGKILL often means that the system ran out of memory." if self.signal == _signal.SIGKILL else ""
        log = f"\nThe last lines of its log:\n{self.log}" if self.log else ""
        when = "they ran it"
        if self.away:
            when = "it waited there, or was asynchronous; a task that it has submitted may have killed them"
        return (
            f"the task {self.key!r} was given up: {self.deaths} workers died while {when}. The last one "
            f"(pid {self.pid} on {self.host}) {_how_it_ended(self.exitcode)}.{hint}{log}"
        )


class DataLostError(PeerError):
    """A value that cannot be computed again is gone: it was scattered to workers that died, or it was released.

    ``worker`` names the last worker that held it; it is empty if the value was released.
    """

    def __init__(self, key: object, worker: str) -> None:
        self.key = key
        self.worker = worker
        super().__init__(key, worker)

    def __str__(self) -> str:
        if not self.worker:
            return (
                f"{self.key!r} was released before something that needs it was done (perhaps once more, because a "
                "worker died). Keep a future of it for as long as anything depends on it."
            )
        return (
            f"the scattered value {self.key!r} is lost: {self.worker}, the last worker that held it, is gone. "
            "Send it again: scatter it, or compute anew what had it in its graph."
        )


class ActorLostError(DataLostError):
    """An actor is gone, and its state with it: its worker died, or nobody needed it any more.

    ``key`` names the actor, ``worker`` the worker that it was on, ``kind`` its class, ``reason`` what has happened.
    """

    def __init__(self, key: object, worker: str, kind: str = "", reason: str = "") -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(key, worker)
        self.args = (key, worker, kind, reason)

    def __str__(self) -> str:
        kind = f" (a {self.kind})" if self.kind else ""
        reason = self.reason or f"its worker {self.worker} is gone"
        return f"the actor {self.key!r}{kind} is lost, and its state with it: {reason}. Create it again."


class StreamLostError(PeerError):
    """The rest of a stream is gone, because its worker is, or cannot be reached.

    ``key`` names the stream, ``worker`` the worker that it was on, and ``reason`` says what happened.
    """

    def __init__(self, key: object, worker: str, reason: str) -> None:
        self.key = key
        self.worker = worker
        self.reason = reason
        super().__init__(key, worker, reason)

    def __str__(self) -> str:
        return (
            f"the rest of the stream {self.key!r} on the worker {self.worker} is lost: {self.reason}. It is not begun "
            "again by itself, because some of its items may have been used; call client.stream once more."
        )


class ProtocolError(PeerError):
    """A peer sent what the protocol does not allow. It costs that peer its connection."""


class ConnectError(PeerError, ConnectionError):
    """No connection could be made to ``address``."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(address, reason)

    def __str__(self) -> str:
        return f"cannot connect to {self.address}: {self.reason}"


class BrokenClusterError(ConnectError, _BrokenExecutor):
    """An executor has lost the connection to its cluster: its calls are lost, and it takes no more."""


class RefusedError(PeerError, ConnectionError):
    """The other side was reached and does not want this connection: its ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class AddressInUseError(UserError, OSError):
    """Somebody else listens on the address already."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(address)

    def __str__(self) -> str:
        return f"the address {self.address} is in use by another program; choose another --port, or 0 for any free one"


class ClosedError(UserError, RuntimeError):
    """A client, a cluster or a future of one is used after it was closed."""


class NotInTaskError(UserError, ValueError):
    """Something that exists only inside of a task was asked for outside of one."""


class PluginError(UserError):
    """A plugin, or an uploaded file, could not be set up. It is registered nowhere now.

    ``name`` is that of the plugin; ``failures`` has the traceback, as text, by the name of each worker that failed
    (``"scheduler"`` for a plugin of the scheduler), and ``asked`` is the number of workers that were asked. What the
    first of them raised is the ``__cause__``.
    """

    def __init__(self, name: str, failures: dict[str, str], asked: int) -> None:
        self.name = name
        self.failures = failures
        self.asked = asked
        super().__init__(name, failures, asked)

    def __str__(self) -> str:
        where, text = next(iter(self.failures.items()), ("", ""))
        if where in ("scheduler", "all workers"):
            failed = "the scheduler" if where == "scheduler" else where
        else:
            others = len(self.failures) - 1
            more = f" and {others} more" if others else ""
            failed = f"{len(self.failures)} of {self.asked} workers ({where}{more})"
        return (
            f"the plugin {self.name!r} could not be set up on {failed}, and is registered nowhere now. "
            f"On {where}:\n{text.rstrip()}"
        )


class PreloadError(UserError):
    """A module that was to be imported when a scheduler or a worker starts does not work; ``text`` tells how."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        super().__init__(name, text)

    def __str__(self) -> str:
        text = self.text.rstrip()
        return f"{text}\nthe preload {self.name!r} failed: {text.rpartition(chr(10))[2]}"


class NotHeldError(UserError, RuntimeError):
    """Something is released that is not held."""


class LeaseLostError(PeerError):
    """What this process held was taken from it, because the scheduler had not heard of it for too long.

    ``what`` names it; somebody else may hold it since.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)

    def __str__(self) -> str:
        return (
            f"{self.what} was taken from this process, because the scheduler had not heard of it for longer than a "
            "lease lasts: it was stopped, starved or cut off. Somebody else may hold it since; compare tokens where "
            "that matters."
        )


class DuplicateKeyError(UserError, ValueError):
    """A key that was chosen for one task is used for another one while somebody has a future of the first."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)

    def __str__(self) -> str:
        return (
            f"the key {self.key!r} names another task already: another function, or other arguments. Choose another "
            "key, or release the futures of that task first."
        )


class VersionMismatchError(UserError, ValueError):
    """The parts of a cluster run on different versions: ``differences`` has a sentence for each package."""

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = list(differences)
        super().__init__(self.differences)

    def __str__(self) -> str:
        return (
            "what one part of the cluster pickles, another one may not be able to read, because versions differ:\n  "
            + "\n  ".join(self.differences)
        )


class MissingPackageError(UserError, ImportError):
    """An optional package is needed for this call and is not installed."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        self.package = package
        self.purpose = purpose
        self.install = install
        super().__init__(package, purpose, install)

    def __str__(self) -> str:
        return f"{self.purpose} needs {self.package}, which is not installed. Try: {self.install}"


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "was lost"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        return f"was ended by {_signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was ended by signal {-exitcode}"


def _did_you_mean(similar: Sequence[object]) -> str:
    if not similar:
        return ""
    return " Did you mean " + " or ".join(repr(key) for key in similar) + "?"
