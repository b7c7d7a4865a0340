"""Keys that the user has chosen, and what they were chosen for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from treadle.errors import DuplicateKeyError
from treadle.tokens import TokenizeError, tokenize
from treadle.wire.values import PICKLED

if TYPE_CHECKING:
    from treadle.client.outbox import Row
    from treadle.client.registry import Registry

__all__ = ["Claims"]

#: How many keys may be remembered until those that are gone are looked for.
_MANY: Final = 1000


class Claims:
    """Finds keys that are used for two different tasks. Those of other clients are not seen."""

    def __init__(self, registry: Registry) -> None:
        self._registry: Final = registry
        #: A digest of the function and the arguments, by key.
        self._known: Final[dict[str, int]] = {}
        self._limit = _MANY

    def __repr__(self) -> str:
        return f"<Claims on {len(self._known)} keys>"

    def check(self, row: Row, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Take note of a call whose key was chosen.

        :raises DuplicateKeyError: there is a future of this key, and it is for another call.
        """
        key = row[0]
        digest = _digest(row, args, kwargs)
        known = self._known.get(key)
        if digest is None:
            self._known.pop(key, None)
            return
        if known != digest:
            if known is not None and self._lives(key):
                raise DuplicateKeyError(key)
            self._known[key] = digest
        if len(self._known) > self._limit:
            self._forget()

    def _lives(self, key: str) -> bool:
        with self._registry.lock:
            return bool(self._registry.of(key))

    def _forget(self) -> None:
        futures = self._registry.futures
        for key in [key for key in self._known if key not in futures]:
            del self._known[key]
        self._limit = max(_MANY, 2 * len(self._known))


def _digest(row: Row, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """What two calls share if they are the same; None if that cannot be told."""
    _, function, payload, deps = row
    if payload[0] != PICKLED:
        return hash((function, payload, *deps))
    try:
        return hash((function, tokenize(*args, **kwargs)))  # pickles of equal values may differ
    except TokenizeError:
        return None
