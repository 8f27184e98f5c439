"""Sparse results: sorted coordinates and structured Jacobians."""
