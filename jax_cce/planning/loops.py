"""What loops cost to differentiate: by each of JAX's modes, and by the Jacobians of their steps.

A step takes its arithmetic, and what it takes to be called, to store and to read. JAX's forward
mode pushes a tangent for each input through all operations, its reverse mode pulls one for each
output. With the Jacobians of the steps, the arithmetic is repeated for what a step reads or
computes, whichever is less, and each direction takes one row of a product of matrices in each step.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from jax_cce import jax_internals
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.linearity import Dependence, dependence
from jax_cce.rules.masks import LOOPS
from jax_cce.rules.steps import steps_of, work_of

__all__ = [
    "ELEMENTWISE",
    "Expected",
    "Setting",
    "are_by_steps",
    "entries",
    "expected",
    "has_loops",
    "mode_costs",
    "setting_of",
]

# What an operation takes that is pulled back, compared to one that is pushed forward, as it reads
# what was stored, products of matrices aside. (Measured on the CPU at 64 points: 0.6 to 1.4 ns and
# 0.2 to 0.4 ns.)
_PULLED = 2.5
# Bytes that a loop stores, of all points, above which they come from memory, and how many times as
# long the operations that store and read them take then. (Measured on the CPU, reverse over forward
# mode beside what is expected without: 1.5 to 5.5 times for 50 to 1,500 MB, and 0.7 once.)
_IN_CACHE, _FROM_MEMORY = 1 << 25, 2
# Steps that a loop of unknown length is taken to have.
_STEPS = 16
# What a step takes beside its arithmetic, in operations: forwards, and backwards, where it reads
# what a step forwards has stored. (Measured on the CPU, at 0.1 ns an operation: 0.25 and 3.3 us for
# a Runge-Kutta step of two unknowns.) A loop that is linear stores nothing,
# and is not run for its values.
_FORWARD_STEP, _REVERSE_STEP = 2_500, 25_000
# A call of the library in a step.
_CALL = 5_000
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
# What the Jacobians of steps must be expected to save, in time and in directions, as they take
# longer to plan and to compile.
_SAVING, _FEWER = 0.35, 0.5
# What an operation of JAX's modes counts that no product of matrices consists of, where modes are
# compared with something else. (Measured on the CPU: 0.3 to 1 ns, and 0.1 ns in such products.)
ELEMENTWISE = 3


class Setting(NamedTuple):
    """A function whose Jacobian is wanted, as far as costs depend on it.

    Attributes:
        columns: entries of all inputs.
        rows: entries of all outputs.
        between: the equations on the way from inputs to outputs.
        varied: the variables that depend on the inputs.
        read: the variables that the outputs need.
    """

    columns: int
    rows: int
    between: list[Equation]
    varied: set[int]
    read: set[int]


class _Loops(NamedTuple):
    """What loops take to differentiate in one direction.

    Attributes:
        steps: steps, inner ones included.
        work: operations of all steps.
    """

    steps: int
    work: float


def has_loops(program: Program) -> bool:
    """Whether a function has loops."""
    return not tracing.primitive_names(program.equations).isdisjoint(LOOPS)


def setting_of(program: Program, wanted: Sequence[Any], inputs: Sequence[int]) -> Setting | None:
    """What costs depend on; None where numbers are complex.

    Args:
        program: the program.
        wanted: its outputs that are differentiated.
        inputs: the inputs with respect to which.
    """
    ends = [*(program.aval(atom) for atom in wanted), *(program.avals[name] for name in inputs)]
    if any(map(jax_internals.is_complex, ends)):
        return None
    columns = sum(jax_internals.size(program.avals[name]) for name in inputs)
    rows = sum(jax_internals.size(program.aval(atom)) for atom in wanted)
    # What is computed from a value behind `lax.stop_gradient` alone is not differentiated.
    equations = [e for e in program.equations if jax_internals.has_derivative(e.primitive)]
    active, varied = passes.dependent(equations, inputs)
    live, read = passes.needed(equations, wanted)
    between = [e for e, *on in zip(equations, active, live, strict=True) if all(on)]
    return Setting(columns, rows, between, varied, read)


def mode_costs(
    program: Program,
    setting: Setting,
    points: int,
    *,
    again: bool = False,
    elementwise: float = 1,
) -> list[dict[str, float]]:
    """What each of JAX's modes is expected to take, in operations.

    Args:
        program: the program.
        setting: its setting.
        points: at how many points the Jacobian is wanted.
        again: whether the Jacobian is differentiated again. What computes a gradient forwards, one
            tangent for each input, then costs for each of them as much again.
        elementwise: as for `work_of`.

    Returns:
        What decides, and what does so where that allows no mode; nothing where elimination is to
        be preferred.
    """
    columns, rows, between, varied, _ = setting
    for equation in between:
        entering = {name for name in equation.variables if name in varied}
        through = min(entries(map(program.aval, entering)), entries(equation.out_avals))
        if equation.name in LOOPS and 2 * through < min(columns, rows):
            return []
    loops = _loops(between, elementwise)
    outside = work_of(between, elementwise=elementwise) - loops.work
    if loops.work + loops.steps * _FORWARD_STEP < outside:
        return []
    stores = not all(_is_linear(each, varied) for each in between if each.name in LOOPS)
    reverse_step = _REVERSE_STEP if stores else _FORWARD_STEP
    pulled = _loops(between, elementwise * _PULLED).work if stores else loops.work
    factors = {"jacfwd": points * (1 + columns), "jacrev": points * (1 + stores + rows)}
    back = _stepping(between, reverse_step, _SMALL_REVERSE, factors["jacrev"])
    far = _FROM_MEMORY if stores and points * _stored(between) > _IN_CACHE else 1
    costs: dict[str, float] = {
        "jacfwd": _stepping(between, _FORWARD_STEP, _SMALL_FORWARD, factors["jacfwd"])
        + points * (1 + columns) * loops.work,
        "jacrev": back + points * far * (stores * loops.work + rows * pulled),
    }
    if "while" in tracing.primitive_names(between):
        del costs["jacrev"]
    if not again:
        return [costs]
    often = max(1, columns // max(1, rows)) ** 2
    twice: dict[str, float] = {"jacfwd": often * costs["jacfwd"]}
    if "jacrev" in costs:
        # What is stored is read once for all tangents.
        step = min(reverse_step, _REVERSE_AGAIN)
        back_again = _stepping(between, step, _SMALL_REVERSE, factors["jacrev"])
        twice["jacrev"] = costs["jacrev"] - back + back_again
    return [twice, costs]


class Expected(NamedTuple):
    """What a function with loops is expected to take, in operations.

    Attributes:
        steps: by the Jacobians of the steps; None where these have none of one structure.
        modes: by each of JAX's modes.
        is_narrow: whether steps are differentiated in far fewer directions than a mode takes.
    """

    steps: float | None
    modes: dict[str, float]
    is_narrow: bool


def are_by_steps(program: Program, setting: Setting, points: int) -> bool:
    """Whether the Jacobians of the steps are expected to save much over JAX's better mode.

    They have to save directions, too: what a step takes otherwise is less certain, above all where
    XLA compiles the Jacobians of the steps.
    """
    costs = expected(program, setting, points)
    return (
        costs is not None
        and costs.steps is not None
        and costs.is_narrow
        and costs.steps < _SAVING * min(costs.modes.values())
    )


def expected(program: Program, setting: Setting, points: int) -> Expected | None:
    """What `are_by_steps` compares; None where elimination is to be preferred to any mode."""
    modes = mode_costs(program, setting, points, elementwise=ELEMENTWISE)
    if not modes:
        return None
    inside = _loops(setting.between, ELEMENTWISE).work
    outside = work_of(setting.between, elementwise=ELEMENTWISE) - inside
    directions = 1 + min(setting.columns, setting.rows)
    work = float(points * (inside + directions * outside))
    stepping = 0
    is_narrow = True
    for equation in setting.between:
        if equation.name not in LOOPS:
            continue
        active = [
            not isinstance(k, Literal)
            and k in setting.varied
            and jax_internals.is_differentiable(program.avals[k])
            for k in equation.inputs
        ]
        try:
            steps = steps_of(equation, active)
        except Unrepresentable:
            return Expected(None, modes[0], is_narrow)
        is_narrow &= steps.directions <= _FEWER * directions
        stacks = equation.outputs[steps.carry :]
        stacked = not setting.read.isdisjoint(stacks)
        work += points * steps.work(stacked=stacked)
        stepping += steps.stepping(stacked=stacked)
        stepping += _stepping([equation], _FORWARD_STEP, _SMALL_FORWARD, points)
    return Expected(work + stepping, modes[0], is_narrow)


def entries(avals: Iterable[Any]) -> int:
    """Numbers in those of some arrays that are differentiable."""
    return sum(map(jax_internals.size, filter(jax_internals.is_differentiable, avals)))


def _loops(equations: Iterable[Equation], elementwise: float) -> _Loops:
    """What the loops among some equations take."""
    steps, work = 0, 0.0
    for equation in equations:
        inner = tracing.inner_equations(equation)
        if equation.name in LOOPS:
            length = equation.params.get("length", _STEPS)
            steps += length * (1 + _loops(inner, elementwise).steps)
            work += length * work_of(inner, elementwise=elementwise)
        elif inner:
            below = _loops(inner, elementwise)
            steps, work = steps + below.steps, work + below.work
    return _Loops(steps, work)


def _stored(equations: Iterable[Equation]) -> int:
    """The bytes of all that loops compute in all steps, at a point."""
    total = 0
    for equation in equations:
        inner, is_loop = tracing.inner_equations(equation), equation.name in LOOPS
        own = [x for each in inner for x in each.out_avals if is_loop]
        size = sum(jax_internals.size(x) * x.dtype.itemsize for x in own) + _stored(inner)
        total += (equation.params.get("length", _STEPS) if is_loop else 1) * size
    return total


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
            calls = sum(e.name in _OF_THE_LIBRARY for e in inner)
            is_small = often * size < _SMALL_BYTES and names.isdisjoint(_OF_THE_LIBRARY)
            length = equation.params.get("length", _STEPS)
            own = small if is_small and equation.name == "scan" else step + _CALL * calls
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
