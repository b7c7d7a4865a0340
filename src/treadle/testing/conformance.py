"""What every scheduler has to do: one suite for all of them.

A scheduler is tested by a class that derives from :class:`SchedulerConformance`, says what it is in the class
attributes, and provides a fixture ``get``: a callable ``get(graph, keys, callbacks=None)`` that computes as
:func:`treadle.get` does::

    class TestMine(SchedulerConformance):
        scheduler = "mine"
        num_workers = 2

        @pytest.fixture
        def get(self):
            return my_scheduler.get

Schedulers that run at least two tasks at once derive from :class:`ParallelConformance` too, those that run
tasks in the caller's process from :class:`InProcessConformance`, and those of these that run one task at a time from
:class:`OneByOneConformance`.
"""

from __future__ import annotations

from treadle.testing.dask_graphs import DaskConformance
from treadle.testing.failures import FailuresConformance, ParallelFailuresConformance
from treadle.testing.hooks import HooksConformance, InProcessConformance, OneByOneConformance
from treadle.testing.results import ResultsConformance

__all__ = ["InProcessConformance", "OneByOneConformance", "ParallelConformance", "SchedulerConformance"]


class SchedulerConformance(ResultsConformance, FailuresConformance, HooksConformance, DaskConformance):
    """For every scheduler. ``scheduler`` and ``num_workers`` are what callbacks are told of it."""


class ParallelConformance(ParallelFailuresConformance):
    """For schedulers that run at least two tasks at once."""
