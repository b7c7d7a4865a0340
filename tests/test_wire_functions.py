"""Functions: pickled once where that is safe, and again where what they mean may have changed."""

from __future__ import annotations

import functools
import math
import operator
import os
import threading
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from treadle.errors import TaskNotSerializableError, UserError
from treadle.testing.tasks import inc
from treadle.wire import functions, pickling
from treadle.wire.functions import display_name, pack_function, unpack_function


@pytest.fixture
def pickled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is pickled from here on."""
    found: list[Any] = []

    def watched(value: Any) -> bytes:
        found.append(value)
        return pickling.dump(value)

    monkeypatch.setattr("treadle.wire.functions.dump", watched)
    monkeypatch.setattr(functions, "_entries", {})
    return found


def defined(source: str, **names: Any) -> Callable[..., Any]:
    """The function ``f`` of a script, which no other process can import."""
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **names}
    exec(source, space)
    function: Callable[..., Any] = space["f"]
    return function


def call(func: Callable[..., Any], *args: Any) -> Any:
    """What another process would get."""
    return unpack_function(pack_function(func).blob)(*args)


@pytest.mark.parametrize("func", [inc, sum, int, math.sqrt, operator.add, numpy.add, numpy.linspace, threading.Thread])
def test_what_can_be_imported_is_pickled_once_by_reference(func: Any, pickled: list[Any]) -> None:
    first = pack_function(func)
    assert pack_function(func) is first
    assert unpack_function(first.blob) is func
    assert pickled == [func]
    assert len(first.digest) == 16
    assert len(first.blob) < 100


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return x + 1",
        "f = lambda x: x + 1",
        "import math\ndef f(x): return int(math.floor(x)) + 1",
        "ONE = 1\ndef f(x): return x + ONE",
        "def one(): return 1\ndef f(x): return x + one()",
        "def f(x, one=1, *, two=(1, 'a')): return x + two[0]",
        "def f(x): return x + sum(1 for _ in range(1))",
        "from collections import OrderedDict\ndef f(x): return x + len(OrderedDict(a=1))",
        "def f(x): return x if x == 4 else f(x + 1)",
        "def outer(y):\n    def f(x): return x + y\n    return f\nf = outer(1)",
        "def outer():\n    def f(x): return x + 1 if x < 9 else later\n    if 0: later = 1\n    return f\nf = outer()",
        "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def f(x): return g(x)\n    return f\n"
        "@deco\ndef f(x): return x + 1",
    ],
)
def test_what_refers_to_nothing_that_changes_is_pickled_once_by_value(source: str, pickled: list[Any]) -> None:
    func = defined(source)
    assert call(func, 3) == 4
    assert call(func, 3) == 4
    assert pickled == [func]


@pytest.mark.parametrize(
    "source",
    [
        "DATA = [1]\ndef f(): return DATA[-1]",
        "def f(data=[1]): return data[-1]",
        "def outer():\n    data = [1]\n    def f(): return data[-1]\n    return f\nf = outer()",
        "class Data: last = 1\ndef f(): return Data.last",
        "DATA = {'a': 1}\ndef helper(): return DATA\ndef f(): return helper()",
        "DATA = ([1],)\ndef f(): return DATA",
    ],
)
def test_what_refers_to_something_that_may_change_is_pickled_each_time(source: str, pickled: list[Any]) -> None:
    func = defined(source)
    for _ in range(3):
        pack_function(func)
    assert pickled == [func] * 3


def test_a_change_is_seen() -> None:
    func = defined("ONE = 1\ndef helper(): return ONE\ndef f(step=0): return helper() + step")
    assert call(func) == 1
    func.__globals__["ONE"] = 10
    assert call(func) == 10
    func.__globals__["helper"] = lambda: 20
    assert call(func) == 20
    func.__defaults__ = (5,)
    assert call(func) == 25
    func.__code__ = (lambda step: -step).__code__
    assert call(func) == -5


def test_a_change_of_a_captured_variable_is_seen() -> None:
    def outer() -> tuple[Callable[[], int], Callable[[int], None]]:
        value = 1

        def change(to: int) -> None:
            nonlocal value
            value = to

        return lambda: value, change

    get, change = outer()
    assert call(get) == 1
    change(2)
    assert call(get) == 2


def test_a_name_that_appears_is_seen() -> None:
    func = defined("def f(): return len('abc')")
    assert call(func) == 3
    func.__globals__["len"] = lambda text: 42
    assert call(func) == 42


def test_keyword_defaults_and_attributes_that_change_are_seen() -> None:
    func: Any = defined("def f(*, step=1): return step + getattr(f, 'more', 0)")
    assert call(func) == 1
    func.__kwdefaults__["step"] = 2
    assert call(func) == 2
    func.more = 10
    assert call(func) == 12
    func.more = 20
    assert call(func) == 22


def test_another_function_at_the_same_place_in_memory_is_another_one() -> None:
    for number in range(20):
        assert call(defined(f"def f(): return {number}")) == number


def test_what_is_remembered_is_bounded(pickled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_MAX_ENTRIES", 3)
    for _ in range(10):
        pack_function(defined("def f(): return 1"))
    assert len(functions._entries) <= 3


def test_two_pickles_of_a_function_have_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(func: Any) -> bytes:
        monkeypatch.setattr(functions, "_entries", {})
        return pack_function(func).digest

    for source in ("def f(x): return x + 1", "import math\nONE = 1.5\ndef f(x, y={1}): return math.pi + x + ONE"):
        func = defined(source)
        assert digest(func) == digest(func) == digest(defined(source))
    assert digest(functools.partial(inc, 1)) == digest(functools.partial(inc, 1))
    assert digest(functools.partial(inc, 1)) != digest(functools.partial(inc, 2))


def test_objects_that_can_be_called_are_pickled_as_they_are_now() -> None:
    partial = functools.partial(operator.add, [1])
    assert call(partial, [2]) == [1, 2]
    partial.args[0].append(5)
    assert call(partial, [2]) == [1, 5, 2]
    assert call([3].count, 3) == 1


def test_names() -> None:
    assert pack_function(inc).name == "inc"
    assert display_name(functools.partial(functools.partial(inc), 1)) == "inc"
    assert display_name(lambda: 1) == "<lambda>"
    assert display_name(operator.itemgetter(1)) == "itemgetter"
    assert display_name(functools.partial(operator.itemgetter(1))) == "itemgetter"
    assert display_name(types.SimpleNamespace(__name__=3)) == "3"


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    with pytest.raises(TaskNotSerializableError) as caught:
        pack_function(locked, "the key")
    assert caught.value.key == "the key"
    assert caught.value.part == "its function 'locked'"
    assert "cannot pickle" in caught.value.reason


def by_path(path: object) -> Any:
    return unpack_function(msgspec.msgpack.encode(path))


@pytest.mark.parametrize(
    ("path", "func"),
    [("operator:add", operator.add), ("os.path:join", os.path.join), ("collections:Counter.update", Counter.update)],
)
def test_a_function_may_be_named_by_its_import_path(path: str, func: object) -> None:
    assert by_path(path) is func


@pytest.mark.parametrize(
    "path", ["", ":", "add", "operator:", ":add", "operator.add", "operator:add:add", "a b:c", ".os:x"]
)
def test_an_import_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=f"'module:qualname', such as 'operator:add', not {path!r}$"):
        by_path(path)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("nowhere:add", "there is no module 'nowhere' here"),
        ("nowhere.deeper:add", "there is no module 'nowhere' here"),
        ("os.nothing:add", "there is no module 'os.nothing' here"),
        ("operator:nothing", "module 'operator' has no attribute 'nothing'"),
        ("collections:OrderedDict.nothing", "type object 'collections.OrderedDict' has no attribute 'nothing'"),
    ],
)
def test_an_import_path_that_leads_nowhere_says_what_is_missing(path: str, missing: str) -> None:
    with pytest.raises(UserError) as caught:
        by_path(path)
    assert str(caught.value) == f"the import path {path!r} leads nowhere: {missing}"


def test_what_an_import_path_leads_to_can_be_called() -> None:
    with pytest.raises(UserError, match="'math:pi' leads to a float, which cannot be called"):
        by_path("math:pi")


def test_a_module_whose_own_imports_fail_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import what_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_is_not_there"):
        by_path("needs_more:add")


@pytest.mark.parametrize("blob", [b"", b"\x05", b"\x93abc", b"\xa2\xff\xfe", b"\xa1ab", b"\xc1"])
def test_bytes_that_are_no_function_are_refused(blob: bytes) -> None:
    with pytest.raises(UserError, match="a function is a pickle, or its import path as one msgpack string"):
        unpack_function(blob)
