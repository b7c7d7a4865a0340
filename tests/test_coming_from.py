"""The pages for those who come from elsewhere: each name there is named, and each claim of ours is true."""

from __future__ import annotations

import ast
import concurrent.futures
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import treadle

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["coming-from-dask.md", "coming-from-futures.md"]
HEADER = ["theirs", "ours", "verdict", "remark"]
VERDICTS = {"same", "better", "absent"}

#: A default that is not spelled out.
ANY = "…"


class Claim(NamedTuple):
    """``Client.map(func, *iterables, pure=True)``: a dotted name, and its parameters if there are parentheses."""

    text: str
    name: str
    parameters: ast.arguments | None


class Row(NamedTuple):
    page: str
    line: int
    theirs: list[Claim]
    ours: list[Claim]
    verdict: str
    remark: str


def claim_of(text: str) -> Claim:
    name, bracket, rest = text.partition("(")
    if not bracket:
        return Claim(text, name, None)
    tree = ast.parse(f"def f({rest.replace(ANY, '...')}: pass")
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    return Claim(text, name, function.args)


def claims_of(cell: str) -> list[Claim]:
    return [claim_of(text) for text in re.findall(r"`([^`]+)`", cell)]


def rows_of(page: str) -> list[Row]:
    rows = []
    for number, line in enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if len(cells) == len(HEADER) and cells != HEADER and not set(line) <= set("|-"):
            rows.append(Row(page, number, claims_of(cells[0]), claims_of(cells[1]), cells[2], cells[3]))
    return rows


ROWS = [row for page in PAGES for row in rows_of(page)]
OURS = sorted({claim.text for row in ROWS for claim in row.ours})


# The form


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_table_is_read(page: str) -> None:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    headers = [line for line in lines if line == f"| {' | '.join(HEADER)} |"]
    assert headers
    assert len(rows_of(page)) == sum(line.startswith("| ") for line in lines) - len(headers)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.page}:{row.line}")
def test_a_row_says_what_it_has_to_say(row: Row) -> None:
    assert row.theirs
    assert row.verdict in VERDICTS
    assert row.ours or row.verdict == "absent"
    assert row.remark or row.verdict != "absent", "what is absent on purpose needs a reason"
    assert row.remark or row.verdict != "better", "what is better about it?"


# Ours


def resolve(name: str, root: Any = treadle) -> Any:
    value = root
    for part in name.split("."):
        value = getattr(value, part)
    return value


def parameters_of(value: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, a class, or a method without its ``self``."""
    found = dict(inspect.signature(value).parameters)
    if inspect.isfunction(value) and "." in value.__qualname__.replace("<locals>.", ""):
        found.pop("self", None)
    return found


def false_claims(claim: Claim, found: dict[str, inspect.Parameter]) -> Iterator[str]:
    """What is not as the claim says."""
    claimed = claim.parameters
    assert claimed is not None
    positional = [*claimed.posonlyargs, *claimed.args]
    plain = [name for name, each in found.items() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    defaults = [None] * (len(positional) - len(claimed.defaults)) + claimed.defaults
    pairs = [*zip(positional, defaults), *zip(claimed.kwonlyargs, claimed.kw_defaults)]
    for argument, default in pairs:
        parameter = found.get(argument.arg)
        if parameter is None:
            yield f"no parameter {argument.arg}"
        elif default is None:
            if parameter.default is not parameter.empty:
                yield f"{argument.arg} has the default {parameter.default!r}"
        elif parameter.default is parameter.empty:
            yield f"{argument.arg} has no default"
        elif (value := ast.literal_eval(default)) is not ... and value != parameter.default:
            yield f"the default of {argument.arg} is {parameter.default!r}, not {value!r}"
    known = [argument.arg for argument in positional if argument.arg in plain]
    if known != sorted(known, key=plain.index):
        yield f"the order is {plain}"
    kinds = {each.kind: name for name, each in found.items()}
    for several, kind in (
        (claimed.vararg, inspect.Parameter.VAR_POSITIONAL),
        (claimed.kwarg, inspect.Parameter.VAR_KEYWORD),
    ):
        if several is not None and kinds.get(kind) != several.arg:
            yield f"no {kind.description} parameter {several.arg}"


@pytest.mark.parametrize("text", OURS)
def test_what_is_claimed_of_ours_is_there(text: str) -> None:
    claim = claim_of(text)
    value = resolve(claim.name)
    if claim.parameters is not None:
        assert list(false_claims(claim, parameters_of(value))) == []


FALSE = ["f(other)", "f(second)", "f(first=1)", "f(second=3)", "f(third, first)", "f(*args)", "f(**options)"]


def test_a_false_claim_is_seen() -> None:
    def function(first: Any, second: int = 2, third: Any = ..., *rest: Any, fourth: None = None) -> None: ...

    found = parameters_of(function)
    for true in ("f(first, second=2, *rest, fourth=None)", "f(second=…)", "f()"):
        assert list(false_claims(claim_of(true), found)) == []
    for false in FALSE:
        assert list(false_claims(claim_of(false), found)) != []
    with pytest.raises(AttributeError):
        resolve("Client.no_such_method")


def test_what_is_missing_in_a_table_is_seen() -> None:
    wanted = {"wait": {"fs", "timeout"}, "Future.done": set[str](), "Future.cancel": {"force"}}
    table = {"wait": {"fs"}, "Future.cancel": {"force", "reason"}}
    assert missing(wanted, table) == {"wait": {"timeout"}, "Future.done": set()}


# Theirs


def names_in_table(page: str) -> dict[str, set[str]]:
    """The names of the first column, and which parameters are named there."""
    found: dict[str, set[str]] = {}
    for row in rows_of(page):
        for claim in row.theirs:
            names = found.setdefault(claim.name, set())
            if claim.parameters is not None:
                given = claim.parameters
                several = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                names.update(argument.arg for argument in several if argument is not None)
    return found


def public_names(module: ModuleType, owners: list[str], inherited: set[str]) -> dict[str, set[str]]:
    """The public names of a module and of some of its classes, and their parameters.

    :param inherited: names of a class that need not be named for the others.
    """
    found: dict[str, set[str]] = {name: set() for name in module.__all__}
    for owner in owners:
        cls = getattr(module, owner)
        found[owner] = _names_of_parameters(cls)
        for name in dir(cls):
            if not name.startswith("_") and name not in inherited:
                found[f"{owner}.{name}"] = _names_of_parameters(getattr(cls, name))
    return found


def _names_of_parameters(value: Any) -> set[str]:
    if inspect.isclass(value) and issubclass(value, (BaseException, Enum)):
        return set()  # nobody calls these
    try:
        return parameters_of(value).keys() - {"self", "cls"}
    except (TypeError, ValueError):
        return set()  # an attribute


def missing(wanted: dict[str, set[str]], table: dict[str, set[str]]) -> dict[str, set[str]]:
    return {
        name: parameters - table.get(name, set())
        for name, parameters in wanted.items()
        if name not in table or parameters - table[name]
    }


def test_the_table_of_the_standard_library_is_complete() -> None:
    module = concurrent.futures
    wanted = public_names(module, ["Executor", "Future"], set())
    pools = [name for name in module.__all__ if name.endswith("PoolExecutor")]
    wanted |= public_names(module, pools, set(dir(concurrent.futures.Executor)))
    for name in ("wait", "as_completed"):
        wanted[name] = _names_of_parameters(getattr(module, name))
    assert "ThreadPoolExecutor" in wanted
    assert missing(wanted, names_in_table("coming-from-futures.md")) == {}


#: The classes of ``distributed`` that programs use the methods of.
DASK_CLASSES = [
    "Actor",
    "ActorFuture",
    "Client",
    "Event",
    "Future",
    "LocalCluster",
    "Lock",
    "MultiLock",
    "NannyPlugin",
    "Queue",
    "SchedulerPlugin",
    "Security",
    "Semaphore",
    "UploadFile",
    "Variable",
    "WorkerPlugin",
    "as_completed",
]


def test_the_table_of_dask_is_complete() -> None:
    module = import_module("distributed")
    wanted = public_names(module, DASK_CLASSES, set())
    for name in module.__all__:
        wanted[name] |= _names_of_parameters(getattr(module, name))
    assert missing(wanted, names_in_table("coming-from-dask.md")) == {}
