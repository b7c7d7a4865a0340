"""The environment of processes that run tasks."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["for_tasks"]

#: Bags of Dask partition by ``hash``, which must mean the same in every process.
_HASH_SEED: Final = "1789"


def for_tasks() -> dict[str, str]:
    """That of this process, and what it does not say.

    A task has one core. If BLAS and OpenMP took as many threads as there are cores, in each of as many tasks, these
    would only get in one another's way. OpenBLAS, MKL and NumExpr have names of their own for it, which go first.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if environment.get("PYTHONHASHSEED", "random") == "random":
        environment["PYTHONHASHSEED"] = _HASH_SEED
    return environment
