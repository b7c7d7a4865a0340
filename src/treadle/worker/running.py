"""Calls of functions on this worker, outside of tasks: each in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from treadle.client.inside import here
from treadle.wire.failures import PackedError
from treadle.wire.parcels import pack_parcel, unpack_parcel
from treadle.worker.actors import Apart
from treadle.worker.calls import failure, refusal

if TYPE_CHECKING:
    from treadle.net.link import Link
    from treadle.wire.messages import Call
    from treadle.worker.calling import CallServer
    from treadle.worker.context import WorkerInfo

__all__ = ["RUN", "Running", "perform"]

#: The topic of these calls.
RUN: Final = "run"


class Running:
    """Calls functions for clients.

    :param worker: what functions with a parameter of the name ``worker`` are given.
    """

    def __init__(self, worker: WorkerInfo) -> None:
        self._worker: Final = worker

    def __repr__(self) -> str:
        return f"<Running on {self._worker!r}>"

    def open(self, calls: CallServer) -> None:
        """Take calls from now on."""
        calls.register(RUN, self._receive)

    def _receive(self, link: Link, call: Call, parts: list[memoryview]) -> None:
        Thread(target=self._run, args=(link, call, parts), name="treadle-run", daemon=True).start()

    def _run(self, link: Link, call: Call, parts: list[memoryview]) -> None:
        here.task = Apart(call.target, self._worker)
        value, error = perform(call.packed, parts, "worker", self._worker)
        packed = b""
        buffers: list[Any] = []
        if error is None:
            try:
                packed, buffers = pack_parcel(value)
            except Exception as reason:
                error = refusal(value, reason)
        link.send([("reply", call.id, error, len(buffers), packed)], buffers)


def perform(packed: bytes, parts: Sequence[Any], name: str, given: Any) -> tuple[Any, PackedError | None]:
    """What a call returns, or why it does not: that of a function, or of a coroutine function.

    :param packed: the function, its arguments and its keyword arguments, with ``parts`` a parcel.
    :param name: of a parameter that is ``given``, if the function has it and the caller has not set it.
    """
    try:
        func, args, kwargs = unpack_parcel(packed, parts)
        if name not in kwargs and _takes(func, name, len(args)):
            kwargs = {**kwargs, name: given}
        value = func(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as raised:
        return None, failure(raised)
    return value, None


def _takes(func: Callable[..., Any], name: str, given: int) -> bool:
    """Whether a function has a parameter of this name that is not one of the first ``given`` ones."""
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):
        return False  # a builtin that does not tell
    parameter = parameters.get(name)
    if parameter is None:
        return False
    if parameter.kind is parameter.KEYWORD_ONLY:
        return True
    return parameter.kind is parameter.POSITIONAL_OR_KEYWORD and list(parameters).index(name) >= given
