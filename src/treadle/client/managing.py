"""Methods of a client that look after the workers and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.gathering import futures_in, listed
from treadle.client.latch import deadline_of
from treadle.errors import ConnectError, UserError

if TYPE_CHECKING:
    from treadle.client.client import Client

__all__ = ["Assigned", "Managing"]


class Assigned(list[str]):
    """The keys of the tasks that a worker was given and has not finished.

    ``stopping`` holds the keys of those that were cancelled there, and still occupy a thread.
    """

    def __init__(self, keys: Iterable[str], stopping: Iterable[str] = ()) -> None:
        super().__init__(keys)
        self.stopping = list(stopping)

    def __repr__(self) -> str:
        return f"{super().__repr__()} (stopping: {self.stopping!r})" if self.stopping else super().__repr__()


class Managing(Face):
    """Workers and their data."""

    # Workers

    def wait_for_workers(self, n_workers: int = 1, timeout: float | None = None) -> Any:
        """Wait until so many workers are there, and get tasks.

        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: there were not so many in time.
        """
        _check_count("n_workers", n_workers)
        return self._face(self._wait_for_workers, n_workers, timeout)

    async def _wait_for_workers(self, count: int, timeout: float | None) -> None:
        try:
            await self._ask("wait_for_workers", count, deadline_of(timeout))
        except FutureTimeoutError:
            raise FutureTimeoutError(f"there were not {count} workers within {timeout:g} seconds") from None

    def nthreads(self, workers: str | Iterable[str] | None = None, timeout: float | None = None) -> Any:
        """How many threads each worker has, by ident.

        :param workers: the only ones: names, idents, addresses or hosts.
        """
        return self._face(self._nthreads, _names(workers), deadline_of(timeout))

    async def _nthreads(self, names: list[str] | None, deadline: float | None) -> dict[str, int]:
        info = await self._ask("info", None, deadline)
        return {
            ident: about["nthreads"]
            for ident, about in info["workers"].items()
            if names is None or not {ident, about["name"], about["address"], about["host"]}.isdisjoint(names)
        }

    ncores = nthreads

    def processing(self, workers: str | Iterable[str] | None = None, timeout: float | None = None) -> Any:
        """The keys of the tasks that each worker was given and has not finished, by ident.

        Each list has an attribute ``stopping``: the keys of tasks that were cancelled, and still occupy a thread there.

        :param workers: the only ones: names, idents, addresses or hosts.
        """
        return self._face(self._processing, _names(workers), deadline_of(timeout))

    async def _processing(self, names: list[str] | None, deadline: float | None) -> dict[str, Assigned]:
        found = await self._ask("processing", names, deadline)
        return {ident: Assigned(*both) for ident, both in found.items()}

    def retire_workers(
        self,
        workers: str | Iterable[str] | None = None,
        n: int | None = None,
        close_workers: bool = True,
        force: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have workers leave without a loss.

        They get nothing new, and give back what they have not started. What they are running ends, and results that
        nobody else holds are copied to other workers. Then their processes end, and are not replaced.

        :param workers: which: names, idents, addresses or hosts.
        :param n: instead of that, how many: those that have least to do and hold least.
        :param close_workers: False leaves the processes running and connected, with nothing to do.
        :param force: they leave even if something is lost that way: the last copy of a result, when there is no other
            worker, or an actor.
        :param timeout: seconds to wait at most; the workers leave also if nobody waits any more.
        :returns: those that have left, by ident, with ``name``, ``address``, ``host`` and ``nthreads``.
        :raises UserError: a worker stays, because something would be lost. It gets tasks again.
        """
        if (workers is None) == (n is None):
            raise ValueError("say either which workers are to leave, or how many: retire_workers(n=1)")
        if n is not None:
            _check_count("n", n)
        which = _names(workers) if n is None else n
        return self._asking("retire", (which, close_workers, force), timeout)

    def restart(self, timeout: float | None = None, wait_for_workers: bool = True) -> Any:
        """Cancel everything that anybody has submitted, forget all data, and replace all worker processes by new ones.

        Futures that wait raise ``CancelledError``, for all clients. A process is replaced by its parent; one that has
        no parent which would do that goes on as it is.

        :param timeout: seconds to wait at most.
        :param wait_for_workers: return when the new processes have joined; False: at once.
        :returns: a dict with the names of the workers: ``"restarted"`` and ``"kept"``.
        :raises concurrent.futures.TimeoutError: some have not joined in time.
        """
        return self._asking("restart", wait_for_workers, timeout)

    def restart_workers(self, workers: str | Iterable[str], timeout: float | None = None) -> Any:
        """Replace the processes of some workers at once, whatever they are doing, and wait for the new ones.

        What they were running runs again, and what they held is computed again. Values that were scattered there only
        are lost: see :meth:`replicate`.

        :param workers: which: names, idents, addresses or hosts.
        :param timeout: seconds to wait at most.
        :returns: a dict with the names of the workers: ``"restarted"`` and ``"kept"``.
        :raises UserError: one of them has no parent process that would start another one.
        """
        return self._asking("restart_workers", _names(workers), timeout)

    def shutdown(self, timeout: float | None = None) -> Any:
        """End the scheduler, its workers and this client.

        :raises UserError: the scheduler does not let clients end it. Those of local clusters do.
        """
        if self.asynchronous:
            return self._shut_down(timeout)
        self._face(self._end_scheduler, deadline_of(timeout))
        client = self._client()
        cluster = client._address
        client.close()
        if not isinstance(cluster, str):
            cluster.close()
        return None

    async def _shut_down(self, timeout: float | None) -> None:
        await self._face(self._end_scheduler, deadline_of(timeout))
        client = self._client()
        cluster = client._address
        await client.close()
        if not isinstance(cluster, str):
            await cluster.aclose()

    async def _end_scheduler(self, deadline: float | None) -> None:
        session = self.session
        try:
            await session.ask("shutdown", None, deadline)
        except ConnectError:
            pass  # it has ended before its answer could be read

    def _client(self) -> Client:
        from treadle.client.client import Client

        assert isinstance(self, Client)
        return self

    # Data

    def nbytes(self, keys: Iterable[Any] | None = None, summary: bool = True, timeout: float | None = None) -> Any:
        """How many bytes results have that workers hold.

        :param keys: the only ones: keys or futures. Default: all on the cluster.
        :param summary: sum up by the name of the function, instead of telling them apart by key.
        """
        only = None if keys is None else [key.key if isinstance(key, Future) else str(key) for key in keys]
        return self._asking("nbytes", (only, summary), timeout)

    def replicate(
        self,
        futures: Any,
        n: int | None = None,
        workers: str | Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Have results held by several workers, and wait until it is so.

        This waits for the tasks first. Copies are made by the workers among themselves: a few at a time from each that
        holds the result, so that their number doubles and doubles again. A copy is kept as long as the result is.

        :param futures: a future, or lists, tuples, sets and dicts with futures.
        :param n: how many workers are to hold each; default: all.
        :param workers: the only ones that count, and get copies: names, idents, addresses or hosts.
        :param timeout: seconds to wait at most.
        :raises UserError: there are not so many workers, or nobody could get a copy.
        """
        if n is not None:
            _check_count("n", n)
        found = self._own(futures)
        return self._face(self._replicate, found, n or 0, _names(workers), deadline_of(timeout))

    async def _replicate(
        self, futures: Sequence[Future[Any]], count: int, names: list[str] | None, deadline: float | None
    ) -> None:
        keys = await self._finished(futures, deadline)
        await self._ask("replicate", (keys, count, names), deadline)

    def rebalance(
        self, futures: Any = None, workers: str | Iterable[str] | None = None, timeout: float | None = None
    ) -> Any:
        """Move results from full workers to empty ones, and wait until that is done.

        A result leaves a worker only when another one has it. Workers are taken to be as full as the share of their
        memory limit that results take.

        :param futures: the only results to move; this waits for their tasks first. Default: all on the cluster.
        :param workers: the only ones to move results between: names, idents, addresses or hosts.
        :param timeout: seconds to wait at most.
        :returns: a dict: ``"moved"`` (how many results), ``"nbytes"`` (of all of them), and ``"problems"`` (a list of
            sentences: which did not move, and why).
        """
        found = None if futures is None else self._own(futures)
        return self._face(self._rebalance, found, _names(workers), deadline_of(timeout))

    async def _rebalance(
        self, futures: Sequence[Future[Any]] | None, names: list[str] | None, deadline: float | None
    ) -> dict[str, Any]:
        keys = None if futures is None else await self._finished(futures, deadline)
        moved: dict[str, Any] = await self._ask("rebalance", (keys, names), deadline)
        return moved

    def _own(self, futures: Any) -> list[Future[Any]]:
        """The futures in a collection."""
        found: list[Future[Any]] = futures_in(listed(futures))
        session = self.session
        for future in found:
            if future._session is not session:
                raise UserError(f"{future!r} belongs to another client, {future._session.ident}")
        return found

    async def _finished(self, futures: Sequence[Future[Any]], deadline: float | None) -> list[str]:
        """Steps: wait for tasks; their keys.

        :raises Exception: what the first that failed has raised.
        """
        failed = await self.session.obtain(futures, False, deadline, True)
        if failed is not None:
            error = failed._error()
            if error is not None:
                try:
                    raise error
                finally:
                    del error, failed, futures  # see Future.result
        return [future.key for future in futures]


def _check_count(name: str, given: Any) -> None:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {given!r}")


def _names(workers: str | Iterable[str] | None) -> list[str] | None:
    if workers is None:
        return None
    names = [workers] if isinstance(workers, str) else list(workers)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"workers are named by strings: names, idents, addresses or hosts; not by {name!r:.200}")
    return names
