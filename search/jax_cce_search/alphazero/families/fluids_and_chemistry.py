"""Fluxes, systems of polynomials, equilibria and reactions."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.draws import (
    Drawn,
    Vector,
    between,
    coins,
    floats,
    pick,
    some,
)
from jax_cce_search.alphazero.families.vectors import (
    added,
    dot,
    minus,
    multiplied,
    plus,
    scaled,
    times,
    total,
)

__all__ = [
    "equilibrium",
    "flux",
    "polynomials",
    "reactions",
]


def flux(random: np.random.Generator) -> Drawn:
    """An approximate Riemann flux of shallow water or a barotropic gas, with carried quantities."""
    count, scale = between(random, 2, 4), floats(random, 1)[0]
    solver, power = pick(random, ("rusanov", "hll", "roe", "split")), pick(random, (1, 2, 1.4))

    def sound(density: Any) -> Any:
        return jnp.sqrt(scale * power * density ** (power - 1)) if power != 1 else scale**0.5

    def physical(density: Any, momentum: Any, *carried: Any) -> Vector:
        velocity = momentum / density
        pressure = scale * (density**power if power != 1 else density)
        return momentum, momentum * velocity + pressure, *(velocity * q for q in carried)

    def split(side: int, density: Any, momentum: Any, *carried: Any) -> Vector:
        velocity, speed = momentum / density, sound(density)
        waves = velocity - speed, velocity + speed
        parts = [density / 4 * (w + side * jnp.abs(w)) for w in waves]
        mass = parts[0] + parts[1]
        return mass, dot(parts, waves), *(mass * q / density for q in carried)

    def roe(left: Vector, right: Vector) -> Vector:
        wl, wr = jnp.sqrt(left[0]), jnp.sqrt(right[0])
        pairs = zip(left[1:], right[1:], strict=True)
        velocity, *others = ((a / wl + b / wr) / (wl + wr) for a, b in pairs)
        speed = sound((left[0] + right[0]) / 2)
        jump, push, *jumps = (b - a for a, b in zip(left, right, strict=True))
        slow, fast = velocity - speed, velocity + speed
        one = (fast * jump - push) / (2 * speed) * jnp.abs(slow)
        two = (push - slow * jump) / (2 * speed) * jnp.abs(fast)
        shear = zip(others, jumps, strict=True)
        rest = (w * (one + two) + jnp.abs(velocity) * (j - w * jump) for w, j in shear)
        return one + two, one * slow + two * fast, *rest

    def flux(*states: Any) -> Any:
        left, right = states[:count], states[count:]
        if solver == "split":
            return added(split(1, *left), split(-1, *right))
        both = list(zip(physical(*left), physical(*right), strict=True))
        if solver == "roe":
            waves = roe(left, right)
            return tuple((a + b - w) / 2 for (a, b), w in zip(both, waves, strict=True))
        (ul, cl), (ur, cr) = ((s[1] / s[0], sound(s[0])) for s in (left, right))
        rows = [(*ab, v - u) for ab, u, v in zip(both, left, right, strict=True)]
        if solver == "rusanov":
            top = jnp.maximum(jnp.abs(ul) + cl, jnp.abs(ur) + cr)
            return tuple((a + b) / 2 - top / 2 * jump for a, b, jump in rows)
        low, high = jnp.minimum(ul - cl, ur - cr), jnp.maximum(ul + cl, ur + cr)
        return tuple((high * a - low * b + low * high * jump) / (high - low) for a, b, jump in rows)

    return flux, floats(random, 2 * count)


def polynomials(random: np.random.Generator) -> Drawn:
    """Residuals of sparse polynomials that share powers, and perhaps whole monomials."""
    count, size = between(random, 3, 7), between(random, 4, 12)
    supports = [some(random, count, between(random, 1, 3)) for _ in range(size)]
    monomials = [[(k, between(random, 1, 3)) for k in support] for support in supports]
    picked = [some(random, size, between(random, 2, 5)) for _ in range(between(random, 3, 8))]
    rows = [[(pick(random, (1.0, *floats(random, 2))), k) for k in row] for row in picked]
    (shared,) = coins(random, 1)

    def polynomials(*x: Any) -> Any:
        power = functools.cache(lambda k, e: x[k] if e == 1 else x[k] ** e)

        def monomial(k: int) -> Any:
            return multiplied(power(*factor) for factor in monomials[k])

        value = functools.cache(monomial) if shared else monomial
        return tuple(total(times(c, value(k)) for c, k in row) for row in rows)

    return polynomials, floats(random, count)


def equilibrium(random: np.random.Generator) -> Drawn:
    """Residuals of a chemical equilibrium: balances of the elements and laws of mass action."""
    species, root = between(random, 5, 9), pick(random, (0.5, 1))
    members = [some(random, species, between(random, 2, 5)) for _ in range(3)]
    balances = [[(k, floats(random, 1)[0]) for k in row] for row in members]
    laws = []
    for _ in range(between(random, 3, species)):
        among = some(random, species, between(random, 2, 4))
        sides = [(k, pick(random, (0.5, 1, 1, 2))) for k in among]
        laws.append((pick(random, ("product", "ratio", "log")), sides, floats(random, 1)[0]))

    def raised(x: Any, power: float) -> Any:
        return jnp.sqrt(x) if power == 0.5 else x**power if power != 1 else x

    def residuals(*x: Any) -> Any:
        factor = raised(0.8 / total(x), root)
        out = [total(a * x[k] for k, a in balance) - 1.0 for balance in balances]
        for form, sides, constant in laws:
            if form == "log":
                logs = [p * jnp.log(x[k]) for k, p in sides]
                out.append(logs[0] - total(logs[1:]) - constant)
                continue
            one, two = (multiplied(raised(x[k], p) for k, p in sides[i::2]) for i in (0, 1))
            two = two * factor if len(sides) == 3 else two
            out.append(constant * one - two if form == "product" else two / one - constant)
        return tuple(out)

    return residuals, floats(random, species)


# Of explicit Runge-Kutta methods, the weights of earlier slopes for each later stage and the step.
_METHODS: tuple[tuple[tuple[float, ...], ...], ...] = (
    ((1.0,),),
    ((0.5,), (0.0, 1.0)),
    ((1.0,), (0.5, 0.5)),
    ((0.5,), (-1.0, 2.0), (1 / 6, 2 / 3, 1 / 6)),
)


def reactions(random: np.random.Generator) -> Drawn:
    """A Runge-Kutta step of mass-action kinetics, with rates perhaps from a temperature."""
    species = between(random, 2, 4)
    count = between(random, species, 4)
    # Every species takes part.
    partners = [some(random, species, between(random, 0, 1)) for _ in range(count)]
    consumed = [[k % species, *partner] for k, partner in enumerate(partners)]
    formed = [(k + between(random, 1, species - 1)) % species for k in range(count)]
    saturated, method = coins(random, count), pick(random, _METHODS)
    rates, given = floats(random, count), pick(random, ("nothing", "rates", "temperature"))

    def slopes(amounts: Vector, constants: Vector) -> Vector:
        change: list[Any] = [0.0] * species
        for k, constant in enumerate(constants):
            speed = multiplied((constant, *(amounts[s] for s in consumed[k])))
            speed = speed / (1.0 + amounts[consumed[k][0]]) if saturated[k] else speed
            change[formed[k]] = plus(change[formed[k]], speed)
            for s in consumed[k]:
                change[s] = minus(change[s], speed)
        return tuple(change)

    def kinetics(*args: Any) -> Any:
        start, constants, stages = args[:species], args[species:] or rates, list[Vector]()
        if given == "temperature":
            constants = tuple(a * jnp.exp(-k / args[-1]) for k, a in enumerate(rates, 1))
        amounts = start
        for weights in method:
            stages.append(slopes(amounts, constants))
            moves = [dot(weights, slope) for slope in zip(*stages, strict=True)]
            amounts = added(start, scaled(0.05, moves))
        return amounts

    more = {"nothing": (), "rates": rates, "temperature": (0.9,)}[given]
    return kinetics, floats(random, species) + more
