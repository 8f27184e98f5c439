"""max_bytes: what runs stays below the limit, and gives what jax.jacrev gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from jax_cce import registry
from jax_cce.execution import chunks, limits
from jax_cce.jax_internals import device_kind
from jax_cce.planning.task import task_of
from jax_cce.program import tracing
from jax_cce.registry import StoredOrder

KEYS = np.random.default_rng(0)
W = KEYS.normal(size=(80, 80)) / 9
INTO, OUT = KEYS.normal(size=(90, 60)) / 9, KEYS.normal(size=(70, 90)) / 9
X, WIDE = np.linspace(-1.0, 1.0, 80), np.linspace(-1.0, 1.0, 60)


def dense(x):
    return jnp.tanh(OUT @ jnp.sin(INTO @ jnp.cos(x)))


def simulated(x, steps=1000):
    def step(state, force):
        return jnp.tanh(W @ state + force) + 0.1 * state * x, None

    return lax.scan(step, x, jnp.linspace(0.0, 1.0, steps))[0][:2]


def heads(a, b):
    return {"sum": a["x"] @ b, "product": jnp.sin(a["x"]) * a["scale"]}


A = {"x": np.linspace(0.1, 1.0, 12).reshape(3, 4), "scale": np.float64(0.3)}
B = np.linspace(-1.0, 1.0, 20).reshape(4, 5)


@pytest.fixture(autouse=True)
def _precise(monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", "off")
    with jax.enable_x64(True):
        yield


def _temporaries(jacobian, *args):
    return jax.jit(jacobian).lower(*args).compile().memory_analysis().temp_size_in_bytes


def _limited(fun, limit, *args, **how):
    """The Jacobian within a limit, seen to stay there and to be what jax.jacrev says it is."""
    jacobian = jax_cce.jacobian(fun, max_bytes=limit, **how)
    assert _temporaries(jacobian, *args) <= limit
    expected = jax.jit(jax.jacrev(fun, **how))(*args)
    assert_agree(jacobian(*args), expected)
    assert_agree(jax.jit(jacobian)(*args), expected)
    return jax_cce.plan(fun, max_bytes=limit, **how)(*args)


@pytest.mark.parametrize("share", [2, 4, 10])
def test_a_dense_function_goes_in_chunks(share):
    default = jax_cce.jacobian(dense, backend="xla")
    plan = _limited(dense, _temporaries(default, WIDE) // share, WIDE)
    assert plan.method == "jacfwd"
    assert 60 // (4 * share) <= plan.chunk <= 60 // share + 8
    assert f"{plan.chunk} column" in str(plan)
    assert "to stay within max_bytes" in str(plan)


@pytest.mark.parametrize("limit, levels", [(1_000_000, 1), (200_000, 2), (36_000, 3)])
def test_scans_are_run_again_where_reverse_mode_keeps_much(limit, levels):
    assert _temporaries(jax.jacrev(simulated), X) > 1_000_000
    plan = _limited(simulated, limit, X)
    assert (plan.method, plan.levels) == ("jacrev", levels)


def test_forward_mode_where_reverse_mode_keeps_too_much_all_the_same():
    assert _limited(simulated, 20_000, X).method == "jacfwd"


def test_a_limit_that_the_default_keeps_changes_nothing():
    plan = _limited(dense, 10**9, WIDE)
    default = jax_cce.plan(dense)(WIDE)
    assert (plan.method, plan.order, plan.source) == (default.method, default.order, default.source)


@pytest.mark.parametrize("form", ["dense", "structured"])
def test_a_named_order_comes_before_the_modes(form, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))

    def squeezed(x):
        wide = jnp.sin(jnp.concatenate([INTO @ x * k for k in range(9)]))
        return jnp.sum(jnp.tanh(wide)[:, None] * wide[:7], 0)

    task = task_of(squeezed, format=form)(WIDE)
    plans = {o: jax_cce.plan(squeezed, order=o, format=form)(WIDE) for o in ("forward", "reverse")}
    sizes = {o: _temporaries(jax_cce.jacobian(squeezed, order=o, format=form), WIDE) for o in plans}
    worse = max(sizes, key=sizes.get)
    better = {"forward": "reverse", "reverse": "forward"}[worse]
    assert sizes[better] < sizes[worse]
    # As if the other one had been found to be the fastest.
    entry = StoredOrder(task.key, "flops", plans[worse].order, 1)
    registry.put(entry)
    assert jax_cce.plan(squeezed, format=form)(WIDE).order == plans[worse].order
    within = jax_cce.plan(squeezed, format=form, max_bytes=sizes[better])(WIDE)
    assert within.order == plans[better].order
    assert within.source == "max_bytes"


def test_the_order_of_least_memory_is_stored_for_those_who_ask(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    before = jax_cce.plan(dense)(WIDE)
    found = jax_cce.optimize(dense, cost="memory", budget=0.5, progress=False)(WIDE)
    assert found.entry.cost == "memory"
    assert found.value == min(found.reference.values())
    assert {"jacfwd", "jacrev"} <= set(found.reference)
    assert found.value <= _temporaries(jax_cce.jacobian(dense, backend="xla"), WIDE)
    after = jax_cce.plan(dense)(WIDE)
    assert (after.order, after.source) == (before.order, before.source)
    own = jax_cce.jacobian(dense, order=found.order) if found.plan.method == "elimination" else None
    if own is not None:
        assert _temporaries(own, WIDE) == found.value


def test_the_stored_order_comes_after_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    reverse = jax_cce.plan(dense, order="reverse")(WIDE)
    size = _temporaries(jax_cce.jacobian(dense, order="reverse"), WIDE)
    default = _temporaries(jax_cce.jacobian(dense, backend="xla"), WIDE)
    key = task_of(dense)(WIDE).key
    entry = StoredOrder(key, "memory", reverse.order, size, device=device_kind())
    registry.put(entry)
    assert jax_cce.plan(dense, max_bytes=default)(WIDE).source != "max_bytes"
    seen = jax_cce.plan(dense, max_bytes=max(size, default) - 1)(WIDE)
    assert (seen.order == reverse.order) == (size < default)
    assert_agree(jax_cce.jacobian(dense, max_bytes=default)(WIDE), jax.jit(jax.jacrev(dense))(WIDE))


def test_several_arguments_and_trees():
    default = jax_cce.jacobian(heads, (0, 1), backend="xla")
    least = _temporaries(default, A, B)
    assert_agree(
        jax_cce.jacobian(heads, (0, 1), max_bytes=least)(A, B),
        jax.jit(jax.jacrev(heads, (0, 1)))(A, B),
    )
    for by, method in ((chunks.by_columns, jax.jacfwd), (chunks.by_rows, jax.jacrev)):
        for chunk in (1, 5, 12, 99):

            def function(a, b):
                return jax.tree.leaves(heads({"x": a, "scale": A["scale"]}, b)), None

            got, _ = by(function, (jnp.asarray(A["x"]), jnp.asarray(B)), chunk)
            want = method(lambda a, b, f=function: f(a, b)[0], (0, 1))(A["x"], B)
            assert_agree([list(row) for row in got], [list(row) for row in want])


@pytest.mark.parametrize("shape", [(0,), (1,), (), (3, 0)])
def test_empty_and_single_inputs_in_chunks(shape):
    def function(x):
        return [jnp.sum(jnp.sin(x)), jnp.cos(x)], None

    x = jnp.full(shape, 0.7, np.float64)
    for by in (chunks.by_columns, chunks.by_rows):
        got, _ = by(function, (x,), 2)
        assert_agree([row[0] for row in got], jax.jit(jax.jacrev(lambda x: function(x)[0]))(x))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [2, 12, 97])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_scans_by_segments_are_the_scans(levels, steps, reverse):
    forces = np.linspace(-1.0, 1.0, steps)

    def scanned(x):
        def step(state, force):
            count, values = state
            return (count + 1, jnp.sin(values * x + force + count)), values[0] * force

        start = (jnp.int32(0), x)
        (_, values), seen = lax.scan(step, start, forces, reverse=reverse)
        return values, seen

    x = jnp.array([0.3, 0.8])
    program, constants = tracing.trace(lambda x: scanned(x), [x], hoist=False)

    def again(x):
        return tuple(chunks.evaluate(program, constants, [x], levels))

    assert_agree(again(x), scanned(x))
    assert_agree(jax.jacrev(again)(x), jax.jit(jax.jacrev(scanned))(x))
    assert_agree(jax.jacfwd(again)(x), jax.jit(jax.jacfwd(scanned))(x))


def test_points_of_vmap_are_counted():
    points = np.linspace(-1.0, 1.0, 8 * 60).reshape(8, 60)
    one = _temporaries(jax_cce.jacobian(dense, backend="xla"), WIDE)
    jacobian = jax.vmap(jax_cce.jacobian(dense, max_bytes=one))
    assert _temporaries(jacobian, points) <= one
    expected = jax.vmap(jax.jacrev(dense))(points)
    assert_agree(jacobian(points), expected)
    assert_agree(jax.jit(jacobian)(points), expected)


def test_points_differ_in_what_the_function_closes_over():
    def of(scale, x):
        return jax_cce.jacobian(lambda x: dense(x * scale), max_bytes=60_000)(x)

    scales = np.linspace(0.5, 1.0, 4)
    mapped = jax.vmap(of, (0, None))
    assert _temporaries(mapped, scales, WIDE) <= 60_000
    expected = jax.vmap(lambda s, x: jax.jit(jax.jacrev(lambda x: dense(x * s)))(x), (0, None))
    assert_agree(mapped(scales, WIDE), expected(scales, WIDE))


@pytest.mark.parametrize("limit, method", [(8_000, "jacfwd"), (40_000, "jacrev")])
def test_the_jacobian_is_differentiated_again(limit, method):
    def norm(jacobian, x):
        return jnp.sum(jacobian(x) ** 2)

    short = functools.partial(simulated, steps=50)
    expected = jax.grad(lambda x: norm(jax.jacrev(short), x))(X)
    assert _limited(short, limit, X).method == method
    jacobian = jax_cce.jacobian(short, max_bytes=limit)
    assert_agree(jax.grad(lambda x: norm(jacobian, x))(X), expected)
    assert_agree(jax.jacfwd(lambda x: norm(jacobian, x))(X), expected)


def test_value_auxiliary_data_and_hessian():
    def energy(x):
        return jnp.sum(jnp.tanh(INTO @ x) ** 2)

    limit = _temporaries(jax_cce.hessian(energy, backend="xla"), WIDE) // 4
    hessian = jax_cce.hessian(energy, max_bytes=limit)
    assert _temporaries(hessian, WIDE) <= limit
    assert_agree(hessian(WIDE), jax.jit(jax.hessian(energy))(WIDE))
    both = jax_cce.value_and_jacobian(lambda x: (dense(x), x[:3]), has_aux=True, max_bytes=40_000)
    assert _temporaries(both, WIDE) <= 40_000
    assert_agree(
        both(WIDE), ((dense(WIDE), jnp.asarray(WIDE[:3])), jax.jit(jax.jacrev(dense))(WIDE))
    )


def test_nothing_fits():
    with pytest.raises(
        MemoryError, match=r"max_bytes=100; the least found is [\d,]+ bytes, jax.jac"
    ):
        jax_cce.jacobian(dense, max_bytes=100)(WIDE)
    with pytest.raises(MemoryError, match="a function of fewer inputs"):
        jax.jit(jax_cce.jacobian(dense, max_bytes=100))(WIDE)
    with pytest.raises(MemoryError, match="max_bytes=100"):
        jax_cce.plan(dense, max_bytes=100)(WIDE)


def test_what_was_measured_is_remembered(monkeypatch):
    seen = []
    temporaries = limits.temporaries
    monkeypatch.setattr(
        limits, "temporaries", lambda *args: seen.append(args) or temporaries(*args)
    )
    jax_cce.cache_clear()
    counts = []
    for limit in (20_000, 20_000, 21_000):
        jax_cce.plan(lambda x: dense(x) + 1.0, max_bytes=limit)(WIDE)
        counts.append(len(seen))
    assert counts[0] > 3
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_sparse_formats_choose_among_orders(form):
    def stencil(x):
        return jnp.sin(x[1:] * x[:-1]) * x[1:]

    limit = _temporaries(jax_cce.jacobian(stencil, format=form), WIDE)
    jacobian = jax_cce.jacobian(stencil, format=form, max_bytes=limit)
    assert_agree(jacobian(WIDE).todense(), jax.jit(jax.jacrev(stencil))(WIDE))
    with pytest.raises(MemoryError, match="by elimination"):
        jax_cce.jacobian(lambda x: jnp.cumsum(dense(x)), format=form, max_bytes=0)(WIDE)


def test_a_mode_that_meets_what_a_mask_hides_is_no_candidate():
    def masked(x):
        return dense(jnp.where(x > 0, jnp.sqrt(x), 0.0))[:20]

    x = jnp.maximum(WIDE, 0.0)
    assert not np.all(np.isfinite(jax.jit(jax.jacrev(masked))(x)))
    limit = _temporaries(jax_cce.jacobian(masked, backend="xla"), x) // 2
    assert jax_cce.plan(masked, max_bytes=limit)(x).method == "jacfwd"
    assert_agree(jax_cce.jacobian(masked, max_bytes=limit)(x), jax.jit(jax.jacfwd(masked))(x))
    # Without the mask reverse mode is what has fewer rows to pull.
    unmasked = jax_cce.plan(lambda x: dense(x)[:20], max_bytes=limit)(x)
    assert unmasked.method == "jacrev"


def test_custom_rules_loops_and_complex_numbers():
    @jax.custom_vjp
    def scaled(x):
        return jnp.sin(x) * 2

    scaled.defvjp(lambda x: (scaled(x), x), lambda x, g: (3 * g * jnp.cos(x),))

    def function(x):
        return OUT @ scaled(INTO @ scaled(x))

    default = jax_cce.jacobian(function, backend="xla")
    plan = _limited(function, _temporaries(default, WIDE) // 2, WIDE)
    assert plan.method == "jacrev"

    def until(x):
        def step(state):
            count, s = state
            return count + 1, jnp.sin(INTO.T @ jnp.cos(INTO @ s))

        return lax.while_loop(lambda state: state[0] < 9, step, (0, x))[1]

    bound = _temporaries(jax_cce.jacobian(until, backend="xla"), WIDE) // 2
    jacobian = jax_cce.jacobian(until, max_bytes=bound)
    assert _temporaries(jacobian, WIDE) <= bound
    assert_agree(jacobian(WIDE), jax.jit(jax.jacfwd(until))(WIDE))

    def rotated(x):
        return jnp.exp(1j * x) * x

    holomorphic = jax_cce.jacobian(rotated, holomorphic=True, max_bytes=10**6)
    z = WIDE + 0.1j
    assert_agree(holomorphic(z), jax.jit(jax.jacrev(rotated, holomorphic=True))(z))


def test_the_variable_for_tuning_gives_way(monkeypatch):
    monkeypatch.setenv("JAX_CCE_ORDER", "tuned")
    assert _limited(dense, 20_000, WIDE).source == "max_bytes"


@pytest.mark.parametrize("limit", [-1, 1.5, "1 GB", True])
def test_what_is_no_number_of_bytes_is_refused(limit):
    with pytest.raises(ValueError, match="max_bytes must be a number of bytes"):
        jax_cce.jacobian(dense, max_bytes=limit)


def test_what_leaves_no_choice_is_refused():
    with pytest.raises(ValueError, match="chooses the order itself"):
        jax_cce.jacobian(dense, order="reverse", max_bytes=1000)
    with pytest.raises(ValueError, match="chooses the order itself"):
        jax_cce.plan(dense, order="tuned", max_bytes=1000)
    with pytest.raises(ValueError, match="knows nothing of those of native code"):
        jax_cce.hessian(dense, backend="native", max_bytes=1000)


def test_what_cannot_be_measured_is_refused():
    def branches(x):
        return x * 2 if x[0] > 0 else x

    with pytest.raises(ValueError, match="differentiated while it runs"):
        jax_cce.jacobian(branches, max_bytes=1000)(WIDE)
    with pytest.raises(ValueError, match="reads axes around it"):
        jax.vmap(jax_cce.jacobian(lambda x: x / lax.psum(x, "i"), max_bytes=1000), axis_name="i")(
            WIDE
        )


def test_the_peak_of_the_steps():
    def chain(x):
        for _ in range(3):
            x = jnp.sin(INTO[:60] @ x)
        return x

    x = jax.ShapeDtypeStruct((60,), np.float64)
    plan = jax_cce.plan(chain, order="forward")(x)
    # Of the products two are alive at once, beside the three diagonals of the sines.
    assert 2 * 60 * 60 * 8 <= plan.peak_bytes <= 5 * 60 * 60 * 8
    assert plan.peak_bytes >= 8 * plan.largest[0]
    assert jax_cce.plan(chain, order="forward")(x.update(dtype=np.float32)).peak_bytes * 2 == (
        plan.peak_bytes
    )
    assert jax_cce.plan(lambda x: jnp.zeros(3))(x).peak_bytes == 0
