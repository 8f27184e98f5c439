"""Derivatives of fixed points: how far the one-step derivative is off, and what each kind takes.

Run it with `python -m benchmarks.one_step`. It prints tables and draws docs/pictures/one-step.svg.

- Ridge regression by gradient descent, 100 x 10, with respect to the 100 weights of the samples:
  the error of the last 1 and 10 steps against the bound, for step sizes from fast to slow.
- Newton's method on logistic regression: the error after each step.
- A bilevel problem: the penalties of ten features, by the gradient of the loss on other data.
- The time of a Jacobian, as the iteration takes longer to converge.
- Roots of equations with structure, beside `jax.lax.custom_root` with a dense solve.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_cce
from benchmarks import report, timing

PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "pictures" / "one-step.svg"
_CONTRACTIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_STEPS = (1, 10)
_RATES = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
_SIZE = 50


def _data(seed: int, samples: int = 100, features: int = 10) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(samples, features))
    return jnp.array(inputs), jnp.array(
        inputs @ draw.normal(size=features) + draw.normal(size=samples)
    )


def _norm(matrix: Any) -> float:
    return float(jnp.linalg.norm(matrix, 2))


# --- ridge regression by gradient descent --------------------------------------------------------


def ridge() -> list[tuple[float, ...]]:
    """By contraction: that, ‖J‖, and the error and the bound of the last steps of each count."""
    inputs, targets = _data(0)

    def loss(x: Any, weights: Any) -> Any:
        residuals = inputs @ x - targets
        return weights @ residuals**2 / (2 * len(targets)) + 0.05 * x @ x

    curvature = np.linalg.eigvalsh(jax.hessian(loss)(jnp.zeros(10), jnp.ones(100)))
    fastest = (curvature[-1] - curvature[0]) / (curvature[-1] + curvature[0])
    rows = []
    for rho in (fastest, *(rho for rho in _CONTRACTIONS if rho > fastest)):
        size = (1 - rho) / curvature[0]

        def step(x: Any, weights: Any, size: float = size) -> Any:
            return x - size * jax.grad(loss)(x, weights)

        solution = functools.partial(jax_cce.fixed_point, step, jnp.zeros(10))
        weights = jnp.ones(100)
        x = solution(weights)
        exact = jax_cce.jacobian(solution)(weights)
        row = [float(rho), _norm(exact)]
        for steps in _STEPS:
            last = functools.partial(solution, derivative="one_step", steps=steps)
            error = jax_cce.one_step_error(step, x, weights, steps=steps)
            row += [_norm(jax_cce.jacobian(last)(weights) - exact), float(error.bound)]
        rows.append(tuple(row))
    return rows


def ridge_table(rows: list[tuple[float, ...]]) -> str:
    """The errors and the bounds, and both as shares of the derivative."""
    columns = [f"last {steps}: {what}" for steps in _STEPS for what in ("error", "bound")]
    cells = [
        (f"{rho:.3f}", f"{norm:.4f}", *(f"{x:.2e} ({x / norm:.2g})" for x in found))
        for rho, norm, *found in rows
    ]
    return report.markdown_table(("contraction", "norm of the Jacobian", *columns), cells)


# --- Newton's method on logistic regression ------------------------------------------------------


def newton_table() -> str:
    """Errors after each step: of x, of the one-step derivative, of the implicit one at that x."""
    inputs, noise = _data(1)
    labels = jnp.where(noise > 0, 1.0, -1.0)

    def gradient(x: Any, weights: Any) -> Any:
        def loss(x: Any) -> Any:
            return weights @ jnp.logaddexp(0, -labels * (inputs @ x)) / 100 + 0.05 * x @ x

        return jax.grad(loss)(x)

    weights, start = jnp.ones(100), jnp.zeros(10)
    x = jax_cce.root(gradient, start, weights)
    exact = jax_cce.jacobian(functools.partial(jax_cce.root, gradient, start))(weights)
    newton = functools.partial(jax_cce.root, gradient, derivative="unrolled", steps=1)
    rows, point = [], start
    for count in range(1, 7):
        one_step = jax_cce.jacobian(functools.partial(newton, point))(weights)
        point = newton(point, weights)
        matrix, forces = jax_cce.jacobian(gradient, (0, 1))(point, weights)
        implicit = -jnp.linalg.solve(matrix, forces)
        off = (point - x, one_step - exact, implicit - exact)
        rows.append((count, *(f"{float(jnp.linalg.norm(each)):.1e}" for each in off)))
    return report.markdown_table(("step", "x", "one-step derivative", "implicit, at that x"), rows)


# --- a bilevel problem ---------------------------------------------------------------------------


def bilevel_table() -> str:
    """The hypergradient of each kind, and where fifty steps along it lead."""
    inputs, targets = _data(2, samples=40)
    fresh_inputs, fresh_targets = _data(3, samples=40)
    # Half of the features are noise.
    fresh_targets = fresh_inputs[:, :5].sum(1) + 0.5 * (fresh_targets - fresh_targets.mean())
    targets = inputs[:, :5].sum(1) + 0.5 * (targets - targets.mean())

    def inner(x: Any, penalties: Any) -> Any:
        return jnp.mean((inputs @ x - targets) ** 2) / 2 + jax.nn.sigmoid(penalties) @ x**2

    start = jnp.zeros(10)

    def descent(x: Any, penalties: Any) -> Any:
        return x - 0.1 * jax.grad(inner)(x, penalties)

    kinds: dict[str, Callable[[Any], Any]] = {
        "minimum, implicit": lambda p: jax_cce.minimum(inner, start, p),
        "minimum, one step": lambda p: jax_cce.minimum(inner, start, p, derivative="one_step"),
        "descent, implicit": lambda p: jax_cce.fixed_point(descent, start, p),
        "descent, one step": lambda p: jax_cce.fixed_point(
            descent, start, p, derivative="one_step"
        ),
        "descent, last 20 steps": lambda p: jax_cce.fixed_point(
            descent, start, p, derivative="one_step", steps=20
        ),
        "descent, unrolled 300": lambda p: jax_cce.fixed_point(
            descent, start, p, derivative="unrolled", steps=300
        ),
    }

    def outer(solution: Callable[[Any], Any], penalties: Any) -> Any:
        return jnp.mean((fresh_inputs @ solution(penalties) - fresh_targets) ** 2) / 2

    penalties = jnp.zeros(10)
    gradients = {
        name: jax.jit(jax.value_and_grad(functools.partial(outer, solution)))
        for name, solution in kinds.items()
    }
    calls = {name: functools.partial(each, penalties) for name, each in gradients.items()}
    seconds = timing.take_turns(calls)
    _, exact = gradients["minimum, implicit"](penalties)
    rows = []
    for name, gradient in gradients.items():
        at_start, slope = gradient(penalties)
        error = jnp.linalg.norm(slope - exact) / jnp.linalg.norm(exact)
        moved = penalties
        for _ in range(50):
            moved = moved - 10.0 * gradient(moved)[1]
        losses = f"{at_start:.4f}", f"{gradient(moved)[0]:.4f}"
        rows.append((name, f"{error:.1e}", *losses, report.durations(seconds[name])))
    header = ("inner problem", "relative error", "loss at first", "after 50 steps", "a gradient")
    return report.markdown_table(header, rows)


# --- time ----------------------------------------------------------------------------------------


def times() -> list[tuple[int, dict[str, timing.Measured]]]:
    """By the number of iterations until convergence, the time of the point and its Jacobians."""
    rotation, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(_SIZE, _SIZE)))
    mixing, start, force = jnp.array(rotation), jnp.zeros(_SIZE), jnp.linspace(-1.0, 1.0, _SIZE)
    rows = []
    for rate in _RATES:

        def step(x: Any, force: Any, rate: float = rate) -> Any:
            return rate * (mixing @ (0.9 * x + 0.1 * jnp.sin(x + force)))

        count = _iterations(functools.partial(step, force=force), start)
        solve = functools.partial(jax_cce.fixed_point, step, start)
        unrolled = functools.partial(solve, derivative="unrolled", steps=count)
        functions: dict[str, Callable[..., Any]] = {
            "the point": solve,
            "implicit": jax_cce.jacobian(solve),
            "one step": jax_cce.jacobian(functools.partial(solve, derivative="one_step")),
            "unrolled": jax_cce.jacobian(unrolled),
            "unrolled, jax.jacrev": jax.jacrev(unrolled),
        }
        compiled = {name: jax.jit(function) for name, function in functions.items()}
        np.testing.assert_allclose(
            compiled["implicit"](force), compiled["unrolled"](force), atol=1e-8
        )
        calls = {name: functools.partial(each, force) for name, each in compiled.items()}
        rows.append((count, timing.take_turns(calls)))
    return rows


def _iterations(step: Callable[[Any], Any], start: Any) -> int:
    """How many steps `fixed_point` takes in float64."""

    def moves(state: Any) -> Any:
        x, new, _ = state
        return jnp.max(jnp.abs(new - x)) > np.finfo(float).eps ** 0.75 * jnp.max(jnp.abs(new))

    def body(state: Any) -> Any:
        _, x, count = state
        return x, step(x), count + 1

    return int(lax.while_loop(moves, body, (start, step(start), 1))[2])


def time_table(rows: list[tuple[int, dict[str, timing.Measured]]]) -> str:
    """One row for each number of iterations."""
    cells = [(count, *map(report.durations, found.values())) for count, found in rows]
    return report.markdown_table(("iterations", *rows[0][1]), cells)


# --- structure -----------------------------------------------------------------------------------


def structure_table() -> str:
    """Entries of the sparse Jacobian, and the time of a gradient."""

    def elementwise(x: Any, force: Any) -> Any:
        return x**3 + x - force

    def line(x: Any, force: Any) -> Any:
        padded = jnp.pad(x, 1)
        return x**3 + 3 * x - padded[2:] - padded[:-2] - force

    def theirs(residual: Any, start: Any, force: Any) -> Any:
        def newton(residual: Any, x: Any) -> Any:
            def body(_: Any, x: Any) -> Any:
                return x - jnp.linalg.solve(jax.jacfwd(residual)(x), residual(x))

            return lax.fori_loop(0, 10, body, x)

        def solve(linear: Any, vector: Any) -> Any:
            return jnp.linalg.solve(jax.jacfwd(linear)(vector), vector)

        return lax.custom_root(lambda x: residual(x, force), start, newton, solve)

    rows = []
    for name, residual in {"each by itself": elementwise, "on a line": line}.items():
        for size in (50, 500):
            start, force = jnp.zeros(size), jnp.linspace(0.0, 1.0, size)
            solvers = {
                "jax_cce.root": functools.partial(jax_cce.root, residual, start),
                "custom_root": functools.partial(theirs, residual, start),
            }
            entries = [
                jax_cce.jacobian(solve, format="structured")(force).nnz
                for solve in solvers.values()
            ]
            calls = {
                name: functools.partial(jax.jit(jax.grad(lambda f, s=s: jnp.sum(s(f) ** 2))), force)
                for name, s in solvers.items()
            }
            seconds = timing.take_turns(calls, turns=7)
            cells = [
                text
                for count, measured in zip(entries, seconds.values(), strict=True)
                for text in (f"{count:,}", report.durations(measured))
            ]
            rows.append((f"{name}, {size}", *cells))
    columns = [f"{name}: {what}" for name in solvers for what in ("entries", "a gradient")]
    return report.markdown_table(("unknowns", *columns), rows)


# --- the picture ---------------------------------------------------------------------------------


def draw(errors: list[tuple[float, ...]], measured: Any, path: pathlib.Path) -> None:
    """Errors beside their bounds on the left, times on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rho, norms, *columns = map(np.array, zip(*errors, strict=True))
    for k, (steps, color) in enumerate(zip(_STEPS, ("#0072b2", "#d55e00"), strict=True)):
        error, bound = columns[2 * k : 2 * k + 2]
        name = "last step" if steps == 1 else f"last {steps} steps"
        left.plot(rho, error / norms, "o-", color=color, markersize=4, label=name)
        left.plot(rho, bound / norms, "--", color=color, label=f"{name}: bound")
    left.axhline(1.0, color="0.4", linewidth=0.8)
    left.set_yscale("log")
    left.set_xlabel("contraction of a step of gradient descent")
    left.set_ylabel("error of the Jacobian, relative")
    left.legend(frameon=False)
    counts = [count for count, _ in measured]
    for name in measured[0][1]:
        middle = [1e3 * found[name].median for _, found in measured]
        right.plot(counts, middle, ".-", label=name)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("iterations until convergence")
    right.set_ylabel(f"ms for a {_SIZE} x {_SIZE} Jacobian")
    right.legend(frameon=False)
    report.save_picture(figure, path)


def main() -> None:
    """Prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--svg", type=pathlib.Path, default=PICTURE, help="where to draw")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    # On a shared machine the threads of small solves wait for each other a hundred times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    print(f"float64. {report.provenance()}\n")
    errors = ridge()
    print("Ridge regression by gradient descent (in brackets: over the norm of the Jacobian)\n")
    print(ridge_table(errors))
    print("\nNewton's method on logistic regression: Frobenius norms of errors\n")
    print(newton_table())
    print("\nPenalties of ten features, by the gradient of the loss on other data\n")
    print(bilevel_table())
    print(f"\nx <- ρ Q (0.9 x + 0.1 sin(x + θ)), {_SIZE} unknowns, with respect to θ\n")
    measured = times()
    print(time_table(measured))
    print("\nRoots with structure: entries of the Jacobian, and gradients\n")
    print(structure_table())
    draw(errors, measured, options.svg)


if __name__ == "__main__":
    main()
