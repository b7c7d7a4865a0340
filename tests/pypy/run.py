"""Runs the tests of the core and of the simulation under an interpreter that has no packages: PyPy, from 3.9 on.

    pypy3 tests/pypy/run.py [storms]

They are the same files that pytest runs elsewhere. The little that they use of pytest is stood in for here, and in
place of Hypothesis, which would have to be installed too, so many storms (300 by default) are played from seeds.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from types import ModuleType, TracebackType
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
SOURCE = TESTS.parent / "src"
#: Files of tests that need nothing but Treadle and what is stood in for.
FILES = (
    "test_core_away.py",
    "test_core_scheduler.py",
    "test_core_worker.py",
    "test_stewardship.py",
    "test_simulation.py",
    "test_simulation_tools.py",
)


class Raises:
    """Stands in for ``pytest.raises``."""

    def __init__(self, kind: Any, match: str = "") -> None:
        self.kind = kind
        self.match = match
        self.value: Any = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        assert error is not None, f"nothing raised {self.kind!r}"
        self.value = error
        if not isinstance(error, self.kind):
            return False
        assert re.search(self.match, str(error)), f"{str(error)!r} does not match {self.match!r}"
        return True


class Mark:
    """Stands in for ``pytest.mark``."""

    @staticmethod
    def parametrize(names: str, values: Iterable[Any]) -> Callable[[Any], Any]:
        assert "," not in names, "only one parameter is known here"

        def marked(test: Any) -> Any:
            test.values = list(values)
            return test

        return marked


def pytest_in_small() -> ModuleType:
    module: Any = ModuleType("pytest")
    module.raises = Raises
    module.mark = Mark
    found: ModuleType = module
    return found


def tests(path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The tests of a file, in their order, with the values of their parameter."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, test in list(vars(module).items()):
        if name.startswith("test_"):
            values = getattr(test, "values", None)
            if values is None:
                yield name, test
            else:
                for value in values:
                    yield f"{name}[{value}]", called_with(test, value)


def called_with(test: Callable[[Any], None], value: Any) -> Callable[[], None]:
    return lambda: test(value)


def storm(seed: int) -> Callable[[], None]:
    from treadle.testing.simulation.storm import Storm, random_actions

    return lambda: Storm(seed).play(random_actions(seed, 60))


def run(what: str, named: Iterable[tuple[str, Callable[[], None]]]) -> int:
    """How many have failed."""
    started = perf_counter()
    count = failed = 0
    for name, test in named:
        count += 1
        try:
            test()
        except Exception:
            failed += 1
            print(f"FAILED {what}: {name}")
            traceback.print_exc()
    print(f"{what}: {count} run, {failed} failed, {perf_counter() - started:.1f} s", flush=True)
    return failed + (count == 0)


def main(storms: int) -> int:
    sys.path[:0] = [str(SOURCE), str(TESTS)]
    sys.modules["pytest"] = pytest_in_small()
    print(f"{platform.python_implementation()} {platform.python_version()}", flush=True)
    failed = sum(run(name, tests(TESTS / name)) for name in FILES)
    failed += run("storms", ((f"seed {seed}", storm(seed)) for seed in range(1000, 1000 + storms)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
