"""Addresses as people write them."""

from __future__ import annotations

import pytest

from treadle.errors import UserError
from treadle.net.addresses import format_address, is_loopback, parse_address, peer_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8786", ("localhost", 8786)),
        ("10.1.2.3:0", ("10.1.2.3", 0)),
        ("example.org", ("example.org", 8786)),
        ("tcp://example.org:65535/", ("example.org", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", 8786)),
        ("::1", ("::1", 8786)),
        ("fe80::1:2", ("fe80::1:2", 8786)),
        (" host:1 ", ("host", 1)),
    ],
)
def test_addresses_that_can_be_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


def test_the_default_port() -> None:
    assert parse_address("host", 99) == ("host", 99)


@pytest.mark.parametrize(
    "text", ["", ":80", "host:", "host:x", "host:65536", "host:-1", "host:1.5", "[]:80", "host:٣", "a..b:1", "x" * 64]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match="is no address; write host:port"):
        parse_address(text)


def test_addresses_are_written_as_they_are_read() -> None:
    assert format_address("host", 1) == "host:1"
    assert format_address("::1", 1) == "[::1]:1"
    assert peer_address(("fe80::1%eth0", 5, 0, 2)) == "[fe80::1]:5"
    assert peer_address(("127.0.0.1", 5)) == "127.0.0.1:5"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)
