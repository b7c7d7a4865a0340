"""What a call outside of a task takes along, and brings back: a small part of its message, or buffers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from treadle.wire.values import PICKLED, SCALARS, dump_parts, load_parts, pack_value, unpack_value

__all__ = ["INLINE", "pack_arguments", "pack_parcel", "unpack_arguments", "unpack_parcel"]

#: What has at most this many bytes is a part of the message.
INLINE: Final = 16 * 1024
#: How many buffers one parcel has at most.
MAX_BUFFERS: Final = 16384

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode

#: Scalars that are small whatever their values are.
_SHORT: Final = SCALARS - {str, bytes}


def pack_parcel(value: Any) -> tuple[bytes, list[Any]]:
    """A value in bytes if it is small, else in buffers that nobody can change any more.

    :raises Exception: whatever pickling raises.
    """
    if type(value) in _SHORT:
        return pack_value(value), []
    parts: list[Any] = dump_parts(value)
    if len(parts) == 1 and len(parts[0]) <= INLINE:
        return bytes(parts[0]), []
    if len(parts) > MAX_BUFFERS:
        return b"", [pack_value(value)]
    # Who owns the value may write to its memory at any time from now on, also before it is sent.
    return b"", [part if memoryview(part).readonly else bytes(part) for part in parts]


def unpack_parcel(packed: bytes, parts: Sequence[Any]) -> Any:
    """The value of :func:`pack_parcel`.

    :raises Exception: whatever unpickling raises.
    """
    return unpack_value(packed) if packed else load_parts(parts)


def pack_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """The name of what is called, and its arguments, as a parcel: ``[name, *args]`` in msgpack if they are scalars.

    :raises Exception: whatever pickling raises.
    """
    if not kwargs and SCALARS.issuperset(map(type, args)):
        try:
            packed = _encode((name, *args))
        except (OverflowError, UnicodeEncodeError):
            pass  # a bigger integer, or a string with lone surrogates
        else:
            if len(packed) <= INLINE:
                return packed, []
    return pack_parcel((name, args, kwargs))


def unpack_arguments(packed: bytes, parts: Sequence[Any]) -> tuple[str, Sequence[Any], dict[str, Any] | None]:
    """The name, the arguments and the keyword arguments, if any.

    :raises Exception: whatever unpickling raises.
    """
    if packed and packed[0] != PICKLED:
        name, *args = _decode(packed)
        return name, args, None
    name, given, kwargs = unpack_parcel(packed, parts)
    return name, given, kwargs
