"""Variables that all processes of a cluster share."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from treadle.client.client import Client
from treadle.client.coordination.base import Named
from treadle.client.coordination.leases import ask_for, give_back
from treadle.client.latch import deadline_of
from treadle.client.transport import pack_shared, unpack_shared
from treadle.wire.limits import ITEM_BYTES

__all__ = ["Variable"]


class Variable(Named):
    """A value of the whole cluster that can be replaced. It stays when whoever has set it dies.

    A value is anything that can be pickled into at most 64 KiB; futures may be in it at any depth, and their results
    are kept for as long as the variable has the value.

    :param name: variables of the same name are the same one. Without it: a new one.
    :param client: default: in a task that of its worker, elsewhere the default client.
    """

    _kind = "variable"

    def __init__(self, name: str | None = None, client: Client | None = None) -> None:
        super().__init__(name, client)

    def set(self, value: Any, timeout: float | None = None) -> Any:
        """Give it a value.

        :param timeout: how many seconds to wait for the scheduler's answer.
        :raises UserError: the value is too big.
        """
        return self._face(self._set, value, timeout)

    async def _set(self, client: Client, value: Any, timeout: float | None) -> None:
        data, keys = pack_shared(value, client.session, "the value", ITEM_BYTES)
        await client.session.ask("variable.set", (self.name, data, keys), deadline_of(timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Its value. If it has none, wait until it has one.

        :param timeout: wait no longer than this many seconds.
        :raises concurrent.futures.TimeoutError: it had none in time.
        """
        return self._face(self._get, timeout)

    async def _get(self, client: Client, timeout: float | None) -> Any:
        try:
            lease = await ask_for(client.session, "variable.get", (self.name, True), deadline_of(timeout))
        except concurrent.futures.TimeoutError:
            raise concurrent.futures.TimeoutError(f"{self!r} had no value within {timeout} seconds") from None
        assert not isinstance(lease, str)
        try:
            data, keys = lease.rows[0]
            return unpack_shared(data, keys, lease.session)
        finally:
            if lease.token:
                await give_back(lease, "", quiet=True)

    def delete(self, timeout: float | None = None) -> Any:
        """Take its value away.

        :param timeout: how many seconds to wait for the scheduler's answer.
        """
        return self._face(self._delete, timeout)

    async def _delete(self, client: Client, timeout: float | None) -> None:
        await client.session.ask("variable.delete", self.name, deadline_of(timeout))
