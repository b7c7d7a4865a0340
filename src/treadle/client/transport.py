"""Values that cross the scheduler to another client, with futures inside of them at any depth.

A future travels as its key. Whoever unpacks the value gets a future of its own client, which wants the same result.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from treadle.client.future import Future
from treadle.errors import NotSerializableError, UserError
from treadle.wire.pickling import dump
from treadle.wire.values import SCALARS, brief, pack_value, unpack_value

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["pack_shared", "restore_future", "unpack_shared"]


def pack_shared(value: Any, session: Session, what: str, limit: int) -> tuple[bytes, list[str]]:
    """A value as bytes, and the keys of the futures in it.

    :param what: names the value in errors.
    :param limit: how many bytes it may have.
    :raises NotSerializableError: it cannot be pickled.
    :raises UserError: it is too big, or there is a future of another client in it.
    """
    found: dict[str, Future[Any]] = {}

    def stand_in(obj: Any) -> Any:
        if not isinstance(obj, Future):
            return NotImplemented
        _check(obj, session)
        found[obj.key] = obj
        return restore_future, (obj.key,)

    try:
        data = pack_value(value) if type(value) in SCALARS else dump(value, stand_in=stand_in)
    except UserError:
        raise
    except Exception as error:
        raise NotSerializableError(f"{what} cannot be pickled ({brief(error)}); it is a {_kind(value)}") from None
    if len(data) > limit:
        raise UserError(
            f"{what} (a {_kind(value)}) has {len(data):,} bytes, and only {limit:,} may pass through the scheduler. "
            "Leave the data on a worker and pass a future of it: client.scatter(value)."
        )
    return data, list(found)


def unpack_shared(data: bytes, keys: Sequence[str], session: Session) -> Any:
    """The value of :func:`pack_shared`, with futures of this client."""
    if not keys:
        return unpack_value(data)
    before = _here.session, _here.made
    _here.session, _here.made = session, []
    try:
        value = unpack_value(data)
        made = _here.made
    finally:
        _here.session, _here.made = before
    session.ship(made, [("want", list(dict.fromkeys([future.key for future in made])))])
    return value


def restore_future(key: str) -> Future[Any]:
    """What a future is unpickled to."""
    session = _here.session
    if session is None:
        raise UserError(f"the future of {key!r} can only be read by a client, as a part of what another one has shared")
    future: Future[Any] = Future(key, session)
    _here.made.append(future)
    return future


class _Here(threading.local):
    """For whom the running thread unpickles, and the futures that it has made for it."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.made: list[Future[Any]] = []


_here = _Here()


def _check(future: Future[Any], session: Session) -> None:
    if future._session is not session:
        raise UserError(f"{future!r} belongs to another client, {future._session.ident}; share it from there")
    if future._released or future.cancelled():
        raise UserError(f"{future!r} was released or cancelled: there is nothing to share")


def _kind(value: Any) -> str:
    return type(value).__name__
