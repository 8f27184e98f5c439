"""Splines whose Jacobians are sparse: truncated hierarchical B-splines.

`THB` is a basis of them on a grid that is refined where needed; `open_knots` makes the knots of
equal cells.
"""

from jax_cce.splines.thb import THB, Cells, open_knots

__all__ = ["THB", "Cells", "open_knots"]
