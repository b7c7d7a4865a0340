"""A simulated cluster: the real scheduler and the real workers' states, without machines, networks and waiting.

The clock is a heap of events, so that a thousand workers run for an hour in a minute, always in the same way. What is
simulated, and with which figures, is up to the caller; what decides, is the code that also decides in a real cluster.
Nothing here needs any package but Treadle.
"""

from __future__ import annotations

from treadle.testing.simulation.client import SimulatedClient, SimulatedFuture
from treadle.testing.simulation.cluster import SimulatedCluster, StalledError
from treadle.testing.simulation.scheduler import Costs
from treadle.testing.simulation.tasks import Behaviour, Run, checksum, constant, table
from treadle.testing.simulation.worker import SimulatedWorker

__all__ = [
    "Behaviour",
    "Costs",
    "Run",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedFuture",
    "SimulatedWorker",
    "StalledError",
    "checksum",
    "constant",
    "table",
]
