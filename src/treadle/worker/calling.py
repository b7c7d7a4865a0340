"""What others may have done in this process, outside of tasks: functions called, methods of actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from treadle.net.link import Link
from treadle.wire.messages import Call

__all__ = ["CallServer", "Handler"]

#: Takes a call and the parts of its packed argument, in the event loop, and sees to it that a reply is sent.
Handler = Callable[[Link, Call, list[memoryview]], None]


class CallServer:
    """Hands the calls that arrive at the data port to who handles their topics."""

    def __init__(self) -> None:
        self._handlers: Final[dict[str, Handler]] = {}

    def __repr__(self) -> str:
        return f"<CallServer for {', '.join(sorted(self._handlers)) or 'nothing'}>"

    def register(self, topic: str, handler: Handler) -> None:
        self._handlers[topic] = handler

    def receive(self, link: Link, call: Call, parts: list[memoryview]) -> None:
        handler = self._handlers.get(call.topic)
        if handler is not None:
            handler(link, call, parts)
            return
        known = ", ".join(sorted(self._handlers)) or "none"
        text = f"this worker knows no calls of the topic {call.topic!r}; it knows: {known}"
        link.send([("reply", call.id, ("refused", b"", text, {"what": f"call of {call.topic!r}", "reason": text}), 0)])
