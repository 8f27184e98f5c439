"""The public transformations: estimates of the derivatives of expectations."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.api import jacobian as exact_jacobian
from jax_cce.planning import running
from jax_cce.program import calls
from jax_cce.program.calls import Call, Contract, Traced
from jax_cce.sparse.structured import StructuredJacobian
from jax_cce.stochastic import facts as known
from jax_cce.stochastic.draws import draw_of
from jax_cce.stochastic.held import DrawsInLoop, Held, Record, Smoothed
from jax_cce.stochastic.held import Lane as HeldLane
from jax_cce.stochastic.jumps import Side, Sides
from jax_cce.stochastic.recognition import with_draws
from jax_cce.stochastic.worlds import Chosen, Lane, Reservoir, State, Worlds, beginning

__all__ = [
    "Mode",
    "derivative",
    "jacobian",
    "value_and_derivative",
    "value_and_jacobian",
]

Mode = Literal["unbiased", "smoothed"]

_KINDS = ("bernoulli", "binomial", "categorical", "geometric", "poisson")

# Up to so many entries the rows of the draws are a dense matrix, which all ways of computing a
# Jacobian compete for.
_DENSE = 1 << 18


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    alternatives: int = 1,
    mode: Mode = "unbiased",
    side: Sides = "auto",
) -> Callable[..., Any]:
    """An unbiased estimate of the Jacobian of E[fun(*args)], where `fun` makes discrete draws.

    `fun` draws with the functions of this module, or with `jax.random.bernoulli`, `poisson` and
    `geometric`, and is run with the keys that it is given. Its Jacobian with all samples held is
    exact. To it is added what the samples contribute: one draw jumps to another outcome, what
    follows is replayed with the same random numbers, and the difference of the results is
    weighed. The rows ∂p of all draws by all parameters are one Jacobian of this package; draw i is
    chosen in proportion to ‖c_i ∂p_i‖, and that one alternative serves all parameters:

        J = ∂f + (f(Y_i) - f(X)) ⊗ c_i ∂p_i / q_i.

    Call it under `jax.jit`.

    Args:
        fun: a function as for `jax_cce.jacobian`, with real inputs. Keys are arguments that are
            not differentiated, or closed over. Each draw needs a key of its own.
        argnums: which positional argument or arguments of `fun` are differentiated.
        has_aux: whether `fun` returns a pair, of which the second is auxiliary data.
        alternatives: over how many alternatives the estimate is a mean. All belong to one run of
            `fun`; `jax.vmap` over keys has many.
        mode: "unbiased", or "smoothed": each sample moves by the expectation of its jump, and all
            that follows is taken as linear in it. That is biased unless it is, and never noisier
            for other draws.
        side: "right" or "left", for all draws or by the name of the draw: see the table in the
            reference. Or "winners" for categorical draws, in `derivative` only. "auto" takes what
            varied least.

    Returns:
        A function of a key for the choice of alternatives, which must not be one that `fun` uses,
        and then of the arguments of `fun`. It returns the estimate, in the form of `jax.jacrev`,
        or the pair (estimate, auxiliary data). Where `fun` draws nothing that depends on its
        parameters it is exact.

    Raises:
        TypeError: for what `jax_cce.jacobian` refuses, for complex inputs, where the number of
            trials of a binomial draw is differentiated, and where an estimate is differentiated.
        ValueError: for argnums out of range or repeated, another mode or side, and less than one
            alternative.
        NotImplementedError: for draws in places that no alternative can be run through, and for
            draws of `jax.random` that are seen, but not known how to differentiate.

    Warns:
        UserWarning: where the program makes a draw by hand, comparing random numbers with
            parameters, so that a part of the derivative is lost.

    References:
        Arya, Schauer, Schäfer & Rackauckas, Automatic differentiation of programs with discrete
        randomness, NeurIPS 2022.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import stochastic
        >>> def heads(key, p):
        ...     return jnp.sum(stochastic.bernoulli(key, p, (8,)) * 1.0) ** 2
        >>> slope = jax.jit(jax.vmap(stochastic.jacobian(heads, argnums=1), (0, 0, None)))
        >>> keys = jax.random.split(jax.random.key(0), (2, 40_000))
        >>> print(slope(*keys, 0.25).mean().round(0))  # 8 + 2 · 8 · 7 · 0.25
        36.0
    """
    options = _Options.checked(alternatives, mode, side, linear=True)
    compute = _jacobian(fun, argnums, has_aux, options)

    @functools.wraps(fun)
    def jacobian_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        _, result, aux = compute(key, args, kwargs)
        return (result, aux) if has_aux else result

    return jacobian_fun


def value_and_jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    alternatives: int = 1,
    mode: Mode = "unbiased",
    side: Sides = "auto",
) -> Callable[..., Any]:
    """The value of `fun` with its samples, and the estimate of `jacobian`.

    Takes the arguments of `jacobian`.

    Returns:
        A function that returns (value, estimate), or with `has_aux` ((value, auxiliary data),
        estimate).

    Raises:
        TypeError: as `jacobian`, and so for the others.
        ValueError: see there.
        NotImplementedError: see there.
    """
    options = _Options.checked(alternatives, mode, side, linear=True)
    compute = _jacobian(fun, argnums, has_aux, options)

    @functools.wraps(fun)
    def value_and_jacobian_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        value, result, aux = compute(key, args, kwargs)
        return ((value, aux) if has_aux else value), result

    return value_and_jacobian_fun


def derivative(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    alternatives: int = 1,
    mode: Mode = "unbiased",
    side: Sides = "auto",
) -> Callable[..., Any]:
    """An unbiased estimate of the derivative of E[fun(*args)] along a direction, in one pass.

    In forward mode: values, tangents and the alternative go through the program together. At each
    draw the alternative is replaced in proportion to the weights so far, so that loops of any
    length carry two states and one weight. `jax.vmap` over directions has several; each chooses
    alternatives of its own, where `jacobian` has one for all.

    Args:
        fun: as for `jacobian`, and so is all else. It needs forward mode.
        argnums: see there.
        has_aux: see there.
        alternatives: see there.
        mode: see there.
        side: see there.

    Returns:
        A function of a key for the choice of alternatives, of the direction, and then of the
        arguments of `fun`. The direction is like the argument at `argnums`, or a tuple of such. It
        returns the estimate, like the value of `fun`, or the pair (estimate, auxiliary data).

    Raises:
        TypeError: as `jacobian`, and for a direction of another form than the arguments.
        ValueError: see there.
        NotImplementedError: see there.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax_cce import stochastic
        >>> def walk(key, p):
        ...     def step(x, key):
        ...         up = stochastic.bernoulli(key, jnp.exp(-x / p))
        ...         return x + 2.0 * up - 1, None
        ...     return jax.lax.scan(step, 0.0, jax.random.split(key, 100))[0] ** 2
        >>> estimate = stochastic.derivative(walk, argnums=1)
        >>> keys = jax.random.split(jax.random.key(0), (2, 20_000))
        >>> slopes = jax.jit(jax.vmap(estimate, (0, None, 0, None)))(keys[0], 1.0, keys[1], 50.0)
        >>> print(abs(slopes.mean() - 30.295) < 1)
        True
    """
    compute = _derivative(fun, argnums, has_aux, _Options.checked(alternatives, mode, side))

    @functools.wraps(fun)
    def derivative_fun(key: Any, direction: Any, *args: Any, **kwargs: Any) -> Any:
        _, result, aux = compute(key, direction, args, kwargs)
        return (result, aux) if has_aux else result

    return derivative_fun


def value_and_derivative(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    alternatives: int = 1,
    mode: Mode = "unbiased",
    side: Sides = "auto",
) -> Callable[..., Any]:
    """The value of `fun` with its samples, and the estimate of `derivative`.

    Takes the arguments of `derivative`.

    Returns:
        A function that returns (value, estimate), or with `has_aux` ((value, auxiliary data),
        estimate).

    Raises:
        TypeError: as `derivative`, and so for the others.
        ValueError: see there.
        NotImplementedError: see there.
    """
    compute = _derivative(fun, argnums, has_aux, _Options.checked(alternatives, mode, side))

    @functools.wraps(fun)
    def value_and_derivative_fun(key: Any, direction: Any, *args: Any, **kwargs: Any) -> Any:
        value, result, aux = compute(key, direction, args, kwargs)
        return ((value, aux) if has_aux else value), result

    return value_and_derivative_fun


class _Options(NamedTuple):
    """What an estimate is made of."""

    alternatives: int
    mode: Mode
    sides: Sides

    @classmethod
    def checked(
        cls, alternatives: Any, mode: Any, side: Any, *, linear: bool = False
    ) -> "_Options":
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, but got {mode!r}.")
        count = operator.index(alternatives)
        if count < 1:
            raise ValueError(f"alternatives must be a positive integer, but got {alternatives}.")
        by_kind = {"": side} if isinstance(side, str) else dict(side)
        for kind, each in by_kind.items():
            if each not in get_args(Side):
                raise ValueError(f"side must be one of {get_args(Side)}, but got {each!r}.")
            if each == "winners" and (linear or kind not in ("", "categorical")):
                raise ValueError(
                    'side="winners" is for categorical draws, and for `derivative` only: along '
                    "several directions there is no one alternative that it would choose."
                )
            if kind and kind not in _KINDS:
                raise ValueError(f"side knows the draws {_KINDS}, but got {kind!r}.")
        return cls(count, mode, side)


class _Program(NamedTuple):
    """A traced function of a call, and what is known of its inputs."""

    call: Call
    traced: Traced
    facts: list[known.Facts]

    @property
    def is_random(self) -> bool:
        """Whether something is drawn of which the distribution moves."""
        at: list[bool] = []

        def look(equation: Any, operands: Sequence[known.Facts]) -> None:
            moves = known.joined(operands[1:]) & known.MOVES
            at.append(draw_of(equation) is not None and bool(moves))

        known.of_variables(self.traced.program, self.facts, look)
        return any(at)


def _traced(name: str, fun: Any, contract: Contract, args: Any, kwargs: Any) -> _Program:
    calls.check_callable(fun)
    call = Call(fun, contract, args, kwargs)
    for aval in call.avals:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"stochastic.{name} requires inputs of real dtypes, but got {aval.dtype.name}. "
                "Pass the real and the imaginary part as two inputs."
            )
    try:
        traced = calls.trace_call(call, hoist=False, rewrite=with_draws)
    except Exception as error:
        why = running.why_left_to_jax(error)
        if not why:
            raise
        raise TypeError(
            f"stochastic.{name} has to trace {call.name}, which reads values while it runs "
            f"({why}). Use jax.lax.cond and loops in place of Python's."
        ) from error
    facts = [known.MOVES] * len(call.leaves)
    known.warn_of_lost_derivatives(traced.program, facts)
    return _Program(call, traced, facts)


_Computed = tuple[Any, Any, Any]


def _jacobian(
    fun: Any, argnums: Any, has_aux: bool, options: _Options
) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], _Computed]:
    """A function that computes value, estimate and auxiliary data."""
    contract = Contract(argnums, has_aux)

    def compute(key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Computed:
        program = _traced("jacobian", fun, contract, args, kwargs)
        traced = program.traced
        key = _checked_key(key)
        if options.mode == "smoothed" or not program.is_random:
            values, blocks, aux = _ordinary(program, options)
        else:
            try:
                values, blocks, aux = _chosen(program, key, options)
            except DrawsInLoop:
                values, blocks, aux = _by_columns(program, key, options)
        return (
            jax.tree.unflatten(traced.value_tree, values),
            _as_tree(program, blocks),
            traced.aux(aux),
        )

    return compute


def _checked_key(key: Any) -> Any:
    dtype = jnp.result_type(key)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if np.dtype(dtype) == np.uint32 and np.shape(key):
        return jax.random.wrap_key_data(key)
    raise TypeError(
        "The first argument is a key for the choice of alternatives, as of jax.random.key(0), "
        f"and then come those of the function; but got {jax.typeof(jnp.asarray(key))}."
    )


def _as_tree(program: _Program, blocks: Sequence[Sequence[Any]]) -> Any:
    """Rows of blocks, one for each output, in the form of `jax.jacrev`."""
    call = program.call
    of_outputs = []
    for row in blocks:
        by_argument = jax.tree.unflatten(call.tree, row)
        of_outputs.append(by_argument[0] if calls.is_index(call.contract.argnums) else by_argument)
    return jax.tree.unflatten(program.traced.value_tree, of_outputs)


# Values, rows of blocks, and auxiliary outputs.
_Blocks = tuple[list[Any], Sequence[Sequence[Any]], list[Any]]


def _ordinary(program: _Program, options: _Options) -> _Blocks:
    """The exact Jacobian of a world whose draws are held, or smoothed."""
    call, traced = program.call, program.traced
    count = traced.num_values
    interpreter = (Smoothed if options.mode == "smoothed" else Held)(options.sides)

    def function(*leaves: Any) -> tuple[list[Any], list[Any]]:
        lanes = list(map(HeldLane, leaves))
        outputs, _, _ = interpreter.run(
            traced.program, traced.constants, lanes, program.facts, None
        )
        values = [lane.value for lane in outputs]
        return values[:count], values

    every = tuple(range(len(call.leaves)))
    blocks, values = exact_jacobian(function, every, has_aux=True)(*call.leaves)
    if program.is_random:
        blocks, values = jax.tree.map(_once, (blocks, values))
    return values[:count], blocks, values[count:]


def _chosen(program: _Program, key: Any, options: _Options) -> _Blocks:
    """The Jacobian by alternatives that serve all parameters."""
    call, traced = program.call, program.traced
    count, leaves = traced.num_values, call.leaves
    held = Held(options.sides)

    def function(*leaves: Any) -> tuple[tuple[list[Any], list[Any]], Any]:
        lanes = list(map(HeldLane, leaves))
        outputs, _, records = held.run(traced.program, traced.constants, lanes, program.facts, None)
        values = [lane.value for lane in outputs]
        found, tree = jax.tree.flatten(records, is_leaf=_is_record)
        trees[:] = [tree]
        rows = [record.rows for record in found]
        coefficients = [record.coefficients for record in found]
        return (values[:count], rows), (values, coefficients)

    trees: list[Any] = []
    every = tuple(range(len(leaves)))
    kinds = jax.eval_shape(function, *leaves)[0][1]
    columns = sum(map(np.size, leaves))
    is_small = sum(map(jax_internals.size, kinds)) * columns <= _DENSE
    how: Any = "dense" if is_small else "structured"
    differentiated = exact_jacobian(function, every, has_aux=True, format=how)
    (paths, by_draw), (values, coefficients) = differentiated(*leaves)
    values = list(map(_once, values))
    paths = [list(map(_dense, row)) for row in paths]
    tree = trees[0]
    to_choose, to_replay = jax.random.split(key)
    number = options.alternatives
    chosen, slopes = _choice(to_choose, coefficients, by_draw, leaves, number)
    worlds = Worlds(Chosen(options.sides))
    dtype = jnp.result_type(float)

    def difference(key: Any, masks: list[Any]) -> list[Any]:
        lanes = list(map(Lane, leaves))
        outputs, state, _ = worlds.run(
            traced.program,
            traced.constants,
            lanes,
            program.facts,
            beginning(key, dtype),
            jax.tree.unflatten(tree, masks),
        )
        return _differences(worlds, outputs[:count], state)

    apart = map(_once, jax.vmap(difference)(jax.random.split(to_replay, number), chosen))
    results = []
    for row, difference_of in zip(paths, apart, strict=True):
        results.append(
            [
                (path + jnp.tensordot(difference_of, slope, ((0,), (0,))) / number).astype(
                    path.dtype
                )
                for path, slope in zip(row, slopes, strict=True)
            ]
        )
    return values[:count], results, values[count:]


def _is_record(node: Any) -> bool:
    return isinstance(node, Record)


def _dense(block: Any) -> Any:
    return block.todense() if isinstance(block, StructuredJacobian) else block


def _choice(
    key: Any,
    coefficients: Sequence[Any],
    by_draw: Sequence[Sequence[Any]],
    leaves: Sequence[Any],
    number: int,
) -> tuple[list[Any], list[Any]]:
    """Chooses jumps in proportion to the norms of their rows.

    Args:
        key: for the choice.
        coefficients: those of the jumps of each draw.
        by_draw: the derivatives of the rows of each draw by each leaf.
        leaves: the leaves.
        number: how many jumps are chosen, with repetition.

    Returns:
        For each draw masks of the chosen jumps, and for each leaf c ∂p / q; both with a leading
        axis of `number`.
    """
    sizes = [np.size(each) for each in coefficients]
    squares = [
        sum(_row_squares(block, np.shape(c)) for block in row)
        for c, row in zip(coefficients, by_draw, strict=True)
    ]
    signed = [jnp.ravel(each) for each in coefficients]
    norms = jnp.concatenate([jnp.sqrt(jnp.ravel(each)) for each in squares])
    scores = jnp.abs(jnp.concatenate(signed)) * norms
    sums = jnp.cumsum(scores)
    total = sums[-1] if sums.size else jnp.zeros((), scores.dtype)
    at = jax.random.uniform(key, (number,), sums.dtype) * total
    position = jnp.searchsorted(sums, at, side="right")
    position = jnp.minimum(position, jnp.searchsorted(sums, total))
    # c ∂p / q is a unit vector times the sum of all norms.
    weights = total * jnp.sign(jnp.concatenate(signed)) / jnp.where(norms > 0, norms, 1)
    masks: list[Any] = []
    slopes: list[Any] = [0.0] * len(leaves)
    for first, size, c, row in zip(
        np.cumsum([0, *sizes]), sizes, coefficients, by_draw, strict=False
    ):
        mask = jnp.arange(first, first + size) == position[:, None]
        seeds = jnp.where(mask, weights[first : first + size], 0)
        shape = (number, *np.shape(c))
        masks.append(jnp.reshape(mask & (total > 0), shape))
        seeds = jnp.reshape(seeds, shape)
        for k, (block, leaf) in enumerate(zip(row, leaves, strict=True)):
            if isinstance(block, StructuredJacobian):
                product = seeds.astype(block.dtype) @ block
            else:
                product = jnp.tensordot(seeds, block, np.ndim(c))
            slopes[k] = slopes[k] + jnp.reshape(product, (number, *np.shape(leaf)))
    return masks, slopes


def _row_squares(block: Any, shape: tuple[int, ...]) -> Any:
    """The sum of the squares of each row of a block, of which `shape` is that of the output."""
    if not isinstance(block, StructuredJacobian):
        return jnp.sum(block**2, axis=tuple(range(len(shape), block.ndim)))
    matrix = block.to_bcoo()
    at = tuple(jnp.asarray(matrix.indices).T[: len(shape)])
    return jnp.zeros(shape, matrix.dtype).at[at].add(matrix.data**2, mode="drop")


def _differences(worlds: Worlds, outputs: Sequence[Lane], state: State) -> list[Any]:
    """By how much outputs differ in the alternative."""
    return [
        jnp.zeros_like(lane.value) if lane.other is None else worlds.other(lane, state) - lane.value
        for lane in outputs
    ]


@jax.custom_jvp
def _once(x: Any) -> Any:
    """A part of an estimate, or a value beside it, which is not differentiated again."""
    return x


@_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "An estimate of a derivative, or the value beside it, was differentiated. What "
        "jax_cce.stochastic estimates is the first one only: which alternative is chosen depends "
        "on the parameters, too."
    )


def _by_columns(program: _Program, key: Any, options: _Options) -> _Blocks:
    """The Jacobian by alternatives of its own for each parameter, in forward mode."""
    leaves = program.call.leaves
    sizes = list(map(np.size, leaves))
    columns = []
    for k, leaf in enumerate(leaves):
        shape, dtype = np.shape(leaf), jnp.result_type(leaf)
        units = jnp.eye(sum(sizes), sizes[k], -sum(sizes[:k]), dtype=dtype)
        columns.append(jnp.reshape(units, (-1, *shape)))

    def along(directions: Any) -> Any:
        return _forwards(program, key, directions, options)

    values, estimates, aux = jax.vmap(along)(columns)
    values, aux = jax.tree.map(lambda x: x[0], (values, aux))
    rows = []
    for estimate in estimates:
        row, first = [], 0
        for size, leaf in zip(sizes, leaves, strict=True):
            part = jnp.moveaxis(estimate[first : first + size], 0, -1)
            row.append(jnp.reshape(part, (*part.shape[:-1], *np.shape(leaf))))
            first += size
        rows.append(row)
    return values, rows, aux


def _derivative(
    fun: Any, argnums: Any, has_aux: bool, options: _Options
) -> Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], _Computed]:
    """A function that computes value, estimate and auxiliary data."""
    contract = Contract(argnums, has_aux)

    def compute(
        key: Any, direction: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Computed:
        program = _traced("derivative", fun, contract, args, kwargs)
        call, traced = program.call, program.traced
        key = _checked_key(key)
        values, estimate, aux = _forwards(program, key, _direction(call, direction), options)
        tree = traced.value_tree
        return jax.tree.unflatten(tree, values), jax.tree.unflatten(tree, estimate), traced.aux(aux)

    return compute


def _direction(call: Call, direction: Any) -> list[Any]:
    """The leaves of a direction, checked against those of the arguments."""
    if calls.is_index(call.contract.argnums):
        direction = (direction,)
    leaves = jax.tree.leaves(direction)
    tree: Any = jax.tree.structure(direction)
    if tree != call.tree:
        raise TypeError(
            "The direction must be a pytree like the arguments that are differentiated, "
            f"{call.tree}, but got {tree}."
        )
    for leaf, aval in zip(leaves, call.avals, strict=True):
        if np.shape(leaf) != aval.shape:
            raise TypeError(
                "The direction must have the shapes of the arguments that are differentiated, "
                f"but got {np.shape(leaf)} for {aval.shape}."
            )
    return [
        jnp.asarray(leaf).astype(aval.dtype) for leaf, aval in zip(leaves, call.avals, strict=True)
    ]


def _forwards(
    program: _Program, key: Any, directions: Sequence[Any], options: _Options
) -> tuple[list[Any], list[Any], list[Any]]:
    """Values, the derivative along a direction, and auxiliary outputs."""
    call, traced = program.call, program.traced
    count = traced.num_values
    if options.mode == "smoothed":
        smoothed = Smoothed(options.sides)

        def function(*leaves: Any) -> list[Any]:
            lanes = list(map(HeldLane, leaves))
            facts = program.facts
            outputs, _, _ = smoothed.run(traced.program, traced.constants, lanes, facts, None)
            return [lane.value for lane in outputs]

        primals = [jnp.asarray(leaf) for leaf in call.leaves]
        values, tangents = jax.jvp(function, primals, list(directions))
        if program.is_random:
            values, tangents = jax.tree.map(_once, (values, tangents))
        return values[:count], tangents[:count], values[count:]
    worlds = Worlds(Reservoir(options.sides))
    dtype = jnp.result_type(float, *call.leaves)

    def once(key: Any) -> Any:
        lanes = [
            Lane(jnp.asarray(leaf), tangent)
            for leaf, tangent in zip(call.leaves, directions, strict=True)
        ]
        outputs, state, _ = worlds.run(
            traced.program, traced.constants, lanes, program.facts, beginning(key, dtype)
        )
        values, outputs = [lane.value for lane in outputs], outputs[:count]
        tangents = [
            jnp.zeros_like(lane.value) if lane.tangent is None else lane.tangent for lane in outputs
        ]
        weight = state.weight * state.sign
        apart = [
            (weight * each).astype(each.dtype) for each in _differences(worlds, outputs, state)
        ]
        return values, tangents, apart

    if options.alternatives == 1:
        values, tangents, apart = once(key)
    else:
        every = jax.vmap(once)(jax.random.split(key, options.alternatives))
        # But for the alternatives all are the same.
        values, tangents = jax.tree.map(lambda x: x[0], every[:2])
        apart = [jnp.mean(each, axis=0) for each in every[2]]
    if program.is_random:
        apart = list(map(_once, apart))
    estimate = [jnp.add(*parts) for parts in zip(tangents, apart, strict=True)]
    return values[:count], estimate, values[count:]
