"""Looking after workers and what they hold, for clients that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec

from treadle.core.goals import Goal, Rebalancing, Retirement
from treadle.scheduler.keeping import read
from treadle.scheduler.members import Member
from treadle.scheduler.services import Ask, Hub, Inquiry, Service
from treadle.scheduler.topics import QuestionError

if TYPE_CHECKING:
    from treadle.core.records import Worker

__all__ = ["RESTARTED", "Management"]

#: What is said of everything that a restart has cancelled.
RESTARTED: Final = "the cluster was restarted"

#: How many problems an answer names.
SHOWN: Final = 5

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class _Sizes(NamedTuple):
    keys: list[str] | None
    summary: bool


class _Copies(NamedTuple):
    keys: list[str]
    #: 0 for as many as there are workers.
    copies: Annotated[int, msgspec.Meta(ge=0)]
    workers: list[str] | None


class _Moves(NamedTuple):
    keys: list[str] | None
    workers: list[str] | None


class _Leave(NamedTuple):
    #: Which, or how many.
    workers: list[str] | AtLeastOne
    close: bool
    force: bool


class _Return(NamedTuple):
    """A question that is answered when workers have been replaced."""

    inquiry: Inquiry
    #: The names of those that have not.
    names: set[str]
    answer: dict[str, list[str]]


class Management(Service):
    """Answers at once what is a question, and in the end what is a wish."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._waiting: list[tuple[Inquiry, int]] = []
        self._returning: list[_Return] = []
        #: The goals that somebody waits for, by client and the number of the question.
        self._goals: Final[dict[tuple[Member, int], list[Goal]]] = {}

    def topics(self) -> Mapping[str, Ask]:
        return {
            "nbytes": self._nbytes,
            "processing": self._processing,
            "rebalance": self._rebalance,
            "replicate": self._replicate,
            "restart": self._restart,
            "restart_workers": self._restart_workers,
            "retire": self._retire,
            "shutdown": self._shutdown,
            "wait_for_workers": self._wait_for_workers,
        }

    # Who comes and goes

    def joined(self, member: Member) -> None:
        if member.role != "worker":
            return
        for inquiry, count in self._waiting:
            if self._present() >= count:
                inquiry.answer(None)
        self._waiting = [each for each in self._waiting if not each[0].over]
        for each in self._returning:
            each.names.discard(member.name)
            if not each.names:
                each.inquiry.answer(each.answer)
        self._returning = [each for each in self._returning if not each.inquiry.over]

    def gone(self, member: Member) -> None:
        if member.role == "client":
            for who, number in list(self._goals):
                if who is member:
                    self.withdrawn(member, number)

    def withdrawn(self, member: Member, number: int) -> None:
        for goal in self._goals.pop((member, number), ()):
            self.hub.core.on_withdraw(goal, self.hub.now())
            self.hub.flush_soon()
        self._waiting = [each for each in self._waiting if not each[0].over]
        self._returning = [each for each in self._returning if not each.inquiry.over]

    def _present(self) -> int:
        return sum(not worker.barred for worker in self.hub.core.workers.values())

    def _wait_for_workers(self, inquiry: Inquiry) -> None:
        """Answered as soon as so many workers are there."""
        count: int = read(inquiry, AtLeastOne, "how many workers")
        if self._present() >= count:
            inquiry.answer(None)
        else:
            self._waiting.append((inquiry, count))

    # Questions

    def _processing(self, inquiry: Inquiry) -> None:
        """What each worker has to do, and what was cancelled there and has not stopped."""
        names: list[str] | None = read(inquiry, list[str] | None, "a list of workers, or nil")
        inquiry.answer(
            {
                worker.ident: ([task.key for task in worker.processing.values()], list(worker.stopping.values()))
                for worker in (self._workers() if names is None else self._named(names))
            }
        )

    def _nbytes(self, inquiry: Inquiry) -> None:
        """The bytes of results: of each key, or of each function."""
        asked: _Sizes = read(inquiry, _Sizes, "a list of keys or nil, and whether to sum up by function")
        tasks = self.hub.core.tasks
        sizes: dict[str, int] = {}
        for key in tasks if asked.keys is None else dict.fromkeys(asked.keys):
            task = tasks.get(key)
            if task is not None and task.holders:
                name = task.group.name if asked.summary else key
                sizes[name] = sizes.get(name, 0) + task.nbytes
        inquiry.answer(sizes)

    # Data

    def _replicate(self, inquiry: Inquiry) -> None:
        """Answered when each key is held by so many workers."""
        asked: _Copies = read(inquiry, _Copies, "a list of keys, a number of copies, and a list of workers or nil")
        chosen = None if asked.workers is None else [worker.ident for worker in self._named(asked.workers)]
        there = self._present() if chosen is None else len(chosen)
        if asked.copies > there:
            raise QuestionError(f"{asked.copies} workers cannot hold them: there are {there}")
        then = self._then(inquiry, lambda goals: None)
        goal = self.hub.core.on_replicate(asked.keys, asked.copies, chosen, then, self.hub.now())
        self._seek(inquiry, [goal])

    def _rebalance(self, inquiry: Inquiry) -> None:
        """Answered when results have moved from full workers to empty ones: how many, and their bytes."""
        asked: _Moves = read(inquiry, _Moves, "a list of keys or nil, and a list of workers or nil")
        chosen = None if asked.workers is None else [worker.ident for worker in self._named(asked.workers)]
        then = self._then(inquiry, _moved)
        self._seek(inquiry, [self.hub.core.on_rebalance(asked.keys, chosen, then, self.hub.now())])

    # Workers

    def _retire(self, inquiry: Inquiry) -> None:
        """Answered when the workers have left: who they were."""
        asked: _Leave = read(inquiry, _Leave, "a list of workers or a number, and two times true or false")
        workers = self._named(asked.workers) if isinstance(asked.workers, list) else self._dispensable(asked.workers)
        about = {worker.ident: _describe(worker) for worker in workers}
        if not workers:
            inquiry.answer(about)
            return
        goals: list[Goal] = []
        over: list[Goal] = []
        answer = self._then(inquiry, lambda goals: about)

        def left(goal: Goal) -> None:
            over.append(goal)
            if len(over) == len(workers):
                answer(*over)

        reason = "it was asked to retire"
        goals = self.hub.core.on_retire(workers, reason, asked.close, asked.force, left, self.hub.now())
        self._seek(inquiry, goals)

    def _dispensable(self, count: int) -> list[Worker]:
        """So many of the workers that have least to do, and of these who hold least."""
        workers = [worker for worker in self._workers() if not worker.barred]
        if count > len(workers):
            raise QuestionError(f"{count} workers cannot retire: there are {len(workers)}")
        workers.sort(key=lambda worker: (worker.busy() > 0, worker.nbytes, worker.busy()))
        return workers[:count]

    def _restart(self, inquiry: Inquiry) -> None:
        """Cancels everything, and has the processes of the workers replaced; answered when the new ones are there."""
        wait: bool = read(inquiry, bool, "whether to wait for the workers")
        able = [worker for worker in self._workers() if worker.supervised]
        self.hub.core.on_restart([worker.ident for worker in able], RESTARTED, self.hub.now())
        self._await_return(inquiry, able, wait)

    def _restart_workers(self, inquiry: Inquiry) -> None:
        """Has the processes of some workers replaced; answered when the new ones are there."""
        workers = self._named(read(inquiry, list[str], "a list of workers"))
        for worker in workers:
            if not worker.supervised:
                raise QuestionError(
                    f"worker {worker.name!r} cannot be restarted: its process has no parent that would start another"
                )
        idents = [worker.ident for worker in workers]
        self.hub.core.on_replace(idents, "the worker was to be restarted", self.hub.now())
        self._await_return(inquiry, workers, True)

    def _await_return(self, inquiry: Inquiry, workers: list[Worker], wait: bool) -> None:
        self.hub.flush_soon()
        names = {worker.name for worker in workers}
        kept = [worker.name for worker in self._workers() if worker.name not in names]
        answer = {"restarted": sorted(names), "kept": sorted(kept)}
        if wait and names:
            self._returning.append(_Return(inquiry, names, answer))
        else:
            inquiry.answer(answer)

    def _shutdown(self, inquiry: Inquiry) -> None:
        """Ends the scheduler and with it the workers, if its settings allow it."""
        read(inquiry, None, "nil: it takes no argument")
        if not self.hub.settings.allow_shutdown:
            raise QuestionError(
                "this scheduler does not let clients end it; start it with --allow-shutdown, or end its process"
            )
        inquiry.answer(None)
        self.hub.loop.call_soon(self.hub.stop, f"{inquiry.member} has ended the cluster")

    # Inside

    def _workers(self) -> list[Worker]:
        return [worker for worker in self.hub.core.workers.values() if not worker.lost]

    def _named(self, names: Iterable[str]) -> list[Worker]:
        """The workers that have these idents, names, addresses or hosts."""
        found: dict[str, Worker] = {}
        for name in names:
            known = [each for each in self._workers() if name in (each.ident, each.name, each.address, each.host)]
            if not known:
                there = ", ".join(sorted(worker.name for worker in self._workers())) or "none"
                raise QuestionError(f"there is no worker {name!r}; there are: {there}")
            found.update((worker.ident, worker) for worker in known)
        return list(found.values())

    def _then(self, inquiry: Inquiry, answer: Callable[[tuple[Goal, ...]], Any]) -> Callable[..., None]:
        """What is to be called with the goals when all are over."""

        def then(*goals: Goal) -> None:
            self._goals.pop((inquiry.member, inquiry.id), None)
            problems = [_problem(goal) for goal in goals if goal.problems and not isinstance(goal, Rebalancing)]
            if problems:
                inquiry.refuse("; ".join(problems))
            else:
                inquiry.answer(answer(goals))

        return then

    def _seek(self, inquiry: Inquiry, goals: list[Goal]) -> None:
        self.hub.flush_soon()
        if not inquiry.over:
            self._goals[inquiry.member, inquiry.id] = goals


def _moved(goals: tuple[Goal, ...]) -> dict[str, Any]:
    (goal,) = goals
    assert isinstance(goal, Rebalancing)
    return {"moved": goal.moved, "nbytes": goal.nbytes, "problems": goal.problems}


def _problem(goal: Goal) -> str:
    problems = list(dict.fromkeys(goal.problems))
    text = ", and ".join(problems[:SHOWN])
    if len(problems) > SHOWN:
        text += f", and {len(problems) - SHOWN} more of the kind"
    if not isinstance(goal, Retirement):
        return text
    if not goal.losses:
        return f"worker {goal.worker.name!r} has not retired: {text}"
    return f"worker {goal.worker.name!r} stays: {text}; force=True has it leave all the same"


def _describe(worker: Worker) -> dict[str, Any]:
    return {"name": worker.name, "address": worker.address, "host": worker.host, "nthreads": worker.nthreads}
