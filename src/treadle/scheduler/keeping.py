"""Results that are kept for something that lives on the scheduler: a value in a queue, a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from treadle.scheduler.topics import QuestionError

if TYPE_CHECKING:
    from treadle.core.records import Client
    from treadle.scheduler.services import Hub, Inquiry

__all__ = ["Keeper", "check_size", "read"]


class Keeper:
    """Wants results as a client does. A key is wanted for as long as it was kept more often than it was dropped."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._hub: Final = hub
        self._name: Final = name
        self._client: Client | None = None
        self._counts: Final[Counter[str]] = Counter()

    def __repr__(self) -> str:
        return f"<Keeper {self._name!r} of {len(self._counts)} results>"

    def keep(self, keys: Iterable[str]) -> None:
        added = list(keys)
        fresh = [key for key in dict.fromkeys(added) if key not in self._counts]
        self._counts.update(added)
        if fresh:
            core = self._hub.core
            now = self._hub.now()
            if self._client is None:
                self._client = core.on_client(f"keeper-{self._name}", now)
            core.on_want(self._client, fresh, now)
            self._hub.flush_soon()

    def drop(self, keys: Iterable[str]) -> None:
        over = []
        for key in keys:
            self._counts[key] -= 1
            if self._counts[key] == 0:
                del self._counts[key]
                over.append(key)
        if over and self._client is not None:
            self._hub.core.on_release(self._client, over, self._hub.now())
            self._hub.flush_soon()


def read(inquiry: Inquiry, kind: Any, what: str) -> Any:
    """The argument of an inquiry, checked.

    :param kind: its type.
    :param what: says what it must be.
    :raises QuestionError: it is something else.
    """
    try:
        return msgspec.convert(inquiry.argument, kind)
    except msgspec.ValidationError as error:
        raise QuestionError(f"the argument of {inquiry.topic!r} must be {what} ({error})") from None


def check_size(what: str, data: bytes, limit: int) -> None:
    """
    :raises QuestionError: it is more than may pass through the scheduler.
    """
    if len(data) > limit:
        raise QuestionError(f"{what} has {len(data):,} bytes, and only {limit:,} may pass through the scheduler")
