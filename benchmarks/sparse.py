"""Large sparse Jacobians, beside tools that detect a pattern, colour it and decompress.

Run it with `python -m benchmarks.sparse`, where the `benchmarks` extra is installed. Everything
runs in one process, in float64: first the set-up of each contender, from cleared caches to its
first result, then repeated evaluations, in turns. A contender that is missing, that raises, or that
cannot take part at a size is shown with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from scipy import sparse

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks.sparse import PROBLEMS, Problem
from benchmarks.timing import Measured

_LARGER = (10**5, 10**6)
# Both modes of JAX would write n^2 numbers.
_MOST_FOR_DENSE = 2000
# sparsejac colours a graph of Python objects: minutes and gigabytes beyond this.
_MOST_FOR_SPARSEJAC = 10**5
# A set-up that takes this many seconds is not repeated.
_LONG_SET_UP = 5.0

Arguments = tuple[jax.Array, ...]
Prepare = Callable[[Callable[..., Any], Arguments], Callable[..., Any]]

OURS = ("bcoo", "values", "structured", "dense")
ASDEX = (
    "asdex, forward",
    "asdex, reverse",
    "asdex, forward, constants",
    "asdex, reverse, constants",
)
SPARSEJAC = ("sparsejac, forward", "sparsejac, reverse")
JAX = ("jax.jacfwd", "jax.jacrev")
BY_HAND = "by hand"

_LEGEND = """\
Float64, jitted, medians [quartiles].

- bcoo, values, structured, dense: jax_cce.jacobian with that format.
- sparsejac is given the pattern.
- by hand: the distinct coefficients that are no constants, as structured holds them; neither
  positions nor repeated entries are written.
- nonzeros: those of the formula; a tool that stores another number of entries is named.
- constants: f closes over its parameters (weights, A), so that XLA evaluates what depends on them
  alone while it compiles; in the other columns they are arguments.
- a / b: how many times faster b is than a, for the fastest column of asdex or JAX.
- difference: the largest difference from asdex's entries (or else JAX's, or else those by hand),
  relative to the largest entry, over our formats.
- set-up: from cleared caches (JAX's, jax_cce's and asdex's) to the first result, so tracing,
  planning or detection and colouring, compiling, and one evaluation. Small calls came before.
"""


class Absent(Exception):
    """Why a contender does not take part; the message goes into the table."""


def _ours(format: Any) -> Prepare:
    return lambda fun, args: jax.jit(jax_cce.jacobian(fun, format=format))


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A dependency of it that is missing is another matter.
        if error.name != name:
            raise
        raise Absent("not installed") from error


def _asdex(mode: str) -> Prepare:
    def prepare(fun: Callable[..., Any], args: Arguments) -> Callable[..., Any]:
        asdex = _installed("asdex")
        with warnings.catch_warnings():
            # It advises against colouring where no colours are saved, which the table shows.
            warnings.simplefilter("ignore", asdex.DenseColoringWarning)
            colouring = asdex.jacobian_coloring(fun, *args, mode=mode)
        return jax.jit(asdex.jacobian_from_coloring(fun, colouring))

    return prepare


def _with_constants(prepare: Prepare) -> Prepare:
    """The same tool, for the function that closes over its parameters."""

    def prepare_closed(fun: Callable[..., Any], args: Arguments) -> Callable[..., Any]:
        x, *parameters = args
        if not parameters:
            raise Absent("-")
        closed = prepare(lambda x: fun(x, *parameters), (x,))
        return lambda x, *_: closed(x)

    return prepare_closed


def _sparsejac(transform: str) -> Prepare:
    def prepare(fun: Callable[..., Any], args: Arguments) -> Callable[..., Any]:
        sparsejac = _installed("sparsejac")
        found = jax.eval_shape(jax_cce.jacobian(fun, format="structured"), *args)
        pattern = jnp.asarray(found.pattern)
        ones = jnp.ones(len(pattern), args[0].dtype)
        sparsity = BCOO((ones, pattern), shape=found.shape)
        return jax.jit(getattr(sparsejac, transform)(fun, sparsity))

    return prepare


_PREPARE: dict[str, Prepare] = {
    **{name: _ours(name) for name in OURS},
    "asdex, forward": _asdex("fwd"),
    "asdex, reverse": _asdex("rev"),
    "asdex, forward, constants": _with_constants(_asdex("fwd")),
    "asdex, reverse, constants": _with_constants(_asdex("rev")),
    "sparsejac, forward": _sparsejac("jacfwd"),
    "sparsejac, reverse": _sparsejac("jacrev"),
    "jax.jacfwd": lambda fun, args: jax.jit(jax.jacfwd(fun)),
    "jax.jacrev": lambda fun, args: jax.jit(jax.jacrev(fun)),
}


def _check_size(name: str, problem: Problem, n: int) -> None:
    """Raises Absent where a contender cannot take part at this size."""
    if name in (*JAX, "dense") and n > _MOST_FOR_DENSE:
        raise Absent("n^2 entries")
    if name in (*ASDEX, *SPARSEJAC) and not problem.few_colours and n > _MOST_FOR_DENSE:
        raise Absent("n colours")
    if name in SPARSEJAC and n > _MOST_FOR_SPARSEJAC:
        raise Absent("not run")


def clear_caches() -> None:
    """Forgets what JAX, jax_cce and asdex keep of programs that they have seen."""
    jax.clear_caches()
    jax_cce.cache_clear()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("jax_cce", "asdex"):
            for value in list(getattr(module, "__dict__", {}).values()):
                # What a functools.cache has; our own function of that name has none.
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()


class Row:
    """What was measured of one problem at one size.

    Attributes:
      set_up: Seconds from cleared caches to the first result, by contender.
      evaluation: Seconds of an evaluation, by contender.
      absent: Why a contender is in neither of them.
      returned: What a contender returns, in words.
      stored: The entries that ours stores, and those of asdex.
      difference: The largest relative difference of ours from the reference; None without one.
    """

    def __init__(self, problem: Problem, n: int, repetitions: int) -> None:
        self.problem, self.n = problem, n
        self.args: Arguments = tuple(map(jax.device_put, problem.make(n, np.float64)))
        self.set_up: dict[str, Measured] = {}
        self.absent: dict[str, str] = {}
        programs = self._set_up(repetitions)
        if problem.by_hand is None:
            self.absent[BY_HAND] = "-"
        else:
            programs[BY_HAND] = jax.jit(problem.by_hand.coefficients)
        self.evaluation = timing.take_turns(
            {name: partial(program, *self.args) for name, program in programs.items()},
            turns=repetitions,
        )
        results = {name: program(*self.args) for name, program in programs.items()}
        self.returned = {name: _in_words(result) for name, result in results.items()}
        self.difference = self._difference(results)
        self.stored = {
            tool: results[name].nse
            for tool, name in (("jax_cce", OURS[0]), ("asdex", self.better(ASDEX)))
            if name in results
        }

    def better(self, names: tuple[str, ...]) -> str | None:
        """Returns whichever took part and is fastest."""
        taking_part = {name: m for name, m in self.evaluation.items() if name in names}
        return timing.fastest(taking_part) if taking_part else None

    def _set_up(self, repetitions: int) -> dict[str, Callable[..., Any]]:
        small = self.problem.make(self.problem.small, np.float64)
        programs: dict[str, Callable[..., Any]] = {}
        values: dict[str, list[float]] = {}
        for turn in range(repetitions):
            for name, prepare in _PREPARE.items():
                if name in self.absent or (turn and values[name][0] > _LONG_SET_UP):
                    continue
                try:
                    _check_size(name, self.problem, self.n)
                    if not turn:
                        # The first use imports, and compiles what does not depend on a problem.
                        _first_result(prepare, self.problem, small, {})
                    clear_caches()
                    call = partial(_first_result, prepare, self.problem, self.args, programs, name)
                    values.setdefault(name, []).append(timing.seconds(call))
                except Exception as error:
                    self.absent[name] = _reason(error)
                    programs.pop(name, None)
                    values.pop(name, None)
        self.set_up = {name: Measured(tuple(of_name)) for name, of_name in values.items()}
        return programs

    def _difference(self, results: Mapping[str, Any]) -> float | None:
        expected = None
        reference = self.better(ASDEX) or self.better(JAX)
        if reference is not None:
            expected = _matrix(results[reference])
        elif self.problem.by_hand is not None:
            host = (*map(np.asarray, self.args), *map(np.asarray, results[BY_HAND]))
            expected = self.problem.by_hand.expand(*host)
            expected = expected.tocsr() if sparse.issparse(expected) else expected
        # The values alone are those of the BCOO.
        ours = [_matrix(results[name]) for name in OURS if name in results and name != "values"]
        if expected is None or not ours:
            return None
        return float(max(abs(found - expected).max() for found in ours) / abs(expected).max())


def _first_result(
    prepare: Prepare,
    problem: Problem,
    args: Any,
    programs: dict[str, Callable[..., Any]],
    name: str = "",
) -> Any:
    # JAX's caches are keyed by function objects, too.
    programs[name] = prepare(lambda *values: problem.fun(*values), args)
    return programs[name](*args)


def _reason(error: Exception) -> str:
    if isinstance(error, Absent):
        return str(error)
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return type(error).__name__


def _in_words(result: Any) -> str:
    if isinstance(result, BCOO):
        return f"BCOO, {result.data.dtype} data and {result.indices.dtype} indices"
    if isinstance(result, jax_cce.StructuredJacobian):
        return f"StructuredJacobian, {result.dtype}"
    leaves = jax.tree.leaves(result)
    return f"{type(result).__name__ if len(leaves) > 1 else 'array'}, {leaves[0].dtype}"


def _matrix(result: Any) -> Any:
    """A Jacobian as a scipy.sparse array, or a NumPy one where it is dense."""
    if isinstance(result, jax_cce.StructuredJacobian):
        return result.to_scipy()
    if isinstance(result, BCOO):
        rows, columns = np.asarray(result.indices).T
        return sparse.coo_array((np.asarray(result.data), (rows, columns)), result.shape).tocsr()
    return np.asarray(result)


def _cells(row: Row, names: tuple[str, ...], measured: Mapping[str, Measured]) -> list[str]:
    return [
        report.durations(measured[name]) if name in measured else row.absent[name] for name in names
    ]


def _ratio(row: Row, slower: str | None, faster: str) -> str:
    if slower is None or slower not in row.evaluation or faster not in row.evaluation:
        return "-"
    return report.ratio(row.evaluation[slower] / row.evaluation[faster])


def _entries(row: Row) -> str:
    nonzeros = row.problem.nonzeros(row.n)
    others = [f"{tool} {n:,}" for tool, n in row.stored.items() if n != nonzeros]
    return "; ".join([f"{nonzeros:,}", *others])


def _heading(row: Row) -> tuple[str, str]:
    return row.problem.name, f"{row.n:,}"


def evaluations(rows: list[Row]) -> str:
    """Tabulates the times of one evaluation."""
    names = (*OURS, *ASDEX, *SPARSEJAC, *JAX, BY_HAND)
    return report.markdown_table(
        ("evaluation", "n", *names),
        [(*_heading(row), *_cells(row, names, row.evaluation)) for row in rows],
    )


def ratios(rows: list[Row]) -> str:
    """Tabulates what follows from the evaluations, and whether the results agree."""
    ours = [f"asdex / {name}" for name in OURS]
    header = ("ratio", "n", "nonzeros", *ours, "JAX / dense")
    cells = []
    for row in rows:
        asdex, modes = row.better(ASDEX), row.better(JAX)
        cells.append(
            (
                *_heading(row),
                _entries(row),
                *(_ratio(row, asdex, name) for name in OURS),
                _ratio(row, modes, "dense"),
                *(_ratio(row, name, BY_HAND) for name in OURS),
                "-" if row.difference is None else f"{row.difference:.0e}",
            )
        )
    hand = [f"{name} / {BY_HAND}" for name in OURS]
    return report.markdown_table((*header, *hand, "difference"), cells)


def set_ups(rows: list[Row]) -> str:
    """Tabulates the times from a function to its first Jacobian."""
    names = (*OURS, *ASDEX, *SPARSEJAC)
    cells = []
    for row in rows:
        modes = {name: row.set_up[name] for name in ASDEX if name in row.set_up}
        ratio = "-"
        if modes and OURS[0] in row.set_up:
            asdex, ours = modes[timing.fastest(modes)], row.set_up[OURS[0]]
            turns = min(len(asdex.values), len(ours.values))
            ratio = report.ratio(Measured(asdex.values[:turns]) / Measured(ours.values[:turns]))
        cells.append((*_heading(row), *_cells(row, names, row.set_up), ratio))
    return report.markdown_table(("set-up", "n", *names, "asdex / bcoo"), cells)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--size", type=int, help="one size n in place of the tables'")
    parser.add_argument("--repetitions", type=int, default=9, help="turns of each contender")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    load = os.getloadavg()[0]
    empty = timing.take_turns({"empty": partial(jax.jit(lambda x: x + 1), jnp.zeros(1))})["empty"]
    rows = []
    for name in arguments.problem:
        problem = PROBLEMS[name]
        sizes = problem.sizes(_LARGER)
        for n in sizes if arguments.size is None else [problem.fit(arguments.size)]:
            print(f"{name}, n = {n:,}", file=sys.stderr, flush=True)
            rows.append(Row(problem, n, arguments.repetitions))
            clear_caches()
    conditions = f"load {load:.1f}, a call that adds two numbers takes {report.durations(empty)}"
    print(f"{_LEGEND}\n{report.provenance()}; {conditions}\n")
    returned: dict[str, set[str]] = {}
    for row in rows:
        for name, words in row.returned.items():
            returned.setdefault(words, set()).add(name)
    for words, names in returned.items():
        print(f"- {words}: returned by {'; '.join(sorted(names))}.")
    for table in (evaluations, ratios, set_ups):
        print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
