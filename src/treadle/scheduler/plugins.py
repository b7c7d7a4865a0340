"""Plugins of the scheduler: they are told what happens, each in a thread of its own, and can hold up nothing."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Mapping
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec

from treadle.plugins import SchedulerPlugin
from treadle.scheduler.services import Ask, Hub, Inquiry, Service
from treadle.scheduler.setups import Registration
from treadle.scheduler.topics import QuestionError
from treadle.wire.messages import Failed, Finished, Submit

if TYPE_CHECKING:
    from treadle.scheduler.members import Member
    from treadle.scheduler.server import Server
    from treadle.wire.failures import PackedError

__all__ = ["Plugins", "SchedulerInfo"]

log = logging.getLogger("treadle.scheduler")

#: How much news may wait for the hooks of one plugin. Then the oldest is dropped.
CAPACITY: Final = 10_000

#: Seconds that the hooks called ``close`` may take in all when the scheduler ends.
CLOSING: Final = 1.0


class SchedulerInfo:
    """The scheduler, as its plugins and its preloads see it."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server

    def __repr__(self) -> str:
        return f"<Scheduler at {self.address}>"

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._server.address

    def register_plugin(self, plugin: SchedulerPlugin, name: str | None = None) -> None:
        """Have a plugin told what happens. For preloads: what runs in this process needs no permission."""
        self._server.service(Plugins).add(name or plugin.name or type(plugin).__name__, lambda: plugin)


class Runner:
    """One plugin, its thread, and the news that wait for it."""

    def __init__(
        self, name: str, info: object, make: Callable[[], Any], started: Callable[[PackedError | None], None]
    ) -> None:
        """
        :param make: makes the plugin, in the thread.
        :param started: told, by the thread, why the plugin does not work, or None.
        """
        self.name: Final = name
        self._info: Final = info
        self._make: Final = make
        self._started: Final = started
        self._news: Final[deque[tuple[str, tuple[Any, ...]]]] = deque()
        self._lost = 0
        self._ending = False
        self._changed: Final = Condition()
        self._thread: Final = Thread(target=self._run, name=f"treadle-plugin-{name}", daemon=True)

    def __repr__(self) -> str:
        return f"<Runner of the plugin {self.name!r}, {len(self._news)} news wait>"

    def begin(self) -> None:
        self._thread.start()

    def tell(self, hook: str, *args: Any) -> None:
        """Have a hook called, later."""
        with self._changed:
            if len(self._news) >= CAPACITY:
                self._news.popleft()
                self._lost += 1
            self._news.append((hook, args))
            self._changed.notify()

    def end(self) -> None:
        """Let the plugin have what waits for it, and then end."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            plugin = self._make()
            plugin.start(self._info)
        except BaseException as error:
            log.warning("the plugin %r cannot be started", self.name, exc_info=True)
            from treadle.wire.failures import pack_error  # which can pickle, as the scheduler itself never does

            self._started(pack_error(error))
            return
        self._started(None)
        while True:
            hook, args = self._next()
            try:
                getattr(plugin, hook)(*args)
            except BaseException:
                log.exception("%s of the plugin %r failed", hook, self.name)
            if hook == "close":
                return

    def _next(self) -> tuple[str, tuple[Any, ...]]:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._lost or self._ending)
            if self._lost:
                lost, self._lost = self._lost, 0
                log.warning("the plugin %r is too slow: %d news were dropped", self.name, lost)
                return "events_lost", (lost,)
            return self._news.popleft() if self._news else ("close", ())


class Plugins(Service):
    """Passes on to plugins what the server hears. Without a plugin it costs next to nothing."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._runners: Final[dict[str, Runner]] = {}
        self._watching = False

    def __repr__(self) -> str:
        return f"<Plugins: {', '.join(self._runners) or 'none'}>"

    def topics(self) -> Mapping[str, Ask]:
        return {
            "register_scheduler_plugin": self._register,
            "unregister_scheduler_plugin": self._unregister,
            "scheduler_plugins": lambda inquiry: inquiry.answer(list(self._runners)),
        }

    # Plugins that come and go

    def _register(self, inquiry: Inquiry) -> None:
        """Start a plugin. Answered as ``setup`` is, with the scheduler in place of a worker."""
        if not self.hub.settings.allow_run_on_scheduler:
            raise QuestionError(
                "this scheduler runs no code of its clients, and so takes no plugins from them; start it with "
                "--allow-run-on-scheduler, or LocalCluster(allow_run_on_scheduler=True), or give it a --preload"
            )
        try:
            given = msgspec.convert(inquiry.argument, Registration)
        except msgspec.ValidationError as error:
            raise QuestionError(f"the argument must be a name, bytes and a bool ({error})") from None
        if given.idempotent and given.name in self._runners:
            inquiry.answer((0, []))
            return

        def started(error: PackedError | None) -> None:
            failures = [] if error is None else [("scheduler", error)]
            self.hub.loop.call_soon_threadsafe(inquiry.answer, (1, failures))

        self.add(given.name, lambda: pickle.loads(given.blob), started)

    def add(
        self, name: str, make: Callable[[], Any], started: Callable[[PackedError | None], None] = lambda error: None
    ) -> None:
        """Start a plugin in place of the one that has this name. Called in the event loop.

        :param make: makes the plugin.
        :param started: told, by another thread, why it does not work, or None.
        """
        former = self._runners.pop(name, None)
        if former is not None:
            former.end()

        def over(error: PackedError | None) -> None:
            if error is not None:
                self.hub.loop.call_soon_threadsafe(self._drop, runner)
            started(error)

        runner = self._runners[name] = Runner(name, SchedulerInfo(self.hub), make, over)  # type: ignore[arg-type]
        for member in self.hub.roster.workers.values():
            runner.tell("worker_joined", *_about(member))
        runner.begin()
        if not self._watching:
            self._watching = True
            self.hub.watch(Submit, self._submitted)
            self.hub.watch(Finished, self._finished)
            self.hub.watch(Failed, self._failed)

    def _drop(self, runner: Runner) -> None:
        if self._runners.get(runner.name) is runner:
            del self._runners[runner.name]

    def _unregister(self, inquiry: Inquiry) -> None:
        """End a plugin. Answered by whether there was one of this name."""
        runner = self._runners.pop(inquiry.argument, None) if isinstance(inquiry.argument, str) else None
        if runner is not None:
            runner.end()
        inquiry.answer(runner is not None)

    def close(self) -> None:
        for runner in self._runners.values():
            runner.end()
        deadline = monotonic() + CLOSING
        for runner in self._runners.values():
            runner.join(max(deadline - monotonic(), 0.0))

    # News

    def _tell(self, hook: str, *args: Any) -> None:
        for runner in self._runners.values():
            runner.tell(hook, *args)

    def joined(self, member: Member) -> None:
        if member.role == "worker":
            self._tell("worker_joined", *_about(member))
        else:
            self._tell("client_joined", member.name)

    def gone(self, member: Member) -> None:
        self._tell(f"{member.role}_left", member.name)

    def _submitted(self, member: Member, message: Submit) -> None:
        if self._runners:
            self._tell("tasks_submitted", member.name, len(message.keys))

    def _finished(self, member: Member, message: Finished) -> None:
        if self._runners:
            processing = self._processing(member)
            keys = [processing[row[0]].key for row in message.rows if row[0] in processing]
            if keys:
                self._tell("tasks_finished", member.name, keys)

    def _failed(self, member: Member, message: Failed) -> None:
        if self._runners:
            task = self._processing(member).get(message.attempt)
            if task is not None:
                self._tell("task_failed", member.name, task.key, message.error[2])

    def _processing(self, member: Member) -> Mapping[int, Any]:
        worker = self.hub.core.workers.get(member.peer.ident)
        return {} if worker is None else worker.processing


def _about(member: Member) -> tuple[str, str, int]:
    details = member.details
    return (member.name, "", 0) if details is None else (member.name, details.address, details.nthreads)
