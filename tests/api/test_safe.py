"""jax_cce.safe: the values and derivatives of jax.numpy, and zeros where those are not finite."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree
from jax_cce import safe

RNG = np.random.default_rng(0)
FIRST = {"jacfwd": jax.jacfwd, "jacrev": jax.jacrev, "jax_cce": jax_cce.jacobian}
ZERO, ONES = np.zeros(3), np.ones(3)
INF = np.inf

# A function, and arguments at which all derivatives are 0.
SINGULAR = {
    "norm": (safe.norm, (ZERO,)),
    "norm of a matrix": (safe.norm, (np.zeros((2, 3)),)),
    "norms of rows": (functools.partial(safe.norm, axis=1), (np.zeros((2, 3)),)),
    **{
        f"norm {k}": (functools.partial(safe.norm, ord=k), (ZERO,))
        for k in (0, 0.5, 1, 1.5, 2, 3, INF, -INF, -1)
    },
    **{
        f"norm {k} of a matrix": (functools.partial(safe.norm, ord=k), (np.zeros((2, 3)),))
        for k in ("fro", 1, -1, INF, -INF)
    },
    "normalize": (safe.normalize, (ZERO,)),
    "cosine": (safe.cosine_similarity, (ZERO, ZERO)),
    "sqrt": (safe.sqrt, (ZERO,)),
    "arcsin": (safe.arcsin, (np.array([1.0, -1.0]),)),
    "arccos": (safe.arccos, (np.array([1.0, -1.0]),)),
    "arctan2": (safe.arctan2, (np.float64(0.0), ZERO)),
    "power": (safe.power, (np.zeros(6), np.array([0.5, 0.0, 0.9, 1e-3, -0.5, -1.0]))),
    "static power": (lambda x: safe.power(x, 0.3) + safe.power(x, -2), (np.float64(0.0),)),
    "std": (safe.std, (ONES,)),
    "logsumexp": (safe.logsumexp, (np.full(3, -INF),)),
}


def firsts(fun, argnums, *args):
    """The Jacobian by every mode, in one compiled program."""
    return jax.jit(lambda *at: [t(fun, argnums)(*at) for t in FIRST.values()])(*args)


def seconds(fun, argnums, *args):
    """The second derivatives by both orders of the modes, in one compiled program."""

    def derivatives(*at):
        modes = itertools.permutations((jax.jacfwd, jax.jacrev))
        pairs = [outer(inner(fun, argnums), argnums)(*at) for outer, inner in modes]
        return [*pairs, jax_cce.hessian(fun, argnums)(*at)]

    return jax.jit(derivatives)(*args)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fun, args", SINGULAR.values(), ids=SINGULAR)
def test_zero_at_the_singular_point(fun, args, dtype):
    args = [jnp.asarray(x, dtype) for x in args]
    argnums = tuple(range(len(args)))
    assert fun(*args).dtype == dtype
    derivatives = firsts if dtype == "float32" else seconds
    for block in jax.tree.leaves(derivatives(fun, argnums, *args)):
        np.testing.assert_array_equal(block, 0)
        assert block.dtype == dtype


X = RNG.normal(size=(3, 4))
POSITIVE = abs(X) + 0.1
# The function here, that of JAX, and arguments where both have derivatives.
REGULAR = {
    **{
        f"norm {k} {axis} {keep}": (
            functools.partial(safe.norm, ord=k, axis=axis, keepdims=keep),
            functools.partial(jnp.linalg.norm, ord=k, axis=axis, keepdims=keep),
            (X,),
        )
        for k, axis, keep in [
            (None, None, False),
            (None, None, True),
            (None, -1, True),
            (2, 0, False),
            (1, 1, False),
            (INF, 0, False),
            (-INF, 1, True),
            (3, 1, False),
            (0.5, 0, False),
            (-2, 0, False),
            (0, 1, False),
            ("fro", (0, 1), False),
            (1, (0, 1), False),
            (1, (1, 0), False),
            (-1, None, False),
            (INF, (-2, -1), True),
            (-INF, (1, 0), True),
        ]
    },
    "norm of complex": (
        lambda x: safe.norm(x + 2j * x[::-1], axis=1),
        lambda x: jnp.linalg.norm(x + 2j * x[::-1], axis=1),
        (X,),
    ),
    "normalize": (
        functools.partial(safe.normalize, axis=0),
        lambda x: x / jnp.linalg.norm(x, axis=0, keepdims=True),
        (X,),
    ),
    "cosine": (
        safe.cosine_similarity,
        lambda x, y: jnp.sum(x * y, -1) / jnp.linalg.norm(x, axis=-1) / jnp.linalg.norm(y, axis=-1),
        (X, X[::-1] + 1),
    ),
    "sqrt": (safe.sqrt, jnp.sqrt, (POSITIVE,)),
    "arcsin": (safe.arcsin, jnp.arcsin, (X / 4,)),
    "arccos": (safe.arccos, jnp.arccos, (X / 4,)),
    "arctan2": (safe.arctan2, jnp.arctan2, (X, X[0] + 0.5)),
    "power": (safe.power, jnp.power, (POSITIVE, X)),
    "powers of negative numbers": (
        lambda x: safe.power(x, 3.0) + safe.power(x, -1) + safe.power(x, 2),
        lambda x: jnp.power(x, 3.0) + jnp.power(x, -1) + jnp.power(x, 2),
        (X,),
    ),
    "std": (
        functools.partial(safe.std, axis=0, ddof=1, keepdims=True),
        functools.partial(jnp.std, axis=0, ddof=1, keepdims=True),
        (X,),
    ),
    "std of all": (safe.std, jnp.std, (X,)),
    "logsumexp": (
        functools.partial(safe.logsumexp, axis=1, keepdims=True),
        functools.partial(jax.nn.logsumexp, axis=1, keepdims=True),
        (X,),
    ),
    "logsumexp of some": (
        lambda x: safe.logsumexp(jnp.where(x > 0, x, -INF), axis=0),
        lambda x: jax.nn.logsumexp(jnp.where(x > 0, x, -INF), axis=0),
        (POSITIVE * [[1], [-1], [1]],),
    ),
}


@pytest.mark.parametrize("fun, plain, args", REGULAR.values(), ids=REGULAR)
def test_the_same_elsewhere(fun, plain, args):
    args = [jnp.asarray(x) for x in args]
    argnums = tuple(range(len(args)))

    def derivatives(function, *at):
        return (
            function(*at),
            jax.jacrev(function, argnums)(*at),
            jax.hessian(function, argnums)(*at),
        )

    expected = jax.jit(functools.partial(derivatives, plain))(*args)
    assert_agree(jax.jit(functools.partial(derivatives, fun))(*args), expected)
    assert_agree(jax.jit(jax_cce.jacobian(fun, argnums))(*args), expected[1])


def test_values_at_singular_points():
    grid = jnp.array([0.0, -0.0, 1.0, -1.0])
    assert_agree(safe.arctan2(grid[:, None], grid), jnp.arctan2(grid[:, None], grid))
    x, y = jnp.array([0.0, 0.0, 0.0, 2.0, -2.0]), jnp.array([0.0, -1.0, 0.5, 0.5, 0.5])
    assert_agree(safe.power(x, y), jnp.power(x, y))
    assert_agree(safe.sqrt(jnp.array([0.0, -1.0])), jnp.array([0.0, jnp.nan]))
    assert_agree(safe.arccos(jnp.array([1.0, 1.5])), jnp.array([0.0, jnp.nan]))
    full = jnp.full((2, 3), -INF)
    assert_agree(safe.logsumexp(full, 1), jax.nn.logsumexp(full, 1))
    assert_agree(safe.normalize(jnp.zeros(2)), jnp.zeros(2))


def test_singular_entries_beside_others():
    """A row of zeros, and the others as if it were not there."""
    x = jnp.asarray(X).at[1].set(0)
    for fun in (functools.partial(safe.norm, axis=1), safe.normalize):
        found = jax.jit(jax.jacrev(fun))(x)
        expected = jax.jit(jax.jacrev(fun))(x[::2])
        np.testing.assert_allclose(found[::2][..., ::2, :], expected, rtol=1e-12)
        np.testing.assert_array_equal(found[1], 0)
        np.testing.assert_array_equal(found[..., 1, :], 0)

    def distances(x):
        return jnp.sum(safe.norm(x[:, None] - x, axis=-1))

    def pairs(x):
        row, column = np.nonzero(~np.eye(3, dtype=bool))
        return jnp.sum(jnp.linalg.norm(x[row] - x[column], axis=-1))

    assert_agree(jax.jit(jax_cce.jacobian(distances))(x), jax.jit(jax.jacrev(pairs))(x))
    assert_agree(jax.jit(jax_cce.hessian(distances))(x), jax.jit(jax.hessian(pairs))(x))


def test_powers_at_zero_up_to_the_fourth_derivative():
    """Those of a polynomial, NaN in JAX beyond its degree; else 0 where that is infinite."""
    exponents = jnp.array([0.0, 1.0, 2.0, 3.0, 1.5, 2.5])
    wanted = [jnp.where(exponents == k, float(math.factorial(k)), 0.0) for k in range(1, 5)]

    def derivatives(x, exponent):
        fun, found = safe.power, []
        for _ in range(4):
            fun = jax.grad(fun)
            found.append(fun(x, exponent))
        return found

    found = jax.jit(jax.vmap(derivatives, (None, 0)))(0.0, exponents)
    np.testing.assert_array_equal(found, wanted)
    for (xx, xy), (yx, yy) in seconds(
        jax.vmap(safe.power, (0, 0)), (0, 1), 0 * exponents, exponents
    ):
        np.testing.assert_array_equal(xx, _cubic_diagonal(wanted[1]))
        for block in (xy, yx, yy):
            np.testing.assert_array_equal(block, 0)


def _cubic_diagonal(values):
    """The second derivatives of a vector of powers: each depends on its own base."""
    index = np.arange(len(values))
    result = np.zeros((len(values),) * 3)
    result[index, index, index] = values
    return result


def test_negative_bases():
    jacobians = firsts(safe.power, (0, 1), jnp.float64(-2.0), jnp.float64(3.0))
    assert jacobians == [(12.0, 0.0)] * 3


def test_angles_between_equal_vectors():
    def angle(u, v):
        return safe.arccos(jnp.clip(safe.cosine_similarity(u, v), -1, 1))

    u = jnp.array([3.0, 4.0])
    for v in (u, -u, 2 * u):
        assert np.isfinite(np.asarray(firsts(angle, (0, 1), u, v))).all()


def test_mapped_and_of_integers():
    x = jnp.stack([jnp.zeros(3), jnp.ones(3)])
    found = jax.jit(jax.vmap(jax.grad(safe.norm)))(x)
    assert_agree(found, jnp.stack([jnp.zeros(3), jnp.full(3, 3**-0.5)]))
    assert_agree(safe.norm(jnp.array([3, 4])), jnp.float64(5.0))
    assert_agree(safe.power(jnp.array([2, 3]), 0.5), jnp.sqrt(jnp.array([2.0, 3.0])))
    assert_agree(safe.sqrt(4), jnp.sqrt(4))


def test_what_is_refused():
    with pytest.raises(TypeError, match="real arguments"):
        safe.power(1j, 2.5)
    for ord in (2, -2, "nuc"):
        with pytest.raises(ValueError, match="singular values"):
            safe.norm(X, ord=ord)
    for x, how in ((X, {"ord": "max"}), (X, {"ord": 3}), (np.zeros((2, 2, 2)), {"ord": 1})):
        with pytest.raises(ValueError, match="no meaning"):
            safe.norm(x, **how)
    with pytest.raises(ValueError, match="no meaning"):
        safe.norm(X[0], ord="fro")
