"""Messages: each can be sent as a tuple and is received as its struct; nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import ProtocolError
from treadle.scheduler.server import Server
from treadle.scheduler.topics import Topics
from treadle.wire import messages
from treadle.wire.messages import (
    FROM_CLIENT,
    FROM_PEER,
    FROM_SCHEDULER_TO_CLIENT,
    FROM_SUPERVISOR,
    FROM_WORKER,
    TO_PEER,
    TO_WORKER,
    Message,
    MessageDecoder,
    Options,
    Submit,
    Want,
)
from treadle.worker.actors import ATTRIBUTE, CANCEL, METHOD
from treadle.worker.running import RUN
from treadle.worker.streams import TOPIC as STREAM

DECODERS = [FROM_CLIENT, FROM_PEER, FROM_SCHEDULER_TO_CLIENT, FROM_SUPERVISOR, FROM_WORKER, TO_PEER, TO_WORKER]

ERROR: tuple[Any, ...] = ("raised", b"\x80pickle", "Traceback …", {})


def tag_of(kind: type[Message]) -> object:
    return kind.__struct_config__.tag


#: Each message as it is sent: who reads it, and the fields that it has then.
SENT: list[tuple[MessageDecoder, tuple[Any, ...]]] = [
    (FROM_CLIENT, ("functions", [(0, b"d" * 16, "inc", b"\x80blob", 5)])),
    (FROM_CLIENT, ("submit", ["a", "b"], [0, 0], [b"\x91\x01", b"\x91\x02"], [[], [0, "earlier"]], None, None)),
    (FROM_CLIENT, ("submit", [], [], [], [], [0], {"priority": -3, "workers": ["w"], "retries": 2})),
    (FROM_CLIENT, ("want", ["a"])),
    (FROM_CLIENT, ("release", ["a"])),
    (FROM_CLIENT, ("cancel", ["a"])),
    (FROM_CLIENT, ("cancel", ["a"], True)),
    (FROM_CLIENT, ("retry", ["a"])),
    (FROM_CLIENT, ("placed", [("a", 800, "w1")])),
    (FROM_CLIENT, ("missing", [("a", "w1")])),
    (FROM_CLIENT, ("ask", 7, "explain", {"key": ["a"]})),
    (FROM_CLIENT, ("withdraw", 7)),
    (FROM_CLIENT, ("fence", 3)),
    (FROM_SCHEDULER_TO_CLIENT, ("done", [("a", 28, b"\x05", "w1", "h:1"), ("b", 10**9, None, "w1", "h:1")])),
    (FROM_SCHEDULER_TO_CLIENT, ("failed", [("b", "a", ERROR)])),
    (FROM_SCHEDULER_TO_CLIENT, ("cancelled", ["a"], "cancelled by another client")),
    (FROM_SCHEDULER_TO_CLIENT, ("started", ["a"])),
    (FROM_SCHEDULER_TO_CLIENT, ("event", "news", [(1, 1.7e9, b"\x05"), (2, 1.7e9, b"\xc0")])),
    (FROM_SCHEDULER_TO_CLIENT, ("answer", 7, True, {"a": [1, None]})),
    (FROM_SCHEDULER_TO_CLIENT, ("fence", 3)),
    (TO_WORKER, ("functions", [(3, "inc", b"\x80blob")])),
    (TO_WORKER, ("run", [(1, "a", -5, 3, b"\x91\x01", ["x"], 1)], [("x", 80, [("w2", "h:2")])])),
    (TO_WORKER, ("remake", [("x", 4, 3, b"\x90")])),
    (TO_WORKER, ("where", [("x", 80, [])])),
    (TO_WORKER, ("recall", [1, 2])),
    (TO_WORKER, ("cancel", [3])),
    (TO_WORKER, ("release", ["x"])),
    (TO_WORKER, ("acquire", [("x", 80, [("w2", "h:2")])])),
    (TO_WORKER, ("setup", [(1, "plugin", b"\x80blob")])),
    (TO_WORKER, ("teardown", [1])),
    (TO_WORKER, ("shutdown", "the cluster is closed")),
    (TO_WORKER, ("shutdown", "it is to start anew", True)),
    (FROM_WORKER, ("finished", [(1, 28, 0.001, b"\x05"), (2, 10**9, 3.5, None)])),
    (FROM_WORKER, ("failed", 3, 0.5, ERROR)),
    (FROM_WORKER, ("acquired", [("x", 80)])),
    (FROM_WORKER, ("missing", [("x", "w2")])),
    (FROM_WORKER, ("unusable", ["x"])),
    (FROM_WORKER, ("returned", [1])),
    (FROM_WORKER, ("stopped", [3])),
    (FROM_WORKER, ("seceded", [3])),
    (FROM_WORKER, ("rejoined", [3])),
    (FROM_WORKER, ("started", [3])),
    (FROM_WORKER, ("logs", [(3, "a", 1.7e9, "stdout", "hello\n"), (0, "", 1.7e9, "WARNING", "hm")])),
    (FROM_WORKER, ("ready", 1, None)),
    (FROM_WORKER, ("ready", 1, ERROR)),
    (FROM_WORKER, ("heartbeat", 10**8, 99.5, 10**10, 12.5)),
    (FROM_WORKER, ("leaving",)),
    (FROM_PEER, ("fetch", 1, ["x", "y"])),
    (FROM_PEER, ("fetch", 1, ["x", "y"], True)),
    (FROM_PEER, ("store", 2, [("z", 3)])),
    (FROM_PEER, ("call", 3, "actor", "counter-1", 2, b"")),
    (FROM_PEER, ("call", 3, "actor", "counter-1", 0, b"\x90")),
    (TO_PEER, ("reply", 3, None, 1)),
    (TO_PEER, ("reply", 3, None, 0, b"\x05")),
    (TO_PEER, ("reply", 3, ERROR, 0, b"")),
    (TO_PEER, ("data", 1, [("x", 2), ("y", 0)])),
    (TO_PEER, ("stored", 2, [("z", 800)])),
    (FROM_SUPERVISOR, ("died", "w1", 4242, -9, [17], "host", "last words")),
    (FROM_SUPERVISOR, ("died", "w1", 4242, None, [], "host", "")),
]


#: Those that leave no field out.
COMPLETE = [
    (decoder, message)
    for decoder, message in SENT
    if len(message) > max(len(kind.__struct_fields__) for kind in decoder.types if tag_of(kind) == message[0])
]


def encode(*sent: object) -> bytes:
    return msgspec.msgpack.encode(list(sent))


@pytest.mark.parametrize(("decoder", "message"), SENT, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_a_message_is_received_as_it_was_sent(decoder: MessageDecoder, message: tuple[Any, ...]) -> None:
    [received] = decoder.decode(encode(message))
    tag, *fields = message
    assert received.__struct_config__.tag == tag
    for name, field in zip(received.__struct_fields__, fields):
        value = getattr(received, name)
        if isinstance(value, Options):
            assert value == Options(**field)
        else:
            assert value == field


def test_every_message_is_among_those_that_are_sent_here() -> None:
    received = {type(decoder.decode(encode(message))[0]) for decoder, message in COMPLETE}
    assert received == set(Message.__subclasses__())
    assert received == {kind for decoder in DECODERS for kind in decoder.types}
    assert {kind.__name__ for kind in received} <= set(messages.__all__)


@pytest.mark.parametrize(
    ("decoder", "message"), COMPLETE, ids=lambda value: value[0] if isinstance(value, tuple) else ""
)
def test_fields_of_a_later_version_are_ignored(decoder: MessageDecoder, message: tuple[Any, ...]) -> None:
    assert decoder.decode(encode((*message, "more", {"and": "more"}))) == decoder.decode(encode(message))


@pytest.mark.parametrize(("decoder", "message"), SENT, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_others_do_not_take_it(decoder: MessageDecoder, message: tuple[Any, ...]) -> None:
    names = set(map(tag_of, decoder.types))
    for other in DECODERS:
        if names.isdisjoint(map(tag_of, other.types)):
            with pytest.raises(ProtocolError, match="what it sent is no message"):
                other.decode(encode(message))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        encode("want"),
        encode(("unheard-of", 1)),
        encode(("want",)),
        encode(("want", "a")),
        encode(("want", [1])),
        encode(("want", [b"a"])),
        encode(("functions", [(0, b"short", "inc", b"", 1)])),
        encode(("functions", [(-1, b"d" * 16, "inc", b"", 1)])),
        encode(("functions", [(0, b"d" * 16, "inc", b"", 1, "more")])),
        encode(("functions", [(0, b"d" * 16, "inc", b"", -1)])),
        encode(("functions", [(0, b"d" * 16, "inc", b"", True)])),
        encode(("submit", ["a"], [0], [b""], [[-1]])),
        encode(("cancel", ["a"], 1)),
        encode(("submit", ["a"], [0], [b""], [], None, {"retries": -1})),
        encode(("submit", ["a"], [0], [b""], [], None, {"resources": {"GPU": float("inf")}})),
        encode(("placed", [("a", -1, "w")])),
        encode(("want", ["a"])) + b"\x00",
        b"\x91\x92\xa4want\x91\xa2\xff\xfe",
        b"\x91\x94\xa3ask\x01\xa1t" + b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x92\xa4want\xdd\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_of_a_client_is_a_violation(bad: bytes) -> None:
    with pytest.raises(ProtocolError, match="what it sent is no message"):
        FROM_CLIENT.decode(bad)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, "1", None])
def test_a_duration_is_finite_and_not_negative(seconds: object) -> None:
    with pytest.raises(ProtocolError):
        FROM_WORKER.decode(encode(("finished", [(1, 0, seconds, None)])))


def test_what_a_sender_says_does_not_fill_the_log() -> None:
    with pytest.raises(ProtocolError) as caught:
        FROM_CLIENT.decode(encode(("x\n" * 10**6,)))
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


def test_options_may_be_left_out() -> None:
    [submit] = FROM_CLIENT.decode(encode(("submit", [], [], [], [])))
    assert submit == Submit([], [], [], [])
    [submit] = FROM_CLIENT.decode(encode(("submit", [], [], [], [], None, {"unheard-of": 1})))
    assert submit.options == Options(0, None, None, 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_violation(data: bytes) -> None:
    for decoder in DECODERS:
        try:
            assert all(isinstance(message, Message) for message in decoder.decode(data))
        except ProtocolError:
            pass


@given(st.lists(st.lists(st.text(), max_size=3), max_size=3))
def test_several_messages_keep_their_order(keys: list[list[str]]) -> None:
    assert FROM_CLIENT.decode(encode(*[("want", some) for some in keys])) == [Want(some) for some in keys]


def test_the_page_about_the_protocol_lists_every_message() -> None:
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    for kind in Message.__subclasses__():
        fields = [f'"{tag_of(kind)}"', *kind.__struct_fields__]
        assert f"\n`[{', '.join(fields)}]`\n: " in page


def test_the_page_about_the_protocol_lists_every_question_and_every_call() -> None:
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    server = Server(token=b"token", incarnation="0" * 32)
    questions = {topic for service in server._services for topic in service.topics()}
    questions.update(Topics(server.core, server.roster, {})._topics)
    calls = {METHOD, ATTRIBUTE, CANCEL, RUN, STREAM, "versions", "profile"}
    for topic in questions | calls:
        assert f"\n| `{topic}` | " in page


def test_a_decoder_says_what_it_takes() -> None:
    assert repr(TO_PEER) == "<MessageDecoder of Data, Stored, Reply>"
