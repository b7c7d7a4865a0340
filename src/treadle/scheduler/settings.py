"""What a scheduler is started with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["LOG_LEVELS", "Settings"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class Settings(NamedTuple):
    """The settings of a scheduler process, and their defaults."""

    host: str = "127.0.0.1"
    #: 0 for any that is free.
    port: int = 8786
    #: The shared secret of the cluster. None: that of the environment or, on loopback, of this user.
    token: bytes | None = None
    log_level: str = "info"
    #: Seconds of silence after which a worker counts as lost.
    worker_timeout: float = 60.0
    #: Seconds of silence after which a client loses the locks, permits and items that it holds.
    lease: float = 30.0
    #: Bytes that may wait for a client which does not read.
    unsent_limit: int = 2**30
    #: The descriptor of a socket that listens already, to be used instead of ``host`` and ``port``.
    listener: int | None = None
    #: The descriptor of a connected socket, whose other end the parent process holds. It reads what happens, as lines
    #: of JSON. When it closes its end, or is gone, the scheduler ends.
    lifeline: int | None = None
    #: Modules, or files that end with ``.py``, to be imported before it listens.
    preload: Sequence[str] = ()
    #: Whether clients may have functions called in the process of the scheduler.
    allow_run_on_scheduler: bool = False
    #: Whether clients may end the scheduler, and with it the workers.
    allow_shutdown: bool = False
