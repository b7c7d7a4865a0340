"""``@delayed``: write a graph by calling functions.

A call of a delayed function does not run it. It returns a :class:`Delayed`, which holds one task and refers to the
delayed values that this task needs; the graph is put together when somebody asks for a result. So a call costs the
same however many were made before it, and a chain of any length can be computed, pickled and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, overload

from treadle.arguments import ATOMS, ITERATORS, Source, fill, pack
from treadle.callbacks import Callback
from treadle.errors import UserError
from treadle.graph.spec import Data, Ref, Task
from treadle.lineage import KeyConflictError, collect, rebuild, records
from treadle.local.drive import Outcome
from treadle.local.hooks import function_name
from treadle.naming import brief_token, check_key, is_brief, unique
from treadle.operators import Operators
from treadle.scheduling import outcome
from treadle.tokens import TokenizeError, tokenize

__all__ = ["Delayed", "KeyConflictError", "compute", "delayed", "graph_of"]

_MISSING: Any = object()
_set = object.__setattr__


class Delayed(Operators):
    """A value that is yet to be computed: the result of one task of a graph.

    Operators, items, attributes and methods give further delayed values; :meth:`compute` runs what is needed.
    What begins with an underscore is not delayed and raises ``AttributeError``.
    """

    __slots__ = ("__weakref__", "_deps", "_key", "_named", "_nout", "_task")

    if TYPE_CHECKING:
        #: What names the result in the graph.
        _key: Any
        _task: Task | Data
        #: Where the tasks behind the references in ``_task`` are found.
        _deps: tuple[Source, ...]
        #: The number of items of the result, if it is known.
        _nout: int | None
        #: True if the user chose the key, so that it may be in use for something else.
        _named: bool

    def __init__(
        self, key: Any, task: Task | Data, deps: tuple[Source, ...] = (), nout: int | None = None, named: bool = False
    ) -> None:
        _set(self, "_key", key)
        _set(self, "_task", task)
        _set(self, "_deps", deps)
        _set(self, "_nout", nout)
        _set(self, "_named", named)

    @property
    def key(self) -> Any:
        """The key of this value in the graph."""
        return self._key

    def graph(self) -> dict[Any, Any]:
        """The graph behind this value in explicit form: a new dict from keys to tasks.

        :raises KeyConflictError: the same key was given to different tasks.
        """
        return graph_of((self,))[0]

    def compute(
        self,
        scheduler: Any = None,
        *,
        num_workers: int | None = None,
        pool: Any = None,
        callbacks: Iterable[Callback] | None = None,
        **options: Any,
    ) -> Any:
        """The value. Parameters and errors as of :func:`compute`."""
        done = _run((self,), False, scheduler, num_workers, pool, callbacks, options)
        if done.error is not None:
            try:
                raise done.error
            finally:
                del done  # see treadle.get
        return done.value[0]

    def visualize(self, filename: str | None = "treadle-graph", format: str | None = None, **options: Any) -> Any:
        """Draw the graph behind this value; see :func:`treadle.visualize`."""
        from treadle.drawing import visualize

        return visualize(self, filename=filename, format=format, **options)

    def __repr__(self) -> str:
        return f"Delayed({self.key!r})"

    def _repr_html_(self) -> str:
        from treadle.html import delayed_card, shown

        return shown(delayed_card, self)

    def __dir__(self) -> list[str]:
        return dir(type(self))

    def __getattr__(self, name: str) -> Delayed:
        if name.startswith("_"):
            raise AttributeError(
                f"{name!r} begins with an underscore, and such attributes of a Delayed are not delayed; "
                f"write delayed(getattr)(x, {name!r}) if it is meant for the result."
            )
        ref = Ref(self.key)
        return _Attribute(f"getattr-{brief_token(ref, name)}", Task(getattr, ref, name), (self,))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed:
        return _call(_call_result, "call", (self, *args), kwargs)

    def _operate(self, func: Callable[..., Any], *operands: Any, nout: int | None = None) -> Delayed:
        found: list[Any] = []
        packed = [pack(operand, found) for operand in operands]
        name = func.__name__.rstrip("_")
        # The same operator on the same values is one task, as long as it costs next to nothing to tell.
        suffix = brief_token(name, *packed) if all(map(is_brief, packed)) else unique()
        return Delayed(f"{name}-{suffix}", Task(func, *packed), tuple(found), nout)

    def __iter__(self) -> Iterator[Delayed]:
        return iter([self[index] for index in range(len(self))])

    def __len__(self) -> int:
        if self._nout is None:
            raise TypeError(
                f"{self!r} has no length and cannot be iterated before it is computed. "
                "If the number of items is known, say delayed(function, nout=number); else call .compute() first."
            )
        return self._nout

    def __contains__(self, item: object) -> bool:
        raise TypeError(
            f"what is in {self!r} is not known before it is computed. "
            "Call .compute() first, or use delayed(operator.contains)(x, item)."
        )

    def __bool__(self) -> bool:
        raise TypeError(
            f"whether {self!r} is true is not known before it is computed, so it cannot be used in if, while, and, or, "
            "not. Call .compute() first, or move the condition into a delayed function."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(f"Delayed objects are immutable: cannot set {name!r}. {_CHANGE}")

    def __delattr__(self, name: str) -> None:
        raise TypeError(f"Delayed objects are immutable: cannot delete {name!r}. {_CHANGE}")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(f"Delayed objects are immutable: cannot set items. {_CHANGE}")

    def __delitem__(self, index: Any) -> None:
        raise TypeError(f"Delayed objects are immutable: cannot delete items. {_CHANGE}")

    def __copy__(self) -> Delayed:
        return self

    def __deepcopy__(self, memo: Any) -> Delayed:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (records(self),)

    def _rest(self) -> tuple[Any, ...]:
        return self._nout, self._named


_CHANGE = "Change the result inside a delayed function."


class _Leaf(Delayed):
    # No docstring: __doc__ is that of the function.
    __slots__ = ("_name", "_pure", "_token")

    if TYPE_CHECKING:
        _task: Data
        _name: str
        _pure: bool
        _token: str | None

    def __init__(
        self, key: Any, task: Data, deps: tuple[Source, ...], nout: int | None, named: bool, name: str, pure: bool
    ) -> None:
        if key is None and not pure:
            key = f"{name}-{unique()}"
        super().__init__(key, task, deps, nout, named)
        _set(self, "_name", name)
        _set(self, "_pure", pure)
        _set(self, "_token", None)

    @property
    def key(self) -> Any:
        # A pure function is often never used as a value itself, and its content may not be complete when it is
        # decorated: the globals it uses may follow below.
        if self._key is None:
            _set(self, "_key", f"{self._name}-{self._content()}")
        return self._key

    def _content(self) -> str:
        """What identifies the value in the keys of pure calls."""
        if self._token is None:
            try:
                token = repr(self._key) if self._named else tokenize(self._task.value)
            except TokenizeError as error:
                raise TokenizeError(error.type_name, error.reason, _within(error, self._name)) from error
            _set(self, "_token", token)
        assert self._token is not None
        return self._token

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed:
        func: Any = self._task.value
        return _call(func, self._name, args, kwargs, self._nout, self._pure, self)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not callable(self._task.value):
            return self
        return MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name in _FORWARDED and callable(self._task.value):
            return getattr(self._task.value, name)
        return super().__getattr__(name)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._task.value.__doc__ if callable(self._task.value) else Delayed.__doc__

    @property
    def __annotations__(self) -> Any:  # type: ignore[override]
        # Not left to __getattr__: Python gives a class an empty dict of annotations when somebody asks for them.
        return getattr(self._task.value, "__annotations__", {}) if callable(self._task.value) else {}

    @property
    def __wrapped__(self) -> Any:
        if not callable(self._task.value):
            raise AttributeError("__wrapped__")
        return self._task.value

    def _rest(self) -> tuple[Any, ...]:
        return self._nout, self._named, self._name, self._pure


#: What a delayed function shows of the function itself.
_FORWARDED = frozenset({"__defaults__", "__kwdefaults__", "__name__", "__qualname__"})


class _Attribute(Delayed):
    """An attribute of a delayed value; when it is called, a call of that method."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed:
        name = self._attribute()
        return _call(_Method(name), name, (self._deps[0], *args), kwargs)

    def __getattr__(self, name: str) -> Delayed:
        if name == "dtype" and self._attribute() == "dtype":
            # numpy.dtype(x) follows x.dtype.dtype.dtype... until there is no such attribute.
            raise AttributeError("a dtype has no attribute 'dtype'")
        return super().__getattr__(name)

    def _attribute(self) -> str:
        assert isinstance(self._task, Task)
        return str(self._task.args[1])


class _Method:
    """Calls the method of that name of its first argument."""

    __slots__ = ("__name__",)

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(instance, self.__name__)(*args, **kwargs)

    def __repr__(self) -> str:
        return f".{self.__name__}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Method) and self.__name__ == other.__name__

    def __hash__(self) -> int:
        return hash(("_Method", self.__name__))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Method, (self.__name__,)


def _call_result(func: Any, /, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _collect(value: Any) -> Any:
    return value


# Making delayed values.


@overload
def delayed(
    obj: Any, name: Any = None, pure: bool | None = None, nout: int | None = None, traverse: bool = True
) -> Delayed: ...
@overload
def delayed(
    *, name: Any = None, pure: bool | None = None, nout: int | None = None, traverse: bool = True
) -> Callable[[Any], Delayed]: ...
def delayed(
    obj: Any = _MISSING, name: Any = None, pure: bool | None = None, nout: int | None = None, traverse: bool = True
) -> Delayed | Callable[[Any], Delayed]:
    """Make a function or a value delayed.

    A delayed function, when called, returns a :class:`Delayed` and runs when that is computed. Delayed values may be
    arguments, also inside lists, tuples, sets, dicts, named tuples, dataclasses and slices. Each call takes two
    keywords of ours: ``treadle_key=`` (or ``dask_key_name=``) names the result, and ``pure=`` overrides the one below.

    >>> @delayed
    ... def double(x):
    ...     return 2 * x
    >>> total = delayed(sum)([double(1), double(2)])
    >>> total.compute()
    6

    :param obj: a function, or any value. Without it a decorator is returned: ``@delayed(pure=True)``.
    :param name: the key of ``obj`` in the graph.
    :param pure: True if equal arguments always give equal results: then calls with equal arguments have equal keys and
        run once. Arguments are compared by content, see :func:`treadle.tokenize`. By default every call is another one.
    :param nout: how many items the result (or the value) has, so that it can be iterated and unpacked.
    :param traverse: False: do not look for delayed values inside ``obj``.
    :raises TokenizeError: the call is pure, and an argument has no content to make a key from.
    """
    if nout is not None and (type(nout) is not int or nout < 0):
        raise ValueError(f"nout must be a whole number of at least 0, or None, not {nout!r}")
    if name is not None:
        check_key(name)
    if obj is _MISSING:
        return lambda value: delayed(value, name, pure, nout, traverse)
    if isinstance(obj, Delayed):
        return obj
    found: list[Any] = []
    packed = pack(obj, found) if traverse or hasattr(type(obj), "__dask_graph__") else Data(obj)
    if not found:
        value = fill(packed, {}) if type(obj) in ITERATORS else obj
        return _Leaf(name, Data(value), (), nout, name is not None, _name_of(value), bool(pure))
    if name is None and type(packed) is Ref:
        # A collection of Dask: its own key tells what it is.
        return Delayed(packed.key, found[0]._task, tuple(found), nout)
    key = name
    if key is None:
        key = f"{type(obj).__name__}-{tokenize(packed) if pure else unique()}"
    return Delayed(key, Task(_collect, packed), tuple(found), nout, name is not None)


def _call(
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    nout: int | None = None,
    pure: bool = False,
    leaf: _Leaf | None = None,
) -> Delayed:
    key = None
    if kwargs:
        key, pure = _options(func, kwargs, pure)
    found: list[Any] = []
    packed = [arg if type(arg) in ATOMS else pack(arg, found) for arg in args]
    words = {word: pack(arg, found) for word, arg in kwargs.items()} if kwargs else kwargs
    task = Task(func, *packed, **words)
    if key is not None:
        return Delayed(key, task, tuple(found), nout, True)
    if pure:
        content = func if leaf is None else leaf._content()
        suffix = _token_of_call(func, name, content, packed, words)
    else:
        suffix = unique()
    return Delayed(f"{name}-{suffix}", task, tuple(found), nout)


def _options(func: Callable[..., Any], kwargs: dict[str, Any], pure: bool) -> tuple[Any, bool]:
    """Take our own keywords out of ``kwargs``: the key, if there is one, and whether the call is pure."""
    key = None
    for word in ("treadle_key", "dask_key_name"):
        name = kwargs.pop(word, None)
        if name is None:
            continue
        if key is not None:
            raise TypeError("treadle_key and dask_key_name mean the same; give one of them")
        check_key(name)
        key = name
    if "pure" in kwargs and "pure" not in _parameters(func):
        given = kwargs.pop("pure")
        pure = pure if given is None else bool(given)
    return key, pure


def _parameters(func: Callable[..., Any]) -> list[str]:
    import inspect

    try:
        return list(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        return []  # a builtin that does not tell


def _name_of(value: Any) -> str:
    name = function_name(value) if callable(value) else type(value).__name__
    return name.strip("<>")


def _token_of_call(func: Callable[..., Any], name: str, content: Any, args: list[Any], words: dict[str, Any]) -> str:
    try:
        return tokenize(content, args, words)
    except TokenizeError:
        parameters = _parameters(func)
        named = {parameters[i] if i < len(parameters) else str(i): arg for i, arg in enumerate(args)}
        for word, arg in (named | words).items():
            try:
                tokenize(arg)
            except TokenizeError as error:
                part = _within(error, f"argument {word!r} of {name}()")
                raise TokenizeError(error.type_name, error.reason, part) from error
        raise


def _within(error: TokenizeError, place: str) -> str:
    return f"{error.part} in {place}" if error.part else place


# From delayed values to results.


def compute(
    *args: Any,
    scheduler: Any = None,
    traverse: bool = True,
    num_workers: int | None = None,
    pool: Any = None,
    callbacks: Iterable[Callback] | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Compute several delayed values in one run, which shares the tasks that they have in common.

    :param args: delayed values, collections of Dask, and containers of these. Anything else is returned as it is.
    :param scheduler: ``"threads"``, ``"processes"``, ``"sync"``, an executor or a pool, or a function
        ``get(graph, keys)``. Default: what ``config.set(scheduler=...)`` says, else ``"threads"``.
    :param traverse: False: do not look for delayed values inside containers.
    :param num_workers: how many tasks run at once. Default: ``config``, else the number of usable cores.
    :param pool: an executor or a ``multiprocessing`` pool to use instead of Treadle's own threads or processes.
    :param callbacks: hooks for this call, besides those whose ``with`` block surrounds it.
    :returns: one value for each of ``args``.
    :raises KeyConflictError: the same key was given to different tasks.
    :raises Exception: whatever a task raises, with a note that names the task's key.
    """
    done = _run(args, traverse, scheduler, num_workers, pool, callbacks, options)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done  # see treadle.get
    values: tuple[Any, ...] = done.value
    return values


def _run(
    args: tuple[Any, ...],
    traverse: bool,
    scheduler: Any,
    num_workers: int | None,
    pool: Any,
    callbacks: Iterable[Callback] | None,
    options: dict[str, Any],
) -> Outcome:
    try:
        packed, found = _pack_all(args, traverse)
        graph = collect(found)
    except UserError as error:
        return Outcome(None, error.with_traceback(None))
    if not found:
        return Outcome(args, None)
    keys = list(dict.fromkeys([source._key for source in found]))
    done = outcome(graph, keys, scheduler, num_workers, pool, callbacks, options)
    if done.error is not None:
        return done
    results = dict(zip(keys, done.value))
    return Outcome(tuple([fill(arg, results) for arg in packed]), None)


def graph_of(args: Iterable[Any]) -> tuple[dict[Any, Any], list[Any]]:
    """The graph behind some delayed values, and their keys. Parameters and errors as of :func:`compute`."""
    found = _pack_all(args, True)[1]
    return collect(found), list(dict.fromkeys([source._key for source in found]))


def _pack_all(args: Iterable[Any], traverse: bool) -> tuple[list[Any], list[Source]]:
    found: list[Source] = []
    packed = []
    for arg in args:
        count = len(found)
        item = pack(arg, found) if traverse or isinstance(arg, Delayed) or hasattr(type(arg), "__dask_graph__") else arg
        packed.append(item if len(found) > count else Data(arg))
    return packed, found
