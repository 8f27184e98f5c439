"""Searches for elimination orders, to sit beside `jax_cce`.

No search is here yet: `jax_cce` itself picks between the forward, reverse and minimal Markowitz
orders. Slower searches, whose better orders are worth waiting for, will live in this package,
import `jax_cce`, and never be imported by it.
"""
