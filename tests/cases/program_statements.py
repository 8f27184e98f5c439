"""The statements of random programs: each adds one line, or a nested function and its call."""

import dataclasses
import itertools
import math

import jax
import numpy as np

from cases.program_scope import LARGEST, Scope, Value

# Expression and bound of the result, given bounds of the operands.
_UNARY = (
    ("jnp.sin({x})", lambda b: 1),
    ("jnp.cos({x})", lambda b: 1),
    ("{x} * {x}", lambda b: b * b),
    ("{x} + {x}", lambda b: 2 * b),
    ("-{x}", lambda b: b),
    ("0.75 * {x}", lambda b: b),
    ("1.5 - {x}", lambda b: b + 1.5),
    ("{x} ** 3", lambda b: b**3),
    ("jnp.exp(0.5 * {x})", lambda b: math.exp(b / 2)),
    ("jnp.log({x} * {x} + 1.5)", lambda b: math.log(b * b + 1.5)),
    ("jnp.sqrt({x} * {x} + 0.5)", lambda b: b + 1),
    ("lax.rsqrt({x} * {x} + 0.5)", lambda b: 1.5),
    ("1.0 / ({x} * {x} + 0.75)", lambda b: 1.5),
    ("jnp.tanh({x})", lambda b: 1),
    ("jnp.arctan({x})", lambda b: 1.6),
    ("jnp.arcsinh({x})", lambda b: b),
    ("jnp.arcsin(0.5 * jnp.sin({x}))", lambda b: 0.6),
    ("jnp.expm1(jnp.sin({x}))", lambda b: 2),
    ("jnp.log1p({x} * {x})", lambda b: math.log1p(b * b)),
    ("jnp.cbrt({x} * {x} + 0.25)", lambda b: b + 1),
    ("lax.erf({x})", lambda b: 1),
    ("lax.lgamma({x} * {x} + 1.0)", lambda b: b**4),
    ("jax.nn.relu({x})", lambda b: b),
    ("jax.nn.silu({x})", lambda b: b),
    ("jax.nn.softplus({x})", lambda b: b + 1),
    ("lax.logistic({x})", lambda b: 1),
    ("steep_tanh({x})", lambda b: 1),
    ("leaky_relu({x})", lambda b: b),
    ("straight_through(4.0 * {x}) / 4.0", lambda b: b + 1),
    ("jnp.abs({x})", lambda b: b),
    ("jnp.sign({x})", lambda b: 1),
    ("jnp.floor({x})", lambda b: b + 1),
    ("jnp.clip({x}, -0.55, 0.85)", lambda b: 1),
    ("lax.stop_gradient({x}) * {x}", lambda b: b * b),
    ("lax.square({x})", lambda b: b * b),
    ("lax.reduce_precision({x}, 11, 52)", lambda b: b),
)

_BINARY = (
    ("{x} + {y}", lambda b, c: b + c),
    ("{x} - {y}", lambda b, c: b + c),
    ("{x} * {y}", lambda b, c: b * c),
    ("{x} / ({y} * {y} + 0.75)", lambda b, c: 1.5 * b),
    ("jnp.sin({x}) * {y} + {x}", lambda b, c: b + c),
    ("jnp.arctan2({x}, {y} * {y} + 0.5)", lambda b, c: 1.6),
    ("jnp.power({x} * {x} + 0.5, jnp.tanh({y}))", lambda b, c: b * b + 2),
    ("jnp.maximum({x}, {y})", max),
    ("jnp.minimum({x}, {y})", max),
    ("jnp.logaddexp({x}, {y})", lambda b, c: max(b, c) + 1),
    ("jnp.where({x} > {y}, {x}, 0.5 * {y})", max),
    ("lax.cond({p}, jnp.multiply, jnp.subtract, {x}, {y})", lambda b, c: max(b * c, b + c)),
    ("jnp.hypot({x}, {y} * {y} + 0.5)", lambda b, c: b + c * c + 0.5),
)

# Functions of one array with a result of its shape, as the body of a lambda in `a`.
_BODIES = (
    ("jnp.sin(a)", 1),
    ("jnp.cos(a) * a", LARGEST),
    ("jnp.tanh(a) + 0.5 * a", LARGEST),
    ("a * jnp.tanh(jnp.sum(a))", LARGEST),
    ("jnp.tanh(jnp.cumsum(a.ravel())).reshape(a.shape)", 1),
    ("a", LARGEST),
    ("jnp.ones_like(a)", 1),
)


def _index(*entries: str) -> str:
    return f"[{', '.join(entries)}]" if entries else "[...]"


def _axis(scope: Scope, rank: int) -> int:
    return scope.select(range(-rank, rank))


def _broadcastable(*shapes: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


# A statement takes a scope and one of its floating-point variables, and adds a line (or none where
# it does not apply).


def unary(scope: Scope, x: Value) -> None:
    template, bound = scope.select(_UNARY)
    if x.dtype == np.float32 or "reduce_precision" not in template:
        scope.assign(template.format(x=x.code), bound(x.bound))


def _binary(scope: Scope, x: Value) -> None:
    template, bound = scope.select(_BINARY)
    same = "lax.cond" in template
    y = scope.alike(x, lambda v: v.shape == x.shape if same else _broadcastable(x.shape, v.shape))
    x, y = scope.select(((x, y), (y, x)))
    scope.assign(
        template.format(x=x.code, y=y.code, p=f"jnp.sum({x.code}) > 0.25"), bound(x.bound, y.bound)
    )


def promote(scope: Scope, x: Value) -> None:
    y = scope.operand(lambda v: _broadcastable(x.shape, v.shape))
    scope.assign(f"{x.code} * {y.code}", x.bound * y.bound)


def _reduce(scope: Scope, x: Value) -> None:
    axes = tuple(axis for axis in range(x.rank) if scope.select((False, True)))
    size = math.prod(x.shape[axis] for axis in axes)
    name = scope.select(
        ("sum", "sum", "max", "prod", "mean", "min", "var", "logsumexp")
        if size
        else ("sum", "prod")
    )
    bound = {"sum": size * x.bound, "prod": max(x.bound, 1) ** size, "var": 2 * x.bound**2}.get(
        name, x.bound + math.log1p(size)
    )
    module = "jax.nn" if name == "logsumexp" else "jnp"
    options = scope.select(("", ", keepdims=True"))
    scope.assign(f"{module}.{name}({x.code}, axis={axes}{options})", bound)


def _cumulative(scope: Scope, x: Value) -> None:
    if x.rank and x.shape[axis := scope.select(range(x.rank))]:
        size, reverse = x.shape[axis], scope.select((False, True))
        name, bound = scope.select(
            (
                ("cumsum", size * x.bound),
                ("cumprod", max(x.bound, 1) ** size),
                ("cummax", x.bound),
                ("cumlogsumexp", x.bound + math.log(size)),
            )
        )
        scope.assign(f"lax.{name}({x.code}, axis={axis}, reverse={reverse})", bound)


def _reshape(scope: Scope, x: Value) -> None:
    size = math.prod(x.shape)
    shapes = [
        shape
        for rank in range(4)
        for shape in itertools.product(range(7), repeat=rank)
        if math.prod(shape) == size
    ]
    if shapes:
        scope.assign(f"jnp.reshape({x.code}, {scope.select(shapes)})", x.bound)


def _layout(scope: Scope, x: Value) -> None:
    """Layout operations whose every parameter is an axis."""
    if not x.rank:
        return scope.assign(f"jnp.broadcast_to({x.code}, (2, 3))", x.bound)
    axis, other = _axis(scope, x.rank), _axis(scope, x.rank)
    options = [
        f"{x.code}.T",
        f"jnp.swapaxes({x.code}, {axis}, {other})",
        f"jnp.flip({x.code}, {axis})",
        f"jnp.roll({x.code}, {scope.select((1, -2))}, {axis})",
        f"jnp.repeat({x.code}, 2, axis={axis})",
        f"jnp.tile({x.code}, (2, 1))",
        f"jnp.expand_dims({x.code}, {axis})",
        f"jnp.broadcast_to({x.code}, {(2, *x.shape)})",
        f"{x.code}[:, None]",
        f"jnp.squeeze({x.code})",
        f"jnp.diff({x.code}, axis={axis})",
    ]
    if x.rank > 1:
        options += [f"jnp.diagonal({x.code})", f"jnp.tril({x.code})", f"jnp.trace({x.code})"]
    scope.assign(scope.select(options), 4 * x.bound)


def _slice(scope: Scope, x: Value) -> None:
    entries = []
    for size in x.shape:
        start = scope.select(range(max(size, 1)))
        stop = scope.select(range(size, start - 1, -1)) if start <= size else size
        entries.append(scope.select((":", f"{start}:{stop}", f"{start}:{stop}:2", "::-1", "-1:")))
    scope.assign(f"{x.code}{_index(*entries)}", x.bound)


def _pad(scope: Scope, x: Value) -> None:
    config = []
    for size in x.shape:
        low, high, interior = (
            scope.select((0, 1, -1)),
            scope.select((0, 2, -1)),
            scope.select((0, 1)),
        )
        dilated = size + max(size - 1, 0) * interior
        config.append((low, high, interior) if dilated + low + high >= 0 else (1, 0, interior))
    # JAX 0.10 cannot transpose a pad by a variable of something that does not vary.
    fill = scope.select((f"jnp.asarray(0.5, {x.code}.dtype)", f"jnp.tanh(jnp.sum({x.code}))"))
    scope.assign(f"lax.pad({x.code}, {fill}, {config})", max(x.bound, 1))


def _concatenate(scope: Scope, x: Value) -> None:
    if not x.rank or scope.select((False, True)):
        parts = [x] + [
            scope.alike(x, lambda v: v.shape == x.shape) for _ in range(scope.select((1, 2)))
        ]
        call, axis = "stack", scope.select(range(x.rank + 1))
    else:
        call, axis = "concatenate", scope.select(range(x.rank))
        rest = (x.shape[:axis], x.shape[axis + 1 :])
        parts = [x] + [
            scope.alike(
                x, lambda v: v.rank == x.rank and (v.shape[:axis], v.shape[axis + 1 :]) == rest
            )
            for _ in range(scope.select((1, 2)))
        ]
    codes = ", ".join(part.code for part in parts)
    scope.assign(f"jnp.{call}([{codes}], axis={axis})", max(part.bound for part in parts))


def _einsum(scope: Scope, x: Value) -> None:
    """Any product of two arrays: batch, contracted, free, summed and diagonal axes."""
    y = scope.alike(x, lambda _: True)
    labels: dict[str, int] = {}
    terms = []
    for operand in (x, y):
        term = ""
        for size in operand.shape:
            known = [label for label in labels if labels[label] == size]
            fresh = "abcdefgh"[len(labels)]
            free = [label for label in known if label not in term]
            label = scope.select([*free, fresh, *known])
            labels[label] = size
            term += label
        terms.append(term)
    out = [label for label in labels if scope.select((False, True))]
    out = "".join(scope.select(list(itertools.permutations(out[:4]))))
    summed = math.prod(size for label, size in labels.items() if label not in out)
    equation = f"{terms[0]},{terms[1]}->{out}"
    scope.assign(f"jnp.einsum({equation!r}, {x.code}, {y.code})", summed * x.bound * y.bound)


def _matmul(scope: Scope, x: Value) -> None:
    def fits(v: Value) -> bool:
        return (
            v.rank > 0
            and x.shape[-1] == v.shape[max(v.rank - 2, 0)]
            and (_broadcastable(x.shape[:-2], v.shape[:-2]))
        )

    others = scope.floats(lambda v: v.dtype == x.dtype and fits(v)) if x.rank else []
    if others:
        y = scope.select(others)
        scope.assign(f"{x.code} @ {y.code}", x.shape[-1] * x.bound * y.bound)


def _sort(scope: Scope, x: Value) -> None:
    if not x.rank or not math.prod(x.shape):
        return
    axis = scope.select(range(x.rank))
    y = scope.alike(x, lambda v: v.shape == x.shape)
    options = [
        f"jnp.sort({x.code}, axis={axis})",
        f"lax.sort(({x.code}, {y.code}), dimension={axis}, num_keys=1)",
        f"lax.top_k({x.code}, {min(2, x.shape[-1])})[0]",
        f"jnp.take_along_axis({x.code}, jnp.argsort({y.code}, axis={axis}), axis={axis})",
    ]
    option = scope.select(options)
    scope.assign(option, *([x.bound, y.bound] if "lax.sort(" in option else [x.bound]))


def _position(scope: Scope, size: int, unique: bool) -> str:
    """An index into an axis: static or traced, a scalar or (unless unique) a vector."""
    static = [str(scope.select(range(-size, size))), f"jnp.array([{size - 1}])"]
    static += [] if unique else [f"np.array([0, {size - 1}, 0])"]
    traced = [n.code for n in scope.integers(lambda n: n.rank == 0 or (n.rank == 1 and not unique))]
    return scope.select(static + 2 * traced)


def _gather(scope: Scope, x: Value) -> None:
    if not x.rank or not x.shape[axis := scope.select(range(x.rank))]:
        return
    position = _position(scope, x.shape[axis], unique=False)
    options = [
        f"{x.code}{_index(*[':'] * axis, position)}",
        f"jnp.take({x.code}, {position}, axis={axis}, mode='clip')",
    ]
    for n in scope.integers(lambda n: n.rank == 0):
        width = scope.select(range(1, x.shape[axis] + 1))
        options.append(f"lax.dynamic_slice_in_dim({x.code}, {n.code}, {width}, axis={axis})")
        options.append(
            f"lax.dynamic_update_slice_in_dim({x.code}, "
            f"0.5 * lax.slice_in_dim({x.code}, 0, {width}, axis={axis}), {n.code}, {axis})"
        )
    scope.assign(scope.select(options), x.bound)


def _update(scope: Scope, x: Value) -> None:
    if not x.rank or not x.shape[axis := scope.select(range(x.rank))]:
        return
    method = scope.select(("set", "add"))
    # Where one position is set twice, which of the two stays is undefined.
    place = _index(*[":"] * axis, _position(scope, x.shape[axis], unique=method == "set"))
    y = scope.alike(x, lambda v: v.shape in ((), x.shape))
    new = f"{y.code}{place}" if y.shape else y.code
    new = scope.select((new, "0.75", f"jnp.cos({new})"))
    scope.assign(f"{x.code}.at{place}.{method}({new})", x.bound + 3 * max(y.bound, 1))


def _select(scope: Scope, x: Value) -> None:
    y = scope.alike(x, lambda v: v.shape == x.shape)
    masks = [v.code for v in scope.values if v.dtype == bool and v.shape == x.shape]
    mask = scope.select([*masks, f"{y.code} > 0.25", f"({x.code} > -0.5) & ({y.code} < 0.5)"])
    form = scope.select(("jnp.where({}, {}, {})", "lax.select({}, {}, {})"))
    scope.assign(form.format(mask, x.code, y.code), max(x.bound, y.bound))


def _integer(scope: Scope, x: Value) -> None:
    options = [
        f"{x.code} > 0.25",
        f"jnp.sum({x.code} > 0.25)",
        f"jnp.floor({x.code}).astype(jnp.int32)",
    ]
    options += [f"jnp.argsort({x.code}, axis=-1)"] if x.rank else []
    options += [f"jnp.argmax({x.code})"] if math.prod(x.shape) else []
    options += [f"({n.code} + 1) % 3" for n in scope.integers()]
    scope.assign(scope.select(options), LARGEST)


def _from_integer(scope: Scope, x: Value) -> None:
    sources = [n for n in scope.integers() if _broadcastable(n.shape, x.shape)]
    sources += [v for v in scope.values if v.dtype == bool and _broadcastable(v.shape, x.shape)]
    if sources:
        scope.assign(
            f"{x.code} * {scope.select(sources).code}.astype({x.code}.dtype)", 40 * x.bound
        )


def _constant(scope: Scope, x: Value) -> None:
    numbers = (
        f"jnp.full({x.shape}, 1.5, {str(x.dtype)!r})",
        "jnp.array([0.5, -1.25, 2.0])",
        "jnp.eye(2, 3)",
        f"jnp.zeros_like({x.code})",
    )
    scope.assign(scope.select(numbers), 2)


def _nested(scope: Scope, x: Value) -> None:
    """A subprogram of a few lines under jit, checkpoint or a custom derivative's boundary."""
    y = scope.alike(x, lambda _: True)
    abstract = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in (("a", x), ("b", y))}
    inner = Scope(scope.choices, abstract, prefix="t")
    inner.values = [dataclasses.replace(x, code="a"), dataclasses.replace(y, code="b")]
    for _ in range(scope.select(range(1, 4))):
        scope.select(_PLAIN)(inner, inner.operand())
    results = [inner.floats()[-1], inner.operand()]
    call = scope.select(("jax.jit", "jax.checkpoint", "jax.jit"))
    name = scope.define(inner, ("a", "b"), ", ".join(r.code for r in results))
    scope.assign(f"{call}({name})({x.code}, {y.code})", *(r.bound for r in results))


def _control(scope: Scope, x: Value) -> None:
    (first, bound), (second, other) = scope.select(_BODIES), scope.select(_BODIES)
    branches = f"lambda a: {first}, lambda a: {second}"
    options = [
        f"lax.cond(jnp.sum({x.code}) > 0.25, {branches}, {x.code})",
        f"lax.fori_loop(0, 3, lambda i, a: jnp.tanh({first}), {x.code})",
        f"jax.jit(lambda a: {first})({x.code})",
    ]
    options += [
        f"lax.switch({n.code}, [{branches}], {x.code})" for n in scope.integers() if not n.rank
    ]
    if x.rank:
        options.append(f"jax.vmap(lambda a: {first})({x.code})")
    scope.assign(scope.select(options), max(bound, other, x.bound))


def _scan(scope: Scope, x: Value) -> None:
    if not x.rank:
        return
    dtype = f"{x.code}.dtype"
    init = scope.alike(x, lambda v: v.shape == x.shape[1:])
    start = init.code if init.shape == x.shape[1:] else f"jnp.zeros({x.shape[1:]}, {dtype})"
    captured = scope.alike(x, lambda v: not v.shape)
    w = "0.5" if captured.shape else captured.code
    body = scope.select(
        (
            "(jnp.sin(c) + 0.5 * a, jnp.tanh(c * a))",
            f"(jnp.cos(a * {w}) + 0.5 * c, c)",
            f"(jnp.tanh(c * {w}), jnp.sin(a) + jnp.cos(c))",
        )
    )
    reverse = scope.select((False, True))
    # The body keeps the carry below |a|/2 * 2 + 2 in each of the three cases.
    bound = 2 * max(x.bound, init.bound if init.shape == x.shape[1:] else 0, 2) / 2 + 2
    scope.assign(
        f"lax.scan(lambda c, a: {body}, {start}, {x.code}, reverse={reverse})", bound, bound
    )


def _operator(scope: Scope, x: Value) -> None:
    """Operations whose derivative has no finite description by index maps."""
    if not x.rank or not math.prod(x.shape):
        return
    n = x.shape[-1]
    options = [
        (f"jnp.real(jnp.fft.ifft(1j * jnp.fft.fft({x.code})))", n * x.bound),
        (f"jnp.abs(jnp.fft.fft({x.code})) ** 2", (n * x.bound) ** 2),
        (
            f"jnp.linalg.solve(9.0 * jnp.eye({n}) + jnp.tri({n}), {x.code}.reshape({n}, -1))",
            x.bound,
        ),
        (f"jax.grad(lambda a: jnp.sum(jnp.sin(a) * a))({x.code})", 1 + x.bound),
    ]
    if x.rank == 1:
        y = scope.alike(x, lambda v: v.rank == 1 and v.shape[0] > 0)
        mode = scope.select(("full", "same", "valid"))
        bound = min(n, y.shape[0]) * x.bound * y.bound
        options.append((f"jnp.convolve({x.code}, {y.code}, mode={mode!r})", bound))
    if x.rank == 2 and x.dtype == np.float64:
        gram = f"jnp.tanh({x.code}) @ jnp.tanh({x.code}).T + 2.0 * jnp.eye({x.shape[0]})"
        options.append((f"jnp.linalg.cholesky({gram})", n + 2))
        options.append((f"jnp.linalg.inv({gram})", 1))
    scope.assign(*scope.select(options))


def convert(scope: Scope, x: Value) -> None:
    scope.assign(f"{x.code}.astype(jnp.{scope.select(('float32', 'float64'))})", x.bound)


# The simplest first: hypothesis shrinks towards it.
_PLAIN = (
    unary, _binary, unary, _binary, _reduce, _reshape, _layout, _slice, _pad, _concatenate,
    _einsum, _matmul, _cumulative, _sort, _gather, _update, _select, _integer, _from_integer,
    _constant,
)  # fmt: skip
STATEMENTS = (*_PLAIN, _nested, _control, _scan, _operator)
