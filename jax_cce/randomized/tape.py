"""What reverse mode has to keep of a program, equation by equation, decided before it runs.

A `Level` is a program, or the body of a scan, together with what its backward pass needs:
variables, and what equations compute for it beside their results. Truth values are kept as bits. In
a scan, what does not depend on the state is computed again on the way back.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.randomized.operations import Elementwise, Operation, Product, Whole
from jax_cce.randomized.sites import (
    PRODUCTS,
    Choice,
    Site,
    is_affine,
    is_elementwise,
    layout_of,
)

__all__ = ["Level", "Loop", "level_of"]

# A state that is no number, of at most so many entries, is kept for each step: a counter.
_SMALL = 16


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
