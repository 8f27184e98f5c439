"""A fence: the identity, behind which XLA on the CPU must have its operands in memory.

XLA:CPU fuses producers into every consumer and evaluates them element by element in the consumer's
index space. Where that costs a division for each element, or a transcendental for each consumer,
an array that is written once is several times faster. `lax.optimization_barrier` does not survive
there; a conditional does.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

__all__ = [
    "FENCE",
    "fence",
    "on_cpu",
]

FENCE = jex_core.Primitive("fence")
FENCE.multiple_results = True


def fence(*arrays: Any) -> list[Any]:
    """Returns the arrays; on the CPU they are in memory before anything reads them."""
    return FENCE.bind(*arrays)


def on_cpu(*arrays: Any) -> Any:
    """What a fence is on the CPU: a conditional, of which only we know what it decides."""
    seen = next((x for x in arrays if x.size and jnp.issubdtype(x.dtype, np.floating)), None)
    if seen is None:
        return arrays
    first = lax.reshape(lax.slice(seen, (0,) * seen.ndim, (1,) * seen.ndim), ())
    # Nothing is greater than infinity, but XLA does not conclude that.
    never = lax.gt(first, lax.full_like(first, np.inf))
    return lax.cond(never, lambda *xs: tuple(map(lax.neg, xs)), lambda *xs: xs, *arrays)


FENCE.def_impl(lambda *xs: list(xs))
FENCE.def_abstract_eval(lambda *xs: list(xs))
ad.deflinear2(FENCE, lambda cotangents, *_: fence(*cotangents))


def _batched(args: Any, dims: Any) -> Any:
    return fence(*args), dims


batching.primitive_batchers[FENCE] = _batched
mlir.register_lowering(FENCE, lambda ctx, *xs: list(xs))
mlir.register_lowering(FENCE, mlir.lower_fun(on_cpu, multiple_results=True), platform="cpu")
