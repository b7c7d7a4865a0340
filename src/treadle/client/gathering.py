"""Futures in containers: found, and replaced by their results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from treadle.client.future import Future

__all__ = ["fill_in", "futures_in", "listed", "without_failed"]

_MISSING: Any = object()


def listed(value: Any) -> Any:
    """An iterator as the list of what it gives; any other value as it is."""
    return list(value) if isinstance(value, Iterator) else value


def futures_in(value: Any) -> list[Future[Any]]:
    """The futures in lists, tuples, sets and the values of dicts, nested in any way, in their order."""
    if type(value) is list and all(type(item) is Future for item in value):
        return value
    found: list[Future[Any]] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Future):
            found.append(item)
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        elif isinstance(item, (set, frozenset)):
            stack.extend(item)
    return found


def fill_in(value: Any) -> Any:
    """``value`` with the results of its futures, which are all here, in their places."""
    if isinstance(value, Future):
        return value.result()
    if isinstance(value, dict):
        return {key: fill_in(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return type(value)(*map(fill_in, value))
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = next(each for each in (list, tuple, set, frozenset) if isinstance(value, each))
        return kind(map(fill_in, value))
    return value


def without_failed(value: Any) -> Any:
    """``value`` without the futures that did not succeed; ``_MISSING`` in the place of a single one."""
    if isinstance(value, Future):
        return value if value._succeeded() else _MISSING
    if isinstance(value, dict):
        pairs = ((key, without_failed(item)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not _MISSING}
    if isinstance(value, (list, tuple, set, frozenset)):
        kept = [item for item in map(without_failed, value) if item is not _MISSING]
        if len(kept) == len(value) and hasattr(value, "_make"):
            return type(value)(*kept)
        kind = next(each for each in (list, tuple, set, frozenset) if isinstance(value, each))
        return kind(kept)
    return value
