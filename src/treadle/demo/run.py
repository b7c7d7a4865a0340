"""The survey as a graph of tasks, and the same survey as a plain loop.

The graph is a tree::

    files   files   files   files   ...     one analyze_group each: some dozens of milliseconds
       \\      |       |      /
            merge           merge           FAN_IN reports into one
                \\           /
                    merge                   the report of everything

Nothing runs while it is being written down: a function wrapped in :func:`treadle.delayed` returns, when it is called,
a stand-in for its result, and stand-ins may be arguments of further calls, also inside lists. ``compute`` then runs
what the last of them needs, in parallel where the tree allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

from treadle import Delayed, delayed
from treadle.demo.analyze import analyze, analyze_group
from treadle.demo.report import Report, merge
from treadle.demo.source import Source

__all__ = ["Timed", "grouped", "in_parallel", "one_by_one", "survey"]

#: Bytes of source per task. That is some dozens of milliseconds of work: much more than it costs to send the task to
#: a process and the report back, and still hundreds of tasks to spread over the cores.
GROUP_BYTES = 64 * 1024

#: How many reports one task merges. Each level of the tree sends the names of all files once more between the
#: processes, so few levels are better than many.
FAN_IN = 12


class Timed(NamedTuple):
    """A report, and the seconds that it took."""

    report: Report
    seconds: float


def survey(sources: Sequence[Source], limit: int) -> Delayed:
    """The report of ``sources``, yet to be computed."""
    reports = [delayed(analyze_group)(group, limit) for group in grouped(sources)]
    while len(reports) > 1:
        reports = [delayed(merge)(reports[start : start + FAN_IN]) for start in range(0, len(reports), FAN_IN)]
    return reports[0]


def grouped(sources: Sequence[Source]) -> list[list[Source]]:
    """``sources`` in groups of neighbours, which end when they have reached :data:`GROUP_BYTES`."""
    groups: list[list[Source]] = []
    room = 0
    for source in sources:
        if room <= 0:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(source)
        room -= source.size
    return groups


def in_parallel(sources: Sequence[Source], limit: int, scheduler: Any, num_workers: int | None = None) -> Timed:
    """The survey, run by Treadle. The time includes writing the graph, and starting the workers of a pool.

    ``scheduler`` is what ``compute`` takes: a name, or the ``get`` of a client.

    Callbacks, such as :class:`treadle.ProgressBar` and :class:`treadle.Profiler`, work for runs inside their ``with``
    block, so this function need not know of them.
    """
    started = perf_counter()
    report: Report = survey(sources, limit).compute(scheduler=scheduler, num_workers=num_workers)
    return Timed(report, perf_counter() - started)


def one_by_one(sources: Sequence[Source], limit: int) -> Timed:
    """The survey without Treadle: a loop over the files in this thread."""
    started = perf_counter()
    report = merge([analyze(source, limit) for source in sources])
    return Timed(report, perf_counter() - started)
