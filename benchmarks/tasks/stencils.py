"""Sparse problems whose Jacobians are bands: discretised differential equations, and Broyden's.

Sources: Burgers and Brusselator as in Hairer & Wanner, "Solving Ordinary Differential Equations II"
(1996), IV.10 and IV.1, by central differences; Bratu and the Broyden functions as in Moré, Garbow &
Hillstrom, "Testing Unconstrained Optimization Software", ACM TOMS 7 (1981), and in the MINPACK-2
collection. Boundary values are of Dirichlet type.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.tasks.sparse_problem import ByHand, Problem, normal

_VISCOSITY = 0.01


def burgers(u: jax.Array) -> jax.Array:
    """u u_x - nu u_xx on the unit interval, zero at its ends."""
    h = 1 / (u.size + 1)
    padded = jnp.pad(u, 1)
    left, right = padded[:-2], padded[2:]
    return u * (right - left) / (2 * h) - _VISCOSITY * (right - 2 * u + left) / h**2


def _burgers_bands(u: jax.Array) -> tuple[jax.Array, ...]:
    h = 1 / (u.size + 1)
    transport, diffusion = u / (2 * h), _VISCOSITY / h**2
    slope = jnp.concatenate([u[1:], jnp.zeros(1, u.dtype)]).at[1:].add(-u[:-1])
    return (
        -transport[1:] - diffusion,
        slope / (2 * h) + 2 * diffusion,
        transport[:-1] - diffusion,
    )


def _tridiagonal(u: np.ndarray, lower: Any, middle: Any, upper: Any) -> Any:
    return sparse.diags_array([lower, middle, upper], offsets=(-1, 0, 1), shape=(u.size, u.size))


BURGERS = Problem(
    name="Burgers",
    fun=burgers,
    make=normal,
    size=10_000,
    nonzeros=lambda n: 3 * n - 2,
    small=9,
    by_hand=ByHand(_burgers_bands, _tridiagonal),
)

_A, _B, _ALPHA = 1.0, 3.0, 0.02


def brusselator(x: jax.Array) -> jax.Array:
    """Two species that react and diffuse on the unit interval, one after the other in x."""
    u, v = jnp.split(x, 2)
    diffusion = _ALPHA * (u.size + 1) ** 2

    def laplacian(w: jax.Array, boundary: float) -> jax.Array:
        end = jnp.full(1, boundary, w.dtype)
        return jnp.concatenate([end, w[:-1]]) - 2 * w + jnp.concatenate([w[1:], end])

    reaction = u**2 * v
    return jnp.concatenate(
        [
            _A + reaction - (_B + 1) * u + diffusion * laplacian(u, _A),
            _B * u - reaction + diffusion * laplacian(v, _B / _A),
        ]
    )


def _brusselator_diagonals(x: jax.Array) -> tuple[jax.Array, ...]:
    u, v = jnp.split(x, 2)
    diffusion = _ALPHA * (u.size + 1) ** 2
    square, product = u * u, 2 * u * v
    return product - (_B + 1) - 2 * diffusion, square, _B - product, -square - 2 * diffusion


def _brusselator_matrix(x: np.ndarray, uu: Any, uv: Any, vu: Any, vv: Any) -> Any:
    cells = x.size // 2
    off = np.full(cells - 1, _ALPHA * (cells + 1) ** 2)
    blocks = [
        [sparse.diags_array([off, uu, off], offsets=(-1, 0, 1)), sparse.diags_array(uv)],
        [sparse.diags_array(vu), sparse.diags_array([off, vv, off], offsets=(-1, 0, 1))],
    ]
    return sparse.block_array(blocks)


BRUSSELATOR = Problem(
    name="Brusselator",
    fun=brusselator,
    make=normal,
    size=10_000,
    nonzeros=lambda n: 4 * n - 4,
    small=12,
    fit=lambda n: n - n % 2,
    by_hand=ByHand(_brusselator_diagonals, _brusselator_matrix),
)

_LAMBDA = 6.0


def bratu(x: jax.Array) -> jax.Array:
    """The Laplacian of u, plus lambda e^u, on the unit square with zero boundary values."""
    side = math.isqrt(x.size)
    u = x.reshape(side, side)
    padded = jnp.pad(u, 1)
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (neighbours - 4 * u + _LAMBDA / (side + 1) ** 2 * jnp.exp(u)).reshape(-1)


def _bratu_diagonal(x: jax.Array) -> tuple[jax.Array, ...]:
    return (_LAMBDA / (math.isqrt(x.size) + 1) ** 2 * jnp.exp(x) - 4,)


def _bratu_matrix(x: np.ndarray, diagonal: Any) -> Any:
    side = math.isqrt(x.size)
    ones = np.ones(side - 1)
    line = sparse.diags_array([ones, ones], offsets=(-1, 1))
    return sparse.kronsum(line, line) + sparse.diags_array(diagonal)


BRATU = Problem(
    name="Bratu 2-D",
    fun=bratu,
    make=normal,
    size=128**2,
    nonzeros=lambda n: 5 * n - 4 * math.isqrt(n),
    small=16,
    fit=lambda n: math.isqrt(n) ** 2,
    by_hand=ByHand(_bratu_diagonal, _bratu_matrix),
)


def broyden_tridiagonal(x: jax.Array) -> jax.Array:
    """(3 - 2 x_i) x_i - x_{i-1} - 2 x_{i+1} + 1."""
    end = jnp.zeros(1, x.dtype)
    before, after = jnp.concatenate([end, x[:-1]]), jnp.concatenate([x[1:], end])
    return (3 - 2 * x) * x - before - 2 * after + 1


def _broyden_tridiagonal_matrix(x: np.ndarray, diagonal: Any) -> Any:
    ones = np.ones(x.size - 1)
    return _tridiagonal(x, -ones, diagonal, -2 * ones)


BROYDEN_TRIDIAGONAL = Problem(
    name="Broyden tridiagonal",
    fun=broyden_tridiagonal,
    make=normal,
    size=10_000,
    nonzeros=lambda n: 3 * n - 2,
    small=9,
    by_hand=ByHand(lambda x: (3 - 4 * x,), _broyden_tridiagonal_matrix),
)

_BELOW, _ABOVE = 5, 1


def broyden_banded(x: jax.Array) -> jax.Array:
    """x_i (2 + 5 x_i^2) + 1 - the sum of x_j (1 + x_j) over five j below i and one above."""
    padded = jnp.pad(x * (1 + x), (_BELOW, _ABOVE))
    shifts = (k for k in range(_BELOW + _ABOVE + 1) if k != _BELOW)
    return x * (2 + 5 * x**2) + 1 - sum(padded[k : k + x.size] for k in shifts)


def _broyden_banded_columns(x: jax.Array) -> tuple[jax.Array, ...]:
    return 2 + 15 * x * x, -1 - 2 * x


def _broyden_banded_matrix(x: np.ndarray, diagonal: Any, column: Any) -> Any:
    n = x.size
    # Row i of the column j = i + offset: above the diagonal the first columns are not met.
    bands = {
        offset: column[max(offset, 0) : n + min(offset, 0)] for offset in range(-_BELOW, _ABOVE + 1)
    }
    bands[0] = diagonal
    return sparse.diags_array(list(bands.values()), offsets=tuple(bands), shape=(n, n))


BROYDEN_BANDED = Problem(
    name="Broyden banded",
    fun=broyden_banded,
    make=normal,
    size=10_000,
    nonzeros=lambda n: (_BELOW + _ABOVE + 1) * n - math.comb(_BELOW + 1, 2) - _ABOVE,
    small=11,
    by_hand=ByHand(_broyden_banded_columns, _broyden_banded_matrix),
)

_STEPS = 16
_RATIO = 0.25  # time step / square of the mesh width


def diffusion(u: jax.Array) -> jax.Array:
    """Explicit Euler steps of u_t = ((1 + u^2) u_x)_x, with zero boundary values."""

    def step(u: jax.Array, _: None) -> tuple[jax.Array, None]:
        padded = jnp.pad(u, 1)
        middle = (padded[1:] + padded[:-1]) / 2
        flux = (1 + middle**2) * jnp.diff(padded)
        return u + _RATIO * jnp.diff(flux), None

    return jax.lax.scan(step, u, None, length=_STEPS)[0]


def _stable(n: int, dtype: Any) -> tuple[np.ndarray, ...]:
    # Steps with _RATIO * (1 + u^2) <= 1/2 do not amplify.
    return (np.random.default_rng(0).uniform(-1, 1, n).astype(dtype),)


DIFFUSION = Problem(
    name="Diffusion, scan",
    fun=diffusion,
    make=_stable,
    size=1000,
    nonzeros=lambda n: (2 * _STEPS + 1) * n - _STEPS * (_STEPS + 1),
    small=40,
)
