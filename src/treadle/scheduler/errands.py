"""Tasks that run to their end although no client waits for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from treadle.scheduler.keeping import read
from treadle.scheduler.services import Ask, Inquiry, Service

if TYPE_CHECKING:
    from treadle.core.records import Client
    from treadle.scheduler.services import Hub

__all__ = ["Errands"]

log = logging.getLogger("treadle.scheduler")


class Errands(Service):
    """Wants what clients let go of, until it is done. What is wrong then is nobody's to hear: it is logged."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._client: Client | None = None

    def topics(self) -> Mapping[str, Ask]:
        return {"keep": self._keep}

    def _keep(self, inquiry: Inquiry) -> None:
        """Let some tasks run to their end."""
        keys: list[str] = read(inquiry, list[str], "a list of keys")
        now = self.hub.now()
        if self._client is None:
            self._client = self.hub.core.on_client("keeper-errands", now)
            self.hub.attend(self._client, self._told)
        self.hub.core.on_want(self._client, keys, now)
        self.hub.flush_soon()
        inquiry.answer(None)

    def _told(self, rows: Sequence[tuple[Any, ...]]) -> None:
        over: list[str] = []
        for message in rows:
            if message[0] == "done":
                over.extend([row[0] for row in message[1]])
            elif message[0] == "failed":
                for key, culprit, error in message[1]:
                    over.append(key)
                    _report(key, culprit, error)
        if over and self._client is not None:
            self.hub.core.on_release(self._client, over, self.hub.now())
            self.hub.flush_soon()


#: Characters of a traceback that are logged.
_SHOWN: Final = 10_000


def _report(key: str, culprit: str, error: tuple[str, bytes, str, dict[str, Any]]) -> None:
    kind, _, text, _ = error
    if kind == "cancelled":
        log.info("the task %r, which nobody waits for, was cancelled", key)
        return
    where = "" if culprit == key else f", because {culprit!r} did"
    log.error("the task %r, which nobody waits for, failed%s (%s)\n%s", key, where, kind, text[-_SHOWN:])
