"""Gradients and Jacobians that keep a part of what they would store."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.dtypes import promoted
from jax_cce.execution.results import as_tree
from jax_cce.orders import named
from jax_cce.planning import running
from jax_cce.planning.options import Options
from jax_cce.planning.task import Task, task_of_trace
from jax_cce.program import calls, tracing
from jax_cce.program.calls import Call, Contract, Traced
from jax_cce.randomized import elimination
from jax_cce.randomized.draws import METHODS, Method, count_of
from jax_cce.randomized.elimination import Sampled
from jax_cce.randomized.plans import Cut, RandomizedPlan, SiteRow
from jax_cce.randomized.reverse import backward, forward
from jax_cce.randomized.sites import Choice
from jax_cce.randomized.tape import Level, level_of
from jax_cce.rules.steps import work_of

__all__ = ["grad", "jacobian", "plan", "value_and_grad"]

Keep: TypeAlias = float | Sequence[float]
Sites: TypeAlias = Literal["saved", "cut", "vertices"] | int | Sequence[str]
Order: TypeAlias = Literal["auto", "forward", "markowitz", "reverse"] | Sequence[int]

_NAMED = ("saved", "cut", "vertices")


@dataclass(frozen=True)
class _Request:
    """What is asked of a randomised derivative."""

    contract: Contract
    keep: Keep
    sites: Sites
    method: Method
    share: bool
    order: Order | None

    @property
    def is_exact(self) -> bool:
        """Whether everything is kept."""
        return isinstance(self.keep, int | float) and self.keep == 1

    @property
    def eliminates(self) -> bool:
        """Whether products of an elimination are sampled."""
        return self.sites in ("cut", "vertices") or calls.is_index(self.sites)

    def choice(self, keep: Keep | None = None) -> Choice:
        """Which coefficients of the reverse mode are kept in part."""
        names = None if self.sites == "saved" else frozenset(self.sites)  # type: ignore[arg-type]
        return Choice(names, self.keep if keep is None else keep, self.method, self.share)


def _request(
    argnums: Any,
    has_aux: bool,
    keep: Any,
    sites: Any,
    method: Any,
    share: bool,
    order: Any = None,
) -> _Request:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, but got {method!r}.")
    keeps = [keep] if isinstance(keep, int | float) else list(keep)
    for each in keeps:
        if not 0 < each <= 1:
            raise ValueError(
                f"keep is the part that is kept, above 0 and at most 1, but got {each!r}."
            )
    if isinstance(sites, str) and sites not in _NAMED:
        names = ", ".join(map(repr, _NAMED))
        raise ValueError(
            f"sites must be one of {names}, a vertex, or names of checkpoint_name in a tuple, but "
            f"got {sites!r}. A single name is a tuple of one: ({sites!r},)."
        )
    if not isinstance(sites, str) and not calls.is_index(sites):
        sites = tuple(sites)
        if not all(isinstance(name, str) for name in sites):
            raise TypeError(f"Names of sites are strings, but got {sites!r}.")
    request = _Request(
        Contract(argnums, has_aux),
        keep if isinstance(keep, int | float) else tuple(keeps),
        sites,
        method,
        bool(share),
        None if order is None else named.check(order),  # type: ignore[arg-type]
    )
    if order is not None and not request.eliminates:
        raise ValueError(
            f"An order is one of elimination: it goes with sites='cut', 'vertices' or a vertex, "
            f"but sites is {sites!r}."
        )
    if request.eliminates and len(keeps) > 1:
        raise ValueError("Products of an elimination take one keep for all.")
    return request


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
    request = _request(argnums, has_aux, keep, sites, method, share, order)

    @functools.wraps(fun)
    def jacobian_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call("jacobian", fun, request.contract, args, kwargs)
        if request.is_exact:
            return jax.jacrev(fun, argnums, has_aux)(*args, **kwargs)
        traced = _traced(call)
        if request.eliminates:
            rows, aux = _eliminated(call, traced, key, request)
        else:
            _, rows, aux = _reversed(call, traced, key, request)
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
    request = _request(argnums, has_aux, keep, sites, method, share)

    @functools.wraps(fun)
    def value_and_grad_fun(key: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call("grad", fun, request.contract, args, kwargs)
        if request.is_exact:
            return jax.value_and_grad(fun, argnums, has_aux)(*args, **kwargs)
        traced = _traced(call)
        _check_scalar(traced)
        if request.eliminates:
            rows, aux = _eliminated(call, traced, key, request)
            value = call.fun(*args, **kwargs)
            value = value[0] if has_aux else value
        else:
            (value,), rows, aux = _reversed(call, traced, key, request)
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
    request = _request(argnums, has_aux, keep, sites, method, share, order)

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RandomizedPlan:
        call = _call("plan", fun, request.contract, args, kwargs)
        traced = _traced(call)
        concrete = not any(map(jax_internals.is_tracer, jax.tree.leaves((args, kwargs))))
        if request.eliminates:
            return _plan_of_elimination(call, traced, request, concrete)
        return _plan_of_reverse(call, traced, request, concrete)

    return calls.from_shapes(planned)


def _call(name: str, fun: Any, contract: Contract, args: Any, kwargs: Any) -> Call:
    call = Call(fun, contract, args, kwargs)
    for aval in call.avals:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"randomized.{name} requires inputs of real dtypes, but got {aval.dtype.name}. "
                "Pass the real and the imaginary part as two inputs."
            )
    return call


def _traced(call: Call) -> Traced:
    try:
        traced = calls.trace_call(call, hoist=False)
    except Exception as error:
        if reason := running.why_left_to_jax(error):
            error.add_note(
                f"A randomised derivative is one of the traced function, and this one cannot be "
                f"traced ({reason}): write its control flow with jax.lax."
            )
        raise
    for aval in traced.values:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"Randomised derivatives are of real outputs, but one is {aval.dtype.name}. Return "
                "the real and the imaginary part."
            )
    return traced


def _check_scalar(traced: Traced) -> None:
    """As `jax.grad` does."""
    shapes = [aval.shape for aval in traced.values]
    if shapes != [()] or traced.value_tree != jax.tree.structure(0):
        found = shapes[0] if len(shapes) == 1 else traced.value_tree
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was: {found}.")


def _level(call: Call, traced: Traced, choice: Choice) -> Level:
    program = traced.program
    outputs = program.outputs[: traced.num_values]
    level = level_of(program, range(len(call.leaves)), outputs, choice)
    missing = (choice.names or frozenset()) - choice.found
    if missing:
        known = ", ".join(map(repr, sorted(choice.found))) or "none"
        raise ValueError(
            f"{call.name} has no checkpoint_name {', '.join(map(repr, sorted(missing)))}; it has "
            f"{known}."
        )
    return level


def _standard() -> Any:
    """What the user's configuration says of promotion is for the user's own code."""
    return jax.numpy_rank_promotion("allow")


def _reversed(
    call: Call, traced: Traced, key: Any, request: _Request
) -> tuple[list[Any], list[list[Any]], list[Any]]:
    """The values, for each value the blocks, and the auxiliary leaves."""
    level, count = _level(call, traced, request.choice()), traced.num_values
    with _standard(), jax.numpy_dtype_promotion("standard"):
        outputs, saved = forward(level, traced.constants, call.leaves, key)
        rows = _rows(call, traced, level, saved, key)
    return outputs[:count], rows, outputs[count:]


def _rows(call: Call, traced: Traced, level: Level, saved: Any, key: Any) -> list[list[Any]]:
    """The blocks of each output, from pulling back the unit vectors of all outputs at once."""
    avals = traced.values
    rest: list[Any] = [None] * (len(traced.program.outputs) - len(avals))

    def pulled(cotangents: Sequence[Any]) -> list[Any]:
        found = backward(level, traced.constants, call.leaves, saved, [*cotangents, *rest], key)
        return [
            found[k] if k in found else jax_internals.zeros(aval)
            for k, aval in enumerate(call.avals)
        ]

    sizes = [jax_internals.size(aval) for aval in avals]
    if sizes == [1]:
        results = pulled([jnp.ones(avals[0].shape, avals[0].dtype)])
        return [
            [
                jnp.reshape(x, avals[0].shape + aval.shape)
                for x, aval in zip(results, call.avals, strict=True)
            ]
        ]
    if sum(sizes):
        stacked = jax.vmap(pulled)(_units(avals))
    else:
        stacked = [jnp.zeros((0, *aval.shape), aval.dtype) for aval in call.avals]
    ends = np.cumsum([0, *sizes])
    return [
        [
            jnp.reshape(x[ends[at] : ends[at + 1]], aval.shape + own.shape)
            for x, own in zip(stacked, call.avals, strict=True)
        ]
        for at, aval in enumerate(avals)
    ]


def _plan_of_reverse(
    call: Call, traced: Traced, request: _Request, concrete: bool
) -> RandomizedPlan:
    choice, exact = request.choice(), request.choice(1.0)
    level, whole = _level(call, traced, choice), _level(call, traced, exact)
    key = jax.random.key(0)

    def work(one: Level) -> float:
        def function(*leaves: Any) -> list[Any]:
            own = _with_leaves(call, leaves)
            outputs, saved = forward(one, traced.constants, leaves, key)
            rows = _rows(own, traced, one, saved, key)
            return [*outputs[: traced.num_values], *(x for row in rows for x in row)]

        with _standard():
            program, _ = tracing.trace(function, call.leaves)
        return work_of(program.equations)

    variances: dict[int, Any] = {}
    relative = total = None
    if concrete:
        with _standard():
            variances, square = _measured(call, traced, level, choice)
        total = sum(map(float, variances.values()))
        relative = math.sqrt(total / square) if square else None
    rows = tuple(
        SiteRow(
            site.label,
            site.times,
            site.draw.elements,
            site.draw.features,
            site.draw.kept,
            site.saved_bytes,
            site.whole_bytes,
            float(variances.get(site.number, 0.0)) if concrete else None,
            request.method,
        )
        for site in choice.sites
    )
    bytes_of = level.saved_bytes, whole.saved_bytes
    return RandomizedPlan(rows, *bytes_of, work(level), work(whole), total, relative)


def _with_leaves(call: Call, leaves: Sequence[Any]) -> Any:
    """The call at other leaves."""

    class At:
        pass

    at = At()
    at.__dict__.update(call.__dict__, leaves=leaves)
    return at


def _measured(
    call: Call, traced: Traced, level: Level, choice: Choice
) -> tuple[dict[int, Any], float]:
    """The variance that each site adds, and the squared norm of the exact derivative."""
    rest: list[Any] = [None] * (len(traced.program.outputs) - len(traced.values))

    @jax.jit
    def measure(leaves: Sequence[Any]) -> Any:
        key, kept = jax.random.key(0), dict[int, Any]()
        _, saved = forward(level, traced.constants, leaves, key, kept)

        def pulled(cotangents: Sequence[Any]) -> Any:
            noted: dict[int, Any] = {}
            found = backward(
                level, traced.constants, leaves, saved, [*cotangents, *rest], key, noted
            )
            return noted, sum(jnp.sum(x * x) for x in found.values())

        units = _units(traced.values)
        return jax.tree.map(jnp.sum, jax.vmap(pulled)(units))

    variances, square = measure(call.leaves)
    return variances, float(square)


def _units(avals: Sequence[Any]) -> list[Any]:
    """The unit vectors of all outputs."""
    sizes = [jax_internals.size(aval) for aval in avals]
    total, first, units = sum(sizes), 0, []
    for aval, size in zip(avals, sizes, strict=True):
        unit = jnp.eye(total, size, -first, dtype=aval.dtype)
        units.append(jnp.reshape(unit, (total, *aval.shape)))
        first += size
    return units


def _task(call: Call, traced: Traced, request: _Request) -> Task:
    task = task_of_trace(call, Options(request.contract), traced)
    if task.graphs[False].reverse_only:
        raise ValueError(
            f"{call.name} has a pullback that is not known to be linear, so that there is nothing "
            "to eliminate. Leave sites at 'saved'."
        )
    return task


def _vertices(task: Task, call: Call, request: _Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of elimination, and the vertices at which products are sampled."""
    graph = task.graphs[False]
    first = graph.program.first_computed
    order = named.eliminate(graph, "auto" if request.order is None else request.order).order
    if request.sites == "vertices":
        return tuple(order), elimination.mixing(graph)
    if not graph.vertices:
        return (), ()
    if request.sites == "cut":
        found = elimination.cuts(graph)
        if not found:
            raise ValueError(
                f"{call.name} has no vertex that all paths from its inputs to its outputs lead "
                "through. Name a vertex, or take sites='saved' or 'vertices'."
            )
        chosen = min(_cut(task, vertex, request) for vertex in found)[1]
    else:
        chosen = int(request.sites) + first  # type: ignore[arg-type]
        if chosen not in graph.vertices:
            known = ", ".join(str(v - first) for v in graph.vertices)
            raise ValueError(
                f"{call.name} has no vertex {request.sites} to sample at; it has {known or 'none'}."
            )
    if request.order is None:
        order = [*(v for v in order if v != chosen), chosen]
    return tuple(order), (chosen,)


def _cut(task: Task, vertex: int, request: _Request) -> tuple[int, int]:
    """What the sampled factors at a cut store, and the cut."""
    graph = task.graphs[False]
    outputs = [k for k in graph.outputs if isinstance(k, int) and k in graph.shapes]
    ends = sum(math.prod(graph.shapes[k]) for k in outputs)
    ends += sum(math.prod(graph.shapes[k]) for k in graph.inputs if k in graph.shapes)
    return ends * count_of(_one(request.keep), math.prod(graph.shapes[vertex])), vertex


def _one(keep: Keep) -> float:
    return float(keep) if isinstance(keep, int | float) else float(keep[0])


def _counts(graph: Any, vertices: Sequence[int], request: _Request) -> dict[int, int]:
    """How many entries are drawn at each vertex; none where all are."""
    counts = {}
    for vertex in vertices:
        size = math.prod(graph.shapes[vertex])
        count = count_of(_one(request.keep), size)
        if 0 < count < size:
            counts[vertex] = count
    return counts


def _eliminated(
    call: Call, traced: Traced, key: Any, request: _Request
) -> tuple[list[list[Any]], list[Any]]:
    """For each value the blocks, and the auxiliary leaves."""
    task = _task(call, traced, request)
    graph = task.graphs[False]
    order, chosen = _vertices(task, call, request)
    with _standard(), task.context():
        sampled = Sampled.recorded(graph, order, _counts(graph, chosen, request), request.method)
        outputs, blocks, _ = elimination.emitted(sampled, traced.constants, call.leaves, key)
        rows = []
        for at, aval in enumerate(traced.values):
            row = []
            for k, own in enumerate(call.avals):
                block = blocks.get((at, graph.inputs.index(k))) if k in graph.inputs else None
                shape = aval.shape + own.shape
                dense = jnp.zeros(shape, own.dtype) if block is None else block.todense()
                row.append(jnp.reshape(dense, shape).astype(own.dtype))
            rows.append(row)
    return rows, outputs[traced.num_values :]


def _plan_of_elimination(
    call: Call, traced: Traced, request: _Request, concrete: bool
) -> RandomizedPlan:
    task = _task(call, traced, request)
    graph = task.graphs[False]
    first, method = graph.program.first_computed, request.method
    order, chosen = _vertices(task, call, request)
    itemsize = promoted(*(graph.program.avals[name].dtype for name in graph.inputs)).itemsize

    def errors(order: Sequence[int], vertices: Sequence[int]) -> tuple[dict[int, float], float]:
        """The error of the products at each vertex, and the squared norm of the Jacobian."""
        counts = _counts(graph, vertices, request)
        measured = Sampled.recorded(graph, order, counts, method, measure=True)

        @jax.jit
        def evaluate(leaves: Sequence[Any]) -> Any:
            _, blocks, slots = elimination.emitted(
                measured, traced.constants, leaves, jax.random.key(0)
            )
            square = sum(jnp.sum(block.todense() ** 2) for block in blocks.values())
            return [slots[slot] for _, slot in measured.state.errors], square

        with _standard(), task.context():
            values, square = evaluate(list(call.leaves))
        found: dict[int, float] = {}
        for (vertex, _), value in zip(measured.state.errors, values, strict=True):
            found[vertex] = found.get(vertex, 0.0) + float(value) / counts[vertex]
        return found, float(square)

    counts = _counts(graph, chosen, request)
    with task.context():
        sampled = Sampled.recorded(graph, order, counts, method)
        exact = Sampled.recorded(graph, order, {}, method)
    found, square = errors(order, chosen) if concrete else ({}, 0.0)
    rows = []
    for vertex in chosen:
        size = math.prod(graph.shapes[vertex])
        kept, whole = sampled.state.numbers.get(vertex, (0, 0))
        rows.append(
            SiteRow(
                _label(graph, vertex),
                1,
                1,
                size,
                counts.get(vertex, size),
                kept * itemsize,
                whole * itemsize,
                found.get(vertex, 0.0) if concrete else None,
            )
        )
    cuts = []
    if request.sites == "cut":
        for vertex in elimination.cuts(graph):
            own = (*(v for v in order if v != vertex), vertex)
            variance = relative = None
            if concrete:
                of_cut, square = errors(own, (vertex,))
                variance = of_cut.get(vertex, 0.0)
                relative = math.sqrt(max(variance, 0.0) / square) if square else None
            with task.context():
                state = Sampled.recorded(graph, own, _counts(graph, (vertex,), request), method)
            kept = state.state.numbers.get(vertex, (0, 0))[0] * itemsize
            size = math.prod(graph.shapes[vertex])
            count = count_of(_one(request.keep), size)
            label = _label(graph, vertex)
            cuts.append(Cut(vertex - first, label, size, count, kept, variance, relative))
    total = sum(found.values()) if concrete else None
    return RandomizedPlan(
        tuple(rows),
        sum(row.saved_bytes for row in rows),
        sum(row.whole_bytes for row in rows),
        float(sampled.flops),
        float(exact.flops),
        total,
        math.sqrt(max(total, 0.0) / square) if total is not None and square else None,
        tuple(sorted(cuts, key=lambda cut: cut.price)),
    )


def _label(graph: Any, vertex: int) -> str:
    """The primitive and the line that computes a vertex."""
    for equation in graph.program.equations:
        if vertex in equation.outputs:
            return f"{equation.name} {jax_internals.source_line(equation)}".strip()
    return ""
