"""Bounds: never above what any order costs, and as a plain program computes them."""

import dataclasses
import itertools
import random

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.game.bounds import paths_of, vertex_bounds
from jax_cce_search.game.certificates import certified, stored_bound
from jax_cce_search.game.groups import MOST_MEMBERS, Groups
from jax_cce_search.game.partitions import improved, near
from jax_cce_search.game.problem import Problem

import jax_cce
from benchmarks.tasks import TASKS
from cases.programs import programs
from cases.scalar_graphs import both, graph_of, scalars, task_graph
from jax_cce.orders.skeleton import skeleton
from jax_cce.registry import StoredOrder, default
from jax_cce.registry.reports import RegistryWarning

pytestmark = pytest.mark.one_version


def smallest_cut(vertex, neighbours, ends, eliminated):
    """By trying all sets of nodes: none of those eliminated may be in it."""

    def reaches(removed):
        seen, pending = set(), [vertex]
        while pending:
            for node in neighbours(pending.pop()):
                if node not in seen and node not in removed:
                    seen.add(node)
                    pending.append(node)
        return not seen.isdisjoint(ends)

    nodes, pending = set(), [vertex]
    while pending:
        fresh = set(neighbours(pending.pop())) - nodes
        nodes |= fresh
        pending += fresh
    allowed = sorted(nodes - set(eliminated), key=str)
    for size in itertools.count():
        if any(not reaches(set(cut)) for cut in itertools.combinations(allowed, size)):
            return size


def plain_bound(edges, inputs, outputs, vertices, group):
    """The bound of a group as the docstring of `groups` defines it, from nothing but the graph."""
    edges = set(edges) | {(o, ("result", o)) for o in outputs if o in vertices}
    ends = {("result", o) if o in vertices else o for o in outputs}

    def cost(vertex, eliminated):
        present = set(group) - set(eliminated) - {vertex}
        behind = smallest_cut(
            vertex, lambda n: [s for s, t in edges if t == n], set(inputs) | present, eliminated
        )
        ahead = smallest_cut(
            vertex,
            lambda n: [t for s, t in edges if s == n and t != ("result", vertex)],
            ends | present,
            eliminated,
        )
        return behind * ahead

    return min(
        sum(cost(v, order[:k]) for k, v in enumerate(order))
        for order in itertools.permutations(group)
    )


@settings(max_examples=25)
@given(scalars(most=6), st.randoms(use_true_random=False))
def test_groups_as_a_plain_program_computes_them(graph, rng):
    sk, _ = both(graph)
    edges, inputs, outputs = graph
    groups = Groups(paths_of(sk, sk.vertices))
    group = rng.sample(sk.vertices, min(len(sk.vertices), 4))
    if group:
        plain = plain_bound(edges, range(inputs), outputs, set(sk.vertices), group)
        assert groups.bound(group) == plain


def shares(sk, order):
    """What each vertex costs in an order."""
    state = sk.copy()
    return {vertex: state.eliminate(vertex) for vertex in order}


@settings(max_examples=80)
@given(scalars(most=14), st.randoms(use_true_random=False))
def test_no_order_takes_less_for_a_group_than_its_bound(graph, rng):
    sk, _ = both(graph)
    groups = Groups(paths_of(sk, sk.vertices))
    order = list(sk.vertices)
    chosen = [rng.sample(order, min(len(order), rng.randint(1, 8))) for _ in range(4)]
    for _ in range(30):
        rng.shuffle(order)
        costs = shares(sk, order)
        for group in chosen:
            assert sum(costs[v] for v in group) >= (groups.bound(group) if group else 0)


@settings(max_examples=60)
@given(scalars(), st.integers(0, 100))
def test_partitions_never_exceed_the_optimum(graph, seed):
    sk, truth = both(graph)
    optimum = truth.optimum()
    problem = Problem(sk)
    beside = near(problem.paths, problem.vertices)
    steps = improved(problem.groups, beside, np.random.default_rng(seed))
    for bound, found in itertools.islice(steps, 300):
        assert problem.prefix_cost + bound <= optimum
        assert certified(problem, found) == problem.prefix_cost + bound


def test_a_group_of_all_vertices_by_hand():
    """Two vertices in a row, each cheap only after the other."""
    edges = {(0, 2), (1, 2), (2, 3), (3, 4), (3, 5)}
    sk, truth = both((edges, 2, {4, 5}))
    groups = Groups(paths_of(sk, sk.vertices))
    assert groups.single == {2: 2, 3: 2}
    assert truth.optimum() == groups.bound([2, 3]) == 6


def falsify(sk, orders, seed):
    """Eliminates in random orders, and holds every vertex and some groups to their bounds."""
    paths = paths_of(sk, sk.vertices)
    if paths is None or not sk.vertices:
        return
    groups = Groups(paths)
    rng = random.Random(seed)
    vertices = list(sk.vertices)
    near_each_other = [vertices[k : k + 4] for k in range(0, len(vertices), 3)]
    for number in range(orders):
        order = vertices[:]
        rng.shuffle(order)
        # Forward and backward with some disorder, too: products grow there, or stay small.
        if number % 3:
            way = 1 if number % 3 == 1 else -1
            order.sort(key=lambda v: way * v + 20 * rng.random())
        costs = shares(sk, order)
        for vertex, bound in groups.single.items():
            assert costs[vertex] >= bound, (order, vertex)
        for group in near_each_other:
            assert sum(costs[v] for v in group) >= groups.bound(group), (order, group)


MEASURES = ("multiplications", "nonunit_multiplications")


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "name, orders",
    [("RoeFlux_3d", 500), ("Perceptron", 500), ("Encoder", 300), ("RoeFlux_1d", 200), ("f", 60)],
)
def test_no_order_takes_less_for_an_array_than_its_bound(name, orders, measure):
    falsify(skeleton(task_graph(name), measure), orders, seed=0)


@settings(max_examples=60)
@given(program=programs(), seed=st.integers(0, 1000))
def test_no_order_of_a_program_of_arrays_is_below_a_bound(program, seed):
    options = {"argnums": program.argnums, "has_aux": program.has_aux}
    plan = jax_cce.plan(program.function, **options, order="reverse")(*program.args)
    for measure in MEASURES:
        falsify(skeleton(plan.graph, measure), 10, seed)


def bounds_of(fun, *args, measure="multiplications"):
    graph = graph_of(fun, tuple(range(len(args))), args)
    first = graph.program.first_computed
    return {v - first: b for v, b in vertex_bounds(skeleton(graph, measure)).items()}


def test_a_slice_behind_which_nothing_is_left():
    """The path from a over the first half to the second half of the result is no path at all."""
    x = jnp.arange(1.0, 5.0)

    def f(x, y):
        a = jnp.sin(x) * y
        half = jnp.exp(a[:2])
        return jnp.concatenate([half, half])[1:] * a[:3]

    graph = graph_of(f, (0, 1), (x, x))
    falsify(skeleton(graph, "multiplications"), 300, seed=1)

    def g(x, y):
        # What is sliced out of a padded array is not what was padded.
        a = jnp.sin(x) * y
        padded = jnp.concatenate([a * y, jnp.zeros(4)])
        return jnp.cos(padded[4:]) * 2.0, jnp.exp(a[:1])

    sk = skeleton(graph_of(g, (0, 1), (x, x)), "multiplications")
    falsify(sk, 300, seed=2)


def test_arrays_that_cancel():
    """What the elimination of others may take away bounds nothing."""
    x = jnp.arange(1.0, 5.0)

    def f(x, y):
        a = jnp.sin(x) * y
        difference = (a + x) - (a - y)
        return jnp.exp(difference), difference * x

    def g(x, y):
        a = jnp.sin(x) * y
        each = jnp.broadcast_to(a, (4,))
        return jnp.exp(each - jnp.mean(each)) * x

    for fun, args in ((f, (x, x)), (g, (0.3, 0.4))):
        problem = Problem.of(graph_of(fun, (0, 1), args), "multiplications")
        assert not problem.is_exact
        falsify(problem.graph, 200, seed=3)


def test_arrays_by_hand():
    x = jnp.arange(1.0, 6.0)
    # Two factors behind, full both, and one function ahead.
    assert bounds_of(lambda x, y: jnp.sin(x * y), x, x) == {0: 10}
    # A sum ahead counts nothing: it is a layout; what multiplies it counts.
    assert bounds_of(lambda x, y: jnp.sum(x * y), x, x) == {0: 0}
    # A product with one number for all entries is one product for each entry of the other factor.
    assert bounds_of(lambda x, y: jnp.exp(jnp.sin(x) * y), x, 2.0)[0] == 5


def test_one_array_does_not_drop_the_bounds_of_scalars():
    def f(x, y):
        a = x * y
        return jnp.sin(a) * a, jnp.sum(jnp.exp(jnp.ones(3) * a))

    assert bounds_of(f, 0.3, 0.4)[0] >= 2


def test_layout_counts_where_it_is_beside_the_vertex_only():
    """A reshape on the way costs nothing, and passes on what does."""

    def f(x, y):
        a = x * y
        b = jnp.sin(jnp.reshape(a, (1,)))
        return jnp.exp(b), jnp.cos(b)

    # The reshape is free, and so is what lies before it until the reshape is gone; the sine has one
    # path behind it, which begins with a cosine, and two ahead.
    assert bounds_of(f, 0.3, 0.4) == {0: 0, 1: 0, 2: 2}


# Found by `python -m benchmarks.proofs --groups`, numbered as plans are.
CERTIFICATES = {
    "RoeFlux_1d": [
        [0, 42, 43, 45],
        [1, 2, 56],
        [6, 14, 23, 46, 47, 48, 50],
        [9, 10, 11],
        [12, 13, 20, 21, 31, 33, 34, 35, 38, 39, 40],
        [17, 18, 19],
        [27, 28, 29],
        [41, 51, 52, 54],
    ],
    "Greeks": [
        [0, 1, 2, 13, 49, 50, 53, 60, 68, 80, 85, 86, 88, 89],
        [3, 9, 10, 14, 23, 29, 65, 66, 67],
        [18, 19, 31, 37, 43, 47, 48, 59],
        [21, 22, 30, 38, 39, 40, 42, 55],
    ],
}


@pytest.mark.parametrize("name, bound", [("RoeFlux_1d", 295), ("Greeks", 279)])
def test_what_groups_prove_of_a_task(name, bound):
    graph = task_graph(name)
    problem = Problem.of(graph, "multiplications")
    first = graph.program.first_computed
    groups = [[vertex + first for vertex in group] for group in CERTIFICATES[name]]
    assert certified(problem, groups) == bound > problem.bound
    assert TASKS[name].published.lower_bound in (None, bound)


@pytest.mark.parametrize("name, least", [("RoeFlux_1d", 289), ("Greeks", 270), ("RoeFlux_3d", 300)])
def test_merged_groups_prove_more_than_single_vertices(name, least):
    problem = Problem.of(task_graph(name), "multiplications")
    steps = improved(
        problem.groups, near(problem.paths, problem.vertices), np.random.default_rng(0)
    )
    bound, groups = next(itertools.islice(steps, 3000, None))
    assert problem.prefix_cost + bound == certified(problem, groups) >= least


def test_certificates_that_are_none():
    problem = Problem.of(task_graph("RoeFlux_1d"), "multiplications")
    one, other = problem.vertices[:2]
    for groups in ([(one,), (one, other)], [(-1,)], [problem.vertices[: MOST_MEMBERS + 1]]):
        with pytest.raises(ValueError, match="group"):
            certified(problem, groups)
    with pytest.raises(ValueError, match="no bounds of groups in 'flops'"):
        certified(Problem.of(task_graph("RoeFlux_1d"), "flops"), [])
    # Fewer groups prove less.
    assert certified(problem, []) == problem.bound == 223


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty registry of the user's, which is also the default one."""
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "registry"))
    return default()


def test_a_stored_proof_is_checked_before_it_is_believed(store):
    task = TASKS["RoeFlux_1d"]
    options = {"cost": "multiplications", "budget": None, "strategy": "markowitz"}
    found = jax_cce.optimize(task.fun, task.argnums, evaluations=2, **options)(*task.args)
    proven = dataclasses.replace(found.entry, bound=295, groups=CERTIFICATES["RoeFlux_1d"])
    assert store.put(proven) == proven
    explain = jax_cce.explain(task.fun, task.argnums)
    assert explain(*task.args).bound == 295
    # A later search begins with what is proven, and keeps it.
    later = jax_cce.optimize(task.fun, task.argnums, evaluations=2, **options)(*task.args)
    assert (later.bound, later.entry.groups) == (295, proven.groups)

    wrong = dataclasses.replace(proven, bound=296)
    assert store.put(wrong) == wrong
    with pytest.warns(RegistryWarning, match=r"lower bound 296 .* do not prove"):
        assert explain(*task.args).bound == 223


def test_a_proof_of_another_graph_is_refused():
    problem = Problem.of(task_graph("PropaneCombustion"), "multiplications")
    entry = StoredOrder(
        "0" * 64, "multiplications", range(60), 99.0, bound=99, groups=[[58, 59], [1, 2]]
    )
    with pytest.warns(RegistryWarning, match="name what is no vertex"):
        assert stored_bound(problem, entry, 0) is None
    # One that says less than single vertices do is true, too.
    modest = dataclasses.replace(entry, key="1" * 64, bound=80, groups=[problem.vertices[:2]])
    assert stored_bound(problem, modest, 0) == 80
