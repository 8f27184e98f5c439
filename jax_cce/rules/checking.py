"""Rules of a user's own, checked: a mistake is reported where it was made, and as what it is."""

import dataclasses
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Term, Unrepresentable, canonical
from jax_cce.program.flat import Equation
from jax_cce.rules.layout_rule import results_of
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, Rule

__all__ = ["CheckedRule", "RuleError", "place"]


class RuleError(ValueError):
    """A rule that was registered for a primitive does not keep to its contract."""


@dataclass(frozen=True)
class CheckedRule:
    """A rule whose results are checked, and whose errors say where it stands.

    Attributes:
        rule: the rule.
        source: the function that its author wrote, or the place in words.
    """

    rule: Rule
    source: Any

    def __call__(self, equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        """What the rule returns.

        Raises:
            RuleError: where that is no local Jacobian of the equation, or the rule fails.
            Unrepresentable: where the rule leaves the equation to JAX.
        """
        try:
            local = self.rule(equation, active)
        except Unrepresentable:
            raise
        except Exception as error:
            raise self._failed(equation, "a LocalJacobian", error) from error
        problem = _problem(local, equation, active)
        if problem is not None:
            wanted, returned = problem
            raise RuleError(self._report(equation, wanted, f"returned {returned}"))
        edges = {key: self._guarded(equation, key, block) for key, block in local.edges.items()}
        return dataclasses.replace(local, edges=edges)

    def moved(
        self, operation: Callable[..., Any], equation: Equation, operands: Sequence[Any]
    ) -> list[np.ndarray]:
        """What the operation of a layout makes of arrays of objects.

        Raises:
            RuleError: where those are not objects of the operands in the shapes of the results, or
                the operation fails.
        """
        wanted = "entries of its operands"
        try:
            results = results_of(operation, equation, operands, object)
        except Exception as error:
            raise self._failed(equation, wanted, error) from error
        shapes = [aval.shape for aval in equation.out_avals]
        if [result.shape for result in results] != shapes:
            returned = f"returned shapes {[result.shape for result in results]}"
            raise RuleError(self._report(equation, f"results of shapes {shapes}", returned))
        given = {id(entry) for array in operands if array is not None for entry in array.flat}
        for entry in (entry for result in results for entry in result.flat):
            if id(entry) not in given:
                raise RuleError(self._report(equation, wanted, f"returned {entry!r}"))
        return results

    def _guarded(
        self, equation: Equation, key: tuple[int, int], block: Any
    ) -> tuple[LocalTerm, ...] | Operator:
        """The terms of a block with functions that report their mistakes."""
        if isinstance(block, Operator):
            return block
        return tuple(
            term._replace(
                value=term.value and self._coefficient(equation, key, number, term),
                tables=tuple(self._table(equation, key, number, table) for table in term.tables),
            )
            for number, term in enumerate(block)
        )

    def _coefficient(
        self, equation: Equation, key: tuple[int, int], number: int, term: LocalTerm
    ) -> Callable[[Primals], Any]:
        function, shape = term.value, term.term.coefficient_shape
        wanted = f"a coefficient of shape {shape} for term {number} of edge {key}"

        def value(primals: Primals) -> Any:
            try:
                array = function(primals)  # type: ignore[misc]
            except Exception as error:
                raise self._failed(equation, wanted, error) from error
            if getattr(array, "shape", None) != shape:
                raise RuleError(self._report(equation, wanted, f"returned {_array(array)}"))
            return array

        return value

    def _table(
        self,
        equation: Equation,
        key: tuple[int, int],
        number: int,
        table: Callable[[Primals], Any],
    ) -> Callable[[Primals], Any]:
        wanted = f"an index array for term {number} of edge {key}"

        def values(primals: Primals) -> Any:
            try:
                return table(primals)
            except Exception as error:
                raise self._failed(equation, wanted, error) from error

        return values

    def _failed(self, equation: Equation, wanted: str, error: Exception) -> RuleError:
        if isinstance(error, RuleError):
            return error
        kinds = jax.errors.ConcretizationTypeError | jax.errors.TracerIntegerConversionError
        hint = ""
        if isinstance(error, kinds):
            hint = " A rule sees static facts only: shapes, dtypes and parameters."
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        raised = f"raised {type(error).__name__}: {first}"
        return RuleError(self._report(equation, wanted, raised) + hint)

    def _report(self, equation: Equation, wanted: str, instead: str) -> str:
        return (
            f"The rule of primitive '{equation.name}' ({place(self.source)}) must return "
            f"{wanted}, but {instead}."
        )


def place(source: Any) -> str:
    """Where a function was written; a text is a place already."""
    if isinstance(source, str):
        return source
    function = inspect.unwrap(getattr(source, "func", source))
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(source)


def _array(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"one of shape {tuple(shape)}"


def _problem(local: Any, equation: Equation, active: Sequence[bool]) -> tuple[str, str] | None:
    """What was wanted and what was returned instead; None if nothing is wrong."""
    if not isinstance(local, LocalJacobian):
        return "a LocalJacobian", repr(local)
    edges: dict[Any, Any] = dict(local.edges)
    for key, block in edges.items():
        if not (isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, int) for k in key)):
            return "edges with keys (operand, result)", f"the key {key!r}"
        source, target = key
        if not (0 <= source < len(active) and 0 <= target < len(equation.out_avals)):
            sizes = f"{len(active)} operands and {len(equation.out_avals)} results"
            return f"edges between its {sizes}", f"the key {key!r}"
        if not active[source]:
            return "no edge of an operand that is not differentiated", f"the key {key!r}"
        if isinstance(block, Operator):
            continue
        if isinstance(block, LocalTerm) or not isinstance(block, tuple):
            return f"a tuple of LocalTerm for edge {key}", repr(block)
        shapes = equation.out_avals[target].shape, equation.in_avals[source].shape
        for number, term in enumerate(block):
            problem = _term_problem(term, *shapes)
            if problem is not None:
                wanted, returned = problem
                return f"{wanted} in term {number} of edge {key}", returned
    return None


def _term_problem(
    local: Any, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> tuple[str, str] | None:
    if not isinstance(local, LocalTerm) or not isinstance(local.term, Term):
        return "a LocalTerm", repr(local)
    term: Term = local.term
    scale: Any = local.scale
    if isinstance(scale, jax.Array):
        return "a static number as scale", f"the array {scale!r}"
    try:
        sizes = tuple(map(operator.index, term.sizes))
    except Exception:
        return "static integers as sizes", repr(term.sizes)
    if (term.axes is None) != (local.value is None):
        have = "axes and no value" if local.value is None else "a value and no axes"
        return "both a value and its axes, or neither", have
    for what, maps, shape in (
        ("out_map", term.out_map, out_shape),
        ("in_map", term.in_map, in_shape),
    ):
        if not all(isinstance(affine, Affine) for affine in maps):
            return f"maps of type Affine in {what}", repr(maps)
        if len(maps) != len(shape):
            return f"one map for each axis of {shape} in {what}", f"{len(maps)} of them"
        for affine, size in zip(maps, shape, strict=True):
            problem = _map_problem(affine, term, sizes, size)
            if problem is not None:
                return f"positions in [0, {size}) in {what}", problem
    try:
        same = canonical(term)
    except Exception as error:
        return "a term whose loops all appear in its maps", f"{type(error).__name__}: {error}"
    if same is None or same[0] != term:
        return "a canonical term, as extend.local_term makes it", repr(term)
    return None


def _map_problem(affine: Affine, term: Term, sizes: Sequence[int], size: int) -> str | None:
    """What is wrong with the positions of a map; None if nothing."""
    try:
        low = high = operator.index(affine.offset)
        for variable, stride in affine.strides:
            if variable < -len(term.lookups) or variable >= len(sizes):
                return f"the loop {variable} of {len(sizes)}"
            reach = operator.index(stride) * (_extent(variable, term, sizes) - 1)
            low, high = low + min(0, reach), high + max(0, reach)
    except Exception as error:
        return f"{affine!r} ({type(error).__name__})"
    if low < 0 or high >= size:
        return f"positions from {low} to {high}"
    return None


def _extent(variable: int, term: Term, sizes: Sequence[int]) -> int:
    if variable >= 0:
        return sizes[variable]
    lookup = term.lookups[-1 - variable]
    if isinstance(lookup.table, Table):
        return int(lookup.table.values.max(initial=0)) + 1
    return lookup.size
