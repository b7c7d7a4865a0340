"""Links: messages and buffers arrive whole and in order, from any thread; the end is told once."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from typing import Any

import numpy
import pytest
from net_parts import INCARNATION, LOOPS, Host, NewLoop, Record, dial_client, run, shaken_hands

from treadle.errors import ProtocolError
from treadle.wire.frames import AFTER_HANDSHAKE, FrameReader, Limits, encode_frame
from treadle.wire.messages import Ask, Want

pytestmark = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)


def test_both_sides_know_each_other(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial("client-1", details={"pid": 4})
        [theirs] = await host.links(1)
        assert (ours.link.ident, ours.link.role, ours.link.details) == ("client-1", "client", {"heartbeat": 1.0})
        assert (theirs.link.ident, theirs.link.role, theirs.link.details) == ("client-1", "client", {"pid": 4})
        assert ours.link.peer == theirs.link.local == host.address
        assert ours.link.local == theirs.link.peer
        assert ours.link.incarnation == INCARNATION
        assert repr(ours.link) == f"<Link client client-1 at {host.address}, 0 bytes unsent>"
        await host.close(ours)
        assert repr(ours.link) == f"<Link client client-1 at {host.address}, closed: closed by this side>"

    run(new_loop, main())


def test_messages_arrive_in_order(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        for number in range(2000):
            ours.link.send([("ask", number, "echo", "x" * (number % 50)), ("want", [str(number)])])
        answers = await ours.until_messages(2000)
        assert [answer.id for answer in answers] == list(range(2000))
        [theirs] = host.records
        assert theirs.messages[:2] == [Ask(0, "echo", ""), Want(["0"])]
        assert len(theirs.messages) == 4000
        await host.close(ours)

    run(new_loop, main())


def test_buffers_arrive_whole(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        big = numpy.arange(3_000_000, dtype="u4")
        sent: list[list[Any]] = [[b"a", b"", big], [], [big[:20_000], b"b" * 70_000], [b"%d" % n for n in range(3000)]]
        for number, buffers in enumerate(sent):
            ours.link.send([("ask", number, "echo", None)], buffers)
        await ours.until_messages(len(sent))
        assert [[bytes(buffer) for buffer in some] for some in ours.buffers] == [
            [bytes(b) for b in some] for some in sent
        ]
        assert ours.link.unsent == 0
        await host.close(ours)

    run(new_loop, main())


def test_threads_send_at_once(new_loop: NewLoop) -> None:
    """While the connection is congested, too: the other side does not read before all have begun."""

    async def main() -> None:
        host = await Host.open()
        link = await dial_client(host.address)
        [theirs] = await host.links(1)
        start = threading.Barrier(4)

        def talk(name: str) -> None:
            start.wait()
            for number in range(300):
                link.send([("want", [name, str(number)])], [name.encode() * 20_000])

        names = ["a", "b", "c", "d"]
        threads = [threading.Thread(target=talk, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        await theirs.until(lambda: len(theirs.messages) == 1200)
        for thread in threads:
            thread.join()
        for name in names:
            numbers = [int(want.keys[1]) for want in theirs.messages if want.keys[0] == name]
            assert numbers == list(range(300))
        for want, [buffer] in zip(theirs.messages, theirs.buffers):
            assert bytes(buffer) == want.keys[0].encode() * 20_000
        await host.close(Record(link).start())

    run(new_loop, main())


def test_drain_waits_until_little_is_unsent(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        size = 30_000_000
        ours.link.send([("want", [])], [bytearray(size)])
        assert ours.link.unsent > 0
        half, all_of_it = asyncio.ensure_future(ours.link.drain(size // 2)), asyncio.ensure_future(ours.link.drain())
        await half
        assert ours.link.unsent <= size // 2
        await all_of_it
        assert ours.link.unsent == 0
        await ours.link.drain()
        await host.close(ours)

    run(new_loop, main())


def test_the_end_is_told_to_both_sides_once(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        [theirs] = await host.links(1)
        ours.link.close("enough")
        assert ours.closed == []  # not within the call
        assert await ours.until_closed() == "enough"
        assert await theirs.until_closed() == "the other side closed the connection"
        for record in (ours, theirs):
            record.link.close("again")
            record.link.send([("want", ["into the void"])])
            await record.link.drain()
            await record.link.wait_closed()
        await asyncio.sleep(0)
        assert (ours.closed, theirs.closed) == (["enough"], ["the other side closed the connection"])
        assert ours.link.reason == "enough"
        await host.close()

    run(new_loop, main())


def test_a_thread_may_close(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        waiting = asyncio.ensure_future(ours.link.wait_closed())
        await asyncio.get_running_loop().run_in_executor(None, ours.link.close, "from a thread")
        await waiting
        assert await ours.until_closed() == "from a thread"
        await host.close()

    run(new_loop, main())


def test_a_link_that_was_closed_before_it_was_started_says_so(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        link = await dial_client(host.address)
        link.close()
        assert await Record(link).start().until_closed() == "closed by this side"
        await host.close()

    run(new_loop, main())


def test_what_is_unsent_is_dropped_by_close(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        ours.link.send([("want", [])], [bytearray(50_000_000)])
        draining = asyncio.ensure_future(ours.link.drain())
        await asyncio.sleep(0)
        ours.link.close()
        await draining
        assert ours.link.unsent == 0
        [theirs] = host.records
        assert await theirs.until_closed() == "it closed the connection in the middle of a frame"
        await host.close()

    run(new_loop, main())


def test_closing_while_threads_send(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        for _ in range(20):
            ours = await host.dial()
            started = threading.Event()

            def talk(link: Any = ours.link, started: threading.Event = started) -> None:
                while not link.closed:
                    link.send([("want", ["x"])], [b"x" * 50_000])
                    started.set()

            thread = threading.Thread(target=talk)
            thread.start()
            await asyncio.get_running_loop().run_in_executor(None, started.wait)
            ours.link.close()
            thread.join()
            await ours.until_closed()
        await host.close()

    run(new_loop, main())


def test_when_the_other_side_resets_the_connection(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        sock = await asyncio.get_running_loop().run_in_executor(None, shaken_hands, host.address)
        [theirs] = await host.links(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        assert await theirs.until_closed() == "the connection broke: Connection reset by peer"
        await host.close()

    run(new_loop, main())


def test_sending_finds_out_that_the_connection_broke(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        [theirs] = await host.links(1)
        ours.link._sock.shutdown(socket.SHUT_WR)
        ours.link.send([("want", ["x"])])
        assert await ours.until_closed() == "the connection broke: Broken pipe"
        await theirs.until_closed()
        await host.close()

    run(new_loop, main())


def test_a_violation_costs_the_connection(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = await Host.open()
        good, bad = await host.dial("good"), await host.dial("bad")
        theirs = {record.link.ident: record for record in await host.links(2)}
        bad.link.send([("want", ["fine"])])
        bad.link.send([("what is this", 1)])
        bad.link.send([("want", ["too late"])])
        assert "what it sent is no message" in await theirs["bad"].until_closed()
        assert theirs["bad"].messages == [Want(["fine"])]
        await bad.until_closed()
        good.link.send([("ask", 1, "echo", "still here")])
        assert (await good.until_messages(1))[0].value == "still here"
        await host.close(good)

    run(new_loop, main())
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "client bad at 127.0.0.1:" in record.getMessage()
    assert "connection closed, because what it sent is no message: Invalid value 'what is this'" in record.getMessage()


@pytest.mark.parametrize("error", [ProtocolError("you may not do that"), ZeroDivisionError("a bug")])
def test_an_error_of_the_handler_closes_the_link(
    new_loop: NewLoop, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        [theirs] = await host.links(1)

        def refuse(messages: list[Any], buffers: list[memoryview]) -> None:
            raise error

        theirs.link._on_messages = refuse
        ours.link.send([("want", ["x"])])
        assert str(error) in await theirs.until_closed()
        await ours.until_closed()
        await host.close()

    run(new_loop, main())
    assert [record.levelno for record in caplog.records] in ([logging.WARNING], [logging.ERROR])


def test_no_message_comes_after_the_end(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        [theirs] = await host.links(1)
        handle = theirs.link._on_messages
        assert handle is not None

        def close_at_once(messages: list[Any], buffers: list[memoryview]) -> None:
            handle(messages, buffers)
            theirs.link.close()

        theirs.link._on_messages = close_at_once
        ours.link._sock.sendall(b"".join(encode_frame([("want", [name])])[0] for name in "abc"))
        await theirs.until_closed()
        assert theirs.messages == [Want(["a"])]
        await host.close(ours)

    run(new_loop, main())


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        link = await dial_client(host.address)
        frame = b"".join(encode_frame([("answer", 1, True, "early")])[0] for _ in range(2))
        link._reader = FrameReader(AFTER_HANDSHAKE, received=frame)
        ours = Record(link).start()
        assert ours.messages == []
        assert len(await ours.until_messages(2)) == 2
        await host.close(ours)

    run(new_loop, main())


def test_a_message_that_cannot_be_packed_is_the_callers_error(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        for bad in (object(), 2**70, "\ud800"):
            with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
                ours.link.send([("ask", 1, "echo", bad)])
        ours.link.send([("ask", 1, "echo", "good")])
        assert (await ours.until_messages(1))[0].value == "good"
        await host.close(ours)

    run(new_loop, main())


def test_limits_can_be_lowered(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open(limits=Limits(1000, 2, 5000))
        cases = [([b"x" * 5001], "a buffer of 5001 bytes, where 5000"), ([b""] * 3, "3 buffers")]
        for number, (buffers, reason) in enumerate(cases):
            ours = await host.dial()
            ours.link.send([("want", [])], buffers)
            theirs = (await host.links(number + 1))[number]
            assert reason in await theirs.until_closed()
            await ours.until_closed()
        await host.close()

    run(new_loop, main())


def test_a_talkative_peer_does_not_starve_the_others(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        flooding, ours = await host.dial("flooding"), await host.dial("ours")
        theirs = {record.link.ident: record for record in await host.links(2)}
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set() and flooding.link.unsent < 10_000_000:
                flooding.link.send([("want", ["x" * 1000])] * 100)

        thread = threading.Thread(target=flood)
        thread.start()
        await theirs["flooding"].until(lambda: len(theirs["flooding"].messages) > 1000)
        ours.link.send([("ask", 1, "echo", None)])
        await ours.until_messages(1)
        stop.set()
        thread.join()
        await host.close(ours, flooding)

    run(new_loop, main())
