"""The reference tasks of benchmarks/tasks in the forms in which users hold them.

A user has one vector (or one tree) of unknowns and wants one vector back: so the scalar tasks are
unpacked from a vector and stacked again, and the flux is applied to the faces of a whole grid.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs.program import Family, Made, Program
from benchmarks.tasks import (
    TASKS,
    Task,
    encoder,
    greeks,
    heart_dipole,
    perceptron,
    propane,
    robot_arm,
    robot_arm_matrices,
    roe_flux,
    roe_flux_3d,
)
from benchmarks.tasks.bottleneck import bottleneck

_MINPACK = "MINPACK-2 test problem collection (Averick et al. 1992), a vector of unknowns"
_ALPHAGRAD = "Lohoff & Neftci, arXiv 2406.05027; repository alphagrad"

# Left and right state. The published point is too close to where the squared speed of sound changes
# its sign for points within 5 % around it, so the energies are lower here.
_STATES = np.array([[0.01, 0.02, 0.015], [0.01, 0.03, 0.02]])


def _vector(task: Task) -> np.ndarray:
    """The task's scalar arguments as one vector."""
    return np.array(task.args)


def _roe_flux(x: jax.Array) -> jax.Array:
    """The flux by the two states, one after the other, in one vector."""
    l0, l1, l2, r0, r1, r2 = x
    return jnp.stack(roe_flux.roe_flux_1d(l0, l1, l2, r0, r1, r2))


def _face(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.array(roe_flux.roe_flux_1d(left[0], left[1], left[2], right[0], right[1], right[2]))


def _faces(cells: int) -> Program:
    """The fluxes through all inner faces of a grid."""

    def fluxes(u: jax.Array) -> jax.Array:
        return jax.vmap(_face)(u[:-1], u[1:])

    def make(draw: np.random.Generator) -> Made:
        weight = np.linspace(0.0, 1.0, cells)[:, None]
        u = (1 - weight) * _STATES[0] + weight * _STATES[1]
        return fluxes, u * (1 + 0.02 * draw.uniform(-1, 1, size=u.shape))

    return Program(
        f"RoeFlux_1d, faces of {cells} cells",
        "finite-volume codes such as JAX-Fluids, which vmap a Riemann solver over faces",
        make,
    )


def _roe_flux_3d(x: jax.Array) -> jax.Array:
    """The flux by [2, 5] conserved quantities on the left and on the right."""
    left, right = x
    flux = roe_flux_3d.roe_flux_3d(left[:1], left[1:4], left[4:], right[:1], right[1:4], right[4:])
    return jnp.concatenate(flux)


def _arm(x: jax.Array) -> jax.Array:
    t1, t2, t3, t4, t5, t6 = x
    return jnp.stack(robot_arm.robot_arm_6dof(t1, t2, t3, t4, t5, t6))


def _arm_of_matrices(q: jax.Array) -> jax.Array:
    return jnp.stack(robot_arm_matrices.robot_arm_matrices(*q))


def _heart_dipole(x: jax.Array) -> jax.Array:
    return jnp.array(heart_dipole.heart_dipole(*(x[i] for i in range(8))))


def _propane(x: jax.Array) -> jax.Array:
    return jnp.stack(propane.propane_combustion(*x))


def _price(x: jax.Array) -> jax.Array:
    return greeks.call_price(x[0], x[1], x[2], x[3], x[4])


def _perceptron_loss(parameters: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    return perceptron.perceptron_loss(x, y, **parameters)


def _perceptron(_: np.random.Generator) -> Made:
    x, y, *weights = TASKS["Perceptron"].args
    names = ("w1", "b1", "w2", "b2", "scale", "shift")
    return _perceptron_loss, dict(zip(names, weights, strict=True)), x, y


def _perceptron_of_input(_: np.random.Generator) -> Made:
    x, y, *weights = TASKS["Perceptron"].args
    return lambda x: perceptron.perceptron_loss(x, y, *weights), x


def _encoder(_: np.random.Generator) -> Made:
    x, y, *weights = TASKS["Encoder"].args
    return lambda weights, x, y: encoder.encoder_loss(x, y, *weights), tuple(weights), x, y


def _encoder_of_tokens(_: np.random.Generator) -> Made:
    x, y, *weights = TASKS["Encoder"].args
    return lambda x, weights: encoder.encoder_loss(x, y, *weights), x, tuple(weights)


def _bottleneck(widths: tuple[int, ...]) -> Program:
    """A chain of tanh layers through a narrow one."""

    def make(draw: np.random.Generator) -> Made:
        weights = [draw.normal(size=(m, n)) / np.sqrt(n) for n, m in itertools.pairwise(widths)]
        return bottleneck, draw.normal(size=widths[0]), *weights

    return Program(
        f"Bottleneck, {'-'.join(map(str, widths))}",
        "the decoder and encoder of an autoencoder, whose Jacobian contractive ones penalise",
        make,
    )


def _at(name: str, source: str, fun: Any, x: Any) -> Program:
    """A function at a point that needs no random numbers."""
    return Program(name, source, lambda _: (fun, x))


_ROE = _at("RoeFlux_1d, vector", _ALPHAGRAD, _roe_flux, _STATES.reshape(-1))
_ROE_3D = _at(
    "RoeFlux_3d, two states",
    _ALPHAGRAD,
    _roe_flux_3d,
    np.concatenate(TASKS["RoeFlux_3d"].args).reshape(2, 5),
)
_ARM = _at("RobotArm_6DOF, vector", _ALPHAGRAD, _arm, _vector(TASKS["RobotArm_6DOF"]))
_MATRICES = _at(
    "RobotArm_6DOF of matrices, vector",
    "products of Denavit-Hartenberg transforms, as in textbooks of robotics (Craig; Siciliano)",
    _arm_of_matrices,
    _vector(robot_arm_matrices.TASK),
)
_HEART = _at(
    "HumanHeartDipole, vector", _MINPACK, _heart_dipole, _vector(TASKS["HumanHeartDipole"])
)
_PROPANE = _at("PropaneCombustion, vector", _MINPACK, _propane, _vector(TASKS["PropaneCombustion"]))
_GREEKS = _at(
    "Greeks, Jacobian of the gradient", _ALPHAGRAD, jax.grad(_price), _vector(TASKS["Greeks"])
)
_PRICE = _at("Greeks, call price", _ALPHAGRAD, _price, _vector(TASKS["Greeks"])).settings(
    derivative="hessian"
)
_PERCEPTRON = Program("Perceptron, dict of parameters", _ALPHAGRAD, _perceptron)
_PERCEPTRON_INPUT = Program(
    "Perceptron, input",
    "curvature of a classifier's loss in its input, as in work on adversarial robustness (CURE)",
    _perceptron_of_input,
    derivative="hessian",
)
_ENCODER = Program("Encoder, tuple of parameters", _ALPHAGRAD, _encoder)
_ENCODER_TOKENS = Program("Encoder, tokens", _ALPHAGRAD, _encoder_of_tokens, derivative="hessian")

_POINTS = (_ROE, _ROE_3D, _ARM, _MATRICES, _HEART, _PROPANE, _GREEKS, _PRICE, _PERCEPTRON_INPUT)


def _drawn(draw: np.random.Generator) -> Program:
    """One of the tasks, at one or at 512 to 4096 points; or one that has sizes of its own."""
    which = int(draw.integers(0, len(_POINTS) + 2))
    dtype = str(draw.choice(["float64", "float32"], p=[0.7, 0.3]))
    if which == len(_POINTS):
        return _faces(int(draw.integers(8, 64))).settings(dtype=dtype)
    if which > len(_POINTS):
        outer, hidden, narrow = (int(draw.integers(*s)) for s in ((24, 200), (24, 96), (2, 16)))
        return _bottleneck((outer, hidden, narrow, hidden, outer)).settings(dtype=dtype)
    batch = int(2 ** draw.uniform(9, 12)) if draw.random() < 0.6 else None
    return _POINTS[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "reference",
    (
        _ROE,
        _ROE.settings(batch=4096),
        _faces(32),
        _ROE_3D,
        _ROE_3D.settings(batch=512, dtype="float32"),
        _ARM,
        _ARM.settings(batch=1024, dtype="float32"),
        _MATRICES,
        _MATRICES.settings(batch=512),
        _HEART,
        _HEART.settings(batch=2048),
        _PROPANE,
        _PROPANE.settings(batch=4096, dtype="float32"),
        _GREEKS,
        _PRICE,
        _PRICE.settings(batch=1024, dtype="float32"),
        _PERCEPTRON,
        _PERCEPTRON_INPUT,
        _PERCEPTRON_INPUT.settings(batch=1024),
        _ENCODER,
        _ENCODER_TOKENS,
        _bottleneck((784, 256, 16, 256, 784)).settings(dtype="float32"),
        _bottleneck((64, 48, 4, 48, 64)).settings(batch=64),
    ),
    _drawn,
)
