"""Locks and semaphores."""

from __future__ import annotations

from collections import deque
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from treadle.client.client import Client
from treadle.client.coordination.base import Named, check_count
from treadle.client.coordination.leases import Lease, ask_for, give_back
from treadle.client.latch import deadline_of
from treadle.errors import LeaseLostError, NotHeldError

__all__ = ["Lock", "Semaphore"]


class _Permits(Named):
    """What a lock and a semaphore have in common."""

    def __init__(self, name: str | None, client: Client | None) -> None:
        super().__init__(name, client)
        #: What was acquired by this object, the oldest first.
        self._held: deque[Lease] = deque()

    def _request(self, wait: bool) -> tuple[str, Any]:
        """How the scheduler is asked for it."""
        raise NotImplementedError

    @property
    def token(self) -> int | None:
        """The token of what this object acquired last and still holds; None if it holds nothing.

        Tokens grow with each acquisition on the cluster. Something outside of it that remembers the biggest token that
        it has seen can refuse whoever comes with a smaller one, because that one has lost its lease.
        """
        try:
            return self._held[-1].token
        except IndexError:
            return None

    @property
    def lost(self) -> bool:
        """True if this object holds something that, as far as this process has heard, was taken away again."""
        return any(lease.lost or lease.session.ended is not None for lease in list(self._held))

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        """Wait until it is this object's turn; who has come first is first.

        :param blocking: False: return at once.
        :param timeout: wait no longer than this many seconds.
        :returns: whether it was acquired.
        """
        if timeout is not None and not blocking:
            raise ValueError("a timeout makes no sense if acquire does not block; leave out one of them")
        return self._face(self._acquire, blocking, timeout)

    def release(self, timeout: float | None = None) -> Any:
        """Let the next one have it.

        :param timeout: how many seconds to wait for the scheduler's answer.
        :raises NotHeldError: this object holds nothing.
        :raises LeaseLostError: it was taken away already, because this process was silent for too long.
        """
        return self._face(self._release, timeout)

    async def _acquire(self, client: Client, blocking: bool = True, timeout: float | None = None) -> bool:
        topic, argument = self._request(blocking)
        try:
            lease = await ask_for(client.session, topic, argument, deadline_of(timeout))
        except FutureTimeoutError:
            return False
        if isinstance(lease, str):
            return False
        self._held.append(lease)
        return True

    async def _release(self, client: Client, timeout: float | None = None) -> None:
        try:
            lease = self._held.popleft()
        except IndexError:
            raise NotHeldError(f"{self!r} is not held by this object, so it cannot be released") from None
        await give_back(lease, repr(self), deadline=deadline_of(timeout))

    async def _leave(self, client: Client, raised: bool) -> None:
        """The end of a ``with`` block. What its body raises is more telling than a lease that was lost."""
        try:
            await self._release(client)
        except LeaseLostError:
            if not raised:
                raise

    def __enter__(self) -> Any:
        self._enter(self._acquire)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._enter(self._leave, kind is not None)

    async def __aenter__(self) -> Any:
        await self._enter_async(self._acquire)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        await self._enter_async(self._leave, kind is not None)


class Lock(_Permits):
    """A lock of the whole cluster: one holder at a time, first come, first served. It is not reentrant.

    If the process that holds it dies, the next one gets it at once; if that process is stopped or cut off, after the
    time of a lease (30 seconds, unless the scheduler was started with another one).

    >>> with Lock("printer"):
    ...     print("only one at a time")
    only one at a time

    :param name: locks of the same name are the same lock. Without it: a new one.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "lock"

    def __init__(self, name: str | None = None, client: Client | None = None) -> None:
        super().__init__(name, client)

    def _request(self, wait: bool) -> tuple[str, Any]:
        return "lock.acquire", (self.name, wait)

    def locked(self, timeout: float | None = None) -> Any:
        """Whether anybody holds it.

        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        return self._face(self._locked, timeout)

    async def _locked(self, client: Client, timeout: float | None) -> bool:
        held: bool = await client.session.ask("lock.locked", self.name, deadline_of(timeout))
        return held


class Semaphore(_Permits):
    """At most so many holders at a time on the whole cluster, first come, first served.

    What happens to permits of processes that die is what happens to a :class:`Lock`.

    :param max_leases: how many. It has to be the same for all semaphores of a name, while any client uses it.
    :param name: semaphores of the same name are the same one. Without it: a new one.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "semaphore"

    def __init__(self, max_leases: int = 1, name: str | None = None, client: Client | None = None) -> None:
        super().__init__(name, client)
        self.max_leases = check_count("max_leases", max_leases, 1)

    def __repr__(self) -> str:
        return f"<Semaphore {self.name!r} of {self.max_leases}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_leases, self.name)

    def _request(self, wait: bool) -> tuple[str, Any]:
        return "semaphore.acquire", (self.name, self.max_leases, wait)

    def get_value(self, timeout: float | None = None) -> Any:
        """How many permits are held at the moment, by whomever.

        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        return self._face(self._value, timeout)

    async def _value(self, client: Client, timeout: float | None) -> int:
        held: int = await client.session.ask("semaphore.value", self.name, deadline_of(timeout))
        return held
