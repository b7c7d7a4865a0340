"""The state of a worker, driven by hand: one event after another."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.core import worker_data
from treadle.core.worker import Job, WorkerState
from treadle.errors import InternalError, ProtocolError

PEERS = [("p1", "host:1"), ("p2", "host:2")]


def new_state(nthreads: int = 1) -> WorkerState:
    state = WorkerState(nthreads)
    state.on_functions([(1, "f", b"function")])
    return state


def row(
    attempt: int, key: str, *deps: str, order: int | None = None, flags: int = 0
) -> tuple[int, str, int, int, bytes, list[str], int]:
    return attempt, key, attempt if order is None else order, 1, b"payload", list(deps), flags


def run(state: WorkerState, *rows: Any, where: Any = ()) -> None:
    state.on_run(list(rows), list(where))
    state.sanity_check()


def take(state: WorkerState) -> Job:
    job = state.take()
    state.sanity_check()
    assert job is not None
    return job


def succeed(state: WorkerState, job: Job, value: Any = None, nbytes: int = 10) -> None:
    state.on_success(job, value, nbytes, 0.5, None)
    state.sanity_check()


def said(state: WorkerState) -> list[tuple[Any, ...]]:
    state.sanity_check()
    return state.take_outbox()


def waiting_for(key: str, *, size: int = 10, places: Any = PEERS) -> WorkerState:
    """A worker with one task that waits for the value of a key."""
    state = new_state()
    run(state, row(1, "y", key), where=[(key, size, list(places))])
    return state


# Tasks


def test_the_most_urgent_task_is_taken_first_and_equals_in_the_order_in_which_they_came() -> None:
    state = new_state(4)
    run(state, row(1, "late", order=5), row(2, "first", order=3), row(3, "urgent", order=-7), row(4, "second", order=3))
    assert [take(state).key for _ in range(4)] == ["urgent", "first", "second", "late"]


def test_no_more_tasks_are_handed_out_than_there_are_threads() -> None:
    state = new_state(2)
    run(state, row(1, "a"), row(2, "b"), row(3, "c"))
    a = take(state)
    take(state)
    assert state.take() is None
    assert (state.ready, state.executing) == (1, 2)
    succeed(state, a)
    assert take(state).key == "c"


def test_results_that_follow_one_another_are_reported_in_one_message() -> None:
    state = new_state(3)
    run(state, row(1, "a"), row(2, "b", flags=1), row(3, "c"), row(4, "d"))
    a, b, c = take(state), take(state), take(state)
    state.on_success(a, "A", 10, 0.5, None)
    state.on_success(b, "B", 20, 0.25, b"packed")
    state.on_failure(c, 0.125, "error")
    state.on_success(take(state), "D", 30, 1.0, None)
    assert said(state) == [
        ("finished", [(1, 10, 0.5, None), (2, 20, 0.25, b"packed")]),
        ("failed", 3, 0.125, "error"),
        ("finished", [(4, 30, 1.0, None)]),
    ]
    assert said(state) == []
    assert state.store == {"a": ("A", 10), "b": ("B", 20), "d": ("D", 30)}
    assert state.held_bytes == 60


def test_a_message_that_was_taken_is_not_appended_to() -> None:
    state = new_state()
    run(state, row(1, "a"), row(2, "b"))
    succeed(state, take(state))
    first = said(state)
    succeed(state, take(state))
    assert first == [("finished", [(1, 10, 0.5, None)])]
    assert said(state) == [("finished", [(2, 10, 0.5, None)])]


def test_a_task_gets_the_values_that_it_depends_on_in_its_order() -> None:
    state = new_state()
    state.on_stored([("a", "A", 1), ("b", "B", 1)])
    run(state, row(1, "c", "b", "a", "b"))
    job = take(state)
    assert state.inputs(job) == ["B", "A", "B"]
    assert state.inputs(job) == []


def test_a_task_whose_value_is_held_is_finished_at_once() -> None:
    state = new_state()
    state.on_stored([("a", "A", 7)])
    run(state, row(1, "a"))
    assert state.take() is None
    assert said(state) == [("finished", [(1, 7, 0.0, None)])]


def test_a_task_waits_for_one_that_is_executed_here() -> None:
    state = new_state()
    run(state, row(1, "a"))
    a = take(state)
    run(state, row(2, "b", "a"))
    succeed(state, a, "A")
    b = take(state)
    assert (b.key, state.inputs(b)) == ("b", ["A"])


def test_what_is_not_started_is_given_back_and_what_is_started_is_not() -> None:
    state = new_state()
    run(state, row(1, "a"), row(2, "b"), row(3, "c", "x"), where=[("x", 10, PEERS)])
    a = take(state)
    state.on_recall([1, 2, 3])
    assert said(state) == [("returned", [2, 3])]
    assert state.fetches() == []
    assert state.take() is None
    succeed(state, a)
    assert said(state) == [("finished", [(1, 10, 0.5, None)])]


def test_cancelling() -> None:
    state = new_state(2)
    run(state, row(1, "a"), row(2, "b"), row(3, "c"))
    a, b = take(state), take(state)
    state.on_cancel([1, 2, 3])
    assert said(state) == [("stopped", [3])]
    state.on_success(a, "A", 10, 0.5, None)
    state.on_failure(b, 0.5, "error")
    assert said(state) == [("stopped", [1]), ("stopped", [2])]
    assert state.store == {}
    assert state.jobs == {}


def test_what_is_over_is_neither_recalled_nor_cancelled() -> None:
    state = new_state()
    run(state, row(1, "a"))
    succeed(state, take(state))
    said(state)
    state.on_recall([1])
    state.on_cancel([1])
    assert said(state) == []
    assert "a" in state.store


@pytest.mark.parametrize("attempt", [0, 2, 17])
def test_an_attempt_that_was_never_given_is_a_violation(attempt: int) -> None:
    state = new_state()
    run(state, row(1, "a"))
    with pytest.raises(ProtocolError, match=f"attempt {attempt} was never given to this worker; the last one is 1"):
        state.on_recall([attempt])
    with pytest.raises(ProtocolError, match=f"attempt {attempt} was never given"):
        state.on_cancel([attempt])
    state.sanity_check()


def test_a_number_that_was_used_is_a_violation() -> None:
    state = new_state()
    run(state, row(5, "a"))
    for attempt in (5, 4):
        with pytest.raises(ProtocolError, match=rf"attempt {attempt} \(of 'b'\) is not above 5"):
            run(state, row(attempt, "b"))


def test_a_function_that_was_never_sent_is_a_violation() -> None:
    state = new_state()
    with pytest.raises(ProtocolError, match="the task 'a' calls function 2, which was never sent"):
        state.on_run([(1, "a", 1, 2, b"", [], 0)], [])
    with pytest.raises(ProtocolError, match="the task 'b' calls function 3, which was never sent"):
        state.on_remake([("b", 1, 3, b"")])


# Values


def test_a_value_that_is_released_leaves_the_store() -> None:
    state = new_state()
    state.on_stored([("a", "A", 7), ("b", "B", 8)])
    state.on_release(["a", "never heard of"])
    state.sanity_check()
    assert state.store == {"b": ("B", 8)}
    assert state.held_bytes == 8
    assert state.take_garbage() == ["A"]
    assert state.take_garbage() == []


def test_a_value_that_is_put_here_again_replaces_the_old_one() -> None:
    state = new_state()
    state.on_stored([("a", "old", 7)])
    state.on_stored([("a", "new", 8)])
    assert state.store == {"a": ("new", 8)}
    assert state.held_bytes == 8
    assert state.take_garbage() == ["old"]


def test_a_ready_task_waits_again_if_its_input_was_released() -> None:
    state = new_state()
    state.on_stored([("a", "A", 7), ("b", "B", 7)])
    run(state, row(1, "c", "a", "b"), row(2, "d"))
    state.on_release(["b"])
    d = take(state)
    assert d.key == "d"
    assert said(state) == [("missing", [("b", "")])]
    succeed(state, d)
    state.on_where([("b", 7, PEERS[:1])])
    assert state.fetches() == [("p1", "host:1", ["b"])]
    state.on_fetched("p1", [("b", "B again", 7)])
    assert state.inputs(take(state)) == ["A", "B again"]


def test_an_executing_task_does_not_mind_the_release_of_its_input() -> None:
    state = new_state()
    state.on_stored([("a", "A", 7)])
    run(state, row(1, "b", "a"))
    job = take(state)
    state.on_release(["a"])
    assert state.inputs(job) == ["A"]
    succeed(state, job)


# Fetching


def test_a_value_that_is_elsewhere_is_fetched_once() -> None:
    state = waiting_for("x", places=PEERS[:1])
    run(state, row(2, "z", "x"), where=[("x", 10, PEERS[:1])])
    assert state.take() is None
    assert state.fetches() == [("p1", "host:1", ["x"])]
    run(state, row(3, "w", "x"), where=[("x", 10, PEERS)])
    assert state.fetches() == []
    state.on_fetched("p1", [("x", "X", 11)])
    assert said(state) == [("acquired", [("x", 11)])]
    for key in "yzw":
        job = take(state)
        assert (job.key, state.inputs(job)) == (key, ["X"])
        succeed(state, job)


def test_what_comes_from_one_peer_goes_into_one_request_the_most_urgent_first() -> None:
    state = new_state()
    rows = [row(1, "a", "u", order=9), row(2, "b", "v", order=1), row(3, "c", "w", order=5)]
    run(state, *rows, where=[(key, 10, PEERS[:1]) for key in "uvw"])
    assert state.fetches() == [("p1", "host:1", ["v", "w", "u"])]


def test_a_more_urgent_task_moves_a_value_to_the_front() -> None:
    state = new_state()
    run(state, row(1, "a", "u", order=5), row(2, "b", "v", order=6), where=[(key, 10, PEERS[:1]) for key in "uv"])
    run(state, row(3, "c", "v", order=1))
    assert state.fetches() == [("p1", "host:1", ["v", "u"])]


def test_idle_peers_are_preferred() -> None:
    state = new_state()
    run(state, row(1, "a", "u"), where=[("u", 10, PEERS[:1])])
    assert state.fetches() == [("p1", "host:1", ["u"])]
    run(state, row(2, "b", "v"), row(3, "c", "w"), where=[("v", 10, PEERS), ("w", 10, PEERS[:1])])
    assert state.fetches() == [("p2", "host:2", ["v"])]
    state.on_fetched("p1", [("u", "U", 10)])
    assert state.fetches() == [("p1", "host:1", ["w"])]


def test_bytes_in_flight_are_bounded() -> None:
    state = new_state()
    big = worker_data.MAX_BATCH_BYTES // 2 + 1
    run(state, *[row(n, f"t{n}", f"x{n}") for n in (1, 2)], where=[(f"x{n}", big, PEERS[:1]) for n in (1, 2)])
    assert state.fetches() == [("p1", "host:1", ["x1"])]
    huge = worker_data.MAX_BYTES
    run(state, row(3, "t3", "x3"), row(4, "t4", "x4"), where=[("x3", huge, PEERS[1:]), ("x4", 1, [("p3", "host:3")])])
    assert state.fetches() == [("p2", "host:2", ["x3"])]
    assert state.fetches() == []
    state.on_fetched("p2", [("x3", "X", huge)])
    assert state.fetches() == [("p3", "host:3", ["x4"])]


def test_only_a_few_peers_are_asked_at_once() -> None:
    state = new_state()
    numbers = range(1, worker_data.MAX_PEERS + 3)
    places = [(f"x{n}", 10, [(f"p{n}", f"host:{n}")]) for n in numbers]
    run(state, *[row(n, f"t{n}", f"x{n}") for n in numbers], where=places)
    assert [request[0] for request in state.fetches()] == [f"p{n}" for n in numbers[:-2]]
    state.on_not_held("p1", ["x1"])
    assert [request[0] for request in state.fetches()] == [f"p{numbers[-2]}"]


def test_one_request_asks_for_so_many_keys_only() -> None:
    state = new_state()
    numbers = range(1, worker_data.MAX_BATCH_KEYS + 2)
    where = [(f"x{n}", 1, PEERS[:1]) for n in numbers]
    run(state, *[row(n, f"t{n}", f"x{n}") for n in numbers], where=where)
    ((_, _, keys),) = state.fetches()
    assert keys == [f"x{n}" for n in numbers[:-1]]


def test_the_next_holder_is_asked_when_one_fails() -> None:
    state = waiting_for("x")
    ((first, _, _),) = state.fetches()
    state.on_not_held(first, ["x"])
    ((second, _, _),) = state.fetches()
    assert {first, second} == {"p1", "p2"}
    assert said(state) == []
    state.on_unreachable(second, ["x"])
    assert said(state) == [("missing", [("x", first), ("x", second)])]
    assert state.fetches() == []


def test_whoever_cannot_be_reached_is_crossed_out_for_all_that_it_holds() -> None:
    state = waiting_for("x", places=PEERS[:1])
    assert state.fetches() == [("p1", "host:1", ["x"])]
    run(state, row(2, "b", "u"), row(3, "c", "v"), where=[("u", 10, PEERS[:1]), ("v", 10, PEERS[:1])])
    state.on_unreachable("p1", ["x"])
    assert said(state) == [("missing", [("x", "p1"), ("u", "p1"), ("v", "p1")])]
    assert state.fetches() == []


def test_a_new_place_is_tried_even_if_it_failed_before() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.fetches()
    state.on_not_held("p1", ["x"])
    assert said(state) == [("missing", [("x", "p1")])]
    state.on_where([("x", 10, [])])
    assert said(state) == []
    assert state.fetches() == []
    state.on_where([("x", 10, [("p1", "host:9")])])
    assert state.fetches() == [("p1", "host:9", ["x"])]


def test_a_run_that_names_a_place_helps_those_who_waited() -> None:
    state = waiting_for("x", places=[])
    assert said(state) == [("missing", [("x", "")])]
    run(state, row(2, "z", "x"), where=[("x", 10, PEERS[:1])])
    assert state.fetches() == [("p1", "host:1", ["x"])]


def test_a_value_without_a_place_is_asked_for_once() -> None:
    state = new_state()
    run(state, row(1, "y", "x"))
    run(state, row(2, "z", "x"))
    assert said(state) == [("missing", [("x", "")])]


def test_tasks_fail_if_a_value_can_never_be_had_here() -> None:
    state = waiting_for("x", places=PEERS[:1])
    run(state, row(2, "z", "x", "u"), row(3, "w", "u"), where=[("u", 10, PEERS[1:])])
    state.on_cancel([2])
    said(state)
    run(state, row(4, "v", "x"))
    state.fetches()
    state.on_unusable("p1", "x", "reason")
    assert said(state) == [("failed", 1, 0.0, "reason"), ("failed", 4, 0.0, "reason")]
    assert sorted(state.jobs) == [3]


def test_a_value_that_comes_too_late_is_dropped() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.fetches()
    state.on_cancel([1])
    said(state)
    state.on_fetched("p1", [("x", "X", 10)])
    assert said(state) == []
    assert state.store == {}


def test_a_value_that_is_on_its_way_serves_a_task_that_comes_meanwhile() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.fetches()
    state.on_recall([1])
    run(state, row(2, "z", "x"), where=[("x", 10, PEERS[:1])])
    assert state.fetches() == []
    state.on_fetched("p1", [("x", "X", 10)])
    assert take(state).key == "z"


def test_what_was_computed_or_stored_meanwhile_is_not_replaced_by_what_was_fetched() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.fetches()
    state.on_stored([("x", "stored", 10)])
    said(state)
    state.on_fetched("p1", [("x", "fetched", 10)])
    assert said(state) == []
    assert state.inputs(take(state)) == ["stored"]


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.fetches()
    state.on_fetched("p2", [("x", "X", 10)])
    state.on_not_held("p1", ["u"])
    state.on_unusable("p2", "x", "error")
    state.on_unreachable("p9", ["x"])
    assert said(state) == []
    assert state.store == {}


def test_entries_that_are_not_valid_any_more_are_swept_out() -> None:
    state = new_state()
    state.fetching.busy = worker_data.MAX_PEERS  # nobody is asked
    for n in range(1, 200):
        state.on_run([row(n, f"t{n}", f"x{n}")], [(f"x{n}", 10, PEERS)])
        if n > 1:
            state.on_recall([n])
    state.fetching.busy = 0
    state.sanity_check()
    assert all(len(peer.heap) <= 20 for peer in state.fetching.peers.values())


# Remakes


def remaking() -> WorkerState:
    state = new_state()
    state.on_remake([("x", 0, 1, b"payload")])
    run(state, row(1, "y", "x"))
    return state


def test_a_value_is_made_again_instead_of_fetched() -> None:
    state = remaking()
    assert state.fetches() == []
    job = take(state)
    assert (job.attempt, job.key) == (0, "x")
    succeed(state, job, "X")
    assert said(state) == [("acquired", [("x", 10)])]
    assert state.inputs(take(state)) == ["X"]


def test_a_value_that_is_here_or_on_its_way_is_not_made_again() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.on_stored([("u", "U", 1)])
    state.fetches()
    state.on_remake([("x", 0, 1, b""), ("u", 0, 1, b"")])
    state.sanity_check()
    assert state.take() is None


def test_a_value_that_was_to_be_fetched_is_made_again() -> None:
    state = waiting_for("x")
    state.on_remake([("x", 0, 1, b"")])
    state.on_remake([("x", 0, 1, b"")])
    assert state.fetches() == []
    assert state.ready == 1
    succeed(state, take(state), "X")
    assert state.inputs(take(state)) == ["X"]


def test_a_value_that_cannot_be_made_again_is_fetched() -> None:
    state = remaking()
    state.on_failure(take(state), 0.5, "error")
    assert said(state) == [("missing", [("x", "")])]
    state.on_where([("x", 10, PEERS[:1])])
    assert state.fetches() == [("p1", "host:1", ["x"])]


def test_nothing_is_made_again_for_nobody() -> None:
    state = remaking()
    state.on_recall([1])
    assert said(state) == [("returned", [1])]
    assert state.take() is None
    assert state.awaited == {}


def test_what_is_being_made_again_comes_even_if_nobody_waits_any_more() -> None:
    state = remaking()
    job = take(state)
    state.on_recall([1])
    said(state)
    succeed(state, job, "X")
    assert said(state) == [("acquired", [("x", 10)])]


def test_a_remake_that_fails_for_nobody_is_forgotten() -> None:
    state = remaking()
    job = take(state)
    state.on_recall([1])
    said(state)
    state.on_failure(job, 0.5, "error")
    assert said(state) == []
    assert state.awaited == {}


def test_a_released_remake_is_dropped_without_a_word() -> None:
    state = new_state()
    state.on_remake([("x", 0, 1, b""), ("u", 1, 1, b"")])
    job = take(state)
    state.on_release(["x", "u"])
    succeed(state, job, "X")
    assert said(state) == []
    assert (state.store, state.awaited, state.take()) == ({}, {}, None)


def test_a_remake_is_dropped_when_the_value_comes_in_another_way() -> None:
    state = remaking()
    state.on_stored([("x", "stored", 10)])
    state.sanity_check()
    assert take(state).key == "y"


# Reports


def test_reprs_say_how_things_stand() -> None:
    state = waiting_for("x", places=PEERS[:1])
    state.on_stored([("a", "A", 7)])
    state.fetches()
    assert repr(state) == "<WorkerState 1 jobs: 0 ready, 0 executing; 1 keys of 7 bytes held, 1 awaited>"
    assert repr(state.jobs[1]) == "<Job 1 'y' waiting, order 1>"
    assert repr(state.awaited["x"]) == "<Datum 'x' fetching from p1, 1 wait>"
    assert repr(state.fetching) == "<Fetching 10 bytes from 1 of 1 peers>"
    assert repr(state.fetching.peers["p1"]) == "<Peer p1 at host:1: 1 keys on their way, 0 queued>"


def test_a_broken_invariant_is_found() -> None:
    state = waiting_for("x")
    state.awaited["x"].waiting += 1
    with pytest.raises(InternalError, match=r"waiting counts the tasks that wait.*'x' queued"):
        state.sanity_check()


# Tasks that occupy no thread


def test_a_task_that_steps_aside_lets_another_run() -> None:
    state = new_state()
    run(state, row(1, "x"), row(2, "y"), row(3, "z"))
    first = take(state)
    assert state.take() is None
    state.secede(first)
    second = take(state)
    assert not state.rejoin(first)
    state.sanity_check()
    assert state.admit() is None
    state.on_success(second, None, 10, 0.5, None)
    assert state.take() is None, "who returns goes before who has not started"
    assert state.admit() is first
    assert said(state) == [("seceded", [1]), ("finished", [(2, 10, 0.5, None)]), ("rejoined", [1])]
    succeed(state, first)
    assert take(state).key == "z"


def test_a_task_returns_at_once_if_there_is_a_thread() -> None:
    state = new_state()
    run(state, row(1, "x"))
    job = take(state)
    state.secede(job)
    assert state.rejoin(job)
    assert state.executing == 1
    assert said(state) == [("seceded", [1]), ("rejoined", [1])]


def test_the_most_urgent_returns_first() -> None:
    state = new_state()
    run(state, row(1, "x", order=1), row(2, "y", order=2), row(3, "z", order=3))
    first = take(state)
    state.secede(first)
    second = take(state)
    state.secede(second)
    third = take(state)
    for job in (second, first):
        assert not state.rejoin(job)
    state.on_success(third, None, 10, 0.5, None)
    assert state.admit() is first
    assert state.admit() is None
    state.on_success(first, None, 10, 0.5, None)
    assert state.admit() is second
    state.sanity_check()


@pytest.mark.parametrize("returns", [False, True])
def test_a_task_that_stepped_aside_is_cancelled(returns: bool) -> None:
    state = new_state()
    run(state, row(1, "x"))
    job = take(state)
    state.secede(job)
    state.on_cancel([1])
    if returns:
        assert state.rejoin(job)
    succeed(state, job)
    assert said(state)[-1] == ("stopped", [1])
    assert state.executing == 0


def test_a_task_ends_while_it_is_aside() -> None:
    state = new_state()
    run(state, row(1, "x"), row(2, "y"))
    job = take(state)
    state.secede(job)
    state.on_failure(job, 0.1, "raised")
    assert said(state) == [("seceded", [1]), ("failed", 1, 0.1, "raised")]
    assert take(state).key == "y"


def test_asynchronous_tasks_are_taken_all_at_once() -> None:
    state = new_state()
    state.on_stored([("v", 7, 10)])
    run(state, row(1, "x", flags=2), row(2, "y", "v", flags=2), row(3, "z"))
    assert state.ready == 1
    jobs = state.take_away()
    state.sanity_check()
    assert [job.key for job in jobs] == ["x", "y"]
    assert state.inputs(jobs[1]) == [7]
    assert take(state).key == "z"
    for job in jobs:
        succeed(state, job)
    assert state.executing == 1
    assert state.take_away() == []


def test_an_asynchronous_task_is_dropped_before_it_was_taken() -> None:
    state = new_state()
    run(state, row(1, "x", flags=2), row(2, "y", flags=2), row(3, "z", "v", flags=2), where=[("v", 1, PEERS)])
    state.on_cancel([1])
    state.on_recall([2])
    assert state.take_away() == []
    assert said(state) == [("stopped", [1]), ("returned", [2])]


def test_the_input_of_an_asynchronous_task_is_released_before_it_is_taken() -> None:
    state = new_state()
    state.on_stored([("v", 7, 10)])
    run(state, row(1, "x", "v", flags=2))
    state.on_release(["v"])
    assert state.take_away() == []
    assert said(state) == [("missing", [("v", "")])]
    state.on_where([("v", 10, PEERS)])
    ((ident, _, keys),) = state.fetches()
    state.on_fetched(ident, [(keys[0], 7, 10)])
    assert [job.key for job in state.take_away()] == ["x"]


def test_the_start_of_a_task_is_told_if_it_is_wanted() -> None:
    state = new_state()
    run(state, row(1, "x", flags=4), row(2, "y", flags=6))
    assert said(state) == []
    take(state)
    state.take_away()
    assert said(state) == [("started", [1, 2])]


def test_a_copy_of_an_actor_does_not_stand_for_one_that_is_to_be_made() -> None:
    state = new_state()
    state.on_stored([("x", "a copy", 10), ("y", "a value", 10)])
    run(state, row(1, "x", flags=8), row(2, "y"))
    assert said(state) == [("finished", [(2, 10, 0.0, None)])]
    succeed(state, take(state), "an actor")
    assert state.store["x"] == ("an actor", 10)
    assert said(state) == [("finished", [(1, 10, 0.5, None)])]


def test_the_start_of_what_has_ended_is_not_told() -> None:
    state = new_state()
    run(state, row(1, "x", flags=4))
    succeed(state, take(state))
    assert said(state) == [("finished", [(1, 10, 0.5, None)])]


# Copies


def test_a_copy_is_fetched_and_kept() -> None:
    state = new_state()
    state.on_acquire([("v", 10, PEERS)])
    ((ident, _, keys),) = state.fetches()
    assert keys == ["v"]
    state.on_fetched(ident, [("v", 7, 10)])
    assert said(state) == [("acquired", [("v", 10)])]
    state.on_acquire([("v", 10, PEERS)])
    assert said(state) == [("acquired", [("v", 10)])]


def test_a_copy_is_kept_although_the_task_that_needed_it_is_gone() -> None:
    state = waiting_for("v")
    state.on_acquire([("v", 10, PEERS)])
    state.on_cancel([1])
    said(state)
    ((ident, _, _),) = state.fetches()
    state.on_fetched(ident, [("v", 7, 10)])
    assert said(state) == [("acquired", [("v", 10)])]


@pytest.mark.parametrize("fetching", [False, True])
def test_a_copy_is_not_wanted_any_more(fetching: bool) -> None:
    state = new_state()
    state.on_acquire([("v", 10, PEERS)])
    requests = state.fetches() if fetching else []
    state.on_release(["v"])
    state.sanity_check()
    for ident, _, keys in requests:
        state.on_fetched(ident, [(key, 7, 10) for key in keys])
    assert said(state) == []
    assert not state.store
    assert not state.awaited


def test_a_copy_that_nobody_holds_is_asked_for() -> None:
    state = new_state()
    state.on_acquire([("v", 10, [])])
    assert said(state) == [("missing", [("v", "")])]
    state.on_acquire([("w", 10, PEERS[:1])])
    state.fetches()
    state.on_not_held("p1", ["w"])
    assert said(state) == [("missing", [("w", "p1")])]
