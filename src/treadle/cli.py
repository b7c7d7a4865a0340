"""The ``treadle`` command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from treadle._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["main"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="treadle")
def main() -> None:
    """Treadle runs graphs of Python tasks: in one thread, on threads, or on processes.

    \b
    Examples:
      treadle info             what is installed here, and what Treadle would use
      treadle demo             survey the standard library on all cores, with a timeline
      treadle demo --help      all that the survey can do
    """


@main.command()
def info() -> None:
    """Say what is installed and what Treadle would use.

    Worth pasting into a bug report. The default scheduler and the number of workers come from the environment
    variables TREADLE_SCHEDULER and TREADLE_NUM_WORKERS where these are set.

    \b
    Examples:
      treadle info
      TREADLE_NUM_WORKERS=4 treadle info
    """
    from treadle.errors import UserError

    try:
        rows = _facts()
    except UserError as error:
        raise click.ClickException(str(error)) from None
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


@main.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "--scheduler",
    type=click.Choice(["processes", "threads", "sync"]),
    default="processes",
    show_default=True,
    help="What runs the tasks. Reading source code is pure Python, so threads are no faster than the plain loop.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Tasks at once.  [default: the usable cores]")
@click.option(
    "--top", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="Lines of each table."
)
@click.option(
    "--timeline",
    type=click.Path(dir_okay=False, writable=True),
    default="treadle-timeline.html",
    show_default=True,
    metavar="FILE",
    help="The page that shows which worker ran which task when.",
)
@click.option("--no-timeline", is_flag=True, help="Write no timeline.")
@click.option("--no-check", is_flag=True, help="Do not run the plain loop to compare with.")
def demo(
    paths: tuple[str, ...],
    scheduler: str,
    workers: int | None,
    top: int,
    timeline: str,
    no_timeline: bool,
    no_check: bool,
) -> None:
    """Survey a tree of Python sources on all cores.

    Reads every .py file below PATHS (directories or files; default: the standard library of this Python, its tests
    included, without site-packages) and prints the biggest packages, the most imported modules, the most common
    names and the longest functions. Hundreds of tasks analyse the files, a tree of merges brings the results
    together, and the outcome is checked against a plain loop in one thread, which must come to exactly the same
    report.

    The exit status is 0 if it does, 1 if it does not, and 2 for wrong arguments.

    \b
    Examples:
      treadle demo
      treadle demo --workers 2 --timeline run.html
      treadle demo --scheduler threads --no-check --no-timeline
      treadle demo ~/src/project setup.py --top 5
    """
    from treadle import config
    from treadle.demo.command import demo as run
    from treadle.demo.source import SourceError, find, standard_library
    from treadle.errors import UserError

    if not no_timeline:
        _check_folder(timeline)
    try:
        sources = find(paths)
    except SourceError as error:
        raise click.BadParameter(str(error), param_hint="PATHS") from None
    where = ", ".join(paths) or standard_library()
    try:
        num_workers = config.num_workers(workers)
        same = run(sources, where, top, scheduler, num_workers, None if no_timeline else timeline, not no_check)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    if not same:
        raise SystemExit(1)


def _check_folder(timeline: str) -> None:
    """Better to hear now than after the run that the page cannot be written."""
    folder = os.path.dirname(timeline) or "."
    if not os.path.isdir(folder):
        raise click.BadParameter(f"there is no directory {folder!r} to write it to", param_hint="--timeline")
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"the directory {folder!r} cannot be written to", param_hint="--timeline")


def _facts() -> list[tuple[str, str]]:
    """What ``treadle info`` prints: names and values."""
    import platform
    import shutil
    import sys

    import treadle
    from treadle import config

    compiled = [name.removeprefix("treadle.") for name in _compiled(treadle.__path__, "treadle.")]
    return [
        ("treadle", __version__),
        ("core", f"compiled ({', '.join(compiled)})" if compiled else "interpreted (no module is compiled)"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"),
        ("platform", platform.platform()),
        ("usable cores", str(config.cpu_count())),
        ("default scheduler", str(config.get("scheduler") or "threads")),
        ("default workers", str(config.num_workers())),
        ("graphviz (package)", _version_of("graphviz")),
        ("dot (program)", shutil.which("dot") or "not found"),
        ("dask", _version_of("dask")),
        ("numpy", _version_of("numpy")),
    ]


def _compiled(path: Iterable[str], prefix: str) -> Iterator[str]:
    """The modules below ``path`` that would be imported from a compiled file, found without importing them."""
    import pkgutil
    from importlib.machinery import ExtensionFileLoader

    for finder, name, _ in pkgutil.iter_modules(path, prefix):
        spec = finder.find_spec(name, None)
        if spec is None:
            continue
        if isinstance(spec.loader, ExtensionFileLoader):
            yield name
        if spec.submodule_search_locations:
            yield from _compiled(spec.submodule_search_locations, f"{name}.")


def _version_of(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
