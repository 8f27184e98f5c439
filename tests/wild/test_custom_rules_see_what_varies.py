"""A custom rule is traced for exactly the operands that are differentiated, and left as it was."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree, assert_same_outcome


def _setting():
    """A function of which only the first argument has a derivative."""
    g = jax.custom_vjp(lambda x, y: x * y)

    def forward(x, y):
        if y.perturbed:
            raise ValueError("y is a setting and has no derivative")
        return x.value * y.value, y.value

    g.defvjp(forward, lambda y, ct: (ct * y, jnp.zeros_like(y)), symbolic_zeros=True)
    return g


def _jvp_setting():
    g = jax.custom_jvp(lambda x, y: x * y)

    def rule(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        if type(dy) is not jax.custom_derivatives.SymbolicZero:
            raise ValueError("y is a setting and has no derivative")
        return x * y, 3 * dx * y

    g.defjvp(rule, symbolic_zeros=True)
    return g


X, Y = jnp.float64(1.25), jnp.float64(2.0)
MAKERS = [_setting, _jvp_setting]

PLACES = {
    "alone": lambda g: lambda x, y: g(jnp.sin(x), y),
    "in jit": lambda g: jax.jit(lambda x, y: g(jnp.sin(x), y)),
    "in a scan": lambda g: jax.jit(
        lambda x, y: lax.scan(lambda c, a: (g(c, y) * a, c), x, jnp.arange(1.0, 4.0))[0]
    ),
    "in a branch": lambda g: jax.jit(lambda x, y: lax.cond(y > 0, lambda: g(x, y), lambda: x)),
    "of a computed setting": lambda g: jax.jit(lambda x, y: g(x, lax.stop_gradient(x) + y)),
    "of a step": lambda g: jax.jit(lambda x, y: g(x, jnp.floor(x) * y)),
    "in checkpoint": lambda g: jax.jit(jax.checkpoint(lambda x, y: g(jnp.sin(x), y))),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_ours_and_jax_in_turn(make, place, ours_first):
    expected = jax.jacrev(PLACES[place](make()))(X, Y)
    f = PLACES[place](make())
    transforms = [jax_cce.jacobian, jax.jacrev] if ours_first else [jax.jacrev, jax_cce.jacobian]
    for transform in transforms * 2:
        assert_agree(transform(f)(X, Y), expected)
    assert_agree(jax_cce.jacobian(f, format="structured")(X, Y).todense(), expected)
    jax_cce.plan(f)(X, Y)
    assert_agree(jax.jit(jax_cce.jacobian(f))(X, Y), expected)
    assert_agree(jax.jit(jax.jacrev(f))(X, Y), expected)
    assert_agree(jax.grad(f)(X, Y), expected)


@pytest.mark.parametrize("make", MAKERS)
def test_a_refusal_is_jaxs(make):
    f = PLACES["alone"](make())
    assert_same_outcome(jax_cce.jacobian(f, 1), jax.jacrev(f, 1), 1.0, 2.0)
    assert_same_outcome(jax_cce.jacobian(f, (0, 1)), jax.jacrev(f, (0, 1)), 1.0, 2.0)
    # A structural zero that only we know of is a derivative to JAX.
    f = lambda x, y: make()(x, 0.0 * x + y)  # noqa: E731
    assert_same_outcome(jax_cce.jacobian(f), jax.jacrev(f), 1.0, 2.0)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_residuals_that_depend_on_what_varies(argnums):
    def make():
        g = jax.custom_vjp(lambda x, y: x * y)

        def forward(x, y):
            kept = (y.value, x.value) if y.perturbed else (y.value,)
            return x.value * y.value, kept

        def backward(kept, ct):
            return ct * kept[0], (5 * ct * kept[1] if len(kept) == 2 else jnp.zeros_like(ct))

        g.defvjp(forward, backward, symbolic_zeros=True)
        return lambda x, y: g(jnp.sin(x), jnp.cos(y))

    expected = jax.jacrev(make(), argnums)(1.0, 2.0)
    assert_agree(jax_cce.jacobian(make(), argnums)(1.0, 2.0), expected)
    assert_agree(jax_cce.jacobian(jax.jit(make()), argnums)(1.0, 2.0), expected)


def test_a_key_does_not_ask_for_derivatives_that_nobody_wants():
    asked = []
    g = jax.custom_jvp(lambda x, y: x * y)

    def rule(primals, tangents):
        asked.append([type(t) is jax.custom_derivatives.SymbolicZero for t in tangents])
        (x, y), (dx, _) = primals, tangents
        return x * y, dx * y

    g.defjvp(rule, symbolic_zeros=True)
    jax_cce.jacobian(lambda x, y: g(x, y))(1.0, 2.0)
    jax_cce.plan(lambda x, y: g(x, y))(1.0, 2.0)
    jax_cce.explain(lambda x, y: g(x, y))(1.0, 2.0)
    assert asked
    assert all(zeros == [False, True] for zeros in asked)
