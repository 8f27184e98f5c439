"""Equations in reverse mode: what each keeps on the way forwards, and how it pulls back with it."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, read
from jax_cce.randomized.sites import Site

__all__ = ["Elementwise", "Operation", "Product", "Whole"]


class Operation(Protocol):
    """An equation that is differentiated.

    Attributes:
        equation: the equation.
        active: the operands that are differentiated.
        needs: the variables that the way back reads.
        extras: abstract values of what is kept beside these.
    """

    equation: Equation
    active: tuple[int, ...]
    needs: tuple[int, ...]
    extras: tuple[Any, ...]


def _typed(equation: Equation) -> list[Any]:
    return [jax_internals.abstract(aval) for aval in equation.in_avals]


@jax.custom_jvp
def _larger(x: Any, y: Any) -> Any:
    return lax.max(x, y)


@jax.custom_jvp
def _smaller(x: Any, y: Any) -> Any:
    return lax.min(x, y)


def _chosen(above: Callable[[Any, Any], Any], choose: Any, primals: Any, tangents: Any) -> Any:
    """JAX's derivative of a maximum, by truth values: half of each at a tie."""
    (x, y), (dx, dy) = primals, tangents
    half = lax.full_like(dx, 0.5)
    tied = lax.mul(half, lax.add(dx, dy))
    return choose(x, y), jnp.where(above(x, y), dx, jnp.where(lax.eq(x, y), tied, dy))


_larger.defjvp(functools.partial(_chosen, lax.gt, _larger))
_smaller.defjvp(functools.partial(_chosen, lax.lt, _smaller))
_BY_TRUTH: dict[str, Any] = {"max": _larger, "min": _smaller}


def _results(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation, by operations whose derivatives keep little."""
    function = _BY_TRUTH.get(equation.name)
    if function is None or len({np.shape(x) for x in operands}) > 1:
        return jax_internals.bind(equation, operands)
    return (function(*operands),)


class Whole:
    """An equation that JAX differentiates, which keeps what JAX keeps."""

    def __init__(self, equation: Equation, active: tuple[int, ...]) -> None:
        """Traces the results together with what the pullback keeps."""
        self.equation, self.active = equation, active
        tree: Any = None

        def function(*operands: Any) -> list[Any]:
            nonlocal tree

            def of_active(*varied: Any) -> tuple[Any, ...]:
                full = list(operands)
                for at, value in zip(active, varied, strict=True):
                    full[at] = value
                return tuple(_results(equation, full))

            outs, pull = jax.vjp(of_active, *(operands[k] for k in active))
            leaves, tree = jax.tree.flatten(pull)
            return [*outs, *leaves]

        self._program, self._constants = tracing.trace(function, _typed(equation))
        self._tree, program = tree, self._program
        count = len(equation.outputs)
        self._outs = program.outputs[:count]
        self._leaves = program.outputs[count:]
        inputs = range(program.num_inputs)
        self._moving, moving = passes.dependent(program.equations, inputs)
        needs, extras = [], []
        self._kept: list[int] = []
        for atom in self._leaves:
            if isinstance(atom, Literal) or atom not in moving:
                continue
            if atom in inputs:
                name = equation.inputs[atom]
                if not isinstance(name, Literal):
                    needs.append(name)
            elif atom in self._outs:
                needs.append(equation.outputs[self._outs.index(atom)])
            elif atom not in self._kept:
                self._kept.append(atom)
                extras.append(_packed_type(program.avals[atom]))
        self.needs, self.extras = tuple(dict.fromkeys(needs)), tuple(extras)

    @property
    def is_of_bits(self) -> bool:
        """Whether the coefficients are truth values."""
        avals = self._program.avals
        return not self.needs and all(avals[k].dtype == np.bool_ for k in self._kept)

    def evaluate(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The results, and what is kept beside variables."""
        values = passes.values(self._program, self._constants, operands)
        passes.fill(values, self._program.equations)
        outs = [read(values, atom) for atom in self._outs]
        return outs, [_packed(values[atom]) for atom in self._kept]

    def pull(
        self, operands: Sequence[Any], outs: Sequence[Any], extras: Sequence[Any], cts: Any
    ) -> list[Any]:
        """The cotangents of the active operands.

        Args:
            operands: values of those that are needed.
            outs: values of the results that are needed.
            extras: what `evaluate` has kept.
            cts: the cotangent of each result; None for zero.
        """
        program = self._program
        values = passes.values(program, self._constants, operands)
        still = [
            equation
            for equation, moves in zip(program.equations, self._moving, strict=True)
            if not moves
        ]
        passes.fill(values, still)
        for atom, value in zip(self._outs, outs, strict=True):
            if not isinstance(atom, Literal) and atom >= program.first_computed:
                values[atom] = value
        for atom, value in zip(self._kept, extras, strict=True):
            values[atom] = _unpacked(value, program.avals[atom])
        leaves = [read(values, atom) for atom in self._leaves]
        full = []
        for ct, aval in zip(cts, self.equation.out_avals, strict=True):
            if not jax_internals.is_differentiable(aval):
                ct = np.zeros(aval.shape, jax.dtypes.float0)
            full.append(jax_internals.zeros(aval) if ct is None else ct)
        return list(jax.tree.unflatten(self._tree, leaves)(tuple(full)))


def _packed_type(aval: Any) -> Any:
    if aval.dtype != np.bool_:
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.ShapeDtypeStruct((-(-math.prod(aval.shape) // 8),), np.uint8)


def _packed(x: Any) -> Any:
    return jnp.packbits(x) if jnp.result_type(x) == np.bool_ else x


def _unpacked(x: Any, aval: Any) -> Any:
    if aval.dtype != np.bool_:
        return x
    bits = jnp.unpackbits(x, count=math.prod(aval.shape))
    return lax.reshape(bits, aval.shape).astype(np.bool_)


class Product:
    """A product, of whose factors some are kept in part.

    Attributes:
        sites: the site of each operand that such an edge comes from.
        own: those whose coefficient no earlier product keeps.
    """

    def __init__(
        self,
        equation: Equation,
        active: tuple[int, ...],
        sites: dict[int, Site],
        own: Iterable[int],
    ) -> None:
        """Takes the sites, and the operands of those that are its own."""
        self.equation, self.active, self.sites = equation, active, sites
        self.own = {k: sites[k] for k in own}
        others = [equation.inputs[1 - k] for k in active if k not in sites]
        self.needs = tuple(dict.fromkeys(k for k in others if not isinstance(k, Literal)))
        self.extras = tuple(
            jax.ShapeDtypeStruct((s.draw.elements, s.draw.kept), equation.in_avals[1 - k].dtype)
            for k, s in self.own.items()
        )

    def transposed(self, at: int, other: Any, ct: Any) -> Any:
        """The cotangent of the operand `at`, with the other one as coefficient."""

        def product(operand: Any) -> Any:
            operands = (operand, other) if at == 0 else (other, operand)
            return jax_internals.bind(self.equation, operands)[0]

        aval = jax_internals.abstract(self.equation.in_avals[at])
        return jax.linear_transpose(product, aval)(ct)[0]

    def compact(self, at: int, site: Site, indices: Any, stored: Any, ct: Any) -> Any:
        """`transposed` where the coefficient has one contracted axis, of which a part is kept.

        None where it has not; else only the rows that are kept are computed.
        """
        if self.equation.name != "dot_general" or not site.draw.is_compact:
            return None
        params = self.equation.params
        axes = params["dimension_numbers"][0]
        if len(axes[0]) != 1 or site.order[len(site.order) - 1 :] != tuple(axes[1 - at]):
            return None
        (own,) = axes[at]
        shape = list(self.equation.in_avals[at].shape)
        zeros = jnp.zeros(shape, self.equation.in_avals[at].dtype)
        shape[own] = site.draw.kept
        sizes = [site.shape[k] for k in site.order[:-1]] + [site.draw.kept]
        part = jnp.transpose(jnp.reshape(stored, sizes), site.inverse)
        names = ("dimension_numbers", "precision", "preferred_element_type")

        def product(operand: Any) -> Any:
            operands = (operand, part) if at == 0 else (part, operand)
            return lax.dot_general(*operands, **{name: params[name] for name in names})

        (rows,) = jax.linear_transpose(product, jax.ShapeDtypeStruct(shape, zeros.dtype))(ct)
        where = (*[slice(None)] * own, indices)
        return zeros.at[where].add(rows, mode="promise_in_bounds", unique_indices=True)


class Elementwise:
    """A function of single entries, of whose derivatives a part is kept."""

    def __init__(self, equation: Equation, active: tuple[int, ...], site: Site) -> None:
        """Takes its site."""
        self.equation, self.active, self.site = equation, active, site
        self.needs: tuple[int, ...] = ()
        self.extras = (jax.ShapeDtypeStruct((1, site.draw.kept), equation.out_avals[0].dtype),)

    def evaluate(self, operands: Sequence[Any]) -> tuple[Any, Any]:
        """The result, and its derivative entry by entry."""
        (at,) = self.active

        def of_operand(x: Any) -> Any:
            return jax_internals.bind(self.equation, [*operands[:at], x, *operands[at + 1 :]])[0]

        x = operands[at]
        return jax.jvp(of_operand, (x,), (jnp.ones_like(x),))
