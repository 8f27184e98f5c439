"""Newton's method on a reaction-diffusion equation on a ring that several devices share.

Each device holds an arc of the ring. Time steps are by backward Euler, linear systems by conjugate
gradients with the Jacobian as its terms, so that devices exchange the ends of their arcs and sums
only. Run it on all devices of one process, or in several processes, each with its own devices:

    python examples/reaction_diffusion.py --devices 8
    python examples/reaction_diffusion.py --devices 4 --address 127.0.0.1:4567 --process 0 &
    python examples/reaction_diffusion.py --devices 4 --address 127.0.0.1:4567 --process 1
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_cce

_NEWTON_STEPS = 5


def residual(u: jax.Array, before: jax.Array, dt: float = 0.1, diffusion: float = 5.0) -> jax.Array:
    """What is left of u - before - dt (diffusion u'' + u - u³), with a mesh width of one.

    Args:
        u: values on the ring after a time step, shape (size,).
        before: those before it.
        dt: the length of the time step.
        diffusion: the coefficient of diffusion.
    """
    curvature = jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)
    return u - before - dt * (diffusion * curvature + u - u**3)


@jax.jit
def step(before: jax.Array) -> jax.Array:
    """One time step by Newton's method."""

    def newton(_: int, u: jax.Array) -> jax.Array:
        value, jacobian = jax_cce.value_and_jacobian(residual, format="structured")(u, before)
        # With these coefficients the Jacobian is symmetric and positive definite.
        return u - cg(lambda v: jacobian @ v, value, tol=1e-10, maxiter=200)[0]

    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, before)


def main(arguments: Sequence[str] | None = None) -> jax.Array:
    """The command line; returns the values after the last time step."""
    parser = argparse.ArgumentParser(description="A reaction-diffusion equation on shared devices")
    parser.add_argument("--size", type=int, default=1024, help="points, a multiple of all devices")
    parser.add_argument("--steps", type=int, default=3, help="time steps")
    parser.add_argument("--devices", type=int, help="how many the CPU of this process stands for")
    parser.add_argument("--address", help="host:port of process 0, where there are several")
    parser.add_argument("--processes", type=int, default=2, help="how many, with --address")
    parser.add_argument("--process", type=int, default=0, help="the number of this one")
    parser.add_argument("--save", help="an .npz file for the arcs of this process, by first point")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.address:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.address, options.processes, options.process)

    mesh = jax.make_mesh((jax.device_count(),), ("ring",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        angle = np.linspace(0.0, 2 * np.pi, options.size, endpoint=False)
        u = jax.device_put(np.sin(angle), NamedSharding(mesh, PartitionSpec("ring")))
        program = step.lower(u).compile()
        for _ in range(options.steps):
            before, u = u, program(u)
        left = float(jnp.abs(residual(u, before)).max())
    text = program.as_text()
    print(f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices")
    print(f"residual {left:.1e}, gathers {text.count(' all-gather')}")
    if options.save:
        np.savez(options.save, **{str(p.index[0].start or 0): p.data for p in u.addressable_shards})
    return u


if __name__ == "__main__":
    main()
