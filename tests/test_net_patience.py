"""Answers that do not come."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from treadle.net.link import Link
from treadle.net.patience import SILENCE, patiently
from treadle.scheduler.settings import Settings


class SilentLink:
    """Counts bytes and is closed, like a connection."""

    def __init__(self, answer: asyncio.Future[int]) -> None:
        self.answer = answer
        self.received = 0
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)
        self.answer.set_exception(ConnectionError(reason))


async def wait(link: SilentLink) -> int:
    return await patiently(cast(Link, link), link.answer, silence=0.01)


def test_a_peer_that_says_nothing_is_given_up() -> None:
    async def main() -> None:
        link = SilentLink(asyncio.get_running_loop().create_future())
        with pytest.raises(ConnectionError, match="nothing came from it for 0 seconds"):
            await wait(link)

    asyncio.run(main())


def test_a_peer_that_is_slow_is_not() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        link = SilentLink(loop.create_future())

        def drop(left: int) -> None:
            link.received += 1
            if left:
                loop.call_later(0.001, drop, left - 1)
            else:
                link.answer.set_result(7)

        drop(50)
        assert await wait(link) == 7
        assert link.reasons == []

    asyncio.run(main())


def test_the_scheduler_is_less_patient() -> None:
    assert Settings().worker_timeout < SILENCE
