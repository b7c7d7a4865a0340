"""Every family of operations of Dask's dataframes, on a cluster and on threads, equal to what pandas computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import treadle
from treadle import Client, LocalCluster
from treadle.callbacks import TaskRecord

dask: Any = import_module("dask")
da: Any = import_module("dask.array")
dd: Any = import_module("dask.dataframe")

#: Of Dask's own calls of pandas.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

#: Computes something of trips and zones, which are dataframes of Dask or of pandas.
Compute = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Operation:
    """Something that dataframes can do."""

    compute: Compute
    #: The same for pandas, where it is written in another way.
    of_pandas: Compute | None = None
    #: Whether the order of the rows is part of the result. After a shuffle it is not.
    in_order: bool = True
    #: Whether the index is part of the result.
    index: bool = True


def trips_table() -> pd.DataFrame:
    random = np.random.default_rng(7)
    count = 600
    fares = random.gamma(2.0, 6.0, count).round(2)
    fares[::41] = np.nan
    return pd.DataFrame(
        {
            "zone": random.integers(0, 9, count),
            "payment": random.choice(["card", "cash", "no charge"], count),
            "passengers": random.integers(1, 5, count),
            "miles": random.permutation(count) / 10,
            "fare": fares,
        },
        index=pd.date_range("2026-01-01", periods=count, freq="37min", name="pickup"),
    )


def zones_table() -> pd.DataFrame:
    return pd.DataFrame({"zone": np.arange(12), "name": [f"Zone {number}" for number in range(12)], "toll": 0.25})


#: An aggregation as users write their own: of each block, of such results, and what is made of these.
SPREAD: Any = dd.Aggregation(
    "spread",
    lambda groups: (groups.max(), groups.min()),
    lambda largest, smallest: (largest.max(), smallest.min()),
    lambda largest, smallest: largest - smallest,
)


def largest_fares(group: Any) -> Any:
    return group.nlargest(2, "fare")[["miles", "fare"]].reset_index(drop=True)


def add_share(frame: Any, scale: float) -> Any:
    return frame.assign(share=frame.miles / frame.miles.sum() * scale)


def per_day(frame: Any) -> Any:
    return frame.assign(day=frame.index.day_of_week)


SAMPLE = {"miles": "f8", "fare": "f8"}
AGGREGATIONS = {"fare": ["sum", "mean", "std", "count", "min", "max"], "miles": ["first", "last", "var"]}

OPERATIONS: dict[str, Operation] = {
    # -- one row after another
    "elementwise": Operation(lambda t, z: (t.fare * 2 + t.miles).where(t.fare > 5, -1.0).clip(0, 40).round(1)),
    "filter": Operation(lambda t, z: t[(t.fare > 9) & t.payment.isin(["cash", "card"])][["fare", "payment"]]),
    "query": Operation(lambda t, z: t.query("fare > 9 and zone == 3")),
    "loc": Operation(lambda t, z: t.loc["2026-01-03":"2026-01-07", "fare"]),
    "missing values": Operation(lambda t, z: t.fillna({"fare": 0.0}).dropna().fare.isna().sum()),
    "fill forward": Operation(lambda t, z: t.fare.ffill()),
    "columns": Operation(
        lambda t, z: t.rename(columns={"fare": "price"}).drop(columns="miles").astype({"zone": float})
    ),
    "apply by row": Operation(
        lambda t, z: t.apply(lambda row: row.miles + row.zone, axis=1, meta=(None, "f8")),
        lambda t, z: t.apply(lambda row: row.miles + row.zone, axis=1),
    ),
    "eval": Operation(lambda t, z: t.eval("fare / miles")),
    # -- reductions
    "sum": Operation(lambda t, z: t[["fare", "miles"]].sum()),
    "moments": Operation(lambda t, z: t[["fare", "miles"]].var()),
    "correlation": Operation(lambda t, z: t[["fare", "miles"]].corr()),
    "where the most is": Operation(lambda t, z: t.miles.idxmax()),
    "largest": Operation(lambda t, z: t.nlargest(5, "miles")),
    "value counts": Operation(lambda t, z: t.zone.value_counts(), in_order=False),
    "unique": Operation(lambda t, z: t.zone.drop_duplicates(), in_order=False, index=False),
    "count distinct": Operation(lambda t, z: t.zone.nunique()),
    "mode": Operation(lambda t, z: t.payment.mode()),
    "length": Operation(lambda t, z: t.size),
    # -- groups
    "group": Operation(lambda t, z: t.groupby("zone").fare.mean()),
    "group, many": Operation(lambda t, z: t.groupby(["zone", "payment"]).agg(AGGREGATIONS), in_order=False),
    "group, split": Operation(
        lambda t, z: t.groupby("zone").fare.sum(split_out=3), lambda t, z: t.groupby("zone").fare.sum(), in_order=False
    ),
    "group, shuffled": Operation(
        lambda t, z: t.groupby("zone").agg({"fare": "median"}, split_out=2),
        lambda t, z: t.groupby("zone").agg({"fare": "median"}),
        in_order=False,
    ),
    "group, distinct": Operation(lambda t, z: t.groupby("zone").payment.nunique(), in_order=False),
    "group, running": Operation(lambda t, z: t.groupby("zone").miles.cumsum()),
    "group, own aggregation": Operation(
        lambda t, z: t.groupby("zone").miles.agg(SPREAD),
        lambda t, z: t.groupby("zone").miles.agg(lambda miles: miles.max() - miles.min()),
        in_order=False,
    ),
    "group, apply": Operation(
        lambda t, z: t.groupby("zone")[["miles", "fare"]].apply(largest_fares, meta=SAMPLE),
        lambda t, z: t.groupby("zone")[["miles", "fare"]].apply(largest_fares),
        in_order=False,
        index=False,
    ),
    "group, transform": Operation(
        lambda t, z: t.groupby("zone").miles.transform("max", meta=("miles", "f8")),
        lambda t, z: t.groupby("zone").miles.transform("max"),
        in_order=False,
    ),
    "group, by category": Operation(
        lambda t, z: t.astype({"payment": "category"}).groupby("payment", observed=True).fare.sum(), in_order=False
    ),
    # -- joins
    "join, broadcast": Operation(lambda t, z: t.merge(z, on="zone"), in_order=False, index=False),
    "join, left": Operation(lambda t, z: t.merge(z[z.zone < 5], on="zone", how="left"), in_order=False, index=False),
    "join, outer": Operation(lambda t, z: t.merge(z, on="zone", how="outer"), in_order=False, index=False),
    "join, told to broadcast": Operation(
        lambda t, z: t.merge(z.repartition(npartitions=2), on="zone", broadcast=True),
        lambda t, z: t.merge(z, on="zone"),
        in_order=False,
        index=False,
    ),
    "join, shuffle": Operation(
        lambda t, z: t.merge(t[["zone", "miles"]], on=["zone", "miles"], broadcast=False, shuffle_method="tasks"),
        lambda t, z: t.merge(t[["zone", "miles"]], on=["zone", "miles"]),
        in_order=False,
        index=False,
    ),
    "join, by index": Operation(lambda t, z: t.join(t[["fare"]].rename(columns={"fare": "again"}))),
    "join, as of": Operation(
        lambda t, z: dd.merge_asof(t[["fare"]], t[t.zone == 1][["miles"]], left_index=True, right_index=True),
        lambda t, z: pd.merge_asof(t[["fare"]], t[t.zone == 1][["miles"]], left_index=True, right_index=True),
    ),
    # -- shuffles
    "shuffle": Operation(
        lambda t, z: t.shuffle("zone").map_partitions(lambda part: part.groupby("zone").miles.sum()),
        lambda t, z: t.groupby("zone").miles.sum(),
        in_order=False,
    ),
    "shuffle, in stages": Operation(
        lambda t, z: t.repartition(npartitions=9).shuffle("zone", max_branch=3), lambda t, z: t, in_order=False
    ),
    "set the index": Operation(lambda t, z: t.set_index("miles"), lambda t, z: t.set_index("miles").sort_index()),
    "set the index, divisions": Operation(
        lambda t, z: t.set_index("miles", divisions=[0, 20, 40, 60]), lambda t, z: t.set_index("miles").sort_index()
    ),
    "sort": Operation(lambda t, z: t.sort_values("miles")),
    "sort, downwards": Operation(lambda t, z: t.sort_values("miles", ascending=False)),
    "drop duplicates": Operation(
        lambda t, z: t[["zone", "payment"]].drop_duplicates(split_out=2),
        lambda t, z: t[["zone", "payment"]].drop_duplicates(),
        in_order=False,
        index=False,
    ),
    # -- windows
    "rolling": Operation(lambda t, z: t.miles.rolling(7, center=True, min_periods=2).mean()),
    "rolling, time": Operation(lambda t, z: t.miles.rolling("3h").agg(["sum", "max"])),
    "shift": Operation(lambda t, z: t.miles.shift(3) - t.miles.shift(-2)),
    "difference": Operation(lambda t, z: t.miles.diff(2)),
    "cumulative": Operation(lambda t, z: t[["zone", "miles"]].cumsum() + t[["zone", "miles"]].cummax()),
    "overlap": Operation(
        lambda t, z: t.miles.map_overlap(lambda part: part.rolling(4).max(), 3, 0),
        lambda t, z: t.miles.rolling(4).max(),
    ),
    # -- kinds of columns
    "categories": Operation(
        lambda t, z: t.payment.astype("category").cat.as_known().cat.set_categories(["cash", "card"]).cat.codes,
        lambda t, z: t.payment.astype("category").cat.set_categories(["cash", "card"]).cat.codes,
    ),
    "categories of a table": Operation(
        lambda t, z: t.categorize().groupby("payment", observed=False).miles.sum(),
        lambda t, z: t.astype({"payment": "category"}).groupby("payment", observed=False).miles.sum(),
        in_order=False,
    ),
    "dummies": Operation(
        lambda t, z: dd.get_dummies(t[["payment"]].categorize()), lambda t, z: pd.get_dummies(t[["payment"]])
    ),
    "strings": Operation(lambda t, z: t.payment.str.upper().str.replace("C", "k").str.len() + t.payment.str.find("a")),
    "strings, split": Operation(lambda t, z: t.payment.str.split(" ", n=1, expand=True)),
    "strings, match": Operation(lambda t, z: t[t.payment.str.contains("^ca") & ~t.payment.str.endswith("sh")]),
    "dates": Operation(lambda t, z: t.reset_index().pickup.dt.floor("D"), index=False),
    "resample": Operation(lambda t, z: t.fare.resample("6h").mean()),
    "resample, several": Operation(lambda t, z: t.miles.resample("D").agg(["min", "max", "count"])),
    # -- partitions
    "map partitions": Operation(lambda t, z: t.map_partitions(per_day), lambda t, z: per_day(t)),
    "map partitions, arguments": Operation(
        lambda t, z: t.repartition(npartitions=1).map_partitions(
            add_share, dask.delayed(4.0), meta=add_share(t._meta, 4.0)
        ),
        lambda t, z: add_share(t, 4.0),
    ),
    "repartition": Operation(lambda t, z: t.repartition(npartitions=2).fare, lambda t, z: t.fare),
    "repartition, time": Operation(lambda t, z: t.repartition(freq="2D").fare, lambda t, z: t.fare),
    "repartition, size": Operation(lambda t, z: t.repartition(partition_size="10kB").fare, lambda t, z: t.fare),
    "concatenate": Operation(
        lambda t, z: dd.concat([t, t.assign(fare=0.0)], interleave_partitions=True),
        lambda t, z: pd.concat([t, t.assign(fare=0.0)]),
        in_order=False,
    ),
    "concatenate columns": Operation(
        lambda t, z: dd.concat([t.fare, t.miles], axis=1), lambda t, z: pd.concat([t.fare, t.miles], axis=1)
    ),
    "pivot": Operation(
        lambda t, z: t.categorize("payment").pivot_table(
            index="zone", columns="payment", values="miles", aggfunc="mean"
        ),
        lambda t, z: t.pivot_table(index="zone", columns="payment", values="miles", aggfunc="mean"),
    ),
    "melt": Operation(lambda t, z: t.melt("zone", ["fare", "miles"]), in_order=False, index=False),
    "explode": Operation(lambda t, z: t.payment.str.split(" ").explode()),
    "array": Operation(lambda t, z: t[["miles", "fare"]].to_dask_array(), lambda t, z: t[["miles", "fare"]].to_numpy()),
    "array, and back": Operation(
        lambda t, z: dd.from_dask_array(da.arange(20, chunks=6), columns="number"),
        lambda t, z: pd.Series(np.arange(20), name="number"),
    ),
    "bag": Operation(
        lambda t, z: t[["zone", "miles"]].to_bag(), lambda t, z: list(t[["zone", "miles"]].itertuples(index=False))
    ),
    "delayed, and back": Operation(lambda t, z: dd.from_delayed(t.to_delayed(), meta=t._meta), lambda t, z: t),
    "from a function": Operation(
        lambda t, z: dd.from_map(lambda start: trips_table().iloc[start : start + 200], [0, 200, 400]), lambda t, z: t
    ),
}


@pytest.fixture(scope="module", params=["cluster", "threads"])
def where(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[str]:
    """Dask's collections are computed on the cluster, or on threads of this process."""
    with ExitStack() as stack:
        if request.param == "cluster":
            stack.enter_context(Client(cluster))
        else:
            stack.enter_context(treadle.use("threads", num_workers=2))
        yield request.param


#: How strings, categories and the index are stored is Dask's choice.
AS_STORED: Any = dict.fromkeys(("check_dtype", "check_freq", "check_index_type", "check_categorical"), False)
AS_STORED["check_column_type"] = False

TRIPS, ZONES = trips_table(), zones_table()


def tables() -> tuple[Any, Any]:
    return dd.from_pandas(TRIPS, npartitions=4), dd.from_pandas(ZONES, npartitions=1)


def normal(frame: pd.DataFrame, operation: Operation) -> pd.DataFrame:
    """A table without what is not part of the result."""
    if operation.in_order:
        return frame if operation.index else frame.reset_index(drop=True)
    rows = frame.reset_index(drop=not operation.index)
    return rows.sort_values(list(rows.columns), ignore_index=True)


def check(found: Any, expected: Any, operation: Operation) -> None:
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected)
    elif isinstance(expected, (pd.Series, pd.DataFrame)):
        if isinstance(expected, pd.Series):
            found, expected = found.to_frame("value"), expected.to_frame("value")
        assert list(found.columns) == list(expected.columns)
        strings = {name: found[name].dtype for name in found if found[name].dtype == "string"}
        found, expected = normal(found, operation), normal(expected.astype(strings), operation)
        pd.testing.assert_frame_equal(found, expected, **AS_STORED)
    else:
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_equal_to_pandas(where: str, name: str) -> None:
    operation = OPERATIONS[name]
    expected = (operation.of_pandas or operation.compute)(TRIPS, ZONES)
    check(operation.compute(*tables()).compute(), expected, operation)


def test_treadle_computes(where: str, request: pytest.FixtureRequest) -> None:
    """Otherwise the tests of this module would say nothing."""
    found = dd.from_map(lambda number: pd.Series([os.getpid()] * number), [1, 1, 1, 1]).compute()
    if where == "cluster":
        assert set(found) <= {worker.pid for worker in request.getfixturevalue("cluster").workers}
        return
    keys: list[Any] = []

    class Watch(treadle.Callback):
        def after(self, record: TaskRecord, result: Any) -> None:
            keys.append(record.key)

    with Watch():
        assert set(found) == {os.getpid()}
        tables()[0].fare.sum().compute()
    assert len(keys) > 4


def test_parquet(where: str, tmp_path: Path) -> None:
    trips, _ = tables()
    folder = str(tmp_path / "trips")
    trips.to_parquet(folder)
    read = dd.read_parquet(folder)
    check(read.compute(), TRIPS, Operation(lambda t, z: t))
    assert dd.read_parquet(folder, calculate_divisions=True).divisions == trips.divisions
    dear = dd.read_parquet(folder, columns=["fare", "zone"], filters=[("fare", ">", 20.0)])
    check(
        dear.groupby("zone").fare.count().compute(), TRIPS[TRIPS.fare > 20].groupby("zone").fare.count(), Operation(max)
    )
    trips.assign(fare=0.0).to_parquet(folder, append=True, ignore_divisions=True)
    assert read.optimize(fuse=False).npartitions == 4
    assert len(dd.read_parquet(folder)) == 1200


def test_parquet_in_folders(where: str, tmp_path: Path) -> None:
    trips, _ = tables()
    folder = str(tmp_path / "trips")
    assert trips.to_parquet(folder, partition_on=["zone"], compute=False).compute() is None
    assert {path.name for path in Path(folder).glob("zone=*")} == {f"zone={zone}" for zone in range(9)}
    read = dd.read_parquet(folder, filters=[("zone", "==", 3)])
    assert read.miles.sum().compute() == pytest.approx(TRIPS[TRIPS.zone == 3].miles.sum())


def test_csv(where: str, tmp_path: Path) -> None:
    trips, _ = tables()
    names = trips.to_csv(str(tmp_path / "trips-*.csv"))
    assert len(names) == 4
    trips.to_csv(str(tmp_path / "all.csv"), single_file=True)
    for pattern in ("trips-*.csv", "all.csv"):
        read = dd.read_csv(str(tmp_path / pattern), parse_dates=["pickup"], blocksize=3000)
        assert read.npartitions > 4
        check(read.compute(), TRIPS.reset_index(), Operation(lambda t, z: t, index=False))
        assert read.miles.mean().compute() == pytest.approx(TRIPS.miles.mean())


def test_json(where: str, tmp_path: Path) -> None:
    trips, _ = tables()
    trips.reset_index(drop=True).to_json(str(tmp_path / "trips-*.json"), orient="records", lines=True)
    read = dd.read_json(str(tmp_path / "trips-*.json"), orient="records", lines=True, blocksize=8000)
    check(read.compute(), TRIPS, Operation(lambda t, z: t, index=False))


def test_several_results_at_once(where: str) -> None:
    trips, zones = tables()
    fares, joined, described = dask.compute(trips.fare.sum(), trips.merge(zones, on="zone"), trips.miles.describe())
    assert fares == pytest.approx(TRIPS.fare.sum())
    assert len(joined) == len(TRIPS)
    exact = TRIPS.miles.describe()
    rows = ["count", "mean", "std", "min", "max"]
    assert described[rows].tolist() == pytest.approx(exact[rows].tolist())


def test_quantiles_are_near(where: str) -> None:
    """Dask merges the quantiles of the partitions, which is not exact."""
    trips, _ = tables()
    found = trips.miles.quantile([0.1, 0.5, 0.9]).compute()
    assert found.tolist() == pytest.approx([6, 30, 54], abs=3)
    assert trips.zone.nunique_approx().compute() == pytest.approx(9, abs=0.5)


def test_samples_and_iteration(where: str) -> None:
    trips, _ = tables()
    parts = trips.random_split([0.5, 0.5], random_state=1)
    assert sum(len(part) for part in parts) == len(TRIPS)
    assert sorted(trips.sample(frac=0.2, random_state=1).miles.compute()) != []
    assert trips.head(3, npartitions=2).miles.tolist() == TRIPS.miles.head(3).tolist()
    assert trips.tail(3).miles.tolist() == TRIPS.miles.tail(3).tolist()
    assert [row.zone for row in trips.partitions[0].itertuples()] == TRIPS.zone.iloc[:150].tolist()


def test_persisted_tables(where: str) -> None:
    held = tables()[0].set_index("miles").persist()
    assert held.npartitions == 4
    assert held.loc[:5.0].zone.sum().compute() == TRIPS[TRIPS.miles <= 5].zone.sum()
    check(held.groupby("zone").fare.sum().compute(), TRIPS.groupby("zone").fare.sum(), Operation(lambda t, z: t))
