"""Web servers, real ones in processes of their own, whose work is done by a cluster.

No collector of garbage runs in them: what a request leaves behind would stay.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from web_parts import EXAMPLES, SERVERS, hold, key_of, square, touch

import treadle
from treadle import Client, Future, LocalCluster
from treadle.integrations.web import Disconnected, disconnection, until_disconnected
from treadle.testing.tasks import Boom, boom, eventually, inc

#: As many requests are on their way at the same time.
MANY = 500


class Request:
    """A request that was sent, and whose answer may be read."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    def answer(self) -> tuple[int, Any]:
        """The status, and the body, which is JSON."""
        with self._socket, self._socket.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def disconnect(self) -> None:
        self._socket.close()


class Server:
    def __init__(self, name: str, cluster: LocalCluster) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TREADLE_")}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), str(Path(treadle.__file__).parents[1])]
        )
        environment["TREADLE_TOKEN"] = cluster.token.decode()
        code = f"import web_parts; web_parts.main({name!r}, {cluster.address!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def ask(self, task: str, argument: object) -> Request:
        return Request(self.port, f"/call/{task}/{str(argument).lstrip('/')}")

    def about(self) -> dict[str, Any]:
        status, found = Request(self.port, "/about").answer()
        assert status == 200
        assert isinstance(found, dict)
        return found

    def awaits(self, count: int) -> None:
        """Wait until the server holds that many futures."""
        eventually(lambda: self.about()["futures"] == count)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXAMPLES), *sys.path])  # workers import from where the program does
        cluster = LocalCluster(2, 1)
    with cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def serving(name: str, cluster: LocalCluster) -> Iterator[Server]:
    server = Server(name, cluster)
    with server.process as process:
        try:
            yield server
        finally:
            process.kill()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Server]:
    with serving(request.param, cluster) as server:
        yield server


@contextmanager
def occupied(client: Client, folder: Path) -> Iterator[None]:
    """Both workers have something else to do while the block runs."""
    pipes = [folder / "left", folder / "right"]
    for pipe in pipes:
        os.mkfifo(pipe)
    futures = client.map(hold, map(str, pipes))
    with open(pipes[0], "w"), open(pipes[1], "w"):  # which waits until the tasks have opened the other ends
        yield
    client.gather(futures)


def events(client: Client, key: str) -> list[str]:
    return [event["event"] for event in client.story(key)]


def path_of(file: Path) -> str:
    return str(file).lstrip("/")


def test_500_requests_at_the_same_time(server: Server, client: Client, tmp_path: Path) -> None:
    before = server.about()["threads"]
    with occupied(client, tmp_path):
        requests = [server.ask("square", number) for number in range(MANY)]
        server.awaits(MANY)
        during = server.about()
    assert [request.answer() for request in requests] == [(200, number**2) for number in range(MANY)]
    assert before == during["threads"] == server.about()["threads"] == ["MainThread"]
    assert during["loops"] == 1
    server.awaits(0)


def test_a_disconnected_request_cancels_its_task(server: Server, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    key = key_of("touch", path_of(file))
    with occupied(client, tmp_path):
        request = server.ask("touch", file)
        eventually(lambda: "submitted" in events(client, key))
        request.disconnect()
        # It was on its way to a worker, or not yet.
        eventually(lambda: events(client, key)[-1] in ("stopped", "released"))
    # What came to a worker before this one would have run by now.
    client.gather([client.submit(square, "3", workers=[worker], pure=False) for worker in client.nthreads()])
    assert not file.exists()
    server.awaits(0)


def test_a_disconnected_request_stops_a_coroutine_that_runs(server: Server, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "endures"
    request = server.ask("endure", file)
    eventually(file.exists)
    request.disconnect()
    eventually(lambda: not file.exists())
    server.awaits(0)


def test_another_request_wants_the_same_task(server: Server, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    with occupied(client, tmp_path):
        first, second = server.ask("touch", file), server.ask("touch", file)
        server.awaits(2)
        first.disconnect()
        server.awaits(1)
        assert "released" not in events(client, key_of("touch", path_of(file)))
    assert second.answer() == (200, "touched")


def test_another_client_wants_the_same_task(server: Server, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    with occupied(client, tmp_path):
        request = server.ask("touch", file)
        server.awaits(1)
        future = client.submit(touch, path_of(file), key=key_of("touch", path_of(file)))
        request.disconnect()
        server.awaits(0)
    assert future.result(60) == "touched"


def test_the_task_of_a_request_that_was_cancelled_can_be_asked_for_again(
    server: Server, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    with occupied(client, tmp_path):
        request = server.ask("touch", file)
        server.awaits(1)
        request.disconnect()
        server.awaits(0)
        again = server.ask("touch", file)
        server.awaits(1)
    assert again.answer() == (200, "touched")


def test_the_error_of_a_task_is_a_500_that_names_it(server: Server) -> None:
    assert server.ask("boom", "luck").answer() == (500, {"error": "Boom", "message": "luck"})
    assert Request(server.port, "/factors/-1").answer() == (
        500,
        {"error": "ValueError", "message": "only positive numbers have prime factors, not -1"},
    )
    server.awaits(0)


@pytest.mark.parametrize("name", SERVERS)
def test_the_client_ends_with_the_server(name: str, cluster: LocalCluster, client: Client) -> None:
    before = set(client.scheduler_info()["clients"])
    with serving(name, cluster) as server:
        assert server.ask("square", 12).answer() == (200, 144)
        (ident,) = set(client.scheduler_info()["clients"]) - before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) in (0, -signal.SIGTERM)
    eventually(lambda: ident not in client.scheduler_info()["clients"])


# Without a server: what handlers are made of.


def stuck(client: Client, key: str) -> Future[int]:
    """A task that no worker can run."""
    return client.submit(inc, 1, key=key, resources={"unicorn": 1})


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_future_is_let_go_when_who_awaits_it_is_cancelled(asynchronous: bool, cluster: LocalCluster) -> None:
    async def main() -> None:
        client = Client(cluster, asynchronous=asynchronous, set_as_default=False)
        if asynchronous:
            await client
        future = stuck(client, f"stuck-{asynchronous}")
        watched = weakref.ref(future)
        held = [future]
        del future

        async def handler() -> int:
            return await held.pop()

        handling = asyncio.ensure_future(handler())
        while held:
            await asyncio.sleep(0)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await handling
        assert watched() is None
        assert kept.tb is not None
        closing = client.close()
        if asynchronous:
            await closing

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_futures_of_a_client_with_a_thread_are_awaited_on_another_loop(client: Client) -> None:
    async def main() -> list[int]:
        before = threading.active_count()
        answers = await asyncio.gather(*[client.submit(square, str(number)) for number in range(MANY)])
        assert threading.active_count() == before
        return answers

    assert asyncio.run(main()) == [number**2 for number in range(MANY)]


def test_the_result_is_there_first() -> None:
    async def main() -> None:
        gone, result = asyncio.Event(), asyncio.get_running_loop().create_future()
        leaving = asyncio.ensure_future(gone.wait())
        asyncio.get_running_loop().call_soon(result.set_result, 7)
        assert await until_disconnected(result, leaving) == 7
        assert leaving.cancelled()

    asyncio.run(main())


def test_the_client_goes_first() -> None:
    async def main() -> None:
        gone, result = asyncio.Event(), asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(gone.set)
        with pytest.raises(Disconnected):
            await until_disconnected(result, gone.wait())
        assert result.cancelled()

    asyncio.run(main())


def test_the_result_and_the_end_at_the_same_moment() -> None:
    async def main() -> None:
        result, gone = [asyncio.get_running_loop().create_future() for _ in range(2)]
        result.set_result(7)
        gone.set_result(None)
        assert await until_disconnected(result, gone) == 7

    asyncio.run(main())


def test_what_is_wrong_with_the_connection_is_told() -> None:
    async def broken() -> None:
        raise OSError("the connection is broken")

    async def main() -> None:
        result = asyncio.get_running_loop().create_future()
        with pytest.raises(OSError, match="the connection is broken"):
            await until_disconnected(result, broken())
        assert result.cancelled()

    asyncio.run(main())


def test_both_end_with_who_waits_for_them() -> None:
    async def main() -> None:
        result, gone = [asyncio.get_running_loop().create_future() for _ in range(2)]
        waiting = asyncio.ensure_future(until_disconnected(result, gone))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert result.cancelled()
        assert gone.cancelled()

    asyncio.run(main())


def test_an_exception_holds_no_future(client: Client) -> None:
    async def main() -> None:
        futures = [stuck(client, "stuck, too"), client.submit(boom, "luck", key="boom, too")]
        stuck_one, failed = map(weakref.ref, futures)
        with pytest.raises(Disconnected) as disconnected:
            await until_disconnected(futures.pop(0), asyncio.sleep(0))
        await asyncio.sleep(0)  # the event that this turn of the loop is about holds what was waited for
        assert stuck_one() is None
        with pytest.raises(Boom) as error:
            await until_disconnected(futures.pop(), asyncio.Event().wait())
        await asyncio.sleep(0)
        assert failed() is None
        assert (str(error.value), disconnected.type) == ("luck", Disconnected)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_disconnection_reads_over_the_body() -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"y"},
        {"type": "http.disconnect"},
        {"type": "not read"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    asyncio.run(disconnection(receive))
    assert messages == [{"type": "not read"}]
