"""Compiles the hot modules with mypyc where that is possible; the rest of the metadata is in pyproject.toml.

The same source runs interpreted. ``TREADLE_PURE_PYTHON=1`` asks for that; without a C compiler, or when the
compilation fails for another reason, it is what gets installed.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig

from setuptools import Extension, setup

#: What is compiled. Left out of these packages: ``local/hooks.py``, ``local/threads.py`` and ``local/trim.py``, which
#: run once per job or subclass what mypyc cannot.
COMPILED = [
    "src/treadle/graph/foreign.py",
    "src/treadle/graph/node.py",
    "src/treadle/graph/plan.py",
    "src/treadle/graph/spec.py",
    "src/treadle/local/crew.py",
    "src/treadle/local/run.py",
]


def extensions() -> list[Extension]:
    if os.environ.get("TREADLE_PURE_PYTHON", "0") not in ("", "0"):
        return []
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        print(f"treadle: no C compiler ({compiler}) was found; installing interpreted", file=sys.stderr)
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        print("treadle: mypy is not installed; installing interpreted", file=sys.stderr)
        return []
    built: list[Extension] = mypycify(
        ["--follow-imports=silent", "--ignore-missing-imports", *COMPILED], opt_level="3", debug_level="0"
    )
    for extension in built:
        extension.optional = True
    return built


setup(ext_modules=extensions())
