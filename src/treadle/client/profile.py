"""What was seen of tasks by looking at them many times: a tree of calls with the time that each took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from treadle.html import card, escape

__all__ = ["Profile", "ProfileNode"]

#: Name, file and first line of a function.
Frame: TypeAlias = "tuple[str, str, int]"


class ProfileNode:
    """A function in the place from which it was called.

    ``seconds`` were spent in it and in what it called, ``own`` of them in itself; ``calls`` are the functions that it
    called, by their frames.
    """

    __slots__ = ("calls", "file", "line", "name", "own", "seconds")

    def __init__(self, name: str, file: str, line: int) -> None:
        self.name = name
        self.file = file
        self.line = line
        self.seconds = 0.0
        self.own = 0.0
        self.calls: dict[Frame, ProfileNode] = {}

    def __repr__(self) -> str:
        return f"<ProfileNode {self.name}: {self.seconds:.2f} s>"

    def ordered(self, least: float) -> list[ProfileNode]:
        """The functions that it called and that took at least ``least`` seconds, what took longest first."""
        kept = [node for node in self.calls.values() if node.seconds >= least]
        return sorted(kept, key=lambda node: -node.seconds)


class Profile:
    """The profile of the tasks of a cluster. Printed, it is a tree; in a notebook its branches can be opened.

    :param workers: for each worker pairs of seconds and the functions that were active then, the task's own first.
    """

    def __init__(self, workers: Iterable[Iterable[tuple[float, Sequence[Frame]]]]) -> None:
        #: All tasks together; ``root.calls`` are their functions.
        self.root = ProfileNode("all tasks", "", 0)
        for samples in workers:
            for seconds, stack in samples:
                self._add(seconds, stack)

    def _add(self, seconds: float, stack: Sequence[Frame]) -> None:
        node = self.root
        node.seconds += seconds
        for frame in stack:
            name, file, line = frame
            below = node.calls.get((name, file, line))
            if below is None:
                below = node.calls[name, file, line] = ProfileNode(name, file, line)
            node = below
            node.seconds += seconds
        node.own += seconds

    def __repr__(self) -> str:
        return f"<Profile of {self.root.seconds:.1f} s of {len(self.root.calls)} functions; .text() shows them>"

    def __str__(self) -> str:
        return self.text()

    def text(self, least: float = 0.01) -> str:
        """The tree: for each function the share of all time, the seconds, its name, and where it is.

        :param least: leave out what took a smaller share than this.
        """
        total = self.root.seconds
        lines: list[str] = []
        stack = [(self.root, 0)]
        while stack:
            node, depth = stack.pop()
            where = f"  {node.file}:{node.line}" if node.file else ""
            share = node.seconds / total if total else 0.0
            lines.append(f"{share:6.1%} {node.seconds:9.2f} s  {'  ' * depth}{node.name}{where}")
            stack.extend((below, depth + 1) for below in reversed(node.ordered(total * least)))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        total = self.root.seconds
        body = _branch(self.root, total, 0) if total else "<em>No task was seen.</em>"
        return card("Profile", f"{total:.1f} s of tasks", {}, body)


#: What took a smaller share is not shown in a notebook, and what is deeper neither.
_LEAST = 0.01
_DEEPEST = 40


def _branch(node: ProfileNode, total: float, depth: int) -> str:
    share = node.seconds / total
    bar = (
        f'<span style="display:inline-block;height:.6em;width:{share * 8:.2f}em;background:currentColor;'
        'opacity:.35;margin-right:.5em"></span>'
    )
    where = f' <small style="opacity:.6">{escape(node.file)}:{node.line}</small>' if node.file else ""
    label = f"{bar}{share:.1%} <code>{escape(node.name)}</code>{where}"
    below = node.ordered(total * _LEAST) if depth < _DEEPEST else []
    if not below:
        return f'<div style="margin-left:1.1em">{label}</div>'
    opened = " open" if depth < 3 else ""
    inner = "".join(_branch(each, total, depth + 1) for each in below)
    return f'<details{opened} style="margin-left:1em"><summary>{label}</summary>{inner}</details>'
