"""Meta-gradients: how the loss after adaptation changes with the parameters that it starts from.

Adaptation to a task ends at φ = argmin L(φ) + λ/2 ‖φ - θ‖². The condition that defines φ is
differentiated, and not the steps that lead there, so that none of them is stored.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.implicit import Solve, by_structure, stationary

__all__ = ["MetaGradient", "meta_gradient"]

Solver: TypeAlias = Literal["cg", "direct"]
_SOLVERS = ("cg", "direct")


class MetaGradient(NamedTuple):
    """A meta-gradient, and how far it can be trusted.

    Attributes:
        gradient: (I + H/λ)⁻¹ ∇(outer loss) at the adapted parameters, a pytree like the parameters.
        value: the outer loss at the adapted parameters.
        adapted: the adapted parameters φ.
        stationarity: the norm of ∇(inner loss) + λ (φ - θ): 0 where the optimiser has arrived.
        residual: by how much the linear system is missed, relative to its right-hand side: 0 where
            it is solved exactly, 1 where nothing is.
    """

    gradient: Any
    value: jax.Array
    adapted: Any
    stationarity: jax.Array
    residual: jax.Array


def meta_gradient(
    inner: Callable[[Any, Any], Any],
    outer: Callable[[Any, Any], Any],
    lam: Any,
    solver: Solver = "cg",
    *,
    optimizer: Any = None,
    steps: int | None = None,
    iterations: int = 20,
    tol: float | None = None,
) -> Callable[[Any, Any, Any], MetaGradient]:
    """The gradient of the loss after adaptation, by implicit differentiation (iMAML).

    A task adapts the parameters θ to φ = argmin inner(φ, train) + λ/2 ‖φ - θ‖². The gradient of
    outer(φ, validation) with respect to θ is (I + H/λ)⁻¹ ∇outer(φ), with H the Hessian of `inner`
    at φ. It depends on φ, and not on how φ was found: the optimiser's steps are neither stored nor
    differentiated, and the memory is that of one gradient of `inner`.

    The system is solved in one of two ways:

    - "cg": at most `iterations` conjugate gradients from 0, which multiply by H with one forward
      derivative of the gradient each and form no matrix. It needs H + λ positive definite. With
      few iterations the result is an approximation, whose `residual` is returned.
    - "direct": with H planned as a structured Jacobian. Where it falls into blocks, as for heads
      that do not share parameters, each block is solved by itself, three diagonals and near
      bands in linear time, and all else by one dense factorisation.

    The result is for one task: `jax.vmap` the function over tasks. It may be jitted and
    differentiated again, in both modes: with respect to the arguments, `lam`, and what `inner` and
    `outer` close over. At a φ that is not stationary there is an error in proportion to the
    distance (`stationarity`).

    Args:
        inner: the loss of a task, a function of parameters and training data that returns a real
            number.
        outer: the loss on other data of the task, of the same form.
        lam: λ, the strength of the pull towards θ: a positive number, or a pytree like the
            parameters with numbers or arrays that broadcast to its leaves, one λ for each.
        solver: "cg" or "direct".
        optimizer: how φ is found. None for Newton's method as in `minimum`, whose steps are solved
            by `solver`: φ is NaN where it does not converge. Else an optimiser with `init` and
            `update`, as optax has them, of which `steps` steps are run from θ; or a function that
            takes the objective, a function of φ alone, and θ, and returns φ.
        steps: how many steps such an optimiser takes.
        iterations: how many conjugate gradients are taken at most, for each system.
        tol: they end where the residual is at most `tol` times the right-hand side, in 2-norms;
            eps^(3/4) of the parameters' dtype if not given.

    Returns:
        A function of θ, the training data and the validation data, any pytrees of arrays, that
        returns a `MetaGradient`.

    Raises:
        TypeError: for an `optimizer` that is none; when called, for parameters other than real
            floating-point arrays, for losses that return other than a real number, and for an
            optimiser that returns other than the like of θ.
        ValueError: for another `solver`; for `lam` that is not positive or not of the form of the
            parameters; and for `steps`, `iterations` or `tol` out of range or without use.

    References:
        Rajeswaran, Finn, Kakade & Levine, Meta-learning with implicit gradients, NeurIPS 2019.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> def loss(params, data):
        ...     inputs, targets = data
        ...     return jnp.mean((inputs @ params - targets) ** 2) / 2
        >>> slope = jax_cce.meta_gradient(loss, loss, lam=1.0, solver="direct")
        >>> train = jnp.eye(2), jnp.array([1.0, 2.0])
        >>> found = slope(jnp.zeros(2), train, (jnp.eye(2), jnp.zeros(2)))
        >>> print((9 * found.adapted).round(2), (9 * found.gradient).round(2))
        [3. 6.] [1. 2.]
    """
    solve = _solver(solver, iterations, tol)
    find = _optimizer(optimizer, steps)
    _check_positive(lam)

    @functools.wraps(outer)
    def meta_gradient_fun(params: Any, train: Any, validation: Any) -> MetaGradient:
        params = jax.tree.map(jnp.asarray, params)
        strengths = _like(params, lam)

        def objective(adapted: Any, params: Any, strengths: Any, train: Any) -> Any:
            pulls = [
                jnp.sum(strength * (a - p) ** 2) / 2
                for strength, a, p in zip(
                    strengths, jax.tree.leaves(adapted), jax.tree.leaves(params), strict=True
                )
            ]
            loss = inner(adapted, train)
            # The dtype is that of the loss, so that errors are about it.
            total: Any = sum(pulls)
            return loss + total.astype(jnp.result_type(loss)) if pulls else loss

        adapted, slope, times, inverse = stationary(
            "meta_gradient", objective, params, (params, strengths, train), solve, find
        )
        value, pull = jax.value_and_grad(outer)(adapted, validation)
        solution = inverse(pull)
        missed = _norm(jax.tree.map(operator.sub, pull, times(solution)))
        size = _norm(pull)
        tree: Any = jax.tree.structure(solution)
        gradient = [
            (strength * leaf).astype(leaf.dtype)
            for strength, leaf in zip(strengths, jax.tree.leaves(solution), strict=True)
        ]
        residual = jnp.where(size > 0, missed / jnp.where(size > 0, size, 1), 0)
        return MetaGradient(tree.unflatten(gradient), value, adapted, _norm(slope), residual)

    return meta_gradient_fun


def _norm(tree: Any) -> Any:
    # For diagnosis: it has no derivative at 0.
    leaves = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(lax.stop_gradient(tree))]
    return jnp.sqrt(sum(leaves)) if leaves else jnp.zeros(())


def _solver(solver: Any, iterations: Any, tol: Any) -> Solve:
    if solver not in _SOLVERS:
        names = " or ".join(map(repr, _SOLVERS))
        raise ValueError(f"solver must be {names}, but got {solver!r}.")
    iterations = operator.index(iterations)
    if iterations < 1:
        raise ValueError(f"iterations must be a positive integer, but got {iterations}.")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be positive, but got {tol}.")
    if solver == "direct":
        return by_structure
    return functools.partial(_conjugate_gradients, iterations, tol)


def _conjugate_gradients(
    iterations: int,
    tol: float | None,
    residual: Callable[[list[Any], list[Any]], list[Any]],
    x: list[Any],
    operands: list[Any],
    image: list[Any],
) -> list[Any]:
    """Solves with the symmetric Jacobian of a residual by x; the transposed solve is the same."""
    if not x:
        return []
    if tol is None:
        tol = max(float(jnp.finfo(leaf.dtype).eps) for leaf in x) ** 0.75
    _, times = jax.linearize(lambda x: residual(x, operands), x)

    def solve(times: Callable[[Any], Any], image: Any) -> Any:
        found, _ = jax.scipy.sparse.linalg.cg(times, image, tol=tol, maxiter=iterations)
        # Of an image that is NaN it returns its start.
        return [leaf + 0 * each for leaf, each in zip(found, image, strict=True)]

    return lax.custom_linear_solve(times, image, solve, symmetric=True)


def _optimizer(optimizer: Any, steps: Any) -> Any:
    """What finds the point, as `stationary` takes it."""
    has_steps = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if not has_steps:
        if steps is not None:
            raise ValueError(
                "steps is for an optimizer with init and update: a function, or Newton's method, "
                "ends by itself."
            )
        if optimizer is not None and not callable(optimizer):
            raise TypeError(
                "optimizer must be None, have init and update, or be a function of the objective "
                f"and the start, but got {optimizer!r}."
            )
        return optimizer
    if steps is None:
        raise ValueError("An optimizer with init and update takes as many steps as steps= says.")
    steps = operator.index(steps)
    if steps < 1:
        raise ValueError(f"steps must be a positive integer, but got {steps}.")

    def find(objective: Callable[[Any], Any], start: Any) -> Any:
        def step(_: Any, state: Any) -> Any:
            params, inner = state
            updates, inner = optimizer.update(jax.grad(objective)(params), inner, params)
            moved = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
            return moved, inner

        return lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0]

    return find


def _check_positive(lam: Any) -> None:
    for leaf in jax.tree.leaves(lam):
        if not jax_internals.is_tracer(leaf) and not np.all(np.asarray(leaf) > 0):
            raise ValueError(f"lam must be positive, but got {leaf}.")


def _like(params: Any, lam: Any) -> list[Any]:
    """One strength for each leaf of the parameters."""
    leaves, structure = jax.tree.flatten(params)
    tree: Any = structure
    if jax.tree_util.all_leaves([lam]):
        strengths = [lam] * len(leaves)
    elif jax.tree.structure(lam) == tree:
        strengths = jax.tree.leaves(lam)
    else:
        raise ValueError(
            f"lam must be a number, or a pytree like the parameters, {tree}, but it is "
            f"{jax.tree.structure(lam)}."
        )
    for strength, leaf in zip(strengths, leaves, strict=True):
        shape = np.shape(strength)
        fits = all(n in (1, m) for n, m in zip(shape[::-1], leaf.shape[::-1], strict=False))
        if len(shape) > leaf.ndim or not fits:
            raise ValueError(
                f"lam must broadcast to the parameters, but has shape {shape} where they have "
                f"{leaf.shape}."
            )
    return strengths
