"""Partial differential equations on grids: flows, reactions, phase fields and images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.program import Family, Program, one_of


def _wave(n: int) -> np.ndarray:
    """A smooth positive profile on a ring."""
    angle = 2 * np.pi * np.arange(n) / n
    return 1.2 + 0.5 * np.sin(angle) + 0.2 * np.cos(3 * angle + 0.4)


def _bumps(n: int) -> np.ndarray:
    """A smooth field on a square grid, without symmetries."""
    a, b = np.meshgrid(*[2 * np.pi * np.arange(n) / n] * 2, indexing="ij")
    return 0.5 * np.sin(a) * np.cos(b + 0.3) + 0.2 * np.cos(2 * a - b)


def _burgers(n: int) -> Program:
    """One implicit residual with upwind transport and walls held at zero."""

    def residual(u: jax.Array, old: jax.Array) -> jax.Array:
        dx, dt, viscosity = 1.0 / n, 0.2 / n, 0.01
        padded = jnp.pad(u, 1)
        left, right = padded[:-2], padded[2:]
        transport = jnp.where(u > 0, u * (u - left), u * (right - u)) / dx
        diffusion = viscosity * (right - 2 * u + left) / dx**2
        return u - old + dt * (transport - diffusion)

    return Program(
        f"Burgers residual, {n} cells",
        "Implicit upwind finite differences under Newton's method",
        lambda _: (residual, _wave(n), 1.05 * _wave(n)),
    )


def _heat_rod(n: int) -> Program:
    def residual(u: jax.Array) -> jax.Array:
        conductivity = 1.0 + 0.5 * u**2
        between = 0.5 * (conductivity[1:] + conductivity[:-1])
        flux = between * jnp.diff(u) * n
        inner = jnp.diff(flux) * n + jnp.exp(-u[1:-1])
        return jnp.concatenate([u[:1] - 1.0, inner, u[-1:] - 0.5])

    return Program(
        f"nonlinear heat conduction, {n} nodes",
        "The steady residual of courses on finite volumes, Dirichlet rows by concatenation",
        lambda _: (residual, _wave(n)),
    )


def _laplacian(u: jax.Array) -> jax.Array:
    """The five-point stencil on a torus, without the spacing."""
    around = jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1)
    return around - 4 * u


def _heat_plate(n: int, steps: int) -> Program:
    """The temperature at four sensors by the initial field."""

    def fun(u: jax.Array) -> jax.Array:
        u = lax.fori_loop(0, steps, lambda _, u: u + 0.2 * _laplacian(u), u)
        return u[:: n // 2, :: n // 2]

    return Program(
        f"heat on {n} x {n} cells, sensors after {steps} steps",
        "Inverse heat conduction: the observation's Jacobian by the initial field",
        lambda _: (fun, _bumps(n)),
    )


def _diffusivity(n: int, steps: int) -> Program:
    """The misfit of a diffused field by a few coefficients of its diffusivity."""

    def loss(log_rates: jax.Array, start: jax.Array, target: jax.Array) -> jax.Array:
        rate = 0.1 * jnp.exp(jnp.repeat(log_rates, n // log_rates.size))[:, None]

        def step(u: jax.Array, _: None) -> tuple[jax.Array, None]:
            return u + rate * _laplacian(u), None

        return jnp.mean((lax.scan(step, start, None, length=steps)[0] - target) ** 2)

    return Program(
        f"diffusivity from {n} x {n} cells, {steps} steps",
        "Parameter estimation through a scanned solver, with a handful of unknowns",
        lambda _: (loss, np.array([0.1, -0.2, 0.3, 0.2]), _bumps(n), 0.7 * _bumps(n)),
        derivative="hessian",
    )


def _minmod(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(a * b > 0, jnp.sign(a) * jnp.minimum(jnp.abs(a), jnp.abs(b)), 0.0)


def _limited_advection(n: int) -> Program:
    """One step of MUSCL for Burgers' flux with Rusanov's."""

    def step(u: jax.Array) -> jax.Array:
        slope = _minmod(u - jnp.roll(u, 1), jnp.roll(u, -1) - u)
        left = u + 0.5 * slope
        right = jnp.roll(u - 0.5 * slope, -1)
        speed = jnp.maximum(jnp.abs(left), jnp.abs(right))
        flux = 0.25 * (left**2 + right**2) - 0.5 * speed * (right - left)
        return u - 0.3 * (flux - jnp.roll(flux, 1))

    return Program(
        f"MUSCL step with minmod, {n} cells",
        "Second-order finite volumes with jnp.where in the limiter (LeVeque; Toro)",
        lambda _: (step, _wave(n) - 0.9),
    )


def _shallow_water(n: int) -> Program:
    """One Lax-Friedrichs step of depth and discharge over a bed."""

    def step(state: dict[str, jax.Array], bed: jax.Array) -> dict[str, jax.Array]:
        h, q = state["h"], state["q"]
        flux_q = q**2 / h + 0.5 * 9.81 * h**2
        ratio = 0.05
        mean = lambda f: 0.5 * (jnp.roll(f, 1) + jnp.roll(f, -1))  # noqa: E731
        across = lambda f: 0.5 * (jnp.roll(f, -1) - jnp.roll(f, 1))  # noqa: E731
        return {
            "h": mean(h) - ratio * across(q),
            "q": mean(q) - ratio * (across(flux_q) + 9.81 * h * across(bed)),
        }

    return Program(
        f"shallow water step, {n} cells",
        "A pytree state and jnp.roll, for adjoints of flood and tsunami models",
        lambda _: (step, {"h": _wave(n), "q": 0.3 * _wave(n)[::-1].copy()}, 0.1 * _wave(n)),
    )


def _gray_scott(n: int) -> Program:
    """The rates of change of two reacting species."""

    def field(state: jax.Array) -> jax.Array:
        u, v = state
        reaction = u * v**2
        feed, kill = 0.04, 0.06
        return jnp.stack(
            [
                0.16 * _laplacian(u) - reaction + feed * (1 - u),
                0.08 * _laplacian(v) + reaction - (feed + kill) * v,
            ]
        )

    return Program(
        f"Gray-Scott, {n} x {n} cells",
        "Pattern formation (Pearson 1993), for implicit integrators and stability analysis",
        lambda _: (field, np.stack([0.6 + 0.3 * _bumps(n), 0.3 - 0.2 * _bumps(n)])),
    )


def _korteweg(n: int) -> Program:
    """The spectral right side of u_t = -6 u u_x - u_xxx."""

    def field(u: jax.Array) -> jax.Array:
        waves = 2 * jnp.pi * jnp.fft.rfftfreq(n, 20.0 / n)
        spectrum = jnp.fft.rfft(u)
        slope = jnp.fft.irfft(1j * waves * spectrum, n)
        third = jnp.fft.irfft(-1j * waves**3 * spectrum, n)
        return -6 * u * slope - third

    return Program(
        f"Korteweg-de Vries, {n} Fourier modes",
        "Pseudo-spectral derivatives by jnp.fft.rfft, in ports of Trefethen's programs",
        lambda _: (field, 1 / np.cosh(np.linspace(-4, 4, n)) ** 2),
    )


def _poisson(n: int) -> Program:
    """The energy of a vortex patch through its stream function."""

    def energy(vorticity: jax.Array) -> jax.Array:
        waves = jnp.fft.fftfreq(n, 1.0 / n)
        squares = waves[:, None] ** 2 + waves[None] ** 2
        inverse = jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1.0), 0.0)
        stream = jnp.fft.ifft2(inverse * jnp.fft.fft2(vorticity)).real
        return 0.5 * jnp.mean(stream * vorticity)

    return Program(
        f"spectral Poisson energy, {n} x {n} cells",
        "Two-dimensional turbulence by jnp.fft.fft2 with the mean mode masked",
        lambda _: (energy, _bumps(n)),
    )


def _cavity(n: int) -> Program:
    """The residual of vorticity transport and the stream function under a moving lid."""

    def residual(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        vorticity, stream = x
        h = 1.0 / (n - 1)
        inner = lambda f: f[1:-1, 1:-1]  # noqa: E731
        dx = lambda f: (f[2:, 1:-1] - f[:-2, 1:-1]) / (2 * h)  # noqa: E731
        dy = lambda f: (f[1:-1, 2:] - f[1:-1, :-2]) / (2 * h)  # noqa: E731

        def laplacian(f: jax.Array) -> jax.Array:
            around = f[2:, 1:-1] + f[:-2, 1:-1] + f[1:-1, 2:] + f[1:-1, :-2]
            return (around - 4 * inner(f)) / h**2

        transport = dy(stream) * dx(vorticity) - dx(stream) * dy(vorticity)
        walls = vorticity.at[0].add(2 * stream[1] / h**2)
        walls = walls.at[-1].add(2 * stream[-2] / h**2)
        walls = walls.at[:, 0].add(2 * stream[:, 1] / h**2)
        walls = walls.at[:, -1].add(2 * stream[:, -2] / h**2 + 2 / h)
        first = walls.at[1:-1, 1:-1].set(transport - laplacian(vorticity) / 100)
        return first, stream.at[1:-1, 1:-1].set(laplacian(stream) + inner(vorticity))

    return Program(
        f"lid-driven cavity, {n} x {n} nodes",
        "Steady Navier-Stokes in vorticity and stream function with Thom's walls, under Newton",
        lambda _: (residual, (_bumps(n), 0.1 * _bumps(n).T.copy())),
    )


def _allen_cahn(n: int) -> Program:
    """The free energy of a phase field."""

    def energy(u: jax.Array) -> jax.Array:
        width = 2.0 / n
        slopes = (jnp.roll(u, -1, 0) - u) ** 2 + (jnp.roll(u, -1, 1) - u) ** 2
        return jnp.sum(0.5 * width**2 * n**2 * slopes + 0.25 * (1 - u**2) ** 2) / n**2

    return Program(
        f"Allen-Cahn energy, {n} x {n} cells",
        "Phase-field energies minimised by Newton's method",
        lambda _: (energy, 1.2 * _bumps(n)),
        derivative="hessian",
    )


def _total_variation(n: int) -> Program:
    """A smoothed total variation with a fidelity term."""

    def energy(image: jax.Array, noisy: jax.Array) -> jax.Array:
        down = jnp.diff(image, axis=0)[:, :-1]
        across = jnp.diff(image, axis=1)[:-1]
        variation = jnp.sum(jnp.sqrt(down**2 + across**2 + 1e-2))
        return 0.5 * jnp.sum((image - noisy) ** 2) + 0.2 * variation

    return Program(
        f"total variation, {n} x {n} pixels",
        "Denoising after Rudin, Osher and Fatemi, smoothed for second-order methods",
        lambda draw: (energy, _bumps(n), _bumps(n) + 0.1 * draw.normal(size=(n, n))),
        derivative="hessian",
    )


def _gas(n: int) -> Program:
    """One step of Euler's equations by Rusanov's flux, with outflow at both ends."""

    def flux(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        density, momentum, energy = w
        speed = momentum / density
        pressure = 0.4 * (energy - 0.5 * momentum * speed)
        fluxes = [momentum, momentum * speed + pressure, speed * (energy + pressure)]
        return jnp.stack(fluxes), jnp.abs(speed) + jnp.sqrt(1.4 * pressure / density)

    def step(w: jax.Array) -> jax.Array:
        padded = jnp.pad(w, ((0, 0), (1, 1)), mode="edge")
        f, fastest = flux(padded)
        speed = jnp.maximum(fastest[1:], fastest[:-1])
        between = 0.5 * (f[:, 1:] + f[:, :-1]) - 0.5 * speed * (padded[:, 1:] - padded[:, :-1])
        return w - 0.2 * (between[:, 1:] - between[:, :-1])

    def tube() -> np.ndarray:
        high = 1 / (1 + np.exp(np.linspace(-5, 5, n)))
        return np.stack([0.125 + 0.875 * high, 0.1 + 0.1 * high, 0.3 + 2.25 * high])

    return Program(
        f"shock tube step, {n} cells",
        "Sod's problem by vectorised finite volumes with edge padding",
        lambda _: (step, tube()),
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_burgers(size(20, 300)), 16),
        lambda: (_heat_rod(size(20, 300)), 16),
        lambda: (_heat_plate(2 * size(4, 10), size(5, 30)), 16),
        lambda: (_diffusivity(4 * size(2, 6), size(5, 30)), 16),
        lambda: (_limited_advection(size(20, 200)), 16),
        lambda: (_shallow_water(size(10, 100)), 16),
        lambda: (_gray_scott(size(4, 14)), 8),
        lambda: (_korteweg(2 * size(8, 64)), 16),
        lambda: (_poisson(size(4, 24)), 32),
        lambda: (_cavity(size(5, 14)), 8),
        lambda: (_allen_cahn(size(4, 14)), 8),
        lambda: (_total_variation(size(4, 14)), 8),
        lambda: (_gas(size(10, 100)), 8),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "fluids",
    (
        _burgers(200),
        _burgers(50).settings(batch=32, dtype="float32"),
        _heat_rod(100),
        _heat_plate(16, 20),
        _diffusivity(16, 20),
        _diffusivity(8, 10).settings(batch=32, dtype="float32"),
        _limited_advection(100),
        _limited_advection(40).settings(batch=32),
        _shallow_water(64),
        _shallow_water(32).settings(batch=32, dtype="float32"),
        _gray_scott(12),
        _korteweg(64),
        _poisson(16),
        _cavity(10),
        _allen_cahn(12),
        _allen_cahn(6).settings(batch=64),
        _total_variation(12),
        _total_variation(6).settings(batch=64, dtype="float32"),
        _gas(50),
        _gas(20).settings(batch=32),
    ),
    _draw,
)
