"""A future of a client is a future of the standard library. What the cluster does is said by the tests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import logging
import pickle
import threading
import traceback
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest
from client_parts import FakeCluster

from treadle import Client, Future
from treadle.client.future import PENDING
from treadle.errors import ClosedError, ConnectError, NotSerializableError, ResultNotSerializableError, UserError
from treadle.testing.tasks import Boom, boom, eventually, inc
from treadle.wire import messages
from treadle.wire.failures import pack_error
from treadle.wire.values import pack_value


@pytest.fixture
def future(fake: FakeCluster, client: Client) -> Future[int]:
    """A future whose task has been sent."""
    future = client.submit(inc, 1, key="x")
    fake.expect(messages.Submit)
    return future


def fail(fake: FakeCluster, key: str, error: BaseException, culprit: str = "") -> None:
    try:
        raise error
    except BaseException as raised:
        packed = pack_error(raised)
    fake.send(("failed", [(key, culprit or key, packed)]))


def test_a_pending_future(future: Future[int]) -> None:
    assert isinstance(future, concurrent.futures.Future)
    assert (future.done(), future.running(), future.cancelled(), future.status) == (False, False, False, "pending")
    assert repr(future) == "<Future 'x' pending>"


def test_a_new_future_makes_nothing_that_it_does_not_need(future: Future[int]) -> None:
    assert vars(future).keys() == {"key", "_session"}
    assert future._condition is future._condition
    assert future._waiters is future._waiters


def test_a_small_result(fake: FakeCluster, future: Future[Any]) -> None:
    fake.done("x", value=[1, {"a"}])
    assert future.result(timeout=30) == [1, {"a"}]
    assert future.result() is future.result()
    assert (future.done(), future.status, future.exception()) == (True, "finished", None)
    assert repr(future) == "<Future 'x' finished list>"


def test_a_result_is_unpacked_when_it_is_read(fake: FakeCluster, client: Client, future: Future[Any]) -> None:
    fake.done("x", value={"a": 1})
    concurrent.futures.wait([future])
    assert future._held == pack_value({"a": 1})
    assert repr(future) == "<Future 'x' finished>"
    assert future.result() == {"a": 1}
    assert future._held is None


def test_a_result_that_cannot_be_unpacked(fake: FakeCluster, future: Future[Any]) -> None:
    fake.send(("done", [("x", 3, b"\x80\x05nonsense", "w", fake.worker)]))
    with pytest.raises(ResultNotSerializableError, match="cannot be read back"):
        future.result()
    assert future.status == "error"
    assert isinstance(future.exception(), ResultNotSerializableError)


def test_an_error(fake: FakeCluster, future: Future[int]) -> None:
    fail(fake, "x", Boom("it broke"))
    assert isinstance(future.exception(), Boom)
    assert (future.done(), future.status) == (True, "error")
    assert repr(future) == "<Future 'x' error Boom>"
    lengths = []
    for _ in range(2):
        with pytest.raises(Boom, match="it broke") as caught:
            future.result()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert caught.value.__notes__ == ["while running task 'x'"]  # type: ignore[attr-defined]
    # This function, result(), and where it was raised; raising it once more adds nothing.
    assert lengths == [3, 3]


def test_the_error_of_a_dependency_names_what_failed(fake: FakeCluster, future: Future[int]) -> None:
    fail(fake, "x", Boom(), culprit="y")
    error = future.exception()
    assert error is not None
    assert error.__notes__ == ["while running task 'y'"]  # type: ignore[attr-defined]


def test_a_failed_future_leaves_no_circle_behind(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    fake.expect(messages.Submit)
    fail(fake, "x", Boom())
    gc.collect()
    gc.disable()
    try:
        try:
            future.result()
        except Boom:
            pass
        del future
        assert fake.expect(messages.Release).keys == ["x"]
    finally:
        gc.enable()


def test_a_timeout(fake: FakeCluster, future: Future[int]) -> None:
    for _ in range(2):
        with pytest.raises(FutureTimeoutError):
            future.result(timeout=0.001)
        with pytest.raises(FutureTimeoutError):
            future.exception(timeout=0)
    assert future._watch == ()
    fake.done("x", value=2)
    assert future.result(timeout=30) == 2


def test_several_threads_wait(fake: FakeCluster, future: Future[int]) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(future.result())) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(future._watch) == 3)
    fake.done("x", value=2)
    for thread in threads:
        thread.join()
    assert results == [2, 2, 2]


# The standard library


def test_wait_of_the_standard_library(fake: FakeCluster, client: Client) -> None:
    futures = client.map(inc, range(4), key="x")
    assert concurrent.futures.wait(futures, timeout=0).not_done == set(futures)
    fake.expect(messages.Submit)
    fake.done("x-0", "x-1", "x-2", value=1)
    done, not_done = concurrent.futures.wait(futures[:3])
    assert (done, not_done) == (set(futures[:3]), set())
    fail(fake, "x-3", Boom())
    assert concurrent.futures.wait(futures, return_when="FIRST_EXCEPTION").done == set(futures)


def test_as_completed_of_the_standard_library(fake: FakeCluster, client: Client) -> None:
    futures: list[concurrent.futures.Future[Any]] = [*client.map(inc, range(3), key="x")]
    iterator = concurrent.futures.as_completed(futures, timeout=30)
    fake.expect(messages.Submit)
    fake.done("x-1", value=1)
    assert next(iterator) is futures[1]
    futures[0].cancel()
    assert next(iterator) is futures[0]
    fail(fake, "x-2", Boom())
    assert list(iterator) == [futures[2]]


def test_it_can_be_wrapped_for_asyncio(fake: FakeCluster, future: Future[int]) -> None:
    async def main() -> int:
        wrapped = asyncio.wrap_future(future)
        fake.done("x", value=5)
        return await wrapped

    assert asyncio.run(main()) == 5


def test_it_can_be_awaited_on_any_loop(fake: FakeCluster, client: Client, future: Future[int]) -> None:
    other = client.submit(inc, 2, key="y")
    fake.expect(messages.Submit)

    async def main() -> Any:
        fake.done("x", value=5)
        fail(fake, "y", Boom("no"))
        return await asyncio.gather(future, other, future, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (first, str(second), third) == (5, "no", 5)


def test_what_waits_in_a_loop_can_be_cancelled(fake: FakeCluster, future: Future[int]) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(_await(future)), 0.001)

    asyncio.run(main())
    assert future.status == "pending"
    assert future._watch == ()


async def _await(future: Future[Any]) -> Any:
    return await future


def test_callbacks(fake: FakeCluster, future: Future[int], caplog: pytest.LogCaptureFixture) -> None:
    called: list[Any] = []
    over = threading.Event()
    future.add_done_callback(lambda each: called.append((1, each.result())))
    future.add_done_callback(lambda each: boom("in a callback"))
    future.add_done_callback(lambda each: over.set())
    fake.done("x", value=2)
    assert over.wait(30)
    assert called == [(1, 2)]
    assert "exception calling callback" in caplog.text
    future.add_done_callback(lambda each: called.append(2))
    assert called == [(1, 2), 2]


# Results that are fetched


def test_a_big_result(fake: FakeCluster, future: Future[Any]) -> None:
    fake.store["x"] = b"big" * 10_000
    fake.placed("x")
    assert concurrent.futures.wait([future]).done == {future}
    assert fake.asked == []
    assert future.exception() is None
    assert fake.asked == []
    assert future.result() == b"big" * 10_000
    assert future.result() is future.result()
    assert fake.asked == ["x"]


def test_many_big_results_in_one_request(fake: FakeCluster, client: Client) -> None:
    futures = client.map(inc, range(20), key="x")
    fake.expect(messages.Submit)
    fake.store.update({future.key: [future.key] * 1000 for future in futures})
    fake.placed(*fake.store)
    assert client.gather({"all": futures}) == {"all": list(fake.store.values())}
    assert sorted(fake.asked) == sorted(fake.store)


def test_a_callback_finds_a_big_result(fake: FakeCluster, future: Future[Any]) -> None:
    fake.store["x"] = b"big"
    called: list[Any] = []
    over = threading.Event()
    future.add_done_callback(lambda each: called.append(each.result()))
    future.add_done_callback(lambda each: over.set())
    fake.placed("x")
    assert over.wait(30)
    assert called == [b"big"]


def test_a_result_that_has_moved(fake: FakeCluster, client: Client, future: Future[Any]) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(future.result()))
    fake.placed("x")
    thread.start()
    assert fake.expect(messages.ClientMissing).rows == [("x", "w")]
    fake.store["x"] = b"found"
    fake.placed("x")
    thread.join(30)
    assert results == [b"found"]


def test_a_worker_that_is_gone(fake: FakeCluster, future: Future[Any]) -> None:
    fake.placed("x", address="127.0.0.1:1")
    thread = threading.Thread(target=future.exception)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(future.result()))
    thread.start()
    assert fake.expect(messages.ClientMissing).rows == [("x", "w")]
    fake.done("x", value="computed again")
    thread.join(30)
    assert results == ["computed again"]


def test_a_result_that_is_lost_for_good(fake: FakeCluster, future: Future[Any]) -> None:
    fake.placed("x")
    concurrent.futures.wait([future])
    errors: list[Any] = []

    def ask() -> None:
        try:
            future.result()
        except Boom as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    fake.expect(messages.ClientMissing)
    fail(fake, "x", Boom("the second time it broke"))
    thread.join(30)
    assert [str(error) for error in errors] == ["the second time it broke"]
    assert future.status == "error"


# Cancelling and releasing


def test_cancel(fake: FakeCluster, client: Client, future: Future[int]) -> None:
    over = threading.Event()
    future.add_done_callback(lambda each: over.set())
    assert future.cancel()
    assert fake.expect(messages.Cancel).keys == ["x"]
    assert fake.expect(messages.Fence).number == 1
    assert over.wait(30)
    assert (future.done(), future.cancelled(), future.status) == (True, True, "cancelling")
    fake.send(("cancelled", ["x"], "its client wanted it so"))
    eventually(lambda: future.status == "cancelled")
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError, match="'x' was cancelled"):
            ask()
    assert future.cancel()
    assert fake.unread() == []


def test_cancel_comes_too_late(fake: FakeCluster, future: Future[int]) -> None:
    fake.done("x", value=1)
    future.result()
    assert not future.cancel()
    assert future.status == "finished"


def test_a_key_can_be_used_again_after_it_was_cancelled(fake: FakeCluster, client: Client, future: Future[int]) -> None:
    future.cancel()
    again = client.submit(inc, 1, key="x")
    fake.expect(messages.Cancel)
    fake.expect(messages.Submit)
    fake.send(("cancelled", ["x"], "as it was asked for"))  # which is about the first
    fake.done("x", value=7)
    assert again.result() == 7


def test_the_scheduler_cancels(fake: FakeCluster, future: Future[int]) -> None:
    fake.send(("cancelled", ["x"], "somebody else wanted it so"))
    with pytest.raises(CancelledError):
        future.result()
    del future
    gc.collect()


def test_a_forgotten_future_is_released(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="x")
    fake.expect(messages.Submit)
    del future
    assert fake.expect(messages.Release).keys == ["x"]


def test_releasing(fake: FakeCluster, client: Client) -> None:
    first, second = client.submit(inc, 1, key="x"), client.submit(inc, 1, key="y")
    fake.expect(messages.Submit)
    fake.done("x", value=1)
    assert first.result() == 1
    first.release()
    first.release()
    second.release()
    released = [*fake.expect(messages.Release).keys]
    while len(released) < 2:
        released += fake.expect(messages.Release).keys
    assert released == ["x", "y"]
    assert first.result() == 1
    with pytest.raises(CancelledError, match="'y' was released"):
        second.result()


def test_the_last_of_several_futures_releases(fake: FakeCluster, client: Client) -> None:
    first, second = client.submit(inc, 1), client.submit(inc, 1)
    assert first is not second
    assert first.key == second.key
    (key,) = fake.expect(messages.Submit).keys
    del first
    gc.collect()
    client.submit(inc, 2, key="y").cancel()
    fake.expect(messages.Cancel)
    assert [message for message in fake.unread() if isinstance(message, messages.Release)] == []
    fake.done(key, value=2)
    assert second.result() == 2
    third = client.submit(inc, 1)
    assert third.done()
    assert third.result() == 2
    del second, third
    assert fake.expect(messages.Release).keys == [key]


def test_a_key_that_was_just_released_is_asked_for_anew(fake: FakeCluster, client: Client) -> None:
    session = client.session
    future = client.submit(inc, 1, key="x")
    fake.expect(messages.Submit)
    with session._sending:  # nothing leaves while this is held
        del future
        again = client.submit(inc, 1, key="x")
    assert fake.expect(messages.Release).keys == ["x"]
    assert fake.expect(messages.Submit).keys == ["x"]
    fake.done("x", value=3)
    assert again.result() == 3


# Ends


def test_it_cannot_be_pickled_by_itself(future: Future[int]) -> None:
    with pytest.raises(NotSerializableError, match="Pass it as an argument of a task"):
        pickle.dumps(future)
    with pytest.raises(NotSerializableError):
        copy.copy(future)


def test_a_lost_scheduler(fake: FakeCluster, client: Client) -> None:
    done, big, pending = client.map(inc, range(3), key="x")
    fake.expect(messages.Submit)
    fake.done("x-0", value=1)
    fake.placed("x-1")
    concurrent.futures.wait([done, big])
    fake.lose()
    for future in (big, pending):
        with pytest.raises(ConnectError, match=fake.address):
            future.result()
        assert future.status == "lost"
    assert done.result() == 1
    assert repr(client).endswith("lost>")
    with pytest.raises(ConnectError, match=fake.address):
        client.submit(inc, 1)
    with pytest.raises(ConnectError, match=fake.address):
        client.scheduler_info()


def test_a_question_when_the_scheduler_is_lost(fake: FakeCluster, client: Client) -> None:
    errors: list[Any] = []

    def ask() -> None:
        try:
            client.scheduler_info()
        except ConnectError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    fake.expect(messages.Ask)
    fake.lose()
    thread.join(30)
    assert [error.address for error in errors] == [fake.address]


def test_closing_the_client(fake: FakeCluster) -> None:
    client = fake.client()
    done, big, pending = client.map(inc, range(3), key="x")
    fake.expect(messages.Submit)
    fake.done("x-0", value=1)
    fake.placed("x-1")
    concurrent.futures.wait([done, big])
    client.close()
    client.close()
    assert done.result() == 1
    for future in (big, pending):
        assert future.status == "cancelled"
        with pytest.raises(CancelledError):
            future.result()
    for use in (lambda: client.submit(inc, 1), lambda: client.get({"x": (inc, 1)}, "x"), client.scheduler_info):
        with pytest.raises(ClosedError, match="this client is closed"):
            use()
    assert repr(client).endswith("closed>")


def test_waiting_in_the_thread_that_receives(fake: FakeCluster, client: Client, future: Future[int]) -> None:
    other = client.submit(inc, 1, key="y")
    fake.expect(messages.Submit)
    errors: list[BaseException] = []
    over = threading.Event()

    def wait(each: Any) -> None:
        for use in (other.result, other.exception, lambda: client.gather([other]), client.scheduler_info):
            try:
                use()
            except UserError as error:
                errors.append(error)
        over.set()

    future.add_done_callback(wait)
    fake.done("x", value=1)
    assert over.wait(30)
    assert len(errors) == 4
    assert all("would never end" in str(error) for error in errors)


def test_what_the_session_is_told_of_others_is_ignored(fake: FakeCluster, client: Client, future: Future[int]) -> None:
    fake.done("unknown", value=1)
    fail(fake, "unknown", Boom())
    fake.send(("cancelled", ["unknown"], ""), ("answer", 99, True, None))
    fake.done("x", value=1)
    assert future.result() == 1
    fake.done("x", value=2)
    fail(fake, "x", Boom())
    fake.send(("cancelled", ["x"], ""))
    other = client.submit(inc, 1, key="y")
    fake.expect(messages.Submit)
    fake.done("y", value=1)
    assert other.result() == 1
    assert future.result() == 1
    assert future._state != PENDING


def test_the_standard_librarys_log_is_quiet(caplog: pytest.LogCaptureFixture, future: Future[int]) -> None:
    with caplog.at_level(logging.DEBUG):
        future.cancel()
    assert caplog.records == []
