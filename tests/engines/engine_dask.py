"""The whole conformance suite on a cluster of Dask's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_parts import DaskConformance, dask_client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with dask_client() as client:
        yield client


class TestDask(DaskConformance):
    """Nothing is left out."""
