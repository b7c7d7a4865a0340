"""The directory of a worker for what its tasks need on this machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

__all__ = ["make", "sweep"]


def make(ident: str) -> str:
    """A new directory for the worker with this ident."""
    return tempfile.mkdtemp(prefix=_prefix(ident))


def sweep(ident: str) -> None:
    """Remove the directory of a worker that had no time to do so itself."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(ident)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(ident: str) -> str:
    return f"treadle-{ident}-"
