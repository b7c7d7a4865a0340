"""The process of a scheduler: its settings, its event loop, its signals and its log.

``treadle scheduler`` calls :func:`serve`. A local cluster starts :func:`main` in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from treadle.errors import PreloadError, UserError
from treadle.net.loops import new_event_loop
from treadle.net.secret import token_for
from treadle.preloading import Preloads
from treadle.scheduler.garbage import calm
from treadle.scheduler.plugins import SchedulerInfo
from treadle.scheduler.server import Server
from treadle.scheduler.settings import Settings

if TYPE_CHECKING:
    from treadle.scheduler.members import Member

__all__ = ["main", "serve"]

log = logging.getLogger("treadle.scheduler")


def main() -> None:
    """The process that a local cluster starts. Its argument is JSON: the settings that are not the defaults."""
    settings = Settings(**json.loads(sys.argv[1]))
    try:
        serve(settings)
    except (UserError, OSError) as error:
        raise SystemExit(f"treadle scheduler: {error}") from None


def serve(settings: Settings) -> None:
    """Run a scheduler until a signal, or the end of its parent, ends it.

    :raises AddressInUseError: somebody else listens there.
    :raises UserError: the host can be reached from other machines, and there is no token.
    :raises PreloadError: what is to be imported first does not work.
    """
    token = token_for(settings.host, settings.token)
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
    )
    loop = new_event_loop()
    try:
        loop.run_until_complete(_serve(settings, token))
    finally:
        loop.close()


async def _serve(settings: Settings, token: bytes) -> None:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()

    def stop(reason: str) -> None:
        if not stopped.done():
            stopped.set_result(reason)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, f"the scheduler was ended by {number.name}")
    lifeline = None if settings.lifeline is None else await Lifeline.open(settings.lifeline)
    server = Server(
        token=token,
        incarnation=secrets.token_hex(16),
        settings=settings,
        observer=lifeline,
        stop=stop,
    )
    preloads = Preloads(settings.preload, SchedulerInfo(server))
    if settings.listener is None:
        await server.listen(settings.host, settings.port)
    else:
        await server.take_over(socket.socket(fileno=settings.listener))
    log.info("scheduler listens on tcp %s, pid %d, %s", server.address, os.getpid(), type(loop).__module__)
    preloads.setup()
    if lifeline is not None:
        watch = loop.create_task(lifeline.watch(stop))
    calm()
    reason = await stopped
    log.info("scheduler ends: %s", reason)
    await server.close(reason)
    try:
        preloads.teardown()
    except PreloadError as error:
        log.error("%s", error)
    if lifeline is not None:
        watch.cancel()
        lifeline.close()


class Lifeline:
    """The connection to the process that started this one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader: Final = reader
        self._writer: Final = writer

    @classmethod
    async def open(cls, descriptor: int) -> Lifeline:
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
        return cls(reader, writer)

    def tell(self, event: str, **facts: Any) -> None:
        """What happened, as a line of JSON."""
        self._writer.write(json.dumps({"event": event, **facts}).encode() + b"\n")

    def joined(self, member: Member) -> None:
        details = member.details
        if details is not None:
            self.tell(
                "joined",
                ident=member.peer.ident,
                name=member.name,
                address=details.address,
                pid=details.pid,
                nthreads=details.nthreads,
            )

    def gone(self, member: Member) -> None:
        self.tell("gone", ident=member.peer.ident)

    async def watch(self, stop: Any) -> None:
        """Return when the other end is closed. What it says before that is the reason."""
        try:
            reason = await self._reader.read()
        except OSError:
            reason = b""
        stop(reason.decode() or "the process that started it is gone")

    def close(self) -> None:
        self._writer.close()
