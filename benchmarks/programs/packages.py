"""Programs around packages that people use with JAX; what is not installed is left out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs.program import Family, Made, Program


def _predators(t: Any, y: jax.Array, p: jax.Array) -> jax.Array:
    prey, predator = y
    a, b, c, d = p
    return jnp.stack([a * prey - b * prey * predator, -c * predator + d * prey * predator])


def _solve(steps: int) -> Program:
    """The course of predators and prey by the parameters, with fixed steps of Tsit5."""

    def make(_: np.random.Generator) -> Made:
        import diffrax

        def course(p: jax.Array) -> jax.Array:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(_predators),
                diffrax.Tsit5(),
                t0=0.0,
                t1=2.0,
                dt0=2.0 / steps,
                y0=jnp.array([1.0, 0.5]),
                args=p,
                saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, 2.0, 5)),
                max_steps=steps + 2,
            )
            return solution.ys

        return course, np.array([1.1, 0.4, 0.4, 0.1])

    return Program(
        f"diffrax Tsit5, {steps} steps",
        "diffrax's documentation: diffeqsolve, parameters through args",
        make,
        package="diffrax",
    )


def _one_step(solver: str, size: int) -> Program:
    """One step of a solver on a ring of oscillators, by the state before it."""

    def make(draw: np.random.Generator) -> Made:
        import diffrax

        def field(t: Any, y: jax.Array, args: Any) -> jax.Array:
            x, v = jnp.split(y, 2)
            return jnp.concatenate([v, jnp.sin(jnp.roll(x, 1) - x) - 0.1 * v - x**3])

        chord = {"root_finder": diffrax.VeryChord(rtol=1e-5, atol=1e-5)}
        term = diffrax.ODETerm(field)
        method = getattr(diffrax, solver)(**(chord if solver.startswith("Kv") else {}))

        def step(y: jax.Array) -> jax.Array:
            start, end = jnp.zeros((), y.dtype), jnp.full((), 0.1, y.dtype)
            state = method.init(term, start, end, y, None)
            return method.step(term, start, end, y, None, state, made_jump=False)[0]

        return step, draw.normal(size=2 * size)

    return Program(
        f"diffrax {solver} step, {2 * size} unknowns",
        "diffrax's documentation: manual stepping; the monodromy matrix of a step",
        make,
        package="diffrax",
    )


def _root(size: int) -> Program:
    """The steady state of a network of units by its inputs."""

    def make(draw: np.random.Generator) -> Made:
        import optimistix

        weights = draw.normal(size=(size, size)) / (2 * np.sqrt(size))

        def residual(y: jax.Array, inputs: jax.Array) -> jax.Array:
            return y - jnp.tanh(jnp.asarray(weights) @ y + inputs)

        def state(inputs: jax.Array) -> jax.Array:
            solver = optimistix.Newton(rtol=1e-5, atol=1e-5)
            return optimistix.root_find(residual, solver, jnp.zeros_like(inputs), inputs).value

        return state, draw.normal(size=size)

    return Program(
        f"optimistix Newton, {size} unknowns",
        "optimistix's documentation: root_find, differentiated implicitly; equilibrium networks",
        make,
        package="optimistix",
    )


def _hierarchy(schools: int) -> Program:
    """The potential energy of a hierarchical model of NumPyro's in unconstrained space."""

    def make(draw: np.random.Generator) -> Made:
        import numpyro
        from numpyro import distributions
        from numpyro.infer import util

        effects, errors = 8 + 5 * draw.normal(size=schools), draw.uniform(5, 15, schools)

        def model(effects: jax.Array, errors: jax.Array) -> None:
            mu = numpyro.sample("mu", distributions.Normal(0.0, 5.0))
            tau = numpyro.sample("tau", distributions.HalfCauchy(5.0))
            with numpyro.plate("schools", schools):
                theta = numpyro.sample("theta", distributions.Normal(mu, tau))
                numpyro.sample("effects", distributions.Normal(theta, errors), obs=effects)

        def energy(x: dict[str, jax.Array], effects: jax.Array, errors: jax.Array) -> jax.Array:
            return util.potential_energy(model, (effects, errors), {}, x)

        theta = 8 + draw.normal(size=schools)
        return energy, {"mu": np.array(6.0), "tau": np.array(1.4), "theta": theta}, effects, errors

    return Program(
        f"numpyro eight schools, {schools} groups",
        "NumPyro's README; mass matrices and Laplace approximations need the Hessian",
        make,
        derivative="hessian",
        package="numpyro",
    )


def _mixture(components: int, points: int) -> Program:
    """Log densities of points under a mixture by its parameters in one vector."""

    def make(draw: np.random.Generator) -> Made:
        import distrax

        def log_densities(x: jax.Array, data: jax.Array) -> jax.Array:
            logits, means, log_scales = jnp.split(x, 3)
            mixture = distrax.MixtureSameFamily(
                distrax.Categorical(logits=logits), distrax.Normal(means, jnp.exp(log_scales))
            )
            return mixture.log_prob(data)

        x = draw.normal(size=3 * components) * np.repeat([0.3, 2.0, 0.2], components)
        return log_densities, x, 2 * draw.normal(size=points)

    return Program(
        f"distrax mixture, {components} components, {points} points",
        "distrax's documentation: MixtureSameFamily",
        make,
        package="distrax",
    )


def _flow(dimension: int) -> Program:
    """The log density of a tanh-transformed correlated normal by its parameters."""

    def make(draw: np.random.Generator) -> Made:
        import distrax

        def log_density(x: dict[str, jax.Array], points: jax.Array) -> jax.Array:
            scale = jnp.tril(x["scale"], -1) + jnp.diag(jnp.exp(jnp.diag(x["scale"])))
            normal = distrax.MultivariateNormalTri(x["mean"], scale)
            return distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1)).log_prob(points)

        mean, scale = draw.normal(size=dimension), 0.3 * draw.normal(size=(dimension, dimension))
        points = np.tanh(draw.normal(size=(10, dimension)))
        return log_density, {"mean": mean, "scale": scale}, points

    return Program(
        f"distrax squashed normal, {dimension} unknowns",
        "the policies of soft actor-critic in distrax and RLax",
        make,
        package="distrax",
    )


def _edge(draw: np.random.Generator) -> Made:
    import jaxlie

    def error(x: jax.Array, measured: jax.Array) -> jax.Array:
        a, b = jaxlie.SE3(x[:7]), jaxlie.SE3(x[7:])
        return (jaxlie.SE3(measured).inverse() @ a.inverse() @ b).log()

    poses = draw.normal(size=(3, 7))
    poses[:, :4] /= np.linalg.norm(poses[:, :4], axis=1, keepdims=True)
    return error, poses[:2].reshape(-1), poses[2]


_EDGE = Program(
    "jaxlie relative pose",
    "pose graphs with jaxlie, as in jaxls and jaxfg",
    _edge,
    package="jaxlie",
)


def _retracted(draw: np.random.Generator) -> Made:
    import jaxlie

    pose = draw.normal(size=7)
    pose[:4] /= np.linalg.norm(pose[:4])

    def landmarks(tangent: jax.Array, points: jax.Array) -> jax.Array:
        moved = jaxlie.SE3(jnp.asarray(pose)) @ jaxlie.SE3.exp(tangent)
        return jax.vmap(moved.apply)(points)

    return landmarks, np.array([0.1, -0.2, 0.15, 0.2, 0.1, -0.3]), draw.normal(size=(20, 3))


_RETRACTED = Program(
    "jaxlie moved landmarks, 20 points",
    "optimisation on SE(3) by tangents, as in jaxlie's README",
    _retracted,
    package="jaxlie",
)


def _side(side: str, y: float) -> str:
    """An arm and a leg of the humanoid, in MuJoCo's format."""
    return f"""
      <body name="{side} upper arm" pos="0 {y} 0.4">
        <joint type="hinge" axis="2 1 1"/>
        <geom type="capsule" fromto="0 0 0 0.16 {y} -0.16" size="0.04"/>
        <body name="{side} lower arm" pos="0.18 {y} -0.18">
          <joint type="hinge" axis="0 -1 1"/>
          <geom type="capsule" fromto="0 0 0 0.17 0 0.17" size="0.03"/>
        </body>
      </body>
      <body name="{side} thigh" pos="0 {y / 2} -0.1">
        <joint type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.34" size="0.06"/>
        <body name="{side} shin" pos="0 0 -0.4">
          <joint type="hinge" axis="0 -1 0"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.05"/>
        </body>
      </body>"""


def _kinematics(draw: np.random.Generator) -> Made:
    import mujoco
    from mujoco import mjx

    humanoid = mujoco.MjModel.from_xml_string(
        f"""<mujoco><worldbody><body name="torso" pos="0 0 1.3"> <freejoint/>
        <geom type="capsule" fromto="0 -0.07 0 0 0.07 0" size="0.07"/>
        {_side("right", -0.2)} {_side("left", 0.2)}
        </body></worldbody></mujoco>"""
    )
    model = mjx.put_model(humanoid)
    data = mjx.make_data(humanoid)

    def places(qpos: jax.Array) -> jax.Array:
        return mjx.kinematics(model, data.replace(qpos=qpos)).xpos

    turn = draw.normal(size=4)
    place = np.array([0.1, -0.2, 1.3])
    joints = 0.3 * draw.normal(size=humanoid.nq - 7)
    return places, np.concatenate([place, turn / np.linalg.norm(turn), joints])


_KINEMATICS = Program(
    "MJX humanoid kinematics",
    "MuJoCo's MJX: mjx.kinematics of a humanoid, for inverse kinematics",
    _kinematics,
    package="mujoco",
)


def _forces(atoms: int) -> Program:
    """Forces of a Lennard-Jones cluster by its positions."""

    def make(draw: np.random.Generator) -> Made:
        from jax_md import energy, space

        displacement, _ = space.periodic(6.0)
        potential = energy.lennard_jones_pair(displacement, sigma=1.0, epsilon=1.0)
        grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
        positions = 1.2 * grid[:atoms] + 1.5 + 0.05 * draw.normal(size=(atoms, 3))
        return jax.grad(potential), positions

    return Program(
        f"jax-md Lennard-Jones forces, {atoms} atoms",
        "jax-md's documentation: energy.lennard_jones_pair; phonons need the Jacobian of forces",
        make,
        package="jax_md",
    )


def _filter(steps: int, states: int) -> Program:
    """Filtered means of a linear Gaussian model by the logarithms of its noises."""

    def make(draw: np.random.Generator) -> Made:
        from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter

        emissions = np.cumsum(draw.normal(size=(steps, 2)), axis=0)
        observed = draw.normal(size=(2, states))
        dynamics = 0.9 * np.linalg.qr(draw.normal(size=(states, states)))[0]

        def means(log_noises: jax.Array) -> jax.Array:
            model = LinearGaussianSSM(states, 2)
            parameters, _ = model.initialize(
                initial_mean=jnp.zeros(states),
                initial_covariance=jnp.eye(states),
                dynamics_weights=jnp.asarray(dynamics),
                dynamics_covariance=jnp.diag(jnp.exp(log_noises[:states])),
                emission_weights=jnp.asarray(observed),
                emission_covariance=jnp.diag(jnp.exp(log_noises[states:])),
            )
            return lgssm_filter(parameters, jnp.asarray(emissions)).filtered_means

        return means, 0.2 * draw.normal(size=states + 2)

    return Program(
        f"dynamax Kalman filter, {steps} steps, {states} states",
        "dynamax's documentation: lgssm_filter",
        make,
        package="dynamax",
    )


def _simplex(size: int) -> Program:
    """The projection of a vector on the simplex."""

    def make(draw: np.random.Generator) -> Made:
        from jaxopt import projection

        return projection.projection_simplex, 0.5 * draw.normal(size=size)

    return Program(
        f"jaxopt projection on the simplex, {size} unknowns",
        "sparsemax, as in jaxopt's gallery",
        make,
        package="jaxopt",
    )


_TSIT5 = _one_step("Tsit5", 8)
_SCHOOLS = _hierarchy(8)


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    programs = (
        _solve(int(draw.integers(5, 40))),
        _one_step(str(draw.choice(["Tsit5", "Dopri5", "Heun"])), int(draw.integers(2, 20))),
        _root(int(draw.integers(2, 20))),
        _hierarchy(int(draw.integers(4, 30))),
        _mixture(int(draw.integers(2, 6)), int(draw.integers(5, 100))),
        _flow(int(draw.integers(2, 6))),
        _EDGE,
        _RETRACTED,
        _KINEMATICS,
        _forces(int(draw.integers(4, 16))),
        _filter(int(draw.integers(5, 40)), int(draw.integers(2, 5))),
        _simplex(int(draw.integers(3, 40))),
    )
    installed = [program for program in programs if program.is_installed]
    which = int(draw.integers(0, len(installed) or len(programs)))
    batch = int(2 ** draw.uniform(2, 5)) if draw.random() < 0.3 else None
    return (installed or programs)[which].settings(batch=batch)


FAMILY = Family(
    "packages",
    (
        _solve(20),
        _TSIT5,
        _TSIT5.settings(batch=128, dtype="float32"),
        _one_step("Kvaerno3", 4),
        _root(8),
        _SCHOOLS,
        _SCHOOLS.settings(batch=256, dtype="float32"),
        _mixture(4, 60),
        _flow(4).settings(batch=32),
        _EDGE,
        _EDGE.settings(batch=512, dtype="float32"),
        _RETRACTED,
        _KINEMATICS,
        _KINEMATICS.settings(batch=32, dtype="float32"),
        _forces(8),
        _filter(20, 3),
        _simplex(16),
    ),
    _drawn,
)
