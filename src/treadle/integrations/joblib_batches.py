"""What travels to the workers with the batches of :mod:`treadle.integrations.joblib`, and how a batch is run there."""

from __future__ import annotations

import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from importlib import import_module
from time import perf_counter
from types import FunctionType
from typing import Any, Final, TypeAlias

from treadle.client.client import Client
from treadle.client.future import Future
from treadle.errors import PeerError
from treadle.wire.functions import pack_function, unpack_function
from treadle.wire.pickling import dump
from treadle.wire.values import SCALARS

__all__ = ["BIG", "PATIENCE", "RETRIES", "Call", "Packer", "run_batch"]

#: A function, its arguments, and its keyword arguments: what ``joblib.delayed`` makes.
Call: TypeAlias = "tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]"

#: Bytes from which on an argument is put on the workers once, if joblib's ``max_nbytes`` does not say.
BIG: Final = 1 << 20
#: Bytes of a pickled function that goes along with each batch at most.
SMALL_FUNCTION: Final = 1 << 16
#: How often a batch is sent again because arguments on the workers were lost with these.
RETRIES: Final = 5
#: Seconds to wait for the first worker.
PATIENCE: Final = 30.0


class Packer:
    """Pickles batches. What is big in them is put on the workers, once for as long as it is the same object.

    Arrays are found wherever they are, and calls on one worker share them. Of other objects those are put there that
    are arguments themselves, and occur repeatedly; as pickles, so that each batch has its own, to change as it likes.

    :param workers: the only ones to use.
    :param big: from how many bytes on; None: never.
    """

    def __init__(self, client: Client, workers: list[str] | None, big: int | None) -> None:
        self._client = client
        self._workers = workers
        self._big = big
        #: What is on the workers, by its identity; the objects themselves as far as the user has them.
        self._known: dict[int, tuple[Callable[[], Any], Future[Any]]] = {}
        #: The identities of the arguments of the last batch that was big, apart from its arrays.
        self._before: frozenset[int] = frozenset()
        #: Functions that hold much data.
        self._bulky: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def forget(self, lost: Sequence[Future[Any]]) -> None:
        """Some of these may be on the workers no longer."""
        with self._lock:
            for number, (_, future) in list(self._known.items()):
                if future in lost:
                    self._known.pop(number, None)

    def pack(self, calls: Sequence[Call]) -> tuple[Any, list[bytes], list[Future[Any]]]:
        """The pickle of a batch (or a future of it), of functions in it, and futures of what else it consists of.

        :raises Exception: whatever pickling, or putting data on the workers, raises.
        """
        with self._lock:
            sheet = _Sheet(self._big, self._bulky)
            blob = dump(calls, stand_in=sheet.stand_in)
            if self._big is not None and len(blob) >= self._big:
                repeated = self._repeated(calls, self._big)
                if repeated:
                    sheet = _Sheet(self._big, self._bulky)
                    blob = dump(_marked(calls, repeated), stand_in=sheet.stand_in)
            shared = self._share(sheet)
            if len(blob) >= BIG:
                return self._put([blob])[0], sheet.functions, shared
            return blob, sheet.functions, shared

    def _repeated(self, calls: Sequence[Call], big: int) -> set[int]:
        """The identities of big arguments that are in more calls than one."""
        objects: dict[int, Any] = {}
        counts: dict[int, int] = dict.fromkeys(self._before, 1)
        for _, args, kwargs in calls:
            for value in (*args, *kwargs.values()):
                if type(value) not in _SMALL:
                    objects[id(value)] = value
                    counts[id(value)] = counts.get(id(value), 0) + 1
        self._before = frozenset(objects)
        often = [value for number, value in objects.items() if counts[number] > 1]
        return {id(value) for value in often if self._find(value) is not None or self._weigh(value) >= big}

    def _weigh(self, value: Any) -> int:
        return len(dump(value, stand_in=_Sheet(self._big, self._bulky).stand_in))

    def _share(self, sheet: _Sheet) -> list[Future[Any]]:
        """Futures of what was taken out of a batch, which is on the workers from now on."""
        shared = [value if isinstance(value, Future) else self._find(value) for value in sheet.found]
        new = [value for value, future in zip(sheet.found, shared) if future is None]
        made = iter(self._put([dump(value) if id(value) in sheet.pickled else value for value in new]) if new else ())
        futures: list[Future[Any]] = []
        for value, future in zip(sheet.found, shared):
            if future is None:
                future = next(made)
                self._known[id(value)] = self._reference(value), future
            futures.append(future)
        return futures

    def _put(self, values: list[Any], tries: int = RETRIES) -> list[Future[Any]]:
        self._client.wait_for_workers(1, PATIENCE)
        try:
            made: list[Future[Any]] = self._client.scatter(values, workers=self._workers, hash=False)
        except PeerError:
            self._client.session.check()  # else it was a worker that has just died
            if tries:
                return self._put(values, tries - 1)
            raise
        return made

    def _find(self, value: Any) -> Future[Any] | None:
        look, future = self._known.get(id(value), (None, None))
        return future if look is not None and look() is value else None

    def _reference(self, value: Any) -> Callable[[], Any]:
        number, known = id(value), self._known
        try:
            return weakref.ref(value, lambda _: known.pop(number, None))
        except TypeError:
            return lambda: value


#: Types of arguments that are never big, as far as it matters.
_SMALL: Final = SCALARS - {bytes, str}


class _Mark:
    """Takes the place of an argument that is not to travel with the batch."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _marked(calls: Sequence[Call], repeated: set[int]) -> list[Call]:
    """The same calls with marks for the arguments of these identities."""

    def mark(value: Any) -> Any:
        return _Mark(value) if id(value) in repeated else value

    return [
        (func, [mark(value) for value in args], {name: mark(value) for name, value in kwargs.items()})
        for func, args, kwargs in calls
    ]


class _Sheet:
    """What is taken out of a batch while that is pickled."""

    def __init__(self, big: int | None, bulky: weakref.WeakSet[Any]) -> None:
        self._big = big
        self._bulky = bulky
        self._array: Any = getattr(sys.modules.get("numpy"), "ndarray", ())
        self._numbers: dict[int, int] = {}
        #: Objects that are to be on the workers, and futures of what is there; which are to be there as pickles; and
        #: the pickles of functions.
        self.found: list[Any] = []
        self.pickled: set[int] = set()
        self.functions: list[bytes] = []

    def stand_in(self, value: Any) -> Any:
        kind = type(value)
        if kind is FunctionType:
            return self._function(value)
        if kind is _Mark:
            self.pickled.add(id(value.value))
            return _loaded_value, (self._number(value.value, self.found, value.value),)
        if isinstance(value, Future) or self._is_big_array(value):
            return _shared_value, (self._number(value, self.found, value),)
        return NotImplemented

    def _is_big_array(self, value: Any) -> bool:
        if self._big is None or not isinstance(value, self._array):
            return False
        return bool(value.nbytes >= self._big) and not value.dtype.hasobject

    def _number(self, value: Any, items: list[Any], item: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(items)
            items.append(item)
        return number

    def _function(self, function: Any) -> Any:
        """Functions that travel by value are pickled once, and made once by each worker."""
        if (function.__module__ != "__main__" and "<" not in function.__qualname__) or function in self._bulky:
            return NotImplemented
        try:
            blob = pack_function(function).blob
        except Exception:
            return NotImplemented  # what pickles the batch will say why
        if len(blob) > SMALL_FUNCTION:
            self._bulky.add(function)
            return NotImplemented
        return _local_function, (self._number(function, self.functions, blob),)


# On the worker


class _Reading(threading.local):
    """What stands outside of the batch that is being read."""

    shared: Sequence[Any] = ()
    functions: Sequence[bytes] = ()


_reading: Final = _Reading()
_made: Final = lru_cache(maxsize=256)(unpack_function)


def _local_function(number: int) -> Any:
    return _made(_reading.functions[number])


def _loaded_value(number: int) -> Any:
    return pickle.loads(_reading.shared[number])


def _shared_value(number: int) -> Any:
    value: Any = _reading.shared[number]
    array: Any = getattr(sys.modules.get("numpy"), "ndarray", ())
    if isinstance(value, array):
        value = value.view()
        value.flags.writeable = False  # others have the same memory
    return value


def run_batch(
    blob: bytes, functions: Sequence[bytes], about: tuple[int, int | None], *shared: Any
) -> tuple[float, list[Any]]:
    """Make the calls of a batch. Runs on a worker.

    :param about: joblib's level of nesting, and how many threads BLAS and OpenMP may use.
    :returns: seconds, and the results.
    """
    from treadle.integrations.joblib import nested_backend

    level, threads = about
    started = perf_counter()
    calls = _read(blob, functions, shared)
    with ExitStack() as stack:
        stack.enter_context(import_module("joblib").parallel_config(backend=nested_backend(level), n_jobs=None))
        if threads is not None:
            stack.enter_context(import_module("threadpoolctl").threadpool_limits(threads))
        results = [func(*args, **kwargs) for func, args, kwargs in calls]
    return perf_counter() - started, results


def _read(blob: bytes, functions: Sequence[bytes], shared: Sequence[Any]) -> Sequence[Call]:
    before = _reading.shared, _reading.functions
    _reading.shared, _reading.functions = shared, functions
    try:
        calls: Sequence[Call] = pickle.loads(blob)
        return calls
    finally:
        _reading.shared, _reading.functions = before
