"""Fitting a spline surface: a given sparse Jacobian beside dense ones, in time and memory.

Run it with `python -m benchmarks.splines`. Residuals are the heights of a surface of bicubic
B-splines above n scattered places, less those of the points; unknown are the coefficients, a net of
m x m. A residual has 16 entries, at positions that depend on the places. They are given by
`jax_cce.custom_jacobian`, or found by `jax_cce.jacobian` in the plain function. The programs of a
row take turns; what would take too much memory is compiled only.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import jax_cce
from benchmarks import report, timing

_DEGREE = 3
_SIZES = ((1_000, 10), (2_000, 14), (4_000, 20), (16_000, 40), (64_000, 80))
_TURNS = 7
# Bytes of results and temporaries beyond which a program is not run.
_MOST_BYTES = 2.5e9


def basis(t: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Uniform B-splines by the recursion of Cox and de Boor (1972).

    Args:
        t: places in [0, size - degree], shape (n,).
        size: how many splines there are.

    Returns:
        Which of them are not zero there, and their values, each of shape (n, degree + 1).
    """
    first = jnp.clip(jnp.floor(t), 0, size - _DEGREE - 1)
    t = t - first
    values: list[Any] = [jnp.ones_like(t)]
    for k in range(1, _DEGREE + 1):
        left, right = [0.0, *values], [*values, 0.0]
        values = [((t + k - j) * left[j] + (j + 1 - t) * right[j]) / k for j in range(k + 1)]
    return first.astype(int)[:, None] + np.arange(_DEGREE + 1), jnp.stack(values, -1)


def heights(net: jax.Array, at: jax.Array) -> jax.Array:
    """The heights of a surface, shape (n,), of coefficients (m, m) at places (n, 2)."""
    (rows, by_u), (columns, by_v) = (basis(at[:, axis], net.shape[axis]) for axis in (0, 1))
    near = net[rows[:, :, None], columns[:, None, :]]
    return jnp.einsum("nij,ni,nj->n", near, by_u, by_v)


surface = jax_cce.custom_jacobian(heights)


@surface.def_jacobian
def _(result: jax.Array, net: jax.Array, at: jax.Array) -> tuple[Any, Any]:
    (rows, by_u), (columns, by_v) = (basis(at[:, axis], net.shape[axis]) for axis in (0, 1))
    shape = (*rows.shape, _DEGREE + 1)
    point = np.broadcast_to(np.arange(len(at))[:, None, None], shape)
    entries = jnp.broadcast_arrays(point, rows[:, :, None], columns[:, None, :])
    weights = by_u[:, :, None] * by_v[:, None, :]
    indices = jnp.stack([each.ravel() for each in entries], axis=1)
    by_net = BCOO((weights.ravel(), indices), shape=(len(at), *net.shape))
    slopes = jax.vmap(jax.grad(lambda place: heights(net, place[None])[0]))(at)
    n, axis = np.indices(at.shape).reshape(2, -1)
    by_place = jnp.asarray(np.stack([n, n, axis], axis=1))
    return by_net, BCOO((slopes.ravel(), by_place), shape=(len(at), *at.shape))


def _problem(points: int, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    at = rng.uniform(0, size - _DEGREE, (points, 2))
    seen = np.sin(at[:, 0]) * np.cos(at[:, 1]) + 0.01 * rng.normal(size=points)
    return jnp.asarray(rng.normal(size=(size, size))), jnp.asarray(at), jnp.asarray(seen)


def _residual(height: Any, net: jax.Array, at: jax.Array, seen: jax.Array) -> jax.Array:
    return height(net, at) - seen


def _programs() -> dict[str, Any]:
    given, plain = (functools.partial(_residual, height) for height in (surface, heights))
    return {
        "given": jax_cce.jacobian(given, format="structured"),
        "given, bcoo": jax_cce.jacobian(given, format="bcoo"),
        "found": jax_cce.jacobian(plain, format="structured"),
        "jacfwd": jax.jacfwd(plain),
        "jacrev": jax.jacrev(plain),
    }


def _memory(compiled: Any) -> int:
    analysis = compiled.memory_analysis()
    return analysis.output_size_in_bytes + analysis.temp_size_in_bytes


def _check(results: dict[str, Any], points: int, size: int) -> None:
    """All results agree, and the sparse ones have an entry for each coefficient that counts."""
    entries = results["given, bcoo"]
    assert entries.nse == points * (_DEGREE + 1) ** 2
    tangent = jnp.cos(jnp.arange(size**2)).reshape(size, size)
    at = tuple(entries.indices.T)
    products = entries.data * tangent[at[1:]]
    expected = jnp.zeros(points).at[at[0]].add(products)
    for name in ("given", "found"):
        assert results[name].nnz == entries.nse
    for result in results.values():
        if result is not entries:
            dense = isinstance(result, jax.Array)
            product = jnp.tensordot(result, tangent, 2) if dense else result @ tangent
            np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-9)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=len(_SIZES), help="how many sizes to measure")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for points, size in _SIZES[: arguments.rows]:
        args = _problem(points, size)
        compiled = {
            name: jax.jit(each).lower(*args).compile() for name, each in _programs().items()
        }
        bytes_of = {name: _memory(each) for name, each in compiled.items()}
        calls = {
            name: functools.partial(each, *args)
            for name, each in compiled.items()
            if bytes_of[name] <= _MOST_BYTES
        }
        _check({name: call() for name, call in calls.items()}, points, size)
        times = timing.take_turns(calls, turns=_TURNS)
        durations = [report.duration(times[n].median) if n in times else "-" for n in compiled]
        megabytes = [f"{count / 1e6:,.1f}" for count in bytes_of.values()]
        rows.append((f"{points:,}, {size} x {size}", *durations, *megabytes))
    names = list(_programs())
    print(
        "Jacobian by the coefficients, float64. Given and found are structured unless said "
        "otherwise; entries of BCOO are sorted. Median time of a call, and megabytes (MB) of "
        f"results and temporaries as XLA plans them. {report.provenance()}\n"
    )
    header = ("points, net", *names, *(f"MB: {name}" for name in names))
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
