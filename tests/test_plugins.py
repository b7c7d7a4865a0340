"""Plugins of workers and of the scheduler, on a real cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle import Client, LocalCluster, SchedulerPlugin, WorkerPlugin, get_worker
from treadle.errors import NotSerializableError, PluginError, UserError
from treadle.scheduler.plugins import CAPACITY, Runner
from treadle.testing.tasks import boom, eventually, inc


class Noting(WorkerPlugin):
    """Appends what happens to a file."""

    def __init__(self, path: Path, word: str = "") -> None:
        self.path = path
        self.word = word

    def note(self, *words: object) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(map(str, [self.word, *words])).strip() + "\n")

    def setup(self, worker: Any) -> None:
        self.note("setup", worker.name)

    def teardown(self, worker: Any) -> None:
        self.note("teardown", worker.name)


class Watching(Noting):
    def transition(self, key: str, start: str, finish: str, **info: Any) -> None:
        self.note(key, start, finish, *sorted(info))


class Slow(WorkerPlugin):
    """Takes until a file is there."""

    name = "slow"

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def setup(self, worker: Any) -> None:
        while not self.gate.exists():
            time.sleep(0.001)
        self.ready = True


class Failing(WorkerPlugin):
    name = "failing"

    def __init__(self, path: Path, where: str = "") -> None:
        self.path = path
        self.where = where

    def setup(self, worker: Any) -> None:
        if self.where in worker.name:
            raise LookupError(f"no GPU on {worker.name}")

    def teardown(self, worker: Any) -> None:
        (self.path / worker.name).touch()


class FailingLater(WorkerPlugin):
    name = "failing later"

    def transition(self, key: str, start: str, finish: str, **info: Any) -> None:
        raise RuntimeError("from the hook")

    def teardown(self, worker: Any) -> None:
        raise RuntimeError("from the teardown")


class Fatal(WorkerPlugin):
    name = "fatal"

    def setup(self, worker: Any) -> None:
        os._exit(3)


class Unreadable(WorkerPlugin):
    def __reduce__(self) -> Any:
        return int, ("no number",)


class Single(WorkerPlugin):
    name = "single"
    idempotent = True

    def __init__(self, number: int) -> None:
        self.number = number


def plugin_of_here(name: str) -> Any:
    plugin = get_worker().plugins.get(name)
    return None if plugin is None else plugin.__dict__


async def soon(x: int) -> int:
    await asyncio.sleep(0)
    return x


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, name="w") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def on(client: Client, worker: str, func: Any, *args: Any) -> Any:
    return client.submit(func, *args, workers=worker, pure=False).result()


# Of workers


def test_setup_and_teardown(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    assert client.register_plugin(Noting(notes), name="noting", timeout=30) == "noting"
    assert lines(notes) == ["setup w-0", "setup w-1"]
    assert on(client, "w-0", plugin_of_here, "noting") == {"path": notes, "word": ""}
    client.unregister_plugin("noting", timeout=30)
    assert on(client, "w-0", plugin_of_here, "noting") is None  # the task has waited for the teardown
    assert on(client, "w-1", plugin_of_here, "noting") is None
    assert lines(notes) == ["setup w-0", "setup w-1", "teardown w-0", "teardown w-1"]


def test_a_worker_that_joins_later_has_it_before_its_first_task(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with LocalCluster(n_workers=1, threads_per_worker=1, name="v") as cluster, Client(cluster) as client:
        client.register_plugin(Noting(notes), name="noting")
        cluster.scale(2)
        assert on(client, "v-1", plugin_of_here, "noting") is not None
        cluster.kill_worker("v-0")
        assert on(client, "v-0", plugin_of_here, "noting") is not None
    # A worker that ends tears down what it has.
    assert lines(notes) == ["setup v-0", "setup v-0", "setup v-1", "teardown v-0", "teardown v-1"]


def test_the_same_name_replaces(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    client.register_plugin(Noting(notes, "one"), name="noting")
    client.register_plugin(Noting(notes, "two"), name="noting")
    assert [line for line in lines(notes) if "w-0" in line] == ["one setup w-0", "one teardown w-0", "two setup w-0"]
    assert on(client, "w-1", plugin_of_here, "noting")["word"] == "two"
    client.unregister_plugin("noting")


def test_the_same_name_changes_nothing_if_it_is_idempotent(client: Client) -> None:
    client.register_plugin(Single(1))
    client.register_plugin(Single(2))
    assert on(client, "w-0", plugin_of_here, "single") == {"number": 1}
    client.unregister_plugin("single")


def test_a_plugin_without_a_name_is_not_there_twice(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    name = client.register_plugin(Noting(notes))
    assert name.startswith("Noting-")
    assert client.register_plugin(Noting(notes)) == name
    assert client.register_plugin(Noting(notes, "other")) != name
    for each in (name, client.register_plugin(Noting(notes, "other"))):
        client.unregister_plugin(each)


def test_tasks_wait_for_what_takes_long_and_the_client_as_long_as_it_says(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(concurrent.futures.TimeoutError):
        client.register_plugin(Slow(gate), timeout=0.01)
    later = [client.submit(plugin_of_here, "slow", workers=f"w-{i}", pure=False) for i in (0, 1)]
    with pytest.raises(concurrent.futures.TimeoutError):
        later[0].result(timeout=0.05)
    gate.touch()
    assert [future.result(timeout=30) for future in later] == [{"gate": gate, "ready": True}] * 2
    client.unregister_plugin("slow")


def test_a_plugin_that_raises_is_registered_nowhere(client: Client, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"'failing'.* 1 of 2 workers \(w-1\).*(\n.*)*no GPU on w-1") as caught:
        client.register_plugin(Failing(tmp_path, "w-1"))
    assert "in setup" in str(caught.value)
    assert list(caught.value.failures) == ["w-1"]
    assert isinstance(caught.value.__cause__, LookupError)
    assert on(client, "w-0", plugin_of_here, "failing") is None
    assert on(client, "w-1", plugin_of_here, "failing") is None
    assert os.listdir(tmp_path) == ["w-0"]  # torn down where it was set up
    with pytest.raises(UserError, match="there is no plugin 'failing'"):
        client.unregister_plugin("failing")


def test_a_plugin_that_ends_all_workers_is_not_sent_to_the_next_ones() -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        with pytest.raises(PluginError, match=r"'fatal' could not be set up on all workers(.*\n)*.*were gone before"):
            client.register_plugin(Fatal(), timeout=60)
        assert client.submit(inc, 1).result() == 2


def test_a_plugin_that_cannot_be_read_back(client: Client) -> None:
    class Local(Unreadable):
        name = "unreadable"

    with pytest.raises(PluginError, match="'unreadable' could not be set up on 2 of 2 workers"):
        client.register_plugin(Local())
    assert client.submit(inc, 1, pure=False).result() == 2


def test_wrong_arguments(client: Client) -> None:
    plugin: Any = Noting
    with pytest.raises(TypeError, match="pass an instance of the class"):
        client.register_plugin(plugin)
    plugin = WorkerPlugin()
    plugin.lock = threading.Lock()
    with pytest.raises(NotSerializableError, match="cannot be pickled"):
        client.register_plugin(plugin)
    number: Any = 5
    with pytest.raises(TypeError, match="name of a plugin must be a string"):
        client.register_plugin(WorkerPlugin(), name=number)
    with pytest.raises(TypeError, match="by its name"):
        client.unregister_plugin(number)
    with pytest.raises(UserError, match="there is no plugin 'nobody'; there are: "):
        client.unregister_plugin("nobody")


def test_transitions(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    client.register_plugin(Watching(notes), name="watching")
    client.submit(inc, 1, key="good").result()
    assert client.submit(boom, 1, key="bad").exception() is not None
    client.gather(client.submit(soon, 1, key="async"))
    client.unregister_plugin("watching")
    on(client, "w-0", inc, 1)
    on(client, "w-1", inc, 1)
    assert [line for line in lines(notes) if "w-" not in line] == [
        "async executing memory nbytes seconds",
        "async ready executing",
        "bad executing error error seconds",
        "bad ready executing",
        "good executing memory nbytes seconds",
        "good ready executing",
    ]


def test_hooks_that_raise_hurt_nobody(client: Client) -> None:
    client.register_plugin(FailingLater())
    future = client.submit(inc, 5, key="unhurt")
    assert future.result() == 6
    assert "from the hook" in str(future.logs())
    client.unregister_plugin("failing later")
    assert on(client, "w-0", inc, 5) == on(client, "w-1", inc, 5) == 6
    written = client.get_worker_logs()
    assert "from the teardown" in str(written["w-0"])


def test_asynchronous(cluster: LocalCluster, tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            assert await client.register_plugin(Noting(notes), name="noting", timeout=30) == "noting"
            await client.unregister_plugin("noting", timeout=30)
            with pytest.raises(PluginError):
                await client.register_plugin(Failing(tmp_path))

    asyncio.run(main())
    assert lines(notes)[:2] == ["setup w-0", "setup w-1"]


def test_no_worker_is_no_reason_to_wait() -> None:
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.scale(0)
        assert client.register_plugin(WorkerPlugin(), name="early", timeout=30) == "early"
        cluster.scale(1)
        assert client.submit(plugin_of_here, "early").result() == {}


# Of the scheduler


class Listening(SchedulerPlugin):
    """Appends what it is told to a file. After ``block`` news it waits until there is a file of that name."""

    def __init__(self, path: Path, block: Path | None = None) -> None:
        self.path = path
        self.block = block

    def note(self, *words: object) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def start(self, scheduler: Any) -> None:
        self.note("start", scheduler.address)

    def close(self) -> None:
        self.note("close")

    def worker_joined(self, name: str, address: str, nthreads: int) -> None:
        self.note("worker", name, nthreads)

    def worker_left(self, name: str) -> None:
        self.note("no worker", name)

    def client_joined(self, name: str) -> None:
        self.note("client", name[:4])

    def client_left(self, name: str) -> None:
        self.note("no client", name[:4])
        raise RuntimeError("this hurts nobody")

    def tasks_submitted(self, client: str, count: int) -> None:
        self.note("submitted", client[:4], count)
        while self.block is not None and not self.block.exists():
            time.sleep(0.001)

    def tasks_finished(self, worker: str, keys: Any) -> None:
        for key in keys:
            self.note("finished", worker, key)

    def task_failed(self, worker: str, key: str, error: str) -> None:
        self.note("failed", worker, key, error.strip().rpartition("\n")[2])


class Unwilling(SchedulerPlugin):
    name = "unwilling"

    def start(self, scheduler: Any) -> None:
        raise LookupError("not today")


def preload(folder: Path, *arguments: Path) -> str:
    """A file that gives the scheduler a plugin."""
    path = folder / "gives_a_plugin.py"
    given = ", ".join(f"Path({str(argument)!r})" for argument in arguments)
    path.write_text(
        "from pathlib import Path\n"
        "from test_plugins import Listening\n"
        f"def treadle_setup(scheduler):\n    scheduler.register_plugin(Listening({given}), name='listening')\n"
    )
    return str(path)


def test_a_plugin_of_the_scheduler_hears_what_happens(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    file = preload(tmp_path, notes)
    with LocalCluster(n_workers=1, threads_per_worker=1, name="w", scheduler_preload=file) as cluster:
        address = cluster.address
        with Client(cluster, name="mine") as client:
            assert client.submit(inc, 1, key="good").result() == 2
            assert client.submit(boom, 1, key="bad").exception() is not None
        eventually(lambda: "no client mine" in notes.read_text())
    heard = notes.read_text().splitlines()
    assert heard[0] == f"start {address}"
    assert heard[1:8] == [
        "worker w-0 1",
        "client mine",
        "submitted mine 1",
        "finished w-0 good",
        "submitted mine 1",
        "failed w-0 bad treadle.testing.tasks.Boom: 1",
        "no client mine",
    ]
    assert heard[-1] == "close"


def test_a_plugin_that_blocks_stalls_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    file = preload(tmp_path, tmp_path / "notes", gate)
    with LocalCluster(n_workers=1, scheduler_preload=file) as cluster, Client(cluster) as client:
        assert client.gather(client.map(inc, range(100))) == list(range(1, 101))
        assert "finished" not in (tmp_path / "notes").read_text()
        gate.touch()
        eventually(lambda: "finished" in (tmp_path / "notes").read_text())


def test_clients_give_the_scheduler_plugins_only_where_it_allows_that(client: Client, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--allow-run-on-scheduler"):
        client.register_plugin(Listening(tmp_path / "notes"))


def test_plugins_of_the_scheduler_from_a_client(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with LocalCluster(n_workers=1, name="w", allow_run_on_scheduler=True) as cluster, Client(cluster) as client:
        assert client.register_plugin(Listening(notes), name="listening", timeout=30) == "listening"
        eventually(lambda: "worker w-0" in notes.read_text())
        client.unregister_plugin("listening")
        eventually(lambda: "close" in notes.read_text())
        with pytest.raises(PluginError, match=r"'unwilling' could not be set up on the scheduler(.*\n)*.*not today"):
            client.register_plugin(Unwilling())
        with pytest.raises(UserError, match="there is no plugin 'unwilling'"):
            client.unregister_plugin("unwilling")
        assert client.submit(inc, 1).result() == 2


def test_news_that_are_too_many_are_counted() -> None:
    started, gate, over = threading.Event(), threading.Event(), threading.Event()
    counts: list[int] = []
    heard: list[str] = []

    class Slowly(SchedulerPlugin):
        def client_joined(self, name: str) -> None:
            started.set()
            assert gate.wait(60)
            heard.append(name)

        def events_lost(self, count: int) -> None:
            counts.append(count)

        def close(self) -> None:
            over.set()

    runner = Runner("slowly", None, Slowly, lambda error: None)
    runner.begin()
    runner.tell("client_joined", "first")
    assert started.wait(60)
    for number in range(CAPACITY + 7):
        runner.tell("client_joined", str(number))
    gate.set()
    runner.end()
    assert over.wait(60)
    assert counts == [7]
    assert heard == ["first", *map(str, range(7, CAPACITY + 7))]
