"""Methods of a client that call functions on workers, or on the scheduler, outside of any task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from treadle.client.excepting import make_exception
from treadle.client.face import Face
from treadle.client.latch import deadline_of
from treadle.client.lines import CallFuture
from treadle.errors import UserError
from treadle.wire.functions import display_name, pack_function
from treadle.wire.parcels import pack_parcel
from treadle.wire.values import pack_call, pack_value, unpack_value

__all__ = ["Calling"]

_ON_ERROR = ("raise", "return", "ignore")

#: The topic of calls of functions on workers.
RUN = "run"


class Calling(Face):
    """Calls outside of tasks."""

    def run(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        workers: str | Iterable[str] | None = None,
        wait: bool = True,
        on_error: str = "raise",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call ``func(*args, **kwargs)`` on every worker that there is now, outside of tasks: in a thread of its own.

        A parameter of ``func`` with the name ``worker`` is given what :func:`treadle.get_worker` returns. Coroutine
        functions are run to their end.

        :param workers: only on these: names, idents, addresses or hosts.
        :param wait: False: return futures of the results.
        :param on_error: ``"raise"`` the first exception, ``"return"`` exceptions in the place of results, or
            ``"ignore"``: leave out the workers where there was one. A worker that dies meanwhile is an exception, too.
        :param timeout: seconds to wait at most. The calls go on after that.
        :returns: the results, by the idents of the workers.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        :raises UserError: there is no such worker.
        :raises concurrent.futures.TimeoutError: not all had returned in time.
        """
        if on_error not in _ON_ERROR:
            raise ValueError(f"on_error must be one of {', '.join(map(repr, _ON_ERROR))}, not {on_error!r}")
        name = _check(func, args, kwargs)
        parcel = pack_parcel((func, args, kwargs))
        names = None if workers is None else [workers] if isinstance(workers, str) else list(workers)
        return self._face(self._run, name, parcel, names, wait, on_error, deadline_of(timeout))

    async def _run(
        self,
        name: str,
        parcel: tuple[bytes, list[Any]],
        names: list[str] | None,
        wait: bool,
        on_error: str,
        deadline: float | None,
    ) -> dict[str, Any]:
        session = self.session
        known: dict[str, dict[str, Any]] = (await session.ask("info", None, deadline))["workers"]
        futures: dict[str, CallFuture[Any]] = {}
        for ident in known if names is None else _named(known, names):
            worker = known[ident]
            line = session.fetcher.lines.to(ident, worker["address"])
            futures[ident] = CallFuture(f"{name} on the worker {worker['name']}", line)
            line.call(futures[ident], RUN, name, *parcel)
        if not wait:
            return dict(futures)
        failed = await session.obtain(list(futures.values()), deadline=deadline, eager=on_error == "raise")
        error = None if failed is None else failed._error()
        if error is not None:
            try:
                raise error
            finally:
                del error, failed, futures  # see Future.result
        results: dict[str, Any] = {}
        for ident, future in futures.items():
            error = future._error()
            if error is None:
                results[ident] = future._result
            elif on_error == "return":
                results[ident] = error
        return results

    def run_on_scheduler(
        self, func: Callable[..., Any], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call ``func(*args, **kwargs)`` in the process of the scheduler, in a thread of its own.

        Whoever starts the scheduler has to allow that: ``treadle scheduler --allow-run-on-scheduler``, or
        ``LocalCluster(allow_run_on_scheduler=True)``. A parameter of ``func`` with the name ``scheduler`` is given a
        dict of what the scheduler knew of its workers and tasks a moment before.

        :param timeout: seconds to wait at most. The call goes on after that.
        :raises UserError: it is not allowed.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        :raises concurrent.futures.TimeoutError: it had not returned in time.
        """
        name = _check(func, args, kwargs)
        return self._face(self._run_there, name, pack_value((func, args, kwargs)), deadline_of(timeout))

    async def _run_there(self, name: str, packed: bytes, deadline: float | None) -> Any:
        failed, value = await self._ask("run_on_scheduler", packed, deadline)
        if failed is None:
            return unpack_value(value)
        error = make_exception(failed, f"{name} on the scheduler", None)
        try:
            raise error
        finally:
            del error  # see Future.result


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The name of a function, for people to read.

    :raises TaskNotSerializableError: it, or an argument, cannot be pickled.
    """
    if not callable(func):
        raise TypeError(f"the first argument must be the function to call, not {func!r:.200}")
    name = display_name(func)
    pack_function(func, name)
    pack_call(name, args, kwargs)
    return name


def _named(known: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    """The idents of the workers that are meant.

    :raises UserError: a name is that of none.
    """
    found: dict[str, None] = {}
    for name in names:
        idents = [
            ident
            for ident, worker in known.items()
            if name in (ident, worker["name"], worker["address"], worker["host"])
        ]
        if not idents:
            there = ", ".join(sorted(worker["name"] for worker in known.values()))
            raise UserError(f"there is no worker {name!r}; there are: {there or 'none at all'}")
        found.update(dict.fromkeys(idents))
    return list(found)
