"""Sparse matrices of jax.experimental.sparse inside a function: the indices are the pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental import sparse as jsp

import jax_cce
from jax_cce.execution import memory

FORMATS = ("dense", "bcoo", "structured")
_RNG = np.random.default_rng(0)

_M = jnp.array([[0, 1.0, 0, 2], [3, 0, 0, 0], [0, 0, 4, 5]])
M = jsp.BCOO.fromdense(_M)
MR = jsp.BCSR.fromdense(_M)
MR_PADDED = jsp.BCSR.fromdense(_M, nse=8)
COO, CSR, CSC = jsp.COO.fromdense(_M), jsp.CSR.fromdense(_M), jsp.CSC.fromdense(_M)
# Of shape (2, 3), with entries in no order; padded, half padded, with duplicates and from the end.
_AT = np.array([[0, 1], [0, 2], [1, 1], [1, 2], [1, 0]])
_VALUES = jnp.array([-2.0, 1, -1, 0.5, 2])
S = jsp.BCOO((_VALUES, _AT), shape=(2, 3))
_PADDED = np.concatenate([_AT, [[2, 3], [0, 3], [2, 1]]])
_REPEATED = np.concatenate([_AT, [[0, 1], [1, 0]]])
_NEGATIVE = np.concatenate([_AT[:4], [[-1, -3]]])
B = jsp.BCOO(
    (jnp.arange(1.0, 7), np.array([[0, 2], [2, 1], [0, 3], [1, 3], [1, 0], [0, 0]], np.int32)),
    shape=(3, 4),
)
_mask = _RNG.random((2, 3, 4)) > 0.6
BATCHED = jsp.BCOO.fromdense(jnp.asarray(_RNG.normal(size=(2, 3, 4)) * _mask), n_batch=1)
BATCHED_ROWS = jsp.BCSR.fromdense(BATCHED.todense(), n_batch=1)
_mask = _RNG.random((3, 4, 1)) > 0.6
BLOCKS = jsp.BCOO.fromdense(jnp.asarray(_RNG.normal(size=(3, 4, 2)) * _mask), n_dense=1)

_x3, _x4 = jnp.arange(1.0, 4) / 3, jnp.arange(1.0, 5) / 3
_X42, _Y23 = jnp.arange(1.0, 9).reshape(4, 2) / 5, jnp.arange(1.0, 7).reshape(2, 3) / 5


def _m(data, like=M):
    return jsp.BCOO((data, like.indices), shape=like.shape)


def _s(indices, values=None, extra=0):
    values = jnp.r_[_VALUES, jnp.arange(1.0, 1 + extra)] if values is None else values
    return jsp.BCOO((values, indices), shape=(2, 3))


def _csr(data):
    return jsp.BCSR((data, MR.indices, MR.indptr), shape=(3, 4))


def _dot(a, b, contract, batch=((), ())):
    return jsp.bcoo_dot_general(a, b, dimension_numbers=(contract, batch))


@jax.custom_jvp
def _solved(x):
    return M @ x


_solved.defjvp(lambda primals, tangents: (M @ primals[0], M @ (2 * tangents[0])))


# By the point at which they are differentiated.
GROUPS = {
    "a vector of 3": (
        _x3,
        {
            "unsorted": lambda x: S @ x,
            "padded": lambda x: _s(_PADDED, extra=3) @ x,
            "repeated": lambda x: _s(_REPEATED, extra=2) @ x,
            "from the end": lambda x: _s(_NEGATIVE) @ x,
            "transposed": lambda x: M.T @ x,
            "sampled": lambda x: jsp.bcoo_dot_general_sampled(
                x, _x4, M.indices, dimension_numbers=(((), ()), ((), ()))
            ),
            "sparsified": lambda x: jsp.sparsify(
                lambda m, x: jnp.sin(m.T @ x) @ jnp.ones(4) + (m * m).sum()
            )(M, x),
        },
    ),
    "a vector of 4": (
        _x4,
        {
            "BCSR": lambda x: MR @ x,
            "BCSR padded": lambda x: MR_PADDED @ x,
            "COO": lambda x: COO @ x,
            "COO transposed": lambda x: COO.T @ x[:3],
            "CSR": lambda x: CSR @ x,
            "CSC": lambda x: CSC @ x,
            "times the vector": lambda x: x[:3] ** 2 * (M @ x),
            "a product of three": lambda x: M.T @ (jnp.sin(_x3) * (M @ x)),
            "beside a diagonal": lambda x: M.T @ (M @ x) + x**3,
            "one row of it": lambda x: M[1] @ x,
            "of integers": lambda x: jsp.BCOO((jnp.arange(1, 6), M.indices), shape=(3, 4)) @ x,
            "identity": lambda x: jsp.eye(4) @ x,
            "without entries": lambda x: jsp.empty((3, 4)) @ x,
            "without rows": lambda x: (
                jsp.BCOO((jnp.zeros(0), np.zeros((0, 2), int)), shape=(0, 4)) @ x
            ),
            "checkpointed": lambda x: jax.checkpoint(lambda x: jnp.sin(M @ x))(x),
            "gradient": jax.grad(lambda x: jnp.sum(jnp.sin(M @ x))),
            "gradient of BCSR": jax.grad(lambda x: jnp.sum(jnp.sin(MR @ x))),
            "steps": lambda x: lax.scan(
                lambda c, _: (jnp.sin(M.T @ (M @ c)), None), x, None, length=2
            )[0],
            "a rule of its own": lambda x: jax.nn.relu(M @ x) + _solved(x),
            "times a row": lambda x: (M * x).todense(),
            "with blocks": lambda x: _dot(BLOCKS, x, ((1,), (0,))),
        },
    ),
    "a matrix": (
        _X42,
        {
            "BCOO @ X": lambda X: M @ X,
            "BCSR @ X": lambda X: MR @ X,
            "COO @ X": lambda X: COO @ X,
            "CSR @ X": lambda X: CSR @ X,
            "X @ BCOO": lambda X: X.T @ M.T,
            "batched": lambda X: BATCHED @ X,
            "in batches": lambda X: _dot(BATCHED, X.T, ((2,), (1,)), ((0,), (0,))),
            "over batches": lambda X: _dot(BATCHED, X.T, ((0,), (0,))),
            "BCSR in batches": lambda X: jsp.bcsr_dot_general(
                BATCHED_ROWS, X.T, dimension_numbers=(((2,), (1,)), ((0,), (0,)))
            ),
            "mapped": lambda X: jax.vmap(lambda x: M @ x, 1, 1)(X),
        },
    ),
    "data": (
        M.data,
        {
            "@ x": lambda w: _m(w) @ _x4,
            "@ X": lambda w: _m(w) @ _X42,
            "of both": lambda w: _m(w) @ (_x4 * w[0]),
            "todense": lambda w: _m(w).todense(),
            "any todense": lambda w: jsp.todense(_m(w)),
            "transposed": lambda w: _m(w).T.todense(),
            "BCSR @ x": lambda w: _csr(w) @ _x4,
            "BCSR todense": lambda w: _csr(w).todense(),
            "BCSR to BCOO": lambda w: _csr(w).to_bcoo() @ _x4,
            "BCOO to BCSR": lambda w: jsp.BCSR.from_bcoo(_m(w)) @ _x4,
            "COO @ x": lambda w: jsp.COO((w, COO.row, COO.col), shape=(3, 4)) @ _x4,
            "CSR todense": lambda w: jsp.CSR((w, CSR.indices, CSR.indptr), shape=(3, 4)).todense(),
            "sparse @ sparse": lambda w: (S @ _m(w)).todense(),
            "sparse @ sparse @ x": lambda w: (S @ _m(w)) @ _x4,
            "sum": lambda w: _m(w).sum(),
            "sum of columns": lambda w: _m(w).sum(0).todense(),
            "sum of rows": lambda w: _m(w).sum(1).todense(),
            "times dense": lambda w: (_m(w) * jnp.arange(1.0, 13).reshape(3, 4)).data,
            "times sparse": lambda w: jsp.bcoo_multiply_sparse(_m(w), B).todense(),
            "times a number": lambda w: (_m(w) * 2.0 / 3.0).todense(),
            "elementwise": lambda w: _m(jnp.sin(w)).todense(),
            "sum of two": lambda w: (_m(w) + B).todense(),
            "sorted": lambda w: jsp.BCOO((w, _AT[::-1]), shape=(2, 3)).sort_indices().data,
            "another layout": lambda w: _m(w).update_layout(n_batch=1, on_inefficient=None) @ _x4,
            "dense columns": lambda w: (
                _m(w).update_layout(n_dense=1, on_inefficient=None).todense()
            ),
            "slice": lambda w: _m(w)[1:, :2].todense(),
            "slice @ x": lambda w: _m(w)[1:, 1:] @ _x3,
            "dynamic slice": lambda w: jsp.bcoo_dynamic_slice(_m(w), (1, 1), (2, 2)).todense(),
            "reshape": lambda w: _m(w).reshape(4, 3).todense(),
            "squeeze": lambda w: jsp.bcoo_squeeze(_m(w)[:1], dimensions=(0,)) @ _x4,
            "broadcast": lambda w: jsp.bcoo_broadcast_in_dim(
                _m(w), shape=(2, 3, 4), broadcast_dimensions=(1, 2)
            ).todense(),
            "concatenation": lambda w: jsp.bcoo_concatenate([_m(w), B], dimension=0) @ _x4,
            "rows": lambda w: _m(w)[jnp.array([2, 0])].todense(),
            "gradient": jax.grad(lambda w: jnp.sum(jnp.sin(_m(w) @ _X42))),
        },
    ),
    "repeated data": (
        jnp.arange(1.0, 8),
        {
            "todense": lambda w: _s(_REPEATED, w).todense(),
            "without duplicates": lambda w: _s(_REPEATED, w).sum_duplicates(nse=5).data,
            "padded again": lambda w: _s(_REPEATED, w).sum_duplicates(nse=6) @ _x3,
            "padded": lambda w: _s(np.delete(_PADDED, 6, 0), w) @ _x3,
            "sum of padded": lambda w: _s(_PADDED[:7], w).sum(1).todense(),
        },
    ),
    "batched data": (
        BATCHED.data,
        {
            "todense": lambda w: _m(w, BATCHED).todense(),
            "@ X": lambda w: _dot(_m(w, BATCHED), _X42.T, ((2,), (1,)), ((0,), (0,))),
        },
    ),
    "blocks": (
        BLOCKS.data,
        {
            "todense": lambda w: _m(w, BLOCKS).todense(),
            "@ x": lambda w: _dot(_m(w, BLOCKS), _x4, ((1,), (0,))),
        },
    ),
    "a dense matrix": (
        _M + 1,
        {
            "extraction": lambda y: jsp.bcoo_extract(M, y).data,
            "times sparse": lambda y: (M * y).todense(),
        },
    ),
}
# Their indices depend on values: the pattern holds padding, too.
AT_RUN_TIME = {
    "from dense": lambda y: jsp.BCOO.fromdense(y, nse=7).todense(),
    "from dense @ x": lambda y: jsp.BCOO.fromdense(y, nse=5) @ _x4,
    "BCSR from dense": lambda y: jsp.BCSR.fromdense(y, nse=7) @ _x4,
    "its data": lambda y: jsp.BCOO.fromdense(y, nse=7).data,
    "branches": lambda y: lax.cond(y.sum() > 0, lambda x: M @ x, lambda x: 2 * (M @ x), y[0]),
    "its blocks": lambda y: jsp.BCOO.fromdense(y, nse=1, n_batch=0, n_dense=2).data,
}


def _by_tangents(function, x):
    """The Jacobian, one tangent after the other: some of JAX's primitives have no batching rule."""
    basis = jnp.eye(x.size).reshape(x.size, *x.shape)
    columns = lax.map(lambda e: jax.jvp(function, (x,), (e,))[1], basis)
    return jnp.moveaxis(columns, 0, -1).reshape(*columns.shape[1:], *x.shape)


def _agree(functions, x, *, exact):
    """Compares all functions at once in all formats: most of the time goes into compilation."""
    counts = {}

    def every(x):
        return {name: function(x) for name, function in functions.items()}

    def both(x):
        ours = {}
        for form in FORMATS:
            blocks = jax_cce.jacobian(every, format=form)(x)
            if form != "dense":
                size = "nse" if form == "bcoo" else "nnz"
                counts[form] = {name: getattr(block, size) for name, block in blocks.items()}
                blocks = {name: block.todense() for name, block in blocks.items()}
            ours[form] = blocks
        return ours, {name: _by_tangents(function, x) for name, function in functions.items()}

    ours, theirs = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(x)
    for name, expected in theirs.items():
        for form in FORMATS:
            np.testing.assert_allclose(
                ours[form][name], expected, rtol=1e-10, atol=1e-12, err_msg=f"{name}, {form}"
            )
        if exact:
            found = {form: count[name] for form, count in counts.items()}
            wanted = dict.fromkeys(counts, np.count_nonzero(expected))
            assert found == wanted, name


@pytest.mark.parametrize("group", GROUPS)
def test_the_pattern_is_that_of_the_indices(group):
    x, functions = GROUPS[group]
    _agree(functions, x, exact=True)


def test_indices_that_depend_on_values_are_followed():
    _agree(AT_RUN_TIME, _M, exact=False)


def test_an_extraction_that_sums_duplicates_works_where_jax_has_no_batching_rule():
    repeated = _s(_REPEATED, extra=2)
    ours = jax_cce.jacobian(lambda y: jsp.bcoo_extract(repeated, y, assume_unique=False).data)(
        repeated.todense()
    )
    np.testing.assert_array_equal(ours.sum((1, 2)), [1, 1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_a_matrix_that_is_an_argument_of_a_compiled_function(form):
    """Its indices are known at run time only; there is still no dense pattern."""

    @jax.jit
    def jacobian(matrix, x):
        return jax_cce.jacobian(lambda x: matrix @ x + x[:2] ** 2, format=form)(x)

    found = jacobian(_s(_PADDED, extra=3), _x3)
    wanted = jax.jacfwd(lambda x: _s(_PADDED, extra=3) @ x + x[:2] ** 2)(_x3)
    np.testing.assert_allclose(found.todense(), wanted)
    assert (found.nse if form == "bcoo" else found.nnz) == len(_PADDED) + 2


@pytest.mark.parametrize("order", ["auto", "markowitz", "forward", "reverse"])
def test_every_order_keeps_the_pattern(order):
    def f(x):
        return M.T @ (jnp.sin(M @ x) * (M @ x**2)) + x

    found = jax_cce.jacobian(f, format="bcoo", order=order)(_x4)
    wanted = np.asarray(jax.jacfwd(f)(_x4))
    np.testing.assert_allclose(found.todense(), wanted, rtol=1e-10, atol=1e-12)
    assert found.nse == np.count_nonzero(wanted)


def test_the_hessian_of_a_sparse_least_squares_problem():
    def loss(x):
        return jnp.sum((M @ x - _x3) ** 4)

    found = jax_cce.hessian(loss, format="bcoo")(_x4)
    wanted = np.asarray(jax.hessian(loss)(_x4))
    np.testing.assert_allclose(found.todense(), wanted, rtol=1e-10, atol=1e-12)
    assert found.nse == np.count_nonzero(wanted)


def test_value_and_jacobian_under_vmap_and_of_a_pytree():
    def f(p):
        return {"y": _m(p["w"]) @ p["x"]}

    point = {"w": jnp.stack([M.data, 2 * M.data]), "x": jnp.stack([_x4, _x4**2])}
    ours = jax.vmap(jax_cce.value_and_jacobian(f))(point)
    theirs = jax.vmap(f)(point), jax.vmap(jax.jacrev(f))(point)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs
    )


def test_a_large_matrix_gives_itself():
    n = 100_000
    at = np.stack([np.repeat(np.arange(n), 2), _RNG.integers(0, n, 2 * n)], 1)
    at = np.unique(at, axis=0)
    values = jnp.asarray(_RNG.normal(size=len(at)))
    for matrix in (A := jsp.BCOO((values, at), shape=(n, n), indices_sorted=True)), A.T:
        found = jax_cce.jacobian(lambda x, matrix=matrix: matrix @ x, format="bcoo")(jnp.ones(n))
        order = np.lexsort(np.asarray(matrix.indices).T[::-1])
        np.testing.assert_array_equal(found.indices, np.asarray(matrix.indices)[order])
        np.testing.assert_array_equal(found.data, matrix.data[order])


def test_no_operator_is_left():
    for x, functions in GROUPS.values():
        for name, function in functions.items():
            assert jax_cce.plan(function, format="bcoo")(x).operators == (), name


@pytest.mark.parametrize(
    "form, where", [("bcoo", "indices of the entries"), ("structured", "custom_linear_solve")]
)
def test_an_operator_that_cannot_be_held_entry_by_entry_is_refused(monkeypatch, form, where):
    monkeypatch.setattr(memory, "_SMALLEST_CHECKED", 0)
    monkeypatch.setattr(memory, "_device_memory", lambda: 1 << 12)
    jacobian = jax_cce.jacobian(lambda x: jnp.linalg.inv(x), format=form)
    with pytest.raises(MemoryError, match=f"{where}.*no order does without"):
        jacobian(jnp.eye(5) + 0.1)
    jax_cce.jacobian(lambda x: M @ x, format=form)(_x4)


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_random_indices_agree_with_the_dense_matrix(data):
    rows, columns = (data.draw(st.integers(1, 4)) for _ in range(2))
    # As far as one beyond the bounds, where an entry is padding.
    place = st.tuples(st.integers(0, rows), st.integers(0, columns))
    at = np.array(data.draw(st.lists(place, max_size=6)), np.int32).reshape(-1, 2)
    matrix = jsp.BCOO((jnp.arange(1.0, 1 + len(at)), at), shape=(rows, columns))
    x = jnp.arange(1.0, 1 + columns)
    found = jax_cce.jacobian(lambda x: matrix @ x, format="bcoo")(x)
    inside = at[(at < (rows, columns)).all(1)]
    np.testing.assert_allclose(found.todense(), matrix.todense())
    assert found.nse == len({tuple(pair) for pair in inside.tolist()})
