"""What plugins are derived from.

A plugin is registered with :meth:`treadle.Client.register_plugin`. Every hook does nothing unless it is overridden.
``docs/plugins.md`` tells when each is called, in which thread, and what happens if it raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["SchedulerPlugin", "WorkerPlugin"]


class WorkerPlugin:
    """Something that every worker has, those that join later included.

    The plugin is pickled: each worker gets a copy of its own.
    """

    #: What it is registered as, unless that is told when it is. One of the same name replaces it.
    name: str | None = None
    #: True: registering one of a name that is taken changes nothing.
    idempotent: bool = False

    def setup(self, worker: Any) -> None:
        """Called once, in a thread of its own, before any task that is sent to the worker later."""

    def teardown(self, worker: Any) -> None:
        """Called once, in a thread of its own, when the plugin is unregistered or replaced, or the worker ends."""

    def transition(self, key: str, start: str, finish: str, **info: Any) -> None:
        """Called for each task by the thread that executes it: ``"ready"`` → ``"executing"`` → ``"memory"`` or
        ``"error"``.

        :param info: at the end of a task the ``seconds`` that it took, and its ``nbytes`` or the ``error`` as text.
        """


class SchedulerPlugin:
    """Somebody who is told what happens on the scheduler.

    All hooks are called in one thread that belongs to the plugin, one after another: what takes long there delays
    nobody else. If more happens than it can follow, the oldest news are dropped, and their number is told.
    """

    #: As for a :class:`WorkerPlugin`.
    name: str | None = None
    idempotent: bool = False

    def start(self, scheduler: Any) -> None:
        """Called first. ``scheduler`` has the ``address``."""

    def close(self) -> None:
        """Called last, when the plugin is unregistered or replaced, or the scheduler ends."""

    def worker_joined(self, name: str, address: str, nthreads: int) -> None:
        """Also called, first of all, for the workers that are there when the plugin comes."""

    def worker_left(self, name: str) -> None:
        """For whatever reason."""

    def client_joined(self, name: str) -> None:
        """A client has connected."""

    def client_left(self, name: str) -> None:
        """For whatever reason."""

    def tasks_submitted(self, client: str, count: int) -> None:
        """A client has sent so many tasks in one message."""

    def tasks_finished(self, worker: str, keys: Sequence[str]) -> None:
        """A worker has said, in one message, that it has computed these."""

    def task_failed(self, worker: str, key: str, error: str) -> None:
        """A task has raised; ``error`` is the traceback as text. It may be tried again."""

    def events_lost(self, count: int) -> None:
        """So many news were dropped, because the hooks of this plugin take too long."""
