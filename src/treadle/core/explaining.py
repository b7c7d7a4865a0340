"""Why a task is where it is, in one sentence."""

from __future__ import annotations

from treadle.core.records import ASYNCHRONOUS, Task, Worker
from treadle.core.states import ERRED, MEMORY, NAMES, PROCESSING, QUEUED, RELEASED, WAITING

__all__ = ["explain"]

#: How many names a sentence lists.
_SHOWN = 3


def explain(tasks: dict[str, Task], workers: dict[str, Worker], key: str) -> str:
    task = tasks.get(key)
    if task is None:
        return f"The scheduler does not know {key!r}: it was never submitted, or has been released."
    state = task.state
    if state == MEMORY:
        return f"{key!r} is done: {task.nbytes} bytes in the memory of {_names(task.holders)}."
    if state == PROCESSING:
        return _processing(task)
    if state == QUEUED:
        return _queued(task, workers)
    if state == WAITING:
        missing = [dep for dep in task.deps if dep.state != MEMORY]
        first = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{key!r} waits for {first.key!r} ({NAMES[first.state]}){more} of its {len(task.deps)} dependencies."
    if state == ERRED:
        if task.culprit == key:
            return f"{key!r} has failed: {_first_line(task)}"
        return f"{key!r} cannot run, because {task.culprit!r} has failed: {_first_line(task)}"
    if state == RELEASED:
        return f"{key!r} is not needed now; it is remembered because {task.alive} dependents could need it again."
    return f"{key!r} is {NAMES[state]}."


def _processing(task: Task) -> str:
    worker = task.worker
    assert worker is not None
    if worker.lost:
        return f"{task.key!r} was with worker {worker.name!r}, whose connection broke; it will run elsewhere."
    if task.attempt in worker.away:
        if task.group.kind & ASYNCHRONOUS:
            return f"{task.key!r} is running on worker {worker.name!r}: it is asynchronous, and occupies no thread."
        return f"{task.key!r} has started on worker {worker.name!r}, and waits for something, so that others can run."
    ahead = 0
    for attempt, other in worker.processing.items():
        if attempt not in worker.away and other.order < task.order:
            ahead += 1
    if ahead < worker.nthreads:
        return f"{task.key!r} is running on worker {worker.name!r}, or is the next to run there."
    return f"{task.key!r} was sent to worker {worker.name!r}, where {ahead} more urgent tasks run or wait."


def _queued(task: Task, workers: dict[str, Worker]) -> str:
    present = [worker for worker in workers.values() if not worker.barred]
    if not present:
        return f"{task.key!r} is ready to run, but there are no workers."
    needs = task.needs
    if needs.special and not needs.workers:
        return f"{task.key!r} is ready to run, but needs {needs}, which none of the {len(present)} workers has."
    if needs.special:
        suitable = _names(needs.workers)
        return f"{task.key!r} is ready to run, needs {needs}, and waits until there is room on worker {suitable}."
    if task.home is not None:
        return f"{task.key!r} is ready to run and waits for worker {task.home.name!r}, which holds its inputs."
    return f"{task.key!r} is ready to run and waits until one of {len(present)} workers has room."


def _names(workers: list[Worker]) -> str:
    shown = ", ".join([repr(worker.name) for worker in workers[:_SHOWN]])
    more = len(workers) - _SHOWN
    return f"{shown} or {more} more" if more > 0 else shown


def _first_line(task: Task) -> str:
    if task.failure is None:
        return ""
    lines = task.failure[2].strip().splitlines()
    return lines[-1] if lines else task.failure[0]
