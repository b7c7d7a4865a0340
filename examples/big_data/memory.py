"""How much memory a process needs at most, as Linux counts it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from treadle import Client

#: What the workers import for the steps. It is there before anything is computed, so it is measured by itself.
LIBRARIES = ("dask.array", "dask.bag", "dask.dataframe", "pandas", "pyarrow.csv", "pyarrow.dataset", "pyarrow.parquet")


def start() -> int:
    """In a worker: import what the steps need.

    :returns: the bytes that are resident then.
    """
    for name in LIBRARIES:
        import_module(name)
    return _bytes("VmRSS")


def forget_peak() -> None:
    """In a worker: the peak is counted anew from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """In a worker: the most bytes that were resident since :func:`forget_peak`."""
    return _bytes("VmHWM")


def _bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(found[1]) * 1024


class Meter:
    """The memory of all workers of a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        #: Bytes of each worker before anything was computed.
        self.before: dict[str, int] = client.run(start)

    def reset(self) -> None:
        self._client.run(forget_peak)

    def read(self) -> tuple[int, int]:
        """The peak since :meth:`reset` of the worker that needed most, and the most that one needed above its start."""
        peaks: dict[str, int] = self._client.run(peak)
        return max(peaks.values()), max(nbytes - self.before[ident] for ident, nbytes in peaks.items())
