"""``progress``: bars for what a cluster is doing for some futures."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.client.future import Future
from treadle.client.latch import deadline_of, run_async, run_blocking
from treadle.client.limits import within
from treadle.client.session import Session
from treadle.diagnostics.screen import INTERVAL, Meter, hide, show
from treadle.errors import TreadleError, UserError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show_progress"]

#: The states in which a task is yet to be done, among those that the scheduler tells of.
_AHEAD = ("waiting", "queued", "processing")


def show_progress(futures: Sequence[Future[Any]], console: Console | None, timeout: float | None) -> Any:
    """See :func:`treadle.progress`; there is at least one future."""
    sessions = {future._session for future in futures}
    if len(sessions) > 1:
        raise UserError("these futures belong to several clients; show the progress of one client's at a time")
    (session,) = sessions
    bars = _Bars(session, console)
    asked = (timeout, bars.watch, futures)
    return run_async(within(*asked)) if session.in_loop() else run_blocking(within, *asked)


class _Bars:
    def __init__(self, session: Session, console: Console | None) -> None:
        self._session = session
        self._console = console
        self._meters: dict[str, Meter] = {}
        #: How many tasks of each group had been forgotten before.
        self._before: dict[str, int] = {}

    async def watch(self, futures: Sequence[Future[Any]]) -> None:
        """Steps: draw until all futures have ended."""
        self._session.flush()
        error: BaseException | None = None
        try:
            await self._look(True)
            over = False
            while not over:
                try:
                    await self._session.obtain(futures, fetch=False, deadline=deadline_of(INTERVAL))
                    over = True
                except concurrent.futures.TimeoutError:
                    pass
                await self._look(False)
        except TreadleError:
            pass  # the scheduler is gone, which the futures tell better
        except BaseException as raised:
            error = raised
            raise
        finally:
            failed = next((future for future in futures if future.status in ("error", "lost")), None)
            if error is None and failed is not None:
                error = failed.exception()
            for meter in self._meters.values():
                if meter.done < meter.total:
                    meter.error = error
                hide(meter, self._console)
            del error

    async def _look(self, first: bool) -> None:
        """Steps: ask how far all groups are."""
        for name, (done, total) in _sums(await self._session.ask("progress")).items():
            if first:
                self._before[name] = done
            done -= self._before.get(name, 0)
            total -= self._before.get(name, 0)
            meter = self._meters.get(name)
            if meter is None:
                if done == total:
                    continue
                meter = self._meters[name] = Meter(name, 0.0, total)
                show(meter, self._console)
            meter.total = total
            meter.done = done


def _sums(rows: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, tuple[int, int]]:
    """For each name of a group how many of its tasks are done, or not needed any more, and how many there are."""
    sums: dict[str, tuple[int, int]] = {}
    for name, counts in rows:
        done, total = sums.get(name, (0, 0))
        whole = sum(counts.values())
        ahead = sum(counts.get(state, 0) for state in _AHEAD)
        sums[name] = (done + whole - ahead, total + whole)
    return sums
