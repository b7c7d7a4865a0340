"""A limit of time for anything that waits."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from treadle.client.latch import Latch, Steps, deadline_of

__all__ = ["within"]

T = TypeVar("T")


async def within(timeout: float | None, make: Callable[..., Steps[T]], *args: Any) -> T:
    """Steps: those that ``make(*args)`` returns, of which no wait lasts longer than until the time is up.

    :param timeout: seconds from now; None for no limit.
    :raises concurrent.futures.TimeoutError: the time is up. The steps were told so where they waited.
    """
    if timeout is None:
        return await make(*args)
    value: T = await _Limited(make(*args), timeout)
    return value


class _Limited:
    def __init__(self, steps: Steps[Any], timeout: float) -> None:
        self._steps = steps
        self._deadline = deadline_of(timeout) or 0.0

    def __await__(self) -> Generator[Latch, None, Any]:
        steps = self._steps
        try:
            latch = steps.send(None)
            while True:
                if latch.deadline is None or latch.deadline > self._deadline:
                    latch.deadline = self._deadline
                try:
                    yield latch
                except BaseException as interrupt:
                    latch = steps.throw(interrupt)
                else:
                    latch = steps.send(None)
        except StopIteration as stop:
            return stop.value
