"""From a function and its arguments to a row that can be sent."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

import msgspec

from treadle.client import inside
from treadle.client.future import Future
from treadle.client.lines import CallFuture
from treadle.client.outbox import Options, Row
from treadle.client.session import Session
from treadle.client.shield import Shield
from treadle.deferred import Delayed
from treadle.errors import UserError
from treadle.naming import unique, uniques
from treadle.tokens import TokenizeError, tokenize
from treadle.wire.functions import pack_function
from treadle.wire.sizes import sizeof
from treadle.wire.values import PICKLED, SCALARS, find_dependencies, pack_call

__all__ = ["BIG", "CHUNK", "LIMIT", "Calls", "LargeArgumentWarning", "judge_size", "names_of", "options_of"]

#: Bytes of the arguments of a task from which on the user is warned, and that no task may have.
BIG: Final = 10_000_000
LIMIT: Final = 128 << 20
#: Bytes of arguments in one message.
CHUNK: Final = 32 << 20
#: The highest priority, and the most retries.
MOST: Final = 1 << 20

_encode = msgspec.msgpack.Encoder().encode


class Known(NamedTuple):
    """A function that the scheduler was sent."""

    number: int
    name: str
    digest: bytes


class Calls:
    """Makes rows of the calls of one client."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[tuple[bytes, int], Known] = {}

    def function(self, func: Any, pure: bool, key: object = None, kind: int = 0) -> Known:
        """A function, sent to the scheduler if it is new there.

        :param kind: what is to be known of it apart from ``pure``; see :mod:`treadle.wire.functions`.
        :raises TaskNotSerializableError: it cannot be pickled.
        """
        packed = pack_function(func, key)
        kind |= packed.kind | pure
        known = self._known.get((packed.digest, kind))
        if known is None:
            session = self._session
            with Shield(), session.lock:
                number = len(self._known) + 1
                known = Known(number, packed.name.strip("<>"), packed.digest)
                session.registry.outbox.add("functions", [(number, packed.digest, packed.name, packed.blob, kind)])
                self._known[packed.digest, kind] = known
        return known

    def one(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        key: str | None,
        pure: bool,
        warn: int = 0,
        kind: int = 0,
    ) -> Row:
        """The row of one call.

        :param warn: the level of the caller who is warned of a big argument, as for ``warnings.warn``; 0 for nobody.
        :param kind: as for :meth:`function`.
        :raises TaskNotSerializableError: names what of it cannot be pickled.
        :raises UserError: an argument is a future of another client, or a delayed value, or too big.
        """
        if not callable(func):
            raise TypeError(f"the first argument must be the function to call, not {func!r:.200}")
        known = self.function(func, pure, key, kind)
        name = known.name if key is None else key
        futures = self.futures(name, args, kwargs)
        payload = pack_call(name, args, kwargs, futures)
        deps = [future.key for future in futures]
        if key is None:
            key = self._name(known, func, args, kwargs, payload, deps, pure)
        if len(payload) > BIG:
            judge_size(key, args, kwargs, payload, warn)
        return key, known.number, payload, deps

    def many(
        self,
        func: Callable[..., Any],
        rows: Sequence[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        keys: Sequence[str] | None,
        pure: bool,
        kind: int = 0,
    ) -> list[Row]:
        """The rows of the calls of a function, each with the arguments in one of ``rows``.

        :param kwargs: the same for all calls, so that they are sent only once, with the function, if they can be.
        :param kind: as for :meth:`function`.
        """
        if kwargs:
            if self.futures(func, (), kwargs):
                return self._each(func, rows, kwargs, keys, pure, kind)
            func = functools.partial(func, **kwargs)
        if not _all_scalars(rows):
            return self._each(func, rows, {}, keys, pure, kind)
        known = self.function(func, pure, None, kind)
        try:
            payloads = [_encode(args) for args in rows]
        except (OverflowError, UnicodeEncodeError):
            return self._each(func, rows, {}, keys, pure, kind)
        if max(map(len, payloads), default=0) > BIG:
            return self._each(func, rows, {}, keys, pure, kind)
        number, digest, prefix = known.number, known.digest, known.name + "-"
        if keys is None and pure:
            keys = [prefix + blake2b(digest + payload, digest_size=16).hexdigest() for payload in payloads]
        elif keys is None:
            keys = uniques(prefix, len(payloads))
        nothing: list[str] = []
        return list(zip(keys, repeat(number), payloads, repeat(nothing)))

    def _each(
        self,
        func: Callable[..., Any],
        rows: Sequence[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        keys: Sequence[str] | None,
        pure: bool,
        kind: int,
    ) -> list[Row]:
        made: list[Row] = []
        warn = 5
        for index, args in enumerate(rows):
            row = self.one(func, args, kwargs, None if keys is None else keys[index], pure, warn, kind)
            if len(row[2]) > BIG:
                warn = 0  # once is enough
            made.append(row)
        return made

    def futures(self, key: object, args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> list[Future[Any]]:
        """The futures among the arguments of a task.

        :raises UserError: one is of another client, or is a delayed value instead.
        """
        found = find_dependencies(args, kwargs, _STAND_INS)  # type: ignore[arg-type]
        for each in found:
            if isinstance(each, Delayed):
                raise UserError(
                    f"{each!r}, an argument of the task {key!r}, is a delayed value, which a task cannot be given. "
                    "Make it a future first, with client.compute(value), or make the whole call delayed."
                )
            self.check_owner(each, key)
        return found

    def check_owner(self, future: Future[Any], key: object) -> None:
        session = self._session
        if future._session is not session:
            raise UserError(
                f"{future!r}, which the task {key!r} needs, belongs to the client {future._session.ident}, and this is "
                f"the client {session.ident}. Submit both with the same client, or pass future.result()."
            )
        if isinstance(future, CallFuture):
            raise UserError(
                f"{future!r}, which the task {key!r} needs, is a call outside of tasks, whose result is not on the "
                "cluster. Pass its result()."
            )
        if future._released:
            raise UserError(f"{future!r}, which the task {key!r} needs, was released.")

    def _name(
        self,
        known: Known,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        payload: bytes,
        deps: list[str],
        pure: bool,
    ) -> str:
        """A key that says what is called, and tells the call from others."""
        if not pure:
            return f"{known.name}-{unique()}"
        content = known.digest + (_encode(deps) + payload if deps else payload)
        if payload[0] == PICKLED:
            try:
                return f"{known.name}-{tokenize(known.digest, *args, **kwargs)}"
            except TokenizeError:
                return f"{known.name}-{unique()}"  # nothing can tell whether two such calls are the same
        return f"{known.name}-{blake2b(content, digest_size=16).hexdigest()}"


_STAND_INS: Final = (Future, Delayed)


def _all_scalars(rows: Sequence[tuple[Any, ...]]) -> bool:
    return SCALARS.issuperset(map(type, chain.from_iterable(rows)))


class LargeArgumentWarning(UserWarning):
    """Much data travels with a task."""


def judge_size(key: object, args: Sequence[Any], kwargs: Mapping[str, Any] | None, payload: bytes, warn: int) -> None:
    """Warn of the biggest argument of a task whose arguments take much room.

    :param warn: as for :meth:`Calls.one`.
    :raises UserError: they take more than can be sent with a task.
    """
    names = [*range(1, len(args) + 1), *map(repr, kwargs or ())]
    name, size, kind = max(
        ((name, sizeof(value), type(value).__name__) for name, value in zip(names, [*args, *(kwargs or {}).values()])),
        key=lambda each: each[1],
    )
    about = f"the argument {name} (a {kind}) of the task {key!r} takes {size:,} bytes"
    if 2 * size < len(payload):  # what is big is out of sight, deep inside of one
        about = f"the arguments of the task {key!r} take {len(payload):,} bytes"
    advice = "Send it to the workers once, future = client.scatter(value), and pass the future."
    if len(payload) > LIMIT:
        raise UserError(f"{about}; no more than {LIMIT:,} can be sent with a task. {advice}")
    if warn:
        text = f"{about}, which travel through the scheduler. {advice}"
        warnings.warn(text, LargeArgumentWarning, stacklevel=warn + 1)


def options_of(
    workers: str | Iterable[str] | None, resources: Mapping[str, float] | None, priority: int, retries: int
) -> Options:
    """What is asked for beyond the tasks themselves, as it is sent.

    :param priority: 0 for the usual one: 0, or inside of a task one more than that of this task.
    :raises TypeError: a value of the wrong type. :raises ValueError: one that cannot be.
    """
    if priority == 0:
        priority = inside.priority()
    if workers is None and resources is None and priority == 0 and retries == 0:
        return None
    options: dict[str, Any] = {}
    if workers is not None:
        options["workers"] = names_of(workers)
    if resources is not None:
        if not isinstance(resources, Mapping):
            raise TypeError(f"resources must be a dict of amounts, such as {{'GPU': 1}}, not {resources!r:.200}")
        try:
            amounts = {str(name): float(amount) for name, amount in resources.items()}
        except (TypeError, ValueError):
            raise TypeError(f"the amounts of resources must be numbers, not those of {resources!r:.200}") from None
        for name, amount in amounts.items():
            if not 0 <= amount < float("inf"):
                raise ValueError(f"a task cannot need {amount} of {name!r}")
        options["resources"] = amounts
    priority = _whole("priority", priority, -MOST)
    retries = _whole("retries", retries, 0)
    if priority:
        options["priority"] = priority
    if retries:
        options["retries"] = retries
    try:
        _encode(options)
    except UnicodeEncodeError:
        raise ValueError(f"workers and resources must have names that UTF-8 can hold, not {options!a:.200}") from None
    return options


def names_of(workers: Any) -> list[str]:
    """What workers are called by, one or several. :raises TypeError: it is something else."""
    names = [workers] if isinstance(workers, str) or not isinstance(workers, Iterable) else list(workers)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"workers must be names, idents, addresses or hosts of workers, not {workers!r:.200}")
    return names


def _whole(name: str, value: Any, least: int) -> int:
    """A whole number of any type as one of Python's own."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r:.200}")
    number = operator.index(value)
    if not least <= number <= MOST:
        raise ValueError(f"{name} must be a whole number between {least:,} and {MOST:,}, not {value!r:.200}")
    return number
