"""Everything that can go wrong, in any order: random actions upon a simulated cluster, and what must hold all the same.

An action is a name and a number; what exactly happens follows from the number and from what there is at that moment, so
that any list of actions can be played, and a part of it too. Hypothesis may choose them, or :func:`random_actions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from treadle.core.goals import Goal
from treadle.core.records import ACTOR, ASYNCHRONOUS, STARTS
from treadle.core.scheduler import Scheduler
from treadle.errors import ProtocolError
from treadle.testing.simulation.client import SimulatedClient, SimulatedFuture
from treadle.testing.simulation.cluster import SimulatedCluster
from treadle.testing.simulation.network import Frame
from treadle.testing.simulation.plans import ALWAYS, SECONDS, Plan, Plans
from treadle.testing.simulation.scheduler import Costs
from treadle.testing.simulation.tasks import checksum
from treadle.testing.simulation.worker import SimulatedWorker

__all__ = ["ACTIONS", "Storm", "random_actions"]

#: Always in this order, so that a choice means the same in every process.
_NAMES = ("alpha", "beta")


_WRONG_OF_CLIENTS: tuple[tuple[Any, ...], ...] = (
    ("submit", ["w"], [99], [b"\x90"], [], None, None),
    ("submit", ["w"], [], [b"\x90"], [], None, None),
    ("submit", ["w"], [0], [b"\x90"], [[0]], None, None),
    ("submit", ["w"], [0], [b"\x90"], [], [1], None),
    ("submit", ["w"], [0], [b"\x90"], [], None, {"priority": 1 << 62}),
    ("submit", ["w"], [0], [b"\x90"], [], None, {"resources": {"GPU": -1.0}}),
    ("functions", [(0, b"x" * 16, "f0", b"", 1), (0, b"x" * 16, "f0", b"", 1)]),
)
_WRONG_OF_WORKERS: tuple[tuple[Any, ...], ...] = (
    ("finished", [(0, 28, 0.0, None)]),
    ("finished", [(1 << 40, 28, 0.0, None)]),
    ("failed", 1 << 40, 0.0, ("raised", b"", "", {})),
    ("returned", [1 << 40]),
    ("stopped", [0]),
    ("seceded", [1 << 40]),
    ("rejoined", [1 << 40]),
    ("started", [0]),
)
#: What functions may be, most of them nothing in particular.
_KINDS = (0,) * 6 + (ASYNCHRONOUS, STARTS, ACTOR, ASYNCHRONOUS | STARTS)


class Storm:
    """A cluster, those who use it, and a record of what they may expect.

    :param seed: decides how long each frame is on its way.
    :param encode: see :class:`SimulatedCluster`.
    """

    def __init__(self, seed: int, encode: Callable[[str, str, Frame], Frame] | None = None) -> None:
        self._weather = Random(seed)
        self.plans = Plans()
        self.cluster = SimulatedCluster(
            behaviour=self.plans.run,
            latency=self._latency,
            bandwidth=1e8,
            costs=self._weather.choice((Costs(), Costs(frame=20e-6, row=10e-6), Costs(row=0.002))),
            evaluate=checksum,
            violation=self._violated,
            check=True,
            encode=encode,
        )
        #: The graphs that were submitted, to be submitted again.
        self.graphs: list[tuple[dict[str, tuple[str, tuple[str, ...]]], int, int]] = []
        #: What was asked for and is not over.
        self.goals: list[Goal] = []
        #: Those who have said what they may not say.
        self._wicked: set[str] = set()
        self._cuts: list[tuple[str, str]] = []
        self._frozen: list[SimulatedWorker] = []
        self.cluster.watch = self._watch
        self.cluster.add_client()
        if self._weather.random() < 0.3:
            self.cluster.failing = lambda: self._weather.random() < 0.2
        for name in ("", *_NAMES):
            self.cluster.add_worker(name=name, resources={"GPU": 1.0} if name else None)

    def play(self, actions: Iterable[tuple[str, int]]) -> None:
        """Let it all happen, and then see that everything comes to its right end.

        :raises AssertionError: a future is wrong, or has no end; something is left over when nobody wants anything.
        :raises InternalError: an invariant of a scheduler or a worker does not hold.
        """
        try:
            for name, number in actions:
                ACTIONS[name](self, Random(number))
                self.cluster.timeline.step()
            self.calm()
            self.cluster.run_until_done(300.0)
            # The news of a failure may cross the release of a key that is wanted again, which then ends a second time.
            self.gather_all()
            self.cluster.run_until_done(300.0)
            self.judge()
            self.clear()
        except Exception as error:
            raise AssertionError(f"{error!r}\nThe last messages:\n{self.cluster.story()[-6000:]}") from error

    def calm(self) -> None:
        """The faults stop, and there are workers for everything."""
        cluster = self.cluster
        cluster.failing = None
        for one, other in self._cuts:
            cluster.mend(one, other)
        for worker in self._frozen:
            worker.up.resume()
            worker.down.resume()
        cluster.replacing = True
        for name in _NAMES:
            cluster.add_worker(2, name=name, resources={"GPU": 2.0})
        self.gather_all()

    def gather_all(self) -> None:
        for client in self._clients():
            client.gather([key for key, future in client.futures.items() if future.status in ("pending", "done")])

    def judge(self) -> None:
        """Every future of every client that is still there has the right end."""
        for client in self._clients():
            for future in client.futures.values():
                self._judge(client, future)

    def clear(self) -> None:
        """All clients release everything: then there is nothing left anywhere."""
        cluster = self.cluster
        for client in self._clients():
            client.release([key for key, future in client.futures.items() if future.status != "cancelled"])
        cluster.settle()
        core = cluster.core
        assert not core.tasks, f"tasks are left: {list(core.tasks.values())!r}"
        goals = list(core.steward.goals)
        assert not goals, f"goals are left: {goals!r}"
        assert not core.ledger.copying, f"copies are left: {core.ledger.copying!r}"
        for record in core.workers.values():
            left = (record.processing, record.stopping, record.held)
            assert not any(left), f"{record!r} has left: {left!r}"
        for worker in cluster.workers.values():
            if worker.alive:
                assert not worker.running, f"{worker!r} runs {worker.running!r}"
                assert not worker.aside, f"{worker!r} has {worker.aside!r} aside"
                held = [key for key in worker.state.store if key not in self.plans.scattered]
                assert not held, f"{worker!r} holds {held!r}"
                assert not worker.state.jobs, f"{worker!r} has {worker.state.jobs!r}"
                assert not worker.state.awaited, f"{worker!r} awaits {worker.state.awaited!r}"
        for client in self._clients():
            unanswered = [key for key, count in client.cancelling.items() if count]
            assert not unanswered, f"{client!r} has no answer to the cancelling of {unanswered!r}"
        for client in cluster.clients.values():
            client.close()
        cluster.settle()
        assert not core.clients, f"clients are left: {core.clients!r}"

    # What happens.

    def submit(self, random: Random) -> None:
        """A client submits a graph of a few tasks."""
        client = self._client(random)
        count = random.choice((1, 2, 4, 8, 20, 50))
        reach = random.choice((1, 3, 20))
        rooted = random.choice((0.0, 0.0, 0.8))
        serial = len(self.plans)
        names = [key for key in client.futures if random.random() < 0.5][-5:]
        graph: dict[str, tuple[str, tuple[str, ...]]] = {}
        retries = random.choice((0, 0, 1, 3))
        kind = random.choice(_KINDS)
        for number in range(count):
            key = f"t{serial + number}"
            near = names[-reach:]
            inputs = 0 if random.random() < rooted else random.choice((0, 1, 1, 2, 5))
            deps = tuple(sorted(random.sample(near, min(len(near), inputs))))
            function = random.choice(list(SECONDS))
            graph[key] = (function, deps)
            self.plans[key] = Plan(
                deps,
                random.choice(SECONDS[function]),
                random.choice((0, 28, 28, 20_000, 3_000_000)),
                random.choice((0,) * 20 + (1, 2, ALWAYS)),
                random.choice((0,) * 30 + (1, ALWAYS)),
                retries,
                kind,
                random.choice((0.0,) * 8 + (0.001, 0.1)),
                random.choice((0,) * 12 + (1, 2, 4)),
                random.random() < 0.8,
            )
            names.append(key)
            if random.random() < 0.02:
                self.cluster.unusable.add(key)
        self.graphs.append((graph, retries, kind))
        # Of the first part every result is wanted, because the second names them as results of an earlier message.
        first = dict(list(graph.items())[: random.choice((0, 0, count // 2))])
        second = {key: task for key, task in graph.items() if key not in first}
        for part in (first, second):
            if part:
                some = sorted(random.sample(list(part), random.randint(1, len(part))))
                client.submit(
                    part,
                    None if part is first or random.random() < 0.3 else some,
                    priority=random.choice((0, 0, 0, 1, -2)),
                    workers=random.choice((None, None, None, [_NAMES[0]], [_NAMES[1]], list(_NAMES))),
                    resources=random.choice((None, None, None, None, {"GPU": 1.0}, {"GPU": 2.0})),
                    retries=retries,
                    pure=random.random() < 0.7,
                    kind=kind,
                )

    def submit_again(self, random: Random) -> None:
        """A client submits what somebody has submitted before."""
        if self.graphs:
            graph, retries, kind = random.choice(self.graphs)
            client = self._client(random)
            client.submit(graph, retries=retries, kind=kind)
            if random.random() < 0.5:
                client.gather(graph)

    def want(self, random: Random) -> None:
        """A client wants what is, or was, another one's."""
        client = self._client(random)
        known = sorted(key for key in self.plans if client.can_want(key))
        if known:
            client.want(sorted(random.sample(known, min(3, len(known)))))

    def release(self, random: Random) -> None:
        """A client releases some futures."""
        client = self._client(random)
        client.release(self._half(client, random))

    def cancel(self, random: Random) -> None:
        """A client cancels some futures."""
        client = self._client(random)
        client.cancel(self._half(client, random))

    def force(self, random: Random) -> None:
        """A client cancels some futures, whoever else wants them."""
        client = self._client(random)
        keys = self._half(client, random)
        self.plans.forced.update(keys)
        client.cancel(keys, True)

    def retry(self, random: Random) -> None:
        """A client has some of what has failed tried again."""
        client = self._client(random)
        client.retry([key for key in self._half(client, random) if client.futures[key].status == "failed"])

    def gather(self, random: Random) -> None:
        """A client asks for some results."""
        client = self._client(random)
        client.gather(
            [
                key
                for key, future in client.futures.items()
                if future.status in ("pending", "done") and random.random() < 0.5
            ]
        )

    def scatter(self, random: Random) -> None:
        """A client puts values onto a worker."""
        worker = self._worker(random)
        if worker is not None:
            client = self._client(random)
            rows: dict[str, int] = {}
            for _ in range(random.choice((1, 3, 8))):
                key = f"t{len(self.plans)}"
                nbytes = random.choice((28, 500_000))
                self.plans[key] = Plan((), 0.0, nbytes, 0, 0, 0)
                self.plans.scattered.add(key)
                rows[key] = nbytes
            client.scatter(rows, worker)

    def join_worker(self, random: Random) -> None:
        """One more worker."""
        self.cluster.add_worker(
            random.choice((1, 1, 2, 4)),
            name=random.choice(("", *_NAMES)),
            resources=random.choice((None, {"GPU": 1.0}, {"GPU": 3.0})),
            memory_limit=random.choice((0, 0, 1_000_000, 20_000_000)),
            supervised=random.random() < 0.7,
            speed=random.choice((1.0, 0.1)),
        )

    def leave(self, random: Random) -> None:
        """A worker takes its leave."""
        worker = self._worker(random)
        if worker is not None:
            self.cluster.leave(worker)

    def kill(self, random: Random) -> None:
        """A worker dies, and its parent, if it has one, tells of it early, late or never."""
        worker = self._worker(random)
        if worker is not None:
            self.cluster.kill(worker, report_after=random.choice((0.0, 0.0, 0.002, 0.5, 3.0, None)))

    def freeze(self, random: Random) -> None:
        """A worker and the scheduler do not hear from one another for a while."""
        worker = self._worker(random)
        if worker is not None:
            for way in random.choice(((worker.up,), (worker.down,), (worker.up, worker.down))):
                way.stall()
            self._frozen.append(worker)

    def thaw(self, random: Random) -> None:
        """A worker and the scheduler hear from one another again."""
        if self._frozen:
            worker = self._frozen.pop(random.randrange(len(self._frozen)))
            worker.up.resume()
            worker.down.resume()

    def give_up(self, random: Random) -> None:
        """The scheduler hangs up on a worker."""
        worker = self._worker(random)
        if worker is not None:
            self.cluster.give_up(worker)

    def replicate(self, random: Random) -> None:
        """Somebody wants several workers to hold some results, and may think better of it."""
        count = random.choice((0, 1, 2, 2, 3))
        some = random.random() < 0.3

        def replicate(core: Scheduler, now: float) -> list[Goal]:
            keys = random.sample(list(core.tasks), min(len(core.tasks), random.choice((1, 3, 10))))
            return [core.on_replicate(keys, count, _some(core, some), self._reached, now)]

        self._seek(replicate)

    def rebalance(self, random: Random) -> None:
        """Somebody wants all workers to hold equally much."""
        half = random.random() < 0.3
        some = random.random() < 0.3

        def rebalance(core: Scheduler, now: float) -> list[Goal]:
            keys = list(core.tasks)[::2] if half else None
            return [core.on_rebalance(keys, _some(core, some), self._reached, now)]

        self._seek(rebalance)

    def retire(self, random: Random) -> None:
        """Some workers are to leave, but not before others hold what they hold."""
        alive = [worker.ident for worker in self.cluster.workers.values() if worker.alive]
        close = random.random() < 0.8
        force = random.random() < 0.3
        if alive:
            idents = random.sample(alive, min(len(alive), random.choice((1, 1, 2))))
            self._seek(
                lambda core, now: core.on_retire(
                    [core.workers[ident] for ident in idents if ident in core.workers and not core.workers[ident].lost],
                    "they were asked to",
                    close,
                    force,
                    self._reached,
                    now,
                )
            )

    def withdraw(self, random: Random) -> None:
        """Somebody does not want any more what was asked for."""
        if self.goals:
            goal = self.goals.pop(random.randrange(len(self.goals)))
            self.cluster.scheduler.post(self.cluster.scheduler.event, self.cluster.core.on_withdraw, goal)

    def restart(self, random: Random) -> None:
        """Somebody starts everything anew, or some workers only."""
        everything = random.random() < 0.3
        some = random.random() < 0.5

        def restart(core: Scheduler, now: float) -> list[Goal]:
            idents = _some(core, some) or []
            if everything:
                core.on_restart(idents, "the cluster was restarted", now)
            else:
                core.on_replace(idents, "the worker was restarted", now)
            return []

        self._seek(restart)

    def cut(self, random: Random) -> None:
        """Some workers and clients do not reach one another."""
        ends = [worker.ident for worker in self.cluster.workers.values() if worker.alive]
        ends += [client.ident for client in self._clients()] or ["nobody"]
        for _ in range(random.randint(1, 4)):
            one, other = random.choice(ends), random.choice(ends)
            self.cluster.cut(one, other)
            self._cuts.append((one, other))

    def mend(self, random: Random) -> None:
        """Two that did not reach one another do so again."""
        if self._cuts:
            self.cluster.mend(*self._cuts.pop(random.randrange(len(self._cuts))))

    def join_client(self, random: Random) -> None:
        """One more client."""
        self.cluster.add_client()

    def leave_client(self, random: Random) -> None:
        """A client goes, without releasing anything."""
        self._client(random).close()

    def misbehave(self, random: Random) -> None:
        """A client or a worker says what it may not say, and is thrown out for it."""
        if random.random() < 0.5:
            client = self._client(random)
            if client.alive:
                client.send(random.choice(_WRONG_OF_CLIENTS))
                self._wicked.add(client.ident)
        else:
            worker = self._worker(random)
            if worker is not None:
                worker.up.send([random.choice(_WRONG_OF_WORKERS)])
                self._wicked.add(worker.ident)

    def step(self, random: Random) -> None:
        """A few things happen."""
        for _ in range(random.choice((1, 3, 10, 50))):
            self.cluster.timeline.step()

    def wait(self, random: Random) -> None:
        """Some time passes."""
        self.cluster.run(random.choice((0.001, 0.01, 0.1, 3.0)))

    # Inside.

    def _seek(self, ask: Callable[[Scheduler, float], list[Goal]]) -> None:
        """Have the scheduler asked for something in its next turn."""

        def asked(now: float) -> None:
            self.goals += [goal for goal in ask(self.cluster.core, now) if not goal.over]

        self.cluster.scheduler.post(self.cluster.scheduler.event, asked)

    def _reached(self, goal: Goal) -> None:
        assert goal.over, f"{goal!r} is said to be over"
        assert not goal.open or goal.problems, f"{goal!r} is over too early"
        if goal in self.goals:
            self.goals.remove(goal)

    def _violated(self, ident: str, error: ProtocolError) -> None:
        if ident not in self._wicked:
            raise error

    def _watch(self, client: SimulatedClient, future: SimulatedFuture) -> None:
        """There is news of a future, also of one of a task's client, or of one that is soon released."""
        key = future.key
        if future.status == "failed":
            assert self.plans.may_fail(key, future, self.cluster), f"{future!r} had no reason to fail: {future.error!r}"
        elif self.plans[key].kind & ACTOR:
            assert future.worker in self.cluster.makers[key], f"{future!r} is not where it was made"
        assert not future.started or self.plans[key].kind & STARTS, f"{future!r} was said to have started"

    def _half(self, client: SimulatedClient, random: Random) -> list[str]:
        """Every other future of a client."""
        return [key for key, future in client.futures.items() if future.status != "cancelled" and random.random() < 0.5]

    def _clients(self) -> list[SimulatedClient]:
        """Those that are there, apart from those of tasks."""
        return [client for client in self.cluster.clients.values() if client.alive and not client.of_tasks]

    def _client(self, random: Random) -> SimulatedClient:
        clients = self._clients()
        return random.choice(clients) if clients else self.cluster.add_client()

    def _worker(self, random: Random) -> SimulatedWorker | None:
        workers = [worker for worker in self.cluster.workers.values() if worker.alive]
        return random.choice(workers) if workers else None

    def _latency(self, sender: str, receiver: str) -> float:
        return self._weather.choice((0.0, 0.0001, 0.0001, 0.001, 0.03))

    def _judge(self, client: SimulatedClient, future: SimulatedFuture) -> None:
        key = future.key
        who = f"{future!r} of {client!r}"
        if future.status == "done":
            assert future.gathered, f"{who} was not gathered"
            assert future.value == self.plans.value(key), f"{who} has a wrong value"
        elif future.status == "failed":
            assert future.error is not None
            assert self.plans.may_fail(key, future, self.cluster), (
                f"{who}: {future.culprit!r} had no reason to fail: {future.error!r}"
            )
        else:
            assert future.status == "cancelled", f"{who} has no end: {self.cluster.core.explain(key)}"


#: What can be done to a storm, by name.
ACTIONS: dict[str, Callable[[Storm, Random], None]] = {
    "submit": Storm.submit,
    "submit_again": Storm.submit_again,
    "want": Storm.want,
    "release": Storm.release,
    "cancel": Storm.cancel,
    "force": Storm.force,
    "retry": Storm.retry,
    "gather": Storm.gather,
    "scatter": Storm.scatter,
    "join_worker": Storm.join_worker,
    "leave": Storm.leave,
    "kill": Storm.kill,
    "freeze": Storm.freeze,
    "thaw": Storm.thaw,
    "give_up": Storm.give_up,
    "replicate": Storm.replicate,
    "rebalance": Storm.rebalance,
    "retire": Storm.retire,
    "withdraw": Storm.withdraw,
    "restart": Storm.restart,
    "cut": Storm.cut,
    "mend": Storm.mend,
    "join_client": Storm.join_client,
    "leave_client": Storm.leave_client,
    "misbehave": Storm.misbehave,
    "step": Storm.step,
    "wait": Storm.wait,
}

#: How much more often than the others some actions are chosen.
_WEIGHTS = {
    "submit": 5,
    "join_worker": 3,
    "step": 6,
    "wait": 3,
    "kill": 2,
    "cut": 3,
    "scatter": 2,
    "replicate": 2,
    "rebalance": 2,
    "retire": 2,
}


def _some(core: Scheduler, some: bool) -> list[str] | None:
    """The idents of every other worker; None for all."""
    return [ident for ident, worker in core.workers.items() if not worker.lost][::2] if some else None


def random_actions(seed: int, count: int = 40) -> list[tuple[str, int]]:
    """Actions for :meth:`Storm.play`, without Hypothesis."""
    random = Random(seed)
    names = [name for name in ACTIONS for _ in range(_WEIGHTS.get(name, 1))]
    return [("submit", random.randrange(1 << 20))] + [
        (random.choice(names), random.randrange(1 << 20)) for _ in range(count)
    ]
