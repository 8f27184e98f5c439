"""Measures the programs of the suite: ours against JAX's two modes, all that a user waits for.

One process; the executables of a program take turns. Times are CPU times of the process, beside
wall times: on a shared machine identical executables may differ fivefold in wall time. A second
executable of the better mode is the control: how far its ratio to the first is from 1 is noise. The
process keeps to one core unless told otherwise: threads that wait for work burn CPU time that the
next contender would be charged with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jax_cce
from benchmarks import timing
from benchmarks.programs.program import Program

BASELINES = ("jacfwd", "jacrev")
OURS = "jax_cce"
CONTROL = "control"
_REGISTRY = "JAX_CCE_REGISTRY"

_CALLS = 20
_LEAST_TURNS = 7
_TOLERANCE = {"float32": 2e-3, "float64": 1e-8}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A repeated measurement: its median and the bounds of its middle half."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """Summarises the values."""
        lower, median, upper = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(lower), float(upper))


@dataclasses.dataclass(frozen=True)
class Executable:
    """What one peer's program costs.

    Attributes:
      trace: CPU seconds to trace, plan and lower it.
      plan: CPU seconds of these that planning takes; 0 for JAX's modes.
      compile: CPU seconds in the compiler.
      run: CPU seconds for one call.
      wall: Seconds for one call.
      temporaries: Bytes that a call needs besides arguments and results.
      instructions: Instructions of the optimised HLO.
      fusions: Those of them that are fusions.
      loops: Those of them that are loops.
      flops: Operations, as XLA counts them.
    """

    trace: float
    plan: float
    compile: float
    run: Spread
    wall: Spread
    temporaries: int
    instructions: int
    fusions: int
    loops: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One program's measurements.

    Attributes:
      label: The program in its setting.
      family: Its family.
      source: Where it is written like this.
      drawn: Whether it was drawn by the run's seed.
      peers: What each peer costs, by name.
      better: Which of JAX's modes runs faster.
      speed_ups: CPU time of the better mode over that of each other peer, within a turn.
      difference: The largest difference of our derivative from the better mode's, relative to its
        largest entry.
      failure: The exception that kept it from being measured; empty where it was.
    """

    label: str
    family: str
    source: str
    drawn: bool
    peers: Mapping[str, Executable]
    better: str
    speed_ups: Mapping[str, Spread]
    difference: float
    failure: str = ""


def keep_to(cores: int) -> None:
    """Keeps this process to some cores where the system allows it, before JAX is used."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def is_native(function: Any, arguments: Sequence[Any]) -> bool:
    """Whether a jitted function calls native code."""
    return "jax_cce_" in function.lower(*arguments).as_text()


def empty_call(results: Any) -> Callable[..., Any]:
    """A jitted function of any arguments that writes arrays like some, and computes nothing."""
    like = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(results)]

    @jax.jit
    def empty(*arguments: Any) -> list[jax.Array]:
        number = jax.tree.leaves(arguments)[0].ravel()[0]
        return [jax.numpy.full(shape, number, dtype) for shape, dtype in like]

    return empty


def derivative(peer: str, program: Program, fun: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the derivative of `fun` as a peer computes it: for one point, not compiled.

    Args:
      peer: `jacfwd`, `jacrev`, `jax_cce` or `jax_cce:ORDER`. The Hessians of the first two are
        `jax.hessian`, forward over reverse, and reverse over reverse.
      program: Says which derivative is wanted.
      fun: The function.
    """
    jacobian = program.derivative == "jacobian"
    if peer == "jacfwd":
        return jax.jacfwd(fun) if jacobian else jax.hessian(fun)
    if peer == "jacrev":
        return jax.jacrev(fun) if jacobian else jax.jacrev(jax.jacrev(fun))
    name, _, order = peer.partition(":")
    if name != OURS:
        raise ValueError(f"there is no peer {peer!r}: jacfwd, jacrev, jax_cce or jax_cce:ORDER")
    options: dict[str, Any] = {"order": order} if order else {}
    return jax_cce.jacobian(fun, **options) if jacobian else jax_cce.hessian(fun, **options)


def measure(
    program: Program,
    family: str,
    *,
    peers: Sequence[str],
    drawn: bool = False,
    seconds: float = 2.0,
) -> Row:
    """Builds every peer's executable of one program, and lets them take turns.

    Args:
      program: What to differentiate.
      family: Its family's name.
      peers: Who takes part; the two baselines and our default always do.
      drawn: Whether the program was drawn.
      seconds: How long the turns go on, all peers together.
    """
    row = Row(program.label, family, program.source, drawn, {}, "", {}, 0.0)
    try:
        with jax.enable_x64(program.dtype == "float64"):
            return _measured(row, program, [*BASELINES, OURS, *peers], seconds)
    except Exception as error:  # a failure is a result, too
        message = str(error).strip().splitlines()
        return dataclasses.replace(
            row, failure=f"{type(error).__name__}: {message[0] if message else ''}"
        )


def _measured(row: Row, program: Program, peers: Sequence[str], seconds: float) -> Row:
    fun, arguments = program.build()
    built = {}
    for peer in dict.fromkeys(peers):
        try:
            built[peer] = _build(peer, program, fun, arguments)
        except Exception:  # of any type: not every function has both modes
            if peer not in BASELINES:
                raise
    compiled = {peer: executable for peer, (executable, _) in built.items()}
    modes = {peer: compiled[peer] for peer in BASELINES if peer in compiled}
    cpu, _ = _take_turns(modes, arguments, seconds / 4)
    better = min(modes, key=lambda peer: float(np.median(cpu[peer])))
    compiled[CONTROL], costs = _build(better, program, fun, arguments)
    built[CONTROL] = compiled[CONTROL], costs
    cpu, wall = _take_turns(compiled, arguments, seconds)
    better = min(modes, key=lambda peer: float(np.median(cpu[peer])))
    return dataclasses.replace(
        row,
        peers={
            peer: dataclasses.replace(costs, run=Spread.of(cpu[peer]), wall=Spread.of(wall[peer]))
            for peer, (_, costs) in built.items()
        },
        better=better,
        speed_ups={peer: Spread.of(cpu[better] / cpu[peer]) for peer in compiled if peer != better},
        difference=_difference(compiled[OURS], compiled[better], arguments, program.dtype),
    )


def _build(
    peer: str, program: Program, fun: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, Executable]:
    """Compiles a peer's program, from empty caches, and says what that took."""
    plan = 0.0
    if peer.startswith(OURS):
        plan = _planning_seconds(peer, program, fun, arguments)
    transformed = derivative(peer, program, lambda *inputs: fun(*inputs))
    if program.batch is not None:
        axes = (0, *(None for _ in arguments[1:]))
        transformed = jax.vmap(transformed, in_axes=axes)
    forget()
    start = time.process_time()
    with _registry_for(peer):
        lowered = jax.jit(transformed).lower(*arguments)
    traced = time.process_time()
    compiled = lowered.compile()
    done = time.process_time()
    text = compiled.as_text() or ""
    nothing = Spread(0.0, 0.0, 0.0)
    analysis = compiled.memory_analysis()
    return compiled, Executable(
        trace=traced - start,
        plan=plan,
        compile=done - traced,
        run=nothing,
        wall=nothing,
        temporaries=int(getattr(analysis, "temp_size_in_bytes", 0)),
        instructions=len(re.findall(r"^\s+(?:ROOT )?%?\S+ = ", text, re.MULTILINE)),
        fusions=len(re.findall(r" fusion\(", text)),
        loops=len(re.findall(r" while\(", text)),
        flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
    )


def _planning_seconds(
    peer: str, program: Program, fun: Callable[..., Any], arguments: tuple[Any, ...]
) -> float:
    """What planning takes beyond tracing the function, or for a Hessian, its gradient."""
    x, *data = arguments
    if program.batch is not None:
        x = jax.tree.map(lambda leaf: leaf[0], x)
    _, _, order = peer.partition(":")
    options: dict[str, Any] = {"order": order} if order else {}
    scalar_or_vector = fun if program.derivative == "jacobian" else jax.grad(fun)
    forget()
    start = time.process_time()
    jax.make_jaxpr(scalar_or_vector)(x, *data)
    traced = time.process_time()
    forget()
    again = time.process_time()
    jax_cce.plan(scalar_or_vector, **options)(x, *data)
    return max(0.0, time.process_time() - again - (traced - start))


def _registry_for(peer: str) -> contextlib.AbstractContextManager[None]:
    """An empty registry for what is tuned, so that nobody else finds what it stores."""
    return empty_registry() if peer == f"{OURS}:tuned" else contextlib.nullcontext()


@contextlib.contextmanager
def empty_registry() -> Iterator[None]:
    """A context in which neither orders nor machine code of earlier processes are found."""
    before = os.environ.get(_REGISTRY)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[_REGISTRY] = directory
        try:
            yield
        finally:
            if before is None:
                del os.environ[_REGISTRY]
            else:
                os.environ[_REGISTRY] = before


def forget() -> None:
    """Empties the caches of JAX and of this package."""
    jax.clear_caches()
    jax_cce.cache_clear()


def _take_turns(
    compiled: Mapping[str, Any], arguments: tuple[Any, ...], seconds: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """CPU and wall seconds for a call of each executable, by turn, for about `seconds` seconds."""
    names = list(compiled)
    for call in compiled.values():
        jax.block_until_ready(call(*arguments))
    calls = {name: _calls(compiled[name], arguments, seconds / len(names)) for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    begun = time.perf_counter()
    turn = 0
    with timing.without_collections():
        while turn < _LEAST_TURNS or time.perf_counter() - begun < seconds:
            # Everyone goes first once in a while: the caches are as the predecessor left them.
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                call, repeats = compiled[name], calls[name]
                started, cpu_started = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    jax.block_until_ready(call(*arguments))
                cpu[name].append((time.process_time() - cpu_started) / repeats)
                wall[name].append((time.perf_counter() - started) / repeats)
            turn += 1
    return (
        {name: np.array(values) for name, values in cpu.items()},
        {name: np.array(values) for name, values in wall.items()},
    )


def _calls(call: Any, arguments: tuple[Any, ...], seconds: float) -> int:
    """How many calls make a turn: few enough for `_LEAST_TURNS` turns in the time."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    once = max(1e-7, time.perf_counter() - start)
    return int(min(_CALLS, max(1, seconds / _LEAST_TURNS / once)))


def _difference(ours: Any, theirs: Any, arguments: tuple[Any, ...], dtype: str) -> float:
    """The largest relative difference of two derivatives.

    Raises:
      ArithmeticError: It is more than rounding, or something is not finite.
    """
    largest, least = 0.0, float(np.finfo(dtype).tiny)
    pairs = zip(jax.tree.leaves(ours(*arguments)), jax.tree.leaves(theirs(*arguments)), strict=True)
    for one, other in pairs:
        found, expected = np.asarray(one), np.asarray(other)
        scale = max(float(np.abs(expected).max(initial=0.0)), least)
        largest = max(largest, float(np.abs(found - expected).max(initial=0.0)) / scale)
    if not largest <= _TOLERANCE[dtype]:
        raise ArithmeticError(f"our derivative differs from JAX's by {largest:.1e}")
    return largest
