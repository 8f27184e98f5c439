"""Comparing the Jacobian of one call with J t from `jax.jvp` and Jᵀ c from `jax.vjp`.

No reference Jacobian is formed, so a function of any size can be checked in the formats that it is
used in.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from jax_cce import jax_internals
from jax_cce.algebra.terms import flat_strides
from jax_cce.api import jacobian
from jax_cce.planning.options import Order
from jax_cce.program.calls import Call
from jax_cce.sparse.formats import FormatName
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["Comparison", "evaluated"]

# Allowed differences, relative to the largest entry of a product.
_TOLERANCES = {8: 1e-8, 4: 1e-3, 2: 5e-2, 1: 0.3}
# What JAX raises where a function has no derivative in one of its modes.
_NO_MODE = (TypeError, ValueError, NotImplementedError)

_JVP, _VJP, _DIFFERENCE = "jax.jvp", "jax.vjp", "a central difference"


class _Product(NamedTuple):
    """A product of the Jacobian that was computed without it.

    Attributes:
        mode: how.
        given: a direction for each input, or for each output in the case of `jax.vjp`.
        expected: what that becomes at each output, or input; None where nothing is compared.
    """

    mode: str
    given: list[Any]
    expected: list[Any]


class Comparison:
    """Products of JAX for one call, and what our Jacobians make of the same directions.

    Attributes:
        call: the call.
        rtol: how far a product may be off, relative to its largest entry; None for the dtypes'.
        directions: how many tangents and cotangents.
        seed: of the random directions.
    """

    def __init__(self, call: Call, rtol: float | None, directions: int, seed: int) -> None:
        self.call, self.rtol, self.directions, self.seed = call, rtol, directions, seed
        for leaf in call.leaves:
            if jax_internals.is_tracer(leaf):
                raise TypeError(
                    "check_jacobian compares values, so it cannot run under jax.jit, jax.vmap or "
                    f"another transformation, but an argument is the tracer {leaf}."
                )

    def fault(self, form: FormatName, order: Order) -> str:
        """Where our Jacobian disagrees, for people; "" where it agrees."""
        blocks = self._blocks(form, order)
        for mode, given, expected in self._products:
            transposed = mode == _VJP
            for at, wanted in enumerate(expected):
                if wanted is None:
                    continue
                total = np.zeros(wanted.shape, wanted.dtype)
                for k, direction in enumerate(given):
                    block = blocks[k][at] if transposed else blocks[at][k]
                    if direction is not None and block is not None:
                        product = _product(block, direction, wanted.shape, transposed)
                        real = not np.iscomplexobj(wanted)
                        total += np.real(product) if real else product
                fault = self._difference(total, wanted, rounded=mode == _DIFFERENCE)
                if fault:
                    side = "input" if transposed else "output"
                    return f"at {side} {self._name(at, transposed)}, {mode} gives {fault}"
        return ""

    def _blocks(self, form: FormatName, order: Order) -> list[list[Any]]:
        call, contract = self.call, self.call.contract
        jac = jacobian(
            call.fun,
            call.positions,
            contract.has_aux,
            contract.holomorphic,
            contract.allow_int,
            format=form,
            order=order,
        )(*call.args)
        if contract.has_aux:
            jac = jac[0]
        flat = jax.tree.leaves(jac, is_leaf=_is_block)
        width = len(call.leaves)
        if not width:
            return []
        return [flat[at : at + width] for at in range(0, len(flat), width)]

    def _values(self, *leaves: Any) -> list[Any]:
        return self.call.run(leaves)[0]

    @functools.cached_property
    def outputs(self) -> list[Any]:
        """The abstract value of each differentiated output."""
        return [jax.typeof(leaf) for leaf in evaluated(self._values, *self.call.leaves)]

    @functools.cached_property
    def _products(self) -> list[_Product]:
        rng = np.random.default_rng(self.seed)
        products: list[_Product] = []
        for mode in (self._pulled, self._pushed):
            with contextlib.suppress(*_NO_MODE):
                products += list(mode(rng))
        # What only a rule of ours can differentiate.
        return products or list(self._differenced(rng))

    def _pushed(self, rng: np.random.Generator) -> Iterator[_Product]:
        for _ in range(0 if self._nonlinear else self.directions):
            given = [_random(rng, aval) for aval in self.call.avals]
            tangents = [
                np.zeros(aval.shape, jax.dtypes.float0) if t is None else _as(t, aval)
                for t, aval in zip(given, self.call.avals, strict=True)
            ]
            _, pushed = jax.jvp(self._values, tuple(self.call.leaves), tuple(tangents))
            yield _Product(_JVP, given, list(map(_wide, pushed)))

    def _pulled(self, rng: np.random.Generator) -> Iterator[_Product]:
        _, pull = jax.vjp(self._values, *self.call.leaves)
        for _ in range(self.directions):
            if self._nonlinear:
                given = self._one_hot(rng)
            else:
                given = [_random(rng, aval) for aval in self.outputs]
            yield _Product(_VJP, given, self._pull(pull, given))

    def _differenced(self, rng: np.random.Generator) -> Iterator[_Product]:
        step = self._tolerance ** (1 / 3) / 10
        for _ in range(self.directions):
            given = [_random(rng, aval) for aval in self.call.avals]
            ends = []
            for sign in (step, -step):
                moved = [
                    leaf if t is None else _as(_wide(jnp.asarray(leaf)) + sign * t, aval)
                    for leaf, t, aval in zip(self.call.leaves, given, self.call.avals, strict=True)
                ]
                ends.append(map(_wide, evaluated(self._values, *moved)))
            differences = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
            yield _Product(_DIFFERENCE, given, differences)

    def _pull(self, pull: Any, given: Sequence[Any]) -> list[Any]:
        pulled = pull([_as(c, aval) for c, aval in zip(given, self.outputs, strict=True)])
        smooth = map(jax_internals.is_differentiable, self.call.avals)
        return [_wide(x) if wanted else None for x, wanted in zip(pulled, smooth, strict=True)]

    @functools.cached_property
    def _nonlinear(self) -> bool:
        """Whether a pullback is seen not to be linear, so that only rows have a meaning."""
        rng = np.random.default_rng(self.seed)
        one, other = ([_random(rng, aval) for aval in self.outputs] for _ in range(2))
        # Of different sizes: what clips at some size is linear below it.
        combinations = [(1, 0), (0, 1), (1, 1), (1e3, 0), (1e-3, 0)]
        try:
            _, pull = jax.vjp(self._values, *self.call.leaves)
            images = [
                self._pull(pull, [p * a + q * b for a, b in zip(one, other, strict=True)])
                for p, q in combinations
            ]
        except _NO_MODE:
            return False
        return any(
            first is not None and bool(self._difference(p * first + q * second, image))
            for (p, q), row in zip(combinations, images, strict=True)
            for first, second, image in zip(*images[:2], row, strict=True)
        )

    def _one_hot(self, rng: np.random.Generator) -> list[np.ndarray]:
        given = [np.zeros(aval.shape, _wide_dtype(aval.dtype)) for aval in self.outputs]
        filled = [k for k, aval in enumerate(self.outputs) if jax_internals.size(aval)]
        if filled:
            chosen = given[filled[rng.integers(len(filled))]]
            chosen.flat[rng.integers(chosen.size)] = 1
        return given

    def _difference(self, found: np.ndarray, expected: np.ndarray, *, rounded: bool = False) -> str:
        compared = np.isfinite(expected)
        largest = float(np.abs(expected[compared]).max(initial=0.0))
        with np.errstate(invalid="ignore"):
            error = np.where(compared, np.abs(found - np.where(compared, expected, 0)), 0.0)
        error = np.where(compared & ~np.isfinite(found), np.inf, error)
        tolerance = self._tolerance ** (0.5 if rounded else 1)
        if not error.size or error.max() <= tolerance * largest:
            return ""
        at = np.unravel_index(int(error.argmax()), error.shape)
        index = f" at index {tuple(map(int, at))}" if at else ""
        return f"{expected[at]:.8g}{index}, but the Jacobian {found[at]:.8g}"

    @functools.cached_property
    def _tolerance(self) -> float:
        if self.rtol is not None:
            return self.rtol
        avals = [*self.call.avals, *self.outputs]
        widths = [
            jnp.finfo(aval.dtype).bits // 8
            for aval in avals
            if jax_internals.is_differentiable(aval)
        ]
        return _TOLERANCES[min(widths, default=8)]

    def _name(self, at: int, transposed: bool) -> str:
        if transposed:
            varied = tuple(self.call.args[k] for k in self.call.positions)
            path, _ = tree_flatten_with_path(varied)[0][at]
            return f"{self.call.positions[path[0].idx]}{keystr(path[1:])}"
        tree: Any = None

        def values(*leaves: Any) -> list[Any]:
            nonlocal tree
            values, tree, *_ = self.call.run(leaves)
            return values

        evaluated(values, *self.call.leaves)
        path, _ = tree_flatten_with_path(tree.unflatten(range(tree.num_leaves)))[0][at]
        return keystr(path) or "0"


def evaluated(fun: Callable[..., list[Any]], *args: Any) -> list[Any]:
    """What a function returns, compiled where a primitive in it cannot run otherwise."""
    try:
        return fun(*args)
    except NotImplementedError:
        return jax.jit(fun)(*args)


def _is_block(node: Any) -> bool:
    return hasattr(node, "todense")


def _wide_dtype(dtype: Any) -> Any:
    return np.complex128 if jnp.issubdtype(dtype, np.complexfloating) else np.float64


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(_wide_dtype(x.dtype))


def _as(x: np.ndarray, aval: Any) -> Any:
    return jax_internals.convert(jnp.asarray(x, aval.dtype), aval.dtype, aval.weak_type)


def _random(rng: np.random.Generator, aval: Any) -> Any:
    """A random direction, rounded to what its dtype holds; None for integers."""
    if not jax_internals.is_differentiable(aval):
        return None
    direction = rng.standard_normal(aval.shape)
    if jax_internals.is_complex(aval):
        direction = direction + 1j * rng.standard_normal(aval.shape)
    return np.asarray(direction).astype(aval.dtype).astype(_wide_dtype(aval.dtype))


def _product(block: Any, vector: np.ndarray, shape: tuple[int, ...], transposed: bool) -> Any:
    """A block, or its transpose, times a direction; the result has the given shape."""
    if not _is_block(block):
        matrix = _wide(block)
        axes = vector.ndim
        return (
            np.tensordot(vector, matrix, axes) if transposed else np.tensordot(matrix, vector, axes)
        )
    if isinstance(block, StructuredJacobian):
        block = block.to_bcoo()
    data, indices = _wide(block.data), np.asarray(block.indices)
    split = block.ndim - vector.ndim if not transposed else vector.ndim
    ends = block.shape[:split], block.shape[split:]
    # Out of bounds is what pads.
    inside = (indices < np.asarray(block.shape)).all(axis=1)
    data, indices = data[inside], indices[inside]
    flat = [
        np.zeros(len(data), int) + (at @ np.asarray(flat_strides(end), int))
        for at, end in zip((indices[:, :split], indices[:, split:]), ends, strict=True)
    ]
    to, along = flat[::-1] if transposed else flat
    total = np.zeros(math.prod(shape), np.result_type(data, vector))
    np.add.at(total, to, data * vector.reshape(-1)[along])
    return total.reshape(shape)
