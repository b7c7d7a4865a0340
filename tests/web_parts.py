"""The servers of the examples, with routes that tests need. Each runs in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from treadle import Client, Future
from treadle.testing.tasks import boom

EXAMPLES: Final = Path(__file__).parent.parent / "examples"

# Tasks. They get paths without the slash in front, as it stands in a URL.


def square(number: str) -> int:
    return int(number) ** 2


def touch(path: str) -> str:
    Path("/", path).touch()
    return "touched"


async def endure(path: str) -> None:
    """Say that it has begun, and go on until it is cancelled, and say that."""
    Path("/", path).touch()
    try:
        await asyncio.Event().wait()
    finally:
        Path("/", path).unlink()


def hold(path: str) -> None:
    """Go on until the other end of a named pipe is closed."""
    with open(path) as pipe:
        pipe.read()


TASKS: Final[dict[str, Callable[..., Any]]] = {"square": square, "touch": touch, "endure": endure, "boom": boom}

# What a server does with a request.

#: Those that were made and that somebody holds.
futures: Final[weakref.WeakSet[Future[Any]]] = weakref.WeakSet()
#: The event loops that requests were handled on.
loops: Final[set[int]] = set()


def key_of(task: str, argument: str) -> str:
    return f"{task}:{argument}"


def call(client: Client, task: str, argument: str) -> Future[Any]:
    loops.add(id(asyncio.get_running_loop()))
    future: Future[Any] = client.submit(TASKS[task], argument, key=key_of(task, argument))
    futures.add(future)
    return future


def about() -> dict[str, Any]:
    names = sorted(thread.name for thread in threading.enumerate())
    return {"threads": names, "loops": len(loops), "futures": len(futures)}


# The servers, each on a socket that listens already.


def serve_fastapi(scheduler: str, listening: socket.socket) -> None:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from web_fastapi import make_app

    from treadle.integrations.web import disconnection, until_disconnected

    async def answer(request: Request) -> JSONResponse:
        client: Client = request.app.state.client
        gone = disconnection(request.receive)
        return JSONResponse(await until_disconnected(call(client, **request.path_params), gone))

    async def tell(request: Request) -> JSONResponse:
        return JSONResponse(about())

    app = make_app(scheduler)
    app.add_route("/call/{task}/{argument:path}", answer)
    app.add_route("/about", tell)
    config = uvicorn.Config(app, log_level="error", backlog=socket.SOMAXCONN)
    uvicorn.Server(config).run(sockets=[listening])


def serve_aiohttp(scheduler: str, listening: socket.socket) -> None:
    from aiohttp import web
    from web_aiohttp import CLIENT, make_app

    app = make_app(scheduler)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await call(request.app[CLIENT], **request.match_info))

    async def tell(request: web.Request) -> web.Response:
        return web.json_response(about())

    app.router.add_get("/call/{task}/{argument:.+}", answer)
    app.router.add_get("/about", tell)
    web.run_app(app, sock=listening, backlog=socket.SOMAXCONN, handler_cancellation=True, print=None)


def serve_tornado(scheduler: str, listening: socket.socket) -> None:
    from tornado.httpserver import HTTPServer
    from web_tornado import TaskHandler, make_app

    from treadle.integrations.web import until_disconnected

    class Answer(TaskHandler):
        async def get(self, task: str, argument: str) -> None:
            self.finish(json.dumps(await until_disconnected(call(self.client, task, argument), self.gone.wait())))

    class Tell(TaskHandler):
        def get(self) -> None:
            self.finish(about())

    async def serve() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with Client(scheduler, asynchronous=True) as client:
            app = make_app(client)
            routes = [(r"/call/(\w+)/(.+)", Answer, {"client": client}), ("/about", Tell, {"client": client})]
            app.add_handlers(".*", routes)
            server = HTTPServer(app)
            server.add_sockets([listening])
            await ended.wait()
            server.stop()
            await server.close_all_connections()

    asyncio.run(serve())


SERVERS: Final = {"fastapi": serve_fastapi, "aiohttp": serve_aiohttp, "tornado": serve_tornado}


def main(name: str, scheduler: str) -> None:
    """Print a port, and serve there until SIGTERM."""
    gc.disable()  # a future that nobody needs is gone at once, with no help from the collector
    sys.path.insert(0, str(EXAMPLES))
    listening = socket.create_server(("127.0.0.1", 0), backlog=socket.SOMAXCONN)
    listening.setblocking(False)
    print(listening.getsockname()[1], flush=True)
    SERVERS[name](scheduler, listening)
