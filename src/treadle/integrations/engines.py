"""Graphs and calls on engines that people already run: what all of these have in common.

Treadle reads the graph, packs the calls and unpacks what they raise; where and when a task runs is the engine's.
Results stay there. A task that needs one is given the engine's own reference to it, and only what was asked for is
fetched.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from treadle.callbacks import TaskRecord
from treadle.client.tasks import collect
from treadle.errors import TaskNotSerializableError
from treadle.graph.node import NO_NODES, Call, Dicted, Listed, Node
from treadle.graph.plan import Plan
from treadle.local.drive import HEARTBEAT, Driver
from treadle.local.hooks import Hooks, function_name
from treadle.local.nesting import confining
from treadle.local.run import Run
from treadle.local.trim import annotate, forget_frames
from treadle.wire.failures import PackedError, unpack_error
from treadle.wire.functions import pack_function, unpack_function
from treadle.wire.sizes import sizeof
from treadle.wire.values import brief, pack_call
from treadle.worker.calls import call, failure

__all__ = [
    "CallFailed",
    "Engine",
    "EngineDriver",
    "Line",
    "Packer",
    "Step",
    "Unit",
    "driver_of",
    "engine_of",
    "lines_of",
    "reason",
]

#: A value or a function with more bytes than this is handed to the engine once, and each task refers to it.
_SHARED: Final = 1024

#: Of a big graph, tasks are put together as long as there are so many lines for each processor that all have work.
_LINES: Final = 64

#: Tasks that run as one, the last of which is the only one that others need. A line is as long as it likes if each task
#: follows from the one before; else it may be a small tree.
Line: TypeAlias = "list[Node]"


class Engine(Protocol):
    """What is needed of an engine. A *job* is what it calls the task that it was given, or holds the result of."""

    #: For callbacks.
    name: str
    num_workers: int
    #: How many jobs it is given before one of them is done.
    limit: int

    def driver(self) -> Driver:
        """What runs graphs on it."""

    def share(self, value: Any) -> Any:
        """Put a value there. Returns a job that is done.

        :raises Exception: whatever pickling raises.
        """

    def submit(self, calls: Sequence[tuple[Unit, list[Any]]]) -> list[Any]:
        """Have some units called, each with the results of some jobs. Returns the job of each."""

    def watch(self, job: Any, tell: Callable[[Any, BaseException | None], object]) -> None:
        """Call ``tell``, in any thread, with the job and with what was raised, when it is done."""

    def fetch(self, jobs: list[Any]) -> list[Any]:
        """The results of jobs that are done."""

    def stop(self, jobs: list[Any]) -> None:
        """Start none of these that has not been started, if that can be had, and wait for those that have been."""

    def abandon(self, jobs: list[Any]) -> None:
        """Nobody waits for these any more: end them by whatever means there are."""


def engine_of(scheduler: Any) -> Engine | None:
    """The engine that a user means by a name, or by an object of the engine's own; None if it is none.

    :raises UserError: its package is not installed, or it is not running.
    """
    if isinstance(scheduler, str) and scheduler == "ray":
        from treadle.integrations.ray_engine import RayEngine

        return RayEngine()
    client = getattr(sys.modules.get("distributed"), "Client", None)
    given = client is not None and isinstance(scheduler, client)
    if given or (isinstance(scheduler, str) and scheduler in ("dask", "distributed")):
        from treadle.integrations.distributed_engine import DistributedEngine

        return DistributedEngine(scheduler if given else None)
    return None


def driver_of(scheduler: Any) -> Driver | None:
    """What runs graphs on that engine. Parameters and errors as of :func:`engine_of`."""
    engine = engine_of(scheduler)
    return None if engine is None else engine.driver()


# On the engine's workers


class CallFailed(Exception):
    """How the exception of a task leaves an engine's worker, whatever the engine does to exceptions.

    :param key: which task it was.
    :param packed: what it raised.
    """

    def __init__(self, key: object, packed: PackedError) -> None:
        super().__init__(key, packed)
        self.key = key
        self.packed = packed

    def __str__(self) -> str:
        _, _, text, info = self.packed
        return (text or str(info.get("reason", ""))).strip().rpartition("\n")[2]


class Step(NamedTuple):
    """One call. An input is named by its position, the result of step number n, which no other needs, by -1 - n."""

    #: Which task it is, for its errors.
    key: object
    #: The pickled function, or the input that holds it.
    function: bytes | int
    payload: bytes
    #: The dependencies of the payload.
    places: tuple[int, ...]


class Unit:
    """What an engine knows as one task: some calls, the last of which is the only one that others need."""

    __slots__ = ("__name__", "steps")

    def __init__(self, name: str, steps: tuple[Step, ...]) -> None:
        self.__name__ = name
        self.steps = steps

    def __repr__(self) -> str:
        before = len(self.steps) - 1
        return f"<{self.__name__}{f' after {before} others' if before else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Unit, (self.__name__, self.steps)

    def __dask_tokenize__(self) -> bytes:
        return pickle.dumps(self.steps)  # Dask would look into every part

    def __call__(self, *inputs: Any) -> Any:
        """Run it. :raises CallFailed: a task has raised something."""
        value: Any = None
        found: dict[int, Any] = {}
        with confining():
            for number, (key, function, payload, places) in enumerate(self.steps, 1):
                values = [found.pop(place) if place < 0 else inputs[place] for place in places]
                try:
                    func = _function(inputs[function] if isinstance(function, int) else function)
                    value = call(func, payload, values)
                except BaseException as error:
                    traceback = error.__traceback__
                    packed = failure(error.with_traceback(traceback and traceback.tb_next))  # without this frame
                else:
                    found[-number] = value
                    continue
                raise CallFailed(key, packed)
        return value


_function = lru_cache(512)(unpack_function)


# In the caller's process


def reason(error: BaseException, *keys: object) -> BaseException:
    """The exception that the caller should see.

    :param error: what the engine says of a job.
    :param keys: the tasks of that job, if it is known.
    """
    if isinstance(error, CallFailed):
        return unpack_error(error.packed, error.key)
    return forget_frames(annotate(error, *keys) if keys else error)


def lines_of(nodes: list[Node], num_workers: int) -> list[Line]:
    """The tasks of a run in lines, each after those that it needs.

    :param nodes: of a run, each after its dependencies.
    :param num_workers: how many of them the engine can run at once; 0: every task is to be a line of its own.
    """
    ends: dict[int, Line] = {}
    most = len(nodes) // (_LINES * num_workers) if num_workers else 0
    for node in nodes:
        line: Line = []
        deps = node.deps if num_workers and all(dep.users == 1 for dep in node.deps) else []
        if len(deps) == 1 or sum(len(ends[dep.rank]) for dep in deps) < most:
            for dep in deps:
                line = line + ends.pop(dep.rank) if line else ends.pop(dep.rank)
        line.append(node)
        ends[node.rank] = line
    return list(ends.values())


class Packer:
    """Makes units of lines. What several of them need is handed to the engine once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: By identity: a function, and its pickle or the job that holds that.
        self._functions: dict[int, tuple[Any, Any]] = {}
        #: The jobs that hold values of the graph, by rank; None if the value goes into the payload.
        self._values: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"<Packer of {len(self._functions)} functions for {self._engine!r}>"

    def pack(self, line: Line, job_of: Callable[[Node], Any]) -> tuple[Unit, list[Any]]:
        """A unit, and the jobs whose results it is to be called with.

        :param job_of: the job whose result is that of a task of another line.
        :raises TaskNotSerializableError: names what of a task cannot be pickled.
        """
        inputs: dict[Any, int] = {}
        jobs: list[Any] = []

        def place(name: Any, job: Any) -> int:
            if name not in inputs:
                inputs[name] = len(jobs)
                jobs.append(job)
            return inputs[name]

        steps: list[Step] = []
        within: dict[int, int] = {}
        for node in line:
            func = collect if node.func is None else node.func
            function = self.function(func, node.key)
            if not isinstance(function, bytes):
                function = place(("function", id(func)), function)
            shared: dict[Node, None] = {}
            args = [self._filled(arg, shared) for arg in node.args]
            words = node.kwargs and {word: self._filled(arg, shared) for word, arg in node.kwargs.items()}
            places = [within[dep.rank] if dep.rank in within else place(dep.rank, job_of(dep)) for dep in node.deps]
            places += [place(literal.rank, self._values[literal.rank]) for literal in shared]
            payload = pack_call(node.key, args, words, [*node.deps, *shared], node.nested)
            steps.append(Step(node.key, function, payload, tuple(places)))
            within[node.rank] = -len(steps)
        return Unit(function_name(line[-1].func), tuple(steps)), jobs

    def function(self, func: Any, key: object) -> Any:
        """A pickled function, or the job that holds it. :raises TaskNotSerializableError: it cannot be pickled."""
        known = self._functions.get(id(func))
        if known is None:
            blob = pack_function(func, key).blob
            # The function is kept as well, so that nothing else gets its id.
            known = self._functions[id(func)] = func, blob if len(blob) <= _SHARED else self._engine.share(blob)
        return known[1]

    def _filled(self, arg: Any, shared: dict[Node, None]) -> Any:
        """An argument with values of the graph in place of their nodes, unless the engine holds them."""
        kind = type(arg)
        if kind is Listed:
            return Listed([self._filled(item, shared) for item in arg.items], arg.make)
        if kind is Dicted:
            return Dicted(arg.words, [self._filled(item, shared) for item in arg.values])
        if kind is Call:
            return Call(arg.func, [self._filled(item, shared) for item in arg.args], arg.words)
        if kind is not Node or arg.rank >= 0:
            return arg
        if arg.rank not in self._values:
            self._values[arg.rank] = self._shared(arg)
        if self._values[arg.rank] is None:
            return arg.result
        shared[arg] = None
        return arg

    def _shared(self, literal: Node) -> Any:
        if sizeof(literal.result) <= _SHARED:
            return None
        try:
            return self._engine.share(literal.result)
        except Exception as error:
            part = f"the value (a {type(literal.result).__name__})"
            raise TaskNotSerializableError(literal.key, part, brief(error)) from None


class EngineDriver:
    """Runs graphs on an engine: each task that is ready becomes a job, as far ahead as the engine likes."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.num_workers = engine.num_workers
        self._engine = engine

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        if run.over():
            return None
        session = _Session(self._engine, run, hooks)
        try:
            return session.run_all()
        except BaseException as interrupt:
            session.abandon()
            return forget_frames(interrupt)


class _Session:
    """One run, whose nodes are lines of the graph's own."""

    def __init__(self, engine: Engine, run: Run, hooks: Hooks | None) -> None:
        self.engine = engine
        self.hooks = hooks
        self.outer = run
        self.lines = lines_of(run.nodes, engine.num_workers if hooks is None else 0)
        #: The node of each line, by the rank of the line's last task.
        self.run, self.wholes = _run_of(self.lines, run)
        self.packer = Packer(engine)
        #: What engines tell: a line by its rank, and what was raised.
        self.news: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()
        self.jobs: dict[int, Any] = {}
        self.started: dict[int, float] = {}
        self.error: BaseException | None = None

    def run_all(self) -> BaseException | None:
        """Run everything. Returns the error that ended the run early, if one did."""
        while True:
            self.hand_out()
            if not self.jobs:
                break
            try:
                rank, error = self.news.get(timeout=HEARTBEAT)
            except Empty:
                continue
            self.collect(self.run.nodes[rank], self.jobs.pop(rank), error)
            del error
        try:
            if self.error is None:
                self.finish()
            return self.error
        finally:
            self.error = None  # the frames of a task's traceback may lead back to here
            self.run.dismantle()

    def abandon(self) -> None:
        self.engine.abandon(list(self.jobs.values()))
        self.run.dismantle()

    def hand_out(self) -> None:
        batch: list[Node] = []
        try:
            while len(self.jobs) + len(batch) < self.engine.limit:
                node = self.run.take()
                if node is None:
                    break
                batch.append(node)
                if self.hooks is not None:
                    self.hooks.before(node.key, self.engine.name)
            if batch:
                self.submit(batch)
        except Exception as error:
            for _ in batch:
                self.run.drop()
            self.fail(forget_frames(error))

    def submit(self, batch: list[Node]) -> None:
        jobs = self.engine.submit([self.packer.pack(self.lines[node.rank], self.job_of) for node in batch])
        now = perf_counter()
        for node, job in zip(batch, jobs):
            self.jobs[node.rank] = job
            self.started[node.rank] = now
        for node, job in zip(batch, jobs):
            self.watch(node.rank, job)

    def job_of(self, dep: Node) -> Any:
        return self.wholes[dep.rank].result

    def watch(self, rank: int, job: Any) -> None:
        self.engine.watch(job, lambda _, error: self.news.put((rank, error)))

    def collect(self, node: Node, job: Any, error: BaseException | None) -> None:
        line = self.lines[node.rank]
        if error is not None or self.error is not None:
            self.run.drop()
            if error is not None:
                self.fail(reason(error, *[each.key for each in line]))
            return
        garbage: list[Any] = []
        self.run.settle(node, job, garbage)
        garbage.clear()
        if self.hooks is None:
            return
        try:
            result = self.engine.fetch([job])[0] if self.hooks.needs_results else None
            started, name = self.started.pop(node.rank), function_name(line[-1].func)
            record = TaskRecord(node.key, name, self.engine.name, started, perf_counter(), self.run.live)
            self.hooks.after(record, result)
        except Exception as raised:
            self.fail(raised)

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.run.stop()
            self.engine.stop(list(self.jobs.values()))

    def finish(self) -> None:
        """Fetch what was asked for."""
        wanted = self.outer.targets
        values = self.engine.fetch([self.wholes[node.rank].result for node in wanted])
        self.outer.dismantle()
        for node, value in zip(wanted, values):
            node.result = value
            node.done = True


def _run_of(lines: list[Line], outer: Run) -> tuple[Run, dict[int, Node]]:
    """A run with one node for each line, and the node of each line by the rank of its last task."""
    nodes: list[Node] = []
    wholes: dict[int, Node] = {}
    for line in lines:
        whole = wholes[line[-1].rank] = Node(line[-1].key)
        whole.rank = len(nodes)
        nodes.append(whole)
    for whole, line in zip(nodes, lines):
        inside = {node.rank for node in line}
        whole.deps = [
            wholes[rank] for rank in dict.fromkeys(dep.rank for node in line for dep in node.deps) if rank not in inside
        ]
        whole.waiting = len(whole.deps)
        for dep in whole.deps:
            if dep.dependents is NO_NODES:
                dep.dependents = [whole]
            else:
                dep.dependents.append(whole)
    return Run(Plan(None, nodes, {}, [wholes[node.rank] for node in outer.targets], False)), wholes
