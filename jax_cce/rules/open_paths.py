"""Open paths: which entries a derivative flows through, past the masks of a program.

Where a mask is false, `jax.jacfwd` drops what comes from the inputs and `jax.jacrev` what comes
from the outputs, be it infinite or NaN. Another elimination order composes coefficients of the
branch that was not taken among themselves, and of 0 * inf no mask makes zero again.

An entry is *reached* if a path leads to it from an input past all masks, and *live* if one leads
from it to an output. A coefficient whose ends are not reached and live contributes nothing. Where
it can be infinite or NaN it is made zero before anything is composed. What is left is finite
wherever a mode of JAX is: forward mode is finite if all that is not lies at entries that are not
live, reverse mode if it lies at entries that are not reached.

From static facts alone it is found out which coefficients need that. Most programs have none.
"""

import collections
import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.passing import covers, mixes
from jax_cce.algebra.steps import Key
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Wild
from jax_cce.rules.local import LocalTerm

__all__ = ["Edge", "OpenPaths", "edges_of"]


class Edge(NamedTuple):
    """The block between two variables that an equation has.

    Attributes:
        site: the equation.
        operand: which of its operands the earlier variable is.
        output: which of its results the later variable is.
        source: the earlier variable.
        target: the later variable.
        block: its terms, or the operator that it is part of.
        is_choice: whether masks pass every entry of the result from one operand or another.
        is_fixed: whether its masks do not depend on what is differentiated.
        is_given: whether its coefficients do not.
    """

    site: Any
    operand: int
    output: int
    source: int
    target: int
    block: tuple[LocalTerm, ...] | Operator
    is_choice: bool
    is_fixed: bool
    is_given: bool

    @property
    def has_masks(self) -> bool:
        """Whether a term is a mask."""
        return isinstance(self.block, tuple) and any(local.is_masked for local in self.block)

    @property
    def has_weights(self) -> bool:
        """Whether it is a product with a matrix that does not depend on what is differentiated."""
        return (
            self.is_given
            and isinstance(self.block, tuple)
            and any(
                local.value is not None
                and (mixes(local.term) or mixes(local.term, transposed=True))
                for local in self.block
            )
        )


# The primitives whose masks belong to different operands and leave no entry of the result out.
_CHOICES = {"select_n", "clamp", "dynamic_update_slice"}
# Those whose first operand decides.
_BY_THE_FIRST = {"cond", "select_n"}


def edges_of(
    site: Any,
    equation: Equation,
    blocks: Mapping[tuple[int, int], Any],
    varied: Collection[int] = (),
) -> list[Edge]:
    """The edges of an equation, by the blocks of its local Jacobian.

    Args:
        site: what it is called.
        equation: the equation.
        blocks: the blocks.
        varied: the variables that depend on what is differentiated.
    """
    deciding = equation.inputs[:1] if equation.name in _BY_THE_FIRST else equation.inputs
    is_fixed = not any(isinstance(k, int) and k in varied for k in deciding)
    is_given = sum(isinstance(k, int) and k in varied for k in equation.inputs) == 1
    smooth = sum(map(jax_internals.is_differentiable, equation.in_avals))
    is_choice = equation.name in _CHOICES and len({operand for operand, _ in blocks}) == smooth
    return [
        Edge(
            site,
            operand,
            output,
            equation.inputs[operand],
            equation.outputs[output],
            block,
            is_choice,
            is_fixed,
            is_given,
        )
        for (operand, output), block in blocks.items()
    ]


class _Cut(enum.IntEnum):
    """How masks can cut off entries of a variable.

    Attributes:
        NOT: no entry.
        JOINTLY: all those at once that a sum or a product of matrices joins.
        SINGLY: each by itself.
    """

    NOT = 0
    JOINTLY = 1
    SINGLY = 2


class _Seen(NamedTuple):
    """What is known of the entries of a variable, from one edge or from all.

    Attributes:
        cut: how they can be cut off.
        covers: whether the edge says that of every entry.
        cases: the choices that lead on from there, each with the operand, entry by entry.
        is_fixed: whether a mask takes part that does not depend on what is differentiated.
    """

    cut: _Cut
    covers: bool = True
    cases: frozenset[tuple[int, int]] = frozenset()
    is_fixed: bool = False


class _Cuts:
    """How entries are cut off from the inputs, or from the outputs, for each variable on a path.

    Attributes:
        at: the variables, in the order of the paths.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        shapes: Mapping[int, Sequence[int]],
        ends: Iterable[int],
        *,
        transposed: bool,
    ) -> None:
        self.at: dict[int, _Seen] = dict.fromkeys(ends, _Seen(_Cut.NOT))
        self._transposed = transposed
        self._choices: dict[int, set[int]] = collections.defaultdict(set)
        for edge in edges:
            if edge.is_choice:
                self._choices[edge.target].add(edge.operand)
        seen: dict[int, list[_Seen]] = collections.defaultdict(list)
        # All edges to a variable come before the first one from it.
        for edge in reversed(edges) if transposed else edges:
            near, far = edge.source, edge.target
            if transposed:
                near, far = far, near
            if near not in self.at and near in seen:
                self.at[near] = self._joined(seen[near])
            if near in self.at:
                seen[far].append(self._seen(edge, self.at[near], shapes[far]))
        for name in seen.keys() - self.at.keys():
            self.at[name] = self._joined(seen[name])

    def _seen(self, edge: Edge, beyond: _Seen, shape: Sequence[int]) -> _Seen:
        """What an edge says of its far end, by what is known of the near one."""
        if isinstance(edge.block, Operator):
            return _Seen(min(beyond.cut, _Cut.JOINTLY), is_fixed=beyond.is_fixed)
        transposed = self._transposed
        cut, whole, cases = _Cut.NOT, False, beyond.cases
        # Units of a layer that are off hide nothing: masks that vary end at a product with weights.
        is_layer = edge.is_given and not beyond.is_fixed
        for local in edge.block:
            if local.is_masked and transposed:
                cut, cases = _Cut.SINGLY, frozenset({(edge.target, edge.operand)})
            elif local.is_masked:
                cut = max(cut, beyond.cut if edge.is_choice else _Cut.SINGLY)
            elif mixes(local.term, transposed=transposed):
                if local.value is None or not is_layer:
                    cut = max(cut, min(beyond.cut, _Cut.JOINTLY))
            else:
                cut = max(cut, beyond.cut)
            whole = whole or covers(local.term, shape, transposed=transposed)
            if local.term.in_map != local.term.out_map:
                cases = frozenset()
        # What is reached by one case of a choice may not be by another.
        is_fixed = beyond.is_fixed or (edge.has_masks and edge.is_fixed)
        return _Seen(cut, whole and (transposed or not edge.is_choice), cases, is_fixed)

    def _joined(self, seen: list[_Seen]) -> _Seen:
        """What all edges to a variable say together."""
        cases = set().union(*(each.cases for each in seen))
        for target in {target for target, _ in cases}:
            # Whatever case is chosen, it leads on from there.
            if self._choices.get(target, {None}) <= {k for at, k in cases if at == target}:
                seen = [*seen, self.at[target]]
                cases |= self.at[target].cases
        if any(each.cut is _Cut.NOT and each.covers for each in seen):
            return _Seen(_Cut.NOT)
        cut = max(each.cut for each in seen)
        is_fixed = any(each.is_fixed for each in seen if each.cut is not _Cut.NOT)
        return _Seen(cut, True, frozenset(cases), is_fixed)


class OpenPaths:
    """The coefficients of a program that have to be zero off the open paths.

    Attributes:
        guarded: their edges, by site and key.
        operators: the variables at the ends of operators that have to be, by site, position, and
            whether it is a result.
        ahead: the edges by which it is found out what is reached.
        behind: the edges by which it is found out what is live.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        shapes: Mapping[int, Sequence[int]],
        inputs: Iterable[int],
        outputs: Iterable[int],
        wild: Callable[[], Mapping[Any, Wild]],
    ) -> None:
        """Finds out which coefficients these are.

        Args:
            edges: in the order of the program.
            shapes: the shape of each variable.
            inputs: where the paths start.
            outputs: where they end.
            wild: for each site whether its coefficients may be infinite or NaN.
        """
        self.shapes = shapes
        self.guarded: dict[tuple[Any, Key], Edge] = {}
        self.operators: dict[tuple[Any, int, bool], int] = {}
        self.ahead: list[Edge] = []
        self.behind: list[Edge] = []
        if any(edge.has_masks for edge in edges):
            self._find(edges, inputs, outputs, wild())

    def _find(
        self,
        edges: Sequence[Edge],
        inputs: Iterable[int],
        outputs: Iterable[int],
        wild: Mapping[Any, Wild],
    ) -> None:
        shapes = self.shapes
        reached = _Cuts(edges, shapes, inputs, transposed=False).at
        live = _Cuts(edges, shapes, outputs, transposed=True).at
        edges = [edge for edge in edges if edge.source in reached and edge.target in live]
        for edge in edges:
            ends = reached[edge.source], live[edge.target]
            if all(end.cut is _Cut.NOT for end in ends):
                continue
            if isinstance(edge.block, Operator):
                self.operators[edge.site, edge.operand, False] = edge.source
                self.operators[edge.site, edge.output, True] = edge.target
            elif _has_to_be_zero(edge, wild[edge.site], *ends):
                for position, local in enumerate(edge.block):
                    if local.value is not None and not local.is_mask:
                        key = edge.operand, edge.output, position
                        self.guarded[edge.site, key] = edge
        sources = {edge.source for edge in self.guarded.values()}
        targets = {edge.target for edge in self.guarded.values()}
        for (_, _, is_result), name in self.operators.items():
            (targets if is_result else sources).add(name)
        self.ahead = _leading_to(sources, edges, reached, transposed=False)
        self.behind = _leading_to(targets, edges, live, transposed=True)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.guarded or self.operators)

    @property
    def sites(self) -> set[Any]:
        """The equations whose masks and index arrays are read."""
        edges = [each for each in (*self.ahead, *self.behind) if isinstance(each.block, tuple)]
        return {
            edge.site
            for edge in edges
            if edge.has_masks or any(local.tables for local in edge.block)  # type: ignore[union-attr]
        }


def _has_to_be_zero(edge: Edge, wild: Wild, reached: _Seen, live: _Seen) -> bool:
    """Whether coefficients of an edge are made zero off the open paths.

    Arrays that were given, and products with them, may be NaN where a mask hides an entry. Weights
    are not, unless a mask says so that does not depend on what is differentiated: those of
    activation functions cost no selection in every product of matrices. And no function overflows
    because all summands of its operand are hidden.
    """
    if wild is Wild.GIVEN:
        ends = [end for end in (reached, live) if end.cut is _Cut.SINGLY]
        return bool(ends) and (not edge.has_weights or any(end.is_fixed for end in ends))
    if wild is Wild.LARGE:
        return reached.cut is _Cut.SINGLY or live.cut is not _Cut.NOT
    return wild is Wild.SINGULAR


def _leading_to(
    wanted: set[int], edges: Sequence[Edge], at: Mapping[int, _Seen], *, transposed: bool
) -> list[Edge]:
    """The edges to variables with entries cut off, from which the wanted ones follow, in order."""
    kept = []
    for edge in edges if transposed else reversed(edges):
        near, far = edge.source, edge.target
        if transposed:
            near, far = far, near
        if far in wanted and at[far].cut is not _Cut.NOT:
            wanted.add(near)
            kept.append(edge)
    return kept[::-1]
