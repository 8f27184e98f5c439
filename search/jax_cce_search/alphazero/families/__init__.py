"""Families of functions that a policy learns from; none of them is a reference task."""

from jax_cce_search.alphazero.families.table import ARRAYS, FAMILIES, SCALAR, traced, window

__all__ = ["ARRAYS", "FAMILIES", "SCALAR", "traced", "window"]
