"""What all objects for coordination have in common: a name, and the client by which they reach the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from treadle.client import default, inside
from treadle.client.client import Client
from treadle.client.latch import Steps, run_async
from treadle.client.sharing import check_name
from treadle.errors import UserError
from treadle.naming import unique

__all__ = ["Named", "check_count", "find_client"]

T = TypeVar("T")

#: Seconds that a task may take to connect to the scheduler.
PATIENCE = 30.0


def find_client(given: Client | None = None) -> Client:
    """The client that was given; in a task that of its worker; else the default client.

    :raises UserError: there is none.
    """
    if given is not None:
        return given
    task = inside.current()
    if task is not None:
        return task.client(PATIENCE)
    client = default.current()
    if not isinstance(client, Client):
        raise UserError("there is no client here: make one, treadle.Client(…), or pass it as client=")
    return client


class Named:
    """Base of all of them. Those of the same class and name are the same thing, in whatever process they are.

    They can be pickled, and then find a client wherever they are unpickled.
    """

    _kind = ""

    def __init__(self, name: str | None, client: Client | None) -> None:
        if name is None:
            name = f"{self._kind}-{unique()}"
        check_name(name, f"the name of a {type(self).__name__}")
        #: What it is called everywhere.
        self.name = name
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"client must be a treadle.Client, not {client!r:.200}")
        self._given = client

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)

    def _face(self, make: Callable[..., Steps[T]], *args: Any) -> Any:
        """Run ``make(client, *args)`` as the client does it: to its end here, or as something to be awaited."""
        client = find_client(self._given)
        return client._face(make, client, *args)

    def _enter(self, make: Callable[..., Steps[T]], *args: Any) -> T:
        """Run in a ``with`` block, in which nothing can be awaited."""
        client = find_client(self._given)
        if client.asynchronous:
            raise UserError(f"with an asynchronous client, write `async with` for {self!r}")
        value: T = client._face(make, client, *args)
        return value

    async def _enter_async(self, make: Callable[..., Steps[T]], *args: Any) -> T:
        """Run in an ``async with`` block, with whatever client."""
        return await run_async(make(find_client(self._given), *args))


def check_count(name: str, given: Any, least: int) -> int:
    """
    :raises TypeError, ValueError: it is no number, or one below ``least``.
    """
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{name} is a whole number, not {given!r:.200}")
    if given < least:
        raise ValueError(f"{name} must be at least {least}, not {given}")
    return given
