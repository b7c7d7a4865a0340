"""The conformance suite on every local scheduler, and on pools of other people's making."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest

import treadle.multiprocessing
import treadle.sync
import treadle.threaded
from treadle.testing.conformance import (
    InProcessConformance,
    OneByOneConformance,
    ParallelConformance,
    SchedulerConformance,
)

T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs each call at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class ThreadEachExecutor(Executor):
    """Runs each call in a new thread, as many at once as are submitted."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work).start()
        return future


@pytest.fixture(scope="module")
def thread_executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def thread_pool() -> Iterator[multiprocessing.pool.ThreadPool]:
    with multiprocessing.pool.ThreadPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def process_executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield pool


class TestSync(SchedulerConformance, InProcessConformance, OneByOneConformance):
    scheduler = "sync"
    num_workers = 1

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return treadle.sync.get


class TestOneThread(SchedulerConformance, InProcessConformance, OneByOneConformance):
    scheduler = "threads"
    num_workers = 1

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.threaded.get, num_workers=1)


class TestTwoThreads(SchedulerConformance, ParallelConformance, InProcessConformance):
    scheduler = "threads"
    num_workers = 2

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.threaded.get, num_workers=2)


class TestFourThreads(SchedulerConformance, ParallelConformance, InProcessConformance):
    scheduler = "threads"
    num_workers = 4

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.get, scheduler="threads", num_workers=4)


class TestOneProcess(SchedulerConformance):
    scheduler = "processes"
    num_workers = 1

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.multiprocessing.get, num_workers=1)


class TestTwoProcesses(SchedulerConformance, ParallelConformance):
    scheduler = "processes"
    num_workers = 2

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.multiprocessing.get, num_workers=2)


class TestThreadPoolExecutor(SchedulerConformance, ParallelConformance, InProcessConformance):
    scheduler = "threads"
    num_workers = 2

    @pytest.fixture
    def get(self, thread_executor: ThreadPoolExecutor) -> Callable[..., Any]:
        return partial(treadle.get, scheduler=thread_executor)


class TestThreadPool(SchedulerConformance, ParallelConformance, InProcessConformance):
    scheduler = "threads"
    num_workers = 2

    @pytest.fixture
    def get(self, thread_pool: multiprocessing.pool.ThreadPool) -> Callable[..., Any]:
        return partial(treadle.threaded.get, pool=thread_pool)


class TestProcessPoolExecutor(SchedulerConformance, ParallelConformance):
    scheduler = "executor"
    num_workers = 2

    @pytest.fixture
    def get(self, process_executor: ProcessPoolExecutor) -> Callable[..., Any]:
        return partial(treadle.get, pool=process_executor)


class TestInlineExecutor(SchedulerConformance, InProcessConformance):
    scheduler = "executor"
    num_workers = 3

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.get, scheduler=InlineExecutor(), num_workers=3)


class TestThreadEachExecutor(SchedulerConformance, ParallelConformance, InProcessConformance):
    scheduler = "executor"
    num_workers = 2

    @pytest.fixture
    def get(self) -> Callable[..., Any]:
        return partial(treadle.get, pool=ThreadEachExecutor(), num_workers=2)
