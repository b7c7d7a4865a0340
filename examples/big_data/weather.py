"""Temperatures of a grid, hour by hour, as files of NumPy: statistics of an array that is bigger than what is held."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from chapters import Data, Step, write_files
from numpy.typing import NDArray

from treadle import Client

dask: Any = import_module("dask")
da: Any = import_module("dask.array")

LATITUDES, LONGITUDES = 90, 180
HOURS_PER_FILE = 120
BINS = np.linspace(-40.0, 60.0, 101)


def temperatures(number: int, hours: int) -> NDArray[Any]:
    """One file: hours, latitudes and longitudes; degrees Celsius."""
    random = np.random.default_rng(number)
    hour = (np.arange(hours) + number * hours)[:, None, None]
    latitude = np.linspace(-np.pi / 2, np.pi / 2, LATITUDES)[:, None]
    noise = random.standard_normal((hours, LATITUDES, LONGITUDES), dtype=np.float32)
    day = 6 * np.sin(hour * 2 * np.pi / 24) + 30 * np.cos(latitude) - 8
    made: NDArray[Any] = (day + 3 * noise).astype(np.float32)
    return made


def write(path: Path, number: int, hours: int) -> int:
    np.save(path, temperatures(number, hours))
    return path.stat().st_size


def make(client: Client, folder: Path, nbytes: float) -> Data:
    pattern = str(folder / "weather" / "{:04}.npy")
    files, hours = write_files(client, write, pattern, nbytes, HOURS_PER_FILE, LATITUDES * LONGITUDES * 4)
    return Data("array", files, hours * LATITUDES * LONGITUDES, "values")


def steps(data: Data) -> list[Step]:
    hours = data.items // len(data.files) // (LATITUDES * LONGITUDES)
    load = dask.delayed(np.load)
    shape = (hours, LATITUDES, LONGITUDES)
    array = da.concatenate([da.from_delayed(load(path), shape, np.float32) for path in data.files])
    moments = array.mean(axis=0, dtype="f8"), array.std(axis=0, dtype="f8")
    held = array.nbytes
    daily = array.max(axis=(1, 2)), array.mean(axis=(1, 2), dtype="f8")
    return [
        Step("mean and deviation in time", data, held, lambda: dask.compute(*moments), lambda: expected_moments(data)),
        Step("extremes and means in space", data, held, lambda: dask.compute(*daily), lambda: expected_in_space(data)),
        Step("histogram", data, held, lambda: da.histogram(array, BINS)[0].compute(), lambda: expected_histogram(data)),
    ]


def blocks(data: Data) -> Iterator[NDArray[Any]]:
    for path in data.files:
        yield np.load(path)


def expected_moments(data: Data) -> tuple[NDArray[Any], NDArray[Any]]:
    """In two passes, file by file."""
    hours = data.items // (LATITUDES * LONGITUDES)
    mean = sum(block.sum(axis=0, dtype="f8") for block in blocks(data)) / hours
    return mean, np.sqrt(sum(((block - mean) ** 2).sum(axis=0) for block in blocks(data)) / hours)


def expected_in_space(data: Data) -> tuple[NDArray[Any], NDArray[Any]]:
    found = [(block.max(axis=(1, 2)), block.mean(axis=(1, 2), dtype="f8")) for block in blocks(data)]
    return np.concatenate([most for most, _ in found]), np.concatenate([mean for _, mean in found])


def expected_histogram(data: Data) -> Any:
    return sum(np.histogram(block, BINS)[0] for block in blocks(data))
