"""What reverse mode has to keep of a program, equation by equation, decided before it runs.

A `Level` is a program, or the body of a scan, together with what its backward pass needs:
variables, and what equations compute for it beside their results. Truth values are kept as bits. In
a scan, what does not depend on the state is computed again on the way back.
"""

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
from jax_cce.program.flat import Equation, Program, read
from jax_cce.randomized.sites import (
    PRODUCTS,
    Choice,
    Site,
    is_affine,
    is_elementwise,
    layout_of,
)

__all__ = ["Elementwise", "Level", "Loop", "Operation", "Product", "Whole", "level_of"]

# A state that is no number, of at most so many entries, is kept for each step: a counter.
_SMALL = 16


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


class Loop:
    """A scan, whose steps are a level of their own."""

    def __init__(
        self,
        equation: Equation,
        active: tuple[int, ...],
        inner: "Level",
        constants: Sequence[Any],
        number: int,
    ) -> None:
        """Takes the level of its steps."""
        self.equation, self.active, self.inner = equation, active, inner
        self.constants, self.number = constants, number
        self.length = equation.params["length"]
        consts, carry = jax_internals.scan_counts(equation)
        self.counts = consts, carry
        self.carried = range(consts, consts + carry)
        needs = [
            equation.inputs[k]
            for k in inner.required
            if k < len(equation.inputs) and k not in self.carried
        ]
        self.needs = tuple(dict.fromkeys(k for k in needs if not isinstance(k, Literal)))
        self.extras = tuple(
            jax.ShapeDtypeStruct((self.length, *aval.shape), aval.dtype) for aval in inner.saved
        )


class Level:
    """A program and what its backward pass needs.

    Attributes:
        program: the program.
        operations: for each equation that is differentiated how, by its place.
        again: the places of equations that run again on the way back.
        kept: the variables that are kept.
        required: the inputs and constants that the way back reads.
        active: the variables that are differentiated.
    """

    def __init__(
        self,
        program: Program,
        operations: dict[int, Operation],
        again: Iterable[int],
        free: set[int],
        kept: Iterable[int],
        active: set[int],
    ) -> None:
        """Finds out what has to be kept.

        Args:
            program: the program.
            operations: what is differentiated.
            again: equations that can run again.
            free: variables that need not be kept.
            kept: variables that are kept in any case.
            active: what is differentiated.
        """
        self.program, self.operations, self.active = program, operations, active
        repeated = set(again)
        needed, own = set[int](), dict.fromkeys(kept)
        for at, operation in operations.items():
            names = operation.equation.variables if at in repeated else operation.needs
            for name in names:
                if name in free:
                    needed.add(name)
                else:
                    own[name] = None
        self.kept = tuple(sorted(own))
        flags, reads = passes.needed(
            [eq if at in repeated else _NOTHING for at, eq in enumerate(program.equations)], needed
        )
        self.again = tuple(at for at, flag in enumerate(flags) if flag and at in repeated)
        self.repeated = repeated
        self.required = tuple(sorted(k for k in reads if k < program.first_computed))

    @property
    def saved(self) -> list[Any]:
        """The abstract values of all that is kept."""
        avals = [self.program.avals[name] for name in self.kept]
        for at, operation in self.operations.items():
            if at not in self.repeated:
                avals += operation.extras
        return avals

    @property
    def saved_bytes(self) -> int:
        """What is kept, beside inputs and constants."""
        return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in self.saved)


class _Nothing:
    """An equation that computes nothing."""

    outputs: tuple[int, ...] = ()
    variables: tuple[int, ...] = ()


_NOTHING: Any = _Nothing()


def level_of(
    program: Program,
    inputs: Sequence[int],
    outputs: Sequence[Any],
    choice: Choice,
    *,
    near: Iterable[int] | None = None,
    loop: Sequence[int] | None = None,
    times: int = 1,
) -> Level:
    """Decides what the reverse mode of a program keeps.

    Args:
        program: the program.
        inputs: the variables that are differentiated.
        outputs: what is differentiated.
        choice: which coefficients are kept in part; it notes the sites.
        near: the linear images of the inputs of the whole, among `inputs`; all of them if None.
        loop: what a body carries; None for a program that is no body of a scan.
        times: how often the program runs.
    """
    active, near = set(inputs), set(inputs if near is None else near)
    free = set(range(program.first_computed)).difference(loop or ())
    counters = {
        k
        for k in loop or ()
        if not jax_internals.is_differentiable(program.avals[k])
        and math.prod(program.avals[k].shape) <= _SMALL
    }
    free |= counters
    named, again = set[int](), []
    sources: dict[int, tuple[int, ...]] = {}
    for at, equation in enumerate(program.equations):
        moving = tuple(
            k
            for k, (atom, aval) in enumerate(zip(equation.inputs, equation.in_avals, strict=True))
            if not isinstance(atom, Literal)
            and atom in active
            and jax_internals.is_differentiable(aval)
        )
        if loop is not None and free.issuperset(equation.variables):
            again.append(at)
            free.update(equation.outputs)
        if equation.name == "name":
            choice.found.add(equation.params["name"])
            if choice.names and equation.params["name"] in choice.names:
                named.update(equation.outputs)
        if not moving:
            continue
        results = [
            name
            for name, aval in zip(equation.outputs, equation.out_avals, strict=True)
            if jax_internals.is_differentiable(aval)
        ]
        if results:
            active.update(results)
            sources[at] = moving
    live = {atom for atom in outputs if not isinstance(atom, Literal) and atom in active}
    for at in reversed(sources):
        equation = program.equations[at]
        if live.isdisjoint(equation.outputs):
            del sources[at]
        else:
            live.update(equation.inputs[k] for k in sources[at])
    operations: dict[int, Operation] = {}
    known: dict[int, Site] = {}
    for at, moving in sources.items():
        equation = program.equations[at]
        operation = _operation(equation, moving, (near, free, named), choice, times, known)
        operations[at] = operation
        sited = isinstance(operation, Product | Elementwise)
        if (
            not sited
            and near.issuperset(equation.inputs[k] for k in moving)
            and is_affine(equation, moving)
            and free.issuperset(operation.needs)
        ):
            near.update(equation.outputs)
    carried = counters.intersection(_read(program, again, operations.values()))
    return Level(program, operations, again, free - counters, carried, active)


def _read(program: Program, again: Iterable[int], operations: Iterable[Operation]) -> set[int]:
    """The variables that the way back may read."""
    found = {name for at in again for name in program.equations[at].variables}
    return found.union(*(operation.needs for operation in operations))


def _operation(
    equation: Equation,
    active: tuple[int, ...],
    variables: tuple[set[int], set[int], set[int]],
    choice: Choice,
    times: int,
    known: dict[int, Site],
) -> Operation:
    """How an equation is differentiated.

    Args:
        equation: the equation.
        active: the operands that are differentiated.
        variables: linear images of inputs, what need not be kept, and what has one of the names.
        choice: which coefficients are kept in part.
        times: how often the equation is evaluated.
        known: the sites of variables that are coefficients of edges which no path has two of: all
            these edges share what is drawn. It is extended.
    """
    near, free, named = variables
    if equation.name == "scan":
        return _loop(equation, active, near, choice, times)
    if equation.name in PRODUCTS:
        sites, own = dict[int, Site](), []
        for at in active:
            source, other = equation.inputs[at], equation.inputs[1 - at]
            if isinstance(other, Literal) or other in free or not _is_real(equation):
                continue
            if choice.names is None and other in known and source in near:
                sites[at] = known[other]
            elif other in named if choice.names is not None else source in near:
                aval = equation.in_avals[1 - at]
                site = choice.site(equation, aval, layout_of(equation, 1 - at), times)
                if site is not None:
                    sites[at] = known[other] = site
                    own.append(at)
        if sites:
            return Product(equation, active, sites, own)
    whole = Whole(equation, active)
    if (
        _is_real(equation)
        and is_elementwise(equation, active)
        and equation.inputs[active[0]] in named - free
    ):
        keeps = whole.extras or not free.issuperset(whole.needs)
        if keeps and not whole.is_of_bits:
            site = choice.site(equation, equation.out_avals[0], (), times)
            if site is not None:
                return Elementwise(equation, active, site)
    return whole


def _is_real(equation: Equation) -> bool:
    return all(jnp.issubdtype(x.dtype, np.floating) for x in equation.in_avals + equation.out_avals)


def _loop(
    equation: Equation, active: tuple[int, ...], near: set[int], choice: Choice, times: int
) -> Loop:
    body, constants = tracing.flatten_closed(equation.params["jaxpr"])
    consts, carry = jax_internals.scan_counts(equation)
    carried = range(consts, consts + carry)
    varied = set(active)
    while True:
        _, moving = passes.dependent(body.equations, varied)
        states = {
            consts + k
            for k, atom in enumerate(body.outputs[:carry])
            if not isinstance(atom, Literal)
            and atom in moving
            and jax_internals.is_differentiable(body.avals[consts + k])
        }
        if states <= varied:
            break
        varied |= states
    close = [k for k in active if k not in carried and equation.inputs[k] in near]
    number = choice.number()
    inner = level_of(
        body,
        sorted(varied),
        body.outputs,
        choice,
        near=close,
        loop=carried,
        times=times * equation.params["length"],
    )
    return Loop(equation, active, inner, constants, number)
