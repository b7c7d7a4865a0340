"""What the scheduler remembers: tasks, groups of similar tasks, and the peers."""

from __future__ import annotations

from typing import Any, Final, final

from treadle.core.states import NAMES, RELEASED, STATES, allowed
from treadle.errors import InternalError

__all__ = [
    "ACTOR",
    "ANYWHERE",
    "ASYNCHRONOUS",
    "NO_CLIENTS",
    "NO_TASKS",
    "NO_WORKERS",
    "PURE",
    "STARTS",
    "Client",
    "Cohort",
    "Failure",
    "Group",
    "Needs",
    "Peer",
    "Pool",
    "Task",
    "Worker",
]

#: What kinds of functions there are: calling one again gives the same result, so that a copy may be computed instead
#: of fetched; its tasks occupy no thread; clients are told when its tasks start; what it returns stays where it is, and
#: cannot be computed again.
PURE: Final = 1
ASYNCHRONOUS: Final = 2
STARTS: Final = 4
ACTOR: Final = 8

#: What is known of a failure: ``(kind, blob, text, info)``, see docs/protocol.md.
Failure = tuple[str, bytes, str, "dict[str, Any]"]

#: What sums of amounts may be off.
_ROUNDING: Final = 1e-9

#: How much the newest of many measurements counts.
_NEWEST: Final = 0.05


@final
class Group:
    """Tasks that call the same function: what one of them takes tells what the next one will take."""

    def __init__(self, fid: int, name: str, digest: bytes, blob: bytes, kind: int) -> None:
        #: The number under which workers know the function, and its pickle.
        self.fid: Final = fid
        self.name: Final = name
        self.digest: Final = digest
        self.blob: Final = blob
        #: A sum of PURE, ASYNCHRONOUS, STARTS and ACTOR.
        self.kind: Final = kind
        #: How many tasks have finished.
        self.count: int = 0
        #: Mean seconds of execution, and mean bytes of a result; recent tasks count more.
        self.seconds: float = 0.0
        self.nbytes: float = 0.0
        #: How many clients know it, and how many of its tasks are not forgotten.
        self.clients: int = 0
        self.tasks: int = 0
        #: How many tasks are in each state.
        self.counts: list[int] = [0] * STATES

    def __repr__(self) -> str:
        return f"<Group {self.name!r}: {self.count} finished, {self.seconds:.3g} s, {self.nbytes:.3g} bytes each>"

    def learn(self, seconds: float, nbytes: float) -> None:
        count = self.count + 1
        self.count = count
        weight = 1.0 / count
        if weight < _NEWEST:
            weight = _NEWEST
        self.seconds += (seconds - self.seconds) * weight
        self.nbytes += (nbytes - self.nbytes) * weight


@final
class Needs:
    """What a worker must have to run a task. Tasks with equal needs share one record and one queue."""

    def __init__(self, workers: frozenset[str] | None, resources: dict[str, float]) -> None:
        #: Names, idents, addresses or hosts of the workers that may run it; None for all.
        self.names: Final = workers
        self.resources: Final = resources
        #: False for the needs of most tasks: none.
        self.special: Final = workers is not None or len(resources) > 0
        self.queue: list[tuple[int, Task]] = []
        #: The workers that can ever satisfy this.
        self.workers: list[Worker] = []
        #: Where the search for a worker with room goes on.
        self.turn: int = 0

    def __repr__(self) -> str:
        return f"<Needs {self}>"

    def __str__(self) -> str:
        parts: list[str] = []
        if self.names is not None:
            parts.append(f"one of the workers {', '.join(sorted(self.names))}")
        for name, amount in self.resources.items():
            parts.append(f"{amount:g} {name}")
        return " with ".join(parts) if parts else "nothing"

    def fits(self, worker: Worker) -> bool:
        """True if the worker could run such a task when it is idle."""
        names = self.names
        if names is not None and not (
            worker.ident in names or worker.name in names or worker.address in names or worker.host in names
        ):
            return False
        return self._within(worker.resources)

    def free(self, worker: Worker) -> bool:
        """True if what is needed of the worker's resources is not in use."""
        return self._within(worker.free)

    def _within(self, amounts: dict[str, float]) -> bool:
        for name, amount in self.resources.items():  # noqa: SIM110 - compiled, a generator would be slower
            if amounts.get(name, 0.0) < amount - _ROUNDING:
                return False
        return True


#: The needs of most tasks.
ANYWHERE: Final = Needs(None, {})


@final
class Task:
    """One task: where it stands, who needs it, and where its result is."""

    def __init__(self, key: str, group: Group, order: int, payload: bytes | None, needs: Needs) -> None:
        self.key: Final = key
        self.group: Final = group
        #: The lower, the sooner. No two tasks have the same.
        self.order: int = order
        #: The packed arguments; None for a value that was scattered, which cannot be computed again.
        self.payload: Final = payload
        self.needs: Final = needs
        self.state: int = RELEASED
        self.deps: list[Task] = NO_TASKS
        #: Tasks that have this one among their ``deps``; forgotten ones are swept out now and then.
        self.dependents: list[Task] = NO_TASKS
        #: How many of ``dependents`` are not forgotten.
        self.alive: int = 0
        #: How many of ``dependents`` are waiting, queued or processing.
        self.users: int = 0
        #: How many of ``deps`` are not in memory, while this task is waiting.
        self.missing: int = 0
        #: The clients that want the result.
        self.clients: list[Client] = NO_CLIENTS
        #: The workers that hold the result.
        self.holders: list[Worker] = NO_WORKERS
        self.nbytes: int = 0
        #: While queued for a worker, or processing: the seconds that are counted for it there.
        self.seconds: float = 0.0
        #: While processing: where, which attempt of that worker, and the bytes that are counted for it there.
        self.worker: Worker | None = None
        self.attempt: int = 0
        self.expected: float = 0.0
        #: True while the worker is asked to give it back.
        self.recalled: bool = False
        #: While queued: the worker in whose queue it is; None for the common queue.
        self.home: Worker | None = None
        #: The run of neighbours that this task belongs to until it is drawn.
        self.cohort: Cohort | None = None
        #: False if a dependency had been released before it was submitted: then it can never run.
        self.whole: bool = True
        self.retries: int = 0
        #: How many workers died while they executed it.
        self.deaths: int = 0
        #: How many workers died while it was away on them.
        self.absences: int = 0
        #: Why it is erred, and the key of the task that failed first.
        self.failure: Failure | None = None
        self.culprit: str = ""
        group.counts[RELEASED] += 1
        group.tasks += 1

    def __repr__(self) -> str:
        return f"<Task {self.key!r} {NAMES[self.state]}>"

    def move(self, state: int) -> None:
        """Enter another state.

        :raises InternalError: there is no such transition.
        """
        counts = self.group.counts
        if not allowed(self.state, state):
            raise InternalError(f"{self.key!r} cannot go from {NAMES[self.state]} to {NAMES[state]}: {self.describe()}")
        counts[self.state] -= 1
        counts[state] += 1
        self.state = state

    def needed(self) -> bool:
        return self.users > 0 or len(self.clients) > 0

    def only_at(self, worker: Worker) -> bool:
        """True if the result, which the worker holds, is lost without it: copies of an actor only refer to it."""
        return len(self.holders) == 1 or (self.group.kind & ACTOR != 0 and self.holders[0] is worker)

    def describe(self) -> str:
        """All that is known of the task, for a report."""
        return (
            f"state {NAMES[self.state]}, {len(self.deps)} dependencies ({self.missing} missing), "
            f"{self.alive} dependents ({self.users} not done), {len(self.clients)} clients, "
            f"holders {[holder.name for holder in self.holders]}, "
            f"on {self.worker.name if self.worker is not None else None} (attempt {self.attempt}), "
            f"{self.retries} retries left, {self.deaths} deaths"
        )


@final
class Cohort:
    """A run of root tasks that are neighbours in the order: one worker takes them one after another."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks: list[Task] = tasks
        #: The index of the task that is queued; those before it have been drawn.
        self.next: int = 0

    def __repr__(self) -> str:
        return f"<Cohort of {len(self.tasks)}, {self.next} drawn>"


class Peer:
    """Somebody to whom messages are sent. They collect here until the shell takes them."""

    def __init__(self, ident: str) -> None:
        self.ident: Final = ident
        self.outbox: list[tuple[Any, ...]] = []
        #: The rows of the message that the outbox ends with, and its op.
        self.rows: list[Any] = []
        self.op: str = ""
        #: True while the peer is in the scheduler's list of those with something to send.
        self.dirty: bool = False

    def take(self) -> list[tuple[Any, ...]]:
        """The messages since the last call."""
        messages = self.outbox
        self.outbox = []
        self.rows = []
        self.op = ""
        self.dirty = False
        return messages

    def add(self, op: str, row: object) -> None:
        """Append a row to the last message if it is of this kind, and to a new one otherwise."""
        if self.op == op:
            self.rows.append(row)
            return
        rows: list[Any] = [row]
        self.rows = rows
        self.op = op
        self.outbox.append((op, rows))

    def send(self, message: tuple[Any, ...]) -> None:
        self.op = ""
        self.outbox.append(message)


@final
class Worker(Peer):
    """A worker process: what it can do, what it is doing, and what it holds."""

    def __init__(
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
    ) -> None:
        super().__init__(ident)
        self.address: Final = address
        self.name: Final = name
        self.host: Final = host
        self.nthreads: Final = nthreads
        #: Bytes; 0 for no limit.
        self.memory_limit: Final = memory_limit
        self.resources: Final = resources
        self.supervised: Final = supervised
        #: What of ``resources`` is not in use.
        self.free: dict[str, float] = dict(resources)
        #: The needs, apart from none, that this worker satisfies.
        self.needs: list[Needs] = []
        #: The tasks that it was given and has not finished, by attempt, in the order in which they were sent.
        self.processing: dict[int, Task] = {}
        #: Attempts that were cancelled and have not stopped yet.
        self.stopping: dict[int, str] = {}
        #: Attempts, processing or stopping, that occupy no thread.
        self.away: set[int] = set()
        #: How many occupy a thread or will: of those that are processing, and of those that are stopping.
        self.present: int = 0
        self.fading: int = 0
        #: Who is to be told when a cancelled attempt has stopped.
        self.mourners: dict[int, list[Client]] = {}
        self.attempts: int = 0
        #: Seconds and result bytes that ``processing`` is expected to take.
        self.occupancy: float = 0.0
        self.expected: float = 0.0
        #: Ready tasks that would best run here, and the seconds that they are expected to take.
        self.queue: list[tuple[int, Task]] = []
        self.queued: float = 0.0
        #: The order of the least urgent task that was sent since the worker had none.
        self.worst: int = 0
        #: Results that it holds, and their bytes.
        self.held: dict[Task, None] = {}
        self.nbytes: int = 0
        #: The functions that it knows.
        self.functions: set[int] = set()
        #: For sums over workers while a task is placed.
        self.scratch: float = 0.0
        #: When it last finished something or had nothing to do, and when it was last asked to give tasks back.
        self.progress: float = now
        self.recall: float = -1e9
        #: How many of ``processing`` it is asked to give back.
        self.recalled: int = 0
        #: The results of which it was told to acquire a copy, and has not said that it did.
        self.acquiring: dict[Task, None] = {}
        #: True if it gets nothing more, because it is to leave, or is lost.
        self.barred: bool = False
        #: True between the loss of the connection and the news of how the process ended.
        self.lost: bool = False
        self.lost_at: float = 0.0
        self.touched: bool = False
        #: As the last heartbeat said.
        self.rss: int = 0
        self.cpu: float = 0.0

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} at {self.address}, {len(self.processing)} processing, {len(self.held)} held>"

    def busy(self) -> int:
        """How many tasks occupy a thread or will."""
        return self.present + self.fading

    def run(self, row: tuple[Any, ...], where: list[Any]) -> None:
        """Append a task, and the places of what it needs, to the messages."""
        if self.op == "run":
            self.rows.append(row)
            if where:
                last: list[Any] = self.outbox[-1][2]
                last.extend(where)
            return
        rows: list[Any] = [row]
        self.rows = rows
        self.op = "run"
        self.outbox.append(("run", rows, where))


@final
class Pool:
    """Some of the workers: joining, leaving and looking at a few members in turn take the same time whatever its size.

    A dict would keep the order of joining, but has to step over all who have left to find its first member.
    """

    def __init__(self) -> None:
        self.members: list[Worker] = []
        self._places: dict[Worker, int] = {}
        #: Whose turn it is.
        self._turn: int = 0

    def __repr__(self) -> str:
        return f"<Pool of {len(self.members)}>"

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, worker: Worker) -> bool:
        return worker in self._places

    def add(self, worker: Worker) -> None:
        if worker not in self._places:
            self._places[worker] = len(self.members)
            self.members.append(worker)

    def discard(self, worker: Worker) -> None:
        place = self._places.pop(worker, -1)
        if place >= 0:
            last = self.members.pop()
            if last is not worker:
                self.members[place] = last
                self._places[last] = place

    def next(self) -> Worker:
        """Each member in turn. There has to be one."""
        turn = self._turn
        if turn >= len(self.members):
            turn = 0
        self._turn = turn + 1
        return self.members[turn]

    def some(self, count: int) -> list[Worker]:
        """At most so many members, others each time."""
        return [self.next() for _ in range(min(count, len(self.members)))]


@final
class Client(Peer):
    """A client: what it wants, and the functions that it has sent."""

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.wants: dict[Task, None] = {}
        self.groups: dict[int, Group] = {}

    def __repr__(self) -> str:
        return f"<Client {self.ident!r} wants {len(self.wants)}>"


NO_TASKS: Final[list[Task]] = []
NO_CLIENTS: Final[list[Client]] = []
NO_WORKERS: Final[list[Worker]] = []
