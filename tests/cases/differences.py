"""What differs between Jacobians of random programs, and programs nearby."""

from typing import Any

import jax
import numpy as np

from cases.programs import Program


def differences(ours: Any, theirs: Any, rtol: float, *, types: bool = True) -> list[str]:
    """What differs between two pytrees, one line a leaf; without `types` in their values only."""
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return [f"{jax.tree.structure(ours)} is not {jax.tree.structure(theirs)}"]
    found = []
    for (path, their), our in zip(
        jax.tree.leaves_with_path(theirs), jax.tree.leaves(ours), strict=True
    ):
        where = jax.tree_util.keystr(path) or "the result"
        if types and our.aval != their.aval:
            found.append(f"{where}: {our.aval} is not {their.aval}")
            continue
        ours64, theirs64 = np.asarray(our, np.float64), np.asarray(their, np.float64)
        # The bounds on a program's values make its local Jacobians of order one, and so the
        # rounding errors left where the entries of a Jacobian cancel.
        scale = max(np.abs(theirs64).max(initial=0), 0.1)
        error = np.abs(ours64 - theirs64)
        if not (error <= rtol * scale).all():
            found.append(f"{where}: off by {error.max() / scale:.1e}\n{ours64}\nis not\n{theirs64}")
    return found


def perturbed(program: Program) -> tuple[Any, ...]:
    """The arguments, changed by a hundred thousandth of the tolerance."""
    rng = np.random.default_rng(0)

    def perturb(leaf):
        if isinstance(leaf, float):
            return leaf * (1 + 1e-5 * program.rtol)
        if leaf.dtype.kind != "f":
            return leaf
        step = max(1e-5 * program.rtol, 2 * np.finfo(leaf.dtype).eps)
        return leaf * (1 + step * rng.choice((-1, 1), leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(perturb, program.args)
