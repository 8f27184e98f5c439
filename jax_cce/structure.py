"""The static structure of local Jacobians: terms over named loops, and their composition.

A Jacobian block dv/du is kept as a sum of *terms*. One term is

    J[o, i] = sum over k of  c[k] * [o = out(k)] * [i = inn(k)]

where k runs over a box of loop axes, `out` and `inn` give for each axis of v and u an affine
function of k, and the coefficient c depends on some of the loop axes (on none of them when it is
a static number). Identity, diagonal, replicated, dense, permuted, sliced, padded, concatenated,
reshaped and contracted maps are all of this form; only the numbers in c are known at run time.

Everything in this module is NumPy-free Python on integers, so it can run before any array exists
and its results are memoised.

Source: the chain rule on face-free computational graphs (Griewank & Walther, "Evaluating
Derivatives", 2nd ed., section 10.2), with the edge values generalised to structured blocks.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = [
    "Affine",
    "Product",
    "Term",
    "Unrepresentable",
    "canonical",
    "compose",
    "dense",
    "identity",
    "linear",
    "placing",
    "reshape",
    "split_loop",
    "transpose",
]


class Unrepresentable(Exception):
    """The composition has no description by affine maps; a dense side always has one."""


class Affine(NamedTuple):
    """The position `offset + sum(stride * loop[axis])` along one array axis."""

    offset: int
    strides: tuple[tuple[int, int], ...]


class Term(NamedTuple):
    """One term of a Jacobian block.

    Attributes:
        sizes: the size of each loop axis; all are at least 2 in canonical form.
        out: for each axis of the later variable its position as a function of the loops.
        inn: the same for the earlier variable.
        axes: the loop axes that the coefficient array has, ascending; None where the coefficient
            is a static number kept beside the term.
        layout: whether the term comes from layout equations only (reshape, slice, convert ...),
            which the published multiplication counts take as free.
    """

    sizes: tuple[int, ...]
    out: tuple[Affine, ...]
    inn: tuple[Affine, ...]
    axes: tuple[int, ...] | None
    layout: bool = False

    @property
    def support(self) -> tuple:
        """What two terms must share for their coefficients to be added."""
        return self.sizes, self.out, self.inn

    @property
    def coefficient_shape(self) -> tuple[int, ...]:
        """The shape of the coefficient array, () for a static number."""
        return tuple(self.sizes[axis] for axis in self.axes or ())


class Product(NamedTuple):
    """How the coefficient of a composed term comes from its two factors.

    Attributes:
        term: the composed term, canonical.
        sizes: the sizes of the joint loops; the first `len(term.sizes)` are the term's own, the
            rest are contracted.
        later: for each coefficient axis of the later factor, its position as a function of the
            joint loops (None for a static coefficient).
        earlier: the same for the earlier factor.
        multiplicity: product of the contracted loops on which neither coefficient depends.
        multiplications: coefficient products in the convention of the published tables.
        flops: multiplications and additions that are executed.
    """

    term: Term
    sizes: tuple[int, ...]
    later: tuple[Affine, ...] | None
    earlier: tuple[Affine, ...] | None
    multiplicity: int
    multiplications: int
    flops: int


def _loops(maps: Sequence[Affine]) -> list[int]:
    return [axis for affine in maps for axis, _ in affine.strides]


def _along(axis: int) -> Affine:
    return Affine(0, ((axis, 1),))


def canonical(term: Term) -> tuple[Term, tuple[int, ...]] | None:
    """Renames loops by first appearance in (out, inn) and drops those of size 1.

    Every loop must appear in a map. Terms with equal support are then equal as tuples.

    Args:
        term: any term whose `axes` may be in any order.

    Returns:
        The canonical term and the order in which the axes of the given coefficient (size-1 axes
        squeezed out) must be taken to match it; None if the term is an empty sum.
    """
    if 0 in term.sizes:
        return None
    names: dict[int, int] = {}
    for axis in _loops(term.out) + _loops(term.inn):
        if term.sizes[axis] > 1:
            names.setdefault(axis, len(names))

    def rename(affine: Affine) -> Affine:
        kept = ((names[axis], stride) for axis, stride in affine.strides if axis in names)
        return Affine(affine.offset, tuple(sorted(kept)))

    renamed = None if term.axes is None else [names[axis] for axis in term.axes if axis in names]
    order = tuple(sorted(range(len(renamed or ())), key=(renamed or ()).__getitem__))
    return (
        Term(
            tuple(term.sizes[axis] for axis in names),
            tuple(map(rename, term.out)),
            tuple(map(rename, term.inn)),
            None if renamed is None else tuple(sorted(renamed)),
            term.layout,
        ),
        order,
    )


@functools.lru_cache(maxsize=4096)
def identity(shape: tuple[int, ...]) -> Term | None:
    """The identity on an array of the given shape; None for size zero."""
    maps = tuple(map(_along, range(len(shape))))
    result = canonical(Term(tuple(shape), maps, maps, None, layout=True))
    return result and result[0]


@functools.lru_cache(maxsize=4096)
def dense(out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Term | None:
    """The term that stores every entry, coefficient shape out_shape + in_shape less the ones."""
    sizes = (*out_shape, *in_shape)
    maps = tuple(map(_along, range(len(sizes))))
    split = len(out_shape)
    result = canonical(Term(sizes, maps[:split], maps[split:], tuple(range(len(sizes)))))
    return result and result[0]


def reshape(out_shape: Sequence[int], in_shape: Sequence[int]) -> Term | None:
    """The row-major reshape, as loops over the common refinement of both shapes.

    Raises:
        Unrepresentable: where neither shape refines the other, as for (4, 6) from (6, 4).
    """
    size = math.prod(out_shape)
    if size == 0:
        return None
    # The stride of each axis in the flat array; the loops' strides are the union of both sets.
    ends = [_flat_strides(shape) for shape in (out_shape, in_shape)]
    cuts = sorted({size, *ends[0], *ends[1]}, reverse=True)
    if any(outer % inner for outer, inner in itertools.pairwise(cuts)):
        raise Unrepresentable(f"reshape from {tuple(in_shape)} to {tuple(out_shape)}")
    sizes = tuple(outer // inner for outer, inner in itertools.pairwise(cuts))
    maps = []
    for shape, strides in zip((out_shape, in_shape), ends, strict=True):
        maps.append(
            tuple(
                Affine(
                    0,
                    tuple(
                        (loop, cut // stride)
                        for loop, cut in enumerate(cuts[1:])
                        if stride <= cut < stride * extent
                    ),
                )
                for extent, stride in zip(shape, strides, strict=True)
            )
        )
    return canonical(Term(sizes, maps[0], maps[1], None, layout=True))[0]  # type: ignore[index]


def _flat_strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def linear(maps: Sequence[Affine], shape: Sequence[int]) -> tuple[int, dict[int, int]]:
    """The row-major position in `shape`: its offset, and the stride of each loop."""
    offset, strides = 0, dict.fromkeys(_loops(maps), 0)
    for affine, unit in zip(maps, _flat_strides(shape), strict=True):
        offset += unit * affine.offset
        for loop, stride in affine.strides:
            strides[loop] += unit * stride
    return offset, strides


def placing(term: Term) -> Term:
    """The linear map from a term's coefficient to the entries of its block, out + inn."""
    inn = tuple(map(_along, term.axes or ()))
    result = canonical(Term(term.sizes, term.out + term.inn, inn, None, term.layout))
    assert result is not None
    return result[0]


def split_loop(term: Term, loop: int, digits: int) -> Term:
    """The same term with a loop taken as two, of which the faster one has `digits` steps.

    The coefficient's axis is split likewise. The result is not canonical.
    """

    def shifted(affine: Affine) -> Affine:
        strides = []
        for axis, stride in affine.strides:
            if axis == loop:
                strides += [(axis, stride * digits), (axis + 1, stride)]
            else:
                strides.append((axis + (axis > loop), stride))
        return Affine(affine.offset, tuple(strides))

    axes = term.axes
    if axes is not None:
        axes = tuple(
            k
            for axis in axes
            for k in ((axis, axis + 1) if axis == loop else (axis + (axis > loop),))
        )
    sizes = (*term.sizes[:loop], term.sizes[loop] // digits, digits, *term.sizes[loop + 1 :])
    return Term(
        sizes, tuple(map(shifted, term.out)), tuple(map(shifted, term.inn)), axes, term.layout
    )


def transpose(term: Term) -> tuple[Term, tuple[int, ...]]:
    """The term of the transposed block and the new order of its coefficient's axes."""
    result = canonical(term._replace(out=term.inn, inn=term.out))
    assert result is not None
    return result


@functools.lru_cache(maxsize=1 << 16)
def compose(later: Term, earlier: Term) -> Product | None:
    """The product of two terms, dw/dv times dv/du, as one term dw/du.

    Args:
        later: a canonical term of dw/dv.
        earlier: a canonical term of dv/du.

    Returns:
        The product, or None where the two terms do not meet (a structural zero).

    Raises:
        Unrepresentable: where the product is no single term. It never is where `earlier.out` or
            `later.inn` is the identity, as in a dense term.
    """
    split = len(later.sizes)
    system = _System((*later.sizes, *earlier.sizes))
    for one, other in zip(later.inn, earlier.out, strict=True):
        strides = dict(one.strides)
        strides.update((split + axis, -stride) for axis, stride in other.strides)
        if not system.solve(one.offset - other.offset, strides):
            return None
    out = [system.apply(affine, 0) for affine in later.out]
    inn = [system.apply(affine, split) for affine in earlier.inn]

    names: dict[int, int] = {}
    for loop in _loops(out) + _loops(inn):
        names.setdefault(loop, len(names))
    own = len(names)
    for loop in system.sizes:
        names.setdefault(loop, len(names))

    def rename(affine: Affine) -> Affine:
        return Affine(
            affine.offset, tuple(sorted((names[loop], stride) for loop, stride in affine.strides))
        )

    def coefficient(term: Term, shift: int) -> tuple[Affine, ...] | None:
        if term.axes is None:
            return None
        return tuple(rename(system.apply(_along(axis), shift)) for axis in term.axes)

    def counted(term: Term, shift: int) -> set[int]:
        # A factor of one in an arithmetic equation is stored entry by entry in the convention.
        axes = range(len(term.sizes)) if term.axes is None else term.axes
        return {names[k] for axis in axes for k in _loops([system.apply(_along(axis), shift)])}

    sizes = tuple(system.sizes[loop] for loop in names)
    ahead, behind = coefficient(later, 0), coefficient(earlier, split)
    carried = set(_loops(ahead or ())) | set(_loops(behind or ()))
    static = ahead is None and behind is None
    term = Term(
        sizes[:own],
        tuple(map(rename, out)),
        tuple(map(rename, inn)),
        None if static else tuple(sorted(loop for loop in carried if loop < own)),
        later.layout and earlier.layout,
    )
    joint = math.prod(sizes[loop] for loop in carried)
    result = math.prod(sizes[loop] for loop in carried if loop < own)
    both = ahead is not None and behind is not None
    return Product(
        term,
        sizes,
        ahead,
        behind,
        math.prod(sizes[loop] for loop in range(own, len(sizes)) if loop not in carried),
        0
        if later.layout or earlier.layout
        else math.prod(sizes[loop] for loop in counted(later, 0) | counted(earlier, split)),
        0 if static else both * joint + (joint - result),
    )


class _System:
    """Linear equations over loops with bounds, solved one at a time by substitution.

    `sizes` holds the loops that are still free; `_bound` gives every loop that was ever created
    as an affine function of the free ones.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes: dict[int, int] = dict(enumerate(sizes))
        self._bound: dict[int, tuple[int, dict[int, int]]] = {}
        self._next = len(sizes)

    def apply(self, affine: Affine, shift: int) -> Affine:
        """`affine` over loops numbered from `shift`, in terms of the free loops."""
        offset, strides = self._expand(
            affine.offset, {axis + shift: stride for axis, stride in affine.strides}
        )
        return Affine(offset, tuple(sorted(strides.items())))

    def _expand(self, offset: int, strides: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        free: dict[int, int] = {}
        pending = list(strides.items())
        while pending:
            loop, stride = pending.pop()
            if loop in self._bound:
                constant, inner = self._bound[loop]
                offset += stride * constant
                pending.extend((k, stride * s) for k, s in inner.items())
            else:
                free[loop] = free.get(loop, 0) + stride
        return offset, {loop: stride for loop, stride in free.items() if stride}

    def _bind(self, loop: int, offset: int, strides: dict[int, int]) -> bool:
        self._bound[loop] = offset, strides
        del self.sizes[loop]
        return True

    def _fresh(self, size: int) -> int:
        loop, self._next = self._next, self._next + 1
        self.sizes[loop] = size
        return loop

    def _range(self, offset: int, strides: Mapping[int, int]) -> tuple[int, int]:
        spans = [stride * (self.sizes[loop] - 1) for loop, stride in strides.items()]
        return offset + sum(s for s in spans if s < 0), offset + sum(s for s in spans if s > 0)

    def solve(self, offset: int, strides: Mapping[int, int]) -> bool:
        """Adds offset + sum(stride * loop) = 0; False where it has no solution."""
        offset, free = self._expand(offset, strides)
        if not free:
            return offset == 0
        divisor = math.gcd(*free.values())
        if offset % divisor:
            return False
        offset //= divisor
        free = {loop: stride // divisor for loop, stride in free.items()}
        if len(free) == 1:
            ((loop, stride),) = free.items()
            position = -offset * stride  # stride is 1 or -1 by now
            return 0 <= position < self.sizes[loop] and self._bind(loop, position, {})
        if len(free) == 2:
            return self._solve_pair(offset, free)
        for loop, stride in free.items():
            if abs(stride) == 1:
                rest = {k: -s * stride for k, s in free.items() if k != loop}
                low, high = self._range(-offset * stride, rest)
                if low >= 0 and high < self.sizes[loop]:
                    return self._bind(loop, -offset * stride, rest)
        return self._solve_by_radix(offset, free)

    def _solve_pair(self, offset: int, free: Mapping[int, int]) -> bool:
        """Solves a x + b y + offset = 0, a and b coprime: all solutions lie on one new loop."""
        (x, a), (y, b) = free.items()
        # x = x0 + b t, y = y0 - a t for a particular solution (x0, y0).
        x0 = (-offset * pow(a, -1, abs(b))) % abs(b) if abs(b) > 1 else 0
        y0 = -(offset + a * x0) // b
        low, high = -math.inf, math.inf
        for start, step, size in ((x0, b, self.sizes[x]), (y0, -a, self.sizes[y])):
            ends = (-start / step, (size - 1 - start) / step)
            low = max(low, math.ceil(min(ends) - 1e-9))
            high = min(high, math.floor(max(ends) + 1e-9))
        count = int(high - low) + 1 if high >= low else 0
        if count <= 0:
            return False
        first = int(low) if b > 0 else int(high)  # so that x ascends along the new loop
        step = 1 if b > 0 else -1
        start_x, start_y = x0 + b * first, y0 - a * first
        if count == 1:
            return self._bind(x, start_x, {}) and self._bind(y, start_y, {})
        loop = self._fresh(count)
        self._bind(x, start_x, {loop: b * step})
        return self._bind(y, start_y, {loop: -a * step})

    def _solve_by_radix(self, offset: int, free: Mapping[int, int]) -> bool:
        """Separates an equation into a high and a low digit, as for two reshapes in a row."""
        for radix in sorted({abs(s) for s in free.values()} - {1}):
            high = {k: s for k, s in free.items() if s % radix == 0}
            low = {k: s for k, s in free.items() if s % radix}
            quotient, remainder = divmod(offset, radix)
            least, most = self._range(remainder, low)
            first, last = -(-least // radix), most // radix
            if first > last:
                return False
            if first == last:
                return self.solve(remainder - first * radix, low) and self.solve(
                    quotient + first, {k: s // radix for k, s in high.items()}
                )
            for loop, stride in low.items():
                digits = radix // abs(stride)
                size = self.sizes[loop]
                if radix % stride == 0 and digits < size and size % digits == 0:
                    upper, lower = self._fresh(size // digits), self._fresh(digits)
                    self._bind(loop, 0, {upper: digits, lower: 1})
                    return self.solve(offset, free)
        raise Unrepresentable("the loops of the two terms are not aligned")
