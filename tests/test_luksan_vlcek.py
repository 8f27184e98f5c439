"""The problems of Luksan and Vlcek: as written by index, and their derivatives by JAX."""

import jax
import numpy as np
import pytest

import jax_cce
from benchmarks import luksan_vlcek
from benchmarks.tasks.luksan_vlcek import MODELS

pytestmark = pytest.mark.one_version

_N = 21
_BY_NAME = {model.name: model for model in MODELS}


def test_there_are_eighteen():
    assert len(_BY_NAME) == len(MODELS) == 18


# Those after the first of the chained HS problems have its form; `row` checks them all.
@pytest.mark.parametrize("model", MODELS[:11], ids=lambda model: model.name)
def test_derivatives_are_jax_s(model):
    x, multipliers = luksan_vlcek.point(model, _N)

    @jax.jit
    def both(x, multipliers):
        results = {
            name: program(x, multipliers) for name, program in luksan_vlcek.programs(model).items()
        }
        expected = {
            "gradient": jax.grad(model.objective)(x),
            "Jacobian": jax.jacfwd(model.constraints)(x),
            "Hessian": jax.jacfwd(jax.grad(model.lagrangian))(x, multipliers),
        }
        return results, expected

    results, expected = both(x, multipliers)
    np.testing.assert_array_equal(results["objective"].shape, ())
    dense = {
        "gradient": results["gradient"],
        "Jacobian": results["Jacobian"].todense(),
        "Hessian": results["Hessian"].todense(),
    }
    for name, of_jax in expected.items():
        scale = np.abs(of_jax).max()
        np.testing.assert_allclose(dense[name], of_jax, rtol=1e-11, atol=1e-13 * scale)
    for values, name in (("its values", "Jacobian"), ("values of it", "Hessian")):
        rows, columns = results[name].pattern.T
        np.testing.assert_array_equal(results[values], dense[name][rows, columns])


def _at(x):
    """The variables by the report's indices, which begin at 1."""
    return lambda k: x[k - 1] if 1 <= k <= len(x) else 0.0


def test_rosenbrock_by_index():
    values = np.random.default_rng(0).normal(size=6)
    x, n = _at(values), 6
    model = _BY_NAME["chained Rosenbrock"]
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
        _BY_NAME[f"Broyden {name}"].objective(values) for name in ("banded", "tridiagonal")
    ]
    np.testing.assert_allclose(objectives, [banded, tridiagonal], rtol=1e-12)


def test_hs_by_index():
    values = np.random.default_rng(0).normal(size=13)
    x, model = _at(values), _BY_NAME["chained HS47"]
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
    np.testing.assert_array_equal(_BY_NAME["chained HS46"].point(5), [2.0, 1.5, 0.5, 2.0, 1.5])


def test_a_row_has_a_time_for_each_program():
    cells = luksan_vlcek.row(_BY_NAME["chained HS48"], 50, 2)
    assert cells[0] == "chained HS48"
    assert len(cells) == 2 + len(luksan_vlcek.programs(MODELS[0]))
    assert all(float(cell) > 0 for cell in cells[1:-1])


def test_what_is_off_is_seen():
    model = _BY_NAME["chained HS48"]
    x, multipliers = luksan_vlcek.point(model, 20)
    results = {name: each(x, multipliers) for name, each in luksan_vlcek.programs(model).items()}
    assert luksan_vlcek.difference(model, results, x, multipliers) < 1e-13
    results["values of it"] = results["values of it"].at[3].add(1e-3)
    assert luksan_vlcek.difference(model, results, x, multipliers) > 1e-6
    assert jax_cce.pattern(model.constraints)(x).shape == (12, 20)
