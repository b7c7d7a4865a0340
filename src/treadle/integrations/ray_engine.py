"""Ray as an engine: each task that is ready is one of Ray's, and its result stays in Ray's object store."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from treadle.errors import UserError
from treadle.integrations.engines import CallFailed, EngineDriver, Unit
from treadle.wire.values import dump_parts, load_parts
from treadle.worker.calls import refusal

__all__ = ["RayEngine"]

log = logging.getLogger("treadle.engines")

#: Jobs for each processor: one runs, and the others are on their way.
_AHEAD: Final = 4


class Job(NamedTuple):
    """Two of Ray's references, so that it can be told how a task has ended without fetching its result."""

    done: Any
    value: Any


class RayEngine:
    """The Ray that this program has initialised; if it has initialised none, a local one is started.

    :raises UserError: Ray is not installed.
    """

    name = "ray"

    def __init__(self) -> None:
        self._ray: Final = _ray()
        if not self._ray.is_initialized():
            log.info("Ray is not initialised in this program: ray.init() is called, with its defaults")
            self._ray.init()
        self.num_workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.limit = _AHEAD * self.num_workers

    def __repr__(self) -> str:
        return f"<RayEngine with {self.num_workers} processors>"

    def driver(self) -> EngineDriver:
        return EngineDriver(self)

    def share(self, value: Any) -> Any:
        return Job(None, self._ray.put(Parcel(dump_parts(value))))

    def submit(self, calls: Sequence[tuple[Unit, list[Any]]]) -> list[Any]:
        remote = _remote()
        return [
            Job(*remote.options(name=unit.__name__).remote(unit, *[job.value for job in jobs])) for unit, jobs in calls
        ]

    def watch(self, job: Any, tell: Callable[[Any, BaseException | None], object]) -> None:
        def over(done: Future[None]) -> None:
            error = done.exception()
            if error is not None:
                job.value.future()  # which says the same; what nobody looks at, Ray takes for an error not handled
            tell(job, _error(error))

        job.done.future().add_done_callback(over)

    def fetch(self, jobs: list[Any]) -> list[Any]:
        parcels = self._ray.get([job.value for job in jobs])
        return [parcel.open() for parcel in parcels]

    def stop(self, jobs: list[Any]) -> None:
        """What Ray has been given comes to its end: it could stop only what runs, too."""

    def abandon(self, jobs: list[Any]) -> None:
        for job in jobs:
            self._ray.cancel(job.done)


class Parcel:
    """A pickled value in Ray's object store, where its big buffers are read without a copy.

    Who opens it has a copy of its own, because tasks may write into their arguments, and into results.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, ([self.parts[0], *map(pickle.PickleBuffer, self.parts[1:])],)

    def open(self) -> Any:
        return load_parts([self.parts[0], *map(bytearray, self.parts[1:])])


def run_on_ray(unit: Unit, *inputs: Parcel) -> tuple[None, Parcel]:
    """In a process of Ray's. :raises CallFailed: a task has raised something, or its result cannot be pickled."""
    value = unit(*[parcel.open() for parcel in inputs])
    try:
        return None, Parcel(dump_parts(value))
    except Exception as reason:
        raise CallFailed(unit.steps[-1].key, refusal(value, reason)) from None


@cache
def _remote() -> Any:
    return _ray().remote(num_returns=2)(run_on_ray)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError:
        raise UserError("scheduler='ray' needs Ray, which is not installed here: pip install 'treadle[ray]'") from None


def _error(error: BaseException | None) -> BaseException | None:
    """What Ray says of a job; if that is an exception of ours, without Ray's envelope."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, CallFailed) else error
