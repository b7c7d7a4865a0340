"""Where each second goes of an array of Dask's on a cluster of 2 worker processes of 1 thread: (x + x.T).sum().

Its 173,364 tasks (``--size 200``) are followed from the first line of the program to its value. At every moment
the program is in exactly one phase, so the phases add up to the whole. Beside the seconds of each phase is what
the processes used of the CPU meanwhile: packing, for one, goes on while the scheduler reads what was packed before.
What is left of two cores is idle, or was used by others.

    python benchmarks/where_seconds_go.py [--size 200] [--rounds 3] [--program array_sum]
"""

from __future__ import annotations

import argparse
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from time import perf_counter
from typing import Any, Final
from unittest.mock import patch

import collection_programs as programs
import psutil
from rounds import banner

import treadle
from treadle.client import running
from treadle.client.graphs import Shipment
from treadle.integrations.dask import Scheduler

CORES: Final = 2

MAKE: Final = "Dask makes the collection"
OPTIMIZE: Final = "Dask optimizes it"
WRITE: Final = "Dask writes the graph"
READ: Final = "graph: read"
ORDER: Final = "graph: put into order"
PACK: Final = "tasks: pack"
SEND: Final = "tasks: send"
WAIT: Final = "wait for the cluster"
DROP: Final = "graph: take apart"
REST: Final = "the rest of get()"
GARBAGE: Final = "Python collects garbage"
PHASES: Final = [MAKE, OPTIMIZE, WRITE, READ, ORDER, PACK, SEND, WAIT, DROP, REST, GARBAGE]

ROLES: Final = ["client", "scheduler", "workers"]


class Meter:
    """Seconds by phase, and what each process used of the CPU meanwhile. It follows the thread that made it.

    :param processes: of each role.
    """

    def __init__(self, processes: dict[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._thread = threading.get_ident()
        self._phases: list[str] = []
        self._since = 0.0
        self._used: dict[str, float] = {}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.cpu = {phase: dict.fromkeys(ROLES, 0.0) for phase in PHASES}

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """A phase, which interrupts the one that it is in."""
        self.begin(phase)
        try:
            yield
        finally:
            self.end()

    def begin(self, phase: str) -> None:
        self._lap(phase)
        self._phases.append(phase)

    def end(self) -> None:
        self._lap(self._phases[-1])
        self._phases.pop()

    def _lap(self, cause: str) -> None:
        """:param cause: the phase that begins or ends."""
        now = perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        if cause != GARBAGE:  # it comes a thousand times, and asking takes longer than most of its turns
            used = self._cpu_seconds()
            if self._phases:
                for role, seconds in used.items():
                    self.cpu[self._phases[-1]][role] += seconds - self._used[role]
            self._used = used
        self._since = perf_counter()

    def _cpu_seconds(self) -> dict[str, float]:
        times = {role: [each.cpu_times() for each in group] for role, group in self._processes.items()}
        return {role: sum(each.user + each.system for each in group) for role, group in times.items()}

    def collected(self, moment: str, info: object) -> None:
        """For ``gc.callbacks``."""
        if threading.get_ident() == self._thread and self._phases:
            if moment == "start":
                self.begin(GARBAGE)
            else:
                self.end()


def metered(meter: Meter, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with meter.within(phase):
            return function(*args, **kwargs)

    return call


@contextmanager
def watching(meter: Meter) -> Iterator[None]:
    """Have the steps of :func:`treadle.client.running.compute` tell the meter."""
    drive = running._GraphRun.drive

    async def waiting(run: running._GraphRun, options: Any) -> Any:
        with meter.within(WAIT):
            return await drive(run, options)

    steps: list[tuple[Any, str, str]] = [
        (Scheduler, "get", REST),
        (running, "as_dict", WRITE),
        (running, "read", READ),
        (running, "order", ORDER),
        (Shipment, "_pack", PACK),
        (Shipment, "send", SEND),
        (running, "_take_apart", DROP),
    ]
    with ExitStack() as stack:
        for owner, name, phase in steps:
            stack.enter_context(patch.object(owner, name, metered(meter, phase, getattr(owner, name))))
        stack.enter_context(patch.object(running._GraphRun, "drive", waiting))
        gc.callbacks.append(meter.collected)
        stack.callback(gc.callbacks.remove, meter.collected)
        yield


def follow(meter: Meter, program: Callable[..., programs.Program], size: int, serial: int) -> None:
    gc.collect()
    with watching(meter):
        with meter.within(MAKE):
            made = program(size, serial)
        with meter.within(OPTIMIZE):
            value = made.collection.compute()
    programs.verify(program, made, value)


def roles() -> dict[str, list[psutil.Process]]:
    """The processes of this program and of its only cluster."""
    client = psutil.Process()
    children = client.children(recursive=True)
    workers = [each for each in children if any("worker" in word for word in each.cmdline()[-6:])]
    return {"client": [client], "scheduler": [each for each in children if each not in workers], "workers": workers}


def report(meter: Meter, title: str) -> None:
    print(f"{title:28}{'seconds':>9}{'share':>7}    CPU seconds: " + "".join(f"{role:>11}" for role in ROLES))
    total = sum(meter.seconds.values())
    for phase in PHASES:
        line = f"  {phase:26}{meter.seconds[phase]:9.2f}{meter.seconds[phase] / total:7.1%}" + " " * 17
        cpu = [f"{meter.cpu[phase][role]:11.2f}" for role in ROLES]
        print(line + ("     (within the phases above)" if phase == GARBAGE else "".join(cpu)))
    sums = [sum(cpu[role] for cpu in meter.cpu.values()) for role in ROLES]
    print(f"  {'all':26}{total:9.2f}{1:7.1%}" + " " * 17 + "".join(f"{each:11.2f}" for each in sums))
    left = CORES * total - sum(sums)
    print(f"  of {CORES} cores: used {sum(sums):.2f} s, idle or used by others {left:.2f} s\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="chunks along each side (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default 3); the first one warms up")
    parser.add_argument("--program", default="array_sum", help="another one of collection_programs.py")
    asked = parser.parse_args()
    program = getattr(programs, asked.program)
    banner(f"Where each second goes of {asked.program}, size {asked.size}", "dask", "numpy")
    with (
        treadle.LocalCluster(n_workers=programs.WORKERS, threads_per_worker=1) as cluster,
        treadle.Client(cluster),
    ):
        for number in range(asked.rounds):
            meter = Meter(roles())
            follow(meter, program, asked.size, number)
            report(meter, f"round {number + 1}")
    alone = programs.in_one_process(program, asked.size)
    print(f"The tasks alone, one after another in one process: {alone:.2f} s.")


if __name__ == "__main__":
    main()
