"""A worker process: runs the tasks it is sent, keeps their results, and hands them out on demand.

Two threads. The main one runs tasks, so that libraries which insist on the main thread are content. The other one
reads messages, so that a result can be fetched, or tasks be recalled, while a long task runs.

Messages in: ``hold`` (inputs), ``run`` (ranks, which are wanted, functions, calls), ``give`` (ranks), ``free``
(ranks), ``recall`` (share), ``reset`` (epoch). Messages out, each with its epoch first: ``done`` (entries), ``failed``
(rank, error), ``unread`` (ranks, error), ``unheld`` (rank, reason), ``gave`` (rank, value or None, reason),
``recalled`` (ranks).
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from select import select
from time import perf_counter
from typing import Any, TypeAlias

from treadle.graph.node import STORE, Node
from treadle.local.nesting import become_worker
from treadle.local.processes.blob import Blob, Wire, dumps, loads
from treadle.local.processes.calls import decode, keep
from treadle.local.processes.channel import MAX_FDS, Channel
from treadle.local.processes.failures import pack_error, pack_refusal, unreadable
from treadle.local.trim import trim_error

__all__ = ["main"]

#: Seconds that a finished task's message may wait for more to go with it.
_HOLD = 0.002

#: Rank, start, stop, bytes of the result (estimated), and the result itself if it is wanted or tiny.
Entry: TypeAlias = "tuple[int, float, float, int, Wire | None]"

_TINY = (type(None), bool, int, float, complex)


class BatchError(Exception):
    """The tasks with these ranks could not be read."""

    def __init__(self, ranks: list[int]) -> None:
        super().__init__(ranks)
        self.ranks = ranks


class Inbox:
    """What is to be run: batches as they came, and the tasks of the batch that is being run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell = threading.Semaphore(0)
        self._batches: deque[tuple[list[int], set[int], Blob]] = deque()
        self._tasks: deque[Node] = deque()
        self._wanted: set[int] = set()

    def add(self, ranks: list[int], wanted: set[int], calls: Blob) -> None:
        with self._lock:
            self._batches.append((ranks, wanted, calls))
        self._bell.release()

    def next(self, functions: dict[int, Any]) -> tuple[Node, bool]:
        """The next task, and whether its caller wants the result itself. Waits until there is one."""
        while True:
            with self._lock:
                if self._tasks:
                    node = self._tasks.popleft()
                    return node, node.rank in self._wanted
            self._bell.acquire()
            with self._lock:
                batch = self._batches.popleft() if self._batches else None
            if batch is not None:
                try:
                    nodes = decode(batch[2], functions)  # unlocked, because it may import the user's modules
                except BaseException as error:
                    raise BatchError(batch[0]) from error
                with self._lock:
                    self._wanted = batch[1]
                    self._tasks.extend(nodes)

    def empty(self) -> bool:
        return not self._tasks and not self._batches

    def recall(self, share: float) -> list[int]:
        """Give back a share of what has not been started: whole batches first, then the last tasks."""
        with self._lock:
            ranks: list[int] = []
            count = sum(len(batch[0]) for batch in self._batches) + len(self._tasks)
            goal = count * share
            while self._batches and len(ranks) < goal:
                ranks.extend(self._batches.pop()[0])
            while self._tasks and len(ranks) < goal:
                ranks.append(self._tasks.pop().rank)
            return ranks


class Worker:
    """The state of this process."""

    def __init__(self, channel: Channel, current: mmap.mmap) -> None:
        self._channel = channel
        self._current = current
        self._inbox = Inbox()
        self._functions: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._fds: list[int] = []
        self._blobs: list[Blob] = []
        self._flushed = perf_counter()
        #: The number of the run, so that an answer to an earlier one is recognised.
        self._epoch = 0

    # The thread that runs tasks.

    def run(self) -> None:
        while True:
            try:
                node, wanted = self._inbox.next(self._functions)
            except BatchError as error:
                self._refuse(error.ranks, error.__cause__ or error)
                continue
            rank = node.rank
            struct.pack_into("<qq", self._current, 0, rank, self._epoch)
            started = perf_counter()
            try:
                result = node.call()
            except BaseException as error:
                stopped = perf_counter()
                struct.pack_into("<q", self._current, 0, -1)
                self._fail(rank, error)
            else:
                stopped = perf_counter()
                struct.pack_into("<q", self._current, 0, -1)
                self._finish(rank, result, started, stopped, wanted)
                del result
            del node

    def _finish(self, rank: int, result: Any, started: float, stopped: float, wanted: bool) -> None:
        blob: Blob | None = None
        if wanted or _is_tiny(result):
            try:
                blob = dumps(result)
            except Exception as error:
                self._send("failed", rank, pack_refusal(type(result).__name__, error))
                return
        keep(rank, result)
        if self._inbox.empty():
            _flush_output()
        with self._lock:
            wire = None
            if blob is not None:
                wire = blob.wire(self._fds)
                if blob.fd >= 0:
                    self._blobs.append(blob)  # keeps the descriptor open until it is sent
            self._entries.append((rank, started, stopped, blob.nbytes if blob else _sizeof(result), wire))
            if stopped - self._flushed > _HOLD or self._inbox.empty() or len(self._fds) >= MAX_FDS:
                self._flush(stopped)

    def _flush(self, now: float) -> None:
        entries, fds = self._entries, self._fds
        self._entries, self._fds = [], []
        self._flushed = now
        self._channel.send(("done", self._epoch, entries), fds)
        self._blobs.clear()

    def _fail(self, rank: int, error: BaseException) -> None:
        _flush_output()
        self._send("failed", rank, pack_error(trim_error(error)))

    def _refuse(self, ranks: list[int], error: BaseException) -> None:
        """A batch could not be read: the parent finds out which of its tasks is to blame."""
        self._send("unread", ranks, pack_error(trim_error(error)))

    def _send(self, kind: str, *parts: Any) -> None:
        with self._lock:
            if self._entries:
                self._flush(perf_counter())
            self._channel.send((kind, self._epoch, *parts))

    # The thread that reads messages.

    def serve(self) -> None:
        """Handle messages until the parent is gone; then there is nothing left to do for this process."""
        try:
            while True:
                # With something held back, look after it even if a long task keeps the other thread from doing so.
                readable, _, _ = select([self._channel], [], [], 0.02 if self._entries else 1.0)
                if readable:
                    for message, fds in self._channel.receive():
                        self._handle(message, fds)
                else:
                    with self._lock:
                        if self._entries and perf_counter() - self._flushed > _HOLD:
                            self._flush(perf_counter())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)

    def _handle(self, message: tuple[Any, ...], fds: list[int]) -> None:
        kind = message[0]
        if kind == "run":
            _, ranks, wanted, functions, calls = message
            blob = Blob.unwire(calls, fds)
            try:
                for number, data in functions:
                    self._functions[number] = pickle.loads(data)
            except BaseException as error:
                self._refuse(ranks, error)
                return
            self._inbox.add(ranks, wanted, blob)
        elif kind == "hold":
            for rank, wire in message[1]:
                self._hold(rank, Blob.unwire(wire, fds))
        elif kind == "give":
            self._give(message[1])
        elif kind == "free":
            for rank in message[1]:
                STORE.pop(rank, None)
        elif kind == "recall":
            self._send("recalled", self._inbox.recall(message[1]))
        elif kind == "reset":
            STORE.clear()
            self._functions.clear()
            self._epoch = message[1]

    def _hold(self, rank: int, blob: Blob) -> None:
        try:
            keep(rank, loads(blob))
        except BaseException as error:
            if rank >= 0:
                self._send("unheld", rank, unreadable(error))
            # A literal is missed by the tasks that follow; the parent can tell why.
        finally:
            blob.close()

    def _give(self, ranks: list[int]) -> None:
        """Send results, a few at a time, because one message takes only so many descriptors."""
        for start in range(0, len(ranks), MAX_FDS):
            answers: list[tuple[int, Wire | None, Any]] = []
            blobs: list[Blob] = []
            fds: list[int] = []
            for rank in ranks[start : start + MAX_FDS]:
                value = STORE[rank].result
                try:
                    blob = dumps(value)
                except Exception as error:
                    answers.append((rank, None, pack_refusal(type(value).__name__, error)))
                else:
                    blobs.append(blob)
                    answers.append((rank, blob.wire(fds), None))
            with self._lock:
                self._channel.send(("gave", self._epoch, answers), fds)


def _flush_output() -> None:
    """What tasks have printed must not be lost, nor come long after the caller has their results."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed, or replaced by something else: no reason for a task to fail


def _is_tiny(value: Any) -> bool:
    """True if sending a value along costs less than being asked for it later."""
    kind = type(value)
    if kind in _TINY:
        return True
    if kind is str or kind is bytes:
        return len(value) <= 1024
    if kind is tuple or kind is list:
        return len(value) <= 8 and all(type(item) in _TINY for item in value)
    return False


def _sizeof(value: Any) -> int:
    """About how many bytes a result has: cheap, and good enough to choose between two processes."""
    try:
        nbytes = getattr(value, "nbytes", None)
        return nbytes if type(nbytes) is int else sys.getsizeof(value)
    except Exception:  # a property of somebody else's class
        return 64


def main(fd: int, current_fd: int) -> None:
    """Run as a worker of the process at the other end of the socket ``fd``."""
    become_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    sock = socket.socket(fileno=fd)
    # A child that a task forks must not keep the connection open after this process has died.
    os.register_at_fork(after_in_child=sock.close)
    worker = Worker(Channel(sock), mmap.mmap(current_fd, 16))
    os.close(current_fd)
    reader = threading.Thread(target=worker.serve, name="treadle-messages", daemon=True)
    reader.start()
    try:
        worker.run()
    except ConnectionError:
        os._exit(0)  # the parent is gone
