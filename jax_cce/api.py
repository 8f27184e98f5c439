"""The public transformations, with exactly the contract of `jax.jacrev`."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.tree_util import tree_flatten, tree_unflatten

from jax_cce import choosing, contract, folding, orders, programs, tracing
from jax_cce.choosing import Wish
from jax_cce.contract import Call, Format, Traced
from jax_cce.emit import emit, emit_by_mode
from jax_cce.graph import Graph
from jax_cce.plans import Plan
from jax_cce.rules.linearised import is_linear
from jax_cce.structured import Coordinates, StructuredJacobian

__all__ = [
    "Subject",
    "hessian",
    "jacobian",
    "jacobian_by",
    "plan",
    "subject",
    "value_and_jacobian",
]

Order = str | Sequence[int]


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: Format = "dense",
    search: str | None = None,
    search_budget: float | None = None,
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
            degree), "auto" (the one stored by `optimize`, else the cheapest that a quick search
            finds), or the vertices of the function's graph in any order (see `plan`).
        format: what each block of the Jacobian is. "dense": an array. "bcoo": a
            `jax.experimental.sparse.BCOO` matrix with sorted, unique indices and without
            structural zeros, whose indices are NumPy outside `jax.jit` unless they depend on
            data. "structured": a `StructuredJacobian`, which stores distinct coefficients only.
        search: the strategy with which order="auto" searches where no order is stored, such as
            "annealing" (see `optimize`); what it finds is stored. None tries greedy orders.
        search_budget: how long that search may take, in seconds; a strategy gets half a second
            unless told otherwise, and "alphazero", which has to be compiled, thirty. Greedy orders
            are bounded by the work that is nominally done in that time and not by the clock, so
            that every process finds the same; None stands for well under a second, and 0 leaves
            forward, reverse and minimal Markowitz.

    Returns:
        A function with the arguments of `fun` that returns the Jacobian, or the pair (Jacobian,
        auxiliary data). The Jacobian has the tree structure of the output, each leaf replaced by
        the tree structure of the input; each block has shape output.shape + input.shape and the
        dtype of the input.

    Raises:
        TypeError: for inputs and outputs of dtypes that `jax.jacrev` refuses.
        ValueError: for argnums out of range or repeated, orders that are no permutation of
            the graph's vertices, unknown formats and strategies, and negative budgets.
        MemoryError: where a dense Jacobian would take more than half of the device's memory.

    Source: Griewank & Walther, "Evaluating Derivatives" (2008), chapters 9 and 10; Lohoff &
    Neftci, "Optimizing Automatic Differentiation with Deep Reinforcement Learning" (2024).

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: jnp.array([x[0] * x[1], jnp.sin(x[1])])
        >>> jax_cce.jacobian(f)(jnp.array([2.0, 0.0]))
        Array([[0., 2.],
               [0., 1.]], dtype=float32)
    """
    wish = _wish(order, search, search_budget)
    compute = _transform(fun, argnums, has_aux, holomorphic, allow_int, wish, format, value=False)

    @functools.wraps(fun)
    def jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        _, result, aux = compute(args, kwargs)
        return (result, aux) if has_aux else result

    return jacobian_fun


def value_and_jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: Format = "dense",
    search: str | None = None,
    search_budget: float | None = None,
) -> Callable[..., Any]:
    """Value and Jacobian of `fun` together, sharing the evaluation of `fun`.

    Takes the arguments of `jacobian`.

    Returns:
        A function that returns (value, Jacobian), or with `has_aux` ((value, auxiliary data),
        Jacobian), as `jax.value_and_grad` does.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> value, jac = jax_cce.value_and_jacobian(lambda x: x**2)(jnp.array([1.0, 3.0]))
        >>> value
        Array([1., 9.], dtype=float32)
        >>> jac
        Array([[2., 0.],
               [0., 6.]], dtype=float32)
    """
    wish = _wish(order, search, search_budget)
    compute = _transform(fun, argnums, has_aux, holomorphic, allow_int, wish, format, value=True)

    @functools.wraps(fun)
    def value_and_jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        value, result, aux = compute(args, kwargs)
        return ((value, aux), result) if has_aux else (value, result)

    return value_and_jacobian_fun


def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    order: Order = "auto",
    format: Format = "dense",
    search: str | None = None,
    search_budget: float | None = None,
) -> Callable[..., Any]:
    """Hessian of `fun`: the Jacobian of its Jacobian; takes the place of `jax.hessian`.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        order: the elimination order of the outer Jacobian, on the graph of the inner one.
        format: as for `jacobian`.
        search: as for `jacobian`, for the outer one.
        search_budget: as for `jacobian`, for the outer one.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> jax_cce.hessian(lambda x: x[0] ** 3 * x[1])(jnp.array([1.0, 2.0]))
        Array([[12.,  3.],
               [ 3.,  0.]], dtype=float32)
    """
    inner = jacobian(fun, argnums, has_aux, holomorphic)
    wish = _wish(order, search, search_budget)
    dense = jacobian(
        inner,
        argnums,
        has_aux,
        holomorphic,
        order=order,
        search=search,
        search_budget=search_budget,
    )
    if contract.check_format(format) == "dense":
        return dense
    gradient = _transform(
        inner, argnums, has_aux, holomorphic, False, wish, format, value=False, symmetric=True
    )

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        def value(*args: Any, **kwargs: Any) -> Any:
            result = fun(*args, **kwargs)
            return result[0] if has_aux else result

        try:
            outputs = jax.eval_shape(value, *args, **kwargs)
        except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
            outputs = value(*args, **kwargs)
        if all(np.shape(leaf) == () for leaf in jax.tree.leaves(outputs)):
            _, result, aux = gradient(args, kwargs)
            return (result, aux) if has_aux else result
        return _hessian_by_terms(fun, argnums, has_aux, holomorphic, order, format)(*args, **kwargs)

    return hessian_fun


def _hessian_by_terms(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    order: Order,
    format: Format,
) -> Callable[..., Any]:
    """The Hessian of an array-valued function: every coefficient of its Jacobian differentiated.

    The dense Jacobian is never formed; the coefficients' Jacobians are placed by the terms that
    the coefficients belong to.
    """
    inner = jacobian(fun, argnums, has_aux, holomorphic, format="structured")

    def is_block(node: Any) -> bool:
        return isinstance(node, StructuredJacobian)

    def coefficients(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        jac, aux = inner(*args, **kwargs) if has_aux else (inner(*args, **kwargs), None)
        blocks, tree = jax.tree.flatten(jac, is_leaf=is_block)
        made[:] = [tree, blocks]
        varied = [block.coefficients(differentiable=True) for block in blocks]
        return varied, ([block.coefficients(differentiable=False) for block in blocks], aux)

    made: list[Any] = []
    outer = jacobian(coefficients, argnums, True, holomorphic, order=order, format="structured")

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        found, (fixed, aux) = outer(*args, **kwargs)
        tree, blocks = made
        rows = []
        for block, second, rest in zip(blocks, found, fixed, strict=True):
            if second:
                columns = [jax.tree.flatten(part, is_leaf=is_block) for part in second]
                trees = columns[0][1]
                leaves = [
                    block.placed_over(parts, rest)
                    for parts in zip(*(column[0] for column in columns), strict=True)
                ]
            else:
                # A constant Jacobian.
                varied = [args[k] for k in contract.positions(argnums, len(args))]
                leaves, trees = jax.tree.flatten(
                    varied[0] if contract.is_index(argnums) else varied
                )
                leaves = [
                    StructuredJacobian(block.shape, np.shape(leaf), block.dtype, (), ())
                    for leaf in leaves
                ]
            if format == "bcoo":
                leaves = [leaf.to_bcoo() for leaf in leaves]
            rows.append(jax.tree.unflatten(trees, leaves))
        result = jax.tree.unflatten(tree, rows)
        return (result, aux) if has_aux else result

    return hessian_fun


def plan(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    order: Order = "auto",
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    format: Format = "dense",
    search: str | None = None,
    search_budget: float | None = None,
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

    Returns:
        A function with the arguments of `fun`, any array of which may be a
        `jax.ShapeDtypeStruct`, that returns a `Plan`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> x = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> p = jax_cce.plan(lambda x: jnp.sum(jnp.sin(x) * x), order="reverse")(x)
        >>> p.order
        (1, 0)
        >>> p.cost("multiplications")
        3
    """
    contract.check_callable(fun)
    wish = _wish(order, search, search_budget)
    sparse = contract.check_format(format) != "dense"

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        call = Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        traced = contract.trace(call, hoist=False)
        known = folding.known_constants(traced.program, traced.constants, sparse=sparse)
        kind = {"holomorphic": holomorphic, "sparse": sparse}
        found = None
        if wish.order == "auto":
            batch = tracing.batch_size(call.leaves)
            found = choosing.look_up(None, traced, known, **kind, batch=batch)
        return choosing.plan(traced, known, wish, found, **kind)

    return _from_shapes(planned)


class Subject(NamedTuple):
    """What an order is searched for: the Jacobian of one function at arguments of some shapes.

    Attributes:
        name: the function's name, for people only.
        key: its key in the registry.
        graphs: its graph, and under True that with its small arrays taken apart.
    """

    name: str
    key: str
    graphs: dict[bool, Graph]


def subject(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: Format = "dense",
) -> Callable[..., Subject]:
    """What order searches work on; takes the arguments of `plan`."""
    contract.check_callable(fun)
    sparse = contract.check_format(format) != "dense"

    def prepared(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Subject:
        call = Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        traced = contract.trace(call, hoist=False)
        known = folding.known_constants(traced.program, traced.constants, sparse=sparse)
        kind = {"holomorphic": holomorphic, "sparse": sparse}
        return Subject(
            getattr(fun, "__name__", type(fun).__name__),
            choosing.key(traced, known, **kind),
            choosing.graphs(traced, known, **kind),
        )

    return _from_shapes(prepared)


def jacobian_by(
    wish: Wish,
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: Format = "dense",
) -> Callable[..., Any]:
    """`jacobian` by a certain order, form of the graph and method."""
    compute = _transform(fun, argnums, has_aux, holomorphic, allow_int, wish, format, value=False)
    return lambda *args, **kwargs: compute(args, kwargs)[1]


def _from_shapes(
    made_of: Callable[[tuple[Any, ...], dict[str, Any]], Any],
) -> Callable[..., Any]:
    """Lets any array among the arguments be a `jax.ShapeDtypeStruct`."""

    def from_shapes(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        shapes = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]
        made: list[Any] = []

        def abstractly(*tracers: Any) -> None:
            for k, tracer in zip(shapes, tracers, strict=True):
                leaves[k] = tracer
            made.append(made_of(*tree_unflatten(tree, leaves)))

        jax.eval_shape(abstractly, *(leaves[k] for k in shapes))
        return made[0]

    return from_shapes


def _transform(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    wish: Wish,
    format: Format,
    *,
    value: bool,
    symmetric: bool = False,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]:
    """The common part of the transformations: (args, kwargs) -> (value, Jacobian, aux)."""
    contract.check_callable(fun)
    contract.check_format(format)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        call = Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        staged = any(map(tracing.is_staged, call.leaves))
        try:
            traced = contract.trace(call, hoist=not staged)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ):
            if staged:
                raise
            return _at_value(call, wish, format)
        how = _How(wish, holomorphic, format, value, symmetric)
        outputs, blocks = _execute(traced, call.avals, call.leaves, how)
        leaves = outputs[: traced.num_values] if value else []
        return (
            tree_unflatten(traced.value_tree, leaves) if value else None,
            _as_tree(blocks, call, traced.value_tree),
            traced.aux(outputs[len(leaves) :]),
        )

    return compute


def _wish(order: Order, search: str | None, search_budget: float | None) -> Wish:
    checked = orders.check(order)
    if search is not None:
        choosing.search_package().strategies.named(search)
    if search_budget is not None and not search_budget >= 0:
        raise ValueError(f"search_budget must be at least 0 seconds, but got {search_budget!r}.")
    return Wish(checked, search, search_budget)


class _How(NamedTuple):
    """What is asked of a traced function."""

    wish: Wish
    holomorphic: bool
    format: Format
    value: bool
    symmetric: bool = False


def _execute(
    traced: Traced, avals: Sequence[Any], leaves: Sequence[Any], how: _How
) -> tuple[list[Any], list[list[Any]]]:
    """The program's outputs (without `value`, the auxiliary ones only) and its blocks.

    Under jit the operations go into the surrounding trace. Elsewhere the compiled program for this
    canonical jaxpr runs; the first call compiles it.
    """
    if how.format == "dense":
        _check_memory(traced, avals)

    sparse = how.format != "dense"
    known = folding.known_constants(traced.program, traced.constants, sparse=sparse)
    kind = {"holomorphic": how.holomorphic, "sparse": sparse}
    staged = any(map(tracing.is_staged, (*leaves, *traced.constants)))
    name = None
    if not staged:
        name = programs.key(traced.program), folding.key(known), traced.num_values, how
    found = None
    if how.wish.order == "auto" and how.wish.entries is None:
        batch = tracing.batch_size(leaves)
        found = choosing.look_up(name, traced, known, **kind, batch=batch)

    def build(traced: Traced) -> Callable[..., Any]:
        made = choosing.plan(traced, known, how.wish, found, **kind)

        def jacobian_program(constants: Any, leaves: Any) -> Any:
            outputs, blocks = _results(traced, avals, made, how, constants, leaves)
            return outputs if how.value else outputs[traced.num_values :], blocks

        return jacobian_program

    if staged:
        outputs, blocks = build(traced)(traced.constants, leaves)
    else:
        # The cache must keep neither the constants of its first call nor its auxiliary data.
        bare = traced._replace(constants=[], aux=contract.no_aux)
        chosen = found and (found.entry.order, found.entry.entries, found.entry.method)
        compiled = programs.compiled((name, chosen), lambda: jax.jit(build(bare)))
        outputs, blocks = compiled(traced.constants, leaves)
    return outputs, [
        [block.to_bcoo() if isinstance(block, Coordinates) else block for block in row]
        for row in blocks
    ]


def _check_memory(traced: Traced, avals: Sequence[Any]) -> None:
    """Refuses a dense Jacobian that cannot reasonably be held, before anything is allocated."""
    outputs = [traced.program.aval(atom) for atom in traced.program.outputs[: traced.num_values]]
    rows = sum(map(tracing.size, outputs))
    wanted = rows * sum(tracing.size(aval) * aval.dtype.itemsize for aval in avals)
    if wanted > _SMALLEST_CHECKED and (limit := _device_memory() // 2) and wanted > limit:
        shapes = ", ".join(str(aval.shape) for aval in outputs)
        wrt = ", ".join(str(aval.shape) for aval in avals)
        raise MemoryError(
            f"The dense Jacobian of outputs of shape {shapes} with respect to inputs of shape "
            f"{wrt} would take {wanted / 2**30:.3g} GiB, more than half of the device's memory "
            f"({2 * limit / 2**30:.3g} GiB). Pass format='bcoo' or format='structured' to get "
            "only its nonzeros."
        )


# Below this many bytes the device is not even asked.
_SMALLEST_CHECKED = 1 << 28


def _device_memory() -> int:
    """Bytes of memory of the default device; 0 where that is unknown."""
    device = jax.config.values.get("jax_default_device") or jax.local_devices()[0]
    stats = getattr(device, "memory_stats", lambda: None)() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _results(
    traced: Traced,
    avals: Sequence[Any],
    made: Plan,
    how: _How,
    constants: Sequence[Any],
    leaves: Any,
) -> tuple[list[Any], list[list[Any]]]:
    """The outputs, and for each value leaf the list of blocks over input leaves."""
    run = emit if made.method == "elimination" else emit_by_mode
    outputs, found = run(made, constants, leaves)
    position = {name: index for index, name in enumerate(made.graph.inputs)}
    rows = []
    for at, value in enumerate(outputs[: traced.num_values]):
        row = []
        for name, aval in enumerate(avals):
            block = found.get((at, position.get(name, -1)))
            if how.symmetric and at > name:
                # The derivatives of one gradient: what is below the diagonal repeats what is above.
                block = found.get((name, position.get(at, -1)))
                block = block and block.T
            elif how.symmetric and at == name and block is not None:
                block = block.symmetric_part()
            if block is None:
                block = StructuredJacobian(np.shape(value), aval.shape, aval.dtype, (), ())
            row.append(_formatted(block.astype(aval.dtype), aval, how.format))
        rows.append(row)
    return outputs, rows


def _formatted(block: StructuredJacobian, aval: Any, format: Format) -> Any:
    """A block as an array, as sorted coordinates, or as it is."""
    if format == "structured":
        return block
    if format == "bcoo":
        return block.coordinates()
    array = tracing.sharded_like(block.todense(), aval)
    return tracing.convert(array, aval.dtype, bool(getattr(aval, "weak_type", False)))


def _at_value(call: Call, wish: Wish, format: Format) -> tuple[Any, Any, Any]:
    """The Jacobian of a function whose Python control flow depends on values.

    `jax.vjp` runs the function on the concrete values, as `jax.jacrev` does; what is eliminated
    is then the graph of its pullback, and the result is transposed.
    """
    chosen = [k for k, aval in enumerate(call.avals) if tracing.is_differentiable(aval)]
    trees: list[Any] = []

    def function(*varied: Any) -> tuple[list[Any], list[Any]]:
        leaves = list(call.leaves)
        for position, leaf in zip(chosen, varied, strict=True):
            leaves[position] = leaf
        values, value_tree, aux, aux_tree = call.run(leaves)
        dynamic = [leaf if tracing.is_tracer(leaf) else None for leaf in aux]
        trees[:] = [value_tree, aux_tree, aux]
        return values, dynamic

    values, pullback, moving = jax.vjp(function, *(call.leaves[k] for k in chosen), has_aux=True)
    value_tree, aux_tree, aux = trees
    aux = [leaf if fresh is None else fresh for leaf, fresh in zip(aux, moving, strict=True)]

    def flat(*cotangents: Any) -> list[Any]:
        return list(pullback(list(cotangents)))

    out_avals = [jax.typeof(value) for value in values]
    seeds = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in out_avals]
    program, constants = tracing.trace(flat, seeds, hoist=True)
    linear = is_linear(program)
    if linear:
        traced = Traced(program, constants, len(chosen), None, contract.no_aux)
        zeros = [lax.full(aval.shape, 0, aval.dtype) for aval in out_avals]
        how = _How(wish, call.holomorphic, "structured", False)
        _, found = _execute(traced, out_avals, zeros, how)
    else:
        # A pullback that may be nonlinear (gradient clipping, say) has a meaning on rows only.
        found = jax.jacrev(lambda *at: function(*at)[0], argnums=tuple(range(len(chosen))))(
            *(call.leaves[k] for k in chosen)
        )
    rows = []
    for at, out in enumerate(out_avals):
        row = []
        for k, aval in enumerate(call.avals):
            if k in chosen:
                if linear:
                    block = found[chosen.index(k)][at].T
                else:
                    block = StructuredJacobian.fromdense(found[at][chosen.index(k)], out.shape)
            else:
                block = StructuredJacobian(out.shape, aval.shape, aval.dtype, (), ())
            block = _formatted(block.astype(aval.dtype), aval, format)
            row.append(block.to_bcoo() if isinstance(block, Coordinates) else block)
        rows.append(row)
    return (
        tree_unflatten(value_tree, values),
        _as_tree(rows, call, value_tree),
        tree_unflatten(aux_tree, aux),
    )


def _as_tree(blocks: Sequence[Sequence[Any]], call: Call, value_tree: Any) -> Any:
    single = contract.is_index(call.argnums)
    rows = []
    for row in blocks:
        tree = tree_unflatten(call.tree, row)
        rows.append(tree[0] if single else tree)
    return tree_unflatten(value_tree, rows)
