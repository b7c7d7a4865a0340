"""How long an answer is waited for while nothing comes."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from treadle.net.link import Link

__all__ = ["SILENCE", "patiently"]

T = TypeVar("T")

#: Seconds without a byte after which a peer that owes an answer counts as gone. More than the scheduler's own patience
#: with a silent worker, so that by then it knows.
SILENCE: Final = 75.0


async def patiently(link: Link, answer: asyncio.Future[T], silence: float = SILENCE) -> T:
    """Wait for what is to come over a connection, for as long as anything comes.

    A process that was stopped, or a machine that was unplugged, closes nothing. So the connection is closed here, which
    has to bring ``answer`` to its end.
    """
    while not answer.done():
        before = link.received
        await asyncio.wait([answer], timeout=silence)
        if link.received == before and not answer.done():
            link.close(f"nothing came from it for {silence:.0f} seconds")
    return await answer
