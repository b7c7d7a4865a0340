"""Hostile bytes into a listener: each costs its own connection, with a logged reason, and nothing else."""

from __future__ import annotations

import asyncio
import errno
import logging
import pickle
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from net_parts import INCARNATION, TOKEN, Host, Record, shaken_hands

from treadle.wire.frames import BEFORE_HANDSHAKE, FrameReader, encode_frame
from treadle.wire.handshake import Dialing, Listening


class Server:
    """A listener in a thread of its own, and one peer that behaves well."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.host: Host = self.wait(Host.open())
        self._good: Record = self.wait(self.host.dial("good"))
        self._asked = 0

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def check(self) -> None:
        """The good peer is still served, and another one can still come in."""
        self._asked += 1
        self._good.link.send([("ask", self._asked, "echo", "still here")])
        answers = self.wait(self._good.until_messages(self._asked))
        assert answers[-1].value == "still here"
        with shaken_hands(self.host.address):
            pass

    def connect(self) -> socket.socket:
        """A connection whose handshake has not begun."""
        return socket.create_connection(("127.0.0.1", self.host.listener.port), 30)

    def close(self) -> None:
        self.wait(self.host.close(self._good))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def feed(sock: socket.socket, data: bytes) -> None:
    """Send it and nothing more, and see how the other side closes the connection."""
    with sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass  # it has closed the connection before it read all of this
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


def no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []


def frame(*messages: Any, buffers: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(encode_frame(messages, buffers))


def hello(**changes: Any) -> bytes:
    """The hello of a client, as good as one can be without knowledge of the challenge."""
    challenge = Listening(TOKEN, INCARNATION).challenge()
    reader = FrameReader(BEFORE_HANDSHAKE)
    reader.space()[: len(challenge)] = challenge
    reader.filled(len(challenge))
    taken = reader.take()
    assert taken is not None
    return Dialing(TOKEN, "client", changes.pop("ident", "c"), changes).answer(taken[0])


#: Whole frames that a client may send once it has come in.
GOOD = [
    frame(("want", ["x", "y" * 300])),
    frame(("functions", [(0, b"d" * 16, "inc", b"\x80\x05N.", 1)]), ("release", [])),
    frame(("submit", ["a", "b"], [0, 0], [b"\x91\x01", b"\x91\x02"], [[], [0, "earlier"]], [1], {"priority": 3})),
    frame(("ask", 7, "no topic", {"key": [1.5, None, True]}), ("placed", [("k", 2**40, "w")])),
    frame(("want", ["with buffers"]), buffers=(b"x" * 10, b"", b"y" * 70_000)),
]

#: What never becomes a good frame, whatever comes after it.
CLAIMS = [
    struct.pack("<II", 2**32 - 1, 0),
    struct.pack("<II", 2**32 - 1, 2**32 - 1),
    struct.pack("<II", 0, 2**31),
    struct.pack("<II", 256 * 1024 * 1024 + 1, 0),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\xff" * 10_000,
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """``data`` with some bytes changed, taken out, put in or repeated."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed))
        action = rng.randrange(4)
        if action == 0:
            changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF, rng.randrange(256)])
        elif action == 1:
            del changed[place : place + rng.randint(1, 8)]
        elif action == 2:
            changed[place:place] = rng.randbytes(rng.randint(1, 8))
        else:
            changed[place:place] = changed[place : place + rng.randint(1, 50)]
        changed = changed or bytearray(1)
    return bytes(changed)


STREAMS: dict[str, Callable[[random.Random], bytes]] = {
    "random": lambda rng: rng.randbytes(rng.choice([1, 7, 8, 9, 100, 5000, 300_000])),
    "small headers": lambda rng: struct.pack("<II", rng.randint(0, 4000), 0) + rng.randbytes(rng.randint(0, 5000)),
    "truncated": lambda rng: truncated(rng, b"".join(rng.choices(GOOD, k=3))),
    "mutated": lambda rng: mutated(rng, rng.choice(GOOD)),
    "mutated later": lambda rng: rng.choice(GOOD) + mutated(rng, rng.choice(GOOD)) + rng.choice(GOOD),
    "claims": lambda rng: rng.choice(CLAIMS) + rng.randbytes(rng.randint(0, 1000)),
    "claims later": lambda rng: rng.choice(GOOD) + rng.choice(CLAIMS),
    "mutated hello": lambda rng: mutated(rng, hello()),
    "msgpack": lambda rng: framed(random_msgpack(rng)),
}


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data))]


def framed(control: bytes) -> bytes:
    return struct.pack("<II", len(control), 0) + control


def random_msgpack(rng: random.Random) -> bytes:
    """Bytes that begin like msgpack: arrays and maps of anything, with lengths that may be lies."""
    starts = [
        0x90,
        0x91,
        0x92,
        0x9F,
        0xDC,
        0xDD,
        0x81,
        0xDE,
        0xDF,
        0xA4,
        0xD9,
        0xDB,
        0xC4,
        0xC6,
        0xC7,
        0xC9,
        0xD4,
        0x01,
    ]
    return b"\x91" + b"".join(bytes([rng.choice(starts)]) + rng.randbytes(rng.randint(0, 5)) for _ in range(40))


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("known", [False, True], ids=["stranger", "after the handshake"])
def test_fuzz(server: Server, kind: str, known: bool, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(f"{kind} {known}")
    for _ in range(40):
        data = STREAMS[kind](rng)
        feed(shaken_hands(server.host.address) if known else server.connect(), data)
    server.check()
    no_error_of_ours(caplog)


@pytest.mark.parametrize("claim", CLAIMS, ids=range(len(CLAIMS)))
@pytest.mark.parametrize("known", [False, True], ids=["stranger", "after the handshake"])
def test_a_claim_ends_the_connection_at_once(
    server: Server, claim: bytes, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with shaken_hands(server.host.address) if known else server.connect() as sock:
        sock.sendall(claim)
        try:
            while sock.recv(65536):  # it does not wait for more
                pass
        except ConnectionResetError:
            pass
    server.check()
    assert "connection closed, because what it sent is no frame" in caplog.text
    no_error_of_ours(caplog)


def test_half_a_frame_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for data in (GOOD[0][:5], GOOD[0][:20], GOOD[4][:30], GOOD[4][:-1]):
        caplog.clear()
        feed(shaken_hands(server.host.address, "halfway"), data)
        server.check()
        assert "client halfway at 127.0.0.1" in caplog.text
        assert "it closed the connection in the middle of a frame" in caplog.text


def test_nested_deeper_than_anybody_reads(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for opening in (b"\x91", b"\x81\xa1k", b"\xdd\x00\x00\x00\x01"):
        control = b"\x91\x94\xa3ask\x01\xa1t" + opening * 1_000_000
        feed(shaken_hands(server.host.address), framed(control))
    server.check()
    assert caplog.text.count("what it sent is no message") == 3
    no_error_of_ours(caplog)


def test_promises_of_gigabytes_take_no_memory(server: Server) -> None:
    server.check()
    before = resident()
    socks = [shaken_hands(server.host.address) for _ in range(30)]
    for sock in socks:
        sock.sendall(struct.pack("<IIQ", 1, 1, 4 * 1024**3) + b"\x90" + b"x" * 100_000)
    for sock in socks[:10]:
        sock.sendall(b"x" * 100_000)
    server.check()
    assert resident() - before < 100_000_000  # of 120 GB that were promised: a page, which may be huge, each
    for sock in socks:
        feed(sock, b"")
    server.check()


def resident() -> int:
    """The bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Trace:
    """A pickle of it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_no_pickle_is_read(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "trace"
    evil = pickle.dumps(Trace(path))
    for data in (
        evil,
        framed(evil),
        framed(b"\x91" + evil),
        hello(ident="e", details=evil),
        framed(b"\xc7\x64\x01" + evil),
    ):
        feed(server.connect(), data)
    before = len(server.host.records)
    for data in (
        evil,
        framed(evil),
        framed(b"\x91\x94\xa3ask\x01\xa1t" + b"\xc8" + struct.pack(">H", len(evil)) + b"\x01" + evil),
        frame(("functions", [(0, evil[:16], "f", evil, 1)]), ("submit", ["k"], [0], [evil], [])),
        frame(("ask", 1, "t", evil), buffers=(evil, evil)),
        frame(("failed", [("k", "k", ("raised", evil, "", {}))])),
    ):
        feed(shaken_hands(server.host.address), data)
    server.check()
    assert len(server.host.records) > before
    assert not path.exists()
    no_error_of_ours(caplog)
    pickle.loads(evil)
    assert path.exists()


def test_the_messages_that_were_good_arrived(server: Server) -> None:
    for number, data in enumerate(GOOD):
        feed(shaken_hands(server.host.address, f"fine-{number}"), data)
    arrived = {record.link.ident: record.messages for record in server.host.records}
    assert [len(arrived[f"fine-{number}"]) for number in range(len(GOOD))] == [1, 2, 1, 2, 1]
    assert msgspec.to_builtins(arrived["fine-0"][0]) == ["want", ["x", "y" * 300]]
