"""A worker process, with a scheduler that says what it is told to."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_parts import DataClient, FakeScheduler, FakeWorker, Slot, soon, supervise
from worker_tasks import (
    block,
    complain,
    describe,
    fail,
    fail_oddly,
    interrupt,
    make_lock,
    make_unreadable,
    nested,
    repeated,
)

from treadle.errors import ResultNotSerializableError, TaskNotSerializableError
from treadle.graph.node import Listed
from treadle.wire import messages
from treadle.wire.failures import unpack_error
from treadle.wire.functions import pack_function
from treadle.wire.refusals import read_refusal
from treadle.wire.values import dump_parts, load_parts, pack_call, unpack_value
from treadle.worker.calls import INLINE

Scenario = Callable[[FakeScheduler, list[FakeWorker]], Coroutine[Any, Any, None]]


def play(scenario: Scenario, n: int = 1, **options: Any) -> None:
    """Run a scenario with ``n`` workers that have joined."""

    async def main() -> None:
        async with FakeScheduler() as scheduler:
            supervisor = supervise(scheduler, n, **options)
            supervisor.start()
            try:
                workers = [await scheduler.joined() for _ in range(n)]
                for worker in workers:
                    await soon(worker.heartbeats.get())
                await scenario(scheduler, workers)
            finally:
                await asyncio.get_running_loop().run_in_executor(None, supervisor.stop)

    asyncio.run(main())


async def result(worker: FakeWorker) -> Any:
    """The result that comes with the next thing that a worker says."""
    ((_, _, _, packed),) = (await worker.hears(messages.Finished)).rows
    assert packed is not None
    return unpack_value(packed)


async def error(worker: FakeWorker, key: str = "x") -> BaseException:
    return unpack_error((await worker.hears(messages.Failed)).error, key)


async def started(path: Path) -> None:
    """Wait for a task that calls ``block``."""
    assert await soon(asyncio.get_running_loop().run_in_executor(None, path.read_text)) == "started"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# Tasks


def test_results_of_tasks() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("sum", operator.add, 1, 2)
        message = await worker.hears(messages.Finished)
        ((attempt, nbytes, seconds, packed),) = message.rows
        assert (attempt, packed) == (1, b"\x03")
        assert nbytes > 0
        assert 0 < seconds < 60
        worker.run("double", operator.mul, Slot(0), 2, deps=("sum",))
        assert await result(worker) == 6
        fid = worker.teach(describe)
        payload = pack_call("k", (Listed([Slot(0), 1], tuple),), {"word": Slot(1)}, nested=True)
        worker.send(("run", [(3, "text", 3, fid, payload, ["sum", "double"], 1)], []))
        assert await result(worker) == "((3, 1),) {'word': 6}"

    play(scenario)


def test_only_small_results_that_are_wanted_travel_with_the_news() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("small", repeated, "a", INLINE - 3 - 64)
        assert len(await result(worker)) == INLINE - 67
        worker.run("big", repeated, "a", INLINE)
        worker.run("unwanted", repeated, "a", 1, want=False)
        rows: list[Any] = list((await worker.hears(messages.Finished)).rows)
        if len(rows) == 1:
            rows.extend((await worker.hears(messages.Finished)).rows)
        assert [row[3] for row in rows] == [None, None]
        assert rows[0][1] >= INLINE

    play(scenario)


def test_the_traceback_of_a_task_shows_the_users_frames_only() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", fail)
        raised = await error(worker)
        assert repr(raised) == "ValueError('so deep')"
        assert [frame.name for frame in traceback.extract_tb(raised.__traceback__)] == ["fail", "deeper"]

    play(scenario)


@pytest.mark.parametrize(("name", "kind"), [("SystemExit", SystemExit), ("KeyboardInterrupt", KeyboardInterrupt)])
def test_what_a_task_raises_never_ends_the_worker(name: str, kind: type[BaseException]) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", interrupt, name)
        assert type(await error(worker)) is kind
        worker.run("y", operator.add, 1, 2)
        assert await result(worker) == 3

    play(scenario)


def test_exceptions_that_cannot_be_told() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", fail_oddly, "surrogate")
        assert repr(await error(worker)) == r"ValueError('caf\udce9')"
        worker.run("y", fail_oddly, "nameless")
        raised = await error(worker)
        assert type(raised) is ResultNotSerializableError
        assert "exception" in str(raised)
        worker.run("z", operator.add, 1, 2)
        assert await result(worker) == 3

    play(scenario)


def test_a_function_that_cannot_be_read_fails_its_task() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        blob = pack_function(fail).blob.replace(b"worker_tasks", b"nothing_here")
        worker.send(("functions", [(9, "fail", blob)]), ("run", [(1, "x", 1, 9, pack_call("x", ()), [], 1)], []))
        raised = await error(worker)
        assert type(raised) is TaskNotSerializableError
        assert "its function 'fail'" in str(raised)
        assert "cannot be read back, ModuleNotFoundError: No module named 'nothing_here'" in str(raised)

    play(scenario)


def test_a_result_that_cannot_be_pickled_fails_its_task_only_if_it_is_wanted() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", make_lock)
        raised = await error(worker)
        assert type(raised) is ResultNotSerializableError
        assert "the task 'x' ran, but its result of type lock cannot leave the worker process" in str(raised)
        worker.run("y", make_lock, want=False)
        await worker.hears(messages.Finished)
        worker.run("z", type, Slot(0), deps=("y",), want=False)
        await worker.hears(messages.Finished)

    play(scenario)


def test_a_task_may_run_a_graph() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", nested, 20)
        assert await result(worker) == "treadle-worker-0"

    play(scenario)


def test_the_report_of_a_short_task_is_not_stuck_behind_a_long_one(pipe: Path) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        short, long = worker.teach(operator.add), worker.teach(block)
        rows: list[Any] = [
            (1, "short", 1, short, pack_call("short", (1, 2)), [], 1),
            (2, "long", 2, long, pack_call("long", (str(pipe),)), [], 1),
        ]
        worker.send(("run", rows, []))
        assert await result(worker) == 3
        await started(pipe)

    play(scenario)


def test_threads_work_side_by_side(tmp_path: Path) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        paths = [tmp_path / name for name in "abc"]
        for path in paths:
            os.mkfifo(path)
            worker.run(path.name, block, str(path))
        await asyncio.gather(*map(started, paths))

    play(scenario, nthreads=3)


def test_recalling_and_cancelling(pipe: Path) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        running = worker.run("long", block, str(pipe))
        await started(pipe)
        first, second = worker.run("a", operator.neg, 1), worker.run("b", operator.neg, 1)
        worker.send(("recall", [running, second]))
        assert (await worker.hears(messages.Returned)).attempts == [second]
        worker.send(("cancel", [running, first]))
        assert (await worker.hears(messages.Stopped)).attempts == [first]

    play(scenario)


def test_a_scheduler_that_breaks_the_protocol_is_left() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.send(("recall", [5]))
        await soon(worker.ended.wait())
        again = await scheduler.joined()
        assert again.ident != worker.ident

    play(scenario)


def test_heartbeats_say_what_the_process_uses() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        beat = await soon(worker.heartbeats.get())
        assert 1e6 < beat.rss < 1e10
        assert beat.cpu >= 0
        assert (beat.fetched_bytes, beat.fetch_seconds) == (0, 0.0)

    play(scenario)


# Data


def place(key: str, worker: FakeWorker, nbytes: int = 100) -> tuple[str, int, list[tuple[str, str]]]:
    return key, nbytes, [(worker.ident, worker.address)]


def test_values_go_from_worker_to_worker() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        one, two = workers
        one.run("text", repeated, "a", 10, want=False)
        await one.hears(messages.Finished)
        one.run("array", np.arange, 100_000, want=False)
        await one.hears(messages.Finished)
        two.run("sum", np.sum, Slot(0), deps=("array",), where=[place("array", one)])
        assert [key for key, _ in (await two.hears(messages.Acquired)).rows] == ["array"]
        assert await result(two) == sum(range(100_000))
        two.run("length", len, Slot(0), deps=("text",), where=[place("text", one)])
        assert [key for key, _ in (await two.hears(messages.Acquired)).rows] == ["text"]
        assert await result(two) == 10
        while True:
            beat = await soon(two.heartbeats.get())
            if beat.fetched_bytes:
                assert beat.fetched_bytes > 800_000
                assert beat.fetch_seconds > 0
                break

    play(scenario, 2)


def test_a_value_that_cannot_be_pickled_fails_those_who_need_it_elsewhere() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        one, two = workers
        one.run("lock", make_lock, want=False)
        await one.hears(messages.Finished)
        two.run("x", type, Slot(0), deps=("lock",), where=[place("lock", one)])
        raised = await error(two)
        assert type(raised) is ResultNotSerializableError
        assert "the task 'lock' ran, but its result of type lock cannot leave the worker process" in str(raised)
        one.run("odd", make_unreadable, want=False)
        await one.hears(messages.Finished)
        two.run("y", type, Slot(0), deps=("odd",), where=[place("odd", one)])
        raised = await error(two)
        assert "the task 'odd' ran" in str(raised)
        assert "what was pickled cannot be read back, ImportError: not here" in str(raised)

    play(scenario, 2)


def test_what_cannot_be_fetched_is_missing_until_a_place_is_known() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        one, two = workers
        one.run("text", repeated, "a", 10, want=False)
        await one.hears(messages.Finished)
        places = [("gone", "127.0.0.1:1"), (one.ident, two.address)]
        two.run("length", len, Slot(0), deps=("text",), where=[("text", 10, places)])
        assert sorted((await two.hears(messages.Missing)).rows) == sorted([("text", "gone"), ("text", one.ident)])
        two.run("other", len, Slot(0), deps=("unheard of",), where=[place("unheard of", one)])
        assert (await two.hears(messages.Missing)).rows == [("unheard of", one.ident)]
        two.send(("where", [place("text", one)]))
        assert (await two.hears(messages.Acquired)).rows[0][0] == "text"
        assert await result(two) == 10

    play(scenario, 2)


def test_values_are_served_to_whoever_asks() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("array", np.arange, 50_000, want=False)
        worker.run("lock", make_lock, want=False)
        worker.run("text", repeated, "a", 3, want=False)
        worker.run("last", operator.neg, 1)
        while (await worker.hears(messages.Finished)).rows[-1][3] is None:
            pass
        client = await DataClient.dial(worker.address, scheduler.token)
        assert client.link.details == {"ident": worker.ident}
        answer, buffers = await client.ask(("fetch", 7, ["array", "nothing", "lock", "text"]))
        assert answer.id == 7
        assert answer.rows == [("array", 2), ("nothing", 0), ("lock", 1), ("text", 1)]
        assert (load_parts(buffers[:2]) == np.arange(50_000)).all()
        refusal = read_refusal(buffers[2:3])
        assert refusal is not None
        assert "cannot pickle '_thread.lock' object" in str(unpack_error(refusal, "lock"))
        assert load_parts(buffers[3:]) == "aaa"
        client.link.close()

    play(scenario)


def test_values_are_taken_from_clients() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        client = await DataClient.dial(worker.address, scheduler.token)
        big, small = dump_parts(np.arange(50_000)), dump_parts("text")
        rows = [("big", len(big)), ("small", len(small)), ("odd", 1)]
        answer, _ = await client.ask(("store", 1, rows), [*big, *small, b"\x80nonsense"])
        assert [key for key, _ in answer.rows] == ["big", "small"]
        assert answer.rows[0][1] >= 400_000
        worker.run("sum", np.sum, Slot(0), deps=("big",))
        assert await result(worker) == sum(range(50_000))
        worker.run("length", len, Slot(0), deps=("small",))
        assert await result(worker) == 4
        client.link.close()

    play(scenario)


@pytest.mark.parametrize(
    ("message", "buffers"),
    [
        (("store", 1, [("x", 2)]), [b"\xc0"]),
        (("store", 1, [("x", 1)]), [b"\xc0", b"\xc0"]),
        (("fetch", 1, ["x"]), [b"\xc0"]),
        (("shutdown", "please"), []),
    ],
)
def test_whoever_says_nonsense_at_the_data_port_loses_his_connection(message: Any, buffers: list[bytes]) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        client = await DataClient.dial(worker.address, scheduler.token)
        client.link.send([message], buffers)
        await soon(client.ended.wait())
        worker.run("y", operator.add, 1, 2)
        assert await result(worker) == 3

    play(scenario)


# The end


def test_a_signal_ends_it_within_a_second_whatever_it_does(pipe: Path) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", block, str(pipe))
        await started(pipe)
        os.kill(worker.link.details["pid"], signal.SIGTERM)
        await worker.hears(messages.Leaving)
        await soon(worker.ended.wait())
        died = await soon(scheduler.deaths.get())
        assert (died.ident, died.exitcode, died.executing) == (worker.ident, 0, [])
        await scheduler.joined()

    play(scenario)


def test_it_starts_anew_when_it_has_lost_its_scheduler() -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.link.close()
        again = await scheduler.joined()
        again.run("y", operator.add, 1, 2)
        assert await result(again) == 3

    play(scenario)


def test_what_a_task_writes_to_standard_error_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(scheduler: FakeScheduler, workers: list[FakeWorker]) -> None:
        (worker,) = workers
        worker.run("x", complain, "a complaint")
        await worker.hears(messages.Finished)
        worker.send(("shutdown", "enough"))
        await soon(worker.ended.wait())

    play(scenario)
    errors = capfd.readouterr().err
    assert "a complaint\n" in errors
    assert "INFO worker w: joined 127.0.0.1:" in errors
    assert "INFO worker w: ends, because the scheduler said: enough" in errors
