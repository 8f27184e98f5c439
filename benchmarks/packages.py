"""Programs of packages that people use with JAX: whether ours agrees, and what it costs.

Run it with `python -m benchmarks.packages`; `pip install 'jax-cross-country[packages]'` gets the
packages, and what is not installed is left out. Each program is differentiated by jit(jacobian) and
by jit of the mode of JAX that suits it. Times are those of the process on the CPU, and the
contenders take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report
from benchmarks.timing import Measured, cpu_seconds

Built = tuple[Callable[[jax.Array], Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to differentiate.

    Attributes:
      package: What it needs.
      build: Imports the package, and returns a function of one array and a point.
      mode: The mode of JAX that it is compared with.
    """

    package: str
    build: Callable[[], Built]
    mode: Callable[..., Any] = jax.jacrev

    @property
    def is_installed(self) -> bool:
        """Whether the package is there, in a version that this JAX can import."""
        try:
            importlib.import_module(self.package)
        except ImportError:
            return False
        return True


_TIMES = np.linspace(0.0, 1.0, 5)


def _decay(p: jax.Array, data: jax.Array) -> jax.Array:
    return p[0] * jnp.exp(-p[1] * _TIMES) - data


def _root() -> Built:
    import optimistix

    def residual(y: jax.Array, a: jax.Array) -> jax.Array:
        return y**3 + a * y - jnp.array([1.0, 2.0, 3.0])

    def f(a: jax.Array) -> jax.Array:
        solver = optimistix.Newton(rtol=1e-10, atol=1e-10)
        return optimistix.root_find(residual, solver, jnp.ones(3), a).value

    return f, jnp.array([1.0, 2.0, 3.0])


def _stationary_point() -> Built:
    """Our Jacobian inside the residual."""
    import optimistix

    def energy(y: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.sum(jnp.cosh(y) - a * y) + y[0] ** 2 * y[1] ** 2

    def f(a: jax.Array) -> jax.Array:
        solver = optimistix.Newton(rtol=1e-10, atol=1e-10)
        return optimistix.root_find(jax_cce.jacobian(energy), solver, jnp.ones(3), a).value

    return f, jnp.array([1.0, 2.0, 3.0])


def _least_squares() -> Built:
    import optimistix

    def f(data: jax.Array) -> jax.Array:
        solver = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10)
        return optimistix.least_squares(_decay, solver, jnp.array([1.0, 0.5]), data).value

    return f, 1.5 * jnp.exp(-_TIMES) + 0.01 * jnp.cos(7 * _TIMES)


def _flow(t: Any, y: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.stack([a[0] * y[1], -a[1] * y[0] * (1 + y[1] ** 2)])


def _gradient_flow(t: Any, y: jax.Array, a: jax.Array) -> jax.Array:
    """Our Jacobian inside the vector field."""
    return -jax_cce.jacobian(lambda y: jnp.sum(a * jnp.cosh(y)) + jnp.prod(y) ** 2)(y)


def _ode(solver: str, field: Callable[..., jax.Array] = _flow) -> Callable[[], Built]:
    def build() -> Built:
        import diffrax

        def f(a: jax.Array) -> jax.Array:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                getattr(diffrax, solver)(),
                t0=0.0,
                t1=1.0,
                dt0=0.1,
                y0=jnp.array([1.0, 0.5]),
                args=a,
                stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
                max_steps=64,
            ).ys

        return f, jnp.array([1.0, 2.0])

    return build


def _levenberg_marquardt(jacobian: Callable[..., Any] | None) -> Callable[[], Built]:
    def build() -> Built:
        import jaxopt

        own = None if jacobian is None else jacobian(_decay)

        def f(data: jax.Array) -> jax.Array:
            solver = jaxopt.LevenbergMarquardt(_decay, tol=1e-12, maxiter=30, jac_fun=own)
            return solver.run(jnp.array([1.0, 0.5]), data).params

        return f, 1.5 * jnp.exp(-_TIMES) + 0.01 * jnp.cos(7 * _TIMES)

    return build


def _forces() -> Built:
    from jax_md import energy, space

    displacement, _ = space.free()
    potential = energy.lennard_jones_pair(displacement, sigma=1.0, epsilon=1.0)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(2.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return jax.grad(potential), 1.2 * grid + 0.05 * jnp.sin(7 * grid.sum(1, keepdims=True) + grid)


def _mixture() -> Built:
    import distrax

    def f(x: jax.Array) -> jax.Array:
        mixture = distrax.MixtureSameFamily(
            distrax.Categorical(logits=x[:3]), distrax.Normal(x[3:6], jnp.exp(x[6:9]))
        )
        return mixture.log_prob(jnp.linspace(-2.0, 2.0, 7))

    return f, jnp.linspace(-1.0, 1.0, 9)


def _normal_flow() -> Built:
    import distrax

    def f(x: jax.Array) -> jax.Array:
        scale = jnp.diag(jnp.exp(x[:3])) + jnp.tril(jnp.outer(x[3:6], x[:3]), -1)
        flow = distrax.Transformed(
            distrax.MultivariateNormalTri(x[6:9], scale), distrax.Block(distrax.Tanh(), 1)
        )
        return flow.log_prob(jnp.array([[0.1, 0.2, 0.3], [-0.5, 0.4, 0.0]]))

    return f, jnp.linspace(-0.5, 0.7, 9)


def _regression() -> Built:
    import numpyro
    from numpyro import distributions
    from numpyro.infer import util

    covariates = jnp.sin(jnp.arange(20.0)).reshape(10, 2)

    def model(y: jax.Array) -> None:
        w = numpyro.sample("w", distributions.StudentT(4.0, jnp.zeros(2), 1.0).to_event(1))
        scale = numpyro.sample("scale", distributions.HalfNormal(1.0))
        numpyro.sample("y", distributions.StudentT(3.0, covariates @ w, scale), obs=y)

    def log_density(x: jax.Array) -> jax.Array:
        sites = {"w": x[:2], "scale": jnp.exp(x[2])}
        return util.log_density(model, (jnp.cos(jnp.arange(10.0)),), {}, sites)[0]

    return jax.grad(log_density), jnp.array([0.3, -0.2, 0.1])


PROGRAMS = {
    "optimistix Newton": Program("optimistix", _root),
    "optimistix Newton around ours": Program("optimistix", _stationary_point),
    "optimistix LevenbergMarquardt": Program("optimistix", _least_squares),
    "diffrax Tsit5": Program("diffrax", _ode("Tsit5")),
    "diffrax Tsit5 around ours": Program("diffrax", _ode("Tsit5", _gradient_flow)),
    "diffrax Kvaerno3": Program("diffrax", _ode("Kvaerno3")),
    "diffrax Kvaerno5": Program("diffrax", _ode("Kvaerno5")),
    "jaxopt LevenbergMarquardt": Program("jaxopt", _levenberg_marquardt(None)),
    "jaxopt LevenbergMarquardt around ours": Program(
        "jaxopt", _levenberg_marquardt(jax_cce.jacobian)
    ),
    "jax-md Lennard-Jones forces": Program("jax_md", _forces, jax.jacfwd),
    "distrax mixture": Program("distrax", _mixture),
    "distrax transformed normal": Program("distrax", _normal_flow),
    "numpyro regression": Program("numpyro", _regression, jax.jacfwd),
}


def compare(program: Program, turns: int) -> tuple[str, ...]:
    """Returns one row: agreement, trace + plan + compile, and a run, each against JAX's."""
    transforms: dict[str, Callable[..., Any]] = {"ours": jax_cce.jacobian, "theirs": program.mode}
    compiled: dict[str, Any] = {}
    built: dict[str, list[float]] = {name: [] for name in transforms}
    x: Any = None
    for turn in range(turns):
        for name in sorted(transforms, reverse=bool(turn % 2)):
            jax.clear_caches()
            jax_cce.cache_clear()
            f, x = program.build()

            jacobian = jax.jit(transforms[name](f))
            start = time.process_time()
            compiled[name] = jacobian.lower(x).compile()
            built[name].append(time.process_time() - start)
    results = {name: np.asarray(run(x)) for name, run in compiled.items()}
    error = np.abs(results["ours"] - results["theirs"]).max() / np.abs(results["theirs"]).max()
    runs: dict[str, list[float]] = {name: [] for name in transforms}
    repeats = {
        name: math.ceil(0.02 / max(1e-5, cpu_seconds(lambda run=run: run(x))))  # type: ignore[misc]
        for name, run in compiled.items()
    }
    for turn in range(3 * turns):
        for name in sorted(compiled, reverse=bool(turn % 2)):
            runs[name].append(cpu_seconds(lambda name=name: compiled[name](x), repeats[name]))  # type: ignore[misc]
    cells = [f"{error:.0e}"]
    for measured in (built, runs):
        ours, theirs = (Measured(tuple(measured[name])) for name in transforms)
        cells += [
            report.duration(ours.median),
            report.duration(theirs.median),
            report.ratio(theirs / ours),
        ]
    return tuple(cells)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", action="append", choices=[*PROGRAMS], help="repeatable")
    parser.add_argument("--turns", type=int, default=3, help="how often each is built")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    header = (
        "program",
        "relative difference",
        *("trace + plan + compile: ours", "JAX's", "speed-up"),
        *("run: ours", "JAX's", "speed-up"),
    )
    rows, left_out = [], []
    for name in arguments.program or PROGRAMS:
        if PROGRAMS[name].is_installed:
            rows.append((name, *compare(PROGRAMS[name], arguments.turns)))
        else:
            left_out.append(name)
    print(f"CPU time, medians [quartiles], float64. {report.provenance()}\n")
    print(report.markdown_table(header, rows))
    if left_out:
        print(f"\nNot installed: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
