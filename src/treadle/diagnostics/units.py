"""Times as people read them."""

from __future__ import annotations

__all__ = ["clock", "duration"]

_SCALES = ((1e9, "ns"), (1e6, "µs"), (1e3, "ms"), (1.0, "s"))


def duration(seconds: float) -> str:
    """A length of time with three digits and its unit: ``"640 ns"``, ``"12.3 µs"``, ``"1.20 s"``, ``"2:05"``."""
    if seconds <= 0:
        return "0 s"
    for scale, unit in _SCALES:
        value = seconds * scale
        if value < 9.995:
            return f"{value:.2f} {unit}"
        if value < 99.95:
            return f"{value:.1f} {unit}"
        if value < 999.5 and unit != "s":
            return f"{value:.0f} {unit}"
    return clock(seconds)


def clock(seconds: float) -> str:
    """A length of time in whole seconds: ``"45 s"``, ``"2:05"``, ``"1:02:03"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
