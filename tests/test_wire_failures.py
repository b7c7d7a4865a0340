"""Errors of tasks on their way to the client."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import pytest

from treadle.errors import DataLostError, KilledWorkerError, PeerError, ResultNotSerializableError
from treadle.testing.tasks import Boom, OddInit
from treadle.wire.failures import PackedError, pack_error, pack_refusal, unpack_error
from treadle.wire.messages import FROM_WORKER
from treadle.wire.values import pack_value


def raised(error: BaseException) -> BaseException:
    def task_of_the_user() -> None:
        raise error

    try:
        task_of_the_user()
    except BaseException as caught:
        return caught
    raise AssertionError


def received(error: PackedError) -> PackedError:
    """An error as the scheduler gets it."""
    import msgspec

    [failed] = FROM_WORKER.decode(msgspec.msgpack.encode([("failed", 1, 0.5, error)]))
    packed: PackedError = failed.error
    return packed


@pytest.mark.parametrize(
    "error", [ValueError("bad", 1), Boom("no"), KeyError("k"), SystemExit(3), OddInit(1, detail="d")]
)
def test_an_exception_arrives_with_its_traceback_and_the_key(error: BaseException) -> None:
    packed = received(pack_error(raised(error)))
    assert packed[0] == "raised"
    assert "task_of_the_user" in packed[2]
    again = unpack_error(packed, "the key")
    assert type(again) is type(error)
    assert again.args == error.args
    assert "task_of_the_user" in "".join(traceback.format_tb(again.__traceback__))
    assert vars(again)["__notes__"] == ["while running task 'the key'"]


def test_the_note_names_the_task_that_failed() -> None:
    again = unpack_error(pack_error(raised(ValueError())), "asked for", "culprit")
    assert vars(again)["__notes__"] == ["while running task 'culprit'"]


def test_causes_and_contexts_arrive() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))
    again = unpack_error(received(pack_error(raised(error))), "k")
    assert isinstance(again.__cause__, KeyError)


def test_an_exception_that_cannot_be_pickled_is_refused() -> None:
    packed = received(pack_error(raised(ValueError(threading.Lock()))))
    assert packed[:2] == ("refused", b"")
    again = unpack_error(packed, "k", "culprit")
    assert isinstance(again, ResultNotSerializableError)
    assert again.key == "culprit"
    assert "exception ValueError(<unlocked _thread.lock" in str(again)
    assert "task_of_the_user" in str(again)


def test_a_result_that_cannot_be_pickled_is_refused() -> None:
    again = unpack_error(received(pack_refusal("result of type lock", TypeError("cannot pickle"))), "k")
    assert isinstance(again, ResultNotSerializableError)
    assert (again.key, again.type_name, again.reason) == ("k", "result of type lock", "TypeError: cannot pickle")


def test_a_task_that_killed_its_workers() -> None:
    info = {"key": "k", "deaths": 3, "exitcode": -9, "host": "h", "pid": 4, "log": "last words", "worker": "w"}
    again = unpack_error(received(("died", b"", "", info)), "k")
    assert isinstance(again, KilledWorkerError)
    assert (again.deaths, again.signal, again.host, again.pid, again.log) == (3, 9, "h", 4, "last words")
    unseen = unpack_error(("died", b"", "", {"deaths": 3}), "k")
    assert isinstance(unseen, KilledWorkerError)
    assert unseen.exitcode is None
    assert not unseen.away


def test_a_task_that_was_away_when_its_workers_were_killed() -> None:
    info = {"key": "k", "deaths": 10, "exitcode": -9, "host": "h", "pid": 4, "log": "", "worker": "w", "away": True}
    again = unpack_error(received(("died", b"", "", info)), "k")
    assert isinstance(again, KilledWorkerError)
    assert (again.deaths, again.away) == (10, True)
    assert "10 workers died while it waited there, or was asynchronous; a task that it has submitted" in str(again)


def test_scattered_data_that_is_lost() -> None:
    again = unpack_error(received(("lost", b"", "", {"key": "x", "worker": "w"})), "k", "x")
    assert isinstance(again, DataLostError)
    assert (again.key, again.worker) == ("x", "w")


@pytest.mark.parametrize("blob", [b"\x80\x05garbage", b"\x80", pack_value([1, 2])])
def test_an_exception_that_cannot_be_read(blob: bytes) -> None:
    again = unpack_error(("raised", blob, "the traceback as text", {}), "k")
    assert isinstance(again, ResultNotSerializableError)
    assert "what was pickled cannot be read back" in str(again)
    assert "the traceback as text" in str(again)


def test_an_exception_of_another_language() -> None:
    again = unpack_error(received(("raised", b"", "panicked at main.rs", {})), "k")
    assert type(again) is PeerError
    assert str(again) == "the task 'k' failed:\npanicked at main.rs"


@pytest.mark.parametrize("info", [{}, {"deaths": "many", "exitcode": [], "what": 1}])
def test_errors_of_other_versions(info: dict[str, Any]) -> None:
    again = unpack_error(("eaten", b"", "by a bear", info), "k")
    assert type(again) is PeerError
    assert "'k'" in str(again)
    assert "(eaten): by a bear" in str(again)
    for kind in ("refused", "died", "lost"):
        assert str(unpack_error((kind, b"", "", info), "k"))
