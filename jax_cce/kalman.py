"""Kalman filters and smoothers whose derivatives exist wherever those of the mathematics do.

A state x of n numbers is read at T steps, m numbers y at each:

    x[t+1] = F x[t] + b + noise,    y[t] = H x[t] + d + noise,

with Gaussian noise, independent from step to step. `Linear` has the arrays of one line, and
`Nonlinear` a function in place of the matrix, for the extended filter, which linearises it.

Nothing but the covariance of a reading given those before it is inverted, in the smoother neither.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import api, jax_internals
from jax_cce.linalg import tria

__all__ = ["Estimates", "Linear", "Nonlinear", "filter", "smoother"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear map of the state with Gaussian noise: `matrix @ x + offset`.

    Each array is the same at all steps, or has a leading axis of steps: T of an observation, T - 1
    of a transition, whose step t leads from reading t to reading t + 1.

    Attributes:
        matrix: of shape (n, n) for a transition, (m, n) for an observation.
        noise: the covariance of the noise, of shape (n, n) or (m, m). In square-root form a factor
            of it, of shape (n, k) or (m, k) for any k: the covariance is `noise @ noise.T`.
        offset: of shape (n,) or (m,), or a number.
    """

    matrix: Any
    noise: Any
    offset: Any = 0.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nonlinear:
    """A function of the state with Gaussian noise.

    Attributes:
        function: takes the state, of shape (n,), and where there are inputs those of the step; the
            result has shape (n,) for a transition, (m,) for an observation. Static under jit.
        noise: as in `Linear`.
        inputs: a pytree of arrays with a leading axis of steps, T of an observation, T - 1 of a
            transition, or None.
    """

    function: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    noise: Any
    inputs: Any = None


class Estimates(NamedTuple):
    """What is known of the state at each step.

    Attributes:
        means: of shape (T, n).
        covariances: of shape (T, n, n).
        factors: in square-root form the lower triangular factors of the covariances, of shape
            (T, n, n), with derivatives as those of `jax_cce.linalg.tria`; else None.
        log_likelihoods: of each reading given those before it, of shape (T,). Their sum is the
            log-likelihood of the model.
    """

    means: jax.Array
    covariances: jax.Array
    factors: jax.Array | None
    log_likelihoods: jax.Array


Form = Literal["covariance", "square_root"]
Model = Linear | Nonlinear


def filter(
    transition: Model,
    observation: Model,
    readings: Any,
    initial: tuple[Any, Any],
    *,
    observed: Any = None,
    form: Form = "covariance",
) -> Estimates:
    """The Kalman filter: the state at each step given the readings up to it.

    All of it can be differentiated in both modes, with respect to all arrays. The covariance of
    each reading given those before it has to be invertible, and nothing else: in square-root form
    derivatives exist with no initial variance and with singular noise, too.

    Args:
        transition: leads from each reading to the next.
        observation: what is read of a state.
        readings: of shape (T, m).
        initial: the mean of the state at the first reading, before it is read, of shape (n,), and
            its covariance, of shape (n, n); in square-root form a factor of that, of shape (n, k).
        observed: whether each component was read: truth values of shape (T, m) or (T, 1). By
            default all are that are not NaN. A missing reading takes part neither in values nor in
            derivatives. True says that none is missing, which saves computing with masks where
            readings are traced.
        form: "covariance", or "square_root", which takes and propagates factors of covariances:
            these stay positive semidefinite, in half the digits.

    Returns:
        The estimates.

    Raises:
        ValueError: for shapes that do not fit, and for an unknown form.
        TypeError: for a model that is neither `Linear` nor `Nonlinear`, for other than real
            numbers, and for a mask of other than truth values.

    References:
        Särkkä & Svensson, Bayesian Filtering and Smoothing (2nd ed., Cambridge 2023), chapters 6
        and 7. The square-root form updates by the formula of Joseph, a sum of squares.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import kalman
        >>> readings = jnp.array([[1.0], [jnp.nan], [4.0]])
        >>> def log_likelihood(q):
        ...     walk = kalman.Linear(jnp.eye(1), q * jnp.eye(1), offset=1.0)
        ...     seen = kalman.Linear(jnp.eye(1), jnp.eye(1))
        ...     initial = jnp.zeros(1), jnp.eye(1)
        ...     return kalman.filter(walk, seen, readings, initial).log_likelihoods.sum()
        >>> print(jax.jacfwd(log_likelihood)(1.0).round(4))
        -0.102
    """
    problem = _checked(transition, observation, readings, initial, observed, form)
    states, log_likelihoods, _ = _filtered(problem, smoothing=False)
    return _estimates(problem, states, log_likelihoods)


def smoother(
    transition: Model,
    observation: Model,
    readings: Any,
    initial: tuple[Any, Any],
    *,
    observed: Any = None,
    form: Form = "covariance",
) -> Estimates:
    """The Rauch-Tung-Striebel smoother: the state at each step given all readings.

    Args:
        transition: as for `filter`, and so is all else.
        observation: see there.
        readings: see there.
        initial: see there.
        observed: see there.
        form: see there.

    Returns:
        The estimates; the log-likelihoods are those of the filter.

    Raises:
        ValueError: as `filter`.
        TypeError: as `filter`.

    References:
        The estimates are those of Rauch, Tung & Striebel (AIAA Journal 3, 1965). The recursion is
        that of Bryson and Frazier, as in Bierman (Automatica 9, 1973): it inverts no covariance of
        a state, so that such may be singular. In square-root form its differences of covariances
        are written as sums of squares, as in the formula of Joseph.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jax_cce import kalman
        >>> walk = kalman.Linear(jnp.eye(1), jnp.eye(1))
        >>> initial = jnp.zeros(1), jnp.eye(1)
        >>> estimates = kalman.smoother(walk, walk, jnp.array([[1.0], [3.0]]), initial)
        >>> print(estimates.means.round(4))
        [[1.]
         [2.]]
    """
    problem = _checked(transition, observation, readings, initial, observed, form)
    states, log_likelihoods, said = _filtered(problem, smoothing=True)
    return _estimates(problem, _smoothed(problem, states, said), log_likelihoods)


class _Problem(NamedTuple):
    """Arguments of one dtype and of shapes that fit; `rooted` in square-root form."""

    transition: Model
    observation: Model
    readings: jax.Array
    observed: Any
    initial: tuple[jax.Array, jax.Array]
    rooted: bool


class _State(NamedTuple):
    """Mean and covariance; in square-root form a factor of that, with more columns than rows."""

    mean: jax.Array
    spread: jax.Array


class _Reading(NamedTuple):
    """What a reading says, scaled: C Cᵀ is its covariance given the readings before it.

    Attributes:
        matrix: C⁻¹ H.
        error: C⁻¹ (y - H x - d).
        noise: C⁻¹ times the factor of the noise, in square-root form.
        gain: K C, where K is the gain.
    """

    matrix: jax.Array
    error: jax.Array
    noise: jax.Array | None
    gain: jax.Array


def _filtered(problem: _Problem, *, smoothing: bool) -> tuple[_State, jax.Array, Any]:
    """States, log-likelihoods, and for smoothing all readings but the first.

    With each goes the linearised transition to it with its noise.
    """
    transition, observation, readings, observed, initial, rooted = problem
    looks = _varying(observation), readings, observed

    def updated(state: _State, look: Any) -> tuple[_State, jax.Array, _Reading]:
        varying, reading, seen = look
        return _updated(dataclasses.replace(observation, **varying), state, reading, seen, rooted)

    def step(state: _State, row: Any) -> tuple[_State, Any]:
        varying, look = row
        model = dataclasses.replace(transition, **varying)
        mean, matrix = _linearised(model, state.mean, "transition", len(state.mean))
        if rooted:
            spread = tria(jnp.hstack([matrix @ state.spread, model.noise]))
        else:
            spread = _symmetric(matrix @ state.spread @ matrix.T) + model.noise
        state, log_likelihood, said = updated(_State(mean, spread), look)
        return state, (state, log_likelihood, (said, matrix, model.noise) if smoothing else None)

    state, log_likelihood, _ = updated(_State(*initial), jax.tree.map(lambda x: x[0], looks))
    rows = _varying(transition), jax.tree.map(lambda x: x[1:], looks)
    _, (*later, said) = lax.scan(step, state, rows)
    first = [state, log_likelihood]
    states, log_likelihoods = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, later)
    return states, log_likelihoods, said


def _updated(
    model: Model, state: _State, reading: jax.Array, seen: Any, rooted: bool
) -> tuple[_State, jax.Array, _Reading]:
    mean, spread = state
    expected, matrix = _linearised(model, mean, "observation", len(reading))
    error, noise = reading - expected, model.noise
    count: Any = len(reading)
    absent = []
    if seen is not None:
        # What is missing reads noise of variance 1 as 0, and nothing of the state.
        count, absent = jnp.sum(seen), [jnp.diag(1 - seen)]
        seen = seen > 0
        error = jnp.where(seen, error, 0)
        matrix, noise = (jnp.where(seen[:, None], x, 0) for x in (matrix, noise))
    across = matrix @ spread
    if rooted:
        scale = _root(jnp.hstack([across, noise, *absent]))
        matrix, error, across, noise = _scaled(scale, matrix, error[:, None], across, noise)
        gain = spread @ across.T
        spread = jnp.hstack([spread - gain @ across, gain @ noise])
    else:
        noise = noise if seen is None else jnp.where(seen[None], noise, 0) + absent[0]
        scale = _cholesky(across @ matrix.T + noise)
        matrix, error, across = _scaled(scale, matrix, error[:, None], across)
        gain, noise = across.T, None
        spread = spread - gain @ across
    error = error[:, 0]
    logarithms = jnp.sum(jnp.log(scale.ravel()[:: len(scale) + 1]))
    log_likelihood = -(error @ error + count * math.log(2 * math.pi)) / 2 - logarithms
    said = _Reading(matrix, error, noise, gain)
    return _State(mean + gain @ error, spread), log_likelihood, said


def _smoothed(problem: _Problem, states: _State, said: Any) -> _State:
    """The states given all readings.

    What the later readings say of a state is a vector r and its covariance N, and in square-root
    form a factor of its covariance given the state, N - N P N: the smoothed mean is x + P r.
    """
    means, spreads = states
    rooted, unit = problem.rooted, jnp.eye(means.shape[1], dtype=means.dtype)

    def back(later: Any, row: Any) -> tuple[Any, Any]:
        (vector, square, root), (reading, matrix, noise) = later, row
        read, kept = reading.matrix.T, unit - reading.gain @ reading.matrix
        half = kept.T @ square
        if rooted:
            root = [(read - half @ reading.gain) @ reading.noise, kept.T @ root]
        vector, square = read @ reading.error + kept.T @ vector, read @ read.T + half @ kept
        if rooted:
            root = tria(matrix.T @ jnp.hstack([square @ noise, *root]))
        found = matrix.T @ vector, matrix.T @ square @ matrix, root
        return found, found

    nothing = jnp.zeros_like(unit)
    end = jnp.zeros_like(means[0]), nothing, nothing if rooted else None
    _, found = lax.scan(back, end, said, reverse=True)
    vectors, squares, roots = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), found, end)
    covariances = spreads @ spreads.mT if rooted else spreads
    lost = covariances @ squares
    if rooted:
        spreads = jnp.concatenate([spreads - lost @ spreads, covariances @ roots], axis=-1)
    else:
        spreads = _symmetric(covariances - lost @ covariances)
    return _State(means + (covariances @ vectors[..., None])[..., 0], spreads)


def _estimates(problem: _Problem, states: _State, log_likelihoods: jax.Array) -> Estimates:
    covariances, factors = states.spread, None
    if problem.rooted:
        covariances, factors = covariances @ covariances.mT, jax.vmap(tria)(covariances)
    return Estimates(states.mean, covariances, factors, log_likelihoods)


def _linearised(model: Model, x: jax.Array, name: str, size: int) -> tuple[jax.Array, jax.Array]:
    """The value at x, of shape (size,), and the matrix of the derivative."""
    if isinstance(model, Linear):
        return model.matrix @ x + model.offset, model.matrix
    inputs = () if model.inputs is None else (model.inputs,)
    value, matrix = api.value_and_jacobian(lambda x: model.function(x, *inputs))(x)
    found = getattr(value, "shape", type(value).__name__)
    if found != (size,):
        raise ValueError(
            f"{name}.function has to return an array of shape ({size},), but returned {found}."
        )
    return value.astype(x.dtype), matrix.astype(x.dtype)


def _symmetric(matrix: jax.Array) -> jax.Array:
    return (matrix + matrix.mT) / 2


# Of a single number both are its square root, which takes no library call.
def _root(matrix: jax.Array) -> jax.Array:
    return jnp.sqrt(matrix @ matrix.T) if len(matrix) == 1 else tria(matrix)


def _cholesky(matrix: jax.Array) -> jax.Array:
    return jnp.sqrt(matrix) if len(matrix) == 1 else jnp.linalg.cholesky(matrix)


def _scaled(factor: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    if len(factor) == 1:
        return [x / factor for x in arrays]
    whole = jnp.hstack(arrays)
    whole = lax.linalg.triangular_solve(factor, whole, left_side=True, lower=True)
    return jnp.split(whole, np.cumsum([x.shape[1] for x in arrays])[:-1], axis=1)


def _varying(model: Model) -> dict[str, Any]:
    """What has an axis of steps."""
    if isinstance(model, Nonlinear):
        found = {} if model.inputs is None else {"inputs": model.inputs}
    else:
        found = {"matrix": model.matrix} if model.matrix.ndim == 3 else {}
        found |= {"offset": model.offset} if model.offset.ndim == 2 else {}
    return found | ({"noise": model.noise} if model.noise.ndim == 3 else {})


# The arrays of a model, other than inputs.
_ARRAYS = {Linear: ("noise", "matrix", "offset"), Nonlinear: ("noise",)}


def _checked(
    transition: Model, observation: Model, readings: Any, initial: Any, observed: Any, form: str
) -> _Problem:
    if form not in ("covariance", "square_root"):
        raise ValueError(f"form is {form!r}, but has to be 'covariance' or 'square_root'.")
    mean, spread = initial
    arrays = {"readings": readings, "The initial mean": mean, "The initial covariance": spread}
    models = {"transition": transition, "observation": observation}
    for name, model in models.items():
        if not isinstance(model, Linear | Nonlinear):
            raise TypeError(
                f"{name} has to be a kalman.Linear or a kalman.Nonlinear, but is a "
                f"{type(model).__name__}."
            )
        arrays |= {f"{name}.{field}": getattr(model, field) for field in _ARRAYS[type(model)]}
    arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
    dtype = jnp.result_type(*arrays.values(), 0.0)
    for name, x in arrays.items():
        if not jnp.issubdtype(jnp.result_type(x, 0.0), jnp.floating):
            raise TypeError(f"{name} has to be of real numbers, but is of {x.dtype}.")

    def shaped(name: str, *shapes: tuple[Any, ...]) -> jax.Array:
        x = arrays[name].astype(dtype)
        for shape in shapes:
            pairs = zip(x.shape, shape, strict=False)
            if x.ndim == len(shape) and all(b in ("any", a) for a, b in pairs):
                return x
        wanted = " or ".join(f"({', '.join(map(str, shape))})" for shape in shapes)
        raise ValueError(f"{name} has shape {x.shape}, but has to have shape {wanted}.")

    series, mean = shaped("readings", ("any", "any")), shaped("The initial mean", ("any",))
    (steps, read), size, rooted = series.shape, len(mean), form == "square_root"
    if not steps:
        raise ValueError("readings has no steps.")
    fitting: dict[str, Any] = {}
    for name, rows, length in (("transition", size, steps - 1), ("observation", read, steps)):
        shapes: dict[str, tuple[Any, ...]] = {
            "noise": (rows, "any" if rooted else rows),
            "matrix": (rows, size),
            "offset": (rows,),
        }
        found: dict[str, Any] = {
            field: shaped(
                f"{name}.{field}",
                shapes[field],
                (length, *shapes[field]),
                *([()] if field == "offset" else []),
            )
            for field in _ARRAYS[type(models[name])]
        }
        for leaf in jax.tree.leaves(getattr(models[name], "inputs", None)):
            if jnp.shape(leaf)[:1] != (length,):
                raise ValueError(
                    f"{name}.inputs has an array of shape {jnp.shape(leaf)}, but the first axis of "
                    f"each has to be that of the steps, {length}."
                )
        fitting[name] = dataclasses.replace(models[name], **found)
    spread = shaped("The initial covariance", (size, "any" if rooted else size))
    if spread.shape[1] != size:
        spread = tria(spread)
    return _Problem(
        **fitting,
        readings=series,
        observed=_mask(readings, series, observed),
        initial=(mean, spread),
        rooted=rooted,
    )


def _mask(readings: Any, series: jax.Array, observed: Any) -> Any:
    """1 for each reading that is there, else 0; None where it is known that all are there."""
    shape = series.shape
    if observed is None:
        traced = any(map(jax_internals.is_tracer, jax.tree.leaves(readings)))
        observed = ~(jnp if traced else np).isnan(readings)
    if jnp.result_type(observed) != np.dtype(bool):
        raise TypeError(f"observed has to be of bool, but is of {jnp.result_type(observed)}.")
    found = jnp.shape(observed)
    if found not in (shape, (shape[0], 1), ()):
        raise ValueError(
            f"observed has shape {found}, but has to have shape {shape} or ({shape[0]}, 1)."
        )
    if not jax_internals.is_tracer(observed) and np.all(observed):
        return None
    # Numbers, as native code reads no truth values.
    return jnp.broadcast_to(jnp.asarray(observed, series.dtype), shape)
