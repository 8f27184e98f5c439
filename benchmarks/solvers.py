"""Nonlinear solvers of other packages, with their own Jacobians and with ours.

Run it with `python -m benchmarks.solvers`; `pip install 'jax-cross-country[solvers]'` gets the
packages, but for brentyi's jaxls, whose `src` may be on PYTHONPATH. A row or a column whose package
is missing is left out. All programs of a row solve the same problem by the same method and take
turns, in one process; only where the Jacobian comes from differs. Times are those of the process on
the CPU.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks import solver_examples as examples
from benchmarks.tasks.heart_dipole import heart_dipole
from benchmarks.tasks.stencils import BRATU

Programs = dict[str, Callable[[], Any]]

_TOLERANCES = {"rtol": 1e-6, "atol": 1e-8}
_TIMES = np.linspace(0.0, 3.0, 40)


def _import(name: str) -> Any:
    """The package, or None where it is missing or not for this JAX."""
    try:
        return importlib.import_module(name)
    except (AttributeError, ImportError):
        return None


def _linear_solvers() -> dict[str, Any]:
    import lineax

    from jax_cce.lineax import Eliminated

    return {"plain": lineax.AutoLinearSolver(well_posed=None), "ours": Eliminated()}


def _bound(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return functools.partial(jax.jit(function), *args)


def _by_optimistix(
    method: str, task: str, f: Callable[..., Any], start: Any, *args: Any
) -> Programs:
    import optimistix

    def program(linear_solver: Any) -> Callable[..., Any]:
        solver = getattr(optimistix, method)(**_TOLERANCES, linear_solver=linear_solver)
        return lambda start, *args: getattr(optimistix, task)(f, solver, start, args).value

    return {name: _bound(program(each), start, *args) for name, each in _linear_solvers().items()}


def _dipole(x: Any, args: Any) -> Any:
    return jnp.stack(heart_dipole(*x)) - args[0]


def _layers(x: Any, args: Any) -> Any:
    weights, bias = args
    return x - jnp.tanh(weights @ jnp.tanh(weights @ x + bias)) - bias


def _oscillation(p: Any, args: Any) -> Any:
    model = p[0] * jnp.exp(-p[1] * _TIMES)
    return model + p[2] * jnp.exp(-p[3] * _TIMES) * jnp.cos(p[4] * _TIMES) + p[5] - args[0]


def _small(method: str) -> Programs:
    rng = np.random.default_rng(0)
    if method == "Newton":
        x = jnp.asarray(rng.normal(size=8))
        return _by_optimistix(method, "root_find", _dipole, x + 0.05, _dipole(x, (0.0,)))
    if method == "Chord":
        args = jnp.asarray(rng.normal(size=(20, 20)) / 5), jnp.asarray(rng.normal(size=20))
        return _by_optimistix(method, "root_find", _layers, jnp.zeros(20), *args)
    p = jnp.array([1.0, 0.5, 2.0, 0.3, 3.0, 0.1])
    seen = _oscillation(p, (0.0,)) + 0.01 * rng.normal(size=_TIMES.size)
    return _by_optimistix(method, "least_squares", _oscillation, 1.05 * p, jnp.asarray(seen))


def _anew(program: Callable[[], Any], count: Iterator[int]) -> Callable[[], Any]:
    """The program on new data in each call: KLU's factors of matrices that were seen are kept."""
    function, args = program.func, program.args  # type: ignore[attr-defined]

    def call() -> Any:
        shift = 1e-9 * next(count)
        return function(*(each + shift for each in args))

    return call


def _by_newton(f: Callable[..., Any], start: Any, *args: Any) -> Programs:
    """Ours beside asdex with KLU, which splineax puts into optimistix by a tag."""
    import optimistix

    programs = {}
    splineax, asdex = _import("splineax"), _import("asdex")
    if splineax is not None and asdex is not None:
        coloring = asdex.jacobian_coloring(lambda x: f(x, args), start)
        tags = frozenset({splineax.sparsity_coloring_tag(coloring)})
        newton = optimistix.Newton(**_TOLERANCES, linear_solver=splineax.KLU())
        programs["asdex and KLU"] = _bound(
            lambda x, *args: optimistix.root_find(f, newton, x, args, tags=tags).value, start, *args
        )
    both = _by_optimistix("Newton", "root_find", f, start, *args)
    programs |= {"ours": both["ours"]} if programs else both
    count = itertools.count()
    return {name: _anew(program, count) for name, program in programs.items()}


def _bratu() -> Programs:
    return _by_newton(lambda x, args: BRATU.fun(x), jnp.zeros(64**2))


def _reaction(x: Any) -> Any:
    """The Brusselator: two species that react and diffuse on a periodic square, (2, m, m)."""
    u, v = x
    around = sum(jnp.roll(x, by, axis) for axis in (1, 2) for by in (-1, 1)) - 4 * x
    made = u**2 * v
    return jnp.stack([1 + made - 4.4 * u, 3.4 * u - made]) + 0.002 * x.shape[1] ** 2 * around


def _implicit_step(x: Any, args: Any) -> Any:
    return x - args[0] - 0.05 * _reaction(x.reshape(2, 64, 64)).ravel()


def _brusselator() -> Programs:
    rng = np.random.default_rng(0)
    before = np.stack([1 + rng.uniform(size=(64, 64)), 3.4 + rng.uniform(size=(64, 64))])
    start = jnp.asarray(before.ravel())
    return _by_newton(_implicit_step, start, start)


def _stiff(cells: int) -> Programs:
    """A bistable medium, one-dimensional, by an implicit Runge-Kutta method."""
    import diffrax

    def field(t: Any, u: Any, args: Any) -> Any:
        ends = jnp.pad(u, 1, mode="edge")
        return 1e-4 * cells**2 * (ends[2:] - 2 * u + ends[:-2]) + 10 * u * (1 - u) * (u - 0.3)

    def program(linear_solver: Any) -> Callable[..., Any]:
        root_finder = diffrax.VeryChord(rtol=1e-6, atol=1e-6, linear_solver=linear_solver)
        return lambda start: diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Kvaerno5(root_finder=root_finder),
            0.0,
            1.0,
            0.01,
            start,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        ).ys[-1]

    start = jax.nn.sigmoid(40 * (0.3 - jnp.linspace(0, 1, cells)))
    return {name: _bound(program(each), start) for name, each in _linear_solvers().items()}


def _chain(x: Any) -> Any:
    """Broyden's banded function (1965): seven entries a row."""
    padded = jnp.pad(x, (5, 1))
    near = sum(padded[k : k + x.size] * (1 + padded[k : k + x.size]) for k in (0, 1, 2, 3, 4, 6))
    return x * (2 + 5 * x**2) + 1 - near


def _scipy() -> Programs:
    from scipy import optimize

    from jax_cce import host

    start = np.full(600, -1.0)
    fun, jac = host.residuals(_chain, start)
    dense, compiled = jax.jit(jax.jacfwd(_chain)), jax.jit(_chain)
    pattern = jac(start)

    def solve(fun: Any, **how: Any) -> Callable[[], Any]:
        return lambda: optimize.least_squares(fun, start, **how).x

    return {
        "dense jacfwd": solve(lambda x: np.array(compiled(x)), jac=lambda x: np.array(dense(x))),
        "two points, sparsity given": solve(
            lambda x: np.array(compiled(x)), jac_sparsity=pattern, tr_solver="lsmr"
        ),
        "ours": solve(fun, jac=jac),
    }


def _rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[:-1] ** 2 - x[1:]) ** 2 + (x[:-1] - 1) ** 2)


def _bound_by(x: Any) -> Any:
    """The constraints of Luksan & Vlcek (1999), problem 5.1."""
    a, b, c = x[:-2], x[1:-1], x[2:]
    return 3 * b**3 + 2 * c - 5 + jnp.sin(b - c) * jnp.sin(b + c) + 4 * b - a * jnp.exp(a - b) - 3


def _lagrangian(x: Any, v: Any, factor: Any) -> Any:
    return factor * _rosenbrock(x) + v @ _bound_by(x)


def _colored_problem(start: Any) -> Any:
    """The same callbacks by asdex: the entries of its matrices, in their order."""
    import asdex

    zeros = np.zeros(start.size - 2)
    first = asdex.jacobian_coloring(_bound_by, start)
    second = asdex.hessian_coloring(_lagrangian, start, zeros, 1.0)
    by_constraint = asdex.jacobian_from_coloring(_bound_by, first)
    curvature = asdex.hessian_from_coloring(_lagrangian, second)
    rows, columns = (np.asarray(each) for each in (second.sparsity.rows, second.sparsity.cols))
    lower = np.flatnonzero(rows >= columns)

    class Colored:
        objective = staticmethod(jax.jit(_rosenbrock))
        gradient = staticmethod(jax.jit(jax.grad(_rosenbrock)))
        constraints = staticmethod(jax.jit(_bound_by))
        jacobian = staticmethod(jax.jit(lambda x: by_constraint(x).data))
        hessian = staticmethod(jax.jit(lambda *args: curvature(*args).data[lower]))

        @staticmethod
        def jacobianstructure() -> Any:
            return np.asarray(first.sparsity.rows), np.asarray(first.sparsity.cols)

        @staticmethod
        def hessianstructure() -> Any:
            return rows[lower], columns[lower]

    return Colored()


def _ipopt(n: int) -> Programs:
    """Solves, set-up left out: each problem is made once."""
    import cyipopt

    from jax_cce.host import IpoptProblem

    start = np.where(np.arange(n) % 2, 1.0, -1.2)

    def solve(problem: Any) -> Any:
        zeros = np.zeros(n - 2)
        ipopt = cyipopt.Problem(n, n - 2, problem, lb=None, ub=None, cl=zeros, cu=zeros)
        ipopt.add_option("print_level", 0)
        ipopt.add_option("sb", "yes")
        return ipopt.solve(start)[0]

    problems = {}
    if n <= 1000:
        problems["dense JAX"] = examples.dense_problem(_rosenbrock, _bound_by, n, jax.jacfwd)
    if _import("asdex") is not None:
        problems["asdex"] = _colored_problem(start)
    problems["ours"] = IpoptProblem(_rosenbrock, start, _bound_by)
    return {name: functools.partial(solve, problem) for name, problem in problems.items()}


def _period(x: Any) -> Any:
    """What a ring of Van der Pol oscillators has moved by after 1,000 steps of Runge and Kutta."""

    def field(x: Any) -> Any:
        u, v = x.reshape(2, -1)
        return jnp.concatenate([v, (1 - u * u) * v - u + 0.1 * (jnp.roll(u, 1) - u)])

    def step(_: int, x: Any, dt: float = 6.6e-3) -> Any:
        half = x + dt / 2 * field(x)
        return x + dt * field(half)

    return jax.lax.fori_loop(0, 1000, step, x) - x


def _by_gmres(f: Callable[..., Any], start: Any) -> Programs:
    """Three Newton steps, each by GMRES on what `jax.linearize` returns."""

    def program(f: Callable[..., Any]) -> Callable[[], Any]:
        def step(x: Any, _: None) -> tuple[Any, None]:
            value, apply = jax.linearize(f, x)
            found, _ = jax.scipy.sparse.linalg.gmres(
                apply, value, tol=1e-10, restart=len(x), maxiter=2, solve_method="batched"
            )
            return x - found, None

        return _bound(lambda x: jax.lax.scan(step, x, None, length=3)[0], start)

    return {"jax.linearize": program(f), "ours": program(jax_cce.linearizing(f))}


def _pose_graph() -> Programs:
    """Poses along a path, each seen from others; the ids of an edge come in either order."""
    import jaxlie
    import jaxls

    from jax_cce.jaxls import jacobian

    rng = np.random.default_rng(0)
    n, group = 1000, jaxlie.SE3

    def near_identity(count: int, scale: float) -> Any:
        return jax.vmap(group.exp)(jnp.asarray(scale * rng.normal(size=(count, 6))))

    def rows(poses: Any, at: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[at], poses)

    times = jax.vmap(lambda a, b: a @ b)
    ahead = jax.vmap(group.exp)(jnp.asarray(0.2 * rng.normal(size=(n, 6)) + np.eye(6)[0]))
    true = jax.lax.associative_scan(times, ahead)
    first = np.concatenate([np.arange(n - 1), rng.integers(0, n - 50, 3000)])
    second = np.concatenate([np.arange(1, n), first[n - 1 :] + rng.integers(2, 50, 3000)])
    swapped = rng.uniform(size=first.size) < 0.3
    a, b = np.where(swapped, second, first), np.where(swapped, first, second)
    seen = jax.vmap(lambda a, b: a.inverse() @ b)(rows(true, a), rows(true, b))
    seen = times(seen, near_identity(len(a), 0.02))
    start = times(true, near_identity(n, 0.05))

    def edge(vals: Any, seen: Any, a: Any, b: Any) -> Any:
        return 10 * (seen.inverse() @ (vals[a].inverse() @ vals[b])).log()

    def anchor(vals: Any, at: Any, a: Any) -> Any:
        return 100 * (vals[a].inverse() @ at).log()

    pose, poses = jaxls.SE3Var, jaxls.SE3Var(jnp.arange(n))
    vals = jaxls.VarValues.make([poses.with_value(start)])
    stop = jaxls.TerminationConfig(max_iterations=10, early_termination=False)

    def program(how: Callable[[Any], dict[str, Any]]) -> Callable[[], Any]:
        costs = [
            jaxls.Cost(edge, (seen, pose(jnp.asarray(a)), pose(jnp.asarray(b))), **how(edge)),
            jaxls.Cost(anchor, (rows(true, 0), pose(0)), **how(anchor)),
        ]
        problem = jaxls.LeastSquaresProblem(costs, [poses]).analyze()
        return lambda: problem.solve(vals, verbose=False, termination=stop)[pose].wxyz_xyz

    return {
        "jaxls, by its choice": program(lambda residual: {}),
        "ours": program(lambda residual: {"jac_custom_fn": jacobian(residual)}),
    }


ROWS: dict[str, tuple[tuple[str, ...], Callable[[], Programs]]] = {
    **{
        f"{name}, {what}": (("optimistix",), functools.partial(_small, name))
        for name, what in (
            ("Newton", "8 unknowns"),
            ("Chord", "20 unknowns"),
            ("GaussNewton", "6 of 40"),
            ("LevenbergMarquardt", "6 of 40"),
            ("Dogleg", "6 of 40"),
        )
    },
    "Newton, Bratu 64 x 64": (("optimistix", "splineax"), _bratu),
    "Newton, Brusselator 64 x 64": (("optimistix", "splineax"), _brusselator),
    "GMRES, periods of 3 oscillators": (
        (),
        lambda: _by_gmres(_period, jnp.array([2.0, 1.8, 1.5, 0.1, 0.2, -0.1])),
    ),
    "GMRES, 20 unknowns": (
        (),
        lambda: _by_gmres(lambda x: x - jnp.tanh(jnp.roll(x, 1)) / 2 - 1, jnp.ones(20)),
    ),
    "Kvaerno5, bistable, 250 cells": (("diffrax",), functools.partial(_stiff, 250)),
    "SciPy least_squares, 600 unknowns": (("scipy",), _scipy),
    "Ipopt, Luksan-Vlcek 1, 500 unknowns": (("cyipopt",), functools.partial(_ipopt, 500)),
    "Ipopt, Luksan-Vlcek 1, 10,000 unknowns": (("cyipopt",), functools.partial(_ipopt, 10_000)),
    "jaxls, ten steps, 3,999 edges": (("jaxls", "jaxlie"), _pose_graph),
    "example of optimistix, 1 unknown": (
        ("optimistix",),
        functools.partial(examples.implicit_euler, 1),
    ),
    "example of optimistix, 1,000 unknowns": (
        ("optimistix",),
        functools.partial(examples.implicit_euler, 1000),
    ),
    "example of diffrax, 3 unknowns": (("diffrax",), examples.robertson),
    "example of SciPy, 100,000 unknowns": (
        ("scipy",),
        functools.partial(examples.broyden, 100_000),
    ),
    "example of Ipopt, 4 unknowns": (("cyipopt",), examples.hock_schittkowski),
    "example of jaxls, 6 unknowns": (("jaxls", "jaxlie"), examples.two_poses),
}


def _measured(
    programs: Programs, turns: int
) -> tuple[dict[str, timing.Measured], dict[str, float]]:
    """The seconds of a call, and of the first one, which traces and compiles."""
    first, results = {}, {}
    for name, program in programs.items():
        start = time.process_time()
        results[name] = np.asarray(program())
        first[name] = time.process_time() - start
    for result in results.values():
        np.testing.assert_allclose(result, results["ours"], rtol=1e-4, atol=1e-4)
    # What takes seconds needs no more turns.
    turns = 1 if max(first.values()) > 20 else turns
    clock = timing.cpu_seconds
    return timing.take_turns(programs, turns=turns, turn_seconds=0.05, clock=clock), first


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", action="append", choices=[*ROWS], help="repeatable")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows, left_out = [], []
    for name in arguments.row or ROWS:
        packages, build = ROWS[name]
        if any(_import(package) is None for package in packages):
            left_out.append(name)
            continue
        jax_cce.cache_clear()
        times, first = _measured(build(), arguments.turns)
        for each, measured in times.items():
            speed_up = "" if each == "ours" else report.ratio(measured / times["ours"])
            rows.append(
                (name, each, report.durations(measured), speed_up, report.duration(first[each]))
            )
    print(
        "CPU time of a solve, medians [quartiles], float64; speed-up: of ours over this; the first "
        f"call traces and compiles. {report.provenance()}\n"
    )
    print(report.markdown_table(("problem", "Jacobian", "solve", "speed-up", "first"), rows))
    if left_out:
        print(f"\nLeft out, as packages are missing: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
