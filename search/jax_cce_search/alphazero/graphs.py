"""The graphs that a policy learns from: random programs, and functions of the usual families.

A random program is written as people write them: statements that assign an expression over earlier
variables to a new one. Intermediate results of an expression are used once, variables again and
again, recent ones more often.
"""

from collections.abc import Iterator

import numpy as np

from jax_cce.orders.skeleton import Skeleton
from jax_cce_search.alphazero import families
from jax_cce_search.alphazero.configuration import Graphs
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.game.problem import Problem

__all__ = [
    "drawn",
    "fitting",
    "random_program",
]

# Streams of random numbers.
_TRAINING, _VALIDATION = 0, 1


def random_program(vertices: int, random: np.random.Generator) -> Skeleton:
    """The graph of a random program of scalars.

    Args:
        vertices: how many vertices it has.
        random: draws it.
    """
    inputs = int(random.integers(2, max(3, vertices // 8) + 1))
    outputs = int(random.integers(1, max(2, vertices // 10) + 1))
    operations = random.uniform(1.5, 5)  # in a statement, on average
    unary, recent = random.uniform(0.1, 0.4), random.uniform(0, 0.8)
    last = inputs + vertices
    edges: set[tuple[int, int]] = set()
    variables = list(range(inputs))
    unread = dict.fromkeys(variables)

    def read() -> int:
        if unread and random.random() < 0.3:
            variable = int(random.choice(list(unread)))
        elif random.random() < recent:
            variable = variables[-1 - min(int(random.exponential(4)), len(variables) - 1)]
        else:
            variable = variables[random.integers(len(variables))]
        unread.pop(variable, None)
        return variable

    node = inputs
    while node < last:
        stack = [read()]
        for _ in range(min(1 + random.poisson(operations - 1), last - node)):
            operands = {stack.pop()}
            if random.random() >= unary:
                operands.add(stack.pop() if stack and random.random() < 0.5 else read())
            edges.update((operand, node) for operand in operands)
            stack.append(node)
            node += 1
            if random.random() < 0.3:
                stack.append(read())
        for result in stack:
            if result not in variables:
                variables.append(result)
                unread[result] = None
    pending = list(unread)
    for output in range(last, last + outputs):
        for _ in range(2):
            latest = variables[-1 - random.integers(min(len(variables) - inputs, 8))]
            edges.add((pending.pop() if pending else latest, output))
    edges.update((variable, int(random.integers(last, last + outputs))) for variable in pending)
    return Skeleton.from_edges(edges, range(inputs), range(last, last + outputs))


def fitting(encoding: Encoding, graphs: Graphs) -> tuple[int, int] | None:
    """The least of the configured paddings that a graph fits; None where it fits none."""
    nodes = [size for size in graphs.nodes if size >= len(encoding.nodes)]
    kinds = [size for size in graphs.kinds if size >= encoding.kinds] if encoding.kinds else [0]
    return (min(nodes), min(kinds)) if nodes and kinds else None


def drawn(graphs: Graphs, seed: int) -> tuple[list[Encoding], list[Encoding]]:
    """The graphs to learn from, and those to try the policy on; all that fit.

    Args:
        graphs: how many of which.
        seed: draws them.
    """
    training = list(_drawn(graphs, graphs.random, graphs.functions, (seed, _TRAINING)))
    share = graphs.validation / max(graphs.random + graphs.functions, 1)
    few = round(share * graphs.random), round(share * graphs.functions)
    validation = list(_drawn(graphs, *few, (seed, _VALIDATION)))
    return training, validation


def _drawn(
    graphs: Graphs, programs: int, functions: int, seed: tuple[int, int]
) -> Iterator[Encoding]:
    for graph in _skeletons(graphs, programs, functions, seed):
        problem = Problem(graph)
        if len(problem.vertices) > 2:
            encoding = Encoding(problem)
            if fitting(encoding, graphs):
                yield encoding


def _skeletons(
    graphs: Graphs, programs: int, functions: int, seed: tuple[int, int]
) -> Iterator[Skeleton]:
    least, most = graphs.vertices
    for index in range(programs):
        random = np.random.default_rng([*seed, 0, index])
        yield random_program(int(random.integers(least, most + 1)), random)
    names = list(families.FAMILIES)
    for index in range(functions):
        random = np.random.default_rng([*seed, 1, index])
        cost = graphs.costs[index // len(names) % len(graphs.costs)]
        graph = families.traced(names[index % len(names)], random, cost)
        yield graph
        for _ in range(graphs.windows):
            count = int(random.integers(least, most + 1))
            if count < len(graph.vertices):
                yield families.window(graph, count, random)
