"""The standard order cases: graphs whose peak number of live results depends on the order of their tasks.

Each function returns a graph in plain form whose outputs are the keys that no other task depends on. The cases of
``array_cases`` and ``table_cases`` are the graphs of Dask's own collections, as its schedulers receive them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

__all__ = ["Graph", "array_cases", "plain_cases", "table_cases", "timing_cases"]

Graph = dict[Any, Any]


def task(*args: object) -> None:
    """The function of every task: it is never called."""


def flat(count: int) -> Graph:
    return {("x", i): (task, i) for i in range(count)}


def chain(length: int) -> Graph:
    graph: Graph = {0: (task, -1.5)}
    graph.update({i: (task, i - 1) for i in range(1, length)})
    return graph


def tree(leaves: int, fan: int = 2) -> Graph:
    """Tree reduction."""
    graph: Graph = {(0, i): (task, "leaf") for i in range(leaves)}
    level = 0
    while leaves > 1:
        level += 1
        parents = -(-leaves // fan)
        for i in range(parents):
            graph[level, i] = (task, [(level - 1, j) for j in range(i * fan, min(leaves, (i + 1) * fan))])
        leaves = parents
    return graph


def lopsided_tree(size: int, seed: int) -> Graph:
    """A random tree: each task feeds one of the tasks after it."""
    rng = random.Random(seed)
    inputs: dict[int, list[int]] = {i: [] for i in range(size)}
    for i in range(1, size):
        inputs[rng.randrange(max(0, i - 12), i)].append(i)
    return {i: (task, deps) for i, deps in inputs.items()}


def dense(width: int, layers: int, edges: int | None = None) -> Graph:
    """Layers, each task of which needs all tasks of the layer before, or ``edges`` neighbours of its own column."""
    graph: Graph = {(0, i): (task, "root") for i in range(width)}
    for t in range(1, layers):
        for i in range(width):
            columns: Iterable[int] = range(width) if edges is None else [(i + k) % width for k in range(edges)]
            graph[t, i] = (task, [(t - 1, j) for j in columns])
    return graph


def random_layers(width: int, layers: int, edges: int, seed: int) -> Graph:
    rng = random.Random(seed)
    graph: Graph = {(0, i): (task, "root") for i in range(width)}
    for t in range(1, layers):
        for i in range(width):
            graph[t, i] = (task, [(t - 1, j) for j in rng.sample(range(width), edges)])
    return graph


def random_dag(size: int, edges: int, reach: int, seed: int) -> Graph:
    """Each task needs up to ``edges`` of the ``reach`` tasks before it."""
    rng = random.Random(seed)
    graph: Graph = {}
    for i in range(size):
        earlier = range(max(0, i - reach), i)
        graph[i] = (task, [("n", j) for j in rng.sample(earlier, min(len(earlier), rng.randint(0, edges)))])
    return {("n", i): value for i, value in graph.items()}


def stencil(width: int, steps: int, summed: bool = False) -> Graph:
    """A stencil over time: each point needs itself and its two neighbours of the step before."""
    graph: Graph = {(0, i): (task, "root") for i in range(width)}
    for t in range(1, steps):
        for i in range(width):
            graph[t, i] = (task, [(t - 1, j) for j in range(max(0, i - 1), min(width, i + 2))])
    if summed:
        graph["sum"] = (task, [(steps - 1, i) for i in range(width)])
    return graph


def butterfly(levels: int) -> Graph:
    """The fast Fourier transform."""
    width = 1 << levels
    graph: Graph = {(0, i): (task, "root") for i in range(width)}
    for t in range(levels):
        for i in range(width):
            graph[t + 1, i] = (task, (t, i), (t, i ^ (1 << t)))
    return graph


def roots_then_reduce(groups: int, members: int) -> Graph:
    """Many roots, each transformed, then reduced by group, then together."""
    graph: Graph = {}
    for g in range(groups):
        for m in range(members):
            graph["load", g, m] = (task, "file")
            graph["clean", g, m] = (task, ("load", g, m))
        graph["group", g] = (task, [("clean", g, m) for m in range(members)])
    graph["total"] = (task, [("group", g) for g in range(groups)])
    return graph


def strided_reduce(roots: int, groups: int) -> Graph:
    """Each root is split into one part per group; each group is reduced over all roots: groupby-aggregate."""
    graph: Graph = {}
    for r in range(roots):
        graph["load", r] = (task, "file")
        graph["chunk", r] = (task, ("load", r))
    level = [("chunk", r) for r in range(roots)]
    depth = 0
    while len(level) > 8:
        parents: list[Any] = []
        for i in range(0, len(level), 8):
            graph["combine", depth, i] = (task, level[i : i + 8])
            parents.append(("combine", depth, i))
        level = parents
        depth += 1
    for g in range(groups):
        graph["split", g] = (task, level)
        graph["agg", g] = (task, ("split", g))
    return graph


def column_reduce(roots: int, columns: int) -> Graph:
    """Each root has several columns; each column is summed over all roots: the sums can run along with the roots."""
    graph: Graph = {}
    for r in range(roots):
        graph["load", r] = (task, "file")
        for c in range(columns):
            graph["part", r, c] = (task, ("load", r))
    for c in range(columns):
        level: list[Any] = [("part", r, c) for r in range(roots)]
        depth = 0
        while len(level) > 1:
            parents: list[Any] = []
            for i in range(0, len(level), 4):
                graph["sum", c, depth, i] = (task, level[i : i + 4])
                parents.append(("sum", c, depth, i))
            level = parents
            depth += 1
    return graph


def matmul(n: int, summed: bool = False, total: bool = False) -> Graph:
    """The product of two matrices of n x n chunks; optionally a tree sum for each chunk, and the total of all."""
    graph: Graph = {}
    for i in range(n):
        for j in range(n):
            graph["a", i, j] = (task, "file")
            graph["b", i, j] = (task, "file")
    for i in range(n):
        for j in range(n):
            for k in range(n):
                graph["p", i, j, k] = (task, ("a", i, k), ("b", k, j))
            graph["c", i, j] = (task, [("p", i, j, k) for k in range(n)])
    if total:
        graph["total"] = (task, [("c", i, j) for i in range(n) for j in range(n)])
    return graph


def shuffle(inputs: int, outputs: int) -> Graph:
    """All to all: each input is grouped, split into one part per output, and each output merges its parts."""
    graph: Graph = {}
    for i in range(inputs):
        graph["load", i] = (task, "file")
        graph["group", i] = (task, ("load", i))
        for o in range(outputs):
            graph["split", i, o] = (task, ("group", i), o + 0.5)
    for o in range(outputs):
        graph["merge", o] = (task, [("split", i, o) for i in range(inputs)])
        graph["done", o] = (task, ("merge", o))
    return graph


def staged_shuffle(digits: int, base: int) -> Graph:
    """A shuffle in stages, one per digit of the partition's number."""
    count = base**digits
    graph: Graph = {("x", 0, i): (task, "file") for i in range(count)}
    for stage in range(digits):
        step = base**stage
        for i in range(count):
            graph["group", stage, i] = (task, ("x", stage, i))
            for d in range(base):
                graph["split", stage, i, d] = (task, ("group", stage, i), d + 0.5)
        for i in range(count):
            digit = i // step % base
            peers = [i + (d - digit) * step for d in range(base)]
            graph["x", stage + 1, i] = (task, [("split", stage, p, digit) for p in peers])
    return graph


def rechunk(rows: int, columns: int) -> Graph:
    """From row chunks to column chunks in two steps, each piece cut out and merged with its neighbours."""
    graph: Graph = {}
    for r in range(rows):
        graph["load", r] = (task, "file")
        for c in range(columns):
            graph["cut", r, c] = (task, ("load", r))
    for r in range(0, rows, 2):
        for c in range(columns):
            graph["pair", r, c] = (task, [("cut", r + k, c) for k in range(2) if r + k < rows])
    for c in range(columns):
        graph["out", c] = (task, [("pair", r, c) for r in range(0, rows, 2)])
    return graph


def anomaly(count: int, summed: bool) -> Graph:
    """x - x.mean()"""
    graph: Graph = {("x", i): (task, "file") for i in range(count)}
    for i in range(count):
        graph["part", i] = (task, ("x", i))
        graph["less", i] = (task, ("x", i), "mean")
    graph["mean"] = (task, [("part", i) for i in range(count)])
    if summed:
        graph["total"] = (task, [("less", i) for i in range(count)])
    return graph


def grouped_anomaly(groups: int, members: int) -> Graph:
    """x - x.mean() for each group, stored at once: the groups have nothing to do with one another."""
    graph: Graph = {}
    for g in range(groups):
        for m in range(members):
            graph["x", g, m] = (task, "file")
            graph["part", g, m] = (task, ("x", g, m))
            graph["less", g, m] = (task, ("x", g, m), ("mean", g))
            graph["store", g, m] = (task, ("less", g, m))
        graph["mean", g] = (task, [("part", g, m) for m in range(members)])
    graph["stored"] = (task, [("store", g, m) for g in range(groups) for m in range(members)])
    return graph


def climatology(years: int, months: int) -> Graph:
    """Each month's mean over the years is subtracted from that month; the years are then reduced."""
    graph: Graph = {}
    for y in range(years):
        for m in range(months):
            graph["x", y, m] = (task, "file")
            graph["less", y, m] = (task, ("x", y, m), ("mean", m))
        graph["year", y] = (task, [("less", y, m) for m in range(months)])
    for m in range(months):
        graph["mean", m] = (task, [("x", y, m) for y in range(years)])
    return graph


def chains_joined(chains: int, length: int, fan: int) -> Graph:
    """Linear chains, joined ``fan`` at a time and then all together."""
    graph: Graph = {}
    for c in range(chains):
        graph["step", c, 0] = (task, "file")
        for s in range(1, length):
            graph["step", c, s] = (task, ("step", c, s - 1))
    joins = range(0, chains, fan)
    for j in joins:
        graph["join", j] = (task, [("step", c, length - 1) for c in range(j, min(chains, j + fan))])
    graph["all"] = (task, [("join", j) for j in joins])
    return graph


def shared_chains(chains: int, length: int) -> Graph:
    """Chains that all start from one root, and whose every step also needs a parameter of that step."""
    graph: Graph = {"root": (task, "file")}
    for s in range(length):
        graph["par", s] = (task, "file")
    for c in range(chains):
        for s in range(length):
            before: Any = "root" if s == 0 else ("step", c, s - 1)
            graph["step", c, s] = (task, before, ("par", s))
    graph["all"] = (task, [("step", c, length - 1) for c in range(chains)])
    return graph


def prefix_scan(count: int) -> Graph:
    """Running totals: each block is summed, the sums are accumulated one after another, and added to the block."""
    graph: Graph = {}
    for i in range(count):
        graph["x", i] = (task, "file")
        graph["sum", i] = (task, ("x", i))
        graph["run", i] = (task, ("sum", i), ("run", i - 1)) if i else (task, ("sum", i))
        graph["out", i] = (task, ("x", i), ("run", i - 1)) if i else (task, ("x", i))
        graph["store", i] = (task, ("out", i))
    graph["end"] = (task, [("store", i) for i in range(count)])
    return graph


def cholesky(n: int) -> Graph:
    """The tiled factorization of an n x n matrix of blocks."""
    graph: Graph = {}
    latest: dict[tuple[int, int], Any] = {}
    for i in range(n):
        for j in range(i + 1):
            graph["a", i, j] = (task, "file")
            latest[i, j] = ("a", i, j)
    for k in range(n):
        graph["potrf", k] = (task, latest[k, k])
        for i in range(k + 1, n):
            graph["trsm", i, k] = (task, ("potrf", k), latest[i, k])
        for i in range(k + 1, n):
            for j in range(k + 1, i + 1):
                graph["update", k, i, j] = (task, latest[i, j], ("trsm", i, k), ("trsm", j, k))
                latest[i, j] = ("update", k, i, j)
    return graph


def tall_qr(blocks: int) -> Graph:
    """A tall and skinny QR, and the product of its factors: each block's Q waits for the R of all."""
    graph: Graph = {}
    for b in range(blocks):
        graph["a", b] = (task, "file")
        graph["qr", b] = (task, ("a", b))
        graph["q", b] = (task, ("qr", b))
        graph["r", b] = (task, ("qr", b))
        graph["q2", b] = (task, "qr all")
        graph["dot", b] = (task, ("q", b), ("q2", b))
    graph["stack"] = (task, [("r", b) for b in range(blocks)])
    graph["qr all"] = (task, "stack")
    graph["r all"] = (task, "qr all")
    return graph


def rolling(count: int, window: int) -> Graph:
    """Each output needs a window of neighbouring inputs; then a reduction."""
    graph: Graph = {("x", i): (task, "file") for i in range(count)}
    for i in range(count):
        graph["roll", i] = (task, [("x", j) for j in range(max(0, i - window + 1), i + 1)])
        graph["part", i] = (task, ("roll", i))
    graph["all"] = (task, [("part", i) for i in range(count)])
    return graph


def pairwise(count: int) -> Graph:
    """Every pair of blocks is compared, and all comparisons are reduced."""
    graph: Graph = {("x", i): (task, "file") for i in range(count)}
    for i in range(count):
        for j in range(i):
            graph["d", i, j] = (task, ("x", i), ("x", j))
        graph["row", i] = (task, ("x", i), [("d", i, j) for j in range(i)])
    graph["all"] = (task, [("row", i) for i in range(count)])
    return graph


def transpose_sum(n: int) -> Graph:
    """(x + x.T).sum() on n x n chunks."""
    graph: Graph = {}
    for i in range(n):
        for j in range(n):
            graph["x", i, j] = (task, "file")
            graph["t", j, i] = (task, ("x", i, j))
            graph["add", i, j] = (task, ("x", i, j), ("t", i, j))
            graph["part", i, j] = (task, ("add", i, j))
    for i in range(0, n, 4):
        for j in range(0, n, 4):
            block = [("part", i + a, j + b) for a in range(4) for b in range(4) if i + a < n and j + b < n]
            graph["block", i, j] = (task, block)
    graph["all"] = (task, [("block", i, j) for i in range(0, n, 4) for j in range(0, n, 4)])
    return graph


def diamonds(count: int, width: int) -> Graph:
    """Fork and join, one after another."""
    graph: Graph = {("fork", 0): (task, "file")}
    for i in range(count):
        for w in range(width):
            graph["mid", i, w] = (task, ("fork", i))
        graph["fork", i + 1] = (task, [("mid", i, w) for w in range(width)])
    return graph


def plain_cases() -> dict[str, Graph]:
    """The cases that are written out here."""
    return {
        "tree 1024 by 2": tree(1024),
        "tree 1000 by 8": tree(1000, 8),
        "lopsided tree": lopsided_tree(2000, 1),
        "dense 30x20": dense(30, 20),
        "layers 5 edges 40x40": dense(40, 40, 5),
        "layers random 5 of 40": random_layers(40, 20, 5, 1),
        "layers random 2 of 40": random_layers(40, 20, 2, 2),
        "stencil 100x20": stencil(100, 20),
        "stencil 20x100": stencil(20, 100),
        "stencil 60x60": stencil(60, 60),
        "stencil 100x20 summed": stencil(100, 20, True),
        "stencil 20x100 summed": stencil(20, 100, True),
        "butterfly 256": butterfly(8),
        "roots then reduce": roots_then_reduce(30, 20),
        "groupby tree": strided_reduce(200, 10),
        "columns summed": column_reduce(128, 6),
        "matmul 8": matmul(8),
        "matmul 8 total": matmul(8, total=True),
        "shuffle 30x30": shuffle(30, 30),
        "shuffle 10x60": shuffle(10, 60),
        "shuffle staged 3^4": staged_shuffle(4, 3),
        "rechunk 40x20": rechunk(40, 20),
        "anomaly 200": anomaly(200, False),
        "anomaly 200 summed": anomaly(200, True),
        "anomaly in 20 groups": grouped_anomaly(20, 15),
        "climatology 20x12": climatology(20, 12),
        "chains joined": chains_joined(64, 10, 8),
        "chains with parameters": shared_chains(40, 15),
        "prefix scan": prefix_scan(150),
        "cholesky 12": cholesky(12),
        "tall qr 60": tall_qr(60),
        "rolling 300 by 6": rolling(300, 6),
        "pairwise 30": pairwise(30),
        "(x + x.T).sum() 20": transpose_sum(20),
        "diamonds": diamonds(40, 12),
        "random dag, near": random_dag(1500, 3, 30, 1),
        "random dag, far": random_dag(1500, 3, 400, 2),
        "random dag, sparse": random_dag(1500, 2, 1500, 3),
    }


def array_cases() -> dict[str, tuple[Graph, list[Any]]]:
    """Graphs of Dask arrays, dataframes and bags, as its schedulers get them, with the keys to compute."""
    da: Any = import_module("dask.array")

    x = da.ones((600, 600), chunks=(30, 30))
    tall = da.ones((2000, 20), chunks=(40, 20))
    cube = da.ones((60, 80, 80), chunks=(4, 20, 20))
    collections: dict[str, Any] = {
        "da (x + x.T).sum()": (x + x.T).sum(),
        "da x - x.mean()": (x - x.mean()).sum(),
        "da x - x.mean(0)": x - x.mean(axis=0),
        "da x.std(0)": x.std(axis=0),
        "da svd": da.linalg.svd(tall),
        "da qr": da.linalg.qr(tall),
        "da svd compressed": da.linalg.svd_compressed(x, 10, seed=1),
        "da x @ x": x[:300, :300] @ x[:300, :300],
        "da (x @ x.T).sum()": (x[:300, :300] @ x[:300, :300].T).sum(),
        "da tensordot": da.tensordot(cube, cube, axes=((0, 1), (0, 1))),
        "da rolling": da.overlap.sliding_window_view(da.ones(3000, chunks=20), 30).mean(axis=-1),
        "da overlap": x.map_overlap(_same, depth=2).sum(),
        "da rechunk": x.rechunk((600, 10)).sum(axis=0),
        "da rechunk back": x.rechunk((600, 10)).rechunk((10, 600)),
        "da cumsum": x.cumsum(axis=0),
        "da stencil": _diffuse(da.ones(1200, chunks=30), 10),
        "da climatology": _seasonal(cube),
        "da cholesky": da.linalg.cholesky(da.eye(300, chunks=30)),
        "da two statistics": [x.mean(axis=0), x.max(axis=1)],
    }
    return {name: materialize(collection) for name, collection in collections.items()}


def table_cases() -> dict[str, tuple[Graph, list[Any]]]:
    """Graphs of Dask dataframes and bags, likewise."""
    import dask
    import pandas as pd

    db: Any = import_module("dask.bag")
    dd: Any = import_module("dask.dataframe")

    rows = 600
    frame = pd.DataFrame({"key": [i * 7 % 50 for i in range(rows)], "value": [float(i) for i in range(rows)]})
    table = dd.from_pandas(frame, npartitions=60)
    bag = db.from_sequence(range(300), npartitions=60)
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        collections: dict[str, Any] = {
            "dd groupby mean": table.groupby("key").value.mean(),
            "dd groupby split_out": table.groupby("key").value.sum(split_out=8),
            "dd shuffle": table.shuffle("key"),
            "dd merge": table.merge(table, on="key"),
            "dd less mean": table.value - table.value.mean(),
            "dd rolling": table.value.rolling(5).mean().sum(),
            "db frequencies": bag.frequencies(),
            "db groupby": bag.groupby(_last_digit, shuffle="tasks"),
        }
        return {name: materialize(collection) for name, collection in collections.items()}


def _last_digit(number: int) -> int:
    return number % 10


def _same(block: Any) -> Any:
    return block


def _diffuse(x: Any, steps: int) -> Any:
    da: Any = import_module("dask.array")

    for _ in range(steps):
        x = da.concatenate([x[:1], (x[:-2] + x[1:-1] + x[2:]) / 3, x[-1:]]).rechunk(30)
    return x


def _seasonal(cube: Any) -> Any:
    da: Any = import_module("dask.array")

    parts = [cube[i::12] - cube[i::12].mean(axis=0) for i in range(4)]
    return da.concatenate(parts).sum(axis=(1, 2))


def materialize(collection: Any) -> tuple[Graph, list[Any]]:
    """The graph that a scheduler gets for a collection, and its keys."""
    base: Any = import_module("dask.base")
    collections = collection if isinstance(collection, (list, tuple)) else [collection]
    expression = base.collections_to_expr(list(collections)).optimize()
    return dict(expression.__dask_graph__()), list(base.flatten(expression.__dask_keys__()))


def timing_cases(tasks: int) -> dict[str, Callable[[], Graph]]:
    """Makers of graphs of about ``tasks`` tasks, to time the computation of the order.

    The last three are smaller: on them Dask takes more than linear time, and on random graphs of 100,000 tasks more
    memory (over 24 GB) than most machines have.
    """
    side = round(tasks**0.5)
    return {
        "flat": lambda: flat(tasks),
        "chain": lambda: chain(tasks),
        "tree": lambda: tree(tasks // 2),
        "layers, 5 edges": lambda: dense(side, side, 5),
        "stencil": lambda: stencil(side, side),
        "shuffle": lambda: shuffle(side, side),
        "matmul": lambda: matmul(round(tasks ** (1 / 3))),
        "transposed sum": lambda: transpose_sum(round((tasks / 4) ** 0.5)),
        "dense 16 wide": lambda: dense(16, tasks // 80),
        "anomaly": lambda: anomaly(tasks // 10, True),
        "random dag": lambda: random_dag(tasks // 10, 3, 300, 1),
    }
