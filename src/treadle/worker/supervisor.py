"""The parent of worker processes: starts them, finds out how they died, and replaces them."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from treadle.errors import PeerError
from treadle.net.dial import blocking_call
from treadle.worker import folders
from treadle.worker.slots import DISMISSED, JOINED, STARTING
from treadle.worker.spawn import Child, Process

__all__ = ["Child", "Supervisor"]

log = logging.getLogger("treadle.worker")

#: How many times in a row a process may end before it has joined the cluster, and seconds between the first two.
ATTEMPTS: Final = 5
PAUSE: Final = 0.1
#: Seconds that the news of a death may take to the scheduler.
REPORT: Final = 2.0


class Supervisor:
    """Keeps ``n`` worker processes running.

    Each has a thread here that waits for its end. A process that dies is replaced; what it was executing is told to
    the scheduler. If a process ends several times in a row before it has joined the cluster, no other one is started.

    :param scheduler: ``host:port``.
    :param token: of the cluster.
    :param nthreads: how many tasks each process runs at the same time.
    :param memory_limit: bytes for each process; 0 for no limit.
    :param resources: what each process has for tasks that ask for it.
    :param name: what names of the processes begin with. Default: the host and the pid of this process.
    :param host: where the processes listen. Default: the address from which the scheduler is reached.
    :param preload: modules, or files, that each process imports before it joins.
    :param on_started: called with each process that was started.
    :param on_died: called with a process, its exit status (negative: a signal) and the attempts that it was executing.
    :param on_gave_up: called with the reason when a process is not replaced because it would not start.
        All three are called by the threads that wait.
    """

    def __init__(
        self,
        scheduler: str,
        n: int,
        *,
        token: bytes,
        nthreads: int = 1,
        memory_limit: int = 0,
        resources: Mapping[str, float] | None = None,
        name: str = "",
        host: str = "",
        log_level: str = "info",
        preload: Sequence[str] = (),
        on_started: Callable[[Child], None] | None = None,
        on_died: Callable[[Child, int, list[int]], None] | None = None,
        on_gave_up: Callable[[str], None] | None = None,
    ) -> None:
        self.scheduler: Final = scheduler
        self.n: Final = n
        #: Why a process was not replaced.
        self.failure = ""
        self._token: Final = token
        self._nthreads: Final = nthreads
        self._settings: Final = {
            "scheduler": scheduler,
            "nthreads": nthreads,
            "memory_limit": memory_limit,
            "resources": dict(resources or {}),
            "host": host,
            "log_level": log_level,
            "preload": list(preload),
        }
        self._name: Final = name or f"{socket.gethostname()}-{os.getpid()}"
        self._on_started: Final = on_started
        self._on_died: Final = on_died
        self._on_gave_up: Final = on_gave_up
        self._lock: Final = threading.Lock()
        self._processes: Final[dict[int, Process]] = {}
        self._stopping: Final = threading.Event()
        self._guards: list[threading.Thread] = []
        #: How many processes have ended and are not replaced, as it should be.
        self._left = 0
        #: A pipe of which each child has one end: it ends when this process does.
        self._lifeline: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor of {len(self._processes)} of {self.n} workers of {self.scheduler}>"

    @property
    def name(self) -> str:
        """What the names of the processes begin with; the name of the process, if there is one only."""
        return self._name

    @property
    def over(self) -> bool:
        """True if every process has ended for good, or was told to."""
        with self._lock:
            if self._processes:
                return all(process.stage == DISMISSED for process in self._processes.values())
            return self._left == self.n or not any(guard.is_alive() for guard in self._guards)

    @property
    def children(self) -> list[Child]:
        """The processes that run."""
        with self._lock:
            return [self._processes[number].child for number in sorted(self._processes)]

    def start(self) -> None:
        """Start the processes, and return without waiting for them to join the cluster.

        :raises OSError: the system does not let this process start others.
        """
        self._lifeline = os.pipe()
        _open.add(self)
        try:
            for number in range(self.n):
                self._processes[number] = self._spawn(number)
        except BaseException:
            self.stop(0.0)
            raise
        for number in range(self.n):
            guard = threading.Thread(
                target=self._guard, args=(number,), name=f"treadle-supervisor-{number}", daemon=True
            )
            self._guards.append(guard)
            guard.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is no process left and none will be started. False if that takes longer than ``timeout``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for guard in self._guards:
            guard.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
            if guard.is_alive():
                return False
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End the processes, by force those that need more than ``timeout`` seconds. May be called again."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.end(max(deadline - time.monotonic(), 0.0))
        for guard in self._guards:
            if guard is not threading.current_thread():
                guard.join()
        with self._lock:
            for process in self._processes.values():  # those that no thread waits for, because start() failed
                process.close()
            self._processes.clear()
            lifeline, self._lifeline = self._lifeline, None
        _open.discard(self)
        if lifeline is not None:
            os.close(lifeline[0])
            os.close(lifeline[1])

    def disown(self) -> None:
        """In a forked child: forget the processes, which belong to the parent."""
        for process in self._processes.values():
            process.disown()
        if self._lifeline is not None:
            os.close(self._lifeline[0])
            os.close(self._lifeline[1])
            self._lifeline = None

    def _spawn(self, number: int) -> Process:
        name = self._name if self.n == 1 else f"{self._name}-{number}"
        assert self._lifeline is not None
        settings = {**self._settings, "ident": f"worker-{secrets.token_hex(8)}", "name": name}
        return Process(settings, self._token, self._lifeline[0])

    def _guard(self, number: int) -> None:
        """Wait for the ends of one process and of those that replace it."""
        failures = 0
        while True:
            process = self._processes[number]
            self._tell(self._on_started, process.child)
            status = process.wait()
            with self._lock:
                ending = self._stopping.is_set() or process.stage == DISMISSED
                del self._processes[number]
                self._left += ending
            stage, executing, text = process.stage, process.executing(), process.tail.text()
            process.close()
            folders.sweep(process.child.ident)
            if ending:
                return
            if stage != STARTING:
                self._report(process.child, status, executing if stage == JOINED else [], text)
            failures = failures + 1 if stage == STARTING else 0
            if failures == ATTEMPTS:
                self._give_up(f"{process.child.name} ended {failures} times before it could join: {_last_line(text)}")
                return
            if failures and self._stopping.wait(PAUSE * 2 ** (failures - 1)):
                return
            if not self._replace(number):
                return

    def _replace(self, number: int) -> bool:
        try:
            with self._lock:  # stop() either finds the new process, or has been called before
                if self._stopping.is_set():
                    return False
                self._processes[number] = self._spawn(number)
        except OSError as error:
            self._give_up(f"a worker process cannot be started: {error}")
            return False
        return True

    def _report(self, child: Child, status: int, executing: list[int], text: str) -> None:
        """Tell the scheduler and the owner how a process died."""
        level = logging.WARNING if status else logging.INFO  # it may have been asked to end
        log.log(level, "the worker %s (pid %d) %s; another one is started", child.name, child.pid, _how(status))
        message = ("died", child.ident, child.pid, status, executing, socket.gethostname(), text)
        try:
            blocking_call(
                self.scheduler,
                role="supervisor",
                ident=f"supervisor-{secrets.token_hex(8)}",
                token=self._token,
                messages=[message],
                timeout=REPORT,
            )
        except PeerError as error:
            log.warning("the scheduler cannot be told of the death of %s: %s", child.name, error)
        self._tell(self._on_died, child, status, executing)

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        log.error("no other worker is started, because %s", reason)
        self._tell(self._on_gave_up, reason)

    def _tell(self, callback: Callable[..., None] | None, *args: Any) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception:
            log.exception("what the owner of the workers does about %s failed", args)


def _how(status: int) -> str:
    if status >= 0:
        return f"has exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2] or "it wrote nothing"


_open: weakref.WeakSet[Supervisor] = weakref.WeakSet()


def _disown_all() -> None:
    for supervisor in list(_open):
        supervisor.disown()
    _open.clear()


# A forked child would keep the lifeline open, and with it the workers alive, after the end of the parent.
os.register_at_fork(after_in_child=_disown_all)
