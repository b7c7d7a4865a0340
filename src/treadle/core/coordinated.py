"""What clients coordinate by: permits, flags, queues and variables, and who holds or awaits them.

Each thing has a line of those who wait for it, served in the order in which they came, and knows its leases. What ends
a lease, and what follows from that for others, is decided by :class:`treadle.core.coordination.Coordination`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, final

__all__ = [
    "EVENT",
    "LOCK",
    "QUEUE",
    "SEMAPHORE",
    "VARIABLE",
    "Cell",
    "Flag",
    "Holder",
    "Item",
    "Lease",
    "Permits",
    "Store",
    "Thing",
    "Wait",
]

LOCK: Final = "lock"
SEMAPHORE: Final = "semaphore"
EVENT: Final = "event"
QUEUE: Final = "queue"
VARIABLE: Final = "variable"


@final
class Item:
    """A value on its way through the scheduler, which does not read it."""

    def __init__(self, data: bytes, keys: list[str]) -> None:
        self.data = data
        #: Of the results that the value refers to. They are kept for as long as there are ``uses``.
        self.keys = keys
        #: How many places it is in: a queue or a variable, and leases.
        self.uses = 0


@final
class Holder:
    """A client, for as long as it uses anything."""

    def __init__(self, ident: str) -> None:
        self.ident = ident
        #: When its leases end, unless it says something before. Means nothing while it has none.
        self.deadline = 0.0
        #: By the numbers of the inquiries that they were granted to.
        self.leases: dict[int, Lease] = {}
        self.waits: dict[int, Wait] = {}
        #: Its last puts, by the numbers of their inquiries.
        self.puts: OrderedDict[int, tuple[Store, Item]] = OrderedDict()
        #: The items that it has taken for good last, by the numbers of their leases.
        self.taken: OrderedDict[int, tuple[Store, list[Item]]] = OrderedDict()
        #: The things that are remembered for as long as it is here.
        self.uses: dict[Thing, None] = {}


@final
class Wait:
    """A place in a line."""

    def __init__(self, holder: Holder, number: int, thing: Thing, line: OrderedDict[Wait, None], count: int) -> None:
        self.holder = holder
        self.number = number
        self.thing = thing
        self.line = line
        #: How many items of a queue are wanted at most.
        self.count = count


@final
class Lease:
    """What a holder has for now: a permit, a place in a queue, or items."""

    def __init__(self, holder: Holder, number: int, thing: Thing, token: int, items: list[Item]) -> None:
        self.holder = holder
        self.number = number
        self.thing = thing
        #: Bigger than that of any lease before.
        self.token = token
        #: Those that were taken from a queue, or that of a variable.
        self.items = items


class Thing:
    """Base of all kinds. It is forgotten when it is idle and has no users."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.line: OrderedDict[Wait, None] = OrderedDict()
        self.leases: dict[Lease, None] = {}
        #: The holders for which it is remembered although it is idle.
        self.users: dict[Holder, None] = {}

    def idle(self) -> bool:
        """Nobody would notice if there were a new one in its place."""
        return not self.line and not self.leases


@final
class Permits(Thing):
    """A semaphore; a lock is one with a single permit."""

    def __init__(self, kind: str, name: str, limit: int) -> None:
        super().__init__(kind, name)
        self.limit = limit


@final
class Flag(Thing):
    """An event, set or not."""

    def __init__(self, name: str) -> None:
        super().__init__(EVENT, name)
        self.on = False

    def idle(self) -> bool:
        return not self.on and not self.line


@final
class Store(Thing):
    """A queue. Its leases are of items that were taken."""

    def __init__(self, name: str) -> None:
        super().__init__(QUEUE, name)
        #: How many items it may have; 0 for any number. Items that come back may be more.
        self.limit = 0
        self.closed = False
        self.items: deque[Item] = deque()
        #: Those who wait for a place to put something into.
        self.room: OrderedDict[Wait, None] = OrderedDict()
        #: The places that were granted and not filled yet.
        self.places: dict[Lease, None] = {}
        #: Items that were put for good, and that were taken for good.
        self.accepted = 0
        self.consumed = 0

    def idle(self) -> bool:
        return not self.items and not self.line and not self.leases and not self.room and not self.places

    def full(self) -> bool:
        return self.limit > 0 and len(self.items) + len(self.places) >= self.limit


@final
class Cell(Thing):
    """A variable. Its leases are of values on their way to somebody."""

    def __init__(self, name: str) -> None:
        super().__init__(VARIABLE, name)
        self.item: Item | None = None

    def idle(self) -> bool:
        return self.item is None and not self.line and not self.leases
