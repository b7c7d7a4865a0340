"""The simulated cluster: what it simulates, and what the real scheduler and workers make of it.

Plain functions with plain assertions: they are run by PyPy too, where there is no pytest (see ``tests/pypy``).
"""

from __future__ import annotations

from simulation_parts import SUM, chain, flat, raised, started

from treadle.core.records import ACTOR, ASYNCHRONOUS, STARTS
from treadle.errors import InternalError, ProtocolError
from treadle.testing.recording import UnexaminedError
from treadle.testing.simulation import Costs, Run, SimulatedCluster, StalledError, checksum, constant, table
from treadle.testing.simulation.storm import ACTIONS, Storm, random_actions

# Tasks that step aside.


def test_tasks_submit_tasks_and_wait_for_them_on_one_thread() -> None:
    def behaviour(key: str, function: str, number: int) -> Run:
        depth = key.count("/")
        return Run(0.1, children={f"{key}/{index}": ("f", ()) for index in range(3)} if depth < 3 else {})

    cluster, client = started(1, behaviour=behaviour)
    futures = client.submit({"a": ("f", ()), "b": ("f", ())})
    cluster.run_until_done()
    assert {future.status for future in futures} == {"done"}
    assert cluster.runs == dict.fromkeys(cluster.runs, 1)
    assert len(cluster.runs) == 2 * (1 + 3 + 9 + 27)
    assert abs(cluster.busy - 8.0) < 1e-6, "there was no time in which two ran, and none was lost"
    assert 8.0 < cluster.now < 8.2


def test_who_steps_aside_lets_another_run_and_goes_on_before_those_who_have_not_started() -> None:
    cluster, client = started(1, behaviour=table({"a": Run(0.2, aside=0.1)}, Run(0.3)))
    a, b, c = client.submit({"a": ("f", ()), "b": ("f", ()), "c": ("f", ())})
    cluster.run_until(lambda: a.status == "done")
    assert 0.5 < cluster.now < 0.51
    assert (b.status, c.status) == ("done", "pending")
    cluster.run_until_done()
    assert 0.8 < cluster.now < 0.81


def test_who_steps_aside_may_end_without_a_thread() -> None:
    cluster, client = started(1, behaviour=table({"a": Run(0.2, aside=0.1, rejoins=False)}, Run(1.0)))
    a, _ = client.submit({"a": ("f", ()), "b": ("f", ())})
    cluster.run_until(lambda: a.status == "done")
    assert 0.3 < cluster.now < 0.31


def test_asynchronous_tasks_run_all_at_once_and_are_stopped_when_cancelled() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    futures = client.submit(flat(100), kind=ASYNCHRONOUS)
    (busy,) = client.submit({"busy": ("f", ())})
    cluster.run(0.5)
    client.cancel([future.key for future in futures[:50]])
    cluster.run(0.01)
    assert not any(client.cancelling.values()), "the scheduler has answered"
    cluster.run_until(lambda: busy.status == "done")
    assert cluster.now < 1.01
    cluster.run_until_done()
    assert [future.status for future in futures] == ["cancelled"] * 50 + ["done"] * 50
    assert cluster.now < 1.02


def test_a_client_is_told_of_the_start() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    first, second = client.submit({"a": ("f", ()), "b": ("f", ())}, kind=STARTS)
    cluster.run(0.5)
    assert (first.started, second.started) == (True, False)
    cluster.run(1.0)
    assert second.started


def test_an_actor_is_lost_with_its_worker_and_made_again_when_asked() -> None:
    cluster, client = started(1)
    (actor,) = client.submit({"actor": ("f", ())}, kind=ACTOR)
    cluster.run_until_done()
    other = cluster.add_worker(name="other")
    (user,) = client.submit({"user": ("f", ("actor",))}, workers=["other"])
    cluster.run_until_done()
    assert "actor" in other.state.store
    cluster.kill(cluster.workers["worker-0"])
    cluster.run(3.0)
    assert (actor.status, user.status) == ("failed", "done")
    assert actor.error is not None
    assert actor.error[3] == {"key": "actor", "worker": "worker-0", "actor": True}
    assert "actor" not in other.state.store
    client.retry(["actor"])
    cluster.run_until_done()
    assert (actor.status, actor.worker, cluster.runs["actor"]) == ("done", other.ident, 2)


def test_who_cancels_by_force_cancels_for_all() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    other = cluster.add_client()
    client.submit({"x": ("f", ())})
    (future,) = other.submit({"x": ("f", ())})
    cluster.run(0.5)
    client.cancel(["x"], force=True)
    cluster.run(0.1)
    assert future.error is not None
    assert future.error[0] == "cancelled"
    assert client.cancelling == {"x": 1}, "it has not stopped yet"
    cluster.run(0.5)
    assert client.cancelling == {"x": 0}


def test_a_failed_task_is_tried_again_by_one_of_two_clients() -> None:
    cluster, client = started(1, behaviour=lambda key, function, number: Run(0.1, error="no" if number == 1 else None))
    other = cluster.add_client()
    (future,) = client.submit({"x": ("f", ())})
    (same,) = other.submit({"x": ("f", ())})
    cluster.run_until_done()
    assert (future.status, same.status) == ("failed", "failed")
    client.retry(["x"])
    cluster.settle()
    assert (future.status, same.status) == ("done", "done")


# Results.


def test_a_graph_is_computed_and_its_small_result_rides_along() -> None:
    cluster, client = started()
    (future,) = client.submit(SUM, ["sum"])
    cluster.run_until_done()
    assert future.status == "done"
    assert future.packed is not None
    client.gather(["sum"])
    cluster.run_until_done()
    assert future.value == checksum("sum", [checksum("a", []), checksum("b", [])])
    assert cluster.runs == {"a": 1, "b": 1, "sum": 1}


def test_a_big_result_is_fetched() -> None:
    cluster, client = started(behaviour=constant(0.001, 10_000_000))
    (future,) = client.submit(SUM, ["sum"])
    cluster.run_until_done()
    assert (future.packed, future.nbytes) == (None, 10_000_000)
    before = cluster.now
    client.gather(["sum"])
    cluster.run_until_done()
    assert future.value == checksum("sum", [checksum("a", []), checksum("b", [])])
    assert cluster.now - before >= 10_000_000 / cluster.bandwidth


def test_what_is_released_is_forgotten_everywhere() -> None:
    cluster, client = started()
    client.submit(SUM)
    cluster.run_until_done()
    client.release(["sum", "a"])
    cluster.settle()
    assert list(cluster.core.tasks) == ["b"]
    client.release(["b"])
    cluster.settle()
    assert not cluster.core.tasks
    assert not any(worker.state.store for worker in cluster.workers.values())


def test_two_clients_share_a_task() -> None:
    cluster, one = started(behaviour=constant(0.1))
    two = cluster.add_client()
    one.submit({"x": ("f", ())})
    cluster.run(0.05)
    (future,) = two.submit({"x": ("f", ())})
    cluster.run(0.01)
    one.close()
    cluster.run_until_done()
    assert future.status == "done"
    assert cluster.runs == {"x": 1}


def test_what_a_client_wanted_goes_with_it() -> None:
    cluster, client = started(behaviour=constant(10.0))
    client.submit(SUM)
    cluster.run(1.0)
    client.close()
    cluster.settle()
    assert not cluster.core.tasks
    assert not cluster.core.clients


def test_a_cancelled_task_does_not_start() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    futures = client.submit(flat(10))
    cluster.run(0.5)
    client.cancel([future.key for future in futures])
    cluster.settle()
    assert {future.status for future in futures} == {"cancelled"}
    assert list(cluster.runs) == ["x0"]


def test_a_failure_reaches_all_that_depend_on_it() -> None:
    cluster, client = started(behaviour=table({"b": Run(0.01, error="boom")}, Run(0.001)))
    a, b, total = client.submit(SUM)
    cluster.run_until_done()
    assert a.status == "done"
    assert (b.status, b.culprit) == ("failed", "b")
    assert (total.status, total.culprit) == ("failed", "b")
    assert total.error is not None
    assert list(total.error) == ["raised", b"", "boom", {}]


def test_a_task_is_tried_again_as_often_as_asked() -> None:
    def behaviour(key: str, function: str, number: int) -> Run:
        return Run(0.001, error="not yet" if number < 3 else None)

    cluster, client = started(behaviour=behaviour)
    (future,) = client.submit({"x": ("f", ())}, retries=2)
    cluster.run_until_done()
    assert future.status == "done"
    assert cluster.runs == {"x": 3}
    (future,) = client.submit({"y": ("f", ())}, retries=1)
    cluster.run_until_done()
    assert future.status == "failed"
    assert cluster.runs["y"] == 2


def test_scattered_values_are_inputs() -> None:
    cluster, client = started()
    client.scatter({"s": 1_000_000}, cluster.workers["worker-1"])
    cluster.run_until_done()
    (future,) = client.submit({"x": ("f", ("s",))})
    client.gather(["x", "s"])
    cluster.run_until_done()
    assert future.value == checksum("x", [checksum("s", [])])
    assert client.futures["s"].value == checksum("s", [])
    assert cluster.core.who_has(["s"]) == {"s": ["worker-1"]}


def test_a_scattered_value_is_lost_with_its_worker() -> None:
    cluster, client = started()
    client.scatter({"s": 28}, cluster.workers["worker-1"])
    cluster.run_until_done()
    cluster.kill(cluster.workers["worker-1"])
    cluster.run(1.0)
    (future,) = client.submit({"x": ("f", ("s",))})
    cluster.run_until_done()
    assert future.status == "failed"
    assert future.error is not None
    assert future.error[0] == "lost"
    assert client.futures["s"].status == "failed"


def test_a_value_for_a_worker_that_is_gone_is_not_placed() -> None:
    cluster, client = started()
    cluster.kill(cluster.workers["worker-1"])
    client.scatter({"s": 28}, cluster.workers["worker-1"])
    cluster.run_until_done()
    assert client.futures["s"].status == "failed"
    client.release(["s"])
    cluster.settle()
    assert not cluster.core.tasks


def test_a_value_whose_worker_dies_before_the_scheduler_hears_of_it_is_lost() -> None:
    def latency(sender: str, receiver: str) -> float:
        return 0.5 if (sender, receiver) == ("client-0", "scheduler") else 0.001

    cluster, client = started(latency=latency)
    cluster.run(1.0)
    client.scatter({"s": 28}, cluster.workers["worker-1"])
    cluster.run(0.01)
    cluster.kill(cluster.workers["worker-1"])
    cluster.run_until_done()
    future = client.futures["s"]
    assert future.error is not None
    assert (future.status, future.error[0]) == ("failed", "lost")


# Time.


def test_a_small_task_takes_four_hops_and_its_own_time() -> None:
    cluster, client = started(behaviour=constant(0.5), latency=0.01)
    cluster.run(1.0)
    client.submit({"x": ("f", ())})
    before = cluster.now
    cluster.run_until_done()
    assert abs(cluster.now - before - 0.54) < 1e-9


def test_latency_may_differ_from_link_to_link() -> None:
    def latency(sender: str, receiver: str) -> float:
        return 0.1 if "client-0" in (sender, receiver) else 0.001

    cluster, client = started(behaviour=constant(0.0), latency=latency)
    cluster.run(1.0)
    client.submit({"x": ("f", ())})
    before = cluster.now
    cluster.run_until_done()
    assert abs(cluster.now - before - 0.202) < 1e-9


def test_a_chain_stays_on_its_worker() -> None:
    cluster, client = started(behaviour=constant(0.01, 1_000_000))
    client.submit(chain(20), ["x19"])
    cluster.run_until_done()
    assert cluster.workers["worker-0"].busy in (0.0, cluster.busy)


def test_transfers_from_one_worker_wait_for_one_another() -> None:
    graph: dict[str, tuple[str, tuple[str, ...]]] = {
        "big": ("make", ()),
        "y": ("use", ("big",)),
        "z": ("use", ("big",)),
    }
    runs = {"make": Run(1.0, 100_000_000), "use": Run(0.0, 28)}
    cluster, client = started(1, behaviour=table(runs), bandwidth=1e8)
    client.submit(graph, ["big"])
    cluster.run_until_done()
    others = [cluster.add_client() for _ in range(2)]
    for other in others:
        other.want(["big"])
        other.gather(["big"])
    before = cluster.now
    cluster.run_until_done()
    assert 2.0 < cluster.now - before < 2.01


def test_the_scheduler_needs_its_time() -> None:
    cluster, client = started(10, behaviour=constant(0.0), costs=Costs(row=0.010, submit=0.001))
    before = cluster.now
    client.submit(flat(100))
    cluster.run_until_done()
    assert cluster.now - before >= 1.1
    assert cluster.scheduler.busy >= 1.1


def test_a_worker_needs_its_time_per_task() -> None:
    cluster, client = started(1, behaviour=constant(0.0), costs=Costs(task=0.010))
    before = cluster.now
    client.submit(flat(100))
    cluster.run_until_done()
    assert cluster.now - before >= 1.0
    assert cluster.busy == 0.0


def test_a_slow_worker_is_given_less() -> None:
    cluster, client = started(1, behaviour=constant(0.1))
    slow = cluster.add_worker(speed=0.1)
    client.submit(flat(110))
    cluster.run_until_done()
    assert cluster.runs == {f"x{index}": 1 for index in range(110)}
    assert 5 <= slow.busy <= 15


def test_the_same_happens_each_time() -> None:
    stories: list[str] = []
    for _ in range(2):
        storm = Storm(7)
        storm.play(random_actions(7))
        stories.append(storm.cluster.story())
    assert stories[0] == stories[1]


def test_a_thousand_workers_are_kept_busy() -> None:
    cluster = SimulatedCluster(1000, behaviour=constant(0.1), costs=Costs(row=5e-6, submit=1e-6))
    client = cluster.add_client()
    before = cluster.now
    client.submit(flat(20_000))
    cluster.run_until_done()
    assert sum(cluster.runs.values()) == 20_000
    assert 20_000 * 0.1 / (1000 * (cluster.now - before)) > 0.9


# Faults.


def test_what_a_killed_worker_ran_is_run_elsewhere() -> None:
    cluster, client = started(behaviour=constant(1.0))
    futures = client.submit(flat(4))
    cluster.run(1.5)
    cluster.kill(cluster.workers["worker-0"])
    cluster.run_until_done()
    assert {future.status for future in futures} == {"done"}
    assert cluster.core.workers.keys() == {"worker-1"}


def test_what_a_killed_worker_held_is_computed_again() -> None:
    cluster, client = started(behaviour=constant(0.01))
    client.submit({"x": ("f", ())})
    cluster.run_until_done()
    (holder,) = cluster.core.who_has(["x"])["x"]
    cluster.kill(cluster.workers[holder])
    cluster.run(1.0)
    assert cluster.runs == {"x": 2}
    (other,) = cluster.core.who_has(["x"])["x"]
    assert other != holder


def test_a_task_that_kills_its_worker_is_given_up_after_three_deaths() -> None:
    cluster, client = started(1, 2, behaviour=table({"bad": Run(0.1, kills=True)}, Run(0.3)))
    cluster.replacing = True
    bad, good = client.submit({"bad": ("f", ()), "good": ("f", ())})
    cluster.run_until_done()
    assert bad.status == "failed"
    assert bad.error is not None
    kind, _, _, info = bad.error
    assert (kind, info["key"], info["deaths"], info["exitcode"], info["host"]) == ("died", "bad", 3, -9, "host")
    # It ran beside the bad one each time, and is blamed for as many deaths.
    assert good.status == "failed"


def test_a_task_that_only_waited_is_not_blamed() -> None:
    runs = {"bad": Run(0.1, kills=True)}
    cluster, client = started(1, behaviour=table(runs, Run(0.3)))
    cluster.replacing = True
    bad, *others = client.submit({"bad": ("f", ()), **flat(5)})
    cluster.run_until_done()
    assert bad.status == "failed"
    assert {future.status for future in others} == {"done"}


def test_a_task_whose_children_kill_its_worker_is_given_up_after_ten_deaths() -> None:
    def behaviour(key: str, function: str, number: int) -> Run:
        if key == "parent":
            return Run(0.1, children={f"child {number}": ("f", ())})
        return Run(0.01, kills=True)

    cluster, client = started(1, behaviour=behaviour)
    cluster.replacing = True
    (parent,) = client.submit({"parent": ("f", ())})
    cluster.run_until_done()
    assert parent.status == "failed"
    assert parent.error is not None
    assert (parent.error[0], parent.error[3]["deaths"], parent.error[3]["away"]) == ("died", 10, True)
    assert cluster.runs == {"parent": 10, **{f"child {number}": 1 for number in range(1, 11)}}


def test_without_news_of_the_death_nobody_is_blamed() -> None:
    cluster, client = started(1, behaviour=constant(10.0))
    (future,) = client.submit({"x": ("f", ())})
    for number in range(4):
        cluster.run(0.5)
        cluster.kill(cluster.workers[f"worker-{number}"], report_after=None)
        cluster.add_worker()
        cluster.run(3.0)
        assert future.status == "pending"
    cluster.run_until_done()
    assert future.status == "done"


def test_a_worker_that_takes_its_leave_is_not_to_blame() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    (future,) = client.submit({"x": ("f", ())})
    for number in range(4):
        cluster.run(0.5)
        cluster.leave(cluster.workers[f"worker-{number}"])
        cluster.add_worker()
    cluster.run_until_done()
    assert future.status == "done"
    assert cluster.runs == {"x": 5}


def test_the_scheduler_can_give_a_worker_up() -> None:
    cluster, client = started(behaviour=constant(1.0))
    futures = client.submit(flat(2))
    cluster.run(0.5)
    lost = cluster.workers["worker-0"]
    lost.up.stall()
    cluster.give_up(lost)
    cluster.run_until_done()
    assert {future.status for future in futures} == {"done"}
    assert not lost.alive


def test_a_stalled_link_loses_nothing_and_keeps_its_order() -> None:
    cluster, client = started(1, behaviour=constant(0.01))
    cluster.run(0.1)
    worker = cluster.workers["worker-0"]
    worker.down.stall()
    futures = client.submit(SUM)
    cluster.run(10.0)
    assert {future.status for future in futures} == {"pending"}
    worker.down.resume()
    cluster.run_until_done()
    assert {future.status for future in futures} == {"done"}


def test_workers_that_do_not_reach_one_another_still_end() -> None:
    graph: dict[str, tuple[str, tuple[str, ...]]] = {**flat(4), "all": ("g", ("x0", "x1", "x2", "x3"))}
    cluster, client = started(2, behaviour=constant(0.1, 10_000))
    cluster.cut("worker-0", "worker-1")
    (future,) = client.submit(graph, ["all"])
    cluster.run(5.0)
    cluster.mend("worker-0", "worker-1")
    cluster.run_until_done()
    assert future.status == "done"
    client.gather(["all"])
    cluster.run_until_done()
    assert future.value == checksum("all", [checksum(f"x{index}", []) for index in range(4)])


def test_a_value_that_cannot_be_passed_on_fails_who_needs_it() -> None:
    cluster, client = started(1, behaviour=constant(0.01))
    cluster.unusable.add("x")
    other = cluster.add_worker(name="other")
    client.submit({"x": ("f", ())}, workers=["worker-0"])
    (future,) = client.submit({"y": ("f", ("x",))}, workers=["other"])
    cluster.run_until_done()
    assert future.status == "failed"
    assert future.error is not None
    assert future.error[0] == "refused"
    assert not other.state.jobs


def test_resources_are_waited_for() -> None:
    cluster, client = started(behaviour=constant(0.1))
    (future,) = client.submit({"x": ("f", ())}, resources={"GPU": 1.0})
    cluster.run(5.0)
    assert future.status == "pending"
    assert "GPU" in cluster.core.explain("x")
    cluster.add_worker(4, resources={"GPU": 1.0})
    client.submit(flat(8), resources={"GPU": 1.0})
    before = cluster.now
    cluster.run_until_done()
    assert future.status == "done"
    assert cluster.now - before >= 0.9  # one after another, though there are four threads


def test_resources_are_free_again_while_their_worker_does_other_things() -> None:
    cluster, client = started(0, behaviour=table({"long": Run(10.0)}, Run(0.1)))
    cluster.add_worker(2, resources={"GPU": 1.0})
    (long,) = client.submit({"long": ("long", ())})
    futures = client.submit(flat(5), resources={"GPU": 1.0})
    cluster.run(1.0)
    assert long.status == "pending"
    assert {future.status for future in futures} == {"done"}


def test_who_says_what_he_may_not_is_thrown_out_and_nobody_else_notices() -> None:
    errors: list[tuple[str, ProtocolError]] = []
    cluster, good = started(behaviour=constant(0.01), violation=lambda ident, error: errors.append((ident, error)))
    bad = cluster.add_client()
    futures = good.submit(flat(10))
    bad.submit(flat(5))
    bad.send(("submit", ["w"], [99], [b"\x90"], [], None, None))
    cluster.workers["worker-0"].up.send([("finished", [(1 << 40, 28, 0.0, None)])])
    cluster.run_until_done()
    cluster.settle()
    assert sorted(ident for ident, _ in errors) == ["client-1", "worker-0"]
    assert not bad.alive
    assert not cluster.workers["worker-0"].alive
    assert {future.status for future in futures} == {"done"}
    assert list(cluster.core.clients) == ["client-0"]


def test_without_a_handler_a_violation_is_raised() -> None:
    cluster, client = started()
    client.send(("submit", ["w"], [99], [b"\x90"], [], None, None))
    assert "99" in raised(ProtocolError, cluster.settle)


# Messages.


def test_a_message_that_nobody_knows_is_an_error_on_each_side() -> None:
    cluster, client = started()
    client.send(("dance", 1))
    assert "the scheduler does not know" in raised(UnexaminedError, cluster.settle)
    cluster, client = started()
    assert "'client-0' does not know" in raised(UnexaminedError, client.receive, [("dance", 1)])
    assert "'worker-0' does not know" in raised(UnexaminedError, cluster.workers["worker-0"].receive, [("dance", 1)])


def test_news_of_a_key_that_was_never_wanted_is_an_error() -> None:
    _, client = started()
    assert "never wanted" in raised(UnexaminedError, client.receive, [("cancelled", ["x"], "why")])


def test_places_that_there_never_were_are_an_error() -> None:
    cluster, client = started()
    assert "there never was" in raised(UnexaminedError, cluster.fetch, client, "nobody", "host:1", ["x"])
    assert "not at" in raised(UnexaminedError, cluster.fetch, client, "worker-0", "host:1", ["x"])


def test_a_cluster_that_has_nothing_to_do_and_is_not_done_has_stalled() -> None:
    cluster, client = started(0)
    client.submit({"x": ("f", ())})
    assert "client-0 waits for x" in raised(StalledError, cluster.run_until_done)
    cluster.settle()


def test_a_limit_of_time_is_kept() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    client.submit(flat(100))
    raised(StalledError, cluster.run_until_done, limit=10.0)
    assert 10.0 < cluster.now < 12.0
    raised(StalledError, cluster.settle, limit=10.0)


def test_a_task_that_no_table_knows_is_an_error() -> None:
    cluster, client = started(behaviour=table({}))
    client.submit({"x": ("f", ())})
    assert "'x'" in raised(KeyError, cluster.run_until_done)


# Storms: everything at once. Hypothesis plays more of them, see test_core_hypothesis.


def test_storms_end_well() -> None:
    for seed in range(20):
        Storm(seed).play(random_actions(seed))


def test_a_storm_tells_what_went_wrong_and_the_last_messages() -> None:
    storm = Storm(0)
    storm.cluster.core.tasks["intruder"] = None  # type: ignore[assignment]
    text = raised(AssertionError, storm.play, [("submit", 1)])
    assert "The last messages" in text
    assert "submit" in text


def test_each_action_is_chosen_by_random_actions() -> None:
    chosen = {name for seed in range(20) for name, _ in random_actions(seed)}
    assert chosen == set(ACTIONS)


def test_a_broken_invariant_is_noticed_at_once() -> None:
    cluster, client = started(1, behaviour=constant(1.0))
    client.submit({"x": ("f", ())})
    cluster.run(0.5)
    cluster.core.workers["worker-0"].occupancy += 1.0
    raised(InternalError, cluster.settle)
