"""Graphs on a cluster: packed into columns, sent, and watched until their results are here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from treadle.client.calls import CHUNK, LIMIT, Calls, Known, judge_size
from treadle.client.future import Future
from treadle.client.outbox import Options
from treadle.client.scattering import place
from treadle.client.tasks import collect, value_of
from treadle.client.varied import Varied
from treadle.errors import DataLostError
from treadle.graph.foreign import ALIAS, REFERENCE, foreign_kind
from treadle.graph.fused import Steps, run_fused
from treadle.graph.node import Call, Dicted, Listed, Node, Template
from treadle.graph.plan import Plan
from treadle.graph.spec import Task
from treadle.naming import unique
from treadle.wire.pickling import dump
from treadle.wire.sizes import sizeof
from treadle.wire.values import SCALARS, Slot, find_bulky, pack_call

if TYPE_CHECKING:
    from treadle.client.session import Session

__all__ = ["APART", "Shipment", "with_persisted"]

#: Key, number of the function, payload, and positions of rows or keys that it depends on.
_Row: TypeAlias = "tuple[str, int, bytes, list[Any]]"

#: A value of the graph with more bytes than this that several tasks need is sent once.
_SHARED: Final = 1024

#: A value of the graph with at least this many bytes may go straight to a worker. To the scheduler, which keeps what
#: travels with a task for as long as that may have to run again, so much costs more than ten tasks of the usual size.
APART: Final = 1 << 20


def with_persisted(graph: dict[Any, Any], session: Session) -> dict[Any, Any]:
    """A graph of Dask, and results that are on the cluster.

    It may refer to those without having them, or with a reference of a key to itself in their place.
    """
    held: dict[Any, Any] = {}
    with session.lock:
        persisted = list(session.persisted.items())
    for key, future in persisted:
        if key not in graph or _names(graph[key], key):
            held[key] = Task(value_of, future)
    return {**graph, **held} if held else graph


def _names(value: Any, key: Any) -> bool:
    """Whether a value in a graph of Dask is nothing but another name of a key."""
    kind = foreign_kind(type(value))
    return (kind == ALIAS and value.target == key) or (kind == REFERENCE and value.key == key)


class _Heavy(NamedTuple):
    """A call that was not packed yet, because it has too many bytes of arguments: those of :meth:`Shipment._call`."""

    key: object
    name: str
    func: Any
    args: list[Any]
    kwargs: dict[str, Any] | None
    deps: list[Any]
    nested: bool

    def without(self, bulky: list[Any]) -> _Heavy:
        """The same call with some values as dependencies."""
        slots = {id(value): Slot(index) for index, value in enumerate(bulky, len(self.deps))}
        args = [slots.get(id(arg), arg) for arg in self.args]
        kwargs = {word: slots.get(id(arg), arg) for word, arg in self.kwargs.items()} if self.kwargs else None
        return self._replace(args=args, kwargs=kwargs, deps=[*self.deps, *bulky])


class Shipment:
    """The tasks of one graph on their way to the scheduler.

    :param private: give the tasks names that no other graph has. Otherwise their keys are their names.
    :param allowed: how many bytes of arguments may travel with a task. If there are ``heavy`` ones, with more,
        :meth:`lighten` or :meth:`load` is to be called before :meth:`send`.
    :raises TaskNotSerializableError: names what of a task cannot be pickled.
    """

    def __init__(self, session: Session, calls: Calls, plan: Plan, private: bool, allowed: int = LIMIT) -> None:
        self._session = session
        self._calls = calls
        self._plan = plan
        self._suffix = f"~{unique()}." if private else ""
        #: The futures of results that are wanted, by rank.
        self.futures: dict[int, Future[Any]] = {}
        #: The futures that stand in the place of a task.
        self.given: dict[int, Future[Any]] = {}
        self._rows: list[_Row] = []
        #: The position of each task among the rows, by rank, and of each value that is sent by itself, by identity.
        self._positions: dict[int, int] = {}
        self._values: dict[int, int] = {}
        #: The functions of this graph, by identity.
        self._functions: dict[int, Known] = {}
        self._allowed = allowed
        #: By the positions of their rows.
        self.heavy: dict[int, _Heavy] = {}
        #: The big values that were put on workers, with their futures, by identity.
        self._apart: dict[int, tuple[Any, Future[Any]]] = {}
        self._pack()

    def __repr__(self) -> str:
        return f"<Shipment of {len(self._rows)} tasks, {len(self.futures)} wanted>"

    def send(self, nodes: Iterable[Node], options: Options = None) -> None:
        """Send everything; the results of ``nodes`` are wanted.

        :param options: of each task; a :class:`Varied` if they differ.
        """
        session = self._session
        wanted: dict[int, None] = {}
        for node in nodes:
            given = self.given.get(node.rank)
            if given is not None:
                self.futures[node.rank] = given
                continue
            position = self._positions[node.rank]
            self.futures[node.rank] = Future(self._rows[position][0], session)
            wanted[position] = None
        made = [future for rank, future in self.futures.items() if rank not in self.given]
        session.ship(made, self._messages(list(wanted), options))

    async def lighten(self) -> None:
        """Steps: put big arguments of heavy tasks on workers, so that only their keys travel with these.

        The scheduler cannot have such a value made again: if the only worker that has it dies while something needs
        it, that fails with a :class:`~treadle.errors.DataLostError`.

        :raises UserError: a task has too many bytes of arguments even so.
        """
        values: dict[int, tuple[str, Any]] = {}
        for position, call in self.heavy.items():
            bulky = find_bulky(call.args, call.kwargs, call.deps, APART)
            for value in bulky:
                values.setdefault(id(value), (f"{call.key!s:.80}-{unique()}", value))
            self.heavy[position] = call.without(bulky)
        if values:
            futures = await place(self._session, dict(values.values()))
            self._apart = {ident: (value, future) for (ident, (_, value)), future in zip(values.items(), futures)}
        self.load()

    def load(self) -> None:
        """Have what heavy tasks are given travel with them, apart from what was put on workers.

        :raises UserError: a task has too many bytes of arguments.
        """
        heavy, self.heavy = self.heavy, {}
        for position, (key, name, func, args, kwargs, deps, nested) in heavy.items():
            payload = pack_call(key, args, kwargs, deps, nested)
            if len(payload) > LIMIT:
                judge_size(key, args, kwargs, payload, 0)
            self._rows[position] = name, self._function(func, key).number, payload, [self._place(dep) for dep in deps]

    def bind(self) -> None:
        """Have what was put on workers live as long as the futures of the results that are made of it."""
        apart = [future for _, future in self._apart.values()]
        if apart:
            for future in self.own():
                future._apart = apart

    def missed(self, error: BaseException | None) -> bool:
        """Whether an error is that a value which was put on a worker is lost."""
        return type(error) is DataLostError and any(error.key == future.key for _, future in self._apart.values())

    def own(self) -> list[Future[Any]]:
        """The futures that were made for this graph."""
        return [future for rank, future in self.futures.items() if rank not in self.given]

    def names(self) -> set[str]:
        """What the tasks are called on the cluster."""
        return {row[0] for row in self._rows}

    def key_of(self, name: str) -> object:
        """The key in the graph of what has this name on the cluster."""
        if self._suffix:
            rank = name.rpartition(self._suffix)[2]
            return self._plan.nodes[int(rank)].key if rank.isdigit() else name
        return next((node.key for node in self._plan.nodes if self._name(node) == name), name)

    def _name(self, node: Node) -> str:
        if self._suffix:
            return f"{node.key!s:.80}{self._suffix}{node.rank}"
        key = node.key
        return key if isinstance(key, str) else repr(key)

    # Packing

    def _pack(self) -> None:
        nodes = self._plan.nodes
        for node in nodes:
            if node.func is value_of and type(node.args[0]) is Future:
                self._calls.check_owner(node.args[0], node.key)
                self.given[node.rank] = node.args[0]
        if any(node.done for node in self._plan.found.values()):
            self._pack_shared(nodes)
        rows = self._rows
        for node in nodes:
            if node.rank not in self.given:
                row = self._pack_node(node)
                self._positions[node.rank] = len(rows)
                rows.append(row)

    def _pack_shared(self, nodes: list[Node]) -> None:
        """Make tasks of the big values that several tasks need."""
        users: dict[int, int] = {}
        known: dict[int, Node] = {}
        for node in nodes:
            for literal in _literals(node):
                users[id(literal)] = users.get(id(literal), 0) + 1
                known[id(literal)] = literal
        number = 0
        for ident, count in users.items():
            literal = known[ident]
            if count > 1 and sizeof(literal.result) > _SHARED:
                number += 1
                name = (
                    f"{literal.key!s:.80}-{unique()}"
                    if not self._suffix
                    else f"{literal.key!s:.80}{self._suffix}v{number}"
                )
                row = self._call(literal.key, name, collect, [literal.result], None, [], False)
                self._values[ident] = len(self._rows)
                self._rows.append(row)

    def _pack_node(self, node: Node) -> _Row:
        args: list[Any] = list(node.args)
        if node.func is run_fused:
            args[0] = _packed(args[0])
        kwargs: dict[str, Any] | None = node.kwargs
        deps: list[Any] = node.deps
        for arg in args:
            if type(arg) not in SCALARS and not (type(arg) is Node and not arg.done):
                special = True
                break
        else:
            special = kwargs is not None
        if special:
            leaves: list[Any] = []
            args = [self._inline(arg, leaves) for arg in args]
            if kwargs is not None:
                kwargs = {word: self._inline(arg, leaves) for word, arg in kwargs.items()}
            shared = [leaf for leaf in leaves if type(leaf) is Node and leaf.done]
            deps = [*deps, *dict.fromkeys(shared), *self._calls.futures(node.key, leaves, None)]
        func = collect if node.func is None else node.func
        return self._call(node.key, self._name(node), func, args, kwargs, deps, node.nested and special)

    def _inline(self, arg: Any, leaves: list[Any]) -> Any:
        """An argument with values in the place of nodes whose value is known, unless they are sent by themselves.

        :param leaves: is extended by what may be, or hold, something that is not a value.
        """
        kind = type(arg)
        if kind in SCALARS:
            return arg
        if kind is Node:
            if not arg.done:
                return arg
            if id(arg) not in self._values:
                return self._inline_value(arg.result, leaves)
        elif kind is Listed:
            return Listed([self._inline(item, leaves) for item in arg.items], arg.make)
        elif kind is Dicted:
            return Dicted(arg.words, [self._inline(item, leaves) for item in arg.values])
        elif kind is Call:
            return Call(arg.func, [self._inline(item, leaves) for item in arg.args], arg.words)
        leaves.append(arg)
        return arg

    def _inline_value(self, value: Any, leaves: list[Any]) -> Any:
        leaves.append(value)
        return value

    def _call(
        self,
        key: object,
        name: str,
        func: Any,
        args: list[Any],
        kwargs: dict[str, Any] | None,
        deps: list[Any],
        nested: bool,
    ) -> _Row:
        payload = pack_call(key, args, kwargs, deps, nested)
        if len(payload) > self._allowed:
            self.heavy[len(self._rows)] = _Heavy(key, name, func, args, kwargs, deps, nested)
            payload = b""  # not to have all of them twice
        return name, self._function(func, key).number, payload, [self._place(dep) for dep in deps]

    def _function(self, func: Any, key: object) -> Known:
        known = self._functions.get(id(func))
        if known is None:  # nobody has said that it may be called twice
            known = self._functions[id(func)] = self._calls.function(func, False, key)
        return known

    def _place(self, dep: Any) -> int | str:
        """A dependency: the position of a row, or the key of what is on the cluster already."""
        if type(dep) is not Node:
            _, future = self._apart.get(id(dep), (None, dep))
            key: str = future.key
            return key
        if dep.done:
            return self._values[id(dep)]
        given = self.given.get(dep.rank)
        return self._positions[dep.rank] if given is None else given.key

    # Sending

    def _messages(self, wanted: list[int], options: Options) -> list[tuple[Any, ...]]:
        """The rows as messages of moderate size, each for tasks with the same options."""
        rows = self._rows
        if not rows:
            return []
        asked = self._options_by_row(options) if isinstance(options, Varied) else None
        starts = _cuts(rows, asked)
        if len(starts) < 2:
            everything = None if len(wanted) == len(rows) else wanted
            return [_submit(rows, 0, everything, options if asked is None else asked[0])]
        # What is wanted by nobody would be forgotten at the end of its message, before its dependents arrive.
        stops = [*starts[1:], len(rows)]
        keep = set(wanted)
        held = keep.union(*[_outside(rows, start, stop) for start, stop in zip(starts, stops)])
        messages = []
        for start, stop in zip(starts, stops):
            part = rows[start:stop]
            own = [index - start for index in range(start, stop) if index in held]
            each = options if asked is None else asked[start]
            messages.append(_submit(part, start, None if len(own) == len(part) else own, each, rows))
        others = self._session.registry.futures
        dropped = [rows[index][0] for index in sorted(held - keep) if rows[index][0] not in others]
        return [*messages, ("release", dropped)] if dropped else messages

    def _options_by_row(self, options: Varied) -> list[Options]:
        found: list[Options] = [options.usual] * len(self._rows)
        special = options.special
        for node in self._plan.nodes:
            position = self._positions.get(node.rank)
            if position is not None:
                found[position] = special.get(node.key, options.usual)
        return found


def _cuts(rows: list[_Row], asked: list[Options] | None) -> list[int]:
    """Where messages begin."""
    starts = [0]
    size = 0
    for index, row in enumerate(rows):
        size += len(row[2])
        if index and (size > CHUNK or (asked is not None and asked[index] is not asked[index - 1])):
            starts.append(index)
            size = len(row[2])
    return starts


def _outside(rows: list[_Row], start: int, stop: int) -> set[int]:
    """The positions of what some rows need of earlier ones."""
    return {dep for row in rows[start:stop] for dep in row[3] if type(dep) is int and dep < start}


def _submit(
    part: list[_Row],
    start: int,
    wanted: list[int] | None,
    options: Options,
    rows: list[_Row] | None = None,
) -> tuple[Any, ...]:
    keys, functions, payloads, deps = zip(*part)
    if not any(deps):
        deps = ()
    elif rows is not None and start:
        deps = tuple([_relative(row, start, rows) for row in deps])
    return "submit", keys, functions, payloads, deps, wanted, options


def _relative(deps: list[Any], start: int, rows: list[_Row]) -> list[Any]:
    """Positions in all rows as positions in one message, or as keys of tasks of earlier ones."""
    return [dep if isinstance(dep, str) else dep - start if dep >= start else rows[dep][0] for dep in deps]


def _packed(steps: Steps) -> Steps | bytes:
    """The steps of a fused task, pickled once for all that share them; as they are if they cannot be pickled."""
    if steps.packed is None:
        try:
            steps.packed = dump(steps)
        except Exception:
            return steps  # what it is that cannot be pickled is said of the task
    return steps.packed


def _literals(node: Node) -> list[Node]:
    """The distinct nodes with known values among the arguments of a task."""
    found: dict[Node, None] = {}
    stack: list[Any] = [*node.args, *(node.kwargs or {}).values()]
    while stack:
        arg = stack.pop()
        if type(arg) is Node:
            if arg.done:
                found[arg] = None
        elif isinstance(arg, Template):
            stack.extend(arg.children())
    return list(found)
