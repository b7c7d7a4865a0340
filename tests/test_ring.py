"""The ring that the scheduler's journal is written into."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from treadle.scheduler.ring import HEADER, Ring

SIZE = 100

BLOBS = st.binary(max_size=SIZE)


def newest(blobs: list[bytes]) -> list[tuple[float, int, bytes]]:
    """What a ring has to hold of these."""
    kept: deque[tuple[float, int, bytes]] = deque()
    room = SIZE
    for number in reversed(range(len(blobs))):
        taken = HEADER + len(blobs[number])
        if taken > SIZE:
            continue
        room -= taken
        if room < 0:
            break
        kept.appendleft((number / 2, number, blobs[number]))
    return list(kept)


def fill(ring: Ring, blobs: list[bytes], start: int = 0) -> None:
    for number, blob in enumerate(blobs, start):
        ring.append(number / 2, number, blob if number % 2 else memoryview(blob))


@given(st.lists(BLOBS, max_size=50))
def test_the_newest_are_kept_as_many_as_fit(blobs: list[bytes]) -> None:
    ring = Ring(SIZE)
    fill(ring, blobs)
    found = list(ring.records())
    assert found == newest(blobs)
    assert len(ring) == sum(HEADER + len(blob) for _, _, blob in found) <= SIZE


@given(st.lists(BLOBS, max_size=20), st.lists(BLOBS, max_size=20), st.integers(1, 5))
def test_what_makes_room_while_somebody_reads_is_passed_over(
    before: list[bytes], after: list[bytes], read: int
) -> None:
    """A reader sees whole records of the time when it began, in order, whatever is written meanwhile."""
    ring = Ring(SIZE)
    fill(ring, before)
    there = newest(before)
    reader = ring.records()
    assert [record for _, record in zip(range(read), reader)] == there[:read]
    fill(ring, after, len(before))
    left = newest(before + after)
    assert list(reader) == [record for record in there[read:] if record in left]
