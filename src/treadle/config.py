"""Settings: defaults, then the environment, then :func:`set`.

========================  ==========================  =====================================================
setting                   environment                 meaning
========================  ==========================  =====================================================
``scheduler``             ``TREADLE_SCHEDULER``       what runs a graph when a call does not say:
                                                      ``"threads"`` (the default), ``"processes"``, ``"sync"``,
                                                      an executor, or a function ``get(graph, keys)``
``num_workers``           ``TREADLE_NUM_WORKERS``     how many tasks run at once; default: the usable cores
``pool``                  none                        a ``concurrent.futures.Executor`` or ``multiprocessing``
                                                      pool that runs the tasks instead of Treadle's own
========================  ==========================  =====================================================
"""

from __future__ import annotations

import os
from typing import Any

from treadle.errors import UserError

__all__ = ["ConfigError", "cpu_count", "get", "set"]


class ConfigError(UserError, ValueError):
    """A setting that does not exist, or a value that it cannot have."""


_NAMES = ("num_workers", "pool", "scheduler")
_values: dict[str, Any] = {}


class set:
    """Change settings: for good when called, or for a block when used with ``with``.

    >>> config.set(num_workers=4)
    >>> with config.set(scheduler="sync"):
    ...     total.compute()
    """

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            if name not in _NAMES:
                raise _unknown(name)
            _check(name, value)
        self._settings = settings
        self._before = {name: _values[name] for name in settings if name in _values}
        _values.update(settings)

    def __enter__(self) -> dict[str, Any]:
        return dict(_values)

    def __exit__(self, *exc_info: object) -> None:
        for name in self._settings:
            if name in self._before:
                _values[name] = self._before[name]
            else:
                _values.pop(name, None)

    def __repr__(self) -> str:
        return f"<treadle.config.set {self._settings}>"


def get(name: str) -> Any:
    """The value of a setting; None if nobody has set it.

    :raises ConfigError: there is no such setting, or the environment gives it a value that it cannot have.
    """
    if name not in _NAMES:
        raise _unknown(name)
    value = _values.get(name)
    if value is None and name != "pool":
        text = os.environ.get(f"TREADLE_{name.upper()}")
        if text:
            value = _parse(name, text)
    return value


def num_workers(given: int | None = None) -> int:
    """How many tasks may run at once: as given, else as set, else the number of usable cores."""
    if given is None:
        given = get("num_workers")
    if given is None:
        return cpu_count()
    _check("num_workers", given)
    return given


def cpu_count() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"there is no setting {name!r}; there are: {', '.join(_NAMES)}")


def _parse(name: str, text: str) -> Any:
    if name != "num_workers":
        return text
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"TREADLE_NUM_WORKERS must be a whole number, not {text!r}") from None
    _check(name, value)
    return value


def _check(name: str, value: Any) -> None:
    if (
        name == "num_workers"
        and value is not None
        and (not isinstance(value, int) or isinstance(value, bool) or value < 1)
    ):
        raise ConfigError(f"num_workers must be a whole number of at least 1, not {value!r}")
