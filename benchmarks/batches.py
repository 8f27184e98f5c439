"""Run time by batch size, with percentiles, as in AlphaGrad: `python -m benchmarks.batches`.

Jacobians of the tasks of scalars in float64, of one point up to 4,096 by `jax.vmap` outside: the
default order with native code and through XLA alone, and JAX's two modes. The executables take
turns, a hundred times; the band is from the 2.5th to the 97.5th percentile, as in the figure of
Lohoff & Neftci (2024). Runs are kept in docs/data/batches.json; `--load` draws them again.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS
from benchmarks.tasks.task import Task

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
RUNS = _DOCS / "data" / "batches.json"
PICTURE = _DOCS / "pictures" / "batches.svg"
PAGE = _DOCS / "explanation" / "run-time-by-batch.md"
SCALAR = (
    *("RoeFlux_1d", "RobotArm_6DOF", "HumanHeartDipole", "PropaneCombustion", "Greeks"),
    "g",
)
_BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
_PERCENTILES = (2.5, 50.0, 97.5)
_WAYS = ("ours", "ours through XLA", "jacfwd", "jacrev")
_COLORS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")


def _calls(task: Task, batch: int) -> dict[str, Callable[[], Any]]:
    """The compiled Jacobians of a batch, as functions of no arguments."""
    ours = functools.partial(jax_cce.jacobian, task.fun, task.argnums)
    made = {
        "ours": ours(),
        "ours through XLA": ours(backend="xla"),
        "jacfwd": jax.jacfwd(task.fun, task.argnums),
        "jacrev": jax.jacrev(task.fun, task.argnums),
    }
    random = np.random.default_rng(0)
    # Points nearby, of which no branch is another one.
    args = [
        jnp.asarray(np.asarray(arg) * random.uniform(0.99, 1.01, (batch, *np.shape(arg))))
        for arg in task.args
    ]
    return {
        name: functools.partial(jax.jit(jax.vmap(jacobian)).lower(*args).compile(), *args)
        for name, jacobian in made.items()
    }


def measured(names: Sequence[str], turns: int) -> Iterator[dict[str, Any]]:
    """By task and way, for each batch size the percentiles of the seconds of a call.

    Yields what is measured so far after each task.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name in names:
        of_task = found[name] = {way: [] for way in _WAYS}
        for batch in _BATCHES:
            times = timing.take_turns(_calls(TASKS[name], batch), turns=turns, turn_seconds=1e-9)
            for way, of_way in times.items():
                of_task[way].append(np.percentile(of_way.values, _PERCENTILES).tolist())
        print(name, {way: of_way[-1] for way, of_way in of_task.items()}, flush=True)
        yield found


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
    """A panel for each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for panel, (name, of_task) in zip(panels.flat, found.items(), strict=False):
        for way, color in zip(_WAYS, _COLORS, strict=True):
            low, middle, high = 1e6 * np.array(of_task[way]).T
            panel.fill_between(_BATCHES, low, high, color=color, alpha=0.25, linewidth=0)
            panel.plot(_BATCHES, middle, ".-", color=color, label=way)
        panel.set_title(name)
        panel.set_xscale("log", base=4)
        panel.set_yscale("log")
    for panel in panels.flat[len(found) :]:
        panel.set_axis_off()
    for panel in panels[1]:
        panel.set_xlabel("points")
    for panel in panels[:, 0]:
        panel.set_ylabel("µs")
    panels[0, 0].legend(frameon=False)
    report.save_picture(figure, path)


def page(run: dict[str, Any]) -> str:
    """The text of the page."""
    rows = []
    for name, of_task in run["found"].items():
        for way in _WAYS:
            cells = [
                f"{1e6 * middle:,.3g} [{1e6 * low:,.3g}, {1e6 * high:,.3g}]"
                for low, middle, high in of_task[way]
            ]
            rows.append((name, way, *cells))
    header = ("task", "way", *(f"{batch:,}" for batch in _BATCHES))
    ratios = [
        min(of_task["jacfwd"][k][1], of_task["jacrev"][k][1]) / of_task["ours"][k][1]
        for of_task in run["found"].values()
        for k in range(len(_BATCHES))
    ]
    mean = float(np.exp(np.mean(np.log(ratios))))
    return (
        f"{_HEAD}\n\n{run['heading']}. Over all tasks and sizes the default takes {1 / mean:.2f} "
        f"of the time of JAX's better mode on geometric mean, {1 / min(ratios):.2f} at worst.\n\n"
        f"{report.markdown_table(header, rows)}\n"
    )


_HEAD = """\
# Run time by batch size

![Run time over the number of points](../pictures/batches.svg)

The figure of Lohoff & Neftci (2024): the time of a compiled call, for one point up to 4,096 by
`jax.vmap` outside, in float64. Medians in µs, with the 2.5th and the 97.5th percentile of the runs;
the ways take turns, so that none finds its results' memory in the cache. Arguments and results are
separate arrays, as the tasks have them: 64 derivatives of HumanHeartDipole, say.
`python -m benchmarks.batches` measures, and writes this page; the executables of g take minutes to
compile, and are measured where `--tasks` names it."""


def main() -> None:
    """Measures and writes, or only writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=SCALAR, default=SCALAR[:-1])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--load", action="store_true", help="draw the runs that are kept")
    options = parser.parse_args()
    if not options.load:
        jax.config.update("jax_enable_x64", True)
        heading = f"{options.turns} runs. {report.provenance()}"
        # What was measured before the last task is kept.
        for found in measured(options.tasks, options.turns):
            RUNS.write_text(json.dumps({"heading": heading, "found": found}) + "\n")
    run = json.loads(RUNS.read_text())
    draw(run["found"], PICTURE)
    PAGE.write_text(page(run))


if __name__ == "__main__":
    main()
