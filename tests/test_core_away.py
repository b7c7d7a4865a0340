"""Cancelled tasks, tasks that occupy no thread, actors, and other tries, event by event."""

from __future__ import annotations

import pytest
from core_parts import RAISED, Stage

from treadle.core.records import ACTOR, ASYNCHRONOUS, PURE, STARTS
from treadle.core.scheduler import CANCELLED_BY_CLIENT
from treadle.errors import ProtocolError


def test_the_end_of_a_cancelled_task_is_told_when_its_worker_is_gone() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_cancel(stage.client, ["x"], 1.0)
    assert stage.sent(stage.client) == []
    stage.core.on_worker_lost(worker, 2.0)
    assert stage.sent(stage.client) == [("cancelled", ["x"], CANCELLED_BY_CLIENT)]
    stage.core.sanity_check()


def test_a_client_that_is_gone_hears_nothing_of_what_it_cancelled() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_cancel(stage.client, ["x"], 1.0)
    stage.core.on_client_gone(stage.client, 1.0)
    stage.core.on_stopped(worker, [1], 2.0)
    assert stage.client.outbox == []
    stage.core.sanity_check()


def test_what_one_client_cancels_goes_on_for_another() -> None:
    stage = Stage(1)
    other = stage.connect("other")
    stage.submit({"x": ()})
    stage.submit({"x": ()}, client=other)
    stage.core.on_cancel(stage.client, ["x"], 1.0)
    assert stage.sent(stage.client) == [("cancelled", ["x"], CANCELLED_BY_CLIENT)]
    assert stage.state("x") == "processing"


def test_what_one_client_cancels_by_force_fails_for_others() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    other = stage.connect("other")
    stage.submit({"x": ()})
    stage.submit({"x": (), "y": ["x"]}, client=other)
    stage.core.on_cancel(stage.client, ["x"], 1.0, True)
    stage.core.sanity_check()
    ((op, rows),) = other.take()
    assert op == "failed"
    assert sorted((key, culprit, error[0], error[3]["client"]) for key, culprit, error in rows) == [
        ("x", "x", "cancelled", "client"),
        ("y", "x", "cancelled", "client"),
    ]
    assert stage.sent(worker)[-1] == ("cancel", [1])
    stage.core.on_stopped(worker, [1], 2.0)
    assert stage.sent(stage.client) == [("cancelled", ["x"], CANCELLED_BY_CLIENT)]


def test_force_does_not_take_a_result_from_others() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    other = stage.connect("other")
    stage.submit({"x": ()})
    stage.submit({"x": ()}, client=other)
    stage.finish(worker, "x")
    stage.core.on_cancel(stage.client, ["x"], 1.0, True)
    assert stage.state("x") == "memory"


# Tasks that occupy no thread


def test_a_task_that_steps_aside_makes_room_for_another() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit(dict.fromkeys("abcd", ()))
    assert list(stage.runs(worker)) == ["a", "b"]
    stage.core.on_seceded(worker, [1], 0.1)
    stage.core.sanity_check()
    assert list(stage.runs(worker)) == ["c"]
    assert "waits for something" in stage.core.explain("a")
    stage.core.on_rejoined(worker, [1], 0.2)
    stage.core.sanity_check()
    stage.finish(worker, "a", "b")
    assert list(stage.runs(worker)) == ["d"]


def test_fifty_tasks_wait_for_one_another_on_one_thread() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    for depth in range(50):
        stage.submit({f"x{depth}": ()}, priority=depth)
        attempt = stage.runs(worker)[f"x{depth}"]
        stage.core.on_seceded(worker, [attempt], 0.1)
        stage.core.sanity_check()
    assert worker.busy() == 0
    assert len(worker.processing) == 50
    for depth in reversed(range(50)):
        stage.core.on_rejoined(worker, [depth + 1], 0.2)
        stage.finish(worker, f"x{depth}")


def test_a_task_that_stepped_aside_is_cancelled() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_seceded(worker, [1], 0.1)
    stage.core.on_cancel(stage.client, ["x"], 0.2)
    stage.core.sanity_check()
    assert worker.busy() == 0
    stage.submit({"y": ()})
    assert "y" in stage.runs(worker)
    stage.core.on_rejoined(worker, [1], 0.3)
    stage.core.sanity_check()
    assert worker.busy() == 2
    stage.core.on_stopped(worker, [1], 0.4)
    stage.core.sanity_check()
    assert worker.busy() == 1


def test_a_task_that_was_cancelled_steps_aside() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": (), "y": (), "z": ()})
    stage.core.on_cancel(stage.client, ["x"], 0.1)
    stage.core.on_seceded(worker, [1], 0.2)
    stage.core.sanity_check()
    assert worker.busy() == 2  # y and z
    stage.core.on_worker_lost(worker, 0.3)
    stage.core.sanity_check()


def test_who_has_stepped_aside_is_not_blamed_for_the_end_of_its_worker() -> None:
    stage = Stage(1, supervised=False)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_seceded(worker, [1], 0.1)
    stage.core.on_worker_lost(worker, 0.2)
    assert stage.core.tasks["x"].deaths == 0
    stage.core.sanity_check()


def test_stepping_aside_twice_and_news_of_what_is_over() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    for _ in range(2):
        stage.core.on_seceded(worker, [1], 0.1)
    stage.finish(worker, "x")
    stage.core.on_rejoined(worker, [1], 0.2)
    stage.core.on_seceded(worker, [1], 0.3)
    stage.core.sanity_check()
    stage.core.on_worker_lost(worker, 0.3)
    for event in (stage.core.on_seceded, stage.core.on_rejoined, stage.core.on_started):
        event(worker, [2], 0.4)  # nobody listens to it any more
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    for event in (stage.core.on_seceded, stage.core.on_rejoined, stage.core.on_started):
        with pytest.raises(ProtocolError, match="attempt 2 was never given"):
            event(worker, [2], 0.4)


def test_asynchronous_tasks_are_all_sent_at_once() -> None:
    stage = Stage(1, 1)
    stage.submit({f"x{number}": () for number in range(5000)}, function=2)
    first, second = stage.workers
    assert len(first.processing) == len(second.processing) == 2500
    assert first.busy() == second.busy() == 0
    ((_, _), (_, rows, _)) = stage.sent(first)
    assert {row[6] for row in rows} == {ASYNCHRONOUS | 1}
    assert "asynchronous" in stage.core.explain("x7")
    stage.core.on_worker_lost(first, 1.0)
    stage.core.on_worker_died("w0", [], -9, 1, "host", "", 1.0)
    stage.core.sanity_check()
    assert len(second.processing) == 5000


def test_asynchronous_tasks_wait_for_a_worker_and_go_where_their_inputs_are() -> None:
    stage = Stage()
    stage.submit({"x": ()})
    stage.submit({"y": ["x"], "z": ()}, function=2)
    assert stage.state("z") == "queued"
    first = stage.join("w0")
    stage.join("w1")
    stage.core.sanity_check()
    assert stage.where("z") == "w0"
    stage.finish(first, "x")
    assert stage.where("y") == "w0"


def test_asynchronous_tasks_with_needs() -> None:
    stage = Stage(1, resources={"db": 2.0})
    (worker,) = stage.workers
    stage.submit({f"x{number}": () for number in range(5)}, function=2, resources={"db": 1.0})
    assert len(worker.processing) == 2
    stage.finish(worker, "x0")
    assert len(worker.processing) == 2
    stage.submit({f"y{number}": () for number in range(3000)}, function=2, workers=["w0"])
    assert len(worker.processing) == 3002


def test_an_asynchronous_task_that_is_withdrawn_before_it_could_be_sent() -> None:
    stage = Stage()
    stage.submit({"x": ()}, function=2)
    stage.core.on_release(stage.client, ["x"], 1.0)
    stage.submit({"x": ()}, function=2)
    worker = stage.join("w0")
    stage.core.sanity_check()
    assert len(worker.processing) == 1


def test_the_start_of_a_task_is_told_to_who_wants_it() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()}, function=3)
    ((_, _), (_, rows, _)) = stage.sent(worker)
    assert rows[0][6] == STARTS | 1
    stage.core.on_started(worker, [1], 0.1)
    assert stage.sent(stage.client) == [("started", ["x"])]


def test_an_actor_is_lost_with_its_worker() -> None:
    stage = Stage(1, 1)
    first, _ = stage.workers
    stage.submit({"x": ()}, function=4)
    stage.finish(first, "x")
    stage.sent(stage.client)
    stage.core.on_worker_left(first, 1.0)
    ((_, ((key, culprit, error),)),) = stage.sent(stage.client)
    assert (key, culprit, error[0], error[3]) == ("x", "x", "lost", {"key": "x", "worker": "w0", "actor": True})
    stage.core.sanity_check()


def actor_with_a_copy() -> Stage:
    """An actor ``x`` that w0 has made, and w1 has fetched for ``y``."""
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.submit({"x": ()}, function=4, workers=["w0"])
    stage.finish(first, "x")
    stage.submit({"y": ["x"]}, workers=["w1"])
    stage.core.on_acquired(second, [("x", 10)], 0.1)
    stage.core.sanity_check()
    assert stage.core.who_has(["x"]) == {"x": ["w0", "w1"]}
    stage.sent(second)
    stage.sent(stage.client)
    return stage


def lost_actors(stage: Stage) -> list[tuple[str, str]]:
    """The keys that the client is told to have failed, because an actor was lost, and where that was."""
    stage.core.sanity_check()
    rows = [row for message in stage.sent(stage.client) if message[0] == "failed" for row in message[1]]
    assert all(error[0] == "lost" and error[3]["actor"] for _, _, error in rows)
    return [(key, error[3]["worker"]) for key, _, error in rows]


def test_a_copy_of_an_actor_does_not_outlive_it() -> None:
    stage = actor_with_a_copy()
    first, second = stage.workers
    stage.core.on_worker_left(first, 1.0)
    assert lost_actors(stage) == [("x", "w0")]
    assert stage.sent(second) == [("release", ["x"])]
    assert not second.held
    assert second.nbytes == 0
    assert stage.where("y") == "w1", "it may have begun"
    stage.core.on_missing(second, [("x", "")], 1.1)
    assert lost_actors(stage) == [("y", "w0")]


def test_an_actor_that_its_worker_does_not_hold_is_lost() -> None:
    stage = actor_with_a_copy()
    first, second = stage.workers
    stage.core.on_missing(second, [("x", "w0")], 1.0)
    assert sorted(lost_actors(stage)) == [("x", "w0"), ("y", "w0")]
    assert ("release", ["x"]) in stage.sent(first)
    assert ("release", ["x"]) in stage.sent(second)


def test_an_actor_outlives_its_copies() -> None:
    stage = actor_with_a_copy()
    first, second = stage.workers
    stage.core.on_worker_left(second, 1.0)
    assert lost_actors(stage) == []
    assert stage.core.who_has(["x"]) == {"x": ["w0"]}
    assert first.nbytes == 10


def test_an_actor_is_where_it_was_made() -> None:
    stage = actor_with_a_copy()
    other = stage.connect("other")
    stage.core.on_want(other, ["x"], 1.0)
    assert stage.sent(other) == [("done", [("x", 10, None, "w0", "host:w0")])]
    stage.core.on_client_missing(other, [("x", "w0")], 1.1)
    assert stage.sent(other) == [("done", [("x", 10, None, "w0", "host:w0")])]


def test_a_late_copy_of_a_lost_actor_does_not_stand_for_it() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.submit({"x": ()}, function=4, workers=["w0"])
    stage.finish(first, "x")
    stage.core.on_worker_left(first, 1.0)
    stage.core.on_retry(stage.client, ["x"], 1.1)
    assert stage.state("x") == "queued"
    stage.core.on_acquired(second, [("x", 10)], 1.2)
    stage.core.sanity_check()
    assert stage.state("x") == "queued"
    assert stage.sent(second) == [("release", ["x"])]


def test_an_actor_is_not_made_again_beside_what_needs_it() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    rows = [(9, b"cheap", "cheap", b"pickle", ACTOR | PURE)]
    stage.core.on_functions(stage.client, rows)
    stage.submit({"x": ()}, function=9, workers=None)
    stage.finish(first, "x", nbytes=10**8)
    stage.submit({"y": ["x"]}, workers=["w1"])
    assert [message[0] for message in stage.sent(second)] == ["functions", "run"]


def test_an_actor_that_is_being_made_is_made_elsewhere() -> None:
    stage = Stage(1, 1)
    first, _ = stage.workers
    stage.submit({"x": ()}, function=4)
    stage.core.on_worker_left(first, 1.0)
    assert stage.where("x") == "w1"


# Another try


def test_a_failed_task_is_tried_again_with_what_failed_before_it() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"a": (), "b": ["a"], "c": ["b"]}, wanted=["c"])
    stage.core.on_failed(worker, 1, 0.1, RAISED, 1.0)
    assert [stage.state(key) for key in "abc"] == ["erred"] * 3
    stage.sent(stage.client)
    stage.sent(worker)
    stage.core.on_retry(stage.client, ["c"], 2.0)
    stage.core.sanity_check()
    assert [stage.state(key) for key in "abc"] == ["processing", "waiting", "waiting"]
    for key in "abc":
        stage.finish(worker, key)
    assert [message[0] for message in stage.sent(stage.client)] == ["done"]


def test_retrying_what_has_not_failed() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"done": (), "running": ()})
    stage.finish(worker, "done")
    stage.sent(stage.client)
    stage.core.on_retry(stage.client, ["done", "running", "unknown"], 1.0)
    assert stage.sent(stage.client) == [
        ("done", [("done", 10, None, "w0", "host:w0")]),
        ("cancelled", ["unknown"], "it has been released"),
    ]
    stage.core.sanity_check()


def test_retrying_what_nothing_can_bring_back() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.core.on_placed(stage.client, [("data", 10, "w0")], 0.0)
    stage.core.on_worker_left(worker, 1.0)
    stage.sent(stage.client)
    stage.core.on_retry(stage.client, ["data"], 2.0)
    assert [message[0] for message in stage.sent(stage.client)] == ["failed"]
    stage.core.sanity_check()
