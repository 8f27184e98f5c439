"""The values of `jax.checkpoint` regions, computed again where local coefficients need them.

A region is computed twice: with the program, for its results, and when the elimination asks for
the first coefficient inside. The second time starts behind an optimization barrier that its inputs
share with what has been eliminated by then, so that the compiler can neither merge the two nor run
them together. What the region's policy saves is taken from the first time.
"""

from collections.abc import Sequence
from typing import Any

from jax_cce import jax_internals
from jax_cce.algebra.steps import Step
from jax_cce.jax_internals import Literal
from jax_cce.planning.plans import Plan
from jax_cce.program.flat import Equation
from jax_cce.rules.local import LocalJacobian, Primals

__all__ = ["Recomputation", "is_late", "primals_of"]

_Path = tuple[int, ...]


def primals_of(equation: Equation, local: LocalJacobian | None, ins: Sequence[Any]) -> Primals:
    """Evaluates an equation, and keeps what its local coefficients are computed from."""
    if local is None or local.evaluate is None:
        return Primals(equation, ins, jax_internals.bind(equation, ins))
    with jax_internals.context_of(equation):
        return Primals(equation, ins, *local.evaluate(ins))


def _path(plan: Plan, equation: Equation) -> _Path:
    return tuple(r.number for r in equation.regions if r.number in plan.recomputed)


def is_late(plan: Plan, site: Any) -> bool:
    """Whether the values of a site are computed again."""
    equations = plan.graph.program.equations
    return isinstance(site, int) and bool(_path(plan, equations[site]))


class Recomputation:
    """The second evaluation of a plan's regions, each when it is first asked for.

    Attributes:
        steps: the plan's steps, with local ones of the regions moved to where they are needed.
    """

    def __init__(self, plan: Plan, values: list[Any], late: set[Any]) -> None:
        """Starts when the program has been evaluated.

        Args:
            plan: the plan.
            values: of all variables of the program.
            late: the sites whose values are computed again.
        """
        self._plan, self._late = plan, late
        self._values: dict[_Path, Any] = {(): dict(enumerate(values))}
        self._primals: dict[int, Primals] = {}
        self._slots: dict[int, Any] = {}
        self._beside: dict[int, tuple[int, ...]] = {}
        self._at: Step | None = None
        self._inside: dict[_Path, list[int]] = {}
        for site, equation in enumerate(plan.graph.program.equations):
            path = _path(plan, equation)
            for depth in range(len(path)):
                self._inside.setdefault(path[: depth + 1], []).append(site)
        self.steps = self._ordered()

    def _ordered(self) -> list[Step]:
        waiting = {
            slot: step
            for step in self._plan.steps
            if step.site in self._late and not step.reads
            for slot in step.slots
        }
        ordered: list[Step] = []

        def place(step: Step) -> None:
            for slot in step.reads:
                if slot in waiting:
                    first = waiting.pop(slot)
                    # It starts when the other operands of what needs it are there.
                    self._beside[id(first)] = step.reads
                    ordered.append(first)
            ordered.append(step)

        for step in self._plan.steps:
            if not any(slot in waiting for slot in step.slots):
                place(step)
        return [*ordered, *dict.fromkeys(waiting.values())]

    def before(self, step: Step, slots: dict[int, Any]) -> None:
        """Notes which step is next, and which arrays are there."""
        self._at, self._slots = step, slots

    def primals(self, site: int) -> Primals:
        """The operands and results of an equation in a region, computed again."""
        if site not in self._primals:
            self._evaluate(_path(self._plan, self._plan.graph.program.equations[site]))
        return self._primals[site]

    def _evaluate(self, path: _Path) -> dict[int, Any]:
        if path in self._values:
            return self._values[path]
        outer = self._evaluate(path[:-1])
        graph = self._plan.graph
        sites = self._inside[path]
        equations = [graph.program.equations[site] for site in sites]
        computed = {name for equation in equations for name in equation.outputs}
        read = {k for equation in equations for k in equation.variables if k not in computed}
        values = self._behind_a_barrier({name: outer[name] for name in sorted(read)})
        self._values[path] = values
        for site, equation in zip(sites, equations, strict=True):
            ins = [k.val if isinstance(k, Literal) else values[k] for k in equation.inputs]
            is_own = site in self._late and _path(self._plan, equation) == path
            local = graph.sites[site] if is_own else None
            depth = [region.number for region in equation.regions].index(path[-1])
            if equation.regions[depth].saves:
                outs = [outer[name] for name in equation.outputs]
                if is_own:
                    again = primals_of(equation, local, ins)
                    self._primals[site] = Primals(equation, ins, outs, again.residuals)
            elif is_own:
                self._primals[site] = again = primals_of(equation, local, ins)
                outs = list(again.outs)
            else:
                outs = list(jax_internals.bind(equation, ins))
            values.update(zip(equation.outputs, outs, strict=True))
        return values

    def _behind_a_barrier(self, inputs: dict[int, Any]) -> dict[int, Any]:
        """The inputs, not to be had before the arrays that the next step reads are there."""
        assert self._at is not None
        reads = self._beside.get(id(self._at), self._at.reads)
        beside = {slot: self._slots[slot] for slot in reads if slot in self._slots}
        shared = jax_internals.behind_a_barrier(
            {(0, name): x for name, x in inputs.items()} | {(1, k): x for k, x in beside.items()}
        )
        self._slots.update({k: shared[1, k] for k in beside})
        return {name: shared[0, name] for name in inputs}
