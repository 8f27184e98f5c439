"""Random graphs of scalars, with elimination as the literature defines it to check by."""

import functools
import itertools
import random

from hypothesis import strategies as st

import jax_cce
from benchmarks.tasks import TASKS
from jax_cce.orders.skeleton import Skeleton


class Scalars:
    """A graph of scalars as sets, to check by: elimination as the literature defines it."""

    def __init__(self, edges, vertices, outputs):
        self.edges, self.vertices, self.outputs = frozenset(edges), tuple(vertices), outputs

    def after(self, eliminated):
        """The edges that are left, and what each vertex would cost, after a set of vertices."""
        edges = set(self.edges)
        for vertex in sorted(eliminated):
            edges = self._without(edges, vertex)[0]
        return edges

    def _without(self, edges, vertex):
        before = [s for s, t in edges if t == vertex]
        after = [t for s, t in edges if s == vertex]
        left = {(s, t) for s, t in edges if s != vertex and (t != vertex or vertex in self.outputs)}
        return left | set(itertools.product(before, after)), len(before) * len(after)

    def cost(self, order):
        edges, total = set(self.edges), 0
        for vertex in order:
            edges, paid = self._without(edges, vertex)
            total += paid
        return total

    def optimum(self):
        """By dynamic programming over sets; `test_brute_force` checks it against permutations."""
        whole = frozenset(self.vertices)

        @functools.cache
        def least(done):
            if done == whole:
                return 0
            edges = self.after(done)
            return min(self._without(edges, v)[1] + least(done | {v}) for v in whole - done)

        return least(frozenset())


@st.composite
def scalars(draw, most=8):
    """Random graphs, their outputs possibly vertices too."""
    inputs = draw(st.integers(1, 3))
    count = draw(st.integers(0, most))
    sinks = draw(st.integers(1, 3))
    rng = random.Random(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from((0.2, 0.35, 0.6)))
    last = inputs + count + sinks
    edges = {
        (s, t)
        for t in range(inputs, last)
        for s in range(min(t, inputs + count))
        if rng.random() < density
    }
    outputs = set(range(inputs + count, last))
    outputs |= {v for v in range(inputs, inputs + count) if rng.random() < 0.15}
    return edges, inputs, outputs


def both(graph):
    edges, inputs, outputs = graph
    sk = Skeleton.from_edges(edges, range(inputs), outputs)
    return sk, Scalars(edges, sk.vertices, outputs)


def graph_of(fun, argnums, args):
    return jax_cce.plan(fun, argnums, order="reverse")(*args).graph


@functools.cache
def task_graph(name):
    task = TASKS[name]
    return graph_of(task.fun, task.argnums, task.args)
