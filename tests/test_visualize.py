"""Pictures: the DOT text is ours and tested as it is; what draws it is replaced by a small program."""

from __future__ import annotations

import operator
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.deferred import delayed
from treadle.drawing import RenderError, VisualizeError, visualize
from treadle.errors import MissingPackageError
from treadle.graph.spec import Data, Ref, Task


def load(x: Any) -> Any:
    return x


def total(parts: Any, scale: Any = 1) -> Any:
    return sum(parts) * scale


GRAPH = {"a": 1, "b": (load, "a"), ("c", 0): (total, ["b", "a"]), "unused": Data([1])}


def dot(*args: Any, **options: Any) -> str:
    text = visualize(*args, filename=None, format="dot", **options)
    assert isinstance(text, bytes)
    return text.decode()


def boxes(text: str) -> dict[str, str]:
    """From the tooltip of each node to its number."""
    found = {}
    for line in text.splitlines():
        if "tooltip=" in line:
            found[line.split('tooltip="')[1].split('", fillcolor')[0]] = line.split()[0]
    return found


def edges(text: str) -> set[tuple[str, str]]:
    names = {number: key for key, number in boxes(text).items()}
    pairs = [line.strip(" ;").split(" -> ") for line in text.splitlines() if " -> " in line]
    return {(names[source], names[target]) for source, target in pairs}


@pytest.fixture
def fake_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``dot`` that writes its arguments and what it was given, alone on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "dot"
    program.write_text(
        f"#!{sys.executable}\nimport sys\ntext = sys.stdin.read()\n"
        "if 'fail-me' in text:\n    sys.stderr.write('syntax error')\n    sys.exit(3)\n"
        "sys.stdout.write(' '.join(sys.argv[1:]) + '\\n' + text)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    return program


def test_a_plain_graph() -> None:
    text = dot(GRAPH)
    assert edges(text) == {("a", "b"), ("b", "('c', 0)"), ("a", "('c', 0)")}
    assert set(boxes(text)) == {"a", "b", "('c', 0)", "unused"}
    assert 'rankdir="TB"' in text


def test_an_explicit_graph() -> None:
    graph = {
        "a": Task(load, 1),
        "b": Task(total, [Ref("a"), {"x": Ref("a")}], scale=Task(load, Ref("c"))),
        "c": Data("text"),
    }
    assert edges(dot(graph)) == {("a", "b"), ("c", "b")}


def test_delayed_values() -> None:
    part = delayed(load)(1, treadle_key="part")
    whole = delayed(total)([part, delayed(5, name="five")], treadle_key="whole")
    text = dot({"x": [whole]}, whole)
    assert edges(text) == {("part", "whole"), ("five", "whole")}
    assert text == dot(whole)


def test_tasks_and_data_look_different() -> None:
    text = dot({"a": np.zeros(3), "b": (load, "a"), "c": (load, "b"), "d": (operator.add, "b", "c")})
    lines = {key: next(line for line in text.splitlines() if f'tooltip="{key}"' in line) for key in "abcd"}
    assert "label=<ndarray<BR/>" in lines["a"]
    assert "style=filled," in lines["a"]
    assert "label=<load<BR/>" in lines["b"]

    def colour(key: str) -> str:
        return lines[key].split("fillcolor=")[1].split('"')[1]

    assert colour("b") == colour("c")
    assert len({colour("a"), colour("b"), colour("d")}) == 3


def test_names_are_quoted() -> None:
    nasty = 'a "b" \\ <c> & \n\x00'
    text = dot({nasty: (load, 1), "long" * 20: '<"text">' * 10})
    assert 'tooltip="a \\"b\\" \\\\ <c> & ��"' in text
    assert "a &quot;b&quot; \\ &lt;c&gt; &amp; ��" in text
    assert "\x00" not in text
    assert "longlonglonglon…longlong" in text
    assert f'tooltip="{"long" * 20}"' in text
    assert "&lt;&quot;text&quot;&gt;" in text


def test_many_functions_share_the_colours() -> None:
    functions = [eval(f"lambda: {index}") for index in range(30)]
    for index, func in enumerate(functions):
        func.__name__ = f"f{index}"
    assert len(boxes(dot({f"k{index}": (func,) for index, func in enumerate(functions)}))) == 30


def test_a_long_chain() -> None:
    chain: dict[Any, Any] = {0: "start"}
    for index in range(1, 20_000):
        chain[index] = (load, index - 1)
    assert dot(chain).count(" -> ") == 19_999


def test_files(tmp_path: Path, fake_dot: Path) -> None:
    path = tmp_path / "graph"
    assert visualize(GRAPH, filename=path) == tmp_path / "graph.svg"
    written = (tmp_path / "graph.svg").read_text()
    assert written.split("\n", 1)[0].split()[-1] == "-Tsvg"
    assert written.split("\n", 1)[1] == dot(GRAPH)
    assert visualize(GRAPH, filename=str(tmp_path / "other.png")) == tmp_path / "other.png"
    assert "-Tpng" in (tmp_path / "other.png").read_text()
    assert visualize(GRAPH, filename=str(tmp_path / "v1.2"), format="pdf") == tmp_path / "v1.2.pdf"
    assert delayed(load)(1).visualize(filename=str(tmp_path / "own.dot"), rankdir="LR") == tmp_path / "own.dot"
    assert 'rankdir="LR"' in (tmp_path / "own.dot").read_text()
    picture = visualize(GRAPH, filename=None, format="png")
    assert isinstance(picture, bytes)
    assert picture.endswith(dot(GRAPH).encode())


def test_the_default_name(tmp_path: Path, fake_dot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert visualize(GRAPH) == Path("treadle-graph.svg")
    assert Path("treadle-graph.svg").exists()


def test_notebooks_get_something_to_display(tmp_path: Path, fake_dot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display: Any = types.ModuleType("IPython.display")
    display.SVG = lambda data: ("SVG", data)
    display.Image = lambda data: ("Image", data)
    package: Any = types.ModuleType("IPython")
    package.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    kind, data = visualize(GRAPH, filename=tmp_path / "g.svg")
    assert kind == "SVG"
    assert data == (tmp_path / "g.svg").read_bytes()
    assert visualize(GRAPH, filename=None, format="png")[0] == "Image"
    assert visualize(GRAPH, filename=tmp_path / "g.dot") == tmp_path / "g.dot"


def test_the_program_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="program dot") as caught:
        visualize(GRAPH, filename=tmp_path / "g.svg")
    assert "apt-get install graphviz" in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert visualize(GRAPH, filename=tmp_path / "g.dot") == tmp_path / "g.dot"


def test_the_package_is_missing(fake_dot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(MissingPackageError, match="pip install graphviz"):
        visualize(GRAPH, filename=None)
    assert dot(GRAPH)


def test_the_program_fails(fake_dot: Path) -> None:
    with pytest.raises(RenderError, match="status 3: syntax error"):
        visualize({"fail-me": (load, 1)}, filename=None)


def test_wrong_arguments() -> None:
    with pytest.raises(VisualizeError, match="no format 'gif'"):
        visualize(GRAPH, format="gif")
    with pytest.raises(VisualizeError, match="rankdir"):
        visualize(GRAPH, rankdir="XY")
    for args in ((), (1,), (GRAPH, GRAPH)):
        with pytest.raises(VisualizeError, match="nothing to draw"):
            visualize(*args)
    with pytest.raises(TypeError, match="unexpected"):
        visualize(GRAPH, colour="red")  # type: ignore[call-arg]


def test_drawing_runs_nothing() -> None:
    def forbidden(*args: Any) -> Any:
        raise AssertionError("a task ran")

    assert "forbidden" in dot(delayed(forbidden)(delayed(forbidden)()))
