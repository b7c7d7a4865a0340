"""Graphs in the DOT language of Graphviz: https://graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from treadle.graph.node import Node, Template
from treadle.graph.plan import as_dict, read
from treadle.local.hooks import function_name

__all__ = ["to_dot"]

#: Fill colours for the functions of a graph, in the order in which they appear; then from the start again.
_COLOURS = (
    "#a6cee3",
    "#b2df8a",
    "#fdbf6f",
    "#cab2d6",
    "#fb9a99",
    "#ffff99",
    "#8dd3c7",
    "#fccde5",
    "#d9d9d9",
    "#e5c494",
)

#: Literals whose text is short or can be cut; of others, the type is shown.
_PRINTED = (type(None), bool, int, float, complex, str, bytes)

_LONGEST = 24


def to_dot(graph: Any, keys: Iterable[Any], rankdir: str = "TB") -> str:
    """The part of ``graph`` that ``keys`` need, drawn: tasks rounded, data with corners, edges towards the dependents.

    :param graph: a graph in plain or explicit form.
    :param rankdir: where edges lead: ``"TB"`` (down), ``"BT"``, ``"LR"`` or ``"RL"``.
    :raises GraphError: the graph cannot be computed as it is written.
    """
    plan = read(as_dict(graph), list(keys))
    inputs = [_inputs(node) for node in plan.nodes]
    # Literals are no tasks of the plan: those that are used, and those that were asked for, are drawn first.
    data = dict.fromkeys([node for node in plan.targets if node.done])
    for nodes in inputs:
        data.update(dict.fromkeys([node for node in nodes if node.done]))
    names = {node: f"n{index}" for index, node in enumerate([*data, *plan.nodes])}
    colours: dict[str, str] = {}
    lines = [
        "digraph treadle {",
        f"  rankdir={_quote(rankdir)};",
        '  node [fontname="Helvetica", style="filled,rounded", shape=box, color="#555555"];',
        '  edge [color="#555555", arrowsize=0.7];',
    ]
    for node in data:
        lines.append(f"  {names[node]} [{_data_attributes(node)}];")
    for node in plan.nodes:
        lines.append(f"  {names[node]} [{_task_attributes(node, colours)}];")
    for node, nodes in zip(plan.nodes, inputs):
        lines += [f"  {names[source]} -> {names[node]};" for source in nodes]
    lines.append("}")
    return "\n".join(lines) + "\n"


def _inputs(node: Node) -> list[Node]:
    """The nodes among the arguments of a task, each once."""
    found: dict[Node, None] = {}
    stack: list[object] = [*node.args, *(node.kwargs or {}).values()][::-1]
    while stack:
        arg = stack.pop()
        if isinstance(arg, Node):
            found[arg] = None
        elif isinstance(arg, Template):
            stack.extend(arg.children()[::-1])
    return list(found)


def _task_attributes(node: Node, colours: dict[str, str]) -> str:
    name = function_name(node.func)
    colour = colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
    return f"label={_label(name, node.key)}, tooltip={_quote(str(node.key))}, fillcolor={_quote(colour)}"


def _data_attributes(node: Node) -> str:
    value = node.result
    text = _short(repr(value)) if isinstance(value, _PRINTED) else type(value).__name__
    return (
        f"label={_label(text, node.key)}, tooltip={_quote(str(node.key))}, "
        'fillcolor="#f4f4f4", style=filled, height=0.3'
    )


def _label(text: str, key: object) -> str:
    """An HTML-like label: the text, and the key in small letters below it."""
    small = f'<BR/><FONT POINT-SIZE="9" COLOR="#555555">{_escape(_short_key(str(key)))}</FONT>'
    return f"<{_escape(text)}{small}>"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _short_key(text: str) -> str:
    """The middle is what can be spared: keys begin with a name and end with what tells them apart."""
    return text if len(text) <= _LONGEST else f"{text[:15]}…{text[-8:]}"


def _escape(text: str) -> str:
    printable = "".join([char if char.isprintable() else "�" for char in text])
    return printable.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;") or " "


def _quote(text: str) -> str:
    printable = "".join([char if char.isprintable() else "�" for char in text])
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
