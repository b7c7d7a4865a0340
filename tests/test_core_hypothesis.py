"""The core in storms that Hypothesis chooses: any actions in any order, invariants after every event.

200 storms are played with every run of the tests. ``TREADLE_EXAMPLES=5000`` plays that many, and others each time.
"""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.testing.simulation.network import Frame
from treadle.testing.simulation.storm import ACTIONS, Storm, random_actions
from treadle.wire import messages as wire

EXAMPLES = os.environ.get("TREADLE_EXAMPLES")

STORMY = settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

numbers = st.integers(0, 2**20)
#: What makes the others worth their while comes more often.
names = st.sampled_from(
    [*ACTIONS, "submit", "submit", "submit", "join_worker", "kill", "cut", "step", "step", "step", "wait"]
)
actions = st.lists(st.tuples(names, numbers), min_size=20, max_size=70)


@pytest.mark.timeout(0 if EXAMPLES else 120)
@STORMY
@given(numbers, numbers, actions)
def test_every_future_ends_well_and_nothing_is_left(seed: int, first: int, rest: list[tuple[str, int]]) -> None:
    Storm(seed).play([("submit", first), *rest])


def over_the_wire(sender: str, receiver: str, frame: Frame) -> Frame:
    """A frame as it arrives: encoded, decoded and validated."""
    if frame[0][0] == "hello":
        return frame
    if receiver == "scheduler":
        decoder = wire.FROM_CLIENT if sender.startswith("client") else wire.FROM_WORKER
    else:
        decoder = wire.FROM_SCHEDULER_TO_CLIENT if receiver.startswith("client") else wire.TO_WORKER
    arrived: Frame = []
    for message in decoder.decode(msgspec.msgpack.encode(frame)):
        fields = [
            msgspec.structs.asdict(field) if isinstance(field, wire.Options) else field
            for field in msgspec.structs.astuple(message)
        ]
        arrived.append((message.__struct_config__.tag, *fields))
    return arrived


def test_the_wire_carries_whatever_the_cores_say() -> None:
    for seed in range(25):
        # What misbehaves is refused by the wire already.
        actions = [action for action in random_actions(seed) if action[0] != "misbehave"]
        Storm(seed, over_the_wire).play(actions)
