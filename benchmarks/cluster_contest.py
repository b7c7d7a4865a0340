"""Contestants in processes of their own, which take turns.

Each contestant's client lives in its own process (and starts its workers from there), so that none pays for another's
heap, threads or event loop. All clusters are up before the first round. Some use the CPU even when they have nothing to
do (a cluster of Dask 9% of one core, Ray 3%), so all processes of those whose turn it is not are stopped
(SIGSTOP). A turn begins when the contestant's processes, woken up, are idle, and ends when they are idle again: what
one does after its clock has been stopped, such as releasing results, is on nobody else's bill.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import statistics
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import psutil
from rounds import Timing

#: The share of one core up to which a contestant's processes together count as idle, and for how many seconds.
IDLE = 0.2
WATCHED = 0.2


Label = TypeVar("Label")


class Call(NamedTuple):
    """What is asked of a contestant in its turn."""

    contestant: str
    method: str
    args: tuple[Any, ...] = ()


class Options(NamedTuple):
    """How much is measured."""

    rounds: int
    quick: bool


class Contestant:
    """A process that holds the contestant which ``factory`` makes, and runs its methods on request."""

    def __init__(self, name: str, factory: Callable[[], Any]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.link, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, factory), name=name)
        self.process.start()
        there.close()
        self._answer()

    def __call__(self, method: str, *args: Any) -> Any:
        """What ``method`` of the contestant returns."""
        self.link.send((method, args))
        return self._answer()

    def _answer(self) -> Any:
        done, value = self.link.recv()
        if not done:
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value

    def processes(self) -> list[psutil.Process]:
        """Its own process and all that this one has started."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                pass

    def load(self, seconds: float) -> float:
        """The share of one core that its processes use, watched for so many ``seconds``."""
        before = self._cpu_seconds()
        started = monotonic()
        sleep(seconds)
        return (self._cpu_seconds() - before) / (monotonic() - started)

    def _cpu_seconds(self) -> float:
        used = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
        return used

    def settle(self, limit: float = 60.0) -> None:
        """Return when its processes are idle, after ``limit`` seconds in any case."""
        deadline = monotonic() + limit
        while self.load(WATCHED) > IDLE and monotonic() < deadline:
            pass

    def close(self) -> None:
        self.resume()
        try:
            self.link.send(("close", ()))
            self._answer()
        finally:
            self.link.close()
            self.process.join()


def _serve(link: Connection, factory: Callable[[], Any]) -> None:
    try:
        contestant = factory()
        link.send((True, None))
    except BaseException:
        link.send((False, traceback.format_exc()))
        return
    method = ""
    while method != "close":
        method, args = link.recv()
        try:
            link.send((True, getattr(contestant, method)(*args)))
        except BaseException:
            link.send((False, traceback.format_exc()))


class Contest:
    """The contestants of one benchmark, as a context: started on entry, closed on exit.

    :param background: whether contestants may be busy outside of their calls. Without it, all that is watched, stopped
        and woken up here is left out.
    """

    def __init__(self, factories: dict[str, Callable[[], Any]], background: bool = True) -> None:
        self._factories = factories
        self._background = background
        self._stack = ExitStack()
        self._contestants: dict[str, Contestant] = {}

    def __enter__(self) -> Contest:
        with ExitStack() as stack:
            for name, factory in self._factories.items():
                contestant = Contestant(name, factory)
                stack.callback(contestant.close)
                self._contestants[name] = contestant
                if self._background:
                    contestant.settle()
                    contestant.pause()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def turns(self, calls: dict[Label, Call], rounds: int, warmup: int = 1) -> dict[Label, list[Any]]:
        """Make every call once per round, in turns (A B C A B C …), after ``warmup`` rounds that do not count.

        Returns what the calls returned, in the order of the rounds.
        """
        results: dict[Label, list[Any]] = {label: [] for label in calls}
        for turn in range(warmup + rounds):
            for label, call in calls.items():
                result = self._turn(self._contestants[call.contestant], call)
                if turn >= warmup:
                    results[label].append(result)
        return results

    def _turn(self, contestant: Contestant, call: Call) -> Any:
        if not self._background:
            return contestant(call.method, *call.args)
        contestant.resume()
        contestant.settle()
        result = contestant(call.method, *call.args)
        contestant.settle()
        contestant.pause()
        return result


def ratio(theirs: Iterable[float], ours: Iterable[float]) -> float:
    """How many times as long theirs took: the median of the ratios within each round."""
    return statistics.median([their / our for their, our in zip(theirs, ours)])


def timing(seconds: Sequence[float]) -> Timing:
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def options(description: str) -> Options:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds count (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of less, to see that all works")
    arguments = parser.parse_args()
    return Options(2 if arguments.quick else arguments.rounds, arguments.quick)
