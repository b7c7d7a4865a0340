"""A cluster does what every scheduler does, with the blocking and with the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from treadle import Client, LocalCluster
from treadle.testing.conformance import ParallelConformance, SchedulerConformance


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


class TestBlockingClient(SchedulerConformance, ParallelConformance):
    scheduler = "cluster"
    num_workers = 2

    @pytest.fixture
    def get(self, client: Client) -> Callable[..., Any]:
        return client.get


class TestAsynchronousClient(SchedulerConformance, ParallelConformance):
    scheduler = "cluster"
    num_workers = 2

    @pytest.fixture
    def get(self, cluster: LocalCluster) -> Iterator[Callable[..., Any]]:
        loop = asyncio.new_event_loop()

        async def connect() -> Client:
            return await Client(cluster, asynchronous=True, set_as_default=False)

        client = loop.run_until_complete(connect())

        def get(graph: Any, keys: Any, callbacks: Any = None, **options: Any) -> Any:
            try:
                return loop.run_until_complete(client.get(graph, keys, callbacks=callbacks, **options))
            except RuntimeError as error:
                if isinstance(error.__cause__, StopIteration):  # which Python lets through no coroutine
                    raise error.__cause__ from None
                raise

        yield get
        loop.run_until_complete(client.close())
        loop.close()
