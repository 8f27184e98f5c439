"""Poses, cameras and point clouds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.spatial.transform import Rotation

from benchmarks.programs.program import Family, Made, Program

# fx, fy, cx, cy, k1, k2, p1, p2 of a camera.
_CAMERA = np.array([520.0, 515.0, 320.0, 240.0, 0.11, -0.21, 0.001, -0.002])


def _rotated(angle_axis: jax.Array, point: jax.Array) -> jax.Array:
    """Rodrigues' formula, for angles that are not zero."""
    theta = jnp.sqrt(jnp.dot(angle_axis, angle_axis))
    axis = angle_axis / theta
    c, s = jnp.cos(theta), jnp.sin(theta)
    return point * c + jnp.cross(axis, point) * s + axis * jnp.dot(axis, point) * (1 - c)


def _reprojection(x: jax.Array, observed: jax.Array) -> jax.Array:
    """The error of one observation in BAL's camera: rotation, translation, f, k1, k2, and point."""
    camera, point = x[:9], x[9:]
    p = _rotated(camera[:3], point) + camera[3:6]
    projected = -p[:2] / p[2]
    radius2 = jnp.sum(projected**2)
    distortion = 1.0 + camera[7] * radius2 + camera[8] * radius2**2
    return camera[6] * distortion * projected - observed


_BAL = np.array([0.016, -0.013, -0.044, -0.034, -0.107, 1.12, 399.8, -3e-2, 5e-2, -0.6, 0.57, -3.8])

_REPROJECTION = Program(
    "reprojection, one observation",
    "the snavely_reprojection_error of Ceres Solver's bundle adjustment, in JAX",
    lambda _: (_reprojection, _BAL, np.array([-30.0, 26.0])),
)


def _robust(x: jax.Array, observed: jax.Array) -> jax.Array:
    """Cauchy's loss of the error of one observation."""
    return jnp.log1p(jnp.sum(_reprojection(x, observed) ** 2) / 16.0)


_ROBUST = Program(
    "robust reprojection, one observation",
    "bundle adjustment with Cauchy's loss by Newton's method (Triggs et al. 2000, sec. 4)",
    lambda _: (_robust, _BAL, np.array([-30.0, 26.0])),
    derivative="hessian",
)


def _bundle(cameras: int, points: int) -> Program:
    """All reprojection errors of a small scene, every point seen by every camera."""

    def make(draw: np.random.Generator) -> Made:
        camera, point = (i.reshape(-1) for i in np.indices((cameras, points)))
        observed = 20 * draw.normal(size=(cameras * points, 2))

        def residuals(scene: dict[str, jax.Array]) -> jax.Array:
            x = jnp.concatenate([scene["cameras"][camera], scene["points"][point]], axis=1)
            return jax.vmap(_reprojection)(x, jnp.asarray(observed)).reshape(-1)

        around = 1 + 0.05 * draw.normal(size=(cameras + points, 12))
        scene = _BAL * around
        return residuals, {"cameras": scene[:cameras, :9], "points": scene[cameras:, 9:]}

    return Program(
        f"bundle adjustment, {cameras} cameras, {points} points",
        "Agarwal et al., Bundle Adjustment in the Large, in the form of JAX notebooks",
        make,
    )


def _turned_by(q: jax.Array) -> jax.Array:
    """The rotation matrix of a quaternion (w, x, y, z) of any length."""
    w, x, y, z = q / jnp.linalg.norm(q)
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _projection(points: int) -> Program:
    """Pixels of points seen by a camera with a pose of quaternion and translation."""

    def make(draw: np.random.Generator) -> Made:
        cloud = draw.uniform(-1, 1, size=(points, 3)) + np.array([0.0, 0.0, 4.0])

        def pixels(pose: jax.Array, cloud: jax.Array) -> jax.Array:
            seen = cloud @ _turned_by(pose[:4]).T + pose[4:]
            fx, fy, cx, cy = _CAMERA[:4]
            return jnp.stack(
                [fx * seen[:, 0] / seen[:, 2] + cx, fy * seen[:, 1] / seen[:, 2] + cy], axis=-1
            )

        return pixels, np.array([0.9, 0.1, -0.2, 0.15, 0.1, -0.1, 0.2]), cloud

    return Program(
        f"camera pose from {points} points",
        "perspective-n-point refined by Gauss-Newton, as in OpenCV's solvePnPRefineLM",
        make,
    )


def _multiplied(p: jax.Array, q: jax.Array) -> jax.Array:
    """The product of two quaternions (w, x, y, z)."""
    pw, px, py, pz = p
    qw, qx, qy, qz = q
    return jnp.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ]
    )


def _relative_error(a: jax.Array, b: jax.Array, measured: jax.Array) -> jax.Array:
    """How far the motion from pose a to pose b is from the measured one, 6 numbers."""
    back = a[:4] * jnp.array([1.0, -1.0, -1.0, -1.0])
    turn = _multiplied(back, b[:4])
    place = _turned_by(a[:4]).T @ (b[4:] - a[4:])
    error = _multiplied(measured[:4] * jnp.array([1.0, -1.0, -1.0, -1.0]), turn)
    return jnp.concatenate([place - measured[4:], 2.0 * error[1:]])


def _poses(draw: np.random.Generator, count: int) -> np.ndarray:
    """Poses along a winding path: unit quaternions (w, x, y, z) and places."""
    turns = draw.normal(size=(count, 4)) * 0.3 + np.array([1.0, 0.1, -0.2, 0.3])
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    return np.concatenate([turns, np.cumsum(draw.uniform(0.2, 1.0, size=(count, 3)), 0)], 1)


def _edge(draw: np.random.Generator) -> Made:
    a, b, measured = _poses(draw, 3)

    def error(x: tuple[jax.Array, jax.Array], measured: jax.Array) -> jax.Array:
        return _relative_error(*x, measured)

    return error, (a, b), measured


_EDGE = Program(
    "pose graph SE(3), one edge",
    "the relative pose error of Ceres Solver's pose_graph_3d example",
    _edge,
)


def _pose_graph(poses: int) -> Program:
    """Residuals of a chain of poses and some loop closures."""

    def make(draw: np.random.Generator) -> Made:
        chain = np.arange(poses - 1)
        closures = draw.integers(0, poses, size=(2, max(1, poses // 4)))
        one, other = np.concatenate([np.stack([chain, chain + 1]), closures], axis=1)
        measured = _poses(draw, one.size)

        def residuals(x: jax.Array) -> jax.Array:
            errors = jax.vmap(_relative_error)(x[one], x[other], jnp.asarray(measured))
            return errors.ravel()

        return residuals, _poses(draw, poses)

    return Program(
        f"pose graph SE(3), {poses} poses",
        "pose-graph SLAM as in g2o and jaxfg, poses gathered by the edges",
        make,
    )


def _planar_graph(poses: int) -> Program:
    """Residuals of planar poses (x, y, heading), edge by edge in Python."""

    def make(draw: np.random.Generator) -> Made:
        edges = [(i, i + 1) for i in range(poses - 1)] + [(0, poses - 1), (poses // 2, 0)]
        measured = draw.normal(size=(len(edges), 3))

        def residuals(x: jax.Array) -> jax.Array:
            errors = []
            for k, (i, j) in enumerate(edges):
                xi, yi, ti = x[3 * i], x[3 * i + 1], x[3 * i + 2]
                dx, dy = x[3 * j] - xi, x[3 * j + 1] - yi
                errors.append(jnp.cos(ti) * dx + jnp.sin(ti) * dy - measured[k, 0])
                errors.append(-jnp.sin(ti) * dx + jnp.cos(ti) * dy - measured[k, 1])
                turn = x[3 * j + 2] - ti - measured[k, 2]
                errors.append(jnp.arctan2(jnp.sin(turn), jnp.cos(turn)))
            return jnp.array([x[0], x[1], x[2], *errors])

        return residuals, draw.normal(size=3 * poses)

    return Program(
        f"pose graph SE(2), {poses} poses",
        "g2o's tutorial in two dimensions, as teaching code loops over edges",
        make,
    )


def _point_to_plane(points: int) -> Program:
    """Distances of moved points from the planes that they are matched with."""

    def make(draw: np.random.Generator) -> Made:
        source, target, normals = draw.normal(size=(3, points, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)

        def residuals(x: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
            moved = jax.vmap(_rotated, in_axes=(None, 0))(x[:3], source) + x[3:]
            return jnp.sum((moved - target) * normals, axis=1)

        return residuals, np.array([0.2, -0.1, 0.3, 0.05, 0.1, -0.2]), source, target

    return Program(
        f"ICP point to plane, {points} points",
        "Chen & Medioni's registration, the objective of Open3D's point-to-plane ICP",
        make,
    )


def _chamfer(points: int) -> Program:
    """Squared distances to nearest points after a motion, with soft matches."""

    def make(draw: np.random.Generator) -> Made:
        source, target = draw.normal(size=(2, points, 3))

        def loss(x: jax.Array) -> jax.Array:
            moved = Rotation.from_rotvec(x[:3]).apply(jnp.asarray(source)) + x[3:]
            squares = jnp.sum((moved[:, None] - target[None]) ** 2, axis=-1)
            return -jnp.mean(jax.nn.logsumexp(-squares / 0.5, axis=1))

        return loss, np.array([0.2, -0.1, 0.3, 0.05, 0.1, -0.2])

    return Program(
        f"soft registration, {points} points",
        "soft-assignment point-set registration in the manner of coherent point drift",
        make,
        derivative="hessian",
    )


def _distorted(x: jax.Array, camera: jax.Array) -> jax.Array:
    """Pixel of a point in the camera's frame, by the lens model of Brown and Conrady."""
    fx, fy, cx, cy, k1, k2, p1, p2 = camera
    u, v = x[0] / x[2], x[1] / x[2]
    r2 = u**2 + v**2
    radial = 1 + k1 * r2 + k2 * r2**2
    du = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u**2)
    dv = v * radial + p1 * (r2 + 2 * v**2) + 2 * p2 * u * v
    return jnp.stack([fx * du + cx, fy * dv + cy])


_DISTORTED = Program(
    "Brown-Conrady projection of a point",
    "the camera model of OpenCV's projectPoints, in JAX",
    lambda _: (_distorted, np.array([0.3, -0.4, 2.0]), _CAMERA),
)


def _fisheye(camera: jax.Array, points: jax.Array) -> jax.Array:
    """Pixels by the intrinsics of Kannala and Brandt's camera."""
    focal, centre, k = camera[:2], camera[2:4], camera[4:]
    radius = jnp.linalg.norm(points[:, :2], axis=1)
    theta = jnp.arctan2(radius, points[:, 2])
    powers = theta[:, None] ** jnp.array([3, 5, 7, 9])
    bent = theta + powers @ k
    return focal * points[:, :2] * (bent / radius)[:, None] + centre


def _calibration(points: int) -> Program:
    """Pixels of a target's corners by the intrinsics."""

    def make(draw: np.random.Generator) -> Made:
        corners = np.append(draw.uniform(-1, 1, (points, 2)), draw.uniform(1, 2, (points, 1)), 1)
        return _fisheye, np.array([400.0, 398.0, 320.0, 240.0, 0.02, -0.01, 0.003, 1e-3]), corners

    return Program(
        f"fisheye calibration, {points} corners",
        "intrinsics of the Kannala-Brandt camera, as in OpenCV's fisheye module and Kalibr",
        make,
    )


def _averaging(rotations: int) -> Program:
    """Residuals R_j - R_ij R_i of rotation averaging, with rotations by their vectors."""

    def make(draw: np.random.Generator) -> Made:
        one = np.repeat(np.arange(rotations), 3)
        other = (one + np.tile([1, 2, 5], rotations)) % rotations
        measured = np.linalg.qr(draw.normal(size=(one.size, 3, 3)))[0]
        measured *= np.linalg.det(measured)[:, None, None]

        def residuals(vectors: jax.Array) -> jax.Array:
            matrices = jax.vmap(lambda v: Rotation.from_rotvec(v).as_matrix())(vectors)
            moved = jnp.einsum("eij,ejk->eik", jnp.asarray(measured), matrices[one])
            return matrices[other] - moved

        return residuals, draw.uniform(0.2, 0.8, size=(rotations, 3))

    return Program(
        f"rotation averaging, {rotations} rotations",
        "chordal rotation averaging (Hartley et al. 2013) by Gauss-Newton",
        make,
    )


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    single = (_REPROJECTION, _ROBUST, _EDGE, _DISTORTED)
    sized = (
        _bundle(int(draw.integers(2, 5)), int(draw.integers(4, 20))),
        _projection(int(draw.integers(6, 100))),
        _pose_graph(int(draw.integers(4, 20))),
        _planar_graph(int(draw.integers(4, 12))),
        _point_to_plane(int(draw.integers(20, 400))),
        _chamfer(int(draw.integers(5, 40))),
        _calibration(int(draw.integers(10, 120))),
        _averaging(int(draw.integers(6, 20))),
    )
    dtype = str(draw.choice(["float64", "float32"], p=[0.7, 0.3]))
    if draw.random() < 0.4:
        batch = int(2 ** draw.uniform(5, 10))
        return single[int(draw.integers(0, len(single)))].settings(batch=batch, dtype=dtype)
    return sized[int(draw.integers(0, len(sized)))].settings(dtype=dtype)


FAMILY = Family(
    "geometry",
    (
        _REPROJECTION,
        _REPROJECTION.settings(batch=2048),
        _REPROJECTION.settings(batch=1024, dtype="float32"),
        _ROBUST,
        _ROBUST.settings(batch=256),
        _bundle(4, 12),
        _projection(60),
        _projection(16).settings(batch=64, dtype="float32"),
        _EDGE,
        _EDGE.settings(batch=512),
        _pose_graph(12),
        _planar_graph(10),
        _point_to_plane(200),
        _point_to_plane(500).settings(dtype="float32"),
        _chamfer(24),
        _DISTORTED,
        _DISTORTED.settings(batch=4096, dtype="float32"),
        _calibration(80),
        _averaging(12),
    ),
    _drawn,
)
