"""Bundle adjustment by the Levenberg-Marquardt method with a block-sparse Jacobian.

A ring of cameras looks at a cloud of points. From noisy images and a disturbed guess of everything,
the cameras and the points are found together. Each residual depends on one camera and one point
only, so the Jacobian has 12 nonzeros in a row, whatever the size of the problem. The normal
equations are reduced to those of the cameras by a Schur complement. Run it with

    python examples/bundle_adjustment.py                               100 cameras, 10 000 points
    python examples/bundle_adjustment.py --cameras 12 --points 300     a small one

The camera model is that of Agarwal, Snavely, Seitz & Szeliski, "Bundle Adjustment in the Large"
(ECCV 2010): a rotation vector, a translation, a focal length and two coefficients of distortion.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import bsr_array, diags_array
from scipy.spatial.transform import Rotation

import jax_cce

_CAMERA, _POINT = 9, 3
# Translations, rotations and scale of the whole scene leave all images as they are.
_GAUGE = 7
# So much keeps the normal equations definite in spite of them.
_LEAST_DAMPING = 1e-9


class Scene(NamedTuple):
    """A problem whose solution is known up to the noise.

    Attributes:
        cameras: the initial guess, shape (cameras, 9).
        points: the initial guess, shape (points, 3).
        camera_of: the camera of each observation.
        point_of: the point of each observation.
        observed: image coordinates in pixels, shape (observations, 2).
        noise: the standard deviation of their errors.
    """

    cameras: np.ndarray
    points: np.ndarray
    camera_of: np.ndarray
    point_of: np.ndarray
    observed: np.ndarray
    noise: float

    @property
    def expected_cost(self) -> float:
        """The expected sum of squares at the solution: that of the noise which no fit removes."""
        freedom = self.observed.size - self.cameras.size - self.points.size + _GAUGE
        return self.noise**2 * freedom


class Solution(NamedTuple):
    """Adjusted cameras and points, and the sum of squares before each step and after the last."""

    cameras: jax.Array
    points: jax.Array
    costs: list[float]


def rotate(vector: jax.Array, point: jax.Array) -> jax.Array:
    """Rotates a point about an axis, by as many radians as the axis vector is long (Rodrigues)."""
    # The guess of no camera is the exact identity, where the formula would divide by zero.
    angle = jnp.sqrt(vector @ vector)
    axis = vector / angle
    c, s = jnp.cos(angle), jnp.sin(angle)
    return c * point + s * jnp.cross(axis, point) + (1 - c) * (axis @ point) * axis


def project(camera: jax.Array, point: jax.Array) -> jax.Array:
    """Where a camera sees a point, in pixels. Cameras look along their negative z axis."""
    seen = rotate(camera[:3], point) + camera[3:6]
    image = -seen[:2] / seen[2]
    squared = image @ image
    focal, first, second = camera[6], camera[7], camera[8]
    return focal * (1 + squared * (first + squared * second)) * image


def make_scene(
    num_cameras: int,
    num_points: int,
    *,
    noise: float = 0.5,
    disturbance: float = 1.0,
    seed: int = 0,
) -> Scene:
    """Makes a problem: each point is seen by 4 to 10 cameras (fewer if there are fewer).

    Args:
        num_cameras: how many cameras stand around the points.
        num_points: how many points there are.
        noise: the standard deviation of the errors of observed image coordinates, in pixels.
        disturbance: how far off the initial guess is; 1 is about 40 pixels.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num_points, 3)) * 0.4
    counts = rng.integers(min(4, num_cameras), min(10, num_cameras) + 1, size=num_points)
    ranked = np.argsort(rng.random((num_points, num_cameras)), axis=1)
    camera_of = np.concatenate([row[:n] for row, n in zip(ranked, counts, strict=True)])
    point_of = np.repeat(np.arange(num_points), counts)
    cameras = np.stack([_camera_on_ring(k / num_cameras, rng) for k in range(num_cameras)])
    exact = jax.vmap(project)(cameras[camera_of], points[point_of])
    observed = exact + noise * rng.normal(size=exact.shape)
    spread = np.array([0.05] * 3 + [0.2] * 3 + [40.0, 0.05, 0.05])
    return Scene(
        cameras + disturbance * spread * rng.normal(size=cameras.shape),
        points + disturbance * 0.1 * rng.normal(size=points.shape),
        camera_of,
        point_of,
        np.asarray(observed),
        noise,
    )


def _camera_on_ring(turn: float, rng: np.random.Generator) -> np.ndarray:
    angle = 2 * np.pi * turn
    centre = np.array([4 * np.cos(angle), 4 * np.sin(angle), rng.normal()])
    backward = centre / np.linalg.norm(centre)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward])
    inner = rng.normal(loc=[800.0, -0.05, 0.01], scale=[20.0, 0.01, 0.005])
    vector = Rotation.from_matrix(rotation).as_rotvec()
    return np.concatenate([vector, -rotation @ centre, inner])


def solve_normal_equations(
    of_cameras: Any, of_points: Any, residual: np.ndarray, damping: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """One damped step, by the Schur complement of the points.

    Args:
        of_cameras: the Jacobian with respect to the cameras, a SciPy array.
        of_points: the Jacobian with respect to the points, a SciPy array.
        residual: the residuals.
        damping: the factor of the normal equations' diagonal that is added to it.

    Returns:
        The steps of cameras and points, and the decrease of the cost that they promise.
    """
    cameras, points = _damped(of_cameras, damping), _damped(of_points, damping)
    coupling = of_cameras.T @ of_points
    right_cameras, right_points = -(of_cameras.T @ residual), -(of_points.T @ residual)
    # The points do not see each other: their matrix has 3 x 3 blocks on its diagonal.
    blocks = points.tobsr((_POINT, _POINT))
    inverse = bsr_array((np.linalg.inv(blocks.data), blocks.indices, blocks.indptr))
    eliminated = coupling @ inverse
    reduced = (cameras - eliminated @ coupling.T).toarray()
    step_cameras = cho_solve(cho_factor(reduced), right_cameras - eliminated @ right_points)
    step_points = inverse @ (right_points - coupling.T @ step_cameras)
    model = residual + of_cameras @ step_cameras + of_points @ step_points
    return step_cameras, step_points, residual @ residual - model @ model


def _damped(jacobian: Any, damping: float) -> Any:
    normal = (jacobian.T @ jacobian).tocsr()
    return normal + damping * diags_array(normal.diagonal())


def adjust(scene: Scene, max_steps: int = 50, tolerance: float = 1e-8) -> Solution:
    """Minimises the sum of squared residuals.

    Args:
        scene: the problem.
        max_steps: how many steps are tried at most.
        tolerance: the relative decrease of the cost below which the iteration stops.
    """

    # The index arrays are constants of the function: the sparsity pattern is known to the planner.
    def residuals(cameras: jax.Array, points: jax.Array) -> jax.Array:
        seen = jax.vmap(project)(cameras[scene.camera_of], points[scene.point_of])
        return seen - scene.observed

    evaluate = jax_cce.value_and_jacobian(residuals, argnums=(0, 1), format="structured")
    cost_of = jax.jit(lambda cameras, points: jnp.sum(residuals(cameras, points) ** 2))
    cameras, points = jnp.asarray(scene.cameras), jnp.asarray(scene.points)
    costs = [float(cost_of(cameras, points))]
    damping, moved = 1e-4, True
    for step in range(max_steps):
        print(f"step {step:2d}   cost {costs[-1]:.6e}   damping {damping:.0e}")
        if moved:
            value, jacobians = evaluate(cameras, points)
            residual = np.asarray(value).reshape(-1)
            of_cameras, of_points = (jacobian.to_scipy() for jacobian in jacobians)
        step_cameras, step_points, promised = solve_normal_equations(
            of_cameras, of_points, residual, damping
        )
        trial = (
            cameras + step_cameras.reshape(cameras.shape),
            points + step_points.reshape(points.shape),
        )
        cost = float(cost_of(*trial))
        moved = cost < costs[-1]
        if moved:
            (cameras, points), decrease = trial, costs[-1] - cost
            costs.append(cost)
            damping = max(damping / 10, _LEAST_DAMPING)
            if decrease < tolerance * cost:
                break
        else:
            if promised < tolerance * costs[-1]:
                break
            damping *= 10
    return Solution(cameras, points, costs)


def main(arguments: Sequence[str] | None = None) -> tuple[Scene, Solution]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Bundle adjustment of a synthetic scene")
    parser.add_argument("--cameras", type=int, default=100)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--noise", type=float, default=0.5, help="in pixels")
    parser.add_argument("--disturbance", type=float, default=1.0, help="of the initial guess")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    scene = make_scene(
        options.cameras,
        options.points,
        noise=options.noise,
        disturbance=options.disturbance,
        seed=options.seed,
    )
    print(f"{options.cameras} cameras, {options.points} points, {len(scene.observed)} observations")
    solution = adjust(scene)
    print(f"cost {solution.costs[-1]:.6e}, of which noise explains {scene.expected_cost:.6e}")
    return scene, solution


if __name__ == "__main__":
    main()
