"""The comparison that the tests share: our Jacobian against JAX's, in every respect that shows."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np

# A tolerance relative to the largest entry. Elimination multiplies in another order than reverse
# mode does, so the low precisions allow for some roundings of the intermediate values.
_TOLERANCES = {
    "float64": 1e-9,
    "complex128": 1e-9,
    "float32": 2e-5,
    "complex64": 2e-5,
    "float16": 1e-2,
    "bfloat16": 6e-2,
}


def assert_agree(ours: Any, theirs: Any, *, tolerance: float | None = None) -> None:
    """Asserts that two results agree in tree structure, types and values.

    Args:
      ours: A pytree; leaves that are no arrays are compared with ``==``.
      theirs: The pytree to agree with.
      tolerance: The allowed difference relative to the largest entry of an array; by default one
        that suits the array's dtype.
    """
    chex.assert_trees_all_equal_structs(ours, theirs)
    our_leaves, their_leaves = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    for index, (our, their) in enumerate(zip(our_leaves, their_leaves, strict=True)):
        if not isinstance(their, jax.Array):
            assert type(our) is type(their), f"leaf {index}: {type(our)} is not {type(their)}"
            assert our == their, f"leaf {index}: {our} is not {their}"
            continue
        assert isinstance(our, jax.Array), f"leaf {index}: {type(our)}"
        found, expected = _type_of(our), _type_of(their)
        assert found == expected, f"leaf {index}: {found} is not {expected}"
        _assert_close(our, their, tolerance, index)


def _type_of(x: jax.Array) -> tuple[tuple[int, ...], str, bool]:
    return x.shape, str(x.dtype), x.aval.weak_type


def _assert_close(our: jax.Array, their: jax.Array, tolerance: float | None, index: int) -> None:
    rtol = _TOLERANCES.get(str(their.dtype), 0.0) if tolerance is None else tolerance
    wide = np.complex128 if np.issubdtype(their.dtype, np.complexfloating) else np.float64
    expected = np.asarray(their).astype(wide)
    finite = np.abs(expected[np.isfinite(expected)])
    atol = rtol * float(finite.max(initial=0.0))
    np.testing.assert_allclose(
        np.asarray(our).astype(wide), expected, rtol=rtol, atol=atol, err_msg=f"leaf {index}"
    )


def assert_same_outcome(
    ours: Callable[..., Any], theirs: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    """Asserts that two callables return results that agree, or raise the same exception type."""
    assert_outcome(ours, outcome(theirs, *args, **kwargs), *args, **kwargs)


def assert_outcome(ours: Callable[..., Any], expected: Any, *args: Any, **kwargs: Any) -> None:
    """The same with the other one's `outcome` at hand."""
    found = outcome(ours, *args, **kwargs)
    if isinstance(expected, Exception):
        assert type(found) is type(expected), f"{found!r} is not like {expected!r}"
    elif isinstance(found, Exception):
        raise found
    else:
        assert_agree(found, expected)


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns, or the exception that it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error
