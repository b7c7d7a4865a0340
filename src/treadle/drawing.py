"""Pictures of graphs, drawn by Graphviz."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from treadle.deferred import graph_of
from treadle.dot import to_dot
from treadle.errors import MissingPackageError, PeerError, UserError

__all__ = ["RenderError", "VisualizeError", "visualize"]

_FORMATS = ("svg", "png", "pdf", "dot")
_DIRECTIONS = ("TB", "BT", "LR", "RL")


class VisualizeError(UserError, ValueError):
    """There is nothing to draw, or no such way to draw it."""


class RenderError(PeerError):
    """The program ``dot`` of Graphviz failed."""


def visualize(
    *args: Any, filename: str | Path | None = "treadle-graph", format: str | None = None, rankdir: str = "TB"
) -> Any:
    """Draw the graph behind delayed values, or a graph itself.

    Tasks are rounded and labelled with the name of their function, which also decides their colour; data have corners.
    The key is below the name, and in full where the mouse points (SVG).

    :param args: delayed values, collections of Dask, containers of these; or one mapping from keys to tasks.
    :param filename: where to write the picture. The suffix may be left out. None: write nothing.
    :param format: ``"svg"``, ``"png"``, ``"pdf"`` or ``"dot"``. Default: the suffix of ``filename``, else ``"svg"``.
    :param rankdir: where the arrows lead: ``"TB"`` (down), ``"BT"`` (up), ``"LR"`` or ``"RL"``.
    :returns: in IPython and its notebooks an object that is displayed (SVG and PNG only); else the path of the file;
        without a file, the picture as bytes.
    :raises MissingPackageError: Graphviz, or its Python package, is not installed. ``"dot"`` needs neither.
    :raises RenderError: Graphviz failed.
    """
    path = None if filename is None else Path(filename)
    kind = _format(path, format)
    if rankdir not in _DIRECTIONS:
        raise VisualizeError(f"rankdir must be one of {', '.join(_DIRECTIONS)}, not {rankdir!r}")
    graph, keys = _graph(args)
    text = to_dot(graph, keys, rankdir)
    picture = text.encode() if kind == "dot" else _render(text, kind)
    if path is not None:
        if path.suffix != f".{kind}":
            path = path.with_name(f"{path.name}.{kind}")
        path.write_bytes(picture)
    if "IPython" in sys.modules and kind in ("svg", "png"):
        return _displayed(picture, kind)
    return picture if path is None else path


def _format(path: Path | None, given: str | None) -> str:
    kind = given
    if kind is None:
        suffix = "" if path is None else path.suffix[1:].lower()
        kind = suffix if suffix in _FORMATS else "svg"
    if kind not in _FORMATS:
        raise VisualizeError(f"there is no format {kind!r}; there are: {', '.join(_FORMATS)}")
    return kind


def _graph(args: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    graph, keys = graph_of(args)
    if keys:
        return graph, keys
    if len(args) == 1 and isinstance(args[0], Mapping):
        return args[0], list(args[0])
    raise VisualizeError("there is nothing to draw: pass delayed values, or one graph (a mapping from keys to tasks)")


def _render(text: str, kind: str) -> bytes:
    purpose = f"visualize(format={kind!r})"
    try:
        import graphviz
    except ImportError:
        raise MissingPackageError("the Python package graphviz", purpose, "pip install graphviz") from None
    try:
        picture: bytes = graphviz.Source(text).pipe(format=kind)
    except graphviz.ExecutableNotFound:
        raise MissingPackageError(
            "the program dot of Graphviz",
            purpose,
            "apt-get install graphviz, brew install graphviz, or conda install graphviz; format='dot' needs no program",
        ) from None
    except graphviz.CalledProcessError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else str(error.stderr)
        raise RenderError(f"the program dot ended with status {error.returncode}: {said.strip()}") from error
    return picture


def _displayed(picture: bytes, kind: str) -> Any:
    display = import_module("IPython.display")
    return display.SVG(picture) if kind == "svg" else display.Image(picture)
