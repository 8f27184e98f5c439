"""Every output format keeps jax.jacrev's contract and what the format itself promises."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.sparse import BCOO

import jax_cce
from cases import calls
from cases.agreement import assert_agree, assert_same_outcome
from cases.calls import Case, outcome_of_jacrev
from cases.references import jitted_jacrev, once
from cases.sparsity import assert_bcoo, assert_structured, assert_values

SPARSE = ["bcoo", "structured"]
FORMATS = ["dense", *SPARSE]

_ASSERTIONS = {"bcoo": assert_bcoo, "structured": assert_structured, "dense": assert_values}

A = np.arange(1.0, 13.0).reshape(3, 4) / 7
X = np.array([0.5, -1.5, 2.0, 0.25])


def _is_block(node: Any) -> bool:
    return isinstance(node, (BCOO, jax_cce.StructuredJacobian))


def assert_blocks(found: Any, expected: Any, format: str) -> None:
    """Asserts that a tree of blocks has the tree structure and the blocks of a dense Jacobian."""
    blocks, tree = jax.tree.flatten(found, is_leaf=_is_block)
    arrays, expected_tree = jax.tree.flatten(expected)
    assert tree == expected_tree
    for block, array in zip(blocks, arrays, strict=True):
        _ASSERTIONS[format](block, array)


def todense(found: Any) -> Any:
    """The tree with its blocks as arrays."""
    return jax.tree.map(lambda b: b.todense() if _is_block(b) else b, found, is_leaf=_is_block)


def stencil(x: jax.Array) -> jax.Array:
    """A function whose Jacobian is tridiagonal with corners."""
    return jnp.roll(x, 1) * x**2 + 3 * jnp.roll(x, -1)


def several(t: Any, s: Any) -> Any:
    """Trees in and out; blocks that are dense, diagonal, one-hot, constant and zero."""
    return {"a": A @ t["x"], "b": (t["x"] * s, t["x"][1] * s), "c": t["y"] + 1.0, "d": 2.0 * s}


TREE = ({"x": X, "y": np.float32([[1.0, 2.0]])}, np.float64(3.0))


# What JAX does at these is compared in the test of the contract, for the dense format.
@pytest.mark.one_version
@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{kind}, {case.name}")
        for kind in ("DTYPES", "SHAPES_AND_TREES", "ARGUMENTS", "AUXILIARY", "CONCRETE")
        for case in getattr(calls, kind)
    ],
)
def test_the_contract_of_jacrev(case: Case, format: str):
    ours = jax_cce.jacobian(case.fun, format=format, **case.options)
    expected = outcome_of_jacrev(case)
    if isinstance(expected, Exception):
        with pytest.raises(type(expected)):
            ours(*case.args, **case.kwargs)
        return
    found = ours(*case.args, **case.kwargs)
    if case.options.get("has_aux"):
        assert_agree(found[1], expected[1])
        found, expected = found[0], expected[0]
    assert_blocks(found, expected, format)


@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize(
    "case",
    [
        Case("no output", lambda x: (), (X,)),
        Case("no input", lambda t: (), ((),)),
        Case("no argument chosen", lambda x: (), (X,), {"argnums": ()}),
    ],
    ids=lambda case: case.name,
)
def test_empty_trees(case: Case, format: str):
    assert jax_cce.jacobian(case.fun, format=format, **case.options)(*case.args) == ()


TRANSFORMED = [
    Case("stencil", stencil, (X,)),
    Case("dense", lambda x: jnp.tanh(A @ x), (X,)),
    Case("trees", several, TREE, {"argnums": (0, 1)}),
    Case("identity", lambda x: x, (X,)),
    Case("constant", lambda x: jnp.ones(2), (X,)),
    Case("partly independent", lambda x, y: (x**2, jnp.sin(y)), (X, A), {"argnums": (0, 1)}),
    Case("linear", lambda x: 2 * x[::-1], (X,)),
    Case("scalar", lambda x: jnp.sin(x) * x, (np.float64(0.3),)),
    Case("scalar of a matrix", lambda a: jnp.sum(a**2), (A,)),
    Case("zero-size input", lambda x: jnp.sum(x**2, 0), (np.zeros((0, 3)),)),
    Case("zero-size output", lambda x: x[:0] ** 2, (X,)),
    Case("None leaves", lambda t: {"a": t[0] * 2, "b": None}, ((X, None),)),
    Case("integers", lambda n, x: x * n, (np.arange(4), X), {"argnums": (0, 1), "allow_int": True}),
    Case("complex", lambda z: jnp.exp(z) * z[::-1], (X + 1j,), {"holomorphic": True}),
    Case("complex to real", lambda z: jnp.abs(z) ** 2, (X + 1j,)),
    Case("sort", lambda x: jnp.sort(x) ** 2, (X,)),
    Case("traced index", lambda x, k: x[k] * x, (X, np.array(2))),
    Case("static index", lambda x: x[np.array([3, 0, 3])] ** 2, (X,)),
]
_transformed = pytest.mark.parametrize("case", TRANSFORMED, ids=lambda case: case.name)


@pytest.mark.parametrize("format", SPARSE)
@_transformed
def test_under_jit(case: Case, format: str):
    expected = outcome_of_jacrev(case)
    jacobian = jax.jit(jax_cce.jacobian(case.fun, format=format, **case.options))
    assert_blocks(jacobian(*case.args), expected, format)


def _batch(args: Any, size: int) -> Any:
    """Different arguments for each element of a batch, of the same dtypes."""

    def stack(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if not np.issubdtype(leaf.dtype, np.inexact):
            return np.stack([np.roll(leaf, k) for k in range(size)])
        return np.stack([leaf + leaf.dtype.type(0.1 * k) for k in range(size)])

    return jax.tree.map(stack, args)


@once
def _of_a_batch(case: Case) -> Any:
    """The Jacobians of a batch of points, one by one."""
    batch = _batch(case.args, 3)
    theirs = jax.jacrev(case.fun, **case.options)
    single = [theirs(*jax.tree.map(lambda leaf, k=k: leaf[k], batch)) for k in range(3)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *single)


@pytest.mark.parametrize("format", SPARSE)
@_transformed
def test_under_vmap(case: Case, format: str):
    ours = jax_cce.jacobian(case.fun, format=format, **case.options)
    found = jax.vmap(lambda *args: todense(ours(*args)))(*_batch(case.args, 3))
    assert_blocks(found, _of_a_batch(case), "dense")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_entries_leave_vmap(wrap: Any):
    xs = np.stack([X, 2 * X, X - 1])
    jacobian = jax_cce.jacobian(stencil, format="bcoo")
    data = wrap(jax.vmap(lambda x: jacobian(x).data))(xs)
    assert_agree(data, jnp.stack([jacobian(x).data for x in xs]))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
@pytest.mark.parametrize("fun", [stencil, lambda x: jnp.sort(x) ** 2], ids=["static", "sort"])
def test_a_structured_jacobian_leaves_and_enters_vmap(fun: Any, wrap: Any):
    xs = np.stack([X, 2 * X, X - 1])
    stacked = wrap(jax.vmap(jax_cce.jacobian(fun, format="structured")))(xs)
    assert isinstance(stacked, jax_cce.StructuredJacobian)
    dense = jnp.stack([jitted_jacrev(fun)(x) for x in xs])
    assert_values(jax.vmap(lambda j: j.todense())(stacked), dense)
    products = wrap(jax.vmap(lambda j, v: j @ v))(stacked, xs)
    assert_values(products, jnp.einsum("bij,bj->bi", dense, xs))


@pytest.mark.parametrize("format", FORMATS)
def test_a_vmapped_function_inside(format: str):
    def f(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: row * jnp.sum(row**2))(x)

    assert_blocks(jax_cce.jacobian(f, format=format)(A), jax.jit(jax.jacrev(f))(A), format)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
@pytest.mark.parametrize(
    "fun",
    [stencil, lambda x: jnp.sort(x) ** 3, lambda x: x * jnp.sum(x**2)],
    ids=["stencil", "sort", "dense"],
)
def test_gradients_through_the_entries(fun: Any, wrap: Any):
    weights = jnp.cos(jnp.arange(X.size**2)).reshape(X.size, X.size)

    def through_data(x: jax.Array) -> jax.Array:
        entries = jax_cce.jacobian(fun, format="bcoo")(x)
        return jnp.sum(entries.data**2 * weights[entries.indices[:, 0], entries.indices[:, 1]])

    def through_array(x: jax.Array, format: str) -> jax.Array:
        return jnp.sum(jax_cce.jacobian(fun, format=format)(x).todense() ** 2 * weights)

    expected = jax.grad(lambda x: jnp.sum(jitted_jacrev(fun)(x) ** 2 * weights))(X)
    assert_values(wrap(jax.grad(through_data))(X), expected)
    for format in SPARSE:
        found = wrap(jax.grad(functools.partial(through_array, format=format)))(X)
        assert_values(found, expected)


def test_tangents_through_the_entries():
    jacobian = jax_cce.jacobian(stencil, format="structured")
    found = jax.jvp(lambda x: jacobian(x) @ x, (X,), (X[::-1],))
    expected = jax.jvp(lambda x: jitted_jacrev(stencil)(x) @ x, (X,), (X[::-1],))
    assert_agree(found, expected)


@pytest.mark.parametrize("differentiate", [jax.jacrev, jax.jacfwd, jax_cce.jacobian])
@pytest.mark.parametrize("format", SPARSE)
def test_differentiated_again(differentiate: Any, format: str):
    found = differentiate(lambda x: jax_cce.jacobian(stencil, format=format)(x).todense())(X)
    assert_values(found, jax.jit(jax.jacrev(jax.jacrev(stencil)))(X))


def test_the_second_derivative_of_the_entries_is_sparse():
    def entries(x: jax.Array) -> jax.Array:
        return jax_cce.jacobian(lambda y: jnp.sin(y) * y, format="bcoo")(x).data

    found = jax_cce.jacobian(entries, format="bcoo")(X)
    assert_bcoo(found, jax.jit(jax.jacrev(entries))(X))
    assert found.nse == X.size


def test_a_bcoo_matrix_is_no_differentiable_output():
    # Its indices are integers: jax.jacrev refuses it, too, and `.data` is what can be asked for.
    jacobian = jax_cce.jacobian(stencil, format="bcoo")
    assert_same_outcome(jax_cce.jacobian(jacobian), jax.jacrev(jacobian), X)
    with pytest.raises(TypeError, match="real-valued outputs"):
        jax_cce.jacobian(jacobian, format="bcoo")(X)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_a_structured_jacobian_is_a_pytree(wrap: Any):
    jacobian = wrap(jax_cce.jacobian(several, argnums=(0, 1), format="structured"))(*TREE)
    leaves, tree = jax.tree.flatten(jacobian)
    assert leaves
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(tree, leaves)
    assert jax.tree.structure(again) == tree
    assert hash(jax.tree.structure(again)) == hash(tree)
    expected = jax.jit(jax.jacrev(several, argnums=(0, 1)))(*TREE)
    assert_blocks(again, expected, "structured")
    assert_blocks(jax.jit(lambda j: j)(jacobian), expected, "structured")
    assert len(jax.tree.leaves_with_path(jacobian)) == len(leaves)


@pytest.mark.parametrize("format", SPARSE)
def test_results_pass_through_control_flow(format: str):
    def body(x: jax.Array, _: Any) -> Any:
        jacobian = jax_cce.jacobian(stencil, format=format)(x)
        return x + 0.01 * (jacobian @ x), jacobian.todense()

    found, dense = jax.jit(lambda x: lax.scan(body, x, length=3))(X)
    x = jnp.asarray(X)
    for k in range(3):
        expected = jitted_jacrev(stencil)(x)
        assert_values(dense[k], expected)
        x = x + 0.01 * (expected @ x)
    assert_values(found, x)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [{}, {"argnums": 1}, {"argnums": (1, 0)}], ids=str)
def test_value_and_jacobian(options: Any, format: str):
    value, found = jax_cce.value_and_jacobian(several, format=format, **options)(*TREE)
    jax.tree.map(assert_values, value, several(*TREE))
    assert_blocks(found, jax.jit(jax.jacrev(several, **options))(*TREE), format)


@pytest.mark.parametrize("format", FORMATS)
def test_value_and_jacobian_with_aux(format: str):
    def f(x: jax.Array) -> Any:
        return stencil(x), {"name": "a string", "x": x}

    (value, aux), found = jax_cce.value_and_jacobian(f, has_aux=True, format=format)(X)
    assert_agree((value, aux), f(jnp.asarray(X)))
    assert_blocks(found, jitted_jacrev(stencil)(X), format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "case",
    [
        Case("scalar", lambda x: jnp.sum(jnp.sin(x) ** 2) * x[0], (X,)),
        Case("vector", lambda x: x**2 * x[::-1], (X,)),
        Case("argnums", lambda x, y: jnp.dot(x, y) ** 2, (X, 2 * X), {"argnums": (1, 0)}),
        Case("tree", lambda t: t["a"] * jnp.sum(t["b"] ** 3), ({"a": np.float64(2.0), "b": X},)),
        Case("aux", lambda x: (jnp.sum(x**3), {"x": 2 * x}), (X,), {"has_aux": True}),
        Case("linear", jnp.sum, (X,)),
        Case("holomorphic", lambda z: jnp.sum(z**3), (X + 1j,), {"holomorphic": True}),
        Case("float32", lambda x: jnp.sum(x**3), (X.astype(np.float32),)),
        Case("value-dependent", lambda x: jnp.sum(x**3) if x[0] > 0 else x[0], (X,)),
    ],
    ids=lambda case: case.name,
)
def test_hessian(case: Case, format: str):
    found = jax_cce.hessian(case.fun, format=format, **case.options)(*case.args)
    expected = jax.hessian(case.fun, **case.options)(*case.args)
    if case.options.get("has_aux"):
        assert_agree(found[1], expected[1])
        found, expected = found[0], expected[0]
    assert_blocks(found, expected, format)


@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize("order", ["auto", "forward", "reverse", "markowitz", "given"])
def test_orders(order: str, format: str):
    def f(x: jax.Array) -> jax.Array:
        return jnp.sin(stencil(x)) * jnp.tanh(x)

    if order == "given":
        order = jax_cce.plan(f, format=format)(X).order[::-1]
    found = jax_cce.jacobian(f, order=order, format=format)(X)
    assert_blocks(found, jax.jit(jax.jacrev(f))(X), format)
    assert found.todense().size > (found.nse if format == "bcoo" else found.nnz) == 3 * X.size


def test_a_plan_for_a_sparse_format_costs_less():
    x = jax.ShapeDtypeStruct((1000,), np.float64)

    def f(x: jax.Array) -> jax.Array:
        return jnp.append(jnp.sum(x**2), stencil(x))

    costs = {format: jax_cce.plan(f, format=format)(x).cost("flops") for format in FORMATS}
    assert costs["structured"] == costs["bcoo"] <= costs["dense"]
    assert costs["bcoo"] < 100_000


_FLOATS = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize("dtype", _FLOATS)
def test_entries_have_the_dtype_of_the_input(dtype: str, format: str):
    holomorphic = dtype.startswith("complex")
    wide = "complex128" if holomorphic else "float64"

    def f(x: jax.Array) -> Any:
        # The output is wide, half of the work narrow, and one block is a mere constant.
        return {"wide": (stencil(x) * 0.1).astype(wide) * 0.5, "constant": 3 * x.astype(wide)}

    x = jnp.asarray(X, dtype)
    expected = jax.jit(jax.jacrev(f, holomorphic=holomorphic))(x)
    found = jax_cce.jacobian(f, holomorphic=holomorphic, format=format)(x)
    assert_blocks(found, expected, format)
    assert found["wide"].dtype == found["constant"].dtype == dtype


@pytest.mark.parametrize("format", SPARSE)
def test_without_x64(format: str):
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            expected = jitted_jacrev(stencil)(X)
            assert_blocks(jax_cce.jacobian(stencil, format=format)(X), expected, format)
            jitted = jax.jit(jax_cce.jacobian(stencil, format=format))(X)
            assert_blocks(jitted, expected, format)


def test_one_function_in_every_format():
    # All of them are in the same cache of compiled programs.
    expected = jitted_jacrev(stencil)(X)
    for format in (*FORMATS, *FORMATS[::-1]):
        assert_blocks(jax_cce.jacobian(stencil, format=format)(X), expected, format)


@pytest.mark.parametrize("format", SPARSE)
@pytest.mark.parametrize(
    "make, values",
    [
        (lambda c: lambda x: x[c] ** 2, ([0, 1], [3, 3], [1, 0])),
        (lambda c: lambda x: x.at[c].add(x[:2] ** 2), ([0, 1], [3, 3], [1, 0])),
        (lambda c: lambda x: c @ x**2, (np.eye(4), np.eye(4)[::-1], np.ones((4, 4)))),
        (lambda c: lambda x: jnp.where(c, x, x[::-1]), ([True] * 4, [False, True] * 2)),
        (lambda c: lambda x: x * c, ([0.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0])),
    ],
    ids=["gather", "scatter", "matrix", "mask", "factor"],
)
def test_values_that_a_function_closes_over(make: Any, values: Any, format: str):
    for value in values:
        f = make(np.array(value))
        assert_blocks(jax_cce.jacobian(f, format=format)(X), jax.jit(jax.jacrev(f))(X), format)
        # As an argument it is not known before the program runs.
        with_argument = jax.jit(lambda x, c: jax_cce.jacobian(make(c), format=format)(x))
        found = with_argument(X, np.array(value))
        assert_blocks(found, jax.jit(jax.jacrev(f))(X), format)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_indices_are_sorted_and_unique(transform: Any):
    def f(x: jax.Array) -> jax.Array:
        # Terms that are neither sorted nor disjoint, in a block of rank four.
        return x[:, ::-1] * x + jnp.roll(x, 1, 0) * x[0] + x[1, 2] * jnp.sum(x, 1, keepdims=True)

    assert_bcoo(transform(jax_cce.jacobian(f, format="bcoo"))(A), jax.jit(jax.jacrev(f))(A))


def test_static_indices_are_numpy_outside_jit():
    found = jax_cce.jacobian(several, argnums=(0, 1), format="bcoo")(*TREE)
    for block in jax.tree.leaves(found, is_leaf=_is_block):
        assert isinstance(block.indices, np.ndarray)
        assert np.issubdtype(block.indices.dtype, np.signedinteger)


def test_the_number_of_entries_is_static():
    shaped = jax.eval_shape(jax_cce.jacobian(stencil, format="bcoo"), X)
    assert shaped.data.shape == (12,)
    shaped = jax.eval_shape(jax_cce.jacobian(lambda x: jnp.sort(x) ** 2, format="bcoo"), X)
    assert shaped.data.shape == (4,)


def test_a_bcoo_result_works_in_jax():
    x = jnp.asarray(X)
    found, dense = jax_cce.jacobian(stencil, format="bcoo")(x), jitted_jacrev(stencil)(x)
    assert_values(found @ x, dense @ x)
    assert_values(x @ found, x @ dense)
    assert_values(found.T.todense(), dense.T)
    assert_values(found.todense(), dense)
    assert_values(jax.jit(lambda j, v: j @ v)(found, x), dense @ x)


def test_a_block_without_entries():
    found = jax_cce.jacobian(lambda x: jnp.ones((2, 3)), format="bcoo")(A)
    assert found.nse == 0
    assert found.shape == (2, 3, 3, 4)
    structured = jax_cce.jacobian(lambda x: jnp.ones((2, 3)), format="structured")(A)
    assert structured.nnz == 0
    assert structured.pattern.shape == (0, 4)


_TRANSFORMATIONS = [jax_cce.jacobian, jax_cce.value_and_jacobian, jax_cce.hessian, jax_cce.plan]


@pytest.mark.parametrize("format", ["lil", "Dense", "", None, 3, ("bcoo",), ["bcoo"], jnp.sin])
@pytest.mark.parametrize("transformation", _TRANSFORMATIONS)
def test_unknown_formats(transformation: Callable[..., Any], format: Any):
    with pytest.raises(ValueError) as raised:
        transformation(jnp.sin, format=format)(X)
    for name in (*FORMATS, format):
        assert repr(name) in str(raised.value)


_LARGE = 1_000_000


def _energy(x: jax.Array) -> jax.Array:
    return jnp.sum(x**3)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
@pytest.mark.parametrize(
    "transformed",
    [
        jax_cce.jacobian(jnp.sin),
        jax_cce.value_and_jacobian(jnp.sin),
        jax_cce.jacobian(lambda x: {"a": x[0], "b": x**2}),
        jax_cce.hessian(_energy),
    ],
    ids=["jacobian", "value_and_jacobian", "tree", "hessian"],
)
def test_a_dense_result_beyond_memory_is_refused(transformed: Any, wrap: Any):
    with pytest.raises(MemoryError) as raised:
        wrap(transformed)(np.ones(_LARGE))
    for name in SPARSE:
        assert repr(name) in str(raised.value)
    assert "GiB" in str(raised.value)
    assert str(_LARGE) in str(raised.value)


@pytest.mark.parametrize("format", SPARSE)
def test_a_sparse_result_of_that_size(format: str):
    found = jax_cce.jacobian(stencil, format=format)(np.ones(_LARGE))
    assert (found.nse if format == "bcoo" else found.nnz) == 3 * _LARGE
    product = found @ jnp.ones(_LARGE)
    np.testing.assert_allclose(product, 6.0)


def test_large_patterns_are_no_constants_of_a_program():
    jacobian = jax.jit(jax_cce.jacobian(stencil, format="bcoo"))
    text = jacobian.lower(jax.ShapeDtypeStruct((1_000_000,), np.float64)).as_text()
    assert max(map(len, text.splitlines())) < 10_000


@pytest.mark.parametrize("format", SPARSE)
def test_programs_are_reused(format: str):
    traces = []

    def f(x: jax.Array) -> jax.Array:
        traces.append(x)
        return stencil(x)

    jacobian = jax_cce.jacobian(f, format=format)
    jacobian(X)
    before = jax_cce.cache_info()
    assert_blocks(jacobian(2 * X), jitted_jacrev(stencil)(2 * X), format)
    after = jax_cce.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    assert len(traces) == 2


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("format", SPARSE)
def test_partial_and_donated_arguments(format: str):
    f = functools.partial(lambda c, x: stencil(x) * c, np.float64(2.0))
    jacobian = jax.jit(jax_cce.jacobian(f, format=format), donate_argnums=0)
    assert_blocks(jacobian(jnp.asarray(X)), 2 * jitted_jacrev(stencil)(X), format)
