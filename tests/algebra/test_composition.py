"""The structure algebra against NumPy: what a term means, and that composing it is a product."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cases.structures import (
    AFFINE_KINDS,
    KINDS,
    NumericBlock,
    Shape,
    block_from,
    factorisations,
    matmul,
    pairs,
    place,
    positions_of,
    shapes,
)
from jax_cce.algebra import composition, terms
from jax_cce.algebra.composition import Product
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Term, Unrepresentable

pytestmark = pytest.mark.one_version

# Each axis of the earlier variable has a loop of its own over all of it.
_FULL = {
    "identity",
    "diagonal",
    "permuted",
    "reversed",
    "contracted",
    "replicated",
    "matrix",
    "dense",
}
# An axis may have several loops, or a loop several axes.
_ENTANGLED = {"split", "convolved", "reshaped", "shared", "any"}


def _composed(product: Product | None, later: NumericBlock, earlier: NumericBlock) -> NumericBlock:
    """The block that a product describes, by the documented meaning of its fields."""
    ends = later.out_shape, earlier.in_shape
    if product is None:
        return NumericBlock(None, np.zeros(()), *ends)
    own = len(product.term.sizes)
    values = np.full(product.sizes, float(product.multiplicity))
    carried = set()
    for maps, factor in ((product.later, later), (product.earlier, earlier)):
        if maps is not None:
            values = values * factor.coefficient[tuple(positions_of(maps, product.sizes))]
            carried |= {loop for affine in maps for loop, _ in affine.strides}
    # Loops that no coefficient depends on are counted by the multiplicity.
    values = values.sum(axis=tuple(k for k in range(own, len(product.sizes)) if k in carried))
    axes = product.term.axes or ()
    keep = [slice(None) if k in axes else 0 for k in range(own)]
    rest = values.ndim - own
    return NumericBlock(product.term, values[(*keep, *[0] * rest)], *ends)


@pytest.mark.parametrize("earlier_kind", AFFINE_KINDS)
@pytest.mark.parametrize("later_kind", AFFINE_KINDS)
def test_compose_is_the_matrix_product(later_kind: str, earlier_kind: str):
    kinds = {later_kind, earlier_kind}

    @settings(max_examples=10)
    @given(pairs(later_kind, earlier_kind))
    def check(pair):
        later, earlier = pair
        if later.term is None or earlier.term is None:
            return
        try:
            product = composition.compose(later.term, earlier.term)
        except Unrepresentable:
            assert kinds & _ENTANGLED
            assert not kinds & _FULL
            return
        composed = _composed(product, later, earlier)
        np.testing.assert_array_equal(composed.matrix, matmul(later, earlier))
        if product is not None:
            order = tuple(range(len(product.term.axes or ())))
            assert terms.canonical(product.term) == (product.term, order)

    check()


@given(st.data(), st.sampled_from(KINDS), shapes())
def test_transpose(data, kind: str, shape: Shape):
    block = block_from(data.draw, kind, shape)
    rank = len(block.out_shape)
    expected = np.moveaxis(block.matrix, range(rank), range(-rank, 0))
    np.testing.assert_array_equal(block.transposed.matrix, expected)


@given(st.data(), st.sampled_from(AFFINE_KINDS), shapes(), st.randoms(use_true_random=False))
def test_the_canonical_form_does_not_depend_on_the_names_of_loops(data, kind, shape, random):
    block = block_from(data.draw, kind, shape)
    assume(block.term is not None)
    names = random.sample(range(len(block.term.sizes)), len(block.term.sizes))

    def rename(affine: Affine) -> Affine:
        return Affine(affine.offset, tuple((names[loop], s) for loop, s in affine.strides))

    axes = block.term.axes
    renamed = block.term._replace(
        sizes=tuple(block.term.sizes[names.index(k)] for k in range(len(names))),
        out_map=tuple(map(rename, block.term.out_map)),
        in_map=tuple(map(rename, block.term.in_map)),
        axes=axes and tuple(names[axis] for axis in axes),
    )
    term, order = terms.canonical(renamed)
    assert term == block.term
    coefficient = block.coefficient.transpose(order)
    np.testing.assert_array_equal(block._replace(coefficient=coefficient).matrix, block.matrix)


@pytest.mark.parametrize("size", [0, 1, 2, 4, 6, 12, 24])
def test_reshape(size: int):
    entries = np.eye(size)
    for out_shape, in_shape in itertools.product(factorisations(size), repeat=2):
        try:
            term = reshape(out_shape, in_shape)
        except Unrepresentable:
            strides = {math.prod(s[k:]) for s in (out_shape, in_shape) for k in range(len(s) + 1)}
            cuts = sorted(strides)
            assert any(b % a for a, b in itertools.pairwise(cuts)), (out_shape, in_shape)
            continue
        found = place(term, np.ones(()), out_shape + in_shape)
        np.testing.assert_array_equal(found, entries.reshape(out_shape + in_shape))


def test_two_reshapes_in_a_row():
    shapes_of_12 = [shape for shape in factorisations(12) if 1 not in shape]
    for last, middle, first in itertools.product(shapes_of_12, repeat=3):
        try:
            later, earlier = reshape(last, middle), reshape(middle, first)
            product = composition.compose(later, earlier)
        except Unrepresentable:
            # Neither of two strides divides the other: their digits do not line up.
            cuts = {math.prod(s[k:]) for s in (last, middle, first) for k in range(len(s))}
            assert any(b % a for a, b in itertools.pairwise(sorted(cuts)))
            continue
        one = np.ones(())
        factors = NumericBlock(later, one, last, middle), NumericBlock(earlier, one, middle, first)
        found = _composed(product, *factors).matrix
        np.testing.assert_array_equal(found, np.eye(12).reshape(last + first))


@pytest.mark.parametrize(
    "later, earlier, multiplications, flops",
    [
        # Matrix product: an entry of the result takes v products and v - 1 sums.
        (((3,), (4,), "dense"), ((4,), (5,), "dense"), 3 * 4 * 5, 3 * 5 * (2 * 4 - 1)),
        (((4,), (4,), "diagonal"), ((4,), (5,), "dense"), 4 * 5, 4 * 5),
        (((4,), (4,), "diagonal"), ((4,), (4,), "diagonal"), 4, 4),
        (((4,), (4,), "identity"), ((4,), (5,), "dense"), 0, 0),
        # A factor of one that an arithmetic equation has is counted, but not executed.
        (((4,), (4,), "one"), ((4,), (4,), "diagonal"), 4, 0),
    ],
)
def test_cost_of_a_product(later, earlier, multiplications: int, flops: int):
    def term(out_shape: Shape, in_shape: Shape, kind: str) -> Term:
        if kind == "dense":
            return terms.dense(out_shape, in_shape)
        one = terms.identity(in_shape)
        axes = tuple(range(len(one.sizes))) if kind == "diagonal" else None
        return one._replace(axes=axes, layout=kind == "identity")

    product = composition.compose(term(*later), term(*earlier))
    assert (product.multiplications, product.flops) == (multiplications, flops)
