"""Methods of a client for the results that its futures stand for: get them, put them there, and let go of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.gathering import fill_in, futures_in, listed, without_failed
from treadle.client.latch import run_async
from treadle.client.limits import within
from treadle.client.lines import CallFuture
from treadle.client.scattering import scatter
from treadle.errors import UserError

__all__ = ["Holding"]


class Holding(Face):
    """Results, and the tasks that make them."""

    def gather(self, futures: Any, errors: str = "raise", timeout: float | None = None) -> Any:
        """The results of futures, in the containers in which they are.

        :param futures: a future, or lists, tuples, sets and dicts with futures, nested in any way.
        :param errors: ``"raise"`` the first exception, or ``"skip"`` what failed or was cancelled. A single future that
            is skipped gives None; a named tuple becomes a tuple if one of its futures is skipped.
        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: not all of it was there in time.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f"errors must be 'raise' or 'skip', not {errors!r}")
        value = listed(futures)
        if self.asynchronous:
            return self._gather_async(value, errors, timeout)
        found = futures_in(value)
        failed = self._block(within, timeout, self._obtain, found, errors)
        error = None if failed is None else failed._error()
        if error is not None:
            try:
                raise error
            finally:
                del error, failed, futures, value, found  # see Future.result
        return _filled(value, found, errors)

    async def _gather_async(self, value: Any, errors: str, timeout: float | None) -> Any:
        found = futures_in(value)
        failed = await run_async(within(timeout, self._obtain, found, errors))
        error = None if failed is None else failed._error()
        if error is not None:
            try:
                raise error
            finally:
                del error, failed, value, found  # see Future.result
        return _filled(value, found, errors)

    async def _obtain(self, futures: list[Future[Any]], errors: str) -> Future[Any] | None:
        session = self._session
        assert session is not None
        self._check_own(futures, "gather")
        return await session.obtain(futures, eager=errors == "raise")

    def scatter(
        self,
        data: Any,
        workers: str | Iterable[str] | None = None,
        broadcast: bool | int = False,
        hash: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Put data into the memory of workers, so that tasks can be given it by its future.

        :param data: a list (or tuple, set, iterator) of values, a dict of them, or one value of another type.
        :param workers: the only workers to use: names, idents, addresses or hosts.
        :param broadcast: True to put each value on every one of them, or on how many of them; False for one.
        :param hash: values that are equal are the same: they have the same key and are stored once. False: each is
            another one. What has no content to compare always is.
        :param timeout: seconds to wait at most.
        :returns: futures in the shape of ``data``: a list, a dict with the same keys, or one.
        :raises TaskNotSerializableError: a value cannot be pickled.
        :raises UserError: there is no such worker, or there are fewer than ``broadcast``.
        :raises concurrent.futures.TimeoutError: not all of it was stored in time.
        """
        copies = _copies(broadcast)
        return self._face(within, timeout, self._scatter, listed(data), workers, copies, hash)

    async def _scatter(self, data: Any, workers: str | Iterable[str] | None, copies: int | None, hashed: bool) -> Any:
        kind = dict if isinstance(data, dict) else list if type(data) in (list, tuple, set, frozenset) else None
        values = list(data.values()) if isinstance(data, dict) else list(data) if kind is list else [data]
        futures = await scatter(self.session, values, workers, copies, hashed)
        return dict(zip(data, futures)) if kind is dict else futures if kind is list else futures[0]

    def cancel(self, futures: Any, force: bool = False, reason: str | None = None) -> None:
        """Cancel futures that are not done, in lists, tuples, sets and dicts.

        They are done at once. Their tasks stop, unless other clients want them; what runs in a thread runs to its end,
        and until then the ``status`` of its future is ``"cancelling"``.

        :param force: also stop what other clients want: their futures are cancelled too.
        :param reason: is told by the ``CancelledError`` of these futures.
        """
        session = self.session
        found = futures_in(listed(futures))
        self._check_own(found, "cancel")
        tasks: list[Future[Any]] = []
        for future in found:
            if isinstance(future, CallFuture):
                future.cancel()
            elif not future.done():
                tasks.append(future)
        session.cancel(tasks, force, reason or "")

    def retry(self, futures: Any) -> None:
        """Have tasks that have failed tried again, with those that failed before them and that they depend on.

        Their futures are pending again. Those of tasks that have not failed stay as they are.

        :param futures: futures in lists, tuples, sets and dicts.
        :raises UserError: one was cancelled or released, so that its task is forgotten.
        """
        found = futures_in(listed(futures))
        self._check_own(found, "retry")
        self.session.retry(found)

    def _check_own(self, futures: Sequence[Future[Any]], what: str) -> None:
        """:raises UserError: one of the futures is not of this client."""
        session = self._session
        for future in futures:
            if future._session is not session:
                raise UserError(f"{future!r} belongs to another client, {future._session.ident}; {what} it there.")


def fire_and_forget(futures: Any) -> None:
    """Have tasks run to their end although nobody keeps their futures, and even if the client is closed.

    What is wrong with such a task is logged by the scheduler.

    :param futures: futures in lists, tuples, sets and dicts.
    """
    by_session: dict[Any, list[Future[Any]]] = {}
    for future in futures_in(listed(futures)):
        by_session.setdefault(future._session, []).append(future)
    for session, found in by_session.items():
        session.keep([future for future in found if not future.done()])


def _copies(broadcast: bool | int) -> int | None:
    """How many workers are to hold each value; None for all."""
    if isinstance(broadcast, bool):
        return None if broadcast else 1
    if operator.index(broadcast) < 1:
        raise ValueError(f"broadcast must be True, False, or a number of workers of at least 1, not {broadcast!r}")
    return broadcast


def _filled(value: Any, found: Sequence[Future[Any]], errors: str) -> Any:
    """The results of futures in the place of these."""
    if errors == "skip":
        if isinstance(value, Future) and not value._succeeded():
            return None
        return fill_in(without_failed(value))
    if found is value:
        for future in found:
            future._unpack()
        return [future.result() for future in found]
    return fill_in(value)
