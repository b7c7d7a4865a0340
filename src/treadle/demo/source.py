"""Which files are surveyed, and what package each belongs to."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Source", "SourceError", "find", "standard_library"]

#: Directories that hold other people's packages, whatever tree they sit in.
LEFT_OUT = frozenset({"site-packages", "dist-packages"})


class SourceError(Exception):
    """A path that does not exist, cannot be read, or holds no Python file."""


class Source(NamedTuple):
    """One file."""

    #: Where to read it.
    path: str
    #: What to call it in the report.
    name: str
    #: The line of the report that it counts for: a top-level package or module of its tree.
    package: str
    #: The dotted name that it has within its tree, to tell what its relative imports mean.
    module: str
    #: Its size in bytes.
    size: int

    @property
    def is_package(self) -> bool:
        return os.path.basename(self.path) == "__init__.py"


def standard_library() -> str:
    """The directory of the running Python's standard library."""
    return sysconfig.get_path("stdlib")


def find(paths: Sequence[str] = ()) -> list[Source]:
    """Every ``.py`` file of some trees, each once, in the order of the trees and sorted by name within each.

    The names that the report uses are relative to the directory if there is one only, else they start with it.

    :param paths: directories, searched to the bottom, and files. Default: the standard library.
    :raises SourceError: a path does not exist, cannot be read, or holds no Python file.
    """
    roots = list(paths) or [standard_library()]
    trees = [_tree(root, root if len(roots) > 1 else "") for root in roots]
    once: dict[str, Source] = {}
    for tree in trees:
        for source in tree:
            once.setdefault(os.path.realpath(source.path), source)
    return list(once.values())


def _tree(root: str, shown: str) -> list[Source]:
    """The files below ``root``; ``shown`` is what their names in the report start with."""
    if not os.path.exists(root):
        raise SourceError(f"there is no file or directory {root!r}")
    if not os.path.isdir(root):
        return [_lone_file(root)]
    above = _packages_around(root)
    found = [_member(root, shown, above, relative) for relative in _python_files(root)]
    if not found:
        raise SourceError(f"there is no Python file (.py) in {root!r}")
    return found


def _lone_file(path: str) -> Source:
    if not path.endswith(".py"):
        raise SourceError(f"{path!r} is not a Python file: its name does not end in .py")
    parts = [*_packages_around(os.path.dirname(path)), *_dotted(os.path.basename(path))]
    module = ".".join(parts)
    return Source(path, path, module, module, _size(path))


def _member(root: str, shown: str, above: list[str], relative: str) -> Source:
    parts = [*above, *_dotted(relative)]
    package = ".".join(parts[: len(above) + 1])
    path = os.path.join(root, relative)
    return Source(path, os.path.join(shown, relative), package, ".".join(parts), _size(path))


def _python_files(root: str) -> Iterable[str]:
    return sorted(_walk(root), key=lambda relative: relative.split(os.sep))


def _walk(root: str) -> Iterator[str]:
    for directory, children, files in os.walk(root, onerror=_unreadable):
        children[:] = [child for child in children if child not in LEFT_OUT]
        for file in files:
            if file.endswith(".py"):
                yield os.path.relpath(os.path.join(directory, file), root)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"cannot read the directory {error.filename!r}: {error.strerror}")


def _packages_around(directory: str) -> list[str]:
    """The names of the package that ``directory`` is, if it is one, and of those around it, outermost first."""
    names: list[str] = []
    here = os.path.abspath(directory)
    while os.path.exists(os.path.join(here, "__init__.py")) and here != os.path.dirname(here):
        names.append(os.path.basename(here))
        here = os.path.dirname(here)
    return names[::-1]


def _dotted(relative: str) -> list[str]:
    parts = relative.removesuffix(".py").split(os.sep)
    return parts[:-1] if parts[-1] == "__init__" else parts


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0  # a link to nowhere: reading it will fail and be reported
