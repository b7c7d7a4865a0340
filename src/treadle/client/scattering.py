"""Values that a client puts into the memory of workers itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.client.future import FINISHED, Future, Place
from treadle.errors import PeerError, TaskNotSerializableError, UserError
from treadle.naming import unique
from treadle.tokens import TokenizeError, tokenize
from treadle.wire.values import dump_parts

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["choose", "place", "scatter"]

#: Bytes, and values, in one message to a worker.
_BATCH_BYTES = 256 << 20
_BATCH_VALUES = 1000

#: How often :func:`place` begins again because a worker died meanwhile.
_RETRIES = 3


class _Packed(NamedTuple):
    """A value on its way: the key to be, or the name that equal values have, and the parts of the value."""

    name: str
    shared: bool
    parts: list[Any]


#: A key and the parts of its value.
_Load = list[tuple[str, list[Any]]]


async def scatter(
    session: Session,
    values: Sequence[Any],
    workers: str | Iterable[str] | None = None,
    copies: int | None = 1,
    hashed: bool = True,
) -> list[Future[Any]]:
    """Steps: put each value on workers, the next one always where the fewest bytes were put, or are.

    :param workers: the only ones to use: names, idents, addresses or hosts.
    :param copies: on how many of them each value is to be; None for all.
    :param hashed: equal values have the same key.
    :raises TaskNotSerializableError: a value cannot be pickled. :raises UserError: there is no such worker.
    """
    packed = [_pack(value, hashed) for value in values]
    return await _scatter(session, packed, workers, copies) if packed else []


async def place(session: Session, values: Mapping[str, Any]) -> list[Future[Any]]:
    """Steps: put values, by the keys that they are to have, on workers, as soon as there are any.

    :param values: by keys that nobody else can choose.
    :raises TaskNotSerializableError: a value cannot be pickled.
    :raises PeerError: workers died again and again while they were given them.
    """
    packed = [_pack(value, False)._replace(name=key) for key, value in values.items()]
    left = _RETRIES
    while True:
        await session.ask("wait_for_workers", 1)
        try:
            return await _scatter(session, packed, None, 1)
        except PeerError:
            session.check()  # else it was a worker that has just died
            if not left:
                raise
            left -= 1
            packed = [each._replace(name=f"{each.name}-{left}") for each in packed]


async def _scatter(
    session: Session, packed: Sequence[_Packed], workers: str | Iterable[str] | None, copies: int | None
) -> list[Future[Any]]:
    info = await session.ask("info")
    staying = {ident: about for ident, about in info["workers"].items() if not about["retiring"]}
    chosen = choose(staying, workers)
    if copies is not None and copies > len(chosen):
        raise UserError(f"{copies} copies need {copies} workers, and there are {len(chosen)} to scatter to")
    keys, made = await _keys(session, packed)
    enough = set(made) if workers is None and copies == 1 else set()
    loads: dict[str, _Load] = {ident: [] for ident in chosen}
    #: How many bytes are put on each, and how many it held before.
    sizes = {ident: (0, about["nbytes"]) for ident, about in staying.items() if ident in chosen}
    for name, _, parts in {keys[each.name]: each for each in packed if keys[each.name] not in enough}.values():
        for ident in sorted(chosen, key=sizes.__getitem__)[:copies]:
            loads[ident].append((keys[name], parts))
            put, held = sizes[ident]
            sizes[ident] = put + max(1, _size(parts)), held
    places = {ident: info["workers"][ident]["address"] for ident, load in loads.items() if load}

    async def store_all() -> None:
        stores = [_store(session, ident, address, loads[ident], made) for ident, address in places.items()]
        await asyncio.gather(*stores)

    if places:
        await session.run(store_all)
    missing = [key for key in keys.values() if key not in made]
    if missing:
        raise UserError(f"a worker cannot unpickle what was scattered as {missing[0]!r}; its log says why")
    return [made[keys[each.name]] for each in packed]


async def _keys(session: Session, packed: Sequence[_Packed]) -> tuple[dict[str, str], dict[str, Future[Any]]]:
    """Steps: the key for each name, and by these the futures of what is on the cluster already."""
    keys = {each.name: each.name for each in packed}
    names = list(dict.fromkeys(each.name for each in packed if each.shared))
    if not names:
        return keys, {}
    rows = await session.ask("scatter", names)
    keys.update((name, key) for name, (key, _) in zip(names, rows))
    there = [key for key, held in rows if held]
    if not there:
        return keys, {}
    futures: list[Future[Any]] = [Future(key, session) for key in there]
    session.ship(futures, [("want", there)])
    await session.obtain(futures, fetch=False)
    found = {future.key: future for future in futures if future._succeeded()}
    # What was released or lost just now: the worker may yet have to drop it, so its key is used up.
    keys.update((name, f"{name}-{unique()}") for name, key in keys.items() if key in there and key not in found)
    return keys, found


def _pack(value: Any, hashed: bool) -> _Packed:
    kind = type(value).__name__
    try:
        parts = dump_parts(value)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TaskNotSerializableError("scatter", f"a value (a {kind})", reason) from None
    if hashed:
        try:
            return _Packed(f"{kind}-{tokenize(value)}", True, parts)
        except TokenizeError:
            pass  # nothing can tell whether two such values are the same
    return _Packed(f"{kind}-{unique()}", False, parts)


def _size(parts: list[Any]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def choose(known: dict[str, Any], wanted: str | Iterable[str] | None) -> list[str]:
    """The idents of the workers to use.

    :raises UserError: there is none of those.
    """
    names = None if wanted is None else {wanted} if isinstance(wanted, str) else set(wanted)
    chosen = [
        ident
        for ident, about in known.items()
        if names is None or names & {ident, about["name"], about["address"], about["host"]}
    ]
    if not chosen:
        there = ", ".join(sorted(about["name"] for about in known.values())) or "none"
        raise UserError(f"there is no worker{'' if names is None else f' among {sorted(names)}'}; there are: {there}")
    return chosen


def _batches(load: _Load) -> list[_Load]:
    batches: list[_Load] = []
    size = 0
    for key, parts in load:
        nbytes = _size(parts)
        if not batches or size + nbytes > _BATCH_BYTES or len(batches[-1]) == _BATCH_VALUES:
            batches.append([])
            size = 0
        batches[-1].append((key, parts))
        size += nbytes
    return batches


async def _store(session: Session, ident: str, address: str, load: _Load, made: dict[str, Future[Any]]) -> None:
    """Put values on one worker, and tell the scheduler. To be called on the session's loop.

    :param made: is extended by the futures of what was stored.
    """
    peer = await session.fetcher.peer(address)
    for batch in _batches(load):
        buffers = [part for _, parts in batch for part in parts]
        answer, _ = await peer.call("store", [(key, len(parts)) for key, parts in batch], buffers)
        new: list[Future[Any]] = []
        for key, nbytes in answer.rows:
            if key not in made:
                future = made[key] = Future(key, session)
                future._held = Place(nbytes, ident, address)
                future._state = FINISHED
                new.append(future)
        session.ship(new, [("placed", [(key, nbytes, ident) for key, nbytes in answer.rows])])
