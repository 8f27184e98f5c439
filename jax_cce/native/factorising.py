"""Factorisations of small matrices and what solves with their factors, entry by entry."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jax_cce.native.nodes import Nodes, Unsupported, lifted, most_of
from jax_cce.native.scalars import Scalars
from jax_cce.program.flat import Equation

__all__ = ["cholesky", "eigenvalues", "extreme", "lu", "sort", "top_k", "triangular_solve"]

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
_MOST_PIVOTS, _MOST_SORTED = 8, 16
# After four, eigenvalues of random matrices of 3 x 3 are exact to rounding.
_SWEEPS = 5


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
    """A few numbers in order, and what goes with them; equal ones stay in their order."""
    aval, axis = equation.in_avals[0], equation.params["dimension"]
    if equation.params["num_keys"] != 1 or aval.dtype.kind not in "fi":
        raise Unsupported("sort by several keys, or by others than numbers")
    is_after = functools.partial(_is_beyond, graph, "gt", aval.dtype.kind == "f")
    arrays = [np.moveaxis(lifted(graph, x), axis, -1) for x in operands]
    found = [np.array(each) for each in arrays]
    for place in np.ndindex(arrays[0].shape[:-1]):
        for each, row in zip(
            found, _sorted(graph, [x[place] for x in arrays], is_after), strict=True
        ):
            each[place] = row
    return [
        Nodes(np.moveaxis(each, -1, axis), most_of(x))
        for each, x in zip(found, operands, strict=True)
    ]


def top_k(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The greatest of a few numbers in the total order of IEEE 754, and where they are."""
    aval, count = equation.in_avals[0], equation.params["k"]
    size = aval.shape[-1]
    if aval.dtype.kind != "f" or equation.params.get("axis", aval.ndim - 1) != aval.ndim - 1:
        raise Unsupported("top_k of others than numbers, or along another axis")
    array = lifted(graph, operands[0])
    numbers = [graph.number(k) for k in range(size)]
    shape = (*aval.shape[:-1], count)
    values, places = np.empty(shape, np.int64), np.empty(shape, np.int64)
    is_after = functools.partial(graph.make, "lt_to")
    for place in np.ndindex(aval.shape[:-1]):
        values[place], places[place] = (
            row[:count] for row in _sorted(graph, [array[place], numbers], is_after)
        )
    return [Nodes(values), Nodes(places, size - 1)]


def _sorted(
    graph: Scalars, columns: Sequence[Iterable[int]], is_after: Callable[[int, int], int]
) -> list[list[int]]:
    """Columns in the order of the first one: neighbours are exchanged until they are."""
    found = [list(map(int, column)) for column in columns]
    keys = found[0]
    if len(keys) > _MOST_SORTED:
        raise Unsupported("sort of many numbers")
    for end in reversed(range(len(keys))):
        for k in range(end):
            exchanged = is_after(keys[k], keys[k + 1])
            for column in found:
                column[k], column[k + 1] = _exchanged(graph, exchanged, column[k], column[k + 1])
    return found


def _is_beyond(graph: Scalars, op: str, floats: bool, x: int, y: int) -> int:
    """Whether a number is greater ("gt"), or less ("lt"), than another; NaN is beyond all."""
    beyond = graph.make(op, x, y)
    if not floats:
        return beyond
    is_nan, is_number = graph.make("ne", x, x), graph.make("eq", y, y)
    return graph.make("or", beyond, graph.make("and", is_nan, is_number))


def extreme(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Where the first of the greatest, or least, numbers is, or the first NaN (argmax, argmin)."""
    (axis,), aval = equation.params["axes"], equation.in_avals[0]
    size = aval.shape[axis]
    if size > _MOST_SORTED or not size:
        raise Unsupported(f"{equation.name} of many numbers")
    rows = np.moveaxis(lifted(graph, operands[0]), axis, -1)
    found = np.empty(rows.shape[:-1], np.int64)
    op = {"argmax": "gt", "argmin": "lt"}[equation.name]
    for place in np.ndindex(found.shape):
        best, where = int(rows[place][0]), graph.zero
        for k in range(1, size):
            node = int(rows[place][k])
            better = _is_beyond(graph, op, aval.dtype.kind == "f", node, best)
            best = graph.make("select_n", better, best, node)
            where = graph.make("select_n", better, where, graph.number(k))
        found[place] = where
    return [Nodes(found, size - 1)]


def eigenvalues(graph: Scalars, matrix: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The eigenvalues of a symmetric matrix of 2 x 2 or 3 x 3, in order, and its eigenvectors.

    Entries beside the diagonal are rotated away, one after the other (the cyclic Jacobi method,
    Golub & Van Loan, Matrix Computations, 8.5). Signs of eigenvectors are not those of LAPACK.

    Args:
        graph: the graph.
        matrix: the nodes of the matrix.
    """
    make, size = graph.make, len(matrix)
    a, vectors = np.array(matrix), np.full((size, size), graph.zero)
    np.fill_diagonal(vectors, graph.one)

    def rotated(x: int, y: int, cosine: int, sine: int) -> tuple[int, int]:
        return (
            make("sub", make("mul", cosine, x), make("mul", sine, y)),
            make("add", make("mul", sine, x), make("mul", cosine, y)),
        )

    pairs = list(itertools.combinations(range(size), 2))
    for p, q in pairs * (1 if size == 2 else _SWEEPS):
        beside = int(a[p, q])
        twice = make("add", beside, beside)
        ratio = make("div", make("sub", int(a[q, q]), int(a[p, p])), twice)
        root = make("sqrt", make("add", graph.one, make("mul", ratio, ratio)))
        size_of = make("div", graph.one, make("add", make("abs", ratio), root))
        sign = make("select_n", make("lt", ratio, graph.zero), size_of, make("neg", size_of))
        tangent = make("select_n", make("eq", beside, graph.zero), sign, graph.zero)
        root = make("sqrt", make("add", graph.one, make("mul", tangent, tangent)))
        cosine = make("div", graph.one, root)
        sine = make("mul", tangent, cosine)
        moved = make("mul", tangent, beside)
        a[p, p], a[q, q] = make("sub", int(a[p, p]), moved), make("add", int(a[q, q]), moved)
        a[p, q] = a[q, p] = graph.zero
        for k in set(range(size)).difference((p, q)):
            a[k, p], a[k, q] = rotated(int(a[k, p]), int(a[k, q]), cosine, sine)
            a[p, k], a[q, k] = a[k, p], a[k, q]
        for row in vectors:
            row[p], row[q] = rotated(int(row[p]), int(row[q]), cosine, sine)
    is_after = functools.partial(_is_beyond, graph, "gt", True)
    values, *rows = _sorted(graph, [np.diagonal(a), *vectors], is_after)
    return values, np.array(rows)
