"""The state of one worker, without threads, sockets or clocks.

Tasks, each an attempt with a number (remakes have the number 0):

=============  ==========================================  ============================================================
from           event                                       to
=============  ==========================================  ============================================================
(new)          ``on_run``: its value is held               (gone), "finished"
(new)          ``on_run``, ``on_remake``: all inputs held  ready
(new)          ``on_run``: inputs lacking                  waiting
waiting        the last lacking input is held              ready
waiting        an input can never be had here              (gone), "failed"
ready          ``take``: all inputs held                   executing
ready          ``take``: an input was released meanwhile   waiting
ready          ``take_away``: asynchronous                 executing, away
waiting/ready  ``on_recall``                               (gone), "returned"
waiting/ready  ``on_cancel``                               (gone), "stopped"
ready          a remake whose value nobody awaits now      (gone)
executing      ``on_success``                              (gone), "finished" (a remake: "acquired")
executing      ``on_failure``                              (gone), "failed" (a remake: its value is fetched)
executing      ``on_recall``                               executing
executing      ``secede``                                  executing, away, "seceded"
away           ``rejoin``, a thread is free                executing, "rejoined"
away           ``rejoin``, none is                         away, returning
returning      ``admit``: a thread is free                 executing, "rejoined"
executing      ``on_cancel``                               cancelled
cancelled      ``on_success``, ``on_failure``              (gone), "stopped" (a remake: nothing)
=============  ==========================================  ============================================================

A task that is executing occupies one of the threads, unless it is away: it waits for something, or is asynchronous.

Values of keys:

=============  ==========================================  ============================================================
from           event                                       to
=============  ==========================================  ============================================================
(new)          a task needs it, a place is known           queued
(new)          a task needs it, no place is known          absent, "missing" unless it is being made again here
absent         ``on_where``, ``on_run`` with a place       queued
queued         ``on_remake``                               absent
queued         ``fetches``: its turn                       fetching
(new)          ``on_acquire``                              queued; waited for by nobody, but kept
fetching       ``on_fetched``, a task waits, or kept       held, "acquired"
fetching       ``on_fetched``, no task waits               (gone)
fetching       a holder failed, others are known           queued
fetching       a holder failed, no other is known          absent, "missing" for each that failed
fetching       ``on_unusable``                             (gone), "unusable" if it was to be kept
absent/queued  the last task that waited is gone           (gone)
any            ``on_success``, ``on_stored``               held
held           ``on_release``                              (gone)
=============  ==========================================  ============================================================

A task that is executing holds its inputs itself, so that what is released meanwhile leaves the store at once.
Messages for the scheduler are appended to ``outbox``. Values that leave the store are moved to ``garbage``, for the
caller to drop once it has left its lock: dropping a value can take long and run anybody's code.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, Final, final

from treadle.core.worker_data import ABSENT, FETCHING, GONE, QUEUED, Datum, Fetching, Place
from treadle.errors import ProtocolError

__all__ = ["ACTOR", "ALONG", "ASYNCHRONOUS", "HANDS", "STARTS", "TURN", "Job", "WorkerState"]

#: Attempt, key, order, function, payload, keys of the dependencies, flags.
RunRow = tuple[int, str, int, int, bytes, list[str], int]
#: Key, order, function, payload.
RemakeRow = tuple[str, int, int, bytes]
#: Key, bytes, holders.
WhereRow = tuple[str, int, list[Place]]
#: Key, value, bytes.
ValueRow = tuple[str, Any, int]

#: The states of a job.
WAITING: Final = 0
READY: Final = 1
EXECUTING: Final = 2
CANCELLED: Final = 3
OVER: Final = 4

STATE_NAMES: Final = ["waiting", "ready", "executing", "cancelled", "over"]

#: What the flags of a task say: send a small result along, it is asynchronous, tell when it starts, it makes an actor.
ALONG: Final = 1
ASYNCHRONOUS: Final = 2
STARTS: Final = 4
ACTOR: Final = 8

NO_KEYS: Final[list[str]] = []
NO_VALUES: Final[list[Any]] = []
NO_DATA: Final[list[Datum]] = []

#: What a worker's state may want: a turn of the event loop, and more threads at work.
TURN: Final = 1
HANDS: Final = 2

#: The order of what no task waits for: after everything else.
ACQUIRED: Final = 1 << 62

#: Stands for the holder in "missing" where no holder is known.
NOBODY: Final = ""


@final
class Job:
    """One attempt at a task, or one remake of a value."""

    def __init__(
        self, attempt: int, key: str, order: int, fid: int, payload: bytes, deps: list[str], flags: int
    ) -> None:
        #: 0 for a remake.
        self.attempt: Final = attempt
        self.key: Final = key
        #: The lowest order runs first.
        self.order: Final = order
        self.fid: Final = fid
        self.payload: bytes = payload
        self.deps: Final = deps
        #: A sum of ALONG, ASYNCHRONOUS, STARTS, ACTOR.
        self.flags: Final = flags
        self.state: int = READY
        #: If executing: it occupies no thread.
        self.away: bool = False
        #: If waiting: for what, and how much of that is still lacking.
        self.awaited: list[Datum] = NO_DATA
        self.lacking: int = 0
        #: If executing: the values of the dependencies, until somebody takes them.
        self.values: list[Any] = NO_VALUES

    def __repr__(self) -> str:
        return f"<Job {self.attempt} {self.key!r} {STATE_NAMES[self.state]}, order {self.order}>"


@final
class WorkerState:
    """What a worker has to do, does, and holds.

    :param nthreads: how many tasks may be executing at the same time.
    """

    def __init__(self, nthreads: int) -> None:
        self.nthreads: Final = nthreads
        #: Name and pickle of each function, by number.
        self.functions: dict[int, tuple[str, bytes]] = {}
        #: The attempts that wait, are ready, or are executing (also if cancelled), by number.
        self.jobs: dict[int, Job] = {}
        self.last_attempt: int = 0
        #: Order, serial and job: a heap. Jobs that are not ready any more are skipped.
        self.heap: list[tuple[int, int, Job]] = []
        self.serial: int = 0
        #: How many jobs are ready and need a thread, and how many occupy one. Both include remakes.
        self.ready: int = 0
        self.executing: int = 0
        #: Asynchronous jobs that are ready, and some that were dropped meanwhile.
        self.ready_away: list[Job] = []
        #: Order, serial and job: a heap of those that were away and want a thread again.
        self.returning: list[tuple[int, int, Job]] = []
        #: Value and bytes of each key that is held.
        self.store: dict[str, tuple[Any, int]] = {}
        self.held_bytes: int = 0
        #: The keys that are needed and not held.
        self.awaited: dict[str, Datum] = {}
        self.fetching: Final = Fetching()
        #: Messages for the scheduler.
        self.outbox: list[tuple[Any, ...]] = []
        #: The rows of the last message, if that is "finished": more can be appended.
        self.finished: list[tuple[int, int, float, bytes | None]] | None = None
        self.garbage: list[Any] = []
        #: Jobs that have begun since the outbox was taken, and whose start is to be told.
        self.begun: list[Job] = []

    def __repr__(self) -> str:
        return (
            f"<WorkerState {len(self.jobs)} jobs: {self.ready} ready, {self.executing} executing; "
            f"{len(self.store)} keys of {self.held_bytes} bytes held, {len(self.awaited)} awaited>"
        )

    # What the scheduler says.

    def on_functions(self, rows: list[tuple[int, str, bytes]]) -> None:
        for fid, name, blob in rows:
            self.functions[fid] = (name, blob)

    def on_run(self, rows: list[RunRow], where: list[WhereRow]) -> None:
        """Tasks to run, and where those of their inputs are that are not here.

        :raises ProtocolError: an attempt number is used again, or a function was never sent.
        """
        touched: list[Datum] = []
        for attempt, key, order, fid, payload, deps, flags in rows:
            if attempt <= self.last_attempt:
                raise ProtocolError(
                    f"attempt {attempt} (of {key!r}) is not above {self.last_attempt}, the last one: numbers only grow"
                )
            self.check_function(fid, key)
            self.last_attempt = attempt
            if key in self.store and not flags & ACTOR:
                self.report_finished(attempt, self.store[key][1], 0.0, None)
                continue
            job = Job(attempt, key, order, fid, payload, deps, flags)
            self.jobs[attempt] = job
            if deps:
                self.await_inputs(job, touched)
            if job.lacking == 0:
                self.make_ready(job)
        if where:
            self.learn_places(where, touched)
        if touched:
            self.pursue(touched)

    def on_remake(self, rows: list[RemakeRow]) -> None:
        """Values to be computed here rather than fetched, because tasks of the next "run" need them.

        :raises ProtocolError: a function was never sent.
        """
        for key, order, fid, payload in rows:
            self.check_function(fid, key)
            if key in self.store:
                continue
            datum = self.awaited.get(key)
            if datum is None:
                datum = Datum(key)
                self.awaited[key] = datum
            elif datum.state == FETCHING or datum.remake is not None:
                continue
            elif datum.state == QUEUED:
                self.fetching.withdraw(datum)
            datum.asked = False
            datum.remake = Job(0, key, order, fid, payload, NO_KEYS, 0)
            self.make_ready(datum.remake)

    def on_where(self, rows: list[WhereRow]) -> None:
        """New places of values that were reported as missing; a row without a place says that there is none yet."""
        touched: list[Datum] = []
        self.learn_places(rows, touched)
        self.pursue(touched)

    def on_acquire(self, rows: list[WhereRow]) -> None:
        """Values to be fetched and kept, although no task here needs them."""
        touched: list[Datum] = []
        for key, _, _ in rows:
            if key in self.store:
                self.post(("acquired", [(key, self.store[key][1])]))
                continue
            datum = self.awaited.get(key)
            if datum is None:
                datum = Datum(key)
                datum.order = ACQUIRED
                self.awaited[key] = datum
            datum.keep = True
        self.learn_places(rows, touched)
        self.pursue(touched)

    def on_recall(self, attempts: list[int]) -> None:
        """Give back those that have not started.

        :raises ProtocolError: a number that was never given.
        """
        returned = self.drop_unstarted(attempts, False)
        if returned:
            self.post(("returned", returned))

    def on_cancel(self, attempts: list[int]) -> None:
        """Drop these; of those that are executing, the result.

        :raises ProtocolError: a number that was never given.
        """
        stopped = self.drop_unstarted(attempts, True)
        if stopped:
            self.post(("stopped", stopped))

    def on_release(self, keys: list[str]) -> None:
        """Drop these values. A task here that turns out to need one asks for it again."""
        for key in keys:
            if key in self.store:
                value, nbytes = self.store.pop(key)
                self.held_bytes -= nbytes
                self.garbage.append(value)
                continue
            datum = self.awaited.get(key)
            if datum is None:
                continue
            datum.keep = False
            if datum.waiting == 0 and datum.state != FETCHING:
                self.drop_remake(datum)
                self.forget(datum)

    # What the threads of this worker do.

    def take(self) -> Job | None:
        """Hand out the most urgent ready job; None if none is ready, or all threads are occupied or waited for."""
        heap = self.heap
        while heap and self.executing < self.nthreads and not self.returning:
            job = heappop(heap)[2]
            if job.state != READY:
                continue
            self.ready -= 1
            if job.deps and not self.gather(job):
                continue
            self.executing += 1
            self.begin(job)
            return job
        return None

    def wants(self, idle: bool) -> int:
        """What is to be done now that a thread has taken a job, or has found none: a sum of TURN and HANDS.

        :param idle: it has found none, and sends what there is to report itself.
        """
        wanted = 0
        if (not idle and (self.outbox or self.begun)) or self.fetching.idle:
            wanted = TURN
        if self.ready_away or (self.ready > 0 and self.executing < self.nthreads):
            wanted += HANDS
        return wanted

    def stirs(self) -> bool:
        """Whether there is anything to report, to ask for, or to drop."""
        return bool(self.outbox or self.begun or self.fetching.idle or self.garbage)

    def take_away(self) -> list[Job]:
        """Hand out all asynchronous jobs that are ready. They occupy no thread."""
        jobs: list[Job] = []
        if self.ready_away:
            ready = self.ready_away
            self.ready_away = []
            for job in ready:
                if job.state == READY and (not job.deps or self.gather(job)):
                    job.away = True
                    self.begin(job)
                    jobs.append(job)
        return jobs

    def secede(self, job: Job) -> None:
        """An executing job gives up its thread: it only waits for something."""
        job.away = True
        self.executing -= 1
        if job.attempt:
            self.post(("seceded", [job.attempt]))

    def rejoin(self, job: Job) -> bool:
        """A job that is away wants a thread again. If there is none, it is one of those that :meth:`admit` lets in."""
        if self.executing < self.nthreads and not self.returning:
            self.enter(job)
            return True
        self.serial += 1
        heappush(self.returning, (job.order, self.serial, job))
        return False

    def admit(self) -> Job | None:
        """The most urgent job that may go on, if there is a thread for it now."""
        if not self.returning or self.executing >= self.nthreads:
            return None
        job = heappop(self.returning)[2]
        self.enter(job)
        return job

    def inputs(self, job: Job) -> list[Any]:
        """The values of the dependencies of a job that was just taken; they are now the caller's to let go of."""
        values = job.values
        job.values = NO_VALUES
        return values

    def on_success(self, job: Job, value: Any, nbytes: int, seconds: float, packed: bytes | None) -> None:
        """Take the result of a job.

        :param packed: the result itself, if it is to be sent along.
        """
        if not self.leave(job):
            return
        self.hold(job.key, value, nbytes)
        if job.attempt:
            self.report_finished(job.attempt, nbytes, seconds, packed)
        else:
            self.post(("acquired", [(job.key, nbytes)]))

    def on_failure(self, job: Job, seconds: float, error: Any) -> None:
        """Take the packed error of a job."""
        if not self.leave(job):
            return
        if job.attempt:
            self.post(("failed", job.attempt, seconds, error))
            return
        datum = self.awaited[job.key]
        datum.remake = None
        self.pursue([datum])

    # What becomes of requests to peers.

    def fetches(self) -> list[tuple[str, str, list[str]]]:
        """What is to be asked of peers: ident, address, keys. Each key is to be answered by one of the next four."""
        if not self.fetching.idle:
            return []
        return self.fetching.start()

    def on_fetched(self, ident: str, rows: list[ValueRow]) -> None:
        acquired: list[tuple[str, int]] = []
        for key, value, nbytes in rows:
            datum = self.landed(ident, key)
            if datum is None:
                continue
            if datum.waiting or datum.keep:
                self.hold(key, value, nbytes)
                acquired.append((key, nbytes))
            else:
                self.forget(datum)
        if acquired:
            self.post(("acquired", acquired))

    def on_not_held(self, ident: str, keys: list[str]) -> None:
        """The peer was reached and does not hold these."""
        self.pursue(self.cross_out(ident, keys))

    def on_unreachable(self, ident: str, keys: list[str]) -> None:
        """The peer cannot be reached, or the connection broke: whatever it was to give is looked for elsewhere."""
        queued = self.fetching.queued_at(ident)
        failing = self.cross_out(ident, keys)
        for datum in queued:
            self.fetching.withdraw(datum)
            remove_place(datum, ident)
            failing.append(datum)
        self.pursue(failing)

    def on_unusable(self, ident: str, key: str, error: Any) -> None:
        """The peer holds the value, but it can never be had here: it cannot be pickled there, or unpickled here.

        The tasks that wait for it fail with this packed error.
        """
        datum = self.landed(ident, key)
        if datum is None:
            return
        self.forget(datum)
        if datum.keep:
            self.post(("unusable", [key]))
        for job in datum.waiters:
            if job.state == WAITING:
                self.drop(job)
                self.post(("failed", job.attempt, 0.0, error))

    def on_stored(self, rows: list[ValueRow]) -> None:
        """Values that a client has put here."""
        for key, value, nbytes in rows:
            self.hold(key, value, nbytes)

    # What the shell takes along.

    def take_outbox(self) -> list[tuple[Any, ...]]:
        outbox = self.outbox
        self.outbox = []
        self.finished = None
        if self.begun:
            # What has ended meanwhile need not be told to have started: that would cost as much as its end.
            started = [job.attempt for job in self.begun if job.state == EXECUTING]
            self.begun = []
            if started:
                outbox.append(("started", started))
        return outbox

    def take_garbage(self) -> list[Any]:
        garbage = self.garbage
        if garbage:
            self.garbage = []
        return garbage

    # Inside.

    def post(self, message: tuple[Any, ...]) -> None:
        self.outbox.append(message)
        self.finished = None

    def report_finished(self, attempt: int, nbytes: int, seconds: float, packed: bytes | None) -> None:
        rows = self.finished
        if rows is None:
            rows = []
            self.outbox.append(("finished", rows))
            self.finished = rows
        rows.append((attempt, nbytes, seconds, packed))

    def check_function(self, fid: int, key: str) -> None:
        if fid not in self.functions:
            raise ProtocolError(f"the task {key!r} calls function {fid}, which was never sent")

    def drop_unstarted(self, attempts: list[int], cancel: bool) -> list[int]:
        """Drop those that have not started, and return them; the others are cancelled or left alone."""
        dropped: list[int] = []
        for attempt in attempts:
            if not 0 < attempt <= self.last_attempt:
                raise ProtocolError(
                    f"attempt {attempt} was never given to this worker; the last one is {self.last_attempt}"
                )
            job = self.jobs.get(attempt)
            if job is None:
                continue
            if job.state == WAITING or job.state == READY:
                self.drop(job)
                dropped.append(attempt)
            elif cancel:
                job.state = CANCELLED
        return dropped

    def drop(self, job: Job) -> None:
        """Forget a task that has not started."""
        del self.jobs[job.attempt]
        if job.state == READY and not job.flags & ASYNCHRONOUS:
            self.ready -= 1
        job.state = OVER
        job.payload = b""  # its entry stays in the heap for a while
        for datum in job.awaited:
            if datum.state == GONE:
                continue
            datum.waiting -= 1
            if datum.waiting == 0 and datum.state != FETCHING:
                self.abandon(datum)
        job.awaited = NO_DATA

    def abandon(self, datum: Datum) -> None:
        """Nobody waits for a value any more. One that is being made or fetched is left to come."""
        remake = datum.remake
        if datum.keep:
            return
        if remake is None:
            self.forget(datum)
        elif remake.state == READY:
            self.drop_remake(datum)
            self.forget(datum)

    def forget(self, datum: Datum) -> None:
        if datum.state == QUEUED:
            self.fetching.withdraw(datum)
        datum.state = GONE
        del self.awaited[datum.key]

    def drop_remake(self, datum: Datum) -> None:
        job = datum.remake
        datum.remake = None
        if job is None:
            return
        if job.state == READY:
            self.ready -= 1
            job.state = OVER
        elif job.state == EXECUTING:
            job.state = CANCELLED

    def leave(self, job: Job) -> bool:
        """A job has ended. False if it was cancelled, so that nobody cares how."""
        if not job.away:
            self.executing -= 1
        cancelled = job.state == CANCELLED
        job.state = OVER
        attempt = job.attempt
        if attempt:
            del self.jobs[attempt]
            if cancelled:
                self.post(("stopped", [attempt]))
        return not cancelled

    def begin(self, job: Job) -> None:
        job.state = EXECUTING
        if job.flags & STARTS:
            self.begun.append(job)

    def enter(self, job: Job) -> None:
        job.away = False
        self.executing += 1
        if job.attempt:
            self.post(("rejoined", [job.attempt]))

    def make_ready(self, job: Job) -> None:
        job.state = READY
        if job.flags & ASYNCHRONOUS:
            self.ready_away.append(job)
            return
        self.ready += 1
        self.serial += 1
        heappush(self.heap, (job.order, self.serial, job))

    def gather(self, job: Job) -> bool:
        """Collect the inputs of a job; if one was released meanwhile, the job waits again."""
        values: list[Any] = []
        for key in job.deps:
            held = self.store.get(key)
            if held is None:
                touched: list[Datum] = []
                self.await_inputs(job, touched)
                self.pursue(touched)
                return False
            values.append(held[0])
        job.values = values
        return True

    def await_inputs(self, job: Job, touched: list[Datum]) -> None:
        """Let a job wait for its inputs that are not held. Those added to ``touched`` are to be pursued."""
        for key in job.deps:
            if key in self.store:
                continue
            datum = self.awaited.get(key)
            if datum is None:
                datum = Datum(key)
                self.awaited[key] = datum
            if datum.waiting == 0 or job.order < datum.order:
                datum.order = job.order
                touched.append(datum)
            datum.waiting += 1
            datum.waiters.append(job)
            if job.lacking == 0:
                job.state = WAITING
                job.awaited = []
            job.awaited.append(datum)
            job.lacking += 1

    def learn_places(self, rows: list[WhereRow], touched: list[Datum]) -> None:
        for key, nbytes, places in rows:
            datum = self.awaited.get(key)
            if datum is None:
                continue
            if datum.state == QUEUED:
                self.fetching.withdraw(datum)
            datum.nbytes = nbytes
            known = {place[0] for place in datum.places}
            known.update(datum.failed)
            datum.places = [*datum.places, *[place for place in places if place[0] not in known]]
            touched.append(datum)

    def pursue(self, data: list[Datum]) -> None:
        """Queue values that are lacking where a place is known, and ask the scheduler where none is."""
        missing: list[tuple[str, str]] = []
        for datum in data:
            if datum.state == FETCHING or datum.state == GONE or datum.remake is not None:
                continue
            if datum.waiting == 0 and not datum.keep:
                self.forget(datum)
            elif datum.places:
                datum.asked = False
                self.fetching.enqueue(datum)
            elif datum.failed:
                for ident in datum.failed:
                    missing.append((datum.key, ident))
                datum.failed = []
                datum.asked = True
            elif not datum.asked:
                missing.append((datum.key, NOBODY))
                datum.asked = True
        if missing:
            self.post(("missing", missing))

    def landed(self, ident: str, key: str) -> Datum | None:
        """The value that a peer has answered about; None if it is not awaited from that peer any more."""
        if not self.fetching.settle(ident, key):
            return None
        datum = self.awaited.get(key)
        if datum is None or datum.state != FETCHING or datum.source != ident:
            return None
        datum.state = ABSENT
        return datum

    def cross_out(self, ident: str, keys: list[str]) -> list[Datum]:
        failing: list[Datum] = []
        for key in keys:
            datum = self.landed(ident, key)
            if datum is not None:
                remove_place(datum, ident)
                failing.append(datum)
        return failing

    def hold(self, key: str, value: Any, nbytes: int) -> None:
        """Put a value into the store; tasks that waited for nothing else become ready."""
        if key in self.store:
            old, old_bytes = self.store[key]
            self.garbage.append(old)
            self.held_bytes -= old_bytes
        self.store[key] = (value, nbytes)
        self.held_bytes += nbytes
        datum = self.awaited.get(key)
        if datum is None:
            return
        if datum.remake is not None:
            self.drop_remake(datum)
        self.forget(datum)
        for job in datum.waiters:
            if job.state == WAITING:
                job.lacking -= 1
                if job.lacking == 0:
                    job.awaited = NO_DATA
                    self.make_ready(job)

    def sanity_check(self) -> None:
        """Check every invariant, in time proportional to what is here.

        :raises InternalError: one does not hold.
        """
        from treadle.core.worker_checks import check_worker

        check_worker(self)


def remove_place(datum: Datum, ident: str) -> None:
    datum.places = [place for place in datum.places if place[0] != ident]
    datum.failed.append(ident)
