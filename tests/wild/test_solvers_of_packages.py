"""Nonlinear solvers of packages find the same by their own Jacobians and by elimination."""

import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

optimistix = pytest.importorskip("optimistix")
lineax = pytest.importorskip("lineax")

from jax_cce.lineax import Eliminated  # noqa: E402

pytestmark = pytest.mark.one_version

_PLAIN = lineax.AutoLinearSolver(well_posed=None)
_TOLERANCES = {"rtol": 1e-10, "atol": 1e-10}
_AT = jnp.linspace(0, 3, 30)


def _coupled(x: Any, scale: Any) -> Any:
    a, b = x["a"], x["b"]
    return {"a": 3 * a + jnp.sin(b) * a[::-1] - scale, "b": b**3 + b - a.sum() * scale / 9}


def _rod(u: Any, scale: Any) -> Any:
    padded = jnp.pad(u, 1)
    return padded[2:] - 2 * u + padded[:-2] + scale * jnp.exp(u) / 400


def _misfit(p: Any, scale: Any) -> Any:
    true = scale * jnp.exp(-0.5 * _AT) + jnp.cos(2 * _AT) * jnp.exp(-0.2 * _AT) + 0.1
    model = p["a"][0] * jnp.exp(-p["a"][1] * _AT)
    return model + jnp.cos(p["w"] * _AT) * jnp.exp(-p["a"][2] * _AT) + p["c"] - true


def _square(u: Any, scale: Any) -> Any:
    # Large and sparse enough for KLU, where that is installed.
    side = jnp.pad(u.reshape(12, 12), 1)
    around = side[2:, 1:-1] + side[:-2, 1:-1] + side[1:-1, 2:] + side[1:-1, :-2]
    return 6 * u - around.ravel() - scale * jnp.cos(u)


_TREE = {"a": jnp.array([0.1, 0.2, 0.3]), "b": jnp.array([0.3, 0.1, 0.2])}
_START = {"a": jnp.array([2.2, 0.6, 0.3]), "w": jnp.array(1.9), "c": jnp.array(0.0)}
_CASES = {
    "Newton, tree": (optimistix.Newton, optimistix.root_find, _coupled, _TREE, 1.0),
    "Newton, rod": (optimistix.Newton, optimistix.root_find, _rod, jnp.zeros(20), 1.0),
    "Chord, tree": (optimistix.Chord, optimistix.root_find, _coupled, _TREE, 1.0),
    "Chord, rod": (optimistix.Chord, optimistix.root_find, _rod, jnp.zeros(20), 1.0),
    "Newton, square": (optimistix.Newton, optimistix.root_find, _square, jnp.zeros(144), 1.0),
    "Chord, square": (optimistix.Chord, optimistix.root_find, _square, jnp.zeros(144), 1.0),
    "Gauss-Newton": (
        optimistix.GaussNewton,
        optimistix.least_squares,
        _misfit,
        _START,
        2.0,
    ),
    "Levenberg-Marquardt": (
        optimistix.LevenbergMarquardt,
        optimistix.least_squares,
        _misfit,
        _START,
        2.0,
    ),
    "Dogleg": (optimistix.Dogleg, optimistix.least_squares, _misfit, _START, 2.0),
    "Dogleg, rod": (optimistix.Dogleg, optimistix.root_find, _rod, jnp.zeros(20), 1.0),
}


@pytest.mark.parametrize("name", _CASES)
def test_optimistix(name: str):
    method, task, f, start, scale = _CASES[name]

    def solution(scale: Any, linear_solver: Any) -> Any:
        solver = method(**_TOLERANCES, linear_solver=linear_solver)
        adjoint = optimistix.ImplicitAdjoint(linear_solver)
        return task(f, solver, start, scale, max_steps=200, adjoint=adjoint).value

    def everything(scale: Any, solver: Any) -> Any:
        one = functools.partial(solution, linear_solver=solver)
        scalar = lambda scale: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(one(scale)))  # noqa: E731
        batch = jax.vmap(one)(jnp.stack([scale, 1.1 * scale]))
        return one(scale), batch, jax.grad(scalar)(scale)

    found, expected = (
        jax.jit(functools.partial(everything, solver=solver))(jnp.array(scale))
        for solver in (Eliminated(), _PLAIN)
    )
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, 1e-7, 1e-9), found, expected)


@pytest.mark.parametrize("adjoint", ["RecursiveCheckpointAdjoint", "ForwardMode"])
def test_diffrax(adjoint: str):
    diffrax = pytest.importorskip("diffrax")

    def field(t: Any, u: Any, scale: Any) -> Any:
        return 100 * _rod(u, scale) + u * (1 - u)

    def end(scale: Any, linear_solver: Any) -> Any:
        root_finder = diffrax.VeryChord(rtol=1e-8, atol=1e-8, linear_solver=linear_solver)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Kvaerno5(root_finder=root_finder),
            0.0,
            0.2,
            0.05,
            jnp.sin(jnp.linspace(0, 3, 16)),
            scale,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
            adjoint=getattr(diffrax, adjoint)(),
            max_steps=200,
        )
        return jnp.sum(solution.ys[-1] ** 2)

    differentiated = jax.jacfwd if adjoint == "ForwardMode" else jax.grad
    for derivative in (lambda f: f, differentiated):
        found, expected = (
            jax.jit(derivative(functools.partial(end, linear_solver=solver)))(1.0)
            for solver in (Eliminated(), _PLAIN)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-7)


_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "solvers.md"
_BLOCKS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.DOTALL | re.M)
    if ">>>" not in block
]


@pytest.mark.parametrize("block", _BLOCKS, ids=lambda block: block.split()[1])
def test_examples_that_need_packages(block: str):
    for package in re.findall(r"^import (\w+)", block, re.M):
        pytest.importorskip(package)
    names: dict[str, Any] = {}
    exec(block, names)
    assert set(names) & {"solution", "step", "x"}
