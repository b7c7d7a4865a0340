"""Tools for those who write schedulers for Treadle, and tests of such schedulers.

:mod:`treadle.testing.conformance` is a suite that every scheduler has to pass, :mod:`treadle.testing.graphs` makes
random graphs. They need pytest and Hypothesis; Treadle itself imports nothing from here.
"""
