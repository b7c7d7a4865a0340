"""What a core has sent, kept until a test has looked at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["RecordingPeer", "UnexaminedError", "record"]


class UnexaminedError(AssertionError):
    """A message that nobody has looked at, or that nobody knows."""


class _Outbox(Protocol):
    """A record of the scheduler's core for one of its peers."""

    @property
    def ident(self) -> str: ...

    def take(self) -> list[tuple[Any, ...]]: ...


class RecordingPeer:
    """Takes the place of a connection: it keeps what the core sends to one peer.

    A test takes each message in turn, and says at the end that there are no others::

        peer = RecordingPeer(core.on_client("client-1", 0.0))
        ...
        record(core, [peer])
        assert peer.take("done") == [("x", 28, b"\\x2a", "worker-1", "host:1")]
        peer.nothing_more()
    """

    def __init__(self, peer: _Outbox) -> None:
        #: The core's record of the peer.
        self.peer = peer
        self.messages: list[tuple[Any, ...]] = []

    @property
    def ident(self) -> str:
        """The name of the peer."""
        return self.peer.ident

    def take(self, op: str) -> Any:
        """The first field of the next message, which has to be of the kind ``op``."""
        return self.take_fields(op)[0]

    def take_fields(self, op: str) -> tuple[Any, ...]:
        """All fields of the next message, which has to be of the kind ``op``."""
        if not self.messages:
            raise UnexaminedError(f"{self.ident!r} was to be sent {op!r} and was sent nothing more")
        message = self.messages[0]
        if message[0] != op:
            raise UnexaminedError(f"{self.ident!r} was to be sent {op!r} and was sent {message!r}")
        del self.messages[0]
        return message[1:]

    def take_all(self, op: str) -> list[Any]:
        """The first fields of all messages of the kind ``op``, whatever lies between them."""
        found = [message[1] for message in self.messages if message[0] == op]
        self.messages = [message for message in self.messages if message[0] != op]
        return found

    def nothing_more(self) -> None:
        """:raises UnexaminedError: a message was not looked at."""
        if self.messages:
            raise UnexaminedError(f"{self.ident!r} was also sent {self.messages!r}")


class _Flushing(Protocol):
    def flush(self) -> Iterable[Any]: ...


def record(core: _Flushing, peers: Iterable[RecordingPeer]) -> None:
    """Hand out what the core has to send.

    :raises UnexaminedError: it is for somebody who is not among ``peers``.
    """
    by_name = {peer.ident: peer for peer in peers}
    for sender in core.flush():
        peer = by_name.get(sender.ident)
        messages = sender.take()
        if peer is None:
            raise UnexaminedError(f"nobody records what is sent to {sender.ident!r}: {messages!r}")
        peer.messages.extend(messages)
