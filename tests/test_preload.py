"""Modules that schedulers and workers import when they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle import Client, LocalCluster
from treadle.deploy.local import ClusterError
from treadle.errors import PreloadError
from treadle.preloading import Preloads
from treadle.testing.tasks import eventually

HOOKS = """
import os
from pathlib import Path

def note(word, target):
    with open({path!r}, "a") as file:
        file.write(f"{{word}} {{type(target).__name__}} {{target.address.rpartition(':')[0]}}\\n")

def treadle_setup(target):
    note("setup", target)

def treadle_teardown(target):
    note("teardown", target)
"""


def value_of(module: str, name: str) -> object:
    return getattr(sys.modules[module], name)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    path = tmp_path / "preloaded_hooks.py"
    path.write_text(HOOKS.format(path=str(tmp_path / "notes")))
    return path


def test_workers_of_a_local_cluster(hooks: Path, tmp_path: Path) -> None:
    (tmp_path / "preloaded_plain.py").write_text("answer = 42\n")
    names = [str(hooks), str(tmp_path / "preloaded_plain.py"), "json.tool"]
    with LocalCluster(n_workers=1, preload=names) as cluster, Client(cluster) as client:
        assert lines(tmp_path / "notes") == ["setup WorkerInfo 127.0.0.1"]
        assert client.submit(value_of, "preloaded_plain", "answer").result() == 42
        assert client.submit(value_of, "json.tool", "__name__").result() == "json.tool"
        cluster.kill_worker(0)
        cluster.wait_for_workers()
        assert lines(tmp_path / "notes") == ["setup WorkerInfo 127.0.0.1"] * 2
    assert lines(tmp_path / "notes")[2:] == ["teardown WorkerInfo 127.0.0.1"]


def test_the_scheduler_of_a_local_cluster(hooks: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, scheduler_preload=str(hooks)):
        assert lines(tmp_path / "notes") == ["setup SchedulerInfo 127.0.0.1"]
    assert lines(tmp_path / "notes")[1:] == ["teardown SchedulerInfo 127.0.0.1"]


def test_one_that_fails_keeps_workers_from_starting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "preloaded_badly.py"
    path.write_text("def treadle_setup(worker):\n    raise LookupError('no licence')\n")
    with pytest.raises(ClusterError, match=r"the preload '.*preloaded_badly\.py' failed: LookupError: no licence"):
        LocalCluster(n_workers=1, preload=str(path))
    assert "in treadle_setup" in capfd.readouterr().err


def test_one_that_fails_keeps_the_scheduler_from_starting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match="its scheduler is gone"):
        LocalCluster(n_workers=1, scheduler_preload="no_such_module")
    assert "the preload 'no_such_module' failed: ModuleNotFoundError" in capfd.readouterr().err


@pytest.fixture
def command() -> Iterator[object]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "treadle", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TREADLE_TOKEN": "secret"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_command_lines(command: object, hooks: Path, tmp_path: Path) -> None:
    assert callable(command)
    scheduler = command("scheduler", "--port", "0", "--preload", str(hooks))
    line = scheduler.stderr.readline()
    address = line.partition(" tcp ")[2].partition(",")[0]
    worker = command("worker", address, "--nthreads", "1", "--preload", str(hooks))
    notes = tmp_path / "notes"
    eventually(lambda: len(lines(notes)) == 2)
    assert lines(notes) == ["setup SchedulerInfo 127.0.0.1", "setup WorkerInfo 127.0.0.1"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(30) == 0
    assert lines(notes)[2:] == ["teardown WorkerInfo 127.0.0.1", "teardown SchedulerInfo 127.0.0.1"]


def test_a_scheduler_that_cannot_start_says_why(command: object) -> None:
    assert callable(command)
    scheduler = command("scheduler", "--port", "0", "--preload", "absent.py")
    _, err = scheduler.communicate(timeout=60)
    assert scheduler.returncode == 1
    assert "the preload 'absent.py' failed: FileNotFoundError: there is no file" in err


def test_names_that_are_taken(tmp_path: Path) -> None:
    (tmp_path / "logging.py").write_text("")
    with pytest.raises(PreloadError, match=r"a module named 'logging' is imported already.* rename the file"):
        Preloads([str(tmp_path / "logging.py")], None)


def test_all_are_torn_down_the_last_first(tmp_path: Path) -> None:
    names = []
    for number in (1, 2, 3):
        path = tmp_path / f"preloaded_{number}.py"
        ending = "raise LookupError('at the end')" if number == 2 else f"seen.append({number})"
        path.write_text(f"def treadle_teardown(seen):\n    {ending}\n")
        names.append(str(path))
    seen: list[int] = []
    preloads = Preloads(names, seen)
    preloads.setup()
    with pytest.raises(PreloadError, match="at the end"):
        preloads.teardown()
    assert seen == [3, 1]
    for number in (1, 2, 3):
        del sys.modules[f"preloaded_{number}"]
