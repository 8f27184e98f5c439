"""Laplacians and curvatures: second derivatives of which no Hessian is wanted.

The Laplacian of f is the sum over the diagonal of its Hessian. Two ways lead to it. One takes the
diagonal of the structured Hessian, of which nothing else is then computed: that is the cheaper one
where each term of f has few inputs. The other sends the values, their Jacobian and their Laplacian
through f at once. For y = F(u) with u a function of x, the chain rule says

    dy/dx_k = F'(u) du/dx_k
    Δy      = F'(u) Δu + sum over k of F''(u)[du/dx_k, du/dx_k]

so that what is linear is applied to one Laplacian, where a Hessian would need each of its columns.

Source: Li, Ye, Jiang, Wen, Wang, Liu, Ren, Li, He, Wang & Chen, "A computational framework for
neural network-based variational Monte Carlo with Forward Laplacian", Nature Machine Intelligence 6
(2024), arXiv:2307.08214.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.hessian import hessian_by
from jax_cce.planning import running
from jax_cce.planning.options import Options
from jax_cce.program import calls, passes, tracing
from jax_cce.program.calls import Call, Contract, Traced
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.derivatives import has_custom
from jax_cce.rules.linearity import Dependence, dependence
from jax_cce.rules.steps import work_of
from jax_cce.sparse.formats import STRUCTURED

__all__ = ["LaplacianMethod", "curvature", "forward_laplacian", "laplacian"]

_log = logging.getLogger("jax_cce")

LaplacianMethod = Literal["auto", "forward", "hessian"]


def laplacian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    method: LaplacianMethod = "auto",
) -> Callable[..., Any]:
    """Laplacian of `fun`: the sum of its second derivatives by each of its inputs.

    Call it under `jax.jit`, as other transformations of JAX: outside of it operations run one by
    one.

    Args:
        fun: a function of real arrays or pytrees of them, which returns real or complex ones.
        argnums: which positional argument or arguments the Laplacian sums over.
        has_aux: whether `fun` returns a pair, of which the second is auxiliary data.
        method: "forward": values, Jacobians and Laplacians go through the function together.
            "hessian": the diagonal of the structured Hessian, which computes no other entry of it.
            "auto": whichever takes fewer operations; both are traced for that.

    Returns:
        A function with the arguments of `fun` that returns the Laplacian, or the pair (Laplacian,
        auxiliary data). The Laplacian has the tree, the shapes and the dtypes of the output.

    Raises:
        TypeError: for inputs that are not real floating-point numbers, and where `jax.jacfwd` of
            `jax.jacrev` raises it. "forward" needs forward mode, which a `jax.custom_vjp` lacks.
        ValueError: for argnums out of range or repeated, and another method.

    Source: as for `forward_laplacian`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> print(jax_cce.laplacian(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0])))
        18.0
        >>> many = jnp.ones(10_000)  # no 10 000 x 10 000 Hessian is formed
        >>> print(jax.jit(jax_cce.laplacian(lambda x: jnp.sum(x[1:] * x[:-1] ** 2)))(many))
        19998.0
    """
    calls.check_callable(fun)
    if method not in get_args(LaplacianMethod):
        raise ValueError(f"method must be one of {get_args(LaplacianMethod)}, but got {method!r}.")

    @functools.wraps(fun)
    def laplacian_fun(*args: Any, **kwargs: Any) -> Any:
        call = _call("laplacian", fun, Contract(argnums, has_aux), args, kwargs)
        _, _, result, aux = _computed(call, method)
        return (result, aux) if has_aux else result

    return laplacian_fun


def forward_laplacian(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Value, Jacobian and Laplacian of `fun` together, in one pass forwards.

    Takes the arguments of `laplacian`. All n columns of the Jacobians of intermediate values are
    alive at a time; where f is a sum of functions of few inputs, `laplacian` takes less.

    Returns:
        A function that returns (value, Jacobian, Laplacian), or with `has_aux` ((value, auxiliary
        data), Jacobian, Laplacian). The Jacobian is that of `jax.jacfwd`, which is the gradient
        where the output is a scalar.

    Raises:
        TypeError: as for `laplacian`.
        ValueError: for argnums out of range or repeated.

    Source: Li et al., "A computational framework for neural network-based variational Monte Carlo
    with Forward Laplacian", arXiv:2307.08214 (2023).

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: jnp.prod(x) ** 2
        >>> value, grad, lap = jax_cce.forward_laplacian(f)(jnp.array([1.0, 2.0]))
        >>> print(value, grad, lap)
        4.0 [8. 4.] 10.0
    """
    calls.check_callable(fun)

    @functools.wraps(fun)
    def forward_laplacian_fun(*args: Any, **kwargs: Any) -> Any:
        call = _call("forward_laplacian", fun, Contract(argnums, has_aux), args, kwargs)
        value, jacobian, result, aux = _computed(call, None)
        return ((value, aux) if has_aux else value), jacobian, result

    return forward_laplacian_fun


def curvature(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """The first and the second derivative of `fun` along a direction: J v, and H[v, v].

    For a scalar function the latter is vᵀ H v. No Hessian is formed: the cost is that of a few
    evaluations. `jax.vmap` over `tangents` gives it for many directions.

    Args:
        fun: as for `jax.jvp`.
        primals: the arguments of `fun`, as for `jax.jvp`.
        tangents: the direction, of the same structure, as for `jax.jvp`.

    Returns:
        The value of `fun` at `primals`, its first and its second derivative at t = 0 along
        primals + t * tangents, all three of the output's tree and shapes.

    Raises:
        TypeError: what `jax.jvp` refuses, functions with a `jax.custom_vjp` among it.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[0] ** 3 * x[1]
        >>> x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
        >>> value, slope, second = jax_cce.curvature(f, (x,), (v,))
        >>> print(value, slope, second)
        2.0 5.0 6.0
    """

    def along(*at: Any) -> tuple[Any, Any]:
        return jax.jvp(fun, at, tuple(tangents))

    (value, slope), (_, second) = jax.jvp(along, tuple(primals), tuple(tangents))
    return value, slope, second


class _Moving(NamedTuple):
    """A value with its derivatives.

    Attributes:
        value: the value.
        columns: the derivative by each input, along a new first axis; None where it is zero.
        laplacian: the Laplacian, of the shape of the value; None where it is zero.
    """

    value: Any
    columns: Any = None
    laplacian: Any = None


def _call(name: str, fun: Any, contract: Contract, args: Any, kwargs: Any) -> Call:
    call = Call(fun, contract, args, kwargs)
    for aval in call.avals:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"{name} requires inputs of real dtypes, but got {aval.dtype.name}. Pass the real "
                "and the imaginary part as two inputs."
            )
    return call


def _computed(call: Call, method: str | None) -> tuple[Any, Any, Any, Any]:
    """Value, Jacobian, Laplacian and auxiliary data of a call.

    Args:
        call: the call.
        method: as for `laplacian`, of which value and Jacobian are None; None for all of it.
    """
    try:
        traced = calls.trace_call(call, hoist=False)
    except Exception as error:
        if not running.why_left_to_jax(error):
            raise
        return _while_running(call)
    count, tree = traced.num_values, traced.value_tree
    if method is None:
        outputs = _forwards(traced, call.leaves)
        aux = traced.aux([each.value for each in outputs[count:]])
        return (*_as_trees(call, outputs[:count], tree), aux)
    ways: dict[str, _Way] = {"forward": _by_forwards, "hessian": _by_hessian}
    if method == "auto":
        results = _cheapest(call, traced, ways)
    else:
        results = ways[method](traced, call.leaves)
    return None, None, jax.tree.unflatten(tree, results[:count]), traced.aux(results[count:])


# From a function and its inputs to the Laplacians of its outputs, and its auxiliary outputs.
_Way = Callable[[Traced, Sequence[Any]], list[Any]]


def _cheapest(call: Call, traced: Traced, ways: dict[str, _Way]) -> list[Any]:
    """What the way gives that takes the fewest operations."""
    found: dict[str, tuple[float, Program, list[Any]]] = {}
    failures: list[Exception] = []
    for name, way in ways.items():

        def of_leaves(*leaves: Any, way: _Way = way) -> list[Any]:
            return way(traced, leaves)

        try:
            program, constants = tracing.trace(of_leaves, call.leaves)
        except Exception as error:  # such as forward mode of a custom_vjp
            failures.append(error)
            continue
        found[name] = work_of(program.equations), program, constants
    if not found:
        raise failures[0]
    name = min(found, key=lambda each: found[each][0])
    costs = ", ".join(f"{each} {cost:.0f}" for each, (cost, *_) in found.items())
    _log.info("Laplacian of %s: %s (operations: %s)", call.name, name, costs)
    _, program, constants = found[name]
    return passes.evaluate(program, constants, call.leaves)


def _by_hessian(traced: Traced, leaves: Sequence[Any]) -> list[Any]:
    """The traces of the structured Hessians of a function, and its auxiliary outputs."""
    count, inputs = traced.num_values, tuple(range(len(leaves)))

    def function(*leaves: Any) -> tuple[list[Any], list[Any]]:
        outputs = passes.evaluate(traced.program, traced.constants, leaves)
        return outputs[:count], outputs[count:]

    options = Options(Contract(inputs, has_aux=True), format=STRUCTURED)
    hessian, _, aux = hessian_by(function, options)(tuple(leaves), {})
    results = []
    for aval, rows in zip(traced.values, hessian, strict=True):
        total = jax_internals.zeros(aval)
        for k in inputs:
            total = total + jnp.asarray(rows[k][k].trace(), aval.dtype)
        results.append(total)
    return [*results, *aux]


def _by_forwards(traced: Traced, leaves: Sequence[Any]) -> list[Any]:
    """The Laplacians that forward Laplacians give, and the auxiliary outputs."""
    outputs, count = _forwards(traced, leaves), traced.num_values
    laplacians = [_or_zeros(each.laplacian, each.value) for each in outputs[:count]]
    return [*laplacians, *(each.value for each in outputs[count:])]


def _forwards(traced: Traced, leaves: Sequence[Any]) -> list[_Moving]:
    """The outputs with their derivatives."""
    size = sum(map(np.size, leaves))
    return _propagated(traced.program, traced.constants, _seeded(leaves), size)


def _while_running(call: Call) -> tuple[Any, Any, Any, Any]:
    """Value, Jacobian, Laplacian and auxiliary data of a function that cannot be traced.

    It is run on its values, as one equation would be.
    """
    trees: list[Any] = []

    def function(*leaves: Any) -> list[Any]:
        values, value_tree, aux, aux_tree = call.run(leaves)
        trees[:] = [value_tree, aux_tree, aux]
        return values

    results = _derived(function, _seeded(call.leaves))
    # Without what differentiates it.
    function(*call.leaves)
    value_tree, aux_tree, aux = trees
    return (*_as_trees(call, results, value_tree), jax.tree.unflatten(aux_tree, aux))


def _as_trees(call: Call, outputs: Sequence[_Moving], tree: Any) -> tuple[Any, Any, Any]:
    """Value, Jacobian and Laplacian in their trees."""
    jacobian = []
    sizes = [jax_internals.size(aval) for aval in call.avals]
    for value, columns, _ in outputs:
        shape = np.shape(value)
        if columns is None:
            columns = jnp.zeros((sum(sizes), *shape), jnp.result_type(value))
        blocks = []
        for aval, end, size in zip(call.avals, itertools.accumulate(sizes), sizes, strict=True):
            part = jnp.moveaxis(columns[end - size : end], 0, -1)
            blocks.append(jnp.reshape(part, (*shape, *aval.shape)))
        by_argument = jax.tree.unflatten(call.tree, blocks)
        jacobian.append(by_argument[0] if calls.is_index(call.contract.argnums) else by_argument)
    return (
        jax.tree.unflatten(tree, [each.value for each in outputs]),
        jax.tree.unflatten(tree, jacobian),
        jax.tree.unflatten(tree, [_or_zeros(each.laplacian, each.value) for each in outputs]),
    )


def _or_zeros(array: Any, like: Any) -> Any:
    return jnp.zeros_like(like) if array is None else array


def _seeded(leaves: Sequence[Any]) -> list[_Moving]:
    """The inputs: their Jacobian is the identity, their Laplacian zero."""
    count, first = sum(map(np.size, leaves)), 0
    seeds = []
    for leaf in leaves:
        shape, size, dtype = np.shape(leaf), np.size(leaf), jnp.result_type(leaf)
        unit = jnp.eye(count, size, -first, dtype=dtype)
        seeds.append(_Moving(leaf, jnp.reshape(unit, (count, *shape))))
        first += size
    return seeds


def _propagated(
    program: Program, constants: Sequence[Any], inputs: Sequence[_Moving], count: int
) -> list[_Moving]:
    """The outputs of a program with their derivatives, from its inputs with theirs.

    Args:
        program: the program.
        constants: values of its constants.
        inputs: the inputs.
        count: by how many numbers all is differentiated.
    """
    at: list[Any] = passes.values(program, list(map(_Moving, constants)), inputs)
    for equation in program.equations:
        operands = [
            _Moving(atom.val) if isinstance(atom, jax_internals.Literal) else at[atom]
            for atom in equation.inputs
        ]
        if all(each.columns is None for each in operands):
            values = [each.value for each in operands]
            results = list(map(_Moving, jax_internals.bind(equation, values)))
        elif equation.name == "scan":
            results = _scanned(equation, operands, count)
        else:
            results = _of_equation(equation, operands)
        for name, result in zip(equation.outputs, results, strict=True):
            at[name] = result
    return [
        _Moving(atom.val) if isinstance(atom, jax_internals.Literal) else at[atom]
        for atom in program.outputs
    ]


def _of_equation(equation: Equation, operands: Sequence[_Moving]) -> list[_Moving]:
    """The results of an equation that depends on the inputs."""
    if "custom_vjp_call" in tracing.primitive_names([equation]):
        raise TypeError(
            "A forward Laplacian needs forward mode, which a jax.custom_vjp function lacks. Use "
            'jax_cce.laplacian(..., method="hessian").'
        )
    moving = [k for k, each in enumerate(operands) if each.columns is not None]

    def function(*varied: Any) -> Sequence[Any]:
        values = [each.value for each in operands]
        for k, value in zip(moving, varied, strict=True):
            values[k] = value
        return jax_internals.bind(equation, values)

    linear = _is_linear(equation, moving)
    return _derived(function, [operands[k] for k in moving], linear=linear)


def _is_linear(equation: Equation, moving: Sequence[int]) -> bool:
    """Whether the results are linear in some operands together."""
    if has_custom([equation]):
        return False  # by its values it may be
    count = len(equation.inputs)
    inputs = tuple(
        atom if isinstance(atom, jax_internals.Literal) else k
        for k, atom in enumerate(equation.inputs)
    )
    outputs = tuple(range(count, count + len(equation.outputs)))
    alone = dataclasses.replace(equation, inputs=inputs, outputs=outputs)
    avals = [*equation.in_avals, *equation.out_avals]
    program = Program(avals, count, 0, [alone], outputs)
    return {Dependence.ZERO, Dependence.LINEAR}.issuperset(dependence(program, (), moving, outputs))


def _derived(
    function: Callable[..., Sequence[Any]], operands: Sequence[_Moving], *, linear: bool = False
) -> list[_Moving]:
    """The results of a function with their derivatives, by the chain rule.

    Args:
        function: a function of arrays, which returns a list of arrays.
        operands: what it is applied to, all with columns.
        linear: whether it is known to be linear.
    """
    at = tuple(each.value for each in operands)
    columns = tuple(each.columns for each in operands)
    if all(each.laplacian is None for each in operands):
        values = function(*at)
        laplacians: list[Any] = [None] * len(values)
    else:
        own = tuple(_or_zeros(each.laplacian, each.value) for each in operands)
        values, laplacians = jax.jvp(function, at, own)
    smooth = [k for k, x in enumerate(values) if jax_internals.is_differentiable(jax.typeof(x))]

    def along(tangents: Sequence[Any]) -> Any:
        def slope(*at: Any) -> list[Any]:
            slopes = jax.jvp(function, at, tangents)[1]
            return [slopes[k] for k in smooth]

        return (slope(*at), None) if linear else jax.jvp(slope, at, tangents)

    slopes, seconds = jax.vmap(along)(columns)
    results = list(map(_Moving, values))
    for at_result, (k, slope) in enumerate(zip(smooth, slopes, strict=True)):
        laplacian = laplacians[k]
        if seconds is not None:
            second = jnp.sum(seconds[at_result], axis=0)
            laplacian = second if laplacian is None else laplacian + second
        results[k] = _Moving(values[k], slope, laplacian)
    return results


def _scanned(equation: Equation, operands: Sequence[_Moving], count: int) -> list[_Moving]:
    """The results of a scan: one that carries the derivatives of its state, too."""
    consts, carry = jax_internals.scan_counts(equation)
    params = equation.params
    body, constants = tracing.flatten_closed(params["jaxpr"])
    moves = _moving_states(body, [each.columns is not None for each in operands], consts, carry)

    def whole(each: _Moving, does_move: bool) -> _Moving:
        """With derivatives, zeros among them, or without."""
        value = jnp.asarray(each.value)
        if not does_move:
            return _Moving(value)
        columns = each.columns
        if columns is None:
            columns = jnp.zeros((count, *value.shape), value.dtype)
        return _Moving(value, columns, _or_zeros(each.laplacian, value))

    fixed, start = operands[:consts], operands[consts : consts + carry]

    def step(state: Any, each: Any) -> tuple[list[_Moving], list[_Moving]]:
        results = _propagated(body, constants, [*fixed, *state, *each], count)
        return list(map(whole, results[:carry], moves)), results[carry:]

    slices = [_columns_moved(each, 0, 1) for each in operands[consts + carry :]]
    facts = {name: params[name] for name in ("length", "reverse", "unroll")}
    with jax_internals.context_of(equation):
        state, stacks = lax.scan(step, list(map(whole, start, moves)), slices, **facts)
    return [*state, *(_columns_moved(each, 1, 0) for each in stacks)]


def _columns_moved(each: _Moving, source: int, destination: int) -> _Moving:
    """A value whose columns lie along another axis."""
    if each.columns is None:
        return each
    return each._replace(columns=jnp.moveaxis(each.columns, source, destination))


def _moving_states(body: Program, moves: Sequence[bool], consts: int, carry: int) -> list[bool]:
    """Which states of a scan come to depend on the inputs in some step.

    Args:
        body: the program of a step.
        moves: which operands of the scan do.
        consts: how many operands come before the states.
        carry: how many states there are.
    """
    moves = list(moves)
    while True:
        varied = [name for name, does_move in enumerate(moves) if does_move]
        _, reached = passes.dependent(body.equations, varied)
        states = moves[consts : consts + carry]
        for k, atom in enumerate(body.outputs[:carry]):
            if not isinstance(atom, jax_internals.Literal) and atom in reached:
                states[k] = jax_internals.is_differentiable(body.aval(atom))
        if states == moves[consts : consts + carry]:
            return states
        moves[consts : consts + carry] = states
