"""What type checkers know of the public names: read by them, never run.

A comment that tells a checker to ignore a line says that the line must be an error; one that is
not needed is an error itself.
"""

from typing import Any, assert_type

import jax
from jax.experimental.sparse import BCOO
from jax_cce_search import Explanation, Optimized

import jax_cce
from jax_cce import (
    Artefact,
    MetaGradient,
    Plan,
    Source,
    StructuredJacobian,
    randomized,
    registry,
    splines,
    stochastic,
    surgery,
)


def residual(x: jax.Array, scale: float, *, shift: float = 0.0) -> jax.Array:
    """A function whose first argument is one array, and whose result is one."""
    return x * scale + shift


def model(parameters: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A function of trees."""
    return parameters["w"] * x, x


def jacobians(x: jax.Array, parameters: dict[str, jax.Array]) -> None:
    """The transformations, by format."""
    assert_type(jax_cce.jacobian(residual)(x, 2.0), jax.Array)
    assert_type(jax_cce.jacobian(residual, format="dense")(x, 2.0), jax.Array)
    assert_type(jax_cce.jacobian(residual, format="bcoo")(x, 2.0, shift=1.0), BCOO)
    assert_type(jax_cce.jacobian(residual, format="structured")(x, 2.0), StructuredJacobian)
    assert_type(jax_cce.hessian(residual)(x, 2.0), jax.Array)
    assert_type(jax_cce.hessian(residual, format="bcoo")(x, 2.0), BCOO)
    assert_type(jax_cce.value_and_jacobian(residual)(x, 2.0), tuple[jax.Array, jax.Array])
    assert_type(
        jax_cce.value_and_jacobian(residual, format="structured")(x, 2.0),
        tuple[jax.Array, StructuredJacobian],
    )
    # Trees of blocks are not described; the arguments are checked all the same.
    assert_type(jax_cce.jacobian(model)(parameters, x), Any)
    assert_type(jax_cce.jacobian(model, argnums=(0, 1), format="bcoo")(parameters, x), Any)
    assert_type(jax_cce.jacobian(residual, order=[2, 0, 1])(x, 2.0), jax.Array)
    edge = jax_cce.EdgeElimination("front", -1, 2)
    assert_type(jax_cce.jacobian(residual, order=[edge, 2, 0, 1])(x, 2.0), jax.Array)
    jax_cce.EdgeElimination("left", -1, 2)  # type: ignore[arg-type]  # pyright: ignore

    jax_cce.jacobian(residual)(x, "2")  # type: ignore[arg-type]  # pyright: ignore
    jax_cce.jacobian(model)(parameters)  # type: ignore[call-arg]  # pyright: ignore
    jax_cce.jacobian(residual, order="fastest")  # type: ignore[arg-type]  # pyright: ignore
    jax_cce.jacobian(residual, format="lil")  # type: ignore[call-overload]  # pyright: ignore
    jax_cce.jacobian(residual, ordr="auto")  # type: ignore[call-overload]  # pyright: ignore
    jax_cce.jacobain(residual)  # type: ignore[attr-defined]  # pyright: ignore


def customs(x: jax.Array) -> None:
    """A function with a Jacobian of its own keeps its parameters and its result."""
    own = jax_cce.custom_jacobian(residual)
    assert_type(own(x, 2.0), jax.Array)
    own("x", 2.0)  # type: ignore[arg-type]  # pyright: ignore


def plans(x: jax.ShapeDtypeStruct) -> None:
    """Plans take shapes for arrays."""
    plan = jax_cce.plan(residual, order="markowitz")(x, 2.0)
    assert_type(plan, Plan)
    assert_type(plan.cost("flops"), int)
    assert_type(plan.order, tuple[int | jax_cce.EdgeElimination, ...])
    plan.cost("seconds")  # type: ignore[arg-type]  # pyright: ignore


def sources(x: jax.Array) -> None:
    """Modules, and edits of derivatives."""
    module = jax_cce.source(residual, order="reverse")(x, 2.0)
    assert_type(module, Source)
    assert_type(str(module), str)
    assert_type(surgery.clip(surgery.scale(x, 2.0), norm=1.0), jax.Array)
    jax_cce.source(residual, backend="torch")  # type: ignore[arg-type]  # pyright: ignore


def artefacts(x: jax.ShapeDtypeStruct) -> None:
    """Artefacts are made from shapes."""
    artefact = jax_cce.compile(residual, platforms=("cpu", "tpu"))(x, 2.0)
    assert_type(artefact, Artefact)
    assert_type(artefact.order, tuple[int | jax_cce.EdgeElimination, ...])
    assert_type(jax_cce.load(artefact.to_bytes()), Artefact)
    jax_cce.compile(residual, transform="gradient")  # type: ignore[arg-type]  # pyright: ignore


def estimates(x: jax.Array) -> None:
    """Randomised derivatives."""
    plan = randomized.plan(residual, keep=0.5, sites="cut")(x, 2.0)
    assert_type(plan, randomized.RandomizedPlan)
    assert_type(plan.keeps, tuple[float, ...])
    key = jax.random.key(0)
    assert_type(stochastic.bernoulli(key, x), jax.Array)
    stochastic.jacobian(residual, argnums=(0, 1), alternatives=4)(key, x, 2.0)
    stochastic.jacobian(residual, mode="biased")  # type: ignore[arg-type]  # pyright: ignore
    stochastic.derivative(residual, side="up")  # type: ignore[arg-type]  # pyright: ignore
    randomized.grad(residual, sites=("hidden",))(jax.random.key(0), x, 2.0)
    randomized.grad(residual, method="sketch")  # type: ignore[arg-type]  # pyright: ignore
    randomized.grad(residual, order="reverse")  # type: ignore[call-arg]  # pyright: ignore


def searches(x: jax.Array) -> None:
    """What the order searches add."""
    optimized = jax_cce.optimize(residual, cost="flops", strategy="annealing", budget=1.0)(x, 2.0)
    assert_type(optimized, Optimized)
    assert_type(jax_cce.explain(residual, format="bcoo")(x, 2.0), Explanation)
    assert_type(jax_cce.optimize_many([(residual, (x, 2.0))]), list[Optimized])
    jax_cce.optimize(residual, cost="time")  # type: ignore[arg-type]  # pyright: ignore
    jax_cce.optimize(residual, strategy="luck")  # type: ignore[arg-type]  # pyright: ignore
    jax_cce.optimize(residual, budgt=1.0)  # type: ignore[call-arg]  # pyright: ignore


def orders() -> None:
    """The registry."""
    assert_type(registry.entries(), registry.StoredOrders)
    assert_type(registry.entries()[0], registry.StoredOrder)
    assert_type(registry.get("0" * 64), registry.StoredOrder | None)
    assert_type(jax_cce.cache_info().hits, int)


def loss(parameters: dict[str, jax.Array], data: jax.Array) -> jax.Array:
    """A loss of a task."""
    return (parameters["w"] * data).sum()


def adaptation_and_splines(x: jax.Array, parameters: dict[str, jax.Array]) -> None:
    """Meta-gradients, and splines."""
    slope = jax_cce.meta_gradient(loss, loss, 1.0, solver="direct")
    assert_type(slope(parameters, x, x), MetaGradient)
    jax_cce.meta_gradient(loss, loss, 1.0, solver="lu")  # type: ignore[arg-type]  # pyright: ignore
    curve = splines.THB([splines.open_knots(4, 3)], 3)
    assert_type(curve.evaluate(x, x), jax.Array)
    assert_type(curve.collocation(x), BCOO)
    assert_type(curve.refine([True, False, False, False]), splines.THB)
