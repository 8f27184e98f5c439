"""The sparse problems: right values in every format, exact patterns, and small programs."""

import math
from collections.abc import Iterator
from typing import Any

import chex
import jax
import numpy as np
import pytest
from scipy import sparse

import jax_cce
from benchmarks.tasks.sparse import PROBLEMS, Problem
from cases.references import jitted_jacrev
from cases.sparsity import assert_bcoo, assert_structured, assert_values, nonzeros

pytestmark = pytest.mark.one_version

FORMATS = ("dense", "bcoo", "structured")
LARGEST_CONSTANT = 10**6
LARGEST_POSITIONS = 1 << 23
GRAPHS = {"segment_sum", "Power flow", "Bundle adjustment"}
CHECKS: dict[str, Any] = {
    "dense": assert_values,
    "bcoo": assert_bcoo,
    "structured": assert_structured,
}

problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def _arguments(problem: Problem, n: int) -> tuple[np.ndarray, ...]:
    return problem.make(n, np.float64)


@problems
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_jacobian_equals_jacrev(problem: Problem, format: str, transform: Any):
    args = _arguments(problem, problem.small)
    expected = jitted_jacrev(problem.fun)(*args)
    found = transform(jax_cce.jacobian(problem.fun, format=format))(*args)
    CHECKS[format](found, expected)


@problems
def test_stored_entries_are_the_nonzeros(problem: Problem):
    x, *parameters = _arguments(problem, problem.small)
    jacrev = jitted_jacrev(problem.fun)
    rng = np.random.default_rng(2)
    points = [x, *(rng.permutation(x) * scale for scale in (0.5, 0.9))]
    mask = np.any([nonzeros(jacrev(point, *parameters)) for point in points], axis=0)
    assert np.count_nonzero(mask) == problem.nonzeros(problem.small), "the formula is wrong"
    found = jax_cce.jacobian(problem.fun, format="structured")(x, *parameters)
    assert found.nnz == problem.nonzeros(problem.small)
    np.testing.assert_array_equal(found.pattern, np.argwhere(mask))


@pytest.mark.parametrize(
    "name, expected",
    {
        "Burgers": 29998,
        "Brusselator": 39996,
        "Bratu 2-D": 81408,
        "Broyden tridiagonal": 29998,
        "Broyden banded": 69984,
        "Block MLP": 65536,
        "Arrowhead": 5998,
        "Diffusion, scan": 32728,
    }.items(),
)
def test_number_of_entries_at_the_size_of_the_tables(name: str, expected: int):
    problem = PROBLEMS[name]
    assert problem.nonzeros(problem.size) == expected
    jacobian = jax_cce.jacobian(problem.fun, format="bcoo")
    found = jax.eval_shape(jacobian, *_arguments(problem, problem.size))
    assert found.nse == expected


@pytest.mark.parametrize(
    "problem", [pytest.param(p, id=name) for name, p in PROBLEMS.items() if p.by_hand]
)
def test_by_hand_equals_jacrev(problem: Problem):
    args = _arguments(problem, problem.small)
    assert problem.by_hand is not None
    coefficients = jax.jit(problem.by_hand.coefficients)(*args)
    found = problem.by_hand.expand(*args, *map(np.asarray, coefficients))
    if sparse.issparse(found):
        assert found.nnz == problem.nonzeros(problem.small)
        found = found.toarray()
    assert_values(found, jitted_jacrev(problem.fun)(*args))


@problems
def test_sizes_are_those_the_problem_can_have(problem: Problem):
    for n in problem.sizes((100, 10**5)):
        x, *_ = args = _arguments(problem, n)
        chex.assert_shape(x, (n,))
        assert jax.eval_shape(problem.fun, *args).ndim == 1
        assert n >= problem.size


def _constants(operation: Any) -> Iterator[tuple[str, int]]:
    """Type and bytes of every constant that a lowered module spells out, below an operation."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                if inner.operation.name == "stablehlo.constant":
                    value = inner.attributes["value"]
                    # A splat is one number, of whatever shape.
                    yield str(value.type), 0 if value.is_splat else _bytes(value)
                yield from _constants(inner.operation)


def _bytes(value: Any) -> int:
    element = value.type.element_type
    return math.prod(value.type.shape) * -(-element.width // 8)


def _large_constants(fun: Any, *args: Any) -> list[tuple[str, int]]:
    lowered = jax.jit(fun).lower(*args)
    module = lowered.compiler_ir("stablehlo")
    return [found for found in _constants(module.operation) if found[1] > LARGEST_CONSTANT]


def test_large_constants_are_found():
    table = np.arange(250_001, dtype=np.float32)
    inside = jax.jit(lambda x: x + table)
    assert _large_constants(lambda x: inside(x) * 2, table) == [("tensor<250001xf32>", 1_000_004)]
    assert _large_constants(lambda x: x[:-1] + table[1:], table) == []


@pytest.mark.parametrize(
    "problem",
    # The functions of graphs hold the edges.
    [pytest.param(p, id=name) for name, p in PROBLEMS.items() if name not in GRAPHS],
)
@pytest.mark.parametrize("format", FORMATS)
def test_programs_hold_no_large_constant(problem: Problem, format: str):
    # A dense result is only wanted, and only fits, at smaller sizes.
    dense = [problem.fit(min(problem.size, 2000))]
    for n in dense if format == "dense" else problem.sizes((10**5,)):
        jacobian = jax_cce.jacobian(problem.fun, format=format)
        found = _large_constants(jacobian, *_arguments(problem, n))
        # But for the positions of a sparse matrix, which are copied faster than they are computed.
        positions = [(kind, size) for kind, size in found if kind.endswith("x2xi32>")]
        assert found == (positions if format == "bcoo" else [])
        assert all(size <= LARGEST_POSITIONS for _, size in positions)


def _times(operation: str, fun: Any, *args: Any) -> int:
    return jax.jit(fun).lower(*args).compile().as_text().count(f" {operation}(")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on the CPU")
@pytest.mark.parametrize("format", ["values", "structured"])
def test_what_many_coefficients_read_is_computed_once(format: str):
    # Two sines and two cosines, and their slopes: eleven kernels would compute each of them.
    problem = PROBLEMS["Power flow"]
    args = _arguments(problem, 4000)
    jacobian = jax_cce.jacobian(problem.fun, format=format)
    assert _times("sine", jacobian, *args) <= 4
    assert _times("cosine", jacobian, *args) <= 4
    tangent = np.cos(np.arange(4000.0))
    product = jax.jvp(problem.fun, args, (tangent,))[1]
    whole = jax_cce.jacobian(problem.fun, format="structured")
    np.testing.assert_allclose(whole(*args) @ tangent, product, rtol=1e-10, atol=1e-8)
    if format == "values":
        pattern = jax_cce.pattern(problem.fun)(*args)
        found = pattern.to_bcoo(jax.jit(jacobian)(*args)) @ tangent
        np.testing.assert_allclose(found, product, rtol=1e-10, atol=1e-8)
        batch = jax.jit(jax.vmap(jacobian))(np.stack([args[0], args[0] / 2]))
        np.testing.assert_allclose(batch[1], jacobian(args[0] / 2), rtol=1e-12)


def test_the_entries_of_many_small_cells_are_gathered():
    problem = PROBLEMS["Bratu 2-D"]
    args = _arguments(problem, 64**2)
    values = jax_cce.jacobian(problem.fun, format="values")
    jaxpr = jax.make_jaxpr(values)(*args)
    # Corners, edges and the inside are nine cells, each a loop and a part of a concatenation.
    assert str(jaxpr).count("gather[") == 1
    assert str(jaxpr).count("concatenate[") <= 2
    expected = jax.jit(jax_cce.jacobian(problem.fun, format="structured"))(*args).to_bcoo()
    np.testing.assert_array_equal(jax.jit(values)(*args), expected.data)
    larger = jax.make_jaxpr(values)(*_arguments(problem, 128**2))
    assert "gather[" not in str(larger)
