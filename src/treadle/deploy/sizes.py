"""How many workers, with how many threads and how much memory each."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from treadle import config
from treadle.config import ConfigError

__all__ = ["Sizes", "memory_of_each", "parse_bytes", "sizes", "total_memory"]

#: Up to this many cores every worker has one thread: pure Python runs in parallel in processes only.
FEW_CORES = 4

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[_letter] = _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[f"{_letter}i"] = _UNITS[f"{_letter}ib"] = 1024**_power


class Sizes(NamedTuple):
    """The shape of a cluster on one machine."""

    n_workers: int
    threads_per_worker: int


def sizes(n_workers: int | None = None, threads_per_worker: int | None = None) -> Sizes:
    """The shape of a cluster that uses all cores; what is not given follows from what is.

    Numeric libraries release the interpreter's lock, and threads of one process share their data for nothing; pure
    Python needs processes. So up to 4 cores each worker has one thread. From there on there are about as many
    workers as threads in each, and their product is the number of cores: 4 × 2 for 8, 4 × 4 for 16, 8 × 4 for 32.

    :raises ConfigError: one of them is not a whole number of at least 1 (0 workers are allowed).
    """
    _check("n_workers", n_workers, 0)
    _check("threads_per_worker", threads_per_worker, 1)
    cores = config.num_workers()
    if n_workers is not None:
        return Sizes(n_workers, threads_per_worker or max(1, cores // max(1, n_workers)))
    if threads_per_worker is not None:
        return Sizes(max(1, cores // threads_per_worker), threads_per_worker)
    if cores <= FEW_CORES:
        return Sizes(cores, 1)
    workers = next(count for count in range(math.isqrt(cores - 1) + 1, cores + 1) if cores % count == 0)
    return Sizes(workers, cores // workers)


def parse_bytes(given: str | float) -> int:
    """A number of bytes: ``4e9``, ``"4GB"``, ``"512 MiB"``.

    :raises ConfigError: it is not one, and how to write it.
    """
    if isinstance(given, str):
        text = given.strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = text[len(number) :]
        try:
            value = float(number) * _UNITS[unit]
        except (KeyError, ValueError):
            raise _not_bytes(given) from None
        return _whole(value, given)
    return _whole(given, given)


def memory_of_each(given: str | float | None, n_workers: int) -> int:
    """The bytes that each of ``n_workers`` may use: as given, or its share for None and ``"auto"``; 0 for no limit."""
    if given is None or given == "auto":
        return total_memory() // max(1, n_workers)
    return parse_bytes(given)


def total_memory() -> int:
    """The bytes of memory that the processes of this machine, or of this container, may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue  # no container, or one without a limit
    return total


def _whole(value: object, given: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        raise _not_bytes(given)
    return int(value)


def _check(name: str, value: object, least: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _not_bytes(given: object) -> ConfigError:
    return ConfigError(
        f"{given!r} is not a number of bytes; write, for example, 4e9, '4GB', '512MiB', or 0 for no limit"
    )
