"""Conformance: what becomes of exceptions."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import treadle
from treadle.errors import CycleError
from treadle.graph.spec import Ref, Task
from treadle.testing.tasks import Boom, OddInit, boom, fail_after, inc, linger, pipes, total

__all__ = ["FailuresConformance", "ParallelFailuresConformance", "our_frames", "task_frames"]


def task_frames(error: BaseException) -> list[str]:
    """The names of the functions in a traceback, without this suite's test and what is called by it."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if not frame.name.startswith("test_")]


def our_frames(error: BaseException) -> list[str]:
    """The functions of Treadle in a traceback; this package counts as the user's code."""
    home = Path(treadle.__file__).parent
    ours = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if home in path.parents and home / "testing" not in path.parents:
            ours.append(frame.name)
    return ours


class OddDecodeError(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "odd")


class OddSystemExit(SystemExit):
    def __init__(self, message: str) -> None:
        super().__init__(4)
        self.message = message


def deep(levels: int) -> None:
    if levels == 0:
        raise Boom("deep down")
    deep(levels - 1)


def no_dict() -> dict[str, int]:
    return {}


def with_cause() -> None:
    try:
        try:
            no_dict()["no such key"]
        except KeyError as error:
            raise OddInit(3, detail="because") from error
    except OddInit as error:
        raise Boom("on top") from error


def without_context() -> None:
    try:
        no_dict()["no such key"]
    except KeyError:
        raise Boom("alone") from None


def raise_it(make: Callable[..., BaseException], *args: Any, **kwargs: Any) -> None:
    raise make(*args, **kwargs)


def run_a_cycle() -> None:
    treadle.get({"x": (inc, "y"), "y": (inc, "x")}, "x", "sync")


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


class FailuresConformance:
    """One exception, as it was raised, and nothing left behind."""

    def test_type_and_arguments(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom) as caught:
            get({"x": (boom, 1, "two")}, "x")
        assert caught.value.args == (1, "two")
        assert type(caught.value) is Boom

    @pytest.mark.parametrize(
        ("make", "args"),
        [
            (KeyError, ("k",)),
            (StopIteration, (5,)),
            (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "invalid start byte")),
            (FileNotFoundError, (2, "No such file", "name")),
            (OddDecodeError, (b"\xff",)),
            (OddSystemExit, ("it ends",)),
            (GeneratorExit, ()),
            (SystemExit, (3,)),
            (KeyboardInterrupt, ("not from the keyboard",)),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_builtin_exceptions(self, get: Callable[..., Any], make: type[BaseException], args: Any) -> None:
        with pytest.raises(make) as caught:
            get({"x": Task(raise_it, make, *args), "y": (inc, "x")}, "y")
        expected = make(*args)
        assert caught.value.args == expected.args
        assert str(caught.value) == str(expected)
        for name in ("code", "value", "filename", "reason"):
            assert getattr(caught.value, name, None) == getattr(expected, name, None)
        assert vars(caught.value).keys() - {"__notes__"} == vars(expected).keys()
        assert get({"x": (inc, 1)}, "x") == 2

    def test_an_unusual_constructor(self, get: Callable[..., Any]) -> None:
        with pytest.raises(OddInit) as caught:
            get({"x": Task(raise_it, OddInit, 7, detail="it broke")}, "x")
        assert (caught.value.code, caught.value.detail, str(caught.value)) == (7, "it broke", "code 7")

    def test_a_local_exception_class(self, get: Callable[..., Any]) -> None:
        class Local(ValueError):
            pass

        def fail() -> None:
            raise Local("here", 1)

        with pytest.raises(Local) as caught:
            get({"x": (fail,)}, "x")
        assert caught.value.args == ("here", 1)

    def test_traceback(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom) as caught:
            get({"x": (deep, 5), "y": (inc, "x")}, "y")
        frames = traceback.extract_tb(caught.value.__traceback__)
        assert [frame.name for frame in frames[-6:]] == ["deep"] * 6
        assert frames[-1].line == 'raise Boom("deep down")'
        assert len(our_frames(caught.value)) <= 1

    def test_traceback_of_a_nested_task(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom) as caught:
            get({"x": (total, [1, (boom, 1)])}, "x")
        assert task_frames(caught.value)[-1] == "boom"
        assert len(our_frames(caught.value)) <= 1

    def test_traceback_of_a_call_that_does_not_fit(self, get: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="positional argument") as caught:
            get({"x": (inc, 1, 2)}, "x")
        assert len(our_frames(caught.value)) <= 1

    def test_note_with_the_key(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom) as caught:
            get({("x", 0): (boom,), "y": (inc, ("x", 0))}, "y")
        assert notes(caught.value) == ["while running task ('x', 0)"]

    def test_notes_of_the_task_are_kept(self, get: Callable[..., Any]) -> None:
        def fail() -> None:
            error = Boom()
            error.__notes__ = ["a hint"]  # type: ignore[attr-defined]
            raise error

        with pytest.raises(Boom) as caught:
            get({"x": (fail,)}, "x")
        assert notes(caught.value) == ["a hint", "while running task 'x'"]

    def test_causes(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom, match="on top") as caught:
            get({"x": (with_cause,)}, "x")
        cause = caught.value.__cause__
        assert isinstance(cause, OddInit)
        assert cause.detail == "because"
        assert isinstance(cause.__cause__, KeyError)
        assert cause.__cause__.args == ("no such key",)
        text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
        assert 'no_dict()["no such key"]' in text

    def test_suppressed_context(self, get: Callable[..., Any]) -> None:
        with pytest.raises(Boom, match="alone") as caught:
            get({"x": (without_context,)}, "x")
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_errors_of_nested_runs_keep_the_line_of_the_task(self, get: Callable[..., Any]) -> None:
        with pytest.raises(CycleError) as caught:
            get({"x": (run_a_cycle,)}, "x")
        assert "run_a_cycle" in task_frames(caught.value)
        assert caught.value.keys == ["x", "y", "x"]

    def test_nothing_runs_that_needs_what_failed(self, get: Callable[..., Any], tmp_path: Path) -> None:
        path = tmp_path / "ran"
        graph = {"x": (boom,), "y": Task(lambda _, path: path.touch(), Ref("x"), path), "z": (inc, "y")}
        with pytest.raises(Boom):
            get(graph, "z")
        assert not path.exists()

    def test_one_of_many_tasks_fails(self, get: Callable[..., Any]) -> None:
        graph: dict[Any, Any] = {("x", i): (inc, i) for i in range(2000)}
        graph["sum"] = (total, list(graph))
        graph["x", 1234] = (boom, "one")
        with pytest.raises(Boom) as caught:
            get(graph, "sum")
        assert notes(caught.value) == ["while running task ('x', 1234)"]
        graph["x", 1234] = 0
        assert get(graph, "sum") == total(range(1, 2001)) - 1235

    def test_many_tasks_fail(self, get: Callable[..., Any]) -> None:
        graph: dict[Any, Any] = {("x", i): (boom, i) for i in range(100)}
        for _ in range(3):
            with pytest.raises(Boom) as caught:
                get(graph, list(graph))
            (index,) = caught.value.args
            assert notes(caught.value) == [f"while running task ('x', {index})"]
        assert get({"x": (inc, 1)}, "x") == 2


class ParallelFailuresConformance:
    """For schedulers that run at least two tasks at once."""

    def test_running_tasks_are_waited_for(self, get: Callable[..., Any], tmp_path: Path) -> None:
        one, two = pipes(tmp_path, 2)
        done = tmp_path / "done"
        graph: dict[str, Any] = {"slow": (linger, one, two, str(done)), "bad": (fail_after, two, one)}
        graph.update({f"later {i}": (str, "slow") for i in range(10)})
        with pytest.raises(Boom, match="first"):
            get(graph, list(graph))
        assert done.exists()
        assert get({"x": (inc, 1)}, "x") == 2

    def test_the_first_failure_wins(self, get: Callable[..., Any], tmp_path: Path) -> None:
        one, two = pipes(tmp_path, 2)

        def fail_later(*args: str) -> None:
            linger(*args)
            raise ValueError("second")

        graph = {"slow": (fail_later, one, two, str(tmp_path / "done")), "bad": (fail_after, two, one)}
        with pytest.raises(Boom, match="first"):
            get(graph, ["slow", "bad"])
