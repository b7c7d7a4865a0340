"""The proxy that fails on command, between plain sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from treadle.testing import Proxy


class Peers:
    """A dialer and the listener's end, with a proxy between them."""

    def __init__(self, listener: socket.socket, proxy: Proxy) -> None:
        self.listener = listener
        self.proxy = proxy
        self.near, self.far = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        host, port = self.proxy.address.split(":")
        near = socket.create_connection((host, int(port)), 10)
        far, _ = self.listener.accept()
        far.settimeout(10)
        return near, far


@contextmanager
def peers() -> Iterator[Peers]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with Proxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
            pair = Peers(listener, proxy)
            with pair.near, pair.far:
                yield pair


def exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = end.recv(count - len(data))
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


def reset_at_once(proxy: Proxy) -> bool:
    """True if a new connection is reset, be it while it is being made."""
    host, port = proxy.address.split(":")
    try:
        with socket.create_connection((host, int(port)), 10) as end:
            end.recv(1)
    except ConnectionResetError:
        return True
    return False


def until_reset(end: socket.socket) -> bytes:
    data = b""
    try:
        while more := end.recv(10):
            data += more
    except ConnectionResetError:
        return data
    raise AssertionError(f"the connection ended in good order after {data!r}")


def silent(end: socket.socket) -> bool:
    """True if nothing has come yet."""
    end.setblocking(False)
    try:
        return end.recv(1) == b"never"
    except BlockingIOError:
        return True
    finally:
        end.settimeout(10)


def test_what_is_sent_arrives_in_both_directions() -> None:
    with peers() as pair:
        pair.near.sendall(b"ping")
        assert exactly(pair.far, 4) == b"ping"
        pair.far.sendall(b"pong!")
        assert exactly(pair.near, 5) == b"pong!"
        pair.proxy.resume()  # returns when the thread has ended the step in which it passed that on
        assert (pair.proxy.connections, pair.proxy.forwarded, pair.proxy.returned) == (1, 4, 5)


def test_much_data_passes_unchanged_while_the_reader_is_slow() -> None:
    data = bytes(range(256)) * (1 << 14)
    with peers() as pair:
        pair.near.setblocking(False)
        sent = received = 0
        while received < len(data):
            if sent < len(data):
                try:
                    sent += pair.near.send(data[sent : sent + (1 << 20)])
                    continue
                except BlockingIOError:
                    pass  # everything on the way is full: now the reader reads
            part = exactly(pair.far, min(1 << 16, sent - received))
            assert part == data[received : received + len(part)]
            received += len(part)


def test_the_end_of_one_direction_leaves_the_other_open() -> None:
    with peers() as pair:
        pair.near.sendall(b"all")
        pair.near.shutdown(socket.SHUT_WR)
        assert exactly(pair.far, 3) == b"all"
        assert pair.far.recv(1) == b""
        pair.far.sendall(b"answer")
        pair.far.close()
        assert exactly(pair.near, 6) == b"answer"
        assert pair.near.recv(1) == b""


def test_a_stall_holds_everything_and_loses_nothing() -> None:
    with peers() as pair:
        pair.proxy.stall(back=False)
        pair.near.sendall(b"held")
        # The other direction passes, so the proxy has been at work since.
        pair.far.sendall(b"x")
        assert exactly(pair.near, 1) == b"x"
        assert silent(pair.far)
        pair.proxy.resume()
        assert exactly(pair.far, 4) == b"held"


def test_a_delay_is_at_least_as_long_as_it_was_to_be() -> None:
    with peers() as pair:
        pair.proxy.delay(0.05)
        started = monotonic()
        pair.near.sendall(b"late")
        assert exactly(pair.far, 4) == b"late"
        assert monotonic() - started >= 0.05


def test_a_cut_resets_both_ends_and_new_connections_pass() -> None:
    with peers() as pair:
        pair.proxy.cut()
        for end in (pair.near, pair.far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        near, far = pair.connect()
        with near, far:
            near.sendall(b"again")
            assert exactly(far, 5) == b"again"


def test_a_cut_after_some_bytes_passes_just_these() -> None:
    with peers() as pair:
        pair.proxy.cut_after(3)
        pair.near.sendall(b"abcdef")
        with pytest.raises(ConnectionResetError):
            pair.near.recv(1)
        # The reset may overtake what was sent before it.
        assert until_reset(pair.far) in (b"", b"abc")
        assert pair.proxy.forwarded == 3


def test_one_byte_is_corrupted() -> None:
    with peers() as pair:
        pair.near.sendall(b"good")
        assert exactly(pair.far, 4) == b"good"
        pair.proxy.corrupt(1, 0x01)
        pair.near.sendall(b"aaaa")
        assert exactly(pair.far, 4) == b"a`aa"


def test_a_refused_connection_is_reset_and_others_go_on() -> None:
    with peers() as pair:
        pair.proxy.refuse()
        assert reset_at_once(pair.proxy)
        pair.near.sendall(b"still here")
        assert exactly(pair.far, 10) == b"still here"
        pair.proxy.refuse(False)
        near, far = pair.connect()
        near.close()
        far.close()


def test_without_a_target_the_dialer_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with Proxy(address) as proxy:
        assert reset_at_once(proxy)
        assert proxy.connections == 1


def test_closing_resets_what_is_open_and_may_be_repeated() -> None:
    with peers() as pair:
        pair.proxy.close()
        pair.proxy.close()
        with pytest.raises(ConnectionResetError):
            pair.near.recv(1)
