"""Gradients and Jacobians that keep a part of what they would store."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_cce import jax_internals
from jax_cce.execution.results import as_tree
from jax_cce.program import calls
from jax_cce.randomized.draws import Method
from jax_cce.randomized.estimating import (
    call_of,
    check_scalar,
    eliminated,
    pulled_back,
    traced_of,
)
from jax_cce.randomized.plans import RandomizedPlan
from jax_cce.randomized.predicting import plan_of_elimination, plan_of_reverse
from jax_cce.randomized.requests import Keep, Order, Sites, request_of

__all__ = ["grad", "jacobian", "plan", "value_and_grad"]


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    keep: Keep = 0.1,
    sites: Sites = "saved",
    method: Method = "sample",
    share: bool = False,
    order: Order | None = None,
) -> Callable[..., Any]:
    """An unbiased estimate of the Jacobian of `fun`, from a part of the local Jacobians.

    The function's value is exact; the linear map that is its derivative is replaced by a random one
    whose expectation it is. What is random comes from the key alone.

    Args:
        fun: a function of real arrays or pytrees of them, which returns real ones.
        argnums: which positional argument or arguments to differentiate with respect to.
        has_aux: whether `fun` returns a pair, of which the second is auxiliary data.
        keep: the part of each coefficient that is kept, above 0 and at most 1, at least one number;
            or a part for each site, as `RandomizedPlan.keeps` has them. With 1 the result is that
            of `jax.jacrev`.
        sites: what is kept in part.

            - "saved": the coefficients on edges that leave a differentiated input, or a linear
              image of one, where they have to be stored: the activations that a weight multiplies,
              inside `lax.scan` as well. A path has one such edge at most. All else is exact. Memory
              is saved, not work.
            - names of `jax.ad_checkpoint.checkpoint_name` in a tuple: those coefficients that are
              named values, or derivatives of single entries at them. They may meet on a path, so
              that variances multiply along it; each edge draws for itself, which keeps the
              expectation.
            - "cut": the product at one vertex that all paths lead through, in an elimination. It is
              the one whose factors store least. `plan` compares all of them by predicted variance
              for each byte; its choice is passed as a number. Work is saved.
            - a number: that vertex, as `RandomizedPlan.cuts` numbers them.
            - "vertices": the products at all vertices that sum over entries. Variances multiply
              along a path.
        method: "sample" keeps entries: of an elimination with the optimal probabilities, in
            proportion to the norms of the column and the row that meet there, and with replacement;
            else one of each of as many ranges. "project" keeps products with random signs.
        share: whether all elements of a batch have the same entries: less work and more variance.
        order: of the elimination, as for `jax_cce.jacobian`; by default "auto", and a cut comes
            last, so that both of its factors are known.

    Returns:
        A function of a key and the arguments of `fun` that returns what `jax.jacrev(fun)` would, or
        with `has_aux` the pair with the auxiliary data. Under `jax.vmap` over keys the samples are
        independent.

    Raises:
        TypeError: for inputs or outputs that are not real floating-point numbers.
        ValueError: for values out of range, names that `fun` has not, a vertex that is none, and
            where "cut" finds no vertex that all paths lead through.

    Source: Oktay, McGreivy, Aduol, Beatson & Adams, "Randomized Automatic Differentiation", ICLR
    2021.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import randomized
        >>> def f(w, x):
        ...     return jnp.tanh(jnp.sin(x) @ w)
        >>> w, x = jnp.ones((40, 3)), jnp.linspace(0.0, 0.1, 40)
        >>> estimate = randomized.jacobian(f, keep=0.1)(jax.random.key(0), w, x)
        >>> int(jnp.count_nonzero(estimate[0, :, 0]))  # of 40
        4
    """
    calls.check_callable(fun)
    request = request_of(argnums, has_aux, keep, sites, method, share, order)

    @functools.wraps(fun)
    def jacobian_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        call = call_of("jacobian", fun, request.contract, args, kwargs)
        if request.is_exact:
            return jax.jacrev(fun, argnums, has_aux)(*args, **kwargs)
        traced = traced_of(call)
        if request.eliminates:
            rows, aux = eliminated(call, traced, key, request)
        else:
            _, rows, aux = pulled_back(call, traced, key, request)
        result = as_tree(rows, call, traced.value_tree)
        return (result, traced.aux(aux)) if has_aux else result

    return jacobian_fun


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    keep: Keep = 0.1,
    sites: Sites = "saved",
    method: Method = "sample",
    share: bool = False,
) -> Callable[..., Any]:
    """The value of a scalar `fun`, which is exact, and an unbiased estimate of its gradient.

    Takes the arguments of `jacobian`. Reverse mode keeps a part of each chosen coefficient: with
    "saved" and `keep` 0.1 a network stores a tenth of its activations, and the signs of its
    rectified units as bits. Call it under `jax.jit`; outside of it, operations run one by one.

    Returns:
        A function of a key and the arguments of `fun` that returns (value, gradient), or with
        `has_aux` ((value, auxiliary data), gradient).

    Raises:
        TypeError: as for `jacobian`, and where `fun` returns no scalar.
        ValueError: as for `jacobian`.

    Source: as for `jacobian`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import randomized
        >>> def loss(w, x):
        ...     return jnp.sum(jax.nn.relu(jnp.sin(x) @ w) ** 2)
        >>> w, x = jnp.ones((40, 3)), jnp.linspace(0.0, 0.1, 40)
        >>> keys = jax.random.split(jax.random.key(0), 2000)
        >>> estimates = jax.vmap(randomized.grad(loss), (0, None, None))(keys, w, x)
        >>> exact = jax.grad(loss)(w, x)
        >>> bool(jnp.linalg.norm(estimates.mean(0) - exact) < 0.1 * jnp.linalg.norm(exact))
        True
    """
    calls.check_callable(fun)
    request = request_of(argnums, has_aux, keep, sites, method, share)

    @functools.wraps(fun)
    def value_and_grad_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        call = call_of("grad", fun, request.contract, args, kwargs)
        if request.is_exact:
            return jax.value_and_grad(fun, argnums, has_aux)(*args, **kwargs)
        traced = traced_of(call)
        check_scalar(traced)
        if request.eliminates:
            rows, aux = eliminated(call, traced, key, request)
            value = call.fun(*args, **kwargs)
            value = value[0] if has_aux else value
        else:
            (value,), rows, aux = pulled_back(call, traced, key, request)
            value = jax.tree.unflatten(traced.value_tree, [value])
        gradient = as_tree(rows, call, jax.tree.structure(0))
        return ((value, traced.aux(aux)) if has_aux else value), gradient

    return value_and_grad_fun


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    keep: Keep = 0.1,
    sites: Sites = "saved",
    method: Method = "sample",
    share: bool = False,
) -> Callable[..., Any]:
    """An unbiased estimate of the gradient of a scalar `fun`, as `value_and_grad` has it.

    Takes the arguments of `jacobian`.

    Returns:
        A function of a key and the arguments of `fun` that returns the gradient, or with `has_aux`
        (gradient, auxiliary data).

    Raises:
        TypeError: as for `value_and_grad`.
        ValueError: as for `jacobian`.

    Source: as for `jacobian`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import randomized
        >>> gradient = randomized.grad(lambda w, x: jnp.sum(w * jnp.sin(x)), keep=0.5)
        >>> print(gradient(jax.random.key(0), jnp.ones(4), jnp.full(4, jnp.pi / 2)).sum())
        4.0
    """
    of_both = value_and_grad(
        fun, argnums, has_aux, keep=keep, sites=sites, method=method, share=share
    )

    @functools.wraps(fun)
    def grad_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        value, gradient = of_both(key, *args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_fun


def plan(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    keep: Keep = 0.1,
    sites: Sites = "saved",
    method: Method = "sample",
    share: bool = False,
    order: Order | None = None,
) -> Callable[..., RandomizedPlan]:
    """What `jacobian` or `grad` will store, its work, and how large its error is to be expected.

    Takes the arguments of `jacobian`.

    Returns:
        A function of the arguments of `fun`, without a key, that returns a `RandomizedPlan`. Where
        all arguments are arrays, it has predicted variances at them, for which the exact derivative
        is computed once; any of them may be a `jax.ShapeDtypeStruct`, and then it has none.

    Raises:
        TypeError: as for `jacobian`.
        ValueError: as for `jacobian`.

    Source: as for `jacobian`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import randomized
        >>> def loss(w, x):
        ...     return jnp.sum(jnp.tanh(jnp.sin(x) @ w))
        >>> shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 8), (100, 64))]
        >>> plan = randomized.plan(loss, keep=0.125)(*shapes)
        >>> plan.exact_bytes - plan.saved_bytes == 100 * (64 - 8) * 4
        True
    """
    calls.check_callable(fun)
    request = request_of(argnums, has_aux, keep, sites, method, share, order)

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RandomizedPlan:
        call = call_of("plan", fun, request.contract, args, kwargs)
        traced = traced_of(call)
        concrete = not any(map(jax_internals.is_tracer, jax.tree.leaves((args, kwargs))))
        if request.eliminates:
            return plan_of_elimination(call, traced, request, concrete)
        return plan_of_reverse(call, traced, request, concrete)

    return calls.from_shapes(planned)
