"""Frames: what goes in comes out, however it is cut into pieces; claims cost no memory."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import ProtocolError, UserError
from treadle.wire import frames
from treadle.wire.frames import AFTER_HANDSHAKE, BEFORE_HANDSHAKE, CAPACITY, DIRECT, FrameReader, Limits, encode_frame


def joined(messages: list[Any], buffers: list[Any] | tuple[Any, ...] = ()) -> bytes:
    return b"".join(encode_frame(messages, buffers))


def feed(reader: FrameReader, data: bytes, step: int | None = None) -> list[tuple[Any, list[bytes]]]:
    """The frames in ``data``, which arrives in steps of some bytes."""
    found: list[tuple[Any, list[bytes]]] = []
    while data:
        space = reader.space()
        assert len(space) > 0
        count = min(len(space), len(data), step or len(data))
        space[:count] = data[:count]
        data = data[count:]
        reader.filled(count)
        while (frame := reader.take()) is not None:
            control, buffers = frame
            found.append((msgspec.msgpack.decode(control), [bytes(buffer) for buffer in buffers]))
    return found


def test_the_bytes_of_a_frame() -> None:
    data = joined([("want", ["x"])], [b"abc", b"", b"de"])
    control = b"\x91\x92\xa4want\x91\xa1x"
    assert data == struct.pack("<IIQQQ", len(control), 3, 3, 0, 2) + control + b"abcde"


@given(
    st.lists(st.tuples(st.text(max_size=50), st.lists(st.binary(max_size=40), max_size=4)), max_size=6),
    st.integers(1, 100),
    st.integers(16, 64),
)
def test_frames_come_out_as_they_went_in(sent: list[tuple[str, list[bytes]]], step: int, capacity: int) -> None:
    data = b"".join(joined([text], buffers) for text, buffers in sent)
    reader = FrameReader(AFTER_HANDSHAKE, capacity)
    assert feed(reader, data, step) == [([text], buffers) for text, buffers in sent]
    assert not reader.midway


@pytest.mark.parametrize("size", [0, 1, DIRECT - 1, DIRECT, CAPACITY - 16, CAPACITY, 3 * CAPACITY, 5_000_000])
@pytest.mark.parametrize("step", [None, 100_000])
def test_sizes_around_the_limits_of_the_reader(size: int, step: int | None) -> None:
    buffer = numpy.arange(size, dtype="u1").tobytes()
    text = "x" * size
    reader = FrameReader(AFTER_HANDSHAKE)
    data = joined([1], [buffer, b"after"]) + joined([text]) + joined([text], [buffer]) + joined([2])
    expected = [([1], [buffer, b"after"]), ([text], []), ([text], [buffer]), ([2], [])]
    assert feed(reader, data, step) == expected


def test_received_buffers_are_writable_memory_of_their_own() -> None:
    reader = FrameReader(AFTER_HANDSHAKE)
    data = joined([1], [b"abc", b"x" * 100_000])
    reader.space()[: len(data)] = data
    reader.filled(len(data))
    frame = reader.take()
    assert frame is not None
    small, big = frame[1]
    small[0] = big[0] = 65
    feed(reader, joined(["overwritten" * 10]))
    assert bytes(small) == b"Abc"
    assert bytes(big[:2]) == b"Ax"


def test_many_small_buffers_have_a_long_table() -> None:
    buffers = [b"%d" % number for number in range(65_536)]
    assert feed(FrameReader(AFTER_HANDSHAKE), joined([1], buffers)) == [([1], buffers)]


def test_arrays_are_sent_from_where_they_are() -> None:
    array = numpy.arange(12, dtype="i8").reshape(3, 4)
    for buffer in (array, numpy.asfortranarray(array)):
        _, view = encode_frame([[1]], [buffer])
        assert isinstance(view, memoryview)
        buffer[0, 0] = 77
        assert bytes(view[:8]) == struct.pack("=q", 77)
    with pytest.raises(BufferError):
        encode_frame([[1]], [array[:, ::2]])


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<II", 2**32 - 1, 0),
        struct.pack("<II", 0, 2**32 - 1),
        struct.pack("<II", 256 * 1024 * 1024 + 1, 0),
        struct.pack("<II", 5, 65_537),
        struct.pack("<IIQ", 5, 1, 2**64 - 1),
        struct.pack("<IIQ", 5, 1, 64 * 1024**3 + 1),
    ],
)
def test_a_frame_that_claims_too_much_is_a_violation(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(FrameReader(AFTER_HANDSHAKE), header)


@pytest.mark.parametrize("header", [struct.pack("<II", 4097, 0), struct.pack("<II", 10, 1), b"GET / HTTP/1.1\r\n"])
def test_little_is_allowed_before_the_handshake_has_ended(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="what it sent is no frame"):
        feed(FrameReader(BEFORE_HANDSHAKE), header)


def test_a_claim_within_the_limits_takes_no_memory() -> None:
    readers = [FrameReader(AFTER_HANDSHAKE) for _ in range(20)]
    before = resident()
    for reader in readers:
        size = 512 * 1024 * 1024
        assert feed(reader, struct.pack("<IIQ", 1, 1, size) + b"\x90" + b"x" * 1000) == []
        assert reader.midway
        assert len(reader.space()) == size - 1000
    assert resident() - before < 60_000_000  # of 10 GB that were announced: a page, which may be huge, each


def resident() -> int:
    """The bytes of memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_claim_beyond_all_memory_is_a_violation() -> None:
    with pytest.raises(ProtocolError, match="for which there is no memory here"):
        feed(FrameReader(Limits(100, 1, 2**64)), struct.pack("<IIQ", 1, 1, 2**62) + b"\x90")


def test_messages_that_are_too_many_for_a_frame_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "AFTER_HANDSHAKE", Limits(100, 1, 1))
    assert encode_frame(["x" * 90])
    with pytest.raises(UserError, match="104 bytes of tasks and arguments are too much for one message"):
        encode_frame(["x" * 101])


def test_what_was_received_early_can_be_taken_along() -> None:
    first = FrameReader(BEFORE_HANDSHAKE, 8192)
    data = joined([1]) + joined([2])
    first.space()[: len(data)] = data
    first.filled(len(data))
    assert first.take() is not None
    assert repr(first) == f"<FrameReader at a boundary, {len(joined([2]))} bytes at hand>"
    second = FrameReader(AFTER_HANDSHAKE, received=first.rest())
    assert second.midway
    frame = second.take()
    assert frame is not None
    assert bytes(frame[0]) == b"\x91\x02"
    assert not second.midway
