"""What ``treadle demo`` does, from the list of files to the last line on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import click

from treadle import Profiler, ProgressBar
from treadle.demo.report import differences
from treadle.demo.run import Timed, one_by_one
from treadle.demo.runners import Runner
from treadle.demo.show import make_console, show_check, show_opening, show_report, show_times, show_waiting
from treadle.demo.source import Source

__all__ = ["demo"]


def demo(sources: Sequence[Source], where: str, top: int, runner: Runner, timeline: str | None, check: bool) -> bool:
    """Survey ``sources``, print the report, and check it against a plain loop.

    :param where: what the sources are, for the first line.
    :param top: how many lines each table has.
    :param timeline: the file to write the timeline page to, if one is wanted.
    :param check: whether to run the plain loop too.
    :returns: False if the loop came to another report.
    :raises click.FileError: the timeline cannot be written.
    """
    console = make_console()
    show_opening(sources, where, runner.name, console)
    on_the_way = make_console(stderr=True)
    with ExitStack() as callbacks:
        callbacks.enter_context(ProgressBar(console=on_the_way))
        profiler = callbacks.enter_context(Profiler())
        parallel = runner.run(sources, top, on_the_way)
    show_report(parallel.report, console)
    plain: Timed | None = None
    if check:
        show_waiting(console)
        plain = one_by_one(sources, top)
    show_times(runner.name, parallel, plain, console)
    same = True
    if plain is not None:
        found = differences(parallel.report, plain.report)
        show_check(found, console)
        same = not found
    if timeline is not None:
        try:
            profiler.timeline(timeline)
        except OSError as error:
            raise click.FileError(timeline, error.strerror or str(error)) from None
        console.print(f"Timeline of the run: {timeline}", soft_wrap=True)
    return same
