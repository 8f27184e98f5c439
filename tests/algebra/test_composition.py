"""The structure algebra against NumPy: what a term means, and that composing it is a product."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cases.structures import (
    AFFINE_KINDS,
    KINDS,
    NumericBlock,
    Shape,
    any_between,
    block_from,
    dense_between,
    factorisations,
    matmul,
    pairs,
    place,
    positions_of,
    shapes,
    with_coefficient,
)
from jax_cce.algebra import blocks, composition, steps, terms
from jax_cce.algebra.composition import Product
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.recorder import Recorder
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
            term = terms.reshape(out_shape, in_shape)
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
            later, earlier = terms.reshape(last, middle), terms.reshape(middle, first)
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


# The same on arrays, in JAX: sums of several terms are recorded on a recorder and then run.


class _Recorder:
    """A recorder with the coefficients that its slots will read."""

    def __init__(self, *, sparse: bool = False, run_time: bool = False) -> None:
        self.recorder = Recorder(sparse=sparse)
        self._run_time = run_time
        self._coefficients: list[Any] = []

    def _term(self, term: Term) -> Term:
        """The term, with its index arrays known at run time only where that is wanted."""
        if not self._run_time:
            return term
        known = [self.recorder.lookup(lookup, lookup.table, None) for lookup in term.lookups]
        return term._replace(lookups=tuple(known))

    def record(self, parts: Sequence[tuple[float, NumericBlock]]) -> blocks.Block:
        """The sum of scaled blocks, as the recorder holds it."""
        result: blocks.Block = ()
        for scale, block in parts:
            if block.term is None:
                continue
            term = self._term(block.term)
            if term.axes is None:
                piece = blocks.Piece(term, scale, None)
            else:
                piece = self.recorder.local(term, scale, len(self._coefficients), None)
                self._coefficients.append(jnp.asarray(block.coefficient))
            result = self.recorder.add(result, (piece,), block.out_shape, block.in_shape)
        return result

    def coefficient(self, site: int, key: Any, term: Term) -> Any:
        return self._coefficients[site]

    def index_array(self, site: Table, key: Any, number: int) -> Any:
        return jnp.asarray(site.values)

    def primals(self, site: Any) -> Any:
        raise AssertionError("no operator is applied")

    def run(self, block: blocks.Block, out_shape: Shape, in_shape: Shape) -> np.ndarray:
        shape = out_shape + in_shape
        if not block:
            return np.zeros(shape)
        (piece,) = self.recorder.densify(block, out_shape, in_shape)
        if piece.slot is None:
            return np.full(shape, piece.scale)
        slots = steps.run(
            steps.needed(self.recorder.steps, [piece.slot])[0],
            np.float64,
            sites=self,
        )
        return piece.scale * np.asarray(slots[piece.slot]).reshape(shape)


_SCALES = st.sampled_from([1.0, -1.0, 2.5])


def _sum(
    parts: Sequence[tuple[float, NumericBlock]], out_shape: Shape, in_shape: Shape
) -> np.ndarray:
    return sum((scale * b.matrix for scale, b in parts), np.zeros(out_shape + in_shape))


@st.composite
def _sums(draw: Any, out_shape: Shape, in_shape: Shape) -> list[tuple[float, NumericBlock]]:
    """Draws one to three scaled terms between two shapes, some of them on the same maps."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if parts and parts[-1][1].term is not None and draw(st.booleans()):
            block = with_coefficient(draw, parts[-1][1].term, out_shape, in_shape)
        else:
            between = draw(st.sampled_from((any_between, any_between, dense_between)))
            block = between(draw, out_shape, in_shape)
        parts.append((draw(_SCALES), block))
    return parts


@given(st.data(), shapes(2), shapes(2))
def test_tape_adds(data, out_shape: Shape, in_shape: Shape):
    one, other = data.draw(_sums(out_shape, in_shape)), data.draw(_sums(out_shape, in_shape))
    recorder = _Recorder()
    total = recorder.recorder.add(recorder.record(one), recorder.record(other), out_shape, in_shape)
    expected = _sum(one + other, out_shape, in_shape)
    np.testing.assert_array_equal(recorder.run(total, out_shape, in_shape), expected)


@given(st.data(), shapes(2), shapes(2), shapes(2))
def test_tape_composes_sums(data, out_shape: Shape, middle: Shape, in_shape: Shape):
    later, earlier = data.draw(_sums(out_shape, middle)), data.draw(_sums(middle, in_shape))
    recorder = _Recorder()
    product = recorder.recorder.compose(
        recorder.record(later), recorder.record(earlier), (out_shape, middle, in_shape)
    )
    expected = np.tensordot(
        _sum(later, out_shape, middle), _sum(earlier, middle, in_shape), axes=len(middle)
    )
    np.testing.assert_array_equal(recorder.run(product, out_shape, in_shape), expected)


def _reaching(block: NumericBlock, out_shape: Shape) -> NumericBlock:
    """The block with zeros below its rows and with leading axes for its output."""
    if block.term is None:
        return block._replace(out_shape=out_shape)
    leading = (Affine(0, ()),) * (len(out_shape) - len(block.out_shape))
    term = block.term._replace(out_map=leading + block.term.out_map)
    return block._replace(term=term, out_shape=out_shape)


def _check_product(later_kind: str, earlier_kind: str) -> None:
    @settings(max_examples=2)
    @given(st.data(), _SCALES, st.booleans(), st.booleans())
    def check(data, scale, sparse, run_time):
        later, earlier = data.draw(pairs(later_kind, earlier_kind))
        recorder = _Recorder(sparse=sparse, run_time=run_time)
        ends = later.out_shape, later.in_shape, earlier.in_shape
        product = recorder.recorder.compose(
            recorder.record([(scale, later)]), recorder.record([(1.0, earlier)]), ends
        )
        found = recorder.run(product, later.out_shape, earlier.in_shape)
        np.testing.assert_array_equal(found, scale * matmul(later, earlier))

    check()


def _check_sum(one_kind: str, other_kind: str) -> None:
    @settings(max_examples=2)
    @given(st.data(), _SCALES, st.booleans(), st.booleans(), shapes(2))
    def check(data, scale, sparse, run_time, in_shape):
        one = block_from(data.draw, one_kind, in_shape)
        other = block_from(data.draw, other_kind, in_shape)
        extents = itertools.zip_longest(one.out_shape[::-1], other.out_shape[::-1], fillvalue=1)
        out_shape = tuple(map(max, extents))[::-1]
        parts = [(scale, _reaching(one, out_shape)), (1.0, _reaching(other, out_shape))]
        recorder = _Recorder(sparse=sparse, run_time=run_time)
        found = recorder.run(recorder.record(parts), out_shape, in_shape)
        np.testing.assert_array_equal(found, _sum(parts, out_shape, in_shape))

    check()


@pytest.mark.parametrize("later_kind", KINDS)
def test_the_tape_composes_and_adds_every_pair_of_kinds(later_kind: str):
    for earlier_kind in KINDS:
        _check_product(later_kind, earlier_kind)
        _check_sum(later_kind, earlier_kind)
