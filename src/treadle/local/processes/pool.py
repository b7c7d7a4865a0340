"""Worker processes that are kept between runs."""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

from treadle.environment import for_tasks
from treadle.local.processes.channel import Channel

__all__ = ["Member", "ProcessPool", "shared_pool"]

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from treadle.local.processes.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Member:
    """One worker process, seen from its parent."""

    def __init__(self, number: int) -> None:
        self.name = f"process-{number}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        current_fd = _shared_words()
        #: What it was started with, and would not notice a change of.
        self.surroundings = _surroundings()
        try:
            # A session of its own keeps the terminal's Ctrl-C away; the parent decides what an interrupt means.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), str(current_fd)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), current_fd),
                start_new_session=True,
                env=for_tasks(),
            )
            self._current = mmap.mmap(current_fd, 16)
        finally:
            theirs.close()
            os.close(current_fd)
        #: The number of the run that it works for; its answers carry it.
        self.epoch = 0
        ours.setblocking(False)
        self.channel = Channel(ours)

    def __repr__(self) -> str:
        return f"<Member {self.name}, pid {self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def current(self) -> int:
        """The rank of the task that the process is running, or was running when it died; -1 if none."""
        rank: int = struct.unpack_from("<q", self._current, 0)[0]
        return rank

    @property
    def untouched(self) -> bool:
        """True if the process has served an earlier run, and has not started anything in this one."""
        last: int = struct.unpack_from("<q", self._current, 8)[0]
        return 0 < self.epoch != last

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def bury(self, seconds: float = 5.0) -> int | None:
        """Close the connection, which ends the process; returns its exit status."""
        self.channel.close()
        try:
            status: int | None = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        self._current.close()
        return status

    def disown(self) -> None:
        """In a forked child: forget a process that belongs to the parent."""
        self.channel.close()
        self._process.returncode = 0  # keeps subprocess from waiting for somebody else's child


class ProcessPool:
    """Worker processes, lent to one run at a time each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._lent: set[Member] = set()
        self._started = 0

    def lease(self, count: int) -> list[Member]:
        """``count`` processes; those that are missing are started.

        A process that was started in another directory, or with another import path, is replaced: its tasks would find
        other files and modules than the caller does.
        """
        members: list[Member] = []
        here = _surroundings()
        with self._lock:
            try:
                while self._idle and len(members) < count:
                    member = self._idle.pop(0)
                    if member.alive() and member.surroundings == here:
                        members.append(member)
                    else:
                        member.bury()
                while len(members) < count:
                    self._started += 1
                    members.append(Member(self._started))
            except BaseException:
                self._idle.extend(members)
                raise
            self._lent.update(members)
        return members

    def give_back(self, members: list[Member]) -> None:
        """Return processes that have nothing to do and hold nothing."""
        with self._lock:
            self._lent.difference_update(members)
            self._idle.extend(members)
            self._idle.sort(key=lambda member: member.pid)

    def discard(self, members: list[Member]) -> None:
        """End processes at once, whatever they are doing."""
        for member in members:
            member.kill()
        for member in members:
            member.bury()
        with self._lock:
            self._lent.difference_update(members)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            members, self._idle = self._idle, []
        for member in members:
            member.channel.close()
        for member in members:
            member.bury(1.0)

    def disown(self) -> None:
        for member in [*self._idle, *self._lent]:
            member.disown()
        self._idle.clear()
        self._lent.clear()


def _surroundings() -> tuple[str | None, list[str]]:
    try:
        directory: str | None = os.getcwd()
    except FileNotFoundError:
        directory = None
    return directory, list(sys.path)


def _shared_words() -> int:
    """A descriptor of two numbers that two processes can map: the rank that runs, the last epoch in which one did."""
    from treadle.local.processes.blob import anonymous_file

    fd = anonymous_file()
    os.write(fd, struct.pack("<qq", -1, -1))
    return fd


_shared = ProcessPool()


def shared_pool() -> ProcessPool:
    """The pool that runs use when none is given."""
    return _shared


def _forget_processes() -> None:
    global _shared
    _shared.disown()
    _shared = ProcessPool()


def _close_shared(*_: Any) -> None:
    _shared.close()


atexit.register(_close_shared)
os.register_at_fork(after_in_child=_forget_processes)
