"""Who is connected to the scheduler, and who may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from treadle._version import __version__
from treadle.errors import RefusedError
from treadle.wire.messages import Count, Measure

if TYPE_CHECKING:
    from treadle.core.records import Client, Worker
    from treadle.net.link import Link

__all__ = ["Member", "Roster", "Versions", "WorkerDetails", "own_versions", "plural", "read_details", "read_versions"]


class WorkerDetails(msgspec.Struct, frozen=True):
    """What a worker says of itself in its handshake."""

    #: ``host:port`` of its data listener.
    address: str
    nthreads: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    #: Bytes; 0 for no limit.
    memory_limit: Count = 0
    resources: dict[str, Measure] = {}
    name: str = ""
    pid: int = 0
    host: str = ""
    #: True if a parent process will tell how it died.
    supervised: bool = False


class Versions(msgspec.Struct, frozen=True):
    """What a member runs on."""

    #: ``"3.11"``; empty for a peer to which it does not matter.
    python: str
    treadle: str


class Member:
    """A worker or a client: its connection, and what the core knows of it."""

    __slots__ = ("details", "heard", "link", "name", "peer", "role", "versions")

    def __init__(
        self, role: str, link: Link, peer: Worker | Client, name: str, versions: Versions, details: WorkerDetails | None
    ) -> None:
        self.role = role
        self.link = link
        self.peer = peer
        #: What logs call it.
        self.name = name
        self.versions = versions
        #: None for a client.
        self.details = details
        #: When its last message came.
        self.heard = 0.0

    def __repr__(self) -> str:
        return f"<Member {self}>"

    def __str__(self) -> str:
        name = self.name if self.name.startswith(self.role) else f"{self.role} {self.name}"
        return f"{name} ({self.link.peer})"


class Roster:
    """All workers and clients that are connected."""

    def __init__(self) -> None:
        self.workers: dict[str, Member] = {}
        self.clients: dict[str, Member] = {}

    def __repr__(self) -> str:
        return f"<Roster: {len(self.workers)} workers, {len(self.clients)} clients>"

    def of(self, role: str) -> dict[str, Member]:
        return self.workers if role == "worker" else self.clients

    def all(self) -> list[Member]:
        return [*self.workers.values(), *self.clients.values()]

    def counts(self) -> str:
        """``"2 workers with 8 threads"``: all that there are."""
        threads = sum(member.details.nthreads for member in self.workers.values() if member.details is not None)
        return f"{plural(len(self.workers), 'worker')} with {plural(threads, 'thread')}"

    def check_versions(self, who: str, python: str) -> None:
        """Refuse a Python that cannot read what those who are connected pickle.

        :raises RefusedError: naming both sides.
        """
        if not python:
            return
        for member in self.all():
            theirs = member.versions.python
            if theirs and theirs != python:
                raise RefusedError(
                    f"{who} runs Python {python}, but {member} of this cluster runs Python {theirs}; functions and "
                    "data that one of them pickles may not be readable by the other. Use the same minor version of "
                    "Python for all clients and workers."
                )

    def check_unique(self, role: str, ident: str, details: WorkerDetails | None) -> None:
        """Refuse somebody who could be mistaken for another member.

        :param details: of a worker.
        :raises RefusedError: naming the other one.
        """
        if role in ("client", "worker") and ident in self.of(role):
            raise RefusedError(f"a {role} with the ident {ident!r} is connected already: {self.of(role)[ident]}")
        if details is not None and details.name:
            for member in self.workers.values():
                if member.name == details.name:
                    raise RefusedError(f"the name is taken: {member} is connected; choose another --name")


def read_details(given: dict[str, Any]) -> WorkerDetails:
    """What a worker says of itself, checked.

    :raises RefusedError: something is missing, or is of another type.
    """
    try:
        return msgspec.convert(given, WorkerDetails)
    except msgspec.ValidationError as error:
        raise RefusedError(f"the details of the worker are not as they must be: {error}") from None


def read_versions(given: dict[str, Any]) -> Versions:
    return Versions(str(given.get("python", "")), str(given.get("treadle", "")))


def own_versions() -> dict[str, str]:
    import platform

    return {"python": platform.python_version(), "treadle": __version__}


def plural(count: int, noun: str) -> str:
    """``"1 worker"``, ``"2 workers"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
