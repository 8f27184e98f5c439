"""What `jax_cce.randomized` takes for granted of the functions that `jax.vjp` returns."""

import jax
import jax.numpy as jnp
import numpy as np

X = jnp.linspace(0.1, 0.9, 4)


def test_the_leaves_of_a_pullback_are_what_it_keeps():
    _, pull = jax.vjp(jnp.sin, X)
    leaves, tree = jax.tree.flatten(pull)
    np.testing.assert_allclose(leaves, [jnp.cos(X)])
    (twice,) = jax.tree.unflatten(tree, [2 * leaf for leaf in leaves])(jnp.ones(4))
    np.testing.assert_allclose(twice, 2 * jnp.cos(X))


def test_they_are_traced_where_the_function_is():
    def kept(x):
        _, pull = jax.vjp(lambda x: jnp.tanh(x) * x, x)
        return jax.tree.leaves(pull)

    program = jax.make_jaxpr(kept)(X)
    read = {v for v in program.jaxpr.outvars if v not in program.jaxpr.invars}
    assert read
    assert all(leaf.shape == X.shape for leaf in jax.jit(kept)(X))
