"""Composition of terms: dw/dv times dv/du as one term, by solving for the loops that meet.

Both terms place their entries on the axes of v; where they agree is a system of linear equations
over their loops, which is solved by substitution. Values of lookups enter as symbols. Everything
here is decided before any array exists, and memoised.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.solving import System
from jax_cce.algebra.symbols import Digit, Guard, Read, Symbol
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable, along, canonical, renamed
from jax_cce.caches import memoised

__all__ = [
    "Product",
    "compose",
    "pushed",
    "resolved",
]


class Product(NamedTuple):
    """How the coefficient of a composed term comes from its two factors.

    Attributes:
        term: the composed term, canonical.
        sizes: the sizes of the joint loops; the first `len(term.sizes)` are the term's own, the
            rest are contracted.
        later: for each coefficient axis of the later factor, its position as a function of the
            joint loops (None for a static coefficient).
        earlier: the same for the earlier factor.
        symbols: what the maps above and the term's lookups read, numbered -1, -2, ...; each may
            read those before it. The term's lookup k has the number of its symbol as its table.
        guards: where the product has entries at all; everywhere if there are none.
        multiplicity: product of the contracted loops on which neither coefficient depends.
        multiplications: coefficient products in the convention of the published tables.
        flops: multiplications and additions that are executed.
    """

    term: Term
    sizes: tuple[int, ...]
    later: tuple[Affine, ...] | None
    earlier: tuple[Affine, ...] | None
    symbols: tuple[Symbol, ...]
    guards: tuple[Guard, ...]
    multiplicity: int
    multiplications: int
    flops: int

    def is_alias(self, factor: Term) -> bool:
        """Whether the only coefficient, that of `factor`, is already that of the product."""
        maps = self.later if self.earlier is None else self.earlier
        return (
            len(self.sizes) == len(self.term.sizes)
            and not self.guards
            and self.term.coefficient_shape == factor.coefficient_shape
            and maps == tuple(map(along, self.term.axes or ()))
        )


@memoised(1 << 16)
def compose(later: Term, earlier: Term, join: bool = False) -> Product | None:
    """The product of two terms, dw/dv times dv/du, as one term dw/du.

    Args:
        later: a canonical term of dw/dv.
        earlier: a canonical term of dv/du.
        join: whether equations that have no affine solution may be solved by enumerating the loop
            points that satisfy them, where all their lookups are static. The product then holds
            static tables.

    Returns:
        The product, or None where the two terms do not meet (a structural zero).

    Raises:
        Unrepresentable: where the product is no single term. It never is where `earlier.out` or
            `later.inn` is the identity, as in a dense term.
    """
    system = System(later, earlier)
    for one, other in zip(later.in_map, earlier.out_map, strict=True):
        strides = dict(system.shifted(one, 0))
        for variable, stride in system.shifted(other, 1):
            strides[variable] = strides.get(variable, 0) - stride
        try:
            if not system.solve(one.offset - other.offset, strides):
                return None
        except Unrepresentable:
            if not join:
                raise
            system.postpone(one.offset - other.offset, strides)
    if join and not system.enumerate_rest():
        return None
    out = [system.apply(affine, 0) for affine in later.out_map]
    inn = [system.apply(affine, 1) for affine in earlier.in_map]
    ahead = None if later.axes is None else [system.apply(along(k), 0) for k in later.axes]
    behind = None if earlier.axes is None else [system.apply(along(k), 1) for k in earlier.axes]

    # The product's own loops come first; the rest are contracted.
    names: dict[int, int] = {}
    for loop in system.loops_of(out + inn):
        names.setdefault(loop, len(names))
    own = len(names)
    for loop in system.loops:
        names.setdefault(loop, len(names))
    sizes = tuple(system.sizes[loop] for loop in names)
    symbols = system.named_symbols(names)

    def rename(affines: Sequence[Affine]) -> tuple[Affine, ...]:
        return tuple(symbols.rename(affine) for affine in affines)

    def counted(term: Term, side: int) -> set[int]:
        # A factor of one in an arithmetic equation is stored entry by entry in the convention.
        axes = range(len(term.sizes)) if term.axes is None else term.axes
        return set(system.loops_of([system.apply(along(axis), side) for axis in axes]))

    guards = tuple(
        Guard(symbols.rename(guard.position), guard.low, guard.high) for guard in system.guards
    )
    carried = {
        names[loop]
        for loop in system.loops_of(
            [*(ahead or ()), *(behind or ()), *(guard.position for guard in system.guards)]
        )
    }
    static = ahead is None and behind is None and not guards
    ends = rename(out), rename(inn)
    factors = [None if maps is None else rename(maps) for maps in (ahead, behind)]
    lookups = tuple(
        Lookup(symbol.axes, symbol.size, -1 - index) for index, symbol in enumerate(symbols.symbols)
    )
    term = Term(
        sizes[:own],
        *ends,
        None if static else tuple(sorted(loop for loop in carried if loop < own)),
        later.layout and earlier.layout,
        lookups,
    )
    joint = math.prod(sizes[loop] for loop in carried)
    result = math.prod(sizes[loop] for loop in carried if loop < own)
    both = ahead is not None and behind is not None
    meeting = counted(later, 0) | counted(earlier, 1)
    return _canonical_product(
        term,
        sizes,
        *factors,
        tuple(symbols.symbols),
        guards,
        math.prod(sizes[loop] for loop in range(own, len(sizes)) if loop not in carried),
        0 if later.layout or earlier.layout else math.prod(system.sizes[loop] for loop in meeting),
        0 if static else both * joint + (joint - result),
    )


def _canonical_product(term: Term, sizes: tuple[int, ...], *rest: Any) -> Product:
    """The product with its own loops named as `canonical` names them."""
    placed, names = renamed(term)
    order = [names.get(loop, loop) for loop in range(len(sizes))]
    if order == sorted(order):
        return Product(placed, sizes, *rest)

    def rename(value: Any) -> Any:
        if isinstance(value, Affine):
            strides = ((order[k] if k >= 0 else k, stride) for k, stride in value.strides)
            return Affine(value.offset, tuple(sorted(strides)))
        if isinstance(value, Symbol):
            axes = tuple(sorted(order[axis] for axis in value.axes))
            return Symbol(axes, value.size, rename(value.source))
        if isinstance(value, Read):
            return Read(value.table, value.shape, rename(value.maps))
        if isinstance(value, (Digit, Guard)):
            return value._replace(position=rename(value.position))
        return tuple(map(rename, value)) if isinstance(value, tuple) else value

    inverse = sorted(range(len(order)), key=order.__getitem__)
    return Product(placed, tuple(sizes[loop] for loop in inverse), *map(rename, rest))


def resolved(term: Term, symbols: Sequence[Table | int]) -> Term:
    """A product's term with its lookups in resolved tables."""
    if not term.lookups:
        return term
    lookups = tuple(
        lookup._replace(table=symbols[-1 - lookup.table])  # type: ignore[operator]
        for lookup in term.lookups
    )
    return canonical(term._replace(lookups=lookups))[0]  # type: ignore[index]


def pushed(
    term: Term,
    loops: Sequence[int],
    kept: Sequence[Affine],
    far: Sequence[int],
    *,
    transposed: bool,
) -> Term:
    """The term of what an operator makes of a term; it is not canonical.

    Args:
        term: the term that it is applied to.
        loops: the loops of its far side, which become the first of the result.
        kept: the maps of the far side.
        far: the shape that the operator leads to, whose axes become the other loops.
        transposed: whether the operator is applied from the left.
    """
    rank = len(loops)
    fresh = tuple(along(rank + axis) for axis in range(len(far)))
    names = {loop: index for index, loop in enumerate(loops)}
    stays = tuple(
        Affine(a.offset, tuple((names.get(k, k), stride) for k, stride in a.strides)) for a in kept
    )
    read = {k for a in kept for k, _ in a.strides if k < 0}
    lookups = tuple(
        # A lookup on the side of the operator is read no more.
        lookup._replace(axes=tuple(names[axis] for axis in lookup.axes) if -1 - k in read else ())
        for k, lookup in enumerate(term.lookups)
    )
    ends = (stays, fresh) if transposed else (fresh, stays)
    sizes = (*(term.sizes[loop] for loop in loops), *far)
    return Term(sizes, *ends, tuple(range(len(sizes))), lookups=lookups)
