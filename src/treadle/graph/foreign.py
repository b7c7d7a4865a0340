"""Task objects of other libraries, recognised by their shape.

Dask writes its graphs with the classes of ``dask._task_spec``. They are told apart here by the attributes that
their types have, so that Dask is neither imported nor needed; each type is looked at once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALIAS", "CONTAINER", "DATA", "MAPPING", "NATIVE", "REFERENCE", "TASK", "foreign_kind"]

#: Not a foreign task object: an ordinary value.
NATIVE: Final = 0
#: ``func``, ``args``, ``kwargs``.
TASK: Final = 1
#: ``target``: the key whose value this one shares.
ALIAS: Final = 2
#: ``value``: a literal.
DATA: Final = 3
#: ``key``: a reference inside the arguments of a task.
REFERENCE: Final = 4
#: ``args`` and ``klass``: a list, tuple or set with references in it.
CONTAINER: Final = 5
#: The same for a dict; ``args`` alternates keys and values.
MAPPING: Final = 6

_KINDS: Final[dict[type, int]] = {}


def foreign_kind(cls: type) -> int:
    """Which of the kinds above the instances of ``cls`` are."""
    kind = _KINDS.get(cls)
    if kind is None:
        kind = _classify(cls)
        _KINDS[cls] = kind
    return kind


def _classify(cls: type) -> int:
    if not hasattr(cls, "substitute"):
        return NATIVE
    if hasattr(cls, "dependencies"):
        if hasattr(cls, "klass") and hasattr(cls, "constructor"):
            return MAPPING if issubclass(cls.klass, dict) else CONTAINER
        if hasattr(cls, "func") and hasattr(cls, "args") and hasattr(cls, "kwargs"):
            return TASK
        if hasattr(cls, "target"):
            return ALIAS
        if hasattr(cls, "value"):
            return DATA
        return NATIVE
    return REFERENCE if hasattr(cls, "key") else NATIVE
