"""Pickles that another process can read: by reference where it can import the thing too, by value where it cannot."""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["dump", "dump_error"]


def dump(
    value: Any,
    apart: list[pickle.PickleBuffer] | None = None,
    least: int = 0,
    stand_in: Callable[[Any], Any] | None = None,
) -> bytes:
    """Pickle ``value``: as the standard library does where that works, by value where the other side could not import.

    :param apart: takes the buffers of at least ``least`` bytes, which are then no part of the pickle.
    :param stand_in: as ``reducer_override`` of :class:`pickle.Pickler`, asked first.
    :raises Exception: whatever pickling raises.
    """
    callback = None if apart is None else _collector(apart, least)
    try:
        if stand_in is None:
            data = pickle.dumps(value, 5, buffer_callback=callback)
        else:
            data = _run(_StandInPickler, value, callback, stand_in)
        by_value = b"__main__" in data  # the main module of the receiver is another one
    except Exception:
        by_value = True
    if not by_value:
        return data
    if apart is not None:
        apart.clear()
    import cloudpickle

    if stand_in is None:
        by_itself: bytes = cloudpickle.dumps(value, 5, buffer_callback=callback)
        return by_itself
    return _run(_by_value_pickler(), value, callback, stand_in)


def _collector(apart: list[pickle.PickleBuffer], least: int) -> Callable[[pickle.PickleBuffer], object]:
    if not least:
        return apart.append

    def collect(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < least:
            return True  # that is: in the pickle
        apart.append(buffer)
        return False

    return collect


def _run(cls: Any, value: Any, callback: Any, stand_in: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    pickler = cls(file, 5, buffer_callback=callback)
    pickler.stand_in = stand_in
    pickler.dump(value)
    return file.getvalue()


class _StandInPickler(pickle.Pickler):
    stand_in: Callable[[Any], Any]

    def reducer_override(self, obj: Any) -> Any:
        return self.stand_in(obj)


@functools.cache
def _by_value_pickler() -> Any:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            reduced = self.stand_in(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    return Pickler


def dump_error(error: BaseException) -> bytes:
    """Pickle an exception with its traceback, its causes and its contexts.

    :raises Exception: it cannot be pickled, or not be read back: many classes of exceptions are like that.
    """
    file = io.BytesIO()
    _error_pickler()(file, 5).dump(error)
    data = file.getvalue()
    pickle.loads(data)
    return data


@functools.cache
def _error_pickler() -> Any:
    import cloudpickle
    from tblib.pickling_support import pickle_traceback

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException):
                return _reduce(obj)
            if isinstance(obj, TracebackType):
                return pickle_traceback(obj)
            return super().reducer_override(obj)

    return Pickler


def _reduce(error: BaseException) -> tuple[Any, ...]:
    reduced: Any = error.__reduce__()
    make, args, *rest = reduced
    try:
        again = make(*args)
        faithful = type(again) is type(error) and bool(again.args == error.args)
    except Exception:
        faithful = False
    if not faithful:
        # The constructor takes something else than what it hands on to its base class.
        make, args = _construct, (type(error), args if make is type(error) else error.args)
    links = (error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__)
    return make, args, (rest[0] if rest else None, links), None, None, _restore


def _construct(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception that only the constructor of its nearest builtin base has seen."""
    base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error: BaseException = base.__new__(cls, *args)
    base.__init__(error, *args)  # type: ignore[misc]
    return error


def _restore(error: BaseException, state: tuple[Any, tuple[Any, ...]]) -> None:
    attributes, links = state
    if attributes is not None:
        error.__setstate__(attributes)
    error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__ = links
