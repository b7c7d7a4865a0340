"""What the survey can be run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from rich.console import Console

from treadle.callbacks import Callback, RunInfo, TaskRecord
from treadle.demo.run import Timed, in_parallel
from treadle.demo.show import plural, show_victim
from treadle.demo.source import Source
from treadle.errors import UserError

if TYPE_CHECKING:
    from treadle.deploy.local import LocalCluster

__all__ = ["SCHEDULERS", "NoWorkersError", "Runner", "Saboteur", "remote", "runner_for"]

SCHEDULERS: Final = ("cluster", "processes", "threads", "sync")

#: Surveys some files, for so many lines of each table; the console is for what happens on the way.
Survey: TypeAlias = Callable[[Sequence[Source], int, Console], Timed]


class Runner(NamedTuple):
    """A way to run the survey."""

    #: Comes after "with": ``"processes × 2"``.
    name: str
    run: Survey


class NoWorkersError(UserError):
    """A cluster without workers: the survey would wait for ever."""


class Saboteur(Callback):
    """Kills a worker of a cluster as soon as half of the tasks are done, and says so."""

    def __init__(self, cluster: LocalCluster, console: Console) -> None:
        self._cluster = cluster
        self._console = console
        self._done = 0
        self._total = 0
        self._killed = False

    def start(self, info: RunInfo) -> None:
        self._total = info.total

    def after(self, record: TaskRecord, result: Any) -> None:
        self._done += 1
        if not self._killed and 2 * self._done >= self._total:
            self._killed = True
            victim = self._cluster.kill_worker()
            show_victim(victim.name, victim.pid, self._done, self._total, self._console)


def runner_for(scheduler: str, num_workers: int) -> Runner:
    """Run the survey on this machine, with one of :data:`SCHEDULERS`."""
    if scheduler == "cluster":
        return Runner(f"a cluster of {plural(num_workers, 'worker')}", _on_own_cluster(num_workers))
    name = scheduler if scheduler == "sync" else f"{scheduler} × {num_workers}"
    return Runner(name, lambda sources, top, console: in_parallel(sources, top, scheduler, num_workers))


def _on_own_cluster(num_workers: int) -> Survey:
    """Run it on a cluster that is made for it, and that loses a worker halfway. The time includes its start."""

    def run(sources: Sequence[Source], top: int, console: Console) -> Timed:
        from treadle.client.client import Client
        from treadle.deploy.local import LocalCluster

        started = perf_counter()
        with (
            _silence("treadle.worker"),  # it would report the death that we announce ourselves
            LocalCluster(num_workers, 1) as cluster,
            Client(cluster, set_as_default=False) as client,
            Saboteur(cluster, console),
        ):
            report, _ = in_parallel(sources, top, client.get)
            return Timed(report, perf_counter() - started)

    return run


@contextmanager
def _silence(logger: str) -> Iterator[None]:
    """Hear of errors only."""
    import logging

    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def remote(address: str, token: bytes | None) -> Iterator[Runner]:
    """Run the survey on a cluster that is there already.

    :raises PeerError: nobody listens there, or does not want us.
    :raises NoWorkersError: the cluster has no workers.
    """
    from treadle.client.client import Client

    with Client(address, set_as_default=False, token=token) as client:
        count = len(client.scheduler_info()["workers"])
        if not count:
            raise NoWorkersError(f"the cluster at {address} has no workers; start one with: treadle worker {address}")
        name = f"the cluster at {address}, {plural(count, 'worker')}"
        yield Runner(name, lambda sources, top, console: in_parallel(sources, top, client.get))
