"""Frames: the unit in which bytes travel. Bytes in, frames out; no sockets.

A frame is ``u32 control_length, u32 n_buffers`` (little endian), ``n_buffers`` times ``u64 size``, the control part
(a msgpack array of messages), and then the buffers.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from pickle import PickleBuffer
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from treadle.errors import ProtocolError, UserError

__all__ = [
    "AFTER_HANDSHAKE",
    "BEFORE_HANDSHAKE",
    "Frame",
    "FrameReader",
    "Limits",
    "Pieces",
    "encode_frame",
    "raw_view",
    "sole_control",
]

HEADER: Final = struct.Struct("<II")

#: The control part and the buffers of a frame. The control part is only valid until the next call of the reader.
Frame: TypeAlias = "tuple[memoryview, list[memoryview]]"

#: A frame as it is sent: to be written one after another.
Pieces: TypeAlias = "list[bytes | memoryview]"

#: Bytes of the memory that is read into; what is bigger than DIRECT is read straight into memory of its own.
CAPACITY: Final = 256 * 1024
DIRECT: Final = 64 * 1024
#: From this size on, memory comes from the system in pages that exist once they are written to.
PAGED: Final = 4 * 1024 * 1024


class Limits(NamedTuple):
    """What a frame may claim."""

    #: Bytes of the control part.
    control: int
    #: How many buffers.
    buffers: int
    #: Bytes of each buffer.
    buffer: int


BEFORE_HANDSHAKE: Final = Limits(4 * 1024, 0, 0)
AFTER_HANDSHAKE: Final = Limits(256 * 1024 * 1024, 65536, 64 * 1024**3)

_encode = msgspec.msgpack.Encoder().encode


def encode_frame(messages: Sequence[Sequence[Any]], buffers: Iterable[Any] = ()) -> Pieces:
    """The pieces of one frame, to be sent one after another. Big buffers are not copied.

    :param messages: tuples of what msgpack can hold.
    :param buffers: contiguous bytes-like objects.
    :raises UserError: the messages are too big for one frame.
    """
    control = _encode(messages)
    length = len(control)
    if length > AFTER_HANDSHAKE.control:
        raise UserError(
            f"{length} bytes of tasks and arguments are too much for one message, which may have "
            f"{AFTER_HANDSHAKE.control}. Send fewer tasks at once, and scatter big arguments."
        )
    if not buffers:
        if length < DIRECT:
            return [HEADER.pack(length, 0) + control]
        return [HEADER.pack(length, 0), control]
    views = [raw_view(buffer) for buffer in buffers]
    sizes = [view.nbytes for view in views]
    head = HEADER.pack(length, len(views)) + struct.pack(f"<{len(views)}Q", *sizes) + control
    return [head, *(view for view in views if view.nbytes)]


def sole_control(pieces: Pieces) -> bytes | memoryview:
    """The control part of a frame without buffers."""
    return pieces[1] if len(pieces) == 2 else pieces[0][HEADER.size :]


def raw_view(buffer: Any) -> memoryview:
    """The bytes of a contiguous object, in the order in which they are in memory."""
    return PickleBuffer(buffer).raw()


class FrameReader:
    """Cuts what arrives into frames.

    Read from the socket into :meth:`space`, say how much by :meth:`filled`, then :meth:`take` until there is no more.
    """

    def __init__(self, limits: Limits, capacity: int = CAPACITY, received: bytes = b"") -> None:
        self.limits = limits
        self._capacity = capacity
        self._view = memoryview(mmap.mmap(-1, capacity))
        #: What has arrived and was not yet looked at is ``_view[_start:_end]``.
        self._start = 0
        self._end = len(received)
        self._view[: self._end] = received
        #: Of the frame that is put together piece by piece: how long its sections are, and those that are complete.
        self._awaited: deque[int] = deque()
        self._sections: list[memoryview] = []
        #: The control length, and the number of sizes, while the table of sizes is awaited.
        self._announced: tuple[int, int] | None = None
        #: The section that is being filled, and how far it is.
        self._section: memoryview | None = None
        self._filled = 0

    def __repr__(self) -> str:
        doing = f"awaits {len(self._awaited)} sections" if self._awaited else "at a boundary"
        return f"<FrameReader {doing}, {self._end - self._start} bytes at hand>"

    @property
    def midway(self) -> bool:
        """True if the first part of a frame has arrived, and its end has not."""
        return self._start < self._end or bool(self._awaited)

    def rest(self) -> bytes:
        """What has arrived and was not taken."""
        return bytes(self._view[self._start : self._end])

    def space(self) -> memoryview:
        """Where to read to. Never empty, if :meth:`take` was called until it returned None."""
        section = self._section
        if section is not None and len(section) - self._filled >= DIRECT:
            return section[self._filled :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._view
        if start and self._capacity - end < self._capacity // 2:
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """``count`` bytes were written to the :meth:`space` that was given last."""
        section = self._section
        if section is not None and len(section) - self._filled >= DIRECT:
            self._filled += count
        else:
            self._end += count

    def take(self) -> Frame | None:
        """The next frame that is complete, or None.

        :raises ProtocolError: what arrives is no frame, or exceeds the limits.
        """
        if not self._awaited:
            start = self._start
            if self._end - start < 8:
                return None
            length, count = HEADER.unpack_from(self._view, start)
            if length > self.limits.control or count > self.limits.buffers:
                raise ProtocolError(
                    f"what it sent is no frame: it would have {length} bytes of messages and {count} buffers, "
                    f"where {self.limits.control} and {self.limits.buffers} are allowed"
                )
            if count == 0:
                stop = start + 8 + length
                if stop <= self._end:
                    self._start = stop
                    return self._view[start + 8 : stop], []
                if 8 + length <= self._capacity:
                    return None
            self._start = start + 8
            self._begin(length, count)
        return self._assemble()

    def _begin(self, length: int, count: int) -> None:
        if count:
            self._announced = (length, count)
            self._awaited.append(8 * count)
        else:
            self._awaited.append(length)

    def _assemble(self) -> Frame | None:
        while self._awaited:
            section = self._collect(self._awaited[0])
            if section is None:
                return None
            self._awaited.popleft()
            if self._announced is not None:
                self._announce(section)
            else:
                self._sections.append(section)
        control, *buffers = self._sections
        self._sections = []
        return control, buffers

    def _announce(self, table: memoryview) -> None:
        """The sizes of the buffers have arrived."""
        assert self._announced is not None
        length, count = self._announced
        self._announced = None
        sizes = struct.unpack(f"<{count}Q", table)
        limit = self.limits.buffer
        if max(sizes) > limit:
            raise ProtocolError(f"it announced a buffer of {max(sizes)} bytes, where {limit} are allowed")
        self._awaited.append(length)
        self._awaited.extend(sizes)

    def _collect(self, size: int) -> memoryview | None:
        """The next ``size`` bytes in memory of their own, once all have arrived."""
        section = self._section
        if section is None:
            section = self._section = _allocate(size)
            self._filled = 0
        count = min(self._end - self._start, size - self._filled)
        if count:
            section[self._filled : self._filled + count] = self._view[self._start : self._start + count]
            self._start += count
            self._filled += count
        if self._filled < size:
            return None
        self._section = None
        return section


def _allocate(size: int) -> memoryview:
    """Writable memory. Where much is asked for, none is used before the bytes are there: the peer may be lying."""
    if size < PAGED:
        return memoryview(bytearray(size))
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise ProtocolError(f"it announced {size} bytes, for which there is no memory here ({error})") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)  # filled in a third of the time: most of it goes into providing pages
        except OSError:
            pass  # this system has small ones only
    return memoryview(pages)
