"""The parent of worker processes: what it does when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, children
from worker_parts import FakeScheduler, soon, supervise
from worker_tasks import block, complain, end_process, kill_process

from treadle.errors import RefusedError
from treadle.wire import messages
from treadle.worker import supervisor as module
from treadle.worker.spawn import Child
from treadle.worker.supervisor import Supervisor


def play(scenario: Callable[[FakeScheduler], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with FakeScheduler() as scheduler:
            await scenario(scheduler)

    asyncio.run(main())


async def stopped(supervisor: Supervisor, timeout: float = 5.0) -> None:
    await asyncio.get_running_loop().run_in_executor(None, supervisor.stop, timeout)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test leaves a process, a thread or a descriptor behind."""
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("treadle-supervisor")]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_workers_start_and_end() -> None:
    begun: list[Child] = []

    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler, 2, on_started=begun.append, resources={"GPU": 1}, memory_limit=10**12)
        supervisor.start()
        workers = [await scheduler.joined() for _ in range(2)]
        assert sorted(child.name for child in supervisor.children) == ["w-0", "w-1"]
        assert {child.ident for child in supervisor.children} == {worker.ident for worker in workers}
        for worker in workers:
            await soon(worker.heartbeats.get())
            details = worker.link.details
            assert (details["resources"], details["memory_limit"], details["supervised"]) == ({"GPU": 1}, 10**12, True)
            assert Child(worker.ident, details["name"], details["pid"]) in supervisor.children
        assert not supervisor.wait(0.0)
        await stopped(supervisor)
        for worker in workers:
            await worker.hears(messages.Leaving)
        assert supervisor.wait()
        assert (supervisor.children, supervisor.failure) == ([], "")
        assert scheduler.deaths.empty()
        supervisor.stop()

    play(scenario)
    assert sorted(child.name for child in begun) == ["w-0", "w-1"]


@pytest.mark.parametrize(("task", "args", "status"), [(kill_process, (), -9), (end_process, (0,), 0)])
def test_the_scheduler_learns_how_a_worker_died_and_gets_another_one(
    task: Callable[..., Any], args: tuple[Any, ...], status: int, pipe: Path
) -> None:
    deaths: list[tuple[Child, int, list[int]]] = []

    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler, nthreads=3, on_died=lambda *args: deaths.append(args))
        supervisor.start()
        worker = await scheduler.joined()
        pid = worker.link.details["pid"]
        worker.run("note", complain, "last words")
        await worker.hears(messages.Finished)
        waiting = worker.run("waiting", block, str(pipe))
        await asyncio.get_running_loop().run_in_executor(None, pipe.read_text)
        deadly = worker.run("deadly", task, *args)
        died = await soon(scheduler.deaths.get())
        assert (died.ident, died.pid, died.exitcode) == (worker.ident, pid, status)
        assert sorted(died.executing) == [waiting, deadly]
        assert died.host == worker.link.details["host"]
        assert died.log.endswith("last words")
        again = await scheduler.joined()
        assert again.ident != worker.ident
        assert again.link.details["name"] == "w"
        await stopped(supervisor)
        ((child, exitcode, executing),) = deaths
        assert (child.ident, exitcode, sorted(executing)) == (worker.ident, status, [waiting, deadly])

    play(scenario)


def test_a_worker_that_the_scheduler_sends_away_is_not_replaced() -> None:
    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler)
        supervisor.start()
        worker = await scheduler.joined()
        await soon(worker.heartbeats.get())
        worker.send(("shutdown", "enough"))
        assert await soon(asyncio.get_running_loop().run_in_executor(None, supervisor.wait))
        assert (supervisor.children, supervisor.failure) == ([], "")
        supervisor.stop()

    play(scenario)


def test_workers_that_cannot_join_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    reasons: list[str] = []

    def give_up(reason: str) -> None:
        reasons.append(reason)
        raise ValueError("an owner's mistake")

    async def scenario(scheduler: FakeScheduler) -> None:
        scheduler.refusal = RefusedError("we are closed")
        supervisor = supervise(scheduler, on_gave_up=give_up)
        supervisor.start()
        assert await soon(asyncio.get_running_loop().run_in_executor(None, supervisor.wait))
        assert reasons == [supervisor.failure]
        assert supervisor.failure.startswith("w ended 5 times before it could join: ")
        assert supervisor.failure.endswith(f"{scheduler.address} refused this worker: we are closed")
        supervisor.stop()

    play(scenario)


def test_a_worker_that_does_not_react_is_killed() -> None:
    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler)
        supervisor.start()
        await scheduler.joined()
        ((_, _, pid),) = supervisor.children
        os.kill(pid, signal.SIGSTOP)
        await stopped(supervisor, 0.1)
        assert supervisor.wait()

    play(scenario)


def test_it_can_be_stopped_before_the_workers_have_joined() -> None:
    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler, 2)
        supervisor.start()
        await stopped(supervisor)
        assert supervisor.wait()

    play(scenario)


def test_what_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler, 2)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(FileNotFoundError, match="/nowhere/python"):
            supervisor.start()

    play(scenario)


def test_a_replacement_that_cannot_be_started_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scheduler: FakeScheduler) -> None:
        supervisor = supervise(scheduler)
        supervisor.start()
        worker = await scheduler.joined()
        await soon(worker.heartbeats.get())
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        os.kill(worker.link.details["pid"], signal.SIGKILL)
        assert await soon(asyncio.get_running_loop().run_in_executor(None, supervisor.wait))
        assert supervisor.failure.startswith("a worker process cannot be started: ")
        assert "/nowhere/python" in supervisor.failure
        supervisor.stop()

    play(scenario)


@pytest.mark.parametrize("forks", [False, True])
def test_workers_end_with_their_parent(forks: bool, script: Script) -> None:
    """Also if it has forked a child that lives on."""

    async def scenario(scheduler: FakeScheduler) -> None:
        parent: subprocess.Popen[str] = script(
            """
            import os, sys, warnings
            from treadle.worker.supervisor import Supervisor

            warnings.simplefilter("ignore")
            supervisor = Supervisor(sys.argv[1], 2, token=sys.argv[2].encode())
            supervisor.start()
            if sys.argv[3] == "True":
                reader, writer = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(writer)
                    os.write(1, b"forked\\n")
                    sys.stdin.read()
                    os._exit(0)
            else:
                os.write(1, b"not forked\\n")
            supervisor.wait()
            """,
            scheduler.address,
            scheduler.token.decode(),
            forks,
        )
        workers = [await scheduler.joined() for _ in range(2)]
        for worker in workers:
            await soon(worker.heartbeats.get())
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == ("forked\n" if forks else "not forked\n")
        parent.kill()
        for worker in workers:
            await soon(worker.ended.wait())
        parent.stdin.close()  # ends the forked child
        parent.wait()

    play(scenario)
