"""Names of Jacobian tasks that hold across runs, machines and JAX versions.

An elimination order that was found once is kept on disk under the `digest` of its task, the hash of
a `canonical` text with one line for each equation. The text says what the graph depends on, and in
terms that depend on nothing else: variables by number, constants and free scalars by shape and
dtype, primitives by name, the derivatives of custom_jvp and custom_vjp by their equations, and no
name, address or position that a user or a JAX version may change.

    v0:float64[3] = sin i0
    v1:float64[3] = mul v0 float64[]
    out v1

Two programs of one digest have equations that correspond one to one, so that a vertex, counted from
the first computed variable, is the same in both. A parameter of an unknown type counts by its type
only: whoever reads an order by digest has to check that it is an order of the graph at hand.
"""

import dataclasses
import enum
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend import core as jex_core

from jax_cce import jax_internals
from jax_cce.program import identity, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules import derivatives

__all__ = [
    "canonical",
    "digest",
]

# Part of every text: orders found under another way of writing are not found again.
_SCHEMA = 1

# Parameters nest this deep in no primitive of JAX; a foreign object may even contain itself.
_DEEPEST = 10


def digest(
    program: Program,
    *,
    num_values: int,
    known: Mapping[int, np.ndarray],
    sparse: bool,
    holomorphic: bool = False,
) -> str:
    """The name of a Jacobian task: 64 hexadecimal digits.

    Args:
        program: a traced program; its inputs are what is differentiated.
        num_values: how many of its outputs, from the first on, are differentiated.
        known: what is known of its constants (see `known_values.known_constants`).
        sparse: whether structural zeros matter.
        holomorphic: whether complex coefficients stand for derivatives.
    """
    text = canonical(
        program, num_values=num_values, known=known, sparse=sparse, holomorphic=holomorphic
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(
    program: Program,
    *,
    num_values: int,
    known: Mapping[int, np.ndarray],
    sparse: bool,
    holomorphic: bool = False,
) -> str:
    """The text that `digest` hashes, for the same arguments.

    The program comes first, and then every jaxpr that it refers to as a body, each once. `i` are
    inputs, `v` computed variables and `c` constant arrays, whose known entries follow as a hash; a
    bare `float64[]` is a number whose value does not matter.
    """
    writer = _Writer()
    lines = [
        f"schema={_SCHEMA} num_values={num_values} sparse={bool(sparse)} "
        f"holomorphic={bool(holomorphic)}",
        *writer.program(program, known, whole=True),
    ]
    for number, body in enumerate(writer.bodies):
        lines += [f"body{number}", body]
    return "\n".join(lines) + "\n"


class _Writer:
    """Writes one task.

    Attributes:
        bodies: the texts of the jaxprs that were referred to, by number. Equal ones share a number:
            whether JAX shares the object is an accident of its caches.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, int] = {}
        self._avals: dict[Any, str] = {}
        self._free: dict[Any, bool] = {}
        # By identity. The value holds on to the object, whose address would else be used again.
        self._written: dict[int, tuple[Any, str]] = {}

    def program(
        self, program: Program, known: Mapping[int, np.ndarray], *, whole: bool = False
    ) -> list[str]:
        """The lines of a program.

        Args:
            program: the program.
            known: what is known of its constants.
            whole: whether it is the whole task. In what it refers to, custom calls stand for their
                bodies only.
        """
        active = derivatives.activity(program) if whole else itertools.repeat(())
        avals, first = program.avals, program.first_computed
        names = [f"i{k}" for k in range(program.num_inputs)]
        names += [""] * program.num_constants  # by first use
        names += [f"v{k}" for k in range(len(avals) - first)]
        arrays = 0

        def read(atom: Any) -> str:
            nonlocal arrays
            if isinstance(atom, jax_internals.Literal):
                return self._literal(atom)
            if not names[atom]:
                names[atom] = text = self._aval(avals[atom])
                if atom in known or not self._is_free(avals[atom]):
                    names[atom] = f"c{arrays}:{text}"
                    arrays += 1
                if atom in known:
                    names[atom] += f"={_content(_pattern(known[atom]))}"
            return names[atom]

        lines = [" ".join(["in", *map(self._aval, avals[: program.num_inputs])])]
        for equation, varied in zip(program.equations, active, strict=False):
            results = [f"{names[k]}:{self._aval(avals[k])}" for k in equation.outputs]
            operands = [read(atom) for atom in equation.inputs]
            params = self._params(equation, varied) if equation.params else ""
            lines.append(f"{' '.join(results)} = {' '.join([equation.name + params, *operands])}")
        lines.append(" ".join(["out", *map(read, program.outputs)]))
        return lines

    def _aval(self, aval: Any) -> str:
        try:
            key = aval.dtype, aval.shape
        except AttributeError:  # a token
            return type(aval).__qualname__
        text = self._avals.get(key)
        if text is None:
            text = f"{aval.dtype.name}[{','.join(map(str, aval.shape))}]"
            self._avals[key] = text
        return text

    def _is_free(self, aval: Any) -> bool:
        """Whether a constant of this abstract value is but a number."""
        if getattr(aval, "shape", None) != ():
            return False
        free = self._free.get(aval.dtype)
        if free is None:
            free = self._free[aval.dtype] = jax_internals.is_differentiable(aval)
        return free

    def _literal(self, literal: Any) -> str:
        value, aval = literal.val, literal.aval
        if self._is_free(aval):
            if tracing.is_hoistable(literal):
                return self._aval(aval)
            # 0, 1 or -1, possibly as a complex number.
            value = value.real
        if np.shape(value):
            return f"{_content(value)}:{self._aval(aval)}"
        try:
            return f"{int(value)}:{self._aval(aval)}"
        except (TypeError, ValueError, OverflowError):  # no finite number or truth value
            return self._aval(aval)

    def _params(self, equation: Equation, active: tuple[bool, ...]) -> str:
        if derivatives.is_custom(equation):
            return self._custom(equation, active)
        parts = [
            f"{name}={self._param(value)}" for name, value in identity.mathematical_params(equation)
        ]
        return f"[{' '.join(parts)}]" if parts else ""

    def _custom(self, equation: Equation, active: tuple[bool, ...]) -> str:
        """A call whose derivative is the user's."""
        linearised = derivatives.custom_derivative(equation, active)
        if linearised is None:
            return f"[{self._body(equation.params['call_jaxpr'])}]"
        written = self._written.get(id(linearised))
        if written is None:
            text = self._number(self.program(linearised.program, {}))
            if linearised.reverse:
                text = f"pullback {text}"
            written = self._written[id(linearised)] = linearised, text
        return f"[{written[1]}]"

    def _body(self, jaxpr: Any) -> str:
        written = self._written.get(id(jaxpr))
        if written is None:
            program, _ = tracing.flatten_closed(jaxpr)
            text = self._number(self.program(program, {}))
            written = self._written[id(jaxpr)] = jaxpr, text
        return written[1]

    def _number(self, lines: Sequence[str]) -> str:
        number = self.bodies.setdefault("\n".join(lines), len(self.bodies))
        return f"body{number}"

    def _param(self, value: Any, depth: int = 0) -> str:
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return ascii(value)
        if jax_internals.is_jaxpr(value):
            return self._body(value)
        if depth == _DEEPEST:
            return type(value).__qualname__

        def all_of(values: Iterable[Any]) -> list[str]:
            return [self._param(item, depth + 1) for item in values]

        def fields(names: Iterable[str]) -> str:
            kept = [name for name in names if hasattr(value, name)]
            values = all_of(getattr(value, name) for name in kept)
            return " ".join(f"{name}={text}" for name, text in zip(kept, values, strict=True))

        if type(value) is tuple:  # by far the most
            return f"({','.join(all_of(value))})"
        kind = type(value).__qualname__
        if isinstance(value, enum.Enum):
            return f"{kind}.{value.name}"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{kind}({fields(value._fields)})"
        if isinstance(value, (tuple, list, jax.sharding.PartitionSpec)):
            return f"({','.join(all_of(value))})"
        if isinstance(value, (set, frozenset)):
            return f"{{{','.join(sorted(all_of(value)))}}}"
        if isinstance(value, Mapping):
            items = zip(all_of(value.keys()), all_of(value.values()), strict=True)
            return f"{{{','.join(f'{name}:{text}' for name, text in sorted(items))}}}"
        if isinstance(value, type):  # jnp.float32 is one, beside the dtype of that name
            return value.__name__
        if jax_internals.is_dtype(value) or isinstance(value, jex_core.Primitive):
            return value.name
        if isinstance(value, np.generic):
            return ascii(value.item())
        if isinstance(value, np.ndarray):
            return f"{_content(value)}:{self._aval(value)}"
        if dataclasses.is_dataclass(value):
            return f"{kind}({fields(field.name for field in dataclasses.fields(value))})"
        return "function" if callable(value) else kind


def _pattern(known: np.ndarray) -> np.ndarray:
    """Known entries as integers, 2 where a number is not known."""
    if jnp.issubdtype(known.dtype, np.inexact):
        known = np.where(np.isnan(known), 2, np.real(known))
    return known.astype(np.int64)


def _content(values: Any) -> str:
    """Identifies an array by its entries, on any machine."""
    array = np.asarray(values)
    if array.dtype.hasobject:
        return ""
    if array.dtype.byteorder == ">" or not np.little_endian:
        array = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]
