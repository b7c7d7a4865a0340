"""What the tests of executors share: calls that wait for the test, in whatever process they run, and executors."""

from __future__ import annotations

import fcntl
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import treadle
from treadle.testing.tasks import eventually

__all__ = ["EXECUTORS", "LAZY", "Gate", "Maker", "drain", "meet_many", "pass_gate", "touch"]

#: Seconds after which something that should have happened at once will not happen any more.
PATIENCE = 30.0

#: Which executors there are, and those of them whose ``map`` has a ``buffersize``.
EXECUTORS = ["threads", "cluster"]
LAZY = [*(["threads"] if sys.version_info >= (3, 14) else []), "cluster"]


class Gate:
    """Calls of ``pass_gate(gate.path)`` wait until it is opened, threads and processes alike."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        self._file.close()


def pass_gate(path: str, value: Any = None) -> Any:
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    if isinstance(value, Exception):
        raise value
    return value


def touch(path: str, gate: str) -> str:
    """Make a file, wait at a gate, and make another one whose name ends in ``.done``."""
    Path(path).touch()
    pass_gate(gate)
    Path(path + ".done").touch()
    return path


def meet_many(path: str, count: int) -> int:
    """Return once as many calls as ``count`` are here at the same time."""
    with open(path, "ab") as file:
        file.write(b".")
    eventually(lambda: os.path.getsize(path) >= count, PATIENCE)
    return count


def drain(source: Iterator[int], taken: list[int]) -> Iterator[int]:
    """The same items; those that were taken are noted."""
    for item in source:
        taken.append(item)
        yield item


class Maker:
    """Makes executors of one kind, for one call at a time, and gates, and ends all of them in the end."""

    def __init__(self, kind: str, client: treadle.Client, folder: Path) -> None:
        self.kind = kind
        self.client = client
        self._folder = folder
        self._count = itertools.count()
        self._executors: list[Executor] = []
        self._gates: list[Gate] = []

    def __call__(self) -> Executor:
        executor: Executor
        if self.kind == "threads":
            executor = ThreadPoolExecutor(1)
        else:
            executor = self.client.get_executor(workers="here-0")
        self._executors.append(executor)
        return executor

    def gate(self) -> Gate:
        gate = Gate(self._folder / f"gate-{next(self._count)}")
        self._gates.append(gate)
        return gate

    def path(self) -> str:
        return str(self._folder / f"file-{next(self._count)}")

    def hold(self, executor: Executor, value: Any = None) -> tuple[Future[Any], Gate]:
        """A call that runs until its gate is opened."""
        gate = self.gate()
        future = executor.submit(pass_gate, gate.path, value)
        eventually(future.running)
        return future, gate

    def bare(self) -> Future[Any]:
        """A future whose call will never start."""
        return Future() if self.kind == "threads" else self.client.get_executor(resources={"none": 1}).submit(abs, -1)

    def confirm(self) -> None:
        """Wait until it is sure that what was cancelled will not start."""
        eventually(lambda: not self.client.session.registry.cancelling)

    def close(self) -> None:
        for gate in self._gates:
            gate.open()
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
