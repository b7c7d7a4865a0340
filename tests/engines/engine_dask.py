"""The whole conformance suite on a cluster of Dask's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import dask
import pytest

import treadle
from treadle.testing.conformance import ParallelConformance, SchedulerConformance

distributed: Any = import_module("distributed")  # whose functions have no types


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    # By default the workers' linear algebra is told to use one thread each, and rounds otherwise than it does here.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


class TestDask(SchedulerConformance, ParallelConformance):
    scheduler = "dask"
    num_workers = 2

    @pytest.fixture
    def get(self, client: Any) -> Callable[..., Any]:
        return partial(treadle.get, scheduler=client)
