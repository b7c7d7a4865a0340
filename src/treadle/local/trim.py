"""What a user sees of an exception: the frames of the task, and a note that names its key."""

from __future__ import annotations

from types import TracebackType

__all__ = ["annotate", "trim"]

#: Modules whose frames, at the head of a traceback, only say that a task was called.
_OURS = ("treadle.local.", "treadle.graph.")


def annotate(error: BaseException, key: object) -> BaseException:
    """Trim the traceback of a task's exception and note the task's key on it."""
    error.__traceback__ = trim(error.__traceback__)
    note = f"while running task {key!r}"
    notes: list[str] | None = getattr(error, "__notes__", None)
    if notes is None or note not in notes:
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:  # Python 3.10 keeps notes but does not print them
            try:
                error.__notes__ = [*(notes or []), note]  # type: ignore[attr-defined]
            except AttributeError:
                pass  # an exception class without a __dict__
    return error


def trim(traceback: TracebackType | None) -> TracebackType | None:
    """``traceback`` without our own frames at its head."""
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_ours(traceback: TracebackType) -> bool:
    module = traceback.tb_frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_OURS)
