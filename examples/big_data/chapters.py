"""What the parts of the example have in common: data on disk, and steps that compute something of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from treadle import Client

#: The data is written in at least so many files.
FEWEST_FILES = 8


@dataclass(frozen=True)
class Data:
    """Files of one kind."""

    name: str
    files: list[Path]
    #: How much is in them, and of what.
    items: int
    unit: str

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class Step:
    """Something that is computed of one kind of data, with Dask's collections and without."""

    name: str
    data: Data
    #: Bytes that what it reads of the data takes up in memory, if all of it is there at once.
    held: int
    compute: Callable[[], Any]
    #: The same by pandas or NumPy alone, file by file.
    expected: Callable[[], Any]


def write_files(
    client: Client, write: Callable[..., int], pattern: str, nbytes: float, items: int, item_nbytes: float
) -> tuple[list[Path], int]:
    """Have the workers write files of ``items`` each, until they take up ``nbytes``.

    :param write: writes one file, given its path, its number and the items; returns its size in bytes.
    :param pattern: of the paths, with the place of the number.
    :param item_nbytes: about how many bytes an item takes up; small data has fewer items in a file.
    :returns: the files, and the items in all of them.
    """
    items = min(items, ceil(nbytes / item_nbytes / FEWEST_FILES))
    first = Path(pattern.format(0))
    first.parent.mkdir(parents=True)
    size = client.submit(write, first, 0, items).result()
    files = [Path(pattern.format(number)) for number in range(max(FEWEST_FILES, ceil(1.01 * nbytes / size)))]
    numbers = range(1, len(files))
    client.gather(client.map(write, files[1:], numbers, [items] * len(numbers)))
    return files, items * len(files)
