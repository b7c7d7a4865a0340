"""Failures with real processes: deaths, interrupts, limits, and ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, finish

import treadle
import treadle.multiprocessing
from treadle.callbacks import Callback, TaskRecord
from treadle.errors import PeerError, WorkerDiedError
from treadle.local.processes.pool import ProcessPool, shared_pool
from treadle.testing.tasks import inc, linger, meet, pipes, total

get = partial(treadle.multiprocessing.get, num_workers=2)


def works() -> bool:
    """True if both processes of the pool do what they should."""
    graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(50)}
    graph["sum"] = (total, list(graph))
    return bool(get(graph, "sum") == 1275) and not shared_pool()._lent


# Processes that die


def die(how: str, *args: Any) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@pytest.mark.parametrize("how", ["killed", "exit"])
def test_the_task_that_ran_is_named(how: str) -> None:
    with pytest.raises(WorkerDiedError) as caught:
        get({"before": (inc, 1), "bad": (die, how, "before"), "after": (inc, "bad")}, "after")
    error = caught.value
    assert isinstance(error, PeerError)
    assert error.keys == ["bad"]
    assert error.pid not in {member.pid for member in shared_pool()._idle}
    assert (error.exitcode, error.signal) == ((-9, 9) if how == "killed" else (3, None))
    assert ("was ended by SIGKILL" if how == "killed" else "exited with status 3") in str(error)
    assert "while it ran 'bad'" in str(error)
    assert ("out of memory" in str(error)) == (how == "killed")
    assert works()


def die_at(index: int, bad: int) -> int:
    if index == bad:
        os._exit(3)
    return index


@pytest.mark.parametrize("bad", [0, 7, 150, 299])
def test_tasks_in_the_same_batch_are_innocent(bad: int) -> None:
    graph = {("x", i): (die_at, i, bad) for i in range(300)}
    with pytest.raises(WorkerDiedError) as caught:
        get(graph, list(graph))
    assert caught.value.keys == [("x", bad)]
    assert works()


def die_after(ours: str, theirs: str) -> None:
    meet(ours, theirs)
    os._exit(3)


def test_tasks_in_other_processes_are_innocent_and_waited_for(tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    done = tmp_path / "done"
    with pytest.raises(WorkerDiedError) as caught:
        get({"slow": (linger, one, two, str(done)), "bad": (die_after, two, one)}, ["slow", "bad"])
    assert caught.value.keys == ["bad"]
    assert done.exists()
    assert works()


def test_the_only_process_dies() -> None:
    with pytest.raises(WorkerDiedError) as caught:
        treadle.multiprocessing.get({"a": (inc, 1), "bad": (die, "exit", "a")}, "bad", num_workers=1)
    assert caught.value.keys == ["bad"]
    assert works()


def test_idle_processes_that_died_are_replaced() -> None:
    assert works()
    victims = [member.pid for member in shared_pool()._idle]
    assert len(victims) >= 2
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert works()
    assert not {member.pid for member in shared_pool()._idle}.intersection(victims)


class KillBeforeStart(Callback):
    """Kills stopped processes once they have been given tasks: so late may the death of an idle one be noticed."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def before(self, key: Any, worker: str) -> None:
        while self.pids:
            os.kill(self.pids.pop(), signal.SIGKILL)


def test_processes_that_die_before_they_start_anything_are_replaced() -> None:
    assert works()
    victims = [member.pid for member in shared_pool()._idle]
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(50)}
    graph["sum"] = (total, list(graph))
    with KillBeforeStart(list(victims)):
        assert get(graph, "sum") == 1275
    assert not {member.pid for member in shared_pool()._idle}.intersection(victims)
    assert works()


def test_processes_that_cannot_start_are_not_replaced_for_ever(script: Script, tmp_path: Path) -> None:
    (tmp_path / "pickle.py").write_text("import os; os._exit(7)")
    source = """
        import sys
        import treadle.multiprocessing

        treadle.multiprocessing.get({"a": (abs, 1)}, "a", num_workers=1)
        from treadle.local.processes.pool import shared_pool
        shared_pool().close()
        sys.path.insert(0, sys.argv[1])
        try:
            treadle.multiprocessing.get({"a": (abs, 1)}, "a", num_workers=1)
        except treadle.errors.WorkerDiedError as error:
            print(error.exitcode, error.keys)
    """
    folder = tmp_path / "scripts"
    folder.mkdir()
    assert finish(script(source, tmp_path, folder=folder)) == "7 []\n"


class Killer(Callback):
    """Kills the process that has run the n-th task, or another one."""

    def __init__(self, count: int, other: bool) -> None:
        self.count = count
        self.other = other
        self.victims: list[int] = []

    def after(self, record: TaskRecord, result: Any) -> None:
        self.count -= 1
        if self.count == 0:
            pids = {member.name: member.pid for member in shared_pool()._lent}
            pid = next(pid for name, pid in pids.items() if (name != record.worker) == self.other)
            self.victims.append(pid)
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("count", [1, 2, 10, 99, 150, 399, 400])
def test_a_process_is_killed_from_outside(count: int, other: bool) -> None:
    graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(200)}
    graph.update({("y", i): (total, [("x", i), ("x", (7 * i) % 200)]) for i in range(199)})
    graph["sum"] = (total, [("y", i) for i in range(199)])
    expected = treadle.get(graph, "sum", "sync")
    killer = Killer(count, other)
    died: list[WorkerDiedError] = []
    try:
        assert get(graph, "sum", callbacks=[killer]) == expected
    except WorkerDiedError as error:
        died.append(error)
    for death in died:
        assert (death.pid, death.signal) == (killer.victims[0], signal.SIGKILL)
        assert len(death.keys) <= 1
        assert set(death.keys) <= set(graph)
    assert len(killer.victims) == 1
    assert works()


def test_a_forked_child_does_not_hide_the_death_of_a_process(script: Script, tmp_path: Path) -> None:
    (path,) = pipes(tmp_path, 1)
    process = script(
        """
        import os, signal, sys
        import treadle.multiprocessing

        def fork_and_die():
            if os.fork():
                os._exit(3)
            signal.alarm(60)  # should the test fail
            with open(sys.argv[1], "rb") as pipe:
                pipe.read()
            os._exit(0)

        def bind(path):
            sys.argv[1:] = [path]

        try:
            graph = {"a": (bind, sys.argv[1]), "b": (lambda _: fork_and_die(), "a")}
            treadle.multiprocessing.get(graph, "b", num_workers=1)
        except treadle.errors.WorkerDiedError as error:
            assert error.keys == ["b"]
            print("noticed")
        """,
        path,
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "noticed\n"
    with open(path, "wb"):
        pass  # lets the grandchild go
    finish(process)


# Interrupts

INTERRUPTED = """
    import os, signal, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    import treadle

    scheduler, path = sys.argv[1:]
    released = threading.Event()
    pool = ThreadPoolExecutor(2)
    options = {"pool": pool} if scheduler == "pool" else {"scheduler": scheduler}

    def long(path):
        os.write(os.open(path, os.O_WRONLY), b"x")
        released.wait(60)

    def interrupt():
        # The descriptor of the task stays open for as long as its process lives.
        os.read(os.open(path, os.O_RDONLY), 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        treadle.get({"x": (long, path), "y": (len, "x")}, "y", **options)
    except KeyboardInterrupt as error:
        print("interrupted", threading.current_thread() is threading.main_thread())
    thread.join()
    print(treadle.get({"x": (abs, -1), "y": (abs, "x")}, "y", **options))
    released.set()
"""


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "pool"])
def test_interrupt(script: Script, tmp_path: Path, scheduler: str) -> None:
    (path,) = pipes(tmp_path, 1)
    # "released" is a lock, which does not travel: a process gets an event of its own, that nobody sets.
    source = INTERRUPTED.replace(
        "released.wait", "threading.Event().wait" if scheduler == "processes" else "released.wait"
    )
    assert finish(script(source, scheduler, path)) == "interrupted True\n1\n"
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        os.set_blocking(pipe.fileno(), True)
        assert pipe.read() == b""  # nobody holds the other end


INTERRUPT_ANYWHERE = """
    import linecache, os, sys
    import treadle, treadle.sync
    from treadle.callbacks import Callback

    assert sys.argv[1] in ("plain", "hooked")
    callbacks = [Callback()] if sys.argv[1] == "hooked" else []
    graph = {"a": (abs, -1), "b": (abs, "a"), "c": (max, "a", "b")}
    hits = 0
    for moment in range(1, 2000):
        count = 0

        def trace(frame, event, arg):
            global count
            if f"{os.sep}treadle{os.sep}" not in frame.f_code.co_filename:
                return None
            # The line of a "with" comes once more just before its end, where no interrupt is looked for.
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            if event == "line" and not line.startswith("with "):
                count += 1
                if count == moment:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            treadle.sync.get(graph, "c", callbacks=callbacks)
        except KeyboardInterrupt:
            hits += 1
        finally:
            sys.settrace(None)
        assert treadle.sync.get(graph, "c", callbacks=callbacks) == 1
        assert treadle.get(graph, "c", num_workers=2) == 1
        if count < moment:
            break
    else:
        raise AssertionError("it never came to an end")
    assert hits > 50, hits
"""


@pytest.mark.parametrize("kind", ["plain", "hooked"])
def test_interrupts_between_tasks(script: Script, kind: str) -> None:
    """Wherever an interrupt falls, it reaches the caller as itself, and the next run works."""
    finish(script(INTERRUPT_ANYWHERE, kind))


# Limits, forks, threads, ends


def test_few_file_descriptors(script: Script) -> None:
    finish(
        script(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
            import numpy, os
            import treadle.multiprocessing

            def ones(index):
                return numpy.full(300_000, index % 100, "u1")

            def first(arrays):
                return [int(array[0]) for array in arrays]

            graph = {("x", i): (ones, i) for i in range(400)}
            keys = list(graph)
            results = treadle.multiprocessing.get(graph, keys, num_workers=2)
            assert first(results) == [i % 100 for i in range(400)]
            # All to one place, some of them through the parent; and as many literals.
            graph["all"] = (first, keys)
            assert treadle.multiprocessing.get(graph, "all", num_workers=2) == first(results)
            literals = {("x", i): array for i, array in enumerate(results)}
            literals["all"] = (first, keys)
            assert treadle.multiprocessing.get(literals, "all", num_workers=2) == first(results)
            assert treadle.multiprocessing.get({**literals, "b": (first, list(keys))}, ["all", "b"], num_workers=2)
            # There are still some left for others.
            files = [open(os.devnull) for _ in range(50)]
            for file in files:
                file.close()
            """
        )
    )


@pytest.mark.parametrize("blocking", [False, True])
def test_few_file_descriptors_may_be_on_their_way(script: Script, blocking: bool) -> None:
    """Except for privileged users, those that were sent and not yet received count for the limit, too."""
    finish(
        script(
            """
            import os, resource, socket, sys, threading
            from treadle.local.processes.channel import MAX_FDS, Channel

            resource.setrlimit(resource.RLIMIT_NOFILE, (4 * MAX_FDS, 4 * MAX_FDS))
            left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            left.setblocking(sys.argv[1] == "True")
            sender, receiver = Channel(left), Channel(right)
            fd = os.open(os.devnull, os.O_RDONLY)

            def send():
                for index in range(10):
                    sender.send((index,), [fd] * MAX_FDS)
                    while sender.congested:
                        sender.flush()

            thread = threading.Thread(target=send)
            thread.start()
            received = []
            while len(received) < 10:
                for (index,), fds in receiver.receive():
                    assert len(fds) == MAX_FDS
                    received.append(index)
                    for copy in fds:
                        os.close(copy)
            thread.join()
            assert received == list(range(10))
            """,
            blocking,
        )
    )


def test_a_forked_child_runs_graphs(script: Script) -> None:
    finish(
        script(
            """
            import os
            import treadle

            graph = {("x", i): (abs, i) for i in range(20)}
            graph["sum"] = (sum, list(graph))

            def check():
                for scheduler in ("sync", "threads", "processes"):
                    assert treadle.get(graph, "sum", scheduler, num_workers=2) == 190

            check()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    check()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            check()
            """,
            env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        )
    )


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_several_threads_run_graphs_at_once(scheduler: str) -> None:
    barrier = threading.Barrier(6)
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        graph: dict[Any, Any] = {("x", i): (inc, i * number) for i in range(100)}
        graph["sum"] = (total, list(graph))
        barrier.wait()
        results[number] = [treadle.get(graph, "sum", scheduler, num_workers=2) for _ in range(3)]

    workers = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert results == {number: [4950 * number + 100] * 3 for number in range(6)}
    assert not shared_pool()._lent


HOLDING = """
    import os, sys, threading
    import treadle.multiprocessing

    def hold(path, ours, theirs):
        # Open for as long as this process lives.
        os.write(os.open(path, os.O_WRONLY), b"x")
        for name, mode in sorted([(ours, "wb"), (theirs, "rb")]) if ours < theirs else [(theirs, "rb"), (ours, "wb")]:
            open(name, mode).close()

    path, one, two, kind = sys.argv[1:]
    if kind == "busy":
        last = lambda *_: threading.Event().wait()
    else:
        last = lambda *_: 1
    graph = {"a": (hold, path, one, two), "b": (hold, path, two, one), "c": (last, "a", "b")}

    def run():
        treadle.multiprocessing.get(graph, "c", num_workers=2)
"""


def held(path: str) -> Iterator[None]:
    """Yields when both workers of :data:`HOLDING` have opened the pipe; goes on when both have ended."""
    with open(path, "rb") as pipe:
        assert pipe.read(1) == b"x"
        assert pipe.read(1) == b"x"
        yield
        assert pipe.read() == b""


def test_exit_with_idle_processes(script: Script, tmp_path: Path) -> None:
    path, one, two = pipes(tmp_path, 3)
    process = script(HOLDING + "\n    run()\n", path, one, two, "idle")
    for _ in held(path):
        finish(process)


def test_exit_while_a_daemon_thread_runs_a_graph(script: Script, tmp_path: Path) -> None:
    path, one, two = pipes(tmp_path, 3)
    main = "\n    threading.Thread(target=run, daemon=True).start()\n    sys.stdin.read()\n"
    process = script(HOLDING + main, path, one, two, "busy")
    for _ in held(path):
        finish(process)


def test_a_killed_parent_leaves_no_process(script: Script, tmp_path: Path) -> None:
    path, one, two = pipes(tmp_path, 3)
    process = script(HOLDING + "\n    run()\n", path, one, two, "busy")
    for _ in held(path):
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_pool_that_is_closed_has_no_processes() -> None:
    pool = ProcessPool()
    members = pool.lease(2)
    pool.give_back(members)
    assert all(member.alive() for member in members)
    pool.close()
    assert not any(member.alive() for member in members)
    assert pool._idle == []
