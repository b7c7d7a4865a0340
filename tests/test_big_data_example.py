"""The worked example on big data, with little data: all of its steps run, and equal what pandas and NumPy compute."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import treadle

EXAMPLE = Path(__file__).parent.parent / "examples" / "big_data"

STEPS = [
    "scan: share of tips",
    "group-by: zone and hour",
    "join and group-by: borough",
    "parse, group-by: day, payment",
    "group-by, join: drivers",
    "mean and deviation in time",
    "extremes and means in space",
    "histogram",
    "failures by path",
    "fold: bytes by status",
]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(treadle.__file__).parent.parent), "NO_COLOR": "1"}
    command = [sys.executable, str(EXAMPLE), "--directory", str(folder), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def test_every_step_is_equal(tmp_path: Path) -> None:
    done = run(tmp_path, "--size", "2MB")
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"│ [\w ]+ │ ([\w:, -]+?) +│.*│ (\w+) +│", done.stdout))
    assert rows == dict.fromkeys(STEPS, "yes")
    assert "A worker had" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bad_size_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--size", "1TB")
    assert done.returncode == 2
    assert "'1TB' is no size; write it like 1GB or 20MB" in done.stderr
