"""Reaction kinetics, equilibria and force fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.program import Family, Made, Program

_STIFF = "Hairer & Wanner, Solving Ordinary Differential Equations II"
_GAS = 8.314


def _robertson(y: jax.Array) -> jax.Array:
    a, b, c = y
    r1, r2, r3 = 0.04 * a, 3e7 * b**2, 1e4 * b * c
    return jnp.stack([-r1 + r3, r1 - r2 - r3, r2])


_ROBERTSON = Program(
    "Robertson kinetics",
    f"{_STIFF}, ROBER; the stiff example of diffrax and SciPy",
    lambda _: (_robertson, np.array([0.98, 3.4e-5, 0.02])),
)


def _hires(y: jax.Array) -> jax.Array:
    bound = 280.0 * y[5] * y[7]
    return jnp.array(
        [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
            -bound + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            bound - 1.81 * y[6],
            -bound + 1.81 * y[6],
        ]
    )


_HIRES = Program(
    "HIRES kinetics",
    f"{_STIFF}, HIRES; Test Set for IVP Solvers",
    lambda _: (_hires, np.array([0.2, 0.05, 0.04, 0.3, 0.2, 0.5, 0.004, 0.002])),
)


def _oregonator(y: jax.Array) -> jax.Array:
    dy0 = 77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1]))
    dy1 = (y[2] - (1 + y[0]) * y[1]) / 77.27
    return jnp.stack([dy0, dy1, 0.161 * (y[0] - y[2])])


_OREGONATOR = Program(
    "Oregonator",
    f"{_STIFF}, OREGO: the Belousov-Zhabotinsky reaction",
    lambda _: (_oregonator, np.array([1.2, 2.0, 3.0])),
)


def _brusselator(cells: int) -> Program:
    """Reaction and diffusion of two species along a line, in [2, cells] concentrations."""

    def field(state: jax.Array) -> jax.Array:
        u, v = state
        left, right = jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [3.0]])
        padded = jnp.concatenate([left, state, right], axis=1)
        diffusion = 0.02 * (cells + 1) ** 2 * (padded[:, 2:] - 2 * state + padded[:, :-2])
        square = u**2 * v
        return jnp.stack([1 + square - 4 * u, 3 * u - square]) + diffusion

    def make(draw: np.random.Generator) -> Made:
        place = np.linspace(0, 1, cells + 2)[1:-1]
        u = 1 + np.sin(2 * np.pi * place)
        return field, np.stack([u, np.full(cells, 3.0)]) * (1 + 0.02 * draw.normal(size=(2, cells)))

    return Program(
        f"Brusselator, {cells} cells",
        f"{_STIFF}, BRUSS, in one dimension by the method of lines",
        make,
    )


def _pathway(species: int) -> Program:
    """A branched pathway of reversible Michaelis-Menten steps with feedback inhibition."""

    def make(draw: np.random.Generator) -> Made:
        vmax, km = draw.uniform(0.5, 2.0, size=(2, species - 1))

        def field(s: jax.Array, vmax: jax.Array) -> jax.Array:
            rates = vmax * (s[:-1] - s[1:] / 4.0) / (km + s[:-1] + s[1:])
            rates = rates.at[0].divide(1 + (s[-1] / 0.7) ** 2)
            ds = jnp.zeros_like(s)
            ds = ds.at[:-1].add(-rates)
            ds = ds.at[1:].add(rates)
            return ds.at[0].add(0.3).at[-1].add(-0.2 * s[-1])

        return field, draw.uniform(0.3, 2.0, size=species), vmax

    return Program(
        f"Michaelis-Menten pathway, {species} metabolites",
        "kinetic models of metabolism, as in COPASI's and Tellurium's examples",
        make,
    )


def _arrhenius(species: int, reactions: int) -> Program:
    """Rates of change of concentrations and temperature by mass action."""

    def make(draw: np.random.Generator) -> Made:
        reactants = draw.multinomial(2, np.ones(species) / species, size=reactions)
        products = draw.multinomial(2, np.ones(species) / species, size=reactions)
        net = (products - reactants).T.astype(float)
        orders = reactants.astype(float)
        log_factors, energies = draw.uniform(3, 6, reactions), draw.uniform(1e4, 3e4, reactions)
        heats = draw.normal(size=reactions)

        def field(state: jax.Array) -> jax.Array:
            concentrations, temperature = state[:-1], state[-1]
            constants = jnp.exp(log_factors - energies / (_GAS * temperature))
            rates = constants * jnp.exp(jnp.asarray(orders) @ jnp.log(concentrations))
            return jnp.append(jnp.asarray(net) @ rates, jnp.dot(heats, rates))

        return field, np.append(draw.uniform(0.2, 1.5, size=species), 900.0)

    return Program(
        f"Arrhenius kinetics, {species} species, {reactions} reactions",
        "a stoichiometric matrix times mass-action rates, as in pyJac and in CRNN (Ji & Deng 2021)",
        make,
    )


def _stirred(steps: int) -> Program:
    """A stirred reactor's outflow by the rate constants, Runge-Kutta steps by scan."""

    def field(c: jax.Array, k: jax.Array) -> jax.Array:
        a, b, d = c
        r1, r2, r3 = k[0] * a, k[1] * b, k[2] * a * b
        return jnp.stack([0.5 * (1 - a) - r1 - r3, r1 - r2 - r3 - 0.5 * b, r2 + r3 - 0.5 * d])

    def history(log_k: jax.Array) -> jax.Array:
        k, dt = jnp.exp(log_k), 5.0 / steps

        def step(c: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            k1 = field(c, k)
            k2 = field(c + 0.5 * dt * k1, k)
            k3 = field(c + 0.5 * dt * k2, k)
            k4 = field(c + dt * k3, k)
            c = c + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return c, c

        return lax.scan(step, jnp.array([1.0, 0.0, 0.0]), None, length=steps)[1]

    return Program(
        f"stirred reactor, {steps} Runge-Kutta steps",
        "fitting of rate constants to measured concentrations (Rawlings & Ekerdt)",
        lambda _: (history, np.array([0.2, -0.5, 0.4])),
    )


def _water_gas(x: jax.Array) -> jax.Array:
    """Equilibrium of reformed methane: balances of elements and two constants, in log moles."""
    n = jnp.exp(x)
    ch4, h2o, co, co2, h2 = n
    total = jnp.sum(n)
    reforming = jnp.log(co * h2**3 / (ch4 * h2o * total**2)) - jnp.log(25.0)
    shift = jnp.log(co2 * h2 / (co * h2o)) - jnp.log(1.5)
    return jnp.stack(
        [
            ch4 + co + co2 - 1.0,
            4 * ch4 + 2 * h2o + 2 * h2 - 10.0,
            h2o + co + 2 * co2 - 3.0,
            reforming,
            shift,
        ]
    )


_WATER_GAS = Program(
    "steam reforming equilibrium",
    "equilibria by elements' balances and constants (Smith, Van Ness & Abbott, ch. 14)",
    lambda _: (_water_gas, np.log(np.array([0.2, 1.5, 0.5, 0.3, 2.6]))),
)


def _gibbs(species: int) -> Program:
    """The Gibbs energy of an ideal mixture with the elements' balances as a penalty."""

    def make(draw: np.random.Generator) -> Made:
        elements = draw.integers(0, 4, size=(3, species)).astype(float)
        potentials, moles = -10 * draw.random(species), draw.uniform(0.2, 2.0, species)
        amounts = elements @ moles

        def energy(n: jax.Array) -> jax.Array:
            mixing = jnp.sum(n * (potentials + jnp.log(n / n.sum())))
            return mixing + 5 * jnp.sum((jnp.asarray(elements) @ n - amounts) ** 2)

        return energy, moles * draw.uniform(0.9, 1.1, species)

    return Program(
        f"Gibbs energy, {species} species",
        "equilibrium by minimising Gibbs's energy, as in NASA's CEA",
        make,
        derivative="hessian",
    )


def _lattice(draw: np.random.Generator, atoms: int) -> np.ndarray:
    """Atoms near the places of a cubic lattice."""
    side = int(np.ceil(atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms]
    return 1.15 * (grid + 1.0) + 0.05 * draw.normal(size=(atoms, 3))


def _lennard_jones(positions: jax.Array) -> jax.Array:
    """The energy of all pairs, by their indices."""
    i, j = jnp.triu_indices(positions.shape[0], k=1)
    inverse = 1.0 / jnp.sum((positions[i] - positions[j]) ** 2, axis=-1) ** 3
    return jnp.sum(4.0 * (inverse**2 - inverse))


def _cluster(atoms: int) -> Program:
    return Program(
        f"Lennard-Jones cluster, {atoms} atoms",
        "vibrations of a cluster by the Hessian of its energy (Wales, Energy Landscapes)",
        lambda draw: (_lennard_jones, _lattice(draw, atoms)),
        derivative="hessian",
    )


def _forces(atoms: int) -> Program:
    """Forces from the masked matrix of distances: their Jacobian is the dynamical matrix."""

    def energy(positions: jax.Array) -> jax.Array:
        difference = positions[:, None, :] - positions[None, :, :]
        squares = jnp.sum(difference**2, axis=-1)
        squares = jnp.where(jnp.eye(atoms, dtype=bool), 1.0, squares)
        pairs = 4.0 * (squares**-6 - squares**-3)
        return 0.5 * jnp.sum(jnp.where(jnp.eye(atoms, dtype=bool), 0.0, pairs))

    return Program(
        f"Lennard-Jones forces, {atoms} atoms",
        "molecular dynamics notebooks with masked distance matrices; forces by jax.grad",
        lambda draw: (lambda r: -jax.grad(energy)(r), _lattice(draw, atoms)),
    )


def _chain(atoms: int) -> Program:
    """Bonds (Morse), angles (harmonic) and torsions (cosine) of a chain of atoms."""

    def torsion(p: jax.Array) -> jax.Array:
        b1, b2, b3 = p[1] - p[0], p[2] - p[1], p[3] - p[2]
        n1, n2 = jnp.cross(b1, b2), jnp.cross(b2, b3)
        return jnp.arctan2(jnp.linalg.norm(b2) * jnp.dot(b1, n2), jnp.dot(n1, n2))

    def angle(p: jax.Array) -> jax.Array:
        a, b = p[0] - p[1], p[2] - p[1]
        return jnp.arccos(jnp.dot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))

    def energy(positions: jax.Array) -> jax.Array:
        lengths = jnp.linalg.norm(positions[1:] - positions[:-1], axis=1)
        triples = jnp.stack([positions[:-2], positions[1:-1], positions[2:]], axis=1)
        quadruples = jnp.stack([positions[k : atoms - 3 + k] for k in range(4)], axis=1)
        bonds = jnp.sum(80.0 * (1 - jnp.exp(-2.0 * (lengths - 1.53))) ** 2)
        angles = jnp.sum(30.0 * (jax.vmap(angle)(triples) - 1.95) ** 2)
        return bonds + angles + jnp.sum(1.4 * (1 + jnp.cos(3 * jax.vmap(torsion)(quadruples))))

    def make(draw: np.random.Generator) -> Made:
        k = np.arange(atoms)
        zigzag = np.stack([1.25 * k, 0.85 * (k % 2), 0.3 * np.sin(k)], axis=1) + 2.0
        return energy, zigzag + 0.05 * draw.normal(size=(atoms, 3))

    return Program(
        f"force field of a chain, {atoms} atoms",
        "bonded terms of molecular mechanics (AMBER, TorchMD, DMFF)",
        make,
        derivative="hessian",
    )


def _water(x: jax.Array) -> jax.Array:
    """The harmonic energy of a molecule of water by its three atoms' coordinates."""
    oxygen, first, second = x.reshape(3, 3)
    a, b = first - oxygen, second - oxygen
    la, lb = jnp.sqrt(a @ a), jnp.sqrt(b @ b)
    theta = jnp.arccos(a @ b / (la * lb))
    return 450.0 * ((la - 0.9572) ** 2 + (lb - 0.9572) ** 2) + 55.0 * (theta - 1.8242) ** 2


_WATER = Program(
    "harmonic water molecule",
    "normal modes of TIP3P water from the Hessian of its bonded terms",
    lambda _: (_water, np.array([0.5, 0.1, 0.2, 1.3, 0.7, 0.25, -0.2, 0.75, 0.1])),
    derivative="hessian",
)


def _debye(temperatures: int) -> Program:
    """Molar heats at many temperatures by Debye's integral, with Gauss's quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(32)

    def heats(x: jax.Array, temperatures: jax.Array) -> jax.Array:
        theta, electronic = x

        def heat(t: jax.Array) -> jax.Array:
            z = 0.5 * theta / t * (nodes + 1)
            integrand = z**4 * jnp.exp(z) / jnp.expm1(z) ** 2
            debye = 9 * _GAS * (t / theta) ** 3 * jnp.sum(weights * integrand) * 0.5 * theta / t
            return debye + electronic * t

        return jax.vmap(heat)(temperatures)

    return Program(
        f"Debye heat, {temperatures} temperatures",
        "fits of measured heats by Debye's temperature (Kittel, ch. 5)",
        lambda draw: (heats, np.array([340.0, 7e-4]), np.sort(draw.uniform(20, 300, temperatures))),
    )


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    programs = (
        _ROBERTSON,
        _HIRES,
        _OREGONATOR,
        _WATER_GAS,
        _WATER,
        _brusselator(int(draw.integers(5, 60))),
        _pathway(int(draw.integers(4, 60))),
        _arrhenius(int(draw.integers(4, 30)), int(draw.integers(5, 60))),
        _stirred(int(draw.integers(10, 100))),
        _gibbs(int(draw.integers(4, 30))),
        _cluster(int(draw.integers(3, 14))),
        _forces(int(draw.integers(3, 14))),
        _chain(int(draw.integers(5, 12))),
        _debye(int(draw.integers(5, 60))),
    )
    which = int(draw.integers(0, len(programs)))
    dtype = str(draw.choice(["float64", "float32"], p=[0.7, 0.3]))
    batch = int(2 ** draw.uniform(2, 6)) if draw.random() < 0.35 else None
    return programs[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "chemistry",
    (
        _ROBERTSON,
        _ROBERTSON.settings(batch=4096),
        _HIRES,
        _HIRES.settings(batch=1024, dtype="float32"),
        _OREGONATOR.settings(batch=2048),
        _brusselator(32),
        _pathway(30),
        _pathway(8).settings(batch=512, dtype="float32"),
        _arrhenius(12, 30),
        _arrhenius(8, 16).settings(batch=256),
        _stirred(50),
        _WATER_GAS,
        _WATER_GAS.settings(batch=1024, dtype="float32"),
        _gibbs(10),
        _cluster(8),
        _cluster(4).settings(batch=32),
        _forces(8),
        _forces(12).settings(dtype="float32"),
        _chain(8),
        _WATER,
        _debye(40),
    ),
    _drawn,
)
