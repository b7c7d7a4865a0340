"""The scheduler of a local cluster: a process of its own, seen from its parent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from treadle.net.secret import TOKEN_VARIABLE

__all__ = ["Event", "SchedulerProcess"]

#: What the process tells: ``{"event": "joined", ...}``. The last one is always ``{"event": "ended"}``.
Event: TypeAlias = "dict[str, Any]"

#: The module search path comes first: the child is to find the same Treadle as its parent, wherever it starts.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from treadle.scheduler.process import main; main()"
)


class SchedulerProcess:
    """Starts a scheduler and listens to what it tells.

    The two are connected by a socket. When the parent closes its end, or is gone in whatever way, the scheduler ends.
    """

    def __init__(
        self, listener: socket.socket, settings: dict[str, Any], token: bytes, told: Callable[[Event], None]
    ) -> None:
        """
        :param listener: where it is to listen: a socket that does so already, so that workers may connect before
            the scheduler is there.
        :param settings: those of :class:`treadle.scheduler.settings.Settings` that are not the defaults.
        :param told: called with each event, by a thread of its own.
        """
        ours, theirs = socket.socketpair()
        descriptors = {"listener": listener.fileno(), "lifeline": theirs.fileno()}
        argument = json.dumps({**settings, **descriptors})
        path = "\n".join(sys.path)
        try:
            # A session of its own keeps the terminal's Ctrl-C away: the parent decides what an interrupt means.
            self._process: Final = subprocess.Popen(
                [sys.executable, "-c", _BOOT, path, argument],
                stdin=subprocess.DEVNULL,
                pass_fds=tuple(descriptors.values()),
                start_new_session=True,
                env={**os.environ, TOKEN_VARIABLE: token.decode()},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._lifeline: Final = ours
        self._thread: Final = threading.Thread(target=_listen, args=(ours, told), name="treadle-cluster", daemon=True)
        self._thread.start()
        _open.add(self)

    def __repr__(self) -> str:
        return f"<SchedulerProcess, pid {self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, timeout: float) -> None:
        """End the process; by force if it takes longer than so many seconds."""
        _open.discard(self)
        try:
            self._lifeline.sendall(b"the cluster was closed")
            self._lifeline.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the process is gone already
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._lifeline.close()

    def disown(self) -> None:
        """In a forked child: forget the process, which belongs to the parent."""
        os.close(self._lifeline.detach())  # closing it would wait for the thread that reads, and that is the parent's
        self._process.returncode = 0  # keeps subprocess from waiting for somebody else's child


def _listen(lifeline: socket.socket, told: Callable[[Event], None]) -> None:
    try:
        with lifeline.makefile("rb") as lines:
            for line in lines:
                told(json.loads(line))
    except OSError:
        pass  # the process was killed
    told({"event": "ended"})


_open: weakref.WeakSet[SchedulerProcess] = weakref.WeakSet()


def _disown_all() -> None:
    for process in list(_open):
        process.disown()
    _open.clear()


# A forked child would keep the socket open, and with it the scheduler alive, after the end of the parent.
os.register_at_fork(after_in_child=_disown_all)
