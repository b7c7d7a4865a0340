"""The keys of values that clients put on workers: equal ones have the same key for as long as it lives."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from treadle.core.states import MEMORY
from treadle.scheduler.services import Ask, Inquiry, Service
from treadle.scheduler.topics import QuestionError

if TYPE_CHECKING:
    from treadle.scheduler.services import Hub

__all__ = ["Scattering"]

#: How many keys may be remembered until those that are gone are looked for.
_MANY: Final = 1000


class Scattering(Service):
    """Answers which key a value is to have, by a name that equal values share.

    A key that was released is not used again: the news of its release may still be on the way to a worker, which
    would drop what is stored there under the same key meanwhile.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._keys: Final[dict[str, str]] = {}
        self._count: Final = itertools.count(1)
        self._limit = _MANY

    def topics(self) -> Mapping[str, Ask]:
        return {"scatter": self._scatter}

    def _scatter(self, inquiry: Inquiry) -> None:
        """The key for each name, and whether a worker holds its value already."""
        try:
            names = msgspec.convert(inquiry.argument, list[str])
        except msgspec.ValidationError as error:
            raise QuestionError(f"the argument of 'scatter' must be a list of names ({error})") from None
        inquiry.answer([self._key(name) for name in names])
        if len(self._keys) > self._limit:
            self._forget()

    def _key(self, name: str) -> tuple[str, bool]:
        key = self._keys.get(name)
        task = None if key is None else self.hub.core.tasks.get(key)
        if key is not None and task is not None and task.state == MEMORY:
            return key, True
        key = self._keys[name] = f"{name}-{next(self._count)}"
        return key, False

    def _forget(self) -> None:
        tasks = self.hub.core.tasks
        for name, key in list(self._keys.items()):
            if key not in tasks:
                del self._keys[name]
        self._limit = max(_MANY, 2 * len(self._keys))
