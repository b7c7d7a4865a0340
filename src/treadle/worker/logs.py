"""What tasks print and log, on its way to the scheduler.

While a worker runs, ``sys.stdout`` and ``sys.stderr`` pass on what is written to them as ever, and keep a copy of it
with the task that has written it. Whoever writes only appends to a list and wakes the event loop: text may be written
anywhere, by a ``__del__`` in the middle of our own code for example, so nothing is sent from there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from threading import RLock
from time import monotonic, time
from typing import Any, Final, TypeAlias

from treadle.client.inside import current

__all__ = ["Logs", "Tee", "install"]

#: Characters that are kept of one task until they are sent: the last ones. A piece counts as so many more.
LIMIT: Final = 64 << 10
PIECE: Final = 100

#: What is written to one stream is joined into pieces of about so many characters: ``print`` writes words.
JOINED: Final = 4096

#: Seconds between two messages while tasks go on writing. The first one goes at once.
PAUSE: Final = 0.05

#: Attempt, key, seconds since the epoch, source, text.
Row: TypeAlias = "tuple[int, str, float, str, str]"


class Pending:
    """What one task has written and was not sent yet."""

    __slots__ = ("attempt", "cut", "dropped", "key", "pieces", "size")

    def __init__(self, attempt: int, key: str) -> None:
        self.attempt: Final = attempt
        self.key: Final = key
        #: Time, source and text of each piece.
        self.pieces: list[tuple[float, str, str]] = []
        self.size = 0
        #: Whether anything was dropped, and how many ends of lines were in it.
        self.cut = False
        self.dropped = 0

    def add(self, moment: float, source: str, text: str) -> None:
        if len(text) > LIMIT:
            self.cut = True
            self.dropped += text.count("\n", 0, len(text) - LIMIT)
            text = text[-LIMIT:]
        pieces = self.pieces
        self.size += len(text)
        if pieces and pieces[-1][1] == source and len(pieces[-1][2]) < JOINED:
            pieces[-1] = (*pieces[-1][:2], pieces[-1][2] + text)
        else:
            pieces.append((moment, source, text))
            self.size += PIECE
        if self.size > 2 * LIMIT:
            self._trim()

    def _trim(self) -> None:
        """Drop the oldest pieces, so that what is kept fits."""
        place = 0
        while self.size > LIMIT and place < len(self.pieces) - 1:
            text = self.pieces[place][2]
            self.size -= len(text) + PIECE
            self.cut = True
            self.dropped += text.count("\n")
            place += 1
        del self.pieces[:place]

    def rows(self) -> Iterable[Row]:
        """What is to be sent."""
        if self.size > LIMIT:
            self._trim()
        attempt, key = self.attempt, self.key
        if self.cut:
            yield attempt, key, self.pieces[0][0], "dropped", str(self.dropped)
        for moment, source, text in self.pieces:
            yield attempt, key, moment, source, _valid(text)


class Logs:
    """Collects what is written, by task, and sends it."""

    def __init__(self, send: Callable[[list[Any]], None]) -> None:
        """
        :param send: sends messages to the scheduler.
        """
        self._send: Final = send
        #: Has the event loop call something in so many seconds, at the word of any thread.
        self._later: Callable[[float, Callable[[], None]], None] | None = None
        #: Reentrant: what collects garbage while this is held may write, too.
        self._lock: Final = RLock()
        self._tasks: dict[tuple[int, str], Pending] = {}
        self._woken = False
        self._sent = 0.0
        #: True if there is something to send. Threads look at it between two tasks.
        self.pending = False

    def __repr__(self) -> str:
        return f"<Logs of {len(self._tasks)} tasks to be sent>"

    def write(self, source: str, text: str) -> None:
        """Take what the running task, or nobody, has written. Called by any thread, anywhere."""
        task = current()
        owner = (0, "") if task is None else (task.attempt, task.key)
        with self._lock:
            pending = self._tasks.get(owner)
            if pending is None:
                pending = self._tasks[owner] = Pending(*owner)
            pending.add(time(), source, text)
            self.pending = True
            later = None if self._woken else self._later
            self._woken = self._later is not None
        if later is not None:
            later(max(self._sent + PAUSE - monotonic(), 0.0), self.flush)

    def begin(self, later: Callable[[float, Callable[[], None]], None]) -> None:
        """Send from now on.

        :param later: has the event loop call something in so many seconds. Called by any thread.
        """
        self._later = later
        self.flush()

    def flush(self) -> None:
        """Send what there is. Called by the event loop, and by each thread at the end of a task that has written."""
        with self._lock:
            tasks, self._tasks = self._tasks, {}
            self._woken = self.pending = False
            self._sent = monotonic()
        rows = [row for pending in tasks.values() for row in pending.rows()]
        if rows:
            self._send([("logs", rows)])


class Tee:
    """Stands for a stream of text: passes on everything, and keeps a copy of what is written."""

    def __init__(self, stream: Any, source: str, logs: Logs) -> None:
        self._stream: Final = stream
        self._source: Final = source
        self._logs: Final = logs

    def __repr__(self) -> str:
        return f"<Tee of {self._stream!r}>"

    def write(self, text: Any) -> int:
        if isinstance(text, str) and text:
            self._logs.write(self._source, text)
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Any:
        return iter(self._stream)

    def __enter__(self) -> Tee:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.__exit__(*exc_info)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Records(logging.Handler):
    """Keeps the records of ``logging`` with the task that has made them."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs: Final = logs
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._logs.write(record.levelname, self.format(record) + "\n")
        except Exception:
            self.handleError(record)  # the arguments do not fit the message, for example


def install(logs: Logs) -> None:
    """Have all that this process writes from now on kept by ``logs``."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(root.level)
    # What a task logs is kept from the usual level on, however silent the process itself is to be.
    root.setLevel(min(root.level, logging.WARNING))
    records = Records(logs)
    root.addHandler(records)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Tee(sys.stdout, "stdout", logs), Tee(sys.stderr, "stderr", logs)

    def leave() -> None:
        """In a forked child, which has no event loop and may have found the lock closed."""
        root.removeHandler(records)
        sys.stdout, sys.stderr = streams

    os.register_at_fork(after_in_child=leave)


def _valid(text: str) -> str:
    """Names of files may be no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
