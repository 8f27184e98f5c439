"""Jacobians compiled ahead of time: files that another process runs without this package."""
