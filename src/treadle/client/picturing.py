"""What a client, a future and a cluster look like in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.client.html import card, table
from treadle.wire.values import brief

if TYPE_CHECKING:
    from treadle.client.future import Future
    from treadle.client.session import Session
    from treadle.deploy.local import LocalCluster

__all__ = ["client_card", "cluster_card", "future_card"]


def client_card(name: str, state: str, session: Session | None, workers: Mapping[str, Mapping[str, Any]]) -> str:
    """
    :param workers: as ``Client.scheduler_info`` tells of them; empty if that is not known.
    """
    facts: dict[str, Any] = {}
    if session is not None:
        facts["Scheduler"] = session.address
        facts["Keys in use"] = len(session.registry.futures)
    if not workers:
        return card(f"Client {name}", state, facts)
    facts["Workers"] = len(workers)
    facts["Threads"] = sum(worker["nthreads"] for worker in workers.values())
    columns = ("name", "address", "threads", "memory limit", "tasks", "results")
    rows = [
        (
            worker["name"],
            worker["address"],
            worker["nthreads"],
            _bytes(worker.get("memory_limit", 0)),
            worker.get("processing", ""),
            worker.get("held", ""),
        )
        for worker in sorted(workers.values(), key=lambda each: str(each["name"]))
    ]
    return card(f"Client {name}", state, facts, table("All workers", columns, rows))


def cluster_card(cluster: LocalCluster, state: str) -> str:
    facts: dict[str, Any] = {}
    if cluster.address:
        facts["Scheduler"] = cluster.address
    workers = cluster.workers
    facts["Workers"] = f"{len(workers)} of {cluster.n_workers}"
    facts["Threads of each"] = cluster.threads_per_worker
    facts["Memory of each"] = _bytes(cluster.memory_limit)
    if not workers:
        return card(f"LocalCluster {cluster.name}", state, facts)
    rows = [(worker.name, worker.pid, worker.address) for worker in workers]
    return card(f"LocalCluster {cluster.name}", state, facts, table("All workers", ("name", "pid", "address"), rows))


def future_card(future: Future[Any]) -> str:
    facts: dict[str, Any] = {"Key": future.key}
    if future._exception is not None:
        facts["Error"] = brief(future._exception)
    elif future._succeeded() and future._held is None:
        facts["Type"] = type(future._result).__name__
    return card("Future", future.status, facts)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count else "no limit"
