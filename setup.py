"""Compiles the hot modules with mypyc where that is possible; the rest of the metadata is in pyproject.toml.

The same source runs interpreted. ``TREADLE_PURE_PYTHON=1`` asks for that; without a C compiler, or when the
compilation fails for another reason, it is what gets installed.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

#: What is compiled. Left out of these packages:
#: ``graph/spec.py``: compiled, ``Task(f, func=1)`` would be refused, because ``func`` is the name of a parameter too.
#: ``graph/optimize``: named tuples with a field of type ``object`` cannot be compiled; it runs once per graph.
#: ``local/hooks.py``, ``local/threads.py``, ``local/trim.py`` and the drivers run once per job or wait for others.
COMPILED = [
    "src/treadle/core/checks.py",
    "src/treadle/core/coordinated.py",
    "src/treadle/core/coordination.py",
    "src/treadle/core/coordination_checks.py",
    "src/treadle/core/explaining.py",
    "src/treadle/core/goals.py",
    "src/treadle/core/ledger.py",
    "src/treadle/core/placement.py",
    "src/treadle/core/records.py",
    "src/treadle/core/scheduler.py",
    "src/treadle/core/states.py",
    "src/treadle/core/stewardship.py",
    "src/treadle/core/worker.py",
    "src/treadle/core/worker_data.py",
    "src/treadle/graph/foreign.py",
    "src/treadle/graph/node.py",
    "src/treadle/graph/ordering.py",
    "src/treadle/graph/ordering_bases.py",
    "src/treadle/graph/ordering_passes.py",
    "src/treadle/graph/plan.py",
    "src/treadle/local/crew.py",
    "src/treadle/local/run.py",
]

#: mypyc puts the code of all of them into one library, ``treadle__mypyc``.
GROUP = "treadle"

#: The commands of setuptools that need the compiled modules.
COMPILING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}


def why_interpreted() -> str | None:
    """The reason not to compile, if there is one."""
    if os.environ.get("TREADLE_PURE_PYTHON", "0") not in ("", "0"):
        return "TREADLE_PURE_PYTHON asks for it"
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    compiler = command.split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler}) was found"
    return None


def extensions() -> list[Extension]:
    """All compiled modules and their library, translated to C; nothing if they are to be interpreted."""
    if not COMPILING.intersection(sys.argv):
        return []  # pip runs this file several times per install, mostly for metadata
    reason = why_interpreted()
    if reason is None:
        try:
            from mypyc.build import mypycify

            # Without the project's own strictness: what a comment may ignore differs from one Python to the next.
            translated: list[Extension] = mypycify(
                ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports", *COMPILED],
                opt_level="3",
                debug_level="0",
                group_name=GROUP,
            )
            return translated
        except (Exception, SystemExit) as error:  # mypyc exits where it finds errors
            reason = f"the translation to C failed: {error!r}"
    print(f"treadle: installing interpreted, because {reason}", file=sys.stderr)
    return []


class AllOrNothing(build_ext):  # type: ignore[misc]  # setuptools is untyped
    """Compiles all modules or none: what mypyc makes of one module cannot be imported without their shared library."""

    extensions: list[Extension]

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(f"treadle: installing interpreted, because the compilation failed: {error!r}", file=sys.stderr)
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": AllOrNothing})
