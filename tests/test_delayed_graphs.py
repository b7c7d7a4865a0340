"""Delayed values: their keys and graphs, what runs them, and how they travel."""

from __future__ import annotations

import copy
import gc
import operator
import os
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from importlib import import_module
from random import random
from typing import Any

import cloudpickle
import numpy as np
import pytest
from delayed_parts import SCHEDULERS, gather, identity, inc

from treadle import config
from treadle.callbacks import Callback, RunInfo
from treadle.deferred import Delayed, KeyConflictError, compute, delayed
from treadle.errors import InvalidKeyError
from treadle.graph.spec import Ref, Task
from treadle.tokens import TokenizeError

# Dask has no complete annotations.
dask: Any = import_module("dask")
da: Any = import_module("dask.array")
db: Any = import_module("dask.bag")


def boom(*args: Any) -> Any:
    raise ZeroDivisionError("boom")


class Total(Callback):
    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, info: RunInfo) -> None:
        self.names = sorted(info.names)


@pytest.fixture(params=SCHEDULERS, autouse=True)
def scheduler(request: pytest.FixtureRequest) -> Any:
    with config.set(scheduler=request.param):
        yield request.param


# Keys.


def test_calls_are_not_pure_by_default() -> None:
    draw = delayed(random)
    assert draw().key != draw().key
    one, other = compute(draw(), draw())
    assert one != other
    assert delayed(1).key != delayed(1).key
    assert delayed([1]).index(1).key != delayed([1]).index(1).key
    assert delayed([delayed(1)]).key != delayed([delayed(1)]).key


def test_pure_calls() -> None:
    add = delayed(operator.add, pure=True)
    one = delayed(1, pure=True)
    assert add(1, 2).key == add(1, 2).key
    assert add(one, 2).key == add(delayed(1, pure=True), 2).key
    assert add([one], [2]).key == add([one], [2]).key
    keys = [x.key for x in (add(1, 2), add(2, 1), add(1.0, 2), add(one, 2), add(one.key, 2), add(1, pure=False))]
    assert len(set(keys)) == len(keys)
    assert delayed(gather, pure=True)(a=1).key == delayed(gather, pure=True)(a=1).key
    assert delayed(gather, pure=True)(a=1).key != delayed(gather, pure=True)(b=1).key
    assert delayed(inc)(1, pure=True).key == delayed(inc)(1, pure=True).key
    data = delayed([1, 2], name="data")
    assert data.index(1, pure=True).key == data.index(1, pure=True).key
    assert data.index(1, pure=True).key != data.count(1, pure=True).key
    assert delayed([one, 2], pure=True).key == delayed([one, 2], pure=True).key
    assert delayed(partial(inc, 1), pure=True)().key != delayed(partial(inc, 2), pure=True)().key


def test_equal_pure_calls_run_once() -> None:
    ran: list[int] = []
    work = delayed(ran.append, pure=True, name="work")
    compute(work(1), work(1), [work(1)], work(2))
    assert sorted(ran) == [1, 2]


def test_pure_keys_are_the_same_in_every_process() -> None:
    program = (
        "from operator import add; from treadle.deferred import delayed\n"
        "print((delayed(add, pure=True)(1, {'a', 'b'}) + 1).key, delayed(add)(1, 2).key)"
    )
    path = os.pathsep.join([entry for entry in sys.path if entry])
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert printed[0][0] == printed[1][0] == (delayed(operator.add, pure=True)(1, {"a", "b"}) + 1).key
    assert printed[0][1] != printed[1][1]


def test_a_fork_makes_keys_of_its_own() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, delayed(inc)(1).key.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert child.startswith("inc-")
    assert child != delayed(inc)(1).key
    own, other = delayed(inc)(1).key, delayed(inc)(1).key
    assert own[:20] == other[:20] != child[:20]


def test_keys_are_unique_across_threads() -> None:
    keys: list[str] = []

    def make() -> None:
        keys.extend([delayed(inc)(1).key for _ in range(500)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 2000


def test_names() -> None:
    assert delayed(1).key.startswith("int-")
    assert delayed(None).key.startswith("NoneType-")
    assert delayed(inc)(1).key.startswith("inc-")
    assert delayed(lambda: 1)().key.startswith("lambda-")
    assert delayed(partial(inc))(1).key.startswith("inc-")
    assert (delayed(1) + 1).key.startswith("add-")
    assert (delayed(1) & 1).key.startswith("and-")
    assert delayed("a").upper().key.startswith("upper-")
    assert delayed(1, name="X").key == "X"
    assert delayed([delayed(1)], name="Y").key == "Y"
    assert delayed(inc)(1, treadle_key="a").key == "a"
    assert delayed(inc)(1, dask_key_name=("a", 0)).key == ("a", 0)
    assert delayed(inc, pure=True)(1, treadle_key="a").key == "a"
    assert repr(delayed(1, name="X")) == "Delayed('X')"
    with pytest.raises(TypeError, match="mean the same"):
        delayed(inc)(1, treadle_key="a", dask_key_name="b")
    with pytest.raises(InvalidKeyError):
        delayed(inc)(1, treadle_key=["a"])
    with pytest.raises(InvalidKeyError):
        delayed(1, name=object())


def test_a_parameter_called_pure_is_not_taken_away() -> None:
    def water(pure: bool = False) -> bool:
        return pure

    assert delayed(water)(pure=True).compute() is True


def test_one_key_for_two_tasks_is_an_error() -> None:
    first, second = delayed(inc)(1, treadle_key="x"), delayed(inc)(2, treadle_key="x")
    with pytest.raises(KeyConflictError, match=r"'x'.*Task\(inc, [12]\).*Task\(inc, [12]\)") as caught:
        compute(first, second)
    assert caught.value.key == "x"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(KeyConflictError):
        delayed(sum)([first + 1, second + 1]).compute()
    with pytest.raises(KeyConflictError):
        (delayed(1, name="y") + delayed(2, name="y")).graph()
    with pytest.raises(KeyConflictError):
        compute(delayed(1, name="y"), delayed(True, name="y"))


def test_one_key_for_the_same_task_is_none() -> None:
    lock = threading.Lock()
    grid = np.arange(3)
    for make in (
        lambda: delayed(inc)(delayed(1, name="one"), treadle_key="x"),
        lambda: delayed(grid, name="x"),
        lambda: delayed(identity)(lock, treadle_key="x"),
        lambda: delayed(identity)(grid.copy(), treadle_key="x"),
        lambda: pickle.loads(pickle.dumps(delayed(inc)(1, treadle_key="x"))),
    ):
        assert len(delayed(gather)(make(), make()).graph()) <= 3
    with pytest.raises(KeyConflictError):  # these cannot be told to be the same
        compute(delayed(gather)(grid, lock, treadle_key="x"), delayed(gather)(grid.copy(), lock, treadle_key="x"))


def test_what_has_no_content_cannot_be_pure() -> None:
    work = delayed(gather, pure=True)
    with pytest.raises(TokenizeError, match=r"lock in argument 'x' of gather\(\)"):
        work(1, x=[threading.Lock()])

    def named(first: Any, second: Any) -> None:
        """Does nothing."""

    with pytest.raises(TokenizeError, match=r"lock in argument 'second' of named\(\)"):
        delayed(named, pure=True)(1, threading.Lock())
    with pytest.raises(TokenizeError, match=r"argument '0' of "):
        delayed(min, pure=True)(threading.Lock())
    lock = threading.Lock()

    def closed() -> Any:
        return lock

    with pytest.raises(TokenizeError, match="lock in closed"):
        delayed(closed, pure=True)()
    assert delayed(closed, pure=True, name="closed")().key == delayed(closed, pure=True, name="closed")().key
    assert delayed(work)(1, threading.Lock(), pure=False).key.startswith("gather-")


# Computing.


def test_compute_several() -> None:
    ran: list[int] = []

    def note(x: int) -> int:
        ran.append(x)
        return x

    a = delayed(note)(1)
    b, c = a + 1, a + 2
    assert compute(b, [c, {"a": a}], 5, "x", None) == (2, [3, {"a": 1}], 5, "x", None)
    assert ran == [1]
    assert compute() == ()
    assert compute(1, [2]) == (1, [2])
    assert compute(b, b, [b]) == (2, 2, [2])


def test_options_reach_the_run(scheduler: str) -> None:
    seen = Total()
    assert (delayed(inc)(1) + 1).compute(callbacks=[seen], num_workers=1) == 3
    assert seen.names == ["add", "inc"]
    assert compute(delayed(1), scheduler="sync", optimize_graph=False) == (1,)
    calls: list[Any] = []

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        calls.append((graph, options))
        return ["computed" for _ in keys]

    assert delayed(inc)(1, treadle_key="x").compute(scheduler=get, num_workers=2) == "computed"
    assert calls == [({"x": Task(inc, 1)}, {"num_workers": 2})]
    with pytest.raises(TypeError, match="num_worker"):
        compute(delayed(1), num_worker=2)


def test_compute_inside_a_task() -> None:
    def outer(x: int) -> Any:
        return delayed(inc)(x).compute()

    assert delayed(sum)([delayed(outer)(i) for i in range(5)]).compute() == 15


@pytest.mark.parametrize("run", [lambda x: x.compute(), lambda x: compute(x)])
def test_one_frame_of_ours_in_a_traceback(run: Callable[[Any], Any]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(delayed(boom)(delayed(1), treadle_key="bad"))
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames if f"{os.sep}treadle{os.sep}" in frame.filename] == ["compute"]
    assert frames[-1].name == "boom"
    assert "while running task 'bad'" in getattr(caught.value, "__notes__")  # noqa: B009


def test_graph() -> None:
    x = delayed(inc)(delayed(1, name="one"), treadle_key="x")
    graph = x.graph()
    assert list(graph) == ["x", "one"]
    assert graph["x"] == Task(inc, Ref("one"))
    assert graph["one"].value == 1
    graph.clear()
    assert len(x.graph()) == 2
    pure = delayed(inc, pure=True)
    assert list(pure.graph()) == [pure.key]


def test_visualize(tmp_path: Any) -> None:
    path = delayed(inc)(1).visualize(filename=str(tmp_path / "x.dot"))
    assert "inc" in path.read_text()


# Long chains, copies and pickles.

LONG = 100_000


def chain(length: int) -> Delayed:
    x = delayed(0)
    step = delayed(inc)
    for _ in range(length):
        x = step(x)
    return x


def test_a_long_chain() -> None:
    x = chain(LONG)
    assert x.compute() == LONG
    last = weakref.ref(x)
    del x
    gc.collect()
    assert last() is None


def test_a_long_chain_is_thrown_away_in_a_thread() -> None:
    chains = [chain(LONG)]
    thread = threading.Thread(target=chains.clear)
    thread.start()
    thread.join()
    assert chains == []


def test_a_call_costs_the_same_however_much_is_behind_it() -> None:
    x = chain(1000)
    y = delayed(inc)(x)
    assert gc.get_referents(y).count(y.key) == 1
    assert y._deps == (x,) or y._deps[0] is x


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_pickles(dumps: Callable[[Any], bytes]) -> None:
    a = delayed(2 + 1j, name="a")
    for x in (a, a.real, a.real + 1, delayed(divmod, nout=2, pure=True)(7, 2), delayed([a, {"k": a}]), delayed(inc)(a)):
        y = pickle.loads(dumps(x))
        assert type(y) is type(x)
        assert y.key == x.key
        assert y.compute() == x.compute()
        assert len(y.graph()) == len(x.graph())
        assert compute(x, [y])[0] == compute(x)[0]
    assert len(pickle.loads(dumps(delayed(divmod, nout=2)(7, 2)))) == 2
    assert pickle.loads(dumps(a.conjugate))().compute() == 2 - 1j
    pure = pickle.loads(dumps(delayed(inc, pure=True)))
    assert pure(1).key == delayed(inc, pure=True)(1).key
    one, other = pickle.loads(dumps((a + 1, a + 2)))
    assert compute(one, other) == (3 + 1j, 4 + 1j)


def test_copies_of_a_ladder_are_walked_once() -> None:
    x = delayed(1, name="start")
    for _ in range(60):
        x = delayed(operator.add)(x, x)
    copies = [pickle.loads(pickle.dumps(x)) for _ in range(2)]
    assert compute(x, *copies) == (2**60, 2**60, 2**60)


def test_local_functions_are_pickled_by_cloudpickle() -> None:
    @delayed
    def local(x: int) -> int:
        return x * factor

    factor = 3
    assert pickle.loads(cloudpickle.dumps(local))(2).compute() == 6
    assert pickle.loads(cloudpickle.dumps(local(2))).compute() == 6


def test_a_long_chain_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(chain(20_000))).compute() == 20_000


def test_copies_are_the_same() -> None:
    x = delayed(inc)(1)
    assert copy.copy(x) is x
    assert copy.deepcopy([x])[0] is x


# Collections of Dask.


def test_dask_arrays_as_arguments() -> None:
    grid = np.arange(100).reshape(10, 10)
    array = da.from_array(grid, chunks=(5, 5))
    summed = delayed(sum)([grid, array, {"unused": array}["unused"], 1])
    assert (summed.compute() == 2 * grid + grid + 1).all()
    assert (delayed(array).compute() == grid).all()
    assert (delayed(array, name="mine").compute() == grid).all()
    assert delayed(array, name="mine").key == "mine"
    assert (delayed(array)[0] + 1).compute().tolist() == list(range(1, 11))
    assert delayed(identity, pure=True)(array).key == delayed(identity, pure=True)(array).key
    assert delayed(identity, pure=True)(array).key != delayed(identity, pure=True)(array + 1).key


def test_dask_collections_are_computed() -> None:
    array = da.ones((4, 4), chunks=2)
    bag = db.from_sequence([1, 2, 3], npartitions=2)
    total, items, both, value = compute(array.sum(), bag, {"a": [array], "b": delayed(1)}, 5)
    assert (total, items, value) == (16, [1, 2, 3], 5)
    assert both["a"][0].tolist() == np.ones((4, 4)).tolist()
    assert both["b"] == 1
    assert compute(array.sum(), [array], traverse=False)[1][0] is array
    assert delayed(sum)([bag.sum(), dask.delayed(inc)(1)]).compute() == 8
    assert pickle.loads(pickle.dumps(delayed(identity)(array))).compute().sum() == 16


def test_dask_collections_share_their_tasks() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return np.arange(4)

    source = da.from_delayed(dask.delayed(make)(), shape=(4,), dtype=int)
    value = delayed(sum)([source + 1, source + 2]) + delayed(identity)(source)
    assert value.compute().tolist() == [3, 6, 9, 12]
    assert made == [1]


def test_a_name_that_a_collection_uses_is_an_error() -> None:
    array = da.ones(2, chunks=2)
    (key,) = array.__dask_keys__()
    with pytest.raises(KeyConflictError):
        compute(delayed(identity)(array, treadle_key=key))


def test_objects_that_could_hold_parts_of_dask_and_do_not() -> None:
    class Holder:
        def __dask_graph__(self) -> None:
            return None

        def __dask_keys__(self) -> list[Any]:
            return []

    holder = Holder()
    assert delayed(identity)(holder).compute() is holder
    assert compute(holder) == (holder,)
