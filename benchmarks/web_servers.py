"""Web servers: requests whose work is done by a cluster of 2 worker processes, and by a ``ProcessPoolExecutor(2)``.

The same server process has both, and its two pages call the same function: one awaits ``client.submit(f, x)``, the
other ``loop.run_in_executor(pool, f, x)``. Connections are kept open, and each sends its next request when it has its
answer. Our pages notice when a client disconnects, as docs/web-servers.md shows; a pool has no use for that.

    python benchmarks/web_servers.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from socket import SOMAXCONN, create_server, socket
from time import perf_counter
from typing import NamedTuple, TypeAlias

from cluster_contest import options
from latency import percentile
from rounds import banner

from treadle import Client, LocalCluster
from treadle.integrations.web import disconnection, until_disconnected

WORKERS = 2
#: Requests in a round, and how many of them are on their way at the same time.
REQUESTS = 1000
CONCURRENCY = 100
#: Milliseconds for which a request keeps a worker busy.
WORK = (0, 2)
CONTESTANTS = ("treadle", "pool")

#: Sends one number on, with a time to be busy for, and comes back with the next number.
Call: TypeAlias = "Callable[[int, int], Awaitable[int]]"


def busy(number: int, milliseconds: int) -> int:
    until = perf_counter() + milliseconds / 1000
    while perf_counter() < until:
        pass
    return number + 1


# The servers. Each has the pages /treadle/<number>/<milliseconds> and /pool/<number>/<milliseconds>.


@asynccontextmanager
async def starlette(client: Client, pool: Call, listening: socket) -> AsyncIterator[None]:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def ours(request: Request) -> JSONResponse:
        gone = disconnection(request.receive)
        return JSONResponse(await until_disconnected(client.submit(busy, *numbers(request)), gone))

    async def theirs(request: Request) -> JSONResponse:
        return JSONResponse(await pool(*numbers(request)))

    def numbers(request: Request) -> tuple[int, int]:
        return int(request.path_params["number"]), int(request.path_params["ms"])

    app = Starlette(routes=[Route("/treadle/{number}/{ms}", ours), Route("/pool/{number}/{ms}", theirs)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield
    server.should_exit = True
    await serving


@asynccontextmanager
async def aiohttp(client: Client, pool: Call, listening: socket) -> AsyncIterator[None]:
    from aiohttp import web

    async def ours(request: web.Request) -> web.Response:
        return web.json_response(await client.submit(busy, *numbers(request)))

    async def theirs(request: web.Request) -> web.Response:
        return web.json_response(await pool(*numbers(request)))

    def numbers(request: web.Request) -> tuple[int, int]:
        return int(request.match_info["number"]), int(request.match_info["ms"])

    app = web.Application()
    app.add_routes([web.get("/treadle/{number}/{ms}", ours), web.get("/pool/{number}/{ms}", theirs)])
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    yield
    await runner.cleanup()


@asynccontextmanager
async def tornado(client: Client, pool: Call, listening: socket) -> AsyncIterator[None]:
    from tornado.httpserver import HTTPServer
    from tornado.web import Application, RequestHandler

    class Ours(RequestHandler):
        def initialize(self) -> None:
            self.gone = asyncio.Event()

        def on_connection_close(self) -> None:
            self.gone.set()

        async def get(self, number: str, ms: str) -> None:
            answer = await until_disconnected(client.submit(busy, int(number), int(ms)), self.gone.wait())
            self.finish(json.dumps(answer))

    class Theirs(RequestHandler):
        async def get(self, number: str, ms: str) -> None:
            self.finish(json.dumps(await pool(int(number), int(ms))))

    server = HTTPServer(Application([(r"/treadle/(\d+)/(\d+)", Ours), (r"/pool/(\d+)/(\d+)", Theirs)]))
    server.add_sockets([listening])
    yield
    server.stop()
    await server.close_all_connections()


Serving: TypeAlias = "Callable[[Client, Call, socket], AbstractAsyncContextManager[None]]"
SERVERS: dict[str, Serving] = {"starlette": starlette, "aiohttp": aiohttp, "tornado": tornado}


async def serve(name: str, cluster: LocalCluster, executor: ProcessPoolExecutor) -> None:
    """Print a port, and serve there until standard input ends."""
    loop = asyncio.get_running_loop()

    def pool(number: int, milliseconds: int) -> Awaitable[int]:
        return loop.run_in_executor(executor, busy, number, milliseconds)

    with create_server(("127.0.0.1", 0), backlog=SOMAXCONN) as listening:
        listening.setblocking(False)
        async with Client(cluster, asynchronous=True) as client, SERVERS[name](client, pool, listening):
            print(listening.getsockname()[1], flush=True)
            await asyncio.to_thread(sys.stdin.read)


@contextmanager
def started(name: str) -> Iterator[int]:
    """A server in a process of its own. Yields its port."""
    command = [sys.executable, "-W", "ignore", __file__, "--serve", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


# The load.


class Round(NamedTuple):
    """Seconds that each request took, and all of them."""

    latencies: list[float]
    seconds: float


async def load(port: int, page: str, numbers: Iterator[int], milliseconds: int, requests: int) -> Round:
    latencies: list[float] = []
    left = iter(range(requests))

    async def visit() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            number = next(numbers)
            sent = perf_counter()
            writer.write(f"GET /{page}/{number}/{milliseconds} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split()[0])
            body = await reader.readexactly(length)
            latencies.append(perf_counter() - sent)
            if head.split()[1] != b"200" or int(body) != number + 1:
                raise AssertionError(f"{number}: {head!r} {body!r}")
        writer.close()
        await writer.wait_closed()

    begun = perf_counter()
    await asyncio.gather(*[visit() for _ in range(CONCURRENCY)])
    return Round(latencies, perf_counter() - begun)


def measure(port: int, milliseconds: int, requests: int, rounds: int) -> dict[str, list[Round]]:
    numbers = itertools.count()
    results: dict[str, list[Round]] = {name: [] for name in CONTESTANTS}
    for turn in range(rounds + 1):
        for name in CONTESTANTS:
            result = asyncio.run(load(port, name, numbers, milliseconds, requests))
            if turn:
                results[name].append(result)
    return results


def report(server: str, milliseconds: int, results: dict[str, list[Round]]) -> None:
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for name, rounds in results.items():
        figures[name] = [
            (percentile(each.latencies, 0.5), percentile(each.latencies, 0.99), len(each.latencies) / each.seconds)
            for each in rounds
        ]
        p50, p99, rate = [statistics.median(column) for column in zip(*figures[name])]
        rates = [turn[2] for turn in figures[name]]
        spread = f"({min(rates):.0f}-{max(rates):.0f})"
        print(
            f"{server:10} {milliseconds:>2} ms  {name:8}{p50 * 1e3:>10.1f}{p99 * 1e3:>10.1f}{rate:>12.0f} {spread:<14}"
        )
    pairs = list(zip(figures["treadle"], figures["pool"]))
    p50, p99 = [statistics.median(ours[at] / theirs[at] for ours, theirs in pairs) for at in (0, 1)]
    rate = statistics.median(ours[2] / theirs[2] for ours, theirs in pairs)
    print(f"{server:10} {milliseconds:>2} ms  {'ratio':8}{p50:>10.2f}{p99:>10.2f}{rate:>12.2f}\n")


def main() -> None:
    rounds, quick = options(__doc__ or "")
    requests = REQUESTS // 4 if quick else REQUESTS
    banner(
        f"{requests} requests, {CONCURRENCY} at the same time, to {WORKERS} processes: milliseconds, and requests per "
        f"second; medians of {rounds} rounds",
        *("uvicorn", "starlette", "aiohttp", "tornado"),
    )
    print(f"{'server':10} {'work':>5}  {'':8}{'p50':>10}{'p99':>10}{'per second':>12} (spread)")
    for name in SERVERS:
        with started(name) as port:
            for milliseconds in WORK:
                report(name, milliseconds, measure(port, milliseconds, requests, rounds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        context = multiprocessing.get_context("spawn")
        with LocalCluster(WORKERS, 1) as own, ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
            asyncio.run(serve(sys.argv[2], own, executor))
    else:
        main()
