"""What tasks print, shown in the streams of the client's process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from treadle.wire.values import unpack_value

if TYPE_CHECKING:
    from treadle.client.session import EventRow

__all__ = ["Output"]

#: The key, the worker and the source of what was written.
Owner: TypeAlias = "tuple[str, str, str]"


class Output:
    """Takes rows of output, and writes them to ``sys.stdout`` and ``sys.stderr``."""

    def __init__(self) -> None:
        self._stdout: Final = _Marked("stdout")
        self._stderr: Final = _Marked("stderr")

    def __repr__(self) -> str:
        return "<Output of tasks>"

    def __call__(self, rows: Sequence[EventRow]) -> None:
        for _, _, packed in rows:
            key, worker, source, text = unpack_value(packed)
            if source == "dropped":
                text = (
                    f"[{text} pieces of what tasks have printed were left out: they came faster than this could take]\n"
                )
                self._stderr.write((key, worker, source), "", text)
            elif source == "stdout":
                self._stdout.write((key, worker, source), f"[{key} on {worker}] ", text)
            else:
                level = "" if source == "stderr" else f"{source} "
                self._stderr.write((key, worker, source), f"[{key} on {worker}] {level}", text)


class _Marked:
    """A stream whose lines begin with a mark that says whose they are.

    A line may come in several pieces: ``print`` writes each of its arguments for itself. What comes next of a line is
    written right behind it, unless something else was shown there.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name
        #: What was written to last: ``sys.stdout`` may be another one by now.
        self._stream: Any = None
        #: Whose line it ends with, if that line has no end yet.
        self._unfinished: Owner | None = None

    def write(self, owner: Owner, mark: str, text: str) -> None:
        stream = getattr(sys, self._name)
        unfinished = self._unfinished if stream is self._stream else None
        self._stream = stream
        self._unfinished = None if text.endswith("\n") else owner
        start = "" if unfinished == owner else mark if unfinished is None else f"\n{mark}"
        inner, last = text[:-1], text[-1:]  # an end of a line at the very end begins no other line
        try:
            stream.write(start + inner.replace("\n", f"\n{mark}") + last)
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, or it was closed
