"""The client that the tasks of a worker share."""

from __future__ import annotations

from typing import Any

from treadle.client.client import Client

__all__ = ["LentClient"]


class LentClient(Client):
    """A client that is not its user's to close."""

    def close(self, timeout: float | None = None) -> Any:
        """Does nothing: other tasks use this client, too. It is closed when the worker ends."""
        return _nothing() if self.asynchronous else None

    async def __aexit__(self, *exc_info: object) -> None: ...


async def _nothing() -> None: ...
