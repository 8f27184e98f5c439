"""max and min of values that XLA computes again, rounded otherwise, where it compares them.

With fused multiply-add a value is rounded once or twice, as the loop that it is computed in says.
A derivative that asks which operand equals the result then finds that none does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce

# The other tests compile without optimisation.
_OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if jax.__version_info__ < (0, 11):
    _OPTIMISED["xla_cpu_use_fusion_emitters"] = True
_NODES = np.linspace(0.5, 1.5, 3)


def _tree(choose, z):
    """Two levels of a tree on which an option may be exercised early."""
    a, b = z
    nodes = jnp.asarray(_NODES) * jnp.exp(b)
    values = (1.2 - nodes) ** 2
    for _ in range(2):
        nodes = nodes[1:] * b
        values = choose(a * (a * values[1:] + (1 - a) * values[:-1]), 1.2 - nodes)
    return values[0]


_CHOICES = {
    "maximum": lambda x, y: jnp.maximum(x, y),
    "minimum": lambda x, y: -jnp.minimum(-x, -y),
    "relu": lambda x, y: y + jax.nn.relu(x - y),
    "clip": lambda x, y: y + jnp.clip(x - y, 0.0, 10.0),
    "max of a pair": lambda x, y: jnp.max(jnp.stack([x, y]), axis=0),
    "min of a pair": lambda x, y: -jnp.min(jnp.stack([-x, -y]), axis=0),
    "the last of a sorted pair": lambda x, y: jnp.sort(jnp.stack([x, y]), axis=0)[1],
    "cummax": lambda x, y: jax.lax.cummax(jnp.stack([x, y]))[1],
    "norm of infinite order": lambda x, y: jnp.linalg.norm(jnp.stack([x, y]), jnp.inf, axis=0),
}


@pytest.mark.parametrize("name", _CHOICES)
@pytest.mark.parametrize("nested", [False, True])
def test_second_derivatives_agree_where_operands_are_computed_again(name, nested):
    def fun(z):
        return _tree(_CHOICES[name], z)

    points = jnp.asarray(
        np.array([0.6, 0.8]) * (1 + 0.03 * np.random.default_rng(0).uniform(-1, 1, (40, 2)))
    )
    hessian = jax_cce.jacobian(jax_cce.jacobian(fun)) if nested else jax_cce.hessian(fun)
    compiled = jax.jit(jax.vmap(hessian)).lower(points).compile(_OPTIMISED)
    found = compiled(points)
    expected = jax.vmap(jax.hessian(fun))(points)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
