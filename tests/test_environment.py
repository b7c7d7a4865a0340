"""The environment in which tasks run: what they would otherwise have to agree on."""

from __future__ import annotations

import os

import pytest

import treadle
from treadle import Client, LocalCluster
from treadle.environment import for_tasks


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("", ""), ("3", "3")])
def test_tasks_calculate_with_one_thread(monkeypatch: pytest.MonkeyPatch, given: str | None, found: str) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert for_tasks()["OMP_NUM_THREADS"] == found


@pytest.mark.parametrize(("given", "found"), [(None, "1789"), ("random", "1789"), ("3", "3")])
def test_tasks_agree_on_hashes(monkeypatch: pytest.MonkeyPatch, given: str | None, found: str) -> None:
    if given is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", given)
    assert for_tasks()["PYTHONHASHSEED"] == found


def test_processes_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    graph = {"x": (os.getenv, "OMP_NUM_THREADS"), "y": (str, "x")}
    assert treadle.get(graph, "y", scheduler="processes") == "1"
    with LocalCluster(1, 1) as cluster, Client(cluster) as client:
        assert client.get(graph, "y") == "1"
    assert "OMP_NUM_THREADS" not in os.environ
