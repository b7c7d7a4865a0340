"""The token that all parts of a cluster share.

It is given, or stands in the environment as ``TREADLE_TOKEN``. On addresses that only this machine reaches, it is by
default a secret of the user's own: a file that nobody else can read, made on first use.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from treadle.errors import UserError
from treadle.net.addresses import is_loopback, parse_address

__all__ = ["TOKEN_VARIABLE", "local_secret", "new_token", "read_token", "token_for"]

TOKEN_VARIABLE = "TREADLE_TOKEN"


def new_token() -> bytes:
    """A token for a cluster: text, so that it can go through files and the environment."""
    return secrets.token_hex(32).encode()


def token_for(address: str, given: bytes | None = None) -> bytes:
    """The token to use at an address, a host or ``host:port``: to listen there, or to dial it.

    :raises UserError: there is none, and the address can be reached from other machines; or the file of the local
        secret cannot be used.
    """
    token = given or os.environ.get(TOKEN_VARIABLE, "").strip().encode()
    if token:
        return token
    host, _ = parse_address(address)
    if is_loopback(host):
        return local_secret()
    raise UserError(
        f"{address} can be reached from other machines, so a token is needed: a secret that all parts of the cluster "
        f"know. Make one with `openssl rand -hex 32 > token; chmod 600 token` and give it to the scheduler, the "
        f"workers and the clients with --token-file token, or in {TOKEN_VARIABLE}."
    )


def read_token(path: str | os.PathLike[str]) -> bytes:
    """The token in a file.

    :raises UserError: there is no such file, others may read it, or it is empty.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(65536).strip()
    except OSError as error:
        raise UserError(f"the token file {path} cannot be read: {error.strerror}") from None
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
        raise UserError(
            f"the token file {path} (mode {stat.S_IMODE(status.st_mode):o}, user {status.st_uid}) may be read or was "
            f"written by others; make it yours alone: chmod 600 {path}, or delete it if you do not know it"
        )
    if not data:
        raise UserError(f"the token file {path} is empty")
    return data


def local_secret() -> bytes:
    """The secret of this user on this machine. The first process that asks makes it.

    :raises UserError: its file cannot be made, or others may read it.
    """
    path = _folder() / "token"
    if not path.exists():
        try:
            _create(path)
        except OSError as error:
            raise UserError(
                f"the local secret {path} cannot be made: {error.strerror}. Set {TOKEN_VARIABLE} to a token instead."
            ) from None
    return read_token(path)


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "treadle") if runtime else Path.home() / ".cache" / "treadle"


def _create(path: Path) -> None:
    """Write a new token, so that whoever sees the file sees all of it; of several writers, one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"token.{os.getpid()}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(new_token() + b"\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)
