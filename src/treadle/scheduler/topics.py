"""What a client may ask the scheduler, and the answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from treadle.core.states import MEMORY, WAITING
from treadle.scheduler.members import own_versions
from treadle.versions import own_versions as own_packages

if TYPE_CHECKING:
    from treadle.core.scheduler import Scheduler
    from treadle.scheduler.members import Roster

__all__ = ["QuestionError", "Topics"]

_T = TypeVar("_T")


class QuestionError(Exception):
    """A question that has no answer; its text says what was wrong with it."""


class Topics:
    """Answers questions about one scheduler. Every answer is made of what msgpack can carry."""

    def __init__(self, core: Scheduler, roster: Roster, about: dict[str, Any], others: Iterable[str] = ()) -> None:
        """
        :param about: what is known of the scheduler's process; it is part of the topic ``info``.
        :param others: the topics that services answer.
        """
        self._others: Final = others
        self._core: Final = core
        self._roster: Final = roster
        self._about: Final = about
        self._started: Final = time.monotonic()
        self._topics: Final[dict[str, Callable[[Any], Any]]] = {
            "explain": self._explain,
            "has_what": self._has_what,
            "info": self._info,
            "packages": self._packages,
            "progress": self._progress,
            "stopping": self._stopping,
            "versions": self._versions,
            "who_has": self._who_has,
        }

    def answer(self, topic: str, argument: Any) -> Any:
        """The answer to one question.

        :raises QuestionError: there is no such topic, or the argument does not belong to it.
        """
        respond = self._topics.get(topic)
        if respond is None:
            known = ", ".join(sorted([*self._topics, *self._others]))
            raise QuestionError(f"there is no topic {topic!r}; there are: {known}")
        return respond(argument)

    def _who_has(self, argument: Any) -> dict[str, list[str]]:
        """Which workers hold the results of some keys; of all keys if the argument is nil."""
        keys = None if argument is None else _argument("who_has", argument, list[str], "a list of keys, or nil")
        return self._core.who_has(keys)

    def _has_what(self, argument: Any) -> dict[str, list[str]]:
        """Which results some workers (idents, names or addresses) hold; all workers if the argument is nil."""
        held = self._core.has_what()
        if argument is None:
            return held
        wanted = _argument("has_what", argument, list[str], "a list of workers, or nil")
        return {ident: held.get(ident, []) for ident in map(self._worker, wanted)}

    def _worker(self, given: str) -> str:
        """The ident of the worker that ``given`` is the ident, the name or the address of."""
        for ident, member in self._roster.workers.items():
            details = member.details
            if given in (ident, member.name) or (details is not None and given == details.address):
                return ident
        names = ", ".join(sorted(member.name for member in self._roster.workers.values()))
        raise QuestionError(f"there is no worker {given!r}; there are: {names or 'none at all'}")

    def _info(self, argument: Any) -> dict[str, Any]:
        """The whole cluster in one map."""
        _argument("info", argument, None, "nil: it takes no argument")
        uptime = time.monotonic() - self._started
        # Of the core's clients some are keepers of services, without a connection.
        own = {"clients": list(self._roster.clients), "pid": os.getpid(), "uptime": uptime}
        return {**self._core.info(), **self._about, **own, **own_versions()}

    def _explain(self, argument: Any) -> str:
        """Why a task is where it is, and what at last holds it up if it waits for another one."""
        key = _argument("explain", argument, str, "a key")
        text = self._core.explain(key)
        blocker = self._blocker(key)
        return text if blocker is None else f"{text} What holds that up: {self._core.explain(blocker)}"

    def _blocker(self, key: str) -> str | None:
        """Of all that a waiting task waits for, the first that does not wait for something itself."""
        task = self._core.tasks.get(key)
        if task is None or task.state != WAITING:
            return None
        while task.state == WAITING:
            task = next(dep for dep in task.deps if dep.state != MEMORY)
        return task.key

    def _packages(self, argument: Any) -> dict[str, str | None]:
        """What the scheduler runs on, and the versions of some packages."""
        return own_packages(_argument("packages", argument, list[str], "a list of names of packages"))

    def _progress(self, argument: Any) -> Any:
        """How many tasks of each group are in each state."""
        _argument("progress", argument, None, "nil: it takes no argument")
        return self._core.progress()

    def _stopping(self, argument: Any) -> list[str]:
        """The keys of cancelled tasks that still occupy a thread."""
        _argument("stopping", argument, None, "nil: it takes no argument")
        return [key for worker in self._core.workers.values() for key in worker.stopping.values()]

    def _versions(self, argument: Any) -> dict[str, Any]:
        """What every part of the cluster runs on."""
        _argument("versions", argument, None, "nil: it takes no argument")
        roster = self._roster
        return {
            "scheduler": own_versions(),
            "workers": {ident: msgspec.to_builtins(member.versions) for ident, member in roster.workers.items()},
            "clients": {ident: msgspec.to_builtins(member.versions) for ident, member in roster.clients.items()},
        }


def _argument(topic: str, given: Any, kind: type[_T] | None, what: str) -> _T:
    try:
        value: _T = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise QuestionError(f"the argument of {topic!r} must be {what} ({error})") from None
    return value
