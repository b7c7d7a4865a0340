"""What several tests of delayed values share."""

from __future__ import annotations

from typing import Any

from treadle.testing.tasks import inc

__all__ = ["SCHEDULERS", "gather", "identity", "inc"]

SCHEDULERS = ["sync", "threads"]


def identity(x: Any) -> Any:
    return x


def gather(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs
