"""What the simulation is made of, and what goes with it: the clock, copies, recording peers, list schedules.

Plain functions with plain assertions: they are run by PyPy too, where there is no pytest (see ``tests/pypy``).
"""

from __future__ import annotations

from typing import Any

from simulation_parts import raised

from treadle.core.scheduler import Scheduler
from treadle.testing.heft import critical_path, greedy, heft, upward_ranks
from treadle.testing.recording import RecordingPeer, UnexaminedError, record
from treadle.testing.simulation.cluster import copied
from treadle.testing.simulation.timeline import Timeline

# The clock.


def test_events_happen_in_the_order_of_time_and_then_of_announcement() -> None:
    timeline = Timeline()
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, timeline.now))

    timeline.at(2.0, note, "c")
    timeline.after(1.0, note, "a")
    timeline.after(1.0, note, "b")
    timeline.background(3.0, note, "clock")
    assert timeline.pending == 3
    timeline.run(2.5)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0)]
    assert (timeline.now, timeline.pending, timeline.last) == (2.5, 0, 2.0)
    assert timeline.step()
    assert not timeline.step()
    assert (timeline.now, timeline.last, timeline.steps) == (3.0, 2.0, 4)


def test_what_is_late_happens_now() -> None:
    timeline = Timeline()
    timeline.run(5.0)
    times: list[float] = []
    timeline.at(1.0, lambda: times.append(timeline.now))
    timeline.step()
    assert times == [5.0]


# Messages.


def test_what_is_sent_does_not_change_any_more() -> None:
    rows: list[Any] = [[1, ("a", {"b": [2]})]]
    frame = [("run", rows)]
    sent = copied(frame)
    rows[0][1][1]["b"].append(3)
    assert sent == [("run", [[1, ("a", {"b": [2]})]])]


def test_a_recording_peer_wants_every_message_to_be_looked_at() -> None:
    core = Scheduler()
    asking = core.on_client("client-1", 0.0)
    client = RecordingPeer(asking)
    worker = RecordingPeer(core.on_worker("worker-1", "host:1", "one", "host", 1, 0, {}, False, 0.0))
    core.on_functions(asking, [(0, b"digest".ljust(16), "f", b"blob", True)])
    core.on_submit(asking, ["x"], [0], [b"\x90"], [], None, (0, None, None, 0), 0.0)
    record(core, [client, worker])
    client.nothing_more()
    assert "was to be sent 'done' and was sent nothing more" in raised(UnexaminedError, client.take, "done")
    assert "'worker-1' was also sent" in raised(UnexaminedError, worker.nothing_more)
    assert "and was sent ('functions'" in raised(UnexaminedError, worker.take, "run")
    assert worker.take("functions") == [(1, "f", b"blob")]
    rows, where = worker.take_fields("run")
    assert [row[1] for row in rows] == ["x"]
    assert where == []
    worker.nothing_more()
    core.on_cancel(asking, ["x"], 0.0)
    core.on_want(asking, ["x", "y"], 0.0)
    record(core, [client, worker])
    assert worker.take("cancel") == [1]
    assert client.take_all("cancelled") == [["x"], ["y"]]
    core.on_worker_left(core.workers["worker-1"], 0.0)
    core.on_want(asking, ["z"], 0.0)
    assert "nobody records what is sent to 'client-1'" in raised(UnexaminedError, record, core, [worker])


# The list schedule that others are measured by.


def test_upward_ranks_are_ways_to_the_end() -> None:
    graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    seconds = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 1.0}
    assert upward_ranks(graph, seconds) == {"a": 7.0, "b": 3.0, "c": 6.0, "d": 1.0}
    assert critical_path(graph, seconds) == 7.0
    assert upward_ranks(graph, seconds, lambda key: 0.5)["a"] == 8.0


def test_heft_fills_slots_longest_way_first() -> None:
    seconds = {"a": 3.0, "b": 3.0, "c": 2.0, "d": 2.0, "e": 2.0}
    graph: dict[str, list[str]] = {key: [] for key in seconds}
    assert heft(graph, seconds, 1) == 12.0
    assert heft(graph, seconds, 2) == 7.0
    assert heft(graph, seconds, 5) == 3.0
    assert heft({}, {}, 2) == 0.0


def test_heft_keeps_a_chain_together_when_moving_is_slow() -> None:
    graph = {"a": [], "b": ["a"], "c": ["a"]}
    seconds = dict.fromkeys(graph, 1.0)
    assert heft(graph, seconds, 2) == 2.0
    assert heft(graph, seconds, 2, lambda key: 0.5) == 2.5
    assert heft(graph, seconds, 2, lambda key: 5.0) == 3.0


def test_greedy_takes_what_is_ready_in_the_given_order() -> None:
    seconds = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 1.0}
    graph: dict[str, list[str]] = {"a": [], "b": [], "c": [], "d": ["a"]}
    assert greedy(graph, seconds, 2) == 4.0
    assert greedy({"c": [], "a": [], "b": [], "d": ["a"]}, seconds, 2) == 3.0
    assert greedy(graph, seconds, 1) == 6.0
    assert greedy({}, {}, 2) == 0.0


def test_the_public_names_are_found() -> None:
    import treadle.testing

    for name in treadle.testing.__all__:
        assert name in dir(treadle.testing)
        assert getattr(treadle.testing, name).__name__ == name
    assert "no attribute 'nothing'" in raised(AttributeError, getattr, treadle.testing, "nothing")
