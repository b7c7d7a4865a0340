"""A graph of a million trivial tasks on threads: time, and memory beyond the graph itself.

Each size runs in a fresh process. Memory is the peak of the resident set while ``get`` runs, less what the process
held when the graph had been built.

    python benchmarks/million.py
"""

from __future__ import annotations

import subprocess
import sys

from rounds import banner, verdict

SIZES = (125_000, 250_000, 500_000, 1_000_000)

CHILD = """
import gc, resource, sys, time
import treadle.threaded

def increment(x):
    return x + 1

shape, count = sys.argv[1], int(sys.argv[2])
if shape == "flat":
    graph = {i: (increment, -1) for i in range(count)}
    keys = list(graph)
else:
    graph = {0: (increment, -1)}
    graph.update((i, (increment, i - 1)) for i in range(1, count))
    keys = count - 1
treadle.threaded.get({"a": (increment, 1)}, "a")
gc.collect()
with open("/proc/self/statm") as f:
    before = int(f.read().split()[1]) * resource.getpagesize()
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # from now on VmHWM is the peak of the run alone
started = time.perf_counter()
result = treadle.threaded.get(graph, keys)
seconds = time.perf_counter() - started
with open("/proc/self/status") as f:
    peak = next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
assert len(result) == count if shape == "flat" else result == count - 1
print((peak - before) / count, seconds / count * 1e6)
"""


def main() -> None:
    banner("Trivial tasks on threads; bytes per task are beyond the graph itself")
    worst = 0.0
    for shape in ("flat", "chain"):
        for count in SIZES:
            line = subprocess.check_output([sys.executable, "-c", CHILD, shape, str(count)], text=True)
            nbytes, microseconds = map(float, line.split())
            worst = max(worst, nbytes)
            print(f"{shape:6} {count:>9} tasks {nbytes:8.0f} bytes per task {microseconds:8.2f} us per task")
    print()
    verdict("bytes per task, the worst of these", worst, 1024, at_least=False)


if __name__ == "__main__":
    main()
