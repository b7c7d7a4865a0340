"""How big a value is."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Final

__all__ = ["size_told", "sizeof"]

#: About how many objects are looked at, and how many items of one container.
_BUDGET: Final = 1000
_SAMPLE: Final = 16
#: Up to how many items of a container that cannot be sliced the sample is from all over it.
_SPREAD: Final = 1000
#: How many rows of a table.
_ROWS: Final = 64

#: What an object is taken for that cannot say how big it is.
_UNKNOWN: Final = 64

_ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
#: The containers whose items are counted.
_SEQUENCES: Final[tuple[Any, ...]] = (list, tuple, set, frozenset)


def sizeof(value: Any) -> int:
    """The bytes of memory that ``value`` takes, or a fair guess, in bounded time. Never raises.

    Arrays and tables say it themselves; of a container, and of an object's attributes, a sample is asked.
    """
    if type(value) in _ATOMS:
        return sys.getsizeof(value)
    try:
        return max(_sizeof(value, _BUDGET), 0)
    except Exception:
        return _UNKNOWN


def size_told(value: Any) -> int:
    """The bytes of an array or a table, as it says itself; 0 for everything else. Never raises."""
    try:
        return _told(value, _BUDGET) or 0
    except Exception:
        return 0


def _sizeof(value: Any, budget: int) -> int:
    kind = type(value)
    if kind in _ATOMS or isinstance(value, (type, ModuleType, FunctionType)):
        return sys.getsizeof(value)
    if kind in _SEQUENCES:
        return sys.getsizeof(value) + _sampled(value, len(value), budget)
    if kind is dict:
        count = len(value)
        return sys.getsizeof(value) + _sampled(value, count, budget // 2) + _sampled(value.values(), count, budget // 2)
    told_by_class = getattr(kind, "__treadle_nbytes__", None)
    if told_by_class is not None:
        return int(told_by_class)  # its attributes are elsewhere
    size = _told(value, budget)
    if size is not None:
        return size
    attributes = getattr(value, "__dict__", None)
    inside = _sizeof(attributes, budget // 2) if budget and type(attributes) is dict else 0
    contents = _contents(value, budget)
    return inside + (sys.getsizeof(value, _UNKNOWN) if contents is None else contents)


def _told(value: Any, budget: int) -> int | None:
    for told in (_table, _array, _sparse):
        size = told(value, budget)
        if size is not None:
            return size
    return None


def _contents(value: Any, budget: int) -> int | None:
    """The same of containers of subclasses, a sample of what is in them included; None if this is none.

    They are not asked themselves: that may take as long as looking at every item.
    """
    if isinstance(value, dict):
        count, share = dict.__len__(value), budget // 2
        inside = _sampled(dict.__iter__(value), count, share) + _sampled(dict.values(value), count, share)
        return dict.__sizeof__(value) + inside
    for base in _SEQUENCES:
        if isinstance(value, base):
            inside = _sampled(base.__iter__(value), base.__len__(value), budget)
            return int(base.__sizeof__(value)) + inside
    return None


def _sampled(items: Iterable[Any], count: int, budget: int) -> int:
    """The bytes of some items, made out from a few of them, spread evenly where they can be."""
    size = min(count, budget, _SAMPLE)
    if size == 0:
        return 0
    step = count // size
    sample: Iterable[Any]
    if isinstance(items, (list, tuple)):
        sample = items[: step * size : step]
    elif count <= _SPREAD:
        sample = islice(items, 0, step * size, step)
    else:
        sample = islice(items, size)
    share = budget // (size + 1)
    return sum([_sizeof(item, share) for item in sample]) * count // size


def _table(value: Any, budget: int) -> int | None:
    """Frames, series and indexes of pandas: memory without the objects in it, and a sample of these."""
    usage: Callable[..., Any] | None = getattr(value, "memory_usage", None)
    if not callable(usage):
        return None
    size = _columns(value, budget)
    if size is not None:
        return size
    flat = _total(usage())
    count = len(value)
    sample = value[:: max(count // _ROWS, 1)]
    objects = _total(sample.memory_usage(deep=True)) - _total(sample.memory_usage())
    return flat + objects * count // max(len(sample), 1)


def _columns(value: Any, budget: int) -> int | None:
    """The same of frames and series, from the arrays they are made of: ``memory_usage`` makes a series of each column,
    which takes far longer than a small task. None if not all of these can say how big they are.
    """
    arrays = getattr(getattr(value, "_mgr", None), "arrays", None)
    if arrays is None:
        return None
    total = 0
    for part in (value.index, *arrays):
        size = _column(part, budget)
        if size is None:
            return None
        total += size
    return total


def _column(part: Any, budget: int) -> int | None:
    dtype = part.dtype
    if dtype.kind != "O" or hasattr(part, "flat"):
        return _array(part, budget)
    # Text in one piece of memory. Others have objects in them, and would have to be looked at.
    return int(part.nbytes) if getattr(dtype, "storage", None) == "pyarrow" else None


def _total(usage: Any) -> int:
    return int(usage.sum() if hasattr(usage, "sum") else usage)


def _array(value: Any, budget: int) -> int | None:
    """Whatever has ``nbytes``: arrays of numpy and its likes, tables of Arrow, views of memory."""
    try:
        size = operator.index(value.nbytes)
    except (AttributeError, TypeError):
        return None
    if getattr(getattr(value, "dtype", None), "hasobject", False) and hasattr(value, "flat"):
        count = int(value.size)
        sample = list(value.flat[:: max(count // _SAMPLE, 1)])
        size += _sampled(sample, len(sample), budget) * count // max(len(sample), 1)
    return size


def _sparse(value: Any, budget: int) -> int | None:
    """Sparse matrices of scipy: the arrays that they are made of."""
    if not hasattr(value, "nnz"):
        return None
    names = ("data", "indices", "indptr", "row", "col", "offsets")
    sizes = [_array(part, budget) for part in (getattr(value, name, None) for name in names) if part is not None]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None
