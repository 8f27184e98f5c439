"""The public transformations, with exactly the contract of `jax.jacrev`."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypedDict, Unpack, overload

import jax

from jax_cce.execution.calling import plan_within, transformed
from jax_cce.planning import choosing
from jax_cce.planning.options import Backend, Options, Order, options_of
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import traced_task
from jax_cce.program import calls
from jax_cce.sparse.formats import FormatName
from jax_cce.sparse.structured import StructuredJacobian

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["How", "OfArrays", "jacobian", "plan", "value_and_jacobian"]

P = ParamSpec("P")

# A function whose first argument is one array, and whose result is one: then so is the Jacobian.
# Any other function has trees of blocks, which types do not describe.
OfArrays = Callable[Concatenate[jax.Array, P], jax.Array]


class How(TypedDict, total=False):
    """How a Jacobian is computed; see `jacobian`."""

    order: Order
    search: str | None
    search_budget: float | None
    backend: Backend
    max_bytes: int | None
    chunk_size: int | None


@overload
def jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["dense", "values"] = ...,
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], jax.Array]: ...
@overload
def jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["bcoo"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], "BCOO"]: ...
@overload
def jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["structured"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], StructuredJacobian]: ...
@overload
def jacobian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = ...,
    has_aux: bool = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: FormatName = ...,
    **how: Unpack[How],
) -> Callable[P, Any]: ...
def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Jacobian of `fun` by vertex elimination; takes the place of `jax.jacrev`.

    Args:
        fun: function whose Jacobian is computed. Its arguments at positions `argnums` should be
            arrays, scalars or pytrees of them; it should return arrays, scalars or pytrees.
        argnums: which positional argument or arguments to differentiate with respect to.
        has_aux: whether `fun` returns a pair, of which only the first element is differentiated
            and the second is auxiliary data.
        holomorphic: whether `fun` is promised to be holomorphic; inputs and outputs must then be
            complex.
        allow_int: whether integer inputs are allowed; their Jacobian is zero.
        order: the elimination order: "forward", "reverse", "markowitz" (minimal Markowitz
            degree), "auto" (a stored order, else the one with the fewest flops that a quick
            search finds; others may need fewer multiplications), "tuned" (an order or mode that
            was measured to be the fastest on this kind of device for this number of points under
            `jax.vmap`; where none is stored, candidates are compiled and timed at the first call,
            and the fastest is stored), or the vertices of the function's graph in any order (see
            `plan`; with backend="native" those of its graph of scalars, see `optimize`), between
            which edges may be eliminated by themselves (see `EdgeElimination`). With
            JAX_CCE_ORDER=tuned in the environment "auto" means "tuned".
        format: what each block of the Jacobian is. "dense": an array. "bcoo": a
            `jax.experimental.sparse.BCOO` matrix with sorted, unique indices and without
            structural zeros, whose indices are NumPy outside `jax.jit` unless they depend on
            data. "structured": a `StructuredJacobian`, which stores distinct coefficients only.
            "values": the numbers of the BCOO matrix alone, where `pattern` says they lie. "csr": a
            `jax.experimental.sparse.BCSR` matrix, and "csc": a `CSC` matrix, of flattened output
            and input. "auto": BCOO where the block has more than 1,024 entries and at most a
            quarter are stored, else an array.
        search: the strategy with which order="auto" searches where no order is stored, such as
            "annealing" (see `optimize`); what it finds is stored. None tries greedy orders.
        search_budget: how long that search may take, in seconds; a strategy gets half a second
            unless told otherwise, and "alphazero", which has to be compiled, thirty. Greedy orders
            are bounded by the work that is nominally done in that time and not by the clock, so
            that every process finds the same; None stands for well under a second, and 0 leaves
            forward, reverse and minimal Markowitz.
        backend: what computes a dense or BCOO Jacobian on the CPU. "auto": native code, where the
            function has such and it is expected to run faster and to compile as soon, else XLA.
            "native": native code also where it takes longer to compile, or may run slower. "xla":
            never native code. Where there is no native code XLA computes the same; `explain` says
            why.
        max_bytes: how many bytes the temporary arrays of the Jacobian's program may take, as XLA
            counts them (`memory_analysis().temp_size_in_bytes`): neither the arguments nor the
            result. Ways to compute it are then compiled until one stays within the limit, and that
            one is remembered: the default, named orders, and in the dense format `jax.jacfwd` and
            `jax.jacrev`, whole, in chunks of columns or rows, and with scans run again on the
            way back. Under `jax.vmap` the limit is for all points together. None for no limit.
        chunk_size: how many columns, or rows, are computed at a time, by a loop that fills the
            dense result in place: `jax.jacfwd` or `jax.jacrev`, whichever evaluates the function
            fewer times, or with order="forward" and order="reverse" the one or the other. None
            for an elimination, all at once. `max_bytes` finds the size of chunks by itself.

    Returns:
        A function with the arguments of `fun` that returns the Jacobian, or the pair (Jacobian,
        auxiliary data). The Jacobian has the tree structure of the output, each leaf replaced by
        the tree structure of the input; each block has shape output.shape + input.shape and the
        dtype of the input; where real inputs have complex outputs that of the output, as
        `jax.jacfwd` has it.

    Raises:
        TypeError: for inputs and outputs of dtypes that `jax.jacrev` and `jax.jacfwd` refuse.
        ValueError: for argnums out of range or repeated, orders whose vertices are no
            permutation of the graph's, or whose edges are not there, unknown formats and
            strategies, and negative budgets.
            Also for a max_bytes that is no number of bytes, or beside an order or
            backend="native", and where the program cannot be measured: for functions that are
            differentiated while they run, shared out over devices, or have effects. And for a
            chunk_size below 1, beside a sparse format, max_bytes, search, another order or
            backend="native", and where no mode of JAX is sure to give what elimination does.
        MemoryError: where a dense Jacobian would take more than half of the device's memory, and
            where no way is found that stays within max_bytes.

    Source: Griewank & Walther, "Evaluating Derivatives" (2008), chapters 9 and 10; Lohoff &
    Neftci, "Optimizing Automatic Differentiation with Deep Reinforcement Learning" (2024).

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: jnp.array([x[0] * x[1], jnp.sin(x[1])])
        >>> jax_cce.jacobian(f)(jnp.array([2.0, 0.0]))
        Array([[0., 2.],
               [0., 1.]], dtype=float32)
    """
    options = options_of(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        order=order,
        format=format,
        search=search,
        search_budget=search_budget,
        backend=backend,
        max_bytes=max_bytes,
        chunk_size=chunk_size,
    )
    return jacobian_by(fun, options)


def jacobian_by(fun: Callable[..., Any], options: Options) -> Callable[..., Any]:
    """`jacobian` with checked options."""
    compute, has_aux = transformed(fun, options), options.contract.has_aux

    @functools.wraps(fun)
    def jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        _, result, aux = compute(args, kwargs)
        return (result, aux) if has_aux else result

    return jacobian_fun


@overload
def value_and_jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["dense", "values"] = ...,
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], tuple[jax.Array, jax.Array]]: ...
@overload
def value_and_jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["bcoo"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], tuple[jax.Array, "BCOO"]]: ...
@overload
def value_and_jacobian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: Literal["structured"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], tuple[jax.Array, StructuredJacobian]]: ...
@overload
def value_and_jacobian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = ...,
    has_aux: bool = ...,
    holomorphic: bool = ...,
    allow_int: bool = ...,
    *,
    format: FormatName = ...,
    **how: Unpack[How],
) -> Callable[P, Any]: ...
def value_and_jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Value and Jacobian of `fun` together, sharing the evaluation of `fun`.

    Takes the arguments of `jacobian`.

    Returns:
        A function that returns (value, Jacobian), or with `has_aux` ((value, auxiliary data),
        Jacobian), as `jax.value_and_grad` does.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> value, jac = jax_cce.value_and_jacobian(lambda x: x**2)(jnp.array([1.0, 3.0]))
        >>> value
        Array([1., 9.], dtype=float32)
        >>> jac
        Array([[2., 0.],
               [0., 6.]], dtype=float32)
    """
    options = options_of(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        order=order,
        format=format,
        search=search,
        search_budget=search_budget,
        backend=backend,
        max_bytes=max_bytes,
        chunk_size=chunk_size,
    )
    compute = transformed(fun, options, value=True)

    @functools.wraps(fun)
    def value_and_jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        value, result, aux = compute(args, kwargs)
        return ((value, aux), result) if has_aux else (value, result)

    return value_and_jacobian_fun


def plan(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    order: Order = "auto",
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    format: FormatName = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Plan]:
    """How the Jacobian of `fun` would be computed, from shapes alone.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        order: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        format: as for `jacobian`; a sparse one leaves out the assembly of dense blocks.
        search: as for `jacobian`.
        search_budget: as for `jacobian`.
        max_bytes: as for `jacobian`; the candidates are compiled.
        chunk_size: as for `jacobian`.

    Returns:
        A function with the arguments of `fun`, any array of which may be a
        `jax.ShapeDtypeStruct`, that returns a `Plan`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> x = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> p = jax_cce.plan(lambda x: jnp.sum(jnp.sin(x) * x), order="reverse")(x)
        >>> p.order
        (1, 0)
        >>> p.cost("multiplications")
        3
    """
    calls.check_callable(fun)
    options = options_of(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        order=order,
        format=format,
        search=search,
        search_budget=search_budget,
        max_bytes=max_bytes,
        chunk_size=chunk_size,
    )

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        if max_bytes is not None:
            return plan_within(traced_task(fun, options, args, kwargs), options)
        return choosing.planned(traced_task(fun, options, args, kwargs), options.request)

    return calls.from_shapes(planned)
