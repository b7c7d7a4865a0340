"""The report as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from treadle.demo.report import Function, Problem, Report, Size, total
from treadle.demo.run import Timed
from treadle.demo.source import Source

__all__ = [
    "make_console",
    "plural",
    "show_check",
    "show_opening",
    "show_report",
    "show_times",
    "show_victim",
    "show_waiting",
]

#: From this width on the three narrow tables stand side by side.
WIDE = 112

#: How many differences are printed before the rest is only counted.
DIFFERENCES = 20


def make_console(stderr: bool = False) -> Console:
    """A console that prints names as they are, whatever brackets are in them."""
    return Console(markup=False, highlight=False, stderr=stderr)


def show_opening(sources: Sequence[Source], where: str, how: str, console: Console) -> None:
    """Print what is about to be surveyed, and how."""
    megabytes = sum(source.size for source in sources) / 1e6
    files = plural(len(sources), "file")
    console.print(f"Surveying {where}: {files}, {megabytes:,.1f} MB, with {how}", soft_wrap=True)


def show_report(report: Report, console: Console) -> None:
    """Print what the survey found: as many lines of each table as the report keeps of the longest functions."""
    top = report.limit
    packages = _packages(report.packages, top)
    imports = _counts("Most imported modules", ("module", "files"), report.imports, top)
    names = _counts("Most common names", ("name", "uses"), report.names, top)
    console.print()
    if console.width >= WIDE:
        console.print(_side_by_side(packages, imports, names))
    else:
        console.print(packages)
        console.print()
        console.print(_side_by_side(imports, names))
    if report.longest:
        console.print()
        console.print(_longest(report.longest))
    if report.problems:
        console.print()
        console.print(_problems(report.problems, top))


def show_victim(name: str, pid: int, done: int, total: int, console: Console) -> None:
    """Print that a worker was killed on purpose; a progress bar on the same console moves down."""
    done_so_far = f"{_number(done)} of {plural(total, 'task')}"
    console.print(
        f"Halfway, after {done_so_far}: killed worker {name} (process {pid}) with SIGKILL; "
        "another one takes its place.",
        style="yellow",
        soft_wrap=True,
    )


def show_waiting(console: Console) -> None:
    """Print what takes so long. Nothing is animated: that would take time from the loop, which is being measured."""
    console.print()
    console.print("Now the same survey as a plain loop, without Treadle …")


def show_times(how: str, parallel: Timed, plain: Timed | None, console: Console) -> None:
    """Print how long the survey took with Treadle (run as ``how`` says) and, if it was run, as a plain loop."""
    console.print()
    if plain is None:
        console.print(f"Treadle, {how}: {parallel.seconds:.2f} seconds; not checked against a plain loop.")
        return
    table = _table("Time", ("", "seconds", "speed"))
    for name, timed in ((f"Treadle, {how}", parallel), ("plain loop, one thread", plain)):
        table.add_row(name, f"{timed.seconds:.2f}", f"{plain.seconds / timed.seconds:.2f} x")
    console.print(table)


def show_check(differences: Sequence[str], console: Console) -> None:
    """Print whether Treadle and the plain loop came to the same report."""
    console.print()
    if not differences:
        console.print(Text("Checked: Treadle and the plain loop came to exactly the same report.", style="green"))
        return
    console.print(Text(f"Treadle and the plain loop differ in {plural(len(differences), 'place')}:", style="bold red"))
    for line in differences[:DIFFERENCES]:
        console.print(Text(f"  {line}"))
    if len(differences) > DIFFERENCES:
        console.print(Text(f"  … and {_number(len(differences) - DIFFERENCES)} more"))


def _packages(packages: dict[str, Size], top: int) -> Table:
    biggest = sorted(packages.items(), key=lambda item: (-item[1].lines, item[0]))
    table = _table("Biggest packages and modules", ("package", "files", "lines", "functions", "classes"))
    for name, size in biggest[:top]:
        table.add_row(name, *map(_number, size))
    rest = [size for _, size in biggest[top:]]
    if rest:
        table.add_row(plural(len(rest), "other"), *map(_number, total(rest)), style="dim")
    table.add_section()
    table.add_row("total", *map(_number, total(packages.values())), style="bold")
    return table


def _counts(title: str, headers: tuple[str, str], counts: Counter[str], top: int) -> Table:
    table = _table(title, headers)
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]:
        table.add_row(name, _number(count))
    return table


def _longest(functions: Sequence[Function]) -> Table:
    table = _table("Longest functions", ("function", "where", "lines"), words=2)
    for function in functions:
        table.add_row(function.name, f"{function.file}:{function.lineno}", _number(function.lines))
    return table


def _problems(problems: Sequence[Problem], top: int) -> Table:
    title = f"Left out: {plural(len(problems), 'file')} that could not be read, decoded or parsed"
    table = _table(title, ("file", "reason"), words=2)
    for problem in problems[:top]:
        table.add_row(problem.file, problem.reason)
    if len(problems) > top:
        table.add_row(plural(len(problems) - top, "other"), f"(--top {len(problems)} lists them all)", style="dim")
    return table


def _table(title: str, headers: Sequence[str], words: int = 1) -> Table:
    """An empty table: the first ``words`` columns are text, which folds where it is too long; the others numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        min_width=len(title),  # else a short table folds its title
    )
    for position, header in enumerate(headers):
        if position < words:
            table.add_column(header, overflow="fold")
        else:
            table.add_column(header, justify="right", no_wrap=True)
    return table


def _side_by_side(*tables: Table) -> Table:
    grid = Table.grid(padding=(0, 4, 0, 0))
    grid.add_row(*tables)
    return grid


def _number(count: int) -> str:
    return f"{count:,}"


def plural(count: int, noun: str) -> str:
    """``"1 file"``, ``"2 files"``."""
    return f"{_number(count)} {noun}" if count == 1 else f"{_number(count)} {noun}s"
