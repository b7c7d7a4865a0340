"""Trips of taxis, as parquet and as CSV: scans, group-by and joins of dataframes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from chapters import Data, Step, write_files

from treadle import Client

dd: Any = import_module("dask.dataframe")

ZONES, DRIVERS = 265, 20_000
PAYMENTS = np.array(["card", "cash", "dispute", "no charge"])
#: Dask reads two to four of such files in one task, depending on how many of their columns it needs.
ROWS_PER_FILE = 60_000


def trips(number: int, rows: int) -> pd.DataFrame:
    """One file's rows: two days of trips, in order of time."""
    random = np.random.default_rng(number)
    miles = random.gamma(1.6, 1.9, rows).round(2)
    fare = (3.0 + 2.6 * miles + random.normal(0, 1.5, rows)).clip(2.5).round(2)
    seconds = np.sort(random.integers(0, 2 * 86_400, rows)) + number * 2 * 86_400
    return pd.DataFrame(
        {
            "pickup": np.datetime64("2025-01-01", "s") + seconds.astype("timedelta64[s]"),
            "driver": random.integers(0, DRIVERS, rows),
            "zone": (random.beta(2, 5, rows) * ZONES).astype("int64"),
            "payment": PAYMENTS[random.choice(4, rows, p=[0.7, 0.26, 0.01, 0.03])],
            "miles": miles,
            "fare": fare,
            "tip": (fare * random.beta(2, 8, rows)).round(2),
        }
    )


def zones() -> pd.DataFrame:
    """Which borough each zone is in."""
    boroughs = np.array(["Bronx", "Brooklyn", "Manhattan", "Queens", "Staten Island"])
    numbers = np.arange(ZONES)
    return pd.DataFrame({"zone": numbers, "borough": boroughs[numbers * 7 % 5]})


def write_parquet(path: Path, number: int, rows: int) -> int:
    trips(number, rows).to_parquet(path, index=False)
    return path.stat().st_size


def write_csv(path: Path, number: int, rows: int) -> int:
    # Other trips than those in the parquet files; written by Arrow, which is much faster at it than pandas.
    table = import_module("pyarrow").Table.from_pandas(trips(10_000 + number, rows), preserve_index=False)
    import_module("pyarrow.csv").write_csv(table, path)
    return path.stat().st_size


def make(client: Client, folder: Path, nbytes: float) -> tuple[Data, Data]:
    """So many bytes as parquet, and so many as CSV."""
    pattern = str(folder / "parquet" / "trips-{:04}.parquet")
    parquet = write_files(client, write_parquet, pattern, nbytes, ROWS_PER_FILE, 20)
    csv = write_files(client, write_csv, str(folder / "csv" / "trips-{:04}.csv"), nbytes, ROWS_PER_FILE, 50)
    return Data("parquet", *parquet, "rows"), Data("CSV", *csv, "rows")


def steps(parquet: Data, csv: Data) -> list[Step]:
    table = dd.read_parquet([str(path) for path in parquet.files])
    # A file of these is one block.
    text = dd.read_csv([str(path) for path in csv.files], parse_dates=["pickup"], blocksize="4MB")
    return [
        Step(
            "scan: share of tips",
            parquet,
            held(parquet, "miles", "fare", "tip"),
            lambda: share_of_tips(table).compute(),
            lambda: expected_share(parquet),
        ),
        Step(
            "group-by: zone and hour",
            parquet,
            held(parquet, "pickup", "zone", "fare"),
            # One partition: there are few groups, and so those of a few files at a time become one table, early.
            lambda: by_zone_and_hour(table, split_out=1).compute().sort_index(),
            lambda: in_turn(parquet, by_zone_and_hour, {"count": "sum", "sum": "sum", "max": "max"}),
        ),
        Step(
            "join and group-by: borough",
            parquet,
            held(parquet, "zone", "fare", "tip"),
            lambda: by_borough(table).compute().sort_index(),
            lambda: in_turn(parquet, by_borough, "sum"),
        ),
        Step(
            "parse, group-by: day, payment",
            csv,
            held(csv, "pickup", "payment", "miles", "fare"),
            lambda: by_day_and_payment(text).compute().sort_index(),
            lambda: in_turn(csv, by_day_and_payment, "sum"),
        ),
        Step(
            "group-by, join: drivers",
            Data("both", parquet.files + csv.files, parquet.items + csv.items, "rows"),
            held(parquet, "driver", "fare") + held(csv, "driver", "fare"),
            # One partition each: Dask's join of two tables that it has grouped into many drops rows.
            lambda: in_order(of_both(by_driver(table, split_out=1), by_driver(text, split_out=1)).compute()),
            lambda: in_order(of_both(in_turn(parquet, by_driver, "sum"), in_turn(csv, by_driver, "sum"))),
        ),
    ]


def held(data: Data, *columns: str) -> int:
    """Bytes that some columns of all files take up as dataframes; the files are alike."""
    one = reader(data)(data.files[0])[list(columns)]
    return int(one.memory_usage(index=False, deep=True).sum()) * len(data.files)


# What follows is computed of Dask's dataframes, and of pandas' for comparison.


def long_trips(table: Any) -> Any:
    return table[table.miles > 4.0][["fare", "tip"]]


def share_of_tips(table: Any) -> Any:
    long = long_trips(table)
    return long.tip.sum() / long.fare.sum()


def by_zone_and_hour(table: Any, **options: int) -> Any:
    hours = table.assign(hour=table.pickup.dt.hour)
    return hours.groupby(["zone", "hour"]).fare.agg(["count", "sum", "max"], **options)


def by_borough(table: Any) -> Any:
    return table[["zone", "fare", "tip"]].merge(zones(), on="zone").groupby("borough")[["fare", "tip"]].sum()


def by_day_and_payment(table: Any) -> Any:
    return table.assign(day=table.pickup.dt.floor("D")).groupby(["day", "payment"])[["miles", "fare"]].sum()


def by_driver(table: Any, **options: int) -> Any:
    return table.groupby("driver")[["fare"]].sum(**options)


def of_both(these: Any, those: Any) -> Any:
    """What drivers took for both companies."""
    both = these.reset_index().merge(those.reset_index(), on="driver", suffixes=("_here", "_there"))
    return both[both.fare_here > both.fare_there]


def in_order(drivers: pd.DataFrame) -> pd.DataFrame:
    return drivers.set_index("driver").sort_index()


def in_turn(data: Data, compute: Callable[[Any], Any], merge: Any) -> Any:
    """The same group-by of each file, one after another, and then of these results."""
    read = reader(data)
    found = pd.concat([compute(read(path)) for path in data.files])
    return found.groupby(level=list(range(found.index.nlevels))).agg(merge)


def reader(data: Data) -> Callable[[Path], Any]:
    return pd.read_parquet if data.name == "parquet" else read_csv


def read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, parse_dates=["pickup"])


def expected_share(parquet: Data) -> float:
    sums = [long_trips(pd.read_parquet(path)).sum() for path in parquet.files]
    return float(sum(part.tip for part in sums) / sum(part.fare for part in sums))
