"""Factorisations of small matrices and what solves with their factors, entry by entry."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce.native.nodes import Nodes, Unsupported, lifted
from jax_cce.native.scalars import Scalars
from jax_cce.program.flat import Equation

__all__ = ["cholesky", "lu", "sort", "triangular_solve"]

# Larger factorisations are the library's, which takes less than scalar code of single points.
_MOST_ROWS = 12


def cholesky(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The factor of a small matrix that is seen to be symmetric; NaN where there is none."""
    matrix = operands[0].nodes
    size = matrix.shape[-1]
    if matrix.ndim != 2 or size > _MOST_ROWS or not np.array_equal(matrix, matrix.T):
        raise Unsupported("cholesky of a matrix that is large, or not seen to be symmetric")
    factor = np.full(matrix.shape, graph.zero, np.int64)
    fails = graph.truth(False)
    for column in range(size):
        for row in range(column, size):
            rest = int(matrix[row, column])
            for k in range(column):
                product = graph.make("mul", int(factor[row, k]), int(factor[column, k]))
                rest = graph.make("sub", rest, product)
            if row > column:
                factor[row, column] = graph.make("div", rest, int(factor[column, column]))
                continue
            # A pivot that is NaN is not positive either.
            positive = graph.make("gt", rest, graph.zero)
            fails = graph.make("or", fails, graph.make("not", positive))
            factor[row, column] = graph.make("sqrt", rest)
    # As LAPACK has it, all or nothing.
    nothing = graph.make("select_n", fails, graph.one, graph.number(np.nan))
    below = np.tril_indices(size)
    factor[below] = [graph.make("mul", int(node), nothing) for node in factor[below]]
    return [Nodes(factor)]


# Rows are exchanged by selections, one for every row below.
_MOST_PIVOTS = 8


def lu(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Both factors of a small matrix in one, the pivots, and the order of the rows.

    The pivot is the entry of the largest magnitude, the first of several, as in LAPACK.
    """
    matrix = np.array(operands[0].nodes)
    size = matrix.shape[-1]
    if matrix.ndim != 2 or len(matrix) != size or size > _MOST_PIVOTS:
        raise Unsupported("lu of a matrix that is large, or not square")
    rows = [graph.number(row) for row in range(size)]
    order, pivots = list(rows), []
    for k in range(size):
        pivot, largest = rows[k], graph.make("abs", int(matrix[k, k]))
        for row in range(k + 1, size):
            other = graph.make("abs", int(matrix[row, k]))
            better = graph.make("gt", other, largest)
            pivot = graph.make("select_n", better, pivot, rows[row])
            largest = graph.make("select_n", better, largest, other)
        pivots.append(pivot)
        for row in range(k + 1, size):
            exchanged = graph.make("eq", pivot, rows[row])
            for column in range(size):
                pair = int(matrix[k, column]), int(matrix[row, column])
                matrix[k, column], matrix[row, column] = _exchanged(graph, exchanged, *pair)
            order[k], order[row] = _exchanged(graph, exchanged, order[k], order[row])
        # Where the pivot is zero, so are all entries below.
        own = int(matrix[k, k])
        is_zero = graph.make("eq", own, graph.zero)
        divisor = graph.make("select_n", is_zero, own, graph.one)
        for row in range(k + 1, size):
            factor = matrix[row, k] = graph.make("div", int(matrix[row, k]), divisor)
            for column in range(k + 1, size):
                product = graph.make("mul", int(factor), int(matrix[k, column]))
                matrix[row, column] = graph.make("sub", int(matrix[row, column]), product)
    return [Nodes(matrix), Nodes(pivots, size), Nodes(order, size)]


def _exchanged(graph: Scalars, which: int, one: int, other: int) -> tuple[int, int]:
    make = functools.partial(graph.make, "select_n", which)
    return make(one, other), make(other, one)


def triangular_solve(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The solution with a small triangular matrix, row by row."""
    matrix, right = (lifted(graph, x) for x in operands)
    params = equation.params
    size = matrix.shape[-1]
    if matrix.ndim != 2 or size > _MOST_ROWS:
        raise Unsupported("triangular_solve with a matrix that is large")
    lower = params["lower"]
    if params["transpose_a"]:
        matrix, lower = matrix.T, not lower
    if not params["left_side"]:
        # x a = b is a' x' = b'.
        matrix, right, lower = matrix.T, right.T, not lower
    solution = np.array(right)
    done: list[int] = []
    for row in range(size) if lower else reversed(range(size)):
        for column in range(right.shape[1]):
            rest = int(right[row, column])
            for k in done:
                product = graph.make("mul", int(matrix[row, k]), int(solution[k, column]))
                rest = graph.make("sub", rest, product)
            if not params["unit_diagonal"]:
                rest = graph.make("div", rest, int(matrix[row, row]))
            solution[row, column] = rest
        done.append(row)
    return [Nodes(solution if params["left_side"] else solution.T)]


def sort(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """A few integers in order, and what goes with them: neighbours exchanged until they are."""
    size = equation.in_avals[0].shape[-1] if equation.in_avals[0].ndim == 1 else 0
    if equation.params["num_keys"] != 1 or not 0 < size <= _MOST_PIVOTS:
        raise Unsupported("sort of many numbers, or by several")
    if equation.in_avals[0].dtype.kind != "i":
        raise Unsupported(f"sort of numbers of type {equation.in_avals[0].dtype}")
    columns = [list(map(int, lifted(graph, x))) for x in operands]
    for end, k in itertools.product(reversed(range(size)), range(size - 1)):
        if k >= end:
            continue
        exchanged = graph.make("gt", columns[0][k], columns[0][k + 1])
        for column in columns:
            column[k], column[k + 1] = _exchanged(graph, exchanged, column[k], column[k + 1])
    return [
        Nodes(column, x.most if isinstance(x, Nodes) else int(np.max(np.abs(x))))
        for column, x in zip(columns, operands, strict=True)
    ]
