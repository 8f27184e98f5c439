"""`jax.checkpoint` regions are computed again where the order of elimination is not forward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import jax_cce
from cases.agreement import assert_agree

POLICIES = jax.checkpoint_policies
X = jnp.linspace(-1.0, 1.5, 24).reshape(4, 6)
W = jnp.cos(jnp.arange(36.0)).reshape(6, 6)


def sines(x):
    return jnp.sin(jnp.sin(jnp.sin(x)))


def dense(x):
    return checkpoint_name(jnp.tanh(x @ W), "hidden") * jnp.tanh(jnp.sin(x) @ W)


def network(region: Callable[..., Any], depth: int = 3) -> Callable[..., Any]:
    def total(x):
        for _ in range(depth):
            x = region(x)
        return jnp.sum(x**2)

    return total


def lowered(transform: Any, function: Any, *names: str) -> list[int]:
    text = jax.jit(transform(function)).lower(X).as_text()
    return [text.count(f"stablehlo.{name}") for name in names]


REGIONS = {
    "sines": jax.checkpoint(sines),
    "products": jax.checkpoint(dense),
    "saving products": jax.checkpoint(dense, policy=POLICIES.dots_saveable),
    "saving by name": jax.checkpoint(dense, policy=POLICIES.save_only_these_names("hidden")),
    "saving all": jax.checkpoint(dense, policy=POLICIES.everything_saveable),
    "nested": jax.checkpoint(lambda x: jax.checkpoint(sines)(jax.checkpoint(dense)(x))),
}
COUNTED = "sine", "tanh", "dot_general", "optimization_barrier"


@pytest.mark.parametrize("name", REGIONS)
def test_as_much_is_computed_again_as_by_jacrev(name: str):
    function = network(REGIONS[name])
    theirs = lowered(jax.jacrev, function, *COUNTED)
    ours = lowered(lambda f: jax_cce.jacobian(f, order="reverse"), function, *COUNTED)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert ours[3] == theirs[3]
    assert_agree(jax_cce.jacobian(function, order="reverse")(X), jax.jit(jax.jacrev(function))(X))


def test_calls_around_and_inside_change_nothing():
    function = network(jax.jit(jax.checkpoint(jax.jit(dense))))
    reverse = lambda f: jax_cce.jacobian(f, order="reverse")  # noqa: E731
    assert lowered(reverse, function, *COUNTED) == lowered(
        reverse, network(REGIONS["products"]), *COUNTED
    )


def test_what_the_compiler_may_merge_is_merged():
    function = network(jax.checkpoint(dense, prevent_cse=False))
    assert lowered(jax_cce.jacobian, function, *COUNTED) == lowered(
        jax_cce.jacobian, network(dense), *COUNTED
    )


@pytest.mark.parametrize("name", ["sines", "products", "nested"])
def test_the_default_order_computes_them_again(name: str):
    function = network(REGIONS[name])
    theirs = lowered(jax.jacrev, function, "optimization_barrier")
    assert lowered(jax_cce.jacobian, function, "optimization_barrier") == theirs
    assert_agree(jax_cce.jacobian(function)(X), jax.jit(jax.jacrev(function))(X))


def test_nothing_is_computed_again_where_the_order_is_forward():
    function = network(REGIONS["products"])
    plain = network(dense)
    forward = lambda f: jax_cce.jacobian(f, order="forward")  # noqa: E731
    assert lowered(forward, function, *COUNTED) == lowered(forward, plain, *COUNTED)
    assert_agree(forward(function)(X), jax.jit(jax.jacrev(function))(X))


def test_plans_without_a_region_are_what_they_were():
    with_regions, without = (
        jax_cce.plan(network(f), order="reverse")(X) for f in (REGIONS["products"], dense)
    )
    assert not without.recomputed
    assert "checkpoint regions" not in str(without)
    assert with_regions.order == without.order
    assert with_regions.steps == without.steps
    assert lowered(jax_cce.jacobian, network(dense), "optimization_barrier") == [0]


@pytest.mark.parametrize("name", ["sines", "saving products", "nested"])
@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_in_sparse_formats(name: str, form: Any):
    def function(x):
        return jnp.cos(REGIONS[name](x))

    expected = jax.jit(jax.jacrev(function))(X)
    found = jax_cce.jacobian(function, format=form, order="reverse")
    assert_agree(found(X).todense(), expected)
    assert lowered(lambda f: found, function, "optimization_barrier")[0] > 0


def test_reports_say_what_becomes_of_regions():
    function = network(REGIONS["sines"])
    for order, said in [("reverse", "3 computed again, 0"), ("forward", "0 computed again, 3")]:
        assert f"checkpoint regions: {said}" in str(jax_cce.plan(function, order=order)(X))
        assert f"checkpoint regions: {said}" in str(jax_cce.explain(function, order=order)(X))
    assert "checkpoint regions" not in str(jax_cce.explain(network(sines))(X))


def test_programs_with_and_without_regions_are_told_apart():
    jax_cce.cache_clear()
    for f in (sines, jax.checkpoint(sines)):
        jax_cce.jacobian(network(f))(X)
    assert jax_cce.cache_info().misses == 2
    # A policy made anew says the same.
    for _ in range(2):
        policy = POLICIES.save_only_these_names("hidden")
        jax_cce.jacobian(network(jax.checkpoint(dense, policy=policy)))(X)
    assert jax_cce.cache_info().misses == 3


def test_a_region_in_a_scan_keeps_only_what_it_is_given():
    def steps(body):
        return lambda x: jnp.sum(lax.scan(lambda c, _: (body(c), None), x, None, length=16)[0])

    def size(f):
        # The stacked values, 16 x 4 x 6, that the loop hands to the one behind it.
        jacobian = jax_cce.jacobian(f, order="forward")
        return jax.jit(jacobian).lower(X).as_text().count("tensor<16x4x6x")

    plain, again = (
        steps(lambda x: sines(sines(x))),
        steps(jax.checkpoint(lambda x: sines(sines(x)))),
    )
    assert size(again) < size(plain)
    assert_agree(jax_cce.jacobian(again)(X), jax.jit(jax.jacrev(plain))(X))


def with_a_key(x):
    noise = jax.checkpoint(lambda k, x: jnp.sin(jax.random.normal(k, x.shape) * jnp.sin(x)))
    return noise(jax.random.key(0), x) * x


def with_integers(x):
    return jax.checkpoint(lambda x, k: jnp.sin(x[k]) ** 3)(jnp.sin(x), jnp.array([2, 0]))


def with_a_custom_rule(x):
    return jnp.sum(jax.checkpoint(lambda x: jax.nn.relu(jax.nn.silu(x)) * x)(jnp.sin(x)))


def with_an_operator(x):
    solve = jax.checkpoint(lambda x: jnp.linalg.solve(W + 9 * jnp.eye(6), jnp.sin(x).T) ** 2)
    return jnp.sum(jnp.cumsum(solve(x)))


def with_complex_values(x):
    return jax.checkpoint(lambda x: jnp.abs(jnp.fft.fft(jnp.sin(x))) ** 2)(jnp.cos(x))[0]


def with_several_results(x):
    a, (b, c) = jax.checkpoint(lambda x: (jnp.sin(x), (jnp.cos(x), x[0, 0])))(x**2)
    return a * b * c, jnp.sum(a)


def with_a_branch(x):
    return jax.checkpoint(lambda x: lax.cond(x[0, 0] < 0, jnp.sin, jnp.cos, x) ** 2)(x)


def with_nothing(x):
    return jax.checkpoint(lambda x: jnp.sin(jnp.sin(x[:0])))(x) * 2


@pytest.mark.parametrize(
    "function",
    [
        with_a_branch,
        with_a_custom_rule,
        with_a_key,
        with_an_operator,
        with_complex_values,
        with_integers,
        with_nothing,
        with_several_results,
    ],
)
@pytest.mark.parametrize("order", ["auto", "reverse", "markowitz"])
def test_values_of_all_kinds(function: Any, order: Any):
    assert_agree(jax_cce.jacobian(function, order=order)(X), jax.jit(jax.jacrev(function))(X))


def test_transformations_around():
    function = network(REGIONS["nested"], depth=1)
    points = jnp.stack([X, X**2])
    ours, theirs = jax_cce.value_and_jacobian(function), jax.value_and_grad(function)
    assert_agree(jax.vmap(ours)(points), jax.vmap(theirs)(points))
    assert_agree(lax.map(ours, points), lax.map(theirs, points))
    small = network(jax.checkpoint(sines), depth=2)
    assert_agree(jax_cce.hessian(small)(X[0]), jax.jit(jax.hessian(small))(X[0]))
    assert_agree(
        jax_cce.hessian(small, format="bcoo")(X[0]).todense(), jax.jit(jax.hessian(small))(X[0])
    )
    assert jax_cce.hessian(small, format="bcoo")(X[0]).nse == 6


def test_inside_shard_map():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    function = network(REGIONS["products"], depth=2)

    def mapped(transform):
        return jax.shard_map(transform(function), mesh=mesh, in_specs=spec, out_specs=spec)

    ours = mapped(lambda f: jax_cce.jacobian(f, order="reverse"))
    assert_agree(jax.jit(ours)(X), jax.jit(mapped(jax.jacrev))(X))


def test_a_print_in_a_region_happens_once(capfd: pytest.CaptureFixture[str]):
    @jax.checkpoint
    def region(x):
        jax.debug.print("seen")
        return sines(x)

    jax_cce.jacobian(network(region, depth=1), order="reverse")(X)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == 1


def test_a_barrier_of_the_user_is_an_identity():
    def function(x):
        a, b = lax.optimization_barrier((jnp.sin(x[0]), x[1]))
        return a * b

    found = jax_cce.jacobian(function, format="bcoo")(X[:2])
    assert found.nse == 12
    assert_agree(found.todense(), jax.jit(jax.jacrev(function))(X[:2]))
