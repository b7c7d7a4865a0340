"""Count words in many files: a tree of tasks, on processes.

Run it with directories or files as arguments; without any it counts the words in the sources of the json package.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

from treadle import ProgressBar, delayed

#: How many counts one task merges.
FAN_IN = 8


def count(path: Path) -> Counter[str]:
    return Counter(re.findall(r"[a-z]{3,}", path.read_text(encoding="utf-8", errors="replace").lower()))


def merge(counts: list[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return total


def find(arguments: list[str]) -> list[Path]:
    places = [Path(argument) for argument in arguments] or [Path(json.__file__).parent]
    files: list[Path] = []
    for place in places:
        files.extend(sorted(path for path in place.rglob("*.py")) if place.is_dir() else [place])
    return files


def main(arguments: list[str]) -> None:
    parts = [delayed(count)(path) for path in find(arguments)]
    while len(parts) > 1:
        parts = [delayed(merge)(parts[start : start + FAN_IN]) for start in range(0, len(parts), FAN_IN)]
    with ProgressBar():
        total = parts[0].compute(scheduler="processes")
    for word, number in total.most_common(10):
        print(f"{number:6} {word}")


if __name__ == "__main__":
    main(sys.argv[1:])
