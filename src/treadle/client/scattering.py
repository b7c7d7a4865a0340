"""Values that a client puts into the memory of workers itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from treadle.client.future import FINISHED, Future, Place
from treadle.errors import TaskNotSerializableError, UserError
from treadle.naming import unique
from treadle.wire.values import dump_parts

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["scatter"]

#: Bytes, and values, in one message to a worker.
_BATCH_BYTES = 256 << 20
_BATCH_VALUES = 1000

#: A key and the parts of its value.
_Packed = tuple[str, list[Any]]


async def scatter(session: Session, values: Sequence[Any], workers: str | Iterable[str] | None) -> list[Future[Any]]:
    """Steps: put each value on a worker, the next one always where the fewest bytes were put.

    :param workers: the only ones to use: names, idents, addresses or hosts.
    :raises TaskNotSerializableError: a value cannot be pickled. :raises UserError: there is no such worker.
    """
    packed = [_pack(value) for value in values]
    if not packed:
        return []
    info = await session.ask("info")
    loads: dict[str, list[_Packed]] = {ident: [] for ident in _choose(info["workers"], workers)}
    sizes = dict.fromkeys(loads, 0)
    for key, parts in packed:
        ident = min(sizes, key=sizes.__getitem__)
        loads[ident].append((key, parts))
        sizes[ident] += max(1, _size(parts))
    futures: dict[str, Future[Any]] = {}
    for ident, load in loads.items():
        address = info["workers"][ident]["address"]
        for batch in _batches(load):
            stored = await session.run(lambda batch=batch, address=address: _store(session, address, batch))  # type: ignore[misc]
            made: list[Future[Any]] = [Future(key, session) for key, _ in stored]
            for future, (_, nbytes) in zip(made, stored):
                future._held = Place(nbytes, ident, address)
                future._state = FINISHED
            futures.update(zip([future.key for future in made], made))
            rows = [(key, nbytes, ident) for key, nbytes in stored]
            session.ship(made, [("placed", rows)])
    return [futures[key] for key, _ in packed]


def _pack(value: Any) -> _Packed:
    kind = type(value).__name__
    try:
        return f"{kind}-{unique()}", dump_parts(value)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TaskNotSerializableError("scatter", f"a value (a {kind})", reason) from None


def _size(parts: list[Any]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _choose(known: dict[str, Any], wanted: str | Iterable[str] | None) -> list[str]:
    """The idents of the workers to use."""
    names = None if wanted is None else {wanted} if isinstance(wanted, str) else set(wanted)
    chosen = [
        ident
        for ident, about in known.items()
        if names is None or names & {ident, about["name"], about["address"], about["host"]}
    ]
    if not chosen:
        there = ", ".join(sorted(about["name"] for about in known.values())) or "none"
        raise UserError(
            f"there is no worker to scatter to{'' if names is None else f' among {sorted(names)}'}; there are: {there}"
        )
    return chosen


def _batches(load: list[_Packed]) -> list[list[_Packed]]:
    batches: list[list[_Packed]] = []
    size = 0
    for key, parts in load:
        nbytes = _size(parts)
        if not batches or size + nbytes > _BATCH_BYTES or len(batches[-1]) == _BATCH_VALUES:
            batches.append([])
            size = 0
        batches[-1].append((key, parts))
        size += nbytes
    return batches


async def _store(session: Session, address: str, batch: list[_Packed]) -> list[tuple[str, int]]:
    peer = await session.fetcher.peer(address)
    buffers = [part for _, parts in batch for part in parts]
    answer, _ = await peer.call("store", [(key, len(parts)) for key, parts in batch], buffers)
    rows: list[tuple[str, int]] = answer.rows
    return rows
