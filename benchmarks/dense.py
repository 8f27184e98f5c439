"""Dense Jacobians of everyday functions: where elimination wins, and where it does not yet.

Run it with `python -m benchmarks.dense`. Each row is one kind of program, jitted, in float32,
against the better of jit(jacfwd) and jit(jacrev).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing

_RNG = np.random.default_rng(0)
_LARGE = jnp.asarray(_RNG.normal(size=(1000, 1000)) / 30, jnp.float32)
_LAYERS = [jnp.asarray(_RNG.normal(size=(64, 64)) / 8, jnp.float32) for _ in range(4)]
_KERNEL = jnp.asarray(_RNG.normal(size=(4, 1, 3, 3)), jnp.float32)


def _network(x: jax.Array) -> jax.Array:
    for layer in _LAYERS:
        x = jnp.tanh(layer @ x)
    return x


def _burgers(u: jax.Array) -> jax.Array:
    transport = u[1:-1] * (u[2:] - u[:-2]) / 2
    return transport - 0.01 * (u[2:] - 2 * u[1:-1] + u[:-2])


def _rollout(u: jax.Array) -> jax.Array:
    def step(state: jax.Array, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jnp.tanh(_LAYERS[0] @ state + control)
        return state, state

    return jax.lax.scan(step, jnp.zeros(64), u.reshape(10, 64))[1]


def _attention(x: jax.Array) -> jax.Array:
    query, key, value = (x @ layer for layer in _LAYERS[:3])
    return jax.nn.softmax(query @ key.T / 8) @ value


def _convolution(x: jax.Array) -> jax.Array:
    image = x.reshape(1, 1, 28, 28)
    features = jax.lax.conv_general_dilated(image, _KERNEL, (1, 1), "SAME")
    return jnp.tanh(features).sum(axis=(0, 2, 3))


def _rotation(q: jax.Array) -> jax.Array:
    w, x, y, z = q
    return jnp.stack([1 - 2 * (y**2 + z**2), 2 * (x * y - w * z), 2 * (x * z + w * y)])


def _batched_network(x: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.tanh(_LAYERS[0][:8, :8] @ row))(x)


PROGRAMS: dict[str, tuple[Callable[[jax.Array], Any], tuple[int, ...]]] = {
    "A @ x, n = 1000": (lambda x: _LARGE @ x, (1000,)),
    "x * sum(x^2), n = 1000": (lambda x: x * jnp.sum(x**2), (1000,)),
    "Burgers residual, n = 1000": (_burgers, (1000,)),
    "tanh network, 4 layers of 64": (_network, (64,)),
    "the tanh network's loss": (lambda x: jnp.sum(_network(x) ** 2), (64,)),
    "vmapped network, 80 x (8 -> 8)": (_batched_network, (80, 8)),
    "attention, 16 x 64": (_attention, (16, 64)),
    "convolution, 784 -> 4": (_convolution, (784,)),
    "rotation row from a quaternion": (_rotation, (4,)),
    "rollout, scan over 10 steps of 64": (_rollout, (640,)),
    "linear solve, 64 x 64": (
        lambda x: jnp.linalg.solve(_LARGE[:64, :64] + jnp.diag(3 + x), x),
        (64,),
    ),
    "sort and stride, n = 1000": (lambda x: jnp.sort(x)[::2] * x[::2], (1000,)),
}


def main() -> None:
    """Prints the table."""
    rows = []
    for name, (fun, shape) in PROGRAMS.items():
        x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        programs = {
            "jax_cce": jax.jit(jax_cce.jacobian(fun)),
            "jax.jacfwd": jax.jit(jax.jacfwd(fun)),
            "jax.jacrev": jax.jit(jax.jacrev(fun)),
        }
        measured = timing.take_turns({n: partial(f, x) for n, f in programs.items()})
        rival = timing.fastest({n: m for n, m in measured.items() if n != "jax_cce"})
        ours, reference = (np.asarray(programs[n](x)) for n in ("jax_cce", rival))
        rows.append(
            (
                name,
                *(report.durations(measured[n]) for n in programs),
                report.ratio(measured[rival] / measured["jax_cce"]),
                f"{np.max(np.abs(ours - reference)) / np.max(np.abs(reference)):.0e}",
            )
        )
    print(f"Dense Jacobians, float32, jitted. {report.provenance()}\n")
    header = ("function", "jax_cce", "jax.jacfwd", "jax.jacrev", "speed-up", "difference")
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
