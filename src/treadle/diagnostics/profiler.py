"""Records what every task of a run did: a table by function, and a timeline to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from treadle.callbacks import Callback, RunInfo, TaskRecord
from treadle.diagnostics.units import duration
from treadle.errors import UserError

__all__ = ["FunctionSummary", "ProfiledRun", "Profiler", "ProfilerError", "Summary", "summarize"]


class ProfilerError(UserError, RuntimeError):
    """A profile was asked for and nothing has been recorded."""


@dataclass
class ProfiledRun:
    """One run. Times are in seconds, by ``time.perf_counter``."""

    info: RunInfo
    started: float
    #: None while the run goes on.
    stopped: float | None = None
    error: BaseException | None = None


@dataclass(frozen=True)
class FunctionSummary:
    """All calls of the functions of one name. Times are in seconds."""

    name: str
    count: int
    total: float
    max: float

    @property
    def mean(self) -> float:
        return self.total / self.count


class Summary:
    """A :class:`FunctionSummary` for each function name, the most expensive first. Its repr is a table."""

    def __init__(self, rows: Iterable[FunctionSummary]) -> None:
        self.rows = list(rows)

    def __iter__(self) -> Iterator[FunctionSummary]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> FunctionSummary:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __repr__(self) -> str:
        lines = [["function", "tasks", "total", "mean", "max"]]
        for row in self.rows:
            times = [duration(seconds) for seconds in (row.total, row.mean, row.max)]
            lines.append([row.name, f"{row.count:,}", *times])
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
            for line in lines
        )


def summarize(records: Iterable[TaskRecord]) -> Summary:
    """Count and time by function name."""
    counts: dict[str, int] = {}
    totals: dict[str, float] = {}
    longest: dict[str, float] = {}
    for _, name, _, started, stopped, _ in records:
        seconds = stopped - started
        counts[name] = counts.get(name, 0) + 1
        totals[name] = totals.get(name, 0.0) + seconds
        if seconds >= longest.get(name, 0.0):
            longest[name] = seconds
    names = sorted(counts, key=lambda name: (-totals[name], name))
    return Summary(FunctionSummary(name, counts[name], totals[name], longest[name]) for name in names)


class Profiler(Callback):
    """Records every task of the runs in its block.

    >>> with Profiler() as profile:
    ...     total.compute()
    >>> print(profile.summary())
    >>> profile.timeline("timeline.html")

    Used again, it goes on recording; :meth:`clear` starts afresh. Tasks that fail have no record.
    """

    def __init__(self) -> None:
        #: The tasks that ended well, in the order in which they were accounted for.
        self.records: list[TaskRecord] = []
        #: The runs, in the order in which they started.
        self.runs: list[ProfiledRun] = []

    def __repr__(self) -> str:
        tasks, runs = len(self.records), len(self.runs)
        return f"<Profiler: {tasks:,} task{'s' * (tasks != 1)} in {runs:,} run{'s' * (runs != 1)}>"

    @property
    def error(self) -> BaseException | None:
        """What the last run that failed ended with; None if all ended well."""
        for run in reversed(self.runs):
            if run.error is not None:
                return run.error
        return None

    def clear(self) -> None:
        """Forget all records and runs."""
        self.records.clear()
        self.runs.clear()

    def summary(self) -> Summary:
        """Count, total, mean and longest time of the tasks of each function, by its name."""
        return summarize(self.records)

    def timeline(self, path: str | os.PathLike[str] = "treadle-timeline.html") -> Path:
        """Write a page that shows each task in time, by worker, and how many results were held.

        The page is one file that needs nothing else: open it in a browser, or send it to somebody.

        :returns: where it was written.
        :raises ProfilerError: nothing was run yet.
        :raises OSError: the file cannot be written.
        """
        if not self.runs:
            raise ProfilerError(
                "there is nothing to show: no run was recorded. Compute something inside the block of "
                "'with Profiler() as profile:', then call profile.timeline()."
            )
        from treadle.diagnostics.timeline import write

        return write(Path(path), list(self.records), list(self.runs))

    def start(self, info: RunInfo) -> None:
        self.runs.append(ProfiledRun(info, perf_counter()))

    def after(self, record: TaskRecord, result: Any) -> None:
        self.records.append(record)

    def finish(self, error: BaseException | None) -> None:
        for run in self.runs:
            if run.stopped is None:
                run.stopped = perf_counter()
                run.error = error
                return
