"""Web servers: a task is wanted for as long as somebody waits for its answer.

Nothing of a web server is imported or needed here. See docs/web-servers.md for what to hand over on which server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from treadle.errors import PeerError

__all__ = ["Disconnected", "disconnection", "until_disconnected"]

T = TypeVar("T")


class Disconnected(PeerError):
    """Whoever sent a request does not wait for its answer any more."""


async def until_disconnected(result: Awaitable[T], gone: Awaitable[object]) -> T:
    """Await a result, but let it go if whoever asked for it has gone.

    The task of a future that is let go is cancelled, unless somebody else wants the same key: another request, or
    another client. A future that is kept elsewhere keeps its task wanted, so hand over what ``submit`` returns:
    ``await until_disconnected(client.submit(f, x), gone)``.

    :param result: a future, or a coroutine that awaits several. It is cancelled when the client has gone.
    :param gone: ends when the client has gone. It is cancelled when the result is there.
    :raises Disconnected: the client has gone.
    :raises Exception: what the task raised, or ``gone``.
    """
    answer, departure = asyncio.ensure_future(_awaited([result])), asyncio.ensure_future(_awaited([gone]))
    del result  # an exception that leaves here holds this frame, and must not hold a future with it
    try:
        await asyncio.wait((answer, departure), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            departure.result()
            raise Disconnected("the client has disconnected before the answer to its request was there")
        return answer.result()
    finally:
        answer.cancel()
        departure.cancel()
        await asyncio.gather(answer, departure, return_exceptions=True)
        del answer, departure


async def _awaited(held: list[Awaitable[T]]) -> T:
    """What is awaited; only the caller's list refers to it, until it is awaited."""
    return await held.pop()


async def disconnection(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    """End when an ASGI server (uvicorn, Hypercorn, …) says that the client has disconnected.

    What is left of the request's body is read and dropped, so read it before.

    :param receive: of the ASGI application; Starlette and FastAPI have it as ``request.receive``.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
