"""How a client finds its scheduler, and what it says if it does not."""

from __future__ import annotations

import asyncio
import pydoc
import socket
from collections.abc import Iterator

import pytest
from client_parts import FakeCluster

import treadle
from treadle import Client, Future
from treadle.errors import ConnectError, RefusedError, UserError
from treadle.wire import messages


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    fake = FakeCluster()
    yield fake
    fake.close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_nobody_listens(nobody: str) -> None:
    with pytest.raises(ConnectError) as caught:
        Client(nobody, timeout=0.1)
    assert caught.value.address == nobody
    assert nobody in str(caught.value)

    async def main() -> None:
        client = Client(nobody, asynchronous=True, timeout=0.1)
        with pytest.raises(ConnectError, match=nobody):
            await client
        with pytest.raises(UserError, match="closed"):
            client.submit(abs, 1)

    asyncio.run(main())


def test_somebody_who_does_not_answer(nobody: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(ConnectError, match=address):
            Client(address, timeout=0.1)


def test_tokens(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(fake.address, token=fake.token.decode()) as client:
        assert client.address == fake.address
    monkeypatch.setenv("TREADLE_TOKEN", fake.token.decode())
    with Client(fake.address, name="mine") as client:
        assert repr(client).startswith("<Client 'mine-")
        assert repr(client).endswith(f"of {fake.address}, 0 keys, open>")
    with pytest.raises(RefusedError, match="token"):
        Client(fake.address, token=b"another one")


def test_what_is_no_address() -> None:
    with pytest.raises(TypeError, match="needs the address of a scheduler, host:port, or a cluster, not 3"):
        Client(3)
    with pytest.raises(UserError, match="is no address"):
        Client("127.0.0.1:port", token=b"x")


def test_a_client_that_has_lost_its_scheduler_is_not_replaced_by_threads(fake: FakeCluster) -> None:
    with Client(fake) as client:
        future = client.submit(abs, -1)
        fake.expect(messages.Submit)  # by now it knows its client
        fake.lose()
        with pytest.raises(ConnectError, match=fake.address):
            future.result()
        with pytest.raises(ConnectError, match=fake.address):
            treadle.get({"x": (abs, -1)}, "x")
    assert treadle.get({"x": (abs, -1)}, "x") == 1


def test_everything_can_be_documented() -> None:
    for thing in (Client, Future, treadle.as_completed):
        assert pydoc.render_doc(thing)
