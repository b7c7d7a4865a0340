"""Cells of a notebook and of IPython's shell: what values look like there, and that programs run there as anywhere."""

from __future__ import annotations

import asyncio
import itertools
import operator
import re
import subprocess
from pathlib import Path
from typing import Any

import dask.bag
import pytest
from client_parts import FakeCluster
from conftest import Script, finish
from test_client_reprs import text_of

from treadle import Client, LocalCluster, delayed
from treadle.client.html import future_card
from treadle.html import amount, delayed_card, notes, shown
from treadle.testing.tasks import Boom, add, eventually, inc
from treadle.wire.failures import pack_error, pack_refusal

# Delayed values


def boxes(value: Any) -> list[str]:
    """The labels of the boxes in the picture of a graph, from the top down."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", value._repr_html_())


def test_a_delayed_value_and_its_graph() -> None:
    load, total = delayed(inc), delayed(add)
    value = total(load(1), load(2), treadle_key="<sum&>")
    assert text_of(value).startswith("Delayed not computed Key <sum&> Function add Tasks 3")
    assert boxes(value) == ["inc", "inc", "add"]
    shown = value._repr_html_()
    assert "<title>&lt;sum&amp;&gt;</title>" in shown
    assert "script" not in shown


def test_a_picture_has_each_task_once_and_below_what_it_needs() -> None:
    first = delayed(inc)(1)
    second = delayed(inc)(first)
    value = (first + second).real * delayed(10)
    assert boxes(value) == ["inc", "inc", "add", ".real", "10", "mul"]
    places = re.findall(r'<rect x="([-\d.]+)" y="(\d+)"', value._repr_html_())
    assert len(set(places)) == 6
    heights = [int(y) for _, y in places]
    assert heights == sorted(heights)
    # The arrow from the first task to the sum passes the second one: beside it, not through it.
    assert value._repr_html_().count('fill="none"') == 4
    assert "L" in "".join(re.findall(r'<path d="([^"]*)" fill="none"', value._repr_html_()))


def test_boxes_of_a_layer_do_not_overlap() -> None:
    values = [delayed(inc)(number) for number in range(4)]
    value = delayed(sum)([*values, *[delayed(operator.neg)(each) for each in values]])
    rows: dict[str, list[float]] = {}
    for x, y in re.findall(r'<rect x="([-\d.]+)" y="(\d+)"', value._repr_html_()):
        rows.setdefault(y, []).append(float(x))
    assert sorted(map(len, rows.values())) == [1, 4, 4]
    for row in rows.values():
        assert all(right - left >= 96 for left, right in itertools.pairwise(row))


def test_big_graphs_are_counted_and_not_drawn() -> None:
    deep = delayed(inc)(1)
    for _ in range(12):
        deep = delayed(inc)(deep)
    wide = delayed(sum)([delayed(inc)(number) for number in range(9)])
    many = delayed(sum)([delayed(sum)([delayed(inc)(number) for number in range(5)]) for _ in range(5)])
    for value, count in ((deep, "13"), (wide, "10"), (many, "31")):
        assert text_of(value).endswith(f"Tasks {count}")
        assert "svg" not in value._repr_html_()
    for _ in range(10_000):
        deep = delayed(inc)(deep)
    assert text_of(deep).endswith("Tasks 10,000 or more")


def test_values_and_functions_that_are_delayed() -> None:
    assert re.fullmatch(r"Delayed not computed Key int-\w+ Value 5", text_of(delayed(5)))
    assert text_of(delayed({"a": 1}, name="k")) == "Delayed not computed Key k Value dict"
    assert text_of(delayed(inc, name="k")) == "Delayed not computed Key k Function inc"
    pure = delayed(inc, pure=True)
    # The key of a pure function is made when it is needed; a look is no need.
    assert text_of(pure) == "Delayed not computed Function inc"
    assert pure._key is None


def test_names_that_contradict_each_other_are_shown_all_the_same() -> None:
    inner = delayed(inc)(1, treadle_key="x")
    assert text_of(delayed(inc)(inner, treadle_key="x")) == "Delayed not computed Key x Function inc Tasks 1"
    circle = delayed(inc)(delayed(operator.neg)(inner, treadle_key="y"), treadle_key="x")
    assert text_of(circle) == "Delayed not computed Key x Function inc Tasks 2"


def test_a_collection_of_dask_is_not_asked_for_its_tasks() -> None:
    make: Any = dask.bag.from_sequence
    bag = make(range(10), npartitions=5)
    value = delayed(inc)(delayed(sum)(bag))
    assert "Tasks 2, and those of 1 collection of Dask" in text_of(value)
    assert boxes(value) == ["collection", "sum", "inc"]
    assert "of 2 collections of Dask" in text_of(delayed(add)(bag, bag.map(inc)))


def test_what_cannot_be_shown_says_so() -> None:
    class Called:
        calm = True

        @property
        def __name__(self) -> str:
            if self.calm:
                return "called"
            raise Boom("not now")

        def __call__(self) -> None: ...

    value = delayed(Called())()
    Called.calm = False
    with pytest.raises(Boom):
        delayed_card(value)
    assert text_of(value) == "Delayed cannot be shown: Boom"


def test_amounts_and_notes() -> None:
    assert [amount(n) for n in (0, 999, 1000, 1e6, 12.34e9, 5e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.0 MB", "12.3 GB", "5000.0 GB",
    ]  # fmt: skip
    assert text_of(notes("<a>", {"<b>": "<c>"})) == "<a> <b> <c>"


# Futures, clients and clusters


def test_a_result_that_is_elsewhere_is_not_fetched(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="big")
    fake.store["big"] = 2
    fake.send(("done", [("big", 2_500_000, None, "w-1", fake.worker)]))
    eventually(future.done)
    assert text_of(future) == f"Future finished Key big Size 2.5 MB Held by w-1 at {fake.worker}"
    assert fake.asked == []


def test_results_that_have_come(fake: FakeCluster, client: Client) -> None:
    import numpy as np

    text, array, thing = (client.submit(inc, 1, key=key) for key in ("text", "array", "thing"))
    fake.done("text", value="x" * 2000)
    fake.done("array", value=np.zeros((50, 100)))
    fake.done("thing", value=Unreadable())
    eventually(lambda: text.done() and array.done() and thing.done())
    assert text_of(text) == "Future finished Key text Type str Size 2.0 kB"
    # Pickles are not read for the sake of a look.
    assert re.fullmatch(r"Future finished Key array Size 40\.\d kB", text_of(array))
    assert text_of(thing) == "Future finished Key thing"
    assert array.result().size == 5000
    assert text_of(array) == "Future finished Key array Type ndarray, shape (50, 100), dtype float64 Size 40.0 kB"


class Unreadable:
    def __reduce__(self) -> Any:
        return exit_now, ()


def exit_now() -> None:
    raise AssertionError("this was unpickled")


def test_errors_are_told_without_being_unpickled(fake: FakeCluster, client: Client) -> None:
    lines, other, refused = (client.submit(inc, 1, key=key) for key in ("lines", "other", "refused"))
    try:
        raise Boom("<first>\nsecond")
    except Boom as error:
        packed = pack_error(error)
    fake.send(("failed", [("lines", "lines", (*packed[:1], b"no pickle", *packed[2:])), ("other", "culprit", packed)]))
    fake.send(("failed", [("refused", "refused", pack_refusal("result of type lock", TypeError("no")))]))
    eventually(refused.done)
    assert text_of(lines).startswith("Future error Key lines Error treadle.testing.tasks.Boom: <first> second How to")
    assert "Of the task culprit" in text_of(other)
    assert "result of type lock" in text_of(refused)
    assert lines._exception is None
    assert isinstance(other.exception(), Boom)
    assert text_of(other).startswith("Future error Key other Error Boom: <first> second How to")


def test_a_cancelled_future_says_why(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1, key="k")
    client.cancel(future, reason="changed <my> mind")
    assert text_of(future) in [
        f"Future {state} Key k Reason changed <my> mind" for state in ("cancelled", "cancelling")
    ]


def test_a_future_that_is_broken_is_still_shown(client: Client) -> None:
    future = client.submit(inc, 1)
    future._state, future._held = "FINISHED", object()
    assert text_of(shown(future_card, future)) == "Future cannot be shown: TypeError"
    future._held = None


def test_a_client_in_its_own_loop_asks_nobody(fake: FakeCluster, client: Client) -> None:
    async def look() -> str:
        return client._repr_html_()

    assert client._background is not None
    assert text_of(client._background.run(look())).startswith(f"Client {client._name} open Scheduler")


def test_a_client_whose_scheduler_has_gone(fake: FakeCluster, client: Client) -> None:
    future = client.submit(inc, 1)
    fake.lose()
    eventually(future.done)
    assert re.match(
        f"Client {client._name} lost Scheduler {fake.address} .* the connection .* was lost", text_of(client)
    )
    assert text_of(future).startswith(f"Future lost Key {future.key} Error ConnectError")


def test_an_asynchronous_client_shows_what_its_cluster_knows() -> None:
    async def main(cluster: LocalCluster) -> Client:
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:
            text = text_of(client)
            assert "Workers 2 Threads 2 Memory 2.0 GB All workers" in text
            assert "await client.explain(future)" in text
        async with Client(cluster.address, asynchronous=True, set_as_default=False, token=cluster.token) as distant:
            assert re.match(r"Client \S+ open Scheduler \S+ Keys in use 0 How to see more", text_of(distant))
        return client

    with LocalCluster(2, 1, memory_limit="1GB", resources={"<GPU>": 1}) as cluster:
        client = asyncio.run(main(cluster))
        # Its loop has ended, and nobody can be waited for.
        assert text_of(client).startswith(f"Client {client._name} closed")
        assert "Resources of each <GPU>: 1" in text_of(cluster)
        assert cluster._processes.scheduler is not None
        cluster._processes.scheduler.close(5.0)
        eventually(lambda: "its scheduler is gone" in text_of(cluster))
    assert text_of(cluster).startswith("LocalCluster local closed")


# Cells

#: A shell as IPython makes it. ``run`` runs a cell as the shell's prompt does: if something is awaited in it, in a loop
#: that rests afterwards.
SHELL = """
    import os
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class ZMQInteractiveShell(InteractiveShell):
        "It is by this name that packages know that they are in a notebook."

    config = Config({"HistoryManager": {"enabled": False}})
    shell = ZMQInteractiveShell.instance(config=config, display_pub_class=CapturingDisplayPublisher)

    def outcome(done):
        return done.result if done.success else done.error_before_exec or done.error_in_exec

    def run(cell):
        return outcome(shell.run_cell(cell))

    run("import asyncio, os, signal, time")
    run("from treadle import Client, LocalCluster, ProgressBar, as_completed, delayed, progress")
    run("cluster = LocalCluster(1, 8)")
"""

#: ``await run(cell)`` runs a cell as a notebook's kernel does: everything happens in one loop that runs all the time.
KERNEL = f"""{SHELL}
    import asyncio

    async def run(cell):
        return outcome(await shell.run_cell_async(cell, transformed_cell=shell.transform_cell(cell)))

    def start(main):
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.close()
        print("all is well")
"""


def check(process: subprocess.Popen[str]) -> None:
    """The script has ended well, with no word on standard error."""
    assert finish(process).endswith("all is well\n")


def test_cells_of_the_shell(script: Script) -> None:
    program = f"""{SHELL}
    run("client = await Client(cluster, asynchronous=True)")
    run("def f(x): return x + 1")
    assert run("await client.submit(f, 1)") == 2
    run("def f(x): return x * 100")
    assert run("await client.submit(f, 1)") == 100
    assert run("await client.gather(client.map(f, [1, 2]))") == [100, 200]
    assert run("await client.compute(delayed(f)(3))") == 300
    assert run("[await future async for future in as_completed([client.submit(f, 4)])]") == [400]
    # A cell without `await` leaves the loop at rest: there is nothing to wait for, and it says so.
    assert "Write `await`" in str(run("future = client.submit(f, 5); future.result()"))
    assert run("client") is shell.user_ns["client"]
    assert run("await future") == 500
    run("await client.close()")

    run("client = Client(cluster)")
    assert run("client.submit(f, 6).result()") == 600
    assert run("await client.submit(f, 7)") == 700
    assert run("await asyncio.sleep(0); client.gather(client.map(f, [8, 9]))") == [800, 900]
    assert run("await asyncio.sleep(0); delayed(f)(10).compute()") == 1000
    run("%autoawait off")
    assert isinstance(run("await client.submit(f, 11)"), SyntaxError)
    assert run("client.submit(f, 12).result()") == 1200
    run("client.close(); cluster.close()")
    print("all is well")
    """
    check(script(program, flags=["-W", "error"]))


def test_cells_of_a_notebook(script: Script) -> None:
    program = f"""{KERNEL}
    async def main():
        await run("client = Client(cluster)")
        await run("def f(x): return x + 1")
        assert await run("client.submit(f, 1).result(), client.gather(client.map(f, [1, 2]))") == (2, [2, 3])
        await run("def f(x): return x * 100")
        assert await run("client.submit(f, 1).result(), await client.submit(f, 2)") == (100, 200)
        assert await run("await asyncio.sleep(0); client.gather(client.map(f, [3, 4]))") == [300, 400]
        assert await run("delayed(f)(5).compute(), client.compute(delayed(f)(6)).result()") == (500, 600)
        assert await run("sorted(each.result() for each in as_completed(client.map(f, [7, 8])))") == [700, 800]
        assert await run("delayed(f)(9).compute(scheduler='processes')") == 900
        assert "Keys&nbsp;in&nbsp;use" in await run("client._repr_html_()")

        await run("other = await Client(cluster, asynchronous=True, set_as_default=False)")
        assert await run("await other.submit(f, 10), await other.gather(other.map(f, [11]))") == (1000, [1100])
        assert await run("await other.get({{'x': (f, 12)}}, 'x')") == 1200
        # The loop runs on between cells, and so does what they have begun.
        future = await run("other.submit(f, 13)")
        while not future.done():
            await asyncio.sleep(0.001)
        assert await run("_.result()") == 1300
        assert await run("await asyncio.gather(other.submit(f, 14), client.submit(f, 15))") == [1400, 1500]
        assert "await other" not in await run("other._repr_html_()")
        await run("await other.close()")
        await run("async with Client(cluster, asynchronous=True) as other: total = await other.submit(sum, [16, 17])")
        assert await run("total") == 33
        await run("client.close(); cluster.close()")

    start(main)
    """
    check(script(program, flags=["-W", "error"]))


def test_an_interrupt_ends_the_waiting_of_a_cell(script: Script, tmp_path: Path) -> None:
    program = f"""{KERNEL}
    import signal, sys, threading, time
    from IPython.core.async_helpers import get_asyncio_loop

    loop = get_asyncio_loop()

    def beat():  # a loop does not notice a signal that comes just before it sleeps, until something else wakes it
        loop.call_later(0.05, beat)

    NAP = "def nap(started): open(started, 'w').close(); time.sleep(100)"
    WAITING = {{"select", "_sleep"}}  # of a selector, of a latch

    def interrupt(started):
        main = threading.main_thread().ident
        while not (os.path.exists(started) and sys._current_frames()[main].f_code.co_name in WAITING):
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    def napping(number):
        started = os.path.join({str(tmp_path)!r}, f"started-{{number}}")
        threading.Thread(target=interrupt, args=[started]).start()
        return f"client.submit(nap, {{started!r}})"

    def prompt(cell):
        return outcome(shell.run_cell(cell))

    beat()
    prompt(NAP)
    prompt("client = Client(cluster)")
    for number, cell in enumerate(["FUTURE.result()", "client.gather([FUTURE])", "await FUTURE", "progress(FUTURE)"]):
        done = prompt(cell.replace("FUTURE", napping(number)))
        assert isinstance(done, KeyboardInterrupt), (cell, done)
        for task in asyncio.all_tasks(loop):  # the shell leaves what awaited where it was
            task.cancel()
        assert prompt("client.submit(abs, -1).result()") == 1
        assert prompt("await client.submit(abs, -3)") == 3

    async def main():
        assert isinstance(await run(f"{{napping('kernel')}}.result()"), KeyboardInterrupt)
        assert await run("client.submit(abs, -2).result()") == 2
        await run("client.close(); cluster.close()")

    start(main)
    """
    check(script(program, flags=["-W", "error"]))


def test_bars_of_a_notebook_leave_one_line(script: Script) -> None:
    program = f"""{KERNEL}
    import re

    async def main():
        await run("client = Client(cluster)")
        await run("progress(client.map(abs, range(12)), client.map(time.sleep, [0.05] * 4, pure=False))")
        await run("with ProgressBar(): delayed(sum)([delayed(abs)(1)]).compute(scheduler='threads')")
        await run("other = await Client(cluster, asynchronous=True)")
        await run("await progress(other.map(time.sleep, [0.05] * 4, pure=False))")
        await run("await other.close(); client.close(); cluster.close()")
        shown = "".join(each["data"]["text/plain"] for each in shell.display_pub.outputs)
        for count, name in ((2, "sleep: 4 of 4"), (1, "computing: 2 of 2")):
            assert len(re.findall(f"^{{name}} tasks in [^\\\\n]*$", shown, re.MULTILINE)) == count, shown
        assert "\\x1b" not in shown
        assert "\\r" not in shown

    start(main)
    """
    check(script(program, flags=["-W", "error"]))
