"""The values that tasks of a worker wait for, and which of them to fetch next from whom.

A key is fetched once, however many tasks wait for it, from a holder that nothing is being fetched from at the moment.
What can come from the same holder goes into one request, the most urgent keys first.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from treadle.core.worker import Job

__all__ = ["ABSENT", "FETCHING", "GONE", "QUEUED", "Datum", "Fetching", "Peer", "Place"]

#: Ident and address of a process that holds a value.
Place = tuple[str, str]

#: The states of a value that is not held here; GONE once it is held, or nobody waits for it any more.
ABSENT: Final = 0
QUEUED: Final = 1
FETCHING: Final = 2
GONE: Final = 3

STATE_NAMES: Final = ["absent", "queued", "fetching", "gone"]

#: How many peers are asked at the same time: enough to fill the network, too few to overrun this process.
MAX_PEERS: Final = 8
#: No request starts while so many bytes are on their way.
MAX_BYTES: Final = 64 << 20
#: One request asks for no more than so many keys, and for no more bytes, unless one value alone has more.
MAX_BATCH_KEYS: Final = 1024
MAX_BATCH_BYTES: Final = 16 << 20


@final
class Datum:
    """A value that is not held here: what is known about it, and who waits for it."""

    def __init__(self, key: str) -> None:
        self.key: Final = key
        self.state: int = ABSENT
        #: Its size, as the scheduler believes.
        self.nbytes: int = 0
        #: The tasks that wait for it. Those that were dropped meanwhile are still in the list, but not counted.
        self.waiters: list[Job] = []
        self.waiting: int = 0
        #: It is to be fetched and kept even if none does.
        self.keep: bool = False
        #: Where it can be fetched from, and who had to be crossed out since the scheduler last said.
        self.places: list[Place] = []
        self.failed: list[str] = []
        #: If absent: the scheduler was told, and its answer is yet to come.
        self.asked: bool = False
        #: If absent: the job that makes it again here.
        self.remake: Job | None = None
        #: The order of the most urgent task that waits for it.
        self.order: int = 0
        #: Tells entries of heaps that are still valid from older ones.
        self.serial: int = 0
        #: If fetching: from whom.
        self.source: str = ""

    def __repr__(self) -> str:
        where = f" from {self.source}" if self.state == FETCHING else ""
        return f"<Datum {self.key!r} {STATE_NAMES[self.state]}{where}, {self.waiting} wait>"


@final
class Peer:
    """A process from which something is to be fetched."""

    def __init__(self, ident: str, address: str) -> None:
        self.ident: Final = ident
        self.address: str = address
        #: Order, serial and datum of what it could give: a heap. Entries of data that are not queued any more, or were
        #: queued again, are skipped.
        self.heap: list[tuple[int, int, Datum]] = []
        #: How many entries of the heap are valid.
        self.live: int = 0
        #: What was asked for and has not come yet: bytes by key.
        self.asked: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Peer {self.ident} at {self.address}: {len(self.asked)} keys on their way, {self.live} queued>"

    def first(self) -> Datum | None:
        """The most urgent value that it could give."""
        heap = self.heap
        while heap:
            entry = heap[0]
            datum = entry[2]
            if datum.state == QUEUED and datum.serial == entry[1]:
                return datum
            heappop(heap)
        return None

    def compact(self) -> None:
        """Drop the entries that are not valid, if they are most of the heap."""
        heap = self.heap
        if len(heap) > 2 * self.live + 16:
            kept: list[tuple[int, int, Datum]] = []
            for entry in heap:
                if entry[2].state == QUEUED and entry[2].serial == entry[1]:
                    kept.append(entry)
            heapify(kept)
            self.heap = kept


@final
class Fetching:
    """What is to be fetched, and what is on its way."""

    def __init__(self) -> None:
        #: The processes from which something is to be fetched, or is being fetched, by ident.
        self.peers: dict[str, Peer] = {}
        #: Order of the most urgent value, serial, and peer, of peers that nothing is on its way from: a heap. Some
        #: entries are of peers that meanwhile became busy or have something else to give.
        self.idle: list[tuple[int, int, Peer]] = []
        self.serial: int = 0
        #: How many peers, and how many bytes, are asked for.
        self.busy: int = 0
        self.nbytes: int = 0

    def __repr__(self) -> str:
        return f"<Fetching {self.nbytes} bytes from {self.busy} of {len(self.peers)} peers>"

    def enqueue(self, datum: Datum) -> None:
        """Fetch an absent value, whose places are known, when its turn comes; or move its turn, if it is queued."""
        if datum.state == QUEUED:
            self.withdraw(datum)
        datum.state = QUEUED
        self.serial += 1
        datum.serial = serial = self.serial
        order = datum.order
        places = datum.places
        count = len(places)
        for offset in range(count):
            # Not always the first one first: many workers may have been told the same places.
            place = places[(serial + offset) % count]
            peer = self.peers.get(place[0])
            if peer is None:
                peer = Peer(place[0], place[1])
                self.peers[place[0]] = peer
            peer.address = place[1]
            peer.live += 1
            heappush(peer.heap, (order, serial, datum))
            if not peer.asked and peer.heap[0][2] is datum:
                self.offer(peer, order)

    def withdraw(self, datum: Datum) -> None:
        """Take a queued value out of the queue, whatever becomes of it."""
        datum.state = ABSENT
        for place in datum.places:
            peer = self.peers[place[0]]
            peer.live -= 1
            if peer.live == 0 and not peer.asked:
                del self.peers[place[0]]
            else:
                peer.compact()

    def offer(self, peer: Peer, order: int) -> None:
        self.serial += 1
        heappush(self.idle, (order, self.serial, peer))

    def start(self) -> list[tuple[str, str, list[str]]]:
        """What is to be asked: ident, address, keys."""
        requests: list[tuple[str, str, list[str]]] = []
        while self.idle and self.busy < MAX_PEERS and self.nbytes < MAX_BYTES:
            entry = heappop(self.idle)
            peer = entry[2]
            if peer.asked or self.peers.get(peer.ident) is not peer:
                continue
            first = peer.first()
            if first is None:
                continue
            if first.order > entry[0]:
                self.offer(peer, first.order)  # what was more urgent has been taken from somebody else
                continue
            requests.append((peer.ident, peer.address, self.ask(peer)))
        return requests

    def ask(self, peer: Peer) -> list[str]:
        """The keys of one request to an idle peer."""
        keys: list[str] = []
        total = 0
        self.busy += 1
        while len(keys) < MAX_BATCH_KEYS:
            datum = peer.first()
            if datum is None or (keys and total + datum.nbytes > MAX_BATCH_BYTES):
                break
            heappop(peer.heap)
            keys.append(datum.key)
            total += datum.nbytes
            peer.asked[datum.key] = datum.nbytes
            self.withdraw(datum)
            datum.state = FETCHING
            datum.source = peer.ident
        self.nbytes += total
        return keys

    def settle(self, ident: str, key: str) -> bool:
        """An answer about a key has come from a peer. False if it was not asked for it."""
        peer = self.peers.get(ident)
        if peer is None or key not in peer.asked:
            return False
        self.nbytes -= peer.asked.pop(key)
        if not peer.asked:
            self.busy -= 1
            first = peer.first()
            if first is not None:
                self.offer(peer, first.order)
            elif peer.live == 0:
                del self.peers[ident]
        return True

    def queued_at(self, ident: str) -> list[Datum]:
        """The values that are queued and that the peer could give."""
        peer = self.peers.get(ident)
        found: list[Datum] = []
        if peer is not None:
            for entry in peer.heap:
                if entry[2].state == QUEUED and entry[2].serial == entry[1]:
                    found.append(entry[2])
        return found
