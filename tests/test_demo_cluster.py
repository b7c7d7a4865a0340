"""``treadle demo`` on clusters: one of its own that loses a worker, and one that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from treadle import cli
from treadle.demo import run
from treadle.demo.report import differences
from treadle.demo.runners import NoWorkersError, Saboteur, remote, runner_for
from treadle.demo.show import make_console
from treadle.demo.source import Source, find, standard_library
from treadle.deploy.local import LocalCluster

SAME = "Checked: Treadle and the plain loop came to exactly the same report."


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Files enough for some dozens of tasks."""
    monkeypatch.setattr(run, "GROUP_BYTES", 4_000)
    monkeypatch.setattr(run, "FAN_IN", 3)
    return find([f"{standard_library()}/{package}" for package in ("json", "email")])


@pytest.fixture
def there() -> Iterator[LocalCluster]:
    with LocalCluster(1, 1, name="there") as cluster:
        yield cluster


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["demo", *arguments, "--no-timeline", "--top", "1"], env={"COLUMNS": "100"})


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_death_of_a_worker_halfway_makes_no_difference(
    sources: list[Source], num_workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    console = make_console(stderr=True)
    found = runner_for("cluster", num_workers).run(sources, 5, console)
    assert differences(found.report, run.one_by_one(sources, 5).report) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Halfway, after ")
    assert "killed worker local-0 (process " in err
    assert "with SIGKILL; another one takes its place.\n" in err


def test_it_says_what_it_does_and_comes_to_the_right_table(sources: list[Source]) -> None:
    result = demo(f"{standard_library()}/json")
    assert result.exit_code == 0, result.output
    assert ", with a cluster of 2 workers\n" in result.output
    assert "Halfway, after " in result.output
    assert "Treadle, a cluster of 2 workers" in result.output
    assert SAME in result.output


def test_a_cluster_that_is_there_is_used_and_loses_nobody(there: LocalCluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_bytes(there.token)
    workers = there.workers
    result = demo(f"{standard_library()}/json", "--address", there.address, "--token-file", str(token))
    assert result.exit_code == 0, result.output
    assert f", with the cluster at {there.address}, 1 worker\n" in result.output
    assert "Halfway" not in result.output
    assert SAME in result.output
    assert there.workers == workers


def test_a_cluster_without_workers_is_not_waited_for(there: LocalCluster) -> None:
    there.scale(0)
    message = f"has no workers; start one with: treadle worker {there.address}"
    with pytest.raises(NoWorkersError, match=message), remote(there.address, there.token):
        pass


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cannot connect to 127.0.0.1:1: nobody listens there"),
        ("nonsense:port", "'nonsense:port' is no address; write host:port"),
    ],
)
def test_an_address_without_a_cluster_is_named(tmp_path: Path, address: str, message: str) -> None:
    (tmp_path / "one.py").touch()
    result = CliRunner().invoke(
        cli.main, ["demo", str(tmp_path), "--no-timeline", "--address", address], env={"TREADLE_TOKEN": "x"}
    )
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {message}")


def test_one_worker_is_killed_and_no_more(there: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    from treadle import delayed
    from treadle.client.client import Client

    before = there.workers
    values = [delayed(abs)(-number, pure=False) for number in range(9)]
    with Client(there, set_as_default=False) as client, Saboteur(there, make_console()):
        total = delayed(sum)(values).compute(scheduler=client.get)
    assert total == sum(range(9))
    assert capsys.readouterr().out.count("Halfway, after 5 of 10 tasks: killed worker there-0") == 1
    there.wait_for_workers()
    assert there.workers != before
