"""``treadle scheduler`` and ``treadle worker``: the parts of a cluster, in the foreground."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from treadle.worker.supervisor import Supervisor

__all__ = ["scheduler", "worker"]

#: Seconds between two attempts to reach a scheduler.
_PAUSE = 0.2

_TOKEN_FILE = click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Holds the secret that all parts of the cluster know.  [default: the environment variable TREADLE_TOKEN; "
    "on this machine alone, a secret of your own that is made on first use]",
)
_PRELOAD = click.option(
    "--preload",
    multiple=True,
    metavar="MODULE|FILE.py",
    help="A module, or a file, to be imported first. If it has a function treadle_setup, that is called. May be given "
    "several times.",
)
_LOG_LEVEL = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is worth a line on standard error.",
)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{text!r} is not a number of seconds above 0")
    return seconds


def _count(text: str) -> int | None:
    """A whole number of at least 1, or None for ``auto``."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither a whole number of at least 1 nor 'auto'")
    return int(text)


def _memory(text: str) -> int | None:
    """Bytes, or None for ``auto``."""
    from treadle.config import ConfigError
    from treadle.deploy.sizes import parse_bytes

    if text == "auto":
        return None
    try:
        return parse_bytes(text)
    except ConfigError as error:
        raise click.BadParameter(f"{error}, or 'auto'") from None


def _resources(text: str) -> dict[str, float]:
    """``GPU=1,disk=2`` as a dict."""
    found: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, number = part.partition("=")
        name = name.strip()
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not 0 <= amount < math.inf:
            raise click.BadParameter(f"{part!r} is not NAME=AMOUNT; write, for example, GPU=1,disk=2.5")
        if name in found:
            raise click.BadParameter(f"{name!r} is named twice")
        found[name] = amount
    return found


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen at; 0.0.0.0 for all that this machine has. Others than loopback need a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8786,
    show_default=True,
    help="The port to listen at; 0 for any that is free.",
)
@_TOKEN_FILE
@click.option(
    "--worker-timeout",
    type=_seconds,
    default="60",
    show_default=True,
    metavar="SECONDS",
    help="A worker that was silent for so long counts as lost.",
)
@click.option(
    "--lease",
    type=_seconds,
    default="30",
    show_default=True,
    metavar="SECONDS",
    help="A client that was silent for so long loses the locks, permits and items of queues that it holds.",
)
@click.option(
    "--allow-run-on-scheduler",
    is_flag=True,
    help="Let clients have functions called in the process of the scheduler, with client.run_on_scheduler.",
)
@click.option(
    "--allow-shutdown",
    is_flag=True,
    help="Let clients end the scheduler and its workers, with client.shutdown.",
)
@_PRELOAD
@_LOG_LEVEL
def scheduler(
    host: str,
    port: int,
    token_file: str | None,
    worker_timeout: float,
    lease: float,
    allow_run_on_scheduler: bool,
    allow_shutdown: bool,
    preload: tuple[str, ...],
    log_level: str,
) -> None:
    """Run the scheduler of a cluster: workers and clients connect to it.

    It runs until it is interrupted (Ctrl-C, SIGINT) or terminated (SIGTERM). Then its workers end too, and the exit
    status is 0. It is 1 if the scheduler could not start, because the port is in use for example, and 2 for wrong
    arguments.

    The scheduler runs no task and reads no data, so it needs one core and little memory. Whoever knows the token can
    run any code on the workers; it is proved in a handshake and never sent, but nothing is encrypted.

    \b
    Examples:
      treadle scheduler
      treadle scheduler --port 0 --log-level warning
      openssl rand -hex 32 > token; chmod 600 token
      treadle scheduler --host 0.0.0.0 --token-file token
    """
    from treadle.errors import UserError
    from treadle.scheduler.process import serve
    from treadle.scheduler.settings import Settings

    try:
        settings = Settings(host, port, _token(token_file), log_level, worker_timeout, lease, preload=preload)
        serve(settings._replace(allow_run_on_scheduler=allow_run_on_scheduler, allow_shutdown=allow_shutdown))
    except (UserError, OSError) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.argument("address", metavar="HOST[:PORT]")
@click.option(
    "--nworkers",
    type=_count,
    default="1",
    show_default=True,
    metavar="N|auto",
    help="Processes. auto: with the threads of each of them, enough for all cores.",
)
@click.option(
    "--nthreads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tasks that each process runs at the same time.  [default: the usable cores, divided among the processes]",
)
@click.option(
    "--memory-limit",
    type=_memory,
    default="auto",
    show_default=True,
    metavar="SIZE|auto",
    help="What each process may use, such as 4GB; 0 for no limit. auto: its share of what this machine has.",
)
@click.option(
    "--resources",
    type=_resources,
    default="",
    metavar="NAME=AMOUNT,...",
    help="What each process has for tasks that ask for it, such as GPU=1.",
)
@click.option("--name", default="", help="What to call it; with several processes, -0, -1 … follow.")
@click.option(
    "--host",
    default="",
    help="The address where others fetch its data.  [default: the one from which it reaches the scheduler]",
)
@click.option(
    "--timeout",
    type=_seconds,
    default="10",
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a scheduler that does not listen yet.",
)
@_TOKEN_FILE
@_PRELOAD
@_LOG_LEVEL
def worker(
    address: str,
    nworkers: int | None,
    nthreads: int | None,
    memory_limit: int | None,
    resources: dict[str, float],
    name: str,
    host: str,
    timeout: float,
    token_file: str | None,
    preload: tuple[str, ...],
    log_level: str,
) -> None:
    """Run workers of the cluster whose scheduler listens at HOST:PORT.

    PORT is 8786 if it is left out. The workers run until they are interrupted (Ctrl-C, SIGINT) or terminated
    (SIGTERM), or until the scheduler ends; the exit status is 0 then. It is 1 if no worker could join, because nobody
    listens there for example, and 2 for wrong arguments. A worker process that dies is replaced, and the scheduler is
    told how it died.

    \b
    Examples:
      treadle worker 127.0.0.1:8786
      treadle worker 192.168.0.10 --nworkers auto --token-file token
      treadle worker 192.168.0.10 --nworkers 2 --nthreads 4 --memory-limit 8GB --resources GPU=1
    """
    from treadle.deploy.sizes import memory_of_each, sizes
    from treadle.errors import PeerError, UserError
    from treadle.net.addresses import format_address, parse_address
    from treadle.net.secret import token_for
    from treadle.worker.supervisor import Supervisor

    try:
        scheduler_address = format_address(*parse_address(address))
    except UserError as error:
        raise click.BadParameter(str(error), param_hint="HOST[:PORT]") from None
    try:
        token = token_for(scheduler_address, _token(token_file))
        shape = sizes(nworkers, nthreads)
        _wait_for_scheduler(scheduler_address, token, timeout)
        _keep_running(
            Supervisor(
                scheduler_address,
                shape.n_workers,
                token=token,
                nthreads=shape.threads_per_worker,
                memory_limit=memory_of_each(memory_limit, shape.n_workers),
                resources=resources,
                name=name,
                host=host,
                log_level=log_level,
                preload=preload,
            ),
            log_level,
        )
    except (UserError, PeerError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _wait_for_scheduler(address: str, token: bytes, timeout: float) -> None:
    """Better to hear now than from each worker that nobody listens there, or that the token is wrong.

    :raises PeerError: one of these.
    """
    import time

    from treadle.errors import ConnectError
    from treadle.net.dial import blocking_call

    deadline = time.monotonic() + timeout
    waiting = False
    while True:
        left = max(deadline - time.monotonic(), _PAUSE)
        try:
            blocking_call(address, role="supervisor", ident="", token=token, messages=[], timeout=left)
            return
        except ConnectError as error:
            if time.monotonic() + _PAUSE > deadline:
                raise
            if not waiting:
                waiting = True
                click.echo(f"Waiting {timeout:g} seconds for the scheduler: {error}", err=True)
        time.sleep(_PAUSE)


def _keep_running(supervisor: Supervisor, log_level: str) -> None:
    """Run workers until a signal ends them, or the scheduler does."""
    import logging
    import signal
    import sys

    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")

    def end(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # one is enough
        raise SystemExit(0)

    signals = (signal.SIGINT, signal.SIGTERM)
    for each in signals:
        signal.signal(each, end)
    try:
        supervisor.start()
        supervisor.wait()
    finally:
        supervisor.stop()
    if supervisor.failure:
        raise click.ClickException(supervisor.failure)


def _token(path: str | None) -> bytes | None:
    from treadle.net.secret import read_token

    return None if path is None else read_token(path)
