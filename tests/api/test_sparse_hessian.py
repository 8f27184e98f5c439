"""Hessians of partially separable functions are sparse, exactly symmetric, and never n x n."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import jax_cce
from cases.references import jitted_hessian
from cases.sparsity import assert_bcoo, assert_structured, assert_values, nonzeros

pytestmark = pytest.mark.one_version

_RNG = np.random.default_rng(0)
_EDGES = np.array([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 5, 5, 4]])
_RATES = _RNG.uniform(0.5, 2.0, size=7)
_COUPLINGS = np.zeros((6, 6))
_COUPLINGS[[0, 2, 3, 5], [1, 2, 0, 4]] = _RNG.normal(size=4)


class Case(NamedTuple):
    """A scalar function, the shape of its input, and the nonzeros of its Hessian."""

    name: str
    fun: Callable[..., Any]
    shape: tuple[int, ...]
    nonzeros: int


def rosenbrock(x: jax.Array) -> jax.Array:
    """The chained function: each term couples two neighbours."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def extended_rosenbrock(x: jax.Array) -> jax.Array:
    """The separable one: each term has two variables of its own."""
    even, odd = x[::2], x[1::2]
    return jnp.sum(100 * (odd - even**2) ** 2 + (1 - even) ** 2)


def oscillators(x: jax.Array) -> jax.Array:
    """A sum over the edges of a graph."""
    return jnp.sum(_RATES * jnp.cos(x[_EDGES[0]] - x[_EDGES[1]]))


def springs(x: jax.Array) -> jax.Array:
    """The energy of points in the plane that springs connect."""
    lengths = jnp.linalg.norm(x[_EDGES[0]] - x[_EDGES[1]], axis=1)
    return jnp.sum(_RATES * (lengths - 1) ** 2)


def membrane(u: jax.Array) -> jax.Array:
    """The area of a graph over a grid, by forward differences."""
    along, across = u[1:, :-1] - u[:-1, :-1], u[:-1, 1:] - u[:-1, :-1]
    return jnp.sum(jnp.sqrt(1 + along**2 + across**2))


def grid_potential(u: jax.Array) -> jax.Array:
    """Nearest neighbours on a periodic grid, and a potential at each site."""
    bonds = jnp.sum(u * jnp.roll(u, 1, 0)) + jnp.sum(u * jnp.roll(u, 1, 1))
    return bonds + jnp.sum((u**2 - 1) ** 2)


CASES = [
    Case("Rosenbrock", rosenbrock, (9,), 3 * 9 - 2),
    Case("extended Rosenbrock", extended_rosenbrock, (8,), 2 * 8),
    Case("edges of a graph", oscillators, (6,), 6 + 2 * 7),
    Case("edges between points", springs, (6, 2), 4 * (6 + 2 * 7)),
    # Each cell couples a corner with its two neighbours, and these with each other.
    Case("membrane", membrane, (3, 4), 11 + 2 * (6 + 6 + 6)),
    Case("periodic grid", grid_potential, (3, 4), 5 * 12),
    Case("separable", lambda x: jnp.sum(jnp.sin(x)), (5,), 5),
    Case("bilinear", lambda x: jnp.sum(x * jnp.roll(x, 1)), (5,), 10),
    Case("bilinear in two halves", lambda x: jnp.vdot(x[:3], x[3:]), (6,), 6),
    Case("quadratic form", lambda x: x @ _COUPLINGS @ x, (6,), 1 + 2 * 3),
    Case("linear", lambda x: 2 * jnp.sum(x), (5,), 0),
    Case("quadratic", lambda x: jnp.sum(x**2), (5,), 5),
    Case("one term of three variables", lambda x: jnp.prod(x[jnp.array([0, 2, 5])]), (6,), 6),
    Case("groups", lambda x: jnp.sum(jnp.prod(x, axis=1)), (3, 3), 3 * 6),
    Case("mapped terms", lambda x: jnp.sum(jax.vmap(jnp.linalg.norm)(x)), (4, 3), 4 * 9),
    Case("scattered", lambda x: jnp.sum(jnp.zeros(4).at[_EDGES[0, :6] % 4].add(x) ** 3), (6,), 12),
    Case("softplus of differences", lambda x: jnp.sum(jax.nn.softplus(jnp.diff(x))), (6,), 16),
    Case("square of the sum", lambda x: jnp.sum(x) ** 2, (5,), 25),
    Case("norm", lambda x: jnp.linalg.norm(x), (5,), 25),
    Case("logsumexp", jax.nn.logsumexp, (5,), 25),
    Case("arrowhead", lambda x: x[0] * jnp.sum(x[1:] ** 2), (6,), 5 + 2 * 5),
    Case("convolution", lambda x: jnp.sum(jnp.convolve(x, np.ones(3), "same") ** 4), (7,), 29),
    Case("scalar", lambda x: jnp.sin(x) * x, (), 1),
]
_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _symmetric(found: BCOO) -> bool:
    """Whether a BCOO matrix equals its transpose in every bit."""
    rank = len(found.shape) // 2
    positions = np.asarray(found.indices)
    entries = {
        tuple(at): value for at, value in zip(positions, np.asarray(found.data), strict=True)
    }
    return all(value == entries.get(at[rank:] + at[:rank]) for at, value in entries.items())


def _arrays(jaxpr: Any) -> Iterator[Any]:
    """The types of all values in a jaxpr and those inside it."""
    yield from (variable.aval for variable in (*jaxpr.invars, *jaxpr.constvars))
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _arrays(inner)


@_cases
def test_structure_and_values(case: Case, request: pytest.FixtureRequest):
    if case.name == "quadratic form":
        reason = "the constant matrix is not known to be sparse inside the gradient's program"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    rng = np.random.default_rng(1)
    points = [rng.normal(size=case.shape) for _ in range(3)]
    dense = [np.asarray(jitted_hessian(case.fun)(x)) for x in points]
    union = np.any([nonzeros(d) for d in dense], axis=0)
    assert np.count_nonzero(union) == case.nonzeros, "the row of this table is wrong"

    found = jax_cce.hessian(case.fun, format="bcoo")(points[0])
    assert_bcoo(found, dense[0])
    structured = jax_cce.hessian(case.fun, format="structured")(points[1])
    assert_structured(structured, dense[1])
    assert isinstance(found.indices, np.ndarray)
    np.testing.assert_array_equal(found.indices, np.argwhere(union))
    np.testing.assert_array_equal(structured.pattern, found.indices)


def _transposed(dense: Any) -> np.ndarray:
    rank = dense.ndim // 2
    return np.moveaxis(np.asarray(dense), range(rank), range(-rank, 0))


@pytest.fixture
def generated_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes the choice of an older code generator for the tests.

    It fuses multiplications and additions otherwise above and below the diagonal.
    """
    if "xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"]:
        options = {"xla_cpu_use_fusion_emitters": True}
        monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
    jax_cce.cache_clear()


@_cases
@pytest.mark.parametrize("jit", [False, True], ids=["call", "jit"])
def test_exactly_symmetric(
    case: Case, jit: bool, generated_by_default: None, request: pytest.FixtureRequest
):
    if case.name == "edges between points":
        reason = "entries that several edges add to are summed in another order above the diagonal"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    entries = jax_cce.hessian(case.fun, format="bcoo")
    structured = jax_cce.hessian(case.fun, format="structured")
    if jit:
        entries, structured = jax.jit(entries), jax.jit(structured)
    for k in range(3):
        x = np.random.default_rng(k).normal(size=case.shape)
        assert _symmetric(entries(x))
        dense = structured(x).todense()
        np.testing.assert_array_equal(dense, _transposed(dense))


@pytest.mark.parametrize("format", ["bcoo", "structured"])
def test_vector_valued(format: str):
    def f(x: jax.Array) -> jax.Array:
        return x**2 * jnp.roll(x, 1)

    x = np.random.default_rng(0).normal(size=5)
    found = jax_cce.hessian(f, format=format)(x)
    check = {"bcoo": assert_bcoo, "structured": assert_structured}[format]
    check(found, jax.jit(jax.hessian(f))(x))
    assert found.shape == (5, 5, 5)
    assert (found.nse if format == "bcoo" else found.nnz) == 3 * 5


def test_blocks_of_several_arguments():
    def f(x: jax.Array, t: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(x**2 * t["a"]) + jnp.sum(t["a"][1:] * jnp.diff(x)) + t["b"] * x[0]

    args = (_RNG.normal(size=4), {"a": _RNG.normal(size=4), "b": np.float64(0.5)})
    found = jax_cce.hessian(f, argnums=(0, 1), format="bcoo")(*args)
    expected = jax.jit(jax.hessian(f, argnums=(0, 1)))(*args)
    blocks, tree = jax.tree.flatten(found, is_leaf=lambda b: isinstance(b, BCOO))
    arrays, expected_tree = jax.tree.flatten(expected)
    assert tree == expected_tree
    for block, array in zip(blocks, arrays, strict=True):
        assert_bcoo(block, array)
    # x with x: a diagonal; x with a: two diagonals; x with b: one entry; none within a and b.
    assert [block.nse for block in blocks] == [4, 7, 1, 7, 0, 0, 1, 0, 0]
    crossed = np.asarray(found[0][1]["a"].todense())
    np.testing.assert_array_equal(crossed, np.asarray(found[1]["a"][0].todense()).T)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_low_precision(dtype: str):
    x = jnp.linspace(-1, 1, 8, dtype=dtype)
    found = jax_cce.hessian(grid_potential, format="bcoo")(x.reshape(2, 4))
    assert found.dtype == dtype
    assert _symmetric(found)


@pytest.mark.parametrize("fun", [rosenbrock, extended_rosenbrock], ids=["chained", "extended"])
@pytest.mark.parametrize("format", ["bcoo", "structured"])
def test_nothing_of_size_n_by_n_is_formed(fun: Any, format: str):
    n = 10_000
    program = jax.make_jaxpr(jax_cce.hessian(fun, format=format))(np.ones(n))
    assert max(aval.size for aval in _arrays(program.jaxpr)) <= 10 * n


def test_a_large_rosenbrock_function():
    n = 100_000
    x = np.random.default_rng(0).normal(size=n)
    inner = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal = np.append(inner, 0) + np.append(0, np.full(n - 1, 200.0))

    structured = jax_cce.hessian(rosenbrock, format="structured")(x)
    assert structured.bands.offsets == (-1, 0, 1)
    assert_values(structured.diagonal(), diagonal)
    v = np.cos(x)
    assert_values(structured @ v, jax.jvp(jax.grad(rosenbrock), (x,), (v,))[1])

    found = jax_cce.hessian(rosenbrock, format="bcoo")(x)
    assert found.nse == 3 * n - 2
    rows, columns = np.asarray(found.indices).T
    data = np.asarray(found.data)
    assert_values(data[rows == columns], diagonal)
    above, below = data[columns == rows + 1], data[rows == columns + 1]
    assert_values(above, -400 * x[:-1])
    np.testing.assert_array_equal(above, below)


def test_newton_on_the_extended_rosenbrock_function():
    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        blocks = jax_cce.hessian(extended_rosenbrock, format="structured")(x).blocks
        gradient = jax.grad(extended_rosenbrock)(x)
        return x - jnp.linalg.solve(blocks, gradient.reshape(-1, 2, 1)).ravel()

    x = jnp.tile(jnp.array([-1.2, 1.0]), 500)
    for _ in range(7):
        x = step(x)
    np.testing.assert_allclose(x, 1.0, rtol=1e-9)
