"""Hostile bytes into the sockets of a real scheduler and of real workers, before and after the handshake."""

from __future__ import annotations

import errno
import os
import pickle
import random
import socket
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from net_parts import read_frame

from treadle.client.client import Client
from treadle.deploy.local import LocalCluster
from treadle.wire.frames import BEFORE_HANDSHAKE, FrameReader, encode_frame
from treadle.wire.handshake import Dialing

#: Random streams per target and stage.
STREAMS = 40


class Victim:
    """A cluster under attack, and a client that must not notice."""

    def __init__(self, cluster: LocalCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client
        self.pids = {worker.pid for worker in cluster.workers}
        info = client.scheduler_info()
        self.addresses = [cluster.address, *[worker["address"] for worker in info["workers"].values()]]

    def check(self) -> None:
        """It still works, in the same processes."""
        squares = self.client.map(pow, range(20), [2] * 20, pure=False)
        assert self.client.gather(squares) == [number**2 for number in range(20)]
        assert {worker.pid for worker in self.cluster.workers} >= self.pids  # intruders may linger for a moment

    def enter(self, address: str, role: str) -> socket.socket:
        """A connection that has proved that it knows the token."""
        host, _, port = address.rpartition(":")
        sock = socket.create_connection((host, int(port)), 30)
        reader = FrameReader(BEFORE_HANDSHAKE)
        details = {"address": "127.0.0.1:1", "nthreads": 1} if role == "worker" else {}
        dialing = Dialing(self.cluster.token, role, f"hostile-{uuid.uuid4().hex[:8]}", details)
        sock.sendall(dialing.answer(read_frame(sock, reader)))
        dialing.finish(read_frame(sock, reader))
        return sock


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        yield Victim(cluster, client)


def feed(sock: socket.socket, data: bytes) -> bytes:
    """Send it and nothing more, and read until the other side closes the connection. Returns what it said."""
    said = b""
    with sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                said += chunk
        except ConnectionError:
            pass  # it has closed the connection before it read all of this
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
    return said


def frame(*messages: Any, buffers: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(encode_frame(messages, buffers))


class Trace:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


#: What each role may say, in shape.
SAYINGS: dict[str, list[Any]] = {
    "client": [
        ("functions", [(0, b"d" * 16, "inc", b"blob", 1)]),
        ("submit", ["a", "b"], [0, 0], [b"\x91\x01", b"\x91\x02"], [[], [0]], [1], {"priority": 3}),
        ("want", ["x"]),
        ("cancel", ["x"]),
        ("release", ["x"]),
        ("placed", [("k", 2**40, "w")]),
        ("missing", [("k", "w")]),
        ("ask", 7, "explain", {"key": [1.5, None, True]}),
    ],
    "worker": [
        ("finished", [(1, 28, 0.1, b"\x01")]),
        ("failed", 1, 0.1, ("raised", b"\x80", "text", {})),
        ("acquired", [("k", 10)]),
        ("missing", [("k", "w")]),
        ("returned", [1]),
        ("stopped", [1]),
        ("heartbeat", 1, 1.0, 1, 1.0),
        ("leaving",),
    ],
    "supervisor": [("died", "w", 1, -9, [1], "host", "log")],
    "peer": [("fetch", 1, ["k"]), ("store", 1, [("k", 1)])],
}

#: Whole frames that no peer may send.
VIOLATIONS: dict[str, list[bytes]] = {
    "client": [
        frame(("no such message", 1)),
        frame(("submit", ["a"], [99], [b""], [], None, None)),
        frame(("functions", [(0, b"short", "f", b"", 1)])),
        frame(("want", "not a list")),
        frame(("submit", ["a"], [0], [b""], [[7]], None, None)),
        frame(("finished", [(1, 28, 0.1, None)])),
    ],
    "worker": [
        frame(("finished", [(12345, 28, 0.1, None)])),
        frame(("finished", [(1, -28, 0.1, None)])),
        frame(("finished", [(1, 28, float("nan"), None)])),
        frame(("returned", [7])),
        frame(("submit", ["a"], [0], [b""], [], None, None)),
    ],
    "supervisor": [frame(("died", 1, 2, 3)), frame(("shutdown", "please"))],
}


def mutated(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(changed))
        if dice.random() < 0.5:
            changed[place] = dice.choice([0, 1, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF, dice.randrange(256)])
        else:
            changed[place:place] = dice.randbytes(dice.randint(1, 8))
    return bytes(changed)


def test_before_the_handshake(victim: Victim, tmp_path: Path) -> None:
    dice = random.Random(1)
    pickled = pickle.dumps(Trace(tmp_path / "trace"))
    streams = [
        b"",
        struct.pack("<II", 2**32 - 1, 0),
        struct.pack("<II", 0, 2**32 - 1),
        struct.pack("<II", 100, 1) + struct.pack("<Q", 4 * 2**30),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        pickled,
        frame(("hello", 1, "client", "c", "3.11", "0", b"m" * 32, b"n" * 16, {"pickle": pickled})),
        *[dice.randbytes(dice.choice([1, 7, 8, 9, 100, 5000, 300_000])) for _ in range(STREAMS)],
    ]
    for address in victim.addresses:
        host, _, port = address.rpartition(":")
        for stream in streams:
            feed(socket.create_connection((host, int(port)), 30), stream)
        victim.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["client", "worker", "supervisor"])
def test_mutated_messages_to_the_scheduler(victim: Victim, role: str) -> None:
    dice = random.Random(role)
    for _ in range(STREAMS):
        stream = b"".join(frame(saying) for saying in dice.choices(SAYINGS[role], k=3))
        feed(victim.enter(victim.cluster.address, role), mutated(dice, stream))
    victim.check()


def test_mutated_messages_to_a_worker(victim: Victim) -> None:
    dice = random.Random("peer")
    for address in victim.addresses[1:]:
        for _ in range(STREAMS):
            stream = frame(SAYINGS["peer"][0]) + frame(SAYINGS["peer"][1], buffers=(b"\x01",))
            feed(victim.enter(address, "peer"), mutated(dice, stream))
        victim.check()


@pytest.mark.parametrize(
    ("role", "number"), [(role, number) for role, rows in VIOLATIONS.items() for number in range(len(rows))]
)
def test_violations_cost_the_connection(victim: Victim, role: str, number: int) -> None:
    sock = victim.enter(victim.cluster.address, role)
    sock.sendall(VIOLATIONS[role][number])
    with sock:
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass
    victim.check()


def test_half_a_frame_and_a_claim_of_gigabytes(victim: Victim) -> None:
    whole = frame(("want", ["x" * 1000]))
    for address, role in [(victim.addresses[0], "client"), (victim.addresses[1], "peer")]:
        feed(victim.enter(address, role), whole[:-1])
        feed(victim.enter(address, role), struct.pack("<II", 2**32 - 1, 0))
        feed(victim.enter(address, role), struct.pack("<IIQ", 10, 1, 2**63))
    victim.check()


def test_the_scheduler_unpickles_nothing(victim: Victim, tmp_path: Path) -> None:
    """Pickles wherever bytes may stand: the scheduler hands them on unread."""
    blob = pickle.dumps(Trace(tmp_path / "trace"))
    feed(
        victim.enter(victim.cluster.address, "client"),
        frame(
            ("functions", [(0, blob[:16].ljust(16), "f", blob, 1)]),
            # Nobody has the resource, so that no worker is sent it, who would be right to read it.
            ("submit", ["hostile"], [0], [blob], [], None, {"resources": {"nobody has this": 1.0}}),
            ("ask", 1, "explain", blob),
            ("ask", 2, blob.decode("latin-1"), None),
        ),
    )
    feed(
        victim.enter(victim.cluster.address, "worker"),
        frame(("failed", 1, 0.1, ("raised", blob, "text", {"pickle": blob})), ("finished", [(1, 1, 0.1, blob)])),
    )
    feed(victim.enter(victim.cluster.address, "supervisor"), frame(("died", "w", 1, -9, [], "host", repr(blob))))
    victim.check()
    assert list(tmp_path.iterdir()) == []
