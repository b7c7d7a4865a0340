"""What the parent of a worker process can still read when that process has died: a few words of shared memory.

The first word says how far the process had come; then there is one word for each of its threads, with the number of
the attempt that the thread is executing, or 0.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

from treadle.local.processes.blob import anonymous_file

__all__ = ["DISMISSED", "JOINED", "LEFT", "STARTING", "Slots"]

STARTING: Final = 0
#: The scheduler has welcomed the worker.
JOINED: Final = 1
#: A signal ended it, and it has said goodbye: nothing is to be blamed for its end.
LEFT: Final = 2
#: The scheduler wanted it to end.
DISMISSED: Final = 3

_WORD: Final = struct.Struct("<q")


class Slots:
    """The words of one worker process, mapped into this process."""

    def __init__(self, fd: int, nthreads: int) -> None:
        self._map: Final = mmap.mmap(fd, _WORD.size * (1 + nthreads))
        self._nthreads: Final = nthreads

    @staticmethod
    def create(nthreads: int) -> int:
        """A descriptor of new words, all zero, to be mapped by two processes and closed."""
        fd = anonymous_file()
        os.ftruncate(fd, _WORD.size * (1 + nthreads))
        return fd

    @property
    def stage(self) -> int:
        """STARTING, JOINED, LEFT or DISMISSED."""
        stage: int = _WORD.unpack_from(self._map, 0)[0]
        return stage

    def enter(self, stage: int) -> None:
        _WORD.pack_into(self._map, 0, stage)

    def execute(self, thread: int, attempt: int) -> None:
        """A thread (0, 1, ...) is about to execute an attempt; or, with 0, has done so."""
        _WORD.pack_into(self._map, _WORD.size * (1 + thread), attempt)

    def executing(self) -> list[int]:
        """The attempts that are being executed."""
        words = struct.unpack_from(f"<{self._nthreads}q", self._map, _WORD.size)
        return [word for word in words if word]

    def close(self) -> None:
        self._map.close()
