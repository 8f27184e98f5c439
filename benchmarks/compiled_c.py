"""Native kernels against C that CasADi generates: `python -m benchmarks.compiled_c [REGEX]`.

The programs of the suite in float64 that are graphs of scalars, each built anew as a CasADi
expression, operation by operation, and differentiated by CasADi. Its C is compiled with
`cc -O3 -march=native` together with a loop over the points, writes only what is not structurally
zero, and is called through ctypes; ours is called through JAX and does the same (`format="bcoo"`),
or writes a dense result where that is what there is native code for. It needs the extra
`benchmarks` and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import pathlib
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import casadi
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import jax_cce
from benchmarks import programs, report, suite, timing
from benchmarks.programs import Program
from jax_cce.native import lifting
from jax_cce.native.nodes import Nodes, Unsupported, lifted
from jax_cce.native.scalars import Scalars, TooLarge
from jax_cce.program import tracing

KEPT = pathlib.Path(__file__).parent / "results" / "casadi-cpu.json"

_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(casadi, name)
        for names in (
            "acos acosh asin asinh atan atan2 atanh ceil cos cosh erf exp expm1 floor",
            "log log1p sign sin sinh sqrt tan tanh",
        )
        for name in names.split()
    },
    "abs": casadi.fabs,
    "add": lambda x, y: x + y,
    "and": casadi.logic_and,
    "clamp": lambda low, x, high: casadi.fmin(casadi.fmax(x, low), high),
    "div": lambda x, y: x / y,
    "eq": lambda x, y: x == y,
    "erfc": lambda x: 1 - casadi.erf(x),
    "ge": lambda x, y: x >= y,
    "gt": lambda x, y: x > y,
    "le": lambda x, y: x <= y,
    "logistic": lambda x: 1 / (1 + casadi.exp(-x)),
    "lt": lambda x, y: x < y,
    "max": casadi.fmax,
    "min": casadi.fmin,
    "mul": lambda x, y: x * y,
    "ne": lambda x, y: x != y,
    "neg": lambda x: -x,
    "not": casadi.logic_not,
    "or": casadi.logic_or,
    "pow": lambda x, y: x**y,
    "rem": casadi.fmod,
    "rsqrt": lambda x: 1 / casadi.sqrt(x),
    "ruled": lambda x: x,
    "select_n": lambda which, one, other: casadi.if_else(which, other, one),
    "sub": lambda x, y: x - y,
}
_LOOP = """
int run(long points, const double *x, double *out, long n, long m) {
  static double w[%d]; static casadi_int iw[%d];
  for (long p = 0; p < points; ++p) {
    const double *arg[%d]; double *res[%d];
    arg[0] = x + p * n; res[0] = out + p * m;
    if (derivative(arg, res, iw, w, 0)) return 1;
  }
  return 0;
}
"""


def _expression(graph: Scalars, outputs: Sequence[int], entries: Any) -> Any:
    """Nodes of a graph as a CasADi expression of its inputs."""
    made: dict[int, Any] = {}
    for node in graph.needed(outputs):
        op, args, param = graph.ops[node], graph.args[node], graph.params[node]
        if op == "input":
            made[node] = entries[args[0]]
        elif op in ("number", "truth"):
            made[node] = casadi.SX(float(args[0]))
        elif op == "integer_pow":
            made[node] = made[args[0]] ** param
        elif op in ("reduce_max", "reduce_min"):
            operation = casadi.fmax if op == "reduce_max" else casadi.fmin
            made[node] = made[args[0]]
            for arg in args[1:]:
                made[node] = operation(made[node], made[arg])
        elif op in _OPERATIONS:
            made[node] = _OPERATIONS[op](*(made[arg] for arg in args))
        else:
            raise Unsupported(f"CasADi has no {op}")
    return casadi.vertcat(*(made[node] for node in outputs))


def _function(program: Program, fun: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """CasADi's function from the numbers of the first argument to the derivative's nonzeros."""
    first = jax.tree.map(lambda x: x[0] if program.batch else x, arguments[0])
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, first))

    def of_leaves(*values: Any) -> list[Any]:
        return jax.tree.leaves(fun(jax.tree.unflatten(tree, values), *arguments[1:]))

    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    flat, constants = tracing.trace(of_leaves, types)
    graph = Scalars(np.float64, 1 << 17)
    sizes = [math.prod(each.shape) for each in types]
    nodes = iter([graph.input(k) for k in range(sum(sizes))])
    inputs = [
        Nodes(np.array([next(nodes) for _ in range(size)]).reshape(each.shape))
        for size, each in zip(sizes, types, strict=True)
    ]
    with _without_loops():
        found = lifting.lift(graph, flat, [*inputs, *map(np.asarray, constants)], flat.outputs)
    outputs = [int(node) for x in found for node in lifted(graph, x).flat]
    x = casadi.SX.sym("x", sum(sizes))
    value = _expression(graph, outputs, x)
    wanted = casadi.jacobian(value, x)
    if program.derivative != "jacobian":
        wanted, _ = casadi.hessian(value, x)
    return casadi.Function("derivative", [x], [wanted])


@contextlib.contextmanager
def _without_loops() -> Iterator[None]:
    """A context in which loops are written out: CasADi's expressions have none."""
    before = lifting.MOST_UNROLLED
    lifting.MOST_UNROLLED = 1 << 20
    try:
        yield
    finally:
        lifting.MOST_UNROLLED = before


def _compiled(function: Any, folder: pathlib.Path) -> ctypes.CDLL:
    source, library = folder / "derivative.c", folder / "derivative.so"
    generator = casadi.CodeGenerator("derivative.c")
    generator.add(function)
    sizes = function.sz_w(), function.sz_iw(), function.sz_arg(), function.sz_res()
    source.write_text(generator.dump() + _LOOP % tuple(max(1, size) for size in sizes))
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    command = ["cc", *flags, "-o", str(library), str(source), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    return ctypes.CDLL(str(library))


def measure(program: Program) -> dict[str, Any]:
    """Times both on one program.

    Returns:
      The microseconds of a call, for all points, of each; and the largest difference.

    Raises:
      Unsupported: Where there is nothing to compare.
    """
    fun, arguments = program.build()
    function = _function(program, fun, arguments)

    def mapped(derivative: Callable[..., Any]) -> Any:
        axes = (0, *[None] * (len(arguments) - 1))
        return jax.jit(jax.vmap(derivative, in_axes=axes) if program.batch else derivative)

    dense = mapped(suite.derivative("jax_cce", program, fun))
    ours = mapped(_entries(program, fun))
    if not suite.is_native(ours, arguments):
        ours = dense
    if not suite.is_native(ours, arguments):
        raise Unsupported("ours is XLA's")
    points = program.batch or 1
    x = np.concatenate(
        [np.reshape(leaf, (points, -1)) for leaf in jax.tree.leaves(arguments[0])], axis=1
    )
    x = np.ascontiguousarray(x, np.float64)
    pattern = function.sparsity_out(0)
    out = np.zeros((points, max(1, pattern.nnz())))
    with tempfile.TemporaryDirectory() as folder:
        library = _compiled(function, pathlib.Path(folder))

        def theirs() -> None:
            pointers = (ctypes.c_void_p(each.ctypes.data) for each in (x, out))
            sizes = (ctypes.c_long(each.shape[1]) for each in (x, out))
            library.run(ctypes.c_long(points), *pointers, *sizes)

        measured = timing.take_turns(
            {"CasADi": theirs, "jax_cce": lambda: ours(*arguments)}, turns=9
        )
    return {
        "program": program.label,
        "points": points,
        "nonzeros": pattern.nnz(),
        **{name: each.median * 1e6 for name, each in measured.items()},
        "ratio": (measured["CasADi"] / measured["jax_cce"]).median,
        "difference": _difference(dense(*arguments), pattern, out, x.shape[1]),
    }


def _entries(program: Program, fun: Callable[..., Any]) -> Callable[..., Any]:
    """Our derivative's nonzeros."""
    transform = jax_cce.jacobian if program.derivative == "jacobian" else jax_cce.hessian
    derivative = transform(fun, format="bcoo")

    def data(*arguments: Any) -> Any:
        return [
            block.data
            for block in jax.tree.leaves(
                derivative(*arguments), is_leaf=lambda block: isinstance(block, BCOO)
            )
        ]

    return data


def _difference(found: Any, pattern: Any, out: np.ndarray, columns: int) -> float:
    """How far the dense results are from the nonzeros, in parts of the largest."""
    points = len(out)
    blocks = jax.tree.leaves(found)
    if len(blocks) > 1:
        return math.nan  # a tree of blocks, whose order is the tree's
    dense = np.reshape(blocks[0], (points, -1, columns))
    theirs = np.zeros_like(dense)
    rows, cols = pattern.row(), pattern.get_col()
    theirs[:, rows, cols] = out[:, : len(rows)]
    return float(np.abs(dense - theirs).max() / max(np.abs(dense).max(), 1e-300))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of many points, and the means for these and for single ones."""
    many = sorted((row for row in rows if row["points"] > 1), key=lambda row: -row["ratio"])
    lines = [
        report.markdown_table(
            ["program", "points", "nonzeros", "CasADi, us", "jax_cce, us", "times as fast"],
            [
                [
                    row["program"],
                    row["points"],
                    row["nonzeros"],
                    *(f"{row[name]:.1f}" for name in ("CasADi", "jax_cce")),
                    f"{row['ratio']:.2f}",
                ]
                for row in many
            ],
        )
    ]
    for title, chosen in (
        ("many points", [row["ratio"] for row in many]),
        ("a single point, JAX's dispatch included", [r["ratio"] for r in rows if r["points"] == 1]),
    ):
        if chosen:
            mean = statistics.geometric_mean(chosen)
            slower = sum(ratio < 1 for ratio in chosen)
            lines.append(
                f"{title}: {mean:.2f} on geometric mean of {len(chosen)}, slower on {slower}"
            )
    return "\n\n".join(lines)


def main() -> None:
    """Measures the programs that match, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="?", default="", help="a regular expression")
    parser.add_argument("--json", type=pathlib.Path, help="where to keep the results")
    parser.add_argument("--load", action="store_true", help="print what was measured and kept")
    arguments = parser.parse_args()
    if arguments.load:
        kept = json.loads(KEPT.read_text())
        print(kept["provenance"], table(kept["rows"]), sep="\n\n")
        return
    suite.keep_to(1)
    rows = []
    with jax.enable_x64(True):
        for family, program, _ in programs.chosen(0):
            label = f"{family.name}: {program.label}"
            if program.dtype != "float64" or not program.is_installed:
                continue
            if not re.search(arguments.programs, label):
                continue
            jax_cce.cache_clear()
            try:
                rows.append(measure(program))
            except (Unsupported, TooLarge, subprocess.SubprocessError) as reason:
                print(f"{label}: {reason}", flush=True)
                continue
            print(label, rows[-1], flush=True)
    if arguments.json is not None:
        kept = {"provenance": report.provenance(), "rows": rows}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(report.provenance(), table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
