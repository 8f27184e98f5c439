"""The public transformations, with exactly the contract of `jax.jacrev`."""

import functools
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from jax_cce import entries, folding, graph, orders, plans, programs, tracing
from jax_cce.emit import emit
from jax_cce.plans import Plan
from jax_cce.rules.linearised import is_linear
from jax_cce.structured import Coordinates, StructuredJacobian

__all__ = ["hessian", "jacobian", "plan", "value_and_jacobian"]

Order = str | Sequence[int]
Format = Literal["dense", "bcoo", "structured"]


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: Format = "dense",
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
            degree), "auto" (the cheapest of these), or the vertices of the function's graph in
            any order (see `plan`).
        format: what each block of the Jacobian is. "dense": an array. "bcoo": a
            `jax.experimental.sparse.BCOO` matrix with sorted, unique indices and without
            structural zeros, whose indices are NumPy outside `jax.jit` unless they depend on
            data. "structured": a `StructuredJacobian`, which stores distinct coefficients only.

    Returns:
        A function with the arguments of `fun` that returns the Jacobian, or the pair (Jacobian,
        auxiliary data). The Jacobian has the tree structure of the output, each leaf replaced by
        the tree structure of the input; each block has shape output.shape + input.shape and the
        dtype of the input.

    Raises:
        TypeError: for inputs and outputs of dtypes that `jax.jacrev` refuses.
        ValueError: for argnums out of range or repeated, orders that are no permutation of
            the graph's vertices, and unknown formats.
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
    compute = _transform(fun, argnums, has_aux, holomorphic, allow_int, order, format, value=False)

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
    compute = _transform(fun, argnums, has_aux, holomorphic, allow_int, order, format, value=True)

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
) -> Callable[..., Any]:
    """Hessian of `fun`: the Jacobian of its Jacobian; takes the place of `jax.hessian`.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        order: the elimination order of the outer Jacobian, on the graph of the inner one.
        format: as for `jacobian`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> jax_cce.hessian(lambda x: x[0] ** 3 * x[1])(jnp.array([1.0, 2.0]))
        Array([[12.,  3.],
               [ 3.,  0.]], dtype=float32)
    """
    inner = jacobian(fun, argnums, has_aux, holomorphic)
    dense = jacobian(inner, argnums, has_aux, holomorphic, order=order)
    if _check_format(format) == "dense":
        return dense
    gradient = _transform(
        inner, argnums, has_aux, holomorphic, False, order, format, value=False, symmetric=True
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
                varied = [args[k] for k in _positions(argnums, len(args))]
                leaves, trees = jax.tree.flatten(varied[0] if _is_index(argnums) else varied)
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
    _check_callable(fun)
    checked = orders.check(order)
    sparse = _check_format(format) != "dense"

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        call = _Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        traced = _trace(call, hoist=False)
        known = folding.known_constants(traced.program, traced.constants, sparse=sparse)
        return _plan(traced, known, holomorphic, sparse, checked)

    def plan_fun(*args: Any, **kwargs: Any) -> Plan:
        leaves, tree = tree_flatten((args, kwargs))
        shapes = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]
        made: list[Plan] = []

        def abstractly(*tracers: Any) -> None:
            for k, tracer in zip(shapes, tracers, strict=True):
                leaves[k] = tracer
            made.append(planned(*tree_unflatten(tree, leaves)))

        jax.eval_shape(abstractly, *(leaves[k] for k in shapes))
        return made[0]

    return plan_fun


class _Traced(NamedTuple):
    """A traced function: its program and what puts the results back into trees.

    Attributes:
        program: its inputs are the leaves; its outputs the values' leaves, then traced aux leaves.
        constants: values of its constants.
        num_values: how many outputs are to be differentiated.
        value_tree: tree structure of the value.
        aux: puts the traced leaves of the auxiliary data back among the static ones.
    """

    program: tracing.Program
    constants: list[Any]
    num_values: int
    value_tree: Any
    aux: Callable[[Sequence[Any]], Any]


class _Call:
    """One call of a transformed function: the checked and flattened arguments."""

    def __init__(
        self,
        fun: Callable[..., Any],
        argnums: Any,
        has_aux: bool,
        holomorphic: bool,
        allow_int: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.fun, self.has_aux, self.holomorphic = fun, has_aux, holomorphic
        self.args, self.kwargs, self.argnums = args, kwargs, argnums
        self.positions = _positions(argnums, len(args))
        varied = tuple(args[position] for position in self.positions)
        self.leaves, self.tree = tree_flatten(varied)
        self.avals = []
        for index, leaf in enumerate(self.leaves):
            aval = _typeof(leaf)
            problem = _input_problem(aval, holomorphic, allow_int)
            if problem:
                path, _ = tree_flatten_with_path(varied)[0][index]
                at = f"argument {self.positions[path[0].idx]}{keystr(path[1:])}"
                raise TypeError(f"{problem} (at {at}).")
            self.avals.append(aval)

    def run(self, leaves: Sequence[Any]) -> tuple[list[Any], Any, list[Any], Any]:
        """Runs the user's function: leaves and tree of the value, leaves and tree of the aux."""
        full = list(self.args)
        varied = tree_unflatten(self.tree, leaves)
        for position, value in zip(self.positions, varied, strict=True):
            full[position] = value
        value = self.fun(*full, **self.kwargs)
        aux = None
        if self.has_aux:
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise TypeError(
                    "jacobian with has_aux=True expects fun to return a pair (output, auxiliary "
                    f"data), but it returned {type(value).__name__}: {value!r}."
                )
            value, aux = value
        value_leaves, value_tree = tree_flatten(value)
        for leaf in value_leaves:
            problem = _output_problem(_typeof(leaf), self.holomorphic)
            if problem:
                raise TypeError(problem)
        return value_leaves, value_tree, *tree_flatten(aux)


def _transform(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    order: Order,
    format: Format,
    *,
    value: bool,
    symmetric: bool = False,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]:
    """The common part of the transformations: (args, kwargs) -> (value, Jacobian, aux)."""
    _check_callable(fun)
    checked = orders.check(order)
    _check_format(format)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        call = _Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        staged = any(map(tracing.is_staged, call.leaves))
        try:
            traced = _trace(call, hoist=not staged)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ):
            if staged:
                raise
            return _at_value(call, checked, format)
        how = _How(checked, holomorphic, format, value, symmetric)
        outputs, blocks = _execute(traced, call.avals, call.leaves, how)
        leaves = outputs[: traced.num_values] if value else []
        return (
            tree_unflatten(traced.value_tree, leaves) if value else None,
            _as_tree(blocks, call, traced.value_tree),
            traced.aux(outputs[len(leaves) :]),
        )

    return compute


def _trace(call: _Call, *, hoist: bool) -> _Traced:
    value_tree, aux_tree, num_values = None, None, 0
    static_aux: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        nonlocal value_tree, aux_tree, num_values, static_aux
        values, value_tree, aux, aux_tree = call.run(leaves)
        num_values = len(values)
        static_aux = [None if tracing.is_tracer(leaf) else leaf for leaf in aux]
        traced_aux = [leaf for leaf in aux if tracing.is_tracer(leaf)]
        moving[:] = [tracing.is_tracer(leaf) for leaf in aux]
        return [*values, *traced_aux]

    moving: list[bool] = []
    program, constants = tracing.trace(flat, call.leaves, hoist=hoist)

    def aux_of(traced_leaves: Sequence[Any]) -> Any:
        fresh = iter(traced_leaves)
        return tree_unflatten(
            aux_tree,
            [next(fresh) if m else leaf for m, leaf in zip(moving, static_aux, strict=True)],
        )

    return _Traced(program, constants, num_values, value_tree, aux_of)


def _plan(
    traced: _Traced,
    known: Mapping[int, np.ndarray],
    holomorphic: bool,
    sparse: bool,
    order: str | tuple[int, ...],
) -> Plan:
    """The plan of a traced function, its small arrays taken apart where that is cheaper."""
    program = folding.fold(traced.program, known, sparse=sparse)
    names = [
        name for name in range(program.num_inputs) if tracing.is_differentiable(program.avals[name])
    ]

    def build(program: tracing.Program) -> graph.Graph:
        outputs = program.outputs[: traced.num_values]
        return graph.build(program, names, outputs, holomorphic=holomorphic, sparse=sparse)

    expanded = None if holomorphic else entries.expand(program)
    if expanded is None:
        return plans.make(build(program), order)
    candidates = [plans.make(build(one), "auto") for one in (program, expanded)]
    cheapest = min(candidates, key=lambda made: made.cost("flops"))
    return cheapest if order == "auto" else plans.make(cheapest.graph, order)


class _How(NamedTuple):
    """What is asked of a traced function."""

    order: str | tuple[int, ...]
    holomorphic: bool
    format: Format
    value: bool
    symmetric: bool = False


def _execute(
    traced: _Traced, avals: Sequence[Any], leaves: Sequence[Any], how: _How
) -> tuple[list[Any], list[list[Any]]]:
    """The program's outputs (without `value`, the auxiliary ones only) and its blocks.

    Under jit the operations go into the surrounding trace. Elsewhere the compiled program for this
    canonical jaxpr runs; the first call compiles it.
    """
    if how.format == "dense":
        _check_memory(traced, avals)

    sparse = how.format != "dense"
    known = folding.known_constants(traced.program, traced.constants, sparse=sparse)

    def build(traced: _Traced) -> Callable[..., Any]:
        made = _plan(traced, known, how.holomorphic, sparse, how.order)

        def jacobian_program(constants: Any, leaves: Any) -> Any:
            outputs, blocks = _results(traced, avals, made, how, constants, leaves)
            return outputs if how.value else outputs[traced.num_values :], blocks

        return jacobian_program

    if any(map(tracing.is_staged, (*leaves, *traced.constants))):
        outputs, blocks = build(traced)(traced.constants, leaves)
    else:
        # The cache must keep neither the constants of its first call nor its auxiliary data.
        bare = traced._replace(constants=[], aux=_no_aux)
        key = programs.key(traced.program), folding.key(known), traced.num_values, how
        compiled = programs.compiled(key, lambda: jax.jit(build(bare)))
        outputs, blocks = compiled(traced.constants, leaves)
    return outputs, [
        [block.to_bcoo() if isinstance(block, Coordinates) else block for block in row]
        for row in blocks
    ]


def _check_memory(traced: _Traced, avals: Sequence[Any]) -> None:
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


def _no_aux(leaves: Sequence[Any]) -> None:
    return None


def _results(
    traced: _Traced,
    avals: Sequence[Any],
    made: Plan,
    how: _How,
    constants: Sequence[Any],
    leaves: Any,
) -> tuple[list[Any], list[list[Any]]]:
    """The outputs, and for each value leaf the list of blocks over input leaves."""
    outputs, found = emit(made, constants, leaves)
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


def _at_value(call: _Call, order: str | tuple[int, ...], format: Format) -> tuple[Any, Any, Any]:
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
        traced = _Traced(program, constants, len(chosen), None, _no_aux)
        zeros = [lax.full(aval.shape, 0, aval.dtype) for aval in out_avals]
        how = _How(order, call.holomorphic, "structured", False)
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


def _as_tree(blocks: Sequence[Sequence[Any]], call: _Call, value_tree: Any) -> Any:
    single = _is_index(call.argnums)
    rows = []
    for row in blocks:
        tree = tree_unflatten(call.tree, row)
        rows.append(tree[0] if single else tree)
    return tree_unflatten(value_tree, rows)


def _is_index(argnums: Any) -> bool:
    try:
        operator.index(argnums)
    except TypeError:
        return False
    return True


def _check_callable(fun: Any) -> None:
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun!r}.")


def _check_format(format: Any) -> Any:
    if format not in get_args(Format):
        names = ", ".join(map(repr, get_args(Format)))
        raise ValueError(f"format must be one of {names}, but got {format!r}.")
    return format


def _positions(argnums: Any, num_args: int) -> tuple[int, ...]:
    """The differentiated positional arguments, as nonnegative positions.

    Raises:
        TypeError: if `argnums` is neither an integer nor a sequence of integers.
        ValueError: if one is out of range or repeated.
    """
    try:
        received = (
            (operator.index(argnums),)
            if _is_index(argnums)
            else tuple(operator.index(k) for k in argnums)
        )
    except TypeError as error:
        raise TypeError(
            f"argnums must be an integer or a sequence of integers, but got {argnums!r}."
        ) from error
    for position in received:
        if not -num_args <= position < num_args:
            raise ValueError(
                "argnums must be greater than or equal to -len(args) and less than len(args), "
                f"but got value {position} for len(args) == {num_args}."
            )
    positions = tuple(position % num_args for position in received)
    if len(set(positions)) != len(positions):
        raise ValueError(
            f"argnums must name each argument once, but got {argnums!r} for {num_args} arguments."
        )
    return positions


def _typeof(leaf: Any) -> Any:
    try:
        return jax.typeof(leaf)
    except TypeError:
        raise TypeError(
            f"Argument '{leaf}' of type {type(leaf)} is not a valid JAX type."
        ) from None


def _input_problem(aval: Any, holomorphic: bool, allow_int: bool) -> str | None:
    """What `jax.jacrev` would object to in an input; None if nothing."""
    dtype = aval.dtype
    if holomorphic and not jnp.issubdtype(dtype, np.complexfloating):
        return (
            "jacobian with holomorphic=True requires inputs with complex dtype, but got "
            f"{dtype.name}"
        )
    if (
        jnp.issubdtype(dtype, jax.dtypes.extended)
        or jnp.issubdtype(dtype, np.integer)
        or jnp.issubdtype(dtype, np.bool_)
    ):
        if not allow_int:
            return (
                "jacobian requires real- or complex-valued inputs (input dtype that is a "
                f"sub-dtype of np.inexact), but got {dtype.name}. If you want to use Boolean- or "
                "integer-valued inputs, set allow_int to True"
            )
    elif jnp.issubdtype(dtype, np.complexfloating) and not holomorphic:
        return None  # the output decides, as for jax.jacrev
    return None


def _output_problem(aval: Any, holomorphic: bool) -> str | None:
    """What `jax.jacrev` would object to in an output; None if nothing."""
    dtype = aval.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return f"jacobian with output element type {dtype.name}."
    if holomorphic:
        if jnp.issubdtype(dtype, np.complexfloating):
            return None
        return (
            "jacobian with holomorphic=True requires outputs with complex dtype, but got "
            f"{dtype.name}."
        )
    requires = (
        "jacobian requires real-valued outputs (output dtype that is a sub-dtype of np.floating), "
        f"but got {dtype.name}. "
    )
    if jnp.issubdtype(dtype, np.complexfloating):
        return requires + "For holomorphic differentiation, pass holomorphic=True."
    if not jnp.issubdtype(dtype, np.floating):
        return requires + "For functions with integer outputs, return them with has_aux=True."
    return None
