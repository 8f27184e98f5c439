"""Native code under nested maps, some of which run over some operands only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree

RNG = np.random.default_rng(0)


def orbit(x, p):
    return jnp.array([p[0] * x[0] - jnp.sin(x[1]), x[0] * x[1] * p[1]])


@pytest.mark.parametrize("maps", [("x", "p"), ("xp", "x"), ("x", "xp"), ("p", "x", "xp")])
def test_operands_that_only_some_maps_run_over(maps):
    def nested(jacobian):
        for names in reversed(maps):
            jacobian = jax.vmap(jacobian, [0 if name in names else None for name in "xp"])
        return jacobian

    sizes = [5, 3, 4]
    shapes = {
        name: [size for size, names in zip(sizes, maps, strict=False) if name in names]
        for name in "xp"
    }
    args = [jnp.asarray(RNG.normal(size=(*shapes[name], 2))) for name in "xp"]
    ours = jax.jit(nested(jax_cce.jacobian(orbit, (0, 1))))
    assert "jax_cce_" in ours.lower(*args).as_text()
    assert_agree(ours(*args), nested(jax.jacrev(orbit, (0, 1)))(*args))
