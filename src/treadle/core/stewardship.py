"""Results in the right places: copies, moves, and workers that are to leave without a loss.

What somebody has asked for is a *goal*. It has some results in its care, its open tasks, until each of them is where
it should be. A copy is made by a worker that is told to acquire it: it fetches the value, keeps it, and says so. Who
held it before drops it only then, so that the last copy is never given up.

Nothing is polled: a goal looks at an open task when a copy of it has arrived or failed, when it was lost or is there
again, and when nobody needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from treadle.core.goals import Candidates, Goal, Rebalancing, Replication, Retirement, plan_moves
from treadle.core.ledger import Ledger
from treadle.core.placement import Placement
from treadle.core.records import NO_WORKERS, Needs, Task, Worker
from treadle.core.states import FORGOTTEN, MEMORY
from treadle.errors import InternalError

__all__ = ["Stewardship"]


@final
class Stewardship:
    """All goals that are not over, and the copies that are being made for them."""

    def __init__(
        self,
        ledger: Ledger,
        placement: Placement,
        workers: dict[str, Worker],
        needs: dict[tuple[frozenset[str] | None, frozenset[tuple[str, float]]], Needs],
    ) -> None:
        self.ledger: Final = ledger
        self.placement: Final = placement
        self.workers: Final = workers
        self.needs: Final = needs
        self.goals: dict[Goal, None] = {}
        #: How many copies were asked for.
        self.copies: int = 0

    def __repr__(self) -> str:
        return f"<Stewardship of {len(self.goals)} goals>"

    # -- goals ---------------------------------------------------------------------------------------------------

    def replicate(
        self, tasks: list[Task], count: int, among: list[Worker] | None, then: Callable[[Goal], object]
    ) -> Replication:
        """Have each of some results held by ``count`` workers; 0 for all that there are."""
        goal = Replication(self, then, tasks, count, among)
        self.add(goal)
        goal.look_at_all()
        return goal

    def rebalance(
        self, tasks: list[Task] | None, among: list[Worker] | None, then: Callable[[Goal], object]
    ) -> Rebalancing:
        """Have results moved from full workers to empty ones.

        :param tasks: the only ones that may move; None for all.
        :param among: the only workers between which they move; None for all.
        """
        workers = [worker for worker in self.workers.values() if not worker.barred]
        if among is not None:
            workers = [worker for worker in among if not worker.barred]
        goal = Rebalancing(self, then, plan_moves(workers, tasks))
        self.add(goal)
        goal.look_at_all()
        return goal

    def retire(
        self, workers: list[Worker], reason: str, close: bool, force: bool, then: Callable[[Goal], object]
    ) -> list[Goal]:
        """Have workers leave once others hold what they hold."""
        for worker in workers:
            self.bar(worker)
        goals: list[Goal] = []
        for worker in workers:
            goal = Retirement(self, then, worker, reason, close, force)
            self.add(goal)
            goal.survey()
            goals.append(goal)
        return goals

    def add(self, goal: Goal) -> None:
        self.goals[goal] = None
        self.ledger.tended = True

    def withdraw(self, goal: Goal) -> None:
        """Give a goal up. Copies that are on their way are kept when they come; a worker leaves all the same."""
        if not isinstance(goal, Retirement):
            self.goals.pop(goal, None)

    def end_all(self, problem: str) -> None:
        """Give all goals up."""
        for goal in self.goals:
            goal.open = {}
            goal.problems.append(problem)

    # -- copies --------------------------------------------------------------------------------------------------

    def copy(self, worker: Worker, task: Task) -> None:
        """Have a worker acquire a result."""
        self.ledger.copying.setdefault(task, []).append(worker)
        worker.acquiring[task] = None
        self.copies += 1
        holder = task.holders[self.copies % len(task.holders)]  # each in turn
        worker.add("acquire", (task.key, task.nbytes, [(holder.ident, holder.address)]))
        self.placement.mark(worker)

    def copy_failed(self, worker: Worker, task: Task) -> None:
        """A worker cannot get the copy that it was to acquire, and is to stop trying."""
        if self.ledger.arrive(worker, task):
            worker.add("release", task.key)
            self.placement.mark(worker)
            for goal in self.goals:
                if task in goal.open:
                    goal.copy_failed(worker, task)

    # -- workers -------------------------------------------------------------------------------------------------

    def bar(self, worker: Worker) -> None:
        """Give a worker nothing more, and have it give back what it has not started."""
        if worker.barred:
            return
        placement = self.placement
        placement.bar(worker)
        attempts: list[int] = []
        for attempt, task in worker.processing.items():
            if not task.recalled and attempt not in worker.away:
                task.recalled = True
                worker.recalled += 1
                attempts.append(attempt)
        if attempts:
            worker.send(("recall", attempts))
            placement.mark(worker)

    def keep(self, worker: Worker) -> None:
        """A worker stays after all, unless somebody else has asked for its retirement too."""
        for goal in self.goals:
            if isinstance(goal, Retirement) and goal.worker is worker and not goal.over:
                return
        worker.barred = False
        for needs in self.needs.values():
            if needs.fits(worker):
                needs.workers.append(worker)
                worker.needs.append(needs)
        self.placement.add(worker)

    def lose(self, worker: Worker) -> None:
        """A worker is gone: what it was to acquire, somebody else will."""
        for task in list(worker.acquiring):
            self.ledger.arrive(worker, task)
        for goal in self.goals:
            goal.lost(worker)

    # -- what follows --------------------------------------------------------------------------------------------

    def work(self) -> None:
        """After an event: all that follows for the goals."""
        stirred = self.ledger.stirred
        self.ledger.stirred = []
        ended: list[Goal] = []
        for goal in self.goals:
            if stirred:
                self.show(goal, stirred)
            if not goal.over:
                goal.step()
            if goal.over:
                ended.append(goal)
        for goal in ended:
            del self.goals[goal]
        self.ledger.tended = len(self.goals) > 0 or len(self.ledger.copying) > 0
        for goal in ended:
            goal.then(goal)

    def show(self, goal: Goal, stirred: list[Task]) -> None:
        """Let a goal look at those of its open tasks of which something has changed."""
        candidates: Candidates | None = None
        for task in stirred:
            if task in goal.open:
                if candidates is None:
                    candidates = goal.candidates()
                goal.look(task, candidates)

    def check(self) -> None:
        """
        :raises InternalError: an invariant does not hold.
        """
        ledger = self.ledger
        if ledger.stirred or (not ledger.tended and (self.goals or ledger.copying)):
            raise InternalError(f"changes of {ledger.stirred!r} are not shown to {list(self.goals)!r}")
        for task, targets in ledger.copying.items():
            if ledger.tasks.get(task.key) is not task:
                raise InternalError(f"{task!r} is being copied, and forgotten")
            if not task.needed() or not targets or len(dict.fromkeys(targets)) != len(targets):
                raise InternalError(f"{task!r} is being copied to {targets!r}: {task.describe()}")
            for worker in targets:
                if worker.lost or task not in worker.acquiring:
                    raise InternalError(f"{task!r} is said to be on its way to {worker!r}")
        for worker in self.workers.values():
            for task in worker.acquiring:
                if worker not in ledger.copying.get(task, NO_WORKERS):
                    raise InternalError(f"{worker!r} is said to acquire {task!r}")
        for goal in self.goals:
            self.check_goal(goal)

    def check_goal(self, goal: Goal) -> None:
        if goal.over:
            raise InternalError(f"{goal!r} is among those that are not over")
        for task in goal.open:
            if task.state == FORGOTTEN:
                raise InternalError(f"{goal!r} waits for {task!r}")
            if task.state == MEMORY and task not in self.ledger.copying:
                raise InternalError(f"{goal!r} waits for {task!r}, of which no copy is being made: {task.describe()}")
        if isinstance(goal, Retirement) and (not goal.worker.barred or goal.worker.attempts != goal.attempts):
            raise InternalError(f"{goal!r}: {goal.worker!r} still gets tasks")
