"""More data than the workers hold: tables, an array and log lines on disk, computed on a local cluster.

    python examples/big_data --size 1GB

makes trips of taxis as parquet and as CSV, temperatures as an array, and log lines, ``--size`` of each, computes
statistics of them by Dask's collections on Treadle, compares with pandas and NumPy, and prints how long each step took
and how much memory a worker needed at most. The data is deleted in the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import trips
import weather
import weblogs
from chapters import Data, Step
from memory import Meter
from rich.console import Console
from rich.table import Table

from treadle import Client, LocalCluster

#: No worker should need a larger share of the data that a step reads.
MOST = 1 / 3
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class Row:
    """What was measured of a step."""

    step: Step
    seconds: float
    #: Bytes of the worker that needed most, and of the one that needed most beyond what it had in the beginning.
    peak: int
    above: int
    equal: bool

    @property
    def share(self) -> float:
        """The peak, with all that is imported, as a share of the data that this step reads, as it is on disk."""
        return self.peak / self.step.data.nbytes


def size(text: str) -> float:
    number, unit = text[:-2], text[-2:].upper()
    try:
        return float(number) * UNITS[unit]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it like 1GB or 20MB") from None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=size, default=1e9, help="of each kind of data (default: 1GB)")
    parser.add_argument("--directory", type=Path, help="where the data is made (default: a temporary one)")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def same(found: Any, expected: Any) -> bool:
    """Equal, but for the order in which floats are added."""
    try:
        if isinstance(expected, pd.DataFrame):
            pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_index_type=False)
        elif isinstance(expected, dict):
            return bool(found == expected)
        else:
            for ours, theirs in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    except (AssertionError, ValueError) as difference:
        print(difference, file=sys.stderr)
        return False
    return True


def measure(step: Step, meter: Meter) -> Row:
    meter.reset()
    start = time.perf_counter()
    found = step.compute()
    seconds = time.perf_counter() - start
    peak, above = meter.read()
    return Row(step, seconds, peak, above, same(found, step.expected()))


def report(console: Console, rows: list[Row], made: list[Data], before: int) -> None:
    table = Table("data", "step", "seconds", "on disk", "in memory", "peak", "of disk", "above start", "equal")
    for row in rows:
        data = row.step.data
        table.add_row(
            data.name,
            row.step.name,
            f"{row.seconds:.1f}",
            f"{data.nbytes / 1e6:.0f}",
            f"{row.step.held / 1e6:.0f}",
            f"{row.peak / 1e6:.0f}",
            f"{row.share:.0%}",
            f"{row.above / 1e6:.0f}, {row.above / data.nbytes:.0%}",
            "yes" if row.equal else "NO",
        )
    console.print(table)
    worst = max(rows, key=lambda row: row.share)
    console.print(
        f"All sizes in MB. All data: {sum(data.nbytes for data in made) / 1e6:.0f}. A worker had {before / 1e6:.0f} "
        "after its imports. The most that one had during a step, imports included, as a share of what that step reads "
        f"on disk: {worst.share:.0%}, {'no more' if worst.share <= MOST else 'more'} than a third "
        f"({worst.step.data.name}, {worst.step.name})."
    )


def run(console: Console, client: Client, folder: Path, nbytes: float) -> bool:
    """Whether everything was equal."""
    start = time.perf_counter()
    made = [*trips.make(client, folder, nbytes), weather.make(client, folder, nbytes)]
    made.append(weblogs.make(client, folder, nbytes))
    sizes = ", ".join(f"{data.name} {data.nbytes / 1e6:.0f} MB in {len(data.files)} files" for data in made)
    console.print(f"made in {time.perf_counter() - start:.0f} s: {sizes}")
    # Fresh processes: what making the data has left behind in the old ones is not measured.
    client.restart()
    meter = Meter(client)
    parquet, csv, array, lines = made
    # What needs least comes first: the C library keeps some memory of earlier steps for later ones.
    steps = [*weblogs.steps(lines), *weather.steps(array), *trips.steps(parquet, csv)]
    rows = []
    for step in steps:
        with console.status(step.name):
            rows.append(measure(step, meter))
    report(console, rows, made, max(meter.before.values()))
    return all(row.equal for row in rows)


def main() -> int:
    options = arguments()
    console = Console(width=120)
    folder = Path(tempfile.mkdtemp(prefix="big-data-", dir=options.directory))
    try:
        with LocalCluster(options.workers, 1) as cluster, Client(cluster) as client:
            return 0 if run(console, client, folder, options.size) else 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
