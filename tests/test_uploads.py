"""Files and packages that are sent to the workers."""

from __future__ import annotations

import asyncio
import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle import Client, LocalCluster
from treadle.errors import PluginError, UserError


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, name="w") as cluster, Client(cluster) as client:
        yield client


def everywhere(client: Client, func: Any, *args: Any) -> list[Any]:
    return client.gather([client.submit(func, *args, workers=f"w-{i}", pure=False) for i in (0, 1)])  # type: ignore[no-any-return]


def answer(module: str) -> Any:
    return importlib.import_module(module).answer()


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"def answer():\n    return {value!r}\n")
    return path


def test_a_module(client: Client, tmp_path: Path) -> None:
    path = write(tmp_path / "uploaded_module.py", 42)
    assert client.upload_file(path, timeout=30) == "upload of uploaded_module.py"
    assert everywhere(client, answer, "uploaded_module") == [42, 42]
    # The same number of bytes within the same second.
    write(path, 43)
    client.upload_file(str(path))
    assert everywhere(client, answer, "uploaded_module") == [43, 43]


def test_a_function_that_was_used_already_is_the_new_one(client: Client, tmp_path: Path) -> None:
    path = write(tmp_path / "uploaded_function.py", "old")
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    write(tmp_path / "elsewhere" / "uploaded_function.py", "of the client")
    try:
        func = importlib.import_module("uploaded_function").answer
        client.upload_file(path)
        assert everywhere(client, func) == ["old", "old"]
        client.upload_file(write(path, "new"))
        assert everywhere(client, func) == ["new", "new"]
    finally:
        sys.path.pop(0)
        sys.modules.pop("uploaded_function", None)


def test_a_worker_that_joins_later(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, name="w") as cluster, Client(cluster) as client:
        client.upload_file(write(tmp_path / "uploaded_early.py", 1))
        cluster.scale(2)
        assert everywhere(client, answer, "uploaded_early") == [1, 1]


@pytest.mark.parametrize("suffix", [".zip", ".egg", ".whl"])
def test_an_archive(client: Client, tmp_path: Path, suffix: str) -> None:
    def make(value: int) -> Path:
        path = tmp_path / f"archive{suffix}"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("uploaded_archive/__init__.py", "from uploaded_archive.inner import answer\n")
            archive.writestr("uploaded_archive/inner.py", f"def answer():\n    return {value}\n")
        return path

    client.upload_file(make(1))
    assert everywhere(client, answer, "uploaded_archive") == [1, 1]
    client.upload_file(make(2))
    assert everywhere(client, answer, "uploaded_archive") == [2, 2]


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    """A package that this process can import, and workers cannot."""
    folder = tmp_path / "here" / "shipped_package"
    write(folder / "inner" / "__init__.py", 7)
    (folder / "__init__.py").write_text(
        "from pathlib import Path\nfrom .inner import answer as inner\n"
        "def answer():\n    return inner(), (Path(__file__).parent / 'data.txt').read_text()\n"
    )
    (folder / "data.txt").write_text("data")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "rubbish.pyc").write_bytes(b"rubbish")
    sys.path.insert(0, str(folder.parent))
    yield "shipped_package"
    sys.path.pop(0)
    for name in [name for name in sys.modules if name.startswith("shipped_package")]:
        del sys.modules[name]


def test_a_package(client: Client, package: str) -> None:
    assert client.upload_package(package, timeout=30) == "upload of shipped_package.zip"
    assert everywhere(client, answer, package) == [(7, "data")] * 2
    module = importlib.import_module(package)
    assert everywhere(client, module.answer) == [(7, "data")] * 2


def test_a_package_given_as_a_module(client: Client, package: str) -> None:
    importlib.import_module(package)
    client.upload_package(importlib.import_module(f"{package}.inner"))
    assert everywhere(client, answer, package) == [(7, "data")] * 2


def test_it_can_be_taken_back(client: Client, tmp_path: Path) -> None:
    name = client.upload_file(write(tmp_path / "uploaded_briefly.py", 1))
    client.unregister_plugin(name)
    with pytest.raises(ModuleNotFoundError):
        everywhere(client, answer, "uploaded_briefly")


def test_a_module_that_raises_when_it_is_reloaded(client: Client, tmp_path: Path) -> None:
    path = write(tmp_path / "uploaded_bad.py", 1)
    client.upload_file(path)
    assert everywhere(client, answer, "uploaded_bad") == [1, 1]
    path.write_text("raise LookupError('not here')\n")
    with pytest.raises(PluginError, match=r"uploaded_bad\.py.* 2 of 2 workers(.*\n)*.*not here"):
        client.upload_file(path)
    assert everywhere(client, abs, -1) == [1, 1]


def test_wrong_files(client: Client, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.py cannot be read: No such file"):
        client.upload_file(tmp_path / "absent.py")
    with pytest.raises(UserError, match="upload_package"):
        client.upload_file(tmp_path)
    with pytest.raises(UserError, match=r"must end with \.py, \.zip"):
        client.upload_file(tmp_path / "data.csv")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    with pytest.raises(UserError, match="no Python source"):
        client.upload_file(tmp_path / "syntax.py")
    (tmp_path / "not-a-name.py").write_text("")
    with pytest.raises(UserError, match="no name of a module"):
        client.upload_file(tmp_path / "not-a-name.py")
    (tmp_path / "no.zip").write_text("text")
    with pytest.raises(UserError, match="no zip archive"):
        client.upload_file(tmp_path / "no.zip")


def test_wrong_packages(client: Client) -> None:
    for name, reason in [
        ("no_such_package", "there is no package or module 'no_such_package'"),
        ("itertools", "has no source"),
        ("treadle.client", "workers have their own"),
        ("__main__", "workers have their own"),
    ]:
        with pytest.raises(UserError, match=reason):
            client.upload_package(name)
    number: Any = 5
    with pytest.raises(TypeError, match="given as a module, or by its name"):
        client.upload_package(number)


def test_asynchronous(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            LocalCluster(n_workers=1, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            await client.upload_file(write(tmp_path / "uploaded_async.py", 5), timeout=30)
            assert await client.submit(answer, "uploaded_async") == 5

    asyncio.run(main())
