"""Settings, names of schedulers, and keyword arguments."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import treadle
import treadle.multiprocessing
import treadle.sync
import treadle.threaded
from treadle import config
from treadle.config import ConfigError
from treadle.errors import UserError
from treadle.scheduling import SchedulerError
from treadle.testing.tasks import Boom, Recorder, boom, inc

GRAPH = {"a": (inc, 1), "b": (inc, "a"), "c": (inc, "a")}

GETS = [treadle.get, treadle.sync.get, treadle.threaded.get, treadle.multiprocessing.get]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TREADLE_SCHEDULER", raising=False)
    monkeypatch.delenv("TREADLE_NUM_WORKERS", raising=False)


def seen(**options: Any) -> tuple[str, int]:
    recorder = Recorder()
    assert treadle.get(GRAPH, ["b", "c"], callbacks=[recorder], **options) == [3, 3]
    assert recorder.info is not None
    return recorder.info.scheduler, recorder.info.num_workers


def test_defaults() -> None:
    assert seen() == ("threads", config.cpu_count())
    assert config.get("scheduler") is config.get("num_workers") is config.get("pool") is None
    assert 1 <= config.cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sync", "sync"),
        ("synchronous", "sync"),
        ("single-threaded", "sync"),
        ("threads", "threads"),
        ("threaded", "threads"),
        ("threading", "threads"),
        ("processes", "processes"),
        ("multiprocessing", "processes"),
    ],
)
def test_names_of_schedulers(name: str, kind: str) -> None:
    assert seen(scheduler=name, num_workers=2) == (kind, 1 if kind == "sync" else 2)


def test_set_for_a_block() -> None:
    with config.set(scheduler="sync"):
        assert seen() == ("sync", 1)
        with config.set(scheduler="threads", num_workers=3) as settings:
            assert (settings["scheduler"], settings["num_workers"]) == ("threads", 3)
            assert seen() == ("threads", 3)
            assert seen(num_workers=1) == ("threads", 1)
            assert seen(scheduler="sync") == ("sync", 1)
        assert seen() == ("sync", 1)
        assert config.get("num_workers") is None
    assert seen() == ("threads", config.cpu_count())


def test_set_for_good() -> None:
    config.set(num_workers=3)
    try:
        assert seen() == ("threads", 3)
    finally:
        config.set(num_workers=None)
    assert seen() == ("threads", config.cpu_count())


def test_set_is_undone_after_an_exception() -> None:
    with pytest.raises(Boom), config.set(num_workers=3):
        boom()
    assert config.get("num_workers") is None


def test_settings_are_seen_by_other_threads() -> None:
    found: list[tuple[str, int]] = []
    with config.set(num_workers=3):
        thread = threading.Thread(target=lambda: found.append(seen()))
        thread.start()
        thread.join()
    assert found == [("threads", 3)]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_NUM_WORKERS", "5")
    assert seen() == ("threads", 5)
    monkeypatch.setenv("TREADLE_SCHEDULER", "sync")
    assert seen() == ("sync", 1)
    with config.set(scheduler="threads", num_workers=2):
        assert seen() == ("threads", 2)
    monkeypatch.setenv("TREADLE_SCHEDULER", "")
    monkeypatch.setenv("TREADLE_NUM_WORKERS", "")
    assert seen() == ("threads", config.cpu_count())


@pytest.mark.parametrize("text", ["many", "0", "-1", "2.5"])
def test_wrong_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TREADLE_NUM_WORKERS", text)
    with pytest.raises(ConfigError, match="whole number"):
        treadle.get(GRAPH, "b")


def test_an_unknown_scheduler_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_SCHEDULER", "tractor")
    with pytest.raises(SchedulerError, match="there is no scheduler 'tractor'"):
        treadle.get(GRAPH, "b")


@pytest.mark.parametrize("value", [0, -3, 2.0, "4", True, [2]], ids=repr)
def test_wrong_numbers_of_workers(value: Any) -> None:
    for use in (lambda: config.set(num_workers=value), lambda: treadle.get(GRAPH, "b", num_workers=value)):
        with pytest.raises(ConfigError, match="num_workers must be a whole number of at least 1, not") as caught:
            use()
        assert isinstance(caught.value, UserError)
        assert isinstance(caught.value, ValueError)
    assert config.get("num_workers") is None


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match="there is no setting 'workers'; there are: num_workers, pool, scheduler"):
        config.set(workers=3)
    with pytest.raises(ConfigError, match="there is no setting 'workers'"):
        config.get("workers")
    assert repr(config.set(pool=None)) == "<treadle.config.set {'pool': None}>"


def test_unknown_schedulers() -> None:
    with pytest.raises(SchedulerError, match=r"there is no scheduler 'thread'; there are 'threads'") as caught:
        treadle.get(GRAPH, "b", "thread")
    assert isinstance(caught.value, UserError)


# Other people's schedulers


def test_a_function_as_the_scheduler() -> None:
    calls: list[Any] = []

    def mine(graph: Any, keys: Any, **options: Any) -> str:
        calls.append((graph, keys, options))
        return "mine"

    assert treadle.get(GRAPH, "b", mine) == "mine"
    with config.set(scheduler=mine):
        assert treadle.get(GRAPH, ["b"], num_workers=3, anything=True) == "mine"
    assert calls == [(GRAPH, "b", {}), (GRAPH, ["b"], {"num_workers": 3, "anything": True})]


@pytest.mark.parametrize("get", GETS[1:])
def test_our_own_functions_as_the_scheduler(get: Callable[..., Any]) -> None:
    recorder = Recorder()
    assert treadle.get(GRAPH, "b", get, callbacks=[recorder]) == 3
    assert recorder.keys("after") == ["a", "b"]
    with pytest.raises(Boom, match="1") as caught:
        treadle.get({"a": (boom, 1)}, "a", get)
    names = []
    traceback = caught.value.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[1:] == ["get", "get", "boom"]


# Keyword arguments


@pytest.mark.parametrize("get", GETS)
def test_what_dask_hands_to_every_scheduler(get: Callable[..., Any]) -> None:
    assert (
        get(GRAPH, "b", cache=None, optimize_graph=True, rerun_exceptions_locally=False, workers="alice", bogus=1) == 3
    )


@pytest.mark.parametrize("get", GETS)
@pytest.mark.parametrize(
    ("word", "meant"), [("num_worker", "num_workers"), ("n_workers", "num_workers"), ("callback", "callbacks")]
)
def test_misspelt_keywords(get: Callable[..., Any], word: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{word}'\. Did you mean '{meant}'\?"):
        get(GRAPH, "b", **{word: 2})


@pytest.mark.parametrize("get", GETS)
def test_common_keywords(get: Callable[..., Any]) -> None:
    recorder = Recorder()
    assert get(GRAPH, "b", num_workers=2, pool=None, callbacks=[recorder]) == 3
    assert recorder.keys("after") == ["a", "b"]
