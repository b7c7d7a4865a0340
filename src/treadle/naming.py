"""The suffixes that make the keys of delayed values: unique ones, and short ones made from content."""

from __future__ import annotations

import itertools
import os
from hashlib import blake2b
from typing import Any, Final

from treadle.errors import InvalidKeyError
from treadle.graph.spec import Ref, Task

__all__ = ["brief_token", "check_key", "is_brief", "unique", "uniques"]


def check_key(key: Any) -> None:
    """:raises InvalidKeyError: ``key`` is of a type that no key may have."""
    if isinstance(key, bool) or not isinstance(key, (str, bytes, int, float, tuple)):
        raise InvalidKeyError(key)


#: Types of operands whose ``repr`` says all of their content. (That of a very long int may raise.)
_BRIEF: Final = frozenset({type(None), bool, float, complex, str, bytes, type(...), Ref})


def is_brief(operand: Any) -> bool:
    """Whether the content of an operand, in explicit form, is short, so that a key can be made from it."""
    cls = type(operand)
    if cls in _BRIEF:
        return True
    if cls is int:
        return bool(operand.bit_length() <= 64)
    if cls is tuple:
        return all(map(is_brief, operand))
    if cls is slice:
        return is_brief(operand.start) and is_brief(operand.stop) and is_brief(operand.step)
    if cls is Task:
        return operand.func is slice and all(map(is_brief, operand.args))
    return False


def brief_token(*parts: Any) -> str:
    """A quick :func:`treadle.tokenize` for parts that are all brief."""
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


# Unique in all processes, because keys of several processes may meet.

_process = ""
_count = itertools.count()


def _renew() -> None:
    global _process, _count
    _process = os.urandom(8).hex()
    _count = itertools.count()


_renew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def unique() -> str:
    """What makes a key different from all others."""
    return f"{_process}{next(_count):x}"


def uniques(prefix: str, count: int) -> list[str]:
    """Keys that begin with ``prefix`` and are different from all others."""
    prefix += _process
    return [f"{prefix}{number:x}" for number in itertools.islice(_count, count)]
