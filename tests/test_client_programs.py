"""The client in whole programs: interrupted, forked, and ended without a goodbye."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Script, finish


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send Ctrl-C once the program says that it is ready; returns what it prints after that."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    return finish(process)


@pytest.mark.parametrize(
    "call",
    [
        "client.submit(time.sleep, 100).result()",
        "client.gather([client.submit(time.sleep, 100)])",
        "client.get({'x': (time.sleep, 100), 'y': (inc, 'x')}, ['x', 'y'])",
        "treadle.get({'x': (time.sleep, 100)}, 'x', callbacks=[treadle.Callback()])",
        "treadle.wait([client.submit(time.sleep, 100)])",
        "next(treadle.as_completed([client.submit(time.sleep, 100)]))",
        "treadle.progress(client.submit(time.sleep, 100), console=Console(quiet=True))",
    ],
)
def test_ctrl_c_ends_a_call(script: Script, call: str) -> None:
    process = script(
        f"""
        import time, treadle
        from rich.console import Console
        from treadle.testing.tasks import inc

        with treadle.LocalCluster(n_workers=2, threads_per_worker=1) as cluster, treadle.Client(cluster) as client:
            try:
                print("ready", flush=True)
                {call}
            except KeyboardInterrupt:
                print("interrupted")
            print(client.gather(client.map(inc, range(3))))
            print(client.get({{'x': (inc, 1)}}, 'x'))
        """
    )
    assert interrupt(process) == "interrupted\n[1, 2, 3]\n2\n"


def test_ctrl_c_while_tasks_are_submitted(script: Script) -> None:
    """Wherever it comes, what was sent is whole: the connection survives, and everything can be used after."""
    process = script(
        """
        import itertools, signal, threading, time, treadle
        from treadle.testing.tasks import inc

        with treadle.LocalCluster(n_workers=1, threads_per_worker=1) as cluster, treadle.Client(cluster) as client:
            main = threading.main_thread().ident
            interrupted = 0
            for number in itertools.count():
                over = threading.Event()
                def interrupt():
                    over.wait(0.001 * (number % 7))
                    signal.pthread_kill(main, signal.SIGINT)
                thread = threading.Thread(target=interrupt)
                try:
                    thread.start()
                    for start in itertools.count():
                        keys = [f"{number}-{start}-{index}" for index in range(20)]
                        futures = [client.submit(inc, 1, key=key) for key in keys]
                        client.map(inc, range(start, start + 50))
                        client.get({"x": (inc, 1), "y": (inc, "x")}, "y")
                except KeyboardInterrupt:
                    interrupted += 1
                over.set()
                thread.join()
                assert client.submit(inc, number).result() == number + 1
                if interrupted == 30:
                    break
            print(interrupted)
        """
    )
    assert finish(process) == "30\n"


def test_a_forked_child_cannot_use_the_client(script: Script, tmp_path: Path) -> None:
    process = script(
        """
        import os, sys, treadle
        from treadle.testing.tasks import inc

        def read(path):
            with open(path) as file:
                return file.read()

        pipe = sys.argv[1]
        os.mkfifo(pipe)
        with treadle.Client(treadle.LocalCluster(n_workers=2, threads_per_worker=1)) as client:
            future, done = client.submit(read, pipe), client.submit(inc, 2)
            done.result()
            child = os.fork()
            if child == 0:
                for use in (lambda: client.submit(inc, 1), future.result, client.scheduler_info):
                    try:
                        use()
                    except treadle.errors.ClosedError as error:
                        print(error)
                print(done.result(), treadle.get({"x": (inc, 1)}, "x"), flush=True)
                del future, done
                client.close()
                raise SystemExit(0)
            os.waitpid(child, 0)
            with open(pipe, "w") as file:
                file.write("text")
            print(future.result(), client.submit(inc, 5).result())
        """,
        tmp_path / "pipe",
        flags=["-W", "ignore::DeprecationWarning"],
    )
    message = "this client belongs to the parent process; make a new Client in the forked one\n"
    assert finish(process) == 3 * message + "3 2\ntext 6\n"


@pytest.mark.parametrize(
    "source",
    [
        "client = treadle.Client(); print(client.submit(inc, 1).result())",
        "future = treadle.Client().submit(inc, 1); print(future.result())",
        "client = treadle.Client(); futures = client.map(time.sleep, [100] * 9); print(2)",
        "f = treadle.Client().submit(inc, 1); f.add_done_callback(lambda f: print(2, flush=True)); treadle.wait([f])",
    ],
)
def test_a_forgotten_client_ends_with_the_program(script: Script, source: str) -> None:
    process = script("import time, treadle\nfrom treadle.testing.tasks import inc\n" + source, flags=["-W", "error"])
    assert finish(process) == "2\n"


def test_an_asynchronous_program_without_an_address(script: Script) -> None:
    process = script(
        """
        import asyncio, treadle

        async def main():
            async with treadle.Client(asynchronous=True) as client:
                futures = client.map(lambda x: x + 1, range(10))
                async for future in treadle.as_completed(futures):
                    await future
                print(sum(await client.gather(futures)))

        asyncio.run(main())
        """,
        flags=["-W", "error"],
    )
    assert finish(process) == "55\n"


def test_ctrl_c_in_an_asynchronous_program(script: Script) -> None:
    process = script(
        """
        import asyncio, time, treadle

        async def main():
            async with treadle.Client(asynchronous=True) as client:
                print("ready", flush=True)
                await client.submit(time.sleep, 100)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert interrupt(process) == "interrupted\n"
