"""What is installed: its contents, its weight at import, and whether it is the build that it should be."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module, metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

import treadle

ROOT = Path(__file__).parent.parent

#: Packages that cost more than all of Treadle, or that may be missing: imported where they are used.
HEAVY = {
    "asyncio",
    "click",
    "cloudpickle",
    "dask",
    "distributed",
    "graphviz",
    "multiprocessing",
    "numpy",
    "pandas",
    "pyarrow",
    "rich",
    "tblib",
}


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("treadle_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has imported after ``code``."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def is_compiled(path: str) -> bool:
    """Whether the module of a source file in ``setup.COMPILED`` is an extension module here."""
    name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
    file = import_module(name).__file__
    assert file is not None
    return file.endswith(tuple(EXTENSION_SUFFIXES))


def test_importing_treadle_imports_nothing_heavy() -> None:
    assert imported_by("import treadle") & HEAVY == set()


def test_a_run_on_threads_imports_nothing_heavy() -> None:
    code = "import treadle; assert treadle.get({'a': (max, 1, 2)}, 'a') == 2"
    assert imported_by(code) & HEAVY == set()


@pytest.mark.parametrize("name", treadle.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(treadle, name) is not None
    assert name in dir(treadle)


def test_no_public_name_is_hidden_by_a_module() -> None:
    """Importing a submodule makes it an attribute of the package, whatever was there: names must not clash."""
    modules = {module.name for module in pkgutil.iter_modules(treadle.__path__)}
    clashing = modules.intersection(treadle.__all__)
    assert [name for name in clashing if not isinstance(getattr(treadle, name), ModuleType)] == []


def test_a_wrong_name_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'treadle' has no attribute 'nonsense'"):
        treadle.nonsense  # noqa: B018


def test_the_version_is_that_of_the_metadata() -> None:
    assert treadle.__version__ == metadata.version("treadle")


def test_the_build_is_the_one_that_is_meant() -> None:
    """All modules of the list are compiled, or none is; the Makefile says which of the two it wants to test."""
    compiled = {path: is_compiled(path) for path in load_setup().COMPILED}
    assert len(set(compiled.values())) == 1, compiled
    expected = os.environ.get("TREADLE_EXPECT_COMPILED")
    if expected is not None:
        assert all(compiled.values()) == (expected == "1")


def test_every_module_that_is_to_be_compiled_exists() -> None:
    assert [path for path in load_setup().COMPILED if not (ROOT / path).is_file()] == []


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``setup.py`` as it is when a wheel is being built."""
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    monkeypatch.delenv("TREADLE_PURE_PYTHON", raising=False)
    return load_setup()


def test_a_user_can_ask_for_the_interpreted_build(
    building: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TREADLE_PURE_PYTHON", "1")
    assert building.extensions() == []
    assert "installing interpreted, because TREADLE_PURE_PYTHON" in capsys.readouterr().err


def test_without_a_compiler_the_build_is_interpreted(
    building: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert building.extensions() == []
    assert "no C compiler (/nonexistent/cc) was found" in capsys.readouterr().err


def test_a_failing_translation_leads_to_the_interpreted_build(
    building: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", sys.executable)  # something that exists: it is not called
    monkeypatch.setattr(building, "COMPILED", ["src/treadle/nonsense.py"])
    monkeypatch.chdir(ROOT)
    assert building.extensions() == []
    assert "the translation to C failed" in capsys.readouterr().err


def test_reading_the_metadata_translates_nothing(building: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", "egg_info"])
    monkeypatch.setattr(building, "COMPILED", ["src/treadle/nonsense.py"])
    assert building.extensions() == []


def build(kind: str, source: Path, into: Path) -> Path:
    """Have setuptools build a ``wheel`` or an ``sdist``, interpreted, as pip does."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(into)],
        cwd=source,
        env={**os.environ, "TREADLE_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def test_the_source_distribution_builds_a_complete_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info"))
    files = [path for path in (source / "src").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(source / "src")) for path in files}

    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as wheel:
        names = set(wheel.namelist())

    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert f"treadle-{treadle.__version__}.dist-info/licenses/LICENSE" in names


def test_what_is_installed_is_python_and_its_data() -> None:
    """No C code, no caches of a build; the marker for type checkers is there."""
    files = metadata.files("treadle")
    assert files is not None
    names = {str(file) for file in files}
    assert "treadle/py.typed" in names
    assert [name for name in names if name.endswith((".c", ".h", ".o"))] == []
