"""The operators of Python, for objects that write down what is to be done instead of doing it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.deferred import Delayed

__all__ = ["Operators"]


class Operators:
    """Turns every operator into one call of :meth:`_operate`."""

    __slots__ = ()

    #: Tells numpy's arrays to leave ``array + delayed`` to us.
    __array_ufunc__ = None

    if TYPE_CHECKING:
        # What a subclass has to have.

        @property
        def key(self) -> Any:
            """The key of this value in the graph."""

        def _operate(self, func: Callable[..., Any], *operands: Any, nout: int | None = None) -> Delayed: ...

    def __hash__(self) -> int:
        return hash(self.key)

    # Comparison.

    def __eq__(self, other: Any) -> Delayed:  # type: ignore[override]
        return self._operate(operator.eq, self, other)

    def __ne__(self, other: Any) -> Delayed:  # type: ignore[override]
        return self._operate(operator.ne, self, other)

    def __lt__(self, other: Any) -> Delayed:
        return self._operate(operator.lt, self, other)

    def __le__(self, other: Any) -> Delayed:
        return self._operate(operator.le, self, other)

    def __gt__(self, other: Any) -> Delayed:
        return self._operate(operator.gt, self, other)

    def __ge__(self, other: Any) -> Delayed:
        return self._operate(operator.ge, self, other)

    # Unary.

    def __neg__(self) -> Delayed:
        return self._operate(operator.neg, self)

    def __pos__(self) -> Delayed:
        return self._operate(operator.pos, self)

    def __invert__(self) -> Delayed:
        return self._operate(operator.invert, self)

    def __abs__(self) -> Delayed:
        return self._operate(operator.abs, self)

    def __round__(self, ndigits: Any = None) -> Delayed:
        return self._operate(round, self) if ndigits is None else self._operate(round, self, ndigits)

    def __trunc__(self) -> Delayed:
        return self._operate(math.trunc, self)

    def __floor__(self) -> Delayed:
        return self._operate(math.floor, self)

    def __ceil__(self) -> Delayed:
        return self._operate(math.ceil, self)

    def __int__(self) -> int:
        raise TypeError(f"{self!r} is not a number before it is computed; call .compute(), or use delayed(int)(x).")

    def __float__(self) -> float:
        raise TypeError(f"{self!r} is not a number before it is computed; call .compute(), or use delayed(float)(x).")

    # Items.

    def __getitem__(self, index: Any) -> Delayed:
        return self._operate(operator.getitem, self, index)

    # Arithmetic, and the same with the operands the other way round.

    def __add__(self, other: Any) -> Delayed:
        return self._operate(operator.add, self, other)

    def __radd__(self, other: Any) -> Delayed:
        return self._operate(operator.add, other, self)

    def __sub__(self, other: Any) -> Delayed:
        return self._operate(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Delayed:
        return self._operate(operator.sub, other, self)

    def __mul__(self, other: Any) -> Delayed:
        return self._operate(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Delayed:
        return self._operate(operator.mul, other, self)

    def __matmul__(self, other: Any) -> Delayed:
        return self._operate(operator.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Delayed:
        return self._operate(operator.matmul, other, self)

    def __truediv__(self, other: Any) -> Delayed:
        return self._operate(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Delayed:
        return self._operate(operator.truediv, other, self)

    def __floordiv__(self, other: Any) -> Delayed:
        return self._operate(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Delayed:
        return self._operate(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Delayed:
        return self._operate(operator.mod, self, other)

    def __rmod__(self, other: Any) -> Delayed:
        return self._operate(operator.mod, other, self)

    def __divmod__(self, other: Any) -> Delayed:
        return self._operate(divmod, self, other, nout=2)

    def __rdivmod__(self, other: Any) -> Delayed:
        return self._operate(divmod, other, self, nout=2)

    def __pow__(self, other: Any, modulus: Any = None) -> Delayed:
        return self._operate(pow, self, other) if modulus is None else self._operate(pow, self, other, modulus)

    def __rpow__(self, other: Any) -> Delayed:
        return self._operate(pow, other, self)

    # Bits.

    def __and__(self, other: Any) -> Delayed:
        return self._operate(operator.and_, self, other)

    def __rand__(self, other: Any) -> Delayed:
        return self._operate(operator.and_, other, self)

    def __or__(self, other: Any) -> Delayed:
        return self._operate(operator.or_, self, other)

    def __ror__(self, other: Any) -> Delayed:
        return self._operate(operator.or_, other, self)

    def __xor__(self, other: Any) -> Delayed:
        return self._operate(operator.xor, self, other)

    def __rxor__(self, other: Any) -> Delayed:
        return self._operate(operator.xor, other, self)

    def __lshift__(self, other: Any) -> Delayed:
        return self._operate(operator.lshift, self, other)

    def __rlshift__(self, other: Any) -> Delayed:
        return self._operate(operator.lshift, other, self)

    def __rshift__(self, other: Any) -> Delayed:
        return self._operate(operator.rshift, self, other)

    def __rrshift__(self, other: Any) -> Delayed:
        return self._operate(operator.rshift, other, self)
