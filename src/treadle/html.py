"""What objects look like in a notebook: plain HTML that fits light and dark pages, and loads nothing.

Colours are those of the page (``currentColor``), styles stand where they are used, and there is no script, so that it
looks the same in every front end, and in a saved notebook that nobody trusts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from treadle.arguments import Collected
from treadle.graph.spec import Task
from treadle.local.hooks import function_name

if TYPE_CHECKING:
    from treadle.arguments import Source

__all__ = ["amount", "card", "delayed_card", "escape", "notes", "shortened", "shown", "table"]

T = TypeVar("T")

_CARD = (
    "border:1px solid;border-color:color-mix(in srgb,currentColor 30%,transparent);border-radius:6px;"
    "padding:.6em .9em;display:inline-block;max-width:100%;box-sizing:border-box;overflow-x:auto;line-height:1.45"
)
# Not every page lets tables inherit these.
_TABLE = "border-collapse:collapse;color:inherit;font:inherit"
_CELL = "text-align:left;padding:.15em 1.2em .15em 0;background:none;border:none;vertical-align:top"
_FAINT = "opacity:.65;font-weight:normal"


def shown(make: Callable[[T], str], thing: T) -> str:
    """``make(thing)``; if that fails, a card that says so: nobody's cell should fail because it shows something."""
    try:
        return make(thing)
    except Exception as error:
        return card(type(thing).__name__, f"cannot be shown: {type(error).__name__}", {})


def card(title: str, subtitle: str, facts: Mapping[str, Any], more: str = "") -> str:
    """A box with a title and facts, and below them what ``more`` says, which is HTML already."""
    rows = "".join(
        f'<tr style="background:none"><th style="{_CELL};{_FAINT}">{escape(name).replace(" ", "&nbsp;")}</th>'
        f'<td style="{_CELL}">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    table = f'<table style="{_TABLE};margin:.3em 0 0 0">{rows}</table>' if rows else ""
    head = f'<strong>{escape(title)}</strong> <span style="{_FAINT}">{escape(subtitle)}</span>'
    return f'<div style="{_CARD}"><div>{head}</div>{table}{more}</div>'


def table(summary: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that is opened by a click on its summary."""
    head = "".join(f'<th style="{_CELL};{_FAINT}">{escape(name)}</th>' for name in columns)
    body = "".join(
        '<tr style="background:none">'
        + "".join(f'<td style="{_CELL}">{escape(str(value))}</td>' for value in row)
        + "</tr>"
        for row in rows
    )
    return _details(summary, f'<tr style="background:none">{head}</tr>{body}')


def notes(summary: str, calls: Mapping[str, str]) -> str:
    """What can be called, and what that is good for; opened by a click."""
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL}"><code style="background:none;color:inherit;padding:0">'
        f'{escape(call)}</code></td><td style="{_CELL};{_FAINT}">{escape(purpose)}</td></tr>'
        for call, purpose in calls.items()
    )
    return _details(summary, rows)


def _details(summary: str, rows: str) -> str:
    return (
        f'<details style="margin-top:.3em"><summary style="cursor:pointer">{escape(summary)}</summary>'
        f'<table style="{_TABLE};margin:.2em 0 0 0">{rows}</table></details>'
    )


def amount(nbytes: float) -> str:
    """So many bytes, for people to read: ``"12.3 MB"``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 999.5 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{nbytes:.1f} {unit}"


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


# Delayed values

#: From how many tasks on they are not counted further, and up to how many they are drawn.
_COUNTED = 10_000
_DRAWN = 24

#: How many boxes may stand beside and below one another. What is bigger cannot be taken in at a glance.
_ABREAST = 8
_DEEPEST = 12

#: Literals that are drawn as what they are; of others, the type is.
_PRINTED = (type(None), bool, int, float, complex, str, bytes)


def delayed_card(value: Source) -> str:
    """What a delayed value is the result of. Looks at a limited part of its graph, and runs nothing."""
    facts: dict[str, Any] = {}
    if value._key is not None:  # else it is made from the content of a function, when somebody uses it
        facts["Key"] = shortened(str(value._key), 200)
    facts["Function" if isinstance(value._task, Task) or callable(value._task.value) else "Value"] = _label(value, 80)
    sources = _behind(value)
    if len(sources) >= _COUNTED:
        facts["Tasks"] = f"{_COUNTED:,} or more"
    elif isinstance(value._task, Task):
        facts["Tasks"] = _count(sources.values())
    return card("Delayed", "not computed", facts, _picture(sources) if 1 < len(sources) <= _DRAWN else "")


def _behind(value: Source) -> dict[Any, Source]:
    """What a value needs, by key, itself included; no more than are counted."""
    found: dict[Any, Source] = {}
    stack = [value]
    while stack and len(found) < _COUNTED:
        source = stack.pop()
        if source._key not in found:
            found[source._key] = source
            stack.extend(reversed(source._deps))
    return found


def _count(sources: Collection[Source]) -> str:
    # A collection's own graph may not even have been made yet, so its tasks are not counted.
    foreign = sum(isinstance(source, Collected) for source in sources)
    tasks = sum(isinstance(source._task, Task) for source in sources) - foreign
    if not foreign:
        return f"{tasks:,}"
    return f"{tasks:,}, and those of {foreign} collection{'s' if foreign > 1 else ''} of Dask"


def _label(source: Source, longest: int) -> str:
    task = source._task
    if isinstance(source, Collected):
        text = "collection"
    elif isinstance(task, Task):
        text = f".{task.args[1]}" if task.func is getattr else function_name(task.func)
        if str(getattr(task.func, "__module__", "")).startswith("treadle."):
            text = text.strip("_").replace("_", " ")
    elif isinstance(task.value, _PRINTED):
        text = repr(task.value)
    else:
        text = function_name(task.value) if callable(task.value) else type(task.value).__name__
    return shortened(text, longest)


# Small pictures of graphs: boxes in layers, each below all that it needs (K. Sugiyama, S. Tagawa, M. Toda: Methods for
# visual understanding of hierarchical system structures, 1981).

#: In pixels: a box, from one layer to the next, between neighbours, and around all.
_WIDTH, _HEIGHT, _DOWN, _GAP, _MARGIN = 96, 24, 46, 12, 4


class _Box:
    """A task or value of the picture; without a source, a place where an arrow passes through a layer."""

    def __init__(self, source: Source | None, layer: int) -> None:
        self.source = source
        self.layer = layer
        self.width = _GAP if source is None else _WIDTH
        self.x = 0.0
        self.inputs: list[_Box] = []
        self.users: list[_Box] = []

    @property
    def y(self) -> int:
        return _MARGIN + _DOWN * self.layer


def _picture(sources: Mapping[Any, Source]) -> str:
    """An SVG of a small graph; empty if it would be too big."""
    layers = _layers(sources)
    # There are more layers than tasks if these form a circle, since the same key was given to several.
    if len(layers) > min(_DEEPEST, len(sources)) or max(map(len, layers)) > _ABREAST:
        return ""
    _arrange(layers)
    boxes = [box for layer in layers for box in layer]
    left = min(box.x - box.width / 2 for box in boxes) - _MARGIN
    width = max(box.x + box.width / 2 for box in boxes) + _MARGIN - left
    arrows = [_arrow(box) for box in boxes if box.source is not None and box.inputs]
    drawn = [_box(box) for box in boxes if box.source is not None]
    height = 2 * _MARGIN + _DOWN * (len(layers) - 1) + _HEIGHT
    return (
        f'<svg viewBox="{left:g} 0 {width:g} {height}" width="{width:g}" '
        f'height="{height}" style="display:block;max-width:100%;height:auto;margin-top:.5em;color:inherit" '
        'fill="currentColor" font-size="11" font-family="sans-serif" text-anchor="middle">'
        f"{''.join(arrows)}{''.join(drawn)}</svg>"
    )


def _layers(sources: Mapping[Any, Source]) -> list[list[_Box]]:
    """Boxes in layers, inputs first, each as far down as what needs it allows. Arrows lead from layer to layer."""
    below = dict.fromkeys(sources, 0)
    for _ in sources:  # no path has more steps
        for key, source in sources.items():
            for needed in source._deps:
                below[needed._key] = max(below[needed._key], below[key] + 1)
    last = max(below.values())
    layers: list[list[_Box]] = [[] for _ in range(last + 1)]
    boxes = {key: _Box(source, last - below[key]) for key, source in sources.items()}
    for box in boxes.values():
        layers[box.layer].append(box)
    for key, source in sources.items():
        for needed in dict.fromkeys(each._key for each in source._deps):
            tail = boxes[needed]
            for number in range(tail.layer + 1, boxes[key].layer):
                passage = _Box(None, number)
                layers[number].append(passage)
                _link(tail, passage)
                tail = passage
            _link(tail, boxes[key])
    return layers


def _link(tail: _Box, head: _Box) -> None:
    tail.users.append(head)
    head.inputs.append(tail)


def _arrange(layers: list[list[_Box]]) -> None:
    """Put each box near the middle of those that it is linked to, so that few arrows cross."""
    for layer in layers:
        _place(layer, [0.0] * len(layer))
    for _ in range(4):
        for layer in reversed(layers):
            _sort(layer, lambda box: box.users)
        for layer in layers:
            _sort(layer, lambda box: box.inputs)


def _sort(layer: list[_Box], linked: Callable[[_Box], list[_Box]]) -> None:
    wishes = {box: _middle(linked(box), box.x) for box in layer}
    layer.sort(key=wishes.__getitem__)
    _place(layer, [wishes[box] for box in layer])


def _middle(boxes: list[_Box], without: float) -> float:
    return sum(box.x for box in boxes) / len(boxes) if boxes else without


def _place(layer: list[_Box], wishes: list[float]) -> None:
    """Give boxes the places that they wish for, as far as they do not overlap."""
    edge = -math.inf
    for box, wish in zip(layer, wishes):
        box.x = max(wish, edge + box.width / 2)
        edge = box.x + box.width / 2 + _GAP
    excess = sum(box.x - wish for box, wish in zip(layer, wishes)) / len(layer)
    for box in layer:
        box.x -= excess


def _arrow(box: _Box) -> str:
    """The arrows that lead to a box, and one point for all of them."""
    lines = ""
    for head in box.inputs:
        line, tail = f"{box.x:g} {box.y - 3}", box
        while True:
            bend = (head.y + _HEIGHT + tail.y) / 2
            line = f"{head.x:g} {head.y + _HEIGHT}C{head.x:g} {bend:g} {tail.x:g} {bend:g} {line}"
            if head.source is not None:
                break
            line, tail, head = f"{head.x:g} {head.y}L{line}", head, head.inputs[0]
        lines += f"M{line}"
    point = f"M{box.x - 3.5:g} {box.y - 6}h7l-3.5 6z"
    return (
        f'<path d="{lines}" fill="none" stroke="currentColor" stroke-opacity=".5"></path>'
        f'<path d="{point}" fill-opacity=".7"></path>'
    )


def _box(box: _Box) -> str:
    source = box.source
    assert source is not None
    round_ = isinstance(source._task, Task)
    return (
        f"<g><title>{escape(shortened(str(source._key), 200))}</title>"
        f'<rect x="{box.x - _WIDTH / 2:g}" y="{box.y}" width="{_WIDTH}" height="{_HEIGHT}" rx="{8 if round_ else 0}" '
        f'fill-opacity=".08" stroke="currentColor" stroke-opacity=".5"></rect>'
        f'<text x="{box.x:g}" y="{box.y + 16}">{escape(_label(source, 15))}</text></g>'
    )
