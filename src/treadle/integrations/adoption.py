"""Has Dask's collections use the default client, whether Dask is imported before the client is opened or after.

Dask asks its configuration for a scheduler. To write there means to import Dask, which would make every program that
opens a client pay for it; so as long as Dask is not imported, what is done here waits until it is.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__ = ["adopt", "release"]

#: The module that holds the configuration of Dask: once it has been executed, a scheduler can be named.
_AWAITED = "dask.config"


def adopt() -> None:
    """A client has become the default of this program."""
    if _AWAITED in sys.modules:
        _tell(True)
    elif _waiting not in sys.meta_path:
        sys.meta_path.insert(0, _waiting)


def release() -> None:
    """There is no default client any more."""
    if _waiting in sys.meta_path:
        sys.meta_path.remove(_waiting)
    if _AWAITED in sys.modules:
        _tell(False)


def _tell(there: bool) -> None:
    from treadle.integrations import dask

    (dask.adopt if there else dask.release)()


class _Waiting:
    """Finds no module itself, but has :func:`adopt` called after one was imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_adopt(module: ModuleType) -> None:
                execute(module)
                _tell(True)

            spec.loader.exec_module = then_adopt  # type: ignore[method-assign]
        return spec


_waiting: Any = _Waiting()
