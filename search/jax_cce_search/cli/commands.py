"""The commands optimize, explain, compile and train-policy."""

import argparse
import dataclasses
import json
import sys
from typing import Any

import jax

import jax_cce
from jax_cce.artefacts.container import write
from jax_cce_search.cli.answers import OK, WRONG_USAGE, Answer, CommandError
from jax_cce_search.cli.targets import called_function
from jax_cce_search.explaining.explain import explain
from jax_cce_search.optimizing.optimize import optimize
from jax_cce_search.optimizing.optimized import Optimized

__all__ = [
    "document_of",
    "run_compile",
    "run_explain",
    "run_optimize",
    "run_train_policy",
]


def run_optimize(options: argparse.Namespace) -> Answer:
    """`optimize`: searches for an order, and says where it is kept."""
    with called_function(options) as (fun, how):
        optimized = optimize(
            fun,
            **how,
            cost=options.cost,
            strategy=options.strategy,
            budget=options.budget,
            evaluations=options.evaluations,
            seed=options.seed,
            batch_size=options.batch_size,
        )(*options.args)
        if options.plot:
            optimized.plot_search(options.plot)
    return Answer(document_of(optimized) | {"layer": optimized.layer}, str(optimized))


def document_of(optimized: Optimized) -> dict[str, Any]:
    """What a search found, as JSON has it."""
    return {
        "name": optimized.name,
        "entry": dataclasses.asdict(optimized.entry),
        "value": optimized.value,
        "bound": optimized.bound,
        "gap": optimized.gap,
        "status": optimized.status,
        "reference": dict(optimized.reference),
        "times": dict(optimized.times),
        "failures": dict(optimized.failures),
        "improvements": [
            {name: value for name, value in each._asdict().items() if name != "order"}
            for each in optimized.improvements
        ],
        "seconds": optimized.seconds,
        "evaluations": optimized.evaluations,
        "interrupted": optimized.interrupted,
    }


def run_explain(options: argparse.Namespace) -> Answer:
    """`explain`: the report on a Jacobian."""
    with called_function(options) as (fun, how):
        explanation = explain(fun, **how, order=options.order)(*options.args)
        if options.draw:
            explanation.draw(options.draw)

    def pretty() -> Any:
        from rich.markdown import Markdown

        return Markdown(explanation.markdown())

    if options.markdown:
        return Answer(explanation.to_dict(), explanation.markdown())
    return Answer(explanation.to_dict(), str(explanation), OK, pretty)


def run_compile(options: argparse.Namespace) -> Answer:
    """`compile`: writes an artefact."""
    platforms = options.platforms and [each.strip() for each in options.platforms.split(",")]
    with called_function(options) as (fun, how):
        artefact = jax_cce.compile(
            fun,
            **how,
            transform=options.transform,
            order=options.order,
            platforms=platforms,
            native=options.native,
            executable=options.executable,
            vjp_order=options.vjp_order,
        )(*options.args)
        content = artefact.to_bytes()
    write(options.output, content)
    document = {"path": options.output, "bytes": len(content), **artefact.manifest}
    return Answer(document, f"{options.output}: {len(content):,} bytes\n{artefact}")


def run_train_policy(options: argparse.Namespace) -> Answer:
    """`train-policy`: a training run, and what its policy is worth."""
    from jax_cce_search.alphazero import configuration, trainer

    told = options.coordinator, options.processes, options.process
    if any(one is not None for one in told) and None in told:
        raise CommandError(
            WRONG_USAGE, "--coordinator, --processes and --process belong together: give all three."
        )
    try:
        settings = configuration.load(options.config)
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(WRONG_USAGE, str(error)) from error
    jax.config.update("jax_num_cpu_devices", settings.devices)
    if options.coordinator is not None:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)

    def tell(metrics: trainer.Metrics) -> None:
        if not sys.stderr.isatty() and jax.process_index() == 0:
            print(json.dumps(metrics), file=sys.stderr, flush=True)

    run = trainer.train(
        settings,
        options.out,
        resume=options.resume,
        seconds=options.seconds,
        # Elsewhere the metrics are lines enough.
        progress=None if sys.stderr.isatty() else False,
        callback=tell,
    )
    metrics = run.validate()
    document = {"directory": str(run.directory), "iterations": run.iteration, **metrics}
    text = f"{run.directory}/policy: {run.iteration} iterations in {run.seconds:.0f} s.\n"
    if metrics:
        ratio, better = metrics["validation_to_markowitz"], metrics["validation_better"]
        text += (
            f"Alone it costs {ratio:.3f} of minimal Markowitz on graphs that it did not learn "
            f"from, and less on {100 * better:.0f} %.\n"
        )
    text += f"Use it: JAX_CCE_POLICY={run.directory}/policy"
    return Answer(document, text)
