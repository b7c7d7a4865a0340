"""Which news are old.

A released key may be used again at once, for another task even, while the scheduler has news of the old one on their
way to us. So a fence follows: a number that the scheduler sends back after all that it had to say before. Until then,
what is said of a key that is used again is old. What is said of a key that is not used is nobody's business anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

__all__ = ["UNFENCED", "Fences"]

#: A fence costs both sides a message. There is one when a key is released and asked for again, and when so many were
#: released.
UNFENCED = 1000


class Fences:
    """The fences of one client. Everything is called with the registry's lock held."""

    def __init__(self) -> None:
        #: Keys that are used again, and the number of the fence before which all news of them are old.
        self.stale: dict[str, int] = {}
        #: Keys that were released after the last fence. Before one of them is asked for there has to be another one.
        self.released: set[str] = set()
        #: The fences that have not come back, and the keys that were released before each, after the one before.
        self.sent: deque[tuple[int, set[str]]] = deque()
        #: The numbers of the last fence that was sent, and of the last one that came back.
        self.last = 0
        self.passed = 0

    def __repr__(self) -> str:
        return f"<Fences: {len(self)} keys released, {len(self.stale)} of them used again>"

    def __len__(self) -> int:
        """How many keys there may be old news of."""
        return len(self.released) + sum([len(gone) for _, gone in self.sent])

    def release(self, keys: Iterable[str]) -> bool:
        """These are released. True if it is time for a fence."""
        self.released.update(keys)
        return len(self.released) >= UNFENCED

    def send(self) -> int:
        """The number of a fence that is to be sent now."""
        self.last += 1
        self.sent.append((self.last, self.released))
        self.released = set()
        return self.last

    def use(self, keys: Collection[str]) -> None:
        """These are asked for now, after any fence that they need."""
        for number, gone in self.sent:
            if not gone.isdisjoint(keys):
                self.stale.update(dict.fromkeys(gone.intersection(keys), number))

    def back(self, number: int) -> None:
        """A fence has come back."""
        self.passed = number
        while self.sent and self.sent[0][0] <= number:
            self.sent.popleft()
        if self.stale:
            self.stale = {key: last for key, last in self.stale.items() if last > number}

    def clear(self) -> None:
        self.stale.clear()
        self.released.clear()
        self.sent.clear()
