"""A web server whose work is done by a cluster: aiohttp.

python examples/web_aiohttp.py                                   # ask it one question, on a cluster of its own
python examples/web_aiohttp.py --port 8000                       # serve http://127.0.0.1:8000/factors/360
python examples/web_aiohttp.py --port 8000 --scheduler host:8786
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import ClientSession, web

import treadle

CLIENT = web.AppKey("client", treadle.Client)


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


async def answer(request: web.Request) -> web.Response:
    # With handler_cancellation this coroutine is cancelled when the client has gone, and the future goes with it.
    return web.json_response(await request.app[CLIENT].submit(factors, int(request.match_info["number"])))


@web.middleware
async def failures(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        return web.json_response({"error": type(error).__name__, "message": str(error)}, status=500)


def make_app(scheduler: str | None = None) -> web.Application:
    """An application with a client of a scheduler, or of a local cluster that starts and ends with it."""

    async def connected(app: web.Application) -> AsyncIterator[None]:
        async with treadle.Client(scheduler, asynchronous=True) as client:
            app[CLIENT] = client
            yield

    app = web.Application(middlewares=[failures])
    app.cleanup_ctx.append(connected)
    app.router.add_get(r"/factors/{number:-?\d+}", answer)
    return app


async def demonstrate(scheduler: str | None) -> None:
    runner = web.AppRunner(make_app(scheduler), handler_cancellation=True)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as session, session.get(f"http://{host}:{port}/factors/360") as page:
            print(await page.text())
    finally:
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="serve on this port until Ctrl-C")
    parser.add_argument("--scheduler", metavar="HOST:PORT")
    options = parser.parse_args()
    if options.port is None:
        asyncio.run(demonstrate(options.scheduler))
    else:
        web.run_app(make_app(options.scheduler), host="127.0.0.1", port=options.port, handler_cancellation=True)


if __name__ == "__main__":
    main()
