"""The small parts of a worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from io import StringIO

import pytest

from treadle.errors import ProtocolError
from treadle.wire.failures import pack_refusal
from treadle.wire.refusals import pack_refused, read_refusal
from treadle.worker.budget import Budget
from treadle.worker.data import cut
from treadle.worker.memory import Meter
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
