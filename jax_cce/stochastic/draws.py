"""Discrete draws as primitives of JAX, so that a program shows what it draws and from what.

Each has the samples of its namesake in `jax.random` for the same key. Under `jax.vmap` it stays one
equation, which knows the axes of points that its operands have. A draw has no derivative by
itself: where one is asked for that is not zero, JAX hears so.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

__all__ = [
    "PRIMITIVES",
    "Draw",
    "bernoulli",
    "binomial",
    "categorical",
    "draw_of",
    "geometric",
    "no_derivative",
    "poisson",
]

_Shape = Sequence[int] | None

SAMPLERS: dict[str, Callable[..., Any]] = {
    "bernoulli": jax.random.bernoulli,
    "binomial": jax.random.binomial,
    "categorical": jax.random.categorical,
    "geometric": jax.random.geometric,
    "poisson": jax.random.poisson,
}


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is known of a draw before it is made.

    Attributes:
        kind: the name of the sampler.
        shape: the shape of the samples for one point of all maps.
        dtype: their dtype.
        options: further arguments of the sampler.
        sizes: the number of points of each map around it, the outermost first.
        mapped: for each map and each operand (the key, then parameters) whether the operand has a
            leading axis of its points.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    options: tuple[tuple[str, Any], ...] = ()
    sizes: tuple[int, ...] = ()
    mapped: tuple[tuple[bool, ...], ...] = ()

    @property
    def samples_shape(self) -> tuple[int, ...]:
        """The shape of all samples."""
        return *self.sizes, *self.shape

    @property
    def axis(self) -> int:
        """The axis of the outcomes in the logits of a categorical draw."""
        return dict(self.options)["axis"]

    @property
    def shares_keys(self) -> bool:
        """Whether several points draw with one key."""
        return any(not levels[0] for levels in self.mapped)

    def sample(self, key: Any, *parameters: Any) -> Any:
        """Samples, as the sampler gives them."""
        facts = dict(self.options) | {"shape": self.shape}
        if self.kind in ("binomial", "geometric", "poisson"):
            facts["dtype"] = self.dtype
        sampler = functools.partial(SAMPLERS[self.kind], **facts)
        return self.over_points(sampler)(key, *parameters)

    def over_points(self, function: Callable[..., Any], *, key: bool = True) -> Callable[..., Any]:
        """A function of the operands of one point, for all points of all maps.

        Args:
            function: the function.
            key: whether it takes the key, too, or the parameters alone.
        """
        for size, levels in zip(reversed(self.sizes), reversed(self.mapped), strict=True):
            axes = tuple(0 if each else None for each in levels[0 if key else 1 :])
            function = jax.vmap(function, in_axes=axes, axis_size=size)
        return function


def _primitive(kind: str) -> Any:
    primitive = jex_core.Primitive(f"stochastic_{kind}")

    def sample(*operands: Any, draw: Draw) -> Any:
        return draw.sample(*operands)

    primitive.def_impl(sample)
    primitive.def_abstract_eval(_type)
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive)
    ad.primitive_jvps[primitive] = functools.partial(_pushed, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(sample, multiple_results=False))
    return primitive


def _type(*_: Any, draw: Draw) -> Any:
    return jax.core.ShapedArray(draw.samples_shape, draw.dtype)


def _batched(
    primitive: Any, operands: Sequence[Any], axes: Sequence[Any], *, draw: Draw
) -> tuple[Any, int]:
    # An axis that is not mapped is None in JAX 0.12 and a mark of its own in 0.10.
    over = tuple(isinstance(axis, int) for axis in axes)
    moved = [
        _moved_to_front(x, axis) if is_mapped else x
        for x, axis, is_mapped in zip(operands, axes, over, strict=True)
    ]
    size = next(x.shape[0] for x, is_mapped in zip(moved, over, strict=True) if is_mapped)
    mapped = dataclasses.replace(draw, sizes=(size, *draw.sizes), mapped=(over, *draw.mapped))
    return primitive.bind(*moved, draw=mapped), 0


def _moved_to_front(x: Any, axis: int) -> Any:
    return x if axis == 0 else jnp.moveaxis(x, axis, 0)


def _pushed(
    primitive: Any, primals: Sequence[Any], tangents: Sequence[Any], *, draw: Draw
) -> tuple[Any, Any]:
    if not all(isinstance(tangent, ad.Zero) for tangent in tangents[1:]):
        raise no_derivative(draw)
    result = primitive.bind(*primals, draw=draw)
    return result, ad.Zero(jax.typeof(result).to_tangent_aval())


def no_derivative(draw: Draw, place: str = "") -> TypeError:
    """What there is to say where a draw is differentiated as other operations are."""
    return TypeError(
        f"A {draw.kind} draw{place} was differentiated with respect to its parameters, of which a "
        "sample has no derivative. The derivative of an expectation is what "
        "jax_cce.stochastic.jacobian and derivative estimate, the first one only; where the "
        "sample is to be held, draw from jax.lax.stop_gradient(parameter)."
    )


PRIMITIVES = {kind: _primitive(kind) for kind in SAMPLERS}
_KINDS = set(PRIMITIVES.values())


def draw_of(equation: Any) -> Draw | None:
    """The draw that an equation makes; None where it is none."""
    return equation.params["draw"] if equation.primitive in _KINDS else None


def _drawn(kind: str, key: Any, parameters: Sequence[Any], shape: Any, **options: Any) -> Any:
    """Binds a draw; what `jax.random` refuses, it refuses here with the same error."""
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    shape = None if shape is None else tuple(shape)
    sampler = functools.partial(SAMPLERS[kind], shape=shape, **options)
    result = jax.eval_shape(sampler, key, *parameters)
    options.pop("dtype", None)
    draw = Draw(kind, result.shape, result.dtype, tuple(options.items()))
    return PRIMITIVES[kind].bind(key, *map(jnp.asarray, parameters), draw=draw)


def bernoulli(key: Any, p: Any = 0.5, shape: _Shape = None, mode: str = "low") -> jax.Array:
    """Truth values that are true with probability p; the samples of `jax.random.bernoulli`.

    Args:
        key: a key of `jax.random`, for this draw alone.
        p: the probability, broadcast to `shape`.
        shape: the shape of the samples; that of `p` if not given.
        mode: "low" or "high", for how many bits are used.

    Examples:
        >>> import jax
        >>> from jax_cce import stochastic
        >>> key = jax.random.key(0)
        >>> print(stochastic.bernoulli(key, 0.3, (4,)) == jax.random.bernoulli(key, 0.3, (4,)))
        [ True  True  True  True]
    """
    return _drawn("bernoulli", key, (p,), shape, mode=mode)


def binomial(key: Any, n: Any, p: Any, shape: _Shape = None, dtype: Any = None) -> jax.Array:
    """How many of n trials succeed; the samples of `jax.random.binomial`, which are floats.

    Args:
        key: a key of `jax.random`, for this draw alone.
        n: the number of trials. There is no derivative with respect to it.
        p: the probability of success of each; both are broadcast to `shape`.
        shape: the shape of the samples; that of `n` and `p` together if not given.
        dtype: a floating-point dtype.
    """
    return _drawn("binomial", key, (n, p), shape, dtype=dtype)


def poisson(key: Any, lam: Any, shape: _Shape = None, dtype: Any = None) -> jax.Array:
    """Numbers of events, of mean `lam`; the samples of `jax.random.poisson`.

    Args:
        key: a key of `jax.random`, for this draw alone; of the default implementation.
        lam: the mean, broadcast to `shape`.
        shape: the shape of the samples; that of `lam` if not given.
        dtype: an integer dtype.
    """
    return _drawn("poisson", key, (lam,), shape, dtype=dtype)


def geometric(key: Any, p: Any, shape: _Shape = None, dtype: Any = None) -> jax.Array:
    """Numbers of trials up to the first success, 1 or more; the samples of `jax.random.geometric`.

    Args:
        key: a key of `jax.random`, for this draw alone.
        p: the probability of success of a trial, broadcast to `shape`.
        shape: the shape of the samples; that of `p` if not given.
        dtype: an integer dtype.
    """
    return _drawn("geometric", key, (p,), shape, dtype=dtype)


def categorical(
    key: Any,
    logits: Any,
    axis: int = -1,
    shape: _Shape = None,
    replace: bool = True,
    mode: str | None = None,
) -> jax.Array:
    """Numbers of outcomes, of probabilities softmax(logits); those of `jax.random.categorical`.

    Args:
        key: a key of `jax.random`, for this draw alone.
        logits: logarithms of probabilities, up to a constant.
        axis: the axis of the outcomes.
        shape: the shape of the samples; that of `logits` without `axis` if not given.
        replace: True; draws without replacement depend on each other.
        mode: "low" or "high", for how many bits are used.

    Raises:
        NotImplementedError: for `replace=False`.
    """
    if not replace:
        raise NotImplementedError(
            "stochastic.categorical draws with replacement only. Draws without replacement "
            "depend on each other, for which no derivative is known here."
        )
    logits = jnp.asarray(logits)
    if not -logits.ndim <= axis < logits.ndim:
        raise ValueError(f"axis {axis} is out of range for logits of shape {logits.shape}.")
    axis = axis % logits.ndim - logits.ndim
    return _drawn("categorical", key, (logits,), shape, axis=axis, mode=mode)
