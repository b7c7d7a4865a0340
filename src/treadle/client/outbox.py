"""What is to be sent to the scheduler, put together as it is asked for.

Tasks that are submitted one after another with the same options become one message. No lock, no sockets: whoever owns
an outbox sees to that.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Options", "Outbox", "Row"]

#: Key, number of the function, payload, keys of the dependencies.
Row: TypeAlias = "tuple[str, int, bytes, list[str]]"

#: What is asked for beyond the tasks themselves, as it is sent; None for nothing.
Options: TypeAlias = "dict[str, Any] | None"


class Outbox:
    """Messages in the order in which they must arrive."""

    def __init__(self) -> None:
        self._messages: list[tuple[Any, ...]] = []
        #: The tasks that the last message will be made of, their options, and whether one of them has dependencies.
        #: A task is one item, so that an interrupt leaves either all of it here or nothing.
        self.rows: list[Row] = []
        self._options: Options = None
        self._linked = False
        #: The bytes of arguments in all this, as far as whoever adds them counts them.
        self.nbytes = 0

    def __repr__(self) -> str:
        return f"<Outbox of {len(self._messages)} messages and {len(self.rows)} tasks>"

    def __bool__(self) -> bool:
        return bool(self.rows or self._messages)

    def open(self, options: Options, linked: bool) -> list[Row]:
        """The rows to which tasks with these options are to be appended.

        :param linked: whether one of these tasks has dependencies.
        """
        if options != self._options:
            self._close()
            self._options = options
        if linked:
            self._linked = True
        return self.rows

    def add(self, *message: Any) -> None:
        self._close()
        self._messages.append(message)

    def take(self) -> list[tuple[Any, ...]]:
        """All messages; the outbox is empty then."""
        self._close()
        messages, self._messages = self._messages, []
        self.nbytes = 0
        return messages

    def _close(self) -> None:
        if self.rows:
            keys, functions, payloads, deps = zip(*self.rows)
            message = ("submit", keys, functions, payloads, deps if self._linked else (), None, self._options)
            self._messages.append(message)
            self.rows = []
        self._linked = False
