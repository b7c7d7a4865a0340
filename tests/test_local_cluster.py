"""A cluster on this machine: how it starts, what it withstands, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Script, finish

from treadle import config
from treadle.client.client import Client
from treadle.config import ConfigError
from treadle.deploy.local import ClusterError, LocalCluster, NestedClusterError
from treadle.deploy.sizes import memory_of_each, parse_bytes, sizes, total_memory
from treadle.errors import AddressInUseError, ClosedError


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, 1, "1GB", {"GPU": 1}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def processes_of(cluster: LocalCluster) -> list[int]:
    scheduler = cluster._processes.scheduler
    assert scheduler is not None
    return [scheduler.pid, *(worker.pid for worker in cluster.workers)]


def wait_for_end(pids: Iterable[int]) -> None:
    """Return when none of the processes runs."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue  # it is over
        try:
            select.select([fd], [], [])
        finally:
            os.close(fd)


# Life


def test_it_is_ready_when_it_is_made(cluster: LocalCluster, client: Client) -> None:
    assert [worker.name for worker in cluster.workers] == ["local-0", "local-1"]
    assert len({worker.pid for worker in cluster.workers}) == 2
    assert cluster.scheduler_address == cluster.address
    info = client.scheduler_info()
    assert info["address"] == cluster.address
    assert set(info["workers"]) == {worker.ident for worker in cluster.workers}
    for worker in cluster.workers:
        told = info["workers"][worker.ident]
        assert (told["address"], told["nthreads"], told["memory_limit"]) == (worker.address, 1, 10**9)
        assert told["resources"] == {"GPU": 1.0}
    assert repr(cluster) == (
        f"<LocalCluster 'local' at {cluster.address}: 2 workers, threads of each: 1, memory: 1.0 GB>"
    )


def test_its_workers_run_tasks(cluster: LocalCluster, client: Client) -> None:
    pids = client.gather([client.submit(os.getpid, pure=False) for _ in range(4)])
    assert set(pids) <= {worker.pid for worker in cluster.workers}


def test_its_workers_are_where_the_program_is(client: Client) -> None:
    assert client.submit(os.getcwd).result() == os.getcwd()
    assert client.submit(lambda: sys.path).result() == sys.path


@pytest.mark.parametrize("which", [0, "local-1"])
def test_a_worker_that_dies_is_replaced(cluster: LocalCluster, client: Client, which: int | str) -> None:
    before = cluster.workers
    victim = cluster.kill_worker(which)
    assert victim in before
    assert victim not in cluster.workers
    cluster.wait_for_workers()
    (newcomer,) = set(cluster.workers) - set(before)
    assert newcomer.name == victim.name
    assert newcomer.pid != victim.pid
    assert client.submit(os.getpid, workers=newcomer.name, pure=False).result() == newcomer.pid


def test_who_is_to_be_killed_must_exist(cluster: LocalCluster) -> None:
    for nobody in (2, "bert"):
        with pytest.raises(ConfigError, match=f"there is no worker {nobody!r} in this cluster; there are: local-0, lo"):
            cluster.kill_worker(nobody)


def test_it_grows_and_shrinks(cluster: LocalCluster, client: Client) -> None:
    first, second = cluster.workers
    cluster.scale(3)
    assert [worker.name for worker in cluster.workers] == ["local-0", "local-1", "local-2"]
    assert len(client.scheduler_info()["workers"]) == 3
    pids = processes_of(cluster)
    cluster.scale(2)
    assert cluster.workers == [first, second]
    wait_for_end(set(pids) - set(processes_of(cluster)))
    with pytest.raises(ConfigError, match="n_workers must be a whole number of at least 0, not -1"):
        cluster.scale(-1)
    assert client.submit(pow, 2, 5).result() == 32


def test_a_cluster_may_have_no_workers_for_a_while() -> None:
    with LocalCluster(0) as cluster, Client(cluster, set_as_default=False) as client:
        future = client.submit(pow, 2, 6)
        assert cluster.workers == []
        cluster.scale(1)
        assert future.result() == 64


# The end


def test_nothing_is_left_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    cluster = LocalCluster(2, 1)
    pids = processes_of(cluster)
    assert len(pids) == 3
    cluster.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    cluster.close()
    assert repr(cluster) == "<LocalCluster 'local', closed>"
    with pytest.raises(ClosedError, match="this cluster is closed"):
        cluster.scale(1)
    with pytest.raises(ClosedError), cluster:
        pass
    assert capfd.readouterr() == ("", "")


def test_it_ends_when_it_is_forgotten() -> None:
    cluster = LocalCluster(1, 1)
    pids = processes_of(cluster)
    del cluster
    gc.collect()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_task_that_does_not_end_ends_with_it() -> None:
    with LocalCluster(1, 1) as cluster:
        client = Client(cluster, set_as_default=False)
        reader, writer = os.pipe()
        path = f"/proc/{os.getpid()}/fd/{writer}"
        future = client.submit(write_and_hang, path)
        assert os.read(reader, 1) == b"."
        assert not future.done()
        os.close(reader)
        os.close(writer)
        pids = processes_of(cluster)
        client.close()
    wait_for_end(pids)


def write_and_hang(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(b".")
    select.select([], [], [])


def test_a_worker_that_does_not_listen_is_ended_by_force() -> None:
    cluster = LocalCluster(1, 1)
    pids = processes_of(cluster)
    cluster.kill_worker(0, signal.SIGSTOP)
    cluster.close(timeout=0.2)
    wait_for_end(pids)


def test_the_program_is_told_when_the_scheduler_is_gone() -> None:
    with LocalCluster(1, 1) as cluster:
        os.kill(processes_of(cluster)[0], signal.SIGKILL)
        with pytest.raises(ClusterError, match="the cluster has 0 workers where 2 were to be: its scheduler is gone"):
            cluster.scale(2)


# Programs that use it

PROGRAM = """
    import os, sys
    from treadle.client.client import Client
    from treadle.deploy.local import LocalCluster

    def double(x):
        return 2 * x

    cluster = LocalCluster(2, 1)
    client = Client(cluster)
    print(client.submit(double, 21).result(), flush=True)
    print(cluster._processes.scheduler.pid, *(worker.pid for worker in cluster.workers), flush=True)
"""


def test_a_script_needs_no_guard_and_closes_nothing(script: Script) -> None:
    answer, pids = finish(script(PROGRAM)).splitlines()
    assert answer == "42"
    wait_for_end(map(int, pids.split()))


def test_a_command_line_is_a_program_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", dedent(PROGRAM)], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("42\n")


def test_nothing_survives_a_program_that_is_killed(script: Script) -> None:
    process = script(PROGRAM + "    sys.stdin.read()\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "42\n"
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    process.kill()
    wait_for_end(pids)


def test_an_exception_ends_the_program_as_ever(script: Script) -> None:
    process = script(PROGRAM + "    raise RuntimeError('too bad')\n")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: too bad\n")
    wait_for_end(map(int, out.splitlines()[1].split()))


def test_modules_beside_the_script_are_found_and_the_directory_is_the_same(script: Script, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import os\ndef here():\n    return os.getcwd()\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = """
        from treadle.client.client import Client
        from treadle.deploy.local import LocalCluster
        import beside

        with LocalCluster(1, 1) as cluster, Client(cluster) as client:
            print(client.submit(beside.here).result())
    """
    assert finish(script(program, cwd=elsewhere)) == f"{elsewhere}\n"


def test_a_forked_child_leaves_the_cluster_alone(script: Script) -> None:
    program = """
        import os, sys
        from treadle.client.client import Client
        from treadle.deploy.local import LocalCluster

        cluster = LocalCluster(1, 1)
        child = os.fork()
        if child == 0:
            cluster.close()
            sys.exit(3)  # its exit handlers run too
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        with cluster, Client(cluster) as client:
            print(client.submit(pow, 2, 5).result())
    """
    assert finish(script(program, flags=["-W", "ignore::DeprecationWarning"])) == "32\n"


def test_a_main_module_that_processes_import_gets_one_clear_error(script: Script) -> None:
    program = """
        import multiprocessing
        from treadle.deploy.local import LocalCluster

        cluster = LocalCluster(1, 1)
        process = multiprocessing.get_context("spawn").Process(target=print)
        process.start()
        process.join()
        print(process.exitcode)
    """
    process = script(program)
    out, err = process.communicate(timeout=60)
    assert out == "1\n"
    assert err.count("NestedClusterError: ") == 1
    assert 'Start the cluster below `if __name__ == "__main__":`' in err


def test_a_task_cannot_start_a_cluster(client: Client) -> None:
    with pytest.raises(NestedClusterError, match="a task cannot start a cluster of its own"):
        client.submit(LocalCluster).result()


# Asynchronous programs


def test_asynchronous_code_waits_for_it() -> None:
    async def program() -> list[int]:
        async with LocalCluster(1, 1, asynchronous=True) as cluster:
            async with Client(cluster, asynchronous=True, set_as_default=False) as client:
                assert await client.submit(pow, 2, 7) == 128
            return processes_of(cluster)

    wait_for_end(asyncio.run(program()))


def test_an_asynchronous_cluster_is_not_used_before_it_is_started() -> None:
    async def program() -> None:
        cluster = LocalCluster(1, 1, asynchronous=True)
        assert repr(cluster) == "<LocalCluster 'local', not started>"
        with pytest.raises(ClosedError, match="not started yet; write `async with` or `await`"):
            cluster.kill_worker()
        with pytest.raises(ClosedError, match="started by `async with`, not by `with`"), cluster:
            pass
        assert await cluster is cluster
        assert len(cluster.workers) == 1
        await cluster.aclose()

    asyncio.run(program())


# Arguments


def test_logs_are_heard_when_they_are_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    LocalCluster(1, 1, name="loud", silence_logs=False).close()
    err = capfd.readouterr().err
    assert "INFO scheduler listens on tcp 127.0.0.1:" in err
    assert "INFO worker loud-0 (127.0.0.1:" in err
    assert "INFO scheduler ends: the cluster was closed" in err


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"the address 127.0.0.1:{port} is in use"):
            LocalCluster(1, 1, port=port)


def test_a_scheduler_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ClusterError, match="its scheduler is gone"):
        LocalCluster(1, 1)


def test_workers_that_do_not_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.worker.supervisor.PAUSE", 0.0)
    monkeypatch.setattr("treadle.worker.spawn._BOOT", "raise SystemExit('no worker today')")
    with pytest.raises(ClusterError, match=r"the cluster has 0 workers where 1 were to be: .* no worker today"):
        LocalCluster(1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_workers": -1}, "n_workers must be a whole number of at least 0, not -1"),
        ({"n_workers": 1.5}, "n_workers must be a whole number of at least 0, not 1.5"),
        ({"threads_per_worker": 0}, "threads_per_worker must be a whole number of at least 1, not 0"),
        ({"memory_limit": "4 apples"}, "'4 apples' is not a number of bytes; write, for example, 4e9, '4GB'"),
        ({"resources": {"GPU": -1}}, "a worker cannot have -1 of the resource 'GPU'"),
        (
            {"silence_logs": "loud"},
            "silence_logs must be True, False, or one of debug, info, warning, error, not 'loud'",
        ),
        ({"host": "no-such-host.invalid"}, "this machine cannot listen at no-such-host.invalid: "),
        ({"port": 70_000}, "70000 is no port"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalCluster(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cores", "shape"), [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (6, (3, 2)), (7, (7, 1)), (8, (4, 2)), (32, (8, 4))]
)
def test_all_cores_are_used(cores: int, shape: tuple[int, int]) -> None:
    with config.set(num_workers=cores):
        assert sizes() == shape
        assert sizes(3, 5) == (3, 5)
        assert sizes(1) == (1, cores)
        assert sizes(None, cores) == (1, cores)


def test_memory_is_read_as_people_write_it() -> None:
    given: list[str | float] = ["4GB", "512 MiB", "1.5k", "10", "7b", 0, 4e9, "2TiB"]
    assert [parse_bytes(each) for each in given] == [4 * 10**9, 2**29, 1500, 10, 7, 0, 4 * 10**9, 2**41]
    hopeless: list[str | float] = ["", "GB", "-1", "1e400", "4 XB", float("nan"), True]
    for wrong in hopeless:
        with pytest.raises(ConfigError, match="is not a number of bytes"):
            parse_bytes(wrong)
    assert memory_of_each(None, 4) == memory_of_each("auto", 4) == total_memory() // 4
    assert memory_of_each("1GB", 4) == 10**9
