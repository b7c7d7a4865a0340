"""A cluster of Dask's for tests, and the conformance suite on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import dask
import pytest

import treadle
from treadle.testing.conformance import ParallelConformance, SchedulerConformance

__all__ = ["DaskConformance", "dask_client"]

distributed: Any = import_module("distributed")  # whose functions have no types


@contextmanager
def dask_client(**settings: Any) -> Iterator[Any]:
    """A client of two workers, which is not the default. :param settings: of Dask's configuration, besides."""
    # By default the workers' linear algebra is told to use one thread each, and rounds otherwise than it does here.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}, **settings}):
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


class DaskConformance(SchedulerConformance, ParallelConformance):
    """For modules with a fixture ``client``."""

    scheduler = "dask"
    num_workers = 2

    @pytest.fixture
    def get(self, client: Any) -> Callable[..., Any]:
        return partial(treadle.get, scheduler=client)
