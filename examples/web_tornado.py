"""A web server whose work is done by a cluster: tornado.

python examples/web_tornado.py                                   # ask it one question, on a cluster of its own
python examples/web_tornado.py --port 8000                       # serve http://127.0.0.1:8000/factors/360
python examples/web_tornado.py --port 8000 --scheduler host:8786
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

import treadle
from treadle.integrations.web import Disconnected, until_disconnected


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


class TaskHandler(RequestHandler):
    """Hands work to a cluster for as long as its client waits."""

    def initialize(self, client: treadle.Client) -> None:
        self.client = client
        self.gone = asyncio.Event()

    def on_connection_close(self) -> None:
        self.gone.set()

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, Disconnected):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1]
        if isinstance(error, Disconnected):
            self.set_status(499)  # sent to nobody, but it stands in the logs
        self.finish({"error": type(error).__name__, "message": str(error)})


class Factors(TaskHandler):
    async def get(self, number: str) -> None:
        found = await until_disconnected(self.client.submit(factors, int(number)), self.gone.wait())
        self.finish({"factors": found})


def make_app(client: treadle.Client) -> Application:
    return Application([(r"/factors/(-?\d+)", Factors, {"client": client})])


@asynccontextmanager
async def serving(scheduler: str | None, port: int) -> AsyncIterator[int]:
    """Serve while the block runs, with a client of a scheduler, or of a local cluster of its own. Yields the port."""
    async with treadle.Client(scheduler, asynchronous=True) as client:
        sockets = bind_sockets(port, "127.0.0.1")
        server = HTTPServer(make_app(client))
        server.add_sockets(sockets)
        try:
            yield sockets[0].getsockname()[1]
        finally:
            server.stop()
            await server.close_all_connections()


async def run(scheduler: str | None, port: int | None) -> None:
    async with serving(scheduler, port or 0) as bound:
        if port is None:
            page = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{bound}/factors/360")
            print(page.body.decode())
        else:
            await asyncio.Event().wait()  # until Ctrl-C cancels it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="serve on this port until Ctrl-C")
    parser.add_argument("--scheduler", metavar="HOST:PORT")
    options = parser.parse_args()
    try:
        asyncio.run(run(options.scheduler, options.port))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
