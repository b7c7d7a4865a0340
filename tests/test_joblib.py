"""joblib, and with it scikit-learn, on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import Client, LocalCluster
from treadle.errors import ClosedError, ConnectError, UserError
from treadle.integrations.joblib import TreadleBackend
from treadle.testing.tasks import Boom, OddInit, eventually, inc

# Untyped.
joblib: Any = import_module("joblib")
Parallel: Any = joblib.Parallel
delayed: Any = joblib.delayed


@pytest.fixture
def client(default_client: Client) -> Iterator[Client]:
    yield default_client
    eventually(lambda: not serving())


@pytest.fixture
def backend(client: Client) -> Iterator[Any]:
    with joblib.parallel_config(backend="treadle") as config:
        yield config["backend"]


# What runs on the workers


def where(_: int = 0) -> str:
    return treadle.get_worker().name


def fail(number: int) -> int:
    if number == 7:
        raise Boom("seven")
    return number


def fail_oddly() -> None:
    raise OddInit(3, detail="odd")


def identity_of(array: Any) -> tuple[int, bool, str]:
    """Where the memory of an array is, whether it may be written to, and in which worker."""
    return array.__array_interface__["data"][0], array.flags.writeable, where()


def weigh(item: Any) -> int:
    return len(item["big"]) if isinstance(item, dict) else len(item)


class Model:
    """An object that is big, and no array."""

    def __init__(self, size: int) -> None:
        self.parts = [bytes([number % 256]) * 1000 for number in range(size)]
        self.used = 0

    def use(self, _: int) -> tuple[int, int]:
        """Changes the object for whoever has the same."""
        self.used += 1
        return self.used, len(self.parts)


def nth_use(models: list[Model], number: int) -> tuple[int, int]:
    return models[0].use(number)


def weigh_one(data: bytes, _: int) -> tuple[int, int]:
    return 1, len(data) // 1000


def nested(n_jobs: int | None, depth: int) -> tuple[str, Any]:
    if depth == 0:
        return where(), []
    inner = Parallel(n_jobs=n_jobs)(delayed(nested)(n_jobs, depth - 1) for _ in range(4))
    return type(joblib.parallel.get_active_backend()[0]).__name__, inner


def die_once(folder: str, number: int, deadly: int, array: Any) -> float:
    """The first call of number ``deadly`` kills its worker."""
    if number == deadly:
        try:
            os.close(os.open(os.path.join(folder, "died"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return float(array[number])


def hold(folder: str, number: int) -> int:
    """Runs until the test lets it."""
    Path(folder, f"started-{number}").touch()
    eventually(Path(folder, "go").exists)
    return number


def threads_of_blas(_: Any) -> list[int]:
    pools: list[dict[str, Any]] = import_module("threadpoolctl").threadpool_info()
    return [pool["num_threads"] for pool in pools]


# Results


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 1])
def test_all_results_arrive(backend: Any, return_as: str, pre_dispatch: Any) -> None:
    done = list(Parallel(return_as=return_as, pre_dispatch=pre_dispatch)(delayed(inc)(i) for i in range(100)))
    assert sorted(done) == list(range(1, 101))
    if return_as != "generator_unordered":
        assert done == sorted(done)


def test_calls_run_on_the_workers(backend: Any) -> None:
    assert set(Parallel(batch_size=1)(delayed(where)(i) for i in range(50))) <= set(workers())


def workers() -> list[str]:
    return [about["name"] for about in treadle.current_client().scheduler_info()["workers"].values()]


def test_all_slots_are_used_unless_fewer_are_asked_for(backend: Any) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(-2) == joblib.effective_n_jobs(1) == 1
    assert joblib.effective_n_jobs(50) == 2
    assert Parallel().n_jobs == -1
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)(delayed(inc)(i) for i in range(3))


def test_short_calls_go_in_big_batches(backend: Any) -> None:
    parallel = Parallel()
    assert parallel(delayed(inc)(i) for i in range(20_000)) == list(range(1, 20_001))
    assert parallel.n_dispatched_batches < 2000


def test_several_calls_of_one_parallel_and_of_two_at_a_time(backend: Any) -> None:
    with Parallel() as parallel:
        assert parallel(delayed(inc)(i) for i in range(5)) == [1, 2, 3, 4, 5]
        assert parallel(delayed(inc)(i) for i in range(3)) == [1, 2, 3]
    one, two = (Parallel(return_as="generator")(delayed(inc)(i) for i in range(30)) for _ in range(2))
    assert list(zip(one, two)) == [(i, i) for i in range(1, 31)]


def test_functions_that_nothing_can_import(backend: Any) -> None:
    offset = 10
    assert Parallel()(delayed(lambda x: x + offset)(i) for i in range(30)) == list(range(10, 40))


def test_a_memory_is_filled_by_the_workers(backend: Any, tmp_path: Path) -> None:
    cached = joblib.Memory(str(tmp_path), verbose=0).cache(inc)
    assert Parallel()(delayed(cached)(i) for i in range(4)) == [1, 2, 3, 4]
    assert Parallel(backend="treadle")(delayed(cached)(i) for i in range(4)) == [1, 2, 3, 4]
    assert all(cached.check_call_in_cache(i) for i in range(4))


def test_the_backend_takes_a_client_and_options(cluster: LocalCluster, client: Client) -> None:
    name = client.submit(where, pure=False).result()
    with Client(cluster, set_as_default=False) as other:
        client.close()
        with joblib.parallel_config(backend="treadle", client=other, workers=name, priority=3, n_jobs=2):
            assert joblib.effective_n_jobs(-1) == 2  # so that joblib does not run all here
            assert joblib.effective_n_jobs(2) == 1
        with joblib.parallel_config(backend="treadle", client=other, workers=[name], n_jobs=-1):
            assert set(Parallel()(delayed(where)(i) for i in range(10))) == {name}
        with pytest.raises(UserError, match="no worker among"):
            Parallel(backend=TreadleBackend(other, workers="nobody"))(delayed(where)(i) for i in range(3))


def test_the_threads_of_libraries_can_be_limited(client: Client) -> None:
    with joblib.parallel_config(backend="treadle", inner_max_num_threads=1):
        for limits in Parallel()(delayed(threads_of_blas)(np.arange(3)) for _ in range(4)):
            assert set(limits) == {1}


# Big arguments


def test_a_big_array_is_sent_once(backend: Any, client: Client) -> None:
    array = np.arange(300_000.0)
    found = Parallel(batch_size=1)(delayed(identity_of)(array) for _ in range(40))
    assert len(set(found)) == len({name for _, _, name in found})
    assert not any(writeable for _, writeable, _ in found)


def test_arrays_are_found_within_other_arguments(backend: Any) -> None:
    array = np.arange(300_000.0)
    assert Parallel()(delayed(weigh)({"big": array, "number": i}) for i in range(10)) == [300_000] * 10


def test_other_big_arguments_are_sent_once(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    scatter = Client.scatter

    def watched(client: Client, values: Any, **options: Any) -> Any:
        sent.extend(map(len, values))
        return scatter(client, values, **options)

    monkeypatch.setattr(Client, "scatter", watched)
    model = Model(2000)
    objects = np.array([model], dtype=object)
    for item, use in ((model, Model.use), ([model], nth_use), (objects, nth_use), (b"x" * 2_000_000, weigh_one)):
        assert Parallel(batch_size=1)(delayed(use)(item, i) for i in range(20)) == [(1, 2000)] * 20
        assert len(sent) == 2  # once with the first batch, before it is known that there are others
        assert min(sent) >= 2_000_000
        sent.clear()


def test_big_arguments_that_are_different(backend: Any) -> None:
    sums = Parallel()(delayed(np.sum)(np.full(200_000, i)) for i in range(10))
    assert sums == [200_000 * i for i in range(10)]


def test_nobody_keeps_what_was_sent(backend: Any, client: Client) -> None:
    array = np.zeros(300_000)
    Parallel()(delayed(weigh)(array) for _ in range(10))
    gone = weakref.ref(array)
    del array
    eventually(lambda: gone() is None)
    eventually(lambda: not any(client.has_what().values()))


def test_arrays_that_are_changed_between_calls(backend: Any) -> None:
    array = np.zeros(300_000)
    for value in range(3):
        array[:] = value
        assert set(Parallel()(delayed(np.max)(array) for _ in range(4))) == {value}


def test_arguments_can_be_sent_anew_for_each_batch(backend: Any) -> None:
    array = np.zeros(300_000)
    found = Parallel(batch_size=1, max_nbytes=None)(delayed(identity_of)(array) for _ in range(4))
    assert all(writeable for _, writeable, _ in found)


def test_futures_stand_for_their_results(backend: Any, client: Client) -> None:
    future = client.scatter(np.arange(5))
    assert Parallel()(delayed(np.dot)(future, i) for i in range(3))[2].tolist() == [0, 2, 4, 6, 8]


# Errors


def test_an_error_keeps_its_type_and_its_traceback(backend: Any) -> None:
    with pytest.raises(Boom, match="seven") as caught:
        Parallel()(delayed(fail)(i) for i in range(20))
    assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(OddInit) as odd:
        list(Parallel(return_as="generator")(delayed(fail_oddly)() for _ in range(3)))
    assert odd.value.code == 3
    assert Parallel()(delayed(fail)(i) for i in range(5)) == [0, 1, 2, 3, 4]


def test_what_cannot_be_pickled_is_an_error(backend: Any) -> None:
    with pytest.raises(Exception, match="pickle"):
        Parallel()(delayed(print)(threading.Lock()) for _ in range(3))

    def later() -> Iterator[Any]:
        for i in range(50):
            yield delayed(fail)(0 if i < 40 else threading.Lock())

    with pytest.raises(Exception, match="pickle"):
        Parallel(batch_size=1)(later())


def test_an_error_in_the_iterator(backend: Any) -> None:
    def calls() -> Iterator[Any]:
        for i in range(50):
            if i == 40:
                raise Boom("in the iterator")
            yield delayed(inc)(i)

    with pytest.raises(Boom, match="in the iterator"):
        Parallel(batch_size=1)(calls())


def test_a_timeout_cancels_what_is_queued(backend: Any, client: Client, tmp_path: Path) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.05, pre_dispatch="all")(delayed(hold)(str(tmp_path), i) for i in range(10))
    (tmp_path / "go").touch()
    assert idle_again(client)
    assert len(list(tmp_path.glob("started-*"))) < 10


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_what_is_queued(backend: Any, client: Client, tmp_path: Path) -> None:
    def interrupt() -> None:
        eventually((tmp_path / "started-0").exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel(pre_dispatch="all")(delayed(hold)(str(tmp_path), i) for i in range(10))
    thread.join()
    (tmp_path / "go").touch()
    assert idle_again(client)
    assert len(list(tmp_path.glob("started-*"))) < 10


@pytest.mark.filterwarnings("ignore:.*tasks:UserWarning")
def test_a_generator_that_is_dropped_cancels_what_is_queued(backend: Any, client: Client, tmp_path: Path) -> None:
    results = Parallel(return_as="generator", pre_dispatch="all")(delayed(hold)(str(tmp_path), i) for i in range(10))
    eventually((tmp_path / "started-0").exists)
    del results
    (tmp_path / "go").touch()
    assert idle_again(client)
    assert len(list(tmp_path.glob("started-*"))) < 10


def test_news_of_a_call_that_failed_are_none_of_the_next(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cancelled is told only when the next call of the same ``Parallel`` has begun."""
    go_on = threading.Event()

    class Late(queue.SimpleQueue[Any]):
        told = False

        def get(self, *args: Any) -> Any:
            if self.told:
                go_on.wait(30)
            self.told = True
            return super().get(*args)

    def first(number: int) -> int:
        if number:
            return hold(str(tmp_path), number)
        raise Boom("first")

    monkeypatch.setattr(queue, "SimpleQueue", Late)
    with Parallel(n_jobs=2, pre_dispatch="all", batch_size=1) as parallel:
        with pytest.raises(Boom):
            parallel(delayed(first)(i) for i in range(4))
        monkeypatch.undo()
        parallel._ready_batches.queue.clear()  # what joblib had not submitted when the call failed goes to the next one
        (tmp_path / "go").touch()
        count = backend.effective_n_jobs

        def meanwhile(n_jobs: int) -> int:
            go_on.set()
            eventually(lambda: not serving())
            jobs: int = count(n_jobs)
            return jobs

        monkeypatch.setattr(backend, "effective_n_jobs", meanwhile)
        assert parallel(delayed(inc)(i) for i in range(4)) == [1, 2, 3, 4]


def serving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "treadle-joblib"]


def idle_again(client: Client) -> bool:
    """Whether the workers run what comes next."""
    found: list[int] = Parallel()(delayed(inc)(i) for i in range(4))
    return found == [1, 2, 3, 4]


def test_without_a_client() -> None:
    with pytest.raises(UserError, match="needs a client"):
        joblib.parallel_config(backend="treadle")
    with pytest.raises(TypeError, match=r"must be a treadle\.Client"):
        TreadleBackend("localhost:1234")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 5}, "workers must be names"),
        ({"priority": "high"}, "priority must be a whole number, not 'high'"),
        ({"resources": "GPU"}, "resources must be a dict of amounts"),
    ],
)
def test_wrong_options(client: Client, options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        joblib.parallel_config(backend="treadle", **options)


def test_with_a_closed_client(cluster: LocalCluster) -> None:
    with Client(cluster) as client, joblib.parallel_config(backend="treadle"):
        client.close()
        with pytest.raises(ClosedError, match="joblib's backend"):
            Parallel()(delayed(inc)(i) for i in range(3))
        with pytest.raises(ClosedError):
            joblib.parallel_config(backend="treadle", client=client)


def test_with_an_asynchronous_client(cluster: LocalCluster) -> None:
    with pytest.raises(UserError, match="asynchronous"):
        TreadleBackend(Client(cluster, asynchronous=True))


def test_a_client_that_is_closed_in_the_middle(cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster) as client, joblib.parallel_config(backend="treadle"):
        results = Parallel(return_as="generator")(delayed(hold)(str(tmp_path), i) for i in range(10))
        eventually((tmp_path / "started-0").exists)
        client.close()
        (tmp_path / "go").touch()
        with pytest.raises((ClosedError, ConnectError)):
            list(results)


# Within one another


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_parallel_within_parallel(backend: Any, n_jobs: int | None) -> None:
    outer = Parallel()(delayed(nested)(n_jobs, 2) for _ in range(4))
    assert [name for name, _ in outer] == ["_NestedBackend"] * 4
    assert all(len(inner) == 4 for _, inner in outer)
    within = "SequentialBackend" if n_jobs else "_NestedBackend"
    assert {name for _, inner in outer for name, _ in inner} == {within}
    assert outer[0][1][0][1][0][0] in workers()


# Workers that die


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_that_dies_in_the_middle(tmp_path: Path, n_workers: int) -> None:
    array = np.arange(300_000.0)
    with LocalCluster(n_workers, 1) as cluster, Client(cluster), joblib.parallel_config(backend="treadle"):
        done = Parallel(batch_size=2)(delayed(die_once)(str(tmp_path), i, 11, array) for i in range(60))
    assert done == list(range(60))
    assert (tmp_path / "died").exists()


# scikit-learn


def sample() -> tuple[Any, Any]:
    datasets = import_module("sklearn.datasets")
    x, y = datasets.make_classification(400, 20, n_informative=8, random_state=0)
    return np.hstack([x] * 20), y  # more than a megabyte


def both(fit: Callable[[], Any]) -> tuple[Any, Any]:
    """What comes out without and with a cluster."""
    with joblib.parallel_config(backend="sequential"):
        expected = fit()
    return expected, fit()


def test_a_grid_search(backend: Any) -> None:
    x, y = sample()
    assert x.nbytes > 1 << 20
    svm, selection = import_module("sklearn.svm"), import_module("sklearn.model_selection")

    def fit() -> Any:
        grid = {"C": [0.1, 1.0, 10.0], "gamma": [1e-3, 1e-2]}
        return selection.GridSearchCV(svm.SVC(random_state=0), grid, cv=3, n_jobs=-1).fit(x, y)

    expected, found = both(fit)
    assert found.best_params_ == expected.best_params_
    for name, values in expected.cv_results_.items():
        if "time" not in name:
            np.testing.assert_array_equal(found.cv_results_[name], values)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))


def test_a_forest(backend: Any) -> None:
    x, y = sample()
    ensemble = import_module("sklearn.ensemble")

    def fit() -> Any:
        return ensemble.RandomForestClassifier(30, max_depth=5, random_state=0, n_jobs=-1).fit(x, y)

    expected, found = both(fit)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))
    for forest in (expected, found):
        forest.n_jobs = 1  # else the threads that it uses here add up the trees in any order
    np.testing.assert_array_equal(found.predict_proba(x), expected.predict_proba(x))
    np.testing.assert_array_equal(found.feature_importances_, expected.feature_importances_)


def test_a_grid_search_over_forests(backend: Any) -> None:
    x, y = sample()
    ensemble, selection = import_module("sklearn.ensemble"), import_module("sklearn.model_selection")

    def fit() -> Any:
        forest = ensemble.RandomForestClassifier(10, random_state=0, n_jobs=2)
        return selection.GridSearchCV(forest, {"max_depth": [2, 4]}, cv=2, n_jobs=-1).fit(x, y)

    expected, found = both(fit)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_cross_validation(backend: Any) -> None:
    x, y = sample()
    linear, selection = import_module("sklearn.linear_model"), import_module("sklearn.model_selection")
    expected, found = both(lambda: selection.cross_val_score(linear.RidgeClassifier(), x, y, cv=4, n_jobs=-1))
    np.testing.assert_array_equal(found, expected)
