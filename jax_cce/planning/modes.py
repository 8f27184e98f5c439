"""Where JAX's own mode is the plan: functions of loops, and such as mostly move entries.

A dense Jacobian through a scan is computed by pushing tangents, or pulling cotangents, through the
loop. Elimination pushes those of each operand by themselves, beside a loop for the values, which
has to store what the others need; one mode of JAX runs one loop for all of it. So where loops take
most of the time and elimination could not push much less through them, `jax.jacfwd` or
`jax.jacrev` is what runs, and nothing is planned.

Slices, concatenations and pads of small parts make blocks of many terms, each of which XLA
evaluates for every entry of the sum, where a mode of JAX moves whole tangents. Where a function
consists of such to a good part, and elimination saves too few operations, a mode runs as well; so
it does where the sums of such blocks take a good part of the operations before anything is
multiplied by them, as where chains of small matrices, one for each joint, move many points. So it
does where elimination saves none: in large products, and where operators take most of the time.
"""

from collections.abc import Collection, Mapping, Sequence

from jax_cce import jax_internals
from jax_cce.algebra.steps import Densify, Push
from jax_cce.planning import loops
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task
from jax_cce.program import tracing
from jax_cce.program.flat import Equation
from jax_cce.rules.book import is_described_elsewhere
from jax_cce.rules.derivatives import is_derivative_linear
from jax_cce.rules.linearised import REVERSE_ONLY
from jax_cce.rules.masks import finite_modes
from jax_cce.rules.steps import work_of

__all__ = [
    "evaluations",
    "has_loops",
    "in_chunks",
    "mode_instead",
    "mode_of_loops",
    "mode_over_devices",
    "same_results",
]

# What may have a pullback and no pushforward, or one that is not its transpose.
_PULLBACKS = {"custom_vjp_call", "call_hi_primitive", REVERSE_ONLY}
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
# The share of the operations that sum blocks of many terms before these are multiplied again.
# (Measured on the CPU: skinned hands and skeletons, at 0.4 to 0.6, elimination takes 1.5 to 4 times
# as long as a mode. No program of `python -m benchmarks run` is affected.)
_SUMMED = 0.4
# How many times what a mode has to push a plan may cost that is differentiated again: reverse mode
# takes up to four times as much.
_FAR_MORE = 4
# How many columns a mode pushes forward for each row that it would pull back.
_COLUMNS_PER_ROW = 1.5


def has_loops(task: Task) -> bool:
    """Whether a function has loops, so that its mode may depend on the number of points."""
    return loops.has_loops(task.traced.program)


def mode_of_loops(task: Task, *, again: bool = False) -> str | None:
    """The mode of JAX by which a function with loops is differentiated; None for elimination.

    Args:
        task: the task.
        again: whether the Jacobian is differentiated again.
    """
    if not has_loops(task):
        return None
    setting = task.setting
    if setting is None or task.by_steps or _is_explicit(task):
        return None
    for costs in loops.mode_costs(task.traced.program, setting, task.batch or 1, again=again):
        mode = _safe(task, costs)
        if mode is not None:
            return mode
    return None


def mode_instead(task: Task, plan: Plan, *, again: bool = False) -> str | None:
    """The mode of JAX that is likely to be faster than a plan, by what the two compute.

    Args:
        task: the task.
        plan: its plan.
        again: whether the Jacobian is differentiated again. What is planned then has the structure
            of the plan, so that this is left only where the plan costs far more, or is one of
            large products, as those of networks, which have no structure.
    """
    setting = task.setting
    if setting is None or not plan.steps:
        return None
    columns, rows, between, *_ = setting
    moved = sum(loops.entries(each.out_avals) for each in between if each.name in _MOVING)
    work, flops = work_of(between), plan.cost("flops")
    sums = [step for step in plan.steps if isinstance(step, Densify)]
    assembling = sum(step.flops for step in sums)
    summed = sum(step.flops for step in sums if step.vertex is not None)
    pushing = sum(step.flops for step in plan.steps if isinstance(step, Push))
    saved = min(columns, rows) * work / max(flops - assembling, 1)
    per_entry = flops / max(rows * columns, 1)
    moves_much = moved > _MOVED * work and per_entry > _PER_ENTRY
    sums_much = summed > _SUMMED * flops and per_entry > _PER_ENTRY
    moves_mostly = moved > _MOSTLY_MOVED * work and saved <= _SAVED
    # A Hessian takes twice what its gradient does.
    is_large = per_entry > (_LARGE / 2 if again else _LARGE) and not plan.operators
    is_product = saved <= _UNSAVED and is_large
    if again and not is_product and flops <= _FAR_MORE * min(columns, rows) * work:
        return None
    if not (
        moves_much
        or moves_mostly
        or sums_much
        or is_product
        or (saved <= _UNSAVED and pushing > _PUSHED * flops)
    ):
        return None
    return _by_costs(task, between, {"jacfwd": columns, "jacrev": _COLUMNS_PER_ROW * rows})


def mode_over_devices(task: Task, plan: Plan) -> str | None:
    """The mode of JAX where a plan has operators and axes are explicitly shared out over devices.

    The result is shared out as that of `jax.jacrev`, and columns of an operator need not be.
    """
    setting = task.setting
    if setting is None or not plan.operators or not _is_explicit(task):
        return None
    columns, rows, between, *_ = setting
    return _by_costs(task, between, {"jacrev": rows, "jacfwd": columns})


def _is_explicit(task: Task) -> bool:
    """Whether axes may be explicitly shared out over devices."""
    return jax_internals.explicit_mesh(task.traced.program.avals) is not None


def _by_costs(task: Task, between: Sequence[Equation], costs: dict[str, float]) -> str | None:
    names = tracing.primitive_names(between)
    if not names.isdisjoint(_CHOOSING):
        return None
    if "while" in names:
        del costs["jacrev"]
    return _safe(task, costs)


def evaluations(mode: str, size: int, chunk: int | None = None, levels: int = 0) -> int:
    """How many times about a mode evaluates a function, pushes it forward or pulls it back.

    Forwards its values are computed for each chunk; backwards they are kept, but in segments.

    Args:
        mode: "jacfwd" or "jacrev".
        size: the number of columns or rows.
        chunk: how many of them are computed at a time; None for all.
        levels: how deep segments of scans are nested that are run again.
    """
    rounds = 1 if chunk is None else -(-size // chunk)
    return size + rounds if mode == "jacfwd" else 1 + 2 * size + levels * rounds


def in_chunks(task: Task, order: str, chunk: int) -> str:
    """The mode of JAX that computes a Jacobian in chunks.

    Args:
        task: the task.
        order: "forward" for columns, "reverse" for rows, "auto" for what takes fewer evaluations.
        chunk: how many columns or rows are computed at a time.

    Raises:
        ValueError: where no mode is sure to give what elimination does, or not the one asked for.
    """
    if task.is_symbolic:
        raise ValueError(_no_chunks(task, "its shapes are symbolic. Leave chunk_size out."))
    program, num_values = task.traced.program, task.traced.num_values
    inputs = [program.avals[name] for name in task.differentiated]
    sizes = {
        "jacfwd": sum(map(jax_internals.size, inputs)),
        "jacrev": sum(map(jax_internals.size, map(program.aval, program.outputs[:num_values]))),
    }
    if not _PULLBACKS.isdisjoint(tracing.primitive_names(program.equations)):
        del sizes["jacfwd"]
    elif not task.holomorphic and any(map(jax_internals.is_complex, inputs)):
        # A derivative in the direction of 1 says nothing of that in the direction of i.
        del sizes["jacfwd"]
    if order != "auto":
        mode = {"forward": "jacfwd", "reverse": "jacrev"}[order]
        if mode not in sizes:
            why = "forward mode does not define it. Pass order='reverse'."
            raise ValueError(_no_chunks(task, why))
        return mode
    same = sizes.keys() & same_results(task)
    if not same:
        why = (
            "no mode of JAX is sure to give what elimination does. Pass order='forward' for what "
            "jax.jacfwd gives, or order='reverse' for what jax.jacrev gives."
        )
        raise ValueError(_no_chunks(task, why))
    return min(sorted(same), key=lambda mode: evaluations(mode, sizes[mode], chunk))


def _no_chunks(task: Task, reason: str) -> str:
    return f"chunk_size is given, but the Jacobian of {task.name} is not for chunks: {reason}"


def same_results(task: Task) -> list[str]:
    """The modes of JAX that are sure to give what elimination does, in whatever memory."""
    equations = task.traced.program.equations
    names = tracing.primitive_names(equations)
    if not _agree_in_values(equations, names):
        return []
    modes = {"jacrev"} if not _PULLBACKS.isdisjoint(names) else {"jacfwd", "jacrev"}
    return sorted(modes & _finite(task))


def _finite(task: Task) -> set[str]:
    """The modes in which masks hide what elimination hides with them."""
    program = task.traced.program
    # Where no mode is sure to be finite in the steps of loops, nor is elimination.
    return finite_modes(program, task.differentiated) or finite_modes(
        program, task.differentiated, inside_loops=False
    )


def _safe(task: Task, costs: Mapping[str, float]) -> str | None:
    """The cheapest mode that is sure to give what elimination does; None if that costs more."""
    program = task.traced.program
    if not _agree_modes(program.equations, tracing.primitive_names(program.equations)):
        return None
    safe = _finite(task)
    most = _DEARER * min(costs.values())
    modes = [mode for mode in costs if mode in safe and costs[mode] <= most]
    return min(modes, key=lambda mode: costs[mode], default=None)


def _agree_modes(equations: Sequence[Equation], names: Collection[str]) -> bool:
    """Whether JAX's two modes and elimination are sure to give the same, in the same memory.

    They may not where there is a pullback only, and where values are to be computed again.
    """
    if not _PULLBACKS.isdisjoint(names) or not jax_internals.CHECKPOINTS.isdisjoint(names):
        return False
    if any(each.regions for each in equations) or _has_auxiliary_results(equations):
        return False
    return _agree_in_values(equations, names)


def _has_auxiliary_results(equations: Sequence[Equation]) -> bool:
    """Whether a linear solve has results beside the solution, which `jax.jacfwd` may not take."""
    return any(
        _has_auxiliary_results(tracing.inner_equations(each))
        or (
            each.name == "custom_linear_solve"
            and len(each.outputs) + sum(each.params["const_lengths"]) > len(each.inputs)
        )
        for each in equations
    )


def _agree_in_values(equations: Sequence[Equation], names: Collection[str]) -> bool:
    """Whether modes that there are and elimination are sure to give the same, in whatever memory.

    They may not where a rule that somebody wrote is followed in one of them only.
    """
    if any(each.origin.effects for each in equations):
        return False
    if any(map(is_described_elsewhere, tracing.primitives(equations))):
        return False
    return "custom_jvp_call" not in names or all(map(is_derivative_linear, equations))
