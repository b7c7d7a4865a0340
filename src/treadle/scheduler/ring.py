"""Records in one piece of memory, written round and round: the newest are kept, as many as fit.

To remember something allocates nothing. What a scheduler works with all the time thus stays together in memory, and in
the processor's caches: objects that live for a while and then go, between those, cost it a tenth of its time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

__all__ = ["HEADER", "Ring"]

#: A time, a number, and the size of the blob that follows.
_HEADER: Final = struct.Struct("<dII")
#: Bytes that a record takes beside its blob.
HEADER: Final = _HEADER.size


class Ring:
    """A record is a time, a number below 2**32 that the user gives a meaning, and a blob."""

    def __init__(self, size: int) -> None:
        """
        :param size: bytes for all records. They count as used memory once they are written.
        """
        self._size: Final = size
        self._memory: Final = memoryview(bytearray(size))
        #: Where the oldest record begins and the newest ends: a record keeps its position, and has its bytes at that
        #: modulo the size.
        self.first = 0
        self.end = 0

    def __repr__(self) -> str:
        return f"<Ring with {len(self)} of {self._size} bytes>"

    def __len__(self) -> int:
        """Bytes in use."""
        return self.end - self.first

    def append(self, time: float, number: int, blob: bytes | memoryview) -> None:
        """Add a record; the oldest make room for it. One that is bigger than everything is not kept."""
        total = HEADER + len(blob)
        if total > self._size:
            return
        while self.end + total - self.first > self._size:
            self.first += HEADER + self._header(self.first)[2]
        at = self.end % self._size
        header = _HEADER.pack(time, number, len(blob))
        if at + total <= self._size:
            self._memory[at : at + HEADER] = header
            self._memory[at + HEADER : at + total] = blob
        else:
            record = header + blob
            room = self._size - at
            self._memory[at:] = record[:room]
            self._memory[: total - room] = record[room:]
        self.end += total

    def records(self) -> Iterator[tuple[float, int, bytes]]:
        """The records of when the first is asked for, oldest first, without those that make room before their turn."""
        position, end = self.first, self.end
        while position < end:
            time, number, size = self._header(position)
            yield time, number, self._bytes(position + HEADER, size)
            position = max(position + HEADER + size, self.first)

    def _header(self, position: int) -> tuple[float, int, int]:
        return _HEADER.unpack(self._bytes(position, HEADER))

    def _bytes(self, position: int, size: int) -> bytes:
        at = position % self._size
        found = bytes(self._memory[at : at + size])
        return found if len(found) == size else found + self._memory[: size - len(found)]
