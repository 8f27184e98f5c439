"""Meta-gradients: implicit ones beside unrolled and first-order ones.

Run it with `python -m benchmarks.meta_gradients`, or name some of the experiments. The digits are
scikit-learn's.

- `errors`: linear tasks, for which the meta-gradient is known, as the inner problem is solved
  better: 20 unknowns, 10 samples, λ = 1.
- `memory`: temporaries of the compiled meta-gradient of a network, as inner steps are added.
- `optimizers`: the same meta-gradient from five inner optimisers.
- `heads`: heads that share no parameters, solved one by one, beside one dense matrix.
- `sinusoids`: regression of sinusoids from ten samples.
- `digits`: five-way classification of digits of classes that were never seen.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jax_cce
from benchmarks import report, timing

_INNER_STEPS = (1, 4, 16, 64)


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    """The mean, and the standard deviation between seeds."""
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}"


def _range(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{np.median(values):.1e} ({min(values):.0e} to {max(values):.0e})"


def _regularised(inner: Any, lam: float, params: Any, train: Any) -> Callable[[Any], Any]:
    def objective(phi: Any) -> Any:
        pulls = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), phi, params)
        return inner(phi, train) + lam / 2 * sum(jax.tree.leaves(pulls))

    return objective


def _descended(objective: Any, start: Any, rate: Any, steps: int) -> Any:
    def step(phi: Any, _: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda p, g: p - rate * g, phi, jax.grad(objective)(phi)), None

    return lax.scan(step, start, length=steps)[0]


def _unrolled(inner: Any, outer: Any, lam: float, rate: Any, steps: int) -> Callable[..., Any]:
    """Value and gradient of the loss after `steps` steps, all of them differentiated."""

    def loss(params: Any, train: Any, validation: Any) -> Any:
        objective = _regularised(inner, lam, params, train)
        return outer(_descended(objective, params, rate, steps), validation)

    return jax.value_and_grad(loss)


def _first_order(inner: Any, outer: Any, lam: float, rate: Any, steps: int) -> Callable[..., Any]:
    """The gradient at the adapted parameters, in place of that of the adaptation."""

    def both(params: Any, train: Any, validation: Any) -> Any:
        objective = _regularised(inner, lam, params, train)
        return jax.value_and_grad(outer)(_descended(objective, params, rate, steps), validation)

    return both


def _implicit(
    inner: Any, outer: Any, lam: float, rate: Any, steps: int, iterations: int
) -> Callable[..., Any]:
    find = jax_cce.meta_gradient(
        inner, outer, lam, optimizer=optax.sgd(rate), steps=steps, iterations=iterations
    )

    def both(params: Any, train: Any, validation: Any) -> Any:
        found = find(params, train, validation)
        return found.value, found.gradient

    return both


# --- linear tasks --------------------------------------------------------------------------------


def _squares(params: Any, task: Any) -> Any:
    inputs, targets = task
    return jnp.mean((inputs @ params - targets) ** 2) / 2


def _linear_task(seed: int) -> tuple[Any, ...]:
    """Parameters, two sets of ten samples of the same task, and the best step of descent."""
    draw = np.random.default_rng(seed)
    truth, params = draw.normal(size=20), draw.normal(size=20)
    (inputs, targets), validation = (
        (inputs, inputs @ truth + 0.1 * draw.normal(size=10))
        for inputs in draw.normal(size=(2, 10, 20))
    )
    curvature = np.linalg.eigvalsh(inputs.T @ inputs / 10)
    return params, (inputs, targets), validation, 2 / (curvature[0] + curvature[-1] + 2)


def errors() -> str:
    """Relative errors of meta-gradients of twenty linear tasks, by inner steps."""
    *tasks, rates = jax.tree.map(lambda *each: jnp.array(each), *map(_linear_task, range(20)))
    exact = jax_cce.meta_gradient(_squares, _squares, 1.0, "direct")
    expected = jax.jit(jax.vmap(exact))(*tasks).gradient
    made: dict[str, Callable[..., Any]] = {
        "unrolled": _unrolled,
        **{
            f"implicit, {count} iterations": functools.partial(_implicit, iterations=count)
            for count in (20, 5, 2)
        },
        "first-order": _first_order,
    }
    rows = []
    for name, make in made.items():
        cells = []
        for steps in _INNER_STEPS:

            def gradient(
                params: Any,
                train: Any,
                validation: Any,
                rate: Any,
                make: Any = make,
                steps: int = steps,
            ) -> Any:
                return make(_squares, _squares, 1.0, rate, steps)(params, train, validation)[1]

            found = jax.jit(jax.vmap(gradient))(*tasks, rates)
            off = jnp.linalg.norm(found - expected, axis=1)
            cells.append(_range(list(map(float, off / jnp.linalg.norm(expected, axis=1)))))
        rows.append((name, *cells))
    return report.markdown_table(("meta-gradient", *map(str, _INNER_STEPS)), rows)


# --- networks ------------------------------------------------------------------------------------


def _network(key: Any, sizes: Sequence[int]) -> Any:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (n, m)) * np.sqrt(1 / n), jnp.zeros(m))
        for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
    ]


def _applied(params: Any, x: Any) -> Any:
    for matrix, shift in params[:-1]:
        x = jnp.tanh(x @ matrix + shift)
    matrix, shift = params[-1]
    return x @ matrix + shift


def _regression(params: Any, task: Any) -> Any:
    inputs, targets = task
    return jnp.mean((_applied(params, inputs) - targets) ** 2)


def _classification(params: Any, task: Any) -> Any:
    inputs, labels = task
    logs = jax.nn.log_softmax(_applied(params, inputs))
    return -jnp.mean(jnp.take_along_axis(logs, labels[:, None], 1))


def _sinusoids(key: Any, samples: int) -> Any:
    """A task: two sets of samples, ten and others, of a sinusoid by Finn et al. (2017)."""
    one, two, three = jax.random.split(key, 3)
    amplitude = jax.random.uniform(one, minval=0.1, maxval=5.0)
    phase = jax.random.uniform(two, maxval=np.pi)
    inputs = jax.random.uniform(three, (10 + samples, 1), minval=-5.0, maxval=5.0)
    targets = amplitude * jnp.sin(inputs - phase)
    return (inputs[:10], targets[:10]), (inputs[10:], targets[10:])


def _temporaries(compiled: Any, *args: Any) -> Any:
    analysis: Any = compiled.lower(*args).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def memory() -> str:
    """Kilobytes of temporaries, and milliseconds, by inner steps."""
    params = _network(jax.random.key(0), (1, 40, 40, 1))
    train, validation = _sinusoids(jax.random.key(1), 10)
    rows = []
    for steps in (1, 10, 100, 1000):
        common = _regression, _regression, 2.0, 0.01, steps
        ways = {
            "implicit": jax.jit(_implicit(*common, 5)),
            "unrolled": jax.jit(_unrolled(*common)),
            "first-order": jax.jit(_first_order(*common)),
        }
        args = params, train, validation
        sizes = [_temporaries(way, *args) for way in ways.values()]
        seconds = timing.take_turns(
            {name: functools.partial(way, *args) for name, way in ways.items()}, turns=9
        )
        spent = map(report.durations, seconds.values())
        rows.append((steps, *(f"{size / 1024:,.0f}" for size in sizes), *spent))
    header = [f"{name}, {unit}" for unit in ("KiB", "time") for name in ways]
    return report.markdown_table(("inner steps", *header), rows)


# --- inner optimisers ----------------------------------------------------------------------------


def _bfgs(objective: Any, start: Any) -> Any:
    from jax.scipy import optimize

    flat, unravel = jax.flatten_util.ravel_pytree(start)
    return unravel(
        optimize.minimize(
            lambda x: objective(unravel(x)), flat, method="BFGS", options={"gtol": 1e-10}
        ).x
    )


def optimizers() -> str:
    """How far meta-gradients from several inner optimisers differ, and their time."""
    draw = _Digits(0)
    train, validation = draw.task(np.random.default_rng(0), draw.seen, shots=5)
    params = _network(jax.random.key(0), (64, 5))
    tried: dict[str, dict[str, Any]] = {
        "Newton (none given)": {},
        "gradient descent, 400 steps": {"optimizer": optax.sgd(0.4), "steps": 400},
        "Nesterov's, 200 steps": {
            "optimizer": optax.sgd(0.3, momentum=0.7, nesterov=True),
            "steps": 200,
        },
        "Adam, 3000 steps": {
            "optimizer": optax.adam(optax.exponential_decay(0.02, 100, 0.6)),
            "steps": 3000,
        },
        "BFGS, of jax.scipy": {"optimizer": _bfgs},
    }
    finds = {
        name: jax.jit(
            jax_cce.meta_gradient(_classification, _classification, 1.0, iterations=100, **how)
        )
        for name, how in tried.items()
    }
    calls = {
        name: functools.partial(find, params, train, validation) for name, find in finds.items()
    }
    seconds = timing.take_turns(calls, turns=5)
    results = {name: call() for name, call in calls.items()}
    exact = jax.flatten_util.ravel_pytree(next(iter(results.values())).gradient)[0]
    rows = []
    for name, found in results.items():
        off = jax.flatten_util.ravel_pytree(found.gradient)[0] - exact
        error = float(jnp.linalg.norm(off) / jnp.linalg.norm(exact))
        rows.append(
            (name, f"{found.stationarity:.0e}", f"{error:.0e}", report.durations(seconds[name]))
        )
    header = ("inner optimiser", "gradient left", "differs by", "time")
    return report.markdown_table(header, rows)


# --- heads ---------------------------------------------------------------------------------------


def heads() -> str:
    """Heads of a linear model of 8 features: time, and the largest matrix."""

    def loss(params: Any, task: Any) -> Any:
        features, targets = task
        return jnp.mean(jnp.sum(jnp.log(jnp.cosh(features @ params.T - targets)), 1))

    def dense(params: Any, train: Any, validation: Any) -> Any:
        """What one would write with `jax.hessian`."""

        def flat(x: Any) -> Any:
            return _regularised(loss, 0.5, params, train)(x.reshape(params.shape))

        phi = params.reshape(-1)
        for _ in range(6):
            phi = phi - jnp.linalg.solve(jax.hessian(flat)(phi), jax.grad(flat)(phi))
        pull = jax.grad(loss)(phi.reshape(params.shape), validation).reshape(-1)
        return 0.5 * jnp.linalg.solve(jax.hessian(flat)(phi), pull).reshape(params.shape)

    rows = []
    for number in (5, 20, 80):
        draw = np.random.default_rng(number)
        train, validation = (
            (jnp.array(draw.normal(size=(20, 8))), jnp.array(draw.normal(size=(20, number))))
            for _ in range(2)
        )
        params = jnp.zeros((number, 8))
        ways: dict[str, Any] = {
            solver: jax.jit(
                lambda *args, solver=solver: (
                    jax_cce.meta_gradient(loss, loss, 0.5, solver)(*args).gradient
                )
            )
            for solver in ("direct", "cg")
        }
        ways["jax.hessian"] = jax.jit(dense)
        args = params, train, validation
        for way in ways.values():
            np.testing.assert_allclose(way(*args), ways["direct"](*args), atol=1e-8)
        calls = {name: functools.partial(way, *args) for name, way in ways.items()}
        seconds = timing.take_turns(calls, turns=7)
        sizes = [_temporaries(way, *args) for way in ways.values()]
        spent = map(report.durations, seconds.values())
        rows.append((number, *spent, *(f"{size / 1024:,.0f}" for size in sizes)))
    header = [f"{name}, {unit}" for unit in ("time", "KiB") for name in ways]
    return report.markdown_table(("heads", *header), rows)


# --- training ------------------------------------------------------------------------------------


def _training(way: Any, rate: float) -> tuple[Any, Any]:
    """The start of Adam, and its step on the mean over tasks."""
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params: Any, state: Any, tasks: Any) -> tuple[Any, Any]:
        _, slopes = jax.vmap(way, (None, 0, 0))(params, *tasks)
        # As is usual in meta-learning, where a single task may be steep.
        slope = jax.tree.map(lambda leaf: jnp.clip(leaf.mean(0), -10.0, 10.0), slopes)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state

    return optimizer.init, step


def _trained(training: Any, params: Any, batches: Sequence[Any]) -> tuple[Any, float]:
    """Parameters after a step for each batch, and the seconds a step takes in the median."""
    init, step = training
    state, spent = init(params), []
    for tasks in batches:
        begun = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state, tasks))
        spent.append(time.perf_counter() - begun)
    return params, float(np.median(spent))


def _ways(loss: Any, lam: float, rate: float, steps: int) -> dict[str, Any]:
    """Meta-gradients to train by; that of all tasks as one knows no adaptation."""
    common = loss, loss, lam, rate, steps

    def joint(params: Any, train: Any, validation: Any) -> Any:
        return jax.value_and_grad(lambda p: (loss(p, train) + loss(p, validation)) / 2)(params)

    return {
        "implicit, 5 iterations": _implicit(*common, 5),
        "implicit, 2 iterations": _implicit(*common, 2),
        "unrolled": _unrolled(*common),
        "first-order": _first_order(*common),
        "all tasks as one": joint,
    }


def sinusoids(seeds: int, iterations: int) -> str:
    """Errors on 500 new sinusoids after adaptation by the same inner optimiser."""
    lam, rate, steps = 2.0, 0.02, 16

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def tasks(key: Any, samples: int, number: int) -> Any:
        return jax.vmap(functools.partial(_sinusoids, samples=samples))(
            jax.random.split(key, number)
        )

    new = tasks(jax.random.key(10**6), 100, 500)
    after = _after_adaptation(_regression, lam, rate, steps, _regression)
    rows = []
    for name, way in _ways(_regression, lam, rate, steps).items():
        training, scores, spent = _training(way, 5e-3), [], []
        for seed in range(seeds):
            start, data = jax.random.split(jax.random.key(seed))
            batches = [tasks(key, 10, 10) for key in jax.random.split(data, iterations)]
            params = _network(start, (1, 40, 40, 1))
            found, seconds = _trained(training, params, batches)
            scores.append(after(found, new))
            spent.append(seconds)
        rows.append((name, _spread(scores), f"{1e3 * np.median(spent):.1f} ms"))
        print(*rows[-1], file=sys.stderr)
    return report.markdown_table(("trained by", "mean square error", "a step"), rows)


def _accuracy(params: Any, task: Any) -> Any:
    inputs, labels = task
    return jnp.mean(jnp.argmax(_applied(params, inputs), 1) == labels)


def _after_adaptation(
    loss: Any, lam: float, rate: float, steps: int, score: Any
) -> Callable[..., float]:
    """The mean score over tasks, by the parameters that they start from."""

    @jax.jit
    def after(params: Any, tasks: Any) -> Any:
        def one(train: Any, validation: Any) -> Any:
            objective = _regularised(loss, lam, params, train)
            return score(_descended(objective, params, rate, steps), validation)

        return jnp.mean(jax.vmap(one)(*tasks))

    return lambda params, tasks: float(after(params, tasks))


class _Digits:
    """Scikit-learn's digits, upright and on their sides: twenty classes of which six are kept back.

    Args:
        seed: decides which three digits are kept back, in both orientations.
    """

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8) / 16 - 0.3
        sides = np.rot90(images, axes=(1, 2))
        self.classes = [
            each[labels == digit].reshape(-1, 64) for digit in range(10) for each in (images, sides)
        ]
        back = np.random.default_rng(seed).permutation(10)[:3]
        self.new = [2 * digit + side for digit in back for side in (0, 1)]
        self.seen = [k for k in range(20) if k not in self.new]

    def task(self, draw: Any, classes: Sequence[int], shots: int, queries: int = 10) -> Any:
        chosen = draw.permutation(classes)[:5]
        few, many = [], []
        for name in chosen:
            images = self.classes[name]
            at = draw.permutation(len(images))[: shots + queries]
            few.append(images[at[:shots]])
            many.append(images[at[shots:]])
        return (
            (jnp.array(np.concatenate(few)), jnp.repeat(jnp.arange(5), shots)),
            (jnp.array(np.concatenate(many)), jnp.repeat(jnp.arange(5), queries)),
        )

    def tasks(self, draw: Any, classes: Sequence[int], shots: int, number: int) -> Any:
        drawn = [self.task(draw, classes, shots) for _ in range(number)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def digits(seeds: int, iterations: int) -> str:
    """Accuracies on 300 tasks of classes that were kept back, of one shot and of five."""
    lam, rate, steps = 0.2, 0.5, 16
    after = _after_adaptation(_classification, lam, rate, steps, _accuracy)
    data = {}
    for shots in (1, 5):
        for seed in range(seeds):
            source, draw = _Digits(seed), np.random.default_rng(1000 + seed)
            batches = [source.tasks(draw, source.seen, shots, 8) for _ in range(iterations)]
            data[shots, seed] = batches, source.tasks(draw, source.new, shots, 300)
    rows = []
    ways = _ways(_classification, lam, rate, steps)
    for name, way in {**ways, "not at all": None}.items():
        training = None if way is None else _training(way, 2e-3)
        scores: dict[int, list[float]] = {}
        spent = []
        for (shots, seed), (batches, new) in data.items():
            params = _network(jax.random.key(seed), (64, 64, 5))
            if training is not None:
                params, seconds = _trained(training, params, batches)
                spent.append(seconds)
            scores.setdefault(shots, []).append(100 * after(params, new))
        each = f"{1e3 * np.median(spent):.1f} ms" if spent else "–"
        rows.append((name, *(_spread(found, ".1f") for found in scores.values()), each))
        print(*rows[-1], file=sys.stderr)
    return report.markdown_table(("trained by", "1 shot, %", "5 shots, %", "a step"), rows)


_EXPERIMENTS: dict[str, tuple[Callable[..., str], bool, str]] = {
    "errors": (errors, True, "Linear tasks, 20 unknowns, λ = 1: relative error by inner steps"),
    "memory": (memory, True, "A network 1-40-40-1, one task: temporaries and time"),
    "optimizers": (optimizers, True, "A linear classifier of digits, 325 unknowns, λ = 1"),
    "heads": (heads, True, "Heads of 8 features each, by Newton's method"),
    "sinusoids": (sinusoids, False, "Sinusoids, ten samples, 500 new tasks, float32"),
    "digits": (digits, False, "Digits, five ways, 300 tasks of new classes, float32"),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(_EXPERIMENTS)}; or all")
    parser.add_argument("--seeds", type=int, default=5, help="of the two that train")
    parser.add_argument("--iterations", type=int, default=1000, help="of the two that train")
    options = parser.parse_args()
    chosen = options.experiments or list(_EXPERIMENTS)
    print(f"{report.provenance()}\n")
    for name in chosen:
        run, wide, title = _EXPERIMENTS[name]
        jax.config.update("jax_enable_x64", wide)
        training = () if wide else (options.seeds, options.iterations)
        print(f"{title}\n\n{run(*training)}\n", flush=True)


if __name__ == "__main__":
    main()
