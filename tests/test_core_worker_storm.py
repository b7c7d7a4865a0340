"""The state of a worker under any order of events, against a tiny scheduler that checks what it says."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from treadle.core.worker import Job, WorkerState

KEYS = [f"k{n}" for n in range(8)]
PEERS = [(f"p{n}", f"host:{n}") for n in range(3)]


class World:
    """A worker, a scheduler that knows what it was told, and peers that answer as they are told to."""

    def __init__(self, nthreads: int) -> None:
        self.state = WorkerState(nthreads)
        self.state.on_functions([(1, "f", b"")])
        #: Key by attempt: those that are not over.
        self.open: dict[int, str] = {}
        self.attempts = 0
        self.cancelled: set[int] = set()
        self.recalled: set[int] = set()
        #: Keys that the worker holds, as it has said.
        self.held: set[str] = set()
        #: Keys that the worker has asked for.
        self.missing: set[str] = set()
        #: What was to be brought here to be kept.
        self.wanted: set[str] = set()
        self.executing: list[Job] = []
        #: Those that were away and wait for a thread.
        self.returning: list[Job] = []
        #: Ident and keys of requests that were not answered completely.
        self.requests: list[tuple[str, list[str]]] = []

    def settle(self) -> None:
        """Check the state, and what it has said."""
        self.state.sanity_check()
        self.state.take_garbage()
        for op, *fields in self.state.take_outbox():
            getattr(self, f"hear_{op}")(*fields)

    def hear_finished(self, rows: list[Any]) -> None:
        for attempt, nbytes, seconds, packed in rows:
            assert attempt not in self.cancelled
            self.held.add(self.open.pop(attempt))
            assert (nbytes, packed) == (1, None)
            assert seconds >= 0

    def hear_failed(self, attempt: int, seconds: float, error: str) -> None:
        assert attempt not in self.cancelled
        del self.open[attempt]
        assert error in ("raised", "unusable")

    def hear_returned(self, attempts: list[int]) -> None:
        for attempt in attempts:
            assert attempt in self.recalled
            del self.open[attempt]

    def hear_stopped(self, attempts: list[int]) -> None:
        for attempt in attempts:
            assert attempt in self.cancelled
            del self.open[attempt]

    def hear_acquired(self, rows: list[tuple[str, int]]) -> None:
        self.held.update(key for key, _ in rows)

    def hear_unusable(self, keys: list[str]) -> None:
        for key in keys:
            assert key in self.wanted
            assert key not in self.state.store
            assert key not in self.state.awaited

    def hear_seceded(self, attempts: list[int]) -> None:
        assert all(attempt in self.open for attempt in attempts)

    def hear_rejoined(self, attempts: list[int]) -> None:
        assert all(attempt in self.open for attempt in attempts)

    def hear_started(self, attempts: list[int]) -> None:
        assert all(attempt in self.open for attempt in attempts)

    def hear_missing(self, rows: list[tuple[str, str]]) -> None:
        for key, ident in rows:
            assert ident == "" or ident in dict(PEERS)
            assert key not in self.state.store
            self.missing.add(key)

    # What may happen. ``n`` decides what exactly.

    def run(self, n: int) -> None:
        target = n % len(KEYS)
        deps = [key for index, key in enumerate(KEYS[:target]) if n >> index & 1]
        where = [(key, 1, places(n >> 3)) for key in deps if key not in self.held and n & 64]
        self.attempts += 1
        self.open[self.attempts] = KEYS[target]
        flags = n >> 7 & 6
        self.state.on_run([(self.attempts, KEYS[target], n % 5, 1, b"", deps, flags)], where)
        self.missing.difference_update(key for key, _, found in where if found)

    def take(self, n: int) -> None:
        job = self.state.take()
        if job is not None:
            assert len(self.state.inputs(job)) == len(job.deps)
            self.executing.append(job)

    def take_away(self, n: int) -> None:
        for job in self.state.take_away():
            assert len(self.state.inputs(job)) == len(job.deps)
            self.executing.append(job)

    def secede(self, n: int) -> None:
        present = [job for job in self.executing if not job.away]
        if present:
            self.state.secede(present[n % len(present)])
            self.admit(n)

    def rejoin(self, n: int) -> None:
        away = [job for job in self.executing if job.away and job not in self.returning and not job.flags & 2]
        if away and not self.state.rejoin(away[n % len(away)]):
            self.returning.append(away[n % len(away)])
            self.executing.remove(away[n % len(away)])

    def admit(self, n: int) -> None:
        while (job := self.state.admit()) is not None:
            self.returning.remove(job)
            self.executing.append(job)

    def acquire(self, n: int) -> None:
        key = KEYS[n % len(KEYS)]
        found = places(n >> 3)
        self.wanted.add(key)
        if found:
            self.missing.discard(key)
        self.state.on_acquire([(key, 1, found)])

    def end(self, n: int) -> None:
        if self.executing:
            job = self.executing.pop(n % len(self.executing))
            if n & 256:
                self.state.on_failure(job, 0.1, "raised")
            else:
                self.state.on_success(job, job.key, 1, 0.1, None)
            self.admit(n)

    def fetch(self, n: int) -> None:
        for ident, address, keys in self.state.fetches():
            assert dict(PEERS)[ident] == address
            self.requests.append((ident, keys))

    def answer(self, n: int) -> None:
        if not self.requests:
            return
        ident, keys = self.requests.pop(n % len(self.requests))
        if n & 256:
            self.state.on_unreachable(ident, keys)
            return
        for key in keys:
            n = n >> 1 | n << 8 & 256
            if n & 3 == 0:
                self.state.on_not_held(ident, [key])
            elif n & 31 == 1:
                self.state.on_unusable(ident, key, "unusable")
            else:
                self.state.on_fetched(ident, [(key, key, 1)])
            self.settle()

    def where(self, n: int) -> None:
        if self.missing:
            key = sorted(self.missing)[n % len(self.missing)]
            found = places(n >> 3)
            if found:
                self.missing.remove(key)
            self.state.on_where([(key, 1, found)])

    def cancel(self, n: int) -> None:
        attempts = [attempt for attempt in range(1, self.attempts + 1) if n >> attempt % 10 & 1]
        self.cancelled.update(set(attempts) & set(self.open))
        self.state.on_cancel(attempts)

    def recall(self, n: int) -> None:
        attempts = [attempt for attempt in range(1, self.attempts + 1) if n >> attempt % 10 & 1]
        self.recalled.update(attempts)
        self.state.on_recall(attempts)

    def release(self, n: int) -> None:
        keys = [key for index, key in enumerate(KEYS) if n >> index & 1]
        self.held.difference_update(keys)
        self.state.on_release(keys)

    def remake(self, n: int) -> None:
        self.state.on_remake([(KEYS[n % len(KEYS)], n % 5, 1, b"")])

    def store(self, n: int) -> None:
        key = KEYS[n % len(KEYS)]
        self.held.add(key)
        self.state.on_stored([(key, key, 1)])

    def finish(self) -> None:
        """From now on all goes well: then everything ends."""
        for _ in range(1000):
            if (
                not self.open
                and not self.executing
                and not self.state.awaited
                and not self.requests
                and not self.state.ready
            ):
                break
            for action in (self.admit, self.take, self.take_away, self.end, self.fetch):
                action(0)
                self.settle()
            for ident, keys in self.requests:
                self.state.on_fetched(ident, [(key, key, 1) for key in keys])
            self.requests.clear()
            self.settle()
            self.state.on_where([(key, 1, PEERS[:1]) for key in sorted(self.missing)])
            self.missing.clear()
            self.settle()
        state = self.state
        assert (self.open, state.jobs, state.awaited) == ({}, {}, {})
        assert (state.ready, state.executing) == (0, 0)
        assert set(state.store) == self.held
        assert (state.fetching.peers, state.fetching.busy, state.fetching.nbytes) == ({}, 0, 0)


def places(n: int) -> list[tuple[str, str]]:
    return [place for index, place in enumerate(PEERS) if n >> index & 1]


ACTIONS = [
    World.run,
    World.take,
    World.end,
    World.fetch,
    World.answer,
    World.where,
    World.cancel,
    World.recall,
    World.release,
    World.remake,
    World.store,
    World.take_away,
    World.secede,
    World.rejoin,
    World.acquire,
]
#: The usual course of things is more frequent than what disturbs it.
STEP = st.tuples(st.sampled_from([*ACTIONS, *ACTIONS[:6], *ACTIONS[:5]]), st.integers(0, 1023))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.lists(STEP, max_size=60))
@example(1, [(World.acquire, 8), (World.fetch, 0), (World.answer, 2)])  # what is to be kept can never be had
def test_everything_ends_whatever_happens(nthreads: int, steps: list[tuple[Any, int]]) -> None:
    world = World(nthreads)
    for action, n in steps:
        action(world, n)
        world.settle()
    world.finish()
