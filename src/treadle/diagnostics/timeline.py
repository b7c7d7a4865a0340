"""The timeline page: what was recorded, packed as columns into a template that draws it."""

from __future__ import annotations

import errno
import json
import time
from bisect import bisect_right
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from treadle.callbacks import TaskRecord
from treadle.diagnostics.profiler import ProfiledRun, summarize

__all__ = ["TICK", "render", "write"]

#: The unit of all times on the page, in seconds: trivial tasks take less than a microsecond.
TICK = 1e-7

#: Longer names of keys are shortened in their middle.
_LONGEST_KEY = 160

#: Stands in the template where the data goes.
_SLOT = "@DATA@"


def write(path: Path, records: Sequence[TaskRecord], runs: Sequence[ProfiledRun]) -> Path:
    """Write the page to ``path``.

    :raises OSError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the timeline cannot be written, there is no directory", str(path.parent))
    path.write_text(render(records, runs), encoding="utf-8")
    return path


def render(records: Sequence[TaskRecord], runs: Sequence[ProfiledRun]) -> str:
    """The page. ``runs`` must not be empty."""
    template = resources.files("treadle.diagnostics").joinpath("timeline.html").read_text(encoding="utf-8")
    head, tail = template.split(_SLOT)
    # Without "<" nothing in the data can end the script element that holds it, or open another one.
    data = json.dumps(columns(records, runs), separators=(",", ":")).replace("<", "\\u003c")
    return head + data + tail


def columns(records: Sequence[TaskRecord], runs: Sequence[ProfiledRun]) -> dict[str, Any]:
    """What the page needs to know, as small as it can be said.

    Tasks come by the time of their start; item ``i`` of each column is of task ``i``. ``start`` and ``live`` hold the
    differences to the task before. A key is ``shared[i]`` characters of the key before that has the same function, then
    ``key[i]``. Times are in units of :data:`TICK`.
    """
    axis = _Axis(runs, records)
    summary = summarize(records)
    ranks = {row.name: rank for rank, row in enumerate(summary)}
    workers = sorted({record.worker for record in records}, key=_natural)
    rows = {worker: row for row, worker in enumerate(workers)}
    tasks = sorted(records, key=lambda record: record.started)
    starts: list[int] = []
    lengths: list[int] = []
    for task in tasks:
        start, stop = axis.ticks(task.started, task.stopped)
        starts.append(start)
        lengths.append(stop - start)
    functions = [ranks[task.name] for task in tasks]
    shared, keys = _front_coded([_key_name(task.key) for task in tasks], functions, len(summary))
    return {
        "tick": TICK,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "runs": [_run(run, axis) for run in runs],
        "functions": [[row.name, row.count, round(row.total, 9), round(row.max, 9)] for row in summary],
        "workers": workers,
        "start": _differences(starts),
        "length": lengths,
        "function": functions,
        "worker": [rows[task.worker] for task in tasks],
        "live": _differences([task.live for task in tasks]),
        "shared": shared,
        "key": keys,
    }


class _Axis:
    """Time on the page: only what lies inside runs counts, so that a pause between two runs takes no room."""

    def __init__(self, runs: Sequence[ProfiledRun], records: Sequence[TaskRecord]) -> None:
        #: When each stretch of running began and ended, and where on the page it begins, in seconds.
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.offsets: list[float] = []
        now = max((record.stopped for record in records), default=0.0)
        for run in sorted(runs, key=lambda run: run.started):
            stop = max(run.started, now) if run.stopped is None else run.stopped
            if self.ends and run.started <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], stop)
                continue
            self.offsets.append(self.offsets[-1] + self.ends[-1] - self.begins[-1] if self.ends else 0.0)
            self.begins.append(run.started)
            self.ends.append(stop)

    def ticks(self, start: float, stop: float) -> tuple[int, int]:
        """Two moments of one run. A task that outlived its run ends with it."""
        stretch = max(0, bisect_right(self.begins, start) - 1)
        begin, end, offset = self.begins[stretch], self.ends[stretch], self.offsets[stretch]
        first = offset + min(max(start, begin), end) - begin
        last = offset + min(max(stop, begin), end) - begin
        return round(first / TICK), round(last / TICK)


def _run(run: ProfiledRun, axis: _Axis) -> dict[str, Any]:
    stopped = axis.ends[-1] if run.stopped is None else run.stopped
    start, stop = axis.ticks(run.started, stopped)
    return {
        "start": start,
        "stop": stop,
        "scheduler": run.info.scheduler,
        "workers": run.info.num_workers,
        "total": run.info.total,
        "error": None if run.error is None else f"{type(run.error).__name__}: {str(run.error)[:300]}",
    }


def _key_name(key: object) -> str:
    name = key if isinstance(key, str) else repr(key)
    if len(name) <= _LONGEST_KEY:
        return name
    return f"{name[: _LONGEST_KEY - 43]}...{name[-40:]}"


def _front_coded(names: list[str], functions: list[int], count: int) -> tuple[list[int], list[str]]:
    """Keys of one function mostly begin alike: say how much, and what is different."""
    last = [""] * count
    shared: list[int] = []
    rests: list[str] = []
    for name, function in zip(names, functions):
        before = last[function]
        last[function] = name
        same = _common_prefix(before, name)
        shared.append(same)
        rests.append(name[same:])
    return shared, rests


def _common_prefix(one: str, other: str) -> int:
    if not (one.isascii() and other.isascii()):
        return 0  # the page counts other characters differently
    limit = min(len(one), len(other))
    same, step = 0, limit
    while step:  # slices compare at once what a loop compares one by one
        if same + step <= limit and one[same : same + step] == other[same : same + step]:
            same += step
        else:
            step //= 2
    return same


def _differences(values: list[int]) -> list[int]:
    return [after - before for before, after in zip([0, *values], values)]


def _natural(worker: str) -> list[tuple[int, str]]:
    """Sorts ``thread-2`` before ``thread-10``."""
    return [
        (int(text), "") if digits else (-1, text)
        for digits, text in ((digits, "".join(part)) for digits, part in groupby(worker, str.isdecimal))
    ]
