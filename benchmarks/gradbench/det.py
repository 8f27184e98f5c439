"""The determinant by expansion by minors, and its gradient, the matrix of cofactors (from cmpad).

Each minor is computed once, of the last rows and any columns, those of one row from those of the
next: m of them for each of C(n, m), where the recursion of the source computes n! products.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


@functools.cache
def _expansion(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of each minor of m rows, and which minors of m - 1 rows lack one of them."""
    of_size = list(itertools.combinations(range(n), m))
    smaller = {each: k for k, each in enumerate(itertools.combinations(range(n), m - 1))}
    without = [[smaller[each[:j] + each[j + 1 :]] for j in range(m)] for each in of_size]
    return np.array(of_size), np.array(without)


def determinant(matrix: jax.Array) -> jax.Array:
    """The determinant of a matrix of shape (n, n)."""
    n = len(matrix)
    minors = jnp.ones(1)
    for m in range(1, n + 1):
        columns, without = _expansion(n, m)
        signs = (-1.0) ** np.arange(m)
        minors = jnp.sum(signs * matrix[n - m][columns] * minors[without], axis=1)
    return minors[0]


def _read(data: Json) -> tuple[Any, ...]:
    return (np.reshape(np.asarray(data["A"], float), (data["ell"], data["ell"])),)


def _draw(rng: np.random.Generator, ell: int) -> Json:
    return {"A": lists(rng.random(ell**2)), "ell": ell}


def _write(gradient: jax.Array) -> Json:
    return lists(gradient.ravel())


EVALUATION = Evaluation(
    functions={
        "primal": Function(determinant, float),
        "gradient": Function(
            jax_cce.jacobian(determinant), _write, {"grad": jax.grad(determinant)}
        ),
    },
    read=_read,
    draw=_draw,
    sizes={"ell 5": (5,), "ell 9": (9,)},
)
