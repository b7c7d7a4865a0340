"""What all tests share: readable assertions of the conformance suite, and no process left behind."""

from __future__ import annotations

import gc
import multiprocessing.resource_tracker
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeAlias

import pytest
from client_parts import FakeCluster

from treadle import Client, LocalCluster

#: ``script(source, *arguments)`` starts a script in a process of its own, with pipes for its input and output.
Script: TypeAlias = "Callable[..., subprocess.Popen[str]]"

pytest.register_assert_rewrite("treadle.testing")


def children() -> set[int]:
    """The processes whose parent is this one."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue  # it has just ended
        parent = int(text.rpartition(")")[2].split()[1])
        if parent == os.getpid():
            found.add(int(path.parent.name))
    return found


@pytest.fixture(scope="session", autouse=True)
def no_orphans() -> Iterator[None]:
    """At the end there are no processes but the idle ones of the pool, and these end with it."""
    # What was there before belongs to whoever started the tests.
    before = children()
    yield
    from treadle.local.processes.pool import shared_pool
    from treadle.testing.tasks import eventually

    # The standard library keeps these two until the interpreter exits.
    helpers = {
        getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }
    pool = shared_pool()
    assert not pool._lent
    # What was told to end in the last test may still be about to.
    eventually(lambda: children() - before - helpers == {member.pid for member in pool._idle})
    pool.close()
    eventually(lambda: children() - before - helpers == set())


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """A scheduler that says what the test has it say, and nothing else."""
    fake = FakeCluster()
    yield fake
    fake.close()


@pytest.fixture
def client(fake: FakeCluster) -> Iterator[Client]:
    """A client of the fake one; modules with a real cluster have fixtures of their own."""
    with fake.client() as client:
        yield client


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers with a thread each; modules that need others have a fixture of their own."""
    with LocalCluster(2, 1) as cluster:
        yield cluster


@pytest.fixture
def default_client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of that cluster, which is the default: for what finds its client by itself."""
    with Client(cluster) as client:
        yield client


@pytest.fixture
def interruptible() -> Iterator[None]:
    """No garbage is collected: an interrupt in the middle of what the collector calls is lost. It calls Hypothesis."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        path = options.pop("folder", tmp_path) / "script.py"
        path.write_text(dedent(source))
        process = subprocess.Popen(
            [sys.executable, *options.pop("flags", []), str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def finish(process: subprocess.Popen[str]) -> str:
    """What a script has printed, once it has ended well and without a word on its standard error."""
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == 0, out
    return out
