"""Jacobians as readable modules that import nothing of this package."""

from jax_cce.source.generating import Source, SourceBackend, source

__all__ = ["Source", "SourceBackend", "source"]
