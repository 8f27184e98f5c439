"""`jax.export` with symbolic shapes: whatever is asked of a size has an answer for all sizes.

Each case is exported once and called at several sizes, 1 and what becomes 0 included.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from jax_cce.planning.task import task_of

W = np.linspace(-1.0, 1.0, 12).reshape(3, 4)


@jax.custom_vjp
def _wave(x):
    return jnp.sin(x)


_wave.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


# The function, the shapes of its arguments, and the sizes at which it is called.
CASES = {
    "shifted": (lambda x: x[1:] * x[:-1] ** 2, ["n"], [{"n": 1}, {"n": 2}, {"n": 5}]),
    "elementwise": (lambda x: jnp.sin(x) * x, ["n"], [{"n": 1}, {"n": 4}]),
    "number": (lambda x: jnp.sum(x**2) * x[-1], ["n"], [{"n": 1}, {"n": 4}]),
    "concatenated": (lambda x: jnp.concatenate([x, x**2]), ["n"], [{"n": 1}, {"n": 3}]),
    "split": (
        lambda x: x[: x.shape[0] // 2] + x[x.shape[0] // 2 :] ** 2,
        ["2*n"],
        [{"n": 1}, {"n": 3}],
    ),
    "half": (lambda x: x[: x.shape[0] // 2] ** 2, ["n"], [{"n": 1}, {"n": 2}, {"n": 5}]),
    "every other": (lambda x: x[::2] ** 2, ["n"], [{"n": 1}, {"n": 4}, {"n": 5}]),
    "one less": (lambda x: x**2 + jnp.sum(x), ["n - 1"], [{"n": 1}, {"n": 2}, {"n": 4}]),
    "several symbols": (
        lambda x, y: x[:, None] * jnp.sin(y),
        ["n", "m"],
        [{"n": 1, "m": 1}, {"n": 2, "m": 3}],
    ),
    "batch": (lambda x: jnp.tanh(x @ W), ["b, 3"], [{"b": 1}, {"b": 3}]),
    "parameters": (
        lambda w, x: jnp.sum(jnp.tanh(x @ w), 0),
        ["3, 4", "b, 3"],
        [{"b": 1}, {"b": 3}],
    ),
    "reshaped": (lambda x: jnp.cos(x.reshape(x.shape[0], -1)), ["b, 2, 3"], [{"b": 1}, {"b": 2}]),
    "flattened": (lambda x: jnp.cos(x.reshape(-1)), ["n, m"], [{"n": 1, "m": 1}, {"n": 2, "m": 3}]),
    "mapped": (lambda x: jax.vmap(lambda r: jnp.outer(r, r))(x), ["b, 2"], [{"b": 1}, {"b": 3}]),
    "first and last": (lambda x: x.at[0].add(x[-1] ** 2), ["n"], [{"n": 1}, {"n": 2}, {"n": 4}]),
    "rolled": (lambda x: jnp.roll(x, 1) * x, ["n"], [{"n": 1}, {"n": 4}]),
    "masked": (lambda x: jnp.where(x > 0, x**2, 0.0), ["n"], [{"n": 1}, {"n": 4}]),
    "cumulative": (lambda x: jnp.cumsum(jnp.sort(x) ** 2), ["n"], [{"n": 1}, {"n": 4}]),
    "scanned": (
        lambda x: lax.scan(lambda c, a: (c * jnp.sin(a), c + a), 1.0, x)[1],
        ["n"],
        [{"n": 1}, {"n": 4}],
    ),
    "custom rule": (lambda x: _wave(x) * x, ["n"], [{"n": 1}, {"n": 3}]),
    "constant": (lambda x: jnp.zeros(3), ["n"], [{"n": 1}, {"n": 3}]),
}


def _shapes(specs, constraints=()):
    scope = jax.export.SymbolicScope(constraints)
    return [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(spec, scope=scope), np.float64)
        for spec in specs
    ]


def _arrays(specs, sizes):
    draw = np.random.default_rng(0)
    shapes = [[int(eval(size, dict(sizes))) for size in spec.split(",")] for spec in specs]
    return [draw.normal(size=shape) for shape in shapes]


def _dense(blocks):
    return jax.tree.map(
        lambda block: block.todense(), blocks, is_leaf=lambda block: hasattr(block, "todense")
    )


def _assert_at_sizes(ways, expected, specs, sizes, constraints=()):
    """Exports all ways to compute something together, and calls them."""

    def together(*args):
        return expected(*args), [way(*args) for way in ways]

    exported = jax.export.export(jax.jit(together))(*_shapes(specs, constraints))
    exported = jax.export.deserialize(exported.serialize())
    for at in sizes:
        wanted, results = exported.call(*_arrays(specs, at))
        for result in results:
            for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=str(at))


def _jacobians(f, argnums, formats=("bcoo", "structured")):
    ways = [jax_cce.jacobian(f, argnums, order=order) for order in ("auto", "forward")]
    if f is CASES["custom rule"][0]:
        ways = ways[:1]  # JAX has no forward mode of it
    for form in formats:
        sparse = jax_cce.jacobian(f, argnums, format=form)
        ways.append(lambda *args, sparse=sparse: _dense(sparse(*args)))
    return ways


@pytest.mark.parametrize("name", CASES)
def test_all_formats_are_right_at_all_sizes(name):
    f, specs, sizes = CASES[name]
    argnums = tuple(range(len(specs)))
    _assert_at_sizes(_jacobians(f, argnums), jax.jacrev(f, argnums), specs, sizes)


@pytest.mark.parametrize("name", ["shifted", "number", "several symbols"])
def test_hessians(name):
    f, specs, sizes = CASES[name]
    argnums = tuple(range(len(specs)))
    ways = [jax_cce.hessian(f, argnums)]
    if name == "number":
        sparse = jax_cce.hessian(f, argnums, format="bcoo")
        ways.append(lambda *args: _dense(sparse(*args)))
    _assert_at_sizes(ways, jax.hessian(f, argnums), specs, sizes)


def test_constraints():
    def f(x):
        return x[:3] * x[3:6] + jnp.sum(x)

    _assert_at_sizes(_jacobians(f, 0), jax.jacrev(f), ["n"], [{"n": 6}, {"n": 8}], ["n >= 6"])


def test_a_batch_of_symbolic_size():
    def f(x):
        return jnp.sin(x[1:]) * x[:-1]

    # JAX cannot make a BCOO with a batch axis of symbolic size dense.
    ways = [jax.vmap(way) for way in _jacobians(f, 0, formats=("structured",))]
    _assert_at_sizes(ways, jax.vmap(jax.jacrev(f)), ["b, 4"], [{"b": 1}, {"b": 3}])


def test_terms_keep_their_structure_in_symbolic_sizes():
    def entries(x):
        shifted = jax_cce.jacobian(lambda x: x[1:] * x[:-1] ** 2, format="bcoo")(x)
        counts.append((jax_cce.jacobian(jnp.sin, format="bcoo")(x).nse, shifted.nse, x.shape[0]))
        return shifted.todense()

    counts = []
    jax.export.export(jax.jit(entries))(*_shapes(["n"]))
    ((diagonal, two_diagonals, n),) = counts
    assert diagonal == n
    assert two_diagonals == 2 * n - 2


def test_a_plan_says_why():
    (x,) = _shapes(["n"])
    plan = jax_cce.plan(CASES["shifted"][0])(x)
    assert plan.method == "jacrev"
    assert "as its shapes are symbolic" in str(plan)
    assert jax_cce.plan(CASES["shifted"][0], format="bcoo")(x).method == "elimination"


def test_a_given_order_is_checked():
    (x,) = _shapes(["n"])
    with pytest.raises(ValueError, match="permutation"):
        jax_cce.plan(CASES["shifted"][0], order=(17,))(x)


def _narrow(x):
    """A chain through two numbers, on which orders differ."""
    wide = jnp.tanh(x[1:]) * x[:-1]
    two = jnp.stack([jnp.sum(wide), jnp.sum(wide**2)])
    return jnp.exp(two[0] * jnp.sin(wide) * two[1]) * wide


@pytest.fixture
def store(monkeypatch):
    """A registry in memory, without the entries that come with the package."""
    kept = jax_cce.registry.Registry()
    monkeypatch.setattr(jax_cce.registry, "default", lambda: kept)
    return kept


@pytest.mark.parametrize("format", ["dense", "bcoo"])
def test_an_order_of_one_size_is_one_of_any_size(format, store):
    (x,) = _shapes(["n"])
    before = jax_cce.plan(_narrow, format=format)(x)
    assert before.source == "symbolic shapes"
    concrete = jax.ShapeDtypeStruct((6,), np.float64)
    plan = jax_cce.plan(_narrow, format=format, order="forward")(concrete)
    # An order that no rule would find.
    order = (*plan.order[2:], *plan.order[:2])
    task = task_of(_narrow, format=format)(concrete)
    entry = jax_cce.registry.StoredOrder(task.key, "flops", order, 1, topology=task.topology())
    store.put(entry)
    after = jax_cce.plan(_narrow, format=format)(x)
    assert after.source == "symbolic shapes, stored for another size"
    assert after.method == "elimination"
    ranks = [sorted(each).index for each in (order, after.order)]
    assert list(map(ranks[0], order)) == list(map(ranks[1], after.order))
    jacobian = jax_cce.jacobian(_narrow, format=format)
    ways = [jacobian if format == "dense" else lambda x: _dense(jacobian(x))]
    _assert_at_sizes(ways, jax.jacrev(_narrow), ["n"], [{"n": 2}, {"n": 7}])


def test_a_search_at_one_size_is_for_all(store):
    concrete = jax.ShapeDtypeStruct((6,), np.float64)
    how = {"cost": "flops", "budget": 1.0, "format": "bcoo", "registry": store}
    found = jax_cce.optimize(_narrow, **how)(concrete)
    (x,) = _shapes(["n"])
    plan = jax_cce.plan(_narrow, format="bcoo")(x)
    assert plan.source == "symbolic shapes, stored for another size"
    assert len(plan.order) == len(found.entry.order)
    other = jax_cce.plan(lambda x: jnp.cos(x[1:]) * x[:-1], format="bcoo")(x)
    assert other.source == "symbolic shapes"


def test_a_mode_that_was_the_fastest_at_one_size(store):
    task = task_of(_narrow)(jax.ShapeDtypeStruct((6,), np.float64))
    facts = {"method": "jacfwd", "device": jax.devices()[0].device_kind}
    order = task.vertices[False]
    entry = jax_cce.registry.StoredOrder(
        task.key, "runtime", order, 1e-6, topology=task.topology(), **facts
    )
    store.put(entry)
    (x,) = _shapes(["n"])
    plan = jax_cce.plan(_narrow)(x)
    assert plan.method == "jacfwd"
    assert "measured to be faster for another size" in str(plan)


def test_plans_show_costs_that_are_expressions():
    (x,) = _shapes(["n"])
    plan = jax_cce.plan(CASES["shifted"][0], format="bcoo")(x)
    assert "n - 1 multiplications" in str(plan)
    assert "n - 1" in plan._repr_html_()


def test_scans_and_sizes_that_are_read_keep_their_structure():
    def steps(x):
        return lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x, x)

    def halves(x):
        return x[: x.shape[0] // 2] * x[x.shape[0] // 2 :] ** 2

    for f, spec, sizes in ((steps, "n", (1, 4)), (halves, "2*n", (1, 3))):
        (x,) = _shapes([spec])
        assert jax_cce.plan(f, format="bcoo")(x).method == "elimination"
        at = [{"n": n} for n in sizes]
        _assert_at_sizes(_jacobians(f, 0), jax.jacrev(f), [spec], at)
