"""The computational graph between the differentiated inputs and the outputs of a program.

A vertex is a variable that an equation computes and that has a tangent space; its number is its
place in the program (see `Program`), counted from the first computed variable. An edge u -> v
holds the block dv/du. Only what lies between an input and an output is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import numpy as jnp

from jax_cce import tracing
from jax_cce.blocks import Block, OperatorPiece, Tape
from jax_cce.rules import local_jacobian
from jax_cce.rules.accumulation import place
from jax_cce.rules.registry import LocalJacobian
from jax_cce.tracing import Equation, Literal, Program

__all__ = ["Graph", "build"]

# On complex values these are linear over the reals only, so no complex coefficient describes them.
_NOT_HOLOMORPHIC = {"real", "imag", "conj", "abs", "complex", "sign", "custom_jvp_call"}
_NOT_HOLOMORPHIC |= {
    "custom_vjp_call",
    "cholesky",
    "qr",
    "eigh",
    "eig",
    "svd",
    "householder_product",
}


@dataclass(frozen=True)
class Graph:
    """A program with the blocks of its local Jacobians.

    Attributes:
        program: the program; equations of a complex region are fused into one.
        inputs: the variables that are differentiated.
        outputs: the program's differentiated outputs, variable numbers or literals.
        shapes: shape of each variable on an edge.
        successors: for each variable u the block of every edge u -> v.
        vertices: the eliminable variables, ascending.
        sites: the local Jacobian of each equation; None where nothing is differentiated.
        tape: holds the slots of the local coefficients.
    """

    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]
    shapes: dict[int, tuple[int, ...]]
    successors: dict[int, dict[int, Block]]
    vertices: tuple[int, ...]
    sites: tuple[LocalJacobian | None, ...]
    tape: Tape

    @property
    def only_rows(self) -> bool:
        """Whether a block has a meaning on whole rows of the Jacobian only: reverse order."""
        return any(
            isinstance(piece, OperatorPiece) and piece.operator.only_rows
            for to in self.successors.values()
            for block in to.values()
            for piece in block
        )

    @property
    def num_edges(self) -> int:
        """The number of edges."""
        return sum(map(len, self.successors.values()))


def build(
    program: Program,
    inputs: Sequence[int],
    outputs: Sequence[Any],
    *,
    holomorphic: bool = False,
    sparse: bool = False,
) -> Graph:
    """Builds the graph of the Jacobian of `outputs` with respect to `inputs`.

    Args:
        program: a traced program.
        inputs: variable numbers to differentiate with respect to.
        outputs: variable numbers or literals to differentiate.
        holomorphic: whether complex coefficients may stand for derivatives.
        sparse: whether the Jacobian is wanted as terms, so that no structural zero may be lost.
    """
    program = _fuse_complex(program, holomorphic, inputs)
    tape = Tape(sparse=sparse)
    avals = program.avals
    edges: dict[int, dict[int, Block]] = {name: {} for name in inputs}
    sites: list[LocalJacobian | None] = []
    for site, equation in enumerate(program.equations):
        active = tuple(not isinstance(k, Literal) and k in edges for k in equation.inputs)
        if not any(active):
            sites.append(None)
            continue
        local = local_jacobian(equation, active, sparse=sparse)
        sites.append(local)
        for (operand, output), terms in local.edges.items():
            source, target = equation.inputs[operand], equation.outputs[output]
            block: Block
            if isinstance(terms, tuple):
                block = place(tape, terms, site, (operand, output))
            else:
                block = (OperatorPiece(terms, site, operand, output),)
            shape = avals[target].shape
            known = edges[source].get(target, ())
            total = tape.add(known, block, shape, avals[source].shape)
            if total:
                edges[source][target] = total
                edges.setdefault(target, {})
            else:
                edges[source].pop(target, None)

    predecessors: dict[int, list[int]] = {name: [] for name in edges}
    for name, to in edges.items():
        for target in to:
            predecessors[target].append(name)
    pending = [name for name in outputs if not isinstance(name, Literal) and name in edges]
    reaches = set(pending)
    while pending:
        found = [name for name in predecessors[pending.pop()] if name not in reaches]
        reaches.update(found)
        pending += found
    successors = {
        name: {target: block for target, block in to.items() if target in reaches}
        for name, to in edges.items()
        if name in reaches
    }
    return Graph(
        program,
        tuple(inputs),
        tuple(outputs),
        {name: tuple(avals[name].shape) for name in successors},
        successors,
        tuple(sorted(n for n, to in successors.items() if to and n >= program.first_computed)),
        tuple(sites),
        tape,
    )


class _Region:
    """A fused part of a program, in the place of a primitive."""

    multiple_results = True
    name = "complex region"

    def __init__(self, program: Program, reverse_only: bool) -> None:
        self._program = program
        self.reverse_only = reverse_only

    def get_bind_params(self, params: Any) -> dict[str, Any]:
        return {}

    def bind(self, *operands: Any) -> Sequence[Any]:
        return tracing.evaluate(self._program, (), operands)


def _is_complex(equation: Equation) -> bool:
    return _has_complex((*equation.in_avals, *equation.out_avals))


def _has_complex(avals: Sequence[Any]) -> bool:
    return any(jnp.issubdtype(aval.dtype, np.complexfloating) for aval in avals)


def _fuse_complex(program: Program, holomorphic: bool, inputs: Sequence[int]) -> Program:
    """Fuses the equations on complex values into one, where they are not complex-linear.

    JAX's linearisation of the fused equation is exact for real inputs and outputs, and for a
    function that is holomorphic as a whole. Where an input is complex and an output real, the
    Jacobian is by definition what the pullback gives.
    """
    pullback = not holomorphic and any(_has_complex([program.avals[k]]) for k in inputs)
    selected = [_is_complex(equation) for equation in program.equations]
    if not any(selected):
        return program
    if pullback:
        selected = [True] * len(selected)
    elif holomorphic:
        if not any(
            chosen and not _NOT_HOLOMORPHIC.isdisjoint(tracing.primitive_names([equation]))
            for chosen, equation in zip(selected, program.equations, strict=True)
        ):
            return program
        selected = [True] * len(selected)
    # Everything between two selected equations joins them, so that no path leaves and returns.
    after = _marked(program.equations, selected)
    before = _marked_backwards(program.equations, selected)
    inside = [a and b for a, b in zip(after, before, strict=True)]
    region = [e for e, chosen in zip(program.equations, inside, strict=True) if chosen]
    ahead = [e for e, a in zip(program.equations, after, strict=True) if not a]
    behind = [e for e, a, i in zip(program.equations, after, inside, strict=True) if a and not i]

    made = {name for equation in region for name in equation.outputs}
    taken = [k for e in region for k in e.inputs if not isinstance(k, Literal) and k not in made]
    operands = list(dict.fromkeys(taken))
    used = {k for e in behind for k in e.inputs if not isinstance(k, Literal)}
    used.update(k for k in program.outputs if not isinstance(k, Literal))
    results = sorted(made & used)

    number = {name: index for index, name in enumerate([*operands, *sorted(made)])}

    def rename(atoms: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(k if isinstance(k, Literal) else number[k] for k in atoms)

    body = Program(
        [program.avals[name] for name in number],
        len(operands),
        0,
        [
            Equation(
                e.primitive,
                e.params,
                rename(e.inputs),
                rename(e.outputs),
                e.in_avals,
                e.out_avals,
                e.origin,
            )
            for e in region
        ],
        rename(results),
    )
    fused = Equation(
        _Region(body, pullback),
        {},
        tuple(operands),
        tuple(results),
        tuple(program.avals[name] for name in operands),
        tuple(program.avals[name] for name in results),
        region[0].origin,
    )
    return Program(
        program.avals,
        program.num_inputs,
        program.num_constants,
        [*ahead, fused, *behind],
        program.outputs,
    )


def _marked(equations: Sequence[Equation], selected: Sequence[bool]) -> list[bool]:
    """For each equation whether it is selected or depends on a selected one."""
    names: set[Any] = set()
    result = []
    for equation, chosen in zip(equations, selected, strict=True):
        hit = chosen or any(not isinstance(k, Literal) and k in names for k in equation.inputs)
        if hit:
            names.update(equation.outputs)
        result.append(hit)
    return result


def _marked_backwards(equations: Sequence[Equation], selected: Sequence[bool]) -> list[bool]:
    """For each equation whether it is selected or a selected one depends on it."""
    names: set[Any] = set()
    result = []
    for equation, chosen in zip(reversed(equations), reversed(selected), strict=True):
        hit = chosen or not names.isdisjoint(equation.outputs)
        if hit:
            names.update(k for k in equation.inputs if not isinstance(k, Literal))
        result.append(hit)
    return result[::-1]
