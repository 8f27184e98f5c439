"""Truncated hierarchical B-splines: adaptive fits, registration of images, and time.

Run it with `python -m benchmarks.thb_splines`, or name some of the experiments. The digits are
scikit-learn's.

- `fit`: least squares to 10,000 points of a function with a narrow peak, on uniform grids, and on
  one that is refined where residuals are large.
- `registration`: images of digits are deformed into others by a spline, by Gauss and Newton's
  method with our sparse Jacobian, and with a dense one.
- `time`: values and gradients beside a dense basis.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing
from jax_cce.splines import THB, open_knots

_DEGREE = 3
_SEEDS = 5
_SHIFT = 1e-9
_TOLERANCE = 5e-4


def _surface(cells: int) -> THB:
    return THB([(open_knots(cells, _DEGREE),) * 2], _DEGREE)


def _spread(values: Any, form: str) -> str:
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}"


# --- an adaptive fit -----------------------------------------------------------------------------


def peaked(u: Any) -> Any:
    """A smooth slope with a peak of width 0.03."""
    x, y = u[..., 0], u[..., 1]
    slope = np.sin(2 * x) * np.cos(3 * y) / 2
    return slope + np.exp(-((x - 0.37) ** 2 + (y - 0.61) ** 2) / (2 * 0.03**2))


def _fitted(spline: THB, u: Any, heights: Any) -> Any:
    """Coefficients of least squares; what the points leave open is kept small."""
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.linalg import spsolve

    matrix = spline.collocation(u)
    rows, columns = np.asarray(matrix.indices).T
    design = csr_array((np.asarray(matrix.data), (rows, columns)), shape=matrix.shape)
    normal = design.T @ design + _SHIFT * eye_array(spline.size)
    return spsolve(normal.tocsc(), design.T @ heights)


def _errors(spline: THB, u: Any, heights: Any) -> tuple[Any, tuple[float, float]]:
    """Residuals at the points, and root mean square and largest error at others."""
    c = _fitted(spline, u, heights)
    fresh = np.random.default_rng(10**6).uniform(size=(20_000, 2))
    off = np.asarray(spline.evaluate(c, fresh)) - peaked(fresh)
    return (
        np.asarray(spline.evaluate(c, u)) - heights,
        (float(np.sqrt(np.mean(off**2))), float(abs(off).max())),
    )


def fit() -> str:
    """By grid: coefficients, and errors at fresh points, over seeds that draw the points."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(_SEEDS):
        u = np.random.default_rng(seed).uniform(size=(10_000, 2))
        heights = peaked(u)
        for cells in (8, 16, 32, 64):
            spline = _surface(cells)
            _, errors = _errors(spline, u, heights)
            found.setdefault(f"uniform, {cells} x {cells}", []).append((spline.size, *errors))
        spline = _surface(8)
        for step in range(1, 4):
            residuals, _ = _errors(spline, u, heights)
            worst = np.zeros(len(spline.cells.level))
            np.maximum.at(worst, spline.locate(u), abs(residuals))
            # A fit on halves needs points in them.
            points = np.bincount(spline.locate(u), minlength=len(worst))
            spline = spline.refine((worst > _TOLERANCE) & (points >= 4), around=1)
            _, errors = _errors(spline, u, heights)
            name = f"refined {step} times"
            found.setdefault(name, []).append((spline.size, *errors))
    rows = []
    for name, each in found.items():
        sizes, mean, largest = zip(*each, strict=True)
        sizes_text = f"{sizes[0]:,}" if len(set(sizes)) == 1 else _spread(sizes, ",.0f")
        rows.append((name, sizes_text, _spread(mean, ".1e"), _spread(largest, ".1e")))
    header = ("grid", "coefficients", "root mean square error", "largest error")
    return report.markdown_table(header, rows)


# --- registration --------------------------------------------------------------------------------


class _Registration:
    """Moves the places of a fixed image so that a moving one has its values there.

    Args:
        spline: the basis of the displacement.
        pixels: places per side at which images are compared.
        stiffness: weight of the differences of displacements between neighbouring places.
    """

    def __init__(self, spline: THB, pixels: int, stiffness: float) -> None:
        # Images of 8 x 8 numbers are cubic splines that interpolate them.
        self.image = _surface(5)
        side = np.linspace(0, 1, 8)
        grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        self.interpolation = np.linalg.inv(self.image.collocation(grid).todense())
        side = np.linspace(0, 1, pixels)
        self.places = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        self.spline, self.pixels, self.stiffness = spline, pixels, stiffness
        self._slopes = jax.jit(self.slopes)

    def residuals(self, c: Any, moving: Any, fixed: Any) -> Any:
        """Differences of images, and of neighbouring displacements.

        Args:
            c: coefficients of the displacement, shape (size, 2).
            moving: the image that is looked up at displaced places, shape (64,).
            fixed: the other one.
        """
        shifts = self.spline.evaluate(c, self.places)
        at = jnp.clip(self.places + shifts, 0, 1)
        differences = self.image.evaluate(self.interpolation @ moving, at) - (
            self.image.evaluate(self.interpolation @ fixed, self.places)
        )
        net = shifts.reshape(self.pixels, self.pixels, 2)
        bends = [jnp.diff(net, axis=axis).ravel() * self.stiffness for axis in (0, 1)]
        return jnp.concatenate([differences / self.pixels, *bends])

    def slopes(self, c: Any) -> Any:
        """The derivative of the deformation at each place."""

        def moved(u: Any) -> Any:
            return u + self.spline.evaluate(c, u)

        return jax.vmap(jax.jacfwd(moved))(self.places)

    def folded(self, c: Any) -> float:
        """The share of places at which the deformation turns inside out."""
        return float(np.mean(np.linalg.det(self._slopes(c)) <= 0))


def _gauss_newton(residuals: Any, jacobian: Any, solve: Any, c: Any, steps: int) -> tuple[Any, int]:
    """Damped as by Levenberg and Marquardt; the number of Jacobians is returned as well."""
    damping, count = 1e-3, 0
    values = residuals(c)
    loss = float(values @ values)
    while count < steps:
        matrix = jacobian(c)
        count += 1
        for _ in range(8):
            step = solve(matrix, values, damping)
            trial = c - step.reshape(c.shape)
            new = residuals(trial)
            smaller = float(new @ new)
            if smaller < loss:
                break
            damping *= 4
        else:
            return c, count
        done = loss - smaller < 1e-5 * loss
        c, values, loss, damping = trial, new, smaller, damping / 4
        if done:
            break
    return c, count


def _sparse_step(matrix: Any, values: Any, damping: float) -> Any:
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import spsolve

    size = matrix.shape[1]
    normal = matrix.T @ matrix + damping * eye_array(size)
    return spsolve(normal.tocsc(), matrix.T @ np.asarray(values))


def _dense_step(matrix: Any, values: Any, damping: float) -> Any:
    matrix = np.asarray(matrix).reshape(len(values), -1)
    normal = matrix.T @ matrix + damping * np.eye(matrix.shape[1])
    return np.linalg.solve(normal, matrix.T @ np.asarray(values))


def registration() -> str:
    """Pairs of images of the same digit, and of different ones."""
    from scipy.sparse import csr_array
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    middle = np.zeros((6, 6), bool)
    middle[1:5, 1:5] = True
    bases = {
        "6 x 6 cells": _surface(6),
        "6 x 6, the middle refined": THB([(open_knots(6, _DEGREE),) * 2, middle], _DEGREE),
        "12 x 12": _surface(12),
    }
    draw = np.random.default_rng(0)
    pairs = [
        (kind, *(images[draw.choice(np.flatnonzero(labels == each))] for each in digits))
        for digit in range(0, 10, 2)
        for kind, digits in (("same", (digit, digit)), ("other", (digit, (digit + 1) % 10)))
    ]
    rows = []
    for name, spline in bases.items():
        problem = _Registration(spline, 32, 0.02)
        residuals = jax.jit(problem.residuals)
        sparse = jax.jit(jax_cce.jacobian(problem.residuals, format="bcoo"))
        dense = jax.jit(jax.jacfwd(problem.residuals))
        start = jnp.zeros((spline.size, 2))
        flat = (residuals(start, *pairs[0][1:]).size, start.size)

        def matrix(c: Any, *pair: Any, sparse: Any = sparse, flat: Any = flat) -> Any:
            found = sparse(c, *pair)
            rows, first, second = np.asarray(found.indices).T
            return csr_array((np.asarray(found.data), (rows, 2 * first + second)), shape=flat)

        np.testing.assert_allclose(
            matrix(start + 0.01, *pairs[0][1:]).toarray(),
            np.asarray(dense(start + 0.01, *pairs[0][1:])).reshape(flat),
            atol=1e-10,
        )
        for kind in ("same", "other"):
            outcomes = []
            for pair in (each[1:] for each in pairs if each[0] == kind):
                at = functools.partial(lambda c, p, f: f(c, *p), p=pair)
                spent = []
                for jacobian, solve in (matrix, _sparse_step), (dense, _dense_step):
                    begun = time.perf_counter()
                    c, count = _gauss_newton(
                        functools.partial(at, f=residuals),
                        functools.partial(at, f=jacobian),
                        solve,
                        start,
                        25,
                    )
                    spent.append((time.perf_counter() - begun) / count)
                pixels = 32 * 32
                before, after = (
                    float(jnp.linalg.norm(residuals(each, *pair)[:pixels])) for each in (start, c)
                )
                outcomes.append((before, after, count, 100 * problem.folded(c), *spent))
            before, after, count, folds, *times = np.array(outcomes).T
            nonzeros = matrix(start + 0.01, *pairs[0][1:]).nnz
            rows.append(
                (
                    f"{name}: {kind} digit",
                    start.size,
                    f"{nonzeros / flat[0] / flat[1]:.1%}",
                    _spread(before, ".3f"),
                    _spread(after, ".3f"),
                    _spread(count, ".0f"),
                    _spread(folds, ".1f"),
                    *(f"{1e3 * np.median(each):.0f} ms" for each in times),
                )
            )
            print(*rows[-1], file=sys.stderr)
    header = ("displacement", "unknowns", "filled", "off before", "after", "steps", "folded, %")
    return report.markdown_table((*header, "a step, sparse", "dense"), rows)


# --- time ----------------------------------------------------------------------------------------


def _dense_values(knots: Any, u: Any) -> Any:
    """All splines of one axis at all places, by the recursion on whole vectors."""
    values = jnp.where((knots[:-1] <= u[:, None]) & (u[:, None] < knots[1:]), 1.0, 0.0)
    for k in range(1, _DEGREE + 1):
        left, right = knots[k:-1] - knots[: -k - 1], knots[k + 1 :] - knots[1:-k]
        rising = (u[:, None] - knots[: -k - 1]) / np.where(left > 0, left, 1)
        falling = (knots[k + 1 :] - u[:, None]) / np.where(right > 0, right, 1)
        values = rising * values[:, :-1] + falling * values[:, 1:]
    return values


def times() -> str:
    """Values and gradients at 10,000 places of surfaces in space."""
    u = np.random.default_rng(0).uniform(size=(10_000, 2))
    splines = {f"{cells} x {cells} cells": _surface(cells) for cells in (8, 32)}
    refined = _surface(8)
    for _ in range(3):
        corner = refined.cells
        near = (abs((corner.lower + corner.upper) / 2 - [0.37, 0.61]) < 0.12).all(1)
        refined = refined.refine(near & (corner.level == corner.level.max()), around=1)
    splines["8 x 8, three levels finer near a peak"] = refined
    rows = []
    for name, spline in splines.items():
        c = jnp.array(np.random.default_rng(1).normal(size=(spline.size, 3)))
        matrix = jnp.asarray(spline.collocation(u).todense())
        ways: dict[str, Any] = {
            "fixed places": lambda c, u, spline=spline: spline.evaluate(c, _PLACES),
            "dense matrix": lambda c, u, matrix=matrix: matrix @ c,
            "moving places": spline.evaluate,
        }
        if len(spline.levels) == 1:
            knots = spline.levels[0][0]

            def dense(c: Any, u: Any, knots: Any = knots) -> Any:
                first, second = (_dense_values(knots, u[:, k]) for k in (0, 1))
                net = c.reshape(first.shape[1], second.shape[1], 3)
                return jnp.einsum("pi,ijd,pj->pd", first, net, second)

            ways["dense basis"] = dense
        calls = {}
        for way, function in ways.items():
            np.testing.assert_allclose(function(c, u), ways["dense matrix"](c, u), atol=1e-11)
            names = (0, 1) if way in ("moving places", "dense basis") else 0
            slope = jax.grad(lambda c, u, f=function: jnp.sum(f(c, u) ** 2), names)
            calls[way] = functools.partial(jax.jit(function), c, u)
            calls[f"{way}: gradient"] = functools.partial(jax.jit(slope), c, u)
        measured = timing.take_turns(calls, turns=5)
        for what in ("", ": gradient"):
            cells = [
                report.durations(measured[way + what]) if way in ways else "–" for way in _WAYS
            ]
            rows.append((f"{name}{what or ': values'}", f"{spline.size:,}", *cells))
    return report.markdown_table(("surface", "coefficients", *_WAYS), rows)


_WAYS = ("fixed places", "dense matrix", "moving places", "dense basis")
_PLACES = np.random.default_rng(0).uniform(size=(10_000, 2))

_EXPERIMENTS = {
    "fit": (fit, "Least squares to 10,000 points, bicubic, refined where off by 5e-4"),
    "registration": (registration, "Digits: root mean square differences at 32 x 32 places"),
    "time": (times, "Surfaces in space, 10,000 places, bicubic"),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(_EXPERIMENTS)}; or all")
    chosen = parser.parse_args().experiments or list(_EXPERIMENTS)
    jax.config.update("jax_enable_x64", True)
    print(f"float64. {report.provenance()}\n")
    for name in chosen:
        run, title = _EXPERIMENTS[name]
        print(f"{title}\n\n{run()}\n", flush=True)


if __name__ == "__main__":
    main()
