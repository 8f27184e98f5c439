"""Random programs at infinities, NaN, zeros, and numbers that are denormal or huge."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import jax_cce
from cases.natively import IN_VECTORS, is_native, only
from cases.wild_programs import WildProgram, points, wild_programs
from jax_cce.program import passes, tracing
from jax_cce.program.flat import read

# Beyond these a product of some of a program's numbers may leave their range, depending on the
# order. XLA takes what is denormal for zero, and machine code does not always.
SMALLEST, LARGEST, DENORMAL = 1e-200, 1e200, np.finfo(np.float64).tiny
# What is infinite or turns at a zero, whose sign native code does not keep.
SIGNED = {"atan2": 0, "div": 1, "integer_pow": 0, "pow": 0, "rsqrt": 0}
# Factors for points nearby, at which it is seen what is no more than rounding.
NEARBY = 1 + 1e-13 * np.random.default_rng(0).normal(size=(16, 4))
# JAX keeps every operation that runs by itself, for each shape: 2 MB and more for a program.
EXAMPLES, KEPT = itertools.count(1), 500


def flat(tree, count):
    """Of each point all numbers."""
    return np.concatenate([np.reshape(leaf, (count, -1)) for leaf in jax.tree.leaves(tree)], 1)


def alike(one, other):
    """Which numbers are the same, up to rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        limit = np.maximum(1e-9 * np.maximum(np.abs(one), np.abs(other)), DENORMAL)
        close = np.abs(one - other) <= limit
    return close | (one == other) | (np.isnan(one) & np.isnan(other))


def by_jax(f, numbers):
    """Values, and the Jacobians of both modes."""
    x, s = jnp.asarray(numbers[:, :3]), jnp.asarray(numbers[:, 3])
    modes = f, jax.jacfwd(f, (0, 1)), jax.jacrev(f, (0, 1))
    return [flat(jax.vmap(mode)(x, s), len(numbers)) for mode in modes]


def wrong(ours, theirs, numbers, modes):
    """Which numbers differ although JAX's modes agree, and derivatives are not NaN.

    That is what they find where they multiply zero by an infinity. Where all of one of `modes` is
    finite, all is compared with that: an order that is forced owes no more than its own mode
    (reverse mode pulls zeros through what `where` leaves out). Values at finite points are NaN
    where JAX's are.
    """
    value, forward, reverse = theirs
    differs = ~alike(ours[1], forward) & alike(forward, reverse) & ~np.isnan(forward)
    for name, mode, other in (("forward", forward, reverse), ("reverse", reverse, forward)):
        if name not in modes:
            continue
        is_finite = np.isfinite(mode).all(1) & ~np.isfinite(other).all(1)
        differs |= is_finite[:, None] & ~alike(ours[1], mode)
    is_free = np.isnan(value) & ~np.isfinite(numbers).all(1, keepdims=True)
    return np.concatenate([~alike(ours[0], value) & ~is_free, differs], 1)


def leaves_the_range(numbers):
    if numbers.dtype.kind != "f":
        return False
    sizes = np.abs(numbers[np.isfinite(numbers) & (numbers != 0)])
    return not np.all((sizes > SMALLEST) & (sizes < LARGEST))


def computed(mode, args):
    """The equations of a program, each with its operands and its results at a point."""
    program, constants = tracing.trace(lambda *args: jax.tree.leaves(mode(*args)), args)
    values = passes.values(program, constants, args)
    passes.fill(values, program.equations)
    for equation in program.equations:
        operands = [np.asarray(read(values, atom)) for atom in equation.inputs]
        yield equation.name, operands, [np.asarray(values[name]) for name in equation.outputs]


def is_settled(f, point):
    """Whether no number on the way leaves the range, depends on a sign of zero, or is 0 · inf.

    For a product of zero by what is infinite or NaN only where the inputs are, native code gives
    zero, and what is chosen after that is chosen by it.
    """
    args = jnp.asarray(point[:3]), jnp.asarray(point[3])
    for name, operands, results in computed(f, args):
        is_product = name in ("mul", "dot_general") and np.isnan(results[0]).any()
        if not np.isfinite(point).all() and is_product and any(np.any(x == 0) for x in operands):
            return False
        if name in SIGNED and np.any(operands[SIGNED[name]] == 0):
            return False
    return not any(
        leaves_the_range(number)
        for mode in (f, jax.jacfwd(f, (0, 1)), jax.jacrev(f, (0, 1)))
        for _, operands, results in computed(mode, args)
        for number in (*operands, *results)
    )


def is_rounding(f, point, differs):
    """Whether JAX finds as much of a difference between points that are nearly the same."""
    near = np.where(np.isfinite(point), point * NEARBY, point)
    theirs = np.concatenate([np.concatenate(by_jax(f, point[None])[:2], 1)] * len(near))
    return not alike(np.concatenate(by_jax(f, near)[:2], 1), theirs)[:, differs].all()


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    program=wild_programs(),
    numbers=points(9),
    how=st.sampled_from(("batch", "point", *sorted(IN_VECTORS))),
)
def test_random_programs_at_special_values(
    program: WildProgram, numbers: np.ndarray, how: str, quiet
):
    """What JAX's modes agree on is the result, at a point, in vectors of directions, in batches."""
    is_forced = how in IN_VECTORS
    modes = (how.split()[0],) if is_forced else ("forward", "reverse")
    with only(how) if is_forced else contextlib.nullcontext():
        check(program, numbers, batch=how == "batch", modes=modes)


def check(program, numbers, *, batch, modes):
    if next(EXAMPLES) % KEPT == 0:
        jax.clear_caches()
    f = program.function
    ours = jax_cce.value_and_jacobian(f, (0, 1))
    x, s = jnp.asarray(numbers[:, :3]), jnp.asarray(numbers[:, 3])
    if batch:
        ours = jax.vmap(ours)
        assert is_native(ours, x, s)
        value, jacobian = jax.jit(ours)(x, s)
    else:
        assert is_native(ours, x[0], s[0])
        each = list(map(jax.jit(ours), x, s))
        value, jacobian = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    count = len(numbers)
    found = flat(value, count), flat(jacobian, count)
    theirs = by_jax(f, numbers)
    for k, differs in enumerate(wrong(found, theirs, numbers, modes)):
        if not differs.any():
            continue
        if not is_settled(f, numbers[k]):
            event("a number on the way is none to compare")
            continue
        if is_rounding(f, numbers[k], differs):
            event("a difference of rounding")
            continue
        ours_here = np.concatenate(found, 1)[k]
        raise AssertionError(f"{numbers[k]}: {ours_here}\nis not\n{[x[k] for x in theirs]}")
