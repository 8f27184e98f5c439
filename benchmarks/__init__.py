"""Measurements of jax_cce: the reference tasks and the harness that runs them."""
