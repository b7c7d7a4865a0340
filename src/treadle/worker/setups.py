"""What the scheduler has a worker set up before it runs tasks: plugins and files."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Final, TypeAlias

from treadle.plugins import WorkerPlugin
from treadle.wire.failures import PackedError
from treadle.wire.messages import Remake, Run, Setup, Shutdown, Teardown
from treadle.worker.calls import failure

__all__ = ["Setups", "Transition", "tell", "tell_end"]

log = logging.getLogger("treadle.worker")

#: :meth:`treadle.plugins.WorkerPlugin.transition` of one plugin.
Transition: TypeAlias = Callable[..., object]


class Setups:
    """Sets up what the scheduler says, in a thread of its own. Tasks that come later wait for it.

    All methods but :meth:`close` are called in the event loop.
    """

    def __init__(
        self,
        worker: Any,
        transitions: list[Transition],
        changed: Callable[[], None],
        send: Callable[[list[Any]], None],
        receive: Callable[[list[Any]], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """
        :param worker: what the hooks of plugins are given.
        :param transitions: the hooks that threads have to call for each task.
        :param changed: called after something was set up, or undone: modules may be others now.
        :param send: sends messages to the scheduler. Called by the thread.
        :param receive: takes the messages that had to wait.
        :param soon: has the event loop call something.
        """
        self._worker: Final = worker
        self._transitions: Final = transitions
        self._changed: Final = changed
        self._send: Final = send
        self._receive: Final = receive
        self._soon: Final = soon
        self._plugins: Final[dict[int, tuple[str, Any]]] = {}
        self._work: Final[SimpleQueue[Callable[[], None]]] = SimpleQueue()
        self._thread: Thread | None = None
        #: How many rows the thread has to see to, and the messages that wait for it.
        self._busy = 0
        self._held: list[Any] = []

    def __repr__(self) -> str:
        return f"<Setups: {len(self._plugins)} done, {self._busy} to do, {len(self._held)} messages wait>"

    def sift(self, received: list[Any]) -> list[Any]:
        """Take the messages that are for this, and all from the first on that has to wait. Returns the others."""
        if not self._busy:
            for message in received:
                if type(message) in _OURS:
                    break
            else:
                return received
        others: list[Any] = []
        for message in received:
            kind = type(message)
            if kind is Shutdown:
                others.append(message)
            elif self._held or (self._busy and kind in _LATER):
                self._held.append(message)
            elif kind is Setup:
                for row in message.rows:
                    self._begin(self._set_up, *row)
            elif kind is Teardown:
                for number in message.numbers:
                    self._begin(self._tear_down, number)
            else:
                others.append(message)
        return others

    def _begin(self, function: Callable[..., None], *args: Any) -> None:
        self._busy += 1
        self._do(lambda: function(*args))

    def _do(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="treadle-setups", daemon=True)
            self._thread.start()
        self._work.put(work)

    def _done(self) -> None:
        self._busy -= 1
        if not self._busy and self._held:
            held, self._held = self._held, []
            self._receive(held)

    # In the thread

    def _run(self) -> None:
        while True:
            work = self._work.get()
            work()
            self._soon(self._done)

    def _set_up(self, number: int, name: str, blob: bytes) -> None:
        error = None
        try:
            plugin = pickle.loads(blob)
            plugin.setup(self._worker)
        except BaseException as raised:
            log.warning("the plugin %r cannot be set up", name, exc_info=True)
            error = failure(raised)
        else:
            self._plugins[number] = (name, plugin)
            self._worker.plugins[name] = plugin
            if type(plugin).transition is not WorkerPlugin.transition:
                self._transitions.append(plugin.transition)
        self._changed()
        self._send([("ready", number, error)])

    def _tear_down(self, number: int) -> None:
        name, plugin = self._plugins.pop(number, ("", None))
        if plugin is None:
            return  # its setup had failed
        if self._worker.plugins.get(name) is plugin:
            del self._worker.plugins[name]
        if plugin.transition in self._transitions:
            self._transitions.remove(plugin.transition)
        try:
            plugin.teardown(self._worker)
        except BaseException:
            log.warning("the teardown of the plugin %r failed", name, exc_info=True)
        self._changed()

    def close(self, timeout: float) -> None:
        """Tear everything down, the last first, or give up after so many seconds. Called by any thread but ours."""
        over = Event()

        def tear_down() -> None:
            for number in sorted(self._plugins, reverse=True):
                self._tear_down(number)
            over.set()

        if self._thread is not None:
            self._work.put(tear_down)
            over.wait(timeout)


_OURS: Final = (Setup, Teardown)
#: What runs code of users, and so has to come after what was to be set up before.
_LATER: Final = (Run, Remake)


def tell_end(transitions: list[Transition], key: str, seconds: float, nbytes: int, error: PackedError | None) -> None:
    """Call the hooks at the end of a task."""
    if error is None:
        tell(transitions, key, "executing", "memory", seconds=seconds, nbytes=nbytes)
    else:
        tell(transitions, key, "executing", "error", seconds=seconds, error=error[2])


def tell(transitions: list[Transition], key: str, start: str, finish: str, **info: Any) -> None:
    """Call the hooks for one task. What they raise is logged, and hurts nobody."""
    for transition in tuple(transitions):
        try:
            transition(key, start, finish, **info)
        except BaseException:
            log.exception("the transition hook of a plugin failed for the task %r", key)
