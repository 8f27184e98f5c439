"""A matrix that is no array: whatever would make one of it, or take it for a number, raises.

Without these methods NumPy would make an array of one object of it, and `bool` and `==` answer.
`__jax_array__` is not among them: JAX takes what has one for an array, and asks `__array__` else.
"""

from typing import Any, NoReturn

__all__ = ["NoArray"]


class NoArray:
    """Says how to get an array where Python, NumPy or JAX take an object for one."""

    # NumPy must leave `array @ jacobian` to __rmatmul__.
    __array_ufunc__ = None
    __hash__ = object.__hash__


def _refusing(name: str) -> Any:
    def refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} is not an array and has no {name}, because that would take "
            "all of its entries, zeros included. Call J.todense() for the dense array."
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


_CONVERSIONS = "array bool int float complex index round len iter getitem contains"
_COMPARISONS = "eq ne lt le gt ge"
_UNARY = "neg pos abs invert"
_BINARY = "add sub mul truediv floordiv mod divmod pow"
for each in (
    *f"{_CONVERSIONS} {_COMPARISONS} {_UNARY} {_BINARY}".split(),
    *(f"r{name}" for name in _BINARY.split()),
):
    setattr(NoArray, f"__{each}__", _refusing(f"__{each}__"))
