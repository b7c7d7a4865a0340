"""The scheduler: what happens on each event.

There is one method per event, named after it. It changes the records, and leaves messages in the outboxes of the
peers; :meth:`Scheduler.flush` names the peers that have some. There is no clock, no socket and no randomness in here:
the time comes in with the events. What a peer says is judged before anything is changed, and a breach of the protocol
is a :class:`~treadle.errors.ProtocolError`, for which the caller is to close that peer's connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from treadle.core.checks import check
from treadle.core.explaining import explain
from treadle.core.goals import Goal
from treadle.core.ledger import MAX_ABSENCES, MAX_DEATHS, Ledger
from treadle.core.placement import LEVEL, Placement, place
from treadle.core.records import ACTOR, ANYWHERE, NO_CLIENTS, PURE, Client, Failure, Group, Needs, Peer, Task, Worker
from treadle.core.states import ERRED, FORGOTTEN, MEMORY, NAMES, PROCESSING, QUEUED, RELEASED, WAITING
from treadle.core.stewardship import Stewardship
from treadle.errors import ProtocolError

__all__ = ["CANCELLED_BY_CLIENT", "MAX_PRIORITY", "OBITUARY", "Scheduler"]

#: Priorities from minus to plus this are accepted.
MAX_PRIORITY: Final = 1 << 20
#: Seconds within which the parent of a worker process is expected to tell how it ended.
OBITUARY: Final = 2.0
#: What is said of a task that its client has cancelled.
CANCELLED_BY_CLIENT: Final = "the client has cancelled it"
#: Only transfers of at least this many bytes say something about the bandwidth; the newest count for this much.
_MEASURED: Final = 1_000_000
_NEWEST: Final = 0.2


@final
class Scheduler:
    """Tasks, workers and clients of one cluster."""

    def __init__(self) -> None:
        self.placement: Final = Placement()
        self.ledger: Final = Ledger(self.placement)
        #: Every task that is not forgotten, by key.
        self.tasks: Final = self.ledger.tasks
        #: By ident; also those whose end has not been explained yet.
        self.workers: Final[dict[str, Worker]] = {}
        self.clients: dict[str, Client] = {}
        self.needs: Final[dict[tuple[frozenset[str] | None, frozenset[tuple[str, float]]], Needs]] = {}
        #: What is to become of results, and of workers that are to leave.
        self.steward: Final = Stewardship(self.ledger, self.placement, self.workers, self.needs)
        #: Workers whose connection is gone, while we wait for the news of how they ended.
        self.lost: dict[Worker, None] = {}
        #: How many tasks have been submitted, and how many functions.
        self.serial: int = 0
        self.fid: int = 0

    def __repr__(self) -> str:
        return f"<Scheduler of {len(self.tasks)} tasks, {len(self.workers)} workers, {len(self.clients)} clients>"

    def flush(self) -> list[Peer]:
        """The peers that have messages to be sent: take them with :meth:`Peer.take`."""
        dirty = self.placement.dirty
        self.placement.dirty = []
        return dirty

    def end(self) -> None:
        """What every event ends with: all that follows from it."""
        ledger = self.ledger
        while True:
            if ledger.to_start or ledger.started or ledger.doomed:
                ledger.begin()
            if ledger.loose:
                ledger.settle()
            if not (ledger.to_start or ledger.started or ledger.doomed or ledger.loose):
                break
        if ledger.tended:
            self.steward.work()
        self.placement.dispatch()

    # -- workers come and go -------------------------------------------------------------------------------------

    def on_worker(
        self,
        ident: str,
        address: str,
        name: str,
        host: str,
        nthreads: int,
        memory_limit: int,
        resources: dict[str, float],
        supervised: bool,
        now: float,
    ) -> Worker:
        """A worker has joined.

        :param ident: unique among all workers that ever join.
        :param address: ``host:port`` where others fetch its data.
        :param memory_limit: bytes; 0 for no limit.
        :param supervised: its parent process will report how it ended.
        """
        if ident in self.workers:
            raise ProtocolError(f"there is a worker {ident!r} already")
        self.placement.now = now
        worker = Worker(ident, address, name, host, nthreads, memory_limit, resources, supervised, now)
        self.workers[ident] = worker
        for needs in self.needs.values():
            if needs.fits(worker):
                needs.workers.append(worker)
                worker.needs.append(needs)
        self.placement.add(worker)
        self.end()
        return worker

    def on_worker_left(self, worker: Worker, now: float) -> None:
        """A worker has said goodbye: nothing that it ran is to be blamed."""
        if worker.lost:
            return
        self.placement.now = now
        self.lose_worker(worker)
        self.bury(worker)
        self.end()

    def on_worker_lost(self, worker: Worker, now: float) -> None:
        """The connection to a worker broke. What it was running waits until it is known how it ended."""
        if worker.lost or worker.ident not in self.workers:
            return
        self.placement.now = now
        self.lose_worker(worker)
        if worker.supervised:
            worker.lost_at = now
            self.lost[worker] = None
        else:
            suspects = [attempt for attempt in worker.processing if attempt not in worker.away]
            self.blame(worker, suspects if len(suspects) <= worker.nthreads else [], None, 0, "")
            self.bury(worker)
        self.end()

    def on_worker_died(
        self, ident: str, executing: list[int], exitcode: int | None, pid: int, host: str, log: str, now: float
    ) -> None:
        """The parent of a worker process tells how it ended, and which attempts it was executing."""
        worker = self.workers.get(ident)
        if worker is None:
            return
        self.placement.now = now
        if not worker.lost:
            self.lose_worker(worker)
        self.blame(worker, executing, exitcode, pid, log)
        self.bury(worker)
        self.end()

    def lose_worker(self, worker: Worker) -> None:
        """Give a worker nothing more, and do without what it held."""
        worker.lost = True
        self.placement.bar(worker)
        for attempt in list(worker.stopping):
            self.stopped(worker, attempt)
        held = worker.held
        worker.held = {}
        worker.nbytes = 0
        gone: list[Task] = []
        for task in held:
            if task.only_at(worker):
                gone.append(task)
            task.holders.remove(worker)
        for task in gone:
            self.ledger.lose(task, worker)
        self.steward.lose(worker)

    def blame(self, worker: Worker, executing: list[int], exitcode: int | None, pid: int, log: str) -> None:
        """A worker has died: give up what was executing, or away, when too many others died."""
        blamed = set(executing)
        info: dict[str, Any] = {
            "exitcode": exitcode,
            "host": worker.host,
            "pid": pid,
            "worker": worker.name,
            "log": log,
        }
        for attempt, task in list(worker.processing.items()):
            if attempt in blamed:
                task.deaths += 1
                if task.deaths < MAX_DEATHS:
                    continue
                text = f"{task.deaths} workers died while they ran {task.key!r}, {worker.name!r} was the last one"
                details = {**info, "key": task.key, "deaths": task.deaths}
            elif attempt in worker.away:
                task.absences += 1
                if task.absences < MAX_ABSENCES:
                    continue
                text = (
                    f"{task.absences} workers died while {task.key!r} waited there and occupied no thread, "
                    f"{worker.name!r} was the last one. What it has submitted may have killed them."
                )
                details = {**info, "key": task.key, "deaths": task.absences, "away": True}
            else:
                continue
            self.ledger.fail(task, ("died", b"", text, details), task.key)

    def bury(self, worker: Worker) -> None:
        """Let others run what a lost worker had to do."""
        self.lost.pop(worker, None)
        del self.workers[worker.ident]
        for task in list(worker.processing.values()):
            self.placement.unassign(worker, task)
            self.ledger.wait_again(task, False)

    # -- what workers say ----------------------------------------------------------------------------------------
    # The news that a worker has died comes from its parent, and may overtake what it said last: that is ignored.

    def on_finished(self, worker: Worker, rows: list[tuple[int, int, float, bytes | None]], now: float) -> None:
        """Rows of attempt, bytes of the result, seconds of execution, and the packed result if it rides along."""
        if worker.lost:
            return
        placement = self.placement
        placement.now = now
        worker.progress = now
        ledger = self.ledger
        for attempt, nbytes, seconds, result in rows:
            task = worker.processing.get(attempt)
            if task is None:
                self.late(worker, attempt, True)
                continue
            placement.unassign(worker, task)
            if seconds > 0.0:  # else the worker had it already
                task.group.learn(seconds, nbytes)
            ledger.finish(task, worker, nbytes, result)
        self.reweigh(worker, now)

    def on_failed(self, worker: Worker, attempt: int, seconds: float, error: Failure, now: float) -> None:
        """A task has raised."""
        if worker.lost:
            return
        placement = self.placement
        placement.now = now
        worker.progress = now
        task = worker.processing.get(attempt)
        if task is None:
            self.late(worker, attempt, False)
        else:
            placement.unassign(worker, task)
            if task.retries > 0:
                task.retries -= 1
                self.ledger.wait_again(task, False)
            else:
                self.ledger.fail(task, error, task.key)
        self.reweigh(worker, now)

    def late(self, worker: Worker, attempt: int, finished: bool) -> None:
        """News of an attempt that the worker is not processing, as far as we know."""
        if attempt > worker.attempts or attempt < 1:
            raise ProtocolError(f"attempt {attempt} was never given to this worker")
        key = self.stopped(worker, attempt)
        if key is not None and finished:
            task = self.tasks.get(key)
            if task is None or (task.worker is not worker and worker not in task.holders):
                worker.add("release", key)  # the cancellation crossed the result on its way
                self.placement.mark(worker)

    def stopped(self, worker: Worker, attempt: int) -> str | None:
        """A cancelled attempt has stopped: who wants to know is told. Returns the key."""
        key = worker.stopping.pop(attempt, None)
        if key is None:
            return None
        if attempt in worker.away:
            worker.away.discard(attempt)
        else:
            worker.fading -= 1
        for client in worker.mourners.pop(attempt, NO_CLIENTS):
            if self.clients.get(client.ident) is client:
                client.send(("cancelled", [key], CANCELLED_BY_CLIENT))
                self.placement.mark(client)
        return key

    def on_stopped(self, worker: Worker, attempts: list[int], now: float) -> None:
        """Cancelled attempts that occupy no thread any more."""
        if worker.lost:
            return
        self.placement.now = now
        for attempt in attempts:
            if attempt in worker.processing:
                raise ProtocolError(f"attempt {attempt} stopped, and nobody had cancelled it")
            self.late(worker, attempt, False)
        self.reweigh(worker, now)

    def on_seceded(self, worker: Worker, attempts: list[int], now: float) -> None:
        """These have given up their threads while they wait for something."""
        placement = self.placement
        for attempt in self.judged(worker, attempts):
            placement.step_aside(worker, attempt)
        self.reweigh(worker, now)

    def on_rejoined(self, worker: Worker, attempts: list[int], now: float) -> None:
        """These have threads again."""
        placement = self.placement
        for attempt in self.judged(worker, attempts):
            placement.step_back(worker, attempt)
        self.reweigh(worker, now)

    def on_started(self, worker: Worker, attempts: list[int], now: float) -> None:
        """These are being executed now."""
        for attempt in self.judged(worker, attempts):
            task = worker.processing.get(attempt)
            if task is not None:
                for client in task.clients:
                    client.add("started", task.key)
                    self.placement.mark(client)

    def judged(self, worker: Worker, attempts: list[int]) -> list[int]:
        """The attempts that a worker has news of, which must have been given to it; none if it is lost."""
        if worker.lost:
            return []
        for attempt in attempts:
            if attempt > worker.attempts or attempt < 1:
                raise ProtocolError(f"attempt {attempt} was never given to this worker")
        return attempts

    def reweigh(self, worker: Worker, now: float) -> None:
        """The load of a worker has changed."""
        placement = self.placement
        placement.now = now
        placement.touch(worker)
        placement.weigh(worker)
        self.end()

    def on_returned(self, worker: Worker, attempts: list[int], now: float) -> None:
        """Recalled attempts that the worker has given back, not started."""
        if worker.lost:
            return
        placement = self.placement
        placement.now = now
        for attempt in attempts:
            task = worker.processing.get(attempt)
            if task is None:
                self.late(worker, attempt, False)
            elif not task.recalled:
                raise ProtocolError(f"attempt {attempt} was given back, and nobody had asked for it")
            else:
                placement.unassign(worker, task)
                self.ledger.wait_again(task, True)
        placement.weigh(worker)
        self.end()

    def on_acquired(self, worker: Worker, rows: list[tuple[str, int]], now: float) -> None:
        """Rows of key and bytes: copies that the worker has fetched or made."""
        if worker.lost:
            return
        self.placement.now = now
        ledger = self.ledger
        for key, nbytes in rows:
            task = self.tasks.get(key)
            if task is not None and ledger.tended:
                ledger.arrive(worker, task)
            if task is not None and task.state == MEMORY:
                if worker not in task.holders:
                    ledger.hold(worker, task)
            elif (
                task is not None
                and (task.state == WAITING or task.state == QUEUED)
                and not task.group.kind & ACTOR  # of which this was one that is lost
            ):
                # It was lost elsewhere, and is to be computed again: not any more.
                if task.state == QUEUED:
                    self.placement.withdraw(task)
                ledger.finish(task, worker, nbytes, None)
            elif task is None or task.worker is not worker:
                worker.add("release", key)
                self.placement.mark(worker)
        self.end()

    def on_missing(self, worker: Worker, rows: list[tuple[str, str]], now: float) -> None:
        """Rows of key and ident: the worker could not get that key from that worker."""
        if worker.lost:
            return
        self.placement.now = now
        given_up: set[str] = set()
        for key, ident in rows:
            task = self.tasks.get(key)
            if task is None:
                worker.add("release", key)  # it may have been told to acquire it
                self.placement.mark(worker)
                continue
            holder = self.workers.get(ident)
            if key in given_up:
                continue
            here = holder in task.holders or not task.holders
            if here and task in worker.acquiring and not needs_input(worker, task):
                self.steward.copy_failed(worker, task)  # and its holder is not to be blamed: this may be the last copy
                given_up.add(key)
                continue
            if holder is not None and holder in task.holders:  # perhaps the worker itself, which was to drop it
                holder.add("release", key)
                self.placement.mark(holder)
                self.ledger.unhold(holder, task)
            if task.holders:
                worker.add("where", place(task))
                self.placement.mark(worker)
            else:
                self.take_back(worker, task)
                self.steward.copy_failed(worker, task)
        self.end()

    def on_unusable(self, worker: Worker, keys: list[str], now: float) -> None:
        """The worker was to acquire these, and never can: they cannot be pickled where they are, or unpickled there."""
        if worker.lost:
            return
        self.placement.now = now
        for key in keys:
            task = self.tasks.get(key)
            if task is not None:
                self.steward.copy_failed(worker, task)
        self.end()

    def take_back(self, worker: Worker, dep: Task) -> None:
        """A worker waits for what nobody holds: its tasks that need it wait here instead."""
        for task in dep.dependents:
            if task.state == PROCESSING and task.worker is worker:
                self.placement.cancel(worker, task)
                self.ledger.wait_again(task, False)

    def on_heartbeat(
        self, worker: Worker, rss: int, cpu: float, fetched_bytes: int, fetch_seconds: float, now: float
    ) -> None:
        """Memory in bytes, percent of a CPU, and what was fetched in how long since the last heartbeat."""
        worker.rss = rss
        worker.cpu = cpu
        if fetched_bytes >= _MEASURED and fetch_seconds > 0.0:
            self.placement.bandwidth += (fetched_bytes / fetch_seconds - self.placement.bandwidth) * _NEWEST

    # -- clients -------------------------------------------------------------------------------------------------

    def on_client(self, ident: str, now: float) -> Client:
        if ident in self.clients:
            raise ProtocolError(f"there is a client {ident!r} already")
        client = Client(ident)
        self.clients[ident] = client
        return client

    def on_client_gone(self, client: Client, now: float) -> None:
        """What only this client wanted is dropped."""
        self.placement.now = now
        if self.clients.pop(client.ident, None) is None:
            return
        for task in list(client.wants):
            self.ledger.unwant(client, task)
        for group in client.groups.values():
            group.clients -= 1
            if group.clients == 0 and group.tasks == 0:
                self.ledger.groups.pop((group.digest, group.kind), None)
        client.groups = {}
        self.end()

    def on_functions(self, client: Client, rows: list[tuple[int, bytes, str, bytes, int]]) -> None:
        """Rows of the client's number for a function, digest, name, pickle, and what kind it is."""
        groups = self.ledger.groups
        for number, digest, name, blob, kind in rows:
            if number in client.groups:
                raise ProtocolError(f"the function number {number} is defined twice")
            group = groups.get((digest, kind))
            if group is None:
                self.fid += 1
                group = Group(self.fid, name, digest, blob, kind)
                groups[(digest, kind)] = group
            group.clients += 1
            client.groups[number] = group

    def on_submit(
        self,
        client: Client,
        keys: list[str],
        functions: list[int],
        payloads: list[bytes],
        deps: list[list[int | str]],
        wanted: list[int] | None,
        options: tuple[int, list[str] | None, dict[str, float] | None, int],
        now: float,
    ) -> None:
        """Tasks in columns, dependencies before dependents.

        :param functions: numbers of :meth:`on_functions`.
        :param deps: per task the indices, or the keys of earlier tasks, that it depends on; [] if no task has any.
        :param wanted: the indices of the results that the client wants; None for all.
        :param options: priority, workers, resources and retries.
        """
        judge_columns(client, keys, functions, payloads, deps, wanted)
        priority, names, resources, retries = options
        needs = self.needs_for(names, resources)
        if priority < -MAX_PRIORITY or priority > MAX_PRIORITY:
            raise ProtocolError(f"priority {priority} is not between minus and plus {MAX_PRIORITY}")
        if priority:
            self.placement.levels = True
        self.placement.now = now
        ledger = self.ledger
        tasks = self.tasks
        groups = client.groups
        base = self.serial - priority * LEVEL
        count = len(keys)
        self.serial += count
        batch: list[Task] = []
        linked = len(deps) > 0
        for index in range(count):
            key = keys[index]
            task = tasks.get(key)
            if task is None:
                task = Task(key, groups[functions[index]], base + index, payloads[index], needs)
                task.retries = retries
                tasks[key] = task
                if linked and deps[index]:
                    self.link_row(task, deps[index], batch)
            batch.append(task)
        if wanted is None:
            for task in batch:
                ledger.want(client, task)
        else:
            for index in wanted:
                ledger.want(client, batch[index])
            for task in batch:
                if task.state == RELEASED and task.alive == 0 and not task.clients:
                    ledger.loose.append(task)  # nobody needs it, which the client should have known
        self.end()

    def link_row(self, task: Task, row: list[int | str], batch: list[Task]) -> None:
        deps: list[Task] = []
        for dep in row:
            if isinstance(dep, int):
                deps.append(batch[dep])
            else:
                known = self.tasks.get(dep)
                if known is None:
                    text = f"{task.key!r} depends on {dep!r}, which has been released"
                    task.whole = False
                    failure: Failure = ("lost", b"", text, {"key": dep, "worker": ""})
                    self.ledger.fail(task, failure, task.key)
                else:
                    deps.append(known)
        self.ledger.link(task, deps)

    def needs_for(self, names: list[str] | None, resources: dict[str, float] | None) -> Needs:
        """The one record for these needs."""
        if names is None and not resources:
            return ANYWHERE
        allowed = None if names is None else frozenset(names)
        amounts = {} if resources is None else resources
        for name, amount in amounts.items():
            if not amount >= 0.0:
                raise ProtocolError(f"a task cannot need {amount} of {name!r}")
        which = (allowed, frozenset(amounts.items()))
        needs = self.needs.get(which)
        if needs is None:
            needs = Needs(allowed, amounts)
            self.needs[which] = needs
            for worker in self.workers.values():
                if not worker.barred and needs.fits(worker):
                    needs.workers.append(worker)
                    worker.needs.append(needs)
        return needs

    def on_want(self, client: Client, keys: list[str], now: float) -> None:
        """The client wants results of tasks that others have submitted."""
        self.placement.now = now
        for key in keys:
            task = self.tasks.get(key)
            if task is None:
                client.send(("cancelled", [key], "it has been released"))
                self.placement.mark(client)
            else:
                self.ledger.want(client, task)
        self.end()

    def on_release(self, client: Client, keys: list[str], now: float) -> None:
        """The client does not want these results any more."""
        self.placement.now = now
        for key in keys:
            task = self.tasks.get(key)
            if task is not None and task in client.wants:  # it may have crossed our news that there is nothing to want
                self.ledger.unwant(client, task)
        self.end()

    def on_cancel(self, client: Client, keys: list[str], now: float, force: bool = False) -> None:
        """The client does not want these results any more, and wants to hear when it is sure not to get them.

        :param force: also if others want them, for whom they fail.
        """
        self.placement.now = now
        gone: list[tuple[str, Worker | None, int]] = []
        for key in keys:
            task = self.tasks.get(key)
            if task is None or task not in client.wants:
                continue
            worker = task.worker
            attempt = task.attempt
            self.ledger.unwant(client, task)
            if force and task.needed() and task.state != MEMORY:
                info: dict[str, Any] = {"key": key, "client": client.ident}
                text = f"{key!r} was cancelled by another client, {client.ident!r}"
                self.ledger.fail(task, ("cancelled", b"", text, info), key)
            gone.append((key, worker, attempt))
        self.end()
        stopped: list[str] = []
        for key, worker, attempt in gone:
            if worker is not None and attempt in worker.stopping:
                worker.mourners.setdefault(attempt, []).append(client)
            else:
                stopped.append(key)
        if stopped:
            client.send(("cancelled", stopped, CANCELLED_BY_CLIENT))
            self.placement.mark(client)

    def on_retry(self, client: Client, keys: list[str], now: float) -> None:
        """Failed tasks are to be tried again, with all that failed before them."""
        self.placement.now = now
        stack: list[Task] = []
        for key in keys:
            task = self.tasks.get(key)
            if task is None or task not in client.wants:
                client.send(("cancelled", [key], "it has been released"))
                self.placement.mark(client)
            elif task.state == ERRED and task.whole:
                stack.append(task)
            elif task.state == ERRED:
                self.ledger.say_failed(client, task)
            elif task.state == MEMORY:
                self.ledger.say_done(client, task)
        while stack:
            task = stack.pop()
            if task.state == ERRED and task.whole:
                task.move(RELEASED)
                task.failure = None
                task.culprit = ""
                task.deaths = 0
                task.absences = 0
                stack.extend(task.deps)
                if task.needed():
                    self.ledger.to_start.append(task)
        self.end()

    def on_placed(self, client: Client, rows: list[tuple[str, int, str]], now: float) -> None:
        """Rows of key, bytes and worker: values that the client has stored there, and wants."""
        for key, _, _ in rows:
            task = self.tasks.get(key)
            if task is not None and task.payload is not None:
                raise ProtocolError(f"the client has scattered {key!r}, which is a task")
        self.placement.now = now
        for key, nbytes, ident in rows:
            task = self.tasks.get(key)
            if task is None:
                task = Task(key, self.scattered(), self.serial, None, ANYWHERE)
                self.serial += 1
                self.tasks[key] = task
            worker = self.workers.get(ident)
            if task.state == MEMORY:
                if worker is not None and not worker.lost and worker not in task.holders:
                    self.ledger.hold(worker, task)
            elif task.state == RELEASED:
                if worker is None or worker.lost:
                    text = f"{key!r} was scattered to a worker that is gone"
                    self.ledger.fail(task, ("lost", b"", text, {"key": key, "worker": ident}), key)
                else:
                    task.move(MEMORY)
                    task.nbytes = nbytes
                    self.ledger.hold(worker, task)
            self.ledger.want(client, task)
        self.end()

    def scattered(self) -> Group:
        """The group of all values that were scattered."""
        group = self.ledger.groups.get((b"", PURE))
        if group is None:
            self.fid += 1
            group = Group(self.fid, "scatter", b"", b"", PURE)
            self.ledger.groups[(b"", PURE)] = group
        return group

    def on_client_missing(self, client: Client, rows: list[tuple[str, str]], now: float) -> None:
        """Rows of key and ident: the client could not get that result from that worker."""
        for key, ident in rows:
            task = self.tasks.get(key)
            if task is None or task not in client.wants or task.state != MEMORY:
                continue  # it will hear when there is news
            worker = task.holders[-1]
            if task.group.kind & ACTOR or (worker.ident == ident and len(task.holders) > 1):
                worker = task.holders[0]
            client.add("done", (key, task.nbytes, None, worker.ident, worker.address))
            self.placement.mark(client)

    def on_fence(self, client: Client, number: int) -> None:
        """The client wants to know when it has all news of before this."""
        client.send(("fence", number))
        self.placement.mark(client)

    # -- what is asked for -----------------------------------------------------------------------------------------

    def on_replicate(
        self, keys: list[str], count: int, idents: list[str] | None, then: Callable[[Goal], object], now: float
    ) -> Goal:
        """Each of these results is to be held by ``count`` workers (0: by all), of those named if any are.

        :param then: called with the goal when it is over; it may not tell the scheduler of events.
        """
        self.placement.now = now
        tasks = [self.tasks[key] for key in keys if key in self.tasks]
        goal = self.steward.replicate(tasks, count, self.named(idents), then)
        for key in keys:
            if key not in self.tasks:
                goal.problems.append(f"{key!r} is gone")
        self.end()
        return goal

    def on_rebalance(
        self, keys: list[str] | None, idents: list[str] | None, then: Callable[[Goal], object], now: float
    ) -> Goal:
        """Results, all or these, are to move from full workers to empty ones, among all or those named."""
        self.placement.now = now
        tasks = None if keys is None else [self.tasks[key] for key in keys if key in self.tasks]
        goal = self.steward.rebalance(tasks, self.named(idents), then)
        self.end()
        return goal

    def on_retire(
        self, workers: list[Worker], reason: str, close: bool, force: bool, then: Callable[[Goal], object], now: float
    ) -> list[Goal]:
        """Workers are to leave once others hold what they hold; with ``force``, even if something is lost.

        :param close: their processes are to end; otherwise they stay connected, and get nothing to do.
        :param then: called with each goal when it is over; it may not tell the scheduler of events.
        """
        self.placement.now = now
        goals = self.steward.retire(workers, reason, close, force, then)
        self.end()
        return goals

    def on_withdraw(self, goal: Goal, now: float) -> None:
        """Nobody waits for copies or moves any more. A worker that is to leave leaves all the same."""
        self.placement.now = now
        self.steward.withdraw(goal)
        self.end()

    def on_restart(self, idents: list[str], reason: str, now: float) -> None:
        """Nobody gets anything that was wanted, and these workers are to be replaced by new ones."""
        self.placement.now = now
        for client in self.clients.values():
            keys = [task.key for task in client.wants]
            for task in list(client.wants):
                self.ledger.unwant(client, task)
            if keys:
                client.send(("cancelled", keys, reason))
                self.placement.mark(client)
        self.steward.end_all(reason)
        self.end()
        self.on_replace(idents, reason, now)

    def on_replace(self, idents: list[str], reason: str, now: float) -> None:
        """The processes of these workers are to end, and their parents to start others."""
        self.placement.now = now
        for ident in idents:
            worker = self.workers[ident]
            self.placement.bar(worker)
            worker.send(("shutdown", reason, True))
            self.placement.mark(worker)
        self.end()

    def named(self, idents: list[str] | None) -> list[Worker] | None:
        return None if idents is None else [self.workers[ident] for ident in idents]

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def restless(self) -> bool:
        """True while something might have to be done although nothing happens."""
        placement = self.placement
        if self.lost:
            return True
        return len(placement.idle) > 0 and (
            len(placement.stuffed) > 0 or len(placement.crowded) > 0 or len(placement.needy) > 0
        )

    def tick(self, now: float) -> None:
        """Time has passed."""
        placement = self.placement
        placement.now = now
        for worker in list(self.lost):
            if now - worker.lost_at > OBITUARY:
                self.bury(worker)
        for needs in list(placement.needy):
            if needs.workers:
                placement.call_worker_for(needs)
        self.end()

    # -- questions -----------------------------------------------------------------------------------------------

    def explain(self, key: str) -> str:
        """Why a task is where it is, in one sentence."""
        return explain(self.tasks, self.workers, key)

    def who_has(self, keys: list[str] | None) -> dict[str, list[str]]:
        """The idents of the workers that hold each result."""
        found: dict[str, list[str]] = {}
        for key in self.tasks if keys is None else keys:
            task = self.tasks.get(key)
            found[key] = [] if task is None else [worker.ident for worker in task.holders]
        return found

    def has_what(self) -> dict[str, list[str]]:
        """The keys of the results that each worker holds, by ident. Those that are lost are not among them."""
        workers = self.workers.items()
        return {ident: [task.key for task in worker.held] for ident, worker in workers if not worker.lost}

    def progress(self) -> list[tuple[str, dict[str, int]]]:
        """For each group of tasks its name, and how many are in each state; forgotten ones were done or dropped."""
        return [
            (group.name, {NAMES[state]: group.counts[state] for state in range(FORGOTTEN + 1)})
            for group in self.ledger.groups.values()
        ]

    def info(self) -> dict[str, Any]:
        """Workers, counts and figures, as a dict of simple values."""
        workers: dict[str, Any] = {}
        for ident, worker in self.workers.items():
            if not worker.lost:
                workers[ident] = {
                    "name": worker.name,
                    "address": worker.address,
                    "host": worker.host,
                    "nthreads": worker.nthreads,
                    "memory_limit": worker.memory_limit,
                    "resources": worker.resources,
                    "processing": len(worker.processing),
                    "held": len(worker.held),
                    "nbytes": worker.nbytes,
                    "rss": worker.rss,
                    "cpu": worker.cpu,
                    "occupancy": worker.occupancy,
                    "retiring": worker.barred,
                }
        counts = {NAMES[state]: 0 for state in range(ERRED + 1)}
        for group in self.ledger.groups.values():
            for state in range(ERRED + 1):
                counts[NAMES[state]] += group.counts[state]
        return {
            "workers": workers,
            "tasks": counts,
            "bandwidth": self.placement.bandwidth,
        }

    def sanity_check(self) -> None:
        """Check every invariant.

        :raises InternalError: one does not hold.
        """
        check(self.ledger, self.placement, self.workers, self.clients)
        self.steward.check()


def needs_input(worker: Worker, dep: Task) -> bool:
    """True if the worker has a task to do that needs this result."""
    for task in dep.dependents:  # noqa: SIM110 - compiled, a generator would be slower
        if task.worker is worker:
            return True
    return False


def judge_columns(
    client: Client,
    keys: list[str],
    functions: list[int],
    payloads: list[bytes],
    deps: list[list[int | str]],
    wanted: list[int] | None,
) -> None:
    """Raise ProtocolError if the columns of a submission do not fit together."""
    count = len(keys)
    if len(functions) != count or len(payloads) != count or (deps and len(deps) != count):
        raise ProtocolError(
            f"a submission of {count} keys with {len(functions)} functions, {len(payloads)} payloads "
            f"and {len(deps)} lists of dependencies"
        )
    groups = client.groups
    for number in functions:
        if number not in groups:
            raise ProtocolError(f"the function number {number} was never defined")
    for index in range(len(deps)):
        for dep in deps[index]:
            if isinstance(dep, int) and not 0 <= dep < index:
                raise ProtocolError(f"task {index} of a submission depends on task {dep}, which is not before it")
    if wanted is not None:
        for index in wanted:
            if not 0 <= index < count:
                raise ProtocolError(f"task {index} is wanted of a submission of {count}")
