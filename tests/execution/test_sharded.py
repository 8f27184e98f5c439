"""What devices tell each other: a Jacobian has no more collectives than the better mode of JAX.

Collectives are counted in compiled programs. Under explicit axes a mode's result is given the type
of `jax.jacrev`'s, which is that of ours.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import jax_cce

KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
FORMATS = ("dense", "structured", "values", "bcoo")
_COLLECTIVE = re.compile(
    r"= .*? (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def _padded(x):
    u = jnp.pad(x, 1)
    return u[2:] - 2 * u[1:-1] ** 2 + u[:-2]


def _scanned(x):
    return lax.scan(lambda c, _: (jnp.sin(c) * c, None), x, None, length=4)[0]


FUNCTIONS = {
    "elementwise": (lambda x: jnp.sin(x) * x, (64,)),
    "loss": (lambda x: jnp.sum(jnp.tanh(x) ** 2), (64,)),
    "map of rows": (lambda x: jnp.tanh(x @ jnp.ones((8, 8))), (8, 8)),
    "sums of rows": (lambda x: jnp.sum(x**2, 1), (8, 8)),
    "sums of columns": (lambda x: jnp.sum(x**2, 0), (8, 8)),
    "custom rule": (lambda x: jax.nn.relu(x - 0.5) * x, (64,)),
    "reshape": (lambda x: jnp.sin(x.reshape(8, 8)), (64,)),
    "transpose": (lambda x: jnp.sin(x).T, (8, 8)),
    "stencil along rows": (lambda x: x**2 - jnp.roll(x, 1, 1) * jnp.roll(x, -1, 1), (8, 8)),
    "scan": (_scanned, (64,)),
    "running sums": (lambda x: jnp.cumsum(x**2, 1), (8, 8)),
    "softmax": (jax.nn.softmax, (64,)),
    # Over devices; JAX has no explicit types for these.
    "ring": (lambda x: x**2 - jnp.roll(x, 1) * jnp.roll(x, -1), (64,)),
    "wave": (lambda x: jnp.roll(x, 1) - 2 * jnp.sin(x) + jnp.roll(x, -1), (64,)),
    "padded stencil": (_padded, (64,)),
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name in FUNCTIONS
    if kind == "automatic" or name not in ("ring", "wave", "padded stencil")
]
# Where there are more, and how many at most.
EXCEPTIONS = {
    # Entries are sorted by rows, and what a device holds is not adjacent then.
    ("automatic", "sums of columns", "values"): 1,
    ("automatic", "sums of columns", "bcoo"): 1,
    ("automatic", "transpose", "values"): 1,
    ("automatic", "transpose", "bcoo"): 1,
    ("explicit", "sums of columns", "values"): 1,
    ("explicit", "transpose", "values"): 1,
    # An outer product beside a diagonal: each factor is gathered, where a mode adds up one.
    ("automatic", "softmax", "dense"): 4,
    ("automatic", "softmax", "structured"): 3,
    ("automatic", "softmax", "values"): 4,
    ("automatic", "softmax", "bcoo"): 4,
    ("explicit", "softmax", "values"): 4,
    # 63 coefficients are results that 8 devices cannot share.
    ("automatic", "ring", "structured"): 7,
    # JAX has explicit types for a few operations on sparse matrices, if entries are replicated.
    **{
        ("explicit", name, "bcoo"): 5 if name == "softmax" else 1
        for kind, name in CASES
        if kind == "explicit"
    },
}
# The results of which a device holds all and not an eighth.
WHOLE = {
    # Devices share the columns.
    *((kind, name, "values") for kind in KINDS for name in ("sums of columns", "transpose")),
    *(("automatic", name, "bcoo") for name in ("sums of columns", "transpose")),
    # 190 entries.
    ("automatic", "padded stencil", "values"),
    ("automatic", "padded stencil", "bcoo"),
    *((kind, name, "bcoo") for kind, name in CASES if kind == "explicit"),
}


def _mesh(kind):
    return jax.make_mesh((8,), ("i",), axis_types=(KINDS[kind],))


def _argument(mesh, shape):
    x = np.linspace(0.1, 1.0, int(np.prod(shape))).reshape(shape)
    return jax.device_put(x, NamedSharding(mesh, P("i")))


def _compiled(function, x):
    compiled = jax.jit(function).lower(x).compile()
    return compiled, len(_COLLECTIVE.findall(compiled.as_text()))


@pytest.mark.parametrize("kind, name", CASES)
def test_no_more_collectives_than_the_better_mode(kind, name):
    f, shape = FUNCTIONS[name]
    mesh = _mesh(kind)
    with jax.set_mesh(mesh):
        x = _argument(mesh, shape)
        pulled, rows = _compiled(jax.jacrev(f), x)
        expected = pulled(x)
        own = jax.typeof(expected).sharding

        def pushed(x):
            result = jax.jacfwd(f)(x)
            return reshard(result, own) if kind == "explicit" else result

        best = min(rows, _compiled(pushed, x)[1])
        results = {}
        for form in FORMATS:
            program, count = _compiled(jax_cce.jacobian(f, format=form), x)
            results[form] = program(x)
            most = EXCEPTIONS.get((kind, name, form))
            if most is None:
                assert count <= best, (form, count, best)
            else:
                assert best < count <= most, (form, count, best)
        assert jax.typeof(results["dense"]).sharding == own
        for form, result in results.items():
            numbers = jax.tree.leaves(result)[: None if form == "structured" else 1]
            held = {leaf.addressable_shards[0].data.nbytes * 8 == leaf.nbytes for leaf in numbers}
            if (name, form) != ("ring", "structured"):
                assert held == {(kind, name, form) not in WHOLE}
        for form in ("structured", "bcoo"):
            np.testing.assert_allclose(results[form].todense(), expected, rtol=1e-12)
    np.testing.assert_allclose(results["dense"], expected, rtol=1e-12)
    np.testing.assert_array_equal(results["values"], results["bcoo"].data)


def test_an_exception_is_one_of_the_cases():
    assert {(kind, name) for kind, name, _ in EXCEPTIONS} <= set(CASES)


@pytest.mark.parametrize("name", ["elementwise", "map of rows", "custom rule", "sums of rows"])
def test_products_keep_the_explicit_sharding_of_rows_and_columns(name):
    f, shape = FUNCTIONS[name]
    mesh = _mesh("explicit")
    with jax.set_mesh(mesh):
        x = _argument(mesh, shape)
        y = f(x)

        def products(x):
            jacobian = jax_cce.jacobian(f, format="structured")(x)
            return jacobian @ x, y @ jacobian

        def modes(x):
            return jax.jvp(f, (x,), (x,))[1], jax.vjp(f, x)[1](y)[0]

        program, count = _compiled(products, x)
        assert count == 0
        for ours, theirs in zip(program(x), jax.jit(modes)(x), strict=True):
            assert jax.typeof(ours).sharding == jax.typeof(theirs).sharding
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_methods_outside_of_a_program():
    mesh = _mesh("explicit")
    f, shape = FUNCTIONS["elementwise"]
    with jax.set_mesh(mesh):
        x = _argument(mesh, shape)
        jacobian = jax_cce.jacobian(f, format="structured")(x)
        (coefficient,) = jax.tree.leaves(jacobian)
        assert jax.typeof(coefficient).sharding.spec == P("i")
        expected = jax.jacrev(f)(x)
        dense = jacobian.todense()
        assert jax.typeof(dense).sharding == jax.typeof(expected).sharding
        both = jnp.stack([x, 2 * x], 1)
        product = jacobian @ both
        assert jax.typeof(product).sharding.spec == P("i", None)
        np.testing.assert_allclose(product, np.asarray(expected) @ np.asarray(both), rtol=1e-12)
        np.testing.assert_allclose(jacobian.T.todense(), np.asarray(expected).T, rtol=1e-12)
        np.testing.assert_allclose(jacobian.diagonal(), np.diag(expected), rtol=1e-12)
        np.testing.assert_allclose(jacobian.bands.data[0], np.diag(expected), rtol=1e-12)
        np.testing.assert_allclose(dense, expected, rtol=1e-12)


def test_a_ring_is_passed_on_between_neighbours():
    f, shape = FUNCTIONS["ring"]
    mesh = _mesh("automatic")
    with jax.set_mesh(mesh):
        x = _argument(mesh, shape)
        program = jax.jit(lambda x: jax_cce.jacobian(f, format="structured")(x) @ x)
        assert "all-gather" not in program.lower(x).compile().as_text()
        np.testing.assert_allclose(program(x), jax.jvp(f, (x,), (x,))[1], rtol=1e-12)


def test_explicit_sharding_without_a_mesh_around():
    mesh = _mesh("explicit")
    f, shape = FUNCTIONS["elementwise"]
    x = _argument(mesh, shape)
    expected = jax.jacrev(f)(x)
    for jacobian in (jax_cce.jacobian(f), jax.jit(jax_cce.jacobian(f))):
        result = jacobian(x)
        assert jax.typeof(result).sharding == jax.typeof(expected).sharding
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    structured = jax_cce.jacobian(f, format="structured")(x)
    np.testing.assert_allclose(structured.todense(), expected, rtol=1e-12)
    np.testing.assert_allclose(structured @ x, np.asarray(expected) @ np.asarray(x), rtol=1e-12)


def _scan(step, init):
    return lambda xs: lax.scan(lambda c, x: (step(c, x), c), init(xs[0]), xs)


SCANS = {
    "one for each": _scan(lambda c, x: jnp.sin(c) * x, jnp.sin),
    "from no input": _scan(lambda c, x: jnp.sin(c) + jnp.tanh(x), jnp.ones_like),
    "a sum": _scan(lambda c, x: jnp.sin(c) + jnp.sum(x**2), lambda x: 0.0),
    "a product": _scan(lambda c, x: jnp.sin(c) + jnp.ones((3, 8)) @ x, lambda x: jnp.ones(3)),
}


@pytest.mark.parametrize("name", SCANS)
def test_scans_over_what_is_explicitly_shared_out(name):
    f, mesh = SCANS[name], _mesh("explicit")
    with jax.set_mesh(mesh):
        x = np.linspace(0.1, 1.0, 320).reshape(40, 8)
        x = jax.device_put(x, NamedSharding(mesh, P(None, "i")))
        expected = jax.jit(jax.jacrev(f))(x)
        found = jax.jit(jax_cce.jacobian(f, format="structured"))(x)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.todense(), theirs, rtol=1e-9, atol=1e-12)


def _five_points(x):
    u = jnp.pad(x, 1)
    return jnp.sin(x) * (u[2:, 1:-1] + u[:-2, 1:-1] ** 2 + u[1:-1, 2:] + u[1:-1, :-2])


def _wide(x):
    u = jnp.pad(x, 2)
    return u[4:] * x + u[:-4] ** 2 + u[1:-3]


ROWS = {
    "five points": (_five_points, (8, 5)),
    "five points on a torus": (
        lambda x: x * (jnp.roll(x, 1, 0) + jnp.roll(x, -1, 0) + jnp.roll(x, 1, 1) ** 2),
        (8, 4),
    ),
    "a ring backwards": (lambda x: x[::-1] * jnp.roll(x, 2) + x**2, (16,)),
    "two steps away": (_wide, (16,)),
    "a number in the first row": (lambda x: (x**2).at[0].add(x[3] * x[5]), (16,)),
    "numbers at both ends": (lambda x: (x**2).at[jnp.array([0, 15])].add(x[7:9] ** 3), (16,)),
    "products of a column": (lambda x: jnp.roll(x, 1, 0) @ x.T * 2, (8, 2)),
    "a sum in each row": (lambda x: x * jnp.roll(x, 1, 0).sum(1, keepdims=True), (8, 3)),
    "halves": (lambda x: jnp.concatenate([x[8:] ** 2 * x[:8], jnp.sin(x[:8]) * x[8:]]), (16,)),
    "a triangle of columns": (lambda x: jnp.cumsum(jnp.roll(x, 1, 0) ** 2 * x, 1), (8, 4)),
    "a triangle of rows": (lambda x: jnp.cumsum(x**3, 0), (8, 2)),
}


@pytest.mark.parametrize("name", ROWS)
def test_entries_of_rows_that_devices_share(name):
    f, shape = ROWS[name]
    mesh = _mesh("automatic")
    with jax.set_mesh(mesh):
        x = _argument(mesh, shape)
        expected = np.asarray(jax.jit(jax.jacrev(f))(x))
        for form in ("bcoo", "structured"):
            found = jax.jit(jax_cce.jacobian(f, format=form))(x)
            np.testing.assert_allclose(found.todense(), expected, rtol=1e-12)
        values = jax.jit(jax_cce.jacobian(f, format="values"))(x)
    found = jax_cce.jacobian(f, format="values")(np.asarray(x))
    np.testing.assert_allclose(values, found, rtol=1e-14)


def test_an_output_that_devices_cannot_share_evenly():
    mesh = _mesh("automatic")

    def f(x):
        return jnp.diff(x**2) * x[1:]

    with jax.set_mesh(mesh):
        x = _argument(mesh, (64,))
        forward = jax.jit(jax.jacfwd(f)).lower(x).compile().as_text()
        assert "all-gather" in forward  # 63 rows are no result that devices can share
        dense = jax.jit(jax_cce.jacobian(f))
        product = jax.jit(lambda x: jax_cce.jacobian(f, format="structured")(x) @ x)
        assert "all-gather" not in dense.lower(x).compile().as_text()
        # The product has 63 numbers, which are gathered once; its coefficients are not.
        text = product.lower(x).compile().as_text()
        assert text.count(" all-gather") <= 1
        expected = jax.jit(jax.jacrev(f))(x)
        np.testing.assert_allclose(dense(x), expected, rtol=1e-12)
        np.testing.assert_allclose(product(x), expected @ x, rtol=1e-12)
