"""JAX's settings while the search computes, whatever those of the user's own program are."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = [
    "own_settings",
]


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Single precision, the usual promotion of types and ranks, compiled, and without checks."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.disable_jit(False),
    ):
        yield
