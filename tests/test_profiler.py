"""Profiles: what is recorded, and that the timeline page holds it and nothing else."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import treadle
from treadle.callbacks import RunInfo, TaskRecord
from treadle.diagnostics.profiler import ProfiledRun, Profiler, ProfilerError
from treadle.diagnostics.timeline import TICK
from treadle.errors import UserError

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"


def increment(value: int) -> int:
    return value + 1


def total(values: list[int]) -> int:
    return sum(values)


def fail(value: int) -> int:
    raise ValueError(HOSTILE)


def tree(count: int) -> dict[Any, Any]:
    graph: dict[Any, Any] = {("leaf", index): (increment, index) for index in range(count)}
    graph["root"] = (total, [("leaf", index) for index in range(count)])
    return graph


class Page(HTMLParser):
    """The elements of a page, with the text of its data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == ("script", {"type": "application/json", "id": "data"}) and not self.data:
            self.data = data


def sums(values: list[int]) -> list[int]:
    result: list[int] = []
    for value in values:
        result.append(value + (result[-1] if result else 0))
    return result


def decode(columns: dict[str, Any]) -> list[TaskRecord]:
    """The records as the page reads them; times are ticks on its axis."""
    last: dict[int, str] = {}
    records = []
    for index, start in enumerate(sums(columns["start"])):
        function = columns["function"][index]
        key = last[function] = last.get(function, "")[: columns["shared"][index]] + columns["key"][index]
        name = columns["functions"][function][0]
        worker = columns["workers"][columns["worker"][index]]
        live = sum(columns["live"][: index + 1])
        records.append(TaskRecord(key, name, worker, start, start + columns["length"][index], live))
    return records


def timeline(profile: Profiler, folder: Path) -> dict[str, Any]:
    columns: dict[str, Any] = json.loads(Page(profile.timeline(folder / "x.html")).data)
    return columns


def record(
    key: object, start: float, stop: float, *, name: str = "f", worker: str = "sync", live: int = 1
) -> TaskRecord:
    return TaskRecord(key, name, worker, start, stop, live)


def run(start: float, stop: float | None, total: int = 1) -> ProfiledRun:
    return ProfiledRun(RunInfo(total, ["f"] * total, "threads", 2), start, stop)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_every_task_is_recorded(scheduler: str) -> None:
    before = time.perf_counter()
    with Profiler() as profile:
        assert treadle.get(tree(30), "root", scheduler) == sum(range(31))
    after = time.perf_counter()
    assert {entry.key for entry in profile.records} == set(tree(30))
    assert len(profile.records) == 31
    assert all(before <= entry.started <= entry.stopped <= after for entry in profile.records)
    assert profile.records[-1].name == "total"
    (only,) = profile.runs
    assert only.info.total == 31
    assert only.info.scheduler == scheduler
    assert only.stopped is not None
    assert before <= only.started <= only.stopped <= after
    assert profile.error is None
    assert repr(profile) == "<Profiler: 31 tasks in 1 run>"


def test_the_summary_counts_and_times_by_function() -> None:
    profile = Profiler()
    profile.records += [record("a", 0, 1), record("b", 1, 4), record("c", 0, 0.5, name="quick")]
    summary = profile.summary()
    assert [row.name for row in summary] == ["f", "quick"]
    assert len(summary) == 2
    assert (summary["f"].count, summary["f"].total, summary["f"].mean, summary["f"].max) == (2, 4.0, 2.0, 3.0)
    assert repr(summary) == (
        "function  tasks   total    mean     max\n"
        "f             2  4.00 s  2.00 s  3.00 s\n"
        "quick         1  500 ms  500 ms  500 ms"
    )
    with pytest.raises(KeyError):
        summary["slow"]


def test_a_failed_run_keeps_what_was_done_and_its_error(tmp_path: Path) -> None:
    graph = {"a": (increment, 1), "b": (fail, "a")}
    with Profiler() as profile:
        with pytest.raises(ValueError, match="onerror") as caught:
            treadle.get(graph, "b", "sync")
        treadle.get({"c": (increment, 1)}, "c", "sync")
    assert profile.error is caught.value
    assert [entry.key for entry in profile.records] == ["a", "c"]
    columns = timeline(profile, tmp_path)
    assert [entry["error"] for entry in columns["runs"]] == [f"ValueError: {HOSTILE}", None]


def test_a_run_without_any_record_has_a_page(tmp_path: Path) -> None:
    with Profiler() as profile, pytest.raises(ValueError, match="onerror"):
        treadle.get({"b": (fail, 1)}, "b")
    columns = timeline(profile, tmp_path)
    assert columns["start"] == columns["key"] == columns["workers"] == []
    assert len(profile.summary()) == 0


def test_it_goes_on_recording_until_cleared() -> None:
    profile = Profiler()
    for _ in range(2):
        with profile:
            treadle.get(tree(3), "root")
    assert (len(profile.records), len(profile.runs)) == (8, 2)
    profile.clear()
    assert (len(profile.records), len(profile.runs), profile.error) == (0, 0, None)


def test_the_page_holds_the_records(tmp_path: Path) -> None:
    with Profiler() as profile:
        treadle.get(tree(50), "root", "threads", num_workers=3)
    columns = timeline(profile, tmp_path)
    started = profile.runs[0].started
    wanted = sorted(profile.records, key=lambda entry: entry.started)
    shown = decode(columns)
    for there, here in zip(shown, wanted, strict=True):
        assert there.key == (here.key if isinstance(here.key, str) else repr(here.key))
        assert (there.name, there.worker, there.live) == (here.name, here.worker, here.live)
        assert there.started == pytest.approx((here.started - started) / TICK, abs=1)
        assert there.stopped == pytest.approx((here.stopped - started) / TICK, abs=1)
    assert {name: count for name, count, _, _ in columns["functions"]} == {"increment": 50, "total": 1}
    assert columns["runs"][0]["workers"] == 3
    assert columns["runs"][0]["total"] == 51


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    with Profiler() as profile:
        treadle.get(tree(5), "root")
    page = Page(profile.timeline(tmp_path / "x.html"))
    assert re.search(r"https?:|@import|url\(", page.text) is None
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "img")
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
    policies = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


def test_hostile_keys_stay_text(tmp_path: Path) -> None:
    keys = [HOSTILE, HOSTILE + "\u2028\ud800", ("<b>", 1), "\N{SNAKE}\N{SNAKE}", "\N{SNAKE}\N{SNAKE}\N{SNAKE}", b"<i>"]
    with Profiler() as profile:
        treadle.get(dict.fromkeys(keys, (increment, 1)), keys, "sync")
    page = Page(profile.timeline(tmp_path / "x.html"))
    shown = {entry.key for entry in decode(json.loads(page.data))}
    assert shown == {key if isinstance(key, str) else repr(key) for key in keys}
    assert "<" not in page.data
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "innerHTML" not in page.text


def test_long_keys_are_shortened(tmp_path: Path) -> None:
    profile = Profiler()
    profile.runs.append(run(0, 1))
    profile.records.append(record("head" + "x" * 5000 + "tail", 0, 1))
    (key,) = timeline(profile, tmp_path)["key"]
    assert len(key) == 160
    assert key.startswith("head")
    assert key.endswith("tail")


def test_pauses_between_runs_take_no_room(tmp_path: Path) -> None:
    profile = Profiler()
    profile.runs += [run(10, 12), run(1000, 1003), run(1002, 1004)]
    profile.records += [record("a", 10, 12), record("b", 1001, 1003), record("late", 1003.5, 1010)]
    columns = timeline(profile, tmp_path)
    second = round(1 / TICK)
    assert [(entry["start"], entry["stop"]) for entry in columns["runs"]] == [
        (0, 2 * second),
        (2 * second, 5 * second),
        (4 * second, 6 * second),
    ]
    assert [(entry.started, entry.stopped) for entry in decode(columns)] == [
        (0, 2 * second),
        (3 * second, 5 * second),
        (5.5 * second, 6 * second),
    ]


def test_a_run_that_goes_on_is_shown_so_far(tmp_path: Path) -> None:
    profile = Profiler()
    profile.runs.append(run(0, None))
    profile.records.append(record("a", 0, 2))
    assert timeline(profile, tmp_path)["runs"][0]["stop"] * TICK == pytest.approx(2)


def test_workers_are_in_natural_order(tmp_path: Path) -> None:
    profile = Profiler()
    profile.runs.append(run(0, 1))
    workers = ["thread-10", "thread-2", "process-3", "7", "thread-1", ""]
    profile.records += [record(worker, 0, 1, worker=worker) for worker in workers]
    assert timeline(profile, tmp_path)["workers"] == ["", "process-3", "thread-1", "thread-2", "thread-10", "7"]


def test_many_tasks_make_a_small_page(tmp_path: Path) -> None:
    profile = Profiler()
    profile.runs.append(run(0, 2))
    for index in range(20_000):
        key = ("join-0123456789abcdef0123456789abcdef", index // 100, index % 100)
        profile.records.append(record(key, index * 1e-4, index * 1e-4 + 9e-5, live=index % 50))
    assert profile.timeline(tmp_path / "x.html").stat().st_size < 700_000


def test_a_path_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Profiler() as profile:
        treadle.get(tree(2), "root")
    assert profile.timeline() == Path("treadle-timeline.html")
    assert (tmp_path / "treadle-timeline.html").is_file()
    assert profile.timeline(str(tmp_path / "y.html")) == tmp_path / "y.html"


def test_without_a_run_there_is_no_page(tmp_path: Path) -> None:
    with Profiler() as profile:
        pass
    with pytest.raises(ProfilerError, match="no run was recorded") as caught:
        profile.timeline(tmp_path / "x.html")
    assert isinstance(caught.value, UserError)
    assert not (tmp_path / "x.html").exists()


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with Profiler() as profile:
        treadle.get(tree(2), "root")
    with pytest.raises(FileNotFoundError, match=r"there is no directory: .*missing"):
        profile.timeline(tmp_path / "missing" / "x.html")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        profile.timeline(tmp_path)
