"""A worker and those who know no pickle: functions by import path, values as msgpack."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_parts import DataClient, FakeScheduler, supervise

from treadle.wire import messages
from treadle.wire.failures import unpack_error
from treadle.wire.refusals import read_refusal
from treadle.wire.values import PICKLED, dump_plain, unpack_value

pack = msgspec.msgpack.encode

#: What a value is made of that msgpack tells from everything else.
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_a_plain_value_is_no_pickle_and_comes_back(value: Any) -> None:
    packed = dump_plain(value)
    assert packed[0] != PICKLED
    assert unpack_value(packed) == value


def test_what_msgpack_does_not_tell_apart_becomes_an_array() -> None:
    assert unpack_value(dump_plain([(1, {2}), frozenset()])) == [[1, [2]], []]


@pytest.mark.parametrize("value", [1j, 2**64, object(), "\udce9", [print]])
def test_there_is_not_a_plain_form_of_everything(value: object) -> None:
    with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
        dump_plain(value)


def test_a_worker_needs_no_pickle() -> None:
    calls: list[tuple[str, str, Any]] = [
        ("sum", "operator:add", [1, 2]),
        ("list", "builtins:sorted", [[3, 1, 2]]),
        ("map", "builtins:dict", [[["a", {"b": None}]]]),
        ("number", "builtins:complex", [1, 2]),
    ]

    async def main() -> None:
        async with FakeScheduler() as scheduler:
            supervisor = supervise(scheduler)
            supervisor.start()
            try:
                worker = await scheduler.joined()
                functions = [(fid, path, pack(path)) for fid, (_, path, _) in enumerate(calls)]
                rows: list[Any] = [
                    (fid + 1, key, fid, fid, pack(args), [], 0) for fid, (key, _, args) in enumerate(calls)
                ]
                worker.send(("functions", functions), ("run", rows, []))
                done = 0
                while done < len(calls):
                    done += len((await worker.hears(messages.Finished)).rows)
                client = await DataClient.dial(worker.address, scheduler.token)
                keys = [key for key, _, _ in calls]
                answer, buffers = await client.ask(("fetch", 1, [*keys, "nothing"], True))
                assert answer.rows == [*[(key, 1) for key in keys], ("nothing", 0)]
                assert [unpack_value(each) for each in buffers[:3]] == [3, [1, 2, 3], {"a": {"b": None}}]
                refusal = read_refusal(buffers[3:])
                assert refusal is not None
                assert "objects of type complex is unsupported" in str(unpack_error(refusal, "number"))
                client.link.close()
            finally:
                await asyncio.get_running_loop().run_in_executor(None, supervisor.stop)

    asyncio.run(main())
