"""What a user sees of an exception: the frames of the task, and a note that names its key."""

from __future__ import annotations

from types import TracebackType

from treadle.errors import PeerError, UserError

__all__ = ["annotate", "forget_frames", "trim", "trim_error"]

#: Modules whose frames, at the head of a traceback, only say that a task was called.
_OURS = (
    "treadle.local.",
    "treadle.graph.",
    "treadle.deferred",
    "treadle.operators",
    "treadle.integrations.",
    "treadle.worker.",
    "treadle.wire.",
)


def annotate(error: BaseException, *keys: object) -> BaseException:
    """Trim the traceback of a task's exception and note the task's key on it (or those of all that may be meant)."""
    error.__traceback__ = trim(error.__traceback__)
    if len(keys) == 1:
        note = f"while running task {keys[0]!r}"
    else:
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        note = f"while running one of the tasks {', '.join(map(repr, keys[:5]))}{more}"
    notes: list[str] = getattr(error, "__notes__", [])
    if note not in notes:
        try:
            # Python 3.10 keeps notes, too, but does not print them.
            error.__notes__ = [*notes, note]  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            pass  # an exception class that takes no attributes
    return error


def forget_frames(error: BaseException) -> BaseException:
    """An error of ours, or an interrupt, without the frames in which we happened to be: they tell the user nothing."""
    return error.with_traceback(None) if isinstance(error, (UserError, PeerError, KeyboardInterrupt)) else error


def trim_error(error: BaseException) -> BaseException:
    """``error`` with its traceback trimmed."""
    return error.with_traceback(trim(error.__traceback__))


def trim(traceback: TracebackType | None) -> TracebackType | None:
    """``traceback`` without our own frames at its head."""
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_ours(traceback: TracebackType) -> bool:
    module = traceback.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_OURS)
