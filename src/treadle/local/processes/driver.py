"""Runs a graph on worker processes: decides which task goes where, and moves results that are needed elsewhere.

A single thread (the caller's) does all of it, in turns: read what the workers sent, account for it, hand out what
became ready, send. Nothing in it waits but the ``select`` between turns.

Which process runs a task: the one that holds most bytes of its inputs, so that results need not move; a task
without such inputs goes to whoever has room. How much a process is sent ahead is measured in seconds: enough tasks
to keep it busy for a few milliseconds, so that microsecond tasks travel by the hundred and long ones one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

from treadle.callbacks import TaskRecord
from treadle.errors import InternalError, ResultNotSerializableError, WorkerDiedError
from treadle.graph.node import Node
from treadle.local.drive import HEARTBEAT
from treadle.local.hooks import Hooks, function_name
from treadle.local.processes.blob import Blob, dumps
from treadle.local.processes.calls import encode, literals, why_not
from treadle.local.processes.channel import MAX_FDS
from treadle.local.processes.durations import Durations
from treadle.local.processes.failures import load_result, unpack_error
from treadle.local.processes.pool import Member, ProcessPool, shared_pool
from treadle.local.run import Run
from treadle.local.trim import forget_frames, trim_error

__all__ = ["ProcessesDriver"]

#: Seconds of measured work that a process is sent ahead.
BACKLOG = 0.005
#: The most tasks in one batch.
MAX_BATCH = 512
#: The most tasks that wait in the parent for one process, because it holds their inputs.
MAX_PENDING = 64
#: Seconds without news after which an idle process gets tasks that a busy one has not started.
RECALL_AFTER = 0.02
#: Results of more bytes are dropped at once where they are held; the small ones when there is something else to say.
BIG = 1 << 20
#: What moving a result from one process to another costs: seconds, and bytes per second.
MOVE_LATENCY = 0.001
MOVE_BANDWIDTH = 1e9


class Held:
    """A result: which processes hold it, and its pickled form if the parent has it."""

    __slots__ = ("blob", "holders", "nbytes", "rank")

    def __init__(self, rank: int, nbytes: int, holder: Site) -> None:
        self.rank = rank
        self.nbytes = nbytes
        self.holders = [holder]
        self.blob: Blob | None = None


class Site:
    """One worker process in one run."""

    def __init__(self, member: Member) -> None:
        self.member = member
        #: What it was sent, or will be as soon as the inputs are here, and has not answered for: rank to node and
        #: expected seconds; and the sum of these seconds.
        self.assigned: dict[int, tuple[Node, float]] = {}
        self.seconds = 0.0
        #: Ranks of ready tasks that wait here because this process holds their inputs: a heap.
        self.pending: list[int] = []
        #: Ranks of the results and literals that it holds, and numbers of the functions that it knows.
        self.holds: set[int] = set()
        self.functions: set[int] = set()
        #: Results that it may drop; told with the next message.
        self.free: list[int] = []
        self.recalling = False

    @property
    def idle(self) -> bool:
        return not self.assigned and not self.pending

    def assign(self, node: Node, seconds: float) -> None:
        self.assigned[node.rank] = (node, seconds)
        self.seconds += seconds

    def unassign(self, rank: int) -> Node | None:
        node, seconds = self.assigned.pop(rank, (None, 0.0))
        self.seconds = self.seconds - seconds if self.assigned else 0.0
        return node


class ProcessesDriver:
    """Runs graphs on Treadle's own worker processes."""

    name = "processes"

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def drive(self, run: Run, hooks: Hooks | None) -> BaseException | None:
        if run.over():
            return None
        pool = shared_pool()
        session = _Session(run, hooks, pool, pool.lease(min(self.num_workers, len(run.nodes))))
        clean = False
        try:
            error = session.run_all()
            clean = True
        except BaseException as raised:  # an interrupt, or a bug: what the processes are doing is unknown
            error = forget_frames(raised)
        session.close()
        usable = {site.member for site in session.sites} if clean else set()
        pool.discard([member for member in session.members if member not in usable])
        pool.give_back([member for member in session.members if member in usable])
        return error


class _Session:
    """The state of one run on processes."""

    def __init__(self, run: Run, hooks: Hooks | None, pool: ProcessPool, members: list[Member]) -> None:
        self.run = run
        self.hooks = hooks
        self.pool = pool
        #: All processes that were leased, and those that live.
        self.members = members
        self.sites = [Site(member) for member in members]
        self.error: BaseException | None = None
        self.durations = Durations(BACKLOG)
        self.wanted = {node.rank for node in run.targets}
        #: Each distinct function by its id: its number, its pickle, and itself, so that the id stays its own.
        self.functions: dict[int, tuple[int, bytes, Any]] = {}
        #: The pickled literals of the graph that tasks refer to, by rank.
        self.literals: dict[int, Blob] = {}
        #: For each result that is on its way to the parent: which tasks wait for it, and where they will run.
        self.fetching: dict[int, list[tuple[Site, Node]]] = {}
        #: For each task that waits for such results: how many.
        self.missing: dict[int, int] = {}
        self.garbage: list[Any] = []
        self.selector = DefaultSelector()
        for site in self.sites:
            self.selector.register(site.member.channel, EVENT_READ, site)

    # One turn after another.

    def run_all(self) -> BaseException | None:
        run = self.run
        while True:
            self.drop_garbage()
            self.hand_out()
            if run.over():
                break
            patience = self.patience()
            events = self.selector.select(HEARTBEAT if patience is None else patience)
            if not events and patience is not None:
                self.recall()
            for key, mask in events:
                self.listen(key.data, mask)
        if self.error is None:
            self.load_targets()
        for site in self.sites:
            site.member.epoch += 1
            self.send(site, "reset", site.member.epoch)
        return self.error

    def close(self) -> None:
        self.selector.close()
        for node in self.run.nodes:
            if isinstance(node.result, Held):
                node.result = None

    def listen(self, site: Site, mask: int) -> None:
        if site not in self.sites:
            return  # it died earlier in this turn
        channel = site.member.channel
        try:
            if mask & EVENT_WRITE:
                channel.flush()
                if not channel.congested:
                    self.selector.modify(channel, EVENT_READ, site)
            if mask & EVENT_READ:
                for message, fds in channel.receive():
                    self.handle(site, message, fds)
        except (EOFError, ConnectionError):
            self.mourn(site)

    def send(self, site: Site, kind: str, *parts: Any, fds: list[int] | None = None) -> None:
        channel = site.member.channel
        try:
            channel.send((kind, *parts), fds)
        except ConnectionError:
            return  # it is dead; reading from it will say so
        if channel.congested:
            self.selector.modify(channel, EVENT_READ | EVENT_WRITE, site)

    def patience(self) -> float | None:
        """How long to wait for news: for ever, unless a process is idle while others have tasks to spare."""
        if self.run.stopped or not any(site.idle for site in self.sites):
            return None
        return RECALL_AFTER if any(len(site.assigned) > 1 for site in self.sites) else None

    def recall(self) -> None:
        """Some process has nothing to do: take back half of what the fullest one has not started."""
        site = max(self.sites, key=_assigned)
        if len(site.assigned) > 1 and not site.recalling:
            site.recalling = True
            self.send(site, "recall", 0.5)

    def drop_garbage(self) -> None:
        """Let the holders of results that nobody needs any more know, soon if they are big."""
        for held in self.garbage:
            for site in held.holders:
                site.holds.discard(held.rank)
                site.free.append(held.rank)
                if held.nbytes > BIG or len(site.free) > MAX_BATCH:
                    self.send_free(site)
            if held.blob is not None:
                held.blob.close()
        self.garbage.clear()

    def send_free(self, site: Site) -> None:
        if site.free:
            self.send(site, "free", site.free)
            site.free = []

    # Handing out.

    def hand_out(self) -> None:
        """Give every process that has room what it should run next; then, if there is more, a spare task to each.

        The spare one bridges the time until the parent hears that a long task has ended. If it would wait for long
        while another process has nothing to do, it is recalled.
        """
        for site in self.sites:
            if site.pending:
                self.fill(site, 1)
        for least in (1, 2):
            for site in sorted(self.sites, key=_seconds):
                self.fill(site, least)

    def fill(self, site: Site, least: int) -> None:
        """Assign tasks to a process: as many seconds' worth as the backlog allows, and at ``least`` so many."""
        batch: list[Node] = []
        while len(batch) < MAX_BATCH and not self.run.stopped:
            if len(site.assigned) >= least and site.seconds >= BACKLOG:
                break
            node = self.next_for(site)
            if node is None:
                break
            expected = self.durations.expected(node)
            if len(site.assigned) >= least and site.seconds + expected > BACKLOG:
                self.keep_for_later(site, node)
                break
            site.assign(node, expected)
            if self.inputs_at_hand(site, node):
                batch.append(node)
        if batch:
            self.dispatch(site, batch)

    def keep_for_later(self, site: Site, node: Node) -> None:
        if self.home(node) is site:
            heappush(site.pending, node.rank)
        else:
            self.run.put_back(node)

    def next_for(self, site: Site) -> Node | None:
        if site.pending:
            return self.run.nodes[heappop(site.pending)]
        while True:
            node = self.run.take()
            if node is None:
                return self.steal(site)
            home = self.home(node)
            if home is None or home is site or len(home.pending) >= MAX_PENDING:
                return node
            heappush(home.pending, node.rank)

    def home(self, node: Node) -> Site | None:
        """The process that holds most of what a task needs; None if moving it costs nothing worth mentioning."""
        totals: dict[Site, int] = {}
        for dep in node.deps:
            held: Held = dep.result
            if held.blob is None or held.blob.fd >= 0:
                for site in held.holders:
                    totals[site] = totals.get(site, 0) + held.nbytes
        return max(totals, key=totals.__getitem__) if totals else None

    def steal(self, site: Site) -> Node | None:
        """A task that waits for a busy process, if moving its inputs here is quicker than waiting there."""
        if site.assigned:
            return None
        victim = max(self.sites, key=_pending)
        if not victim.pending or not victim.assigned:
            return None
        rank = max(victim.pending)
        node = self.run.nodes[rank]
        if MOVE_LATENCY + sum(dep.result.nbytes for dep in node.deps) / MOVE_BANDWIDTH > victim.seconds:
            return None
        victim.pending.remove(rank)
        heapify(victim.pending)
        return node

    def inputs_at_hand(self, site: Site, node: Node) -> bool:
        """True if the task can be sent now; otherwise its inputs have been asked for."""
        missing = 0
        questions: dict[Site, list[int]] = {}
        for dep in node.deps:
            held: Held = dep.result
            if dep.rank in site.holds or held.blob is not None:
                continue
            missing += 1
            if dep.rank not in self.fetching:
                self.fetching[dep.rank] = []
                questions.setdefault(held.holders[0], []).append(dep.rank)
            self.fetching[dep.rank].append((site, node))
        for holder, ranks in questions.items():
            self.send(holder, "give", ranks)
        if missing:
            self.missing[node.rank] = missing
        return missing == 0

    def dispatch(self, site: Site, batch: list[Node]) -> None:
        """Send some tasks, and before them all that they need and the process does not have yet."""
        functions: list[tuple[int, bytes]] = []
        calls: list[tuple[Node, int]] = []
        try:
            for node in batch:
                calls.append((node, self.function(site, node, functions)))
                self.send_inputs(site, node)
            blob = encode(calls)
        except Exception as error:
            self.refuse(site, batch, error)
            return
        if self.hooks is not None and not self.announce(site, batch):
            return
        self.send_free(site)
        ranks = [node.rank for node in batch]
        wanted = set(ranks) if self.hooks is not None and self.hooks.needs_results else self.wanted.intersection(ranks)
        fds: list[int] = []
        wire = blob.wire(fds)
        self.send(site, "run", ranks, wanted, functions, wire, fds=fds)

    def announce(self, site: Site, batch: list[Node]) -> bool:
        """Tell the callbacks which tasks are about to be sent. False if one of them objects."""
        assert self.hooks is not None
        try:
            for node in batch:
                self.hooks.before(node.key, site.member.name)
        except BaseException as error:
            self.abandon(site, batch)
            self.fail(error)
            return False
        return True

    def function(self, site: Site, node: Node, functions: list[tuple[int, bytes]]) -> int:
        """The number of a task's function; its pickle is added to ``functions`` if the process does not have it."""
        known = self.functions.get(id(node.func))
        if known is None:
            import cloudpickle

            known = (len(self.functions), cloudpickle.dumps(node.func, 5), node.func)
            self.functions[id(node.func)] = known
        if known[0] not in site.functions:
            site.functions.add(known[0])
            functions.append(known[:2])
        return known[0]

    def send_inputs(self, site: Site, node: Node) -> None:
        inputs: list[tuple[int, Any]] = []
        fds: list[int] = []
        for rank, blob in self.missing_inputs(site, node):
            site.holds.add(rank)
            inputs.append((rank, blob.wire(fds)))
            if len(fds) >= MAX_FDS:
                self.send(site, "hold", inputs, fds=fds)
                inputs, fds = [], []
        if inputs:
            self.send(site, "hold", inputs, fds=fds)

    def missing_inputs(self, site: Site, node: Node) -> Iterator[tuple[int, Blob]]:
        """What a task needs and the process does not have yet."""
        for literal in literals((*node.args, *(node.kwargs or {}).values())):
            if literal.rank not in site.holds:
                blob = self.literals.get(literal.rank)
                if blob is None:
                    self.literals[literal.rank] = blob = dumps(literal.result)
                yield literal.rank, blob
        for dep in node.deps:
            if dep.rank not in site.holds:
                held: Held = dep.result
                if held.blob is None:
                    raise InternalError(f"the result of {dep.key!r} is not where it was said to be")
                held.holders.append(site)
                yield dep.rank, held.blob

    def refuse(self, site: Site, batch: list[Node], error: Exception) -> None:
        """A batch cannot be pickled: find out whose fault it is."""
        blame = None if isinstance(error, InternalError) else why_not(batch)
        self.abandon(site, batch)
        self.fail(blame or error)

    def abandon(self, site: Site, batch: list[Node]) -> None:
        """Forget tasks that were assigned and will not be sent."""
        for node in batch:
            site.unassign(node.rank)
            self.run.drop()

    # Listening.

    def handle(self, site: Site, message: tuple[Any, ...], fds: list[int]) -> None:
        kind, epoch = message[0], message[1]
        if epoch != site.member.epoch:
            for fd in fds:
                os.close(fd)  # the answer to a question of an earlier run
        elif kind == "done":
            for entry in message[2]:
                self.settle(site, entry, fds)
        elif kind == "failed":
            self.task_failed(site, message[2], message[3])
        elif kind == "unread":
            self.tasks_unread(site, message[2], message[3])
        elif kind == "unheld":
            self.fail(ResultNotSerializableError(self.run.nodes[message[2]].key, "result", message[3]))
        elif kind == "gave":
            for rank, wire, refusal in message[2]:
                self.received(rank, wire, refusal, fds)
        elif kind == "recalled":
            site.recalling = False
            for rank in message[2]:
                node = site.unassign(rank)
                if node is not None:
                    self.run.put_back(node)

    def settle(self, site: Site, entry: tuple[Any, ...], fds: list[int]) -> None:
        rank, started, stopped, nbytes, wire = entry
        node = site.unassign(rank)
        if node is None:
            raise InternalError(f"{site.member!r} finished a task that it was not given: rank {rank}")
        held = Held(rank, nbytes, site)
        site.holds.add(rank)
        if wire is not None:
            held.blob = Blob.unwire(wire, fds)
        self.durations.learn(node, stopped - started)
        self.run.settle(node, held, self.garbage)
        if self.hooks is not None:
            name = function_name(node.func)
            record = TaskRecord(node.key, name, site.member.name, started, stopped, self.run.live)
            try:
                result = load_result(held.blob, node.key) if self.hooks.needs_results and held.blob else None
                self.hooks.after(record, result)
            except BaseException as error:
                self.fail(error)

    def received(self, rank: int, wire: Any, refusal: Any, fds: list[int]) -> None:
        """A result that was asked for has come, or cannot come."""
        node = self.run.nodes[rank]
        if wire is None:
            self.fail(unpack_error(refusal, node.key))  # which also gives up the tasks that wait for it
            return
        waiting = self.fetching.pop(rank, [])
        blob = Blob.unwire(wire, fds)
        if not isinstance(node.result, Held):
            return  # nobody needs it any more; the blob closes itself
        node.result.blob = blob
        ready: dict[Site, list[Node]] = {}
        for site, waiter in waiting:
            self.missing[waiter.rank] -= 1
            if self.missing[waiter.rank] == 0:
                del self.missing[waiter.rank]
                ready.setdefault(site, []).append(waiter)
        for site, batch in ready.items():
            self.dispatch(site, batch)

    # Ends.

    def task_failed(self, site: Site, rank: int, packed: Any) -> None:
        node = site.unassign(rank)
        if node is None:
            raise InternalError(f"{site.member!r} failed in a task that it was not given: rank {rank}")
        self.run.drop()
        self.fail(unpack_error(packed, node.key))

    def tasks_unread(self, site: Site, ranks: list[int], packed: Any) -> None:
        """A process could not make the functions or the arguments of some tasks from their pickles."""
        nodes = [node for node in map(site.unassign, ranks) if node is not None]
        for _ in nodes:
            self.run.drop()
        keys = [node.key for node in nodes]
        self.fail(why_not(nodes) or unpack_error(packed, *keys))

    def fail(self, error: BaseException) -> None:
        """End the run early: what has not been started is taken back, what runs is waited for."""
        if self.error is not None:
            return
        self.error = trim_error(error)
        self.run.stop()
        for waiting in self.fetching.values():
            for site, node in waiting:
                if site.unassign(node.rank) is not None:
                    self.run.drop()
        self.fetching.clear()
        self.missing.clear()
        for site in self.sites:
            for _ in site.pending:
                self.run.drop()
            site.pending.clear()
            if site.assigned:
                self.send(site, "recall", 1.0)

    def mourn(self, site: Site) -> None:
        """A process has died: the run cannot go on if it had anything that is needed."""
        self.selector.unregister(site.member.channel)
        self.sites.remove(site)
        if site.member.untouched and self.error is None:
            self.replace(site)
            return
        rank = site.member.current
        keys = [site.assigned[rank][0].key] if rank in site.assigned else []
        needed = bool(site.assigned) or bool(site.pending) or not self.sites
        for dead in site.holds:
            held = self.run.nodes[dead].result if dead >= 0 else None
            if isinstance(held, Held):
                held.holders.remove(site)
                needed = needed or (not held.holders and held.blob is None)
        for _ in range(len(site.assigned) + len(site.pending)):
            self.run.drop()
        assigned = set(site.assigned)
        site.assigned.clear()
        site.pending.clear()
        for rank in assigned:
            self.missing.pop(rank, None)
        if needed:
            self.fail(WorkerDiedError(keys, site.member.pid, site.member.bury()))

    def replace(self, site: Site) -> None:
        """A process died between two runs and was noticed too late: what it was to do is for another one."""
        for rank in (*site.assigned, *site.pending):
            self.run.put_back(self.run.nodes[rank])
            self.missing.pop(rank, None)
        for rank, waiting in self.fetching.items():
            self.fetching[rank] = [(where, node) for where, node in waiting if where is not site]
        for rank in site.holds:
            held = self.run.nodes[rank].result if rank >= 0 else None
            if isinstance(held, Held):
                held.holders.remove(site)
        (member,) = self.pool.lease(1)
        self.members.append(member)
        self.sites.append(Site(member))
        self.selector.register(member.channel, EVENT_READ, self.sites[-1])

    def load_targets(self) -> None:
        for node in self.run.targets:
            held: Held = node.result
            if held.blob is None:
                raise InternalError(f"the result of {node.key!r} did not come with its task")
            try:
                node.result = load_result(held.blob, node.key)
            except ResultNotSerializableError as error:
                self.error = trim_error(error)
                return


def _seconds(site: Site) -> float:
    return site.seconds


def _pending(site: Site) -> int:
    return len(site.pending)


def _assigned(site: Site) -> int:
    return len(site.assigned)
