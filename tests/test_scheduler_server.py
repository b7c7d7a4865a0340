"""The scheduler with real connections: everything that workers and clients would do is done by the tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from treadle.core.scheduler import Scheduler
from treadle.errors import InternalError, RefusedError
from treadle.net.dial import blocking_call, dial
from treadle.net.link import Link
from treadle.scheduler.garbage import Sweeper
from treadle.scheduler.server import HEARTBEAT, Server
from treadle.scheduler.settings import Settings
from treadle.wire.messages import FROM_SCHEDULER_TO_CLIENT, TO_WORKER, Answer, Cancelled, Done, Run, Shutdown

TOKEN = b"a token of the tests"
DIGEST = bytes(16)

DECODERS = {"client": FROM_SCHEDULER_TO_CLIENT, "worker": TO_WORKER}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A worker or a client, as far as the scheduler can see."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link.start(self._received, self.ended.set_result)

    def _received(self, messages: list[Any], buffers: list[memoryview]) -> None:
        for message in messages:
            self.inbox.put_nowait(message)
            if isinstance(message, Shutdown):
                self.say(("leaving",))
                self.link.close()

    def say(self, *messages: tuple[Any, ...]) -> None:
        self.link.send(messages)

    async def hear(self) -> Any:
        return await self.inbox.get()

    async def ask(self, topic: str, argument: Any = None) -> Answer:
        """Ask, and skip what else arrives before the answer."""
        self.say(("ask", 7, topic, argument))
        while True:
            message = await self.hear()
            if isinstance(message, Answer):
                assert message.id == 7
                return message


class Site:
    """A scheduler of a test, and those who connect to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.fakes: list[Fake] = []

    async def join(self, role: str, ident: str = "", **details: Any) -> Fake:
        link = await dial(
            self.server.address, role=role, ident=ident, token=TOKEN, details=details, decoder=DECODERS[role]
        )
        self.fakes.append(Fake(link))
        return self.fakes[-1]

    async def client(self, ident: str = "") -> Fake:
        return await self.join("client", ident)

    async def worker(self, name: str, **details: Any) -> Fake:
        given = {"address": f"127.0.0.1:{len(self.fakes) + 1}", "nthreads": 1, "name": name, "pid": 1, **details}
        return await self.join("worker", f"worker-{name}", **given)


Test = Callable[..., Awaitable[None]]


def serving(**options: Any) -> Callable[[Test], Callable[..., None]]:
    """Runs a test with a scheduler that listens, and checks that nothing was left unsaid."""

    def decorate(test: Test) -> Callable[..., None]:
        async def body(*args: Any, **fixtures: Any) -> None:
            server = Server(token=TOKEN, incarnation="0" * 32, **options)
            await server.listen("127.0.0.1", 0)
            site = Site(server)
            try:
                await test(site, *args, **fixtures)
                server.core.sanity_check()
            finally:
                await server.close("the test is over")
                for fake in site.fakes:
                    await fake.ended

        @functools.wraps(test)
        def run(*args: Any, **fixtures: Any) -> None:
            asyncio.run(body(*args, **fixtures))

        # The first parameter is ours, the others are fixtures.
        run.__signature__ = _without_first(test)  # type: ignore[attr-defined]
        return run

    return decorate


def _without_first(test: Test) -> Any:
    signature = inspect.signature(test)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def one_task(key: str = "x-1") -> tuple[tuple[Any, ...], ...]:
    """The messages of a client that submits one task."""
    return (
        ("functions", [(1, DIGEST, "inc", b"the pickled function", 1)]),
        ("submit", [key], [1], [b"the packed arguments"], [], None, None),
    )


@serving()
async def test_a_task_goes_to_a_worker_and_its_result_to_the_client(site: Site) -> None:
    worker = await site.worker("anna")
    client = await site.client()
    client.say(*one_task())
    functions = await worker.hear()
    assert functions.rows[0][1:] == ("inc", b"the pickled function")
    run = await worker.hear()
    assert isinstance(run, Run)
    ((attempt, key, _, fid, payload, deps, flags),) = run.rows
    assert (key, fid, payload, deps, flags) == ("x-1", functions.rows[0][0], b"the packed arguments", [], 1)
    worker.say(("finished", [(attempt, 28, 0.001, b"\x01")]))
    done = await client.hear()
    assert isinstance(done, Done)
    assert done.rows == [("x-1", 28, b"\x01", "worker-anna", "127.0.0.1:1")]


@serving()
async def test_all_that_arrives_in_a_turn_is_answered_with_one_frame(site: Site) -> None:
    frames: list[int] = []
    worker = await site.worker("anna", nthreads=4)
    client = await site.client()

    def count(messages: list[Any], buffers: list[memoryview]) -> None:
        frames.append(len(messages))
        worker._received(messages, buffers)

    worker.link._on_messages = count
    keys = [f"x-{number}" for number in range(4)]
    functions, _ = one_task()
    client.say(functions, *(("submit", [key], [1], [b""], [], None, None) for key in keys))
    await client.ask("who_has", keys)
    assert frames == [2]  # the function, and one "run" with four rows


@serving()
async def test_questions_are_answered(site: Site) -> None:
    await site.worker("anna", nthreads=3, resources={"GPU": 1})
    client = await site.client("client-1")
    info = (await client.ask("info")).value
    assert info["address"] == site.server.address
    assert info["incarnation"] == "0" * 32
    site.server.core.on_client("keeper-of-something", 0.0)
    assert (await client.ask("info")).value["clients"] == ["client-1"]
    assert info["workers"]["worker-anna"]["nthreads"] == 3
    assert info["workers"]["worker-anna"]["resources"] == {"GPU": 1.0}
    client.say(*one_task())
    assert (await client.ask("who_has", ["x-1", "y"])).value == {"x-1": [], "y": []}
    assert (await client.ask("who_has")).value == {"x-1": []}
    for argument in (None, ["worker-anna"], ["anna"], ["127.0.0.1:1"]):
        assert (await client.ask("has_what", argument)).value == {"worker-anna": []}
    assert "anna" in (await client.ask("explain", "x-1")).value
    assert [name for name, _ in (await client.ask("progress")).value] == ["inc"]
    assert (await client.ask("stopping")).value == []
    versions = (await client.ask("versions")).value
    assert versions["workers"]["worker-anna"] == versions["clients"]["client-1"]
    assert versions["scheduler"]["treadle"] == versions["clients"]["client-1"]["treadle"]


@serving()
async def test_a_question_without_an_answer_costs_nothing(site: Site) -> None:
    await site.worker("anna")
    client = await site.client()
    wrong: list[tuple[str, Any, str]] = [
        ("weather", None, "there is no topic 'weather'; there are: "),
        ("explain", 3, "the argument of 'explain' must be a key (Expected `str`, got `int`)"),
        ("who_has", "x", "the argument of 'who_has' must be a list of keys, or nil"),
        ("has_what", ["bert"], "there is no worker 'bert'; there are: anna"),
        ("info", 1, "the argument of 'info' must be nil: it takes no argument"),
    ]
    for topic, argument, text in wrong:
        answer = await client.ask(topic, argument)
        assert not answer.ok
        assert answer.value.startswith(text)
    assert (await client.ask("info")).ok


@serving()
async def test_a_breach_of_the_protocol_costs_the_connection_and_nobody_else_notices(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = await site.client("good"), await site.client("bad")
    worker, rogue = await site.worker("anna"), await site.worker("rogue")
    bad.say(("submit", ["x"], [99], [b""], [], None, None))
    await bad.ended
    rogue.say(("finished", [(5, 1, 0.1, None)]))
    await rogue.ended
    assert list((await good.ask("info")).value["workers"]) == ["worker-anna"]
    assert "the function number 99 was never defined" in caplog.text
    assert "attempt 5 was never given to this worker" in caplog.text
    good.say(*one_task())
    assert (await worker.hear()).rows[0][1] == "inc"


@serving()
async def test_what_only_a_client_wanted_is_dropped_when_it_goes(site: Site) -> None:
    staying, going = await site.client(), await site.client()
    going.say(*one_task("mine"))
    staying.say(*one_task("shared"))
    await staying.ask("info")
    going.say(("want", ["shared"]))
    assert (await going.ask("who_has")).value == {"mine": [], "shared": []}
    going.link.close()
    while len(site.server.roster.clients) > 1:
        await asyncio.sleep(0)
    assert (await staying.ask("who_has")).value == {"shared": []}


@serving()
async def test_a_cancellation_is_answered(site: Site) -> None:
    client = await site.client()
    client.say(*one_task(), ("cancel", ["x-1"]))
    cancelled = await client.hear()
    assert isinstance(cancelled, Cancelled)
    assert cancelled.keys == ["x-1"]


@serving()
async def test_a_worker_that_leaves_hands_its_tasks_to_others(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "treadle.scheduler")
    client = await site.client()
    anna = await site.worker("anna", supervised=True)
    client.say(*one_task())
    assert isinstance((await anna.hear(), await anna.hear())[1], Run)
    bert = await site.worker("bert", nthreads=2)
    # What it says after its goodbye is not even looked at.
    anna.say(("leaving",), ("finished", [(77, 1, 0.1, None)]))
    anna.link.close()
    assert isinstance((await bert.hear(), await bert.hear())[1], Run)
    assert "worker anna (127.0.0.1:" in caplog.text
    assert "leaves: 1 worker with 2 threads left" in caplog.text
    assert "is lost" not in caplog.text


@serving()
async def test_a_worker_that_goes_without_a_word_is_lost(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    client = await site.client()
    anna = await site.worker("anna")
    client.say(*one_task())
    assert isinstance((await anna.hear(), await anna.hear())[1], Run)
    bert = await site.worker("bert")
    anna.link.close()
    assert isinstance((await bert.hear(), await bert.hear())[1], Run)
    assert "is lost (the other side closed the connection): 1 worker with 1 thread left" in caplog.text


@serving()
async def test_the_death_of_a_supervised_worker_is_told_by_its_parent(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    client = await site.client()
    client.say(*one_task())
    for deaths in range(1, 4):
        worker = await site.worker(f"w{deaths}", supervised=True)
        assert isinstance((await worker.hear(), await worker.hear())[1], Run)
        died = ("died", f"worker-w{deaths}", 1, -9, [1], "here", "the last words")
        await asyncio.to_thread(
            functools.partial(
                blocking_call, site.server.address, role="supervisor", ident="", token=TOKEN, messages=[died]
            )
        )
        await worker.ended  # the news came before the connection broke
    failed = await client.hear()
    ((key, culprit, (kind, _, _, info)),) = failed.rows
    assert (key, culprit, kind) == ("x-1", "x-1", "died")
    assert (info["deaths"], info["exitcode"], info["worker"], info["log"]) == (3, -9, "w3", "the last words")
    assert "worker w3 died: its process 1 ended with status -9" in caplog.text


@serving(clock=(clock := Clock()), settings=Settings(worker_timeout=60.0))
async def test_a_silent_worker_is_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quiet, lively = await site.worker("quiet"), await site.worker("lively")
    client = await site.client()
    for _ in range(59):
        clock.now += 1
        site.server._tick()
    lively.say(("heartbeat", 1, 0.0, 0, 0.0))
    while site.server.roster.workers["worker-lively"].heard < clock.now:
        await asyncio.sleep(0)
    for _ in range(2):
        clock.now += 1
        site.server._tick()
    await quiet.ended
    assert list((await client.ask("info")).value["workers"]) == ["worker-lively"]
    assert "worker quiet" in caplog.text
    assert "is lost (it was silent for 61 seconds)" in caplog.text


@serving(clock=(stopped := Clock()), settings=Settings(worker_timeout=60.0))
async def test_a_scheduler_that_was_stopped_blames_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await site.worker("anna")
    client = await site.client()
    stopped.now += 1000
    site.server._tick()
    assert list((await client.ask("info")).value["workers"]) == ["worker-anna"]
    assert "silent" not in caplog.text


@serving()
async def test_the_core_is_asked_more_often_while_it_is_restless(site: Site) -> None:
    ticks: asyncio.Queue[float] = asyncio.Queue()
    core = Spy(site.server.core, tick=ticks.put_nowait)
    site.server.core = core  # type: ignore[misc, assignment]
    worker = await site.worker("anna", supervised=True)
    worker.link.close()
    first = await ticks.get()
    assert core.restless
    assert await ticks.get() - first < 0.9


@serving(settings=Settings(unsent_limit=1_000_000))
async def test_a_client_that_does_not_read_is_cut_off(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    client, other = await site.client(), await site.client()
    loop = asyncio.get_running_loop()
    loop.remove_reader(client.link._fd)
    member = next(iter(site.server.roster.clients.values()))
    caplog.set_level(logging.INFO, "treadle.scheduler")
    site.server._answers.append((member, ("answer", 1, True, "x" * 50_000_000)))
    assert (await other.ask("info")).ok
    while len(site.server.roster.clients) > 1:
        await asyncio.sleep(0)
    loop.add_reader(client.link._fd, client.link._readable)
    assert "is gone (it does not read: " in caplog.text
    assert "bytes wait for it, where 1,000,000 are allowed to)" in caplog.text
    assert (await other.ask("info")).ok


class Spy:
    """A core of which some methods do something else before they do what they should."""

    def __init__(self, core: Any, **instead: Callable[..., None]) -> None:
        self._core = core
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        genuine = getattr(self._core, name)
        instead = self._instead.get(name)
        if instead is None:
            return genuine

        def call(*args: Any) -> Any:
            instead(*args)
            return genuine(*args)

        return call


@serving()
async def test_a_bug_of_ours_is_logged_with_its_story_and_work_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise InternalError("'x-1' is in two states at once: its story")

    site.server.core = Spy(site.server.core, on_want=broken)  # type: ignore[misc, assignment]
    client = await site.client()
    client.say(("want", ["x-1"]), ("ask", 1, "info", None))
    answer = await client.hear()
    assert answer.ok
    assert "a broken invariant of the scheduler on Want from client" in caplog.text
    assert "its story" in caplog.text
    assert "Traceback" in caplog.text


# Who may come in


@serving()
async def test_nobody_may_be_mistaken_for_another_one(site: Site) -> None:
    await site.worker("anna")
    await site.client("client-1")
    with pytest.raises(RefusedError, match=r"the name is taken: worker anna \(127\.0\.0\.1:\d+\) is connected"):
        await site.join("worker", "another", address="127.0.0.1:2", nthreads=1, name="anna")
    with pytest.raises(RefusedError, match="a worker with the ident 'worker-anna' is connected already"):
        await site.worker("anna")
    with pytest.raises(RefusedError, match="a client with the ident 'client-1' is connected already"):
        await site.client("client-1")


@serving()
async def test_of_two_at_the_same_time_one_comes_in(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    results = await asyncio.gather(*(site.client("twin") for _ in range(4)), return_exceptions=True)
    joined = [each for each in results if isinstance(each, Fake)]
    (member,) = site.server.roster.clients.values()
    (winner,) = (each for each in joined if each.link.local == member.link.peer)
    for each in joined:
        if each is not winner:
            await each.ended
    assert (await winner.ask("info")).ok
    assert caplog.text.count("a client with the ident 'twin' is connected already") == 3


@serving()
async def test_pythons_that_cannot_read_each_other_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.worker("anna")
    monkeypatch.setattr("treadle.wire.handshake.python_version", lambda: "2.7")
    with pytest.raises(RefusedError) as caught:
        await site.client()
    text = str(caught.value)
    assert "the client at 127.0.0.1:" in text
    assert "runs Python 2.7, but worker anna (127.0.0.1:" in text
    monkeypatch.setattr("treadle.wire.handshake.python_version", lambda: "")
    await site.client()


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({}, "missing required field `address`"),
        ({"address": "a:1", "nthreads": "many"}, r"Expected `int`, got `str` - at `\$.nthreads`"),
        ({"address": "a:1", "nthreads": 0}, r"Expected `int` >= 1 - at `\$.nthreads`"),
        ({"address": "a:1", "nthreads": 1, "resources": {"GPU": -1}}, r"Expected `float` >= 0.0 - at `\$.resources"),
    ],
)
@serving()
async def test_a_worker_must_say_what_it_is(site: Site, details: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        await site.join("worker", "w", **details)


@serving()
async def test_others_have_no_business_here(site: Site) -> None:
    with pytest.raises(RefusedError, match="nobody comes here as 'peer', but as client, worker, supervisor"):
        await dial(site.server.address, role="peer", ident="", token=TOKEN, details={}, decoder=TO_WORKER)


# The end


@serving()
async def test_at_the_end_the_workers_are_told(site: Site) -> None:
    worker, client = await site.worker("anna"), await site.client()
    await site.server.close("the office closes")
    shutdown = await worker.hear()
    assert isinstance(shutdown, Shutdown)
    assert shutdown.reason == "the office closes"
    await client.ended
    await worker.ended


def test_what_is_left_of_idle_tasks_is_swept_up(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[None] = []
    monkeypatch.setattr("gc.collect", lambda: collected.append(None))
    core = Scheduler()
    sweeper = Sweeper(core)
    sweeper.look()
    assert not collected
    client = core.on_client("client-1", 0.0)
    core.on_functions(client, [(1, DIGEST, "inc", b"", True)])
    core.on_submit(client, ["x"], [1], [b""], [], None, (0, None, None, 0), 0.0)
    sweeper.look()
    assert not collected
    core.on_client_gone(client, 0.0)
    sweeper.look()
    sweeper.look()
    assert len(collected) == 1


def test_the_heartbeat_is_much_shorter_than_the_timeout() -> None:
    assert Settings().worker_timeout > 10 * HEARTBEAT
