"""The default rule: JAX linearises one equation, and the structure is read off the result.

`jax.linearize` turns an equation into a *known* part, which computes the results and some
residuals, and a *linear* part, which speaks only some 25 linear primitives. Accumulating the
linear part with the registered rules gives terms; where one of its primitives has no rule (a scan,
an fft, a triangular solve), the equation becomes a linear operator instead. Custom derivative
rules are honoured, because it is JAX that applies them. Where there is no forward mode, as for
custom_vjp, the pullback is traced instead and the terms are transposed. Where it is not linear,
because a user wrote it so, there is no local Jacobian: the function is left to `jax.jacrev`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.jax_internals import Literal
from jax_cce.program import flat, known_values, passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.program.references import check_operands
from jax_cce.rules.accumulation import Accumulation
from jax_cce.rules.book import Wild, record_of
from jax_cce.rules.linearity import Dependence, dependence
from jax_cce.rules.local import LocalJacobian, Primals
from jax_cce.rules.open_bodies import with_open_paths
from jax_cce.rules.open_paths import OpenPaths
from jax_cce.rules.wildness import wildness

__all__ = [
    "REVERSE_ONLY",
    "Linearised",
]

# Equations whose application has no JVP, or no VJP, in JAX.
REVERSE_ONLY = "custom_lin"
_FORWARD_ONLY = "while"


class Linearised:
    """The known and the linear part of any function that JAX can differentiate.

    Attributes:
        name: what to call the operator in a plan.
        program: inputs are the operands and then the seeds (tangents of the active operands, or
            cotangents of the differentiable results); outputs are the results and then what the
            seeds become.
        constants: values of the program's constants.
        reverse: whether the seeds are cotangents.
        active: positions of the active operands.
        differentiable: positions of the results that have a tangent space.
        reverse_only: whether the linear part is not known to be linear.
    """

    program: Program
    constants: list[Any]

    def __init__(
        self,
        name: str,
        apply: Callable[[Sequence[Any]], Sequence[Any]],
        in_avals: Sequence[Any],
        out_avals: Sequence[Any],
        active: Sequence[bool],
        *,
        reverse: bool = False,
        sparse: bool = False,
        known: Mapping[int, np.ndarray] | None = None,
        are_rules_linear: Callable[[], bool] = lambda: False,
    ) -> None:
        """Linearises a function.

        Args:
            name: the primitive's name.
            apply: the function, from a list of operands to a list of results.
            in_avals: abstract values of its operands.
            out_avals: abstract values of its results.
            active: for each operand whether it is differentiated.
            reverse: whether only the pullback gives the derivative that is wanted.
            sparse: whether structural zeros matter.
            known: what is known of the operands.
            are_rules_linear: whether the function is JAX's own and every rule in it is linear, so
                that the linear part is too; asked where that cannot be seen, as zeros that JAX
                computes in the known part, say in a branch of cond, are not known to be zero.
        """
        self.sparse = sparse
        self.name = name
        self.active = [k for k, wanted in enumerate(active) if wanted]
        self.differentiable = [
            k for k, aval in enumerate(out_avals) if jax_internals.is_differentiable(aval)
        ]
        self.in_avals, self.out_avals = in_avals, out_avals
        self.reverse = reverse
        mixed = False
        if reverse:
            self._trace(apply, _pulled)
        else:
            mixed = self._trace_as_possible(apply)
        if sparse:
            self._fold(known or {})
        seeds = range(len(in_avals), self.program.num_inputs)
        flags, self._varied = passes.dependent(self.program.equations, seeds)
        pairs = list(zip(self.program.equations, flags, strict=True))
        self.known = [equation for equation, depends in pairs if not depends]
        self.linear = [equation for equation, depends in pairs if depends]
        for equation in self.linear:
            check_operands(equation)
        self.results = self.program.outputs[: len(out_avals)]
        self.images = self.program.outputs[len(out_avals) :]
        # A rule that the user wrote need not be linear. What is constant JAX drops from tangents
        # and adds to cotangents. Those of a collective depend on the cotangents of all devices.
        found = dependence(
            self.program, self.constants, seeds, self.images, by_jax=not self.reverse
        )
        linear = {Dependence.ZERO, Dependence.LINEAR}
        if not self.reverse:
            linear.add(Dependence.FIXED)
        self.reverse_only = not mixed and not linear.issuperset(found) and not are_rules_linear()
        if not self.reverse_only:
            self.linear = [
                with_open_paths(each, list(map(self._is_varied, each.inputs)))
                for each in self.linear
            ]

    def _fold(self, known: Mapping[int, np.ndarray]) -> None:
        """Notes what is known of operands and constants at the equations that read it."""
        constants = known_values.known_constants(self.program, self.constants, sparse=True)
        self.program = known_values.fold(self.program, {**constants, **known}, sparse=True)

    def _trace_as_possible(self, apply: Callable[[Sequence[Any]], Sequence[Any]]) -> bool:
        """Traces by whichever mode JAX has; returns whether results and tangents are mixed."""
        has_linearisation = True
        try:
            self._trace(apply, _linearised)
            if REVERSE_ONLY not in tracing.primitive_names(self.program.equations):
                return False
        except Exception:  # of any type; that of the pullback is what `jax.jacrev` raises
            has_linearisation = False
        self.reverse = True
        try:
            self._trace(apply, _pulled)
        except Exception as error:
            if has_linearisation:
                raise
            self.reverse = False
            try:
                self._trace(apply, _pushed)
            except Exception:
                raise error from None
            return True
        return False

    def _trace(self, apply: Callable[[Sequence[Any]], Sequence[Any]], mode: "_Mode") -> None:
        seeds = (
            [jax_internals.cotangent(self.out_avals[k]) for k in self.differentiable]
            if self.reverse
            else [self.in_avals[k] for k in self.active]
        )

        def both(*args: Any) -> list[Any]:
            operands, vectors = args[: len(self.in_avals)], args[len(self.in_avals) :]

            def function(*varied: Any) -> tuple[list[Any], list[Any]]:
                merged = list(operands)
                for position, value in zip(self.active, varied, strict=True):
                    merged[position] = value
                results = list(apply(merged))
                return [results[k] for k in self.differentiable], results

            return mode(function, [operands[k] for k in self.active], vectors)

        avals = [jax_internals.abstract(aval) for aval in (*self.in_avals, *seeds)]
        with jax_internals.allowing(*(aval.dtype for aval in avals)):
            self.program, self.constants = tracing.trace(both, avals)
        images = (
            [self.in_avals[k] for k in self.active]
            if self.reverse
            else [self.out_avals[k] for k in self.differentiable]
        )
        for atom, aval in zip(self.program.outputs, (*self.out_avals, *images), strict=True):
            # Under vmap a custom_jvp has batched results only where it is differentiated.
            if (found := self.program.aval(atom)).shape != aval.shape:
                raise TypeError(
                    f"{self.name} has a result of shape {aval.shape}, but of shape {found.shape} "
                    "where it is differentiated"
                )

    @functools.cached_property
    def local_jacobian(self) -> LocalJacobian:
        """The local Jacobian: terms where the linear part has them, else an operator."""
        return _local_jacobian(self)

    @property
    def flops(self) -> int:
        """An estimate of what one application of the linear part costs."""
        return sum(map(_flops, self.linear))

    def open_paths(self, sums: Accumulation, seeds: Iterable[int]) -> OpenPaths:
        """The open paths through the linear part, whose equations are numbered."""
        avals, seeds = self.program.avals, list(seeds)
        edges = [edge for k, each in enumerate(self.linear) for edge in sums.edges(k, each)]
        images = filter(self._is_varied, self.images)
        shapes = {name: avals[name].shape for name in self._varied}

        def wild() -> dict[Any, Wild]:
            every = zip(
                self.program.equations, wildness(self.program, Wild.GIVEN, seeds), strict=True
            )
            linear = (level for each, level in every if not self._varied.isdisjoint(each.outputs))
            return dict(enumerate(linear))

        return OpenPaths(edges, shapes, seeds, images, wild)

    def evaluate(self, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The results, and every value that the linear part can read."""
        seeds = [None] * (self.program.num_inputs - len(self.in_avals))
        values = passes.values(self.program, self.constants, [*operands, *seeds])
        passes.fill(values, self.known)
        return [flat.read(values, k) for k in self.results], values

    def apply(self, values: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        """The linear part; a seed or an image of None is zero."""
        values = list(values)
        values[len(self.in_avals) : self.program.num_inputs] = seeds
        passes.fill(values, self.linear, self._applied)
        return [flat.read(values, k) for k in self.images]

    def _applied(self, _: int, equation: Equation, operands: list[Any]) -> Sequence[Any]:
        """The results of a linear equation; an operand or a result of None is zero."""
        pairs = zip(equation.inputs, operands, strict=True)
        moving = [x for k, x in pairs if not isinstance(k, Literal) and k in self._varied]
        if all(x is None for x in moving):
            return [None] * len(equation.outputs)
        if equation.name == "add_any" and any(x is None for x in operands):
            return [next(x for x in operands if x is not None)]
        filled = [
            jax_internals.zeros(aval) if x is None else x
            for x, aval in zip(operands, equation.in_avals, strict=True)
        ]
        return jax_internals.bind(equation, filled)

    def image_depends(self, position: int) -> bool:
        """Whether an image depends on the seeds at all."""
        return self._is_varied(self.images[position])

    def _is_varied(self, atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in self._varied


# From a function that returns its differentiable results and all results, its arguments and the
# seeds, to all results and what the seeds become.
_Mode = Callable[[Callable[..., Any], Sequence[Any], Sequence[Any]], list[Any]]


def _linearised(function: Callable[..., Any], at: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
    _, pushforward, results = jax.linearize(function, *at, has_aux=True)
    return [*results, *pushforward(*seeds)]


def _pulled(function: Callable[..., Any], at: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
    _, pullback, results = jax.vjp(function, *at, has_aux=True)
    return [*results, *pullback(list(seeds))]


def _pushed(function: Callable[..., Any], at: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
    """For custom_vmap, which has a forward mode only; it mixes results and tangents."""
    _, results = function(*at)
    _, images, _ = jax.jvp(function, tuple(at), tuple(seeds), has_aux=True)
    return [*results, *images]


def _flops(equation: Equation) -> int:
    count = record_of(equation).flops
    if count is not None:
        size = count(equation)
    else:
        size = sum(map(jax_internals.size, (*equation.in_avals, *equation.out_avals)))
    body = sum(map(_flops, tracing.inner_equations(equation)))
    return size + body * equation.params.get("length", 1)


def _local_jacobian(parts: Linearised) -> LocalJacobian:
    operator = _operator(parts)
    seeds = parts.differentiable if parts.reverse else parts.active
    images = parts.active if parts.reverse else parts.differentiable
    pairs = {}
    for at, image in enumerate(images):
        if parts.reverse_only or parts.image_depends(at):
            for seed in seeds:
                pairs[(image, seed) if parts.reverse else (seed, image)] = operator
    if not pairs:
        return LocalJacobian({}, parts.evaluate)
    if parts.reverse_only:
        return LocalJacobian(pairs, parts.evaluate)
    first = len(parts.in_avals)
    shapes = [tuple(parts.program.avals[first + at].shape) for at in range(len(seeds))]
    sums = Accumulation(dict(zip(seeds, shapes, strict=True)), sparse=parts.sparse)
    rows = {first + at: sums.seed(seed) for at, seed in enumerate(seeds)}
    try:
        sums.program(lambda index: index, parts.linear, rows)
    except (Unrepresentable, jax_internals.InconclusiveDimensionOperation):
        return LocalJacobian(pairs, parts.evaluate)
    size_out = sum(jax_internals.size(parts.out_avals[k]) for k in parts.differentiable)
    size_in = sum(jax_internals.size(parts.in_avals[k]) for k in parts.active)
    flops = sums.recorder.cost.flops
    if not parts.sparse and any(
        jax_internals.exceeds(flops, (operator.flops or 1) * size) for size in (size_out, size_in)
    ):
        return LocalJacobian(pairs, parts.evaluate)
    blocks = {
        (image, seed): block
        for at, image in enumerate(images)
        if parts.image_depends(at)
        for seed, block in rows[parts.images[at]].items()
        if block
    }

    def sites(primals: Primals) -> Callable[[int], Primals]:
        @functools.cache
        def inner(index: int) -> Primals:
            equation = parts.linear[index]
            return Primals(equation, [flat.read(primals.residuals, k) for k in equation.inputs], ())

        return inner

    dtype = promoted(*(parts.in_avals[k].dtype for k in parts.active))
    paths = parts.open_paths(sums, range(first, first + len(seeds)))
    edges = sums.terms(blocks, sites, dtype, paths=paths, transposed=parts.reverse)
    return LocalJacobian(edges, parts.evaluate)


def _operator(parts: Linearised) -> Operator:
    in_shapes = {k: tuple(parts.in_avals[k].shape) for k in parts.active}
    out_shapes = {k: tuple(parts.out_avals[k].shape) for k in parts.differentiable}

    def direct(primals: Primals, position: int, vector: Any) -> dict[int, Any]:
        sources, avals = parts.active, parts.in_avals
        targets, target_avals = parts.differentiable, parts.out_avals
        if parts.reverse:
            sources, targets = targets, sources
            avals, target_avals = (
                list(map(jax_internals.cotangent, s)) for s in (target_avals, avals)
            )
        vector = _cast(vector, avals[position], primals)
        seeds = [vector if k == position else None for k in sources]
        images = parts.apply(primals.residuals, seeds)
        return {
            k: jax_internals.zeros(target_avals[k]) if image is None else image
            for k, image in zip(targets, images, strict=True)
        }

    def transposed(primals: Primals, position: int, vector: Any) -> dict[int, Any]:
        at = parts.differentiable.index(position)

        def function(*tangents: Any) -> Any:
            return parts.apply(primals.residuals, tangents)[at]

        avals = [jax_internals.abstract(parts.in_avals[k]) for k in parts.active]
        aval = parts.out_avals[position]
        cotangents = jax.linear_transpose(function, *avals)(_cast(vector, aval, primals))
        return dict(zip(parts.active, cotangents, strict=True))

    if parts.reverse:
        return Operator(
            parts.name, in_shapes, out_shapes, None, direct, parts.flops, parts.reverse_only
        )
    vjp = transposed if _is_transposable(parts) else None
    return Operator(parts.name, in_shapes, out_shapes, direct, vjp, parts.flops, parts.reverse_only)


def _cast(vector: Any, aval: Any, primals: Primals) -> Any:
    """A seed in the dtype of what it seeds, with its explicit sharding and manual axes."""
    vector = jax_internals.sharded_like(vector, aval)
    if jnp.issubdtype(vector.dtype, np.complexfloating) and not jnp.issubdtype(
        aval.dtype, np.complexfloating
    ):
        vector = lax.real(vector)
    vector = jax_internals.varying_like(jax_internals.convert(vector, aval.dtype), aval)
    return jax_internals.mapped_with(vector, primals.ins)


def _is_transposable(parts: Linearised) -> bool:
    """Whether JAX can transpose the linear part; it cannot where a while_loop carries tangents."""
    if _FORWARD_ONLY not in tracing.primitive_names(parts.linear):
        return True

    def attempt(*operands: Any) -> list[Any]:
        _, values = parts.evaluate(operands)
        avals = [jax_internals.abstract(parts.in_avals[k]) for k in parts.active]
        at = [k for k in range(len(parts.images)) if parts.image_depends(k)]
        transpose = jax.linear_transpose(
            lambda *tangents: [parts.apply(values, tangents)[k] for k in at], *avals
        )
        outs = [parts.out_avals[parts.differentiable[k]] for k in at]
        return transpose([jax_internals.zeros(aval) for aval in outs])

    try:
        jax.eval_shape(attempt, *map(jax_internals.abstract, parts.in_avals))
    except (ValueError, NotImplementedError):
        return False
    return True
