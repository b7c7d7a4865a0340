"""Conformance: graphs as Dask makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from treadle.testing.tasks import called_with

__all__ = ["DaskConformance"]


class DaskConformance:
    """Graphs as Dask makes them give what Dask's own scheduler gives."""

    @pytest.mark.parametrize("optimize", [True, False])
    def test_arrays_of_dask(self, get: Callable[..., Any], optimize: bool) -> None:
        import dask.array
        import numpy

        x = dask.array.arange(1000, chunks=100).reshape(20, 50).rechunk((10, 10))
        for y in [(x + x.T[:20, :20].sum()).mean(axis=0), x[3:7].std(), (x @ x.T).sum(axis=1), x[x > 500]]:
            expected = y.compute(scheduler="sync", optimize_graph=optimize)
            assert numpy.array_equal(y.compute(scheduler=get, optimize_graph=optimize), expected)

    def test_bags_of_dask(self, get: Callable[..., Any]) -> None:
        import dask.bag

        from_sequence: Any = dask.bag.from_sequence
        words = from_sequence(["a b", "b c", "c d a", "a"] * 5, npartitions=4).map(str.split).flatten()
        counts = words.frequencies()
        assert sorted(counts.compute(scheduler=get)) == sorted(counts.compute(scheduler="sync"))
        lengths = words.filter(lambda word: word != "b").map(lambda word: word * 2).map(len).sum()
        assert lengths.compute(scheduler=get) == lengths.compute(scheduler="sync")

    def test_data_frames_of_dask(self, get: Callable[..., Any]) -> None:
        import dask.dataframe
        import pandas

        from_pandas: Any = dask.dataframe.from_pandas
        data = pandas.DataFrame({"k": [i % 7 for i in range(100)], "v": range(100), "s": ["x", "y"] * 50})
        frame = from_pandas(data, npartitions=5)
        for made in [frame.groupby("k").v.sum(), frame[frame.v > 40].v * 2, frame.merge(frame, on="v").set_index("v")]:
            expected = made.compute(scheduler="sync")
            actual = made.compute(scheduler=get)
            assert actual.sort_index().equals(expected.sort_index())

    def test_delayed_of_dask(self, get: Callable[..., Any]) -> None:
        from dask.delayed import delayed

        lazy = delayed(called_with)
        value = lazy([lazy(1), {"k": lazy(a=2)}], b=lazy({3}))
        assert value.compute(scheduler=get) == value.compute(scheduler="sync")
