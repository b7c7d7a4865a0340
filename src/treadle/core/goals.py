"""What somebody has asked for: copies, moves, and workers that are to leave; and how each of these is reached."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, final

from treadle.core.records import ACTOR, NO_WORKERS, Task, Worker
from treadle.core.states import ERRED, FORGOTTEN, MEMORY, RELEASED

if TYPE_CHECKING:
    from treadle.core.stewardship import Stewardship

__all__ = ["Candidates", "Goal", "Rebalancing", "Replication", "Retirement", "plan_moves"]

#: How many copies of one result may fail before a goal gives it up.
ATTEMPTS: Final = 4
#: How many copies are made from one holder at the same time.
FANOUT: Final = 2
#: How many keys a sentence lists.
SHOWN: Final = 3
#: Bytes that a worker without a limit is taken to have room for.
ROOM: Final = 8e9
#: Workers are left alone if their shares of memory in use differ by less than this part of the mean.
TOLERANCE: Final = 0.05


class Goal:
    """What has been asked for, until it is reached or cannot be."""

    def __init__(self, steward: Stewardship, then: Callable[[Goal], object]) -> None:
        self.steward: Final = steward
        #: Called once when the goal is over. It may not tell the scheduler of events.
        self.then: Final = then
        self.over: bool = False
        #: Why it was not reached, in whole or in part.
        self.problems: list[str] = []
        #: The results that are not yet where they should be.
        self.open: dict[Task, None] = {}
        #: Who could not get a copy of a task since all have been tried, and how many copies of it have failed.
        self.failed: dict[Task, list[Worker]] = {}
        self.tries: dict[Task, int] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self.open)} results to go{', over' if self.over else ''}>"

    def candidates(self) -> Candidates:
        """The workers that may be given copies."""
        return Candidates([worker for worker in self.steward.workers.values() if not worker.barred])

    def look(self, task: Task, candidates: Candidates) -> None:
        """See to an open task; take it off the list if it is where it should be."""
        raise NotImplementedError

    def step(self) -> None:
        """All open tasks have been looked at: go on with the rest."""
        if not self.open:
            self.over = True

    def look_at_all(self) -> None:
        candidates = self.candidates()
        for task in list(self.open):
            self.look(task, candidates)

    def lost(self, worker: Worker) -> None:
        """A worker is gone."""

    def copy_failed(self, worker: Worker, task: Task) -> None:
        self.failed.setdefault(task, []).append(worker)
        self.tries[task] = self.tries.get(task, 0) + 1

    def provide(self, task: Task, lacking: int, candidates: Candidates) -> bool:
        """Have so many more workers acquire a result. False if there is none, and none is about to.

        Each holder is asked by a few at the same time only: the others can ask these afterwards.
        """
        coming = self.steward.ledger.copying.get(task, NO_WORKERS)
        failed = self.failed.get(task, NO_WORKERS)
        lacking = min(lacking, FANOUT * len(task.holders) - len(coming))
        chosen = candidates.pick(task, lacking, coming, failed)
        if not chosen and failed and self.tries[task] < ATTEMPTS:
            self.failed[task] = []
            chosen = candidates.pick(task, lacking, coming, NO_WORKERS)
        for worker in chosen:
            self.steward.copy(worker, task)
        return len(chosen) > 0 or len(coming) > 0

    def drop(self, task: Task, problem: str) -> None:
        """An open task is done with, or given up."""
        self.open.pop(task, None)
        self.failed.pop(task, None)
        self.tries.pop(task, None)
        if problem:
            self.problems.append(problem)


@final
class Replication(Goal):
    """Each of some results is to be held by so many workers."""

    def __init__(
        self,
        steward: Stewardship,
        then: Callable[[Goal], object],
        tasks: list[Task],
        count: int,
        among: list[Worker] | None,
    ) -> None:
        super().__init__(steward, then)
        #: 0 for as many as there are.
        self.count: Final = count
        #: The only workers that count; None for all.
        self.among: Final = among
        for task in tasks:
            self.open[task] = None

    def candidates(self) -> Candidates:
        if self.among is None:
            return super().candidates()
        return Candidates([worker for worker in self.among if not worker.barred])

    def look(self, task: Task, candidates: Candidates) -> None:
        if task.state != MEMORY:
            if task.state in (RELEASED, ERRED, FORGOTTEN):
                self.drop(task, f"{task.key!r} is gone")
            return
        there = len(candidates.members)
        count = self.count if self.count else there
        have = 0
        for worker in task.holders:
            if worker in candidates.members:
                have += 1
        for worker in self.steward.ledger.copying.get(task, NO_WORKERS):
            if worker in candidates.members and worker not in task.holders:
                have += 1
        if have < count:
            if task.group.kind & ACTOR:
                self.drop(task, f"{task.key!r} is an actor, of which there can be no copy")
            elif there < count:
                self.drop(task, f"{task.key!r} was to have {count} copies, and there are {there} workers for them")
            elif not self.provide(task, count - have, candidates):
                self.drop(task, f"no worker could get a copy of {task.key!r}")
        elif task not in self.steward.ledger.copying:
            self.drop(task, "")


@final
class Rebalancing(Goal):
    """Results are to move from full workers to empty ones."""

    def __init__(
        self, steward: Stewardship, then: Callable[[Goal], object], moves: list[tuple[Task, Worker, Worker]]
    ) -> None:
        super().__init__(steward, then)
        #: From where to where each is to move.
        self.moves: dict[Task, tuple[Worker, Worker]] = {}
        for task, source, target in moves:
            self.moves[task] = (source, target)
            self.open[task] = None
        #: How many have moved, and their bytes.
        self.moved: int = 0
        self.nbytes: int = 0

    def look(self, task: Task, candidates: Candidates) -> None:
        source, target = self.moves[task]
        holders = task.holders
        if task.state != MEMORY or source not in holders:
            self.drop(task, "")
        elif target in holders:
            self.steward.ledger.unhold(source, task)
            source.add("release", task.key)
            self.steward.placement.mark(source)
            self.moved += 1
            self.nbytes += task.nbytes
            self.drop(task, "")
        elif target.barred:
            self.drop(task, f"{task.key!r} did not move, because worker {target.name!r} has left")
        elif task in self.failed:
            self.drop(task, f"{task.key!r} did not move: worker {target.name!r} could not get it from {source.name!r}")
        elif target not in self.steward.ledger.copying.get(task, NO_WORKERS):
            self.steward.copy(target, task)


@final
class Retirement(Goal):
    """A worker is to leave: it gets nothing new, and what only it holds is held by others before it goes."""

    def __init__(
        self,
        steward: Stewardship,
        then: Callable[[Goal], object],
        worker: Worker,
        reason: str,
        close: bool,
        force: bool,
    ) -> None:
        super().__init__(steward, then)
        self.worker: Final = worker
        self.reason: Final = reason
        #: Whether its process is to end.
        self.close: Final = close
        #: Whether it is to leave even if results are lost with it.
        self.force: Final = force
        #: What would be lost with it, and the keys of that by the reason.
        self.given_up: set[Task] = set()
        self.losses: dict[str, list[str]] = {}
        #: How many attempts it has been given: there will be no others.
        self.attempts: int = worker.attempts
        #: True once it has been told to end.
        self.dismissed: bool = False

    def survey(self) -> None:
        """Find the results that only this worker holds, or others that are about to leave."""
        for task in self.worker.held:
            if task in self.given_up or stays(task, self.worker):
                continue
            if task.group.kind & ACTOR:
                self.give_up(task, "actors cannot move, and it has")
            else:
                self.open[task] = None
        if self.open:
            self.look_at_all()

    def look(self, task: Task, candidates: Candidates) -> None:
        if task.state != MEMORY or self.worker not in task.holders or stays(task, self.worker):
            self.drop(task, "")
        elif not candidates.members:
            self.give_up(task, "there is no other worker to take")
        elif not self.provide(task, 0 if task in self.steward.ledger.copying else 1, candidates):
            self.give_up(task, "no other worker could get")

    def give_up(self, task: Task, reason: str) -> None:
        self.drop(task, "")
        self.given_up.add(task)
        self.losses.setdefault(reason, []).append(task.key)

    def step(self) -> None:
        worker = self.worker
        if worker.lost or self.dismissed:
            return
        if self.losses and not self.force:
            for reason, keys in self.losses.items():
                self.problems.append(f"{reason} {listing(keys)}")
        if self.problems:
            self.over = True
            self.steward.keep(worker)
        elif not self.open and not worker.processing:
            self.survey()  # for what its last tasks have left there
            if self.losses and not self.force:
                self.step()
            elif not self.open:
                self.dismiss()

    def dismiss(self) -> None:
        if self.close:
            self.dismissed = True
            self.worker.send(("shutdown", self.reason))
            self.steward.placement.mark(self.worker)
        else:
            self.over = True

    def lost(self, worker: Worker) -> None:
        if worker is self.worker:
            self.over = True
            if not self.dismissed:
                self.problems = ["it was gone before others held what it held"]
            self.open = {}


@final
class Candidates:
    """Workers that may be given something, the emptiest first."""

    def __init__(self, workers: list[Worker]) -> None:
        self.members: Final = set(workers)
        #: The share of memory in use, a number, and the worker: a heap.
        self.heap: list[tuple[float, int, Worker]] = []
        for number, worker in enumerate(workers):
            coming = 0
            for task in worker.acquiring:
                coming += task.nbytes
            self.heap.append(((worker.nbytes + coming) / room(worker), number, worker))
        heapify(self.heap)

    def __repr__(self) -> str:
        return f"<Candidates: {len(self.members)} workers>"

    def pick(self, task: Task, count: int, coming: list[Worker], failed: list[Worker]) -> list[Worker]:
        """At most so many that neither hold the result nor are among the others."""
        chosen: list[Worker] = []
        seen: list[tuple[float, int, Worker]] = []
        while self.heap and len(chosen) < count:
            entry = heappop(self.heap)
            worker = entry[2]
            if worker not in task.holders and worker not in coming and worker not in failed:
                chosen.append(worker)
                entry = (entry[0] + task.nbytes / room(worker), entry[1], worker)
            seen.append(entry)
        for entry in seen:
            heappush(self.heap, entry)
        return chosen


def listing(keys: list[str]) -> str:
    text = ", ".join([repr(key) for key in keys[:SHOWN]])
    return text if len(keys) <= SHOWN else f"{text} and {len(keys) - SHOWN} more"


def room(worker: Worker) -> float:
    return float(worker.memory_limit) if worker.memory_limit else ROOM


def stays(task: Task, without: Worker) -> bool:
    """True if a result stays without that worker, since somebody holds it who is not about to leave."""
    if task.group.kind & ACTOR:
        return not task.only_at(without)
    for worker in task.holders:  # noqa: SIM110 - compiled, a generator would be slower
        if not worker.barred:
            return True
    return False


def plan_moves(workers: list[Worker], tasks: list[Task] | None) -> list[tuple[Task, Worker, Worker]]:
    """What to move, from where to where, so that equal shares of the workers' memory are in use.

    Big results move first, and each only if that brings neither worker further away from the mean.

    :param tasks: the only ones that may move; None for all.
    """
    moves: list[tuple[Task, Worker, Worker]] = []
    if len(workers) < 2:
        return moves
    movable: set[Task] = set() if tasks is None else set(tasks)
    total = 0.0
    space = 0.0
    shares: dict[Worker, float] = {}
    for worker in workers:
        total += worker.nbytes
        space += room(worker)
        shares[worker] = worker.nbytes / room(worker)
    mean = total / space
    takers = [(shares[worker], number, worker) for number, worker in enumerate(workers) if shares[worker] < mean]
    heapify(takers)
    moving: dict[Task, None] = {}
    for source in sorted(workers, key=shares.__getitem__, reverse=True):
        if shares[source] <= mean * (1.0 + TOLERANCE):
            break
        for task in sorted(source.held, key=size_of, reverse=True):
            if task in moving or (tasks is not None and task not in movable) or task.group.kind & ACTOR:
                continue
            if not takers:
                return moves
            share, number, target = takers[0]
            less = task.nbytes / room(source)
            more = task.nbytes / room(target)
            if target in task.holders or shares[source] - less < mean - less / 2 or share + more > mean + more / 2:
                continue
            if share + more >= shares[source]:
                continue
            moving[task] = None
            moves.append((task, source, target))
            shares[source] -= less
            heappop(takers)
            heappush(takers, (share + more, number, target))
    return moves


def size_of(task: Task) -> int:
    return task.nbytes
