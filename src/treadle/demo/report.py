"""What is known about some source files: a value that can be merged.

Merging is associative and commutative, and it is exact: a report of parts, merged in any order and any grouping,
equals the report of the whole. That is what makes a tree of merges possible.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Function", "Problem", "Report", "Size", "differences", "longest_of", "merge", "total"]


class Size(NamedTuple):
    """How much code there is."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0

    def plus(self, other: Size) -> Size:
        return Size(*(mine + theirs for mine, theirs in zip(self, other)))


def total(sizes: Iterable[Size]) -> Size:
    """All of ``sizes`` together."""
    sum_of = Size()
    for size in sizes:
        sum_of = sum_of.plus(size)
    return sum_of


class Function(NamedTuple):
    """One function or method."""

    #: From its ``def`` to its last line.
    lines: int
    name: str
    file: str
    lineno: int


class Problem(NamedTuple):
    """A file that could not be read, decoded or parsed."""

    file: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What some files contain. Never changed once made: other tasks may be reading it."""

    #: How many functions :attr:`longest` keeps at most.
    limit: int
    #: The size of each package, over its files that could be parsed.
    packages: dict[str, Size] = field(default_factory=dict)
    #: For each module, in how many files it is imported.
    imports: Counter[str] = field(default_factory=Counter)
    #: How often each identifier is written.
    names: Counter[str] = field(default_factory=Counter)
    #: The longest functions, longest first; equally long ones by file and line.
    longest: tuple[Function, ...] = ()
    #: The files left out of all the other fields, by name.
    problems: tuple[Problem, ...] = ()


def merge(reports: Sequence[Report]) -> Report:
    """One report of all the files of several reports, at least one, which share no file.

    Of the longest functions only as many are kept as the smallest limit asks for: no function that is missing from
    a part could be among those of the whole.
    """
    limit = min(report.limit for report in reports)
    packages: dict[str, Size] = {}
    imports: Counter[str] = Counter()
    names: Counter[str] = Counter()
    problems: list[Problem] = []
    for report in reports:
        for package, size in report.packages.items():
            packages[package] = packages.get(package, Size()).plus(size)
        imports.update(report.imports)
        names.update(report.names)
        problems.extend(report.problems)
    functions = (function for report in reports for function in report.longest)
    return Report(limit, packages, imports, names, longest_of(functions, limit), tuple(sorted(problems)))


def longest_of(functions: Iterable[Function], limit: int) -> tuple[Function, ...]:
    """The ``limit`` longest functions, in an order that leaves nothing to chance."""
    return tuple(heapq.nsmallest(limit, functions, key=lambda each: (-each.lines, each.file, each.lineno, each.name)))


def differences(report: Report, other: Report) -> list[str]:
    """In what two reports differ, one sentence each; empty if they are equal."""
    found: list[str] = []
    for name in ("packages", "imports", "names"):
        mine, theirs = getattr(report, name), getattr(other, name)
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                found.append(f"{name}[{key!r}]: {mine.get(key)} against {theirs.get(key)}")
    for name in ("limit", "longest", "problems"):
        mine, theirs = getattr(report, name), getattr(other, name)
        if mine != theirs:
            found.append(f"{name}: {mine} against {theirs}")
    return found
