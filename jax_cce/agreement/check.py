"""`check_jacobian`: our Jacobian against products that JAX computes, at random directions."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

from jax_cce.agreement.comparison import Comparison
from jax_cce.agreement.localisation import localised
from jax_cce.planning.options import Order, OrderName, options_of
from jax_cce.program.calls import Call
from jax_cce.sparse.formats import FormatName

__all__ = ["check_jacobian"]


def check_jacobian(
    fun: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    formats: Sequence[FormatName] = ("dense", "bcoo", "structured"),
    orders: Sequence[Order] | None = None,
    rtol: float | None = None,
    directions: int = 2,
    seed: int = 0,
) -> None:
    """Checks `jax_cce.jacobian(fun)` at `args` against `jax.jvp` and `jax.vjp`.

    Products with random tangents and cotangents are compared, so no reference Jacobian is formed;
    what a product of JAX gives as NaN or infinite is not compared. Where JAX has one mode only (a
    `jax.custom_vjp`, a `jax.lax.while_loop`), that mode is compared, and where it has none (a
    primitive with a rule of your own), a central difference, as accurate as those are. Where a
    pullback is not linear in its cotangent (gradient clipping), rows are compared, which are what
    `jax.jacrev` returns.

    Args:
        fun: as for `jacobian`; without keyword arguments (use `functools.partial`).
        *args: its arguments, concrete ones.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        formats: the formats to check. Leave out "dense" where that is too large.
        orders: the elimination orders to check; None for all named ones.
        rtol: how far a product may be off, relative to its largest entry; None for what suits the
            lowest precision among inputs and outputs.
        directions: how many random tangents and cotangents are tried.
        seed: of the random directions.

    Raises:
        AssertionError: where a product disagrees; it names the format, the order, the place, and
            the first equation of `fun` whose local Jacobian disagrees.
        TypeError, ValueError: as `jacobian`.

    Examples:
        >>> import jax.numpy as jnp, jax_cce
        >>> jax_cce.check_jacobian(lambda x: jnp.sin(x) * x[::-1], jnp.array([1.0, 2.0, 3.0]))
    """
    contract = options_of(argnums, has_aux, holomorphic, allow_int).contract
    check = Comparison(Call(fun, contract, args, {}), rtol, directions, seed)
    for order in get_args(OrderName) if orders is None else orders:
        for form in formats:
            fault = check.fault(form, order)
            if fault:
                where = localised(check, form, order)
                raise AssertionError(
                    f"jax_cce.jacobian of {check.call.name} with format={form!r} and "
                    f"order={order!r} disagrees with JAX: {fault}\n{where}"
                )
