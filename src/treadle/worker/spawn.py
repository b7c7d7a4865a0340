"""One worker process, seen from its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from treadle.environment import for_tasks
from treadle.net.secret import TOKEN_VARIABLE
from treadle.worker.slots import Slots
from treadle.worker.tail import Tail

__all__ = ["Child", "Process"]

#: The module search path comes first: the child is to find the same modules as its parent, wherever it starts.
_BOOT: Final = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from treadle.worker.process import main; main()"

#: Seconds between two looks at a process, where the system cannot tell when it ends.
_LOOK: Final = 0.1
#: How much is read of what a process has written before it died: its own children may be writing on.
_REST: Final = 1 << 20


class Child(NamedTuple):
    """A worker process that runs."""

    ident: str
    name: str
    pid: int


class Process:
    """Starts a worker process.

    :param settings: those of :class:`treadle.worker.process.Settings` that are not the defaults.
    :param lifeline: a descriptor of a pipe that ends when the parent does.
    :raises OSError: the system does not let this process start another one.
    """

    def __init__(self, settings: Mapping[str, Any], token: bytes, lifeline: int) -> None:
        nthreads = int(settings["nthreads"])
        path = "\n".join(map(str, sys.path))
        slots = Slots.create(nthreads)
        errors, theirs = os.pipe()
        try:
            argument = json.dumps({**settings, "slots": slots, "lifeline": lifeline})
            self._slots: Final = Slots(slots, nthreads)
            # A session of its own keeps the terminal's Ctrl-C away: the parent decides what an interrupt means.
            self._process: Final = subprocess.Popen(
                [sys.executable, "-c", _BOOT, path, argument],
                stdin=subprocess.DEVNULL,
                stderr=theirs,
                pass_fds=(slots, lifeline),
                start_new_session=True,
                env={**for_tasks(), TOKEN_VARIABLE: token.decode()},
            )
        except BaseException:
            os.close(errors)
            raise
        finally:
            os.close(theirs)
            os.close(slots)
        self._errors = errors
        self._ended: Final = threading.Event()
        self.child: Final = Child(settings["ident"], settings["name"], self._process.pid)
        #: What it has written to its standard error.
        self.tail: Final = Tail()

    def __repr__(self) -> str:
        return f"<Process of {self.child.name}, pid {self.child.pid}>"

    @property
    def stage(self) -> int:
        """How far it has come; see :class:`Slots`."""
        return self._slots.stage

    def executing(self) -> list[int]:
        """The attempts that it is executing, or was executing when it died."""
        return self._slots.executing()

    def wait(self) -> int:
        """Pass on what the process writes until it ends; returns its exit status. To be called by one thread."""
        poll = select.poll()
        poll.register(self._errors, select.POLLIN)
        watch = _watch(self.child.pid)
        if watch >= 0:
            poll.register(watch, select.POLLIN)
        try:
            while self._process.poll() is None:
                for fd, _ in poll.poll(None if watch >= 0 else 1000 * _LOOK):
                    if fd == self._errors and not self._read():
                        poll.unregister(fd)
        finally:
            if watch >= 0:
                os.close(watch)
        os.set_blocking(self._errors, False)
        rest = _REST
        while rest > 0 and (count := self._read()):
            rest -= count
        self._ended.set()
        return int(self._process.returncode)

    def _read(self) -> int:
        """Read what is there; 0 if there is nothing, and nothing will come."""
        try:
            data = os.read(self._errors, 65536)
        except BlockingIOError:
            return 0
        if data:
            self.tail.add(data)
        return len(data)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def end(self, timeout: float) -> None:
        """Kill the process, unless it ends within so many seconds. Some thread has to :meth:`wait`."""
        if not self._ended.wait(timeout):
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass  # it has just ended

    def close(self) -> None:
        """Let go of everything; the process is killed if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._errors)
        self._slots.close()

    def disown(self) -> None:
        """In a forked child: forget the process, which belongs to the parent."""
        self._process.returncode = 0  # keeps subprocess from waiting for somebody else's child
        os.close(self._errors)


def _watch(pid: int) -> int:
    """A descriptor that becomes readable when a child process ends; -1 where there is no such thing."""
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except OSError:
            pass  # an old kernel, or no descriptor left
    return -1
