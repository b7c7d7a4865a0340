"""What clients, clusters and futures look like in a terminal and in a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from client_parts import FakeCluster

from treadle import Client, LocalCluster
from treadle.html import card, table
from treadle.testing.tasks import Boom, inc
from treadle.wire.failures import pack_error

VOID = {"br", "hr", "img", "input", "link", "meta"}


class Checker(HTMLParser):
    """Reads HTML whose elements are closed in their order, and that refers to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {*VOID, "script", "style", "iframe"}
        assert not {name for name, _ in attrs} & {"src", "href", "class", "id", "onclick"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def text_of(thing: Any) -> str:
    html = thing if isinstance(thing, str) else thing._repr_html_()
    # Colours are those of the page around it.
    assert not re.search(r"#[0-9a-f]{3}|\brgb|white|black|url\(", html)
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return re.sub(r"\s+", " ", checker.text).strip()


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    fake = FakeCluster()
    yield fake
    fake.close()


def test_everything_is_escaped() -> None:
    shown = card("<b>", "a & b", {"<i>": "<script>"}, table("<u>", ["<c>"], [["<d>"]]))
    assert text_of(shown) == "<b> a & b <i> <script> <u> <c> <d>"


def test_a_client_and_its_cluster() -> None:
    with LocalCluster(2, 1, memory_limit="1GB", name="show") as cluster:
        with Client(cluster, set_as_default=False, name="me") as client:
            future = client.submit(inc, 1)
            shown = text_of(client)
            assert shown.startswith(f"Client {client._name} open Scheduler {cluster.address} Keys in use 1 Workers 2")
            assert "show-0" in shown
            assert "1.0 GB" in shown
            assert repr(client) == f"<Client {client._name!r} of {cluster.address}, 1 keys, open>"
            assert future.result() == 2
        assert text_of(client).startswith(f"Client {client._name} closed")
        shown = text_of(cluster)
        assert shown.startswith(
            f"LocalCluster show running Scheduler {cluster.address} Workers 2 of 2 Threads of each 1"
        )
        assert str(cluster.workers[1].pid) in shown
    assert text_of(cluster).startswith("LocalCluster show closed")


def test_a_scheduler_that_does_not_answer(fake: FakeCluster) -> None:
    with fake.client() as client:
        assert "open, but its scheduler does not answer" in text_of(client)


def test_futures(fake: FakeCluster) -> None:
    with fake.client() as client:
        key = "<k&y>"
        future, bad = client.submit(inc, 1, key=key), client.submit(inc, 1, key="bad")
        assert text_of(future) == "Future pending Key <k&y>"
        assert repr(future) == "<Future '<k&y>' pending>"
        fake.done(key, value=2)
        fake.send(("failed", [("bad", "bad", pack_error(Boom("<&>")))]))
        assert future.result() == 2
        assert isinstance(bad.exception(), Boom)
        assert text_of(future) == "Future finished Key <k&y> Type int"
        assert text_of(bad).startswith("Future error Key bad Error Boom: <&>")
        assert repr(future) == "<Future '<k&y>' finished int>"


def test_an_asynchronous_client(fake: FakeCluster) -> None:
    client = Client(fake, asynchronous=True)
    assert text_of(client) == f"Client {client._name} not connected"
    assert repr(client) == f"<Client {client._name!r}, not connected>"
