"""Benchmark 13: flat tasks on 1,000 simulated workers, with a scheduler that is as fast as the real one is here.

First the core alone is timed: 1,000 workers, messages in and messages out, no network. What it takes per task that is
submitted and per task that is finished is then what the simulated scheduler, which serves one message after another,
takes on the virtual clock. The figure is the share of the slots' time that tasks used: seconds of all tasks, over slots
times the seconds from the client's first submission to its last "done". So the beginning and the end count too.

Each worker has one thread and gets ten seconds of work. The client packs 500,000 tasks per second and sends what has
come together in 5 ms; messages are on their way for 100 us; a worker's thread needs 20 us per task besides the task.
For information, the same is measured with a cost for every frame as well, which stands for system calls and encoding.

    python benchmarks/simulated.py [workers]
"""

from __future__ import annotations

import gc
import sys
from time import perf_counter, process_time

from rounds import banner, verdict

from treadle.core.scheduler import Scheduler
from treadle.testing.simulation import Costs, SimulatedCluster, constant

LATENCY = 100e-6
PACKING = 2e-6
BATCH = 2_500
THREAD = 20e-6
#: What a frame costs in the run for information: a system call, the event loop's part, and encoding or decoding.
FRAME = 6e-6
#: Seconds of work per slot.
WORK = 10.0
#: Seconds of one task, and the share of the slots' time that is to be useful.
CASES = [(0.100, 0.97), (0.010, 0.85)]


def core_costs(workers: int, tasks: int = 100_000) -> tuple[float, float]:
    """Processor time of the core alone: seconds per task that is submitted, and per task that is finished."""
    core = Scheduler()
    client = core.on_client("client", 0.0)
    records = {}
    for number in range(workers):
        ident = f"worker-{number}"
        records[ident] = core.on_worker(ident, f"host:{number}", ident, "host", 1, 0, {}, False, 0.0)
    core.on_functions(client, [(0, b"digest".ljust(16), "f", b"blob", True)])
    keys = [f"x-{number}" for number in range(tasks)]
    gc.collect()
    started = process_time()
    for first in range(0, tasks, BATCH):
        batch = keys[first : first + BATCH]
        core.on_submit(client, batch, [0] * len(batch), [b"\x90"] * len(batch), [], None, (0, None, None, 0), 0.0)
    submitted = process_time() - started
    started = process_time()
    now = 0.0
    finished = 0
    while finished < tasks:
        for peer in core.flush():
            messages = peer.take()
            record = records.get(peer.ident)
            if record is None:
                continue
            for message in messages:
                if message[0] == "run":
                    for row in message[1]:
                        now += 1e-4
                        finished += 1
                        core.on_finished(record, [(row[0], 28, 0.010, None)], now)
    return submitted / tasks, (process_time() - started) / tasks


def useful(workers: int, seconds: float, costs: Costs) -> tuple[float, int, float, float]:
    """The share of the slots' time that is useful, the tasks, how busy the scheduler was, and seconds of real time."""
    began = perf_counter()
    cluster = SimulatedCluster(workers, behaviour=constant(seconds), latency=LATENCY, costs=costs)
    client = cluster.add_client()
    count = int(WORK / seconds) * workers
    started = cluster.now
    for number, first in enumerate(range(0, count, BATCH)):
        graph = {f"x-{index}": ("f", ()) for index in range(first, min(first + BATCH, count))}
        cluster.timeline.at(started + (number + 1) * BATCH * PACKING, client.submit, graph)
    cluster.run_until(
        lambda: cluster.timeline.now > started and len(client.futures) == count and not cluster.unfinished
    )
    took = cluster.now - started
    return count * seconds / (workers * took), count, cluster.scheduler.busy / took, perf_counter() - began


def main(workers: int) -> None:
    banner(f"Flat tasks on {workers:,} simulated workers: the useful share of the slots' time")
    submit, row = core_costs(workers)
    print(f"the core alone: {submit * 1e6:.2f} us per task submitted, {row * 1e6:.2f} us per task finished\n")
    core = Costs(submit=submit, row=row, task=THREAD)
    shares: list[float] = []
    print(f"{'task':>7}{'tasks':>11}   {'costs':<22}{'useful':>8}{'scheduler busy':>16}{'simulated in':>14}")
    for seconds, _ in CASES:
        for name, costs in (("the core's", core), (f"and {FRAME * 1e6:.0f} us per frame", core._replace(frame=FRAME))):
            share, count, busy, took = useful(workers, seconds, costs)
            if costs is core:
                shares.append(share)
            print(
                f"{seconds * 1e3:>4.0f} ms{count:>11,}   {name:<22}{share:>8.1%}{busy:>16.0%}{took:>12.1f} s",
                flush=True,
            )
    print()
    for (seconds, target), share in zip(CASES, shares):
        verdict(f"useful share of the slots' time, tasks of {seconds * 1e3:.0f} ms", share, target)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
