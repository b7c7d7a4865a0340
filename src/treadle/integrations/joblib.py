"""A backend of joblib's that runs its calls on a cluster, and with them whatever is parallel by joblib: scikit-learn.

joblib cuts what it is given into batches; here each batch becomes one task. What joblib calls when a batch is done may
take the user's next calls from an iterator, pickle them and put big arguments on the workers. So it is called in a
thread of its own, and not in that of the client's event loop, which nobody may stall.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from types import TracebackType
from typing import Any, Final

from treadle.client import default, inside
from treadle.client.calls import names_of, options_of
from treadle.client.client import Client
from treadle.client.future import Future
from treadle.errors import ClosedError, ConnectError, DataLostError, UserError
from treadle.integrations.joblib_batches import BIG, PATIENCE, RETRIES, Call, Packer, run_batch
from treadle.naming import unique
from treadle.wire.functions import display_name

try:
    _joblib: Any = import_module("joblib.parallel")
except ModuleNotFoundError:
    raise UserError("joblib is not installed here: pip install 'treadle[joblib]'") from None

__all__ = ["TreadleBackend", "nested_backend"]

#: Seconds that a batch is to take: many times what sending it costs, even on a busy machine. joblib makes the last ones
#: smaller, so that they can be shared out evenly.
TARGET: Final = 0.2
#: How much bigger than the last batch the next one may be, and how many calls any may have.
GROWTH: Final = 4
MOST: Final = 1 << 14


# The backend

_Base: Any = _joblib.ParallelBackendBase


class TreadleBackend(_Base):  # type: ignore[misc]
    """Runs ``joblib.Parallel`` on a cluster.

    >>> with joblib.parallel_config(backend="treadle"):
    ...     search.fit(x, y)

    :param client: whose cluster it is. Default: the default client; inside of a task, that of its worker.
    :param workers: the only workers to use: names, idents, addresses or hosts.
    :param resources: what each batch of calls needs of a worker's resources, such as ``{"GPU": 1}``.
    :param priority: batches with a higher one are started first.
    :param retries: how often a batch is tried again after a call in it has raised.
    :param nesting_level: joblib's: how many backends this one is inside of.
    :param inner_max_num_threads: how many threads BLAS and OpenMP may use in a call. It takes ``threadpoolctl``.
    :raises UserError: there is no client, or an asynchronous one.
    :raises ClosedError: the client is closed.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        client: Client | None = None,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._client = client
        self._workers = None if workers is None else names_of(workers)
        options_of(self._workers, resources, priority, retries)  # here it can be said what is wrong with them
        self._options: dict[str, Any] = {"resources": resources, "retries": retries}
        self._priority = priority
        #: Bytes from which on an argument is put on the workers once; None: never.
        self._big: int | None = BIG
        self._lock = threading.Lock()
        #: What is under way, and for how many calls of ``Parallel``.
        self._work: _Work | None = None
        self._users = 0
        self._pace = _Pace()
        self._failed: tuple[BaseException | None, TracebackType | None] = (None, None)
        self._check()

    def __repr__(self) -> str:
        return f"<joblib's backend on {self._client!r}>"

    def _check(self) -> None:
        self._client = self._open_client()

    def _open_client(self) -> Client:
        client: Any = self._client
        if client is None:
            client = default.current()
        if client is None:
            raise UserError(
                "joblib's backend 'treadle' needs a client: open one, client = treadle.Client(…), or give it one, "
                "joblib.parallel_config(backend='treadle', client=client)"
            )
        if not isinstance(client, Client):
            raise TypeError(f"the client of joblib's backend 'treadle' must be a treadle.Client, not {client!r:.200}")
        if client.asynchronous:
            raise UserError(
                "joblib's backend 'treadle' cannot use an asynchronous client, because joblib blocks: open another one "
                "without asynchronous=True"
            )
        if client.closed:
            raise ClosedError("the client of joblib's backend 'treadle' is closed: open one and name the backend again")
        return client

    # How much runs at once

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once: the threads of all workers, or fewer if ``n_jobs`` says so.

        For -1 it is never 1, which would have joblib run the calls in this process.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 has no meaning: say -1 for all threads of the cluster's workers")
        if n_jobs == 1:
            return 1
        slots = self._slots()
        if n_jobs is None or n_jobs == -1:
            return max(slots, 2)
        return max(1, min(n_jobs, slots) if n_jobs > 0 else slots + 1 + n_jobs)

    def _slots(self) -> int:
        client = self._open_client()
        slots: int = sum(client.nthreads(self._workers).values())
        if not slots:
            client.wait_for_workers(1, PATIENCE)
            slots = sum(client.nthreads(self._workers).values())
        if not slots:
            raise UserError(f"the cluster of joblib's backend 'treadle' has no worker among {self._workers}")
        return slots

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        max_nbytes: Any = BIG,
        mmap_mode: Any = "r",
        **unused: Any,
    ) -> int:
        """What ``Parallel`` was told. ``max_nbytes=None`` or ``mmap_mode=None``: each batch brings its arguments."""
        self.parallel = parallel
        self._big = None if max_nbytes is None or mmap_mode is None else int(max_nbytes)
        return self.effective_n_jobs(n_jobs)

    def compute_batch_size(self) -> int:
        return self._pace.size

    # One call of Parallel after another, or several generators at a time

    def start_call(self) -> None:
        with self._lock:
            if self._work is None:
                options = {**self._options, "workers": self._workers, "priority": self._priority or inside.priority()}
                level, threads = (self.nesting_level or 0) + 1, self.inner_max_num_threads
                self._work = _Work(self._open_client(), options, self._big, level, threads)
            self._users += 1

    def stop_call(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
            work, self._work = self._work, None
        if work is not None:
            work.end()

    def terminate(self) -> None:
        self._pace = _Pace()
        self._failed = (None, None)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> _Job:
        work = self._work
        # Joblib may take calls from the user's iterator still while it gives up in another thread.
        return _Job(func.items, None) if work is None else work.start(func.items, callback)

    def retrieve_result_callback(self, out: _Job) -> list[Any]:
        error = out.failure()
        if error is not None:
            self._failed = (error, error.__traceback__)  # joblib drops it
            raise error
        seconds, results = out.take()
        self._pace.learn(len(results), seconds)
        return list(results)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the calls of those that want no more results, and show where the error was raised that was it."""
        raised = sys.exc_info()[1]
        failed, traceback = self._failed
        if raised is not None and raised is failed and raised.__traceback__ is not traceback:
            _append(raised.__traceback__, traceback)
        self._failed = (None, None)
        work = self._work
        if work is not None:
            work.cancel()

    # Parallel within a call

    def get_nested_backend(self) -> tuple[Any, int | None]:
        return nested_backend((self.nesting_level or 0) + 1), None

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """A task that waits for others occupies no thread of its worker."""
        task = inside.current()
        if task is None:
            yield
            return
        task.leave()
        try:
            yield
        finally:
            task.come_back()


class _NestedBackend(TreadleBackend):
    """That of calls on workers: on the cluster, too, but only where ``n_jobs`` asks for it."""

    default_n_jobs = 1

    def _check(self) -> None:
        """Most calls need no client."""


def nested_backend(level: int) -> Any:
    return _NestedBackend(nesting_level=level) if level == 1 else _joblib.SequentialBackend(nesting_level=level)


class _Pace:
    """How many calls are to be in a batch, by what those in the last ones took."""

    def __init__(self) -> None:
        self.size = 1
        #: Seconds that a call takes. The last batch counts as much as all before it.
        self._mean = 0.0

    def learn(self, count: int, seconds: float) -> None:
        each = seconds / max(1, count)
        self._mean = (self._mean + each) / 2 if self._mean else each
        ideal = int(TARGET / max(self._mean, TARGET / MOST))
        self.size = max(1, min(ideal, GROWTH * self.size))


def _append(traceback: TracebackType | None, more: TracebackType | None) -> None:
    """Have one traceback go on with the other."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is not None:
        traceback.tb_next = more


# What is under way


class _Job:
    """A batch of calls on its way."""

    __slots__ = ("_dropped", "callback", "calls", "error", "future", "shared", "tries")

    def __init__(self, calls: Sequence[Call], callback: Callable[[Any], object] | None) -> None:
        #: Kept until they are done, because they may have to be sent again.
        self.calls = calls
        self.callback = callback
        self.future: Future[Any] | None = None
        #: What of them is on the workers.
        self.shared: list[Future[Any]] = []
        #: Why they could not be sent.
        self.error: BaseException | None = None
        self.tries = 0
        self._dropped = False

    def failure(self) -> BaseException | None:
        """What went wrong, once the batch is done."""
        if self.error is not None or self.future is None:
            return self.error
        try:
            return self.future.exception()
        except CancelledError as error:
            ended = self.future._session.ended
            return error if ended is None else type(ended)(*ended.args)

    def take(self) -> tuple[float, list[Any]]:
        """The seconds and the results, which are let go of now: the message with joblib's next batch can say so."""
        future, self.future = self.future, None
        assert future is not None
        taken: tuple[float, list[Any]] = future.result()
        return taken

    def clear(self) -> None:
        """Let go of everything. The future has a callback that knows the job."""
        self.future, self.calls, self.shared = None, (), []

    def wanted(self) -> bool:
        """Whether a call of ``Parallel`` waits for it."""
        return not self._dropped and not getattr(self._parallel(), "_aborting", False)

    def tell(self) -> None:
        """Tell joblib that it is done."""
        with self._guard():
            if self.callback is not None and not self._dropped:
                self.callback(self)

    def drop(self) -> None:
        """Tell nothing more: joblib would take it for news of the next call of the same ``Parallel``."""
        with self._guard():
            self._dropped = True

    def _parallel(self) -> Any:
        return getattr(self.callback, "parallel", None)

    def _guard(self) -> AbstractContextManager[Any]:
        """The lock of ``Parallel``, so that one call has heard everything before the next one begins."""
        guard: AbstractContextManager[Any] = getattr(self._parallel(), "_lock", nullcontext())
        return guard


class _Work:
    """The batches of the calls of ``Parallel`` that a backend serves at a time, and the thread for what is done."""

    def __init__(
        self, client: Client, options: Mapping[str, Any], big: int | None, level: int, threads: int | None
    ) -> None:
        self._client = client
        self._options = options
        self._about = [level, threads]
        self._packer = Packer(client, options["workers"], big)
        self._jobs: set[_Job] = set()
        self._done: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="treadle-joblib", daemon=True).start()

    def start(self, calls: Sequence[Call], callback: Callable[[Any], object] | None) -> _Job:
        job = _Job(calls, callback)
        self._jobs.add(job)
        self._send(job)
        return job

    def _send(self, job: _Job) -> None:
        try:
            blob, functions, job.shared = self._packer.pack(job.calls)
            name = display_name(job.calls[0][0])
            future = job.future = self._client.submit(
                run_batch,
                blob,
                functions,
                self._about,
                *job.shared,
                key=f"{name}-{unique()}",
                pure=False,
                **self._options,
            )
        except Exception as error:
            # Raised here it would be lost, in the thread of this object, and joblib would wait for ever.
            job.error = error
            self._done.put(job)
        else:
            future.add_done_callback(lambda _: self._done.put(job))
            if not job.wanted():
                future.cancel()  # it was not there yet when all others were cancelled

    def _serve(self) -> None:
        while (job := self._done.get()) is not None:
            if job.tries < RETRIES and job.wanted() and isinstance(job.failure(), DataLostError):
                job.tries += 1
                self._packer.forget(job.shared)
                self._send(job)
                continue
            job.tell()
            self._jobs.discard(job)
            job.clear()
            del job
        for left in self._jobs:
            left.clear()

    def cancel(self) -> None:
        """Cancel what nobody waits for any more."""
        jobs = [job for job in self._jobs.copy() if not job.wanted()]
        try:
            self._client.cancel([job.future for job in jobs if job.future is not None])
        except (ClosedError, ConnectError):
            pass  # they are cancelled
        for job in jobs:
            job.drop()

    def end(self) -> None:
        """No call of ``Parallel`` waits for anything."""
        self._done.put(None)
