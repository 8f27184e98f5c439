"""The blocks of a Jacobian in any format, as arrays and by type."""

from typing import Any

import jax

__all__ = ["dense", "types"]


def _is_block(node: Any) -> bool:
    return hasattr(node, "todense")


def dense(blocks: Any) -> Any:
    """The blocks as arrays; other leaves stay what they are."""
    return jax.tree.map(lambda b: b.todense() if _is_block(b) else b, blocks, is_leaf=_is_block)


def types(blocks: Any) -> Any:
    """Shape, dtype and weak type of each block; of a BCOO matrix those of its data."""

    def type_of(block: Any) -> tuple[tuple[int, ...], str, bool]:
        array = block.data if hasattr(block, "nse") else dense(block)
        return block.shape, array.dtype.name, array.aval.weak_type

    return jax.tree.map(type_of, blocks, is_leaf=_is_block)
