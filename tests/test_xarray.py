"""xarray on Treadle as it is: a climatology of chunked data is what it is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import treadle
from treadle import Client, LocalCluster

xr: Any = import_module("xarray")

#: Computes something of a dataset, in memory or chunked.
Compute = Callable[[Any], Any]


def weather() -> Any:
    """Three years on a coarse grid: a season, a trend, noise, and some missing values."""
    random = np.random.default_rng(3)
    days = pd.date_range("2023-01-01", "2025-12-31", freq="8D", name="time")
    latitude, longitude = np.linspace(-60, 60, 6), np.arange(0.0, 360, 45)
    season = np.sin(np.arange(days.size) * 16 * np.pi / 365.25)[:, None, None]
    shape = (days.size, latitude.size, longitude.size)
    warmth = 15 + 10 * season * np.sign(latitude)[:, None] + random.normal(0, 2, shape)
    warmth[::19, 2, 3] = np.nan
    return xr.Dataset(
        {
            "temperature": (("time", "lat", "lon"), warmth, {"units": "degC"}),
            "rain": (("time", "lat", "lon"), random.gamma(0.5, 4.0, shape)),
        },
        coords={"time": days, "lat": latitude, "lon": longitude},
    )


def weights(data: Any) -> Any:
    """The areas of the cells."""
    return np.cos(np.deg2rad(data.lat))


def anomalies(data: Any) -> Any:
    months = data.groupby("time.month")
    return months - months.mean("time")


COMPUTATIONS: dict[str, Compute] = {
    "monthly means": lambda data: data.groupby("time.month").mean("time"),
    "monthly extremes": lambda data: data.groupby("time.month").max("time") - data.groupby("time.month").min("time"),
    "anomalies": anomalies,
    "standardized": lambda data: anomalies(data) / data.std("time"),
    "seasons": lambda data: data.temperature.groupby("time.season").std("time"),
    "bins of latitude": lambda data: data.groupby_bins("lat", [-90, -30, 30, 90]).mean(),
    "rolling mean": lambda data: data.temperature.rolling(time=11, center=True, min_periods=5).mean(),
    "windows": lambda data: data.rain.rolling(time=5).construct("day").max("day"),
    "months": lambda data: data.resample(time="MS").mean(),
    "sums of years": lambda data: data.rain.resample(time="YS").sum(),
    "weighted mean": lambda data: data.weighted(weights(data)).mean(("lat", "lon")),
    "coarser": lambda data: data.rain.coarsen(lat=2, lon=2).sum(),
    "hottest day": lambda data: data.temperature.fillna(-99).argmax("time"),
    "quantiles": lambda data: data.rain.chunk(time=-1).quantile([0.1, 0.9], "time"),
    "interpolated": lambda data: data.temperature.chunk(time=-1).interpolate_na("time"),
    "running total": lambda data: data.rain.cumsum("time"),
    "where": lambda data: data.rain.where(data.temperature > 15).count("time"),
    "correlation": lambda data: xr.corr(data.temperature, data.rain, "time"),
    "one point": lambda data: data.sel(lat=12, lon=90, method="nearest").isel(time=slice(10, 100, 7)),
    "stacked": lambda data: data.temperature.stack(cell=("lat", "lon")).mean("cell"),
    "own function": lambda data: xr.apply_ufunc(np.hypot, data.temperature, data.rain, dask="parallelized"),
    "blocks": lambda data: data.map(np.square).astype("f4"),
}

WEATHER = weather()


@pytest.fixture(scope="module", params=["cluster", "threads"])
def where(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "cluster":
            stack.enter_context(Client(cluster))
        else:
            stack.enter_context(treadle.use("threads", num_workers=2))
        yield request.param


def chunked() -> Any:
    return WEATHER.chunk(time=40, lat=4)


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_equal_to_what_is_computed_in_memory(where: str, name: str) -> None:
    compute = COMPUTATIONS[name]
    lazy = compute(chunked())
    assert lazy.chunks, "nothing is left to be computed"
    xr.testing.assert_allclose(lazy.compute(), compute(WEATHER))


def test_persisted(where: str) -> None:
    held = chunked().groupby("time.season").mean("time").persist()
    assert held.chunks
    expected = WEATHER.groupby("time.season").mean("time")
    xr.testing.assert_allclose(held.mean("lat").compute(), expected.mean("lat"))
    assert held.temperature.load().chunks is None
    xr.testing.assert_allclose(held, expected)


def test_map_blocks(where: str) -> None:
    def scale(block: Any, factor: float) -> Any:
        return block * factor

    found = xr.map_blocks(scale, chunked(), kwargs={"factor": 3.0}, template=chunked())
    xr.testing.assert_allclose(found.compute(), WEATHER * 3.0)


def test_several_at_once(where: str) -> None:
    dask: Any = import_module("dask")
    data = chunked()
    mean, total = dask.compute(data.temperature.mean(), data.rain.sum("time"))
    assert float(mean) == pytest.approx(float(WEATHER.temperature.mean()))
    xr.testing.assert_allclose(total, WEATHER.rain.sum("time"))


def test_files(where: str, tmp_path: Path) -> None:
    """One file for each variable and year; they are read where they are needed."""
    for year, data in WEATHER.groupby("time.year"):
        data.to_netcdf(tmp_path / f"{year}.nc", engine="scipy")
    with xr.open_mfdataset(str(tmp_path / "*.nc"), engine="scipy", chunks={"time": 25}, data_vars="all") as data:
        found = data.groupby("time.month").mean("time").compute()
        assert data.rain.sum().compute() == pytest.approx(float(WEATHER.rain.sum()))
    xr.testing.assert_allclose(found, WEATHER.groupby("time.month").mean("time"))
