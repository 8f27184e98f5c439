"""Linear equations over bounded loops, solved by substitution: where two terms meet."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_cce.algebra import index_arrays
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.symbols import Digit, Guard, NamedSymbols, Read, sourced
from jax_cce.algebra.terms import Affine, Term, Unrepresentable, along, plain
from jax_cce.jax_internals import exceeds, greatest, is_zero, least

__all__ = [
    "System",
    "solve",
]

# Points of a box that are tested, and of each side that are matched, in one composition.
_MOST_POINTS = 1 << 24
_MOST_SOLUTIONS = 1 << 26
# Up to so many pairs are compared one by one.
_FEW_POINTS = 1 << 8


def solve(
    box: Term, offset: int, strides: Mapping[int, int]
) -> tuple[tuple[Affine, ...], int] | None:
    """All points of a box of loops with offset + sum(stride * loop) = 0, where they form a line.

    Returns:
        The value of each loop as a function of loop 0 of the result, and the number of points;
        None where there are none.

    Raises:
        Unrepresentable: where the points form no line.
    """
    # Strides and dilations of an equation's parameters may be NumPy's integers.
    system = System(box._replace(sizes=tuple(map(plain, box.sizes))), Term((), (), (), None))
    if not system.solve(plain(offset), {k: plain(stride) for k, stride in strides.items()}):
        return None
    loops = system.loops
    if len(loops) > 1:
        raise Unrepresentable("more than one loop is left")
    values = [system.apply(along(axis), 0) for axis in range(len(box.sizes))]
    on_line = tuple(Affine(v.offset, tuple((0, stride) for _, stride in v.strides)) for v in values)
    return on_line, system.sizes[loops[0]] if loops else 1


class System:
    """Linear equations over loops with bounds, solved one at a time by substitution.

    Variables are loops, numbered from 0, and symbols, numbered down from -1: values of lookups,
    known at run time at most, and digits of them. `sizes` holds the variables that are still free;
    `_bound` gives every other one as an affine function of the free ones.
    """

    def __init__(self, later: Term, earlier: Term) -> None:
        self._split = len(later.sizes)
        self.sizes: dict[int, int] = dict(enumerate((*later.sizes, *earlier.sizes)))
        self.guards: list[Guard] = []
        self._bound: dict[int, tuple[int, dict[int, int]]] = {}
        self._next = len(self.sizes)
        self._sources: list[tuple[Hashable, tuple[int, ...], tuple[int, ...]] | Digit] = []
        self._first_symbol = (0, len(later.lookups))
        self._postponed: list[Affine] = []
        for side, term in enumerate((later, earlier)):
            for lookup in term.lookups:
                axes = tuple(axis + side * self._split for axis in lookup.axes)
                self._symbol(lookup.size, (lookup.table, axes))

    def _symbol(self, size: int, source: Any) -> int:
        if not isinstance(source, Digit):
            table, axes = source
            source = table, axes, tuple(self.sizes[axis] for axis in axes)
        self._sources.append(source)
        self.sizes[-len(self._sources)] = size
        return -len(self._sources)

    @property
    def loops(self) -> list[int]:
        """The free loops."""
        return [variable for variable in self.sizes if variable >= 0]

    def source(self, symbol: int) -> Read | Digit:
        """What a symbol reads, in terms of the free loops."""
        source = self._sources[-1 - symbol]
        if isinstance(source, Digit):
            return source._replace(position=self._expanded(source.position))
        table, axes, shape = source
        return Read(table, shape, tuple(self._expanded(along(axis)) for axis in axes))

    def postpone(self, offset: int, strides: Mapping[int, int]) -> None:
        """Leaves an equation to `enumerate_rest`."""
        self._postponed.append(Affine(offset, tuple(sorted(strides.items()))))

    def enumerate_rest(self) -> bool:
        """Solves postponed equations and static guards point by point.

        The loops that they couple are replaced by one loop over the solutions, with static tables
        that give the old ones. Returns False where there is no solution.

        Raises:
            Unrepresentable: where an equation reads a table that is known at run time only, or
                there are too many points.
        """
        for guard in list(self.guards):
            # An equation between lookups alone: what it couples is matched, not tested.
            if guard.low == guard.high and self._is_static([self._expanded(guard.position)]):
                self.guards.remove(guard)
                offset, strides = guard.position
                self._postponed.append(Affine(offset - guard.low, strides))
        while self._postponed:
            equations = [self._expanded(equation) for equation in self._postponed]
            # Equations that share a loop are solved together.
            group, loops = [0], set(self.loops_of(equations[:1]))
            for index, equation in enumerate(equations[1:], 1):
                if not loops.isdisjoint(self.loops_of([equation])):
                    group.append(index)
                    loops.update(self.loops_of([equation]))
            if not self._enumerate([equations[index] for index in group], [], sorted(loops)):
                return False
            self._postponed = [e for k, e in enumerate(self._postponed) if k not in group]
        for guard in list(self.guards):
            position = self._expanded(guard.position)
            if self._is_static([position]):
                self.guards.remove(guard)
                loops = set(self.loops_of([position]))
                if not self._enumerate([], [guard._replace(position=position)], sorted(loops)):
                    return False
        return True

    def _is_static(self, maps: Sequence[Affine]) -> bool:
        for affine in maps:
            for variable, _ in affine.strides:
                if variable < 0:
                    source = self.source(variable)
                    if isinstance(source, Read):
                        if not isinstance(source.table, Table) or not self._is_static(source.maps):
                            return False
                    elif not self._is_static([source.position]):
                        return False
        return True

    def _enumerate(
        self, equations: Sequence[Affine], guards: Sequence[Guard], loops: list[int]
    ) -> bool:
        if not self._is_static(equations):
            raise Unrepresentable("positions that are known at run time only have to be matched")
        later = [loop for loop in loops if loop < self._split]
        earlier = [loop for loop in loops if loop >= self._split]
        count = math.prod(self.sizes[loop] for loop in loops)
        if guards or count <= _FEW_POINTS or not later or not earlier:
            later, earlier = loops, []
        elif any(self._mixes(equation, set(later)) for equation in equations):
            if count > _MOST_POINTS >> 4:
                raise Unrepresentable("the loops of the two terms are not aligned")
            later, earlier = loops, []
        points = [math.prod(self.sizes[loop] for loop in side) for side in (later, earlier)]
        if max(points) > (_MOST_SOLUTIONS if earlier else _MOST_POINTS):
            raise Unrepresentable("too many entries to enumerate")
        if earlier:
            keys: list[list[Any]] = [[], []]
            for equation in equations:
                for side, half in enumerate((later, earlier)):
                    part = [
                        (k, s) for k, s in equation.strides if set(self._depends(k)) <= set(half)
                    ]
                    offset = 0 if side else equation.offset
                    values = self._values(Affine(offset, tuple(part)), half)
                    keys[side].append(-values.reshape(-1) if side else values.reshape(-1))
            solutions: tuple[Any, ...] = index_arrays.matching(*keys)
        else:
            mask = np.ones([self.sizes[loop] for loop in loops], bool)
            for equation in equations:
                mask &= self._values(equation, loops) == 0
            for guard in guards:
                values = self._values(guard.position, loops)
                mask &= (values >= guard.low) & (values <= guard.high)
            if mask.all():
                return mask.size > 0
            solutions = (np.flatnonzero(mask),)
        count = len(solutions[0])
        if not count or count > _MOST_SOLUTIONS:
            if not count:
                return False
            raise Unrepresentable("too many entries to enumerate")
        fresh = self._fresh(count)
        for own, at in zip((later, earlier), solutions, strict=False):
            shape = tuple(self.sizes[loop] for loop in own)
            for loop, values in zip(list(own), np.unravel_index(at, shape), strict=True):
                size = self.sizes[loop]
                if count == 1:
                    self._bind(loop, int(values[0]), {})
                    continue
                symbol = self._symbol(size, (Table(values), (fresh,)))
                self._bind(loop, 0, {symbol: 1})
        if count == 1:
            self._bind(fresh, 0, {})
        return True

    def _depends(self, variable: int) -> list[int]:
        return self.loops_of([Affine(0, ((variable, 1),))])

    def _mixes(self, equation: Affine, later: set[int]) -> bool:
        """Whether a symbol of the equation depends on loops of both sides."""
        for variable, _ in equation.strides:
            loops = set(self._depends(variable))
            if loops & later and loops - later:
                return True
        return False

    def _values(self, affine: Affine, loops: Sequence[int]) -> Any:
        """A static map at every point of some loops, as an array over them."""
        symbols: dict[int, Any] = {}

        def add(maps: Sequence[Affine]) -> None:
            for inner in maps:
                for variable, _ in inner.strides:
                    if variable < 0 and variable not in symbols:
                        source = self.source(variable)
                        read = source.maps
                        add(read)
                        axes = tuple(sorted(set(self.loops_of(read))))
                        positions = [
                            index_arrays.evaluate(m.offset, m.strides, axes, self.sizes, symbols)
                            for m in read
                        ]
                        symbols[variable] = axes, sourced(source, positions)

        add([affine])
        return index_arrays.evaluate(
            affine.offset, affine.strides, list(loops), self.sizes, symbols
        )

    def loops_of(self, maps: Sequence[Affine]) -> list[int]:
        """The free loops on which some maps depend, in order of appearance."""
        loops: list[int] = []
        for affine in maps:
            for variable, _ in affine.strides:
                if variable >= 0:
                    loops.append(variable)
                else:
                    source = self.source(variable)
                    read = source.maps
                    loops += self.loops_of(read)
        return loops

    def named_symbols(self, names: Mapping[int, int]) -> NamedSymbols:
        """The symbols in terms of renamed loops."""
        return NamedSymbols(self.sizes, self.source, names)

    def shifted(self, affine: Affine, side: int) -> list[tuple[int, int]]:
        """The strides of a map of the later (0) or earlier (1) term, by the system's variables."""
        return [
            (
                variable + side * self._split
                if variable >= 0
                else variable - self._first_symbol[side],
                stride,
            )
            for variable, stride in affine.strides
        ]

    def apply(self, affine: Affine, side: int) -> Affine:
        """A map of the later (0) or earlier (1) term, in terms of the free variables."""
        return self._expanded(Affine(affine.offset, tuple(self.shifted(affine, side))))

    def _expanded(self, affine: Affine) -> Affine:
        offset, strides = self._expand(affine.offset, dict(affine.strides))
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
        # No loop is empty, or there is nothing to solve: a span has the sign of its stride.
        spans = [(stride < 0, stride * (self.sizes[loop] - 1)) for loop, stride in strides.items()]
        low, high = (sum(span for below, span in spans if below == side) for side in (True, False))
        return offset + low, offset + high

    def solve(self, offset: int, strides: Mapping[int, int]) -> bool:
        """Adds offset + sum(stride * variable) = 0; False where it has no solution."""
        offset, free = self._expand(offset, strides)
        if not free:
            return is_zero(offset)
        divisor = _divisor(free.values())
        if offset % divisor:
            return False
        offset //= divisor
        free = {loop: stride // divisor for loop, stride in free.items()}
        low, high = self._range(offset, free)
        if exceeds(low, 0) or exceeds(0, high):
            return False
        if low == high and is_zero(low):
            return True  # symbols that can only be zero
        loops = [variable for variable in free if variable >= 0]
        if len(loops) == len(free) == 1:
            ((loop, stride),) = free.items()
            position = -offset * stride  # stride is 1 or -1 by now
            return 0 <= position < self.sizes[loop] and self._bind(loop, position, {})
        if len(loops) == len(free) == 2:
            return self._solve_pair(offset, free)
        # A loop on which a lookup in the equation depends cannot be eliminated by it.
        inside = set(self.loops_of([Affine(0, ((k, 1),)) for k in free if k < 0]))
        loops = [loop for loop in loops if loop not in inside]
        for loop in loops:
            stride = free[loop]
            if stride in (1, -1):
                rest = {k: -s * stride for k, s in free.items() if k != loop}
                low, high = self._range(-offset * stride, rest)
                starts = not exceeds(0, low, unknown=True)
                if starts and exceeds(self.sizes[loop], high):
                    return self._bind(loop, -offset * stride, rest)
        if not loops:
            self.guards.append(Guard(Affine(offset, tuple(sorted(free.items()))), 0, 0))
            return True
        if len(loops) == 1 and free[loops[0]] in (1, -1):
            # The loop follows a lookup that may lead out of its range.
            (loop,) = loops
            rest = {k: -s * free[loop] for k, s in free.items() if k != loop}
            place = Affine(-offset * free[loop], tuple(sorted(rest.items())))
            self.guards.append(Guard(place, 0, self.sizes[loop] - 1))
            symbol = self._symbol(self.sizes[loop], Digit(place, 1, self.sizes[loop]))
            return self._bind(loop, 0, {symbol: 1})
        return self._solve_by_radix(offset, free)

    def _solve_pair(self, offset: int, free: Mapping[int, int]) -> bool:
        """Solves a x + b y + offset = 0, a and b coprime: all solutions lie on one new loop."""
        (x, a), (y, b) = free.items()
        if not (isinstance(a, int) and isinstance(b, int)):
            raise Unrepresentable("a stride that is not known")
        # x = x0 + b t, y = y0 - a t for a particular solution (x0, y0).
        x0 = (-offset * pow(a, -1, abs(b))) % abs(b) if abs(b) > 1 else 0
        y0 = -(offset + a * x0) // b
        lows, highs = [], []
        for start, step, size in ((x0, b, self.sizes[x]), (y0, -a, self.sizes[y])):
            to_zero, to_last = -(start // abs(step)), (size - 1 - start) // abs(step)
            if step < 0:
                to_zero, to_last = -to_last, -to_zero
            lows.append(to_zero)
            highs.append(to_last)
        low, high = greatest(*lows), least(*highs)
        count = greatest(high - low + 1, 0)
        if count == 0:
            return False
        first = low if b > 0 else high  # so that x ascends along the new loop
        step = 1 if b > 0 else -1
        start_x, start_y = x0 + b * first, y0 - a * first
        if count == 1:
            return self._bind(x, start_x, {}) and self._bind(y, start_y, {})
        loop = self._fresh(count)
        self._bind(x, start_x, {loop: b * step})
        return self._bind(y, start_y, {loop: -a * step})

    def _solve_by_radix(self, offset: int, free: Mapping[int, int]) -> bool:
        """Separates an equation into a high and a low digit, as for two reshapes in a row."""
        if not all(isinstance(stride, int) for stride in (offset, *free.values())):
            raise Unrepresentable("strides that are not known")
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
                if radix % stride == 0 and digits < size and (size % digits == 0 or loop < 0):
                    if loop >= 0:
                        upper, lower = self._fresh(size // digits), self._fresh(digits)
                    else:
                        whole = Affine(0, ((loop, 1),))
                        count = -(-size // digits)
                        upper = self._symbol(count, Digit(whole, digits, count))
                        lower = self._symbol(digits, Digit(whole, 1, digits))
                        return self.solve(offset, _split_variable(free, loop, upper, lower, digits))
                    self._bind(loop, 0, {upper: digits, lower: 1})
                    return self.solve(offset, free)
        raise Unrepresentable("the loops of the two terms are not aligned")


def _divisor(strides: Iterable[int]) -> int:
    """The greatest common divisor of strides; 1 where one of them is symbolic."""
    known = list(strides)
    return math.gcd(*known) if all(isinstance(stride, int) for stride in known) else 1


def _split_variable(
    free: Mapping[int, int], variable: int, upper: int, lower: int, digits: int
) -> dict[int, int]:
    rest = {k: s for k, s in free.items() if k != variable}
    return {**rest, upper: free[variable] * digits, lower: free[variable]}
