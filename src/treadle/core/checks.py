"""Every invariant of the scheduler's records, checked by walking over all of them: for tests."""

from __future__ import annotations

from treadle.core.ledger import Ledger
from treadle.core.placement import Placement
from treadle.core.records import Client, Task, Worker
from treadle.core.states import ERRED, FORGOTTEN, MEMORY, NAMES, PROCESSING, QUEUED, RELEASED, STATES, WAITING
from treadle.errors import InternalError

__all__ = ["check"]


def check(ledger: Ledger, placement: Placement, workers: dict[str, Worker], clients: dict[str, Client]) -> None:
    """
    :raises InternalError: an invariant does not hold.
    """
    if ledger.loose or ledger.started or ledger.to_start or ledger.doomed:
        raise InternalError("an event has ended with work left to do")
    counts: dict[int, list[int]] = {}
    for key, task in ledger.tasks.items():
        if task.key != key:
            raise InternalError(f"{task!r} is filed under {key!r}")
        _check_task(task, ledger, workers)
        row = counts.setdefault(id(task.group), [0] * STATES)
        row[task.state] += 1
    for group in ledger.groups.values():
        row = counts.get(id(group), [0] * STATES)
        if group.counts[:FORGOTTEN] != row[:FORGOTTEN] or group.tasks != sum(row):
            raise InternalError(f"{group!r} counts {group.counts} and {group.tasks}, there are {row}")
    for client in clients.values():
        for task in client.wants:
            if client not in task.clients:
                raise InternalError(f"{client!r} wants {task!r}, which does not know")
    placement.check(workers)
    _check_queues(ledger, placement, workers)


def _check_task(task: Task, ledger: Ledger, workers: dict[str, Worker]) -> None:
    def wrong(what: str) -> InternalError:
        return InternalError(f"{task.key!r}: {what} ({task.describe()})")

    state = task.state
    active = [other for other in task.dependents if other.state in (WAITING, QUEUED, PROCESSING)]
    if len(active) != task.users:
        raise wrong(f"{len(active)} dependents need it")
    if len([other for other in task.dependents if other.state != FORGOTTEN]) != task.alive:
        raise wrong("it miscounts its dependents")
    for dep in task.deps:
        if ledger.tasks.get(dep.key) is not dep:
            raise wrong(f"its dependency {dep.key!r} was forgotten")
    for client in task.clients:
        if task not in client.wants:
            raise wrong("a client is said to want it and does not")
    if state == FORGOTTEN:
        raise wrong("it is forgotten and still filed")
    if (state == MEMORY) != bool(task.holders):
        raise wrong("it is held by somebody exactly if it is in memory")
    for holder in task.holders:
        if task not in holder.held or workers.get(holder.ident) is not holder:
            raise wrong(f"{holder!r} does not hold it")
    if (state == PROCESSING) != (task.worker is not None):
        raise wrong("it is with a worker exactly if it is processing")
    if task.worker is not None and task.worker.processing.get(task.attempt) is not task:
        raise wrong("its worker does not know")
    _check_need(task, wrong_state=wrong(f"state {NAMES[state]} does not fit"))


def _check_need(task: Task, wrong_state: InternalError) -> None:
    state = task.state
    missing = [dep for dep in task.deps if dep.state != MEMORY]
    if state == WAITING:
        if not missing or len(missing) != task.missing:
            raise wrong_state
        if any(dep.state in (RELEASED, ERRED) for dep in missing):
            raise wrong_state
    if state == QUEUED and missing:
        raise wrong_state
    if state in (WAITING, QUEUED, PROCESSING, MEMORY) and not task.needed():
        raise wrong_state
    if state == RELEASED and task.needed():
        raise wrong_state
    if state in (RELEASED, ERRED) and not task.needed() and task.alive == 0:
        raise wrong_state
    if state == ERRED and task.failure is None:
        raise wrong_state
    if state != ERRED and not task.whole:
        raise wrong_state


def _check_queues(ledger: Ledger, placement: Placement, workers: dict[str, Worker]) -> None:
    """Every queued task can be drawn from somewhere."""
    reachable: set[int] = set()
    heaps = [placement.queue, *[worker.queue for worker in workers.values() if not worker.lost]]
    heaps.extend([needs.queue for needs in placement.needy])
    for heap in heaps:
        for _, task in heap:
            reachable.add(task.order)
            if task.cohort is not None:
                reachable.update([member.order for member in task.cohort.tasks if member.cohort is task.cohort])
    reachable.update([task.order for task in placement.afloat])
    for task in ledger.tasks.values():
        if task.state == QUEUED and task.order not in reachable:
            raise InternalError(f"{task.key!r} is queued, and in no queue ({task.describe()})")
    for worker in workers.values():
        if not worker.lost:
            queued = sum(1 for task in ledger.tasks.values() if task.state == QUEUED and task.home is worker)
            if queued == 0 and abs(worker.queued) > 1e-3:
                raise InternalError(f"{worker!r} counts {worker.queued} seconds of queued tasks, and there are none")
