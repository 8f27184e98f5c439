"""Randomised derivatives: what they store, how far they scatter, and how training fares with them.

    python -m benchmarks.randomized                    # all tables, in Markdown; some ten minutes
    python -m benchmarks.randomized depth digits       # some of them

The tables are those of Oktay et al. (ICLR 2021), with smaller tasks: scikit-learn's digits (which
has to be installed) in place of MNIST and CIFAR-10, and a diffusion equation with controls.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_cce import randomized
from jax_cce.reports import Section

_BATCH, _TRAINING = 150, 1500
# From the logits to the mean loss.
_loss_of = optax.softmax_cross_entropy_with_integer_labels


class _Data(NamedTuple):
    """Images, shape (number, 64), and labels; the first ones are for training."""

    images: jax.Array
    labels: jax.Array


@functools.cache
def digits() -> _Data:
    """The digits of scikit-learn, in an order of their own.

    Raises:
        SystemExit: where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("This table needs scikit-learn: pip install scikit-learn") from None
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = jnp.asarray(found.data[order] / 16, jnp.float32)
    return _Data(images, jnp.asarray(found.target[order], jnp.int32))


# Parameters and rows of the data to the loss.
_Loss = Callable[[Any, Any], Any]


def _dense(key: Any, sizes: Sequence[int]) -> list[tuple[Any, Any]]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (m, n)) * math.sqrt(2 / m), jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def network(parameters: Any, rows: Any) -> Any:
    """Logits of rectified layers 64-128-128-128-10."""
    x = digits().images[rows]
    for weights, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    weights, bias = parameters[-1]
    return x @ weights + bias


def network_start(key: Any) -> Any:
    """He's initialisation."""
    return _dense(key, (64, 128, 128, 128, 10))


def convolutional(parameters: Any, rows: Any) -> Any:
    """Logits of two rectified convolutions, 16 and 32 channels, and a dense layer."""
    x = digits().images[rows].reshape(-1, 8, 8, 1)
    for kernel in parameters["kernels"]:
        x = jax.nn.relu(
            lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
        x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
    weights, bias = parameters["dense"]
    return x.reshape(x.shape[0], -1) @ weights + bias


def convolutional_start(key: Any) -> Any:
    """He's initialisation."""
    keys = jax.random.split(key, 3)
    shapes = (3, 3, 1, 16), (3, 3, 16, 32)
    kernels = [
        jax.random.normal(k, shape) * math.sqrt(2 / math.prod(shape[:3]))
        for k, shape in zip(keys, shapes, strict=False)
    ]
    return {"kernels": kernels, "dense": _dense(keys[2], (128, 10))[0]}


def recurrent(parameters: Any, rows: Any) -> Any:
    """Logits of 100 rectified units that read the pixels one by one."""
    inner, outer, bias = parameters["inner"], parameters["outer"], parameters["bias"]
    pixels = digits().images[rows].T

    def step(state: Any, pixel: Any) -> tuple[Any, None]:
        return jax.nn.relu(state @ inner + pixel[:, None] * outer + bias), None

    state, _ = lax.scan(step, jnp.zeros((pixels.shape[1], 100)), pixels)
    weights, bias = parameters["dense"]
    return state @ weights + bias


def recurrent_start(key: Any) -> Any:
    """The identity between the units (Le, Jaitly & Hinton 2015)."""
    one, two = jax.random.split(key)
    return {
        "inner": jnp.eye(100),
        "outer": jax.random.normal(one, (100,)) * 0.03,
        "bias": jnp.zeros(100),
        "dense": (jax.random.normal(two, (100, 10)) * 0.03, jnp.zeros(10)),
    }


def loss_of(model: Callable[[Any, Any], Any]) -> _Loss:
    """The mean loss of a model on some rows of the data."""

    def loss(parameters: Any, rows: Any) -> Any:
        return _loss_of(model(parameters, rows), digits().labels[rows]).mean()

    return loss


class Way(NamedTuple):
    """A way to a gradient: how many rows a step takes, and what is sampled; None for nothing."""

    rows: int
    options: dict[str, Any] | None = None

    def gradient(self, loss: _Loss) -> Callable[[Any, Any, Any], Any]:
        """From a key, parameters and rows to value and gradient."""
        if self.options is None:
            exact = jax.value_and_grad(loss)
            return lambda key, parameters, rows: exact(parameters, rows)
        return randomized.value_and_grad(loss, **self.options)

    def saved_bytes(self, loss: _Loss, parameters: Any) -> int:
        """What is stored on the way to the gradient, signs as bits."""
        rows = jnp.arange(self.rows)
        if self.options is None:
            return randomized.plan(loss)(parameters, rows).exact_bytes
        return randomized.plan(loss, **self.options)(parameters, rows).saved_bytes


def compiled_bytes(way: Way, loss: _Loss, parameters: Any) -> int:
    """The temporary arrays of the compiled gradient."""
    function = jax.jit(way.gradient(loss))
    lowered = function.lower(jax.random.key(0), parameters, jnp.arange(way.rows))
    analysis: Any = lowered.compile().memory_analysis()
    return analysis.temp_size_in_bytes


def deviation(way: Way, loss: _Loss, parameters: Any, draws: int = 400) -> float:
    """The relative standard deviation of a gradient around that of the batch.

    A smaller batch is drawn from the same rows.
    """
    rows = jnp.arange(_BATCH)
    exact = jax.jit(jax.grad(loss))(parameters, rows)
    gradient = way.gradient(loss)

    @jax.jit
    def error(key: Any) -> Any:
        chosen = rows
        if way.rows < _BATCH:
            chosen = jax.random.choice(key, rows, (way.rows,), replace=False)
        found = gradient(key, parameters, chosen)[1]
        return optax.tree.norm(optax.tree.sub(found, exact), squared=True)

    errors = lax.map(error, jax.random.split(jax.random.key(1), draws))
    return float(jnp.sqrt(errors.mean()) / optax.tree.norm(exact))


class Curve(NamedTuple):
    """A training run: the loss on all training data every so many steps, and seconds a step."""

    losses: np.ndarray
    accuracy: float
    seconds: float


@functools.cache
def _trainer(model: Any, way: Way | tuple[Any, ...], steps: int, every: int) -> Any:
    rows_of, options = way
    own = Way(rows_of, None if options is None else dict(options))
    loss = loss_of(model)
    gradient = own.gradient(loss)

    @jax.jit
    def trained(key: Any, parameters: Any, rate: Any) -> Any:
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=rate)

        def step(state: Any, key: Any) -> tuple[Any, None]:
            parameters, memory = state
            of_rows, of_draw = jax.random.split(key)
            rows = jax.random.randint(of_rows, (own.rows,), 0, _TRAINING)
            _, found = gradient(of_draw, parameters, rows)
            updates, memory = optimizer.update(found, memory, parameters)
            return (optax.apply_updates(parameters, updates), memory), None

        def block(state: Any, key: Any) -> tuple[Any, Any]:
            state, _ = lax.scan(step, state, jax.random.split(key, every))
            return state, loss(state[0], jnp.arange(_TRAINING))

        start = parameters, optimizer.init(parameters)
        state, losses = lax.scan(block, start, jax.random.split(key, steps // every))
        held = jnp.arange(_TRAINING, len(digits().labels))
        hits = jnp.argmax(model(state[0], held), 1) == digits().labels[held]
        return losses, hits.mean()

    return trained


def train(
    model: Any, start: Any, way: Way, rate: float, seed: int, steps: int, every: int
) -> Curve:
    """Trains a model by Adam."""
    options = None if way.options is None else tuple(sorted(way.options.items()))
    trained = _trainer(model, (way.rows, options), steps, every)
    one, two = jax.random.split(jax.random.key(seed))
    began = time.perf_counter()
    losses, accuracy = jax.block_until_ready(trained(two, start(one), rate))
    return Curve(np.asarray(losses), float(accuracy), (time.perf_counter() - began) / steps)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2g} ± {np.std(values, ddof=1):.1g}"


def training_table(
    title: str,
    model: Any,
    start: Any,
    ways: dict[str, Way],
    *,
    rates: Sequence[float],
    seeds: int,
    tuned_on: int,
    steps: int,
    every: int,
    target: float,
    shown: Sequence[int],
    draws: int,
) -> Section:
    """Memory, scatter and training of the ways, each with its best rate."""
    loss = loss_of(model)
    parameters = start(jax.random.key(0))
    rows = []
    for name, way in ways.items():
        tried = {
            rate: float(
                np.mean(
                    [
                        train(model, start, way, rate, 100 + k, steps, every).losses[-1]
                        for k in range(tuned_on)
                    ]
                )
            )
            for rate in rates
        }
        rate = min(tried, key=lambda each: tried[each] if math.isfinite(tried[each]) else math.inf)
        curves = [train(model, start, way, rate, seed, steps, every) for seed in range(seeds)]
        reached = [
            (int(np.argmax(curve.losses <= target)) + 1) * every
            if (curve.losses <= target).any()
            else math.inf
            for curve in curves
        ]
        count = "never" if math.inf in reached else f"{np.median(reached):.0f}"
        rows.append(
            (
                name,
                f"{way.saved_bytes(loss, parameters):,}",
                f"{compiled_bytes(way, loss, parameters):,}",
                f"{deviation(way, loss, parameters, draws):.2f}",
                f"{rate:g}",
                *(_spread([c.losses[at // every - 1] for c in curves]) for at in shown),
                count,
                f"{100 * np.mean([c.accuracy for c in curves]):.1f} %",
                f"{1e3 * np.median([c.seconds for c in curves]):.2f} ms",
            )
        )
    header = (
        *("gradient", "saved bytes", "compiled", "deviation", "rate"),
        *(f"loss at {at}" for at in shown),
        *(f"steps to {target:g}", "accuracy", "time a step"),
    )
    lines = (
        f"{seeds} seeds, mean ± standard deviation; rates {', '.join(f'{r:g}' for r in rates)} "
        f"tried on {tuned_on} others; Adam, {steps} steps",
    )
    return Section(title, lines, header, tuple(rows))


def _ways(keep: float, small: int, *, projected: bool = True) -> dict[str, Way]:
    ways = {
        "full batch": Way(_BATCH),
        "per element": Way(_BATCH, {"keep": keep}),
        "shared": Way(_BATCH, {"keep": keep, "share": True}),
    }
    if projected:
        ways["projected"] = Way(_BATCH, {"keep": keep, "share": True, "method": "project"})
    return ways | {f"batch of {small}": Way(small)}


def digits_table(quick: bool) -> list[Section]:
    """The feed-forward network."""
    table = training_table(
        "Digits, 64-128-128-128-10, batch 150, keep 0.1",
        network,
        network_start,
        _ways(0.1, 20),
        rates=(3e-4, 1e-3, 3e-3),
        seeds=2 if quick else 10,
        tuned_on=1 if quick else 3,
        steps=300 if quick else 1500,
        every=25,
        target=0.05,
        shown=(300,) if quick else (300, 1500),
        draws=100 if quick else 400,
    )
    return [table, unbiased_table(200 if quick else 2000)]


def unbiased_table(draws: int) -> Section:
    """Mean squared z over the weights, at the start."""
    loss, parameters = loss_of(network), network_start(jax.random.key(0))
    rows, exact = jnp.arange(_BATCH), None
    exact = jax.grad(loss)(parameters, rows)
    found = []
    for name, way in _ways(0.1, 20).items():
        if way.options is None:
            continue
        gradient = way.gradient(loss)

        @jax.jit
        def sums(keys: Any, gradient: Any = gradient) -> Any:
            def one(total: Any, key: Any) -> tuple[Any, None]:
                error = optax.tree.sub(gradient(key, parameters, rows)[1], exact)
                both = error, jax.tree.map(jnp.square, error)
                return optax.tree.add(total, both), None

            zeros = jax.tree.map(jnp.zeros_like, (exact, exact))
            return lax.scan(one, zeros, keys)[0]

        first, second = sums(jax.random.split(jax.random.key(2), draws))
        totals = [np.asarray(x) for x in jax.tree.leaves(first)]
        squares = [np.asarray(x) for x in jax.tree.leaves(second)]
        z = np.concatenate(
            [(t / np.sqrt(s + 1e-30)).ravel() for t, s in zip(totals, squares, strict=True)]
        )
        scatter = np.concatenate([(s > 1e-12 * s.max()).ravel() for s in squares])
        count = int(scatter.sum())
        z = z[scatter]
        found.append((name, f"{count:,}", f"{np.mean(z**2):.3f}", f"{np.abs(z).max():.2f}"))
    title = f"Unbiased: {draws} keys"
    return Section(
        title, (), ("gradient", "weights that scatter", "mean z²", "largest |z|"), tuple(found)
    )


def convolutional_table(quick: bool) -> list[Section]:
    """The convolutional network, with entries of images sampled over space and channels."""
    return [
        training_table(
            "Digits, two convolutions of 16 and 32 channels, batch 150, keep 0.1",
            convolutional,
            convolutional_start,
            _ways(0.1, 18, projected=False),
            rates=(1e-3, 3e-3),
            seeds=2 if quick else 3,
            tuned_on=1,
            steps=100 if quick else 400,
            every=25,
            target=0.3,
            shown=(100,) if quick else (100, 400),
            draws=40,
        )
    ]


def recurrent_table(quick: bool) -> list[Section]:
    """The recurrent network."""
    return [
        training_table(
            "Digits pixel by pixel, 100 recurrent rectified units, batch 150, keep 0.1",
            recurrent,
            recurrent_start,
            _ways(0.1, 20, projected=False),
            rates=(3e-4, 1e-3),
            seeds=2 if quick else 3,
            tuned_on=1,
            steps=100 if quick else 400,
            every=25,
            target=1.0,
            shown=(100,) if quick else (200, 400),
            draws=20,
        )
    ]


_GRID = 33
# Twice the square of pi over the diffusion: without control the first mode keeps its size.
_GROWTH, _DIFFUSION = 4.932, 0.25


def diffused(parameters: Any, steps: int, *, checkpoint: bool = False) -> Any:
    """The distance from a target of what diffuses and grows under six controls.

    A step takes 1/4096. The growth rate is the first parameter, to which six sinusoids of place and
    time are added.
    """
    place = np.linspace(0, 1, _GRID, dtype=np.float32)
    x, y = np.meshgrid(place, place, indexing="ij")
    waves = np.stack(
        [np.sin(np.pi * k * x) * np.sin(np.pi * m * y) for k, m in ((2, 1), (1, 2), (2, 2))]
    )
    shapes = np.concatenate([waves, waves])
    mode = np.sin(np.pi * x) * np.sin(np.pi * y)
    target = mode * (1 + 0.4 * (x - y))
    dt, spacing = 1 / 4096, 1 / (_GRID - 1)

    def step(field: Any, at: Any) -> tuple[Any, None]:
        phase = 2 * np.pi * at * dt
        times = jnp.repeat(jnp.stack([jnp.ones_like(phase), jnp.cos(phase)]), 3)
        growth = parameters[0] + jnp.tensordot(parameters[1:], times[:, None, None] * shapes, 1)
        around = jnp.pad(field, 1)
        sides = around[2:, 1:-1] + around[:-2, 1:-1] + around[1:-1, 2:] + around[1:-1, :-2]
        change = _DIFFUSION * (sides - 4 * field) / spacing**2 + growth * field
        inside = jnp.pad(change[1:-1, 1:-1], 1)
        return field + dt * inside, None

    body = jax.checkpoint(step) if checkpoint else step
    at = jnp.arange(steps, dtype=jnp.float32)
    field, _ = lax.scan(body, jnp.asarray(mode, jnp.float32), at)
    return jnp.mean((field - target) ** 2)


def diffusion_table(quick: bool) -> list[Section]:
    """Control of the diffusion equation."""
    steps, iterations = (512, 10) if quick else (4096, 60)
    start = jnp.zeros(7).at[0].set(_GROWTH)
    points = _GRID**2

    def exact(**options: Any) -> Any:
        gradient = jax.value_and_grad(functools.partial(diffused, steps=steps, **options))
        return lambda key, parameters: gradient(parameters)

    def sampled(kept: int) -> Any:
        loss = functools.partial(diffused, steps=steps)
        functools.update_wrapper(loss, diffused)
        return randomized.value_and_grad(loss, keep=kept / points)

    ways = {
        "plain": exact(),
        "exact, checkpointed step": exact(checkpoint=True),
        f"10 of {points} values a step": sampled(10),
        f"1 of {points} values a step": sampled(1),
    }
    found = []
    for name, way in ways.items():
        compiled: Any = jax.jit(way).lower(jax.random.key(0), start).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
        optimizer = optax.adam(1e-2)
        parameters, memory = start, optimizer.init(start)
        first, began = math.nan, time.perf_counter()
        for k in range(iterations):
            value, gradient = compiled(jax.random.key(k), parameters)
            first = float(value) if k == 0 else first
            updates, memory = optimizer.update(gradient, memory)
            parameters = optax.apply_updates(parameters, updates)
        took = (time.perf_counter() - began) / iterations
        last = float(compiled(jax.random.key(0), parameters)[0])
        found.append((name, f"{temporary:.2f} MiB", f"{first:.5f}", f"{last:.5f}", f"{took:.2f} s"))
    header = ("gradient", "compiled temporaries", "loss before", "loss after", "time an iteration")
    title = f"Diffusion under control, {_GRID} x {_GRID}, {steps} steps, {iterations} iterations"
    return [Section(title, (), header, tuple(found)), hotelling_table(64 if quick else 256)]


def hotelling_table(steps: int, draws: int = 2000) -> Section:
    """Hotelling's T² of the sampled gradients of a shorter run."""
    loss = functools.partial(diffused, steps=steps)
    functools.update_wrapper(loss, diffused)
    parameters = jnp.zeros(7).at[0].set(_GROWTH).at[1:].set(0.3)
    gradient = randomized.grad(loss, keep=10 / _GRID**2)
    keys = jax.random.split(jax.random.key(0), draws)
    samples = np.asarray(lax.map(jax.jit(lambda key: gradient(key, parameters)), keys), float)
    error = samples.mean(0) - np.asarray(jax.grad(loss)(parameters), float)
    covariance = np.cov(samples.T)
    value = draws * error @ np.linalg.solve(covariance, error)
    size = len(error)
    row = f"{value:.1f}", f"{size} ± {math.sqrt(2 * size):.1f}", f"{draws:,}"
    return Section("Unbiased: 10 values a step", (), ("T²", "expected", "keys"), (row,))


def chain(matrices: Sequence[Any]) -> Callable[[Any], Any]:
    """A chain of matrices."""

    def function(x: Any) -> Any:
        for matrix in matrices:
            x = matrix @ x
        return x

    return function


def depth_table(quick: bool) -> list[Section]:
    """All products of a chain sampled, against one cut."""
    size, draws = 32, 500 if quick else 4000
    key, rows = jax.random.key(0), []
    for depth in (2, 4, 8):
        matrices = list(jax.random.normal(key, (depth, size, size)) / math.sqrt(size))
        function, x = chain(matrices), jnp.ones(size)
        exact = jax.jacrev(function)(x)
        cells: list[str] = []
        plan = randomized.plan(function, sites="cut", keep=0.25)(x)
        for sites in ("vertices", "cut", plan.cuts[0].vertex):
            options: dict[str, Any] = {"sites": sites, "keep": 0.25}
            estimate = randomized.jacobian(function, **options)

            def error(key: Any, estimate: Any = estimate, exact: Any = exact, x: Any = x) -> Any:
                return jnp.sum((estimate(key, x) - exact) ** 2)

            errors = jax.jit(lambda keys, error=error: lax.map(error, keys))(
                jax.random.split(jax.random.key(1), draws)
            )
            predicted = randomized.plan(function, **options)(x)
            relative = float(jnp.sqrt(errors.mean()) / jnp.linalg.norm(exact))
            cells.append(f"{relative:.2f}")
            if sites == plan.cuts[0].vertex:
                cells.append(f"{predicted.relative:.2f}")
            if sites == "vertices":
                cells.append(f"{predicted.work / predicted.exact_work:.2f}")
        rows.append((str(depth), *cells))
    header = (
        *("depth", "all products", "their work / exact", "one cut", "the planner's cut"),
        "as predicted",
    )
    title = f"Relative standard deviation, chains of {size} x {size} matrices, 8 of 32 entries"
    return [Section(title, (f"{draws:,} draws",), header, tuple(rows))]


_TABLES: dict[str, Callable[[bool], list[Section]]] = {
    "depth": depth_table,
    "digits": digits_table,
    "cnn": convolutional_table,
    "irnn": recurrent_table,
    "diffusion": diffusion_table,
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *_TABLES], help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="few seeds and steps")
    options = parser.parse_args()
    for name in options.tables or _TABLES:
        for section in _TABLES[name](options.quick):
            print(section.markdown(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
