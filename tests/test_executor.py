"""What the standard library says of executors and futures, sentence by sentence, of its own and of ours.

Each test is named after the sentence of the documentation of ``concurrent.futures`` that it is about.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
)
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Script, finish
from executor_parts import EXECUTORS, LAZY, PATIENCE, Gate, Maker, drain, meet_many, pass_gate, touch

import treadle
from treadle.testing.tasks import Boom, add, boom, called_with, eventually, inc


@pytest.fixture(scope="module")
def client() -> Iterator[treadle.Client]:
    cluster = treadle.LocalCluster(n_workers=2, threads_per_worker=1, name="here")
    with cluster, treadle.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def shared(client: treadle.Client) -> Iterator[dict[str, Executor]]:
    with ThreadPoolExecutor(2) as threads, treadle.Executor(client) as cluster:
        yield {"threads": threads, "cluster": cluster}


@pytest.fixture(params=EXECUTORS)
def make(request: pytest.FixtureRequest, client: treadle.Client, tmp_path: Path) -> Iterator[Maker]:
    """Makes executors that run one call at a time."""
    maker = Maker(request.param, client, tmp_path)
    yield maker
    maker.close()


@pytest.fixture
def executor(make: Maker, shared: dict[str, Executor]) -> Executor:
    """One that runs two calls at a time, and is not shut down."""
    return shared[make.kind]


# Executor.submit


def test_submit_schedules_the_callable_to_be_executed_with_its_arguments(executor: Executor) -> None:
    assert executor.submit(called_with, 1, "a", b=[2]).result() == ((1, "a"), {"b": [2]})
    own = {"self": 1, "fn": 2, "key": 3, "pure": 4, "workers": 5, "timeout": 6, "priority": 7, "actor": 8}
    assert executor.submit(called_with, **own).result() == ((), own)


def test_submit_returns_a_future_that_represents_the_execution(executor: Executor, make: Maker) -> None:
    future = executor.submit(pow, 323, 1235)
    assert isinstance(future, Future)
    assert future.result() == pow(323, 1235)
    first, second = (executor.submit(touch, make.path(), os.devnull) for _ in range(2))
    assert first is not second
    assert first.result() != second.result()


def test_each_submit_is_an_execution_of_its_own(executor: Executor) -> None:
    assert executor.submit(time.monotonic_ns).result() < executor.submit(time.monotonic_ns).result()


def test_what_was_submitted_is_done_though_nobody_keeps_its_future(executor: Executor, make: Maker) -> None:
    path, gate = make.path(), make.gate()
    executor.submit(touch, path, gate.path)
    gate.open()
    eventually(lambda: os.path.exists(path + ".done"))


# Executor.map


def test_map_is_similar_to_the_builtin_map(executor: Executor) -> None:
    results = executor.map(add, [1, 2, 3], iter([10, 20]))
    assert iter(results) is results
    assert list(results) == list(map(add, [1, 2, 3], [10, 20]))
    assert list(executor.map(str, [])) == []
    assert list(executor.map(str)) == []
    assert list(executor.map(inc, [2**70, 1.5])) == [2**70 + 1, 2.5]
    assert list(executor.map(add, itertools.count(), [5, 6])) == [5, 7]


def test_map_gives_results_in_the_order_of_the_items(executor: Executor, make: Maker) -> None:
    gate = make.gate()
    Path(early := make.path()).touch()
    results = executor.map(pass_gate, [gate.path, early, early], "abc")
    gate.open()
    assert list(results) == ["a", "b", "c"]


def test_the_iterables_are_collected_immediately(executor: Executor) -> None:
    taken: list[int] = []
    results = executor.map(inc, drain(iter(range(5)), taken))
    assert taken == [0, 1, 2, 3, 4]
    assert list(results) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("make", LAZY, indirect=True)
def test_with_a_buffersize_the_iterables_are_collected_lazily(executor: Any, make: Maker) -> None:
    taken: list[int] = []
    results = executor.map(inc, drain(itertools.count(), taken), buffersize=3)
    assert taken == [0, 1, 2]
    assert [next(results) for _ in range(10)] == list(range(1, 11))
    assert len(taken) <= 13
    results.close()


@pytest.mark.parametrize("make", LAZY, indirect=True)
def test_if_the_buffer_is_full_iteration_pauses_until_a_result_is_yielded(executor: Any, make: Maker) -> None:
    gate = make.gate()
    taken: list[int] = []
    results = executor.map(pass_gate, itertools.repeat(gate.path), drain(itertools.count(), taken), buffersize=2)
    assert taken == [0, 1]
    gate.open()
    for count in range(1, 5):
        assert next(results) == count - 1
        assert len(taken) == 2 + count
    results.close()


@pytest.mark.parametrize("make", LAZY, indirect=True)
def test_buffersize_is_a_positive_integer(executor: Any, make: Maker) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(inc, [1], buffersize=wrong)
    for other in ("3", 1.5):
        with pytest.raises(TypeError, match="buffersize"):
            executor.map(inc, [1], buffersize=other)
    assert list(executor.map(inc, [1, 2], buffersize=100)) == [2, 3]


def test_several_calls_may_be_made_concurrently(executor: Executor, make: Maker) -> None:
    assert list(executor.map(meet_many, [make.path()] * 2, [2, 2])) == [2, 2]


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_maps_iterator_raises_timeout_error_if_a_result_is_not_available_in_time(make: Maker, timeout: float) -> None:
    executor, gate = make(), make.gate()
    results = executor.map(pass_gate, [gate.path], timeout=timeout)
    with pytest.raises(FutureTimeoutError):
        next(results)


def test_maps_timeout_counts_from_the_call_of_map(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, gate = make(), make.gate()
    now = [0.0]
    monkeypatch.setattr("concurrent.futures._base.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("treadle.client.executor.monotonic", lambda: now[0])
    Path(early := make.path()).touch()
    results = executor.map(pass_gate, [early, gate.path], timeout=1000)
    assert next(results) is None
    now[0] = 1001.0
    with pytest.raises(FutureTimeoutError):
        next(results)


def test_maps_timeout_can_be_left_out(executor: Executor, make: Maker) -> None:
    for options in ({}, {"timeout": None}, {"timeout": 60}, {"timeout": 60.5}):
        gate = make.gate()
        results = executor.map(pass_gate, [gate.path], [1], **options)
        gate.open()
        assert list(results) == [1]


def test_an_exception_of_a_call_is_raised_when_its_value_is_retrieved(executor: Executor, make: Maker) -> None:
    Path(path := make.path()).touch()
    results = executor.map(pass_gate, [path] * 4, [1, 2, Boom("third"), 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(Boom, match="third"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [1, 2, 3, 100])
def test_chunksize_changes_no_result(executor: Executor, make: Maker, chunksize: int) -> None:
    assert list(executor.map(add, range(7), range(7), chunksize=chunksize)) == [0, 2, 4, 6, 8, 10, 12]
    assert list(executor.map(inc, [], chunksize=chunksize)) == []
    Path(path := make.path()).touch()
    results = executor.map(pass_gate, [path] * 5, [1, 2, Boom("third"), 4, 5], chunksize=chunksize)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(Boom, match="third"):
        next(results)
    assert list(results) == []


def test_when_maps_iterator_ends_early_what_has_not_started_is_cancelled(make: Maker) -> None:
    executor = make()
    _, gate = make.hold(executor)
    Path(early := make.path()).touch()
    paths = [make.path() for _ in range(3)]
    results = executor.map(touch, paths, [early] * 3, timeout=0)
    with pytest.raises(FutureTimeoutError):
        next(results)
    make.confirm()
    gate.open()
    assert executor.submit(inc, 1).result() == 2
    assert [os.path.exists(path) for path in paths] == [False, False, False]


# Executor.shutdown


def test_calls_of_submit_and_map_made_after_shutdown_raise_runtime_error(make: Maker) -> None:
    for wait in (True, False):
        executor = make()
        executor.shutdown(wait=wait)
        with pytest.raises(RuntimeError):
            executor.submit(inc, 1)
        with pytest.raises(RuntimeError):
            executor.map(inc, [1])
        executor.shutdown(wait=wait)


def shut_down(executor: Executor, **options: Any) -> threading.Thread:
    """Shut down in a thread, which is in the middle of it when this returns."""
    thread = threading.Thread(target=lambda: executor.shutdown(**options))
    thread.start()

    def begun() -> bool:
        try:
            executor.submit(inc, 1).cancel()
        except RuntimeError:
            return True
        return False

    eventually(begun)
    return thread


def test_with_wait_shutdown_does_not_return_until_all_pending_futures_are_done(make: Maker) -> None:
    executor = make()
    first, gate = make.hold(executor, 1)
    second = executor.submit(inc, 1)
    thread = shut_down(executor, wait=True)
    assert thread.is_alive()
    assert not first.done()
    gate.open()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert (first.done(), second.done()) == (True, True)
    assert (first.result(), second.result()) == (1, 2)


def test_without_wait_shutdown_returns_immediately(make: Maker) -> None:
    executor = make()
    first, gate = make.hold(executor, 1)
    second = executor.submit(inc, 1)
    executor.shutdown(wait=False)
    assert not first.done()
    assert not second.cancelled()
    gate.open()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (1, 2)


def test_with_cancel_futures_what_has_not_started_is_cancelled(make: Maker) -> None:
    executor = make()
    completed = executor.submit(inc, 0)
    assert completed.result() == 1
    running, gate = make.hold(executor, 1)
    pending = [executor.submit(inc, 1) for _ in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in pending))
    assert completed.result() == 1
    assert not running.cancelled()
    gate.open()
    assert running.result(PATIENCE) == 1


def test_with_cancel_futures_and_wait_what_runs_is_completed_before_shutdown_returns(make: Maker) -> None:
    executor = make()
    running, gate = make.hold(executor, 1)
    pending = [executor.submit(inc, 1) for _ in range(3)]
    thread = shut_down(executor, wait=True, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in pending))
    assert not running.done()
    gate.open()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert running.result(0) == 1


def test_the_with_statement_shuts_down_and_waits(make: Maker) -> None:
    with make() as executor:
        futures = [executor.submit(inc, number) for number in range(3)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [1, 2, 3]
    with pytest.raises(RuntimeError):
        executor.submit(inc, 1)


PROGRAMS = {"threads": "concurrent.futures.ThreadPoolExecutor(1)", "cluster": "treadle.Executor(max_workers=1)"}
ENDS = ["", "executor.shutdown(wait=False)", "del executor", "raise SystemExit(0)"]


@pytest.mark.parametrize("kind", EXECUTORS)
@pytest.mark.parametrize("end", ENDS)
def test_the_program_does_not_exit_until_all_pending_futures_are_done(
    kind: str, end: str, script: Script, tmp_path: Path
) -> None:
    source = f"""
        import atexit, concurrent.futures, sys, treadle

        def note(text):
            with open(sys.argv[1], "a") as file:
                file.write(text)

        def wait_and_note(gate, number, path):
            import fcntl
            with open(gate) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
            with open(path, "a") as file:
                file.write(f"{{number}} ")

        atexit.register(note, "exit")
        executor = {PROGRAMS[kind]}
        for number in range(3):
            executor.submit(wait_and_note, sys.argv[2], number, sys.argv[1])
        print("submitted", flush=True)
        {end}
    """
    gate, path = Gate(tmp_path / "gate"), tmp_path / "notes"
    process = script(source, path, gate.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "submitted\n"
    assert not path.exists()
    gate.open()
    finish(process)
    assert path.read_text() == "0 1 2 exit"


# Future.cancel, cancelled, running, done


def test_cancel_returns_false_if_the_call_is_being_executed(make: Maker) -> None:
    future, gate = make.hold(make(), 1)
    assert not future.cancel()
    assert (future.running(), future.cancelled(), future.done()) == (True, False, False)
    gate.open()
    assert future.result() == 1


def test_cancel_returns_false_if_the_call_has_finished(executor: Executor) -> None:
    for future in (executor.submit(inc, 1), executor.submit(boom)):
        future.exception()
        assert not future.cancel()
        assert not future.cancelled()


def test_otherwise_the_call_is_cancelled_and_cancel_returns_true(make: Maker) -> None:
    executor = make()
    _, gate = make.hold(executor)
    Path(early := make.path()).touch()
    path = make.path()
    future = executor.submit(touch, path, early)
    assert future.cancel()
    assert future.cancel()
    make.confirm()
    gate.open()
    assert executor.submit(inc, 1).result() == 2
    assert not os.path.exists(path)


def test_cancelled_tells_whether_the_call_was_cancelled(make: Maker) -> None:
    executor = make()
    running, gate = make.hold(executor)
    future = executor.submit(inc, 1)
    assert not future.cancelled()
    future.cancel()
    assert future.cancelled()
    gate.open()
    running.result()
    assert not running.cancelled()


def test_running_tells_whether_the_call_is_being_executed(make: Maker) -> None:
    executor = make()
    running, gate = make.hold(executor)
    waiting = executor.submit(inc, 1)
    assert running.running()
    assert not waiting.running()
    gate.open()
    running.result()
    waiting.result()
    assert not running.running()
    assert not waiting.running()


def test_done_tells_whether_the_call_was_cancelled_or_has_finished(make: Maker) -> None:
    executor = make()
    running, gate = make.hold(executor)
    cancelled, failing = executor.submit(inc, 1), executor.submit(boom)
    assert [future.done() for future in (running, cancelled, failing)] == [False] * 3
    cancelled.cancel()
    assert cancelled.done()
    gate.open()
    running.result()
    failing.exception()
    assert (running.done(), failing.done()) == (True, True)


# Future.result, Future.exception


def test_result_returns_the_value_returned_by_the_call(executor: Executor) -> None:
    assert executor.submit(inc, 1).result() == 2
    assert len(executor.submit(bytes, 1_000_000).result()) == 1_000_000


@pytest.mark.parametrize("ask", ["result", "exception"])
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_it_waits_up_to_timeout_seconds_and_raises_timeout_error(make: Maker, ask: str, timeout: float) -> None:
    future, gate = make.hold(make(), 1)
    with pytest.raises(FutureTimeoutError):
        getattr(future, ask)(timeout)
    with pytest.raises(FutureTimeoutError):
        getattr(future, ask)(timeout=timeout)
    gate.open()
    assert future.result() == 1


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_without_timeout_there_is_no_limit_to_the_wait_time(make: Maker, ask: str) -> None:
    for options in ({}, {"timeout": None}):
        future, gate = make.hold(make(), 1)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(getattr(future, ask)(**options)))  # noqa: B023
        thread.start()
        gate.open()
        thread.join(PATIENCE)
        assert answers == [1 if ask == "result" else None]


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_if_the_future_is_cancelled_before_completing_cancelled_error_is_raised(make: Maker, ask: str) -> None:
    executor = make()
    make.hold(executor)
    future = executor.submit(inc, 1)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            getattr(future, ask)()
        except CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert future.cancel()
    thread.join(PATIENCE)
    assert len(caught) == 1
    with pytest.raises(CancelledError):
        getattr(future, ask)()


def test_if_the_call_raised_an_exception_result_raises_it(executor: Executor) -> None:
    future = executor.submit(boom, "it broke", 3)
    for _ in range(2):
        with pytest.raises(Boom) as caught:
            future.result()
        assert caught.value.args == ("it broke", 3)
        assert caught.value is future.exception()


def test_exception_returns_the_exception_raised_by_the_call(executor: Executor) -> None:
    error = executor.submit(boom, "it broke").exception()
    assert isinstance(error, Boom)
    assert error.args == ("it broke",)


def test_if_the_call_completed_without_raising_exception_returns_none(executor: Executor) -> None:
    assert executor.submit(inc, 1).exception() is None
    assert executor.submit(bytes, 1_000_000).exception() is None


# Future.add_done_callback


def test_a_callback_is_called_with_the_future_when_it_finishes(make: Maker) -> None:
    for value in (1, Boom()):
        future, gate = make.hold(make(), value)
        called: list[Any] = []
        over = threading.Event()
        future.add_done_callback(lambda *args, called=called: called.append(args))
        future.add_done_callback(lambda each, over=over: over.set())  # type: ignore[misc]
        assert called == []
        gate.open()
        assert over.wait(PATIENCE)
        assert called == [(future,)]


def test_a_callback_is_called_with_the_future_when_it_is_cancelled(make: Maker) -> None:
    executor = make()
    make.hold(executor)
    future = executor.submit(inc, 1)
    called: list[Any] = []
    future.add_done_callback(called.append)
    future.cancel()
    assert called == [future]


def test_callbacks_are_called_in_the_order_in_which_they_were_added(make: Maker) -> None:
    future, gate = make.hold(make())
    called: list[int] = []
    over = threading.Event()
    for number in range(5):
        future.add_done_callback(lambda each, number=number: called.append(number))  # type: ignore[misc]
    future.add_done_callback(lambda each: over.set())
    gate.open()
    assert over.wait(PATIENCE)
    assert called == [0, 1, 2, 3, 4]


def test_callbacks_are_called_in_the_process_that_added_them(executor: Executor) -> None:
    pids: list[int] = []
    over = threading.Event()
    future = executor.submit(os.getpid)
    future.add_done_callback(lambda each: pids.append(os.getpid()))
    future.add_done_callback(lambda each: over.set())
    assert over.wait(PATIENCE)
    assert pids == [os.getpid()]


def test_an_exception_of_a_callback_is_logged_and_ignored(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    future, gate = make.hold(make(), 1)
    over = threading.Event()
    future.add_done_callback(lambda each: boom("in a callback"))
    future.add_done_callback(lambda each: over.set())
    gate.open()
    assert over.wait(PATIENCE)
    assert "in a callback" in caplog.text
    caplog.clear()
    future.add_done_callback(lambda each: boom("in a late callback"))
    assert "in a late callback" in caplog.text
    assert future.result() == 1


def test_a_callback_of_a_future_that_is_done_is_called_immediately(make: Maker) -> None:
    executor = make()
    finished = executor.submit(inc, 1)
    finished.result()
    make.hold(executor)
    cancelled = executor.submit(inc, 1)
    cancelled.cancel()
    for future in (finished, cancelled):
        called: list[Any] = []
        future.add_done_callback(called.append)
        assert called == [future]


# The methods for unit tests


def test_set_running_or_notify_cancel_returns_true_and_puts_the_future_in_the_running_state(make: Maker) -> None:
    future = make.bare()
    assert not future.running()
    assert future.set_running_or_notify_cancel()
    assert future.running()
    assert not future.cancel()


def test_set_running_or_notify_cancel_returns_false_if_the_future_was_cancelled(make: Maker) -> None:
    future = make.bare()
    assert future.cancel()
    assert not future.set_running_or_notify_cancel()
    assert future.cancelled()


@pytest.mark.parametrize("watch", [concurrent.futures.wait, lambda futures: list(treadle.as_completed(futures))])
def test_those_who_wait_for_a_cancelled_future_are_woken_up(make: Maker, watch: Any) -> None:
    future = make.bare()
    thread = threading.Thread(target=watch, args=([future],))
    thread.start()
    future.cancel()
    future.set_running_or_notify_cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_set_running_or_notify_cancel_can_only_be_called_once(make: Maker) -> None:
    future = make.bare()
    future.set_running_or_notify_cancel()
    with pytest.raises(RuntimeError):
        future.set_running_or_notify_cancel()


def test_set_running_or_notify_cancel_cannot_be_called_after_set_result_or_set_exception(make: Maker) -> None:
    first, second = make.bare(), make.bare()
    first.set_result(1)
    second.set_exception(Boom())
    for future in (first, second):
        with pytest.raises(RuntimeError):
            future.set_running_or_notify_cancel()


def test_set_result_sets_the_result(make: Maker) -> None:
    future = make.bare()
    called: list[Any] = []
    future.add_done_callback(called.append)
    future.set_running_or_notify_cancel()
    value = object()
    future.set_result(value)
    assert future.result() is value
    assert future.exception() is None
    assert called == [future]
    assert concurrent.futures.wait([future], 0).done == {future}


def test_set_exception_sets_the_exception(make: Maker) -> None:
    future, error = make.bare(), Boom("set")
    thread = threading.Thread(target=concurrent.futures.wait, args=([future],))
    thread.start()
    future.set_exception(error)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert future.exception() is error
    with pytest.raises(Boom, match="set"):
        future.result()


def test_set_result_and_set_exception_raise_invalid_state_error_if_the_future_is_done(make: Maker) -> None:
    done, failed, cancelled = make.bare(), make.bare(), make.bare()
    done.set_result(1)
    failed.set_exception(Boom())
    cancelled.cancel()
    for future in (done, failed, cancelled):
        with pytest.raises(InvalidStateError):
            future.set_result(2)
        with pytest.raises(InvalidStateError):
            future.set_exception(ValueError())
    assert done.result() == 1
    assert isinstance(failed.exception(), Boom)


# wait: the standard library's, and ours, which takes futures of both too

WAITS: list[Callable[..., Any]] = [concurrent.futures.wait, treadle.wait]
both_waits = pytest.mark.parametrize("wait", WAITS, ids=["standard", "treadle"])


@both_waits
def test_wait_returns_two_sets_of_what_has_completed_and_what_has_not(make: Maker, wait: Any) -> None:
    executor = make()
    finished, failed = executor.submit(inc, 1), executor.submit(boom)
    failed.exception()
    running, gate = make.hold(executor)
    pending, cancelled = executor.submit(inc, 1), executor.submit(inc, 1)
    cancelled.cancel()
    both = wait([finished, failed, running, pending], timeout=0)
    assert (type(both[0]), type(both[1])) == (set, set)
    assert both.done == both[0] == {finished, failed}
    assert both.not_done == both[1] == {running, pending}
    gate.open()
    assert wait([running, pending, cancelled]).done == {running, pending, cancelled}


@both_waits
def test_wait_takes_futures_of_different_executors(shared: dict[str, Executor], wait: Any) -> None:
    futures = [executor.submit(inc, number) for number in range(5) for executor in shared.values()]
    for mode in (FIRST_EXCEPTION, ALL_COMPLETED):
        done, not_done = wait(futures, return_when=mode)
        assert (done, not_done) == (set(futures), set())


@both_waits
def test_wait_removes_duplicates(executor: Executor, wait: Any) -> None:
    future = executor.submit(inc, 1)
    assert wait([future, future, future]) == ({future}, set())
    assert wait(iter([future])).done == {future}
    assert wait([]) == (set(), set())


@both_waits
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_waits_timeout_limits_the_seconds_before_it_returns(make: Maker, wait: Any, timeout: float) -> None:
    future, _ = make.hold(make())
    assert wait([future], timeout=timeout) == (set(), {future})
    assert wait([future], timeout, FIRST_COMPLETED) == (set(), {future})


@both_waits
def test_without_timeout_wait_has_no_limit(make: Maker, wait: Any) -> None:
    future, gate = make.hold(make())
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda options=options: answers.append(wait([future], **options)))
        for options in ({}, {"timeout": None}, {"timeout": 60.5})
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [({future}, set())] * 3


@both_waits
def test_with_first_completed_wait_returns_when_any_future_finishes_or_is_cancelled(make: Maker, wait: Any) -> None:
    executor = make()
    finished = executor.submit(inc, 1)
    finished.result()
    running, _ = make.hold(executor)
    assert wait([finished, running], return_when=FIRST_COMPLETED) == ({finished}, {running})
    pending = make.bare()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(wait([running, pending], return_when=FIRST_COMPLETED)))
    thread.start()
    pending.cancel()
    pending.set_running_or_notify_cancel()
    thread.join(PATIENCE)
    assert answers == [({pending}, {running})]


@both_waits
def test_with_first_exception_wait_returns_when_any_future_raises(make: Maker, wait: Any) -> None:
    executor = make()
    running, gate = make.hold(executor, Boom())
    finished, later = make.bare(), make.bare()
    finished.set_result(1)
    answers: list[Any] = []
    futures = [running, finished, later]
    thread = threading.Thread(target=lambda: answers.append(wait(futures, return_when=FIRST_EXCEPTION)))
    thread.start()
    gate.open()
    thread.join(PATIENCE)
    assert answers == [({running, finished}, {later})]


@both_waits
@pytest.mark.parametrize("mode", [FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait_returns_when_all_futures_finish_or_are_cancelled(make: Maker, wait: Any, mode: str) -> None:
    executor = make()
    running, gate = make.hold(executor)
    finished, cancelled = make.bare(), make.bare()
    finished.set_result(1)
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    futures = {running, finished, cancelled}
    assert wait(futures, 0.01, mode).not_done == {running}
    gate.open()
    assert wait(futures, PATIENCE, mode) == (futures, set())


@both_waits
def test_return_when_must_be_one_of_the_constants(executor: Executor, make: Maker, wait: Any) -> None:
    with pytest.raises(ValueError, match="SOMETIMES"):
        wait([make.bare()], return_when="SOMETIMES")


# as_completed

AS_COMPLETED: list[Callable[..., Any]] = [concurrent.futures.as_completed, treadle.as_completed]
both_as_completed = pytest.mark.parametrize("as_completed", AS_COMPLETED, ids=["standard", "treadle"])


@both_as_completed
def test_as_completed_yields_futures_as_they_complete(make: Maker, as_completed: Any) -> None:
    executor = make()
    first, gate = make.hold(executor)
    second, third = make.bare(), make.bare()
    iterator = as_completed([third, second, first])
    second.set_result(1)
    assert next(iterator) is second
    third.cancel()
    third.set_running_or_notify_cancel()
    assert next(iterator) is third
    gate.open()
    assert list(iterator) == [first]


@both_as_completed
def test_as_completed_takes_futures_of_different_executors(shared: dict[str, Executor], as_completed: Any) -> None:
    futures = [executor.submit(inc, number) for number in range(5) for executor in shared.values()]
    assert set(as_completed(futures)) == set(futures)


@both_as_completed
def test_as_completed_returns_duplicates_once(executor: Executor, as_completed: Any) -> None:
    future = executor.submit(inc, 1)
    assert list(as_completed([future, future])) == [future]
    assert list(as_completed([])) == []


@both_as_completed
def test_what_completed_before_as_completed_is_called_is_yielded_first(make: Maker, as_completed: Any) -> None:
    executor = make()
    before = [executor.submit(inc, number) for number in range(3)]
    concurrent.futures.wait(before)
    running, gate = make.hold(executor)
    iterator = as_completed([running, *before])
    assert {next(iterator) for _ in before} == set(before)
    gate.open()
    assert list(iterator) == [running]


@both_as_completed
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_as_completed_raises_timeout_error(make: Maker, as_completed: Any, timeout: float) -> None:
    finished = make.bare()
    finished.set_result(1)
    running, _ = make.hold(make())
    iterator = as_completed([running, finished], timeout=timeout)
    assert next(iterator) is finished
    with pytest.raises(FutureTimeoutError):
        next(iterator)


@both_as_completed
def test_without_timeout_as_completed_has_no_limit(make: Maker, as_completed: Any) -> None:
    for options in ({}, {"timeout": None}, {"timeout": 60}, {"timeout": 60.5}):
        future, gate = make.hold(make())
        gate.open()
        assert list(as_completed([future], **options)) == [future]


# Exceptions


def test_broken_executor_is_derived_from_runtime_error() -> None:
    assert issubclass(BrokenExecutor, RuntimeError)
    assert issubclass(treadle.errors.BrokenClusterError, BrokenExecutor)


def broken(kind: str) -> tuple[Executor, Future[Any]]:
    """An executor that is broken, and a future of a call that it could not do any more."""
    if kind == "threads":
        threads = ThreadPoolExecutor(1, initializer=boom)
        return threads, threads.submit(inc, 1)
    with treadle.LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
        executor = treadle.Executor(cluster, resources={"none": 1})
        return executor, executor.submit(inc, 1)


@pytest.mark.parametrize("kind", EXECUTORS)
def test_broken_executor_is_raised_when_an_executor_is_broken_and_cannot_be_used(kind: str) -> None:
    executor, future = broken(kind)
    assert isinstance(future.exception(PATIENCE), BrokenExecutor)
    with pytest.raises(BrokenExecutor):
        executor.submit(inc, 1)
    with pytest.raises(BrokenExecutor):
        executor.map(inc, [1])
    executor.shutdown()
