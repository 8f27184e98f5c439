"""Collections of nonlinear programs: as written by index, and their derivatives by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import nonlinear_programs
from benchmarks.tasks import cops, luksan_vlcek
from jax_cce import host

pytestmark = pytest.mark.one_version

_BY_NAME = {family.name: family for family in luksan_vlcek.FAMILIES + cops.FAMILIES}


def test_there_are_eighteen_and_seventeen():
    assert len(luksan_vlcek.FAMILIES) == 18
    assert len(cops.FAMILIES) == 17
    assert len(_BY_NAME) == 35


# Those after the first of the chained HS problems have its form; `row` checks them all, and the
# structured results, too.
@pytest.mark.parametrize(
    "family", luksan_vlcek.FAMILIES[:11] + cops.FAMILIES, ids=lambda family: family.name
)
def test_derivatives_are_jax_s(family):
    problem = family.about(21 if family in luksan_vlcek.FAMILIES else 60)
    x, multipliers = nonlinear_programs.point(problem)
    programs = nonlinear_programs.programs(problem)

    @jax.jit
    def both(x, multipliers):
        names = "objective", "gradient", "its values", "values of it"
        expected = {
            "gradient": jax.grad(problem.objective)(x),
            "Jacobian": jax.jacfwd(problem.constraints)(x),
            "Hessian": jnp.tril(jax.jacfwd(jax.grad(problem.lagrangian))(x, multipliers)),
        }
        return {name: programs[name](x, multipliers) for name in names}, expected

    results, expected = both(x, multipliers)
    assert results["objective"].shape == ()
    seen = {"gradient": results["gradient"]}
    for name, values in (("Jacobian", "its values"), ("Hessian", "values of it")):
        rows, columns = jax.eval_shape(programs[name], x, multipliers).pattern.T
        seen[name] = np.zeros(expected[name].shape)
        seen[name][rows, columns] = results[values]
        # No entry is stored that is zero wherever the variables are.
        assert len(rows) <= 1.01 * np.count_nonzero(expected[name])
    for name, of_jax in expected.items():
        scale = np.abs(of_jax).max()
        np.testing.assert_allclose(seen[name], of_jax, rtol=1e-11, atol=1e-13 * scale)


def _at(x):
    """The variables by the report's indices, which begin at 1."""
    return lambda k: x[k - 1] if 1 <= k <= len(x) else 0.0


def test_rosenbrock_by_index():
    values = np.random.default_rng(0).normal(size=6)
    x, n = _at(values), 6
    model = _BY_NAME["chained Rosenbrock"].about(len(values))
    expected = sum(100 * (x(i) ** 2 - x(i + 1)) ** 2 + (x(i) - 1) ** 2 for i in range(1, n))
    assert model.objective(values) == pytest.approx(expected, rel=1e-13)
    constraints = [
        3 * x(k + 1) ** 3
        + 2 * x(k + 2)
        - 5
        + np.sin(x(k + 1) - x(k + 2)) * np.sin(x(k + 1) + x(k + 2))
        + 4 * x(k + 1)
        - x(k) * np.exp(x(k) - x(k + 1))
        - 3
        for k in range(1, n - 1)
    ]
    np.testing.assert_allclose(model.constraints(values), constraints, rtol=1e-12)


def test_broyden_by_index():
    values = np.random.default_rng(0).normal(size=9)
    x, n = _at(values), 9
    banded = sum(
        abs(
            (2 + 5 * x(i) ** 2) * x(i)
            + 1
            + sum(x(j) * (1 + x(j)) for j in range(max(1, i - 5), min(n, i + 1) + 1))
        )
        ** (7 / 3)
        for i in range(1, n + 1)
    )
    tridiagonal = sum(
        abs((3 - 2 * x(i)) * x(i) - x(i - 1) - x(i + 1) + 1) ** (7 / 3) for i in range(1, n + 1)
    )
    objectives = [
        _BY_NAME[f"Broyden {name}"].about(n).objective(values) for name in ("banded", "tridiagonal")
    ]
    np.testing.assert_allclose(objectives, [banded, tridiagonal], rtol=1e-12)


def test_hs_by_index():
    values = np.random.default_rng(0).normal(size=13)
    x, model = _at(values), _BY_NAME["chained HS47"].about(13)
    objective = sum(
        (x(4 * i - 4 + k) - x(4 * i - 3 + k)) ** 2 for i in range(1, 4) for k in range(1, 5)
    )
    assert model.objective(values) == pytest.approx(objective, rel=1e-13)
    constraints = [
        [x(b + 1) + x(b + 2) ** 2 + x(b + 3) ** 2 - 3 for b in (0, 4, 8)],
        [x(b + 2) + x(b + 3) ** 2 + x(b + 4) - 1 for b in (0, 4, 8)],
        [x(b + 1) * x(b + 5) - 1 for b in (0, 4, 8)],
    ]
    np.testing.assert_allclose(model.constraints(values), np.ravel(constraints), rtol=1e-12)


def test_starts_repeat():
    np.testing.assert_array_equal(
        _BY_NAME["chained HS46"].about(5).start, [2.0, 1.5, 0.5, 2.0, 1.5]
    )


def test_a_surface_by_index():
    values = np.random.default_rng(0).normal(size=(5, 5))
    side, wave = 1 / 4, lambda i: (1 + 0.1 * np.cos(i * np.pi / 2)) ** 3
    cells = [(i, j, i + 1, j + 1) for i in range(4) for j in range(4)]
    v = values
    area = sum(
        np.sqrt(1 + ((v[k, j] - v[i, j]) / side) ** 2 + ((v[i, m] - v[i, j]) / side) ** 2)
        + np.sqrt(1 + ((v[k, m] - v[i, m]) / side) ** 2 + ((v[k, m] - v[k, j]) / side) ** 2)
        for i, j, k, m in cells
    )
    found = _BY_NAME["minsurf"].of(3).objective(values.ravel())
    np.testing.assert_allclose(found, side**2 / 2 * area, rtol=1e-13)
    dx, dy = np.pi / 2, 5.0
    energy = sum(
        (wave(i) + 2 * wave(k))
        * (((v[k, j] - v[i, j]) / dx) ** 2 + ((v[i, m] - v[i, j]) / dy) ** 2)
        + 2
        * (wave(i) + wave(k))
        * (((v[k, m] - v[i, m]) / dx) ** 2 + ((v[k, m] - v[k, j]) / dy) ** 2)
        for i, j, k, m in cells
    )
    load = sum(0.1 * np.sin(i * dx) * v[i, j] for i in range(5) for j in range(5))
    found = _BY_NAME["bearing"].of(3).objective(values.ravel())
    np.testing.assert_allclose(found, dx * dy * (energy / 12 - load), rtol=1e-13)


def test_a_polynomial_flows_through_collocation():
    """A cubic is what its own coefficients say, at the places and between them."""
    problem = _BY_NAME["pinene"].of(4)
    h, places = 36420 / 4, (1 + np.array([-np.sqrt(0.6), 0, np.sqrt(0.6)])) / 2
    c = np.random.default_rng(0).normal(size=(4, 5))
    start = np.arange(4)
    u = lambda t: sum(c[k] * t[..., None] ** k for k in range(4))  # noqa: E731
    slope = lambda t: sum(k * c[k] * t[..., None] ** (k - 1) for k in range(1, 4))  # noqa: E731
    w = [
        slope(start),
        2 * c[2] + 6 * c[3] * start[:, None],
        6 * np.broadcast_to(c[3], (4, 5)),
    ]
    at = start[:, None] + places
    x = [np.zeros(5), u(start), np.stack(w, 1) / h, u(at), slope(at) / h]
    missing = problem.constraints(np.concatenate([each.ravel() for each in x]))
    # Values, slopes and continuity hold; without rates nothing may change, and u does.
    np.testing.assert_allclose(missing[: 2 * 60 + 15], 0, atol=1e-11)
    np.testing.assert_allclose(missing[135:195], x[-1].ravel())


# The value of each problem at this size that COPSBenchmark.jl tests, which Ipopt finds.
_AT_THE_SOLUTION = {
    "bearing": (50, -0.15482),
    "catmix": (100, -0.0480556),
    "chain": (199, 5.06891),
    "elec": (50, 1055.18),
    "gasoil": (100, 5.2366e-3),
    "methanol": (100, 9.02229e-3),
    "pinene": (100, 19.8721),
    "polygon": (50, -0.674981),
    "robot": (200, 9.14138),
    "rocket": (400, -1.01283),
    "steering": (200, 0.554577),
    "torsion": (50, -0.418087),
}


@pytest.mark.parametrize("name", _AT_THE_SOLUTION)
def test_solutions_are_the_published_ones(name):
    cyipopt = pytest.importorskip("cyipopt")
    size, value = _AT_THE_SOLUTION[name]
    problem = _BY_NAME[name].of(size)
    callbacks = host.IpoptProblem(problem.objective, problem.start, problem.constraints)
    n, m = callbacks.n, callbacks.m
    lower, upper = (np.broadcast_to(each, n) for each in problem.bounds)
    least, most = (np.broadcast_to(each, m) for each in problem.limits)
    ipopt = cyipopt.Problem(n, m, callbacks, lb=lower, ub=upper, cl=least, cu=most)
    for option in (("print_level", 0), ("sb", "yes")):
        ipopt.add_option(*option)
    found = ipopt.solve(problem.start)[1]
    assert found["status"] in (0, 1)
    assert found["obj_val"] == pytest.approx(value, rel=1e-4)


def test_a_row_has_a_time_for_each_program():
    cells = nonlinear_programs.row(_BY_NAME["chained HS48"], 50, 2)
    assert cells["problem"] == "chained HS48"
    names = nonlinear_programs.programs(_BY_NAME["chained HS48"].about(50))
    assert all(float(cells[name]) > 0 for name in (*names, "set-up", "at n / 10"))


def test_what_is_off_is_seen():
    problem = _BY_NAME["chained HS48"].about(20)
    x, multipliers = nonlinear_programs.point(problem)
    results = {
        name: each(x, multipliers) for name, each in nonlinear_programs.programs(problem).items()
    }
    assert nonlinear_programs.difference(problem, results, x, multipliers) < 1e-13
    results["values of it"] = results["values of it"].at[3].add(1e-3)
    assert nonlinear_programs.difference(problem, results, x, multipliers) > 1e-6
