"""The handshake: both sides prove that they know the cluster's token, and say who they are. Bytes in, bytes out.

The listener speaks first (:class:`Listening`), the dialer answers (:class:`Dialing`). Control parts are those of
frames with one message. See ``docs/protocol.md`` for the exact bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from treadle._version import __version__
from treadle.errors import ProtocolError, RefusedError
from treadle.wire.frames import encode_frame
from treadle.wire.messages import shorten

__all__ = ["PROTOCOL", "Challenge", "Dialing", "Hello", "Listening", "Refused", "Role", "Welcome", "python_version"]

#: The version of the protocol. It changes when two versions cannot talk to each other.
PROTOCOL: Final = 1

Role: TypeAlias = Literal["client", "worker", "supervisor", "peer"]

_Nonce: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=64)]
_Mac: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
#: Without control characters, because it is shown in logs.
_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def python_version() -> str:
    """What decides whether two Pythons understand each other's pickled functions: ``"3.11"``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


class Challenge(msgspec.Struct, array_like=True, frozen=True, tag="challenge"):
    protocol: int
    #: 32 hexadecimal digits, new each time the listening process starts.
    incarnation: _Name
    nonce: _Nonce


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    protocol: int
    role: _Name
    #: Unique among all that connect; empty asks the listener to choose one.
    ident: _Name
    #: The minor version of the dialer's Python, or "" if it does not matter.
    python: _Name
    #: Of Treadle, for messages.
    version: _Name
    mac: _Mac
    nonce: _Nonce
    details: dict[str, Any]


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag="welcome"):
    ident: _Name
    mac: _Mac
    details: dict[str, Any]


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    reason: str


_challenge = msgspec.msgpack.Decoder(list[Challenge | Refused])
_hello = msgspec.msgpack.Decoder(list[Hello])
_welcome = msgspec.msgpack.Decoder(list[Welcome | Refused])


class Listening:
    """The listener's side of one handshake."""

    def __init__(self, token: bytes, incarnation: str) -> None:
        self._token = token
        self._incarnation = incarnation
        self._nonce = os.urandom(16)

    def challenge(self) -> bytes:
        """The frame that opens the conversation."""
        return _frame("challenge", PROTOCOL, self._incarnation, self._nonce)

    def check(self, control: bytes | memoryview) -> Hello:
        """What the dialer says of itself, once it has proved that it knows the token.

        :raises ProtocolError: this is no hello.
        :raises RefusedError: the token is another one, or the protocol is.
        """
        hello: Hello = _only(_hello, control)
        if hello.protocol != PROTOCOL:
            raise RefusedError(
                f"this side (treadle {__version__}) speaks protocol {PROTOCOL}, the {hello.role} "
                f"(treadle {hello.version}) speaks protocol {hello.protocol}; install the same version on both sides"
            )
        if not hmac.compare_digest(hello.mac, _dialer_mac(self._token, self._nonce, hello.role, hello.ident)):
            raise RefusedError(
                "the token is not that of this cluster; give all its parts the same one (--token-file or TREADLE_TOKEN)"
            )
        return hello

    def welcome(self, hello: Hello, ident: str, details: dict[str, Any]) -> bytes:
        """The frame that ends the handshake. ``ident`` is the one that the dialer asked for, or one chosen for it."""
        return _frame("welcome", ident, _listener_mac(self._token, hello.nonce), details)

    def refuse(self, reason: str) -> bytes:
        """The frame that says why the connection will be closed."""
        return _frame("refused", reason)


class Dialing:
    """The dialer's side of one handshake."""

    def __init__(self, token: bytes, role: str, ident: str, details: dict[str, Any], python: str | None = None) -> None:
        self._token = token
        self._role = role
        self._ident = ident
        self._details = details
        self._python = python_version() if python is None else python
        self._nonce = os.urandom(16)
        #: Of the process that listens, once :meth:`answer` has seen it.
        self.incarnation = ""

    def answer(self, control: bytes | memoryview) -> bytes:
        """The frame that answers the listener's challenge.

        :raises ProtocolError: this is no challenge.
        :raises RefusedError: the protocol is another one.
        """
        challenge: Challenge | Refused = _only(_challenge, control)
        if isinstance(challenge, Refused):
            raise RefusedError(challenge.reason)
        if challenge.protocol != PROTOCOL:
            raise RefusedError(
                f"it speaks protocol {challenge.protocol}, this side (treadle {__version__}) speaks protocol "
                f"{PROTOCOL}; install the same version on both sides"
            )
        self.incarnation = challenge.incarnation
        mac = _dialer_mac(self._token, challenge.nonce, self._role, self._ident)
        return _frame(
            "hello", PROTOCOL, self._role, self._ident, self._python, __version__, mac, self._nonce, self._details
        )

    def finish(self, control: bytes | memoryview) -> Welcome:
        """How the listener received us.

        :raises ProtocolError: this is no answer.
        :raises RefusedError: the listener does not want us, or does not know the token.
        """
        welcome: Welcome | Refused = _only(_welcome, control)
        if isinstance(welcome, Refused):
            raise RefusedError(welcome.reason)
        if not hmac.compare_digest(welcome.mac, _listener_mac(self._token, self._nonce)):
            raise RefusedError("it could not prove that it knows this cluster's token")
        return welcome


def _dialer_mac(token: bytes, nonce: bytes, role: str, ident: str) -> bytes:
    # No role is the beginning of another one, so that two pairs of role and ident never read the same.
    return hmac.digest(token, b"dialer" + nonce + role.encode() + ident.encode(), hashlib.sha256)


def _listener_mac(token: bytes, nonce: bytes) -> bytes:
    return hmac.digest(token, b"listener" + nonce, hashlib.sha256)


def _frame(*message: Any) -> bytes:
    return b"".join(encode_frame([message]))


def _only(decoder: Any, control: bytes | memoryview) -> Any:
    """The single message of a control part."""
    try:
        messages = decoder.decode(control)
    except (msgspec.MsgspecError, RecursionError, MemoryError, ValueError) as error:
        raise ProtocolError(f"what it sent is no part of a handshake: {shorten(error)}") from None
    if len(messages) != 1:
        raise ProtocolError(f"it sent {len(messages)} messages at once during the handshake, where one was due")
    return messages[0]
