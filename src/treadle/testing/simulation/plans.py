"""What the tasks of a storm are to do, and what may become of them for that."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.ledger import MAX_ABSENCES, MAX_DEATHS
from treadle.core.records import ACTOR
from treadle.testing.simulation.tasks import Run, checksum

if TYPE_CHECKING:
    from treadle.testing.simulation.client import SimulatedFuture
    from treadle.testing.simulation.cluster import SimulatedCluster

__all__ = ["ALWAYS", "SECONDS", "Plan", "Plans"]

ALWAYS = 1 << 30
#: How long the tasks of a function may take: big results of quick ones are rather computed again than fetched.
SECONDS = {"quick": (0.0, 0.0001), "short": (0.001, 0.02), "long": (0.02, 0.3)}
#: So deep may tasks submit tasks that submit tasks.
_DEPTH = 2


class Plan(NamedTuple):
    """What a task is to do, and what it needs."""

    deps: tuple[str, ...]
    seconds: float
    nbytes: int
    #: How many of its first runs raise, and how many after these kill their worker.
    raises: int
    kills: int
    retries: int
    #: A sum of ASYNCHRONOUS, STARTS and ACTOR.
    kind: int = 0
    #: For how long it gives up its thread, or how many tasks it submits and waits for, and whether it comes back.
    aside: float = 0.0
    children: int = 0
    rejoins: bool = True


class Plans(dict[str, Plan]):
    """The plans of all tasks of a storm, by key."""

    def __init__(self) -> None:
        super().__init__()
        #: Keys whose values were scattered, and keys that somebody has cancelled for everybody.
        self.scattered: set[str] = set()
        self.forced: set[str] = set()
        self._values: dict[str, int] = {}

    def value(self, key: str) -> int:
        """The value of a key."""
        if key not in self._values:
            self._values[key] = checksum(key, [self.value(dep) for dep in self[key].deps])
        return self._values[key]

    def run(self, key: str, function: str, number: int) -> Run:
        """What that run of a task does."""
        plan = self[key]
        if number <= plan.raises:
            return Run(plan.seconds, error=f"run {number} of {key} raised", aside=plan.aside, rejoins=plan.rejoins)
        kills = number - plan.raises <= plan.kills
        children = self._children(key, number, plan.children)
        return Run(plan.seconds, plan.nbytes, None, kills, plan.aside, children, plan.rejoins)

    def _children(self, key: str, number: int, count: int) -> dict[str, tuple[str, tuple[str, ...]]]:
        """What that run of a task submits."""
        random = Random(f"{key} {number}")
        graph: dict[str, tuple[str, tuple[str, ...]]] = {}
        deps: tuple[str, ...] = ()
        for index in range(count):
            child = f"{key}/{number}.{index}"
            graph[child] = ("short", deps)
            self[child] = Plan(
                deps,
                random.choice(SECONDS["short"]),
                random.choice((28, 20_000)),
                random.choice((0,) * 8 + (ALWAYS,)),
                random.choice((0,) * 20 + (ALWAYS,)),
                0,
                aside=random.choice((0.0, 0.01)),
                children=random.choice((0, 0, 1)) if key.count("/") + 1 < _DEPTH else 0,
            )
            deps = random.choice(((), (child,)))
        return graph

    def may_fail(self, key: str, future: SimulatedFuture, cluster: SimulatedCluster) -> bool:
        """Whether there is a reason for the failure of a task."""
        assert future.error is not None
        culprit = future.culprit
        kind = future.error[0]
        ancestors = [key]
        for ancestor in ancestors:
            ancestors += [dep for dep in self[ancestor].deps if dep not in ancestors]
        if kind == "refused":
            return any(ancestor in cluster.unusable for ancestor in ancestors)
        if kind == "lost":
            if future.error[3].get("actor"):
                return culprit in ancestors and self[culprit].kind & ACTOR != 0
            return any(ancestor in self.scattered for ancestor in ancestors) or future.error[3]["worker"] == ""
        if kind == "cancelled":
            return culprit in ancestors and culprit in self.forced
        plan = self[culprit]
        if kind == "died" and future.error[3].get("away"):
            return culprit in ancestors and cluster.absences.get(culprit, 0) >= MAX_ABSENCES
        if kind == "died":
            return culprit in ancestors and cluster.deaths.get(culprit, 0) >= MAX_DEATHS
        # A value that cannot be passed on uses up the retries of those who need it.
        retries = 0 if cluster.unusable.intersection(plan.deps) else plan.retries
        return culprit in ancestors and kind == "raised" and plan.raises > retries
