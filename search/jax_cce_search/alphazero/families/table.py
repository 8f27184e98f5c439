"""The table of all families, by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.arrays import (
    attention_small,
    layers,
    matrices,
    stencil,
)
from jax_cce_search.alphazero.families.draws import Drawn, Family, between, coins, pick
from jax_cce_search.alphazero.families.engineering import (
    camera,
    circuit,
    kalman_filter,
    perceptron_scalar,
)
from jax_cce_search.alphazero.families.finance import option
from jax_cce_search.alphazero.families.fluids_and_chemistry import (
    equilibrium,
    flux,
    polynomials,
    reactions,
)
from jax_cce_search.alphazero.families.mechanics import kinematics, orbit, rotation
from jax_cce_search.alphazero.families.vectors import total

__all__ = [
    "ARRAYS",
    "FAMILIES",
    "SCALAR",
]

_SCALARS: dict[str, Family] = {
    "kinematics": kinematics,
    "flux": flux,
    "polynomials": polynomials,
    "equilibrium": equilibrium,
    "reactions": reactions,
    "option": option,
    "orbit": orbit,
    "rotation": rotation,
    "perceptron_scalar": perceptron_scalar,
    "filter": kalman_filter,
    "camera": camera,
    "circuit": circuit,
}
SCALAR = tuple(_SCALARS)


def _batched(random: np.random.Generator) -> Drawn:
    """A program on scalars for a batch: some arguments are vectors, the others are shared."""
    # A gradient is one of a scalar.
    names = [name for name in SCALAR if name != "option"]
    fun, args = FAMILIES[pick(random, names)](random)
    length, share = between(random, 4, 8), pick(random, (0.5, 1.0, 1.0))
    (reduced,) = coins(random, 1)
    spread = [random.random() < share for _ in args]
    spread[0] = True

    def batch(*args: Any) -> Any:
        out = jax.tree.leaves(fun(*args))
        return total(jnp.mean(y**2) for y in out) if reduced else tuple(out)

    stretch = 1 + 0.1 * random.random(length)
    return batch, tuple(a * stretch if s else a for a, s in zip(args, spread, strict=True))


_ARRAYS: dict[str, Family] = {
    "layers": layers,
    "attention_small": attention_small,
    "batched": _batched,
    "matrices": matrices,
    "stencil": stencil,
}
ARRAYS = tuple(_ARRAYS)
FAMILIES: dict[str, Family] = _SCALARS | _ARRAYS
