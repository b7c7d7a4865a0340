"""How a progress bar looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from treadle.diagnostics.units import clock, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.progress_bar import ProgressBar

    from treadle.diagnostics.screen import Meter

__all__ = ["make_progress"]

#: How many characters the columns besides description and bar need, and how wide a bar may be.
_OTHERS = 52
_NARROWEST = 8
_WIDEST = 40


def make_progress(console: Console, longest: int) -> Progress:
    """Bars on ``console``, whose longest description has ``longest`` characters. Each task has a field ``meter``."""
    width = max(_NARROWEST, min(_WIDEST, console.width - _OTHERS - longest))
    return Progress(
        TextColumn("{task.description}", markup=False),
        _Bar(bar_width=width, complete_style="cyan", finished_style="green"),
        _Field(_percent, "bold"),
        _Field(_count, "default"),
        _Field(_speed, "dim"),
        _Field(_elapsed, "default"),
        _Field(_remaining, "cyan", failed="bold red"),
        console=console,
        auto_refresh=False,
        # What tasks print goes above the bar if it goes to a terminal; elsewhere it is none of the bar's business.
        redirect_stdout=_is_terminal(sys.stdout),
        redirect_stderr=_is_terminal(sys.stderr),
    )


class _Bar(BarColumn):
    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        if _meter(task).error is not None:
            bar.complete_style = bar.finished_style = "red"
        return bar


class _Field(ProgressColumn):
    def __init__(self, text: Callable[[Task], str], style: str, failed: str | None = None) -> None:
        super().__init__()
        self._text = text
        self._style = style
        self._failed = failed or style

    def render(self, task: Task) -> Text:
        style = self._style if _meter(task).error is None else self._failed
        return Text(self._text(task), style=style, justify="right")


def _meter(task: Task) -> Meter:
    meter: Meter = task.fields["meter"]
    return meter


def _percent(task: Task) -> str:
    # Rounded down: only what is done is 100%.
    return f"{100 * int(task.completed) // max(1, int(task.total or 0)):3}%"


def _count(task: Task) -> str:
    return f"{int(task.completed):,}/{int(task.total or 0):,}"


def _speed(task: Task) -> str:
    if _meter(task).stopped is None:
        return _rate(task.speed or 0.0)
    return _rate(task.completed / max(1e-9, _meter(task).elapsed()))


def _elapsed(task: Task) -> str:
    meter = _meter(task)
    return clock(meter.elapsed()) if meter.stopped is None else duration(meter.elapsed())


def _remaining(task: Task) -> str:
    meter = _meter(task)
    if meter.stopped is not None:
        return meter.outcome()
    return f"{clock(task.time_remaining)} left" if task.time_remaining else ""


def _rate(tasks_per_second: float) -> str:
    if not tasks_per_second:
        return ""
    if tasks_per_second >= 9.95:
        return f"{tasks_per_second:,.0f}/s"
    if tasks_per_second >= 0.1:
        return f"{tasks_per_second:.1f}/s"
    return f"{tasks_per_second * 60:.1f}/min"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is no stream, or it is closed
        return False
