"""A cluster whose workers coordinate and are killed, and books outside of it that say whether that went well.

All books are files: what is appended in one call is there, in one order for all processes, even if the next
instruction of the writer is its last.
"""

from __future__ import annotations

import fcntl
import os
import queue
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from treadle import Client, Future, LocalCluster, Lock, Queue, Semaphore
from treadle.deploy.members import LocalWorker

__all__ = ["Counts", "storm"]

PERMITS = 3
#: Seconds after which a process that was killed is surely gone.
PATIENCE = 10.0
#: How many tasks are there at the same time.
TASKS = 24


class Counts(NamedTuple):
    """What has happened in a storm."""

    kills: int
    kills_of_holders: int
    tasks: int
    locked: int
    permits: int
    put: int
    leased: int
    #: Items that came back because their holder was killed.
    again: int
    got: int


class Books:
    """The files of one storm, as tasks and the judge see them."""

    def __init__(self, root: str) -> None:
        self.root = root

    def write(self, book: str, *words: object) -> None:
        line = " ".join(map(str, words)) + "\n"
        fd = os.open(f"{self.root}/{book}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def read(self, book: str) -> list[list[str]]:
        path = Path(self.root, book)
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    @contextmanager
    def inside(self, name: str, places: int) -> Iterator[None]:
        """In a room with so many places, of which one has to be free: those of processes that live are taken."""
        mine = f"{os.getpid()}-{os.urandom(4).hex()}"
        with self._alone(name) as room:
            end = time.monotonic() + PATIENCE
            while len(taken := living(room)) >= places:  # one of them may be dying: nobody can leave meanwhile
                if time.monotonic() > end:
                    self.write("violations", name, "is held by", *taken, "and by", mine)
                    break
                time.sleep(0.001)
            (room / mine).touch()
        try:
            yield
        finally:
            with self._alone(name) as room:
                (room / mine).unlink()

    @contextmanager
    def _alone(self, name: str) -> Iterator[Path]:
        """The directory of a room, while nobody else looks at it."""
        room = Path(self.root, name)
        room.mkdir(exist_ok=True)
        fd = os.open(f"{self.root}/{name}.guard", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield room
        finally:
            os.close(fd)


def living(room: Path) -> list[str]:
    """Who is in a room. The dead are carried out."""
    found = []
    for path in room.iterdir():
        if is_dead(int(path.name.partition("-")[0])):
            path.unlink()
        else:
            found.append(path.name)
    return found


def is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def chore(root: str, seed: int) -> None:
    """The task: one thing of all that can be done, at random."""
    books = Books(root)
    rng = random.Random(seed)
    pause = rng.random() * 0.03
    deed = rng.randrange(6)
    if deed == 0:
        with Lock("door"), books.inside("door", 1):
            time.sleep(pause)
            books.write("locked", seed)
    elif deed == 1:
        with Semaphore(PERMITS, "seats"), books.inside("seats", PERMITS):
            time.sleep(pause)
            books.write("permits", seed)
    elif deed in (2, 3):
        deliver(books, "leased" if deed == 2 else "got", f"{seed}-{os.getpid()}-{os.urandom(4).hex()}")
    elif deed == 4:
        work(books, pause)
    else:
        try:
            item = Queue("got").get(timeout=0.05)
        except queue.Empty:
            return
        books.write("taken-got", item)


def deliver(books: Books, name: str, item: str) -> None:
    books.write(f"meant-{name}", item)
    try:
        Queue(name, maxsize=20).put(item, timeout=0.2)
    except queue.Full:
        books.write(f"refused-{name}", item)
    else:
        books.write(f"put-{name}", item)


def work(books: Books, pause: float) -> None:
    try:
        with Queue("leased").lease(timeout=0.05) as item:
            books.write("leased", "begin", item, os.getpid())
            time.sleep(pause)
            books.write("leased", "end", item, os.getpid())
    except queue.Empty:
        return
    books.write("leased", "done", item, os.getpid())


def storm(root: Path, seconds: float, seed: int, workers: int = 3, threads: int = 2) -> Counts:
    """Kill workers that hold things, for so many seconds, and check that nothing goes wrong.

    :raises AssertionError: something was held twice, or was lost, or came twice.
    """
    books = Books(str(root))
    rng = random.Random(seed)
    killed: list[int] = []
    aimed = tasks = 0
    with LocalCluster(workers, threads) as cluster, Client(cluster, set_as_default=False) as client:
        end = time.monotonic() + seconds
        due = time.monotonic()
        running: list[Future[None]] = []
        while time.monotonic() < end:
            running = [future for future in running if not future.done()]
            for _ in range(TASKS - len(running)):
                tasks += 1
                running.append(client.submit(chore, str(root), rng.randrange(2**60), pure=False))
            victim, aim = choose(books, cluster, rng, time.monotonic() - due)
            if victim is not None:
                due = time.monotonic() + rng.random() * 0.6
                killed.append(victim.pid)
                aimed += aim
                cluster.kill_worker(victim.name)
            time.sleep(0.005)
        for future in running:
            future.exception(timeout=60)
        left = remains(client)
    judge(books, left, set(killed), threads)
    begun = Counter(item for word, item, _ in books.read("leased") if word == "begin")
    return Counts(
        len(killed),
        aimed,
        tasks,
        len(books.read("locked")),
        len(books.read("permits")),
        len(books.read("put-leased")) + len(books.read("put-got")),
        len(begun),
        sum(begun.values()) - len(begun),
        len(books.read("taken-got")),
    )


def choose(books: Books, cluster: LocalCluster, rng: random.Random, overdue: float) -> tuple[LocalWorker | None, bool]:
    """Whom to kill, if anybody: somebody who holds something at this moment, or anybody if that does not come soon."""
    workers = {worker.pid: worker for worker in cluster.workers}
    if overdue < 0 or len(workers) < 2:
        return None, False
    rooms = [Path(books.root, name) for name in ("door", "seats")]
    holders = [int(path.name.partition("-")[0]) for room in rooms if room.exists() for path in room.iterdir()]
    holders += [int(pid) for word, _, pid in books.read("leased")[-1:] if word == "begin"]
    holders = [pid for pid in holders if pid in workers]
    if holders:
        return workers[rng.choice(holders)], True
    return (rng.choice(list(workers.values())) if overdue > 0.5 else None), False


def remains(client: Client) -> dict[str, list[str]]:
    """What is left in the queues, after a look at whether everything can be had again."""
    lock = Lock("door", client=client)
    assert lock.acquire(timeout=PATIENCE), "the lock is lost"
    lock.release()
    seats = [Semaphore(PERMITS, "seats", client=client) for _ in range(PERMITS + 1)]
    assert [seat.acquire(timeout=PATIENCE) for seat in seats[:-1]] == [True] * PERMITS, "a permit is lost"
    assert not seats[-1].acquire(blocking=False), "there is a permit too many"
    for seat in seats[:-1]:
        seat.release()
    assert seats[0].get_value() == 0
    return {name: Queue(name, client=client).get(batch=True) for name in ("leased", "got")}


def judge(books: Books, left: dict[str, list[str]], killed: set[int], threads: int) -> None:
    """Compare the books with one another."""
    assert books.read("violations") == []
    done: set[str] = set()
    last: dict[str, tuple[str, int]] = {}
    for word, item, number in books.read("leased"):
        assert item not in done, f"{item} came again after it was acknowledged"
        if word == "done":
            done.add(item)
        last[item] = (word, int(number))
    for name, seen in (("leased", list(last)), ("got", [item for (item,) in books.read("taken-got")])):
        meant = {item for (item,) in books.read(f"meant-{name}")}
        refused = {item for (item,) in books.read(f"refused-{name}")}
        there = Counter(left[name])
        assert max(there.values(), default=0) <= 1, f"an item of {name} is in the queue twice"
        assert set(seen) | set(there) <= meant - refused, f"there are items in {name} that nobody has put"
        assert len(seen) == len(set(seen)), f"an item of {name} was taken twice"
        if name == "got":
            assert not there.keys() & set(seen), "an item is there that was taken"
            lost = {item for (item,) in books.read("put-got")} - set(seen) - set(there)
            # Whoever was killed between get() and the note of it has lost one, and no more.
            assert len(lost) <= len(killed) * threads, f"items of {name} are lost: {lost}"
        else:
            assert not there.keys() & done, "an item is there that was acknowledged"
            for (item,) in books.read("put-leased"):
                word, pid = last.get(item, ("", 0))
                unnoted = word == "end" and pid in killed  # perhaps after it was acknowledged
                assert word == "done" or item in there or unnoted, f"{item} is lost"
