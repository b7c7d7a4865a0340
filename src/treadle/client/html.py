"""What objects look like in a notebook: plain HTML that fits light and dark pages, and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["card", "escape", "table"]

_CARD = (
    "border:1px solid;border-color:color-mix(in srgb,currentColor 30%,transparent);border-radius:6px;"
    "padding:.6em .9em;display:inline-block;max-width:100%;overflow-x:auto;line-height:1.45"
)
# Not every page lets tables inherit these.
_TABLE = "border-collapse:collapse;color:inherit;font:inherit"
_CELL = "text-align:left;padding:.15em 1.2em .15em 0;background:none;border:none;vertical-align:top"
_FAINT = "opacity:.65;font-weight:normal"


def card(title: str, subtitle: str, facts: Mapping[str, Any], more: str = "") -> str:
    """A box with a title and facts, and below them what ``more`` says, which is HTML already."""
    rows = "".join(
        f'<tr style="background:none"><th style="{_CELL};{_FAINT}">{escape(str(name))}</th>'
        f'<td style="{_CELL}">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    shown = f'<table style="{_TABLE};margin:.3em 0 0 0">{rows}</table>' if rows else ""
    head = f'<strong>{escape(title)}</strong> <span style="{_FAINT}">{escape(subtitle)}</span>'
    return f'<div style="{_CARD}"><div>{head}</div>{shown}{more}</div>'


def table(summary: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that is opened by a click on its summary."""
    head = "".join(f'<th style="{_CELL};{_FAINT}">{escape(name)}</th>' for name in columns)
    body = "".join(
        '<tr style="background:none">'
        + "".join(f'<td style="{_CELL}">{escape(str(value))}</td>' for value in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<details style="margin-top:.3em"><summary>{escape(summary)}</summary>'
        f'<table style="{_TABLE};margin:.2em 0 0 0"><tr style="background:none">{head}</tr>{body}'
        "</table></details>"
    )
