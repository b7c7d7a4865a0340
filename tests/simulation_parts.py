"""What the tests of the simulation share. It needs no package, as they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.testing.simulation import SimulatedCluster, checksum
from treadle.testing.simulation.client import SimulatedClient

SUM: dict[str, tuple[str, tuple[str, ...]]] = {"a": ("load", ()), "b": ("load", ()), "sum": ("add", ("a", "b"))}


def flat(count: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {f"x{index}": ("f", ()) for index in range(count)}


def chain(count: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {f"x{index}": ("f", (f"x{index - 1}",) if index else ()) for index in range(count)}


def raised(kind: type[BaseException], function: Callable[..., object], *args: Any, **words: Any) -> str:
    """The text of the error that a call raises."""
    try:
        function(*args, **words)
    except kind as error:
        return str(error)
    raise AssertionError(f"{function!r} raised nothing")


def started(workers: int = 2, nthreads: int = 1, **options: Any) -> tuple[SimulatedCluster, SimulatedClient]:
    cluster = SimulatedCluster(workers, nthreads, evaluate=checksum, check=True, **options)
    return cluster, cluster.add_client()
