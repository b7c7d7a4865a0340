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

__all__ = ["SEGMENT_THRESHOLD", "Blob", "Wire", "anonymous_file", "dumps", "loads"]

#: Buffers of one value go through shared memory when they have this many bytes in all; smaller ones are copied.
SEGMENT_THRESHOLD = 1 << 18

#: How many maps a process keeps before it starts to copy: each one occupies a file descriptor.
_MAX_MAPS = 256

#: What ``Blob.wire`` gives and ``Blob.unwire`` takes: pickle, small buffers, sizes of big ones, which descriptor.
Wire = tuple[bytes, tuple[bytes, ...], tuple[int, ...], int]


class Blob:
    """A pickled value. It owns its file descriptor, if it has one."""

    __slots__ = ("buffers", "data", "fd", "sizes")

    def __init__(self, data: bytes, buffers: tuple[bytes, ...] = (), sizes: tuple[int, ...] = (), fd: int = -1) -> None:
        self.data = data
        #: Out-of-band buffers that are carried along; empty if ``fd`` holds them.
        self.buffers = buffers
        #: The sizes of the buffers in the file ``fd``, one after another.
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
        return cls(data, buffers, sizes, fds[index] if index >= 0 else -1)

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
    try:
        data = pickle.dumps(value, 5, buffer_callback=views.append)
        by_value = b"__main__" in data  # the main module of the receiver is another one
    except Exception:
        by_value = True
    if by_value:
        import cloudpickle

        views.clear()
        data = cloudpickle.dumps(value, 5, buffer_callback=views.append)
    if not views:
        return Blob(data)
    raws = [view.raw() for view in views]
    if in_band or sum(raw.nbytes for raw in raws) < SEGMENT_THRESHOLD:
        return Blob(data, tuple(raw.tobytes() for raw in raws))
    return Blob(data, (), tuple(raw.nbytes for raw in raws), _write_segment(raws))


def loads(blob: Blob) -> Any:
    """The value of a blob. Its arrays are writable and belong to the caller alone."""
    if blob.fd < 0:
        return pickle.loads(blob.data, buffers=[bytearray(buffer) for buffer in blob.buffers])
    whole = _map_segment(blob.fd, sum(blob.sizes))
    views = []
    offset = 0
    for size in blob.sizes:
        views.append(whole[offset : offset + size])
        offset += size
    return pickle.loads(blob.data, buffers=views)


def _write_segment(raws: list[memoryview]) -> int:
    fd = anonymous_file()
    try:
        for raw in raws:
            while raw.nbytes:
                raw = raw[os.write(fd, raw) :]
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
    if len(_maps) < _MAX_MAPS:
        with contextlib.suppress(OSError, ValueError):  # too many open files, or maps: copying always works
            mapped = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            _maps.add(mapped)
            return memoryview(mapped)
    copy = bytearray(size)
    view = memoryview(copy)
    offset = 0
    while offset < size:
        count = os.preadv(fd, [view[offset:]], offset)
        if count == 0:
            raise EOFError(f"a segment of shared memory ended after {offset} of {size} bytes")
        offset += count
    return view
