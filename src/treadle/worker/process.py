"""The process of a worker: its settings, its connections, its signals and its log."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from treadle.errors import PeerError, PreloadError, UserError
from treadle.local.nesting import become_worker
from treadle.net.addresses import format_address, parse_address
from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.net.listener import Listener
from treadle.net.loops import new_event_loop
from treadle.net.secret import token_for
from treadle.preloading import Preloads
from treadle.wire.messages import FROM_PEER, TO_WORKER, CancelAttempts, Shutdown
from treadle.worker import streams
from treadle.worker.actors import ActorHost
from treadle.worker.calling import CallServer
from treadle.worker.context import WorkerInfo
from treadle.worker.data import DataServer
from treadle.worker.events import feed
from treadle.worker.executor import Executor
from treadle.worker.fetching import Fetcher
from treadle.worker.logs import install
from treadle.worker.memory import Meter, Trimmer
from treadle.worker.profiling import Profiler
from treadle.worker.running import Running
from treadle.worker.setups import Setups
from treadle.worker.slots import DISMISSED, JOINED, LEFT, Slots
from treadle.worker.surveys import answer_surveys

__all__ = ["FAILED", "LOST", "Settings", "Worker", "main"]

log = logging.getLogger("treadle.worker")

#: Exit statuses: no cluster was joined; the connection to the scheduler was lost.
FAILED: Final = 1
LOST: Final = 69

#: Seconds that the goodbye may take.
GOODBYE: Final = 0.3
#: Seconds that plugins and preloads may take to end.
TEARDOWN: Final = 2.0
#: Seconds after which a thread that computes lets others run: a message does not wait longer.
SWITCH: Final = 0.001


class Settings(NamedTuple):
    """What a worker is started with."""

    #: ``host:port`` of the scheduler.
    scheduler: str
    #: Unique for ever, and what people call it.
    ident: str
    name: str = ""
    nthreads: int = 1
    #: Bytes; 0 for no limit.
    memory_limit: int = 0
    #: What it has for tasks that ask for it: ``{"GPU": 1}``.
    resources: dict[str, float] = {}  # noqa: RUF012 (never changed)
    #: Where to listen; "" for the address from which the scheduler is reached.
    host: str = ""
    log_level: str = "info"
    #: Modules, or files that end with ``.py``, to be imported before it joins.
    preload: Sequence[str] = ()
    #: Descriptors from the parent: of shared memory for :class:`Slots`, and of a pipe which ends when the parent does.
    slots: int | None = None
    lifeline: int | None = None


def main() -> None:
    """The process that a supervisor starts. Its argument is JSON: the settings that are not the defaults."""
    settings = Settings(**json.loads(sys.argv[1]))
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s worker {settings.name or settings.ident}: %(message)s",
    )
    become_worker()
    sys.setswitchinterval(SWITCH)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what a task prints must not be lost with this process
    worker = Worker(settings)
    worker.keep_logs()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_run(worker))
    except (UserError, PeerError, OSError) as error:
        log.error("%s", error)
        _exit(FAILED)


async def _run(worker: Worker) -> None:
    # The loop must not stop in between: a signal that comes while it is stopped may be lost.
    await worker.join()
    gc.collect()
    gc.freeze()  # what is here by now stays until the end, and need not be looked at again
    await asyncio.get_running_loop().create_future()


class Worker:
    """The parts of a worker, put together."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self._token: Final = token_for(settings.scheduler)
        fd = Slots.create(settings.nthreads) if settings.slots is None else settings.slots
        self._slots: Final = Slots(fd, settings.nthreads)
        os.close(fd)
        self._executor: Final = Executor(settings.nthreads, self._slots, self._send, self._wake)
        self._fetcher: Final = Fetcher(self._executor, settings.ident, self._token, self._turn)
        #: What others may have done here, outside of tasks.
        self.calls: Final = CallServer()
        streams.serve(self.calls)
        self._server: Final = DataServer(self._executor, self._turn, self.calls)
        self._meter: Final = Meter(settings.memory_limit)
        self._trimmer: Final = Trimmer()
        self._preloads: Preloads | None = None
        self._setups: Setups
        self._loop: asyncio.AbstractEventLoop
        self._link: Link
        self._ending = False

    def __repr__(self) -> str:
        return f"<Worker {self.settings.name or self.settings.ident}: {self._executor!r}>"

    async def join(self) -> None:
        """Become a member of the cluster; tasks run from now on.

        :raises PeerError: the scheduler is not there, or does not want this worker.
        :raises UserError: the settings are wrong.
        """
        settings = self.settings
        self._loop = loop = asyncio.get_running_loop()
        if settings.lifeline is not None:
            os.set_blocking(settings.lifeline, False)
            loop.add_reader(settings.lifeline, self._orphaned)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, f"it received {number.name}")
        host = settings.host or _own_host(settings.scheduler)
        listener = await Listener.listen(
            host,
            0,
            token=self._token,
            incarnation=secrets.token_hex(16),
            decoders={"peer": FROM_PEER},
            admit=lambda hello, peer: {"ident": settings.ident},
            connected=self._server.connected,
        )
        info = self._executor.worker = self._info(listener)
        self._setups = Setups(
            info,
            self._executor.transitions,
            self._renew,
            self._send,
            lambda held: self._receive(held, []),
            loop.call_soon_threadsafe,
        )
        self._preloads = Preloads(settings.preload, info)
        self._preloads.setup()
        link = await dial(
            settings.scheduler,
            role="worker",
            ident=settings.ident,
            token=self._token,
            details=self._details(listener),
            decoder=TO_WORKER,
        )
        self._link = link
        ActorHost(info, link.incarnation, loop.call_soon_threadsafe, self._executor.state.store.get).open(self.calls)
        Running(info).open(self.calls)
        profiler = Profiler()
        answer_surveys(self.calls, profiler)
        profiler.start()
        self._executor.logs.begin(self._call_later)
        self._executor.start()
        self._slots.enter(JOINED)
        link.start(self._receive, self._lost)
        log.info("joined %s; serves data at %s, pid %d", link.peer, listener.address, os.getpid())
        self._heartbeat(float(link.details.get("heartbeat", 1.0)))

    def _address(self, listener: Listener) -> str:
        """Where others reach this worker's data."""
        host = listener.host
        if host in ("0.0.0.0", "::"):
            host = _own_host(self.settings.scheduler)
        return format_address(host, listener.port)

    def _info(self, listener: Listener) -> WorkerInfo:
        settings = self.settings
        return WorkerInfo(
            settings.ident,
            settings.name,
            self._address(listener),
            settings.nthreads,
            settings.memory_limit,
            settings.resources,
            settings.scheduler,
            self._token,
        )

    def _details(self, listener: Listener) -> dict[str, Any]:
        settings = self.settings
        return {
            "address": self._address(listener),
            "nthreads": settings.nthreads,
            "memory_limit": settings.memory_limit,
            "resources": settings.resources,
            "name": settings.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "supervised": settings.slots is not None,
        }

    # Messages

    def _receive(self, messages: list[Any], buffers: list[memoryview]) -> None:
        executor = self._executor
        messages = self._setups.sift(messages)
        with executor.lock:
            others = feed(executor.state, messages)
            executor.rouse()
            stirs = executor.state.stirs()
        for message in messages:
            if type(message) is CancelAttempts:
                executor.coroutines.cancel(message.attempts)
        for message in others:
            self._heed(message)
        if stirs:  # else the thread that was roused can do with the time
            self._turn()

    def _heed(self, message: Any) -> None:
        """A message that is not for the state."""
        if isinstance(message, Shutdown):
            self._end(f"the scheduler said: {message.reason}", LEFT if message.again else DISMISSED, 0)

    def _turn(self) -> None:
        """Send what there is to report and to ask for, after something has happened."""
        self._fetcher.start(self._executor.requests())
        self._executor.flush()

    def _send(self, messages: list[Any]) -> None:
        self._link.send(messages)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._turn)

    def keep_logs(self) -> None:
        """Have what this process writes from now on sent to the scheduler, too."""
        install(self._executor.logs)

    def _renew(self) -> None:
        """What is installed here may be something else now. What was written about that comes before the answer."""
        self._executor.forget_functions()
        self._executor.logs.flush()

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, function)

    def _heartbeat(self, seconds: float) -> None:
        fetcher = self._fetcher
        now = time.monotonic()
        rss, cpu = self._meter.read(now)
        if self._trimmer.due(now, self._meter.busy, cpu):
            self._loop.run_in_executor(None, self._trimmer.trim)
        self._link.send([("heartbeat", rss, cpu, fetcher.fetched_bytes, fetcher.fetch_seconds)])
        fetcher.fetched_bytes, fetcher.fetch_seconds = 0, 0.0
        self._loop.call_later(seconds, self._heartbeat, seconds)

    # The end. Threads may be in the middle of tasks, and nothing stops them but the end of the process.

    def _lost(self, reason: str) -> None:
        if not self._ending:
            log.error("lost the scheduler: %s", reason)
            self._quit(LOST)

    def _orphaned(self) -> None:
        log.warning("the process that started this one is gone")
        self._quit(0)

    def _leave(self, reason: str) -> None:
        self._end(reason, LEFT, 0)

    def _end(self, reason: str, stage: int, status: int) -> None:
        if self._ending:
            return
        self._ending = True
        log.info("ends, because %s", reason)
        self._slots.enter(stage)
        self._goodbye = self._loop.create_task(self._say_goodbye(status))

    async def _say_goodbye(self, status: int) -> None:
        link: Link | None = getattr(self, "_link", None)
        if link is not None:
            self._executor.logs.flush()
            link.send([("leaving",)])
            try:
                await asyncio.wait_for(link.drain(), GOODBYE)
            except asyncio.TimeoutError:
                pass  # the scheduler reads nothing; it will notice
        if self._preloads is not None:
            await self._tear_down(self._preloads)
        self._quit(status)

    async def _tear_down(self, preloads: Preloads) -> None:
        """Let plugins and preloads end."""
        undone = self._loop.run_in_executor(None, self._setups.close, TEARDOWN)
        try:
            await asyncio.wait_for(undone, TEARDOWN)
            await asyncio.wait_for(self._loop.run_in_executor(None, preloads.teardown), TEARDOWN)
        except asyncio.TimeoutError:
            log.warning("plugins and preloads took longer than %g s to end", TEARDOWN)
        except PreloadError as error:
            log.error("%s", error)

    def _quit(self, status: int) -> None:
        if self._executor.worker is not None:
            self._executor.worker.clear()
        _exit(status)


def _own_host(address: str) -> str:
    """The address of this machine from which another one is reached.

    :raises UserError: there is none, or this is no address.
    """
    host, port = parse_address(address)
    try:
        family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(name)  # sends nothing
            return str(sock.getsockname()[0])
    except OSError as error:
        raise UserError(f"{address} cannot be reached from this machine: {error.strerror}") from None


def _exit(status: int) -> None:
    """End the process whatever its other threads are doing."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed, or nobody reads it any more
    os._exit(status)
