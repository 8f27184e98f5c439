"""Gradient descent with GradBench's rule for the length of steps, and the ways to differentiate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jax_cce
from benchmarks.gradbench.evaluation import Function, Json

Objective = Callable[[jax.Array], jax.Array]
# A function's value and gradient at a place.
WithGradient = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
# Makes it of the function.
Method = Callable[[Objective], WithGradient]

_FIRST_RATE = 1e-5
_LEAST = 1e-5
# So many steps that succeed in a row double the rate; one that fails halves it.
_IN_A_ROW = 10


def argmin(fun: WithGradient, start: jax.Array) -> jax.Array:
    """Where descent from `start`, shape (n,), meets a slope or a step that is next to none."""

    def is_small(vector: jax.Array) -> jax.Array:
        return vector @ vector <= _LEAST**2

    def step(state: Any) -> Any:
        x, value, slope, rate, row, _ = state
        rate, row = jnp.where(row == _IN_A_ROW, 2 * rate, rate), row % _IN_A_ROW
        trial = x - rate * slope
        trial_value, trial_slope = fun(trial)
        stops = is_small(trial - x)
        succeeds = ~stops & (trial_value < value)
        x, value, slope = (
            jnp.where(succeeds, new, old)
            for new, old in ((trial, x), (trial_value, value), (trial_slope, slope))
        )
        rate, row = jnp.where(succeeds, rate, rate / 2), jnp.where(succeeds, row + 1, 0)
        return x, value, slope, rate, row, stops | is_small(slope)

    value, slope = fun(start)
    state = (start, value, slope, jnp.asarray(_FIRST_RATE), jnp.asarray(0), is_small(slope))
    return jax.lax.while_loop(lambda state: ~state[-1], step, state)[0]


def _ours(order: Any) -> Method:
    return lambda fun: jax_cce.value_and_jacobian(fun, order=order)


def _by_jax(transform: Callable[..., Any]) -> Method:
    def method(fun: Objective) -> WithGradient:
        def with_value(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            gradient, value = transform(lambda x: (fun(x),) * 2, has_aux=True)(x)
            return value, gradient

        return with_value

    return method


_ORDERS = {"f": _ours("forward"), "r": _ours("reverse")}
# JAX has no reverse mode for loops of unknown length, which the outer one differentiates.
_PEERS = {
    "jacfwd of jacfwd": (_by_jax(jax.jacfwd), _by_jax(jax.jacfwd)),
    "jacfwd of grad": (_by_jax(jax.jacfwd), jax.value_and_grad),
}


def nested(
    program: Callable[[Method, Method], Callable[..., Any]], write: Callable[[Any], Json]
) -> Mapping[str, Function]:
    """The functions of an evaluation, by the orders of the outer and of the inner derivative.

    Messages ask for the four of forward and reverse; "auto" is what users get who ask for none.

    Args:
        program: what is timed, of the method of the outer and of the inner derivative.
        write: what is sent of the result.
    """
    peers = {name: program(*methods) for name, methods in _PEERS.items()}

    def functions() -> Iterator[tuple[str, Function]]:
        for outer, inner in itertools.product(_ORDERS, repeat=2):
            ours = program(_ORDERS[outer], _ORDERS[inner])
            yield outer + inner, Function(ours, write, peers)
        yield "auto", Function(program(_ours("auto"), _ours("auto")), write, peers)

    return dict(functions())
