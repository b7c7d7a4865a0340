"""What a process writes to its standard error: passed on, and its end kept for a report of its death."""

from __future__ import annotations

import sys
from typing import Any, Final

__all__ = ["Tail"]

#: How many bytes are kept.
KEPT: Final = 2048


class Tail:
    """Passes on to this process's own standard error what another one writes to its own."""

    def __init__(self) -> None:
        self._kept = b""

    def __repr__(self) -> str:
        return f"<Tail of {len(self._kept)} bytes>"

    def add(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-KEPT:]
        stream: Any = sys.stderr
        try:
            raw = getattr(stream, "buffer", None)  # a notebook's has none
            if raw is not None:
                raw.write(data)
            else:
                stream.write(data.decode(errors="replace"))
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, or it was closed

    def text(self) -> str:
        """The last lines."""
        text = self._kept.decode(errors="replace")
        if len(self._kept) == KEPT:
            text = text[text.find("\n") + 1 :]  # the first line is not whole
        return text.strip()
