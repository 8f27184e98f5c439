"""How the loops of the searches are compiled, and kept between processes."""

import hashlib
import pathlib
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

__all__ = [
    "inlined",
    "jit",
    "lowest",
    "ones",
]

_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}


def _digest() -> str:
    """A digest of this folder's sources."""
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


_DIGEST = _digest()


def jit(function: Any) -> Any:
    """Compiles a function that Python calls, and keeps it where there is a place for that."""
    # Numba compiles a kept function anew when its own file has changed, not when one that it calls
    # has. It looks it up by name, so the name tells what all of them were compiled from.
    function.__qualname__ += f"_{_DIGEST}"
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError):  # there is no place to keep what is compiled
        return numba.njit(**_OPTIONS)(function)


def inlined(function: Any) -> Any:
    """Compiles a function into each place where a compiled one calls it."""
    # Passing a graph by value costs more than what these do with it.
    return numba.njit(forceinline=True, **_OPTIONS)(function)


def _lowest(typing: Any, bits: Any) -> Any:
    def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return numba.int64(numba.uint64), built


def _ones(typing: Any, bits: Any) -> Any:
    def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return numba.int64(numba.uint64), built


# The position of the lowest bit that is set in a uint64 that is not 0, and how many are set: each
# one instruction, for compiled loops only.
lowest: Any = intrinsic(_lowest)
ones: Any = intrinsic(_ones)
