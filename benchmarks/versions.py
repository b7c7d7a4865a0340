"""Benchmarks 2 to 5 against another version of Treadle: has it become faster, or slower?

Both versions are built from the checkout, compiled, and take turns in one run, each with a cluster of 2 worker
processes of 1 thread. A ratio above 1 says that the version here is faster. What two runs of the same version differ by
is printed as well.

    python benchmarks/versions.py [REVISION] [--rounds 5] [--quick]
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cluster_contest import Call, Contest, timing
from cluster_peers import Treadle

ROOT = Path(__file__).resolve().parent.parent

#: What is run: the method of a contestant, what it is given, in a quick run too, and how many tasks that is.
CASES: dict[str, tuple[str, int, int, Callable[[int], int]]] = {
    "map + wait, 10k": ("map_wait", 10_000, 2_000, lambda size: size),
    "map + gather, 10k": ("map_gather", 10_000, 2_000, lambda size: size),
    "tree-13": ("tree", 1 << 12, 1 << 10, lambda size: 2 * size - 1),
    "merge-10k": ("merge", 10_000, 2_000, lambda size: size + 1),
    "submit -> result, p50": ("latency", 300, 100, lambda size: 1),
}


def build(revision: str | None, into: Path) -> Path:
    """Compile a revision, or the files that are here; returns what to put on the import path."""
    listed = subprocess.run(
        ["git", "archive", revision or "HEAD", "src", "setup.py", "pyproject.toml", "LICENSE", "README.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(listed.stdout)) as archive:
        archive.extractall(into, filter="data")
    if revision is None:
        subprocess.run(["cp", "-r", "src", "setup.py", "pyproject.toml", str(into)], cwd=ROOT, check=True)
        for library in into.rglob("*.so"):
            library.unlink()
    subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=into, capture_output=True, check=True)
    return into / "src"


def start(path: Path) -> Any:
    """A cluster of the version at ``path``, in a process that has not imported Treadle yet."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(path), str(Path(__file__).parent)])
    sys.path.insert(0, str(path))
    return Treadle()


def reduced(result: Any) -> float:
    return statistics.median(result) if isinstance(result, list) else float(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "revision", nargs="?", default="HEAD", help="the version to compare with: a commit, a tag (default HEAD)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds count (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of less, to see that all works")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as directory:
        print(f"building {arguments.revision} and what is here", flush=True)
        there = build(arguments.revision, Path(directory, "there"))
        here = build(None, Path(directory, "here"))
        print(f"microseconds per task, median (spread) of {2 * rounds} runs each; 'same' is here against here\n")
        factories: dict[str, Callable[[], Any]] = {"there": partial(start, there), "here": partial(start, here)}
        with Contest(factories, background=False) as contest:
            for name, (method, size, quick_size, tasks) in CASES.items():
                amount = quick_size if arguments.quick else size
                calls = {label: Call(label.split()[0], method, (amount,)) for label in ("there", "here", "here again")}
                results = contest.turns(calls, 2 * rounds)
                seconds = {label: [reduced(each) for each in values] for label, values in results.items()}
                ratios = [a / b for a, b in zip(seconds["there"], seconds["here"])]
                same = [a / b for a, b in zip(seconds["here again"], seconds["here"])]
                print(name)
                for label in ("there", "here"):
                    print(f"  {label:6}{timing(seconds[label]).per(tasks(amount)):>32}")
                print(
                    f"  there / here {statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f}), "
                    f"same {statistics.median(same):.3f} ({min(same):.2f}-{max(same):.2f})\n",
                    flush=True,
                )


if __name__ == "__main__":
    main()
