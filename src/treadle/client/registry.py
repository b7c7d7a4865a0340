"""What a client knows of its futures: which keys it wants, and what it has to tell the scheduler. No sockets.

A key may have several futures, made by submissions of the same pure task. They are held weakly: when the last one is
gone, the key is released. A future that goes may do so anywhere, in any thread, inside of any other call; so all that
it does is to leave its key in ``gone``, which needs no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from threading import Lock
from typing import Any, TypeAlias
from weakref import ref

from treadle.client.fences import Fences
from treadle.client.future import FINISHED, PENDING, Failure, Future, Place
from treadle.client.outbox import Options, Outbox, Row

__all__ = ["Registry", "Unsettled"]

#: Futures that somebody may watch by the standard library's means, and what has become of them.
Unsettled: TypeAlias = "list[tuple[Future[Any], Any]]"


class Registry:
    """The futures of one client by key, and its outbox. Everything but ``gone`` is used with ``lock`` held."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.outbox = Outbox()
        self.futures: dict[str, list[ref[Future[Any]]] | ref[Future[Any]]] = {}
        self.gone: deque[str] = deque()
        self.fences = Fences()
        #: Results that are being fetched, and from where. What arrives for a key that was released meanwhile is old.
        self.fetching: dict[str, Place] = {}
        #: Futures that were cancelled and whose tasks may not have stopped, by key: for each answer that is to come,
        #: the fence after the cancellation, and the futures. It is old news for later futures of the key.
        self.cancelling: dict[str, list[tuple[int, list[ref[Future[Any]]]]]] = {}

    def __repr__(self) -> str:
        return f"<Registry of {len(self.futures)} keys>"

    def of(self, key: str) -> list[Future[Any]]:
        """The futures of a key."""
        entry = self.futures.get(key)
        if entry is None:
            return []
        if isinstance(entry, list):
            found = [each() for each in entry]
            return [future for future in found if future is not None and not future._released]
        future = entry()
        return [] if future is None or future._released else [future]

    # In

    def submit(self, futures: Sequence[Future[Any]], rows: Sequence[Row], options: Options, linked: bool) -> None:
        """Take new tasks, and the futures of their results.

        :param linked: whether one of the rows has dependencies.
        """
        known = self.futures
        keys = [future.key for future in futures]
        self._guard(keys)
        into = self.outbox.open(options, linked)
        if known.keys().isdisjoint(keys) and len(set(keys)) == len(keys):
            known.update(zip(keys, map(ref, futures)))
            into.extend(rows)
            return
        for future, row in zip(futures, rows):
            if not self.join(future):
                # To join may have sent releases, which have to come between the tasks before and this one.
                self.outbox.open(options, linked).append(row)

    def submit_one(self, future: Future[Any], row: Row, options: Options) -> None:
        key = future.key
        if key in self.futures:
            if self.join(future):
                return
        else:
            self._guard((key,))
            self.futures[key] = ref(future)
        self.outbox.open(options, bool(row[3])).append(row)

    def join(self, future: Future[Any]) -> bool:
        """Add a future to those of its key. True if the task is known and wanted already."""
        key = future.key
        twins = self.of(key)
        if not twins:
            if key in self.futures:  # those that wanted it have gone just now, and perhaps have not said so
                dropped = self.sweep()
                if self.futures.pop(key, None) is not None:
                    dropped.append(key)
                self.release(dropped)
            self._guard((key,))
            self.futures[key] = ref(future)
            return False
        self.futures[key] = [*map(ref, twins), ref(future)]
        twin = twins[0]
        if twin._state == FINISHED:
            future._result, future._exception, future._held = twin._result, twin._exception, twin._held
            future._traceback = twin._traceback
            future._state = FINISHED
        return True

    def sweep(self) -> list[str]:
        """Forget the keys whose futures have all gone. Returns them: they are to be released."""
        gone, futures = self.gone, self.futures
        dropped: list[str] = []
        while gone:
            key = gone.popleft()
            entry = futures.get(key)
            if entry is None:
                continue
            if type(entry) is ref and entry() is None:
                del futures[key]
                dropped.append(key)
                continue
            alive = self.of(key)
            if not alive:
                del self.futures[key]
                dropped.append(key)
            elif isinstance(entry, list):
                self.futures[key] = [ref(future) for future in alive]
        return dropped

    def take(self, releases: bool = True) -> list[tuple[Any, ...]]:
        """The messages that are to be sent now.

        :param releases: of the keys whose futures have gone, too.
        """
        if releases and self.gone:
            self.tidy()
        return self.outbox.take()

    def tidy(self) -> None:
        """Release the keys whose futures have all gone."""
        dropped = self.sweep()
        if dropped:
            self.release(dropped)

    def release(self, keys: list[str]) -> None:
        """Want these no more: they have no futures."""
        self.outbox.add("release", keys)
        self._close_off(keys)

    def _close_off(self, keys: list[str]) -> None:
        """What is said of these is old from now on."""
        if self.fetching:
            for key in keys:
                self.fetching.pop(key, None)
        if self.fences.release(keys):
            self._fence()

    def _guard(self, keys: Collection[str]) -> None:
        """These are about to be asked for, perhaps again: if they were released, a fence has to come between."""
        fences = self.fences
        if fences.released and not fences.released.isdisjoint(keys):
            self._fence()
        if fences.sent:
            fences.use(keys)

    def _fence(self) -> None:
        """Have the scheduler say, among its news, when it has read all that was said so far."""
        self.outbox.add("fence", self.fences.send())

    # Out

    def done(self, rows: Iterable[tuple[str, int, bytes | None, str, str]]) -> tuple[Unsettled, list[str]]:
        """Take results, or the places of results.

        :returns: futures that have to be settled without the lock, and keys that were done before.
        """
        known = self.futures
        stale = self.fences.stale
        later: Unsettled = []
        moved: list[str] = []
        for key, nbytes, packed, worker, address in rows:
            entry = known.get(key)
            if entry is None or (stale and key in stale):
                continue
            held: Any = Place(nbytes, worker, address) if packed is None else packed
            for each in entry if isinstance(entry, list) else (entry,):
                future = each()
                if future is None:
                    continue
                if future._state == PENDING:
                    future._worker = worker
                    if future._monitor is None:
                        future._held = held
                        future._state = FINISHED
                        if future._watch:
                            future._changed()
                    else:
                        later.append((future, held))
                elif type(future._held) is Place:
                    future._held = held
                    moved.append(key)
                    if packed is not None:
                        future._changed()
                elif future._failed():  # somebody had it tried again, with success
                    future._renew()
                    future._worker = worker
                    future._take(held)
        return later, moved

    def started(self, keys: Iterable[str]) -> None:
        """These are being executed now."""
        for key in keys:
            if key not in self.fences.stale:
                for future in self.of(key):
                    future._running = True

    def failed(self, rows: Iterable[tuple[str, str, Any]]) -> Unsettled:
        """Take errors. Returns futures that have to be settled without the lock."""
        later: Unsettled = []
        for key, culprit, error in rows:
            if key in self.fences.stale:
                continue
            cancelled = error[0] == "cancelled"
            failure = None if cancelled else Failure(culprit, error)
            for future in self.of(key):
                if cancelled:
                    future._reason = error[2]
                self._settle(future, failure, later)
        return later

    def retry(self, futures: Iterable[Future[Any]]) -> None:
        """Have what has failed tried again."""
        keys: list[str] = []
        for key in dict.fromkeys(future.key for future in futures):
            twins = [future for future in self.of(key) if future._failed()]
            for future in twins:
                future._renew()
            if twins:
                keys.append(key)
        if keys:
            self.outbox.add("retry", keys)

    def _settle(self, future: Future[Any], held: Any, later: Unsettled) -> None:
        if future._state == PENDING:
            if future._monitor is None:
                future._take(held)
            else:
                later.append((future, held))
        elif type(future._held) is Place:
            future._take(held)  # it was done, but the result was lost before it was fetched

    def arrived(self, key: str, held: Any) -> None:
        """A result was fetched."""
        for future in self.of(key):
            if type(future._held) is Place:
                future._held = held
                future._changed()

    def cancelled(self, keys: Iterable[str], reason: str = "") -> Unsettled:
        """The scheduler has cancelled these. Returns futures that have to be settled without the lock."""
        later: Unsettled = []
        dropped: list[str] = []
        for key in keys:
            if self._answers(key) or key in self.fences.stale or key not in self.futures:
                continue
            for future in self.of(key):
                if reason:
                    future._reason = f"{key!r} was cancelled: {reason}"
                self._settle(future, None, later)
            del self.futures[key]
            dropped.append(key)
        if dropped:
            self.release(dropped)  # they may have been wanted once more while this was on its way
        return later

    def _answers(self, key: str) -> bool:
        """Take the news that a key is cancelled as the answer to a cancellation. False if it cannot be one."""
        answers = self.cancelling.get(key)
        # One that was sent before the fence that precedes the cancellation was sent before it was known.
        if answers is None or answers[0][0] > self.fences.passed + 1:
            return False
        _, futures = answers.pop(0)
        self._stopped(futures)
        if not answers:
            del self.cancelling[key]
        return True

    def _stopped(self, cancelled: list[ref[Future[Any]]]) -> None:
        for each in cancelled:
            future = each()
            if future is not None:
                future._stopping = False
                future._changed()

    def cancel(self, keys: Iterable[str], force: bool = False, reason: str = "") -> Unsettled:
        """Cancel all futures of some keys that are not done. Returns those to be settled without the lock.

        :param force: also for other clients.
        """
        later: Unsettled = []
        dropped: list[str] = []
        for key in keys:
            futures = [future for future in self.of(key) if future._state == PENDING]
            if futures:
                for future in futures:
                    future._stopping = True
                    future._reason = reason
                    self._settle(future, None, later)
                del self.futures[key]
                self.cancelling.setdefault(key, []).append((self.fences.last + 1, list(map(ref, futures))))
                dropped.append(key)
        if dropped:
            self.outbox.add("cancel", dropped, *([True] if force else []))
            self._close_off(dropped)
            self._fence()
        return later

    def end(self, error: BaseException | None) -> Unsettled:
        """Nothing more will come: what is pending fails with ``error``, or is cancelled.

        :returns: futures that have to be settled without the lock.
        """
        later: Unsettled = []
        for key in list(self.futures):
            for future in self.of(key):
                if future._state == PENDING or type(future._held) is Place:
                    self._settle(future, error, later)
        for answers in self.cancelling.values():
            for _, futures in answers:
                self._stopped(futures)
        self.cancelling.clear()
        self.fences.clear()
        self.futures.clear()
        self.gone.clear()
        self.outbox = Outbox()
        return later
