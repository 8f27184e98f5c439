"""Fixed points, roots and minima that are differentiated by what defines them.

The solution x of r(x, θ) = 0 has the derivative dx = -M⁻¹ ∂r/∂θ dθ with M = ∂r/∂x, whatever
iteration has found it. M is a structured Jacobian, so the solve has the structure of the problem.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from jax_cce import jax_internals
from jax_cce.api import jacobian
from jax_cce.sparse.linear_solve import solve

__all__ = [
    "OneStepError",
    "Solve",
    "by_structure",
    "fixed_point",
    "minimum",
    "one_step_error",
    "root",
    "stationary",
]

Derivative: TypeAlias = Literal["implicit", "one_step", "unrolled"]
_DERIVATIVES = ("implicit", "one_step", "unrolled")

_POWER_ITERATIONS = 100

# From the leaves of x and the operands to leaves like those of x.
_Function: TypeAlias = Callable[[list[Any], list[Any]], list[Any]]
# From a residual, x, the operands and an image to what the residual's Jacobian by x takes there.
Solve: TypeAlias = Callable[[_Function, list[Any], list[Any], list[Any]], list[Any]]


def fixed_point(
    step: Callable[..., Any],
    x0: Any,
    *args: Any,
    derivative: Derivative = "implicit",
    steps: int | None = None,
    tol: float | None = None,
    maxiter: int = 10_000,
) -> Any:
    """The fixed point x = step(x, *args) that iteration from `x0` leads to.

    How x is differentiated with respect to `args`, and to whatever `step` closes over:

    - "implicit": exactly, by dx = (I - A)⁻¹ B dθ with A = ∂step/∂x and B = ∂step/∂θ at x. A is
      computed once, with its structure: an elementwise step costs a division, and its sparse
      Jacobian has the entries of B only. Blocks are inverted, three diagonals are eliminated in
      linear time, and all else has one dense LU factorisation of I - A, which all directions
      share, in both modes.
    - "one_step": by the last `steps` steps alone, 1 if not given. There is nothing to solve, but
      with ρ = ‖A‖ an error of up to ρ^steps / (1 - ρ) ‖B‖ remains, at the exact fixed point.
      Beware: for gradient descent and other slow iterations that is as large as the derivative
      itself; `one_step_error` estimates it. For Newton's method A is 0.
    - "unrolled": `steps` steps from `x0` run, no more and no less, and are differentiated.

    The first two take no derivative with respect to `x0`: it is zero. All three may be
    differentiated again; under "implicit" the second derivatives are exact, too.

    Args:
        step: a function of x and of `args` that returns the next x: the same pytree, shapes and
            dtypes.
        x0: where to start: any pytree of real floating-point arrays.
        *args: any pytrees of arrays, also of integers. Index arrays that decide where entries are
            should be closed over instead: only then is the structure known.
        derivative: "implicit", "one_step" or "unrolled".
        steps: how many steps are differentiated; not for "implicit".
        tol: the iteration ends where no entry of an array of x changes by more than `tol` times
            the largest entry that the array has had; eps^(3/4) of its dtype if not given, which
            is 1.8e-12 in float64 and 6.4e-6 in float32. Not for "unrolled".
        maxiter: how many steps are run at most. Not for "unrolled".

    Returns:
        x, as `x0`. As of other factorisations and solvers in JAX that find nothing, all of it is
        NaN where the iteration has not converged, under `jax.vmap` for each point by itself.

    Raises:
        TypeError: where `x0` has other than real floating-point arrays, and where `step` returns
            another pytree, shape or dtype.
        ValueError: for another `derivative`, and for `steps`, `tol` or `maxiter` out of range.

    References:
        Bolte, Pauwels & Vaiter, One-step differentiation of iterative algorithms, NeurIPS 2023.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> def root(a):  # Heron's method
        ...     return jax_cce.fixed_point(lambda x, a: (x + a / x) / 2, jnp.ones(3), a)
        >>> a = jnp.array([1.0, 4.0, 16.0])
        >>> print(root(a))
        [1. 2. 4.]
        >>> jax_cce.jacobian(root, format="bcoo")(a).data
        Array([0.5  , 0.25 , 0.125], dtype=float32)
    """
    stop = _Stop.checked(derivative, steps, tol, maxiter)
    traced = _traced("fixed_point", "step", step, x0, args)

    def residual(x: list[Any], operands: list[Any]) -> list[Any]:
        return list(map(operator.sub, x, traced.function(x, operands)))

    return _solved(traced, traced.function, residual, stop)


def root(
    residual: Callable[..., Any],
    x0: Any,
    *args: Any,
    derivative: Derivative = "implicit",
    steps: int | None = None,
    tol: float | None = None,
    maxiter: int = 100,
) -> Any:
    """The root x of residual(x, *args) = 0 that Newton's method from `x0` leads to.

    Newton's steps are solved with the structured Jacobian of the residual, as described for
    `fixed_point`: a tridiagonal system of n unknowns takes O(n) operations a step. They are full
    steps, without a line search.

    The derivatives are those of `fixed_point`, of Newton's step: "implicit" is
    dx = -M⁻¹ ∂residual/∂θ dθ, with M = ∂residual/∂x; the error of "one_step" is proportional to
    the distance of x from the root *before* the last step, as the step's A is 0 at the root.

    Args:
        residual: a function of x and of `args` that returns the same pytree, shapes and dtypes
            as x.
        x0: as for `fixed_point`.
        *args: as for `fixed_point`.
        derivative: as for `fixed_point`.
        steps: as for `fixed_point`.
        tol: as for `fixed_point`, for the change by the last of Newton's steps.
        maxiter: as for `fixed_point`.

    Returns:
        x, as `x0`; NaN where the iteration has not converged, or met a singular matrix.

    Raises:
        TypeError: as for `fixed_point`, of `residual`.
        ValueError: as for `fixed_point`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> def cube_root(a):
        ...     return jax_cce.root(lambda x, a: x**3 - a, 1.0, a)
        >>> x, slope = jax.value_and_grad(cube_root)(8.0)
        >>> print(f"{x:.4f} {slope:.4f}")
        2.0000 0.0833
    """
    return _newton("root", "residual", residual, x0, args, (derivative, steps, tol, maxiter))


def minimum(
    objective: Callable[..., Any],
    x0: Any,
    *args: Any,
    derivative: Derivative = "implicit",
    steps: int | None = None,
    tol: float | None = None,
    maxiter: int = 100,
) -> Any:
    """The stationary point of objective(x, *args) that Newton's method from `x0` leads to.

    It is the `root` of the objective's gradient, with its Hessian, structured, as matrix: a minimum
    where that is positive definite, so if the objective is convex or `x0` is near enough.

    Args:
        objective: a function of x and of `args` that returns a real number.
        x0: as for `fixed_point`.
        *args: as for `fixed_point`.
        derivative: as for `root`.
        steps: as for `root`.
        tol: as for `root`.
        maxiter: as for `root`.

    Returns:
        x, as `x0`; NaN where the iteration has not converged, or met a singular Hessian.

    Raises:
        TypeError: as for `fixed_point`, and where `objective` returns other than a real number.
        ValueError: as for `fixed_point`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> def ridge(lam):
        ...     return jax_cce.minimum(lambda x, l: (x - 3) ** 2 + l * x**2, 0.0, lam)
        >>> x, slope = jax.value_and_grad(ridge)(0.5)
        >>> print(f"{x:.4f} {slope:.4f}")
        2.0000 -1.3333
    """
    gradient = jax.grad(objective)
    return _newton("minimum", "gradient", gradient, x0, args, (derivative, steps, tol, maxiter))


def stationary(
    caller: str,
    objective: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...],
    solve: Solve,
    find: Callable[[Callable[[Any], Any], Any], Any] | None = None,
) -> tuple[Any, Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """A stationary point as `minimum` has it, found and differentiated by other means.

    Args:
        caller: the public function that is called, for errors.
        objective: as for `minimum`.
        x0: as for `minimum`.
        args: as for `minimum`.
        solve: solves with the Hessian: for the derivative, and in Newton's steps.
        find: what finds the point, from the objective as a function of x alone and the start; it is
            not differentiated. None for Newton's method.

    Returns:
        The point; the gradient there; a function that multiplies by the Hessian there, and one that
        solves with it. All may be differentiated with respect to `args` and closed-over values.
    """
    objective, closed = jax.closure_convert(objective, x0, *args)
    args = (*args, *closed)
    traced = _traced(caller, "gradient", jax.grad(objective), x0, args)
    operands = traced.operands
    tree: Any = jax.tree.structure(x0)
    if find is None:
        stop = _Stop.checked("implicit", None, None, 100)
        step = functools.partial(_newton_step, traced.function, solve)
        x = jax.tree.leaves(_solved(traced, step, traced.function, stop, solve))
    else:
        start, fixed = lax.stop_gradient((traced.unflatten(traced.start), args))
        found = find(lambda x: objective(x, *fixed), start)
        _check_found(caller, start, found)
        x = _solution(traced.function, solve, lax.stop_gradient(jax.tree.leaves(found)), operands)

    def times(vector: Any) -> Any:
        def gradient(x: list[Any]) -> list[Any]:
            return traced.function(x, operands)

        return tree.unflatten(jax.jvp(gradient, (x,), (jax.tree.leaves(vector),))[1])

    def inverse(image: Any) -> Any:
        return tree.unflatten(solve(traced.function, x, operands, jax.tree.leaves(image)))

    return tree.unflatten(x), tree.unflatten(traced.function(x, operands)), times, inverse


def _check_found(caller: str, start: Any, found: Any) -> None:
    """Raises where an optimiser returns other than the like of its start."""
    expected: Any = jax.tree.structure(start)
    tree: Any = jax.tree.structure(found)
    if tree != expected:
        raise TypeError(
            f"The optimizer of {caller} must return a pytree like the parameters, {expected}, but "
            f"it returned {tree}."
        )
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(start), jax.tree.leaves(found), strict=True
    ):
        if (leaf.shape, leaf.dtype) != (np.shape(other), jnp.result_type(other)):
            raise TypeError(
                f"The optimizer of {caller} must keep shapes and dtypes, but it returned "
                f"{_described(jnp.asarray(other))} where the parameters"
                f"{jax.tree_util.keystr(path)} are {_described(leaf)}."
            )


class OneStepError(NamedTuple):
    """How far the one-step derivative of a fixed point can be off, in spectral norms.

    Attributes:
        contraction: ρ = ‖∂step/∂x‖, by how much a step shortens distances at least.
        sensitivity: ‖∂step/∂θ‖, with θ all floating-point arguments together.
        bound: of the error of the Jacobian, ρ^steps / (1 - ρ) · sensitivity; infinite for ρ ≥ 1.
    """

    contraction: jax.Array
    sensitivity: jax.Array
    bound: jax.Array


def one_step_error(step: Callable[..., Any], x: Any, *args: Any, steps: int = 1) -> OneStepError:
    """Bounds the error of `fixed_point(..., derivative="one_step")` at a fixed point.

    With A = ∂step/∂x and B = ∂step/∂θ there, the last k steps give B + A B + ... + A^(k-1) B, and
    A^k (I - A)⁻¹ B is missing (Bolte, Pauwels & Vaiter 2023, for k = 1). Compare the
    bound with the sensitivity: where ρ is near 1 the one-step derivative says little. At other
    points than the fixed point there is a further error, in proportion to the distance.

    The norms are found by 100 power iterations with `jax.jvp` and `jax.vjp`, from below: they are
    estimates, short by a per cent or two where the largest singular values lie close together.

    Args:
        step: as for `fixed_point`.
        x: the fixed point.
        *args: as for `fixed_point`; θ are the floating-point ones among them, and not what `step`
            closes over.
        steps: how many steps are differentiated.

    Returns:
        The contraction, the sensitivity and the bound, as numbers.

    Raises:
        TypeError: as for `fixed_point`, and for complex arguments.
        ValueError: where `steps` is no positive integer.

    Examples:
        >>> import jax.numpy as jnp, jax_cce
        >>> error = jax_cce.one_step_error(lambda x, a: 0.5 * x + a, jnp.array(2.0), 1.0)
        >>> print(error.contraction, error.sensitivity, error.bound)
        0.5 1.0 1.0
    """
    steps = _positive_integer("steps", steps)
    traced = _traced("one_step_error", "step", step, x, args)
    parameters = list(enumerate(traced.operands))[traced.num_closed :]
    if any(jnp.issubdtype(leaf.dtype, np.complexfloating) for _, leaf in parameters):
        raise TypeError("one_step_error takes real arguments: pass real and imaginary parts.")
    moving = [k for k, leaf in parameters if jnp.issubdtype(leaf.dtype, np.floating)]

    def of_parameters(varied: list[Any]) -> list[Any]:
        return traced.function(traced.start, _merged(traced.operands, moving, varied))

    def of_x(x: list[Any]) -> list[Any]:
        return traced.function(x, traced.operands)

    rho = _spectral_norm(of_x, traced.start)
    sensitivity = _spectral_norm(of_parameters, [traced.operands[k] for k in moving])
    missing = jnp.where(rho < 1, rho**steps / (1 - jnp.where(rho < 1, rho, 0)), np.inf)
    # Nothing to be sensitive to is no error.
    bound = jnp.where(sensitivity > 0, missing * sensitivity, 0.0)
    return OneStepError(rho, sensitivity, bound)


def _spectral_norm(function: Callable[[list[Any]], list[Any]], at: list[Any]) -> Any:
    """That of a Jacobian, by power iteration from a fixed random direction."""
    flat, unravel = ravel_pytree(at)
    if not flat.size:
        return jnp.zeros((), flat.dtype)

    def flat_function(flat: Any) -> Any:
        return ravel_pytree(function(unravel(flat)))[0]

    _, push = jax.linearize(flat_function, flat)
    _, pull = jax.vjp(flat_function, flat)

    def unit(vector: Any) -> Any:
        size = jnp.linalg.norm(vector)
        return vector / jnp.where(size > 0, size, 1)

    def iterate(_: Any, direction: Any) -> Any:
        (image,) = pull(unit(push(direction)))
        return unit(image)

    start = unit(jax.random.normal(jax.random.key(0), flat.shape, flat.dtype))
    return jnp.linalg.norm(push(lax.fori_loop(0, _POWER_ITERATIONS, iterate, start)))


class _Stop(NamedTuple):
    """How an iteration ends, and how much of it is differentiated."""

    derivative: Derivative
    steps: int
    tol: float | None
    maxiter: int

    @classmethod
    def checked(cls, derivative: Any, steps: Any, tol: Any, maxiter: Any) -> "_Stop":
        if derivative not in _DERIVATIVES:
            names = ", ".join(map(repr, _DERIVATIVES))
            raise ValueError(f"derivative must be one of {names}, but got {derivative!r}.")
        if derivative == "implicit" and steps is not None:
            raise ValueError(
                "The implicit derivative takes no steps: leave steps out, or ask for "
                "derivative='one_step' or 'unrolled'."
            )
        if derivative == "unrolled" and steps is None:
            raise ValueError("derivative='unrolled' runs as many steps as steps= says: give it.")
        if tol is not None and not tol > 0:
            raise ValueError(f"tol must be positive, but got {tol}.")
        steps = _positive_integer("steps", 1 if steps is None else steps)
        return cls(derivative, steps, tol, _positive_integer("maxiter", maxiter))


def _positive_integer(name: str, value: Any) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, but got {value}.")
    return number


class _Traced(NamedTuple):
    """A user's function of x and parameters, as one of lists that closes over no tracers.

    Attributes:
        function: from the leaves of x and the operands to leaves like those of x.
        start: leaves of the start.
        operands: what the function closed over, and then the leaves of its arguments.
        num_closed: how many of them it closed over.
        unflatten: from leaves to x.
    """

    function: Callable[[list[Any], list[Any]], list[Any]]
    start: list[Any]
    operands: list[Any]
    num_closed: int
    unflatten: Callable[[list[Any]], Any]


def _traced(caller: str, name: str, function: Callable[..., Any], x0: Any, args: Any) -> _Traced:
    """Traces a function and checks that it takes x to the like of x."""
    paths, structure = jax.tree.flatten_with_path(x0)
    tree: Any = structure
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    start = [jnp.asarray(leaf) for _, leaf in paths]
    for path, leaf in zip(names, start, strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{caller} takes real floating-point arrays, but x0{path} has dtype {leaf.dtype}."
            )
    args = jax.tree.map(jnp.asarray, args)

    def trace(start: list[Any]) -> tuple[Any, list[Any]]:
        x = tree.unflatten(start)
        closed, result = jax.make_jaxpr(function, return_shape=True)(x, *args)
        found = jax.tree.structure(result)
        if found != tree:
            raise TypeError(
                f"{name} must return a pytree like x0, {tree}, but it returned {found}."
            )
        return closed, jax.tree.leaves(result)

    closed, results = trace(start)
    pairs = zip(start, results, strict=True)
    # Python numbers take the dtype that they meet.
    typed = [leaf.astype(_dtype_of_start(leaf, result)) for leaf, result in pairs]
    if [leaf.dtype for leaf in typed] != [leaf.dtype for leaf in start]:
        start = typed
        closed, results = trace(start)
    for path, leaf, result in zip(names, start, results, strict=True):
        if (leaf.shape, leaf.dtype) != (result.shape, result.dtype):
            raise TypeError(
                f"{name} must return the shapes and dtypes of x0, but it returned "
                f"{_described(result)} where x0{path} is {_described(leaf)}."
            )
    start = [lax.convert_element_type(leaf, leaf.dtype) for leaf in start]
    # Other constants stay what they are: index arrays decide the structure.
    varied = [k for k, value in enumerate(closed.consts) if jax_internals.is_tracer(value)]

    def of_leaves(x: list[Any], operands: list[Any]) -> list[Any]:
        values, parameters = operands[: len(varied)], operands[len(varied) :]
        constants = _merged(closed.consts, varied, values)
        results = jax.core.eval_jaxpr(closed.jaxpr, constants, *x, *parameters)
        # Without weak types.
        return [lax.convert_element_type(r, leaf.dtype) for r, leaf in zip(results, x, strict=True)]

    operands = [*(closed.consts[k] for k in varied), *jax.tree.leaves(args)]
    return _Traced(of_leaves, start, operands, len(varied), tree.unflatten)


def _dtype_of_start(leaf: Any, result: Any) -> Any:
    is_free = leaf.weak_type and jnp.issubdtype(result.dtype, jnp.floating)
    return result.dtype if is_free else leaf.dtype


def _described(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _merged(operands: Sequence[Any], positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    merged = list(operands)
    for position, value in zip(positions, values, strict=True):
        merged[position] = value
    return merged


def _newton(
    caller: str, name: str, function: Callable[..., Any], x0: Any, args: Any, stop: Any
) -> Any:
    stop = _Stop.checked(*stop)
    traced = _traced(caller, name, function, x0, args)
    step = functools.partial(_newton_step, traced.function, by_structure)
    return _solved(traced, step, traced.function, stop)


def _newton_step(function: _Function, solve: Solve, x: list[Any], operands: list[Any]) -> list[Any]:
    change = solve(function, x, operands, function(x, operands))
    return list(map(operator.sub, x, change))


def by_structure(
    residual: _Function, x: list[Any], operands: list[Any], image: list[Any]
) -> list[Any]:
    """What the Jacobian of a residual with respect to x takes to `image`, by its structure."""
    flat, unravel = ravel_pytree(x)

    def flat_residual(flat: Any) -> Any:
        return ravel_pytree(residual(unravel(flat), operands))[0]

    matrix = jacobian(flat_residual, format="structured")(flat)
    return unravel(solve(matrix, ravel_pytree(image)[0]).astype(flat.dtype))


def _solved(
    traced: _Traced,
    step: _Function,
    residual: _Function,
    stop: _Stop,
    solve: Solve = by_structure,
) -> Any:
    """Runs an iteration; its result is differentiated as asked."""
    x, operands = traced.start, traced.operands
    if stop.derivative != "unrolled":
        x, operands = lax.stop_gradient((x, operands))
        x = _converged(lambda x: step(x, operands), x, stop)
    if stop.derivative == "implicit":
        x = _solution(residual, solve, x, traced.operands)
    elif stop.steps == 1:
        x = step(x, traced.operands)
    else:
        x = lax.fori_loop(0, stop.steps, lambda _, x: step(x, traced.operands), x)
    return traced.unflatten(x)


def _converged(step: Callable[[list[Any]], list[Any]], start: list[Any], stop: _Stop) -> list[Any]:
    """What an iteration converges to, or NaN."""
    tolerances = [
        float(jnp.finfo(leaf.dtype).eps) ** 0.75 if stop.tol is None else stop.tol for leaf in start
    ]

    def size(leaf: Any) -> Any:
        return jnp.max(jnp.abs(leaf), initial=0)

    def body(state: Any) -> Any:
        x, scales, _, _, count = state
        new = step(x)
        scales = list(map(jnp.maximum, scales, map(size, new)))
        changes = [size(a - b) for a, b in zip(new, x, strict=True)]
        small = [c <= tol * s for c, tol, s in zip(changes, tolerances, scales, strict=True)]
        lost = ~jnp.all(jnp.array([jnp.isfinite(change) for change in changes]))
        found = jnp.all(jnp.array(small)) & ~lost
        return new, scales, found, found | lost | (count + 1 >= stop.maxiter), count + 1

    state = start, list(map(size, start)), jnp.array(False), jnp.array(False), jnp.array(0)
    x, _, found, _, _ = lax.while_loop(lambda state: ~state[3], body, state)
    return [jnp.where(found, leaf, np.nan) for leaf in x]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solution(residual: _Function, solve: Solve, x: list[Any], operands: list[Any]) -> list[Any]:
    """The root x of a residual, differentiated as such; derivatives of x itself are not taken."""
    return x


@functools.partial(_solution.defjvp, symbolic_zeros=True)
def _(
    residual: _Function, solve: Solve, primals: Any, tangents: Any
) -> tuple[list[Any], list[Any]]:
    (start, operands), (_, changes) = primals, tangents
    # Where this is differentiated again, x moves with the operands.
    x = _solution(residual, solve, start, operands)
    moving = [k for k, change in enumerate(changes) if not isinstance(change, SymbolicZero)]

    def of_moving(*varied: Any) -> list[Any]:
        return residual(x, _merged(operands, moving, varied))

    varied = [operands[k] for k in moving]
    _, change = jax.jvp(of_moving, varied, [changes[k] for k in moving])
    return x, [-leaf for leaf in solve(residual, x, operands, change)]
