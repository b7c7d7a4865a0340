"""What a client can find out: versions, stories, streams of tasks, profiles, and what holds a task up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from treadle import Client, LocalCluster
from treadle.client.profile import Profile
from treadle.errors import UserError, VersionMismatchError
from treadle.scheduler.journal import Journal
from treadle.scheduler.services import Inquiry
from treadle.testing.tasks import Boom, boom, eventually, inc
from treadle.versions import compare, own_versions
from treadle.wire import messages
from treadle.wire.values import pack_call
from treadle.worker.calls import call
from treadle.worker.profiling import DEPTH, GROWTH, LONG, SHORT, SLICE, Profiler


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def events(story: list[dict[str, Any]]) -> list[str]:
    return [each["event"] for each in story]


def burn(started: Path, go: Path) -> None:
    started.touch()
    while not go.exists():
        churn()


def churn() -> int:
    return sum(range(10_000))


# Versions


def test_versions(client: Client) -> None:
    found = client.get_versions(check=True, packages=["treadle-does-not-exist"])
    assert found["client"] == found["scheduler"] == found["workers"]["local-0"] == found["workers"]["local-1"]
    assert found["client"]["treadle-does-not-exist"] is None
    assert found["client"]["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def versions(**others: str | None) -> dict[str, str | None]:
    return {"python": "3.11.7", "treadle": "1", "msgspec": "1", "numpy": "2", "extra": None, **others}


def test_differences_are_named() -> None:
    found = {
        "client": versions(numpy="1"),
        "scheduler": versions(numpy=None, python="3.11.2", treadle="2"),
        "workers": {"a": versions(), "b": versions(extra="3")},
    }
    assert compare(found) == [
        "treadle: 1 on the client, the worker a, the worker b; 2 on the scheduler",
        "numpy: 1 on the client; 2 on the worker a, the worker b",
    ]
    assert compare(found, ["extra"])[-1] == "extra: none on the client, the worker a; 3 on the worker b"
    assert "numpy: 1 on the client" in str(VersionMismatchError(compare(found)))


def test_differences_are_raised(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(packages: list[str]) -> dict[str, str | None]:
        return {**own_versions(packages), "msgspec": "0.0.1"}

    monkeypatch.setattr("treadle.client.inspecting.own_versions", other)
    with pytest.raises(VersionMismatchError, match=r"msgspec: 0\.0\.1 on the client") as caught:
        client.get_versions(check=True)
    assert len(caught.value.differences) == 1
    assert client.get_versions()["client"]["msgspec"] == "0.0.1"


# Stories


def test_the_story_of_a_task(client: Client) -> None:
    before = time.time()
    future = client.submit(inc, 1, pure=False)
    assert future.result() == 2
    story = client.story(future)
    assert events(story) == ["submitted", "sent", "finished"]
    assert story[0]["member"] == client._name
    assert story[1]["member"] == story[2]["member"] in ("local-0", "local-1")
    assert story[2]["about"]["nbytes"] > 0
    times = [each["time"] for each in story]
    assert before - 1 < times[0] <= times[1] <= times[2] < time.time() + 1


def test_the_story_of_what_is_forgotten(client: Client) -> None:
    future = client.submit(inc, 2, pure=False)
    assert future.result() == 3
    key = future.key
    del future
    eventually(lambda: key not in client.who_has())
    assert events(client.story(key))[-2:] == ["released", "dropped"]


def test_the_story_of_a_failure(client: Client) -> None:
    bad = client.submit(boom, 1, pure=False)
    worse = client.submit(inc, bad)
    assert isinstance(worse.exception(), Boom)
    told = client.story(bad, worse.key)
    failed = next(each for each in told if each["event"] == "failed")
    doomed = next(each for each in told if each["event"] == "doomed")
    assert (failed["key"], doomed["key"], doomed["about"]) == (bad.key, worse.key, {"culprit": bad.key})
    assert "Boom" in failed["about"]["error"]
    assert client.story("never heard of") == client.story() == []


def test_a_key_is_needed(client: Client) -> None:
    with pytest.raises(TypeError, match="this needs a future or the key of one, not 7"):
        client.story(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="this needs a future or the key of one"):
        client.explain([])  # type: ignore[arg-type]


def test_the_task_stream(client: Client) -> None:
    before = time.time()
    futures = client.map(inc, range(20), pure=False)
    bad = client.submit(boom, 1, pure=False)
    client.gather([*futures, bad], errors="skip")
    stream = client.get_task_stream(start=before)
    assert {each["key"] for each in stream} == {future.key for future in [*futures, bad]}
    assert {each["key"] for each in stream if each["status"] == "error"} == {bad.key}
    assert {each["worker"] for each in stream} <= {"local-0", "local-1"}
    assert all(before - 1 < each["start"] <= each["stop"] < time.time() + 1 for each in stream)
    assert len(client.get_task_stream(count=3)) == 3
    assert client.get_task_stream(stop=before - 3600) == client.get_task_stream(count=0) == []
    with pytest.raises(ValueError, match="count must be a whole number"):
        client.get_task_stream(count=-1)


class Hub:
    """What a journal needs of a server. Its loop does what it is told later when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.later: list[Any] = []
        self.loop = SimpleNamespace(call_soon=lambda *call: self.later.append(call))

    def now(self) -> float:
        return 100.0

    def send(self, member: Any, *message: Any) -> None:
        self.sent.append(message)

    def ask(self, journal: Journal, topic: str, argument: Any) -> Any:
        journal.topics()[topic](Inquiry(self, None, 1, topic, argument))  # type: ignore[arg-type]
        while self.later:
            call, *args = self.later.pop()
            call(*args)
        (_, _, ok, value) = self.sent.pop()
        assert ok
        return value


class Somebody:
    """A member of a cluster, as far as a journal looks at it."""

    def __init__(self, role: str, ident: str) -> None:
        self.role = role
        self.peer = SimpleNamespace(ident=ident)
        self.name = ident.upper()
        self.details = SimpleNamespace(nthreads=1) if role == "worker" else None


def member(role: str, ident: str) -> Any:
    return Somebody(role, ident)


def came(journal: Journal, who: Any, received: list[Any], now: float) -> None:
    journal.came(who, memoryview(msgspec.msgpack.encode(received)), received, now)


def went(journal: Journal, who: Any, sent: list[Any], now: float) -> None:
    journal.went(who, msgspec.msgpack.encode(sent), sent, now)


def run_row(attempt: int, key: str) -> tuple[Any, ...]:
    return attempt, key, 0, 1, b"", [], 0


def test_a_journal_keeps_attempts_of_workers_apart() -> None:
    hub = Hub()
    journal = Journal(hub)  # type: ignore[arg-type]
    one, two = member("worker", "one"), member("worker", "two")
    for each in (one, two):
        journal.joined(each)
    went(journal, one, [("run", [run_row(1, "x")], [])], 100.0)
    went(journal, two, [("run", [run_row(1, "y")], [])], 100.0)
    came(journal, two, [messages.Stopped([1])], 101.0)
    journal.gone(one)
    assert events(hub.ask(journal, "story", ["x"])) == ["sent", "lost"]
    assert events(hub.ask(journal, "story", ["y"])) == ["sent", "stopped"]


def test_what_was_reported_together_is_laid_end_to_end() -> None:
    hub = Hub()
    journal = Journal(hub)  # type: ignore[arg-type]
    worker = member("worker", "one")
    journal.joined(worker)
    went(journal, worker, [("run", [run_row(1, "x"), run_row(2, "y")], [])], 100.0)
    came(journal, worker, [messages.Finished([(1, 10, 2.0, None), (2, 10, 3.0, None)])], 110.0)
    first, second = hub.ask(journal, "task_stream", {})
    assert second["stop"] - second["start"] == pytest.approx(3.0)
    assert first["stop"] == pytest.approx(second["start"])
    assert first["stop"] - first["start"] == pytest.approx(2.0)
    assert (first["key"], first["worker"], first["status"]) == ("x", "ONE", "finished")


def test_a_journal_is_bounded() -> None:
    """Neither tasks nor members that have left are remembered for ever."""
    hub = Hub()
    journal = Journal(hub, limit=10_000)  # type: ignore[arg-type]
    for number in range(1000):
        client = member("client", f"c-{number}")
        journal.joined(client)
        came(journal, client, [messages.Submit([f"x-{number}", f"y-{number}"], [1, 1], [b"", b""], [])], 1.0)
        journal.gone(client)
    assert hub.ask(journal, "story", ["x-0"]) == []
    (event,) = hub.ask(journal, "story", ["x-999"])
    assert (event["event"], event["member"]) == ("submitted", "C-999")
    assert 100 < len(journal._voices) == len(journal._left) < 200


@pytest.mark.parametrize("size", [0, 10_000])
def test_what_is_big_leaves_an_extract(size: int) -> None:
    """The story is the same whether frames were kept as they are or not; big arguments and results are not kept."""
    hub = Hub()
    journal = Journal(hub)  # type: ignore[arg-type]
    client, worker = member("client", "c"), member("worker", "w")
    journal.joined(client)
    journal.joined(worker)
    for number in range(1, 11):
        big = bytes(size)
        came(journal, client, [messages.Submit(["x", f"y-{number}"], [1, 1], [big, b""], [])], 1.0)
        went(journal, worker, [("run", [(number, "x", 0, 1, big, [], 0)], [])], 2.0)
        came(journal, worker, [messages.Finished([(number, size, 0.5, big)])], 3.0)
        went(journal, worker, [("release", ["x"])], 4.0)
        came(journal, worker, [messages.Failed(number, 0.5, ("Boom", b"", "Traceback\nBoom: " + "o" * size, {}))], 5.0)
        went(journal, client, [("done", [["x", 1, None]]), ("failed", [("z", "x"), ("x", "x")], "why")], 6.0)
    assert len(journal._ring) < 20_000
    assert events(hub.ask(journal, "story", ["x"])) == ["submitted", "sent", "finished", "dropped"] * 10
    assert hub.ask(journal, "story", ["x"])[2]["about"] == {"seconds": 0.5, "nbytes": size}
    assert events(hub.ask(journal, "story", ["z"])) == ["doomed"] * 10
    assert len(hub.ask(journal, "task_stream", {})) == 10


def test_a_search_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.scheduler.journal._SLICE", -1.0)
    hub = Hub()
    journal = Journal(hub)  # type: ignore[arg-type]
    client = member("client", "c")
    journal.joined(client)
    came(journal, client, [messages.Want(["x"]), messages.Cancel(["x"]), messages.Ask(1, "story")], 1.0)
    journal.topics()["story"](Inquiry(hub, None, 1, "story", ["x"]))  # type: ignore[arg-type]
    assert len(hub.later) == 1
    assert hub.sent == []
    hub.later.clear()
    assert events(hub.ask(journal, "story", ["x"])) == ["wanted", "cancelled"]


# Profiles


#: The payload of a call without arguments.
NOTHING = pack_call("key", ())


def nested(depth: int, then: Any) -> Any:
    return then() if depth == 0 else nested(depth - 1, then)


def test_what_a_profiler_sees() -> None:
    profiler = Profiler()
    pauses: list[float] = []

    def look(seconds: float, now: float) -> None:
        frame = sys._getframe()
        pauses.append(profiler.look({1: frame}, now, seconds))

    look(1.0, 1000.0)
    for _ in range(2):
        call(lambda: nested(3, lambda: look(2.0, 1000.0)), NOTHING, [])
    ((seconds, frames),) = profiler.samples(None, None)
    assert seconds == 4.0
    names = [frame[0].rpartition(".")[2] for frame in frames]
    assert names == ["<lambda>", *["nested"] * 4, "<lambda>", "look"]
    assert frames[1][1:] == (__file__, nested.__code__.co_firstlineno)
    assert profiler.samples(1000.0 + SLICE, None) == profiler.samples(None, 999.0) == []
    assert pauses == [LONG, SHORT, GROWTH * SHORT]


def test_threads_in_the_same_function_are_counted_each() -> None:
    profiler = Profiler()

    def look() -> None:
        frame = sys._getframe()
        profiler.look({1: frame, 2: frame}, 1000.0, 2.0)

    call(look, NOTHING, [])
    assert [seconds for seconds, _ in profiler.samples(None, None)] == [4.0]


def test_a_profiler_looks_rarely_where_nothing_changes() -> None:
    profiler = Profiler()
    pauses = [profiler.look({}, 1000.0, 1.0) for _ in range(3)]
    call(lambda: pauses.append(profiler.look({1: sys._getframe()}, 1000.0, 1.0)), NOTHING, [])
    pauses += [profiler.look({}, 1000.0, 1.0) for _ in range(20)]
    assert pauses[:5] == [LONG, LONG, LONG, SHORT, GROWTH * SHORT]
    assert pauses[5:] == sorted(pauses[5:])
    assert pauses[-1] == LONG


def test_a_profiler_looks_only_so_deep() -> None:
    profiler = Profiler()
    call(lambda: nested(2 * DEPTH, lambda: profiler.look({1: sys._getframe()}, 0.0, 1.0)), NOTHING, [])
    ((_, frames),) = profiler.samples(None, None)
    assert [frame[0] for frame in frames[1:]] == ["nested"] * (DEPTH - 1)


def test_the_profile_of_a_cluster(client: Client, tmp_path: Path) -> None:
    start = time.time()
    future = client.submit(burn, tmp_path / "started", tmp_path / "go")
    eventually((tmp_path / "started").exists)
    eventually(lambda: "churn" in client.profile().text(), 30.0)
    (tmp_path / "go").touch()
    future.result()
    profile = client.profile(start=start - SLICE)
    (node,) = [each for frame, each in profile.root.calls.items() if frame[0] == "burn"]
    assert node.file == __file__
    assert any(frame[0] == "churn" for frame in node.calls)
    assert 0 < node.seconds <= profile.root.seconds
    assert client.profile(stop=1.0).root.seconds == 0
    with pytest.raises(TypeError, match="either seconds or start and stop"):
        client.profile(1.0, start=1.0)
    with pytest.raises(UserError, match="no worker among"):
        client.profile(workers="elsewhere")


FRAMES = {name: (name, "file.py", 1) for name in ("outer", "inner<b>", "other")}


def test_a_profile_is_a_tree() -> None:
    outer, inner, other = FRAMES.values()
    profile = Profile([[(1.0, [outer]), (2.0, [outer, inner])], [(1.0, [outer, inner]), (0.001, [other])]])
    assert profile.text().splitlines() == [
        "100.0%      4.00 s  all tasks",
        "100.0%      4.00 s    outer  file.py:1",
        " 75.0%      3.00 s      inner<b>  file.py:1",
    ]
    assert str(profile) == profile.text()
    assert "other" in profile.text(least=0.0)
    assert profile.root.calls[outer].own == 1.0
    assert "inner&lt;b&gt;" in profile._repr_html_()
    assert repr(profile) == "<Profile of 4.0 s of 2 functions; .text() shows them>"
    assert Profile([]).text() == "  0.0%      0.00 s  all tasks"
    assert "No task was seen" in Profile([])._repr_html_()


# Explaining


def test_what_holds_a_task_up(client: Client) -> None:
    first = client.submit(inc, 1, resources={"unicorn": 1}, pure=False)
    second = client.submit(inc, first)
    third = client.submit(inc, second)
    text = client.explain(third)
    assert f"waits for {second.key!r} (waiting)" in text
    assert f"What holds that up: {first.key!r} is ready to run, but needs 1 unicorn" in text
    assert "What holds" not in client.explain(first)
    client.cancel([first, second, third])


def test_looking_from_a_coroutine(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            future = client.submit(inc, 1, pure=False)
            assert await future == 2
            assert events(await client.story(future)) == ["submitted", "sent", "finished"]
            assert (await client.get_versions(check=True))["client"] == own_versions()
            assert isinstance(await client.profile(), Profile)

    asyncio.run(main())
