"""optimize: what it finds is stored, found again by every process, and runs."""

import concurrent.futures
import dataclasses
import json
import logging
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from jax_cce import jax_internals, registry
from jax_cce.orders import named
from jax_cce.planning import choosing
from jax_cce.planning.task import task_of

ARM = TASKS["RobotArm_6DOF"]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A registry of this test's own."""
    # The reference tasks have orders that come with the package.
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    return registry.default()


@pytest.fixture
def no_search(monkeypatch):
    """Makes every search an error."""

    def forbidden(*_, **__):
        raise AssertionError("an order was searched for")

    monkeypatch.setattr(named, "auto", forbidden)
    monkeypatch.setattr(choosing, "_searched", forbidden)


def f(x, y):
    a = jnp.sin(x * y)
    b = a * jnp.exp(x)
    return {"first": b * y, "second": (a + b) / x}


POINT = 0.7, 1.3


def assert_right(fun=f, args=POINT, argnums=(0, 1), **options):
    ours = jax_cce.jacobian(fun, argnums, **options)(*args)
    assert_agree(ours, jax.jacrev(fun, argnums)(*args))
    jitted = jax.jit(jax_cce.jacobian(fun, argnums, **options))(*args)
    assert_agree(jitted, jax.jacrev(fun, argnums)(*args))


def test_what_is_found_is_stored_and_used(store, no_search):
    # Ends by itself, as soon as the search is compiled.
    found = jax_cce.optimize(f, (0, 1), cost="multiplications", budget=100)(*POINT)
    assert found.is_optimal
    assert found.status == "optimal over vertex orders"
    assert found.value == found.plan.cost("multiplications") == found.bound
    plan = jax_cce.plan(f, (0, 1))(*POINT)
    assert plan.order == found.order
    assert plan.source == "user"
    assert registry.get(found.entry.key).order == found.order
    assert_right()


def test_shapes_are_enough_for_counts(store):
    shapes = [jax.ShapeDtypeStruct((), jnp.float64)] * 6
    found = jax_cce.optimize(ARM.fun, ARM.argnums, cost="multiplications", budget=10)(*shapes)
    assert (found.value, found.bound) == (221, 221)
    assert found.status == "optimal over vertex orders"
    assert found.reference == {"forward": 397, "reverse": 301, "markowitz": 288}
    assert jax_cce.plan(ARM.fun, ARM.argnums)(*ARM.args).order == found.order
    assert "221 multiplications, optimal" in str(found)


@pytest.mark.one_version
def test_a_gap_that_is_left_is_reported(store):
    task = TASKS["RoeFlux_1d"]
    found = jax_cce.optimize(
        task.fun, task.argnums, cost="multiplications", budget=None, evaluations=20_000
    )(*task.args)
    assert found.bound == 223
    assert (
        found.status == f"at most {100 * (found.value / 223 - 1):.1f} % above the lower bound 223"
    )
    tensor = TASKS["RoeFlux_3d"]
    found = jax_cce.optimize(
        tensor.fun, tensor.argnums, cost="flops", budget=None, evaluations=500
    )(*tensor.args)
    assert found.status == "no lower bound known"


SECOND = """
import os, sys
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import jax_cce
from jax_cce.orders import named
from jax_cce.planning import choosing
from jax_cce.registry import defaults
defaults._shipped = lambda: None
sys.path.insert(0, {root!r})
from benchmarks.tasks import TASKS

def forbidden(*_, **__):
    raise AssertionError("an order was searched for")

named.auto = choosing._searched = forbidden
task = TASKS["RobotArm_6DOF"]

def renamed(*angles):
    return task.fun(*angles)

plan = jax_cce.plan(renamed, task.argnums)(*task.args)
print(plan.source, plan.cost("multiplications"))
theirs = jax.jacrev(renamed, task.argnums)(*task.args)
ours = jax_cce.jacobian(renamed, task.argnums)(*task.args)
same = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, rtol=1e-9, atol=1e-9)), ours, theirs)
print(all(jax.tree.leaves(same)), "jax_cce_search" in sys.modules)
"""


@pytest.mark.one_version
def test_a_second_process_finds_the_order_without_searching(store, tmp_path):
    jax_cce.optimize(ARM.fun, ARM.argnums, cost="multiplications", budget=10)(*ARM.args)
    program = textwrap.dedent(SECOND).format(root=str(ROOT))
    for registry_of_process, expected in [(tmp_path, "user 221\nTrue False"), ("off", None)]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "JAX_CCE_REGISTRY": str(registry_of_process)},
            capture_output=True,
            text=True,
        )
        if expected is None:
            assert "an order was searched for" in done.stderr
        else:
            assert done.stdout.strip() == expected, done.stderr


def test_jax_modes_run_where_they_are_stored(store):
    """Whatever a measurement found to be fastest, the Jacobian is jax.jacrev's, types and all."""

    def g(t, n):
        y = jnp.tanh(t["w"] @ t["x"]) * n
        return {"y": y, "s": jnp.sum(y) * t["b"]}, {"aux": n, "constant": 3}

    t = {"w": jnp.ones((2, 3)) * 0.3, "x": jnp.arange(3.0, dtype=jnp.float32), "b": 0.5}
    options = {"has_aux": True}
    task = task_of(g, **options)(t, 2)
    order = jax_cce.plan(g, order="reverse", **options)(t, 2).order
    for method in ("jacfwd", "jacrev"):
        registry.put(
            registry.StoredOrder(
                task.key,
                "runtime",
                order,
                1e-3,
                method=method,
                device=jax_internals.device_kind(),
            )
        )
        plan = jax_cce.plan(g, **options)(t, 2)
        assert (plan.method, plan.source) == (method, "user")
        assert f"jax.{method}" in str(plan)
        for compile_ in (lambda h: h, jax.jit):
            expected = compile_(jax.jacrev(g, **options))(t, 2)
            assert_agree(compile_(jax_cce.jacobian(g, **options))(t, 2), expected)
            (value, aux), jacobian = compile_(jax_cce.value_and_jacobian(g, **options))(t, 2)
            assert_agree(jacobian, expected[0])
            assert_agree((value, aux), compile_(g)(t, 2))
        stacked = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 4), t)
        ours = jax.vmap(jax_cce.jacobian(g, **options), in_axes=(0, None))(stacked, 2)
        theirs = jax.vmap(jax.jacrev(g, **options), in_axes=(0, None))(stacked, 2)
        assert_agree(ours, theirs)


def test_measured(store):
    def wide(x):
        return jnp.sin(x) * jnp.cos(x[0]), jnp.sum(x * x)

    x = jnp.ones(5)
    found = jax_cce.optimize(wide, budget=2)(x)
    assert found.entry.cost == "runtime"
    assert {"jacfwd", "jacrev", "default"} <= found.times.keys()
    assert found.value == min(found.times.values())
    assert found.entry.device == jax_internals.device_kind()
    assert found.plan.method == found.entry.method
    assert_right(wide, (x,), 0)
    # The fewest operations are of use on other devices, too.
    assert registry.get(found.entry.key, "flops") is not None
    other = registry.get(found.entry.key, device="another kind")
    assert other.cost == "flops"


def test_measured_under_vmap(store):
    found = jax_cce.optimize(f, (0, 1), budget=2, batch_size=64)(*POINT)
    assert found.entry.batch == 64
    single = jax_cce.optimize(f, (0, 1), budget=2)(*POINT)
    assert single.entry.batch is None
    batched = [jnp.full(8, value) for value in POINT]
    theirs = jax.vmap(jax.jacrev(f, (0, 1)))(*batched)
    assert_agree(jax.vmap(jax_cce.jacobian(f, (0, 1)))(*batched), theirs)
    assert_agree(jax.jit(jax.vmap(jax_cce.jacobian(f, (0, 1))))(*batched), theirs)


def test_the_entry_of_the_nearest_batch_size_is_used(store):
    task = task_of(f, (0, 1))(*POINT)
    forward = jax_cce.plan(f, (0, 1), order="forward")(*POINT).order
    entry = registry.StoredOrder(
        task.key, "runtime", forward, 1.0, device=jax_internals.device_kind(), batch=None
    )
    registry.put(entry)
    registry.put(dataclasses.replace(entry, order=forward[::-1], batch=1000))
    seen = []

    def planned(x, y):
        seen.append(jax_cce.plan(f, (0, 1))(x, y).order)
        return x

    planned(*POINT)
    jax.vmap(planned)(jnp.ones(500), jnp.ones(500))
    jax.vmap(planned)(jnp.ones(3), jnp.ones(3))
    assert seen == [forward, forward[::-1], forward]


def test_arguments_that_are_no_arrays(store):
    def g(x, power, name, *, table, sign=1):
        for _ in range(power):
            x = x * table["a"]
        return sign * jnp.sin(x) if name == "sine" else x

    x, table = {"p": 0.5, "q": jnp.ones(2)}, {"a": jnp.arange(2.0), "b": None}

    def call(x, *rest, **options):
        return jax.tree.map(lambda leaf: g(leaf, *rest, **options), x)

    for size in (None, 8):
        found = jax_cce.optimize(call, budget=1, batch_size=size)(x, 3, "sine", table=table)
        assert not found.failures
        assert found.entry.batch == size
    ours = jax_cce.jacobian(call)(x, 3, "sine", table=table)
    assert_agree(ours, jax.jacrev(call)(x, 3, "sine", table=table))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float64), x)
    assert jax_cce.optimize(call, budget=1)(shapes, 3, "sine", table=table).times


def test_a_contender_that_cannot_run_is_left_out(store):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, ct: (2 * ct,))

    def g(x):
        return double(jnp.sin(x)) * x

    found = jax_cce.optimize(g, budget=1)(jnp.ones(3))
    assert "jacfwd" in found.failures
    assert "custom_vjp" in found.failures["jacfwd"]
    assert_right(g, (jnp.ones(3),), 0)


@pytest.mark.one_version
def test_small_arrays_taken_apart_or_whole(store):
    def g(t):
        rotation = jnp.array([[jnp.cos(t), -jnp.sin(t)], [jnp.sin(t), jnp.cos(t)]])
        return rotation @ rotation @ jnp.array([1.0, 0.0])

    flops = {}
    for entries in (False, True, None):
        found = jax_cce.optimize(g, cost="flops", entries=entries, budget=2)(0.3)
        assert entries in (None, found.entry.entries)
        flops[entries] = found.value
    assert flops[None] == min(flops.values())
    plan = jax_cce.plan(g)(0.3)
    assert plan.source == "user"
    assert plan.cost("flops") == flops[None]
    assert_right(g, (0.3,), 0)
    with pytest.raises(ValueError, match="no small arrays to take apart"):
        jax_cce.optimize(f, cost="flops", entries=True)(*POINT)


def test_sparse_formats_have_entries_of_their_own(store):
    def g(x):
        return jnp.sin(x[1:]) * x[:-1]

    x = jnp.ones(6)
    dense = jax_cce.optimize(g, cost="flops", budget=1)(x)
    sparse = jax_cce.optimize(g, cost="flops", budget=1, format="bcoo")(x)
    assert dense.entry.key != sparse.entry.key
    expected = jax.jacrev(g)(x)
    assert_agree(jax_cce.jacobian(g)(x), expected)
    assert_agree(jax_cce.jacobian(g, format="bcoo")(x).todense(), expected)
    measured = jax_cce.optimize(g, budget=1, format="structured")(x)
    assert "jacrev" not in measured.times
    assert_agree(jax_cce.jacobian(g, format="structured")(x).todense(), expected)


def test_a_new_entry_is_seen_by_functions_in_use(store):
    jax_cce.cache_clear()
    jacobian = jax_cce.jacobian(f, (0, 1))
    expected = jacobian(*POINT)
    before = jax_cce.plan(f, (0, 1))(*POINT)
    assert before.source == "searched"
    jax_cce.optimize(f, (0, 1), cost="flops", budget=1)(*POINT)
    misses = jax_cce.cache_info().misses
    assert_agree(jacobian(*POINT), expected)
    assert jax_cce.cache_info().misses == misses + 1
    jacobian(*POINT)
    assert jax_cce.cache_info().misses == misses + 1


def test_a_better_order_that_is_known_is_kept(store):
    options = {"cost": "multiplications", "budget": 5}
    best = jax_cce.optimize(ARM.fun, ARM.argnums, **options)(*ARM.args)
    later = jax_cce.optimize(ARM.fun, ARM.argnums, strategy="forward", **options)(*ARM.args)
    assert later.order == later.plan.order == best.order
    assert later.value == later.plan.cost("multiplications") == 221
    assert later.is_optimal


def test_given_orders_are_not_looked_up(store):
    jax_cce.optimize(f, (0, 1), cost="multiplications", budget=1)(*POINT)
    plan = jax_cce.plan(f, (0, 1), order="forward")(*POINT)
    assert plan.source == "given"
    assert plan.order == tuple(sorted(plan.order))


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not JSON": lambda text: "order: 1 2 3",
    "an order of other vertices": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_reported_and_ignored(store, damage, tmp_path):
    found = jax_cce.optimize(f, (0, 1), cost="flops", budget=1)(*POINT)
    (path,) = tmp_path.rglob("*.json")
    if DAMAGES[damage] is None:
        path.unlink()
        registry.Registry(tmp_path).put(
            dataclasses.replace(found.entry, order=(*found.order, 99), value=0)
        )
    else:
        path.write_text(DAMAGES[damage](path.read_text()))
    other = registry.Registry(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "default", lambda: other)
        with pytest.warns(registry.RegistryWarning, match="json") as warned:
            plan = jax_cce.plan(f, (0, 1))(*POINT)
        assert len(warned) == 1
        assert plan.source == "searched"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_right()


def test_a_registry_that_cannot_be_written(monkeypatch, tmp_path):
    """The order is still used in this process."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "file" / "below"))
    with pytest.warns(registry.RegistryWarning):
        found = jax_cce.optimize(f, (0, 1), cost="flops", budget=1)(*POINT)
    plan = jax_cce.plan(f, (0, 1))(*POINT)
    assert (plan.source, plan.order) == ("memory", found.order)
    assert_right()


@pytest.mark.parametrize("name", ["annealing", "branch_and_bound", "markowitz"])
def test_searching_on_the_fly(store, name):
    options = {"search": name, "search_budget": 0.2}
    assert_right(**options)
    entry = registry.get(task_of(f, (0, 1))(*POINT).key)
    assert (entry.cost, entry.strategy) == ("flops", name)
    assert jax_cce.plan(f, (0, 1))(*POINT).source == "user"


def test_search_budgets():
    plan = jax_cce.plan(ARM.fun, ARM.argnums, search_budget=0)(*ARM.args)
    classical = [
        jax_cce.plan(ARM.fun, ARM.argnums, order=name)(*ARM.args).cost("flops")
        for name in ("forward", "reverse", "markowitz")
    ]
    assert plan.cost("flops") == min(classical)
    more = jax_cce.plan(ARM.fun, ARM.argnums, search_budget=2.0)(*ARM.args)
    assert more.cost("flops") <= plan.cost("flops")
    again = jax_cce.plan(ARM.fun, ARM.argnums, search_budget=2.0)(*ARM.args)
    assert again.order == more.order
    for options, message in [
        ({"search": "guessing"}, "strategy must be one of"),
        ({"search_budget": -1}, "search_budget must be at least 0"),
        ({"search_budget": float("nan")}, "search_budget must be at least 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax_cce.jacobian(f, **options)


@pytest.mark.one_version
def test_every_transformation_takes_the_search_options(store):
    def g(x):
        return jnp.sum(jnp.sin(x) * x[0])

    x, options = jnp.ones(3), {"search": "windows", "search_budget": 0.1}
    assert_agree(jax_cce.hessian(g, **options)(x), jax.hessian(g)(x))
    value, jacobian = jax_cce.value_and_jacobian(g, **options)(x)
    assert_agree((value, jacobian), jax.value_and_grad(g)(x))
    assert jax_cce.plan(g, **options)(x).source in ("user", "windows search")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cost": "watts"}, "cost must be one of"),
        ({"strategy": "guessing"}, "strategy must be one of"),
        ({"budget": -1}, "seconds must be at least 0"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"format": "lil"}, "format must be one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        jax_cce.optimize(f, (0, 1), **options)(*POINT)


def test_what_has_one_order_only():
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -1, 1),))
    with pytest.raises(ValueError, match="reverse mode only"):
        jax_cce.optimize(lambda x: clipped(x * x) * 2, cost="flops")(1.0)


def test_an_interrupt_keeps_what_was_found(store):
    def interrupt(found):
        raise KeyboardInterrupt

    found = jax_cce.optimize(f, (0, 1), cost="flops", callback=interrupt)(*POINT)
    assert found.interrupted
    assert jax_cce.plan(f, (0, 1))(*POINT).order == found.order


def test_callback_and_log(store, caplog):
    seen = []
    jax_cce.cache_clear()
    with caplog.at_level(logging.INFO, logger="jax_cce"):
        found = jax_cce.optimize(f, (0, 1), cost="multiplications", budget=5, callback=seen.append)(
            *POINT
        )
        jax_cce.jacobian(f, (0, 1))(*POINT)
    assert [i.cost for i in seen] == [i.cost for i in found.improvements]
    assert any("order from the registry (user)" in record.message for record in caplog.records)


def test_progress_is_shown_on_request_only(store, capsys):
    jax_cce.optimize(f, (0, 1), cost="flops", budget=0.3)(*POINT)
    assert capsys.readouterr() == ("", "")
    task = TASKS["RoeFlux_1d"]
    jax_cce.optimize(task.fun, task.argnums, cost="flops", budget=0.5, progress=True)(*task.args)
    out, err = capsys.readouterr()
    assert out == ""
    # One line at the start, and the next ten seconds later.
    assert re.fullmatch(r"jax_cce, 0 s: \w+: no order yet\n", err)


@pytest.mark.one_version
def test_many_functions(store):
    calls = [(f, POINT), (lambda x, y: (x / y, jnp.exp(x * y) * x), POINT)]
    found = jax_cce.optimize_many(calls, (0, 1), cost="multiplications", budget=2)
    assert [each.name for each in found] == ["f", "<lambda>"]
    for (fun, args), each in zip(calls, found, strict=True):
        assert jax_cce.plan(fun, (0, 1))(*args).order == each.order
        assert_right(fun, args)


def _checked_with(executor):
    found = jax_cce.optimize_many(
        [(ARM.fun, ARM.args), (TASKS["Perceptron"].fun, TASKS["Perceptron"].args)],
        tuple(range(6)),
        cost="multiplications",
        budget=None,
        evaluations=2000,
        executor=executor,
        strategy="annealing",
    )
    assert (found[0].value, found[0].status) == (221, "optimal over vertex orders")
    # One search for each of two workers.
    assert all(0 < each.evaluations <= 2 * 2000 for each in found)
    for each in found:
        assert registry.get(each.entry.key, "multiplications").order == each.order


@pytest.mark.one_version
def test_processes(store):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        _checked_with(executor)


@pytest.mark.one_version
def test_threads(store):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        _checked_with(executor)


@pytest.mark.one_version
def test_a_cluster_of_two_workers(store, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        _checked_with(client.get_executor())


class _Rays(concurrent.futures.Executor):
    """Tasks of Ray, as the guide has it."""

    def __init__(self, ray):
        self._ray = ray
        self._max_workers = int(ray.cluster_resources()["CPU"])

    def submit(self, function, /, *args):
        return self._ray.remote(function).remote(*args).future()


@pytest.mark.one_version
def test_ray_with_two_workers(store, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        _checked_with(_Rays(ray))
    finally:
        ray.shutdown()


def test_an_executor_that_is_none(store):
    with pytest.raises(TypeError, match=r"a method submit, .* but got int\."):
        jax_cce.optimize(f, (0, 1), executor=2)(*POINT)


class _AtOnce(concurrent.futures.Executor):
    """Runs what it is given at once, and does not tell how large it is."""

    submitted = 0

    def submit(self, function, /, *args):
        self.submitted += 1
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def test_an_executor_of_unknown_size(store):
    executor = _AtOnce()
    options = {"cost": "flops", "budget": None, "evaluations": 10}
    found = jax_cce.optimize(f, (0, 1), executor=executor, strategy="reverse", **options)(*POINT)
    forms = executor.submitted // 8
    assert executor.submitted == 8 * forms > 0
    assert found.value == jax_cce.plan(f, (0, 1))(*POINT).cost("flops")


def test_a_given_registry_is_used(tmp_path):
    own = registry.Registry(tmp_path)
    found = jax_cce.optimize(f, (0, 1), cost="flops", budget=1, registry=own)(*POINT)
    assert own.get(found.entry.key) == found.entry
    assert registry.get(found.entry.key) is None
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text())["order"] == list(found.order)
