"""What tasks print and log: kept with them, and passed on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from treadle import Client, LocalCluster
from treadle.client.inside import here
from treadle.client.logs import LogLine, Logs, _logs
from treadle.client.output import Output
from treadle.client.session import EventRow
from treadle.testing.tasks import boom, eventually, inc, meet, pipes
from treadle.worker.logs import LIMIT, PIECE, Tee
from treadle.worker.logs import Logs as Collector


def speak(word: str) -> str:
    print("printed", word)
    print("complained", word, file=sys.stderr)
    logging.getLogger("my.module").warning("logged %s", word)
    logging.getLogger("my.module").debug("not worth a line")
    return word


async def speak_async(word: str, turns: int) -> str:
    for turn in range(turns):
        print(word, turn)
        await asyncio.sleep(0)
    return word


def speak_and_meet(word: str, one: str, two: str) -> None:
    print("before", word)
    meet(one, two)
    print("after", word)


def speak_and_wait(folder: str) -> None:
    """The first time this waits to be killed."""
    again = Path(folder, "once").exists()
    Path(folder, "once").touch()
    print("attempt")
    sys.stdout.write("unfinished")
    if not again:
        threading.Event().wait()


def much(lines: int) -> None:
    for number in range(lines):
        print("line", number)


def odd() -> None:
    print("bad \ud800 name", file=sys.stderr)
    sys.stdout.write("")
    sys.stdout.writelines(["two ", "pieces\n"])
    print("is it a terminal?", sys.stdout.isatty(), sys.stdout.encoding.lower())
    with contextlib.redirect_stdout(io.StringIO()):
        print("elsewhere")


def log_badly() -> None:
    logging.getLogger("mine").error("%d", "no number")


def fork() -> int:
    print("parent")
    pid = os.fork()
    if not pid:
        print("child", flush=True)
        logging.getLogger().error("child")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=2, name="w") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def texts(logs: Logs) -> list[str]:
    return [line.text for line in logs]


def test_everything_that_a_task_says(client: Client) -> None:
    before = time.time()
    future = client.submit(speak, "x", workers="w-1")
    assert future.result() == "x"
    logs = future.logs(timeout=30)
    assert [line[1:] for line in logs] == [
        ("w-1", "stdout", "printed x"),
        ("w-1", "stderr", "complained x"),
        ("w-1", "WARNING", "my.module: logged x"),
    ]
    assert all(before - 1 < line.time < time.time() + 1 for line in logs)
    assert str(logs) == "printed x\ncomplained x\nmy.module: logged x\n"
    shown = repr(logs).splitlines()
    assert shown[0].endswith(" w-1 stdout  printed x")
    assert shown[2].endswith(" w-1 WARNING my.module: logged x")


def test_a_task_that_says_nothing(client: Client) -> None:
    future = client.submit(inc, 1)
    future.result()
    assert future.logs() == []
    assert repr(future.logs()) == "<Logs: nothing>"


def test_of_a_task_that_fails_and_of_one_that_runs_beside_it(client: Client, tmp_path: Path) -> None:
    one, two = pipes(tmp_path, 2)
    a = client.submit(speak_and_meet, "a", one, two, workers="w-0")
    b = client.submit(speak_and_meet, "b", two, one, workers="w-0")
    client.gather([a, b])
    assert texts(a.logs()) == ["before a", "after a"]
    assert texts(b.logs()) == ["before b", "after b"]
    failed = client.submit(boom, "c")
    assert failed.exception() is not None
    assert failed.logs() == []


def test_of_asynchronous_tasks_that_take_turns(client: Client) -> None:
    futures = [client.submit(speak_async, f"task {i}", 3, workers="w-0") for i in range(5)]
    client.gather(futures)
    for i, future in enumerate(futures):
        assert texts(future.logs()) == [f"task {i} {turn}" for turn in range(3)]


def test_while_it_runs_and_after_its_worker_was_killed(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, name="w") as cluster, Client(cluster) as client:
        future = client.submit(speak_and_wait, str(tmp_path), key="killed")
        eventually(lambda: texts(future.logs()) == ["attempt", "unfinished"])
        assert not future.done()
        cluster.kill_worker(0)
        future.result()
        assert texts(future.logs()) == ["attempt", "unfinished"] * 2
        future.release()
        cluster.scale(0)
        again = client.submit(inc, 1, key="killed")  # kept although task and worker are gone
        assert texts(again.logs()) == ["attempt", "unfinished"] * 2


def test_only_the_end_of_much_is_kept(client: Client) -> None:
    future = client.submit(much, 50_000)
    future.result()
    logs = future.logs()
    assert logs[-1].text == "line 49999"
    assert 50_000 - logs.dropped <= len(logs) <= 50_000 - logs.dropped + 100  # some are there in part
    assert len(str(logs)) <= LIMIT
    assert repr(logs).startswith(f"… {logs.dropped:,} lines were not kept …\n")


def test_what_is_odd(client: Client) -> None:
    future = client.submit(odd)
    future.result()
    assert texts(future.logs()) == ["bad \\ud800 name", "two pieces", "is it a terminal? False utf-8"]
    future = client.submit(log_badly)
    assert future.result() is None
    assert "--- Logging error ---" in str(future.logs())


def test_of_a_task_that_forks(client: Client) -> None:
    future = client.submit(fork)
    assert future.result() == 0
    assert texts(future.logs()) == ["parent"]


def test_of_workers(client: Client, cluster: LocalCluster) -> None:
    assert set(client.get_worker_logs(["w-0"])) == {"w-0"}
    assert client.get_worker_logs(["nobody"], timeout=30) == {"nobody": []}
    word: Any = "w-0"
    with pytest.raises(TypeError, match=r"\['w-0'\]"):
        client.get_worker_logs(word)


def test_asynchronous(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client(cluster, asynchronous=True) as client:
            future = client.submit(speak, "y", pure=False)
            await future
            assert texts(await future.logs(timeout=30))[0] == "printed y"
            assert isinstance(await client.get_worker_logs(), dict)
            await client.forward_output(timeout=30)
            await client.forward_output(False)

    asyncio.run(main())


# To the client


def test_output_is_passed_on_to_who_wants_it(
    client: Client, cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(cluster, set_as_default=False) as other:
        client.forward_output()
        other.submit(speak, "of another", pure=False).result()
        client.submit(speak, "mine", key="spoken", workers="w-0").result()
        client.forward_output(False, timeout=30)
        client.submit(speak, "later", pure=False).result()
        client.get_worker_logs()  # what was to come has come
    out, err = capsys.readouterr()
    assert out == "[spoken on w-0] printed mine\n"
    # The standard error of workers of this machine is here, too.
    assert "[spoken on w-0] complained mine\n" in err
    assert "[spoken on w-0] WARNING my.module: logged mine\n" in err
    assert "] complained of another" not in err
    assert "] complained later" not in err


def test_output_of_what_a_task_needs(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.forward_output()
    inner = client.submit(speak, "inner", key="inner")
    outer = client.submit(speak, inner, key="outer")
    del inner
    outer.result()
    client.forward_output(False)
    out, _ = capsys.readouterr()
    assert [line.partition(" ")[0] for line in out.splitlines()] == ["[inner", "[outer"]


def packed(*rows: tuple[str, str, str, str]) -> list[EventRow]:
    return [(number, 0.0, msgspec.msgpack.encode(row)) for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([("k", "stdout", "one"), ("k", "stdout", " line\n")], "[k on w] one line\n"),
        (
            [("k", "stdout", "a\nb"), ("k", "stdout", "\nc"), ("k", "stdout", "\n")],
            "[k on w] a\n[k on w] b\n[k on w] c\n",
        ),
        ([("k", "stdout", "a\n\nb\n")], "[k on w] a\n[k on w] \n[k on w] b\n"),
        ([("k", "stdout", "\n")], "[k on w] \n"),
        # Another's line begins on a line of its own, and so does what comes of the first one then.
        (
            [("k", "stdout", "one"), ("other", "stdout", "two"), ("k", "stdout", "three\n")],
            "[k on w] one\n[other on w] two\n[k on w] three\n",
        ),
    ],
)
def test_a_line_in_pieces_is_shown_as_one(
    rows: list[tuple[str, str, str]], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output()
    for key, source, text in rows:
        output(packed((key, "w", source, text)))
    assert capsys.readouterr() == (shown, "")


def test_a_line_in_pieces_goes_on_behind_records_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output(
        packed(("k", "w", "stderr", "one"), ("k", "w", "WARNING", "my.module: two\nthree\n"), ("", "", "dropped", "7"))
    )
    output(packed(("k", "w", "stderr", "four\n")))
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[:3] == ["[k on w] one", "[k on w] WARNING my.module: two", "[k on w] WARNING three"]
    assert err.splitlines()[3].startswith("[7 pieces of what tasks have printed were left out")
    assert err.splitlines()[4:] == ["[k on w] four"]


def test_a_stream_that_was_exchanged_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output()
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", first)
    output(packed(("k", "w", "stdout", "unfinished")))
    monkeypatch.setattr(sys, "stdout", second)
    output(packed(("k", "w", "stdout", "more\n")))
    assert (first.getvalue(), second.getvalue()) == ("[k on w] unfinished", "[k on w] more\n")
    second.close()
    output(packed(("k", "w", "stdout", "of no use\n")))
    monkeypatch.setattr(sys, "stdout", None)
    output(packed(("k", "w", "stdout", "of no use\n")))


# Parts


class Sent:
    """A collector of the logs, and what it has sent."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.later: list[float] = []
        self.logs = Collector(lambda batch: self.rows.extend(batch[0][1]))
        self.logs.begin(lambda seconds, function: self.later.append(seconds))


def test_nothing_is_sent_by_who_writes() -> None:
    sent = Sent()
    stream = io.StringIO()
    tee = Tee(stream, "stdout", sent.logs)
    print("hello", 5, file=tee)
    print("again", file=tee)
    assert stream.getvalue() == "hello 5\nagain\n"
    assert sent.rows == []
    assert len(sent.later) == 1  # the loop is woken once
    sent.logs.flush()
    assert [row[:2] + row[3:] for row in sent.rows] == [(0, "", "stdout", "hello 5\nagain\n")]
    pending = [sent.logs.pending]
    tee.write("more")
    assert [*pending, sent.logs.pending] == [False, True]
    assert 0 < sent.later[1] <= 0.2


def test_what_is_collected_is_bounded() -> None:
    sent = Sent()
    for _ in range(100):
        sent.logs.write("stdout", "x" * (LIMIT // 10 - 1) + "\n")
    sent.logs.write("stderr", "y" * 2 * LIMIT)
    sent.logs.flush()
    kept = [row for row in sent.rows if row[3] != "dropped"]
    assert sum(len(row[4]) for row in kept) <= LIMIT + PIECE
    assert [row[4] for row in sent.rows if row[3] == "dropped"] == ["100"]
    assert [row[3] for row in sent.rows] == ["dropped", "stderr"]


def test_a_finalizer_may_write_while_something_is_written() -> None:
    sent = Sent()

    class Loud(str):
        def __len__(self) -> int:
            if not sent.rows:
                sent.rows.append("once")
                sent.logs.write("stdout", "from within")
            return 5

    sent.logs.write("stdout", Loud("hello"))
    sent.logs.flush()
    assert sorted(sent.rows[1][4].replace("hello", " hello ").split()) == ["from", "hello", "within"]


def test_pieces_are_made_into_lines() -> None:
    rows = [
        (1.0, "w", "w 1", "stdout", "a\nb"),
        (2.0, "w", "w 2", "stdout", "other"),
        (3.0, "w", "w 1", "stderr", "e\n"),
        (4.0, "w", "w 1", "stdout", "b"),
        (5.0, "w", "w 1", "stdout", "b\n\nc\n"),
        (6.0, "w", "w 1", "ERROR", "x: two\nlines\n"),
    ]
    logs = _logs(3, rows)
    assert list(logs) == [
        LogLine(1.0, "w", "stdout", "a"),
        LogLine(1.0, "w", "stdout", "bbb"),
        LogLine(2.0, "w", "stdout", "other"),
        LogLine(3.0, "w", "stderr", "e"),
        LogLine(5.0, "w", "stdout", ""),
        LogLine(5.0, "w", "stdout", "c"),
        LogLine(6.0, "w", "ERROR", "x: two\nlines"),
    ]
    assert logs.dropped == 3
    assert here.task is None
