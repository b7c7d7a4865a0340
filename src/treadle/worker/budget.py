"""A limit on how many bytes are in use at once."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

__all__ = ["Budget"]


class Budget:
    """Bytes that are lent, first come first served. For one event loop.

    :param total: how many bytes there are. Whoever asks for more than that gets all of them.
    """

    def __init__(self, total: int) -> None:
        self.total: Final = total
        self._free = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Budget {self._free} of {self.total} bytes free, {len(self._queue)} wait>"

    async def acquire(self, nbytes: int) -> int:
        """Wait for so many bytes; returns what to give to :meth:`release`."""
        nbytes = min(nbytes, self.total)
        if not self._queue and nbytes <= self._free:
            self._free -= nbytes
            return nbytes
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((nbytes, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(nbytes)
            raise
        return nbytes

    def release(self, nbytes: int) -> None:
        self._free += nbytes
        while self._queue:
            wanted, future = self._queue[0]
            if future.done():  # whoever waited has been cancelled
                self._queue.popleft()
            elif wanted <= self._free:
                self._queue.popleft()
                self._free -= wanted
                future.set_result(None)
            else:
                break
