"""Test functions of optimisation, and the objectives and constraints that solvers ask for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs.program import Family, Made, Program

_MORE = "Moré, Garbow & Hillstrom, Testing Unconstrained Optimization Software (1981)"
_CUTEST = "the CUTEst collection (Gould, Orban & Toint 2015)"


def _rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def _chained(x: jax.Array) -> jax.Array:
    """Rosenbrock's function term by term, as it stands in the book."""
    total = jnp.zeros((), x.dtype)
    for i in range(x.size - 1):
        total = total + 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
    return total


def _rosenbrock_of(n: int) -> Program:
    return Program(
        f"Rosenbrock, {n} unknowns",
        "scipy.optimize.rosen, and the first example of many tutorials on JAX Hessians",
        lambda draw: (_rosenbrock, 1 + 0.2 * draw.normal(size=n)),
        derivative="hessian",
    )


def _chained_of(n: int) -> Program:
    return Program(
        f"Rosenbrock by a loop, {n} unknowns",
        f"{_MORE}, no. 21 chained, in a Python loop",
        lambda draw: (_chained, 1 + 0.2 * draw.normal(size=n)),
        derivative="hessian",
    )


def _powell_singular(x: jax.Array) -> jax.Array:
    """Powell's extended singular function as residuals, four by four."""
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    return jnp.concatenate(
        [a + 10 * b, jnp.sqrt(5.0) * (c - d), (b - 2 * c) ** 2, jnp.sqrt(10.0) * (a - d) ** 2]
    )


def _wood(x: jax.Array) -> jax.Array:
    x1, x2, x3, x4 = x
    return (
        100 * (x2 - x1**2) ** 2
        + (1 - x1) ** 2
        + 90 * (x4 - x3**2) ** 2
        + (1 - x3) ** 2
        + 10 * (x2 + x4 - 2) ** 2
        + 0.1 * (x2 - x4) ** 2
    )


def _himmelblau(x: jax.Array) -> jax.Array:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


_WOOD = Program(
    "Wood's function",
    f"{_MORE}, no. 14",
    lambda _: (_wood, np.array([-3.0, -1.0, -2.5, -1.2])),
    derivative="hessian",
)
_HIMMELBLAU = Program(
    "Himmelblau's function",
    "Himmelblau 1972; minimised from many starting points at once",
    lambda _: (_himmelblau, np.array([2.5, 1.5])),
    derivative="hessian",
)


def _powell(n: int) -> Program:
    return Program(
        f"Powell's singular function, {n} unknowns",
        f"{_MORE}, no. 22",
        lambda draw: (_powell_singular, np.tile([3.0, -1.0, 0.5, 1.0], n // 4)),
    )


def _broyden_tridiagonal(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def _broyden_banded(x: jax.Array) -> jax.Array:
    """Each residual sees five unknowns before and one after."""
    n = x.size
    residuals = []
    for i in range(n):
        others = [j for j in range(max(0, i - 5), min(n, i + 2)) if j != i]
        coupled = sum(x[j] * (1 + x[j]) for j in others)
        residuals.append(x[i] * (2 + 5 * x[i] ** 2) + 1 - coupled)
    return jnp.stack(residuals)


def _tridiagonal(n: int) -> Program:
    return Program(
        f"Broyden tridiagonal, {n} unknowns",
        f"{_MORE}, no. 30",
        lambda draw: (_broyden_tridiagonal, -1 + 0.2 * draw.normal(size=n)),
    )


def _banded(n: int) -> Program:
    return Program(
        f"Broyden banded, {n} unknowns",
        f"{_MORE}, no. 31, by loops as in the article",
        lambda draw: (_broyden_banded, -1 + 0.2 * draw.normal(size=n)),
    )


def _trigonometric(x: jax.Array) -> jax.Array:
    n = x.shape[0]
    i = jnp.arange(1, n + 1)
    cosines = jnp.cos(x)
    return n - jnp.sum(cosines) + i * (1 - cosines) - jnp.sin(x)


def _trigonometric_of(n: int) -> Program:
    return Program(
        f"trigonometric residuals, {n} unknowns",
        f"{_MORE}, no. 26",
        lambda draw: (_trigonometric, draw.uniform(0.2, 1.2, size=n)),
    )


def _dixon_maany(n: int) -> Program:
    """DIXMAANB: a diagonal and three couplings at different distances."""
    m = n // 3

    def objective(x: jax.Array) -> jax.Array:
        near = jnp.sum(0.0625 * x[:-1] ** 2 * (x[1:] + x[1:] ** 2) ** 2)
        middle = jnp.sum(0.0625 * x[: 2 * m] ** 2 * x[m : 3 * m] ** 4)
        far = jnp.sum(0.0625 * x[:m] * x[2 * m : 3 * m])
        return 1.0 + jnp.sum(x**2) + near + middle + far

    return Program(
        f"DIXMAANB, {n} unknowns",
        f"{_CUTEST}, DIXMAANB",
        lambda draw: (objective, 2 + 0.1 * draw.normal(size=n)),
        derivative="hessian",
    )


def _quadratic(n: int) -> Program:
    """A quadratic form with a quartic regularisation of its length."""

    def make(draw: np.random.Generator) -> Made:
        a = draw.normal(size=(n, n)) / np.sqrt(n)

        def objective(x: jax.Array) -> jax.Array:
            q = jnp.asarray(a @ a.T)
            return 0.5 * x @ q @ x - jnp.sum(x) + 0.1 * jnp.dot(x, x) ** 2

        return objective, draw.normal(size=n)

    return Program(
        f"quadratic form with a quartic term, {n} unknowns",
        "the model of adaptive cubic and quartic regularisation methods (Cartis, Gould & Toint)",
        make,
        derivative="hessian",
    )


def _logsumexp(terms: int, n: int) -> Program:
    """A geometric program in convex form."""

    def make(draw: np.random.Generator) -> Made:
        a, b = draw.normal(size=(terms, n)), draw.normal(size=terms)
        return lambda x: jax.nn.logsumexp(jnp.asarray(a) @ x + b), 0.3 * draw.normal(size=n)

    return Program(
        f"logsumexp of {terms} affine terms, {n} unknowns",
        "Boyd & Vandenberghe, Convex Optimization, sec. 4.5 and 9.3",
        make,
        derivative="hessian",
    )


def _rank_one(n: int) -> Program:
    """Residuals of a symmetric matrix against x xᵀ."""

    def make(draw: np.random.Generator) -> Made:
        x = draw.normal(size=n)
        noise = draw.normal(size=(n, n))
        target = np.outer(x, x) + 0.1 * (noise + noise.T)

        def residuals(x: jax.Array, target: jax.Array) -> jax.Array:
            return (jnp.outer(x, x) - target)[jnp.triu_indices(n)]

        return residuals, x, target

    return Program(
        f"rank-one approximation, {n} unknowns",
        "low-rank factorisation by nonlinear least squares (e.g. Burer & Monteiro 2003)",
        make,
    )


def _collocation(nodes: int) -> Program:
    """Defects, ends and limits of a swing-up of a cart with a pole, by the trapezoidal rule."""

    def field(state: jax.Array, force: jax.Array) -> jax.Array:
        _, theta, speed, omega = state
        s, c = jnp.sin(theta), jnp.cos(theta)
        mass = 1.0 + 0.3 * s**2
        acceleration = (0.5 * 0.3 * omega**2 * s + force + 0.3 * 9.81 * c * s) / mass
        turning = -(0.15 * omega**2 * c * s + force * c + 1.3 * 9.81 * s) / (0.5 * mass)
        return jnp.stack([speed, omega, acceleration, turning])

    def constraints(z: jax.Array) -> jax.Array:
        states = z[: 4 * nodes].reshape(nodes, 4)
        forces = z[4 * nodes :]
        slopes = jax.vmap(field)(states, forces)
        step = 2.0 / (nodes - 1)
        defects = states[1:] - states[:-1] - 0.5 * step * (slopes[1:] + slopes[:-1])
        ends = [states[0], states[-1] - jnp.array([1.0, jnp.pi, 0.0, 0.0])]
        return jnp.concatenate([defects.ravel(), *ends, 20.0**2 - forces**2])

    def make(draw: np.random.Generator) -> Made:
        line = np.linspace(0, 1, nodes)[:, None] * np.array([1.0, np.pi, 0.0, 0.0])
        states = line + 0.1 * draw.normal(size=line.shape)
        return constraints, np.concatenate([states.ravel(), 3 * draw.normal(size=nodes)])

    return Program(
        f"cart-pole collocation, {nodes} nodes",
        "Kelly, An Introduction to Trajectory Optimization (SIAM Review 2017), sec. 6",
        make,
    )


def _trust(x: jax.Array) -> jax.Array:
    """Constraints of problem 71 of Hock and Schittkowski, with a trust region and bounds."""
    product = x[0] * x[1] * x[2] * x[3] - 25.0
    sphere = jnp.sum(x**2) - 40.0
    radius = 1.0 - jnp.linalg.norm(x - jnp.array([1.0, 4.7, 3.8, 1.4]))
    return jnp.concatenate([jnp.array([product, sphere, radius]), x - 1.0, 5.0 - x])


_TRUST = Program(
    "HS071 constraints with a trust region",
    "Hock & Schittkowski 71, the tutorial problem of Ipopt, given jax.jacrev by cyipopt's users",
    lambda _: (_trust, np.array([1.1, 4.6, 3.9, 1.5])),
)


def _augmented(x: jax.Array) -> jax.Array:
    """The augmented Lagrangian of the same problem."""
    objective = x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2]
    constraints = _trust(x)
    equality, inequalities = constraints[1], jnp.delete(constraints, 1, assume_unique_indices=True)
    penalty = jnp.sum(jnp.maximum(0.2 - 10.0 * inequalities, 0.0) ** 2)
    return objective + 0.1 * equality + 5.0 * equality**2 + penalty / 20.0


_AUGMENTED = Program(
    "HS071 augmented Lagrangian",
    "Nocedal & Wright, Numerical Optimization, sec. 17.4",
    lambda _: (_augmented, np.array([1.1, 4.6, 3.9, 1.5])),
    derivative="hessian",
)


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    programs = (
        _rosenbrock_of(int(draw.integers(3, 150))),
        _chained_of(int(draw.integers(3, 16))),
        _powell(4 * int(draw.integers(1, 30))),
        _tridiagonal(int(draw.integers(5, 200))),
        _banded(int(draw.integers(6, 20))),
        _trigonometric_of(int(draw.integers(4, 100))),
        _dixon_maany(3 * int(draw.integers(2, 40))),
        _quadratic(int(draw.integers(4, 120))),
        _logsumexp(int(draw.integers(5, 200)), int(draw.integers(3, 60))),
        _rank_one(int(draw.integers(3, 25))),
        _collocation(int(draw.integers(5, 40))),
        _WOOD,
        _HIMMELBLAU,
        _AUGMENTED,
    )
    which = int(draw.integers(0, len(programs)))
    dtype = str(draw.choice(["float64", "float32"], p=[0.7, 0.3]))
    batch = int(2 ** draw.uniform(3, 6)) if draw.random() < 0.35 else None
    return programs[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "objectives",
    (
        _rosenbrock_of(64),
        _rosenbrock_of(16).settings(batch=256, dtype="float32"),
        _chained_of(10),
        _powell(40),
        _powell(4).settings(batch=2048, dtype="float32"),
        _WOOD,
        _WOOD.settings(batch=1024),
        _HIMMELBLAU.settings(batch=4096),
        _tridiagonal(100),
        _tridiagonal(30).settings(batch=64),
        _banded(16),
        _trigonometric_of(40),
        _trigonometric_of(10).settings(batch=512, dtype="float32"),
        _dixon_maany(60),
        _quadratic(80).settings(dtype="float32"),
        _logsumexp(100, 30),
        _logsumexp(40, 8).settings(batch=128),
        _rank_one(16),
        _collocation(25),
        _collocation(12).settings(dtype="float32"),
        _TRUST,
        _AUGMENTED,
        _AUGMENTED.settings(batch=512),
    ),
    _drawn,
)
