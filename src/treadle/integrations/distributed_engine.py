"""Dask's cluster as an engine: a whole graph is one message to it, and it is told which results are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from importlib import import_module
from time import sleep
from typing import Any, Final

from treadle.errors import ClosedError, UserError
from treadle.integrations.engines import EngineDriver, Packer, Unit, lines_of, reason
from treadle.local.hooks import Hooks
from treadle.local.run import Run
from treadle.local.trim import forget_frames
from treadle.naming import unique
from treadle.wire.sizes import sizeof
from treadle.wire.values import pack_value, unpack_value

__all__ = ["DistributedDriver", "DistributedEngine"]

#: A shared value with more bytes goes straight to a worker. Smaller ones are tasks, which can be run again elsewhere.
_BIG: Final = 1 << 20
#: Seconds between two looks whether the tasks that were running when another one failed have ended.
_PAUSE: Final = 0.01


class DistributedEngine:
    """A cluster of Dask's, as a client of ``distributed`` shows it.

    :param client: default: the one that ``distributed`` says is the default.
    :raises UserError: ``distributed`` is not installed, there is no client, or it is an asynchronous one.
    :raises ClosedError: the client is closed.
    """

    name = "dask"
    limit = 1 << 60

    def __init__(self, client: Any = None) -> None:
        self.client: Final = _default_client() if client is None else client
        if self.client.status == "closed":
            raise ClosedError("the client of Dask's cluster is closed: open a distributed.Client and pass that")
        if self.client.asynchronous:
            raise UserError(
                "a graph is computed by waiting for it, which an asynchronous client of Dask does not do: pass "
                "scheduler=distributed.Client(address, set_as_default=False) from another thread."
            )
        self.num_workers = sum(self.client.nthreads().values())
        #: What the names of all jobs end with.
        self._suffix: Final = unique()
        self._count = 0
        #: Tasks that hold values, and are sent with the next ones.
        self._unsent: dict[Any, Any] = {}
        self._held: list[Any] = []

    def __repr__(self) -> str:
        return f"<DistributedEngine on {self.client!r}>"

    def driver(self) -> DistributedDriver:
        return DistributedDriver(self)

    def share(self, value: Any) -> Any:
        from dask._task_spec import Task

        if sizeof(value) > _BIG:
            return self.client.scatter([value], hash=False)[0]
        name = self.new_name("value")
        self._unsent[name] = Task(name, unpack_value, pack_value(value))
        return name

    def submit(self, calls: Sequence[tuple[Unit, list[Any]]]) -> list[Any]:
        names = [self.new_name(unit.__name__) for unit, _ in calls]
        graph = {name: self.task(name, *each) for name, each in zip(names, calls)}
        return self.start(graph, names)

    def task(self, name: Any, unit: Unit, jobs: Sequence[Any]) -> Any:
        """A task as Dask writes it. :param jobs: futures, or names."""
        from dask._task_spec import Task, TaskRef

        return Task(name, unit, *[TaskRef(getattr(job, "key", job)) for job in jobs])

    def start(self, graph: dict[Any, Any], wanted: list[Any], keep: bool = True) -> list[Any]:
        """Have some tasks computed. Returns the futures of those that are wanted.

        :param keep: later tasks will need the values that are shared.
        """
        values, self._unsent = self._unsent, {}
        futures: list[Any] = self.client.get({**values, **graph}, [*wanted, *(values if keep else ())], sync=False)
        self._held += futures[len(wanted) :]
        return futures[: len(wanted)]

    def watch(self, job: Any, tell: Callable[[Any, BaseException | None], object]) -> None:
        job.add_done_callback(lambda job: tell(job, _error(job)))

    def fetch(self, jobs: list[Any]) -> list[Any]:
        results: list[Any] = self.client.gather(jobs)
        return results

    def stop(self, jobs: list[Any]) -> None:
        try:
            self.client.cancel(jobs)
            while any(self.client.run(_occupied, self._suffix).values()):
                sleep(_PAUSE)
        except Exception:
            pass  # the cluster is gone, or a worker was lost while it was asked: the caller has an error already

    def abandon(self, jobs: list[Any]) -> None:
        self.client.cancel(jobs)

    def new_name(self, unit: str) -> tuple[str, int]:
        """A new name for a job. Dask learns how long tasks take by what is before the dash."""
        self._count += 1
        return f"{unit}-{self._suffix}", self._count


class DistributedDriver(EngineDriver):
    """Runs graphs on a cluster of Dask's. Without callbacks the client has to do with nothing but the results."""

    def __init__(self, engine: DistributedEngine) -> None:
        super().__init__(engine)
        self._cluster = engine

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        if hooks is not None or run.over():
            return super().drive(run, hooks)
        futures: list[Any] = []
        keys: dict[Any, list[object]] = {}
        try:
            futures = self._start(run, keys)
            values = self._cluster.fetch(futures)
        except Exception as error:
            self._cluster.stop(futures)
            return reason(error, *keys.get(getattr(error, "task", None), []))  # of a KilledWorker
        except BaseException as interrupt:
            self._cluster.abandon(futures)
            return forget_frames(interrupt)
        targets = run.targets
        run.dismantle()
        for node, value in zip(targets, values):
            node.result = value
            node.done = True
        return None

    def _start(self, run: Run, keys: dict[Any, list[object]]) -> list[Any]:
        """Send the graph. :param keys: is filled with those that each job stands for. Returns what is wanted."""
        cluster = self._cluster
        packer = Packer(cluster)
        names: dict[int, Any] = {}
        graph: dict[Any, Any] = {}
        for line in lines_of(run.nodes, max(1, cluster.num_workers)):
            unit, jobs = packer.pack(line, lambda dep: names[dep.rank])
            name = names[line[-1].rank] = cluster.new_name(unit.__name__)
            graph[name] = cluster.task(name, unit, jobs)
            keys[name] = [node.key for node in line]
        return cluster.start(graph, [names[node.rank] for node in run.targets], keep=False)


def _default_client() -> Any:
    try:
        distributed = import_module("distributed")
    except ModuleNotFoundError:
        raise UserError(
            "scheduler='dask' needs the package distributed, which is not installed here: "
            "pip install 'treadle[distributed]'"
        ) from None
    try:
        return distributed.get_client()
    except ValueError:
        raise UserError(
            "scheduler='dask' computes on the cluster of Dask's default client, and there is none: open a "
            "distributed.Client first, or pass one as the scheduler."
        ) from None


def _error(job: Any) -> BaseException | None:
    """What was raised by a job that is done, also if that was the cluster."""
    if job.status == "finished":
        return None
    if job.status == "error":
        error: BaseException = job.exception()
        return error
    return CancelledError(f"Dask's cluster has lost or cancelled the task {job.key!r}")


def _occupied(suffix: str, dask_worker: Any) -> bool:
    """On a worker: whether it has to do with tasks whose names end like this, and not only with their results."""
    return any(
        isinstance(key, tuple) and str(key[0]).endswith(suffix) and task.state not in ("memory", "error", "released")
        for key, task in list(dask_worker.state.tasks.items())
    )
