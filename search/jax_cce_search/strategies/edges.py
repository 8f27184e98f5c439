"""Beyond orders of vertices: simulated annealing over sequences that eliminate single edges, too.

It is for graphs of scalars counted in multiplications. It goes on from the best order of vertices,
which a search of them finds first, and from random ones; a move takes an item elsewhere,
puts the front or back elimination of an edge in, or leaves one out. Elsewhere, and in larger
graphs, orders of vertices alone are searched.

Source: Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph" (2004), where edge elimination needs fewer products than any order of vertices.
"""

import numpy as np

from jax_cce.eliminations import EdgeElimination, Item
from jax_cce_search.game import sequences
from jax_cce_search.game.bounds import vertex_bounds
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Search
from jax_cce_search.strategies import annealing

__all__ = [
    "anneal",
    "beyond",
    "is_searchable",
    "search",
]

# The share of the budget in which vertices are ordered, and without a budget the moves for each.
_BY_VERTICES, _MOVES_BY_VERTICES = 0.3, 2000
# Moves for each vertex of a run, and runs without a budget.
MOVES, _RUNS = 3000, 8
# First and last temperature, in products.
HOT, COLD = 0.5, 0.1
_MOST_EDGES = 16
# Moves between two looks at the clock.
_CHUNK = 8192
# Numbers of all graphs that are kept along a sequence.
_MOST_WORDS = 1 << 23


def search(state: Search) -> None:
    """Orders the vertices first, and then goes on with edges where that is possible."""
    if not is_searchable(state.problem):
        annealing.search(state)
        return
    if state.best is None:
        seconds, evaluations = state.budget.seconds, state.budget.evaluations
        if evaluations is not None:
            evaluations = int(_BY_VERTICES * evaluations)
        elif seconds is None:
            evaluations = _MOVES_BY_VERTICES * len(state.problem.vertices)
        seconds = None if seconds is None else _BY_VERTICES * seconds
        with state.part("annealing", seconds=seconds, evaluations=evaluations):
            annealing.search(state)
    beyond(state)


def is_searchable(problem: Problem) -> bool:
    """Whether it is a graph of scalars counted in multiplications, and small enough."""
    nodes, count = len(problem.reduced.successors), len(problem.vertices)
    words = 2 * (count + _MOST_EDGES + 1) * nodes * ((nodes + 63) // 64)
    return problem.uniform and problem.is_compilable and words <= _MOST_WORDS


def beyond(state: Search) -> None:
    """Anneals sequences with edges, every third time from the best order, else from random ones.

    That an order is proven to be the best one of vertices does not end it. A bound on the products
    that have a vertex in their middle does, which holds for sequences with edges, too: of so many
    disjoint paths into a vertex and out of it each pair is joined by a product of its own.
    """
    problem = state.problem
    least = sum(vertex_bounds(problem.graph).values())
    count, run = len(problem.vertices), 0
    limited = state.budget.seconds is not None or state.budget.evaluations is not None
    order = state.best
    while count > 1 and order is not None and state.cost > least and not state.spent():
        if not limited and run == _RUNS:
            return
        start = order if run % 3 == 0 else state.random.permutation(problem.vertices).tolist()
        anneal(state, start, MOVES * count, HOT, COLD)
        run += 1


def anneal(
    state: Search, start: tuple[Item, ...] | list[int], moves: int, hot: float, cold: float
) -> None:
    """One run of so many moves from a sequence.

    Args:
        state: the search, of a graph that is searchable.
        start: the sequence to start from.
        moves: number of moves tried.
        hot: first temperature, in products.
        cold: last temperature.
    """
    problem, compiled = state.problem, state.problem.compiled
    count = len(start)
    walk, best = _walk(problem, start)
    sequences.replay(walk, 0, count)
    first = int(walk.paid[count])
    vertices = len(problem.vertices)
    tally = np.array([count, vertices, count, first, 0], np.int64)
    schedule = np.array([moves, hot, cold, _MOST_EDGES], np.float64)
    while tally[4] < moves and not state.spent():
        wanted = state.allowed(int(min(_CHUNK, moves - tally[4])))
        sequences.anneal(walk, best, tally, state.random.random((wanted, 6)), schedule)
        state.evaluations += wanted
        if tally[3] + problem.prefix_cost < state.cost:
            names = compiled.nodes
            found = _without_idle(problem, [_item(item, names) for item in best[: tally[2]]])
            state.offer(found, int(tally[3]) + problem.prefix_cost)


def _walk(
    problem: Problem, start: tuple[Item, ...] | list[int]
) -> tuple[sequences.Walk, np.ndarray]:
    """The graph and a sequence for the compiled loop, and room for the best one."""
    compiled = problem.compiled
    compiled.reset()
    graph = compiled.state
    room = len(problem.vertices) + _MOST_EDGES + 1
    nodes, words = graph.before.shape
    is_vertex = np.zeros(nodes, np.bool_)
    is_vertex[compiled.numbered(problem.vertices)] = True
    walk = sequences.Walk(
        kept=np.zeros((room + 1, 2 * nodes * words), np.uint64),
        paid=np.zeros(room + 1, np.int64),
        is_vertex=is_vertex,
        is_output=graph.is_output,
        items=np.zeros((room, 3), np.int32),
        trial=np.zeros((room, 3), np.int32),
        graph=np.zeros(2 * nodes * words, np.uint64),
        room=np.zeros(2 * nodes, np.int64),
    )
    walk.kept[0] = np.concatenate([graph.before, graph.after]).reshape(-1)
    for k, item in enumerate(start):
        if isinstance(item, EdgeElimination):
            side = sequences.FRONT if item.side == "front" else sequences.BACK
            walk.items[k] = side, compiled.number[item.source], compiled.number[item.target]
        else:
            walk.items[k] = sequences.VERTEX, compiled.number[item], 0
    return walk, walk.items.copy()


def _item(item: np.ndarray, names: np.ndarray) -> Item:
    kind, one, other = item.tolist()
    if kind == sequences.VERTEX:
        return int(names[one])
    return EdgeElimination(
        "front" if kind == sequences.FRONT else "back", int(names[one]), int(names[other])
    )


def _without_idle(problem: Problem, sequence: list[Item]) -> list[Item]:
    """The sequence without the edges that are not there when their turn comes."""
    state, found = problem.reduced.copy(), []
    for item in sequence:
        if not isinstance(item, EdgeElimination):
            state.update(item)
        elif state.obstacle_to(item):
            continue
        else:
            state.update_edge(item)
        found.append(item)
    return found
