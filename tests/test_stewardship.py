"""Copies, moves and retirements on the scheduler, event by event, and in simulated clusters."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.core.goals import ATTEMPTS, FANOUT, Candidates, Goal, Rebalancing, plan_moves
from treadle.core.records import Worker
from treadle.core.scheduler import Scheduler
from treadle.core.states import NAMES
from treadle.core.worker import WorkerState
from treadle.testing.simulation import SimulatedCluster, checksum, constant
from treadle.testing.simulation.client import SimulatedClient


class Stage:
    """A scheduler whose peers are played by the test. Every event is followed by a check of all invariants."""

    def __init__(self, count: int = 3, **options: Any) -> None:
        self.core = Scheduler()
        self.workers = [self.join(f"w{number}", **options) for number in range(count)]
        self.client = self.core.on_client("client", 0.0)
        self.core.on_functions(self.client, [(0, b"f", "f", b"pickle", 0), (8, b"a", "a", b"pickle", 8)])
        self.over: list[Goal] = []

    def join(self, name: str, nthreads: int = 1, limit: int = 0, resources: dict[str, float] | None = None) -> Worker:
        return self.core.on_worker(name, f"host:{name}", name, "host", nthreads, limit, resources or {}, True, 0.0)

    def place(self, worker: Worker, *keys: str, nbytes: int = 10) -> None:
        """Values that were scattered to a worker."""
        self.core.on_placed(self.client, [(key, nbytes, worker.ident) for key in keys], 0.0)
        self.check()

    def submit(
        self, *keys: str, deps: tuple[str, ...] = (), function: int = 0, workers: list[str] | None = None
    ) -> None:
        payloads = [b""] * len(keys)
        rows: list[list[int | str]] = [list(deps) for _ in keys] if deps else []
        self.core.on_submit(
            self.client, list(keys), [function] * len(keys), payloads, rows, None, (0, workers, None, 0), 0.0
        )
        self.check()

    def finish(self, worker: Worker, *keys: str) -> None:
        attempts = {task.key: attempt for attempt, task in worker.processing.items()}
        self.core.on_finished(worker, [(attempts[key], 10, 0.001, b"\x01") for key in keys], 0.0)
        self.check()

    def replicate(self, *keys: str, count: int = 0, workers: list[str] | None = None) -> Goal:
        goal = self.core.on_replicate(list(keys), count, workers, self.over.append, 0.0)
        self.check()
        return goal

    def retire(self, *workers: Worker, close: bool = True, force: bool = False) -> list[Goal]:
        goals = self.core.on_retire(list(workers), "go", close, force, self.over.append, 0.0)
        self.check()
        return goals

    def acquired(self, worker: Worker, *keys: str) -> None:
        self.core.on_acquired(worker, [(key, 10) for key in keys], 0.0)
        self.check()

    def missing(self, worker: Worker, *rows: tuple[str, str]) -> None:
        self.core.on_missing(worker, list(rows), 0.0)
        self.check()

    def check(self) -> None:
        self.core.sanity_check()

    def sent(self, worker: Worker) -> list[tuple[Any, ...]]:
        self.core.flush()
        self.core.placement.dirty.extend(other for other in [*self.workers, self.client] if other.outbox)
        return worker.take()

    def told(self, worker: Worker, op: str) -> list[Any]:
        """The rows of the messages of one kind."""
        return [row for message in self.sent(worker) if message[0] == op for row in message[1]]

    def asked(self) -> list[str]:
        """The workers that have been told to acquire something since the last time."""
        return [worker.name for worker in self.workers for _ in self.told(worker, "acquire")]

    def state(self, key: str) -> str:
        return NAMES[self.core.tasks[key].state]

    def holders(self, key: str) -> list[str]:
        return [worker.name for worker in self.core.tasks[key].holders]


# Copies


def test_a_copy_counts_when_the_worker_says_that_it_has_it() -> None:
    stage = Stage()
    stage.place(stage.workers[0], "x")
    stage.replicate("x", count=2)
    assert stage.told(stage.workers[1], "acquire") == [("x", 10, [("w0", "host:w0")])]
    assert not stage.over
    stage.acquired(stage.workers[1], "x")
    assert stage.holders("x") == ["w0", "w1"]
    (goal,) = stage.over
    assert goal.problems == []
    assert stage.core.steward.goals == {}
    assert stage.core.ledger.tended is False


def test_what_is_there_already_is_no_work() -> None:
    stage = Stage()
    stage.place(stage.workers[0], "x")
    stage.replicate("x", count=1)
    assert [goal.problems for goal in stage.over] == [[]]
    assert stage.asked() == []


def test_copies_spread_like_a_tree() -> None:
    stage = Stage(8)
    stage.place(stage.workers[0], "x")
    stage.replicate("x")
    first = stage.asked()
    assert len(first) == FANOUT, "no more than these at once from a single holder"
    stage.acquired(stage.core.workers[first[0]], "x")
    second = stage.asked()
    assert len(second) == FANOUT + 1
    for name in [first[1], *second]:
        stage.acquired(stage.core.workers[name], "x")
    for name in stage.asked():
        stage.acquired(stage.core.workers[name], "x")
    assert len(stage.holders("x")) == 8
    assert [goal.problems for goal in stage.over] == [[]]


def test_only_the_workers_that_are_named() -> None:
    stage = Stage(4)
    stage.place(stage.workers[0], "x")
    stage.replicate("x", workers=["w2", "w3"])
    assert stage.asked() == ["w2", "w3"]
    stage.acquired(stage.workers[3], "x")
    stage.acquired(stage.workers[2], "x")
    assert [goal.problems for goal in stage.over] == [[]]


def test_the_emptiest_worker_gets_the_copy() -> None:
    stage = Stage(2)
    small = stage.join("small", limit=1000)
    stage.workers.append(small)
    stage.place(stage.workers[0], "x")
    stage.place(stage.workers[1], "big", nbytes=1_000_000)
    stage.place(small, "little", nbytes=500)
    stage.replicate("x", count=2)
    assert stage.asked() == ["w1"], "what counts is the share of the memory limit"


def test_more_copies_than_workers() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "x")
    stage.replicate("x", count=3)
    assert [goal.problems for goal in stage.over] == [["'x' was to have 3 copies, and there are 2 workers for them"]]


def test_an_actor_has_no_copy() -> None:
    stage = Stage(2)
    stage.submit("actor", function=8, workers=["w0"])
    stage.finish(stage.workers[0], "actor")
    stage.replicate("actor")
    assert [goal.problems for goal in stage.over] == [["'actor' is an actor, of which there can be no copy"]]


def test_what_is_gone() -> None:
    stage = Stage(2)
    goal = stage.replicate("x")
    assert stage.over == [goal]
    assert goal.problems == ["'x' is gone"]


def test_released_while_it_is_copied() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "x")
    stage.replicate("x")
    stage.core.on_release(stage.client, ["x"], 0.0)
    stage.check()
    assert [goal.problems for goal in stage.over] == [["'x' is gone"]]
    assert stage.sent(stage.workers[1]) == [("acquire", [("x", 10, [("w0", "host:w0")])]), ("release", ["x"])]
    stage.acquired(stage.workers[1], "x")
    assert stage.told(stage.workers[1], "release") == ["x"], "the copy crossed the news on its way"


def test_a_copy_that_fails_is_made_elsewhere_and_the_original_stays() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x")
    stage.replicate("x", count=2)
    assert stage.asked() == ["w1"]
    stage.missing(stage.workers[1], ("x", "w0"), ("x", "w0"))
    assert stage.told(stage.workers[1], "release") == ["x"], "it is not to try any longer"
    assert stage.holders("x") == ["w0"], "this may be the last copy"
    assert stage.asked() == ["w2"]
    stage.acquired(stage.workers[2], "x")
    assert [goal.problems for goal in stage.over] == [[]]


def test_after_some_attempts_a_copy_is_given_up() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "x")
    stage.replicate("x")
    for attempt in range(ATTEMPTS):
        assert not stage.over, f"attempt {attempt}"
        assert stage.asked() == ["w1"]
        stage.missing(stage.workers[1], ("x", "w0"))
    assert [goal.problems for goal in stage.over] == [["no worker could get a copy of 'x'"]]
    assert stage.holders("x") == ["w0"]


def test_what_cannot_be_pickled_is_given_up() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "x")
    stage.replicate("x")
    for _ in range(ATTEMPTS):
        stage.core.on_unusable(stage.workers[1], ["x", "unknown"], 0.0)
        stage.check()
    assert [goal.problems for goal in stage.over] == [["no worker could get a copy of 'x'"]]


def test_a_worker_that_asks_a_holder_who_has_gone_is_told_of_another() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x")
    stage.place(stage.workers[1], "x")
    stage.replicate("x")
    assert stage.asked() == ["w2"]
    stage.core.on_worker_left(stage.workers[0], 0.0)
    stage.check()
    stage.missing(stage.workers[2], ("x", "w0"))
    assert stage.sent(stage.workers[2]) == [("where", [("x", 10, [("w1", "host:w1")])])]
    stage.acquired(stage.workers[2], "x")
    assert [goal.problems for goal in stage.over] == [[]]


def test_a_worker_that_dies_on_the_way_is_replaced_by_another() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x")
    stage.replicate("x", count=2)
    assert stage.asked() == ["w1"]
    stage.core.on_worker_lost(stage.workers[1], 0.0)
    stage.check()
    assert stage.asked() == ["w2"]


def test_what_is_lost_and_computed_again_is_copied_then() -> None:
    stage = Stage(3)
    stage.submit("x", workers=["w0", "w1"])
    first = next(worker for worker in stage.workers if worker.processing)
    stage.finish(first, "x")
    stage.replicate("x", count=2)
    (taker,) = stage.asked()
    stage.core.on_worker_left(first, 0.0)
    stage.check()
    second = next(worker for worker in stage.workers if worker.processing)
    stage.missing(stage.core.workers[taker], ("x", first.ident))
    assert not stage.over
    stage.finish(second, "x")
    (taker,) = stage.asked()
    stage.acquired(stage.core.workers[taker], "x")
    assert [goal.problems for goal in stage.over] == [[]]


def test_a_task_that_needs_it_there_is_told_as_ever() -> None:
    stage = Stage(2)
    stage.submit("x", workers=["w0"])
    stage.finish(stage.workers[0], "x")
    stage.replicate("x")
    stage.submit("y", deps=("x",), workers=["w1"])
    stage.missing(stage.workers[1], ("x", "w0"))
    assert stage.core.tasks["y"].worker is None, "it waits until x is computed again"
    assert stage.told(stage.workers[1], "release") == ["x"]


def test_nobody_waits_for_it_any_more() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x")
    goal = stage.replicate("x", count=2)
    stage.core.on_withdraw(goal, 0.0)
    stage.check()
    stage.acquired(stage.workers[1], "x")
    assert stage.holders("x") == ["w0", "w1"], "what comes is kept"
    assert stage.over == []
    assert stage.core.ledger.tended is False


def test_a_copy_that_crossed_its_release_is_found_out_by_the_worker_itself() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit("x")
    stage.finish(worker, "x")
    stage.submit("y", deps=("x",))
    stage.missing(worker, ("x", "w0"))
    assert stage.state("x") == "queued", "it is computed again"
    assert stage.state("y") == "waiting"


def test_a_key_that_nobody_knows_is_dropped_by_who_misses_it() -> None:
    stage = Stage(1)
    stage.missing(stage.workers[0], ("x", "w9"))
    assert stage.told(stage.workers[0], "release") == ["x"]


# Moves


def held(stage: Stage) -> dict[str, list[str]]:
    return {worker.name: [task.key for task in worker.held] for worker in stage.workers}


def test_a_result_leaves_when_it_has_arrived() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "a", "b", "c", "d")
    goal = stage.core.on_rebalance(None, None, stage.over.append, 0.0)
    stage.check()
    assert isinstance(goal, Rebalancing)
    rows = stage.told(stage.workers[1], "acquire")
    assert len(rows) == 2
    assert len(held(stage)["w0"]) == 4, "nothing has left yet"
    stage.acquired(stage.workers[1], *[row[0] for row in rows])
    assert sorted(stage.told(stage.workers[0], "release")) == sorted(row[0] for row in rows)
    assert [len(keys) for keys in held(stage).values()] == [2, 2]
    assert stage.over == [goal]
    assert (goal.moved, goal.nbytes, goal.problems) == (2, 20, [])


def test_a_result_that_cannot_move_stays() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "a", "b")
    stage.core.on_rebalance(["b", "unknown"], None, stage.over.append, 0.0)
    stage.missing(stage.workers[1], ("b", "w0"))
    assert held(stage) == {"w0": ["a", "b"], "w1": []}
    (goal,) = stage.over
    assert goal.problems == ["'b' did not move: worker 'w1' could not get it from 'w0'"]


def test_a_move_to_a_worker_that_leaves() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "a", "b")
    stage.core.on_rebalance(None, ["w0", "w1"], stage.over.append, 0.0)
    stage.core.on_worker_left(stage.workers[1], 0.0)
    stage.check()
    (goal,) = stage.over
    assert goal.problems == ["'a' did not move, because worker 'w1' has left"]


@pytest.mark.parametrize(
    "case",
    [
        ([[10] * 10, [], []], [40, 30, 30]),
        ([[10] * 11, [10] * 10, []], [70, 70, 70]),
        ([[100], [], []], [100, 0, 0]),
        ([[60, 30, 10], [], []], [60, 30, 10]),
        ([[1] * 100, [1] * 98, [1] * 97], [100, 98, 97]),
        ([[], [], []], [0, 0, 0]),
        ([[0, 0, 0], [], []], [0, 0, 0]),
        ([[5, 5]], [10]),
    ],
)
def test_what_moves(case: tuple[list[list[int]], list[int]]) -> None:
    sizes, shares = case
    stage = Stage(len(sizes))
    for worker, row in zip(stage.workers, sizes):
        for number, nbytes in enumerate(row):
            stage.place(worker, f"{worker.name}-{number}", nbytes=nbytes)
    left = [worker.nbytes for worker in stage.workers]
    for task, source, target in plan_moves(stage.workers, None):
        assert source in task.holders
        assert target not in task.holders
        left[stage.workers.index(source)] -= task.nbytes
        left[stage.workers.index(target)] += task.nbytes
    assert sorted(left) == sorted(shares)


def test_shares_are_those_of_the_memory_limit() -> None:
    stage = Stage(0)
    stage.workers = [stage.join("one", limit=1000), stage.join("three", limit=3000)]
    stage.place(stage.workers[0], *"abcdefgh", nbytes=100)
    moves = plan_moves(stage.workers, None)
    assert len(moves) == 6


def test_actors_do_not_move() -> None:
    stage = Stage(2)
    stage.submit("one", "two", function=8, workers=["w0"])
    stage.finish(stage.workers[0], "one")
    stage.finish(stage.workers[0], "two")
    assert plan_moves(stage.workers, None) == []


# Workers that leave


def test_an_idle_worker_leaves_at_once() -> None:
    stage = Stage(2)
    stage.retire(stage.workers[0])
    assert stage.sent(stage.workers[0]) == [("shutdown", "go")]
    assert not stage.over
    stage.core.on_worker_left(stage.workers[0], 0.0)
    stage.check()
    assert [goal.problems for goal in stage.over] == [[]]


def test_a_worker_that_is_to_leave_gets_nothing_new_and_gives_back_what_it_has_not_started() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.submit("a", "b", "c", "d")
    sent = [row[0] for row in stage.told(worker, "run")]
    assert len(sent) == 2
    stage.retire(worker)
    assert stage.told(worker, "recall") == sent
    other = stage.join("other", nthreads=8)
    stage.workers.append(other)
    assert {row[1] for row in stage.told(other, "run")} == {"c", "d"}
    stage.core.on_returned(worker, [sent[1]], 0.0)
    stage.check()
    assert {row[1] for row in stage.told(other, "run")} == {"b"}
    stage.submit("e", deps=(), workers=["w0"])
    assert stage.core.explain("e").endswith("which none of the 1 workers has.")
    assert not stage.over, "a is still running"
    stage.finish(worker, "a")
    assert stage.told(other, "acquire") == [("a", 10, [("w0", "host:w0")])]
    stage.acquired(other, "a")
    assert stage.sent(worker) == [("shutdown", "go")]


def test_tasks_do_not_go_where_their_inputs_leave() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x")
    stage.place(stage.workers[0], "y")
    stage.place(stage.workers[1], "y")
    stage.retire(stage.workers[0])
    stage.submit("f", deps=("x",))
    stage.submit("g", deps=("x", "y"))
    assert not stage.workers[0].processing
    assert stage.core.tasks["g"].worker is stage.workers[1]


def test_what_only_it_holds_is_copied_before_it_leaves() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x", "y", "both")
    stage.place(stage.workers[1], "both")
    stage.retire(stage.workers[0])
    asked = stage.asked()
    assert sorted(asked) == ["w1", "w2"], "one for each, and none for what is held elsewhere"
    assert stage.told(stage.workers[0], "shutdown") == []
    for worker in stage.workers[1:]:
        stage.acquired(worker, *[task.key for task in list(worker.acquiring)])
    assert stage.sent(stage.workers[0]) == [("shutdown", "go")]
    stage.core.on_worker_left(stage.workers[0], 0.0)
    stage.check()
    assert {key: stage.state(key) for key in ("x", "y", "both")} == dict.fromkeys(("x", "y", "both"), "memory")


def test_several_leave_and_do_not_pass_their_results_to_one_another() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x", "both")
    stage.place(stage.workers[1], "y", "both")
    stage.retire(stage.workers[0], stage.workers[1])
    assert stage.asked() == ["w2", "w2", "w2"]
    stage.acquired(stage.workers[2], "x", "y", "both")
    for worker in stage.workers[:2]:
        assert ("shutdown", "go") in stage.sent(worker)


def test_the_last_worker_stays_if_it_holds_something() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.place(worker, "a", "b", "c", "d", "e")
    (goal,) = stage.retire(worker)
    assert stage.over == [goal]
    assert goal.problems == ["there is no other worker to take 'a', 'b', 'c' and 2 more"]
    stage.submit("x")
    assert stage.core.tasks["x"].worker is worker, "it gets tasks again"


def test_the_last_worker_leaves_by_force() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    stage.place(worker, "a")
    stage.retire(worker, force=True)
    assert stage.sent(worker)[-1] == ("shutdown", "go")
    stage.core.on_worker_left(worker, 0.0)
    stage.check()
    assert stage.state("a") == "erred", "it was scattered"
    assert [goal.problems for goal in stage.over] == [[]]


def test_copies_of_an_actor_do_not_let_its_worker_leave() -> None:
    stage = Stage(2)
    first, second = stage.workers
    stage.submit("actor", function=8, workers=["w0"])
    stage.finish(first, "actor")
    stage.submit("user", deps=("actor",), workers=["w1"])
    stage.acquired(second, "actor")
    stage.finish(second, "user")
    stage.core.on_release(stage.client, ["user"], 0.0)
    stage.retire(first)
    assert [goal.problems for goal in stage.over] == [["actors cannot move, and it has 'actor'"]]
    stage.retire(second)
    assert stage.sent(second)[-1] == ("shutdown", "go"), "with a copy nothing is lost"


def test_a_worker_with_an_actor_stays() -> None:
    stage = Stage(2)
    stage.submit("actor", function=8, workers=["w0"])
    stage.finish(stage.workers[0], "actor")
    stage.retire(stage.workers[0])
    assert [goal.problems for goal in stage.over] == [["actors cannot move, and it has 'actor'"]]
    stage.retire(stage.workers[0], force=True)
    assert stage.sent(stage.workers[0])[-1] == ("shutdown", "go")


def test_a_worker_whose_results_nobody_can_get_stays() -> None:
    stage = Stage(2, resources={"GPU": 1.0})
    stage.place(stage.workers[0], "x")
    stage.retire(stage.workers[0])
    assert not stage.workers[0].needs
    stage.core.on_submit(stage.client, ["y"], [0], [b""], [], None, (0, None, {"GPU": 1.0}, 0), 0.0)
    for _ in range(ATTEMPTS):
        stage.missing(stage.workers[1], ("x", "w0"))
    assert [goal.problems for goal in stage.over] == [["no other worker could get 'x'"]]
    assert stage.holders("x") == ["w0"]
    assert len(stage.workers[0].needs) == 1, "it may run such tasks again"


def test_a_worker_that_dies_before_it_could_leave() -> None:
    stage = Stage(2)
    stage.place(stage.workers[0], "x")
    stage.retire(stage.workers[0])
    stage.core.on_worker_lost(stage.workers[0], 0.0)
    stage.check()
    assert [goal.problems for goal in stage.over] == [["it was gone before others held what it held"]]
    stage.core.on_worker_died("w0", [], -9, 1, "host", "", 0.0)
    stage.check()


def test_a_worker_that_was_asked_twice_to_leave() -> None:
    stage = Stage(1)
    stage.place(stage.workers[0], "x")
    stage.submit("task")
    stage.retire(stage.workers[0], force=True)
    stage.retire(stage.workers[0])
    assert [len(goal.problems) for goal in stage.over] == [1]
    assert stage.workers[0].barred, "the first one did not mind"
    stage.finish(stage.workers[0], "task")
    assert stage.sent(stage.workers[0])[-1] == ("shutdown", "go")


def test_a_worker_may_stay_connected() -> None:
    stage = Stage(2)
    stage.retire(stage.workers[0], close=False)
    assert [goal.problems for goal in stage.over] == [[]]
    assert stage.sent(stage.workers[0]) == []
    stage.submit("a", "b", "c")
    assert not stage.workers[0].processing
    assert stage.core.info()["workers"]["w0"]["retiring"] is True


# A new beginning


def test_a_restart_cancels_everything_for_all() -> None:
    stage = Stage(2)
    other = stage.core.on_client("other", 0.0)
    stage.submit("x", "y", "z")
    stage.core.on_want(other, ["x"], 0.0)
    stage.place(stage.workers[0], "value")
    stage.replicate("value")
    stage.core.on_restart(["w0"], "restarted", 0.0)
    stage.check()
    assert not stage.core.tasks
    assert ("cancelled", ["x"], "restarted") in other.take()
    assert ("cancelled", ["x", "y", "z", "value"], "restarted") in stage.client.take()
    assert stage.sent(stage.workers[0])[-1] == ("shutdown", "restarted", True)
    assert not any(message[0] == "shutdown" for message in stage.sent(stage.workers[1]))
    assert [goal.problems for goal in stage.over] == [["restarted"]]
    stage.submit("new", "newer", "newest")
    assert not stage.told(stage.workers[0], "run"), "its process ends"


def test_a_worker_that_was_to_leave_ends_with_the_restart() -> None:
    stage = Stage(2)
    stage.submit("x", workers=["w0"])
    stage.retire(stage.workers[0])
    stage.core.on_restart(["w0", "w1"], "restarted", 0.0)
    stage.check()
    assert all(worker.barred for worker in stage.workers)
    assert [goal.problems for goal in stage.over] == [["restarted"]]


# The worker's side


def test_a_worker_says_when_it_has_got_a_copy_that_it_cannot_use() -> None:
    state = WorkerState(1)
    state.on_acquire([("x", 10, [("w1", "host:w1")])])
    assert state.fetches() == [("w1", "host:w1", ["x"])]
    state.on_unusable("w1", "x", ("refused", b"", "it cannot be pickled", {}))
    assert state.take_outbox() == [("unusable", ["x"])]
    state.sanity_check()


def test_a_worker_that_is_told_to_stop_trying_says_nothing() -> None:
    state = WorkerState(1)
    state.on_acquire([("x", 10, [("w1", "host:w1")])])
    state.fetches()
    state.on_release(["x"])
    state.on_unusable("w1", "x", ("refused", b"", "it cannot be pickled", {}))
    assert state.take_outbox() == []
    state.sanity_check()


# On simulated clusters


def simulated(workers: int, **options: Any) -> tuple[SimulatedCluster, SimulatedClient]:
    cluster = SimulatedCluster(workers, evaluate=checksum, check=True, behaviour=constant(0.01, 1000), **options)
    return cluster, cluster.add_client()


def test_all_workers_but_one_retire_while_they_work_and_nothing_is_lost() -> None:
    cluster, client = simulated(6)
    futures = client.submit({f"x{number}": ("f", ()) for number in range(300)})
    client.scatter({"value": 5000}, next(iter(cluster.workers.values())))
    cluster.run(0.1)
    leaving = list(cluster.core.workers.values())[:5]
    over: list[Goal] = []

    def retire(now: float) -> None:
        cluster.core.on_retire(leaving, "enough", True, False, over.append, now)

    cluster.scheduler.post(cluster.scheduler.event, retire)
    cluster.run_until_done()
    cluster.run_until(lambda: len(over) == 5)
    assert [goal.problems for goal in over] == [[]] * 5
    assert {future.status for future in futures} == {"done"}
    assert sum(cluster.runs.values()) == 300, "nothing had to be computed again"
    assert [worker.alive for worker in cluster.workers.values()] == [False] * 5 + [True]
    client.gather(["value", "x0", "x299"])
    cluster.run_until_done()
    assert client.futures["value"].gathered


def test_a_value_is_copied_to_a_hundred_workers() -> None:
    cluster, client = simulated(100, bandwidth=1e8)
    client.scatter({"value": 10_000_000}, next(iter(cluster.workers.values())))
    cluster.settle()
    started = cluster.now
    over: list[Goal] = []

    def replicate(now: float) -> None:
        cluster.core.on_replicate(["value"], 0, None, over.append, now)

    cluster.scheduler.post(cluster.scheduler.event, replicate)
    cluster.run_until(lambda: bool(over))
    assert over[0].problems == []
    assert all("value" in worker.state.store for worker in cluster.workers.values())
    assert cluster.now - started < 2.0, "one after another it would take ten seconds"


def test_results_spread_over_workers_that_have_joined() -> None:
    cluster, client = simulated(1)
    client.submit({f"x{number}": ("f", ()) for number in range(60)})
    cluster.run_until_done()
    cluster.add_worker()
    cluster.add_worker()
    cluster.settle()
    over: list[Goal] = []

    def rebalance(now: float) -> None:
        cluster.core.on_rebalance(None, None, over.append, now)

    cluster.scheduler.post(cluster.scheduler.event, rebalance)
    cluster.run_until(lambda: bool(over))
    cluster.settle()
    assert [len(worker.state.store) for worker in cluster.workers.values()] == [20, 20, 20]
    client.gather(list(client.futures))
    cluster.run_until_done()


def test_candidates_are_picked_by_what_is_on_its_way_to_them_too() -> None:
    stage = Stage(3)
    stage.place(stage.workers[0], "x", "y", nbytes=1000)
    stage.replicate("x", count=2)
    task = stage.core.tasks["y"]
    assert [worker.name for worker in Candidates(stage.workers).pick(task, 1, [], [])] == ["w2"]
    assert repr(Candidates(stage.workers)) == "<Candidates: 3 workers>"


def test_news_of_a_worker_that_is_gone() -> None:
    stage = Stage(2)
    stage.core.on_worker_lost(stage.workers[0], 0.0)
    stage.core.on_unusable(stage.workers[0], ["x"], 0.0)
    stage.check()
