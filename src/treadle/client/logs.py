"""What tasks and workers have written, as a client sees it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from treadle.client.face import Face
from treadle.client.inside import here
from treadle.client.latch import deadline_of, run_async, run_blocking
from treadle.client.output import Output

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["LogLine", "Logging", "Logs", "logs_of"]

#: The topic of the events that carry what tasks print.
OUTPUT: Final = "treadle.output"


class LogLine(NamedTuple):
    """One line of text, or one log record."""

    #: Seconds since the epoch.
    time: float
    #: The name of the worker.
    worker: str
    #: ``"stdout"``, ``"stderr"``, or the level of a log record: ``"WARNING"``.
    source: str
    #: Without its end. Log records begin with the name of the logger; they may have several lines.
    text: str


class Logs(list[LogLine]):
    """The lines that a task, or a worker, has written, oldest first. ``str()`` gives their text alone."""

    def __init__(self, lines: Iterable[LogLine] = (), dropped: int = 0) -> None:
        super().__init__(lines)
        #: How many lines were not kept: the oldest, and what came faster than it could be sent.
        self.dropped: Final = dropped

    def __str__(self) -> str:
        return "".join(f"{line.text}\n" for line in self)

    def __repr__(self) -> str:
        if not self and not self.dropped:
            return "<Logs: nothing>"
        shown = [] if not self.dropped else [f"… {self.dropped:,} lines were not kept …"]
        width = max((len(line.source) for line in self), default=0)
        shown += [f"{_clock(line.time)} {line.worker} {line.source:<{width}} {line.text}" for line in self]
        return "\n".join(shown)


class Logging(Face):
    """What tasks and workers write."""

    def forward_output(self, enabled: bool = True, timeout: float | None = None) -> Any:
        """Have what tasks of this client print or log appear here too: in ``sys.stdout`` and ``sys.stderr``.

        Each line begins with the key of its task and the name of the worker. If it is more than this client can take,
        some of it is left out, and how much is told. :meth:`Future.logs` has it all the same.

        :param enabled: False: no more of it.
        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: the scheduler did not answer in time.
        """
        return self._face(self._forward_output, bool(enabled), deadline_of(timeout))

    async def _forward_output(self, enabled: bool, deadline: float | None) -> None:
        session = self.session
        if enabled:
            session.listen(OUTPUT, Output())
        await session.ask("forward_output", enabled, deadline)
        if not enabled:
            session.listen(OUTPUT, None)

    def get_worker_logs(self, workers: Iterable[str] | None = None, timeout: float | None = None) -> Any:
        """What workers have written outside of tasks: ``{name: Logs}``.

        :param workers: names. Default: all that have written something, also those that are gone.
        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: the scheduler did not answer in time.
        """
        if isinstance(workers, str):
            raise TypeError(f"workers must be a list of names, not {workers!r}; write [{workers!r}]")
        names = None if workers is None else list(workers)
        return self._face(self._get_worker_logs, names, deadline_of(timeout))

    async def _get_worker_logs(self, names: list[str] | None, deadline: float | None) -> dict[str, Logs]:
        found = await self.session.ask("worker_logs", names, deadline)
        return {name: _logs(*written) for name, written in found.items()}


def logs_of(session: Session, key: str, timeout: float | None) -> Any:
    """What a task has written, by either face: to be awaited if this is the thread of the session's event loop."""
    deadline = deadline_of(timeout)
    if session.in_loop() or here.is_loop:
        return run_async(_ask(session, key, deadline))
    return run_blocking(_ask, session, key, deadline)


async def _ask(session: Session, key: str, deadline: float | None) -> Logs:
    return _logs(*await session.ask("logs", key, deadline))


def _logs(dropped: int, rows: Sequence[Any]) -> Logs:
    """Pieces as lines: one piece may hold many, and a line may come in several pieces."""
    lines: list[LogLine] = []
    unfinished: dict[tuple[str, str], int] = {}
    for when, worker, run, source, text in rows:
        if source == "dropped":
            unfinished.clear()
            continue
        if source not in ("stdout", "stderr"):
            lines.append(LogLine(when, worker, source, text.removesuffix("\n")))
            continue
        owner = run, source
        place = unfinished.pop(owner, None)
        parts = text.split("\n")
        for part in parts[:-1]:
            _extend(lines, place, LogLine(when, worker, source, part))
            place = None
        if parts[-1]:
            unfinished[owner] = _extend(lines, place, LogLine(when, worker, source, parts[-1]))
    return Logs(lines, dropped)


def _extend(lines: list[LogLine], place: int | None, line: LogLine) -> int:
    """Append a line, or append its text to the unfinished one at a place. Returns its place."""
    if place is None:
        lines.append(line)
        return len(lines) - 1
    lines[place] = lines[place]._replace(text=lines[place].text + line.text)
    return place


def _clock(seconds: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}"
