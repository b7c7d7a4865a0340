"""The survey of ``treadle demo``: files are found, analysed exactly, and merged without loss."""

from __future__ import annotations

import os
import pickle
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.demo import run
from treadle.demo.analyze import analyze, analyze_group
from treadle.demo.report import Function, Problem, Report, Size, differences, longest_of, merge, total
from treadle.demo.source import Source, SourceError, find, standard_library

TOP = 5


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write ``files`` below ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def report_of(tmp_path: Path, content: str | bytes, name: str = "mod.py") -> Report:
    """The report of a tree with one file."""
    (source,) = find([str(tree(tmp_path, {name: content}))])
    return analyze(source, TOP)


# Finding files


def test_files_are_found_in_sorted_order_with_their_packages(tmp_path: Path) -> None:
    root = tree(
        tmp_path, {"b/__init__.py": "", "b/z.py": "12", "b/c/d.py": "", "a.py": "", "b/data.txt": "", "b.py": ""}
    )
    found = find([str(root)])
    assert [(each.name, each.package, each.module) for each in found] == [
        ("a.py", "a", "a"),
        (os.path.join("b", "__init__.py"), "b", "b"),
        (os.path.join("b", "c", "d.py"), "b", "b.c.d"),
        (os.path.join("b", "z.py"), "b", "b.z"),
        ("b.py", "b", "b"),
    ]
    assert [each.size for each in found] == [0, 0, 0, 2, 0]
    assert all(os.path.exists(each.path) for each in found)


def test_a_package_is_divided_into_its_parts(tmp_path: Path) -> None:
    tree(tmp_path, {"pkg/__init__.py": "", "pkg/mod.py": "", "pkg/sub/__init__.py": "", "pkg/sub/deep.py": ""})
    found = find([str(tmp_path / "pkg")])
    assert [each.package for each in found] == ["pkg", "pkg.mod", "pkg.sub", "pkg.sub"]
    assert [each.module for each in find([str(tmp_path / "pkg" / "sub")])] == ["pkg.sub", "pkg.sub.deep"]


def test_installed_packages_are_left_out_below_a_tree_only(tmp_path: Path) -> None:
    tree(tmp_path, {"a.py": "", "site-packages/b.py": "", "x/dist-packages/c.py": ""})
    assert [each.name for each in find([str(tmp_path)])] == ["a.py"]
    assert [each.name for each in find([str(tmp_path / "site-packages")])] == ["b.py"]


def test_a_file_that_is_reached_twice_counts_once(tmp_path: Path) -> None:
    tree(tmp_path, {"p/a.py": "", "p/b.py": ""})
    found = find([str(tmp_path / "p" / "b.py"), str(tmp_path / "p")])
    assert [each.name for each in found] == [str(tmp_path / "p" / "b.py"), str(tmp_path / "p" / "a.py")]


def test_the_default_is_the_standard_library_with_its_tests_and_without_installed_packages() -> None:
    found = find()
    assert standard_library() == sysconfig.get_path("stdlib")
    packages = {each.package for each in found}
    assert {"json", "email", "asyncio", "abc"} <= packages
    assert not any("site-packages" in each.path for each in found)


def test_a_single_file_counts_for_its_module(tmp_path: Path) -> None:
    tree(tmp_path, {"pkg/__init__.py": "", "pkg/mod.py": "", "lone.py": ""})
    assert find([str(tmp_path / "lone.py")])[0].package == "lone"
    assert find([str(tmp_path / "pkg" / "mod.py")])[0].package == "pkg.mod"
    assert find([str(tmp_path / "pkg" / "__init__.py")])[0].package == "pkg"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "there is no file or directory '.*nowhere'"),
        ("empty", r"there is no Python file \(.py\) in '.*empty'"),
        ("empty/notes.txt", "'.*notes.txt' is not a Python file"),
    ],
)
def test_paths_without_sources_are_errors_that_name_them(tmp_path: Path, path: str, message: str) -> None:
    tree(tmp_path, {"empty/notes.txt": ""})
    with pytest.raises(SourceError, match=message):
        find([str(tmp_path / path)])


# Analysing one file

EXAMPLE = """\
import os, os.path
import json as j
from collections import Counter, deque
from collections import abc


@decorate
def outer(first, *rest, key=1, **words):
    def inner():
        return first.key
    return inner(other=first)


class Thing(Base, metaclass=Meta):
    async def method(self):
        import os
        self.count += 1

    class Part:
        pass
"""


def test_one_file_is_counted_exactly(tmp_path: Path) -> None:
    report = report_of(tmp_path, EXAMPLE)
    assert report.packages == {"mod": Size(files=1, lines=20, functions=3, classes=2)}
    assert report.imports == Counter({"os": 1, "os.path": 1, "json": 1, "collections": 1})
    assert report.names == Counter(
        {"first": 3, "key": 2, "inner": 2, "self": 2}
        | dict.fromkeys(("decorate", "outer", "rest", "words", "other", "Thing", "Base", "metaclass", "Meta"), 1)
        | dict.fromkeys(("method", "count", "Part"), 1)
    )
    assert report.longest == (
        Function(4, "outer", "mod.py", 8),
        Function(3, "Thing.method", "mod.py", 15),
        Function(2, "outer.inner", "mod.py", 9),
    )
    assert report.problems == ()


def test_keywords_that_unpack_have_no_name(tmp_path: Path) -> None:
    assert report_of(tmp_path, "f(**words)").names == Counter({"f": 1, "words": 1})


@pytest.mark.parametrize(
    ("name", "line", "module"),
    [
        ("pkg/mod.py", "from . import other", "pkg"),
        ("pkg/mod.py", "from .other import x", "pkg.other"),
        ("pkg/__init__.py", "from .other import x", "pkg.other"),
        ("pkg/sub/mod.py", "from ..other import x", "pkg.other"),
        ("pkg/sub/__init__.py", "from .. import x", "pkg"),
        ("mod.py", "from . import x", "."),
        ("mod.py", "from .... import x", "."),
    ],
)
def test_relative_imports_count_for_the_module_they_mean(tmp_path: Path, name: str, line: str, module: str) -> None:
    assert report_of(tmp_path, line, name).imports == Counter({module: 1})


@pytest.mark.parametrize(
    ("content", "lines"), [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("a\r\nb\r\n", 2), ("a\n\x0cb\n", 2)]
)
def test_lines_are_what_an_editor_shows(tmp_path: Path, content: str, lines: int) -> None:
    assert report_of(tmp_path, content).packages["mod"].lines == lines


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def broken(:\n", "line 1: "),
        (b"x = '\xff\xfe'\n", "utf-8"),
        (b"# coding: no-such-codec\n", "no-such-codec"),
        (b"x = 1\x00\n", "null bytes"),
        (b"(" * 5000 + b")" * 5000, "nested"),
    ],
)
def test_files_that_cannot_be_used_are_reported_as_that(tmp_path: Path, content: bytes, reason: str) -> None:
    report = report_of(tmp_path, content)
    (problem,) = report.problems
    assert problem.file == "mod.py"
    assert reason in problem.reason
    assert report == Report(TOP, problems=(problem,))


def test_a_file_that_cannot_be_read_is_reported_as_that(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (source,) = find([str(tmp_path)])
    assert analyze(source, TOP).problems == (Problem("gone.py", "No such file or directory"),)


def test_warnings_of_the_parser_are_nobodys_business(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    report = report_of(tmp_path, "x = '\\d'\n")
    assert report.problems == ()
    assert list(recwarn) == []


def test_expressions_may_be_nested_deeper_than_python_can_call(tmp_path: Path) -> None:
    report = report_of(tmp_path, "x = a" + ".b" * 900)
    assert report.names["b"] == 900


# Merging

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), max_size=4)
SIZES = st.builds(Size, *[st.integers(0, 9)] * 4)
FUNCTIONS = st.builds(Function, st.integers(1, 4), st.sampled_from("fg"), st.sampled_from("xy"), st.integers(1, 3))
PROBLEMS = st.builds(Problem, st.sampled_from("xyz"), st.sampled_from(["bad", "worse"]))


@st.composite
def reports(draw: st.DrawFn) -> Report:
    limit = draw(st.integers(1, 4))
    return Report(
        limit,
        draw(st.dictionaries(st.sampled_from("pq"), SIZES)),
        Counter(draw(COUNTS)),
        Counter(draw(COUNTS)),
        longest_of(draw(st.lists(FUNCTIONS, max_size=8)), limit),
        tuple(sorted(draw(st.lists(PROBLEMS, max_size=3)))),
    )


@given(st.lists(reports(), min_size=1, max_size=6), st.data())
@settings(deadline=None)
def test_merging_is_associative_and_commutative(parts: list[Report], data: st.DataObject) -> None:
    whole = merge(parts)
    before = pickle.dumps(parts)
    assert merge(data.draw(st.permutations(parts))) == whole
    cut = data.draw(st.integers(1, len(parts)))
    grouped = [merge(parts[:cut]), *([merge(parts[cut:])] if parts[cut:] else [])]
    assert merge(grouped) == whole
    assert pickle.dumps(parts) == before
    assert pickle.loads(pickle.dumps(whole)) == whole


@given(st.lists(FUNCTIONS, max_size=12), st.integers(1, 5))
def test_the_longest_of_parts_hold_the_longest_of_all(functions: list[Function], limit: int) -> None:
    parts = [Report(limit, longest=longest_of(functions[start::3], limit)) for start in range(3)]
    assert merge(parts).longest == longest_of(functions, limit)
    assert [each.lines for each in longest_of(functions, limit)] == sorted(
        (each.lines for each in functions), reverse=True
    )[:limit]


@given(reports(), reports())
def test_reports_are_equal_exactly_if_no_difference_is_found(one: Report, other: Report) -> None:
    assert differences(one, one) == []
    assert (differences(one, other) == []) == (one == other)


def test_differences_say_what_and_by_how_much() -> None:
    one = Report(5, {"p": Size(1, 10)}, names=Counter(a=1, b=2))
    other = Report(5, {"p": Size(1, 11)}, names=Counter(a=1, b=3), problems=(Problem("x", "bad"),))
    found = differences(one, other)
    assert [line.split(":")[0] for line in found] == ["packages['p']", "names['b']", "problems"]
    assert found[1] == "names['b']: 2 against 3"


def test_sizes_add_up() -> None:
    assert total([Size(1, 2, 3, 4), Size(10, 20, 30, 40)]) == Size(11, 22, 33, 44)
    assert total([]) == Size()


# The graph


def some_of_the_standard_library() -> list[Source]:
    return find([os.path.join(standard_library(), package) for package in ("json", "email")])


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_the_tree_of_tasks_comes_to_what_the_loop_does(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "GROUP_BYTES", 10_000)
    monkeypatch.setattr(run, "FAN_IN", 3)
    sources = some_of_the_standard_library()
    assert len(run.grouped(sources)) > 9
    loop = run.one_by_one(sources, TOP)
    tasks = run.in_parallel(sources, TOP, scheduler, 2)
    assert differences(tasks.report, loop.report) == []
    assert tasks.report == loop.report
    assert total(loop.report.packages.values()).files == len(sources)
    assert loop.seconds > 0
    assert tasks.seconds > 0


def test_groups_hold_every_file_once_in_order() -> None:
    sources = [Source(f"{size}-{place}.py", "", "", "", size) for place, size in enumerate([1, 70_000, 65_535, 1, 5])]
    groups = run.grouped(sources)
    assert [[each.size for each in group] for group in groups] == [[1, 70_000], [65_535, 1], [5]]
    assert [each for group in groups for each in group] == sources


def test_a_group_is_the_merge_of_its_files() -> None:
    group = some_of_the_standard_library()[:4]
    assert analyze_group(group, TOP) == merge([analyze(source, TOP) for source in group])
