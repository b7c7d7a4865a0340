"""The ``treadle`` command, as its users meet it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import treadle
from treadle import cli
from treadle.demo import command
from treadle.demo.run import Timed, one_by_one
from treadle.demo.source import Source


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with two good files and a bad one; the current directory is beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "project"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "one.py").write_text("import os\n\ndef shout(word):\n    return word.upper()\n")
    (folder / "two.py").write_text("import os, re\n\nclass Two:\n    pass\n")
    (folder / "broken.py").write_text("def broken(:\n")
    return folder


def treadle_command(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def test_version() -> None:
    result = treadle_command("--version")
    assert result.exit_code == 0
    assert result.output == f"treadle, version {treadle.__version__}\n"


@pytest.mark.parametrize(
    "command_line", [["--help"], ["info", "--help"], ["demo", "-h"], ["scheduler", "-h"], ["worker", "--help"]]
)
def test_help_has_examples(command_line: list[str]) -> None:
    result = treadle_command(*command_line)
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert max(map(len, result.output.splitlines())) <= 100


def facts(**environment: str) -> dict[str, str]:
    result = CliRunner().invoke(cli.main, ["info"], env={"TREADLE_SCHEDULER": None, **environment})
    assert result.exit_code == 0
    return {line[:20].strip(): line[20:].strip() for line in result.output.splitlines()}


def test_info_says_what_is_here() -> None:
    found = facts(TREADLE_NUM_WORKERS="3")
    assert found["treadle"] == treadle.__version__
    assert found["python"].startswith(sys.version.split()[0])
    assert found["usable cores"] == str(treadle.config.cpu_count())
    assert found["default scheduler"] == "threads"
    assert found["default workers"] == "3"
    assert set(found) >= {"platform", "graphviz (package)", "dot (program)", "msgspec", "uvloop", "dask", "numpy"}


def test_info_reports_the_scheduler_of_the_environment() -> None:
    assert facts(TREADLE_SCHEDULER="processes")["default scheduler"] == "processes"


def test_info_says_whether_the_core_is_compiled() -> None:
    from treadle.graph import plan

    core = facts()["core"]
    if str(plan.__file__).endswith(".py"):
        assert core == "interpreted (no module is compiled)"
    else:
        assert core.startswith("compiled (")
        assert "graph.plan" in core


def test_info_finds_compiled_modules_by_their_files(tmp_path: Path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    (tmp_path / "deep").mkdir()
    for name in ("plain.py", "deep/__init__.py", "deep/both.py", "deep/both", "fast"):
        path = tmp_path / name
        (path if name.endswith(".py") else path.with_name(path.name + EXTENSION_SUFFIXES[0])).touch()
    assert sorted(cli._compiled([str(tmp_path)], "app.")) == ["app.deep.both", "app.fast"]


def test_info_names_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli._version_of("no-such-package-as-this") == "not installed"
    monkeypatch.setattr(cli, "_version_of", lambda package: "not installed")
    assert facts()["uvloop"] == "not installed: clusters use asyncio's own event loop, which is slower"


def test_a_wrong_setting_in_the_environment_is_explained() -> None:
    for command_line in (["info"], ["demo", os.path.dirname(__file__), "--no-timeline"]):
        result = CliRunner().invoke(cli.main, command_line, env={"TREADLE_NUM_WORKERS": "many"})
        assert result.exit_code == 1
        assert result.output.splitlines()[-1] == "Error: TREADLE_NUM_WORKERS must be a whole number, not 'many'"


def test_demo_surveys_a_tree_checks_it_and_writes_the_timeline(project: Path) -> None:
    result = treadle_command("demo", "project", "--scheduler", "threads", "--workers", "2")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "Surveying project: 3 files, 0.0 MB, with threads × 2" in lines
    assert any(line.startswith("pkg 1 4 1 0 os 2") for line in lines)
    assert any(line.startswith("total 2 8 1 1") for line in lines)
    assert "shout pkg/one.py:3 2" in lines
    assert "Left out: 1 file that could not be read, decoded or parsed" in lines
    assert any(line.startswith("broken.py line 1: ") for line in lines)
    assert "Checked: Treadle and the plain loop came to exactly the same report." in lines
    assert "Timeline of the run: treadle-timeline.html" in lines
    assert "analyze_group" in (project.parent / "treadle-timeline.html").read_text()


@pytest.mark.parametrize("width", ["80", "120"])
def test_tables_fit_the_terminal(project: Path, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for number in range(12):
        (project / f"a_module_with_quite_a_long_name_{number}.py").write_text("def f():\n    pass\n" * 9)
    result = treadle_command("demo", "project", "--scheduler", "sync", "--no-timeline", "--top", "10")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= int(width)
    assert "4 others" in result.output


def test_demo_without_check_and_timeline(project: Path) -> None:
    result = treadle_command("demo", "project", "--scheduler", "sync", "--no-check", "--no-timeline")
    assert result.exit_code == 0
    assert "not checked against a plain loop" in result.output
    assert "Timeline" not in result.output
    assert [each.name for each in project.parent.iterdir()] == ["project"]


def test_names_with_brackets_are_printed_as_they_are(project: Path) -> None:
    (project / "[bold]broken.py").write_text("(")
    result = treadle_command("demo", "project", "--scheduler", "sync", "--no-timeline")
    assert "[bold]broken.py" in result.output


def test_a_tree_without_one_usable_file_is_still_reported(project: Path) -> None:
    result = treadle_command("demo", "project/broken.py", "--scheduler", "sync", "--no-timeline")
    assert result.exit_code == 0
    assert "Left out: 1 file" in result.output


def test_demo_fails_if_the_loop_comes_to_something_else(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(sources: list[Source], limit: int) -> Timed:
        report, seconds = one_by_one(sources, limit)
        return Timed(replace(report, imports=report.imports + Counter({f"m{n}": 1 for n in range(30)})), seconds)

    monkeypatch.setattr(command, "one_by_one", wrong)
    result = treadle_command("demo", "project", "--scheduler", "sync", "--no-timeline")
    assert result.exit_code == 1
    assert "Treadle and the plain loop differ in 30 places:" in result.output
    assert "imports['m0']: None against 1" in result.output
    assert "… and 10 more" in result.output


def test_a_timeline_that_cannot_be_written_is_an_error_after_the_report(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(profiler: treadle.Profiler, path: str) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(treadle.Profiler, "timeline", full)
    result = treadle_command("demo", "project", "--scheduler", "sync")
    assert result.exit_code == 1
    assert "exactly the same report" in result.output
    assert "'treadle-timeline.html': No space left on device" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no file or directory 'nowhere'"),
        (["project", "empty"], "there is no Python file (.py) in 'empty'"),
        (["--workers", "0", "project"], "Invalid value for '--workers'"),
        (["--scheduler", "magic", "project"], "'magic' is not one of"),
        (["--timeline", "no/such/page.html", "project"], "there is no directory 'no/such'"),
        (["--timeline", "empty", "project"], "'empty' is a directory"),
    ],
)
def test_wrong_arguments_are_named(project: Path, arguments: list[str], message: str) -> None:
    (project.parent / "empty").mkdir()
    result = treadle_command("demo", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_demo_needs_at_least_two_workers_because_it_kills_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_NUM_WORKERS", "1")
    names = []
    for scheduler, workers in (("cluster", None), ("cluster", 1), ("processes", None), ("sync", None)):
        with cli._runner(scheduler, workers, None, None) as runner:
            names.append(runner.name)
    assert names == ["a cluster of 2 workers", "a cluster of 1 worker", "processes × 1", "sync"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "here:1", "--workers", "2"], "--workers and --address exclude each other"),
        (["--address", "here:1", "--scheduler", "sync"], "--scheduler and --address exclude each other"),
        (["--token-file", "token"], "--token-file belongs to --address"),
    ],
)
def test_what_does_not_go_together_is_refused(project: Path, arguments: list[str], message: str) -> None:
    result = treadle_command("demo", "project", "--no-timeline", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_python_m_treadle_is_the_command(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import os\n")
    page = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "demo", str(tmp_path), "--scheduler", "processes", "--timeline", str(page)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "with processes × " in done.stdout
    assert "exactly the same report" in done.stdout
    assert f"Timeline of the run: {page}" in done.stdout
    assert "Traceback" not in done.stderr


def test_heavy_parts_are_imported_by_the_commands_that_need_them() -> None:
    heavy = {"asyncio", "cloudpickle", "numpy", "rich", "treadle.demo"}
    code = f"import sys, treadle.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
