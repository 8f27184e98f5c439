"""What is kept of an array in place of all of it: some of its entries, or random projections.

Either is a random linear map M of the entries with E[M] = 1, so that whatever is linear in the
array keeps its expectation. M is made from a key whenever it is needed, and never stored.

Source: Oktay, McGreivy, Aduol, Beatson & Adams, "Randomized Automatic Differentiation", ICLR 2021.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["METHODS", "Draw", "Method", "count_of", "signs"]

Method = Literal["sample", "project"]
METHODS: tuple[Method, ...] = get_args(Method)


def count_of(keep: float, size: int) -> int:
    """How many of `size` numbers are kept: at least one."""
    return min(size, max(1, math.ceil(keep * size - 1e-9)))


def signs(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Random signs over the root of the last axis: R with E[R Rᵀ] = 1."""
    return jax.random.rademacher(key, shape, dtype) / np.asarray(math.sqrt(shape[-1]), dtype)


@dataclass(frozen=True)
class Draw:
    """What is kept of an array of shape (elements, features).

    A sample takes one entry of each of `kept` ranges of features that are as long as each other, to
    within one; its weight is the length of its range. So no entry comes twice, one random number
    is drawn for each that is kept, and an entry has the variance (length - 1) times its square.

    Attributes:
        elements: how many elements there are, such as those of a batch.
        features: how many numbers each of them has.
        kept: how many are kept of each.
        method: "sample" or "project".
        share: whether all elements have the same entries or projections.
    """

    elements: int
    features: int
    kept: int
    method: Method
    share: bool

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The first feature of each range, and the end of the last."""
        return np.arange(self.kept + 1) * self.features // self.kept

    @property
    def _lengths(self) -> np.ndarray:
        return np.diff(self._starts)

    @property
    def is_compact(self) -> bool:
        """Whether the kept entries are a part of the features, the same for all elements."""
        return self.method == "sample" and (self.share or self.elements == 1)

    @property
    def stored(self) -> int:
        """How many numbers are stored."""
        return self.elements * self.kept

    def indices(self, key: Any) -> Any:
        """The features that a sample keeps, shape (kept,) or (elements, kept)."""
        shape = (self.kept,) if self.is_compact else (self.elements, self.kept)
        offsets = jax.random.randint(key, shape, 0, self._lengths.astype(np.int32), np.int32)
        return lax.add(offsets, jnp.broadcast_to(self._starts[:-1].astype(np.int32), shape))

    def _projection(self, key: Any, dtype: Any) -> Any:
        """R, of shape (features, kept), behind one axis for the elements where not shared."""
        shape = (self.features, self.kept)
        return signs(key, shape if self.share else (self.elements, *shape), dtype)

    def keep(self, key: Any, array: Any) -> Any:
        """What is stored of an array: shape (elements, kept)."""
        if self.method == "project":
            form = "ef,fk->ek" if self.share else "ef,efk->ek"
            return jnp.einsum(form, array, self._projection(key, array.dtype))
        indices = self.indices(key)
        if self.is_compact:
            return array[:, indices]
        return jnp.take_along_axis(array, indices, 1)

    def weighted(self, stored: Any) -> Any:
        """Sampled entries times their weights."""
        return stored * self._lengths.astype(stored.dtype)

    def restore(self, key: Any, stored: Any) -> Any:
        """An array of shape (elements, features) whose expectation is the one that was kept."""
        if self.method == "project":
            form = "ek,fk->ef" if self.share else "ek,efk->ef"
            return jnp.einsum(form, stored, self._projection(key, stored.dtype))
        # Each feature asks whether it is the one of its range: no scatter.
        ranges = np.repeat(np.arange(self.kept), self._lengths)
        drawn = self.indices(key)[..., ranges] == np.arange(self.features, dtype=np.int32)
        drawn = jnp.broadcast_to(drawn, (self.elements, self.features))
        return jnp.where(drawn, self.weighted(stored)[:, ranges], jnp.zeros((), stored.dtype))

    def variances(self, array: Any) -> Any:
        """The variance of each restored entry, of the array's shape."""
        squares = array * array
        if self.method == "sample":
            lengths = np.repeat(self._lengths, self._lengths)
            return squares * (lengths - 1).astype(array.dtype)
        others = squares.sum(1, keepdims=True) - squares
        return others / np.asarray(self.kept, array.dtype)

    def spread(self, key: Any, array: Any) -> Any:
        """The array with a random sign for each feature, in units of its standard deviation.

        The expected square of what is linear in it is the variance of a shared draw, where features
        act on numbers of their own, as in a product with a matrix; else without covariances.
        """
        flips = jax.random.rademacher(key, (self.features,), array.dtype)
        if self.method == "sample":
            lengths = np.repeat(self._lengths, self._lengths)
            return array * flips * np.sqrt(lengths - 1).astype(array.dtype)
        return array * flips * np.asarray(math.sqrt((self.features - 1) / self.kept), array.dtype)
