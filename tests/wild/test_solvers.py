"""The worked examples converge as their methods do in theory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.sparsity import assert_bcoo, assert_values

pytest.importorskip("scipy")

from examples import bratu_newton, bundle_adjustment

pytestmark = pytest.mark.one_version


@pytest.fixture(scope="module")
def scene() -> Any:
    """A small bundle adjustment problem."""
    return bundle_adjustment.make_scene(6, 60)


def _residuals(scene: Any) -> Any:
    def residuals(cameras: jax.Array, points: jax.Array) -> jax.Array:
        project = jax.vmap(bundle_adjustment.project)
        return project(cameras[scene.camera_of], points[scene.point_of]) - scene.observed

    return residuals


@pytest.mark.parametrize("solver", ["direct", "krylov"])
def test_newton_converges_quadratically(solver: str, capsys: pytest.CaptureFixture[str]):
    solution = bratu_newton.main(["--size", "24", "--solver", solver])
    residuals = solution.residuals
    assert 4 <= len(residuals) <= 8
    # Near the solution the exponent tends to two, until rounding ends the descent.
    before, middle, after = np.log(residuals[-4:-1])
    assert (after - middle) / (middle - before) == pytest.approx(2, abs=0.3)
    value = bratu_newton.residual(solution.u, 6.0)
    np.testing.assert_allclose(value, 0.0, atol=1e-13)
    assert f"residual {residuals[-1]:.3e}" in capsys.readouterr().out


def test_the_solvers_of_newton_agree():
    direct, krylov = (bratu_newton.newton(16, 6.0, solver) for solver in ("direct", "krylov"))
    np.testing.assert_allclose(direct.u, krylov.u, rtol=1e-10)


def test_newton_beyond_the_turning_point_is_reported():
    with pytest.raises(RuntimeError, match="no convergence"):
        bratu_newton.newton(12, 8.0)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_jacobian_of_the_bratu_problem(size: int):
    u = np.random.default_rng(0).normal(size=size * size)
    found = jax_cce.jacobian(bratu_newton.residual, format="bcoo")(u, 6.0)
    assert_bcoo(found, jax.jacrev(bratu_newton.residual)(u, 6.0))
    assert found.nse == 5 * size**2 - 4 * size


def test_the_example_grid_has_the_expected_nonzeros():
    u = np.zeros(128 * 128)
    jacobian = jax_cce.jacobian(bratu_newton.residual, format="structured")(u, 6.0)
    assert jacobian.nnz == 81408
    assert jacobian.bands.offsets == (-128, -1, 0, 1, 128)
    assert_values(jacobian.diagonal(), np.full(u.size, 4 - 6 / 129**2))


@pytest.mark.parametrize("disturbance", ["1", "3"])
def test_bundle_adjustment_reaches_the_noise(disturbance: str, capsys: pytest.CaptureFixture[str]):
    options = ["--cameras", "8", "--points", "100", "--disturbance", disturbance]
    scene, solution = bundle_adjustment.main(options)
    assert np.all(np.diff(solution.costs) < 0)
    assert solution.costs[0] > 1000 * solution.costs[-1]
    # The cost over its variance follows a chi-squared distribution: four standard deviations.
    freedom = scene.expected_cost / scene.noise**2
    deviation = abs(solution.costs[-1] / scene.noise**2 - freedom) / np.sqrt(2 * freedom)
    assert deviation < 4
    gradient = jax.grad(lambda c, p: jnp.sum(_residuals(scene)(c, p) ** 2), argnums=(0, 1))
    for found, start in zip(
        gradient(solution.cameras, solution.points),
        gradient(scene.cameras, scene.points),
        strict=True,
    ):
        assert jnp.linalg.norm(found) < 1e-5 * jnp.linalg.norm(start)
    assert "of which noise explains" in capsys.readouterr().out


def test_bundle_adjustment_without_noise_is_exact():
    scene = bundle_adjustment.make_scene(5, 40, noise=0.0)
    solution = bundle_adjustment.adjust(scene)
    np.testing.assert_allclose(_residuals(scene)(solution.cameras, solution.points), 0, atol=1e-6)


def test_steps_that_increase_the_cost_are_rejected(capsys: pytest.CaptureFixture[str]):
    scene = bundle_adjustment.make_scene(6, 60, disturbance=6.0)
    solution = bundle_adjustment.adjust(scene, max_steps=15)
    assert np.all(np.diff(solution.costs) < 0)
    tried = capsys.readouterr().out.count("step")
    assert 2 < len(solution.costs) < tried + 1


def test_jacobian_of_the_bundle_adjustment(scene: Any):
    residuals = _residuals(scene)
    args = (scene.cameras, scene.points)
    expected = jax.jacrev(residuals, argnums=(0, 1))(*args)
    of_cameras, of_points = jax_cce.jacobian(residuals, argnums=(0, 1), format="bcoo")(*args)
    assert_bcoo(of_cameras, expected[0])
    assert_bcoo(of_points, expected[1])
    assert of_cameras.nse == scene.observed.size * 9
    assert of_points.nse == scene.observed.size * 3
    assert isinstance(of_cameras.indices, np.ndarray)


@pytest.mark.parametrize("damping", [1e-4, 1.0])
def test_the_schur_complement_solves_the_normal_equations(scene: Any, damping: float):
    residuals = _residuals(scene)
    value, jacobians = jax_cce.value_and_jacobian(residuals, argnums=(0, 1), format="structured")(
        scene.cameras, scene.points
    )
    residual = np.asarray(value).ravel()
    found = bundle_adjustment.solve_normal_equations(
        *(jacobian.to_scipy() for jacobian in jacobians), residual, damping
    )
    dense = jax.jacrev(residuals, argnums=(0, 1))(scene.cameras, scene.points)
    matrix = np.concatenate([block.reshape(residual.size, -1) for block in dense], axis=1)
    normal = matrix.T @ matrix
    step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -matrix.T @ residual)
    np.testing.assert_allclose(np.concatenate(found[:2]), step, rtol=1e-6, atol=1e-9)
    model = residual + matrix @ step
    np.testing.assert_allclose(found[2], residual @ residual - model @ model, rtol=1e-6)


@pytest.mark.parametrize("vector", [[0.3, -0.2, 0.5], [0.0, 0.0, np.pi], [1e-9, 0.0, 0.0]])
def test_rotation(vector: list[float]):
    from scipy.spatial.transform import Rotation

    point = np.array([1.0, -2.0, 0.5])
    found = bundle_adjustment.rotate(jnp.array(vector), point)
    np.testing.assert_allclose(found, Rotation.from_rotvec(vector).apply(point), atol=1e-12)
