"""What native code of an order becomes: instructions, and numbers that registers do not hold.

LLVM says in its assembly which instructions write a number of which registers have run out to
memory, and read it again. `predicted` says how many it takes at least: each time that a register
is needed, the number goes whose next use is farthest (L. A. Belady, IBM Systems Journal 5, 1966),
in the order in which the code is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.stats

from benchmarks.orders import Called, Order
from jax_cce.native import compiling
from jax_cce.native.edges import Edges
from jax_cce.native.expanding import expanded
from jax_cce.native.kernels import Function, Signature, written
from jax_cce.native.scalars import INSTRUCTIONS, Scalars
from jax_cce.planning.task import task_of

# Of the registers some hold what an instruction reads or makes. (Of 16, predictions with 12 are
# those that are closest to what LLVM writes.)
_SPARE = 4
# What may be counted of an order: in the published convention, in the graph, in the machine code,
# and in the graph for so many registers.
COUNTS = (
    *("multiplications", "operations", "additions", "instructions"),
    *("spills", "predicted spills"),
)


class Code(NamedTuple):
    """The code of a tile.

    Attributes:
      instructions: How many.
      stores: Numbers written to memory for want of a register.
      loads: Instructions that read such numbers.
    """

    instructions: int
    stores: int
    loads: int


def code_of(called: Called, order: Order) -> Code | str:
    """The code for many points in an order, or why there is none."""
    task = task_of(called.fun, called.argnums)(*called.point)
    program, first = task.traced.program, task.traced.program.num_inputs
    known = [task.known.get(name) for name in range(first, program.first_computed)]
    num_values, inputs = task.traced.num_values, task.differentiated
    function = Function(program, num_values, inputs, known, False, [order])
    mapped = [False] * program.num_constants
    for argument, axis in zip(called.point, called.axes, strict=True):
        mapped += [axis is not None] * len(jax.tree.leaves(argument))
    results = len(program.outputs) - num_values + num_values * len(inputs)
    arguments = [None] * program.first_computed
    text = written(function, Signature(arguments, mapped, 1, range(results)), limited=False)
    if isinstance(text, str):
        return text
    return _counted(compiling.assembly(text.text, quickly=text.quickly))


def _counted(assembly: str) -> Code:
    tile = assembly[assembly.index("\ntile:") :]
    tile = tile[: tile.index(".cfi_endproc")]
    lines = [line for line in tile.splitlines() if line.startswith("\t")]
    lines = [line for line in lines if not line.lstrip().startswith((".", "#"))]
    return Code(len(lines), *(sum(word in line for line in lines) for word in ("Spill", "Reload")))


def predicted(edges: Edges, order: Order) -> tuple[int, int]:
    """Numbers that are written to memory for want of registers, and reads of such, in an order."""
    registers = 32 if compiling.machine().bytes == 64 else 16
    with edges.graph.for_a_while():
        rows = edges.derivatives(order)
        graph, nodes = expanded(edges.graph, [node for row in rows for node in row])
    return traffic(graph, nodes, registers - _SPARE)


def traffic(graph: Scalars, nodes: Sequence[int], registers: int) -> tuple[int, int]:
    """The least numbers that are written to memory, and reads of such, in the order of the code.

    What is given is read from memory in any case, and results leave registers when they are made.
    At a call of a function no register keeps anything.

    Args:
      graph: The graph, in simple operations.
      nodes: What is computed.
      registers: How many there are.
    """
    code = [node for node in graph.in_order_of_code(nodes) if not graph.is_given(node)]
    operands = {node: [k for k in graph.operands(node) if not graph.is_given(k)] for node in code}
    uses: dict[int, list[int]] = {node: [] for node in code}
    for at, node in reversed(list(enumerate(code))):
        for operand in dict.fromkeys(operands[node]):
            uses[operand].append(at)
    held, written = set[int](), set[int]()
    loads = 0

    def next_use(node: int) -> float:
        return uses[node][-1] if uses[node] else math.inf

    def hold(node: int) -> None:
        """A number takes a register, or the one whose use is farthest goes, which may be it."""
        if uses[node]:
            held.add(node)
        if len(held) > registers:
            farthest = max(held, key=next_use)
            held.remove(farthest)
            written.add(farthest)

    for node in code:
        for operand in dict.fromkeys(operands[node]):
            uses[operand].pop()
            if operand not in held:
                loads += 1
            held.discard(operand)
            hold(operand)
        if graph.ops[node] not in INSTRUCTIONS:
            written |= held
            held.clear()
        hold(node)
    return len(written), loads


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one of them is the same throughout."""
    if min(len(set(one)), len(set(other))) < 2:
        return math.nan
    return float(scipy.stats.spearmanr(one, other).statistic)


def shares(counts: Mapping[str, Sequence[float]], times: Sequence[float]) -> tuple[float, ...]:
    """How much of the variance of times lines explain: of additions; with spills of either kind.

    Each time is predicted by the line through all others, so that a count that says nothing new
    makes it worse, not better.
    """
    additions = counts["additions"]
    return tuple(
        _explained([additions, *(counts[name] for name in others)], np.array(times))
        for others in ((), ("spills",), ("predicted spills",))
    )


def _explained(columns: Sequence[Sequence[float]], times: np.ndarray) -> float:
    matrix = np.stack([np.ones(len(times)), *map(np.asarray, columns)], axis=1)
    hat = matrix @ np.linalg.pinv(matrix)
    left_out = (times - hat @ times) / (1 - np.diag(hat))
    mean = (times - times.mean()) * len(times) / (len(times) - 1)
    return float(1 - np.sum(left_out**2) / np.sum(mean**2))
