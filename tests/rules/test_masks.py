"""In which of JAX's modes masks hide what is not finite, and that they do hide it there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_cce.program import tracing
from jax_cce.rules.masks import finite_modes

X = jnp.array([0.7, 0.0, -0.4])
BOTH = {"jacfwd", "jacrev"}


def behind(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def before(x):
    return jnp.sqrt(jnp.where(x > 0, x, 0.0)) * x


def on_both_sides(x):
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def replaced_by(number):
    return lambda x: jnp.where(x > 0, jnp.log(jnp.sqrt(jnp.where(x > 0, x, number))), 0.0)


def along_a_replaced_norm(x):
    squared = x @ x
    turns = squared > 0
    axis = x / jnp.sqrt(jnp.where(turns, squared, 1.0))
    return jnp.where(turns, axis, x)


def sinc(x):
    length = jnp.sqrt(jnp.where(x > 0, x, 1.0))
    return jnp.where(x > 0, jnp.sin(length) / length, 1.0)


def outer_quotient(x):
    x = jnp.where(x > 0, x, 1.0)
    return x[:, None] / x


def quotient_of_two(x):
    return jnp.where(x > 0.5, x, 1.0) / jnp.where(x > 0, x, 1.0)


def replaced_after_a_mask(x):
    x = jnp.where(jnp.arange(3) > 0, x, 0.0)
    return jnp.sqrt(jnp.where(x > -1, x, 1.0))


def in_steps(f):
    return lambda x: lax.scan(lambda c, _: (f(c) + x, None), x, None, length=3)[0]


def from_step_to_step(x):
    def step(carry, _):
        return (jnp.sqrt(carry[1]), jnp.where(carry[0] > 0, carry[0], 0.0)), None

    return lax.scan(step, (x, x), None, length=3)[0]


def in_a_branch(x):
    return lax.cond(x[0] > 0, lambda x: jnp.log(x), lambda x: x, x)


def factorised(x):
    factor = jnp.linalg.cholesky(jnp.eye(3) + jnp.outer(x, x))
    return jax.scipy.linalg.solve_triangular(factor, x, lower=True)


CASES = {
    "behind": (behind, {"jacfwd"}),
    "before": (before, {"jacrev"}),
    "on both sides": (on_both_sides, {"jacfwd"}),
    "replaced by zero": (replaced_by(0.0), set()),
    "replaced by what is regular": (replaced_by(4.0), {"jacfwd"}),
    "replaced by what is infinite": (replaced_by(jnp.inf), set()),
    "replaced, and the divisor": (along_a_replaced_norm, {"jacfwd"}),
    "replaced, and then summed": (lambda x: jnp.sqrt(jnp.where(x > 0, x, 1).sum()), {"jacrev"}),
    "replaced, and then mixed": (
        lambda x: jnp.sqrt(jnp.where(x > 0, x, 1) * jnp.cos(x)),
        {"jacrev"},
    ),
    "replaced, on both sides of a quotient": (sinc, {"jacfwd"}),
    "replaced, and then moved": (outer_quotient, {"jacrev"}),
    "replaced twice": (quotient_of_two, {"jacrev"}),
    "replaced after a mask": (replaced_after_a_mask, {"jacrev"}),
    "no mask": (lambda x: jnp.sqrt(x) / (1 + x), BOTH),
    "nothing singular": (lambda x: jnp.where(x > 0, jnp.sin(x), x) ** 2, BOTH),
    "a mask of its own": (lambda x: jnp.where(jnp.arange(3) > 1, x, 0.0) * jnp.sin(x), BOTH),
    "what does not vary": (lambda x: jnp.where(x > 0, jnp.sqrt(jnp.arange(3.0)), 0.0) * x, BOTH),
    "logsumexp": (jax.scipy.special.logsumexp, BOTH),
    "softplus": (lambda x: jax.nn.softplus(jax.nn.softplus(x)), BOTH),
    "relu": (lambda x: jax.nn.relu(x) ** 2, BOTH),
    "relu behind": (lambda x: jax.nn.relu(jnp.log(x)), {"jacfwd"}),
    "relu before": (lambda x: jnp.log(jax.nn.relu(x)), {"jacrev"}),
    "behind, in steps": (in_steps(behind), {"jacfwd"}),
    "before, in steps": (in_steps(before), {"jacrev"}),
    "from step to step": (from_step_to_step, BOTH),
    "in a branch": (in_a_branch, {"jacfwd"}),
    "a factorisation": (factorised, BOTH),
}


@pytest.mark.parametrize("name", CASES)
def test_modes_that_are_finite(name):
    fun, expected = CASES[name]
    program, _ = tracing.trace(lambda x: jax.tree.leaves(fun(x)), [X])
    assert finite_modes(program, [0]) == expected


@pytest.mark.parametrize("name", ["behind", "before", "behind, in steps", "relu behind"])
def test_the_other_mode_is_not(name):
    fun, (mode,) = CASES[name]
    (other,) = BOTH - {mode}
    x = X if name != "relu behind" else jnp.abs(X)
    found = {each: np.isfinite(getattr(jax, each)(fun)(x)).all() for each in BOTH}
    assert found == {mode: True, other: False}
