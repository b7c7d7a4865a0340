"""Worker processes: where things run, how values travel, and what a script may do."""

from __future__ import annotations

import importlib
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Script, finish

import treadle.multiprocessing
from treadle.local.processes import blob as blobs
from treadle.local.processes.blob import SEGMENT_THRESHOLD, Blob, dumps, loads
from treadle.local.processes.channel import MAX_FDS, Channel
from treadle.local.processes.failures import pack_error, unpack_error
from treadle.local.processes.pool import shared_pool
from treadle.testing.tasks import Boom, OddInit, Recorder, inc, meet, pipes, same, total

get = partial(treadle.multiprocessing.get, num_workers=2)
one = partial(treadle.multiprocessing.get, num_workers=1)


# Where tasks run


def pid(*_: Any) -> int:
    return os.getpid()


def meet_and_tell(ours: str, theirs: str) -> int:
    meet(ours, theirs)
    return os.getpid()


def test_tasks_run_in_other_processes(tmp_path: Path) -> None:
    left, right = pipes(tmp_path, 2)
    graph = {"a": (meet_and_tell, left, right), "b": (meet_and_tell, right, left)}
    first, second = get(graph, ["a", "b"])
    assert len({first, second, os.getpid()}) == 3
    assert {first, second} <= {member.pid for member in shared_pool()._idle}


def test_processes_are_kept_between_runs() -> None:
    pids = {one({"a": (pid,)}, "a") for _ in range(5)}
    assert len(pids) == 1


def test_processes_follow_the_caller_to_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = {"where": (os.getcwd,)}
    assert treadle.multiprocessing.get(graph, "where") == os.getcwd()
    monkeypatch.chdir(tmp_path)
    assert treadle.multiprocessing.get(graph, "where") == str(tmp_path.resolve())


def test_processes_follow_the_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    treadle.multiprocessing.get({"started": (os.getpid,)}, "started")
    (tmp_path / "module_of_the_day.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    answer = importlib.import_module("module_of_the_day").answer
    assert treadle.multiprocessing.get({"answer": (answer,)}, "answer") == 42


def test_no_more_processes_are_started_than_there_are_tasks() -> None:
    before = len(shared_pool()._idle)
    assert treadle.multiprocessing.get({"a": (inc, 1)}, "a", num_workers=50) == 2
    assert len(shared_pool()._idle) == max(before, 1)


def test_tasks_run_in_the_main_thread() -> None:
    graph = {"a": (lambda: threading.current_thread() is threading.main_thread(),)}
    assert one(graph, "a") is True


def test_hashes_mean_the_same_in_every_process(tmp_path: Path) -> None:
    def meet_and_hash(ours: str, theirs: str) -> int:
        meet(ours, theirs)
        return hash("a text")

    left, right = pipes(tmp_path, 2)
    first, second = get({"a": (meet_and_hash, left, right), "b": (meet_and_hash, right, left)}, ["a", "b"])
    assert first == second


def test_dependents_run_where_their_input_is() -> None:
    graph: dict[str, Any] = {"a": (bytearray, 5_000_000)}
    for index in range(5):
        graph[f"b{index}"] = (pid, "a" if index == 0 else f"b{index - 1}", "a")
    graph["where"] = (pid, "a")
    assert len(set(get(graph, [f"b{index}" for index in range(5)]))) == 1


def test_workers_forget_what_they_held() -> None:
    def held(*_: Any) -> int:
        from treadle.graph.node import STORE

        return len(STORE)

    graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(100)}
    graph["sum"] = (total, list(graph))
    one(graph, "sum")
    assert one({"held": (held,)}, "held") == 0
    # The input alone is left when its only user runs; a failed run leaves nothing either.
    assert one({"a": (bytes, 2_000_000), "b": (len, "a"), "c": (held, "b")}, "c") <= 2
    with pytest.raises(TypeError):
        one({"a": (bytes, 2_000_000), "b": (inc, "a")}, "b")
    assert one({"held": (held,)}, "held") == 0


def test_an_idle_process_takes_over_what_a_busy_one_has_not_started(tmp_path: Path) -> None:
    """A task that was sent behind one that waits for it would never run."""
    left, right = pipes(tmp_path, 2)

    def maybe_meet(index: int) -> int:
        if index == 40:
            meet(left, right)
        if index == 41:
            meet(right, left)
        return index

    graph = {("x", i): (maybe_meet, i) for i in range(200)}
    assert get(graph, list(graph)) == list(range(200))


# Values


def change(array: Any, ours: list[str], theirs: list[str]) -> float:
    """Change an array while another process does the same to the same input."""
    meet(ours[0], theirs[0])
    array += 1
    meet(ours[1], theirs[1])
    return float(array[0])


@pytest.mark.parametrize("size", [10, SEGMENT_THRESHOLD])
@pytest.mark.parametrize("literal", [True, False])
def test_arrays_are_private_to_their_process(tmp_path: Path, size: int, literal: bool) -> None:
    names = pipes(tmp_path, 4)
    ours = numpy.zeros(size)
    graph: dict[str, Any] = {
        "x": ours if literal else (numpy.zeros, size),
        "a": (change, "x", names[:2], names[2:]),
        "b": (change, "x", names[2:], names[:2]),
    }
    assert get(graph, ["a", "b"]) == [1, 1]
    assert ours[0] == 0


@pytest.mark.parametrize("size", [SEGMENT_THRESHOLD - 1, SEGMENT_THRESHOLD, 3 * SEGMENT_THRESHOLD + 5])
def test_big_buffers_go_through_shared_memory(size: int) -> None:
    array = numpy.arange(size, dtype="u1")
    blob = dumps([array, "x", array[:7]])
    assert (blob.fd >= 0) == (size + 7 >= SEGMENT_THRESHOLD)
    assert blob.nbytes > size
    assert ("in shared memory" in repr(blob)) == (blob.fd >= 0)
    for _ in range(2):
        copy, text, part = loads(blob)
        assert text == "x"
        assert numpy.array_equal(copy, array)
        assert numpy.array_equal(part, array[:7])
        copy[:] = 0
    assert dumps(array, in_band=True).fd == -1
    blob.close()
    blob.close()


def test_objects_of_several_buffers_may_be_read_without_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [numpy.full(SEGMENT_THRESHOLD + index, index, "u1") for index in range(3)]
    blob = dumps(arrays)
    monkeypatch.setattr(blobs, "_MAX_MAPS", 0)
    assert all(map(numpy.array_equal, loads(blob), arrays))
    blob.absorb()
    assert blob.fd == -1
    assert all(map(numpy.array_equal, loads(blob), arrays))


def test_what_one_process_cannot_import_is_pickled_by_value(script: Script) -> None:
    """A script without a guard: functions, classes, and exceptions of its own, in tasks and in results."""
    out = finish(
        script(
            """
            import sys
            import treadle.multiprocessing
            from treadle.multiprocessing import get

            OFFSET = 10

            class Point:
                def __init__(self, x):
                    self.x = x

                def __eq__(self, other):
                    return isinstance(other, Point) and self.x == other.x

            class Broken(Exception):
                def __init__(self, point, *, why):
                    super().__init__(why)
                    self.point = point

            def shift(x):
                return Point(x + OFFSET)

            def move(point):
                assert isinstance(point, Point)
                return Point(point.x + 1)

            def fail(point):
                raise Broken(point, why="because")

            def main(point):
                return [point, shift, (lambda: point)()]

            graph = {"a": (shift, 1), "b": (move, "a"), "c": (lambda p: p.x, "b"), "d": (main, "b"), "e": (fail, "b")}
            assert get(graph, "c") == 12
            point, function, again = get(graph, "d")
            assert type(point) is Point and point == again == Point(12)
            assert function(0) == Point(10)
            try:
                get(graph, "e")
            except Broken as error:
                assert error.args == ("because",) and error.point == Point(12)
                lines = []
                traceback = error.__traceback__
                while traceback:
                    lines.append(traceback.tb_frame.f_code.co_name)
                    traceback = traceback.tb_next
                assert lines == ["<module>", "get", "fail"], lines
            else:
                raise AssertionError
            print("done")
            """
        )
    )
    assert out == "done\n"


def test_what_tasks_print_comes_before_their_results(script: Script) -> None:
    out = finish(
        script(
            """
            import treadle.multiprocessing

            def hello(name):
                print("hello", name)

            treadle.multiprocessing.get({"a": (hello, "task")}, "a", num_workers=1)
            print("hello caller", flush=True)
            try:
                treadle.multiprocessing.get({"a": (lambda: print("hello failure") or 1 / 0,)}, "a", num_workers=1)
            except ZeroDivisionError:
                print("caught")
            """,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    )
    assert out == "hello task\nhello caller\nhello failure\ncaught\n"


def test_modules_beside_a_script_are_found(script: Script, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def triple(x):\n    return 3 * x\n")
    source = """
        import treadle.multiprocessing
        import beside
        print(treadle.multiprocessing.get({"a": (beside.triple, 2)}, "a"))
    """
    assert finish(script(source)) == "6\n"


def test_records_come_from_processes() -> None:
    recorder = Recorder()
    graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(100)}
    graph["sum"] = (total, list(graph))
    get(graph, "sum", callbacks=[recorder])
    names = {record.worker for record in recorder.records}
    assert all(name.startswith("process-") for name in names)
    assert [record.live for record in recorder.records] == [*range(1, 101), 1]


# Exceptions on their way


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_exceptions_that_hold_one_another() -> None:
    first, second = raised(Boom("first")), raised(OddInit(1, detail="second"))
    first.__context__, second.__context__ = second, first
    again = unpack_error(pack_error(first), "x")
    assert again.__context__ is not None
    assert again.__context__.__context__ is again
    assert type(again.__context__) is OddInit


class Doubling(Exception):
    """What its constructor makes of its argument is no argument for it."""

    def __init__(self, text: str) -> None:
        super().__init__(text + text)


class Slotted(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Slotted, (self.value,)


def test_exceptions_with_ways_of_their_own() -> None:
    assert unpack_error(pack_error(raised(Doubling("ab"))), "x").args == ("abab",)
    again: Any = unpack_error(pack_error(raised(Slotted(5))), "x")
    assert type(again) is Slotted
    assert again.value == 5
    array = raised(Boom(numpy.arange(3)))
    assert numpy.array_equal(unpack_error(pack_error(array), "x").args[0], [0, 1, 2])


# Messages


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left.setblocking(False)
    right.setblocking(False)
    channels = Channel(left), Channel(right)
    yield channels
    for channel in channels:
        channel.close()


def receive_all(channel: Channel) -> list[tuple[Any, list[int]]]:
    messages = []
    while more := channel.receive():
        messages.extend(more)
    return messages


def test_messages_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    for index in range(50):
        left.send(("number", index))
    assert receive_all(right) == [(("number", index), []) for index in range(50)]


def test_messages_bigger_than_the_socket_takes(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    fd = os.open(os.devnull, os.O_RDONLY)
    sent = [("blob", bytes([index]) * 400_000) for index in range(5)]
    for message in sent:
        left.send(message, [fd])
    os.close(fd)
    congested = left.congested
    assert congested
    received: list[tuple[Any, list[int]]] = []
    while len(received) < len(sent):
        received.extend(right.receive())
        left.flush()
    congested = left.congested
    assert not congested
    assert [message for message, _ in received] == sent
    for _, fds in received:
        (copy,) = fds
        os.close(copy)


def test_descriptors_come_with_their_message(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    files = [blobs.anonymous_file() for _ in range(MAX_FDS)]
    for index, fd in enumerate(files):
        os.write(fd, str(index).encode())
    left.send(("all",), files)
    left.send(("none",))
    left.send(("last",), files[-1:])
    (all_, first), none, (last, second) = receive_all(right)
    assert (all_, none, last) == (("all",), (("none",), []), ("last",))
    assert [os.pread(fd, 10, 0) for fd in first] == [str(index).encode() for index in range(MAX_FDS)]
    assert os.pread(second[0], 10, 0) == str(MAX_FDS - 1).encode()
    for fd in [*files, *first, *second]:
        os.close(fd)


def test_a_closed_connection_is_noticed(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send(("last",))
    left.close()
    assert right.receive() == [(("last",), [])]
    with pytest.raises(EOFError):
        right.receive()
    with pytest.raises(ConnectionError):
        right.send(("too late",))


def test_a_blob_travels_as_its_parts() -> None:
    fds: list[int] = []
    small, big = dumps(numpy.arange(5)), dumps(numpy.arange(SEGMENT_THRESHOLD))
    wires = [small.wire(fds), big.wire(fds), dumps(same).wire(fds)]
    assert fds == [big.fd]
    copies = [Blob.unwire(wire, [os.dup(fd) for fd in fds]) for wire in wires[1:2]]
    assert numpy.array_equal(loads(copies[0]), numpy.arange(SEGMENT_THRESHOLD))
    assert loads(Blob.unwire(wires[2], [])) is same
    assert numpy.array_equal(loads(Blob.unwire(wires[0], [])), numpy.arange(5))
