"""Names for values: equal content gives the same token, in every process and every run of Python.

A value is encoded as bytes that say its type and its content, and containers as the hash of what is in them, so
that shared parts are read once and a container that contains itself ends. Nothing depends on ``hash()``, on the
address of an object, or on the order in which a set happens to be iterated.

What an object of no known type holds is taken from the way it pickles (``__reduce_ex__``), whose parts are encoded
in turn: unlike the bytes of a pickle these do not depend on which of two equal strings are the same object.
"""

from __future__ import annotations

import copyreg
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

from treadle.errors import UserError
from treadle.graph.spec import Ref

__all__ = ["TokenizeError", "tokenize"]

#: Strings and buffers longer than this (bytes) are hashed where they are instead of being copied into the encoding.
_INLINE = 256

#: What a class has in its ``__dict__`` that says nothing of what it does, or that differs between runs.
_CLASS_NOISE = frozenset(
    {
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)


class TokenizeError(UserError, TypeError):
    """A value has no content that a token could be made from.

    ``type_name`` and ``reason`` say of what type the value is and what is wrong with it; ``part`` says where the
    value was found, if that is known.
    """

    def __init__(self, type_name: str, reason: str, part: str = "") -> None:
        self.type_name = type_name
        self.reason = reason
        self.part = part
        super().__init__(type_name, reason, part)

    def __str__(self) -> str:
        where = f" in {self.part}" if self.part else ""
        return (
            f"cannot make a token of the {self.type_name}{where}: {self.reason}. Give its class a method "
            "__treadle_token__ that returns what identifies it, or do without a token: with a key of your own, "
            "or with pure=False."
        )


def tokenize(*args: Any, **kwargs: Any) -> str:
    """A name for the content of some values: 32 hexadecimal digits (BLAKE2b, 128 bits).

    ``1``, ``1.0``, ``True``, ``"1"`` and ``b"1"`` differ; dicts and sets do not depend on the order of insertion.
    Functions that can be imported are identified by their name, code and defaults; all others also by the values they
    close over and the globals they use. A class may define ``__treadle_token__()`` (or Dask's ``__dask_tokenize__``),
    which returns what identifies its instance: any value that can itself be tokenized.

    :raises TokenizeError: a value can neither be pickled nor be encoded otherwise, or is nested too deep.
    """
    encoder = _Encoder()
    try:
        # The arguments are encoded one by one: the tuple and the dict that hold them are new in every call.
        content = [encoder.encode(arg) for arg in args]
        content.append(b"|")
        content.extend([encoder.encode(word) + encoder.encode(kwargs[word]) for word in sorted(kwargs)])
    except RecursionError:
        raise TokenizeError("value", "it is nested too deep") from None
    return blake2b(b"".join(content), digest_size=16).hexdigest()


class _Encoder:
    """Encodes the values of one call; what was encoded once is remembered."""

    def __init__(self) -> None:
        #: By ``id``: the code of a value, and the value, which thereby keeps its address.
        self._done: dict[int, tuple[bytes, object]] = {}
        #: By ``id``: how deep the values lie that are being encoded.
        self._open: dict[int, int] = {}
        #: The depth of the outermost open value that was met again since it was last reset.
        self._lowest = sys.maxsize

    def encode(self, value: Any) -> bytes:
        """Bytes for ``value`` that are no prefix of the bytes of another value."""
        atom = _ATOMS.get(type(value))
        if atom is not None:
            return atom(value)
        ident = id(value)
        done = self._done.get(ident)
        if done is not None:
            return done[0]
        depth = self._open.get(ident)
        if depth is not None:
            self._lowest = min(self._lowest, depth)
            return b"^%d;" % (len(self._open) - depth)
        return self._encode_new(value, ident)

    def _encode_new(self, value: Any, ident: int) -> bytes:
        depth = len(self._open)
        outer = self._lowest
        self._lowest = sys.maxsize
        self._open[ident] = depth
        try:
            code = b"#" + _digest(self._describe(value))
        finally:
            del self._open[ident]
        if self._lowest >= depth:
            # Nothing in it refers to what lies around it, so it has the same code wherever it is met.
            self._done[ident] = (code, value)
            self._lowest = sys.maxsize
        self._lowest = min(self._lowest, outer)
        return code

    def _describe(self, value: Any) -> bytes:
        cls = type(value)
        known = _CONTAINERS.get(cls)
        if known is not None:
            return known(self, value)
        for hook in ("__treadle_token__", "__dask_tokenize__"):
            method = getattr(cls, hook, None)
            if method is not None:
                return b"hook" + self._name(cls) + self.encode(method(value))
        if issubclass(cls, type):
            return self._class(value)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if cls is numpy.ndarray:
                return self._array(value)
            if isinstance(value, numpy.generic) and not value.dtype.hasobject:
                return b"numpy scalar" + self.encode(value.dtype) + self.encode(value.tobytes())
        return self._object(value)

    def _sequence(self, value: Iterable[Any]) -> bytes:
        return _name(type(value)) + b"".join([self.encode(item) for item in value])

    def _set(self, value: Iterable[Any]) -> bytes:
        return _name(type(value)) + b"".join(sorted([self.encode(item) for item in value]))

    def _mapping(self, value: Mapping[Any, Any]) -> bytes:
        return b"dict" + self._items(value.items(), ordered=False)

    def _items(self, items: Iterable[tuple[Any, Any]], ordered: bool) -> bytes:
        pairs = [self.encode(key) + self.encode(item) for key, item in items]
        return b"".join(pairs if ordered else sorted(pairs))

    def _array(self, array: Any) -> bytes:
        header = b"ndarray" + self.encode(array.dtype) + self.encode(array.shape)
        if array.dtype.hasobject or array.dtype.kind == "T":
            return header + self.encode(array.ravel().tolist())
        if array.dtype.itemsize == 0:
            return header
        # ravel() copies only what does not lie in memory in the order of its indices.
        return header + _digest(array.ravel().view("u1").data)

    # Code: functions, classes, modules.

    def _function(self, func: types.FunctionType) -> bytes:
        parts: list[Any] = [func.__qualname__, func.__code__, func.__defaults__, func.__kwdefaults__]
        if _is_importable(func):
            return b"function" + self.encode(func.__module__) + b"".join([self.encode(part) for part in parts])
        names = sorted(_global_names(func.__code__))
        used = {name: func.__globals__[name] for name in names if name in func.__globals__}
        parts += [func.__closure__, used]
        return b"local function" + b"".join([self.encode(part) for part in parts])

    def _code(self, code: types.CodeType) -> bytes:
        parts: list[Any] = [
            code.co_name,
            code.co_code,
            code.co_consts,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags],
            getattr(code, "co_exceptiontable", b""),
        ]
        return b"code" + b"".join([self.encode(part) for part in parts])

    def _cell(self, cell: types.CellType) -> bytes:
        try:
            return b"cell" + self.encode(cell.cell_contents)
        except ValueError:
            return b"empty cell"

    def _module(self, module: types.ModuleType) -> bytes:
        return b"module" + self.encode(module.__name__)

    def _builtin(self, func: types.BuiltinFunctionType) -> bytes:
        owner = func.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            return b"builtin" + self.encode(func.__module__) + self.encode(func.__qualname__)
        return b"builtin method" + self.encode(owner) + self.encode(func.__name__)

    def _wrapper(self, wrapper: Any) -> bytes:
        return _name(type(wrapper)) + self.encode(wrapper.__func__)

    def _property(self, value: property) -> bytes:
        return b"property" + b"".join([self.encode(part) for part in (value.fget, value.fset, value.fdel)])

    def _ref(self, ref: Ref) -> bytes:
        return b"ref" + self.encode(ref.key)

    def _partial(self, value: partial[Any]) -> bytes:
        return b"partial" + b"".join([self.encode(part) for part in (value.func, value.args, value.keywords)])

    def _name(self, cls: type) -> bytes:
        """A class as part of what describes its instance."""
        return self.encode(cls)

    def _class(self, cls: type) -> bytes:
        name = b"class" + self.encode(cls.__module__) + self.encode(cls.__qualname__)
        if _is_importable(cls):
            return name
        content = {word: item for word, item in vars(cls).items() if word not in _CLASS_NOISE and not _is_slot(item)}
        return b"local " + name + self.encode(cls.__bases__) + self.encode(content)

    # Everything else: by the parts that it pickles into.

    def _object(self, value: Any) -> bytes:
        cls = type(value)
        if cls is object:
            raise TokenizeError("object", "a bare object() has an identity but no content")
        try:
            reduce = copyreg.dispatch_table.get(cls)
            reduced = value.__reduce_ex__(5) if reduce is None else reduce(value)
        except RecursionError:
            raise
        except Exception:
            return b"pickle" + self._pickle(value)
        if isinstance(reduced, str):
            wrapped = getattr(value, "__wrapped__", None)
            module = getattr(value, "__module__", None)
            return b"global" + self._name(cls) + b"".join([self.encode(part) for part in (module, reduced, wrapped)])
        return b"object" + self._name(cls) + self._reduced(value, reduced)

    def _reduced(self, value: Any, reduced: tuple[Any, ...]) -> bytes:
        fields: list[Any] = [*reduced, None, None, None]
        make, args, state, items, pairs = fields[:5]
        parts = [self.encode(make), self.encode(args), self.encode(state)]
        if items is not None:
            parts.append(b"items" + b"".join([self.encode(item) for item in items]))
        if pairs is not None:
            parts.append(b"pairs" + self._items(pairs, isinstance(value, OrderedDict)))
        return b"".join(parts)

    def _pickle(self, value: Any) -> bytes:
        import cloudpickle

        buffers: list[pickle.PickleBuffer] = []
        try:
            data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        except RecursionError:
            raise
        except Exception as error:
            raise TokenizeError(type(value).__qualname__, f"{type(error).__name__}: {error}") from error
        return _digest(data) + b"".join([_digest(buffer.raw()) for buffer in buffers])


def _digest(data: Any) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _name(cls: type) -> bytes:
    return cls.__name__.encode() + b":"


def _buffer(tag: bytes, data: Any) -> bytes:
    size = memoryview(data).nbytes
    if size > _INLINE:
        return tag + b"%d#" % size + _digest(data)
    return tag + b"%d:" % size + bytes(data)


def _text(value: str) -> bytes:
    return _buffer(b"s", value.encode("utf-8", "surrogatepass"))


def _integer(value: int) -> bytes:
    return b"i%s;" % hex(value).encode()


def _view(value: memoryview) -> bytes:
    header = b"v%s%r" % (value.format.encode(), value.shape)
    return _buffer(header, value if value.c_contiguous else value.tobytes())


#: How to encode values that nothing else can be inside of.
_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    type(...): lambda value: b"E",
    type(NotImplemented): lambda value: b"I",
    bool: lambda value: b"T" if value else b"F",
    int: _integer,
    float: lambda value: b"f" + struct.pack(">d", value),
    complex: lambda value: b"c" + struct.pack(">dd", value.real, value.imag),
    str: _text,
    bytes: lambda value: _buffer(b"b", value),
    bytearray: lambda value: _buffer(b"a", value),
    memoryview: _view,
    pickle.PickleBuffer: lambda value: _buffer(b"p", value.raw()),
}

_CONTAINERS: dict[type, Callable[[_Encoder, Any], bytes]] = {
    list: _Encoder._sequence,
    tuple: _Encoder._sequence,
    set: _Encoder._set,
    frozenset: _Encoder._set,
    dict: _Encoder._mapping,
    types.MappingProxyType: _Encoder._mapping,
    types.FunctionType: _Encoder._function,
    types.CodeType: _Encoder._code,
    types.CellType: _Encoder._cell,
    types.ModuleType: _Encoder._module,
    types.BuiltinFunctionType: _Encoder._builtin,
    staticmethod: _Encoder._wrapper,
    classmethod: _Encoder._wrapper,
    property: _Encoder._property,
    partial: _Encoder._partial,
    Ref: _Encoder._ref,
}


def _is_importable(value: Any) -> bool:
    """True if every process finds the same thing under the module and qualified name of ``value``.

    What is in ``__main__`` is another matter in every program, and is told by its content.
    """
    if value.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    # A decorated function's name leads to what the decorator made of it.
    return found is value or getattr(found, "__wrapped__", None) is value


def _is_slot(item: Any) -> bool:
    return isinstance(item, types.MemberDescriptorType | types.GetSetDescriptorType)


def _global_names(code: types.CodeType) -> set[str]:
    """The names that a function, and those defined in it, may look up among its globals."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
