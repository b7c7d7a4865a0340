"""What stands in the place of a value that is held but cannot be sent.

It is one buffer: a byte that begins neither a pickle nor a msgpack value, and the packed error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from treadle.errors import ProtocolError
from treadle.wire.failures import PackedError

__all__ = ["pack_refused", "read_refusal"]

#: Never used by msgpack.
_MARK: Final = 0xC1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, bytes, str, dict[str, Any]]).decode


def pack_refused(error: PackedError) -> bytes:
    return bytes([_MARK]) + _encode(error)


def read_refusal(parts: Sequence[bytes | memoryview]) -> PackedError | None:
    """Why a value was not sent; None if these are the parts of a value.

    :raises ProtocolError: it is neither.
    """
    if len(parts) != 1 or len(parts[0]) == 0 or parts[0][0] != _MARK:
        return None
    try:
        return _decode(memoryview(parts[0])[1:])
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"what it sent is neither a value nor an error: {error}") from None
