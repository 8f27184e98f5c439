"""Reverse mode that keeps parts of coefficients: forwards along a level, and back.

The values that the program computes are exact; what is drawn changes the linear map back alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.fence import fence
from jax_cce.jax_internals import Literal
from jax_cce.program import passes
from jax_cce.program.flat import read
from jax_cce.randomized.operations import Elementwise, Operation, Product, Whole
from jax_cce.randomized.sites import Site
from jax_cce.randomized.tape import Level, Loop

__all__ = ["Variances", "backward", "forward"]

# For each site the variance that it adds to the cotangent of its operand; None to draw and not to
# measure. Coefficients are then kept whole.
Variances = dict[int, Any] | None

# Random signs that a variance is averaged over.
_PROBES = 8


def _matrix(site: Site, array: Any) -> Any:
    """A coefficient as (elements, features)."""
    draw = site.draw
    return jnp.reshape(jnp.transpose(array, site.order), (draw.elements, draw.features))


def _array(site: Site, matrix: Any) -> Any:
    """The inverse of `_matrix`."""
    sizes = [site.shape[k] for k in site.order]
    return jnp.transpose(jnp.reshape(matrix, sizes), site.inverse)


def _kept(site: Site, array: Any, key: Any, variances: Variances) -> Any:
    matrix = _matrix(site, array)
    if variances is not None:
        return matrix
    return site.draw.keep(jax.random.fold_in(key, site.number), matrix)


def forward(
    level: Level,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    key: Any,
    variances: Variances = None,
) -> tuple[list[Any], list[Any]]:
    """The outputs of a level, and what it keeps.

    Args:
        level: the level.
        constants: values of the program's constants.
        inputs: values of its inputs.
        key: what is drawn comes from it.
        variances: as for `backward`; nothing is drawn where they are asked for.
    """
    extras: list[Any] = []

    def apply(at: int, equation: Any, operands: list[Any]) -> Sequence[Any]:
        operation = level.operations.get(at)
        if operation is None or at in level.repeated:
            return jax_internals.bind(equation, operands)
        results, kept = _evaluated(operation, operands, key, variances)
        if isinstance(operation, Product | Elementwise | Whole) and kept:
            # Else the compiler may keep the whole array for the way back, and take its part there.
            kept = fence(*kept)
        extras.extend(kept)
        return results

    program = level.program
    values = passes.values(program, constants, inputs)
    passes.fill(values, program.equations, apply)
    outputs = [read(values, atom) for atom in program.outputs]
    return outputs, [*(values[name] for name in level.kept), *extras]


def _evaluated(
    operation: Operation, operands: Sequence[Any], key: Any, variances: Variances
) -> tuple[Sequence[Any], list[Any]]:
    """The results of an equation, and what it keeps beside variables."""
    if isinstance(operation, Product):
        results = jax_internals.bind(operation.equation, operands)
        return results, [
            _kept(site, operands[1 - at], key, variances) for at, site in operation.own.items()
        ]
    if isinstance(operation, Elementwise):
        result, slope = operation.evaluate(operands)
        return [result], [_kept(operation.site, slope, key, variances)]
    if isinstance(operation, Loop):
        return _looped(operation, operands, key, variances)
    assert isinstance(operation, Whole)
    return operation.evaluate(operands)


def _step_key(loop: Loop, key: Any, step: Any) -> Any:
    return jax.random.fold_in(jax.random.fold_in(key, loop.number), step)


def _looped(
    loop: Loop, operands: Sequence[Any], key: Any, variances: Variances
) -> tuple[list[Any], list[Any]]:
    consts, carry = loop.counts
    fixed = list(operands[:consts])

    def step(state: Any, slices: Any) -> tuple[Any, Any]:
        at, rows = slices
        inputs = [*fixed, *state, *rows]
        own = _step_key(loop, key, at)
        outputs, saved = forward(loop.inner, loop.constants, inputs, own, variances)
        typed = [
            lax.convert_element_type(x, jnp.result_type(s))
            for x, s in zip(outputs[:carry], state, strict=True)
        ]
        return typed, (outputs[carry:], saved)

    state, (stacked, saved) = lax.scan(
        step,
        [jnp.asarray(x) for x in operands[consts : consts + carry]],
        (jnp.arange(loop.length), list(operands[consts + carry :])),
        length=loop.length,
        reverse=loop.equation.params["reverse"],
        unroll=loop.equation.params["unroll"],
    )
    return [*state, *stacked], saved


def backward(
    level: Level,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    saved: Sequence[Any],
    cotangents: Sequence[Any],
    key: Any,
    variances: Variances = None,
) -> dict[int, Any]:
    """The cotangents of the inputs.

    Args:
        level: the level.
        constants: values of its constants.
        inputs: values of the inputs that it requires, of the others anything.
        saved: from `forward`.
        cotangents: those of the outputs; None for zero.
        key: that of `forward`.
        variances: where to note the variances; None for a cotangent that is drawn.

    Returns:
        The cotangent of each input that has one, by its number.
    """
    program = level.program
    values = passes.values(program, constants, inputs)
    rest = iter(saved)
    for name in level.kept:
        values[name] = next(rest)
    for at in level.again:
        equation = program.equations[at]
        operands = [read(values, atom) for atom in equation.inputs]
        results = jax_internals.bind(equation, operands)
        for name, result in zip(equation.outputs, results, strict=True):
            values[name] = result
    extras = {
        at: [next(rest) for _ in operation.extras]
        for at, operation in level.operations.items()
        if at not in level.repeated
    }
    parts = {
        site.number: array
        for at, arrays in extras.items()
        if isinstance(operation := level.operations[at], Product)
        for site, array in zip(operation.own.values(), arrays, strict=True)
    }
    found: dict[int, Any] = {}
    _include(found, program.outputs, cotangents, level.active)
    for at in reversed(level.operations):
        operation = level.operations[at]
        equation = operation.equation
        cts = [found.pop(name, None) for name in equation.outputs]
        if all(ct is None for ct in cts):
            continue
        operands = [read(values, atom) for atom in equation.inputs]
        outs = [values[name] for name in equation.outputs]
        if at in level.repeated:
            results, kept = _evaluated(operation, operands, key, variances)
            outs = list(results)
        else:
            kept = extras[at]
        if isinstance(operation, Product):
            pulled = _pulled_product(operation, operands, parts, cts[0], key, variances)
        else:
            pulled = list(_pulled(operation, (operands, outs, kept), cts, key, variances))
        names = [equation.inputs[k] for k in operation.active]
        _include(found, names, pulled, level.active)
    return found


def _include(
    found: dict[int, Any], atoms: Iterable[Any], cotangents: Iterable[Any], active: set[int]
) -> None:
    """Adds cotangents to those of their variables."""
    for atom, ct in zip(atoms, cotangents, strict=True):
        if ct is not None and not isinstance(atom, Literal) and atom in active:
            found[atom] = lax.add(found[atom], ct) if atom in found else ct


def _pulled(
    operation: Operation, known: Any, cts: Sequence[Any], key: Any, variances: Variances
) -> Sequence[Any]:
    """The cotangents of an equation's active operands."""
    operands, outs, kept = known
    if isinstance(operation, Whole):
        return operation.pull(operands, outs, kept, cts)
    if isinstance(operation, Loop):
        return _pulled_loop(operation, operands, kept, cts, key, variances)
    assert isinstance(operation, Elementwise)
    (ct,), site, (stored,) = cts, operation.site, kept
    if variances is None:
        own = jax.random.fold_in(key, site.number)
        return [lax.mul(_array(site, site.draw.restore(own, stored)), ct)]
    slopes = site.draw.variances(stored)
    _note(variances, site, jnp.sum(_array(site, slopes) * ct * ct))
    return [lax.mul(_array(site, stored), ct)]


def _pulled_product(
    operation: Product,
    operands: Sequence[Any],
    parts: Mapping[int, Any],
    ct: Any,
    key: Any,
    variances: Variances,
) -> list[Any]:
    """The cotangents of a product's active operands.

    Args:
        operation: the product.
        operands: values of the operands that are needed.
        parts: what is stored at each site, by its number.
        ct: the cotangent of the result.
        key: what is drawn comes from it.
        variances: as for `backward`.
    """
    results = []
    for at in operation.active:
        if at not in operation.sites:
            results.append(operation.transposed(at, operands[1 - at], ct))
            continue
        site = operation.sites[at]
        draw, stored = site.draw, parts[site.number]
        if variances is not None:
            _note(variances, site, _variance(operation, at, site, stored, ct))
            results.append(operation.transposed(at, _array(site, stored), ct))
            continue
        own = jax.random.fold_in(key, site.number)
        result = None
        if draw.is_compact:
            result = operation.compact(at, site, draw.indices(own), draw.weighted(stored), ct)
        if result is None:
            result = operation.transposed(at, _array(site, draw.restore(own, stored)), ct)
        results.append(result)
    return results


def _variance(operation: Product, at: int, site: Site, matrix: Any, ct: Any) -> Any:
    """The variance of a sampled product, summed over its entries."""
    draw = site.draw
    if not draw.share or draw.elements == 1:
        # No two entries of a coefficient act on one cotangent through the same number.
        return jnp.sum(operation.transposed(at, _array(site, draw.variances(matrix)), ct * ct))
    total = jnp.zeros((), matrix.dtype)
    for probe in range(_PROBES):
        spread = draw.spread(jax.random.key(probe), matrix)
        total += jnp.sum(operation.transposed(at, _array(site, spread), ct) ** 2)
    return total / _PROBES


def _note(variances: Mapping[int, Any], site: Site, variance: Any) -> None:
    assert isinstance(variances, dict)
    variances[site.number] = variances.get(site.number, 0) + variance


def _pulled_loop(
    loop: Loop,
    operands: Sequence[Any],
    saved: Sequence[Any],
    cts: Sequence[Any],
    key: Any,
    variances: Variances,
) -> list[Any]:
    consts, carry = loop.counts
    inner, program = loop.inner, loop.inner.program
    avals, active = program.avals, loop.inner.active
    fixed = [k for k in loop.active if k < consts]
    rows = [k for k in loop.active if k >= consts + carry]
    states = [k for k in loop.carried if k in active]
    read_rows = [k for k in inner.required if consts + carry <= k < program.num_inputs]
    stacked = [k for k, ct in enumerate(cts) if k >= carry and ct is not None]

    def start(k: int) -> Any:
        ct = cts[k - consts]
        return jax_internals.zeros(avals[k]) if ct is None else ct

    def step(totals: Any, slices: Any) -> tuple[Any, Any]:
        of_states, of_fixed = totals
        at, own_rows, own_saved, own_cts = slices
        inputs: list[Any] = [*operands[:consts], *[None] * (program.num_inputs - consts)]
        for k, value in zip(read_rows, own_rows, strict=True):
            inputs[k] = value
        outgoing: list[Any] = [None] * len(program.outputs)
        for k, ct in zip(states, of_states, strict=True):
            outgoing[k - consts] = ct
        for k, ct in zip(stacked, own_cts, strict=True):
            outgoing[k] = ct
        own: Variances = None if variances is None else {}
        own_key = _step_key(loop, key, at)
        found = backward(inner, loop.constants, inputs, own_saved, outgoing, own_key, own)

        def one(k: int) -> Any:
            return found[k] if k in found else jax_internals.zeros(avals[k])

        totals = [lax.add(total, one(k)) for k, total in zip(fixed, of_fixed, strict=True)]
        return ([one(k) for k in states], totals), ([one(k) for k in rows], own or {})

    xs = (
        jnp.arange(loop.length),
        [operands[k] for k in read_rows],
        list(saved),
        [cts[k] for k in stacked],
    )
    zeros = [jax_internals.zeros(avals[k]) for k in fixed]
    (of_states, of_fixed), (of_rows, measured) = lax.scan(
        step,
        ([start(k) for k in states], zeros),
        xs,
        length=loop.length,
        reverse=not loop.equation.params["reverse"],
        unroll=loop.equation.params["unroll"],
    )
    if variances is not None:
        for number, values in measured.items():
            variances[number] = variances.get(number, 0) + jnp.sum(values)
    by_place = dict(zip([*fixed, *states, *rows], [*of_fixed, *of_states, *of_rows], strict=True))
    return [by_place[k] for k in loop.active]
