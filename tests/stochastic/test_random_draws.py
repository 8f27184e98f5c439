"""Random programs of discrete draws: estimates against the sum over all outcomes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_cce import stochastic

pytestmark = pytest.mark.one_version

SAMPLES = 2000
PARAMETERS = 3
# The outcomes of each kind of draw.
OUTCOMES = {"bernoulli": 2, "binomial": 3, "categorical": 3}
numbers = st.sampled_from((-1.0, -0.5, 0.5, 1.0))
indices = st.integers(0, PARAMETERS - 1)


@dataclasses.dataclass(frozen=True)
class Draw:
    """A draw whose probability depends on a parameter and on the draws before."""

    kind: str
    parameter: int
    slope: float
    by_last: float


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A program: draws, and a polynomial of what was drawn and of a parameter."""

    draws: tuple[Draw, ...]
    weights: tuple[float, ...]
    parameter: int

    def logit(self, draw, theta, last):
        return draw.slope * theta[draw.parameter] + draw.by_last * last

    def result(self, drawn, theta):
        linear = sum(w * x for w, x in zip(self.weights, drawn, strict=True))
        return jnp.stack([linear**2 + theta[self.parameter] * linear, jnp.sin(linear)])

    def sampled(self, key, theta):
        drawn, last = [], 0.0
        keys = jax.random.split(key, len(self.draws))
        for draw, own in zip(self.draws, keys, strict=True):
            logit = self.logit(draw, theta, last)
            if draw.kind == "bernoulli":
                last = stochastic.bernoulli(own, jax.nn.sigmoid(logit)) * 1.0
            elif draw.kind == "binomial":
                last = stochastic.binomial(own, 2, jax.nn.sigmoid(logit))
            else:
                last = stochastic.categorical(own, jnp.stack([0.0 * logit, logit, -logit])) * 1.0
            drawn.append(last)
        return self.result(drawn, theta)

    def expected(self, theta):
        total = jnp.zeros(2)
        for drawn in itertools.product(*(range(OUTCOMES[draw.kind]) for draw in self.draws)):
            probability, last = 1.0, 0.0
            for draw, outcome in zip(self.draws, drawn, strict=True):
                logit = self.logit(draw, theta, last)
                p = jax.nn.sigmoid(logit)
                of_outcome = {
                    "bernoulli": [1 - p, p],
                    "binomial": [(1 - p) ** 2, 2 * p * (1 - p), p**2],
                    "categorical": jax.nn.softmax(jnp.stack([0.0 * logit, logit, -logit])),
                }
                probability *= of_outcome[draw.kind][outcome]
                last = float(outcome)
            total += probability * self.result(drawn, theta)
        return total


draws = st.builds(Draw, st.sampled_from(sorted(OUTCOMES)), indices, numbers, numbers)


@st.composite
def drawings(draw):
    found = tuple(draw(st.lists(draws, min_size=1, max_size=4)))
    weights = tuple(draw(numbers) for _ in found)
    return Drawing(found, weights, draw(indices))


@settings(max_examples=6)
@given(program=drawings(), way=st.sampled_from(("jacobian", "derivative")), seed=st.integers(0, 9))
def test_estimates_are_unbiased(program, way, seed):
    """Each entry is within 4.5 standard errors of the derivative of the sum over all outcomes."""
    theta = jnp.array([0.3, -0.4, 0.2])
    exact = np.asarray(jax.jacfwd(program.expected)(theta))
    keys = jax.random.split(jax.random.key(seed), (2, SAMPLES))
    if way == "jacobian":
        estimate = stochastic.jacobian(program.sampled, 1)
        found = jax.jit(jax.vmap(estimate, (0, 0, None)))(*keys, theta)
    else:
        direction = jnp.array([1.0, -2.0, 0.5])
        estimate = stochastic.derivative(program.sampled, 1)
        found = jax.jit(jax.vmap(estimate, (0, None, 0, None)))(keys[0], direction, keys[1], theta)
        exact = exact @ np.asarray(direction)
    found = np.asarray(found)
    errors = found.std(0, ddof=1) / np.sqrt(SAMPLES) + 1e-9
    assert np.all(np.abs(found.mean(0) - exact) < 4.5 * errors), (found.mean(0), exact, errors)
