"""The handshake: who knows the token comes in, and nobody else; the reasons name both sides."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest

from treadle.errors import ProtocolError, RefusedError
from treadle.wire import handshake
from treadle.wire.frames import BEFORE_HANDSHAKE, FrameReader
from treadle.wire.handshake import PROTOCOL, Dialing, Listening, python_version

TOKEN = b"secret"


def control(frame: bytes) -> bytes:
    """The control part of a frame of the handshake, which is within the limits that hold there."""
    reader = FrameReader(BEFORE_HANDSHAKE)
    reader.space()[: len(frame)] = frame
    reader.filled(len(frame))
    taken = reader.take()
    assert taken is not None
    assert not reader.midway
    return bytes(taken[0])


def message(frame: bytes) -> list[Any]:
    [only] = msgspec.msgpack.decode(control(frame))
    assert isinstance(only, list)
    return only


def frame_of(*fields: object) -> bytes:
    return msgspec.msgpack.encode([fields])


def test_both_sides_learn_who_the_other_one_is() -> None:
    listening = Listening(TOKEN, "i" * 32)
    dialing = Dialing(TOKEN, "worker", "w1", {"nthreads": 2})
    hello = listening.check(control(dialing.answer(control(listening.challenge()))))
    assert (hello.role, hello.ident, hello.details) == ("worker", "w1", {"nthreads": 2})
    assert (hello.protocol, hello.python) == (PROTOCOL, python_version())
    assert dialing.incarnation == "i" * 32
    welcome = dialing.finish(control(listening.welcome(hello, "w1", {"heartbeat": 1.0})))
    assert (welcome.ident, welcome.details) == ("w1", {"heartbeat": 1.0})


def test_the_exact_bytes_of_the_proofs() -> None:
    listening = Listening(TOKEN, "i" * 32)
    tag, protocol, incarnation, nonce = message(listening.challenge())
    assert (tag, protocol, incarnation, len(nonce)) == ("challenge", PROTOCOL, "i" * 32, 16)
    dialing = Dialing(TOKEN, "client", "c-é", {})
    sent = dialing.answer(control(listening.challenge()))
    tag, protocol, role, ident, _, _, mac, own, details = message(sent)
    assert (tag, protocol, role, ident, len(own), details) == ("hello", PROTOCOL, "client", "c-é", 16, {})
    assert mac == hmac.new(TOKEN, b"dialer" + nonce + "clientc-é".encode(), hashlib.sha256).digest()
    tag, ident, mac, details = message(listening.welcome(listening.check(control(sent)), "other", {}))
    assert (tag, ident, details) == ("welcome", "other", {})
    assert mac == hmac.new(TOKEN, b"listener" + own, hashlib.sha256).digest()


def test_each_challenge_is_another_one() -> None:
    first, second = Listening(TOKEN, ""), Listening(TOKEN, "")
    answer = Dialing(TOKEN, "client", "c", {}).answer(control(first.challenge()))
    assert first.check(control(answer)).ident == "c"
    with pytest.raises(RefusedError, match="the token is not that of this cluster"):
        second.check(control(answer))


@pytest.mark.parametrize(("role", "ident"), [("worker", "c"), ("client", "d"), ("clien", "tc")])
def test_a_proof_holds_for_one_role_and_ident(role: str, ident: str) -> None:
    listening = Listening(TOKEN, "")
    fields = message(Dialing(TOKEN, "client", "c", {}).answer(control(listening.challenge())))
    fields[2:4] = role, ident
    if role + ident == "clientc":  # the same bytes; but there is no such role, so that the listener refuses it
        assert listening.check(frame_of(*fields)).role == role
    else:
        with pytest.raises(RefusedError, match="the token"):
            listening.check(frame_of(*fields))


def test_another_token_is_refused_by_either_side() -> None:
    listening = Listening(b"other", "")
    dialing = Dialing(TOKEN, "client", "c", {})
    answer = control(dialing.answer(control(listening.challenge())))
    with pytest.raises(RefusedError, match=r"--token-file or TREADLE_TOKEN"):
        listening.check(answer)
    hello = Listening(TOKEN, "")
    honest = hello.check(control(dialing.answer(control(hello.challenge()))))
    with pytest.raises(RefusedError, match="could not prove that it knows this cluster's token"):
        dialing.finish(control(listening.welcome(honest, "c", {})))


def test_another_protocol_is_refused_by_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Listening(TOKEN, "")
    challenge = control(old.challenge())
    monkeypatch.setattr(handshake, "PROTOCOL", 2)
    monkeypatch.setattr(handshake, "__version__", "9.9")
    new = Dialing(TOKEN, "worker", "w", {})
    with pytest.raises(RefusedError, match=r"it speaks protocol 1, this side \(treadle 9.9\) speaks protocol 2"):
        new.answer(challenge)
    answer = control(new.answer(control(Listening(TOKEN, "").challenge())))
    monkeypatch.undo()
    with pytest.raises(RefusedError, match=r"speaks protocol 1, the worker \(treadle 9.9\) speaks protocol 2"):
        old.check(answer)


def test_a_refusal_carries_its_reason() -> None:
    refused = control(Listening(TOKEN, "").refuse("the house is full"))
    for step in (Dialing(TOKEN, "client", "c", {}).answer, Dialing(TOKEN, "client", "c", {}).finish):
        with pytest.raises(RefusedError, match="the house is full"):
            step(refused)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x90",
        frame_of("want", ["a"]),
        frame_of("hello", 1, "client", "c", "3.11", "1", b"short", b"n" * 16, {}),
        frame_of("hello", 1, "client", "c", "3.11", "1", b"m" * 32, b"short", {}),
        frame_of("hello", 1, "client", "c" * 257, "3.11", "1", b"m" * 32, b"n" * 16, {}),
        frame_of("hello", 1, "cl\nient", "c", "3.11", "1", b"m" * 32, b"n" * 16, {}),
        frame_of("hello", 1, "client", "c", "3.11", "1", b"m" * 32, b"n" * 16, []),
        frame_of("challenge", 1, "i", b"short"),
        frame_of("welcome", "c", b"short", {}),
        b"\x92" + 2 * frame_of("refused", "twice")[1:],
        b"\x91" * 4000,
    ],
)
def test_what_is_no_handshake_is_a_violation(bad: bytes) -> None:
    for step in (
        Listening(TOKEN, "").check,
        Dialing(TOKEN, "client", "c", {}).answer,
        Dialing(TOKEN, "client", "c", {}).finish,
    ):
        with pytest.raises(ProtocolError, match="handshake"):
            step(bad)
