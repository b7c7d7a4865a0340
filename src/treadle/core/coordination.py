"""Locks, semaphores, events, queues and variables of clients that may die or fall silent at any time.

One ``on_<event>`` method for each thing that can happen. What is to be said is appended to ``answers`` and ``lost``,
and which results have to be kept for values on their way to ``kept`` and ``dropped``; the caller takes all of these.

Whatever somebody holds is a lease, named by its holder and the number of the inquiry that it was granted to. So a wait
that was given up is undone by its number, whether or not it had been granted meanwhile. A holder that is gone, or has
said nothing for ``lease`` seconds, loses everything at once: permits go to the next in line, items back to the front.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, final

from treadle.core.coordinated import (
    EVENT,
    QUEUE,
    SEMAPHORE,
    VARIABLE,
    Cell,
    Flag,
    Holder,
    Item,
    Lease,
    Permits,
    Store,
    Thing,
    Wait,
)
from treadle.errors import UserError

__all__ = ["AGAIN", "BUSY", "CLOSED", "GRANTED", "LOST", "Coordination"]

# How an inquiry ends.
GRANTED: Final = "granted"
#: It would have to wait, and did not want to.
BUSY: Final = "busy"
CLOSED: Final = "closed"
#: The place that a value was to be put into was lost.
LOST: Final = "lost"
#: The holder was silent for so long that it has lost its place in the line.
AGAIN: Final = "again"

#: How many puts, and how many takings, of each holder can be undone.
UNDO: Final = 8


@final
class Coordination:
    """
    :param lease: seconds of silence after which a holder loses what it holds.
    """

    def __init__(self, lease: float) -> None:
        self.lease: Final = lease
        self.holders: Final[dict[str, Holder]] = {}
        self.things: Final[dict[tuple[str, str], Thing]] = {}
        #: The last one that was given out.
        self.token = 0
        #: How many leases there are.
        self.leased = 0
        #: Holder, number of the inquiry, how it ends.
        self.answers: Final[list[tuple[str, int, list[Any]]]] = []
        #: Leases that were lost to silence: holder, number.
        self.lost: Final[list[tuple[str, int]]] = []
        #: Keys of results that a value refers to: each is dropped as often as it was kept.
        self.kept: Final[list[str]] = []
        self.dropped: Final[list[str]] = []

    # Permits

    def on_acquire(self, ident: str, number: int, kind: str, name: str, limit: int, wait: bool, now: float) -> None:
        """A client wants a lock, or one of ``limit`` permits of a semaphore.

        :raises UserError: the semaphore has another number of permits.
        """
        holder = self._holder(ident, number, now)
        thing = self.things.get((kind, name))
        if thing is None:
            thing = self.things[kind, name] = Permits(kind, name, limit)
        assert isinstance(thing, Permits)
        if thing.limit != limit:
            raise UserError(
                f"the semaphore {name!r} has max_leases={thing.limit}, and here it is said to have {limit}; "
                "use the same number everywhere, or another name"
            )
        if kind == SEMAPHORE:
            self._use(holder, thing)
        self._wait(Wait(holder, number, thing, thing.line, 0), wait, now)

    def held(self, kind: str, name: str) -> int:
        """How many permits of a lock or a semaphore are held."""
        thing = self.things.get((kind, name))
        return 0 if thing is None else len(thing.leases)

    # Events

    def on_wait(self, ident: str, number: int, name: str, now: float) -> None:
        """A client waits until an event is set."""
        holder = self._holder(ident, number, now)
        flag = self._flag(name)
        self._wait(Wait(holder, number, flag, flag.line, 0), True, now)

    def on_set(self, name: str, on: bool, now: float) -> None:
        """An event is set, or cleared."""
        flag = self._flag(name)
        flag.on = on
        self._admit(flag, now)
        self._tidy(flag)

    def is_set(self, name: str) -> bool:
        flag = self.things.get((EVENT, name))
        return isinstance(flag, Flag) and flag.on

    # Queues

    def on_reserve(self, ident: str, number: int, name: str, limit: int, now: float) -> None:
        """A client waits for a place in a queue.

        :raises UserError: the queue has another size.
        """
        holder = self._holder(ident, number, now)
        store = self._store(holder, name, limit)
        self._wait(Wait(holder, number, store, store.room, 0), True, now)

    def on_put(
        self, ident: str, number: int, name: str, limit: int, data: bytes, keys: list[str], place: int, now: float
    ) -> None:
        """A client puts an item into a queue. Once that is granted, the item stays until it was taken for good.

        :param place: the number of the reservation of a place; 0 for an item that is to be put now or not at all.
        :raises UserError: the queue has another size.
        """
        holder = self._holder(ident, number, now)
        store = self._store(holder, name, limit)
        lease = holder.leases.get(place) if place else None
        if lease is not None and lease in store.places:
            self._forget(lease)
        elif place:
            self._answer(holder, number, LOST)
            return
        elif not store.closed and (store.room or store.full()):
            self._answer(holder, number, BUSY)
            return
        if store.closed:
            self._answer(holder, number, CLOSED)
            return
        item = Item(data, keys)
        self._keep(item)
        store.items.append(item)
        store.accepted += 1
        holder.puts[number] = (store, item)
        if len(holder.puts) > UNDO:
            holder.puts.popitem(last=False)
        self._answer(holder, number, GRANTED)
        self._admit(store, now)

    def on_take(self, ident: str, number: int, name: str, limit: int, count: int, wait: bool, now: float) -> None:
        """A client wants the first items of a queue, as many as there are, at least one and at most ``count``.

        :raises UserError: the queue has another size.
        """
        holder = self._holder(ident, number, now)
        store = self._store(holder, name, limit)
        self._wait(Wait(holder, number, store, store.line, count), wait, now)

    def on_close_queue(self, ident: str, name: str, now: float) -> None:
        """Nothing more is put into a queue. What is in it can still be taken."""
        store = self._store(self._known(ident, now), name, 0)
        store.closed = True
        self._admit(store, now)

    def size(self, name: str) -> tuple[int, int]:
        """How many items wait in a queue, and how many there may be (0 for any number)."""
        store = self.things.get((QUEUE, name))
        return (len(store.items), store.limit) if isinstance(store, Store) else (0, 0)

    # Variables

    def on_assign(self, name: str, data: bytes, keys: list[str], now: float) -> None:
        """A variable is given a value."""
        cell = self._cell(name)
        item = Item(data, keys)
        self._keep(item)
        if cell.item is not None:
            self._drop(cell.item)
        cell.item = item
        self._admit(cell, now)

    def on_read(self, ident: str, number: int, name: str, wait: bool, now: float) -> None:
        """A client wants the value of a variable. A value that refers to results is leased until it has arrived."""
        holder = self._holder(ident, number, now)
        cell = self._cell(name)
        self._wait(Wait(holder, number, cell, cell.line, 0), wait, now)

    def on_delete(self, name: str) -> None:
        """A variable has no value any more."""
        cell = self._cell(name)
        if cell.item is not None:
            self._drop(cell.item)
            cell.item = None
        self._tidy(cell)

    # Leases

    def on_release(self, ident: str, number: int, consumed: bool, now: float) -> bool:
        """A holder gives back what it holds.

        :param consumed: items are taken for good; otherwise they return to the front of their queue.
        :returns: False if it holds that no longer.
        """
        holder = self._known(ident, now)
        lease = holder.leases.get(number)
        if lease is None:
            return False
        self._end(lease, consumed)
        self._admit(lease.thing, now)
        self._tidy(lease.thing)
        return True

    def on_renew(self, ident: str, now: float) -> None:
        """A sign of life."""
        self._known(ident, now)

    def on_withdrawn(self, ident: str, number: int, now: float) -> None:
        """An inquiry was given up: what it had been granted is given back, what it had put is taken out again.

        So are items that were taken for good with its lease just now, if nobody has got to see them.
        """
        holder = self.holders.get(ident)
        if holder is None:
            return
        wait = holder.waits.get(number)
        lease = holder.leases.get(number)
        put = holder.puts.pop(number, None)
        taken = holder.taken.pop(number, None)
        if wait is not None:
            self._leave(wait)
            self._admit(wait.thing, now)
            self._tidy(wait.thing)
        elif lease is not None:
            self.on_release(ident, number, False, now)
        elif put is not None:
            self._take_out(put[0], put[1], now)
        elif taken is not None:
            self._put_back(taken[0], taken[1], now)

    def on_gone(self, ident: str, now: float) -> None:
        """The connection to a holder has ended."""
        holder = self.holders.pop(ident, None)
        if holder is None:
            return
        touched = self._strip(holder)
        for thing in holder.uses:
            del thing.users[holder]
            touched[thing] = None
        self._settle(touched, now)

    def tick(self, now: float) -> None:
        """Take from those that were silent for too long what they hold."""
        touched: dict[Thing, None] = {}
        for holder in list(self.holders.values()):
            if holder.leases and holder.deadline <= now:
                for number in holder.leases:
                    self.lost.append((holder.ident, number))
                for number in holder.waits:
                    self._answer(holder, number, AGAIN)
                touched.update(self._strip(holder))
        self._settle(touched, now)

    def forgive(self, seconds: float) -> None:
        """It was the caller who was stopped for so long: nobody can be blamed for silence."""
        for holder in self.holders.values():
            holder.deadline += seconds

    # Within

    def _known(self, ident: str, now: float) -> Holder:
        holder = self.holders.get(ident)
        if holder is None:
            holder = self.holders[ident] = Holder(ident)
        holder.deadline = now + self.lease
        return holder

    def _holder(self, ident: str, number: int, now: float) -> Holder:
        holder = self._known(ident, now)
        if number in holder.leases or number in holder.waits:
            raise UserError(f"the number {number} is that of an earlier inquiry, which is not over")
        return holder

    def _flag(self, name: str) -> Flag:
        thing = self.things.get((EVENT, name))
        if thing is None:
            thing = self.things[EVENT, name] = Flag(name)
        assert isinstance(thing, Flag)
        return thing

    def _cell(self, name: str) -> Cell:
        thing = self.things.get((VARIABLE, name))
        if thing is None:
            thing = self.things[VARIABLE, name] = Cell(name)
        assert isinstance(thing, Cell)
        return thing

    def _store(self, holder: Holder, name: str, limit: int) -> Store:
        """A queue. The first that says a limit decides; 0 leaves it as it is."""
        thing = self.things.get((QUEUE, name))
        if thing is None:
            thing = self.things[QUEUE, name] = Store(name)
        assert isinstance(thing, Store)
        if limit and thing.limit and limit != thing.limit:
            raise UserError(
                f"the queue {name!r} has maxsize={thing.limit}, and here it is said to have {limit}; "
                "use the same number everywhere (or none: then it is as it is), or another name"
            )
        if limit:
            thing.limit = limit
        self._use(holder, thing)
        return thing

    def _use(self, holder: Holder, thing: Thing) -> None:
        holder.uses[thing] = None
        thing.users[holder] = None

    def _answer(self, holder: Holder, number: int, how: str) -> None:
        self.answers.append((holder.ident, number, [how]))

    def _wait(self, wait: Wait, patient: bool, now: float) -> None:
        """Let somebody in, or into the line, or send it away."""
        wait.line[wait] = None
        wait.holder.waits[wait.number] = wait
        self._admit(wait.thing, now)
        if not patient and wait in wait.line:
            self._leave(wait)
            self._answer(wait.holder, wait.number, BUSY)
            self._tidy(wait.thing)

    def _leave(self, wait: Wait) -> None:
        del wait.line[wait]
        del wait.holder.waits[wait.number]

    def _admit(self, thing: Thing, now: float) -> None:
        """Serve those in line, as far as that is possible now."""
        if isinstance(thing, Permits):
            while thing.line and len(thing.leases) < thing.limit:
                self._grant(_first(thing.line), [], now)
        elif isinstance(thing, Flag):
            while thing.on and thing.line:
                self._let_go(_first(thing.line), GRANTED)
        elif isinstance(thing, Cell):
            while thing.item is not None and thing.line:
                self._show(_first(thing.line), thing.item, now)
        elif isinstance(thing, Store):
            self._serve(thing, now)

    def _serve(self, store: Store, now: float) -> None:
        while store.line and store.items:
            wait = _first(store.line)
            count = min(wait.count, len(store.items))
            self._grant(wait, [store.items.popleft() for _ in range(count)], now)
        while store.room and (store.closed or not store.full()):
            wait = _first(store.room)
            if store.closed:
                self._let_go(wait, CLOSED)
            else:
                self._grant(wait, [], now)
        while store.closed and store.line and not store.leases:  # those that are leased may come back
            self._let_go(_first(store.line), CLOSED)

    def _let_go(self, wait: Wait, how: str) -> None:
        self._leave(wait)
        self._answer(wait.holder, wait.number, how)

    def _show(self, wait: Wait, item: Item, now: float) -> None:
        if item.keys:
            item.uses += 1
            self._grant(wait, [item], now)
        else:
            self._leave(wait)
            self.answers.append((wait.holder.ident, wait.number, [GRANTED, 0, self.lease, [(item.data, item.keys)]]))

    def _grant(self, wait: Wait, items: list[Item], now: float) -> None:
        holder = wait.holder
        thing = wait.thing
        self._leave(wait)
        self.token += 1
        self.leased += 1
        lease = Lease(holder, wait.number, thing, self.token, items)
        if not holder.leases:
            holder.deadline = now + self.lease
        holder.leases[wait.number] = lease
        if isinstance(thing, Store) and not items:
            thing.places[lease] = None
        else:
            thing.leases[lease] = None
        rows = [(item.data, item.keys) for item in items]
        self.answers.append((holder.ident, wait.number, [GRANTED, self.token, self.lease, rows]))

    def _forget(self, lease: Lease) -> None:
        """A lease is no more. What becomes of its items is left to the caller."""
        thing = lease.thing
        self.leased -= 1
        del lease.holder.leases[lease.number]
        if isinstance(thing, Store) and lease in thing.places:
            del thing.places[lease]
        else:
            del thing.leases[lease]

    def _end(self, lease: Lease, consumed: bool) -> None:
        self._forget(lease)
        thing = lease.thing
        if isinstance(thing, Store) and not consumed:
            thing.items.extendleft(reversed(lease.items))
            return
        for item in lease.items:
            self._drop(item)
        if isinstance(thing, Store):
            thing.consumed += len(lease.items)
            taken = lease.holder.taken
            taken[lease.number] = (thing, lease.items)
            if len(taken) > UNDO:
                taken.popitem(last=False)

    def _strip(self, holder: Holder) -> dict[Thing, None]:
        """Take from a holder all that it holds and waits for. Returns what it was."""
        touched: dict[Thing, None] = {}
        for wait in list(holder.waits.values()):
            self._leave(wait)
            touched[wait.thing] = None
        for lease in reversed(list(holder.leases.values())):  # so that items come back in their order
            self._end(lease, False)
            touched[lease.thing] = None
        return touched

    def _settle(self, touched: dict[Thing, None], now: float) -> None:
        for thing in touched:
            self._admit(thing, now)
            self._tidy(thing)

    def _put_back(self, store: Store, items: list[Item], now: float) -> None:
        for item in items:
            self._keep(item)
        store.consumed -= len(items)
        store.items.extendleft(reversed(items))
        self._admit(store, now)

    def _take_out(self, store: Store, item: Item, now: float) -> None:
        if item in store.items:
            store.items.remove(item)
            store.accepted -= 1
            self._drop(item)
            self._admit(store, now)

    def _keep(self, item: Item) -> None:
        item.uses = 1
        self.kept.extend(item.keys)

    def _drop(self, item: Item) -> None:
        item.uses -= 1
        if item.uses == 0:
            self.dropped.extend(item.keys)

    def _tidy(self, thing: Thing) -> None:
        if thing.idle() and not thing.users:
            self.things.pop((thing.kind, thing.name), None)


def _first(line: OrderedDict[Wait, None]) -> Wait:
    return next(iter(line))
