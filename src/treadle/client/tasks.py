"""What a client makes workers call besides what its user wrote. Workers import this module, and little with it."""

from __future__ import annotations

from typing import Any

__all__ = ["collect", "value_of"]


def collect(value: Any) -> Any:
    """The task of a container with results in it, and of a value that several tasks need."""
    return value


def value_of(future: Any) -> Any:
    """The task of a delayed value that stands for a future, where a local scheduler runs it."""
    return future.result()
