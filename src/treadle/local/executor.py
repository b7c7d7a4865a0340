"""Runs a graph on a pool that the caller brought, of which nothing is known but ``submit``.

All results come back to the calling process, and inputs are sent with each batch. Executors that run tasks in this
process get the tasks as they are; those known to use other processes get them pickled by us, so that lambdas and
functions of the main script work there as well.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, Executor, Future
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from treadle.callbacks import TaskRecord
from treadle.errors import InternalError, ResultNotSerializableError
from treadle.graph.node import STORE, Node
from treadle.local.drive import HEARTBEAT
from treadle.local.hooks import Hooks, function_name
from treadle.local.nesting import confining
from treadle.local.processes.blob import Blob, dumps, loads
from treadle.local.processes.calls import decode, encode, keep, literals, why_not
from treadle.local.processes.durations import Durations
from treadle.local.processes.failures import load_result, pack_error, pack_refusal, unpack_error
from treadle.local.run import Run
from treadle.local.trim import annotate, forget_frames, trim_error

__all__ = ["ExecutorDriver"]

#: Seconds of measured work in one batch, and the most tasks in it.
BATCH_SECONDS = 0.01
MAX_BATCH = 256

#: Position in the batch, start, stop, error, result.
Row = tuple[int, float, float, "BaseException | None", Any]


class ExecutorDriver:
    """Runs graphs on somebody's executor."""

    name = "executor"

    def __init__(self, executor: Executor, num_workers: int, pickled: bool) -> None:
        self.num_workers = num_workers
        self._executor = executor
        self._pickled = pickled

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        session = _Session(run, hooks, self._executor, self.num_workers, self._pickled)
        try:
            return session.run_all()
        except BaseException as interrupt:
            session.cancel()
            return forget_frames(interrupt)


class _Session:
    def __init__(self, run: Run, hooks: Hooks | None, executor: Executor, limit: int, pickled: bool) -> None:
        self.run = run
        self.hooks = hooks
        self.executor = executor
        #: One batch that runs and one that waits for each worker.
        self.limit = 2 * limit
        self.pickled = pickled
        self.durations = Durations(BATCH_SECONDS)
        self.batches: dict[Future[Any], list[Node]] = {}
        self.finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self.error: BaseException | None = None

    def run_all(self) -> BaseException | None:
        while True:
            self.hand_out()
            if not self.batches:
                break
            try:
                future = self.finished.get(timeout=HEARTBEAT)
            except Empty:
                continue
            self.collect(future, self.batches.pop(future))
            del future  # it holds the results
        try:
            return self.error
        finally:
            self.error = None  # the frames of a task's traceback may lead back to here

    def cancel(self) -> None:
        self.run.stop()
        for future in self.batches:
            future.cancel()

    def hand_out(self) -> None:
        while len(self.batches) < self.limit:
            batch: list[Node] = []
            seconds = 0.0
            share = max(1, self.run.available() // self.limit)
            while len(batch) < min(MAX_BATCH, share) and seconds < BATCH_SECONDS:
                node = self.run.take()
                if node is None:
                    break
                batch.append(node)
                seconds += self.durations.expected(node)
            if not batch:
                break
            self.submit(batch)

    def submit(self, batch: list[Node]) -> None:
        try:
            if self.hooks is not None:
                for node in batch:
                    self.hooks.before(node.key, "executor")
            if self.pickled:
                future = self.executor.submit(run_pickled, *self.pack(batch))
            else:
                future = self.executor.submit(run_batch, batch)
        except BaseException as error:
            for _ in batch:
                self.run.drop()
            if not isinstance(error, Exception):
                raise
            self.fail(error)
            return
        self.batches[future] = batch
        future.add_done_callback(self.finished.put)

    def pack(self, batch: list[Node]) -> tuple[bytes, list[bytes], bytes, list[bytes]]:
        """The inputs and the calls of a batch, as arguments that any executor can pickle."""
        inputs: dict[int, Any] = {}
        for node in batch:
            for dep in (*node.deps, *literals((*node.args, *(node.kwargs or {}).values()))):
                inputs[dep.rank] = dep.result
        functions = [node.func for node in batch]
        try:
            values = dumps((inputs, functions), in_band=True)
            calls = encode([(node, number) for number, node in enumerate(batch)], in_band=True)
        except Exception:
            blame = why_not(batch)
            if blame is None:
                raise
            raise blame from None
        return values.data, list(values.buffers), calls.data, list(calls.buffers)

    def collect(self, future: Future[Any], batch: list[Node]) -> None:
        try:
            answer = future.result()
            rows: list[Row] = _unpack(answer, batch) if self.pickled else answer
        except BaseException as error:
            for _ in batch:
                self.run.drop()
            if not isinstance(error, CancelledError) or self.error is None:
                # The executor itself failed (its process died, say), and only it knows with which of these tasks;
                # unless the other process could not read what it was sent.
                blame = why_not(batch) if self.pickled and isinstance(error, Exception) else None
                self.fail(blame or annotate(error, *[node.key for node in batch]))
            return
        seen = 0
        for index, started, stopped, failure, result in rows:
            seen += 1
            node = batch[index]
            if failure is not None:
                self.run.drop()
                self.fail(annotate(failure, node.key))
            else:
                self.settle(node, started, stopped, result)
        for _ in range(len(batch) - seen):  # not started, because one before them failed
            self.run.drop()
        if seen < len(batch) and self.error is None:
            raise InternalError("a batch came back incomplete without an error")
        rows.clear()  # the executor may keep its futures

    def settle(self, node: Node, started: float, stopped: float, result: Any) -> None:
        garbage: list[Any] = []
        self.durations.learn(node, stopped - started)
        name = function_name(node.func)
        self.run.settle(node, result, garbage)
        garbage.clear()
        if self.hooks is not None:
            try:
                self.hooks.after(TaskRecord(node.key, name, "executor", started, stopped, self.run.live), result)
            except BaseException as error:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = trim_error(error)
            self.run.stop()
            for future in self.batches:
                future.cancel()


def run_batch(nodes: list[Node]) -> list[Row]:
    """Run some tasks one after another; stops at the first that fails."""
    rows: list[Row] = []
    with confining():
        for index, node in enumerate(nodes):
            started = perf_counter()
            try:
                result = node.call()
            except BaseException as error:
                rows.append((index, started, perf_counter(), trim_error(error), None))
                break
            rows.append((index, started, perf_counter(), None, result))
    try:
        return rows
    finally:
        del rows  # the frames of a task's traceback lead back to this one


def run_pickled(values: bytes, value_buffers: list[bytes], calls: bytes, call_buffers: list[bytes]) -> list[Any]:
    """Run a batch in another process. Each result is pickled by itself, so that one bad one does not spoil the rest."""
    inputs, functions = loads(Blob(values, tuple(value_buffers)))
    for rank, value in inputs.items():
        keep(rank, value)
    try:
        nodes = decode(Blob(calls, tuple(call_buffers)), dict(enumerate(functions)))
    finally:
        STORE.clear()
    del inputs, functions
    answers: list[Any] = []
    for index, started, stopped, error, result in run_batch(nodes):
        packed: Any = None
        data: tuple[bytes, tuple[bytes, ...]] | None = None
        if error is not None:
            packed = pack_error(error)
        else:
            try:
                blob = dumps(result, in_band=True)
                data = (blob.data, blob.buffers)
            except Exception as reason:
                packed = pack_refusal(type(result).__name__, reason)
        answers.append((index, started, stopped, packed, data))
    return answers


def _unpack(answers: list[Any], batch: list[Node]) -> list[Row]:
    rows: list[Row] = []
    for index, started, stopped, packed, data in answers:
        key = batch[index].key
        if packed is not None:
            rows.append((index, started, stopped, unpack_error(packed, key), None))
            continue
        try:
            rows.append((index, started, stopped, None, load_result(Blob(*data), key)))
        except ResultNotSerializableError as error:
            rows.append((index, started, stopped, trim_error(error), None))
    return rows
