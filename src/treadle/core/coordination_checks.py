"""Every invariant of what clients coordinate by, checked by walking over all of it: for tests."""

from __future__ import annotations

from treadle.core.coordinated import Cell, Flag, Lease, Permits, Store, Thing, Wait
from treadle.core.coordination import Coordination
from treadle.errors import InternalError

__all__ = ["check_coordination"]


def check_coordination(core: Coordination) -> None:
    """
    :raises InternalError: an invariant does not hold.
    """
    leases: set[Lease] = set()
    waits: set[Wait] = set()
    for ident, holder in core.holders.items():
        _sure(holder.ident == ident, f"{holder.ident} is filed under {ident}")
        leases.update(holder.leases.values())
        waits.update(holder.waits.values())
        for thing in holder.uses:
            _sure(holder in thing.users, f"{_name(thing)} does not know its user {ident}")
    _sure(len(leases) == core.leased, f"{core.leased} leases are counted, there are {len(leases)}")
    tokens = [lease.token for lease in leases]
    _sure(len(set(tokens)) == len(tokens) and max(tokens, default=0) <= core.token, "a token was given out twice")
    for key, thing in core.things.items():
        _sure(key == (thing.kind, thing.name), f"{_name(thing)} is filed under {key}")
        _sure(bool(thing.users) or not thing.idle(), f"{_name(thing)} is not needed any more")
        here = set(thing.leases)
        line = set(thing.line)
        if isinstance(thing, Store):
            here |= set(thing.places)
            line |= set(thing.room)
        _sure(here <= leases and line <= waits, f"{_name(thing)} is held or awaited by nobody that is known")
        leases -= here
        waits -= line
        _check_thing(thing)
    _sure(not leases, "something is held that is not there")
    _sure(not waits, "something is awaited that is not there")


def _check_thing(thing: Thing) -> None:
    name = _name(thing)
    if isinstance(thing, Permits):
        _sure(len(thing.leases) <= thing.limit, f"{name} has too many holders")
        _sure(not thing.line or len(thing.leases) == thing.limit, f"{name} is free, and somebody waits for it")
    elif isinstance(thing, Flag):
        _sure(not (thing.on and thing.line), f"{name} is set, and somebody waits for it")
    elif isinstance(thing, Cell):
        _sure(thing.item is None or not thing.line, f"{name} has a value, and somebody waits for it")
    elif isinstance(thing, Store):
        leased = sum([len(lease.items) for lease in thing.leases])
        there = len(thing.items) + leased + thing.consumed
        _sure(thing.accepted == there, f"{name} was given {thing.accepted} items, and has {there}")
        _sure(not (thing.line and thing.items), f"{name} has items, and somebody waits for one")
        _sure(not thing.room or thing.full(), f"{name} has room, and somebody waits for it")


def _name(thing: Thing) -> str:
    return f"the {thing.kind} {thing.name!r}"


def _sure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InternalError(otherwise)
