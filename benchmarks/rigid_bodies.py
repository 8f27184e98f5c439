"""Derivatives of inverse dynamics against Pinocchio's: `python -m benchmarks.rigid_bodies`.

The recursive Newton-Euler algorithm of an arm of revolute joints in JAX, differentiated by
positions, velocities and accelerations, against the analytical derivatives that Pinocchio computes
for the same arm (Carpentier & Mansard, RSS 2018). Pinocchio is called point by point, from Python,
as its users do. Beside them stands what a call of JAX takes that reads and writes as much and
computes nothing. It needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pinocchio

import jax_cce
from benchmarks import report, suite, timing
from benchmarks.programs import dynamics


def model_of(arm: Mapping[str, np.ndarray]) -> Any:
    """Pinocchio's model of an arm."""
    model, parent = pinocchio.Model(), 0
    for k in range(len(arm["masses"])):
        place = pinocchio.SE3(arm["frames"][k], arm["places"][k])
        parent = model.addJoint(parent, pinocchio.JointModelRZ(), place, f"joint {k}")
        inertia = pinocchio.Inertia(float(arm["masses"][k]), arm["centers"][k], arm["inertias"][k])
        model.appendBodyToJoint(parent, inertia, pinocchio.SE3.Identity())
    model.gravity.linear = np.array([0.0, 0.0, -9.81])
    return model


def measure(joints: int, points: int) -> list[object]:
    """Times both, and returns a row of the table.

    Args:
      joints: The arm's.
      points: How many; 1 for a single one.
    """
    program = dynamics.inverse_dynamics(joints)
    fun, (x,) = program.settings(batch=points if points > 1 else None).build()
    model = model_of(dynamics.arm(joints))
    data = model.createData()
    derivatives = {
        "jax_cce": jax_cce.jacobian(fun),
        "jacfwd": jax.jacfwd(fun),
        "jacrev": jax.jacrev(fun),
    }
    calls: dict[str, Any] = {}
    for name, derivative in derivatives.items():
        run = jax.jit(jax.vmap(derivative) if points > 1 else derivative)
        calls[name] = functools.partial(run, x)
    motions = [np.atleast_2d(x[name]) for name in ("q", "v", "a")]

    def pinocchios() -> None:
        for q, v, a in zip(*motions, strict=True):
            pinocchio.computeRNEADerivatives(model, data, q, v, a)

    calls["Pinocchio"] = pinocchios
    calls["call"] = functools.partial(suite.empty_call(calls["jax_cce"]()), x)
    measured = timing.take_turns(calls, turns=9)
    pinocchio.computeRNEADerivatives(model, data, *(each[-1] for each in motions))
    found = calls["jax_cce"]()
    mass = np.triu(data.M) + np.triu(data.M, 1).T
    expected = {"q": data.dtau_dq, "v": data.dtau_dv, "a": mass}
    difference = max(
        float(np.abs(np.reshape(found[name], (-1, joints, joints))[-1] - block).max())
        for name, block in expected.items()
    )
    better = min(measured["jacfwd"].median, measured["jacrev"].median)
    return [
        joints,
        points,
        *(f"{measured[name].median * 1e6:.1f}" for name in ("jax_cce", "Pinocchio", "call")),
        f"{better * 1e6:.1f}",
        f"{(measured['Pinocchio'] / measured['jax_cce']).median:.2f}",
        f"{difference:.0e}",
    ]


def main(
    sizes: Sequence[tuple[int, int]] = ((7, 1), (7, 256), (7, 4096), (3, 1), (3, 256)),
) -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    suite.keep_to(1)
    with jax.enable_x64(True):
        rows = [measure(*size) for size in sizes]
    header = ["joints", "points", "jax_cce, us", "Pinocchio, us", "JAX's call, us"]
    header += ["better mode of JAX, us"]
    print(report.provenance())
    print(report.markdown_table([*header, "times as fast", "difference"], rows))


if __name__ == "__main__":
    main()
