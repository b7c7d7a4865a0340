"""The small parts of a worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import threading
import time
from io import StringIO
from typing import NamedTuple

import numpy as np
import pytest

from treadle import Client, LocalCluster
from treadle.errors import ProtocolError
from treadle.wire.failures import pack_refusal
from treadle.wire.refusals import pack_refused, read_refusal
from treadle.worker.budget import Budget
from treadle.worker.data import cut
from treadle.worker.memory import Meter, Trimmer, trim_libc
from treadle.worker.slots import JOINED, STARTING, Slots
from treadle.worker.tail import KEPT, Tail


def test_bytes_are_lent_in_turn() -> None:
    async def main() -> None:
        budget = Budget(100)
        events: list[str] = []

        async def use(name: str, nbytes: int) -> int:
            granted = await budget.acquire(nbytes)
            events.append(name)
            return granted

        assert await use("a", 60) == 60
        big, small = (asyncio.ensure_future(use(name, n)) for name, n in (("big", 500), ("small", 10)))
        await asyncio.sleep(0)
        assert events == ["a"]
        assert repr(budget) == "<Budget 40 of 100 bytes free, 2 wait>"
        budget.release(60)
        assert await big == 100
        assert events == ["a", "big"]
        budget.release(100)
        assert await small == 10

    asyncio.run(main())


def test_who_gives_up_waiting_keeps_no_bytes() -> None:
    async def main() -> None:
        budget = Budget(100)
        await budget.acquire(100)
        first, second, third = (asyncio.ensure_future(budget.acquire(50)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        budget.release(100)
        second.cancel()  # it has been granted its bytes, and does not know it yet
        assert await third == 50
        await asyncio.sleep(0)
        assert await budget.acquire(50) == 50

    asyncio.run(main())


def test_refusals_are_told_from_values() -> None:
    error = pack_refusal("result of type lock", TypeError("no"))
    assert read_refusal([pack_refused(error)]) == error
    assert read_refusal([b"\x80\x05"]) is None
    assert read_refusal([b""]) is None
    assert read_refusal([b"\xc1", b"\xc1"]) is None
    with pytest.raises(ProtocolError, match="neither a value nor an error"):
        read_refusal([b"\xc1nonsense"])


def test_buffers_are_cut_into_values() -> None:
    buffers = [memoryview(b"%d" % n) for n in range(3)]
    assert cut([("a", 1), ("b", 0), ("c", 2)], buffers) == [("a", buffers[:1]), ("c", buffers[1:])]
    with pytest.raises(ProtocolError, match="it announced 2 buffers and sent 3"):
        cut([("a", 2)], buffers)


def test_slots_are_shared() -> None:
    fd = Slots.create(3)
    ours, theirs = Slots(fd, 3), Slots(fd, 3)
    os.close(fd)
    assert (ours.stage, ours.executing()) == (STARTING, [])
    theirs.enter(JOINED)
    theirs.execute(0, 17)
    theirs.execute(2, 2**60)
    assert (ours.stage, ours.executing()) == (JOINED, [17, 2**60])
    theirs.execute(0, 0)
    assert ours.executing() == [2**60]
    theirs.close()
    ours.close()


def test_too_much_memory_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter(2_000_000_000)
    with caplog.at_level(logging.WARNING):
        for rss in (1_990_000_000, 2_500_000_000, 2_600_000_000, 1_850_000_000, 2_700_000_000):
            meter.judge(rss)
        assert [record.getMessage()[:62] for record in caplog.records] == [
            "uses 2.50 GB of memory, more than its limit of 2.00 GB. Make t"
        ]
        meter.judge(1_700_000_000)
        meter.judge(2_700_000_000)
        assert len(caplog.records) == 2


def test_what_the_process_uses() -> None:
    meter = Meter(0)
    rss, cpu = meter.read(10.0)
    assert rss > 1e6
    assert cpu == 0.0
    assert 0.0 <= meter.read(1e6)[1] < 100.0


def test_the_c_library_gives_back_what_it_keeps() -> None:
    meter = Meter(0)
    # Too small for the library to give each of them back when it is free, and the last one is in the way.
    arrays = [np.ones(8_000) for _ in range(2_000)]
    del arrays[:-1]
    kept = meter.read(1.0)[0]
    found = trim_libc()
    assert found == (platform.libc_ver()[0] == "glibc")
    assert meter.read(2.0)[0] < kept - 64e6 or not found
    assert arrays[0].sum() == 8_000


class Trims(NamedTuple):
    """A trimmer, and what it has done so far."""

    trimmer: Trimmer
    done: list[None]


def trims(**environment: str) -> Trims:
    done: list[None] = []
    trimmer = Trimmer(lambda: done.append(None), environment)
    assert not trimmer.due(100.0, 7.0, 0.0)  # whatever the imports took
    return Trims(trimmer, done)


def test_memory_is_given_back_when_a_process_rests_after_work() -> None:
    trimmer, done = trims()
    assert not trimmer.due(101.0, 7.01, 1.0)
    assert not trimmer.due(102.0, 7.9, 89.0)
    assert trimmer.due(103.0, 7.91, 1.0)
    assert not trimmer.due(104.0, 7.92, 1.0)
    assert done == []
    trimmer.trim()
    assert done == [None]


def test_memory_is_given_back_now_and_then_while_a_process_works() -> None:
    trimmer, _ = trims()
    dues = [second for second in range(101, 131) if trimmer.due(float(second), float(second), 100.0)]
    assert dues == [110, 120, 130]


def test_giving_memory_back_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmer, _ = trims()
    clock = iter([0.0, 0.05])
    monkeypatch.setattr("treadle.worker.memory.perf_counter", lambda: next(clock))
    assert trimmer.due(101.0, 8.0, 0.0)
    trimmer.trim()
    dues = [second for second in range(102, 113) if trimmer.due(float(second), float(second), 0.0)]
    assert dues == [106, 111]


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}]
)
def test_the_user_has_the_say_about_memory_that_is_free(environment: dict[str, str]) -> None:
    trimmer, _ = trims(**environment)
    assert not trimmer.due(200.0, 100.0, 0.0)
    assert trims(GLIBC_TUNABLES="glibc.malloc.check=1").trimmer.due(200.0, 100.0, 0.0)


def rests_after_work() -> bool:
    """In a worker: whether it gives memory back after this has computed for a moment."""
    given_back = threading.Event()
    trim = Trimmer.trim

    def trim_and_tell(trimmer: Trimmer) -> None:
        trim(trimmer)
        given_back.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trimmer, "trim", trim_and_tell)
        start = time.process_time()
        while time.process_time() < start + 0.3:
            pass
        return given_back.wait(60)


def test_a_worker_that_rests_gives_memory_back() -> None:
    with LocalCluster(1, 1) as cluster, Client(cluster) as client:
        assert client.submit(rests_after_work).result()


def test_the_end_of_what_was_written_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    tail = Tail()
    assert tail.text() == ""
    tail.add(b"one\n")
    tail.add(b"two\n")
    assert tail.text() == "one\ntwo"
    tail.add(b"x" * KEPT + b"\nlast\n")
    assert tail.text() == "last"
    assert capsys.readouterr().err == "one\ntwo\n" + "x" * KEPT + "\nlast\n"


def test_what_was_written_goes_wherever_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Tail()
    notebook = StringIO()
    monkeypatch.setattr(sys, "stderr", notebook)
    tail.add(b"caf\xc3\xa9\n")
    assert notebook.getvalue() == "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"
    for closed in (None, notebook):
        notebook.close()
        monkeypatch.setattr(sys, "stderr", closed)
        tail.add(b"more\n")
    assert tail.text().endswith("more")
