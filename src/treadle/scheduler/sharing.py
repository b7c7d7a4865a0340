"""What all clients share: datasets, events with their history, and messages to whoever has subscribed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from treadle.scheduler.keeping import Keeper, check_size, read
from treadle.scheduler.members import Member
from treadle.scheduler.services import Ask, Hub, Inquiry, Service
from treadle.scheduler.topics import QuestionError
from treadle.wire.limits import DATASET_BYTES, ITEM_BYTES

__all__ = ["Sharing"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]

#: Number within its topic, seconds since the epoch, packed value.
Row: TypeAlias = "tuple[int, float, bytes]"

#: How many events of a topic are kept, and how many bytes of them.
EVENTS: Final = 10_000
EVENT_BYTES: Final = 16 << 20

#: Bytes that may wait for a subscriber before it misses events.
UNSENT: Final = 8 << 20


class Dataset(NamedTuple):
    data: bytes
    keys: list[str]


class Publication(NamedTuple):
    name: Name
    data: bytes
    keys: list[str]
    override: bool


class Topic:
    """A stream of events: who wants them, and those of late."""

    def __init__(self) -> None:
        self.number = 0
        self.subscribers: Final[dict[Member, None]] = {}
        self.history: Final[deque[Row]] = deque()
        self.nbytes = 0

    def record(self, row: Row) -> None:
        self.history.append(row)
        self.nbytes += len(row[2])
        while len(self.history) > EVENTS or self.nbytes > EVENT_BYTES:
            self.nbytes -= len(self.history.popleft()[2])


class Sharing(Service):
    """Keeps the datasets and the events of all clients."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._keeper: Final = Keeper(hub, "datasets")
        self._datasets: Final[dict[str, Dataset]] = {}
        #: Of datasets that are on their way: the keys of their results, by client and number of the inquiry.
        self._delivering: Final[dict[Member, dict[int, list[str]]]] = {}
        self._topics: Final[dict[str, Topic]] = {}

    def topics(self) -> Mapping[str, Ask]:
        return {
            "dataset.publish": self._publish,
            "dataset.get": self._get,
            "dataset.arrived": self._arrived,
            "dataset.list": lambda inquiry: inquiry.answer(sorted(self._datasets)),
            "dataset.unpublish": self._unpublish,
            "topic.send": self._send,
            "topic.subscribe": self._subscribe,
            "topic.unsubscribe": self._unsubscribe,
            "topic.history": self._history,
            "session.end": _never,
        }

    def gone(self, member: Member) -> None:
        if member.role == "client":
            for keys in self._delivering.pop(member, {}).values():
                self._keeper.drop(keys)
            for name in [name for name, topic in self._topics.items() if member in topic.subscribers]:
                self._forget(name, member)

    # Datasets

    def _publish(self, inquiry: Inquiry) -> None:
        given: list[Publication] = read(
            inquiry, list[Publication], "rows: name, packed value, keys, whether to replace"
        )
        for name, data, _, override in given:
            check_size(f"the dataset {name!r}", data, DATASET_BYTES)
            if name in self._datasets and not override:
                raise QuestionError(
                    f"there is a dataset {name!r} already; unpublish it first, or say override=True to replace it"
                )
        for name, data, keys, _ in given:
            self._keeper.keep(keys)
            self._drop(name)
            self._datasets[name] = Dataset(data, keys)
        inquiry.answer(None)

    def _get(self, inquiry: Inquiry) -> None:
        """The dataset, or nil. Its results are kept until the client says that it wants them, or is gone."""
        name: str = read(inquiry, Name, "a name")
        dataset = self._datasets.get(name)
        if dataset is not None and dataset.keys:
            self._keeper.keep(dataset.keys)
            self._delivering.setdefault(inquiry.member, {})[inquiry.id] = dataset.keys
        inquiry.answer(dataset)

    def _arrived(self, inquiry: Inquiry) -> None:
        number: int = read(inquiry, int, "the number of a question for a dataset")
        self.withdrawn(inquiry.member, number)
        inquiry.answer(None)

    def withdrawn(self, member: Member, number: int) -> None:
        self._keeper.drop(self._delivering.get(member, {}).pop(number, ()))

    def _unpublish(self, inquiry: Inquiry) -> None:
        name: str = read(inquiry, Name, "a name")
        if name not in self._datasets:
            raise QuestionError(_unknown(name, self._datasets))
        self._drop(name)
        inquiry.answer(None)

    def _drop(self, name: str) -> None:
        dataset = self._datasets.pop(name, None)
        if dataset is not None:
            self._keeper.drop(dataset.keys)

    # Events

    def _topic(self, name: str) -> Topic:
        return self._topics.setdefault(name, Topic())

    def _send(self, inquiry: Inquiry) -> None:
        name, data, recorded = read(inquiry, tuple[Name, bytes, bool], "a topic, a packed value, whether to record it")
        check_size(f"the event of {name!r}", data, ITEM_BYTES)
        self.tell(name, data, recorded)
        inquiry.answer(None)

    def tell(self, name: str, data: bytes, recorded: bool) -> None:
        """An event has happened.

        :param recorded: keep it for those who ask later.
        """
        topic = self._topics.get(name)
        if topic is None:
            if not recorded:
                return  # nobody listens
            topic = self._topic(name)
        topic.number += 1
        row = (topic.number, time.time(), data)
        if recorded:
            topic.record(row)
        for member in topic.subscribers:
            if member.link.unsent < UNSENT:  # otherwise it misses this one, and can tell so by the numbers
                self.hub.send(member, "event", name, [row])

    def _subscribe(self, inquiry: Inquiry) -> None:
        topic = self._topic(read(inquiry, Name, "a topic"))
        topic.subscribers[inquiry.member] = None
        inquiry.answer(topic.number)

    def _unsubscribe(self, inquiry: Inquiry) -> None:
        self._forget(read(inquiry, Name, "a topic"), inquiry.member)
        inquiry.answer(None)

    def _forget(self, name: str, member: Member) -> None:
        topic = self._topics.get(name)
        if topic is not None:
            topic.subscribers.pop(member, None)
            if not topic.subscribers and not topic.history:
                del self._topics[name]

    def _history(self, inquiry: Inquiry) -> None:
        name: str | None = read(inquiry, Name | None, "a topic, or nil")
        chosen = self._topics if name is None else {name: self._topic(name)} if name in self._topics else {}
        inquiry.answer({each: list(topic.history) for each, topic in chosen.items() if topic.history})


def _never(inquiry: Inquiry) -> None:
    """Not answered: who waits for this learns of the end of the connection."""


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    there = ", ".join(sorted(known)) or "none"
    return f"there is no dataset {name!r}; there are: {there}"
