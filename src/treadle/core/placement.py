"""Which worker runs which ready task, and when it is sent there.

A ready task waits in one of three kinds of queue, each a heap with the most urgent task on top: the queue of the
worker where its inputs are, the queue of those with the same special needs, or the common one. A worker with room
draws the most urgent task of the queues that it may draw from, and one with nothing to do takes from the queues of
others, or asks for the return of what waits behind a long task elsewhere.

Nothing here walks over all workers or all tasks. Idle workers, workers with a queue and workers with a backlog are
each kept in a pool, of which at most a few members are looked at per event, others each time.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Final, final

from treadle.core.records import ACTOR, ANYWHERE, ASYNCHRONOUS, PURE, Cohort, Needs, Peer, Pool, Task, Worker
from treadle.core.states import PROCESSING, QUEUED
from treadle.errors import InternalError

__all__ = ["BACKLOG", "LEVEL", "PRIOR", "Placement"]

#: How many seconds of work each thread of a worker should have before it: deep for short tasks, one spare for long.
BACKLOG: Final = 0.008
#: No worker has more unfinished tasks than this per thread.
MAX_BACKLOG: Final = 1000
#: What a task is taken to last while none of its group has finished, and the least that any takes, in seconds.
PRIOR: Final = 0.02
FLOOR: Final = 1e-5
#: A share of the memory limit, and bytes for a worker without one, that the results of a backlog may take.
BACKLOG_SHARE: Final = 0.1
BACKLOG_BYTES: Final = 256e6
#: Above this share of its limit a worker is given a task without inputs only when it has nothing else to do.
FULL: Final = 0.7
#: What it costs to fetch anything at all, and bytes per second until that is measured.
LATENCY: Final = 0.001
BANDWIDTH: Final = 200e6
#: A copy is computed rather than fetched if that takes less than this share of the time, and the value is big.
REMAKE: Final = 0.5
REMAKE_BYTES: Final = 1e5
#: A backlog is left alone if it will be done this soon, or if something was heard of it this short ago, in seconds.
SOON: Final = 0.002
STUCK: Final = 0.005
#: A worker is not asked again for tasks within this time, in seconds.
PAUSE: Final = 0.02
#: How many members of a set are looked at per event.
LOOKS: Final = 8
#: In the flags of a task, beside the kind of its function: a small result is to be sent along.
ALONG: Final = 1
#: Priorities are steps of this size in a task's order.
LEVEL: Final = 1 << 40
#: How many neighbouring root tasks stay together at most.
COHORT: Final = 64


@final
class Placement:
    """The queues, the workers' room, and the decisions."""

    def __init__(self) -> None:
        self.now: float = 0.0
        self.nthreads: int = 0
        self.queue: list[tuple[int, Task]] = []
        #: How many entries of ``queue`` stand for tasks that have left it.
        self.stale: int = 0
        #: Needs with a queue that is not empty.
        self.needy: dict[Needs, None] = {}
        #: Asynchronous tasks that are ready, and some that were meanwhile; all workers.
        self.afloat: list[Task] = []
        self.everybody: Pool = Pool()
        #: Workers with a free thread; with room for a backlog only; with a queue; with tasks that wait for a thread.
        self.idle: Pool = Pool()
        self.open: Pool = Pool()
        self.crowded: Pool = Pool()
        self.stuffed: Pool = Pool()
        #: Workers of which something has changed since the last dispatch.
        self.touched: list[Worker] = []
        #: Peers with messages to send.
        self.dirty: list[Peer] = []
        #: Bytes per second between two workers.
        self.bandwidth: float = BANDWIDTH
        #: True once a task was submitted with a priority.
        self.levels: bool = False
        #: The queue that the task last found is on top of.
        self.source: list[tuple[int, Task]] = self.queue

    # -- workers come and go -------------------------------------------------------------------------------------

    def add(self, worker: Worker) -> None:
        self.nthreads += worker.nthreads
        self.everybody.add(worker)
        self.touch(worker)
        self.weigh(worker)

    def remove(self, worker: Worker) -> None:
        """Give the worker nothing more; what is in its queue goes to the common one."""
        self.nthreads -= worker.nthreads
        for members in (self.everybody, self.idle, self.open, self.crowded, self.stuffed):
            members.discard(worker)
        entries = worker.queue
        worker.queue = []
        worker.queued = 0.0
        for order, task in entries:
            if task.state == QUEUED and task.home is worker:
                task.home = None
                heappush(self.queue, (order, task))

    def bar(self, worker: Worker) -> None:
        """Give the worker nothing more, whatever a task needs."""
        if not worker.barred:
            worker.barred = True
            self.remove(worker)
            for needs in worker.needs:
                needs.workers.remove(worker)
            worker.needs = []

    def touch(self, worker: Worker) -> None:
        if not worker.touched:
            worker.touched = True
            self.touched.append(worker)

    def mark(self, peer: Peer) -> None:
        if not peer.dirty:
            peer.dirty = True
            self.dirty.append(peer)

    def weigh(self, worker: Worker) -> None:
        """Put the worker into the sets where it belongs by its load."""
        if worker.barred:
            return
        count = worker.present
        busy = count + worker.fading
        nthreads = worker.nthreads
        if busy < nthreads:
            self.idle.add(worker)
            self.open.discard(worker)
        else:
            self.idle.discard(worker)
            if busy < nthreads + spares(nthreads) or worker.occupancy < BACKLOG * nthreads:
                self.open.add(worker)
            else:
                self.open.discard(worker)
        if count and busy > nthreads:
            self.stuffed.add(worker)
        else:
            self.stuffed.discard(worker)

    # -- queues --------------------------------------------------------------------------------------------------

    def enqueue(self, task: Task) -> None:
        """A task is ready: put it where the right worker will find it."""
        task.move(QUEUED)
        if task.needs is not ANYWHERE:
            needs = task.needs
            heappush(needs.queue, (task.order, task))
            self.needy[needs] = None
            self.call_worker_for(needs)
            return
        if task.group.kind & ASYNCHRONOUS:
            self.afloat.append(task)
            return
        if task.deps:
            home = self.choose(task)
            if home is not None:
                self.push(home, task)
                return
        heappush(self.queue, (task.order, task))

    def enqueue_anywhere(self, task: Task) -> None:
        """A task comes back from a worker: whoever is idle may have it."""
        if task.needs is not ANYWHERE or task.group.kind & ASYNCHRONOUS:
            self.enqueue(task)
            return
        task.move(QUEUED)
        heappush(self.queue, (task.order, task))

    def enqueue_roots(self, tasks: list[Task]) -> None:
        """Tasks without inputs that others depend on, in their order: neighbours are kept together."""
        size = len(tasks) // max(1, self.nthreads)
        if size > COHORT:
            size = COHORT
        if size < 2:
            for task in tasks:
                self.enqueue(task)
            return
        start = 0
        while start < len(tasks):
            members = tasks[start : start + size]
            start += size
            cohort = Cohort(members)
            for task in members:
                task.move(QUEUED)
                task.cohort = cohort
            first = members[0]
            heappush(self.queue, (first.order, first))

    def push(self, worker: Worker, task: Task) -> None:
        task.home = worker
        seconds = estimate(task)
        task.seconds = seconds
        worker.queued += seconds
        heappush(worker.queue, (task.order, task))
        self.crowded.add(worker)
        self.touch(worker)

    def leave(self, task: Task, heir: Worker | None) -> None:
        """A queued task is drawn, or not to be run after all. Its entry in the heap is left behind.

        :param heir: who should get the next one of its cohort; None for anybody.
        """
        home = task.home
        if home is not None:
            task.home = None
            home.queued -= task.seconds
        cohort = task.cohort
        if cohort is not None:
            task.cohort = None
            if cohort.next < len(cohort.tasks) and cohort.tasks[cohort.next] is task:
                self.advance(cohort, heir)

    def withdraw(self, task: Task) -> None:
        """A queued task is not to be run after all; the caller moves it to another state."""
        common = task.home is None and task.needs is ANYWHERE and not task.group.kind & ASYNCHRONOUS
        self.leave(task, task.home)
        if common:
            self.stale += 1
            if self.stale > 1000 and self.stale * 2 > len(self.queue):
                # In place: somebody may be looking at this list as the source of a task.
                self.queue[:] = [entry for entry in self.queue if waits_in_common(entry[1])]
                heapify(self.queue)
                self.stale = 0

    def advance(self, cohort: Cohort, worker: Worker | None) -> None:
        """The first task of a cohort has left: the next one takes its place, if possible with the same worker."""
        tasks = cohort.tasks
        cohort.next += 1
        while cohort.next < len(tasks):
            task = tasks[cohort.next]
            if task.cohort is cohort and task.state == QUEUED:
                if worker is not None and not worker.barred:
                    self.push(worker, task)
                else:
                    heappush(self.queue, (task.order, task))
                return
            cohort.next += 1

    def top(self, queue: list[tuple[int, Task]]) -> Task | None:
        """The most urgent task of a queue; entries of tasks that have left are dropped."""
        while queue:
            entry = queue[0]
            task = entry[1]
            if task.state == QUEUED and task.order == entry[0]:
                return task
            heappop(queue)
            if queue is self.queue and self.stale > 0:
                self.stale -= 1
        return None

    # -- where a task would best run -----------------------------------------------------------------------------

    def choose(self, task: Task) -> Worker | None:
        """The holder of inputs where a task will be done first; None if those who have nothing to do are quicker."""
        deps = task.deps
        total = 0.0
        best: Worker | None = None
        if len(deps) == 1 and len(deps[0].holders) == 1:
            best = deps[0].holders[0]
            if best.barred:
                return None
            total = float(deps[0].nbytes)
            wait = self.wait(best)
            if wait <= LATENCY:
                return best
        else:
            candidates: list[Worker] = []
            for dep in deps:
                total += dep.nbytes
                for looked, holder in enumerate(dep.holders):
                    if looked == LOOKS:
                        break
                    if holder.barred:
                        continue
                    if holder.scratch == 0.0:
                        candidates.append(holder)
                    # A dependency counts even if it is empty: fetching it costs a message.
                    holder.scratch += dep.nbytes + 1.0
            wait = 0.0
            lowest = 0.0
            for worker in candidates:
                waits = self.wait(worker)
                cost = waits
                away = total + len(deps) - worker.scratch
                if away > 0.5:
                    cost += LATENCY + away / self.bandwidth
                if best is None or cost < lowest:
                    best = worker
                    lowest = cost
                    wait = waits
            for worker in candidates:
                worker.scratch = 0.0
            if best is None:
                return None
            if lowest <= LATENCY:
                return best
            wait = lowest
        if len(self.idle) and LATENCY + total / self.bandwidth < wait:
            return None  # whoever has nothing to do fetches the inputs before this worker would be ready
        return best

    def wait(self, worker: Worker) -> float:
        """Seconds until a task that is sent to this worker now would start."""
        if worker.busy() < worker.nthreads and not worker.queue:
            return 0.0
        return (worker.occupancy + worker.queued) / worker.nthreads

    def fetch_seconds(self, task: Task, worker: Worker) -> float:
        """How long the worker would take to get the task's inputs that it does not hold."""
        seconds = 0.0
        for dep in task.deps:
            if worker not in dep.holders:
                seconds += LATENCY + dep.nbytes / self.bandwidth
        return seconds

    def remakes(self, dep: Task) -> bool:
        """True if a worker should compute this input for itself instead of fetching it."""
        group = dep.group
        return (
            dep.nbytes > REMAKE_BYTES
            and group.kind & PURE != 0
            and not group.kind & (ASYNCHRONOUS | ACTOR)
            and dep.payload is not None
            and not dep.deps
            and dep.needs is ANYWHERE
            and group.count > 0
            and group.seconds < REMAKE * dep.nbytes / self.bandwidth
        )

    # -- dispatch ------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """After an event: give work to all that have room for it, the idle first."""
        if self.afloat and len(self.everybody):
            self.launch()
        futile = 0
        idle = self.idle
        while len(idle) and futile < 4 and (self.queue or len(self.crowded) or self.needy):
            worker = idle.next()
            quota = (len(self.queue) + len(idle) - 1) // len(idle) + len(worker.queue)
            given = self.fill(worker, max(1, quota))
            if given == 0:
                given = self.take_from_others(worker)
            futile = 0 if given else futile + 1
        touched = self.touched
        if touched:
            self.touched = []
            for worker in touched:
                worker.touched = False
                while not worker.barred and self.fill(worker, MAX_BACKLOG) == MAX_BACKLOG:
                    pass
        spare = self.open
        while len(spare) and self.queue:
            worker = spare.next()
            quota = (len(self.queue) + len(spare) - 1) // len(spare)
            self.fill(worker, max(1, quota))
            spare.discard(worker)  # it has what it may have until it says something
        if self.levels and self.queue:
            self.overtake()
        if len(idle) and len(self.stuffed):
            self.recall(idle.next())

    def launch(self) -> None:
        """Send the asynchronous tasks that are ready: they need no room."""
        afloat = self.afloat
        self.afloat = []
        for task in afloat:
            if task.state == QUEUED:
                worker = self.choose(task) if task.deps else None
                self.assign(self.everybody.next() if worker is None else worker, task)

    def overtake(self) -> None:
        """Send tasks of a high priority to a few workers that have less urgent ones waiting, to be run before these."""
        urgent = self.top(self.queue)
        if urgent is None:
            return
        level = urgent.order // LEVEL
        behind: list[Worker] = []
        for worker in self.stuffed.some(LOOKS):
            if level < worker.worst // LEVEL:
                behind.append(worker)
        for worker in behind:
            self.fill(worker, worker.nthreads)

    def fill(self, worker: Worker, quota: int) -> int:
        """Send the most urgent tasks for which the worker has room, at most so many. Returns how many."""
        given = 0
        while given < quota:
            task = self.best(worker)
            if task is None:
                break
            if not self.room(worker, task):
                # A task that would fill its memory must not keep out those that would empty it.
                task = self.top(worker.queue)
                self.source = worker.queue
                if task is None or not self.room(worker, task):
                    break
            self.draw(worker, task)
            given += 1
        if given:
            self.weigh(worker)
        if not worker.queue:
            self.crowded.discard(worker)
        return given

    def best(self, worker: Worker) -> Task | None:
        """The most urgent task that this worker may draw; ``source`` is set to its queue."""
        found = self.top(worker.queue) if worker.queue else None
        self.source = worker.queue
        if self.queue:
            task = self.top(self.queue)
            if task is not None and (found is None or task.order < found.order):
                found = task
                self.source = self.queue
        for needs in worker.needs:
            if needs.queue:
                task = self.top(needs.queue)
                if task is None:
                    self.needy.pop(needs, None)
                elif (found is None or task.order < found.order) and needs.free(worker):
                    found = task
                    self.source = needs.queue
        if self.levels and len(self.crowded):
            return self.more_urgent(worker, found)
        return found

    def more_urgent(self, worker: Worker, found: Task | None) -> Task | None:
        """A task of a higher priority in the queue of another worker goes first, wherever its inputs are."""
        for other in self.crowded.some(LOOKS):
            if other is not worker:
                task = self.top(other.queue)
                if task is not None and found is not None and task.order // LEVEL < found.order // LEVEL:
                    found = task
                    self.source = other.queue
        return found

    def room(self, worker: Worker, task: Task) -> bool:
        """True if the worker should be sent this task now."""
        count = worker.present
        busy = count + worker.fading
        nthreads = worker.nthreads
        group = task.group
        if group.kind & ASYNCHRONOUS:
            return True
        limit = worker.memory_limit
        if limit and busy and not task.deps and worker.nbytes + worker.expected + group.nbytes > FULL * limit:
            return False
        if busy < nthreads:
            return True
        if busy > count or busy >= MAX_BACKLOG * nthreads:
            return False  # nobody knows for how long a task that was cancelled goes on
        if self.levels and count < 2 * (nthreads + spares(nthreads)) and task.order // LEVEL < worker.worst // LEVEL:
            return True  # it will be next there, before what was sent earlier
        budget = limit * BACKLOG_SHARE if limit else BACKLOG_BYTES
        if worker.expected + group.nbytes > budget:
            return False
        if worker.occupancy + estimate(task) <= BACKLOG * nthreads:
            return True
        return busy < nthreads + spares(nthreads)

    def draw(self, worker: Worker, task: Task) -> None:
        """Take the task off the top of ``source`` and send it."""
        heappop(self.source)
        self.leave(task, worker)
        self.assign(worker, task)

    def take_from_others(self, worker: Worker) -> int:
        """An idle worker without work takes some from the longest of a few other queues."""
        victim: Worker | None = None
        empty: Worker | None = None
        for other in self.crowded.some(LOOKS):
            if other is not worker:
                if self.top(other.queue) is None:
                    empty = other
                elif other in self.idle:
                    continue  # it is about to draw from its queue itself
                elif victim is None or other.queued > victim.queued:
                    victim = other
        if empty is not None:
            self.crowded.discard(empty)
        if victim is None:
            return 0
        quota = (len(victim.queue) + 1) // 2
        given = 0
        while given < quota:
            task = self.top(victim.queue)
            if task is None or not self.room(worker, task):
                break
            if self.fetch_seconds(task, worker) > self.wait(victim):
                break
            half = split(task.cohort) if task.cohort is not None else None
            if half is None:
                self.source = victim.queue
                self.draw(worker, task)
            else:  # the worker takes over the second half of a run of neighbours
                task = half.tasks[0]
                self.leave(task, worker)
                self.assign(worker, task)
            given += 1
        if given:
            self.weigh(worker)
        return given

    def recall(self, idle: Worker) -> None:
        """Somebody has nothing to do: ask a worker with a backlog to give some of it back."""
        victim: Worker | None = None
        longest = 0.0
        for worker in self.stuffed.some(LOOKS):
            if surplus(worker) <= 0:
                continue
            stuck = self.now - worker.progress
            wait = worker.occupancy / worker.nthreads
            if (wait > SOON or stuck > STUCK) and self.now - worker.recall > PAUSE and wait + stuck > longest:
                victim = worker
                longest = wait + stuck
        if victim is None:
            return
        count = (surplus(victim) + 1) // 2
        attempts: list[int] = []
        for attempt in reversed(victim.processing):
            task = victim.processing[attempt]
            if task.recalled or task.needs is not ANYWHERE or attempt in victim.away:
                continue
            if self.fetch_seconds(task, idle) <= longest:
                task.recalled = True
                victim.recalled += 1
                attempts.append(attempt)
                if len(attempts) == count:
                    break
        victim.recall = self.now
        if attempts:
            victim.send(("recall", attempts))
            self.mark(victim)

    def call_worker_for(self, needs: Needs) -> None:
        """A task with special needs is ready: look at a few workers that could run it, another few each time."""
        workers = needs.workers
        count = len(workers)
        task = self.top(needs.queue)
        if task is None:
            self.needy.pop(needs, None)
            return
        looks = min(count, 2 * LOOKS)
        for _ in range(looks):
            needs.turn = (needs.turn + 1) % count
            worker = workers[needs.turn]
            if needs.free(worker) and self.room(worker, task):
                self.touch(worker)
                return

    # -- sending and getting back --------------------------------------------------------------------------------

    def assign(self, worker: Worker, task: Task) -> None:
        """Send a task to a worker."""
        task.move(PROCESSING)
        group = task.group
        attempt = worker.attempts + 1
        worker.attempts = attempt
        seconds = 0.0
        if group.kind & ASYNCHRONOUS:
            worker.away.add(attempt)
        else:
            seconds = estimate(task)
            if worker.present == 0:
                worker.worst = task.order
                worker.progress = self.now
            elif task.order > worker.worst:
                worker.worst = task.order
            worker.present += 1
        worker.processing[attempt] = task
        task.worker = worker
        task.attempt = attempt
        task.seconds = seconds
        worker.occupancy += seconds
        expected = group.nbytes
        task.expected = expected
        worker.expected += expected
        for name, amount in task.needs.resources.items():
            worker.free[name] -= amount
        if group.fid not in worker.functions:
            self.introduce(worker, group.fid, group.name, group.blob)
        where: list[Any] = []
        keys: list[str] = []
        for dep in task.deps:
            keys.append(dep.key)
            if worker not in dep.holders:
                if self.remakes(dep):
                    self.remake(worker, dep)
                else:
                    where.append(place(dep))
        flags = group.kind & ~PURE
        if task.clients:
            flags |= ALONG
        worker.run((attempt, task.key, task.order, group.fid, task.payload, keys, flags), where)
        if not worker.dirty:
            self.mark(worker)

    def introduce(self, worker: Worker, fid: int, name: str, blob: bytes) -> None:
        worker.functions.add(fid)
        worker.add("functions", (fid, name, blob))

    def remake(self, worker: Worker, dep: Task) -> None:
        group = dep.group
        if group.fid not in worker.functions:
            self.introduce(worker, group.fid, group.name, group.blob)
        worker.add("remake", (dep.key, dep.order, group.fid, dep.payload))

    def unassign(self, worker: Worker, task: Task) -> None:
        """A task is no longer with the worker; the caller moves it to another state."""
        attempt = task.attempt
        del worker.processing[attempt]
        if worker.away and attempt in worker.away:
            worker.away.discard(attempt)
        else:
            worker.present -= 1
        task.worker = None
        if task.recalled:
            task.recalled = False
            worker.recalled -= 1
        worker.occupancy -= task.seconds
        worker.expected -= task.expected
        for name, amount in task.needs.resources.items():
            worker.free[name] += amount
        if worker.present == 0:
            worker.occupancy = 0.0
        if not worker.processing:  # no rounding error outlives the tasks that it came from
            worker.expected = 0.0
            worker.free.update(worker.resources)

    def cancel(self, worker: Worker, task: Task) -> None:
        """Take a task back from a worker that may be running it."""
        attempt = task.attempt
        away = attempt in worker.away
        self.unassign(worker, task)
        if not worker.lost:
            worker.stopping[attempt] = task.key
            if away:
                worker.away.add(attempt)
            else:
                worker.fading += 1
            worker.add("cancel", attempt)
            self.mark(worker)
            self.weigh(worker)

    def step_aside(self, worker: Worker, attempt: int) -> None:
        """A task that the worker is executing gives up its thread."""
        if attempt in worker.away:
            return
        task = worker.processing.get(attempt)
        if task is not None:
            worker.away.add(attempt)
            worker.present -= 1
            worker.occupancy -= task.seconds
            task.seconds = 0.0
        elif attempt in worker.stopping:
            worker.away.add(attempt)
            worker.fading -= 1

    def step_back(self, worker: Worker, attempt: int) -> None:
        """It has a thread again."""
        if attempt not in worker.away:
            return
        worker.away.discard(attempt)
        task = worker.processing.get(attempt)
        if task is None:
            worker.fading += 1
        else:
            worker.present += 1
            task.seconds = estimate(task)
            worker.occupancy += task.seconds

    # -- checks --------------------------------------------------------------------------------------------------

    def check(self, workers: dict[str, Worker]) -> None:
        """Whether the sets and sums are what they should be.

        :raises InternalError: one is not.
        """
        if self.nthreads != sum(worker.nthreads for worker in workers.values() if not worker.barred):
            raise InternalError(f"{self.nthreads} threads are counted")
        for worker in workers.values():
            busy = worker.busy()
            present = sum(1 for attempt in worker.processing if attempt not in worker.away)
            fading = sum(1 for attempt in worker.stopping if attempt not in worker.away)
            if worker.present != present or worker.fading != fading:
                raise InternalError(
                    f"{worker!r} counts {worker.present} and {worker.fading} for {present} and {fading}"
                )
            if busy + len(worker.away) != len(worker.processing) + len(worker.stopping):
                raise InternalError(f"{worker!r} has {worker.away} away, and not all of them are with it")
            if not worker.mourners.keys() <= worker.stopping.keys():
                raise InternalError(f"{worker!r} has news to come of {set(worker.mourners) - set(worker.stopping)}")
            seconds = 0.0
            for attempt, task in worker.processing.items():
                seconds += task.seconds
                if task.worker is not worker or task.attempt != attempt or task.state != PROCESSING:
                    raise InternalError(f"{worker!r} has attempt {attempt} of {task!r}: {task.describe()}")
            if abs(seconds - worker.occupancy) > 1e-6:
                raise InternalError(f"the occupancy of {worker!r} is {worker.occupancy}, its tasks take {seconds}")
            if sum(task.nbytes for task in worker.held) != worker.nbytes:
                raise InternalError(f"{worker!r} counts {worker.nbytes} bytes")
            if worker.lost and not worker.barred:
                raise InternalError(f"{worker!r} is lost, and not barred")
            if worker.barred:
                pools = (self.everybody, self.idle, self.open, self.crowded, self.stuffed)
                if worker.needs or worker.queue or any(worker in pool for pool in pools):
                    raise InternalError(f"{worker!r} is barred, and still may get tasks")
            elif (worker in self.idle) != (busy < worker.nthreads):
                raise InternalError(f"{worker!r} has {busy} tasks, idle: {worker in self.idle}")
            elif (worker in self.stuffed) != (worker.present > 0 and busy > worker.nthreads):
                raise InternalError(f"{worker!r} stuffed: {worker in self.stuffed}")
            if worker.lost:
                continue
            free = free_of(worker)
            if any(abs(amount - worker.free[name]) > 1e-6 for name, amount in free.items()):
                raise InternalError(f"{worker!r} counts {worker.free} of {worker.resources} as free")
            if abs(sum(task.expected for task in worker.processing.values()) - worker.expected) > 1e-3:
                raise InternalError(f"{worker!r} expects {worker.expected} bytes")
            if worker.recalled != sum(1 for task in worker.processing.values() if task.recalled):
                raise InternalError(f"{worker!r} counts {worker.recalled} recalled tasks")
            if worker.scratch:
                raise InternalError(f"the scratch sum of {worker!r} was left at {worker.scratch}")
            for entry in worker.queue:
                if entry[1].home is worker and worker not in self.crowded:
                    raise InternalError(f"{worker!r} has a queue and is not among the crowded")


def estimate(task: Task) -> float:
    """Seconds that a task is expected to take."""
    group = task.group
    if group.count == 0:
        return PRIOR
    return group.seconds if group.seconds > FLOOR else FLOOR


def free_of(worker: Worker) -> dict[str, float]:
    """What of the worker's resources its tasks leave free."""
    free = dict(worker.resources)
    for task in worker.processing.values():
        for name, amount in task.needs.resources.items():
            free[name] -= amount
    return free


def surplus(worker: Worker) -> int:
    """How many tasks that cannot have started the worker could be asked to give back."""
    unasked = worker.present - worker.recalled
    return min(unasked, unasked + worker.fading - worker.nthreads)


def spares(nthreads: int) -> int:
    """How many long tasks a worker has waiting, so that no thread waits for the scheduler."""
    return 1 + nthreads // 4


def place(dep: Task) -> tuple[str, int, list[tuple[str, str]]]:
    """Where a result can be fetched."""
    found: list[tuple[str, str]] = []
    for holder in dep.holders:
        found.append((holder.ident, holder.address))
        if len(found) == 4:
            break
    return dep.key, dep.nbytes, found


def waits_in_common(task: Task) -> bool:
    return task.state == QUEUED and task.home is None


def split(cohort: Cohort) -> Cohort | None:
    """Make the second half of what is left of a cohort one of its own, if there is enough."""
    tasks = cohort.tasks
    middle = cohort.next + (len(tasks) - cohort.next + 1) // 2
    half = [task for task in tasks[middle:] if task.cohort is cohort and task.state == QUEUED]
    if not half:
        return None
    other = Cohort(half)
    for task in half:
        task.cohort = other
    cohort.tasks = tasks[:middle]
    return other
