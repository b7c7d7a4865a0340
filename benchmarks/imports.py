"""Import time of ``treadle`` beside ``dask.delayed``, in fresh processes that take turns.

python benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from rounds import banner, verdict

ROUNDS = 15
CHILD = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
CONTESTANTS = ("treadle", "treadle; treadle.delayed", "dask.delayed")


def main() -> None:
    banner(f"Import time in milliseconds: median (spread) of {ROUNDS} fresh processes each", "dask")
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name in CONTESTANTS:
            seconds[name].append(float(subprocess.check_output([sys.executable, "-c", CHILD.format(name)])))
    for name, times in seconds.items():
        print(f"{name:26} {statistics.median(times) * 1e3:7.1f} ({min(times) * 1e3:.1f}-{max(times) * 1e3:.1f})")
    print()
    ratio = statistics.median(seconds["treadle"]) / statistics.median(seconds["dask.delayed"])
    verdict("import treadle / import dask.delayed", ratio, 0.25, at_least=False)


if __name__ == "__main__":
    main()
