"""The ``treadle`` command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from treadle._version import __version__
from treadle.cli_cluster import scheduler, worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from treadle.demo.runners import Runner

__all__ = ["main"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="treadle")
def main() -> None:
    """Treadle runs graphs of Python tasks: in one thread, on threads, on processes, or on a cluster.

    \b
    Examples:
      treadle info             what is installed here, and what Treadle would use
      treadle demo             survey the standard library on a cluster that loses a worker
      treadle scheduler        the scheduler of a cluster, to which workers and clients connect
      treadle worker HOST      a worker of the cluster whose scheduler runs there
      treadle demo --help      all that the survey can do; the other commands have such a page too
    """


main.add_command(scheduler)
main.add_command(worker)


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
    type=click.Choice(["cluster", "processes", "threads", "sync"]),
    default="cluster",
    show_default=True,
    help="What runs the tasks. Reading source code is pure Python, so threads are no faster than the plain loop.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Use the cluster whose scheduler listens there. Its workers have to find the same files.",
)
@click.option(
    "--token-file", type=click.Path(dir_okay=False), metavar="FILE", help="The secret of the cluster at --address."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tasks at once.  [default: the usable cores; a cluster has at least 2 workers]",
)
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
    address: str | None,
    token_file: str | None,
    workers: int | None,
    top: int,
    timeline: str,
    no_timeline: bool,
    no_check: bool,
) -> None:
    """Survey a tree of Python sources on a cluster of this machine's cores.

    Reads every .py file below PATHS (directories or files; default: the standard library of this Python, its tests
    included, without site-packages) and prints the biggest packages, the most imported modules, the most common
    names and the longest functions. Hundreds of tasks analyse the files, a tree of merges brings the results
    together, and the outcome is checked against a plain loop in one thread, which must come to exactly the same
    report.

    The cluster is made for this run: a scheduler and workers, each in a process of its own. Halfway one of the workers
    is killed, to show that nothing is lost by that. With --address, or another --scheduler, nobody is killed.

    The exit status is 0 if both came to the same report, 1 if not, and 2 for wrong arguments.

    \b
    Examples:
      treadle demo
      treadle demo --workers 4 --timeline run.html
      treadle demo --scheduler threads --no-check --no-timeline
      treadle demo --address 127.0.0.1:8786
      treadle demo ~/src/project setup.py --top 5
    """
    from treadle.demo.command import demo as run
    from treadle.demo.source import SourceError, find, standard_library
    from treadle.errors import PeerError, UserError

    if address is not None:
        _refuse_beside_address("scheduler", "workers")
    elif token_file is not None:
        raise click.UsageError("--token-file belongs to --address; a cluster of our own makes its own secret.")
    if not no_timeline:
        _check_folder(timeline)
    try:
        sources = find(paths)
    except SourceError as error:
        raise click.BadParameter(str(error), param_hint="PATHS") from None
    where = ", ".join(paths) or standard_library()
    try:
        with _runner(scheduler, workers, address, token_file) as runner:
            same = run(sources, where, top, runner, None if no_timeline else timeline, not no_check)
    except (UserError, PeerError) as error:
        raise click.ClickException(str(error)) from None
    if not same:
        raise SystemExit(1)


def _runner(
    scheduler: str, workers: int | None, address: str | None, token_file: str | None
) -> AbstractContextManager[Runner]:
    """What runs the survey."""
    from contextlib import nullcontext

    from treadle import config
    from treadle.demo.runners import remote, runner_for
    from treadle.net.secret import read_token

    if address is not None:
        return remote(address, None if token_file is None else read_token(token_file))
    count = config.num_workers(workers)
    if scheduler == "cluster" and workers is None:
        count = max(2, count)  # one of them will be killed
    return nullcontext(runner_for(scheduler, count))


def _refuse_beside_address(*names: str) -> None:
    from click.core import ParameterSource

    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} and --address exclude each other: the cluster at the address runs the tasks."
            )


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
        ("msgspec", _version_of("msgspec")),
        ("uvloop", _uvloop()),
        ("cloudpickle", _version_of("cloudpickle")),
        ("dask", _version_of("dask")),
        ("numpy", _version_of("numpy")),
    ]


def _uvloop() -> str:
    version = _version_of("uvloop")
    return f"{version}: clusters use asyncio's own event loop, which is slower" if " " in version else version


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
