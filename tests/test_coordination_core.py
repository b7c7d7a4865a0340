"""The state machine behind locks, semaphores, events, queues and variables, in whatever order things happen."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.coordinated import LOCK, SEMAPHORE
from treadle.core.coordination import AGAIN, BUSY, CLOSED, GRANTED, LOST, Coordination
from treadle.core.coordination_checks import check_coordination
from treadle.errors import InternalError, UserError

LEASE = 30.0
CLIENTS = ("anna", "bert", "cara", "dora")
#: Things of the storm: names of semaphores with their permits, and of queues with their sizes.
SEMAPHORES = {"one": 1, "two": 2}
QUEUES = {"endless": 0, "small": 2}


class Desk:
    """A coordination, and what it has said to each client."""

    def __init__(self) -> None:
        self.core = Coordination(LEASE)
        self.now = 1000.0
        self.number = 0

    def heard(self) -> list[tuple[str, int, list[Any]]]:
        """What was answered since the last time."""
        check_coordination(self.core)
        answers = list(self.core.answers)
        self.core.answers.clear()
        return answers

    def count(self) -> int:
        self.number += 1
        return self.number

    def lock(self, ident: str, wait: bool = True) -> int:
        self.core.on_acquire(ident, self.count(), LOCK, "door", 1, wait, self.now)
        return self.number

    def put(self, ident: str, data: bytes, limit: int = 0, keys: tuple[str, ...] = (), place: int = 0) -> int:
        self.core.on_put(ident, self.count(), "line", limit, data, list(keys), place, self.now)
        return self.number

    def take(self, ident: str, count: int = 1, wait: bool = True) -> int:
        self.core.on_take(ident, self.count(), "line", 0, count, wait, self.now)
        return self.number

    def release(self, ident: str, number: int, consumed: bool = False) -> bool:
        return self.core.on_release(ident, number, consumed, self.now)


def data_of(answers: list[tuple[str, int, list[Any]]]) -> list[bytes]:
    """The items in some answers."""
    return [data for _, _, value in answers if value[0] == GRANTED for data, _ in value[3]]


def how(answers: list[tuple[str, int, list[Any]]]) -> list[tuple[str, int, str]]:
    return [(ident, number, value[0]) for ident, number, value in answers]


# Permits


def test_who_comes_first_is_first_and_tokens_grow() -> None:
    desk = Desk()
    numbers = [desk.lock(ident) for ident in CLIENTS]
    tokens = []
    for ident, number in zip(CLIENTS, numbers):
        ((who, granted, value),) = desk.heard()
        assert (who, granted, value[0]) == (ident, number, GRANTED)
        tokens.append(value[1])
        assert desk.release(ident, number)
    assert tokens == sorted(set(tokens))
    assert desk.core.things == {}


def test_who_does_not_want_to_wait_does_not() -> None:
    desk = Desk()
    held = desk.lock("anna", wait=False)
    busy = desk.lock("bert", wait=False)
    assert how(desk.heard()) == [("anna", held, GRANTED), ("bert", busy, BUSY)]
    assert desk.core.held(LOCK, "door") == 1


def test_nobody_overtakes_the_line_of_a_semaphore() -> None:
    desk = Desk()
    desk.core.on_acquire("anna", 1, SEMAPHORE, "s", 1, True, desk.now)
    desk.core.on_acquire("bert", 2, SEMAPHORE, "s", 1, True, desk.now)
    desk.core.on_acquire("cara", 3, SEMAPHORE, "s", 1, False, desk.now)
    assert how(desk.heard()) == [("anna", 1, GRANTED), ("cara", 3, BUSY)]


def test_a_semaphore_has_one_number_of_permits_while_anybody_uses_it() -> None:
    desk = Desk()
    desk.core.on_acquire("anna", 1, SEMAPHORE, "s", 2, True, desk.now)
    desk.release("anna", 1)
    with pytest.raises(UserError, match="max_leases=2, and here it is said to have 3"):
        desk.core.on_acquire("bert", 2, SEMAPHORE, "s", 3, True, desk.now)
    desk.core.on_gone("anna", desk.now)
    desk.core.on_acquire("bert", 2, SEMAPHORE, "s", 3, True, desk.now)
    assert how(desk.heard())[-1] == ("bert", 2, GRANTED)


def test_a_grant_that_crossed_its_withdrawal_is_given_back() -> None:
    desk = Desk()
    first, second = desk.lock("anna"), desk.lock("bert")
    desk.core.on_withdrawn("anna", first, desk.now)  # it had been granted
    assert how(desk.heard()) == [("anna", first, GRANTED), ("bert", second, GRANTED)]
    desk.core.on_withdrawn("nobody", 1, desk.now)
    third = desk.lock("cara")
    desk.core.on_withdrawn("cara", third, desk.now)  # it had not
    assert desk.release("bert", second)
    assert desk.heard() == []
    assert desk.core.things == {}


def test_a_number_names_one_inquiry() -> None:
    desk = Desk()
    desk.core.on_acquire("anna", 1, LOCK, "a", 1, True, desk.now)
    with pytest.raises(UserError, match="number 1 is that of an earlier inquiry"):
        desk.core.on_acquire("anna", 1, LOCK, "b", 1, True, desk.now)


# Death and silence


def test_all_that_a_holder_had_is_free_at_once_when_it_is_gone() -> None:
    desk = Desk()
    for data in (b"1", b"2", b"3"):
        desk.put("cara", data)
    desk.lock("anna")
    desk.take("anna", 2)
    desk.lock("anna")
    waiting = desk.lock("bert")
    desk.heard()
    desk.core.on_gone("anna", desk.now)
    assert how(desk.heard()) == [("bert", waiting, GRANTED)]
    desk.take("bert", 10)
    assert data_of(desk.heard()) == [b"1", b"2", b"3"]
    desk.core.on_gone("anna", desk.now)
    assert "anna" not in desk.core.holders


def test_items_come_back_to_the_front_in_their_order() -> None:
    desk = Desk()
    for data in (b"1", b"2", b"3", b"4"):
        desk.put("cara", data)
    desk.take("anna", 2)
    desk.take("anna", 1)
    desk.heard()
    desk.core.on_gone("anna", desk.now)
    desk.take("bert", 10)
    assert data_of(desk.heard()) == [b"1", b"2", b"3", b"4"]


def test_a_silent_holder_loses_what_it_has_and_hears_so() -> None:
    desk = Desk()
    held = desk.lock("anna")
    waiting = desk.lock("bert")
    desk.core.on_acquire("anna", desk.count(), LOCK, "window", 1, True, desk.now)
    desk.core.on_acquire("bert", desk.count(), LOCK, "window", 1, True, desk.now)
    silent = desk.lock("anna")
    desk.heard()
    desk.now += LEASE - 1
    desk.core.on_renew("anna", desk.now)
    desk.core.tick(desk.now)
    assert desk.heard() == []
    desk.now += LEASE
    desk.core.on_renew("bert", desk.now)
    desk.core.tick(desk.now)
    answers = how(desk.heard())
    assert ("anna", silent, AGAIN) in answers
    assert ("bert", waiting, GRANTED) in answers
    assert desk.core.lost == [("anna", held), ("anna", held + 2)]
    assert not desk.release("anna", held)


def test_a_grant_is_no_sign_of_life_of_a_silent_holder() -> None:
    desk = Desk()
    desk.lock("anna")
    desk.core.on_acquire("bert", desk.count(), LOCK, "window", 1, True, desk.now)
    desk.core.on_acquire("anna", desk.count(), LOCK, "window", 1, True, desk.now)
    desk.now += LEASE - 1
    desk.core.on_release("bert", 2, False, desk.now)  # so anna is granted the second one
    desk.now += 1
    desk.core.tick(desk.now)
    desk.heard()
    assert desk.core.lost == [("anna", 1), ("anna", 3)]


def test_a_lease_begins_with_its_grant() -> None:
    desk = Desk()
    held = desk.lock("anna")
    waiting = desk.lock("bert")
    desk.now += LEASE - 1
    desk.release("anna", held)
    desk.now += LEASE - 1
    desk.core.tick(desk.now)
    desk.heard()
    assert desk.release("bert", waiting)


def test_nobody_is_blamed_while_the_scheduler_was_stopped() -> None:
    desk = Desk()
    held = desk.lock("anna")
    desk.now += 10 * LEASE
    desk.core.forgive(10 * LEASE)
    desk.core.tick(desk.now)
    desk.heard()
    assert desk.release("anna", held)


# Events and variables


def test_an_event_lets_go_all_who_wait() -> None:
    desk = Desk()
    desk.core.on_wait("anna", 1, "e", desk.now)
    desk.core.on_wait("bert", 2, "e", desk.now)
    assert desk.heard() == []
    assert not desk.core.is_set("e")
    desk.core.on_set("e", True, desk.now)
    desk.core.on_wait("cara", 3, "e", desk.now)
    assert how(desk.heard()) == [("anna", 1, GRANTED), ("bert", 2, GRANTED), ("cara", 3, GRANTED)]
    assert desk.core.is_set("e")
    desk.core.on_set("e", False, desk.now)
    assert not desk.core.is_set("e")
    assert desk.core.things == {}


def test_a_variable_keeps_results_until_they_have_arrived() -> None:
    desk = Desk()
    core = desk.core
    core.on_read("anna", 1, "v", False, desk.now)
    core.on_read("anna", 2, "v", True, desk.now)
    core.on_assign("v", b"x", ["k"], desk.now)
    assert how(desk.heard()) == [("anna", 1, BUSY), ("anna", 2, GRANTED)]
    core.on_assign("v", b"y", [], desk.now)
    assert (core.kept, core.dropped) == (["k"], [])
    desk.release("anna", 2, True)
    assert core.dropped == ["k"]
    core.on_read("bert", 3, "v", True, desk.now)
    ((_, _, value),) = desk.heard()
    assert value == [GRANTED, 0, LEASE, [(b"y", [])]]
    core.on_delete("v")
    core.on_delete("v")
    assert core.things == {}


# Queues


def test_a_place_is_waited_for_and_filled() -> None:
    desk = Desk()
    desk.put("anna", b"1", 1)
    assert how(desk.heard())[-1][2] == GRANTED
    desk.put("anna", b"2", 1)
    assert how(desk.heard())[-1][2] == BUSY
    desk.core.on_reserve("anna", desk.count(), "line", 1, desk.now)
    place = desk.number
    desk.put("bert", b"3", 0)  # nobody overtakes who waits
    assert how(desk.heard())[-1][2] == BUSY
    taken = desk.take("bert")
    desk.release("bert", taken, True)
    assert ("anna", place, GRANTED) in how(desk.heard())
    desk.put("bert", b"4", 0)  # the place is reserved
    assert how(desk.heard())[-1][2] == BUSY
    desk.put("anna", b"5", 1, place=place)
    assert how(desk.heard())[-1][2] == GRANTED
    desk.put("anna", b"6", 1, place=place)
    assert how(desk.heard())[-1][2] == LOST
    with pytest.raises(UserError, match="maxsize=1, and here it is said to have 2"):
        desk.put("bert", b"7", 2)
    assert desk.core.size("line") == (1, 1)


def test_a_put_that_was_given_up_has_not_happened() -> None:
    desk = Desk()
    number = desk.put("anna", b"1", keys=("k",))
    desk.core.on_withdrawn("anna", number, desk.now)
    desk.heard()
    assert desk.core.size("line") == (0, 0)
    assert desk.core.kept == desk.core.dropped == ["k"]
    number = desk.put("anna", b"2")
    taken = desk.take("bert")
    desk.core.on_withdrawn("anna", number, desk.now)  # too late: somebody has it
    assert desk.release("bert", taken, True)
    desk.heard()


def test_items_that_were_taken_while_the_wait_was_given_up_are_put_back() -> None:
    desk = Desk()
    for data in (b"1", b"2", b"3"):
        desk.put("anna", data, keys=("k",))
    taken = desk.take("bert", 2)
    assert desk.release("bert", taken, True)
    desk.core.on_withdrawn("bert", taken, desk.now)
    desk.heard()
    desk.take("cara", 10)
    assert data_of(desk.heard()) == [b"1", b"2", b"3"]
    assert len(desk.core.kept) - len(desk.core.dropped) == 3


def test_only_so_many_puts_and_takings_are_remembered() -> None:
    desk = Desk()
    for _ in range(50):
        desk.put("anna", b"1")
        desk.release("anna", desk.take("anna"), True)
    desk.heard()
    assert len(desk.core.holders["anna"].puts) == len(desk.core.holders["anna"].taken) == 8


def test_a_closed_queue_is_emptied_and_then_says_so() -> None:
    desk = Desk()
    desk.put("anna", b"1", 1)
    desk.core.on_reserve("anna", desk.count(), "line", 1, desk.now)
    place = desk.number
    taken = desk.take("bert")
    desk.core.on_reserve("cara", desk.count(), "line", 1, desk.now)
    refused = desk.number
    waiting = desk.take("cara")
    desk.heard()
    desk.core.on_close_queue("anna", "line", desk.now)
    assert how(desk.heard()) == [("cara", refused, CLOSED)]  # the item may come back: cara waits
    desk.put("anna", b"2", 1, place=place)
    assert how(desk.heard())[-1][2] == CLOSED
    desk.release("bert", taken, False)
    ((who, number, value),) = desk.heard()
    assert (who, number, value[3]) == ("cara", waiting, [(b"1", [])])
    last = desk.take("bert")
    desk.release("cara", waiting, True)
    assert how(desk.heard()) == [("bert", last, CLOSED)]


def test_what_nobody_uses_is_forgotten() -> None:
    desk = Desk()
    desk.release("anna", desk.lock("anna"))
    desk.put("anna", b"1")
    desk.core.on_gone("anna", desk.now)
    assert desk.core.size("line") == (1, 0)
    desk.release("bert", desk.take("bert"), True)
    desk.core.on_gone("bert", desk.now)
    desk.heard()
    assert desk.core.things == {}
    assert desk.core.holders == {}
    assert desk.core.size("line") == (0, 0)


@pytest.mark.parametrize("harm", ["leased", "token", "holder", "item", "line"])
def test_the_checks_find_what_is_broken(harm: str) -> None:
    desk = Desk()
    core = desk.core
    desk.put("anna", b"1")
    desk.lock("anna")
    desk.lock("bert")
    desk.heard()
    store: Any = core.things["queue", "line"]
    door: Any = core.things["lock", "door"]
    if harm == "leased":
        core.leased += 1
    elif harm == "token":
        core.token = 0
    elif harm == "holder":
        core.holders["anna"].leases.clear()
    elif harm == "item":
        store.items.clear()
    else:
        door.line.clear()
    with pytest.raises(InternalError):
        check_coordination(core)


# Storms


class Storm:
    """Clients that do anything at any time. Keeps its own books of who should have what."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.core = self.desk.core
        #: What was granted and not ended, by client and number: what it is of, and the items.
        self.held: dict[tuple[str, int], tuple[str, list[bytes]]] = {}
        #: Who waits for permits, in order, by name.
        self.lines: dict[str, list[tuple[str, int]]] = {name: [] for name in SEMAPHORES}
        self.topic: dict[tuple[str, int], str] = {}
        self.put: dict[tuple[str, int], bytes] = {}
        self.accepted: set[bytes] = set()
        self.consumed: list[bytes] = []

    def play(self, actions: list[tuple[str, str, int]]) -> None:
        for action, ident, choice in actions:
            act: Callable[[str, int], None] = getattr(self, f"do_{action}")
            act(ident, choice)
            self.learn()
        for ident in CLIENTS:
            self.do_gone(ident, 0)
            self.learn()
        self.balance()

    def learn(self) -> None:
        """Take the answers, and compare them with the books."""
        for ident, number in self.core.lost:
            self.held.pop((ident, number), None)
        self.core.lost.clear()
        for ident, number, value in self.desk.heard():
            who = (ident, number)
            topic = self.topic[who]
            line = self.lines.get(topic)
            if value[0] == GRANTED and who in self.put:
                self.accepted.add(self.put[who])
            elif value[0] == GRANTED:
                if line is not None:
                    assert line[0] == who, "somebody was overtaken"
                self.held[who] = (topic, [data for data, _ in value[3]])
            if line is not None and who in line:
                line.remove(who)
        for name, limit in SEMAPHORES.items():
            assert sum(topic == name for topic, _ in self.held.values()) <= limit
        self.balance()

    def balance(self) -> None:
        """No item is lost, and none is in two places."""
        stores: list[Any] = [thing for thing in self.core.things.values() if thing.kind == "queue"]
        there = [item.data for store in stores for item in store.items]
        leased = [data for _, items in self.held.values() for data in items]
        assert sorted(there + leased + self.consumed) == sorted(self.accepted)

    def count(self, ident: str, topic: str) -> int:
        number = self.desk.count()
        self.topic[ident, number] = topic
        return number

    def do_acquire(self, ident: str, choice: int) -> None:
        name = sorted(SEMAPHORES)[choice % 2]
        number = self.count(ident, name)
        self.lines[name].append((ident, number))
        self.core.on_acquire(ident, number, SEMAPHORE, name, SEMAPHORES[name], choice % 3 > 0, self.desk.now)

    def do_put(self, ident: str, choice: int) -> None:
        name = sorted(QUEUES)[choice % 2]
        places = [
            number for (who, number), (topic, _) in self.held.items() if who == ident and topic == f"place {name}"
        ]
        place = places[0] if places else 0
        number = self.count(ident, name)
        data = self.put[ident, number] = b"item %d" % number
        self.held.pop((ident, place), None)
        self.core.on_put(ident, number, name, QUEUES[name], data, [], place, self.desk.now)

    def do_reserve(self, ident: str, choice: int) -> None:
        name = sorted(QUEUES)[choice % 2]
        self.core.on_reserve(ident, self.count(ident, f"place {name}"), name, QUEUES[name], self.desk.now)

    def do_take(self, ident: str, choice: int) -> None:
        name = sorted(QUEUES)[choice % 2]
        self.core.on_take(
            ident, self.count(ident, name), name, QUEUES[name], 1 + choice % 4, choice % 3 > 0, self.desk.now
        )

    def do_release(self, ident: str, choice: int) -> None:
        mine = [who for who in self.held if who[0] == ident]
        if not mine:
            return
        who = mine[choice % len(mine)]
        _, items = self.held.pop(who)
        assert self.core.on_release(ident, who[1], choice % 4 > 0, self.desk.now)
        if choice % 4 > 0:
            self.consumed += items

    def do_withdraw(self, ident: str, choice: int) -> None:
        mine = [who for who in self.topic if who[0] == ident]
        recent = mine[-6:]
        if not recent:
            return
        who = recent[choice % len(recent)]
        if who not in self.held and who in self.topic and who not in self.put:
            ended = all(who not in line for line in self.lines.values())
            if ended and who[1] in self.core.holders.get(ident, _NOBODY).taken:
                return  # that would undo what the books call consumed, and has a test of its own
        before = self.items()
        self.core.on_withdrawn(ident, who[1], self.desk.now)
        self.held.pop(who, None)
        for line in self.lines.values():
            if who in line:
                line.remove(who)
        if who in self.put and self.put[who] in before - self.items() - self.granted():
            self.accepted.discard(self.put[who])

    def items(self) -> set[bytes]:
        stores: list[Any] = [thing for thing in self.core.things.values() if thing.kind == "queue"]
        return {item.data for store in stores for item in store.items}

    def granted(self) -> set[bytes]:
        """Items that were granted to somebody who has not been told yet."""
        return {data for _, _, value in self.core.answers if len(value) > 3 for data, _ in value[3]}

    def do_gone(self, ident: str, choice: int) -> None:
        self.core.on_gone(ident, self.desk.now)
        for who in [who for who in self.held if who[0] == ident]:
            del self.held[who]
        for name, line in self.lines.items():
            self.lines[name] = [who for who in line if who[0] != ident]

    def do_renew(self, ident: str, choice: int) -> None:
        self.core.on_renew(ident, self.desk.now)

    def do_pass(self, ident: str, choice: int) -> None:
        self.desk.now += choice % 20
        self.core.tick(self.desk.now)


_NOBODY: Any = type("Nobody", (), {"taken": {}})()

ACTIONS = ["acquire", "put", "reserve", "take", "release", "release", "withdraw", "gone", "renew", "pass"]

#: An action, a client and a choice, in one number.
steps = st.integers(0, len(ACTIONS) * len(CLIENTS) * 60 - 1)


def action_of(step: int) -> tuple[str, str, int]:
    rest, action = divmod(step, len(ACTIONS))
    choice, client = divmod(rest, len(CLIENTS))
    return ACTIONS[action], CLIENTS[client], choice


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.lists(steps, min_size=30, max_size=80))
def test_nothing_is_held_twice_lost_or_doubled_whatever_happens(chosen: list[int]) -> None:
    Storm().play([action_of(step) for step in chosen])


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_held_twice_lost_or_doubled_in_a_long_storm(seed: int) -> None:
    Storm().play([action_of(step) for step in random.Random(seed).choices(range(2400), k=300)])
