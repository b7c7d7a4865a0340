"""The invariants of a worker's state, for tests: checked in time proportional to all that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle.core.worker import ASYNCHRONOUS, CANCELLED, EXECUTING, OVER, READY, WAITING
from treadle.core.worker_data import ABSENT, FETCHING, GONE, QUEUED
from treadle.errors import InternalError

if TYPE_CHECKING:
    from treadle.core.worker import WorkerState
    from treadle.core.worker_data import Datum, Fetching

__all__ = ["check_worker"]


def check_worker(state: WorkerState) -> None:
    """:raises InternalError: an invariant does not hold."""
    executing = 0
    for attempt, job in state.jobs.items():
        _check(attempt == job.attempt and 0 < attempt <= state.last_attempt, "jobs are found by attempt", job)
        _check(job.state != OVER, "what is over is forgotten", job)
        lacking = 0
        for datum in job.awaited:
            if datum.state != GONE:
                lacking += 1
                _check(job in datum.waiters, "who waits for a value is among its waiters", job)
        _check(job.lacking == lacking, "lacking counts the inputs to come", job)
        _check((job.state == WAITING) == (lacking > 0), "a job waits while it lacks inputs", job)
        executing += job.state in (EXECUTING, CANCELLED) and not job.away
        _check(not job.away or job.state in (EXECUTING, CANCELLED), "only what has started is away", job)
    _check(executing <= state.executing <= state.nthreads, "executing counts the occupied threads", state)
    ready = sum(entry[2].state == READY for entry in state.heap)
    _check(ready == state.ready, "ready counts the ready jobs, which are in the heap", state)
    away = {id(job) for job in state.ready_away}
    for job in state.jobs.values():
        if job.state == READY and job.flags & ASYNCHRONOUS:
            _check(id(job) in away, "an asynchronous job that is ready can be taken", job)
    for _, _, job in state.returning:
        _check(job.away, "what returns is away", job)
    _check(not state.returning or state.executing == state.nthreads, "nobody waits for a free thread", state)
    _check(sum(held[1] for held in state.store.values()) == state.held_bytes, "held_bytes sums up the store", state)
    for key, datum in state.awaited.items():
        _check(key == datum.key and key not in state.store, "what is held is not awaited", datum)
        _check_awaited(datum)
    _check_fetching(state.fetching, state.awaited)
    _check(state.finished is None or state.outbox[-1][1] is state.finished, "rows go to the last message", state)


def _check_awaited(datum: Datum) -> None:
    _check(datum.state != GONE, "a value that is gone is not awaited", datum)
    waiting = sum(job.state == WAITING for job in datum.waiters)
    _check(datum.waiting == waiting, "waiting counts the tasks that wait", datum)
    remake = datum.remake
    wanted = waiting > 0 or datum.keep
    _check(wanted or datum.state == FETCHING or remake is not None, "nothing is awaited by nobody", datum)
    if remake is not None:
        _check(datum.state == ABSENT, "what is made here is not fetched", datum)
        _check(remake.state in (READY, EXECUTING), "a remake is ready or executing", datum)
    elif datum.state == ABSENT:
        _check(datum.asked and not datum.places, "a value is queued if it has a place, else asked for", datum)


def _check_fetching(fetching: Fetching, awaited: dict[str, Datum]) -> None:
    live: dict[str, int] = {}
    for datum in awaited.values():
        if datum.state == QUEUED:
            _check(len(datum.places) > 0, "a queued value has a place", datum)
            for ident, _ in datum.places:
                live[ident] = live.get(ident, 0) + 1
        elif datum.state == FETCHING:
            source = fetching.peers.get(datum.source)
            _check(source is not None and datum.key in source.asked, "a value being fetched was asked for", datum)
    offered = {entry[2].ident for entry in fetching.idle if fetching.peers.get(entry[2].ident) is entry[2]}
    for ident, peer in fetching.peers.items():
        _check(peer.live == live.pop(ident, 0), "live counts the queued values of a peer", peer)
        _check(peer.live > 0 or len(peer.asked) > 0, "a peer without a purpose is forgotten", peer)
        _check(len(peer.asked) > 0 or ident in offered, "an idle peer is offered", peer)
    _check(not live, "the peers of queued values are known", fetching)
    busy = sum(len(peer.asked) > 0 for peer in fetching.peers.values())
    nbytes = sum(sum(peer.asked.values()) for peer in fetching.peers.values())
    _check((busy, nbytes) == (fetching.busy, fetching.nbytes), "busy and nbytes count what is on its way", fetching)


def _check(holds: bool, rule: str, subject: object) -> None:
    if not holds:
        raise InternalError(f"broken invariant ({rule}): {subject!r}")
