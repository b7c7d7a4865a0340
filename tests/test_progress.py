"""Progress bars: what ends up on the console, and that the run does not notice."""

from __future__ import annotations

import io
import subprocess
import sys
from threading import Event
from typing import Any

import pytest
from rich.console import Console

import treadle
from treadle.callbacks import RunInfo, TaskRecord
from treadle.diagnostics import screen
from treadle.diagnostics.progress import ProgressBar
from treadle.diagnostics.units import clock, duration

RECORD = TaskRecord("key", "name", "sync", 0.0, 1.0, 1)


def increment(value: int) -> int:
    return value + 1


def fail(value: int) -> int:
    raise ValueError(f"no use for {value}")


def squares(count: int) -> dict[Any, Any]:
    return {("x", index): (increment, index) for index in range(count)}


def log_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=100), stream


def terminal() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=100, color_system="standard", legacy_windows=False), stream


def last_lines(stream: io.StringIO) -> list[str]:
    """What a terminal would show: the last of the states that were drawn over one another."""
    shown = stream.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    return [line.rsplit("\x1b[2K", 1)[-1] for line in shown.splitlines()]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_log_gets_one_plain_line_for_each_run(scheduler: str) -> None:
    console, stream = log_console()
    graph = squares(20)
    with ProgressBar(console=console):
        treadle.get(graph, list(graph), scheduler)
        treadle.get(graph, [("x", 0), ("x", 1)], scheduler)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("computing: 20 of 20 tasks in ")
    assert second.startswith("computing: 2 of 2 tasks in ")
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    console, stream = terminal()
    graph = squares(1200)
    with ProgressBar(console=console, description="adding [up]"):
        treadle.get(graph, list(graph))
    text = stream.getvalue()
    assert "adding [up]" in text
    assert "━" in text
    assert "1,200/1,200" in text
    assert "100%" in text
    assert "/s" in text
    assert "failed" not in text


def test_a_failed_run_leaves_its_bar_and_its_error_alone() -> None:
    console, stream = terminal()
    graph = {"a": (increment, 1), "b": (fail, "a"), "c": (increment, "b"), "d": (increment, "c")}
    with ProgressBar(console=console), pytest.raises(ValueError, match="no use for 2"):
        treadle.get(graph, "d", "sync")
    text = stream.getvalue()
    assert "1/4" in text
    assert " 25%" in text
    assert "failed" in text
    assert "\x1b[31m━" in text


def test_a_failed_run_in_a_log() -> None:
    console, stream = log_console()
    with ProgressBar(console=console), pytest.raises(ValueError, match="no use for 1"):
        treadle.get({"a": (fail, 1)}, "a")
    assert stream.getvalue().startswith("computing: 0 of 1 tasks in ")
    assert stream.getvalue().endswith(", failed: ValueError\n")


def test_an_interrupt_is_no_failure() -> None:
    meter = screen.Meter("computing", 0.0, 3)
    meter.error = KeyboardInterrupt()
    assert meter.line().endswith(", interrupted: KeyboardInterrupt")


def test_the_bar_moves_while_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "INTERVAL", 0.001)
    drawn = Event()

    class Stream(io.StringIO):
        def write(self, text: str, /) -> int:
            if "1/2" in text:
                drawn.set()
            return super().write(text)

    def wait(value: int) -> bool:
        return drawn.wait(60)

    console = Console(file=Stream(), force_terminal=True, width=100)
    with ProgressBar(console=console):
        assert treadle.get({"a": (increment, 1), "b": (wait, "a")}, "b") is True


def test_short_runs_can_be_passed_over() -> None:
    console, stream = log_console()
    with ProgressBar(minimum=3600, console=console):
        treadle.get({"a": (increment, 1)}, "a")
    assert stream.getvalue() == ""


def test_a_run_without_tasks_shows_nothing() -> None:
    console, stream = log_console()
    with ProgressBar(console=console):
        assert treadle.get({"a": 1}, "a") == 1
    assert stream.getvalue() == ""


def test_nested_bars_stand_below_one_another() -> None:
    console, stream = terminal()
    with ProgressBar(console=console, description="outer"), ProgressBar(console=console, description="inner"):
        treadle.get(squares(7), [("x", index) for index in range(7)])
    *_, above, below = last_lines(stream)
    assert "outer" in above
    assert "7/7" in above
    assert "inner" in below
    assert "7/7" in below


def test_runs_at_the_same_time_share_a_bar() -> None:
    console, stream = log_console()
    bar = ProgressBar(console=console)
    bar.start(RunInfo(2, ["name", "name"], "threads", 2))
    bar.after(RECORD, None)
    bar.start(RunInfo(1, ["name"], "threads", 2))
    bar.after(RECORD, None)
    bar.finish(None)
    assert stream.getvalue() == ""
    bar.after(RECORD, None)
    bar.finish(None)
    assert stream.getvalue().startswith("computing: 3 of 3 tasks in ")


def test_a_closed_console_does_not_fail_the_run() -> None:
    console, stream = log_console()
    stream.close()
    with ProgressBar(console=console):
        assert treadle.get({"a": (increment, 1)}, "a") == 2


def test_minimum_is_checked() -> None:
    with pytest.raises(ValueError, match="minimum must be a number of seconds"):
        ProgressBar(minimum=-1)


def test_the_default_is_standard_error() -> None:
    script = (
        "import sys, treadle\n"
        "with treadle.ProgressBar(): treadle.get({'a': (abs, -1)}, 'a')\n"
        "with treadle.ProgressBar(minimum=60): treadle.get({'a': (abs, -1)}, 'a')\n"
        "assert 'rich.progress' not in sys.modules\n"
        "print('result')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert done.stderr.startswith("computing: 1 of 1 tasks in ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (64e-9, "64.0 ns"),
        (1.234e-6, "1.23 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (99.96, "1:40"),
        (3723.0, "1:02:03"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.4, 59.6, 3599.6)] == ["0 s", "59 s", "1:00", "1:00:00"]


def test_a_screen_closes_though_an_interrupt_kept_it_from_drawing() -> None:
    screen.Screen(None).close()
