"""Where JAX's own mode is the plan: functions of loops, and such as mostly move entries.

A dense Jacobian through a scan is computed by pushing tangents, or pulling cotangents, through the
loop. Elimination pushes those of each operand by themselves, beside a loop for the values, which
has to store what the others need; one mode of JAX runs one loop for all of it. So where loops take
most of the time and elimination could not push much less through them, `jax.jacfwd` or
`jax.jacrev` is what runs, and nothing is planned.

Slices, concatenations and pads of small parts make blocks of many terms, each of which XLA
evaluates for every entry of the sum, where a mode of JAX moves whole tangents. Where a function
consists of such to a good part, and elimination saves too few operations, a mode runs as well. So
it does where elimination saves none: in large products, and where operators take most of the time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_cce import jax_internals
from jax_cce.algebra.steps import Densify, Push
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation
from jax_cce.rules.book import is_described_elsewhere, record_of
from jax_cce.rules.derivatives import is_derivative_linear
from jax_cce.rules.linearised import REVERSE_ONLY
from jax_cce.rules.linearity import Dependence, dependence
from jax_cce.rules.masks import LOOPS, finite_modes

__all__ = ["has_loops", "mode_instead", "mode_of_loops"]

# What may have a pullback and no pushforward, or one that is not its transpose.
_PULLBACKS = {"custom_vjp_call", "call_hi_primitive", REVERSE_ONLY}
# Steps that a loop of unknown length is taken to have.
_STEPS = 16
# What a step takes beside its arithmetic, in operations: forwards, and backwards, where it reads
# what a step forwards has stored. (Measured on the CPU, at 0.1 ns an operation: 0.25 and 3.3 us for
# a Runge-Kutta step of two unknowns.) A loop that is linear stores nothing,
# and is not run for its values.
_FORWARD_STEP, _REVERSE_STEP = 2_500, 25_000
# The latter where it is differentiated again.
_REVERSE_AGAIN = 10_000
# The same where XLA makes one kernel of the loop, as it does where a step reads and writes less
# than so many bytes, and has none of these.
_SMALL_FORWARD, _SMALL_REVERSE, _SMALL_BYTES = 150, 500, 1_024
_OF_THE_LIBRARY = frozenset(
    name
    for names in (
        "cholesky conv_general_dilated custom_linear_solve dot_general eigh fft lu qr scatter",
        "scatter-add sort svd triangular_solve while",
    )
    for name in names.split()
)

# The other mode is taken where the cheaper one is not safe, if it costs so many times as much.
_DEARER = 1.5


# Primitives that move entries.
_MOVING = frozenset(
    name
    for names in (
        "broadcast_in_dim concatenate convert_element_type copy dynamic_slice gather pad reshape",
        "rev scatter scatter-add select_n slice squeeze transpose",
    )
    for name in names.split()
)
# JAX's derivative of these, compiled, may find no entry that equals the result.
_CHOOSING = {"reduce_max", "reduce_min"}
# What decides: the share of moved entries, the operations for an entry of the result, and how many
# operations of a mode each of elimination's replaces, assembly aside. Fitted on the CPU to the
# programs without loops of `python -m benchmarks run`: of 60 for which a mode is taken, it is by a
# tenth slower than elimination for 6.
_MOVED, _PER_ENTRY = 0.25, 54
_MOSTLY_MOVED, _SAVED = 0.3, 8
_UNSAVED, _LARGE, _PUSHED = 1.16, 600, 0.6
# How many times what a mode has to push a plan may cost that is differentiated again: reverse mode
# takes up to four times as much.
_FAR_MORE = 4
# How many columns a mode pushes forward for each row that it would pull back.
_COLUMNS_PER_ROW = 1.5


class _Loops(NamedTuple):
    """What loops take to differentiate in one direction.

    Attributes:
        steps: steps, inner ones included.
        work: operations of all steps.
    """

    steps: int
    work: int


class _Setting(NamedTuple):
    """What decides between the modes.

    Attributes:
        columns: entries of all inputs.
        rows: entries of all outputs.
        between: the equations on the way from inputs to outputs.
        varied: the variables that depend on the inputs.
    """

    columns: int
    rows: int
    between: list[Equation]
    varied: set[int]


def has_loops(task: Task) -> bool:
    """Whether a function has loops, so that its mode may depend on the number of points."""
    return not tracing.primitive_names(task.traced.program.equations).isdisjoint(LOOPS)


def mode_of_loops(task: Task, *, again: bool = False) -> str | None:
    """The mode of JAX by which a function with loops is differentiated; None for elimination.

    Args:
        task: the task.
        again: whether the Jacobian is differentiated again. What computes a gradient forwards, one
            tangent for each input, then costs for each of them as much again.
    """
    if not has_loops(task):
        return None
    setting = _setting(task)
    if setting is None:
        return None
    program = task.traced.program
    columns, rows, between, varied = setting
    for equation in between:
        entering = {name for name in equation.variables if name in varied}
        through = min(_entries(map(program.aval, entering)), _entries(equation.out_avals))
        if equation.name in LOOPS and 2 * through < min(columns, rows):
            return None
    loops = _loops(between)
    if loops.work + loops.steps * _FORWARD_STEP < _work(between) - loops.work:
        return None
    points = task.batch or 1
    stores = not all(_is_linear(each, varied) for each in between if each.name in LOOPS)
    reverse_step = _REVERSE_STEP if stores else _FORWARD_STEP
    factors = {"jacfwd": points * (1 + columns), "jacrev": points * (1 + stores + rows)}
    back = _stepping(between, reverse_step, _SMALL_REVERSE, factors["jacrev"])
    costs = {
        "jacfwd": _stepping(between, _FORWARD_STEP, _SMALL_FORWARD, factors["jacfwd"])
        + points * (1 + columns) * loops.work,
        "jacrev": back + points * (stores + rows) * loops.work,
    }
    if "while" in tracing.primitive_names(between):
        del costs["jacrev"]
    if again:
        often = max(1, columns // max(1, rows)) ** 2
        twice = {"jacfwd": often * costs["jacfwd"]}
        if "jacrev" in costs:
            # What is stored is read once for all tangents.
            step = min(reverse_step, _REVERSE_AGAIN)
            back_again = _stepping(between, step, _SMALL_REVERSE, factors["jacrev"])
            twice["jacrev"] = costs["jacrev"] - back + back_again
        mode = _safe(task, twice)
        if mode is not None:
            return mode
    return _safe(task, costs)


def mode_instead(task: Task, plan: Plan, *, again: bool = False) -> str | None:
    """The mode of JAX that is likely to be faster than a plan, by what the two compute.

    Args:
        task: the task.
        plan: its plan.
        again: whether the Jacobian is differentiated again. What is planned then has the structure
            of the plan, so that this is left only where the plan costs far more, or is one of
            large products, as those of networks, which have no structure.
    """
    setting = _setting(task)
    if setting is None or not plan.steps:
        return None
    columns, rows, between, _ = setting
    moved = sum(_entries(each.out_avals) for each in between if each.name in _MOVING)
    work, flops = _work(between), plan.cost("flops")
    assembling = sum(step.flops for step in plan.steps if isinstance(step, Densify))
    pushing = sum(step.flops for step in plan.steps if isinstance(step, Push))
    saved = min(columns, rows) * work / max(flops - assembling, 1)
    per_entry = flops / max(rows * columns, 1)
    moves_much = moved > _MOVED * work and per_entry > _PER_ENTRY
    moves_mostly = moved > _MOSTLY_MOVED * work and saved <= _SAVED
    # A Hessian takes twice what its gradient does.
    is_large = per_entry > (_LARGE / 2 if again else _LARGE) and not plan.operators
    is_product = saved <= _UNSAVED and is_large
    if again and not is_product and flops <= _FAR_MORE * min(columns, rows) * work:
        return None
    if not (
        moves_much
        or moves_mostly
        or is_product
        or (saved <= _UNSAVED and pushing > _PUSHED * flops)
    ):
        return None
    names = tracing.primitive_names(between)
    if not names.isdisjoint(_CHOOSING):
        return None
    costs = {"jacfwd": columns, "jacrev": _COLUMNS_PER_ROW * rows}
    if "while" in names:
        del costs["jacrev"]
    return _safe(task, costs)


def _setting(task: Task) -> _Setting | None:
    """None where a mode of JAX is not asked for, or has no cost that could be compared."""
    program, num_values = task.traced.program, task.traced.num_values
    wanted, inputs = program.outputs[:num_values], task.differentiated
    if task.sparse or task.is_symbolic or task.transposed or task.method != "elimination":
        return None
    ends = [*(program.aval(atom) for atom in wanted), *(program.avals[name] for name in inputs)]
    if any(map(jax_internals.is_complex, ends)):
        return None
    columns = sum(jax_internals.size(program.avals[name]) for name in inputs)
    rows = sum(jax_internals.size(program.aval(atom)) for atom in wanted)
    # What is computed from a value behind `lax.stop_gradient` alone is not differentiated.
    equations = [e for e in program.equations if jax_internals.has_derivative(e.primitive)]
    active, varied = passes.dependent(equations, inputs)
    live, _ = passes.needed(equations, wanted)
    between = [e for e, *on in zip(equations, active, live, strict=True) if all(on)]
    return _Setting(columns, rows, between, varied)


def _safe(task: Task, costs: Mapping[str, float]) -> str | None:
    """The cheapest mode that is sure to give what elimination does; None if that costs more."""
    program = task.traced.program
    if not _agree_modes(program.equations, tracing.primitive_names(program.equations)):
        return None
    safe = finite_modes(program, task.differentiated)
    most = _DEARER * min(costs.values())
    modes = [mode for mode in costs if mode in safe and costs[mode] <= most]
    return min(modes, key=lambda mode: costs[mode], default=None)


def _agree_modes(equations: Sequence[Equation], names: Collection[str]) -> bool:
    """Whether JAX's two modes and elimination are sure to give the same, in the same memory.

    They may not where a rule that somebody wrote is followed in one of them only, where values are
    to be computed again, and where what is shared out over devices is gathered.
    """
    if jax_internals.has_mesh():
        return False
    if not _PULLBACKS.isdisjoint(names) or not jax_internals.CHECKPOINTS.isdisjoint(names):
        return False
    if any(equation.regions or equation.origin.effects for equation in equations):
        return False
    if any(map(is_described_elsewhere, tracing.primitives(equations))):
        return False
    return "custom_jvp_call" not in names or all(map(is_derivative_linear, equations))


def _entries(avals: Iterable[Any]) -> int:
    return sum(map(jax_internals.size, filter(jax_internals.is_differentiable, avals)))


def _loops(equations: Iterable[Equation]) -> _Loops:
    """What the loops among some equations take."""
    steps = work = 0
    for equation in equations:
        inner = tracing.inner_equations(equation)
        if equation.name in LOOPS:
            length = equation.params.get("length", _STEPS)
            steps += length * (1 + _loops(inner).steps)
            work += length * _work(inner)
        elif inner:
            below = _loops(inner)
            steps, work = steps + below.steps, work + below.work
    return _Loops(steps, work)


def _stepping(equations: Iterable[Equation], step: int, small: int, often: int) -> int:
    """What the steps of loops take beside their arithmetic.

    Args:
        equations: the equations.
        step: what one takes.
        small: what a small one takes.
        often: how many times as much as its results a step reads and writes.
    """
    total = 0
    for equation in equations:
        inner = tracing.inner_equations(equation)
        if equation.name in LOOPS:
            size = sum(jax_internals.size(x) * x.dtype.itemsize for e in inner for x in e.out_avals)
            names = tracing.primitive_names(inner)
            is_small = often * size < _SMALL_BYTES and names.isdisjoint(_OF_THE_LIBRARY)
            length = equation.params.get("length", _STEPS)
            own = small if is_small and equation.name == "scan" else step
            total += length * (own + _stepping(inner, step, small, often))
        elif inner:
            total += _stepping(inner, step, small, often)
    return total


def _is_linear(equation: Equation, varied: Collection[int]) -> bool:
    """Whether a scan is linear in what varies, so that reverse mode needs none of its values."""
    if equation.name != "scan":
        return False
    body, constants = tracing.flatten_closed(equation.params["jaxpr"])
    num_consts, num_carry = jax_internals.scan_counts(equation)
    carry = range(num_consts, num_consts + num_carry)
    entering = (k for k, x in enumerate(equation.inputs) if isinstance(x, int) and x in varied)
    seeds = {k for k in {*carry, *entering} if jax_internals.is_differentiable(body.avals[k])}
    outputs = [k for k in body.outputs if jax_internals.is_differentiable(body.aval(k))]
    return Dependence.OTHER not in dependence(body, constants, seeds, outputs)


def _work(equations: Iterable[Equation]) -> int:
    """Operations that some equations take, loops included."""
    total = 0
    for equation in equations:
        inner = tracing.inner_equations(equation)
        if inner:
            total += equation.params.get("length", 1) * _work(inner)
        elif (count := record_of(equation).flops) is not None:
            total += count(equation)
        else:
            total += sum(map(jax_internals.size, equation.out_avals))
    return total
