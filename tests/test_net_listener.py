"""Who comes in, who does not, and what both sides are told."""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

import pytest
from net_parts import LOOPS, TOKEN, Host, NewLoop, Record, dial_client, run

from treadle.errors import AddressInUseError, ConnectError, RefusedError, UserError
from treadle.net import listener as listeners
from treadle.net.dial import blocking_call
from treadle.wire.frames import encode_frame
from treadle.wire.handshake import Hello
from treadle.wire.messages import Died

pytestmark = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)


async def in_thread(func: Any, *args: Any, **kwargs: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(func, *args, **kwargs))


def plain(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), 30)


def has_ipv6() -> bool:
    """Whether this machine has the address ``::1``."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "", *["::1"][: has_ipv6()]])
def test_hosts(new_loop: NewLoop, host: str) -> None:
    async def main() -> None:
        listening = await Host.open(host)
        assert listening.listener.port > 0
        name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::1": "[::1]"}.get(host, host)
        ours = Record(await dial_client(f"{name}:{listening.listener.port}")).start()
        ours.link.send([("ask", 1, "echo", None)])
        await ours.until_messages(1)
        await listening.close(ours)

    run(new_loop, main())


def test_a_port_in_use(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        with pytest.raises(AddressInUseError, match=f"{host.address} is in use.*--port"):
            await Host.open("127.0.0.1", host.listener.port)
        await host.close()
        again = await Host.open("127.0.0.1", host.listener.port)
        await again.close()

    run(new_loop, main())


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no.such.host.invalid", "cannot listen on no.such.host.invalid: the host name is not known"),
        ("a..b", "cannot listen on a..b: the host name is not known"),
        ("192.0.2.1", "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
    ],
)
def test_where_one_cannot_listen(new_loop: NewLoop, host: str, reason: str) -> None:
    async def main() -> None:
        with pytest.raises(UserError, match=reason):
            await Host.open(host)

    run(new_loop, main())


def test_the_listener_gives_a_name_to_those_that_have_none(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        first, second = await host.dial(), await host.dial()
        assert first.link.ident.startswith("client-")
        assert first.link.ident != second.link.ident
        assert {record.link.ident for record in await host.links(2)} == {first.link.ident, second.link.ident}
        await host.close(first, second)

    run(new_loop, main())


def test_who_may_come_in_is_asked(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[Hello, str]] = []

    def admit(hello: Hello, peer: str) -> dict[str, Any]:
        asked.append((hello, peer))
        if hello.ident == "bad":
            raise RefusedError(f"{hello.ident} with Python {hello.python} at {peer} may not come in")
        return {"welcome": hello.ident}

    async def main() -> None:
        host = await Host.open()
        host.admit = admit
        with pytest.raises(RefusedError, match=rf"{host.address} refused this client: bad with Python 3\.\d+ at 127"):
            await host.dial("bad")
        good = await host.dial("good", details={"n": 1})
        assert good.link.details == {"welcome": "good"}
        assert [hello.ident for hello, _ in asked] == ["bad", "good"]
        assert asked[1][0].details == {"n": 1}
        assert asked[1][1] == good.link.local
        assert len(host.records) == 1
        await host.close(good)

    run(new_loop, main())
    assert "refused, because bad with Python" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"token": b"another"}, "the token is not that of this cluster.*TREADLE_TOKEN"),
        ({"token": b""}, "the token is not that of this cluster"),
        ({"role": "worker"}, "nobody comes here as 'worker', but as client, supervisor"),
    ],
)
def test_refusals(new_loop: NewLoop, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = await Host.open()
        with pytest.raises(RefusedError, match=reason):
            await host.dial(**options)
        assert host.records == []
        await host.close()

    run(new_loop, main())
    assert "refused, because" in caplog.text


def test_a_bug_in_who_may_come_in_is_logged(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    def admit(hello: Hello, peer: str) -> dict[str, Any]:
        raise ZeroDivisionError

    async def main() -> None:
        host = await Host.open()
        host.admit = admit
        with pytest.raises(ConnectError, match="it closed the connection during the handshake"):
            await host.dial()
        await host.close()

    run(new_loop, main())
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_in_taking_over_is_logged(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = await Host.open()
        host.listener._connected = lambda link: 1 / 0  # type: ignore[assignment]
        ours = await host.dial()
        await ours.until_closed()
        await host.close()

    run(new_loop, main())
    assert "could not be taken over" in caplog.text


def test_nobody_listens(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        await host.close()
        with pytest.raises(ConnectError) as caught:
            await dial_client(host.address, patience=0)
        assert caught.value.address == host.address
        assert str(caught.value) == (
            f"cannot connect to {host.address}: nobody listens there; is it running, and is the port right?"
        )

    run(new_loop, main())


def test_patience_with_somebody_who_listens_a_bit_later(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        await host.close()
        dialing = asyncio.ensure_future(dial_client(host.address, patience=30, timeout=60))
        done, _ = await asyncio.wait({dialing}, timeout=0.1)
        assert not done
        again = await Host.open("127.0.0.1", host.listener.port)
        await again.close(Record(await dialing).start())

    run(new_loop, main())


def test_unknown_names_and_bad_addresses(new_loop: NewLoop) -> None:
    async def main() -> None:
        with pytest.raises(ConnectError, match=r"no.such.host.invalid:1: the host name is not known"):
            await dial_client("no.such.host.invalid:1")
        with pytest.raises(UserError, match="is no address"):
            await dial_client("host:port")

    run(new_loop, main())


def test_somebody_who_never_speaks(new_loop: NewLoop) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(ConnectError, match=r"and then said nothing for 0\.05 s"):
                await dial_client(address, timeout=0.05)
            with pytest.raises(ConnectError, match=r"and then said nothing for 0\.05 s"):
                blocking_call(address, role="supervisor", ident="s", token=TOKEN, messages=[], timeout=0.05)

    run(new_loop, main())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what it sent is no frame"),
        (encode_frame([("welcome", "x", b"m" * 32, {})])[0], "what it sent is no part of a handshake"),
        (encode_frame([("challenge", 99, "i", b"n" * 16)])[0], "it speaks protocol 99, this side"),
        (b"\x00", "it closed the connection during the handshake"),
        (b"", "it closed the connection during the handshake"),
    ],
)
def test_somebody_who_is_no_peer(new_loop: NewLoop, said: Any, reason: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as stranger:

            def speak() -> None:
                for _ in range(2):
                    sock, _ = stranger.accept()
                    sock.sendall(bytes(said))
                    sock.close()

            speaking = asyncio.ensure_future(in_thread(speak))
            address = f"127.0.0.1:{stranger.getsockname()[1]}"
            with pytest.raises((ConnectError, RefusedError), match=reason):
                await dial_client(address)
            with pytest.raises((ConnectError, RefusedError), match=reason):
                await in_thread(blocking_call, address, role="supervisor", ident="s", token=TOKEN, messages=[])
            await speaking

    run(new_loop, main())


def test_a_blocking_call_says_it_and_returns(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        messages = [("died", "w", number, -9, [7], "host", "log" * 10_000) for number in range(50)]
        await in_thread(blocking_call, host.address, role="supervisor", ident="s", token=TOKEN, messages=messages)
        [theirs] = host.records
        assert [message.pid for message in theirs.messages] == list(range(50))
        assert isinstance(theirs.messages[0], Died)
        assert theirs.link.closed
        with pytest.raises(RefusedError, match=f"{host.address} refused this supervisor: the token"):
            await in_thread(blocking_call, host.address, role="supervisor", ident="s", token=b"x", messages=messages)
        await host.close()
        with pytest.raises(ConnectError, match="nobody listens there"):
            await in_thread(blocking_call, host.address, role="supervisor", ident="s", token=TOKEN, messages=messages)

    run(new_loop, main())


def test_a_handshake_that_takes_too_long(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = await Host.open(timeout=0.05)
        sock = plain(host.address)
        assert await in_thread(sock.recv, 4096)  # the challenge
        assert await in_thread(sock.recv, 4096) == b""
        sock.close()
        await host.close()

    run(new_loop, main())
    assert "its handshake took more than 0.05 s" in caplog.text


def test_only_so_many_handshakes_at_once(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(listeners, "MAX_PENDING", 3)
        host = await Host.open()
        idle = [plain(host.address) for _ in range(10)]
        for sock in idle[:3]:
            assert await in_thread(sock.recv, 4096)
        assert repr(host.listener) == f"<Listener {host.address}, 3 in their handshakes>"
        for sock in idle:
            sock.close()
        ours = await host.dial()
        await host.close(ours)

    run(new_loop, main())


def test_closing_ends_the_handshakes_and_leaves_the_links(new_loop: NewLoop) -> None:
    async def main() -> None:
        host = await Host.open()
        ours = await host.dial()
        idle = plain(host.address)
        assert await in_thread(idle.recv, 4096)
        host.listener.close()
        host.listener.close()
        assert await in_thread(idle.recv, 4096) == b""
        idle.close()
        ours.link.send([("ask", 1, "echo", None)])
        await ours.until_messages(1)
        assert repr(host.listener) == f"<Listener {host.address}, closed>"
        await host.close(ours)

    run(new_loop, main())


class NoRoom:
    """A listening socket in a process that has no descriptors left."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.full = True

    def accept(self) -> Any:
        if self.full:
            raise OSError(24, "Too many open files")
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_without_descriptors_nobody_spins(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        monkeypatch.setattr(listeners, "_BREATHER", 0.01)
        host = await Host.open()
        room = NoRoom(host.listener._sock)
        host.listener._sock = room  # type: ignore[assignment]
        dialing = asyncio.ensure_future(host.dial())
        while not caplog.records:
            await asyncio.sleep(0)
        room.full = False
        await host.close(await dialing)

    run(new_loop, main())
    assert "no connection can be taken for a while: Too many open files" in caplog.text
