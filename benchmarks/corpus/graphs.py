"""The graphs of the corpus, made from the programs that they are of."""

from __future__ import annotations

import dataclasses
import graphlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax_cce_search.alphazero import families
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import portfolio

import jax_cce
from benchmarks import programs
from benchmarks.corpus.files import Best, Entry
from benchmarks.searches import graph_of
from benchmarks.tasks import TASKS
from jax_cce.eliminations import vertices_of
from jax_cce.execution.calling import scalars
from jax_cce.orders.block_table import PricedBlocks
from jax_cce.orders.greedy import greedy
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce.planning.task import task_of

_MEASURE = "multiplications"
# Of the suite's programs so many, with so many vertices.
_PROGRAMS, _LEAST, _MOST, _MOST_EDGES = 100, 8, 1200, 4000
# Of each family so many graphs.
_OF_FAMILY = 2
_RANDOM = (50, 100, 200, 400)
# Orders beside the best one whose products are in the files of graphs of arrays.
_EXPLORED = 100


def everything() -> Iterator[tuple[str, str, Skeleton]]:
    """Names, sources and graphs: tasks, programs of the suite, families, random programs."""
    for name in TASKS:
        yield f"task-{_slug(name)}", f"reference task {name}", skeleton(graph_of(name), _MEASURE)
    yield from _of_programs()
    for family in families.FAMILIES:
        for k in range(_OF_FAMILY):
            graph = families.traced(family, np.random.default_rng([k, 7]), _MEASURE)
            yield f"family-{_slug(family)}-{k}", f"family {family}, drawn", graph
    for count in _RANDOM:
        for k in range(_OF_FAMILY):
            graph = random_program(count, np.random.default_rng([count, k]))
            yield f"random-{count}-{k}", f"random program of {count} vertices", graph


def _slug(label: str) -> str:
    """A label as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def _of_programs() -> Iterator[tuple[str, str, Skeleton]]:
    """The graphs of programs of the suite, no two alike: of scalars where there are such."""
    jax.config.update("jax_enable_x64", True)
    seen: set[frozenset[tuple[int, int]]] = set()
    for family, program, _ in programs.chosen(0):
        if not program.is_installed:
            continue
        program = program.settings(batch=None, dtype="float64")
        fun, args = program.build()
        graph = _of_program(jax.grad(fun) if program.derivative == "hessian" else fun, args)
        if graph is None:
            continue
        number = _renumbered(graph)
        pairs = frozenset((number[u], number[v]) for u, to in graph.successors.items() for v in to)
        if len(pairs) > _MOST_EDGES or pairs in seen:
            continue
        seen.add(pairs)
        source = f"benchmark suite, {family.name}: {program.label}"
        yield f"suite-{_slug(program.label)}", source, graph
        if len(seen) == _PROGRAMS:
            return


def _of_program(fun: Callable[..., Any], args: tuple[Any, ...]) -> Skeleton | None:
    """A graph of a size worth searching whose orders cost exactly what their plans count."""
    task = task_of(fun)(*args)
    edges = scalars(task)
    if not isinstance(edges, str):
        pairs = {(arg, node) for node, found in edges.before.items() for arg in found}
        outputs = dict.fromkeys(node for node in edges.outputs if node in edges.before)
        inputs = [node for node in edges.inputs if node in edges.before]
        graph = Skeleton.from_edges(pairs, inputs, outputs)
    elif task.reverse_only:
        return None
    else:
        graph = skeleton(task.graphs[False], _MEASURE)
        if not Problem(graph).is_exact:
            return None
    return graph if _LEAST <= len(graph.vertices) <= _MOST else None


def _renumbered(graph: Skeleton) -> dict[int, int]:
    """New numbers of the nodes, from 0 on, in which every edge goes upwards."""
    ahead = graphlib.TopologicalSorter(graph.predecessors)
    ahead.prepare()
    number: dict[int, int] = {}
    while ahead.is_active():
        ready = sorted(ahead.get_ready())
        number |= {node: len(number) + k for k, node in enumerate(ready)}
        ahead.done(*ready)
    return number


def entry(name: str, source: str, graph: Skeleton, date: str) -> Entry:
    """A graph with the best of its classical orders."""
    problem = Problem(graph)
    orders: dict[str, Sequence[int]] = {
        "forward": graph.vertices,
        "reverse": graph.vertices[::-1],
        "markowitz": greedy(graph.copy())[0],
    }
    costs = {by: graph.evaluate(order) for by, order in orders.items()}
    by = min(costs, key=costs.__getitem__)
    number = _renumbered(graph)

    def renumbered(nodes: Iterable[int]) -> tuple[int, ...]:
        return tuple(number[node] for node in nodes)

    who = f"jax_cce {jax_cce.__version__}"
    made = Entry(
        name=name,
        source=source,
        inputs=tuple(sorted(renumbered(node for node in graph.inputs if node in number))),
        vertices=tuple(sorted(renumbered(graph.vertices))),
        outputs=tuple(sorted(renumbered(graph.outputs))),
        entries={k: graph.sizes[node] for node, k in sorted(number.items(), key=lambda x: x[1])},
        edges={
            (number[u], number[v]): 1 if problem.uniform else kind
            for u, to in graph.successors.items()
            for v, kind in to.items()
        },
        products={},
        sums={},
        final={},
        best=Best(costs[by], renumbered(orders[by]), by, who, date),
        bound=problem.bound,
        bound_by="disjoint paths",
    )
    return made if problem.uniform else _with_tables(made, graph)


def improved(old: Entry, graph: Skeleton, seconds: float, seed: int, date: str) -> Entry:
    """An entry with what the portfolio of searches finds in so many seconds, if it is better."""
    problem = Problem(graph)
    search = Search(problem, Budget(seconds), seed, strategy="portfolio")
    portfolio.by_vertices(search)
    number, found = _renumbered(graph), search.improvements[-1]
    new = old
    if search.bound > old.bound:
        groups = tuple(tuple(sorted(number[v] for v in group)) for group in search.groups)
        by = "groups of vertices" if groups else "exhaustive search"
        new = dataclasses.replace(old, bound=search.bound, bound_by=by, groups=groups)
    if found.cost >= old.best.cost:
        return new
    order = tuple(number[vertex] for vertex in vertices_of(found.order))
    who = f"jax_cce {jax_cce.__version__}"
    new = dataclasses.replace(new, best=Best(found.cost, order, found.strategy, who, date))
    return new if old.is_scalar else _with_tables(new, graph)


def _with_tables(made: Entry, graph: Skeleton) -> Entry:
    """An entry with the products and sums that the best order and some others meet."""
    algebra = graph.algebra
    assert isinstance(algebra, PricedBlocks)
    node = {k: node for node, k in _renumbered(graph).items()}
    random = np.random.default_rng(0)
    drawn = [random.permutation(graph.vertices).tolist() for _ in range(_EXPLORED)]
    for order in ([node[k] for k in made.best.order], *drawn):
        graph.evaluate(order)
    kinds = range(1, len(algebra.structures))
    return dataclasses.replace(
        made,
        products=dict(algebra.products),
        sums=dict(algebra.totals),
        final={kind: algebra.final(kind) for kind in kinds if algebra.final(kind)},
    )
