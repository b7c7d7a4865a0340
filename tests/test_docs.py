"""Every Python block of the pages runs, and prints what the page says that it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import treadle

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: A Python block, and the block of output that may follow it.
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\s*^```output\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)

#: Printed after each block, to tell the output of one from that of the next.
MARK = "~~~ end of block ~~~"


class Block(NamedTuple):
    line: int
    code: str
    #: None if the page does not say what the block prints.
    output: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, found.start(1)), found[1], found[2]) for found in BLOCK.finditer(text)]


def script_of(blocks: list[Block]) -> str:
    """The blocks as one script, each on the line that it has on its page, so that tracebacks point there."""
    lines: list[str] = []
    for block in blocks:
        lines.extend([""] * (block.line - len(lines)))
        lines.extend(block.code.splitlines())
        lines.append(f"print({MARK!r})")
    return "\n".join(lines) + "\n"


def run(script: Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TREADLE_")}
    environment["PYTHONPATH"] = str(Path(treadle.__file__).parent.parent)
    # Unbuffered: on one page a worker writes to the same stream, and its line has to stand between the right ones.
    command = [sys.executable, "-u", "-W", "error", str(script)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=name_of)
def test_the_blocks_of_a_page_run_and_print_what_it_says(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    script = tmp_path / f"page_{page.stem}.py"  # not the name of a library
    script.write_text(script_of(blocks), encoding="utf-8")
    printed = run(script, tmp_path).split(MARK + "\n")
    assert len(printed) == len(blocks) + 1
    for block, output in zip(blocks, printed):
        if block.output is not None:
            assert output == block.output, f"{name_of(page)}, the block at line {block.line + 1}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_overlooked(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```python") == len(blocks_of(page))
    assert text.count("```output") == sum(block.output is not None for block in blocks_of(page))


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    assert run(example, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
