"""``treadle scheduler`` and ``treadle worker``, run as people run them: in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from treadle import cli, cli_cluster
from treadle.client.client import Client
from treadle.net.secret import new_token

TOKEN = new_token()


class Command:
    """A ``treadle`` command that runs, and what it has written to its standard error."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "treadle", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TREADLE_TOKEN": TOKEN.decode()},
        )

    def read_until(self, text: str) -> str:
        """Wait for a line; returns it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            print(line, end="")  # is shown if the test fails
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}")

    def finish(self) -> str:
        """Wait for a good end; returns what was said last."""
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return err


@contextmanager
def running(*arguments: str) -> Iterator[Command]:
    command = Command(*arguments)
    with command.process:
        try:
            yield command
        finally:
            command.process.kill()


@pytest.fixture
def site() -> Iterator[tuple[Command, str]]:
    """A scheduler and its address."""
    with running("scheduler", "--port", "0") as scheduler:
        line = scheduler.read_until("scheduler listens on tcp ")
        yield scheduler, line.split(" tcp ")[1].split(",")[0]


def test_workers_serve_a_client_and_leave_when_they_are_asked_to(site: tuple[Command, str]) -> None:
    scheduler, address = site
    options = ["--nworkers", "2", "--nthreads", "3", "--memory-limit", "1GB", "--resources", "GPU=1,disk=2.5"]
    with running("worker", address, *options, "--name", "anna") as worker:
        scheduler.read_until("joins, pid")
        assert "now 2 workers with 6 threads" in scheduler.read_until("joins, pid")
        with Client(address, set_as_default=False, token=TOKEN) as client:
            assert client.submit(pow, 2, 10, resources={"GPU": 1}).result() == 1024
            workers = client.scheduler_info()["workers"].values()
        assert sorted(each["name"] for each in workers) == ["anna-0", "anna-1"]
        for each in workers:
            assert (each["nthreads"], each["memory_limit"]) == (3, 10**9)
            assert each["resources"] == {"GPU": 1.0, "disk": 2.5}
        worker.process.send_signal(signal.SIGINT)
        assert "Traceback" not in worker.finish()
    scheduler.read_until("leaves: 1 worker with 3 threads left")
    scheduler.read_until("leaves: 0 workers with 0 threads left")


def test_workers_end_with_their_scheduler(site: tuple[Command, str]) -> None:
    scheduler, address = site
    with running("worker", address) as worker:
        scheduler.read_until("joins, pid")
        scheduler.process.terminate()
        scheduler.finish()
        assert "the scheduler said: the scheduler was ended by SIGTERM" in worker.finish()


def test_a_worker_that_dies_is_explained_and_replaced(site: tuple[Command, str]) -> None:
    scheduler, address = site
    with running("worker", address, "--name", "anna", "--nthreads", "1") as worker:
        pid = int(worker.read_until("worker anna: joined ").rpartition(" ")[2])
        os.kill(pid, signal.SIGKILL)
        scheduler.read_until(f"worker anna died: its process {pid} ended with status -9")
        scheduler.read_until("joins, pid")
        worker.process.terminate()
        assert f"the worker anna (pid {pid}) was ended by SIGKILL; another one is started" in worker.finish()


def invoke(*arguments: str, token: str = TOKEN.decode()) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, arguments, env={"TREADLE_TOKEN": token})
    return result.exit_code, result.output


def test_a_worker_waits_for_its_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle.errors import ConnectError
    from treadle.net import dial

    calls: list[str] = []

    def refuse_once(address: str, **options: Any) -> None:
        calls.append(address)
        if len(calls) == 1:
            raise ConnectError(address, "nobody listens there")

    monkeypatch.setattr(cli_cluster, "_PAUSE", 0.0)
    monkeypatch.setattr(dial, "blocking_call", refuse_once)
    monkeypatch.setattr(cli_cluster, "_keep_running", lambda supervisor, log_level: None)
    code, output = invoke("worker", "here")
    assert (code, calls) == (0, ["here:8786"] * 2)
    assert output == "Waiting 10 seconds for the scheduler: cannot connect to here:8786: nobody listens there\n"


def test_it_does_not_wait_for_ever() -> None:
    code, output = invoke("worker", "127.0.0.1:1", "--timeout", "0.01")
    assert code == 1
    assert output.splitlines()[-1].startswith("Error: cannot connect to 127.0.0.1:1: nobody listens there")


def test_a_wrong_token_is_told_once(site: tuple[Command, str]) -> None:
    _, address = site
    code, output = invoke("worker", address, token="wrong")
    assert code == 1
    assert output.startswith(f"Error: {address} refused this supervisor: the token is not that of this cluster")
    assert output.count("\n") == 1


def test_workers_that_cannot_join_are_an_error(site: tuple[Command, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = site
    monkeypatch.setattr("treadle.worker.supervisor.PAUSE", 0.0)
    monkeypatch.setattr("treadle.worker.spawn._BOOT", "raise SystemExit('no worker today')")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ExitStack() as restore:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            restore.callback(signal.signal, number, handler)
        code, output = invoke("worker", address, "--name", "anna")
    assert code == 1
    assert "Error: anna ended 5 times before it could join: no worker today" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["worker"], "Missing argument 'HOST[:PORT]'"),
        (["worker", "here:there"], "'here:there' is no address; write host:port"),
        (["worker", "here", "--nworkers", "0"], "'0' is neither a whole number of at least 1 nor 'auto'"),
        (["worker", "here", "--nthreads", "none"], "'none' is not a valid integer"),
        (["worker", "here", "--memory-limit", "much"], "'much' is not a number of bytes; write, for example, 4e9"),
        (["worker", "here", "--resources", "GPU"], "'GPU' is not NAME=AMOUNT; write, for example, GPU=1,disk=2.5"),
        (["worker", "here", "--resources", "GPU=-1"], "'GPU=-1' is not NAME=AMOUNT"),
        (["worker", "here", "--resources", "a=1,a=2"], "'a' is named twice"),
        (["worker", "here", "--timeout", "soon"], "'soon' is not a number of seconds above 0"),
        (["scheduler", "--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["scheduler", "--worker-timeout", "0"], "'0' is not a number of seconds above 0"),
        (["scheduler", "--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    code, output = invoke(*arguments)
    assert code == 2
    assert message in output


def test_a_token_file_that_cannot_be_used_is_named() -> None:
    for command in (["scheduler"], ["worker", "127.0.0.1"]):
        code, output = invoke(*command, "--token-file", "/no/such/file")
        assert code == 1
        assert output == "Error: the token file /no/such/file cannot be read: No such file or directory\n"
