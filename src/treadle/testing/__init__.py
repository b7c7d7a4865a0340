"""Tools for those who write for Treadle, and for Treadle's own tests.

:class:`SimulatedCluster` is a cluster on a manual clock that runs the real state machines, :class:`RecordingPeer` keeps
what a state machine has sent, and :class:`Proxy` is a network between real processes that fails on command. They
need nothing but Treadle. :mod:`treadle.testing.conformance` is a suite that every scheduler has to pass, and
:mod:`treadle.testing.graphs` makes random graphs: these two need pytest and Hypothesis.

Treadle itself imports nothing from here. The names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.testing.proxy import Proxy as Proxy
    from treadle.testing.recording import RecordingPeer as RecordingPeer
    from treadle.testing.recording import UnexaminedError as UnexaminedError
    from treadle.testing.recording import record as record
    from treadle.testing.simulation import Costs as Costs
    from treadle.testing.simulation import Run as Run
    from treadle.testing.simulation import SimulatedCluster as SimulatedCluster
    from treadle.testing.simulation import StalledError as StalledError

_HOMES = {
    "Costs": "treadle.testing.simulation",
    "Proxy": "treadle.testing.proxy",
    "RecordingPeer": "treadle.testing.recording",
    "Run": "treadle.testing.simulation",
    "SimulatedCluster": "treadle.testing.simulation",
    "StalledError": "treadle.testing.simulation",
    "UnexaminedError": "treadle.testing.recording",
    "record": "treadle.testing.recording",
}

__all__ = [
    "Costs",
    "Proxy",
    "RecordingPeer",
    "Run",
    "SimulatedCluster",
    "StalledError",
    "UnexaminedError",
    "record",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'treadle.testing' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
