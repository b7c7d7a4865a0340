"""Functions that clients have called in the process of the scheduler, if its owner has allowed that.

Each is unpickled and called in a thread of its own: the event loop, and with it the cluster, does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Thread
from typing import Any, Final

from treadle.scheduler.services import Ask, Inquiry, Service

__all__ = ["REFUSAL", "Running"]

REFUSAL: Final = (
    "this scheduler does not call functions for its clients. Whoever starts it can allow it: "
    "`treadle scheduler --allow-run-on-scheduler`, or LocalCluster(allow_run_on_scheduler=True)"
)


class Running(Service):
    """Answers ``run_on_scheduler``, whose argument is a packed function with its arguments and keyword arguments."""

    def topics(self) -> Mapping[str, Ask]:
        return {"run_on_scheduler": self._run}

    def _run(self, inquiry: Inquiry) -> None:
        if not self.hub.settings.allow_run_on_scheduler:
            inquiry.refuse(REFUSAL)
        elif not isinstance(inquiry.argument, bytes) or not inquiry.argument:
            inquiry.refuse("the argument of 'run_on_scheduler' must be a packed function with its arguments")
        else:
            Thread(target=self._call, args=(inquiry, self.hub.core.info()), name="treadle-run", daemon=True).start()

    def _call(self, inquiry: Inquiry, scheduler: dict[str, Any]) -> None:
        """In a thread. The answer is a pair: the error, if there is one, and the packed result."""
        from treadle.wire.values import pack_value
        from treadle.worker.calls import refusal
        from treadle.worker.running import perform

        value, error = perform(inquiry.argument, (), "scheduler", scheduler)
        packed = b""
        if error is None:
            try:
                packed = pack_value(value)
            except Exception as reason:
                error = refusal(value, reason)
        try:
            self.hub.loop.call_soon_threadsafe(inquiry.answer, (error, packed))
        except RuntimeError:
            pass  # the loop is closed: the scheduler has ended
