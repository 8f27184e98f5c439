"""Explicitly sharded programs: values on several meshes, out_sharding, reduced axes.

The mesh of a value is that of its type, which need not be the one of the context, and a partition
spec may have reduced or unreduced axes. The Jacobian has the type that `jax.jacrev` gives it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import jax_cce

E, A = AxisType.Explicit, AxisType.Auto
MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(E, E))
MIXED = jax.make_mesh((2, 2), ("x", "y"), axis_types=(E, A))
LINE = jax.make_mesh((2,), ("x",), axis_types=(E,))
OTHER = MESH.abstract_mesh.update(axis_sizes=(4, 1), axis_names=("a", "b"))

TOKEN = np.array([[1, 0], [3, 2]])


def _array(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def _looked_up(table):
    return table.at[TOKEN].get(out_sharding=P("x", None, None)).sum()


def _looked_up_whole(table):
    return table.at[TOKEN].get(out_sharding=P("x", None, "y")) ** 2


def _on_another_mesh(x):
    x = jnp.sin(x)
    with jax.sharding.use_abstract_mesh(OTHER):
        x = reshard(x, P(("a", "b"), None)) * 2
        x = x * jnp.cos(x)
    return reshard(x, P("y", None))


def _operator_on_another_mesh(x):
    with jax.sharding.use_abstract_mesh(OTHER):
        x = jnp.cumsum(reshard(x, P(("a", "b"), None)) ** 2, 1)
        x = lax.scan(lambda c, a: (jnp.sin(c) * a, c), x[:, 0], x.T)[1]
    return reshard(x, P(None, "y"))


def _in_auto_axes(x):
    @functools.partial(jax.sharding.auto_axes, axes=("x", "y"), out_sharding=P("x", None))
    def inside(z):
        return jnp.tanh(z @ z.T)

    return inside(x) ** 2


def _contracted(a, b):
    return jnp.dot(jnp.sin(a), b, out_sharding=P("x", None))


def _in_shard_map(x):
    mapped = jax.shard_map(lambda z: jnp.sin(z) * z, in_specs=P("x"), out_specs=P("x"))
    return mapped(x) ** 2


def _unreduced(a, b):
    product = jnp.dot(a**2, b, out_sharding=P(None, None, unreduced={"x"}))
    return jnp.sin(reshard(product + product, P(None, None)))


def _made_reduced(x, b):
    return jnp.tanh(reshard(x**2, P(None, None, reduced={"x"})) @ b)


def _with_reduced(b):
    a = jnp.reshape(jnp.arange(8.0), (4, 2))
    return jnp.sin(b) * (jnp.sin(reshard(a, P(None, None, reduced={"x"}))) @ b).sum(0)


CASES = {
    "gather": (MESH, _looked_up, [((4, 4), P(None, "x"))]),
    "gather of a sharded row": (MESH, _looked_up_whole, [((4, 4), P(None, "y"))]),
    "mixed axes": (MIXED, lambda t: _looked_up(t) * t, [((4, 4), P(None, "x"))]),
    "another mesh": (MESH, _on_another_mesh, [((8, 2), P("x", "y"))]),
    "another mesh, to a number": (
        MESH,
        lambda x: _on_another_mesh(x).sum(),
        [((8, 2), P("x", "y"))],
    ),
    "operators on another mesh": (MESH, _operator_on_another_mesh, [((4, 2), P("x", "y"))]),
    "a sort": (MESH, lambda x: jnp.sort(x**2, 1), [((4, 2), P(None, None))]),
    "auto axes": (MESH, _in_auto_axes, [((4, 2), P("x", "y"))]),
    "two operands": (MESH, _contracted, [((4, 2), P("x", "y")), ((2, 4), P("y", None))]),
    "shard_map": (MESH, _in_shard_map, [((4,), P("x"))]),
    "unreduced": (LINE, _unreduced, [((4, 4), P(None, "x")), ((4, 3), P("x", None))]),
    "to reduced": (LINE, _made_reduced, [((3, 4), P(None, None)), ((4, 2), P(None, "x"))]),
    "a reduced constant": (LINE, _with_reduced, [((2, 8), P(None, "x"))]),
}


def _arguments(mesh, arguments):
    return [jax.device_put(_array(*s), NamedSharding(mesh, spec)) for s, spec in arguments]


def _assert_alike(ours, theirs, *, types=True):
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if types:
            assert jax.typeof(our).sharding == jax.typeof(their).sharding
        np.testing.assert_allclose(np.asarray(our), np.asarray(their), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_jacobian_has_the_type_and_the_values_of_jacrev(name):
    mesh, f, arguments = CASES[name]
    argnums = tuple(range(len(arguments)))
    with jax.set_mesh(mesh):
        args = _arguments(mesh, arguments)
        expected = jax.jit(jax.jacrev(f, argnums))(*args)
        orders = {order: jax_cce.jacobian(f, argnums, order=order) for order in ("auto", "forward")}
        _assert_alike(jax.jit(lambda *a: [J(*a) for J in orders.values()])(*args), [expected] * 2)
        _assert_alike(jax_cce.jacobian(f, argnums, order="reverse")(*args), expected)


@pytest.mark.parametrize("name", CASES)
def test_sparse_formats_have_the_values_of_jacrev(name):
    mesh, f, arguments = CASES[name]
    argnums = tuple(range(len(arguments)))
    with jax.set_mesh(mesh):
        args = _arguments(mesh, arguments)
        expected = jax.jit(jax.jacrev(f, argnums))(*args)
        for form in ("bcoo", "structured"):
            blocks = jax_cce.jacobian(f, argnums, format=form)(*args)
            _assert_alike([block.todense() for block in blocks], expected, types=False)


def test_a_gather_keeps_its_pattern():
    with jax.set_mesh(MESH):
        (table,) = _arguments(MESH, [((4, 4), P(None, "y"))])
        assert jax_cce.jacobian(_looked_up_whole, format="bcoo")(table).nse == 16


@pytest.mark.parametrize("name", ["another mesh, to a number", "gather", "auto axes"])
def test_hessian(name):
    mesh, f, arguments = CASES[name]
    with jax.set_mesh(mesh):
        args = _arguments(mesh, arguments)
        expected = jax.jit(jax.jacrev(jax.jacrev(f)))(*args)
        _assert_alike(jax.jit(jax_cce.hessian(f))(*args), expected)


def test_the_jacobian_of_a_reduced_argument_is_unreduced():
    with jax.set_mesh(LINE):
        a = reshard(_array(4, 2), P(None, None, reduced={"x"}))
        (b,) = _arguments(LINE, [((2, 8), P(None, "x"))])
        jac = jax.jit(jax_cce.jacobian(lambda a: (jnp.sin(a) @ b).sum(0)))(a)
        assert jax.typeof(jac).sharding.spec.unreduced == {"x"}
        expected = jax.jacrev(lambda a: (jnp.sin(a) @ b).sum(0))(reshard(a, P(None, None)))
        np.testing.assert_allclose(reshard(jac, P()), expected)


def test_positions_that_vmap_shards_over_devices():
    def f(x):
        order = jnp.argsort(x)
        return jnp.cumsum(jnp.linalg.solve(jnp.diag(x**2) + 1.0, x[order]))

    x = _array(8, 3)
    expected = jax.vmap(jax.jacrev(f))(x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(E,))
    with jax.set_mesh(mesh):
        batch = jax.device_put(x, NamedSharding(mesh, P("data")))
        jac = jax.jit(jax.vmap(jax_cce.jacobian(f)))(batch)
    assert jax.typeof(jac).sharding.spec == P("data", None, None)
    np.testing.assert_allclose(np.asarray(jac), expected, rtol=1e-9, atol=1e-9)


ARITHMETIC = {
    "sum": (lambda j: j + j, lambda d: 2 * d),
    "difference": (lambda j: j - 0.5 * j, lambda d: d / 2),
    "quotient": (lambda j: -j / 2, lambda d: -d / 2),
    "product": (lambda j: j @ j, lambda d: d @ d),
    "gram": (lambda j: j.gram(), lambda d: d.T @ d),
    "rows": (lambda j: j[2:5], lambda d: d[2:5]),
    "damped": (lambda j: j + jax_cce.StructuredJacobian.eye((8,)), lambda d: d + np.eye(8)),
    "totals": (lambda j: j.sum(0), lambda d: d.sum(0)),
    "norm": (lambda j: j.norm(), np.linalg.norm),
    "solution": (lambda j: j.solve(jnp.arange(8.0)), lambda d: np.linalg.solve(d, np.arange(8.0))),
    "triangle": (lambda j: j.lower_triangle(), np.tril),
    "trace": (lambda j: j.trace(), np.trace),
}


@pytest.mark.parametrize("jit", [False, True], ids=["called", "jit"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name, jit):
    ours, theirs = ARITHMETIC[name]
    with jax.set_mesh(LINE):
        x = jax.device_put(jnp.linspace(0.1, 1.0, 8), NamedSharding(LINE, P("x")))
        jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * x, format="structured")(x)
        found = (jax.jit(ours) if jit else ours)(jacobian)
        found = found.todense() if hasattr(found, "todense") else found
    dense = np.diag(np.cos(x) * x + np.sin(x))
    np.testing.assert_allclose(np.asarray(found), theirs(dense), rtol=1e-12)
