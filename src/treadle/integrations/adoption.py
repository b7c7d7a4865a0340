"""Has other libraries know of the default client, whether they are imported before it is opened or after.

Dask asks its configuration for a scheduler, and joblib has a register of backends. To write there means to import them,
which would make every program that opens a client pay for it; so as long as one of them is not imported, what is done
here waits until it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

__all__ = ["adopt", "release"]


def adopt() -> None:
    """A client has become the default of this program."""
    for name, tell in _AWAITED.items():
        if name in sys.modules:
            tell(True)
    if _waiting not in sys.meta_path and not _AWAITED.keys() <= sys.modules.keys():
        sys.meta_path.insert(0, _waiting)


def release() -> None:
    """There is no default client any more."""
    if _waiting in sys.meta_path:
        sys.meta_path.remove(_waiting)
    for name, tell in _AWAITED.items():
        if name in sys.modules:
            tell(False)


def _tell_dask(there: bool) -> None:
    from treadle.integrations import dask

    (dask.adopt if there else dask.release)()


def _tell_joblib(there: bool) -> None:
    """The backend stays: without a client it says that it needs one."""
    if there:
        sys.modules["joblib.parallel"].register_parallel_backend("treadle", _joblib_backend)


def _joblib_backend(**options: Any) -> Any:
    from treadle.integrations.joblib import TreadleBackend

    return TreadleBackend(**options)


#: The modules after whose execution something can be told, and what tells it.
_AWAITED: Final[dict[str, Callable[[bool], None]]] = {"dask.config": _tell_dask, "joblib.parallel": _tell_joblib}


class _Waiting:
    """Finds no module itself, but has those that were just imported told of the client."""

    def __init__(self) -> None:
        #: What is being looked for by others, at its instance.
        self._within: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _AWAITED or name in self._within:
            return None
        self._within.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._within.discard(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_tell(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    _AWAITED[name](True)

            spec.loader.exec_module = then_tell  # type: ignore[method-assign]
        return spec


_waiting: Any = _Waiting()
