"""What this worker tells of itself to clients that ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from treadle.net.link import Link
from treadle.versions import own_versions
from treadle.wire.messages import Call
from treadle.wire.values import pack_value, unpack_value
from treadle.worker.calling import CallServer
from treadle.worker.calls import failure
from treadle.worker.profiling import Profiler

__all__ = ["answer_surveys"]


def answer_surveys(calls: CallServer, profiler: Profiler) -> None:
    """Have calls answered that ask for versions and for the profile of this process."""
    calls.register("versions", partial(_answer, own_versions))
    calls.register("profile", partial(_answer, lambda span: profiler.samples(*span)))


def _answer(respond: Callable[[Any], Any], link: Link, call: Call, parts: list[memoryview]) -> None:
    try:
        answer = pack_value(respond(unpack_value(call.packed)))
    except Exception as error:
        link.send([("reply", call.id, failure(error), 0, b"")])
        return
    link.send([("reply", call.id, None, 1, b"")], [answer])
