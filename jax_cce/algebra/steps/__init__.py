"""Steps: the computations that a recorder notes, each of which can be carried out on arrays.

A step fills *slots* with coefficient arrays or index arrays, and reads slots that earlier steps
have filled. There is one class for each way to compute: what a step reads, what it costs, how it
is described and how it runs is said there and nowhere else.
"""

from jax_cce.algebra.steps.local import IndexArray, Local
from jax_cce.algebra.steps.products import Multiply, Reorder, SymbolValues
from jax_cce.algebra.steps.pushes import PullBack, Push, PushForward
from jax_cce.algebra.steps.step import Key, Sites, Step, needed, run
from jax_cce.algebra.steps.sums import Add, Columns, Densify, Merge, Stack

__all__ = [
    "Add",
    "Columns",
    "Densify",
    "IndexArray",
    "Key",
    "Local",
    "Merge",
    "Multiply",
    "PullBack",
    "Push",
    "PushForward",
    "Reorder",
    "Sites",
    "Stack",
    "Step",
    "SymbolValues",
    "needed",
    "run",
]
