"""What all methods of a client rest on: its session, and the two faces of a wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from treadle.client.latch import Steps, deadline_of, run_async, run_blocking
from treadle.client.session import Session
from treadle.errors import ClosedError

__all__ = ["Face"]

T = TypeVar("T")


class Face:
    """A client without methods of its own. Each of its bases' modules adds those for one purpose."""

    #: Use the running event loop: what has to wait returns something to be awaited.
    asynchronous: bool
    _session: Session | None
    #: True once it was closed.
    _over: bool

    @property
    def session(self) -> Session:
        """The connection. :raises ClosedError: there is none (any more)."""
        session = self._session
        if session is None or self._over:
            if self._over or not self.asynchronous:
                raise ClosedError("this client is closed")
            raise ClosedError("this client is not connected yet: use `async with Client(…)`, or `await` it first")
        session.check()
        return session

    def _face(self, make: Callable[..., Steps[T]], *args: Any) -> Any:
        """Run the steps that ``make(*args)`` returns: here, or in the event loop of who awaits what is returned."""
        return run_async(make(*args)) if self.asynchronous else self._block(make, *args)

    def _block(self, make: Callable[..., Steps[T]], *args: Any) -> T:
        if self._session is not None and self._session.in_loop():
            self._session.check_thread(self)
        return run_blocking(make, *args)

    def _asking(self, topic: str, argument: Any = None, timeout: float | None = None) -> Any:
        """The scheduler's answer to a question, by either face.

        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: there was no answer in time.
        """
        return self._face(self._ask, topic, argument, deadline_of(timeout))

    async def _ask(self, topic: str, argument: Any = None, deadline: float | None = None) -> Any:
        """Steps: the same, for use in others."""
        return await self.session.ask(topic, argument, deadline)
