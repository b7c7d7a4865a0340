"""Links between simulated processes: each keeps the order of its frames; they do not wait for one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.testing.simulation.timeline import Timeline

__all__ = ["Channel", "Frame", "Latency", "Port", "transfer"]

#: Messages that travel together: tuples whose first item is the operation.
Frame = list[tuple[Any, ...]]

#: Seconds from one process to another, given their names. It may answer differently each time.
Latency = Callable[[str, str], float]


class Channel:
    """One direction of a connection: frames arrive in the order in which they were sent, or not at all."""

    def __init__(
        self,
        timeline: Timeline,
        sender: str,
        receiver: str,
        latency: Latency,
        deliver: Callable[[Frame], None],
        broken: Callable[[], None],
        encode: Callable[[Frame], Frame] | None = None,
    ) -> None:
        self.timeline = timeline
        self.sender = sender
        self.receiver = receiver
        self.latency = latency
        self.deliver = deliver
        #: Called once, when the receiver notices that there is no connection any more.
        self.broken = broken
        #: What the wire makes of a frame; None passes it on as it is.
        self.encode = encode
        #: True from when the sender has closed it, or a fault has.
        self.closed = False
        #: True from when the receiver does not listen any more.
        self.deaf = False
        #: Frames that a closed or deaf channel has swallowed.
        self.lost = 0
        #: True while nothing arrives.
        self.stalled = False
        self._held: list[Frame | None] = []
        self._last = 0.0

    def send(self, frame: Frame) -> None:
        """The frame is on its way."""
        if self.closed:
            self.lost += 1
            return
        self._depart(frame if self.encode is None else self.encode(frame))

    def close(self) -> None:
        """The sender hangs up: what it has sent still arrives, and then the receiver notices."""
        if not self.closed:
            self.closed = True
            self._depart(None)

    def stall(self) -> None:
        """From now on nothing arrives, and nothing is lost: it waits for :meth:`resume`."""
        self.stalled = True

    def resume(self) -> None:
        """What was held by :meth:`stall` arrives now."""
        self.stalled = False
        held, self._held = self._held, []
        for frame in held:
            self._arrive(frame)

    def _depart(self, frame: Frame | None) -> None:
        timeline = self.timeline
        arrival = timeline.now + self.latency(self.sender, self.receiver)
        if arrival < self._last:
            arrival = self._last
        self._last = arrival
        timeline.at(arrival, self._arrive, frame)

    def _arrive(self, frame: Frame | None) -> None:
        if self.deaf:
            self.lost += frame is not None
        elif self.stalled:
            self._held.append(frame)
        elif frame is None:
            self.deaf = True
            self.broken()
        else:
            self.deliver(frame)


class Port:
    """The data connection of one process: what it sends waits in line, and so does what it receives."""

    def __init__(self, bandwidth: float) -> None:
        #: Bytes per second, in each direction.
        self.bandwidth = bandwidth
        #: When all that is announced so far will have been sent, and received.
        self.sent_at = 0.0
        self.received_at = 0.0


def transfer(timeline: Timeline, sender: Port, receiver: Port, nbytes: int, latency: float) -> float:
    """When ``nbytes`` that are sent now will have arrived: at the pace of the slower side, once both are free."""
    start = max(timeline.now, sender.sent_at, receiver.received_at)
    end = start + nbytes / min(sender.bandwidth, receiver.bandwidth)
    sender.sent_at = end
    receiver.received_at = end
    return end + latency
