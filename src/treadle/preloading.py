"""Modules that a scheduler or a worker imports when it starts, to be prepared for what will be asked of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

from treadle.errors import PreloadError

__all__ = ["Preloads"]


class Preloads:
    """Imports modules, and calls what they define: ``treadle_setup(target)`` and ``treadle_teardown(target)``.

    :param names: modules, or files whose names end with ``.py``.
    :param target: the scheduler or the worker.
    :raises PreloadError: one of them cannot be imported.
    """

    def __init__(self, names: Iterable[str], target: Any) -> None:
        self._target: Final = target
        self._modules: Final = [(name, _attempt(name, _load, name)) for name in names]

    def __repr__(self) -> str:
        return f"<Preloads: {', '.join(name for name, _ in self._modules) or 'none'}>"

    def setup(self) -> None:
        """:raises PreloadError: one of them raises."""
        for name, module in self._modules:
            hook = getattr(module, "treadle_setup", None)
            if hook is not None:
                _attempt(name, hook, self._target)

    def teardown(self) -> None:
        """The last first.

        :raises PreloadError: one of them raises; those after it are called all the same.
        """
        failure: PreloadError | None = None
        for name, module in reversed(self._modules):
            hook = getattr(module, "treadle_teardown", None)
            try:
                if hook is not None:
                    _attempt(name, hook, self._target)
            except PreloadError as error:
                failure = failure or error
        self._modules.clear()
        if failure is not None:
            raise failure


def _attempt(name: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error.with_traceback(_without_ours(error))))
        raise PreloadError(name, text) from None


def _without_ours(error: BaseException) -> Any:
    """The traceback of what the user wrote."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_globals.get("__name__") == __name__:
        found = found.tb_next
    return found


def _load(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = os.path.abspath(name)
    stem = os.path.basename(path)[:-3]
    known = sys.modules.get(stem)
    if known is not None:
        raise ImportError(f"a module named {stem!r} is imported already, {known!r}; rename the file")
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[stem]
        raise
    return module
