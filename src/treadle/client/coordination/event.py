"""Events: something that has happened, or not."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from treadle.client.client import Client
from treadle.client.coordination.base import Named
from treadle.client.coordination.leases import ask_for
from treadle.client.latch import deadline_of

__all__ = ["Event"]


class Event(Named):
    """A flag of the whole cluster that can be waited for. It stays as it is when whoever has set it dies.

    :param name: events of the same name are the same one. Without it: a new one.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "event"

    def __init__(self, name: str | None = None, client: Client | None = None) -> None:
        super().__init__(name, client)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until it is set.

        :param timeout: wait no longer than this many seconds.
        :returns: True; False if it was not set in time.
        """
        return self._face(self._wait, timeout)

    async def _wait(self, client: Client, timeout: float | None) -> bool:
        try:
            await ask_for(client.session, "event.wait", self.name, deadline_of(timeout))
        except FutureTimeoutError:
            return False
        return True

    def set(self, timeout: float | None = None) -> Any:
        """Let go all who wait, and who will, until it is cleared.

        :param timeout: how many seconds to wait for the scheduler's answer; so it is below.
        """
        return self._face(self._set, True, timeout)

    def clear(self, timeout: float | None = None) -> Any:
        """Make it unset."""
        return self._face(self._set, False, timeout)

    async def _set(self, client: Client, on: bool, timeout: float | None) -> None:
        await client.session.ask("event.set", (self.name, on), deadline_of(timeout))

    def is_set(self, timeout: float | None = None) -> Any:
        """Whether it is set."""
        return self._face(self._is_set, timeout)

    async def _is_set(self, client: Client, timeout: float | None) -> bool:
        on: bool = await client.session.ask("event.is_set", self.name, deadline_of(timeout))
        return on
