"""Dask's collections in a store with the interface of S3, by the credentials of whoever reads and writes."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

import treadle
from treadle import Client, LocalCluster
from treadle.errors import TaskNotSerializableError
from treadle.testing.tasks import Boom

# Untyped, in part.
dask: Any = import_module("dask")
db: Any = import_module("dask.bag")
dd: Any = import_module("dask.dataframe")
s3fs: Any = import_module("s3fs")

#: Dask 2026.8 calls pandas 3.1 in a way that this one wants to have changed.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

#: What tells the program's own credentials from those of its workers, and from those that are given to a call.
OURS = ("PROGRAMSKEY", "the-secret-of-the-program")
THEIRS = ("WORKERSKEY", "the-secret-of-the-workers")
GIVEN = ("GIVENKEY", "the-secret-that-is-given")

TABLE = pd.DataFrame({"key": [number % 3 for number in range(60)], "value": range(60)})


class Store:
    """A server, and who asked it for what: the method, the path and the access key of each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.address = f"http://{host}:{port}"
        server: Any = self._server._server
        server.app = self._watched(server.app)

    def _watched(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def watch(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            who = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], who))
            return app(environ, start)

        return watch

    def by(self, method: str, part: str) -> set[str]:
        """The access keys by which paths with ``part`` in them were asked for. Forgets everything."""
        found = {who for how, path, who in self.requests if how == method and part in path}
        self.requests.clear()
        return found

    def close(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    with pytest.MonkeyPatch.context() as patch:
        # Filesystems are kept by their arguments, and know the server that the environment named when they were made.
        s3fs.S3FileSystem.clear_instance_cache()
        patch.setenv("AWS_ENDPOINT_URL", store.address)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", OURS[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", OURS[1])
        s3fs.S3FileSystem().mkdir("bucket")
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
    store.close()


@pytest.fixture(scope="module")
def cluster(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Workers with the environment of the program, but credentials of their own."""
    own = tmp_path_factory.mktemp("preload") / "credentials.py"
    named = {"AWS_ACCESS_KEY_ID": THEIRS[0], "AWS_SECRET_ACCESS_KEY": THEIRS[1]}
    own.write_text(f"import os\nos.environ.update({named!r})\n")
    with LocalCluster(2, 1, preload=str(own)) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that the client says to the scheduler from now on."""
    found: list[bytes] = []
    link: Any = client.session._link
    send = link.send

    def noted(batch: list[Any], *rest: Any) -> Any:
        found.append(pickle.dumps(batch))
        return send(batch, *rest)

    monkeypatch.setattr(link, "send", noted)
    return found


def travelled(sent: list[bytes], *credentials: tuple[str, str]) -> set[str]:
    """Which keys and secrets are in what was sent."""
    return {word for pair in credentials for word in pair if any(word.encode() in message for message in sent)}


def write_parquet(path: str, **options: Any) -> None:
    dd.from_pandas(TABLE, npartitions=3).to_parquet(path, **options)


def write_csv(path: str, **options: Any) -> None:
    dd.from_pandas(TABLE, npartitions=3).to_csv(f"{path}/*.csv", index=False, **options)


def write_lines(path: str, **options: Any) -> None:
    db.from_sequence(map(str, range(60)), npartitions=3).to_textfiles(f"{path}/*.txt", **options)


def read_parquet(path: str, **options: Any) -> Any:
    return dd.read_parquet(path, **options).groupby("key").value.sum().compute().sort_index().tolist()


def read_csv(path: str, **options: Any) -> Any:
    return dd.read_csv(f"{path}/*.csv", **options).groupby("key").value.sum().compute().sort_index().tolist()


def read_lines(path: str, **options: Any) -> Any:
    numbers = db.read_text(f"{path}/*.txt", **options).map(int)
    return [total for _, total in sorted(numbers.foldby(lambda number: number % 3, lambda a, b: a + b, 0).compute())]


KINDS = {
    "parquet": (write_parquet, read_parquet),
    "csv": (write_csv, read_csv),
    "lines": (write_lines, read_lines),
}


@pytest.mark.parametrize("kind", KINDS)
def test_who_reads_and_writes_uses_its_own_credentials(
    store: Store, client: Client, sent: list[bytes], kind: str
) -> None:
    write, read = KINDS[kind]
    part = {"parquet": ".parquet", "csv": ".csv", "lines": ".txt"}[kind]
    store.requests.clear()
    write(f"s3://bucket/{kind}")
    assert store.by("PUT", part) == {THEIRS[0]}
    assert read(f"s3://bucket/{kind}") == TABLE.groupby("key").value.sum().tolist()
    assert THEIRS[0] in store.by("GET", part)  # the program looks for columns and their types
    assert sent
    assert travelled(sent, OURS, THEIRS) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_credentials_that_are_given_to_a_call(store: Store, client: Client, sent: list[bytes], kind: str) -> None:
    """These travel with the tasks, since nobody else has them."""
    write, read = KINDS[kind]
    part = {"parquet": ".parquet", "csv": ".csv", "lines": ".txt"}[kind]
    options = {"storage_options": {"key": GIVEN[0], "secret": GIVEN[1]}}
    store.requests.clear()
    write(f"s3://bucket/given-{kind}", **options)
    assert store.by("PUT", part) == {GIVEN[0]}
    assert read(f"s3://bucket/given-{kind}", **options) == TABLE.groupby("key").value.sum().tolist()
    assert store.by("GET", part) == {GIVEN[0]}
    assert travelled(sent, OURS, THEIRS) == set()
    assert travelled(sent, GIVEN) == set(GIVEN)


def fail(part: Any) -> Any:
    raise Boom("with what was read")


def told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_nothing_of_ours_shows_credentials(store: Store, client: Client, tmp_path: Path) -> None:
    options = {"key": GIVEN[0], "secret": GIVEN[1]}
    write_csv("s3://bucket/shown", storage_options=options)
    frame = dd.read_csv("s3://bucket/shown/*.csv", storage_options=options).map_partitions(fail, meta=TABLE)
    held = client.persist(frame)
    futures = treadle.futures_of(held)
    treadle.wait(futures)
    shown = [repr(client), client._repr_html_(), repr(futures), repr(held.__dask_graph__())]
    for future in futures:
        shown += [future.key, future._repr_html_(), str(client.explain(future)), str(client.story(future))]
        shown += [told(future.exception() or Boom()), str(future.logs())]
        assert "with what was read" in shown[-2]
    shown += [str(client.get_worker_logs()), str(client.scheduler_info()), str(client.get_task_stream())]
    with pytest.raises(Boom) as failed:
        frame.compute()
    shown.append(told(failed.value))
    gone = dd.read_csv("s3://bucket/shown/*.csv", storage_options=options)
    s3fs.S3FileSystem().rm("bucket/shown", recursive=True)
    with pytest.raises(FileNotFoundError) as lost:
        gone.compute()
    shown.append(told(lost.value))
    locked = dask.delayed(fail)({"storage_options": options, "lock": threading.Lock()})
    with pytest.raises(TaskNotSerializableError) as refused:
        locked.compute()
    shown.append(told(refused.value))
    assert "lock" in shown[-1]
    text = "\n".join(shown)
    assert GIVEN[1] not in text
    assert GIVEN[0] not in text
