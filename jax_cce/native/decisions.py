"""What an earlier process has decided of a Jacobian: its kernel, or why it has none.

To find the cheapest order and to write the code takes longer than to trace the function and to
load the code. So the decision is kept beside the code, under a digest of all that it depends on:
the program with every number in it, custom rules included, how it is called, the versions, and the
processor. What cannot be told exactly is not kept.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive

from jax_cce import jax_internals
from jax_cce.native import objects
from jax_cce.program import identity, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.program.identity import ById
from jax_cce.rules import book, derivatives

__all__ = ["keep", "name_of", "recalled"]

_KIND = "json"


def name_of(program: Program, *facts: Any) -> str | None:
    """A digest of a program with what else a decision depends on; None where it is not exact.

    Args:
        program: the program.
        *facts: numbers, texts, arrays, None, and sequences of these.
    """
    if not objects.are_kept():
        return None
    writer = _Writer()
    try:
        _check_rules(program.equations)
        writer.write((_versions(), derivatives.key(program), facts))
    except (_Unknown, derivatives.OnlyWhileRunning):
        return None
    return hashlib.blake2b("".join(writer.pieces).encode(), digest_size=16).hexdigest()


def recalled(name: str) -> Any:
    """What was decided under a name; None where that is not known."""
    content = objects.read(name, _KIND)
    return None if content is None else json.loads(content)


def keep(name: str, decision: Any) -> None:
    """Keeps a decision: a kernel's attributes, or why there is none."""
    objects.keep(name, json.dumps(decision).encode(), _KIND)


class _Unknown(Exception):
    """Something has no exact description."""


def _check_rules(equations: Iterable[Equation]) -> None:
    """Gives up where a custom rule may depend on what varies, which its text does not tell."""
    for equation in equations:
        if equation.params.get("symbolic_zeros"):
            raise _Unknown(equation.name)
        _check_rules(tracing.inner_equations(equation))


@functools.cache
def _versions() -> tuple[Any, ...]:
    """What this package, JAX and the processor are; of the package each file's size and date."""
    from jax_cce.native import compiling

    root = pathlib.Path(__file__).parents[1]
    files = ((path, path.stat()) for path in sorted(root.rglob("*.py")))
    states = tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in files)
    library = "CS_GNU_LIBC_VERSION"
    versions = (
        *map(importlib.metadata.version, ("jax", "jaxlib")),
        os.confstr(library) if library in os.confstr_names else "",
    )
    return versions, compiling.compiler(), states


class _Writer:
    """Writes values so that no two have the same text, and the same ones have it in any process.

    Attributes:
        pieces: the text so far.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._types: dict[Any, str] = {}

    def write(self, value: Any) -> None:
        """Appends a value.

        Raises:
            _Unknown: for what has no exact description.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str, bytes, float, complex):
            self._piece(kind.__name__, ascii(value))
        elif kind in (tuple, list):
            self._all("tuple", value)
        elif isinstance(value, jax.core.ShapedArray):
            key = value.dtype, value.shape, value.weak_type
            if key not in self._types:
                self._types[key] = f"{value.dtype}[{value.shape}]{value.weak_type}"
            self._piece("type", self._types[key])
        elif isinstance(value, Primitive):
            if book.is_described_elsewhere(value):
                raise _Unknown(value.name)
            self._piece("primitive", value.name)
        elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
            self._array(value)
        elif isinstance(value, ById) and isinstance(value.value, jax.Array):
            self._array(value.value)
        elif isinstance(value, enum.Enum):
            self._piece(_name(kind), value.name)
        elif jax_internals.is_dtype(value):
            self._piece("dtype", str(value))
        elif isinstance(value, type) and issubclass(value, np.generic):
            self._piece("class", value.__name__)
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            self._all(_name(kind), value)
        elif isinstance(value, jax.sharding.Sharding):
            # No result depends on it.
            self._piece("sharding", "")
        elif jax_internals.is_operand_structure(value) and " at 0x" not in repr(value):
            self._piece(_name(kind), repr(value))
        elif jax_internals.is_jaxpr(value):
            self._jaxpr(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._all(_name(kind), [getattr(value, x.name) for x in dataclasses.fields(value)])
        else:
            raise _Unknown(_name(kind))

    def _piece(self, kind: str, text: str) -> None:
        self.pieces.append(f"{kind} {len(text)} {text}")

    def _all(self, kind: str, values: Sequence[Any]) -> None:
        self._piece(kind, str(len(values)))
        for each in values:
            self.write(each)

    def _array(self, value: Any) -> None:
        if jax_internals.is_tracer(value):
            raise _Unknown("a tracer")
        if not jax_internals.is_number(value):
            self._piece("key", str(value.dtype))
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise _Unknown("objects")
        self._piece(f"{array.dtype}[{array.shape}]", hashlib.blake2b(array.tobytes()).hexdigest())

    def _jaxpr(self, value: Any) -> None:
        """A jaxpr that the key of its program holds as it is, as in a custom_linear_solve."""
        if derivatives.has_custom(tracing.flatten_closed(value)[0].equations):
            raise _Unknown("a custom rule")
        self.write(identity.jaxpr_key(value, lambda _: None))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
