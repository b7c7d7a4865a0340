"""Every task from its birth to the day it is forgotten.

A task is *needed* while a client wants its result or a dependent is waiting, queued or processing. What is needed
and not there is started; what is not needed is dropped, and forgotten once no dependent could need it again.
Nothing recurses: what follows from one change is put on a list, and :meth:`Ledger.settle` works it off.
"""

from __future__ import annotations

from typing import Any, Final, final

from treadle.core.placement import Placement
from treadle.core.records import ACTOR, NO_CLIENTS, NO_TASKS, NO_WORKERS, Client, Failure, Group, Task, Worker
from treadle.core.states import ERRED, FORGOTTEN, MEMORY, PROCESSING, QUEUED, RELEASED, WAITING

__all__ = ["MAX_ABSENCES", "MAX_DEATHS", "Ledger"]

#: A task is given up when so many workers have died while they executed it.
MAX_DEATHS: Final = 3
#: It is given up, too, when so many have died while it was away on them: it may be what it waits for that kills them.
MAX_ABSENCES: Final = 10


@final
class Ledger:
    """All tasks, and the transitions between their states."""

    def __init__(self, placement: Placement) -> None:
        self.placement: Final = placement
        self.tasks: dict[str, Task] = {}
        #: Functions that some client knows or some task calls, by digest and kind.
        self.groups: dict[tuple[bytes, int], Group] = {}
        #: Tasks that may not be needed any more.
        self.loose: list[Task] = []
        #: Tasks that have begun to wait, dependents before what they need, and some that must be started.
        self.started: list[Task] = []
        self.to_start: list[Task] = []
        #: Waiting tasks with a failed dependency.
        self.doomed: list[Task] = []
        #: Results of which copies are being made, and by whom.
        self.copying: dict[Task, list[Worker]] = {}
        #: True while there are such, or somebody who cares where results are, and wants to see what has changed.
        self.tended: bool = False
        self.stirred: list[Task] = []

    # -- birth ---------------------------------------------------------------------------------------------------

    def link(self, task: Task, deps: list[Task]) -> None:
        task.deps = deps
        for dep in deps:
            if dep.alive == 0:
                dep.dependents = [task]
            else:
                dep.dependents.append(task)
            dep.alive += 1

    def want(self, client: Client, task: Task) -> None:
        """A client wants the result; what is known of it already is said at once."""
        if task in client.wants:
            return
        client.wants[task] = None
        if task.clients:
            task.clients.append(client)
        else:
            task.clients = [client]
        if task.state == MEMORY:
            self.say_done(client, task)
        elif task.state == ERRED:
            self.say_failed(client, task)
        elif task.state == RELEASED:
            self.to_start.append(task)

    def unwant(self, client: Client, task: Task) -> None:
        del client.wants[task]
        task.clients.remove(client)
        if not task.clients:
            task.clients = NO_CLIENTS
            self.loose.append(task)

    def begin(self) -> None:
        """Start what has to be started, and what that needs; queue what is ready."""
        to_start = self.to_start
        while to_start:
            task = to_start.pop()
            if task.state == RELEASED and (task.users > 0 or task.clients):
                if task.payload is None:
                    text = f"{task.key!r} was scattered and released; it is needed again, and cannot be computed"
                    self.fail(task, ("lost", b"", text, {"key": task.key, "worker": ""}), task.key)
                else:
                    self.start(task)
        started = self.started
        if started:
            self.started = []
            self.queue_ready(started)
        doomed = self.doomed
        while doomed:
            task = doomed.pop()
            if task.state == WAITING:
                for dep in task.deps:
                    if dep.state == ERRED and dep.failure is not None:
                        self.fail(task, dep.failure, dep.culprit)
                        break

    def start(self, task: Task) -> None:
        """A released task is needed: it waits for its dependencies, which are needed now as well."""
        task.move(WAITING)
        missing = 0
        for dep in task.deps:
            dep.users += 1
            state = dep.state
            if state != MEMORY:
                missing += 1
                if state == RELEASED:
                    self.to_start.append(dep)
                elif state == ERRED:
                    self.doomed.append(task)
        task.missing = missing
        self.started.append(task)

    def queue_ready(self, started: list[Task]) -> None:
        """Queue what waits for nothing; root tasks that others depend on go together."""
        roots: list[Task] = []
        started.sort(key=order_of)
        for task in started:
            if task.missing == 0 and task.state == WAITING:
                if not task.deps and task.alive > 0 and not task.needs.special:
                    roots.append(task)
                else:
                    self.placement.enqueue(task)
        if roots:
            self.placement.enqueue_roots(roots)

    # -- results -------------------------------------------------------------------------------------------------

    def hold(self, worker: Worker, task: Task) -> None:
        if task.holders:
            task.holders.append(worker)
        else:
            task.holders = [worker]
        worker.held[task] = None
        worker.nbytes += task.nbytes

    def finish(self, task: Task, worker: Worker, nbytes: int, result: bytes | None) -> None:
        """The result of a waiting, queued or processing task is in the memory of a worker."""
        task.move(MEMORY)
        task.nbytes = nbytes
        task.holders = [worker]
        worker.held[task] = None
        worker.nbytes += nbytes
        if self.tended:
            self.stirred.append(task)
            self.arrive(worker, task)
        placement = self.placement
        for client in task.clients:
            client.add("done", (task.key, nbytes, result, worker.ident, worker.address))
            if not client.dirty:
                placement.mark(client)
        if task.users > 0:
            for dependent in task.dependents:
                if dependent.state == WAITING:
                    dependent.missing -= 1
                    if dependent.missing == 0:
                        placement.enqueue(dependent)
        elif not task.clients:
            self.loose.append(task)
        for dep in task.deps:
            self.unuse(dep)

    def unuse(self, dep: Task) -> None:
        """A dependent does not need this result any more."""
        dep.users -= 1
        if dep.users == 0 and not dep.clients:
            self.loose.append(dep)

    def drop_results(self, task: Task) -> None:
        """Have all holders drop the result of a task, or their copies of what is lost."""
        for worker in task.holders:
            del worker.held[task]
            worker.nbytes -= task.nbytes
            worker.add("release", task.key)
            if not worker.dirty:
                self.placement.mark(worker)
        task.holders = NO_WORKERS

    def unhold(self, worker: Worker, task: Task) -> None:
        """The worker does not hold the result any more, which is lost if that was the last holder, or made an actor."""
        lost = task.only_at(worker)
        del worker.held[task]
        worker.nbytes -= task.nbytes
        task.holders.remove(worker)
        if lost:
            self.lose(task, worker)

    def lose(self, task: Task, worker: Worker) -> None:
        """A result is gone with a worker: who waited for it waits again, and it is computed again if needed."""
        if self.tended:
            self.stirred.append(task)
        self.drop_results(task)
        task.move(RELEASED)
        for dependent in task.dependents:
            if dependent.state == WAITING:
                dependent.missing += 1
            elif dependent.state == QUEUED:
                self.placement.withdraw(dependent)
                dependent.move(WAITING)
                dependent.missing = 1
        if task.payload is None:
            text = f"{task.key!r} was scattered to worker {worker.name!r} only, which is gone"
            self.fail(task, ("lost", b"", text, {"key": task.key, "worker": worker.name}), task.key)
        elif task.group.kind & ACTOR:
            text = f"the actor {task.key!r} lived on worker {worker.name!r}, which is gone"
            info: dict[str, Any] = {"key": task.key, "worker": worker.name, "actor": True}
            self.fail(task, ("lost", b"", text, info), task.key)
        elif task.needed():
            self.to_start.append(task)
        else:
            self.loose.append(task)

    def arrive(self, worker: Worker, task: Task) -> bool:
        """A worker has the copy that it was to make, or never will. False if it was not to make one."""
        targets = self.copying.get(task)
        if targets is None or worker not in targets:
            return False
        targets.remove(worker)
        if not targets:
            del self.copying[task]
        del worker.acquiring[task]
        self.stirred.append(task)
        return True

    def call_off(self, task: Task) -> None:
        """No copies of a result are needed any more."""
        for worker in self.copying.pop(task, NO_WORKERS):
            del worker.acquiring[task]
            worker.add("release", task.key)
            self.placement.mark(worker)

    def wait_again(self, task: Task, anywhere: bool) -> None:
        """A task comes back from a worker: queue it, or let it wait for the inputs that have been lost meanwhile."""
        missing = 0
        for dep in task.deps:
            if dep.state != MEMORY:
                missing += 1
                if dep.state == ERRED:
                    self.doomed.append(task)
                elif dep.state == RELEASED:
                    self.to_start.append(dep)
        if missing:
            task.move(WAITING)
            task.missing = missing
        elif anywhere:
            self.placement.enqueue_anywhere(task)
        else:
            self.placement.enqueue(task)

    # -- ends ----------------------------------------------------------------------------------------------------

    def fail(self, task: Task, failure: Failure, culprit: str) -> None:
        """A task has failed, and with it all that wait for it."""
        stack = [task]
        while stack:
            task = stack.pop()
            if task.state == ERRED:
                continue
            self.stop(task)
            if self.tended:
                self.stirred.append(task)
            task.move(ERRED)
            task.failure = failure
            task.culprit = culprit
            for client in task.clients:
                self.say_failed(client, task)
            for dependent in task.dependents:
                if dependent.state == WAITING:
                    stack.append(dependent)
            if not task.needed():
                self.loose.append(task)

    def stop(self, task: Task) -> None:
        """Take a task out of the queues and from its worker; it needs its dependencies no more."""
        state = task.state
        if state == QUEUED:
            self.placement.withdraw(task)
        elif state == PROCESSING:
            worker = task.worker
            if worker is not None:
                self.placement.cancel(worker, task)
        elif state != WAITING:
            return
        for dep in task.deps:
            self.unuse(dep)

    def settle(self) -> None:
        """Drop what nobody needs any more."""
        loose = self.loose
        while loose:
            task = loose.pop()
            state = task.state
            if task.users > 0 or task.clients or state == FORGOTTEN:
                continue
            if self.tended:
                self.stirred.append(task)
                self.call_off(task)
            if state == MEMORY:
                self.drop_results(task)
                task.move(RELEASED)
            elif state in (WAITING, QUEUED, PROCESSING):
                self.stop(task)
                task.move(RELEASED)
            if task.alive == 0:
                self.forget(task)

    def forget(self, task: Task) -> None:
        if task.state == ERRED:
            task.move(RELEASED)
        task.move(FORGOTTEN)
        del self.tasks[task.key]
        for dep in task.deps:
            alive = dep.alive - 1
            dep.alive = alive
            if alive == 0:
                dep.dependents = NO_TASKS
                self.loose.append(dep)
            elif len(dep.dependents) > 2 * alive + 16:
                dep.dependents = [other for other in dep.dependents if other.state != FORGOTTEN]
        task.deps = NO_TASKS
        task.dependents = NO_TASKS
        group = task.group
        group.tasks -= 1
        if group.tasks == 0 and group.clients == 0:
            self.groups.pop((group.digest, group.kind), None)

    # -- news for clients ----------------------------------------------------------------------------------------

    def say_done(self, client: Client, task: Task) -> None:
        worker = task.holders[0 if task.group.kind & ACTOR else -1]
        client.add("done", (task.key, task.nbytes, None, worker.ident, worker.address))
        self.placement.mark(client)

    def say_failed(self, client: Client, task: Task) -> None:
        client.add("failed", (task.key, task.culprit, task.failure))
        self.placement.mark(client)


def order_of(task: Task) -> int:
    return task.order
