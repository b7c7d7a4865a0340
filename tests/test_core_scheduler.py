"""The scheduler's decisions, event by event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from core_parts import RAISED, Stage

from treadle.core.ledger import MAX_ABSENCES
from treadle.core.placement import BACKLOG, PRIOR
from treadle.core.scheduler import CANCELLED_BY_CLIENT, MAX_PRIORITY, OBITUARY
from treadle.core.states import QUEUED, STATES, TRANSITIONS, allowed
from treadle.errors import InternalError, ProtocolError


def test_table_of_transitions() -> None:
    listed = {(source, target) for source, target, _ in TRANSITIONS}
    assert len(listed) == len(TRANSITIONS)
    for source in range(STATES):
        for target in range(STATES):
            assert allowed(source, target) == ((source, target) in listed)


def test_a_transition_that_is_not_in_the_table() -> None:
    stage = Stage(1)
    stage.submit({"x": ()})
    with pytest.raises(InternalError, match="'x' cannot go from processing to forgotten: state processing"):
        stage.core.tasks["x"].move(STATES - 1)


def test_one_task_from_submission_to_release() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    assert stage.sent(worker) == [
        ("functions", [(1, "f", b"pickle")]),
        ("run", [(1, "x", 0, 1, b"payload", [], 1)], []),
    ]
    stage.finish(worker, "x")
    assert stage.sent(stage.client) == [("done", [("x", 10, b"\x01", "w0", "host:w0")])]
    stage.core.on_release(stage.client, ["x"], 1.0)
    assert stage.sent(worker) == [("release", ["x"])]
    assert not stage.core.tasks
    stage.core.sanity_check()


def test_a_function_is_sent_once_to_each_worker() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.sent(worker)
    stage.submit({"y": ()})
    assert [message[0] for message in stage.sent(worker)] == ["run"]


def test_results_that_only_dependents_need_are_dropped() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": (), "y": ["x"]}, wanted=["y"])
    stage.finish(worker, "x")
    assert stage.state("x") == "memory"
    stage.sent(worker)
    stage.finish(worker, "y")
    assert stage.sent(worker) == [("release", ["x"])]
    assert stage.state("x") == "released", "it is needed again if y is lost"
    stage.core.on_release(stage.client, ["y"], 1.0)
    assert not stage.core.tasks


def test_dependents_run_where_their_inputs_are() -> None:
    stage = Stage(1, 1)
    stage.submit({"a": (), "b": ()})
    homes = {key: stage.where(key) for key in "ab"}
    assert sorted(homes.values()) == ["w0", "w1"]
    for worker in stage.workers:
        stage.finish(worker, *stage.runs(worker), nbytes=10**9)
    stage.submit({"after b": ["b"], "after a": ["a"]})
    assert stage.where("after a") == homes["a"]
    assert stage.where("after b") == homes["b"]


def test_the_big_input_decides() -> None:
    stage = Stage(1, 1)
    stage.submit({"small": (), "big": ()})
    small, big = stage.core.tasks["small"].worker, stage.core.tasks["big"].worker
    assert small is not None
    assert big is not None
    stage.finish(small, "small", nbytes=10)
    stage.finish(big, "big", nbytes=10**9)
    stage.sent(big)
    stage.submit({"both": ["small", "big"]})
    (run,) = stage.sent(big)
    assert run[2] == [("small", 10, [(small.name, small.address)])], "where to fetch the other one"


def test_neighbours_stay_together() -> None:
    stage = Stage(1, 1)
    graph: dict[str, Sequence[str]] = {}
    for pair in range(8):
        graph[f"a{pair}"] = graph[f"b{pair}"] = ()
        graph[f"sum{pair}"] = [f"a{pair}", f"b{pair}"]
    stage.submit(graph, wanted=[f"sum{pair}" for pair in range(8)])
    ran: dict[str, str] = {}
    while stage.core.placement.queue or any(worker.processing for worker in stage.workers):
        for worker in stage.workers:
            if worker.processing:
                key = min(worker.processing.values(), key=lambda task: task.order).key
                ran[key] = worker.name
                stage.finish(worker, key, nbytes=10**8, seconds=0.1)
    together = [ran[f"a{pair}"] == ran[f"b{pair}"] == ran[f"sum{pair}"] for pair in range(8)]
    assert sum(together) >= 7
    assert set(ran.values()) == {"w0", "w1"}


def test_backlog_is_deep_for_short_tasks_and_one_spare_for_long_ones() -> None:
    for seconds, most in ((1e-6, 800), (BACKLOG / 4, 4), (1.0, 2)):
        stage = Stage(1)
        (worker,) = stage.workers
        stage.submit({"first": ()})
        stage.finish(worker, "first", seconds=seconds)
        stage.submit({f"x{number}": () for number in range(2000)})
        assert len(worker.processing) == most
    assert PRIOR > BACKLOG, "and for tasks of which nothing is known"


def test_backlog_is_bounded_in_bytes() -> None:
    stage = Stage(1, limit=10**9)
    (worker,) = stage.workers
    stage.submit({"first": ()})
    stage.finish(worker, "first", seconds=1e-6, nbytes=4 * 10**7)
    stage.submit({f"x{number}": () for number in range(100)})
    assert len(worker.processing) == 2


def test_tasks_without_inputs_wait_while_a_worker_is_full() -> None:
    stage = Stage(2, limit=10**9)
    (worker,) = stage.workers
    stage.submit({"first": ()})
    stage.finish(worker, "first", nbytes=8 * 10**8)
    stage.submit({"x": (), "y": (), "after": ["first"]})
    assert sorted(task.key for task in worker.processing.values()) == ["after", "x"]


@pytest.mark.parametrize("nthreads", [1, 3])
def test_urgent_tasks_overtake(nthreads: int) -> None:
    stage = Stage(nthreads)
    (worker,) = stage.workers
    stage.submit({f"low{number}": () for number in range(20)}, priority=-1)
    stage.submit({f"high{number}": () for number in range(20)}, priority=5)
    started = sorted(worker.processing.values(), key=lambda task: task.order)
    low = [task.key for task in started if task.key.startswith("low")]
    finished: list[str] = []
    while worker.processing:
        key = min(worker.processing.values(), key=lambda task: task.order).key
        finished.append(key)
        stage.finish(worker, key, seconds=0.1)
    assert sorted(finished[:20]) == sorted(f"high{number}" for number in range(20))
    assert finished[20 : 20 + len(low)] == low


def test_urgent_tasks_of_a_busy_worker_are_taken_over() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.submit({"a": ()}, workers=["w0"])
    stage.finish(first, "a", nbytes=10, seconds=1.0)
    stage.submit({f"low{number}": () for number in range(6)})
    stage.submit({f"high{number}": ["a"] for number in range(6)}, priority=1)
    taken = list(second.processing.values())
    stage.finish(second, taken[0].key, seconds=1.0)
    assert any(task.key.startswith("high") for task in second.processing.values())


def test_needs_are_respected_and_explained() -> None:
    stage = Stage()
    explain = stage.core.explain
    stage.submit({"x": ()}, resources={"GPU": 2})
    assert explain("x") == "'x' is ready to run, but there are no workers."
    stage.join("plain")
    assert explain("x") == "'x' is ready to run, but needs 2 GPU, which none of the 1 workers has."
    worker = stage.join("rich", 4, resources={"GPU": 2})
    assert stage.where("x") == "rich"
    stage.submit({"y": ()}, resources={"GPU": 1})
    assert explain("y") == "'y' is ready to run, needs 1 GPU, and waits until there is room on worker 'rich'."
    stage.finish(worker, "x")
    assert stage.where("y") == "rich"
    assert worker.free == {"GPU": 1}
    stage.submit({"z": ()}, workers=["elsewhere"])
    assert explain("z").endswith("needs one of the workers elsewhere, which none of the 2 workers has.")
    stage.core.sanity_check()


def test_explanations() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    explain = stage.core.explain
    stage.submit({"a": (), "b": ["a"], "c": (), "d": (), "e": ()}, retries=0)
    assert explain("a") == "'a' is running on worker 'w0', or is the next to run there."
    assert explain("b") == "'b' waits for 'a' (processing) of its 1 dependencies."
    assert explain("d") == "'d' is ready to run and waits until one of 1 workers has room."
    assert explain("?") == "The scheduler does not know '?': it was never submitted, or has been released."
    stage.finish(worker, "a")
    assert explain("a") == "'a' is done: 10 bytes in the memory of 'w0'."
    (attempt,) = [attempt for attempt, task in worker.processing.items() if task.key == "b"]
    stage.core.on_failed(worker, attempt, 0.1, RAISED, 1.0)
    assert explain("b") == "'b' has failed: ValueError: no"
    stage.submit({"f": ["b"]})
    assert explain("f") == "'f' cannot run, because 'b' has failed: ValueError: no"
    stage.core.sanity_check()


def test_failures_reach_all_that_wait() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"a": (), "b": ["a"], "c": ["b"], "other": ()}, wanted=["a", "c", "other"])
    attempt = stage.runs(worker)["a"]
    stage.core.on_failed(worker, attempt, 0.1, RAISED, 1.0)
    stage.core.sanity_check()
    assert stage.sent(stage.client) == [("failed", [("a", "a", RAISED), ("c", "a", RAISED)])]
    assert stage.where("other") == "w0"


def test_retries() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"a": ()}, retries=2)
    for attempt in (1, 2, 3):
        assert stage.runs(worker) == {"a": attempt}
        stage.core.on_failed(worker, attempt, 0.1, RAISED, 1.0)
    assert stage.state("a") == "erred"


def test_identical_tasks_of_two_clients_are_one() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    other = stage.connect("other")
    stage.submit({"x": ()})
    stage.submit({"x": ()}, client=other)
    assert stage.runs(worker) == {"x": 1}
    stage.finish(worker, "x")
    stage.submit({"x": ()}, client=other)
    assert other.take() == [("done", [("x", 10, b"\x01", "w0", "host:w0")])]
    stage.core.on_client_gone(stage.client, 1.0)
    assert stage.state("x") == "memory"
    stage.core.on_client_gone(other, 1.0)
    assert not stage.core.tasks
    assert stage.sent(worker) == [("release", ["x"])]


def test_a_fence_comes_back_between_old_news_and_new_ones() -> None:
    stage = Stage(1)
    stage.submit({"x": []})
    stage.finish(stage.workers[0], "x")
    stage.core.on_release(stage.client, ["x"], 0.0)
    stage.core.on_fence(stage.client, 1)
    assert stage.client in stage.core.flush()
    stage.submit({"x": []})
    stage.finish(stage.workers[0], "x")
    old, fence, new = stage.sent(stage.client)
    assert (old[0], fence, new[0]) == ("done", ("fence", 1), "done")


def test_cancelled_tasks_occupy_their_thread_until_they_stop() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": (), "y": (), "z": ()})
    attempts = stage.runs(worker)
    stage.core.on_cancel(stage.client, ["x", "y", "z"], 1.0)
    ((op, cancelled),) = stage.sent(worker)
    assert (op, sorted(cancelled)) == ("cancel", sorted(attempts.values()))
    assert stage.sent(stage.client) == [("cancelled", ["z"], CANCELLED_BY_CLIENT)]
    assert not stage.core.tasks
    stage.submit({"new": (), "newer": ()})
    assert stage.runs(worker) == {}
    stage.core.on_stopped(worker, sorted(attempts.values()), 2.0)
    assert list(stage.runs(worker)) == ["new", "newer"]
    assert stage.sent(stage.client) == [("cancelled", [key], CANCELLED_BY_CLIENT) for key in "xy"]


def test_a_result_that_crosses_its_cancellation() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.sent(worker)
    stage.core.on_release(stage.client, ["x"], 1.0)
    stage.core.on_finished(worker, [(1, 10, 0.1, None)], 1.0)
    assert stage.sent(worker) == [("cancel", [1]), ("release", ["x"])]
    stage.core.sanity_check()


def test_a_late_result_of_a_task_that_runs_again_on_the_same_worker() -> None:
    stage = Stage(2)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_release(stage.client, ["x"], 1.0)
    stage.submit({"x": ()})
    stage.sent(worker)
    stage.core.on_finished(worker, [(1, 10, 0.1, None)], 1.0)
    assert stage.sent(worker) == [], "the second attempt will find the value there"
    stage.core.on_finished(worker, [(2, 10, 0.0, None)], 1.0)
    assert stage.state("x") == "memory"
    stage.core.sanity_check()


def test_violations_change_nothing() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    core, client = stage.core, stage.client
    options = (0, None, None, 0)
    with pytest.raises(ProtocolError, match="attempt 7 was never given to this worker"):
        core.on_finished(worker, [(7, 1, 1.0, None)], 1.0)
    with pytest.raises(ProtocolError, match="attempt 1 was given back, and nobody had asked for it"):
        core.on_returned(worker, [1], 1.0)
    with pytest.raises(ProtocolError, match="attempt 1 stopped, and nobody had cancelled it"):
        core.on_stopped(worker, [1], 1.0)
    with pytest.raises(ProtocolError, match="function number 9 was never defined"):
        core.on_submit(client, ["y"], [9], [b""], [], None, options, 1.0)
    with pytest.raises(ProtocolError, match="1 keys with 2 functions"):
        core.on_submit(client, ["y"], [0, 0], [b""], [], None, options, 1.0)
    with pytest.raises(ProtocolError, match="task 0 of a submission depends on task 0"):
        core.on_submit(client, ["y"], [0], [b""], [[0]], None, options, 1.0)
    with pytest.raises(ProtocolError, match="task 5 is wanted of a submission of 1"):
        core.on_submit(client, ["y"], [0], [b""], [], [5], options, 1.0)
    with pytest.raises(ProtocolError, match="priority"):
        core.on_submit(client, ["y"], [0], [b""], [], None, (2 * MAX_PRIORITY, None, None, 0), 1.0)
    with pytest.raises(ProtocolError, match="function number 0 is defined twice"):
        core.on_functions(client, [(0, b"f", "f", b"pickle", False)])
    with pytest.raises(ProtocolError, match="has scattered 'x', which is a task"):
        core.on_placed(client, [("x", 10, "w0")], 1.0)
    with pytest.raises(ProtocolError, match="there is a worker 'w0' already"):
        stage.join("w0")
    assert list(core.tasks) == ["x"]
    core.sanity_check()


def test_lost_results_are_computed_again() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.submit({"a": ()}, workers=["w0"])
    stage.finish(first, "a")
    stage.submit({"b": ["a"], "c": ()}, wanted=["b", "c"], workers=["w1"])
    assert stage.where("b") == "w1"
    stage.core.on_worker_lost(first, stage.now)
    stage.core.sanity_check()
    assert stage.state("a") == "queued", "only w0 may run it"
    stage.core.on_missing(second, [("a", "w0")], stage.now)
    stage.core.sanity_check()
    assert stage.state("b") == "waiting"
    assert ("cancel", [1]) in stage.sent(second)
    stage.core.on_stopped(second, [1], stage.now)
    again = stage.core.on_worker("w2", "host:w2", "w0", "host", 1, 0, {}, True, stage.now)
    stage.finish(again, "a")
    assert stage.where("b") == "w1"


def test_only_what_was_executing_is_blamed() -> None:
    stage = Stage(1)
    stage.submit({"killer": (), "innocent": ()})
    for death in range(3):
        (worker,) = stage.core.workers.values()
        stage.core.on_worker_lost(worker, stage.now)
        stage.core.sanity_check()
        assert stage.state("killer") == "processing", "until it is known how the worker ended"
        stage.core.on_worker_died(worker.ident, [worker.attempts - 1], -9, 100 + death, "host", "last words", stage.now)
        stage.core.sanity_check()
        stage.join(f"next{death}")
    (message,) = stage.sent(stage.client)
    assert message[0] == "failed"
    ((key, culprit, (kind, _, text, info)),) = message[1]
    assert (key, culprit, kind) == ("killer", "killer", "died")
    assert info["exitcode"] == -9
    assert (info["deaths"], info["host"], info["pid"], info["log"]) == (3, "host", 102, "last words")
    assert text == "3 workers died while they ran 'killer', 'next1' was the last one"
    assert stage.core.tasks["innocent"].deaths == 0
    assert stage.where("innocent") == "next2"


@pytest.mark.parametrize("function", [0, 2])
def test_who_was_away_too_often_when_its_worker_died_is_given_up(function: int) -> None:
    stage = Stage(1)
    stage.submit({"parent": ()}, function=function)
    for death in range(MAX_ABSENCES):
        assert stage.state("parent") == "processing"
        (worker,) = stage.core.workers.values()
        if function == 0:
            stage.core.on_seceded(worker, [1], stage.now)
        stage.core.on_worker_died(worker.ident, [], -11, 100, "host", "", stage.now)
        stage.core.sanity_check()
        stage.join(f"next{death}")
    assert stage.core.tasks["parent"].deaths == 0
    ((op, ((key, culprit, (kind, _, text, info)),)),) = stage.sent(stage.client)
    assert (op, key, culprit, kind) == ("failed", "parent", "parent", "died")
    assert text == (
        "10 workers died while 'parent' waited there and occupied no thread, 'next8' was the last one. "
        "What it has submitted may have killed them."
    )
    assert (info["deaths"], info["away"], info["exitcode"], info["worker"]) == (10, True, -11, "next8")
    stage.core.on_retry(stage.client, ["parent"], stage.now)
    assert stage.core.tasks["parent"].absences == 0


def test_who_was_away_is_not_given_up_for_goodbyes_and_ends_that_nobody_explained() -> None:
    stage = Stage(1)
    stage.submit({"parent": ()})
    for number in range(2 * MAX_ABSENCES):
        (worker,) = stage.core.workers.values()
        stage.core.on_seceded(worker, [1], stage.now)
        if number % 2:
            stage.core.on_worker_left(worker, stage.now)
        else:
            stage.core.on_worker_lost(worker, stage.now)
            stage.now += OBITUARY + 1.0
            stage.core.tick(stage.now)
        stage.core.sanity_check()
        stage.join(f"next{number}")
    assert stage.core.tasks["parent"].absences == 0
    assert stage.state("parent") == "processing"


def test_who_was_away_when_the_connection_to_an_unsupervised_worker_broke() -> None:
    stage = Stage(1, supervised=False)
    stage.submit({"parent": ()})
    (worker,) = stage.workers
    stage.core.on_seceded(worker, [1], stage.now)
    stage.core.on_worker_lost(worker, stage.now)
    stage.core.sanity_check()
    assert stage.core.tasks["parent"].absences == 1


def test_without_news_nobody_is_blamed() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_worker_lost(worker, 1.0)
    assert stage.core.restless
    stage.join("w1")
    stage.core.tick(1.0 + OBITUARY / 2)
    assert stage.state("x") == "processing"
    stage.core.tick(1.1 + OBITUARY)
    assert stage.where("x") == "w1"
    assert stage.core.tasks["x"].deaths == 0


def test_an_unsupervised_worker_that_is_lost_blames_what_must_have_been_running() -> None:
    stage = Stage(1, supervised=False)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_worker_lost(worker, 1.0)
    assert stage.core.tasks["x"].deaths == 1


def test_a_worker_that_leaves_is_not_blamed() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_worker_left(worker, 1.0)
    assert stage.core.tasks["x"].deaths == 0
    assert stage.state("x") == "queued"


def test_what_waits_behind_a_long_task_is_recalled() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"long": (), "spare": ()})
    assert len(worker.processing) == 2
    stage.sent(worker)
    other = stage.join("w1")
    stage.now = 1.0
    stage.core.tick(stage.now)
    assert stage.sent(worker) == [("recall", [2])]
    assert stage.core.restless
    stage.core.on_returned(worker, [2], stage.now)
    stage.core.sanity_check()
    assert stage.where("spare") == other.name
    assert not stage.core.restless


def test_what_waits_behind_a_cancelled_task_is_recalled() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"long": (), "spare": ()})
    stage.core.on_cancel(stage.client, ["long"], 0.5)
    assert len(worker.processing) == len(worker.stopping) == 1
    stage.sent(worker)
    other = stage.join("w1")
    stage.now = 1.0
    stage.core.tick(stage.now)
    assert stage.sent(worker) == [("recall", [2])]
    stage.core.on_returned(worker, [2], stage.now)
    assert stage.where("spare") == other.name


def test_nothing_is_put_behind_a_cancelled_task() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"long": ()})
    stage.core.on_cancel(stage.client, ["long"], 0.5)
    stage.submit({"x": ()})
    assert stage.state("x") == "queued"
    stage.core.on_stopped(worker, [1], 1.0)
    assert stage.where("x") == "w0"


def test_scattered_values() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.core.on_placed(stage.client, [("data", 1000, "w0")], 0.0)
    stage.core.sanity_check()
    assert stage.sent(stage.client) == [("done", [("data", 1000, None, "w0", "host:w0")])]
    stage.submit({"x": ["data"]})
    assert stage.where("x") == "w0"
    stage.core.on_acquired(second, [("data", 1000)], 0.0)
    stage.core.on_worker_lost(first, 1.0)
    stage.core.sanity_check()
    assert stage.state("data") == "memory", "w1 has a copy"
    stage.core.on_worker_lost(second, 1.0)
    assert stage.state("data") == "erred"
    (message,) = stage.sent(stage.client)
    assert message[1][0][2][0] == "lost"
    assert "'w1'" in message[1][0][2][2]


def test_a_scattered_value_that_was_released_is_needed_again() -> None:
    stage = Stage(1, 1)
    first, _ = stage.workers
    stage.core.on_placed(stage.client, [("data", 1000, "w0")], 0.0)
    stage.submit({"x": ["data"]})
    stage.finish(first, "x")
    stage.core.on_release(stage.client, ["data"], 1.0)
    assert stage.state("data") == "released"
    stage.sent(stage.client)
    stage.core.on_worker_left(first, 1.0)
    stage.core.sanity_check()
    assert stage.state("x") == "erred"
    ((_, rows),) = stage.sent(stage.client)
    key, culprit, (kind, _, text, info) = rows[0]
    assert (key, culprit, kind) == ("x", "data", "lost")
    assert text == "'data' was scattered and released; it is needed again, and cannot be computed"
    assert info == {"key": "data", "worker": ""}


def test_a_copy_turns_up_of_what_was_lost() -> None:
    stage = Stage(1, 1)
    first, second = stage.workers
    stage.submit({"a": ()}, workers=["w0"])
    stage.finish(first, "a")
    stage.core.on_worker_lost(first, 1.0)
    assert stage.core.tasks["a"].state == QUEUED
    stage.core.on_acquired(second, [("a", 10)], 1.0)
    stage.core.sanity_check()
    assert stage.core.who_has(["a"]) == {"a": ["w1"]}


def test_news_of_a_worker_that_is_known_to_be_dead() -> None:
    stage = Stage(1, 1)
    (worker, _) = stage.workers
    stage.submit({"x": ()})
    stage.core.on_worker_died("w0", [1], -9, 1, "host", "", 1.0)
    core = stage.core
    core.on_finished(worker, [(1, 10, 0.1, None)], 1.0)
    core.on_failed(worker, 1, 0.1, RAISED, 1.0)
    core.on_acquired(worker, [("x", 10)], 1.0)
    core.on_missing(worker, [("x", "w1")], 1.0)
    core.on_returned(worker, [1], 1.0)
    core.on_stopped(worker, [1], 1.0)
    core.on_worker_lost(worker, 1.0)
    core.on_worker_left(worker, 1.0)
    core.sanity_check()
    assert stage.where("x") == "w1"


def test_releasing_what_is_gone() -> None:
    stage = Stage(1)
    stage.submit({"x": ()})
    stage.core.on_cancel(stage.client, ["x"], 1.0)
    stage.core.on_release(stage.client, ["x", "unknown"], 1.0)
    stage.core.sanity_check()


def test_copies_that_nobody_needs_are_dropped() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.core.on_acquired(worker, [("gone", 10)], 1.0)
    assert stage.sent(worker) == [("release", ["gone"])]


def test_a_cheap_input_is_computed_again_instead_of_moved() -> None:
    stage = Stage(1, 1)
    stage.submit({"a": (), "b": ()}, function=1)
    homes = {key: stage.core.tasks[key].worker for key in "ab"}
    for key, worker in homes.items():
        assert worker is not None
        stage.finish(worker, key, nbytes=10**9, seconds=0.001)
        stage.sent(worker)
    stage.submit({"sum": ["a", "b"]}, function=0)
    runner = stage.core.tasks["sum"].worker
    assert runner is not None
    (lacking,) = [key for key in "ab" if homes[key] is not runner]
    order = stage.core.tasks[lacking].order
    functions, remake, run = stage.sent(runner)
    assert functions[0] == "functions"
    assert remake == ("remake", [(lacking, order, 2, b"payload")])
    assert run[2] == [], "there is nothing to be fetched"


def test_bandwidth_is_learned() -> None:
    stage = Stage(1)
    before = stage.core.placement.bandwidth
    stage.core.on_heartbeat(stage.workers[0], 1, 0.0, 10**9, 0.5, 1.0)
    assert before < stage.core.placement.bandwidth < 2e9


def test_answers() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit({"x": (), "y": ["x"]})
    stage.finish(worker, "x")
    core = stage.core
    assert core.has_what() == {"w0": ["x"]}
    assert core.who_has(None) == {"x": ["w0"], "y": []}
    info = core.info()
    assert info["workers"]["w0"]["processing"] == 1
    assert info["tasks"]["memory"] == 1
    progress = dict(core.progress())
    assert progress["f"]["memory"] == 1
    assert progress["f"]["processing"] == 1
    core.on_worker_lost(worker, 1.0)
    assert core.has_what() == {}


def test_a_dependency_that_was_released() -> None:
    stage = Stage(1)
    stage.submit({"x": ["gone"], "y": ["x"]})
    assert stage.state("x") == stage.state("y") == "erred"
    ((_, rows),) = stage.sent(stage.client)
    assert rows[0][2][2] == "'x' depends on 'gone', which has been released"


def test_a_task_whose_dependency_was_released_cannot_be_tried_again() -> None:
    stage = Stage(1)
    stage.submit({"x": ["gone"], "y": ["x"]})
    stage.sent(stage.client)
    stage.core.on_retry(stage.client, ["x", "y"], 1.0)
    stage.core.sanity_check()
    assert stage.state("x") == stage.state("y") == "erred"
    (message,) = stage.sent(stage.client)
    assert [(key, error[2]) for key, _, error in message[1]] == [
        ("x", "'x' depends on 'gone', which has been released"),
        ("y", "'x' depends on 'gone', which has been released"),
    ]
    assert not stage.runs(stage.workers[0])


def test_wanting_what_is_not_there() -> None:
    stage = Stage(1)
    stage.core.on_want(stage.client, ["x"], 0.0)
    assert stage.sent(stage.client) == [("cancelled", ["x"], "it has been released")]


def test_queued_tasks_that_are_cancelled_leave_nothing_behind() -> None:
    stage = Stage(1)
    stage.submit({f"x{number}": () for number in range(5000)})
    stage.core.on_cancel(stage.client, [f"x{number}" for number in range(4990)], 1.0)
    assert len(stage.core.placement.queue) < 2100
    stage.core.sanity_check()


def test_functions_that_nobody_knows_are_forgotten() -> None:
    stage = Stage(1)
    stage.submit({"x": ()})
    assert len(stage.core.ledger.groups) == 5
    stage.core.on_client_gone(stage.client, 1.0)
    assert not stage.core.ledger.groups


def test_the_picture_shows_the_table() -> None:
    root = Path(__file__).resolve().parent.parent
    script = root / "scripts" / "draw-transitions"
    drawn = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert drawn == (root / "docs" / "transitions.svg").read_text(encoding="utf-8"), (
        "run: scripts/draw-transitions --write"
    )
