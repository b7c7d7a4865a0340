"""Methods of a client that tell what happens on the cluster, and what has happened."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.gathering import futures_in, listed
from treadle.client.limits import within
from treadle.client.lines import CallFuture
from treadle.client.scattering import choose
from treadle.errors import PeerError, VersionMismatchError
from treadle.versions import compare, own_versions
from treadle.wire.values import pack_value

if TYPE_CHECKING:
    from treadle.client.profile import Profile

__all__ = ["Inspecting"]


class Inspecting(Face):
    """What happens, and what has happened."""

    def who_has(self, futures: Any = None, timeout: float | None = None) -> Any:
        """The idents of the workers that hold each result, by key; of all results on the cluster by default."""
        keys = None if futures is None else [future.key for future in futures_in(listed(futures))]
        return self._asking("who_has", keys, timeout)

    def has_what(self, workers: str | Iterable[str] | None = None, timeout: float | None = None) -> Any:
        """The keys of the results that each worker holds, by ident; of all workers by default."""
        names = None if workers is None else [workers] if isinstance(workers, str) else list(workers)
        return self._asking("has_what", names, timeout)

    def scheduler_info(self, timeout: float | None = None) -> Any:
        """The scheduler, its workers and how many tasks are in which state, as a dict."""
        return self._asking("info", None, timeout)

    def explain(self, future: Future[Any] | str, timeout: float | None = None) -> Any:
        """Why a task is where it is, in one sentence; if it waits for another one, also what that one waits for."""
        return self._asking("explain", _key(future), timeout)

    def story(self, *futures: Future[Any] | str, timeout: float | None = None) -> Any:
        """What has happened to tasks, in the order in which the scheduler heard of it; also to those that are gone.

        The scheduler remembers the last hundred thousand tasks or so.

        :param futures: futures, or keys.
        :param timeout: seconds to wait at most.
        :returns: a list of dicts with ``time`` (seconds since the epoch), ``key``, ``event`` (such as ``"submitted"``,
            ``"sent"``, ``"finished"``), ``member`` (the worker or client that has to do with it) and ``about``, which
            says more about some events.
        """
        return self._asking("story", list(map(_key, futures)), timeout)

    def get_task_stream(
        self,
        start: float | None = None,
        stop: float | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Which task ran where and when, in the order in which the scheduler heard that they had ended.

        :param start: leave out what ended before; seconds since the epoch, as of ``time.time()``.
        :param stop: leave out what began after.
        :param count: only the last so many.
        :param timeout: seconds to wait at most.
        :returns: a list of dicts with ``key``, ``worker``, ``start`` and ``stop`` (seconds since the epoch), ``nbytes``
            (of the result) and ``status``, ``"finished"`` or ``"error"``. How long a task took was measured by its
            worker; when it ended is reckoned from when the scheduler heard of it.
        """
        if count is not None and count < 0:
            raise ValueError(f"count must be a whole number of at least 0, not {count!r}")
        return self._asking("task_stream", {"start": start, "stop": stop, "count": count}, timeout)

    def get_versions(
        self, check: bool = False, packages: Iterable[str] | None = None, timeout: float | None = None
    ) -> Any:
        """What the client, the scheduler and the workers run on.

        :param check: compare them.
        :param packages: names of more packages to look at, as they are installed.
        :param timeout: seconds to wait at most.
        :returns: a dict with ``"client"``, ``"scheduler"`` and ``"workers"`` (by name), and for each of them a dict:
            ``"python"``, ``"treadle"`` and all packages that matter, with their versions; None for what is not there.
        :raises VersionMismatchError: ``check`` was asked for, and found differences: it names all of them.
        """
        return self._face(within, timeout, self._get_versions, check, list(packages or ()))

    async def _get_versions(self, check: bool, packages: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {"client": own_versions(packages)}
        found["scheduler"] = await self._ask("packages", packages)
        found["workers"] = dict(await self._of_workers("versions", packages, None))
        if check:
            differences = compare(found, packages)
            if differences:
                raise VersionMismatchError(differences)
        return found

    def profile(
        self,
        seconds: float | None = None,
        workers: str | Iterable[str] | None = None,
        start: float | None = None,
        stop: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Where the tasks have spent their time: a statistical profile of the threads that execute them.

        Every worker looks at these threads some 50 times a second, and remembers what it saw for an hour. Asynchronous
        tasks have no thread of their own, and are not seen.

        :param seconds: only the last so many.
        :param workers: the only ones to ask: names, idents, addresses or hosts.
        :param start: only what was seen from then on; seconds since the epoch. Exact to ten seconds.
        :param stop: only what was seen until then.
        :param timeout: seconds to wait at most for the answers.
        :returns: a :class:`~treadle.client.profile.Profile`.
        """
        if seconds is not None:
            if start is not None or stop is not None:
                raise TypeError("say either seconds or start and stop")
            start = time.time() - seconds
        return self._face(within, timeout, self._profile, workers, start, stop)

    async def _profile(self, workers: str | Iterable[str] | None, start: float | None, stop: float | None) -> Profile:
        from treadle.client.profile import Profile

        return Profile([samples for _, samples in await self._of_workers("profile", (start, stop), workers)])

    async def _of_workers(
        self, topic: str, argument: Any, workers: str | Iterable[str] | None
    ) -> list[tuple[str, Any]]:
        """Steps: the name of each worker, and its answer to a call."""
        known = (await self._ask("info"))["workers"]
        idents = choose(known, workers) if known else []
        lines = self.session.fetcher.lines
        futures: list[CallFuture[Any]] = []
        for ident in idents:
            line = lines.to(ident, known[ident]["address"])
            future: CallFuture[Any] = CallFuture(f"{topic} of {known[ident]['name']}", line)
            line.call(future, topic, "", pack_value(argument))
            futures.append(future)
        await self.session.obtain(futures)
        answers: list[tuple[str, Any]] = []
        for ident, future in zip(idents, futures):
            error = future._error()
            if error is None:
                answers.append((known[ident]["name"], future.result()))
            elif not isinstance(error, PeerError):  # else it is gone by now
                raise error
        return answers


def _key(future: Any) -> str:
    if isinstance(future, Future):
        return future.key
    if isinstance(future, str):
        return future
    raise TypeError(f"this needs a future or the key of one, not {future!r:.200}")
