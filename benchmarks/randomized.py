"""Randomised derivatives: what they store, how far they scatter, and how training fares with them.

    python -m benchmarks.randomized                  # all tables, in Markdown; some minutes
    python -m benchmarks.randomized depth digits     # some of them

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

_TRAINING = 1500
# From the logits to the mean loss.
_loss_of = optax.softmax_cross_entropy_with_integer_labels


class _Data(NamedTuple):
    """Images, shape (number, 64), and labels; the first ones are for training."""

    images: np.ndarray
    labels: np.ndarray


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
    images = (found.data[order] / 16).astype(np.float32)
    return _Data(images, found.target[order].astype(np.int32))


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
    x = jnp.asarray(digits().images)[rows]
    for weights, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    weights, bias = parameters[-1]
    return x @ weights + bias


def network_start(key: Any) -> Any:
    """He's initialisation."""
    return _dense(key, (64, 128, 128, 128, 10))


def convolutional(parameters: Any, rows: Any) -> Any:
    """Logits of two rectified convolutions, 16 and 32 channels, and a dense layer."""
    x = jnp.asarray(digits().images)[rows].reshape(-1, 8, 8, 1)
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
    pixels = jnp.asarray(digits().images)[rows].T

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
        return _loss_of(model(parameters, rows), jnp.asarray(digits().labels)[rows]).mean()

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
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parameters)
        rows = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
        if self.options is None:
            return randomized.plan(loss)(shapes, rows).exact_bytes
        return randomized.plan(loss, **self.options)(shapes, rows).saved_bytes


class Scatter(NamedTuple):
    """How the gradients of a way scatter around that of the batch, at the start.

    Attributes:
        compiled: bytes of the temporary arrays of the compiled gradient.
        deviation: the relative standard deviation.
        z: mean squared z over the parameters that scatter, and the largest |z|.
    """

    compiled: int
    deviation: float
    z: tuple[float, float]


def scatter(way: Way, loss: _Loss, parameters: Any, batch: int, draws: int) -> Scatter:
    """Draws gradients; a smaller batch is drawn from the same rows."""
    exact = jax.jit(jax.grad(loss))(parameters, jnp.arange(batch))
    shape = jnp.arange(way.rows)
    compiled = jax.jit(way.gradient(loss)).lower(jax.random.key(0), parameters, shape).compile()
    analysis: Any = compiled.memory_analysis()
    random = np.random.default_rng(1)
    wanted = _flat(exact)
    total, squares, errors = np.zeros_like(wanted), np.zeros_like(wanted), 0.0
    for key in jax.random.split(jax.random.key(1), draws):
        rows = random.permutation(batch)[: way.rows].astype(np.int32)
        chosen = jnp.arange(batch) if way.rows == batch else jnp.asarray(rows)
        error = _flat(compiled(key, parameters, chosen)[1]) - wanted
        total, squares, errors = total + error, squares + error**2, errors + float(error @ error)
    moving = squares > 1e-9 * squares.max() if way.rows < batch or way.options else squares < 0
    z = total[moving] / np.sqrt(squares[moving])
    found = (float(np.mean(z**2)), float(np.abs(z).max())) if z.size else (math.nan, math.nan)
    deviation = math.sqrt(errors / draws / float(wanted @ wanted))
    return Scatter(analysis.temp_size_in_bytes, deviation, found)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(float)


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
        labels = digits().labels[_TRAINING:]
        held = _TRAINING + jnp.arange(len(labels))
        hits = jnp.argmax(model(state[0], held), 1) == labels
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


class Run(NamedTuple):
    """How the ways of a table are trained.

    Attributes:
        rates: the learning rates that are tried, each on one seed.
        seeds: how many others are trained with the best.
        steps: how many steps.
        target: a loss on all training data, of which the number of steps to it is counted.
        shown: the steps at which losses are shown.
        draws: how many gradients are drawn at the start.
    """

    rates: Sequence[float]
    seeds: int
    steps: int
    target: float
    shown: Sequence[int]
    draws: int


# The loss is computed every so many steps.
_EVERY = 25


def training_table(
    title: str, model: Any, start: Any, ways: dict[str, Way], batch: int, run: Run
) -> Section:
    """Memory, scatter and training of the ways, each with its best rate."""
    loss, parameters = loss_of(model), start(jax.random.key(0))
    rows = []

    def curve(way: Way, rate: float, seed: int) -> Curve:
        return train(model, start, way, rate, seed, run.steps, _EVERY)

    for name, way in ways.items():
        drawn = scatter(way, loss, parameters, batch, run.draws)
        tried = {rate: float(curve(way, rate, 100).losses[-1]) for rate in run.rates}
        rate = min(tried, key=lambda each: tried[each] if math.isfinite(tried[each]) else math.inf)
        curves = [curve(way, rate, seed) for seed in range(run.seeds)]
        reached = [
            (int(np.argmax(each.losses <= run.target)) + 1) * _EVERY
            if (each.losses <= run.target).any()
            else math.inf
            for each in curves
        ]
        middle = float(np.median(reached))
        rows.append(
            (
                name,
                f"{way.saved_bytes(loss, parameters):,}",
                f"{drawn.compiled:,}",
                f"{drawn.deviation:.2f}",
                f"{drawn.z[0]:.2f}, {drawn.z[1]:.1f}" if math.isfinite(drawn.z[0]) else "",
                f"{rate:g}",
                *(_spread([each.losses[at // _EVERY - 1] for each in curves]) for at in run.shown),
                f"{middle:.0f}" if math.isfinite(middle) else f"over {run.steps}",
                f"{100 * np.mean([each.accuracy for each in curves]):.1f} %",
                f"{1e3 * min(each.seconds for each in curves):.2f} ms",
            )
        )
    header = (
        *("gradient", "saved bytes", "compiled", "deviation", "z²: mean, largest z", "rate"),
        *(f"loss at {at}" for at in run.shown),
        *(f"steps to {run.target:g}", "accuracy", "time a step"),
    )
    lines = (
        f"{run.seeds} seeds, mean ± standard deviation; the best of the rates "
        f"{', '.join(f'{rate:g}' for rate in run.rates)} on another one; Adam, {run.steps} steps; "
        f"{run.draws} gradients drawn at the start; the least time of a run",
    )
    return Section(title, lines, header, tuple(rows))


def _ways(batch: int, small: int, *, projected: bool = False) -> dict[str, Way]:
    ways = {
        "full batch": Way(batch),
        "per element": Way(batch, {"keep": 0.1}),
        "shared": Way(batch, {"keep": 0.1, "share": True}),
    }
    if projected:
        ways["projected"] = Way(batch, {"keep": 0.1, "share": True, "method": "project"})
    return ways | {f"batch of {small}": Way(small)}


def digits_table(quick: bool) -> list[Section]:
    """The feed-forward network."""
    title = "Digits, 64-128-128-128-10, batch 150, keep 0.1"
    run = Run((1e-3, 3e-3), 10, 300, 0.1, (100, 300), 300)
    if quick:
        run = Run((1e-3,), 2, 50, 0.1, (50,), 50)
    ways = _ways(150, 20, projected=True)
    return [training_table(title, network, network_start, ways, 150, run)]


def convolutional_table(quick: bool) -> list[Section]:
    """The convolutional network, with entries of images sampled over space and channels."""
    title = "Digits, two convolutions of 16 and 32 channels, batch 100, keep 0.1"
    run = Run((3e-3,), 3, 100, 0.6, (50, 100), 50)
    if quick:
        run = Run((3e-3,), 2, 25, 0.6, (25,), 10)
    start = convolutional_start
    return [training_table(title, convolutional, start, _ways(100, 14), 100, run)]


def recurrent_table(quick: bool) -> list[Section]:
    """The recurrent network."""
    title = "Digits pixel by pixel, 100 recurrent rectified units, batch 50, keep 0.1"
    run = Run((1e-3,), 3, 100, 1.8, (50, 100), 50)
    if quick:
        run = Run((1e-3,), 2, 25, 1.8, (25,), 10)
    return [training_table(title, recurrent, recurrent_start, _ways(50, 6), 50, run)]


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
        first, times = math.nan, list[float]()
        for k in range(5 if name == "plain" else iterations):
            began = time.perf_counter()
            value, gradient = jax.block_until_ready(compiled(jax.random.key(k), parameters))
            first = float(value) if k == 0 else first
            updates, memory = optimizer.update(gradient, memory)
            parameters = optax.apply_updates(parameters, updates)
            times.append(time.perf_counter() - began)
        last = float(compiled(jax.random.key(0), parameters)[0])
        after = "" if name == "plain" else f"{last:.5f}"
        found.append((name, f"{temporary:.2f} MiB", f"{first:.5f}", after, f"{min(times):.2f} s"))
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
