"""Pickled values on their way between processes, with their big buffers in shared memory.

A value is pickled with protocol 5, so that the buffers of arrays stay out of the pickle. When they are big enough
to be worth two system calls, they are written once into an anonymous file in memory, whose descriptor is handed to
whoever needs the value: the receiver maps it copy-on-write and builds its arrays on top, and a relay passes the
descriptor on without touching a byte. The file has no name, so nothing is left behind when processes are killed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

from treadle.wire.pickling import dump

__all__ = ["SEGMENT_THRESHOLD", "Blob", "Wire", "anonymous_file", "dumps", "loads"]

#: A pickled value of this many bytes, its buffers included, goes through shared memory; smaller ones are copied.
SEGMENT_THRESHOLD = 1 << 18

#: Where a part of a segment starts: arrays are quicker, and some code only right, on aligned memory.
_ALIGNMENT = 64

#: How many maps a process keeps before it starts to copy: each one occupies a file descriptor.
_MAX_MAPS = 256


def _max_fds() -> int:
    """How many file descriptors this process may have open."""
    limit = os.sysconf("SC_OPEN_MAX")
    return limit if limit > 0 else 1 << 20


#: What ``Blob.wire`` gives and ``Blob.unwire`` takes: pickle, small buffers, sizes of big ones, which descriptor.
Wire = tuple[bytes, tuple[bytes, ...], tuple[int, ...], int]


class Blob:
    """A pickled value. It owns its file descriptor, if it has one."""

    __slots__ = ("buffers", "data", "fd", "sizes")

    def __init__(self, data: bytes, buffers: tuple[bytes, ...] = (), sizes: tuple[int, ...] = (), fd: int = -1) -> None:
        self.data = data
        #: Out-of-band buffers that are carried along.
        self.buffers = buffers
        #: If ``fd`` holds it all: the sizes of the pickle and of its buffers there.
        self.sizes = sizes
        self.fd = fd

    def __repr__(self) -> str:
        return f"<Blob of {self.nbytes} bytes{', in shared memory' if self.fd >= 0 else ''}>"

    @property
    def nbytes(self) -> int:
        return len(self.data) + sum(map(len, self.buffers)) + sum(self.sizes)

    def wire(self, fds: list[int]) -> Wire:
        """The parts that go into a message; a descriptor that must go along is appended to ``fds``."""
        index = -1
        if self.fd >= 0:
            index = len(fds)
            fds.append(self.fd)
        return self.data, self.buffers, self.sizes, index

    @classmethod
    def unwire(cls, wire: Wire, fds: Sequence[int]) -> Blob:
        data, buffers, sizes, index = wire
        if index < 0:
            return cls(data, buffers)
        blob = cls(data, buffers, sizes, fds[index])
        if blob.fd >= _max_fds() // 2:  # the lowest free number is given out, so that many are open
            blob.absorb()
        return blob

    def absorb(self) -> None:
        """Copy the buffers out of the file, so that it can be closed."""
        starts, _ = _layout(self.sizes)
        parts = [bytes(_read_segment(self.fd, start, size)) for start, size in zip(starts, self.sizes)]
        self.data, self.buffers, self.sizes = parts[0], tuple(parts[1:]), ()
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def dumps(value: Any, in_band: bool = False) -> Blob:
    """Pickle ``value``: as the standard library does where that works, by value where the other side could not import.

    :param in_band: never use shared memory.
    :raises Exception: whatever pickling raises.
    """
    views: list[pickle.PickleBuffer] = []
    data = dump(value, views)
    parts = [memoryview(data), *(view.raw() for view in views)]
    if not in_band and sum(part.nbytes for part in parts) >= SEGMENT_THRESHOLD:
        with contextlib.suppress(OSError):  # too many open files, or no room for one more: copying always works
            return Blob(b"", (), tuple(part.nbytes for part in parts), _write_segment(parts))
    return Blob(data, tuple(part.tobytes() for part in parts[1:]))


def loads(blob: Blob) -> Any:
    """The value of a blob. Its arrays are writable and belong to the caller alone."""
    if blob.fd < 0:
        return pickle.loads(blob.data, buffers=[bytearray(buffer) for buffer in blob.buffers])
    starts, end = _layout(blob.sizes)
    whole = _map_segment(blob.fd, end)
    parts = [whole[start : start + size] for start, size in zip(starts, blob.sizes)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where the parts of a segment start, each aligned as arrays like it, and where the last one ends."""
    starts: list[int] = []
    end = 0
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        starts.append(start)
        end = start + size
    return starts, end


def _write_segment(parts: list[memoryview]) -> int:
    starts, end = _layout([part.nbytes for part in parts])
    fd = anonymous_file()
    try:
        os.ftruncate(fd, end)
        for start, part in zip(starts, parts):
            while part.nbytes:
                count = os.pwrite(fd, part, start)
                part = part[count:]
                start += count
    except BaseException:
        os.close(fd)
        raise
    return fd


def anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("treadle", os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="treadle-")
    os.unlink(path)
    return fd


_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def _map_segment(fd: int, size: int) -> memoryview:
    if len(_maps) < min(_MAX_MAPS, _max_fds() // 4):
        with contextlib.suppress(OSError, ValueError):  # too many open files, or maps: copying always works
            mapped = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            _maps.add(mapped)
            return memoryview(mapped)
    return memoryview(_read_segment(fd, 0, size))


def _read_segment(fd: int, start: int, size: int) -> bytearray:
    copy = bytearray(size)
    with memoryview(copy) as view:
        done = 0
        while done < size:
            count = os.preadv(fd, [view[done:]], start + done)
            if count == 0:
                raise EOFError(f"a segment of shared memory ended after {start + done} bytes")
            done += count
    return copy
