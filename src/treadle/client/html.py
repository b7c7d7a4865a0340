"""What a client, a future and a local cluster look like in a notebook. Nothing here waits longer than a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Final

from treadle.client.future import Failure, Parts, Place
from treadle.client.limits import within
from treadle.html import amount, card, notes, shortened, table
from treadle.wire.failures import unpack_error
from treadle.wire.sizes import sizeof
from treadle.wire.values import PICKLED, brief, unpack_value

if TYPE_CHECKING:
    from treadle.client.client import Client
    from treadle.client.future import Future
    from treadle.deploy.local import LocalCluster

__all__ = ["client_card", "cluster_card", "future_card"]

#: Seconds that a scheduler has for its answer.
MOMENT: Final = 0.5

#: Results from so many bytes on are said to have a size; what is smaller matters to nobody.
_WORTH: Final = 1000
_LONGEST: Final = 500

#: The packages whose values can tell their shape at no cost.
_SHAPED: Final = frozenset({"numpy", "pandas", "pyarrow", "scipy", "xarray"})


def client_card(client: Client) -> str:
    """The connection, and the workers, as far as they are known."""
    session = client._session
    state = "not connected" if session is None else "closed" if client.closed else "lost" if session.ended else "open"
    title = f"Client {client._name}"
    if session is None:
        return card(title, state, {})
    facts: dict[str, Any] = {"Scheduler": session.address, "Keys in use": len(session.registry.futures)}
    if state != "open":
        return card(title, state, facts | ({"Reason": _cut(str(session.ended))} if state == "lost" else {}))
    workers: list[dict[str, Any]] = []
    if session.in_loop():
        workers = _known(client._address)  # a question would stop the loop that has to hear the answer
    else:
        try:
            workers = list(client._block(within, MOMENT, client._ask, "info")["workers"].values())
        except Exception:
            state = "open, but its scheduler does not answer"
    more = _workers(workers) + _more_of("await " if client.asynchronous else "")
    return card(title, state, facts | _totals(workers), more)


def _more_of(prefix: str) -> str:
    return notes(
        "How to see more",
        {
            f"{prefix}client.scheduler_info()": "workers, and how many tasks are in which state",
            f"{prefix}client.explain(future)": "why a task is where it is",
            f"{prefix}client.story(future)": "what has happened to it",
            f"{prefix}future.logs()": "what it has printed and logged",
            f"{prefix}client.profile()": "where the tasks have spent their time",
        },
    )


def _known(address: object) -> list[dict[str, Any]]:
    """The workers of a cluster that the client was given as an object: this asks nobody."""
    from treadle.deploy.local import LocalCluster

    if not isinstance(address, LocalCluster):
        return []
    limit = address.memory_limit
    return [{**worker._asdict(), "memory_limit": limit} for worker in address.workers]


def _totals(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not workers:
        return {}
    limits = [worker["memory_limit"] for worker in workers]
    return {
        "Workers": len(workers),
        "Threads": sum(worker["nthreads"] for worker in workers),
        "Memory": _memory(sum(worker.get("rss", 0) for worker in workers), sum(limits) if all(limits) else 0),
    }


def _workers(workers: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            worker["name"],
            worker["address"],
            worker["nthreads"],
            _memory(worker.get("rss", 0), worker["memory_limit"]),
            worker.get("processing", ""),
            worker.get("held", ""),
        )
        for worker in sorted(workers, key=lambda each: str(each["name"]))
    ]
    return table("All workers", ("name", "address", "threads", "memory", "tasks", "results"), rows) if rows else ""


def cluster_card(cluster: LocalCluster) -> str:
    members = cluster._members
    state = "closed" if not cluster._end.alive else "running" if cluster.address else "not started"
    if state == "running" and members.ended:
        state = "its scheduler is gone"
    workers = cluster.workers
    facts: dict[str, Any] = {"Scheduler": cluster.address} if cluster.address else {}
    facts["Workers"] = f"{len(workers)} of {cluster.n_workers}"
    facts["Threads of each"] = cluster.threads_per_worker
    facts["Memory of each"] = _memory(0, cluster.memory_limit)
    if cluster.resources:
        facts["Resources of each"] = ", ".join(f"{name}: {count:g}" for name, count in cluster.resources.items())
    if members.failure:
        facts["Not replaced"] = _cut(members.failure)
    title = f"LocalCluster {cluster.name}"
    if state != "running":
        return card(title, state, facts)
    rows = [(worker.name, worker.pid, worker.address) for worker in workers]
    more = table("All workers", ("name", "pid", "address"), rows) if rows else ""
    return card(title, state, facts, more)


def future_card(future: Future[Any]) -> str:
    """The state of a future, and what is known of its result without fetching or unpickling it."""
    # In this order: what has come is there before the status says so, and stays until it was made into something.
    status = "running" if future.running() else future.status
    held, error = future._held, future._exception
    facts: dict[str, Any] = {"Key": _cut(future.key)}
    more = ""
    if error is not None:
        facts["Error"] = _cut(brief(error))
    elif isinstance(held, Failure):
        facts["Error"] = _cut(_reason(held))
        if held.culprit != future.key:
            facts["Of the task"] = _cut(held.culprit)
    elif status == "finished":
        facts |= _result(held, future._result)
    elif future.cancelled() and future._reason:
        facts["Reason"] = _cut(future._reason)
    if status == "error":
        more = notes(
            "How to see more",
            {
                "future.result()": "raises the error, with its traceback",
                "future.logs()": "what the task has printed and logged",
                "future.retry()": "has it tried again",
            },
        )
    return card("Future", status, facts, more)


def _reason(failure: Failure) -> str:
    """What was raised, as the worker wrote it, so that nobody's exception has to be unpickled to be shown."""
    kind, _, text, _ = failure.error
    if kind != "raised":
        return brief(unpack_error(failure.error, failure.culprit))
    last = str(text).rpartition("Traceback (most recent call last):\n")[2].splitlines()
    said = list(dropwhile(lambda line: line[:1].isspace(), last))
    return "\n".join(said or last[-1:]).strip()


def _result(held: Any, value: Any) -> dict[str, Any]:
    if isinstance(held, Place):
        return {"Size": amount(held.nbytes), "Held by": f"{held.worker} at {held.address}"}
    facts: dict[str, Any] = {}
    if held is None:
        nbytes = sizeof(value)
    else:
        parts = held.buffers if isinstance(held, Parts) else [held]
        nbytes = sum(memoryview(part).nbytes for part in parts)
        value = unpack_value(parts[0]) if parts[0][0] != PICKLED else held
    if value is not held:
        facts["Type"] = _type(value)
    if nbytes >= _WORTH:
        facts["Size"] = amount(nbytes)
    return facts


def _type(value: Any) -> str:
    kind = type(value)
    if kind.__module__.partition(".")[0] not in _SHAPED:
        return kind.__name__
    about = [f"{name} {getattr(value, name)}" for name in ("shape", "dtype") if hasattr(value, name)]
    return ", ".join([kind.__name__, *about])


def _memory(used: float, limit: float) -> str:
    """
    :param used: bytes; 0 if that is not known.
    :param limit: bytes; 0 for none.
    """
    if not used:
        return amount(limit) if limit else "no limit"
    return f"{amount(used)} of {amount(limit)}" if limit else f"{amount(used)}, no limit"


def _cut(text: str) -> str:
    return shortened(text, _LONGEST)
