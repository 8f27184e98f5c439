"""The computational graph between the differentiated inputs and the outputs of a program.

A vertex is a variable that an equation computes and that has a tangent space; its number is its
place in the program (see `Program`), counted from the first computed variable. An edge u -> v
holds the block dv/du. Only what lies between an input and an output is kept.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax_cce.algebra.blocks import Block, Operator, OperatorPiece
from jax_cce.algebra.recorder import Recorder
from jax_cce.graph.complex_regions import fuse_complex_regions
from jax_cce.jax_internals import Literal
from jax_cce.program import passes
from jax_cce.program.flat import Program
from jax_cce.rules.accumulation import place
from jax_cce.rules.book import Wild
from jax_cce.rules.derivatives import activity, has_custom, local_jacobian
from jax_cce.rules.local import LocalJacobian
from jax_cce.rules.open_paths import OpenPaths, edges_of
from jax_cce.rules.wildness import wildness

__all__ = [
    "Graph",
    "build",
    "without_edges",
]


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
        recorder: holds the slots of the local coefficients.
        reverse_only: whether an equation has no local Jacobian but a pullback that is not linear,
            so that the whole is what `jax.jacrev` makes of it: one call for each row.
    """

    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]
    shapes: dict[int, tuple[int, ...]]
    successors: dict[int, dict[int, Block]]
    vertices: tuple[int, ...]
    sites: tuple[LocalJacobian | None, ...]
    recorder: Recorder
    reverse_only: bool

    @functools.cached_property
    def open_paths(self) -> OpenPaths:
        """The coefficients that have to be zero off the open paths."""
        _, varied = passes.dependent(self.program.equations, self.inputs)
        edges = [
            edge
            for site, (equation, local) in enumerate(
                zip(self.program.equations, self.sites, strict=True)
            )
            if local is not None
            for edge in edges_of(site, equation, local.edges, varied)
            if edge.source in self.shapes and edge.target in self.shapes
        ]
        outputs = [k for k in self.outputs if not isinstance(k, Literal) and k in self.shapes]
        inputs = [k for k in self.inputs if k in self.shapes]

        def wild() -> dict[Any, Wild]:
            return dict(enumerate(wildness(self.program)))

        return OpenPaths(edges, self.shapes, inputs, outputs, wild)

    @property
    def num_edges(self) -> int:
        """The number of edges."""
        return sum(map(len, self.successors.values()))


def without_edges(program: Program, inputs: Sequence[int], outputs: Sequence[Any]) -> Graph:
    """A graph of which only the ends are known, for programs that are not eliminated."""
    return Graph(program, tuple(inputs), tuple(outputs), {}, {}, (), (), Recorder(), False)


def build(
    program: Program,
    inputs: Sequence[int],
    outputs: Sequence[Any],
    *,
    holomorphic: bool = False,
    sparse: bool = False,
    apart: bool = False,
    by_steps: bool = False,
) -> Graph:
    """Builds the graph of the Jacobian of `outputs` with respect to `inputs`.

    Args:
        program: a traced program.
        inputs: variable numbers to differentiate with respect to.
        outputs: variable numbers or literals to differentiate.
        holomorphic: whether complex coefficients may stand for derivatives.
        sparse: whether the Jacobian is wanted as terms, so that no structural zero may be lost.
        apart: whether single entries of small blocks are kept apart.
        by_steps: whether loops are differentiated by the Jacobians of their steps.
    """
    program = fuse_complex_regions(program, holomorphic, inputs)
    recorder = Recorder(sparse=sparse, apart=apart)
    avals = program.avals
    edges: dict[int, dict[int, Block]] = {name: {} for name in inputs}
    sites: list[LocalJacobian | None] = []
    for site, (equation, varied) in enumerate(
        zip(program.equations, activity(program), strict=True)
    ):
        active = tuple(not isinstance(k, Literal) and k in edges for k in equation.inputs)
        if not any(active):
            sites.append(None)
            continue
        if active != varied and has_custom([equation]):
            # A custom rule sees what JAX sees, which knows of fewer structural zeros.
            active = varied
        local = local_jacobian(equation, active, sparse=sparse, by_steps=by_steps)
        sites.append(local)
        for (operand, output), terms in local.edges.items():
            source, target = equation.inputs[operand], equation.outputs[output]
            if source not in edges:
                continue
            block: Block
            if isinstance(terms, tuple):
                block = place(recorder, terms, site, (operand, output))
            else:
                block = (OperatorPiece(terms, site, operand, output),)
            shape = avals[target].shape
            known = edges[source].get(target, ())
            total = recorder.add(known, block, shape, avals[source].shape)
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
        sources = [name for name in predecessors[pending.pop()] if name not in reaches]
        reaches.update(sources)
        pending += sources
    successors = {
        name: {target: block for target, block in to.items() if target in reaches}
        for name, to in edges.items()
        if name in reaches
    }
    # The rules have read what was known, and a graph is kept as long as its plan.
    equations = [
        dataclasses.replace(equation, known={}) if equation.known else equation
        for equation in program.equations
    ]
    return Graph(
        dataclasses.replace(program, equations=equations),
        tuple(inputs),
        tuple(outputs),
        {name: tuple(avals[name].shape) for name in successors},
        successors,
        tuple(sorted(n for n, to in successors.items() if to and n >= program.first_computed)),
        tuple(sites),
        recorder,
        _is_reverse_only(program, outputs, sites),
    )


def _is_reverse_only(
    program: Program, outputs: Sequence[Any], sites: Sequence[LocalJacobian | None]
) -> bool:
    """Whether a pullback that is not linear is called for some output.

    That it is called with zeros, behind a product with zero, is no reason to leave it out.
    """
    found = [
        site is not None
        and any(isinstance(each, Operator) and each.reverse_only for each in site.edges.values())
        for site in sites
    ]
    if not any(found):
        return False
    live, _ = passes.needed(program.equations, outputs)
    return any(wanted and alive for wanted, alive in zip(found, live, strict=True))
