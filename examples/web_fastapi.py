"""A web server whose work is done by a cluster: FastAPI on uvicorn.

python examples/web_fastapi.py                                   # ask it one question, on a cluster of its own
python examples/web_fastapi.py --port 8000                       # serve http://127.0.0.1:8000/factors/360
python examples/web_fastapi.py --port 8000 --scheduler host:8786
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.request import urlopen

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import treadle
from treadle.integrations.web import Disconnected, disconnection, until_disconnected


def factors(number: int) -> list[int]:
    """Runs on a worker: the prime factors of a number."""
    if number < 1:
        raise ValueError(f"only positive numbers have prime factors, not {number}")
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found


async def answer(number: int, request: Request) -> list[int]:
    client: treadle.Client = request.app.state.client
    # The handler of a request goes on when its client has gone, so it has to look for that itself.
    return await until_disconnected(client.submit(factors, number), disconnection(request.receive))


async def nobody(request: Request, error: Exception) -> Response:
    """There has to be an answer, though nobody reads it."""
    return Response(status_code=499)


async def failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status_code=500)


def make_app(scheduler: str | None = None) -> FastAPI:
    """An application with a client of a scheduler, or of a local cluster that starts and ends with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with treadle.Client(scheduler, asynchronous=True) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_exception_handler(Disconnected, nobody)
    app.add_exception_handler(Exception, failed)
    app.add_api_route("/factors/{number}", answer)
    return app


async def demonstrate(scheduler: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        server = uvicorn.Server(uvicorn.Config(make_app(scheduler), log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            print(await asyncio.to_thread(read, f"http://{host}:{port}/factors/360"))
        finally:
            server.should_exit = True
            await serving


def read(url: str) -> str:
    with urlopen(url) as page:
        text: str = page.read().decode()
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="serve on this port until Ctrl-C")
    parser.add_argument("--scheduler", metavar="HOST:PORT")
    options = parser.parse_args()
    if options.port is None:
        asyncio.run(demonstrate(options.scheduler))
    else:
        uvicorn.run(make_app(options.scheduler), port=options.port)


if __name__ == "__main__":
    main()
