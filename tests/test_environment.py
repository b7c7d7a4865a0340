"""The environment in which tasks run: what they would otherwise have to agree on."""

from __future__ import annotations

import os

import pytest

import treadle
from treadle import Client, LocalCluster
from treadle.environment import for_tasks


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("OMP_NUM_THREADS", None, "1"),
        ("OMP_NUM_THREADS", "", ""),
        ("OMP_NUM_THREADS", "3", "3"),
        ("PYTHONHASHSEED", None, "1789"),
        ("PYTHONHASHSEED", "random", "1789"),
        ("PYTHONHASHSEED", "3", "3"),
    ],
)
def test_what_is_not_said_is_filled_in(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str | None, found: str
) -> None:
    if given is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, given)
    assert for_tasks()[name] == found


def test_processes_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    graph = {"x": (os.getenv, "OMP_NUM_THREADS"), "y": (str, "x")}
    assert treadle.get(graph, "y", scheduler="processes") == "1"
    with LocalCluster(1, 1) as cluster, Client(cluster) as client:
        assert client.get(graph, "y") == "1"
    assert "OMP_NUM_THREADS" not in os.environ
