"""From one source file to its report."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Sequence
from threading import Lock

from treadle.demo.report import Function, Problem, Report, Size, longest_of, merge
from treadle.demo.source import Source

__all__ = ["analyze", "analyze_group"]

#: The filters of the ``warnings`` module belong to the whole process, so one thread at a time may change them. The
#: parser holds the interpreter's own lock anyway.
_PARSING = Lock()


def analyze_group(sources: Sequence[Source], limit: int) -> Report:
    """The report of several files; ``limit`` is how many of the longest functions to keep."""
    return merge([analyze(source, limit) for source in sources])


def analyze(source: Source, limit: int) -> Report:
    """The report of one file. A file that cannot be read, decoded or parsed is reported as that, never raised."""
    try:
        with open(source.path, "rb") as file:
            content = file.read()
        tree = _parse(content)
    except OSError as error:
        return _unusable(source, limit, error.strerror or str(error))
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        return _unusable(source, limit, where + error.msg)
    except (ValueError, RecursionError, MemoryError) as error:
        return _unusable(source, limit, str(error) or type(error).__name__)
    survey = _Survey(source)
    survey.walk(tree)
    size = Size(1, len(content.splitlines()), len(survey.functions), survey.classes)
    longest = longest_of(survey.functions, limit)
    return Report(limit, {source.package: size}, Counter(survey.imports), survey.names, longest)


def _parse(content: bytes) -> ast.Module:
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the parser thinks of somebody else's string escapes
        return ast.parse(content)


def _unusable(source: Source, limit: int, reason: str) -> Report:
    return Report(limit, problems=(Problem(source.name, reason),))


class _Survey:
    """Collects what one file contains."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names: Counter[str] = Counter()
        self.imports: set[str] = set()
        self.functions: list[Function] = []
        self.classes = 0

    def walk(self, tree: ast.Module) -> None:
        """Visit every node. The stack is our own: expressions may be nested deeper than Python can call."""
        stack: list[tuple[ast.AST, str]] = [(tree, "")]
        while stack:
            node, scope = stack.pop()
            if isinstance(node, ast.Name):
                self.names[node.id] += 1
                continue
            inner = self.visit(node, scope)
            for child in ast.iter_child_nodes(node):
                stack.append((child, inner))

    def visit(self, node: ast.AST, scope: str) -> str:
        """Count ``node``; returns the prefix that names defined inside it have."""
        if isinstance(node, ast.Attribute):
            self.names[node.attr] += 1
        elif isinstance(node, (ast.arg, ast.keyword)):
            if node.arg is not None:
                self.names[node.arg] += 1
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.names[node.name] += 1
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            self.functions.append(Function(lines, scope + node.name, self.source.name, node.lineno))
            return f"{scope}{node.name}."
        elif isinstance(node, ast.ClassDef):
            self.names[node.name] += 1
            self.classes += 1
            return f"{scope}{node.name}."
        elif isinstance(node, ast.Import):
            self.imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            self.imports.update(self.imported_from(node))
        return scope

    def imported_from(self, node: ast.ImportFrom) -> list[str]:
        """The modules that ``from ... import ...`` names, with dots in front resolved."""
        if node.level == 0:
            return [node.module or ""]
        package = self.source.module.split(".")
        up = node.level - 1 if self.source.is_package else node.level
        base = package[: max(0, len(package) - up)]
        if node.module:
            base.append(node.module)
        return [".".join(base) or "."]
