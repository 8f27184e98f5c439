"""The references that searches are compared with: integer programs and faces."""

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.game.bounds import vertex_bounds

from benchmarks.eliminations.faces import Faces, anneal, cost_of
from cases.edge_orders import possible
from cases.scalar_graphs import both, scalars
from jax_cce.orders.skeleton import Skeleton

pytestmark = pytest.mark.one_version


@settings(max_examples=40)
@given(scalars(most=6))
def test_the_integer_program_has_the_optimum_of_brute_force(graph):
    pytest.importorskip("scipy")
    from benchmarks.eliminations.integer_program import solve

    skeleton, truth = both(graph)
    solved = solve(skeleton)
    assert solved.is_optimal
    assert solved.cost == solved.bound == truth.optimum() == truth.cost(solved.order)


def between(graph):
    """The part of a graph that lies between its inputs and its outputs."""
    edges, inputs, outputs = graph
    ahead, behind = set(range(inputs)), set(outputs)
    for source, target in sorted(edges):
        ahead |= {target} if source in ahead else set()
    for source, target in sorted(edges, reverse=True):
        behind |= {source} if target in behind else set()
    kept = {(u, v) for u, v in edges if {u, v} <= ahead & behind}
    return Skeleton.from_edges(kept, range(inputs), outputs)


@given(scalars(most=7), st.integers(0, 2**32))
def test_vertices_and_edges_are_faces_together(graph, seed):
    """As faces they cost what they do as vertices and edges."""
    skeleton = between(graph)
    rng, state, faces = random.Random(seed), skeleton.copy(), Faces(skeleton)
    vertices, paid = list(skeleton.vertices), 0
    rng.shuffle(vertices)
    while vertices:
        items = possible(state) if rng.random() < 0.5 else []
        if items:
            item = rng.choice(items)
            paid += state.eliminate_edge(item)
        else:
            item = vertices.pop()
            paid += state.eliminate(item)
        faces.eliminate(item)
        assert faces.products == paid
    assert not faces.faces()


@given(scalars(most=7), st.integers(0, 2**32))
def test_faces_in_any_order_leave_the_sum_over_paths(graph, seed):
    skeleton = between(graph)
    rng = random.Random(seed)
    held = {(u, v): rng.randrange(1, 1000) for u, to in skeleton.successors.items() for v in to}

    @functools.cache
    def paths(source, target):
        if source == target:
            return 1
        return sum(held[source, n] * paths(n, target) for n in skeleton.successors[source])

    faces = Faces(skeleton, lambda source, target: held[source, target])
    while left := faces.faces():
        faces.eliminate(rng.choice(left))
    for source in skeleton.inputs:
        for output in skeleton.outputs:
            assert faces.result(source, output) == paths(source, output)


@settings(max_examples=10)
@given(scalars(most=6), st.integers(0, 100))
def test_annealing_reports_what_its_sequence_costs(graph, seed):
    skeleton = between(graph)
    if not skeleton.vertices:
        return
    found, cost = anneal(skeleton, skeleton.vertices, 100, seed)
    assert cost == cost_of(skeleton, found) <= skeleton.evaluate(skeleton.vertices)
    assert sum(vertex_bounds(skeleton).values()) <= cost


def test_a_sequence_that_leaves_faces_is_none():
    skeleton = Skeleton.from_edges([(0, 1), (1, 2)], [0], [2])
    with pytest.raises(ValueError, match="leaves 1 faces"):
        cost_of(skeleton, [])
