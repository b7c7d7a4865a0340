"""The scheduler as a process: how it starts, what it says, and how it ends."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from treadle.deploy.child import SchedulerProcess
from treadle.net.dial import blocking_call
from treadle.net.loops import new_event_loop
from treadle.net.secret import new_token

TOKEN = new_token()


@contextmanager
def treadle_command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process, with its standard error to be read."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TREADLE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "treadle", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, **environment},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def treadle_scheduler(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A scheduler in the foreground of another process, and its address."""
    with treadle_command("scheduler", "--port", "0", *arguments, TREADLE_TOKEN=TOKEN.decode()) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " INFO scheduler listens on tcp 127.0.0.1:" in line
        yield process, line.split(" tcp ")[1].split(",")[0]


def visit(address: str) -> None:
    """Connect, say nothing of interest, and go when the scheduler has understood it."""
    died: tuple[Any, ...] = ("died", "nobody", 1, -9, [], "here", "")
    blocking_call(address, role="supervisor", ident="", token=TOKEN, messages=[died])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(number: signal.Signals) -> None:
    with treadle_scheduler() as (process, address):
        visit(address)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "WARNING worker nobody died: its process 1 ended with status -9" in err
        assert f"INFO scheduler ends: the scheduler was ended by {number.name}" in err
        assert "Traceback" not in err


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with treadle_command("scheduler", "--port", str(port), TREADLE_TOKEN=TOKEN.decode()) as process:
            _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == (
        f"Error: the address 127.0.0.1:{port} is in use by another program; "
        "choose another --port, or 0 for any free one\n"
    )


def test_without_a_token_it_does_not_open_to_the_network() -> None:
    with treadle_command("scheduler", "--host", "0.0.0.0", "--port", "0") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("Error: 0.0.0.0 can be reached from other machines, so a token is needed")
    assert "--token-file" in err


def test_a_token_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(TOKEN)
    with treadle_scheduler("--host", "localhost", "--token-file", str(path)) as (_, address):
        visit(address)


def test_it_says_only_what_it_is_asked_to_say() -> None:
    with treadle_command("scheduler", "--port", "0", "--log-level", "error", TREADLE_TOKEN=TOKEN.decode()) as process:
        while not started(process.pid):
            pass
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def started(pid: int) -> bool:
    """Whether a process handles SIGTERM by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


class Parent:
    """Starts a scheduler as a local cluster does."""

    def __init__(self, **settings: Any) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
            self.process = SchedulerProcess(listener, {"log_level": "error", **settings}, TOKEN, self.events.put)


def test_whoever_connects_before_it_runs_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    parent = Parent()
    visit(parent.address)
    threads = threading.active_count()
    parent.process.close(30)
    assert parent.events.get() == {"event": "ended"}
    assert threading.active_count() < threads
    assert capfd.readouterr() == ("", "")


def test_one_that_does_not_end_is_ended() -> None:
    parent = Parent()
    visit(parent.address)
    os.kill(parent.process.pid, signal.SIGSTOP)
    parent.process.close(0.01)
    assert parent.events.get() == {"event": "ended"}


def test_one_that_cannot_start_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    parent = Parent(log_level="loud")
    assert parent.events.get() == {"event": "ended"}
    parent.process.close(30)
    assert "Unknown level: 'LOUD'" in capfd.readouterr().err


ORPHAN = """
    import os, signal, socket, sys
    from treadle.deploy.child import SchedulerProcess

    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = SchedulerProcess(listener, {"log_level": "info"}, b"token", lambda event: None)
    if os.fork() == 0:
        # A forked child lives on, and must not keep the scheduler alive with it.
        sys.stdin.read()
        os._exit(0)
    print(process.pid, flush=True)
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_when_its_parent_is_killed() -> None:
    script = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", dedent(ORPHAN)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with script:
        assert script.stdin is not None
        assert script.stdout is not None
        assert script.stderr is not None
        assert script.stdout.readline()
        assert script.wait(30) == -signal.SIGKILL
        lines = [script.stderr.readline() for _ in range(2)]
        assert "INFO scheduler listens on tcp" in lines[0]
        assert "INFO scheduler ends: the process that started it is gone" in lines[1]
        script.stdin.close()  # the forked child ends, and with it what the script had open
        assert script.stderr.read() == ""


def test_without_uvloop_the_loop_is_that_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    assert type(loop).__module__.startswith("asyncio.")
    loop.close()


def test_its_collector_leaves_the_old_objects_alone() -> None:
    code = """if True:
        import gc
        from treadle.scheduler.garbage import calm
        calm()
        print(gc.get_threshold()[2], gc.get_freeze_count())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    full, frozen = map(int, done.stdout.split())
    assert full > 10**9
    assert frozen > 1000


def test_it_needs_little() -> None:
    """So it starts quickly; and what cannot be reached cannot unpickle."""
    heavy = ["click", "rich", "numpy", "cloudpickle", "multiprocessing", "tblib", "psutil"]
    readers = ["treadle.graph", "treadle.wire.pickling", "treadle.wire.values", "treadle.local.processes.blob"]
    code = f"import sys, treadle.scheduler.process; print(sorted({{*{heavy}, *{readers}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
