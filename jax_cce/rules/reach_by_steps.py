"""Which results of a linear scan depend on which operands, where steps differ in what is known.

A state that is reset at known steps, by a counter or a mask, forgets what came before, although a
step by itself may keep it. The steps are sorted by what is known of them; each kind has patterns of
its own. A pattern of the state by one operand is a number here, and time is a walk over a table
from (pattern, kind of step) to the next pattern.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jax_cce.algebra.terms import Unrepresentable
from jax_cce.rules.reach import MOST_ENTRIES, MOST_PATTERNS, Positions, Reach

__all__ = ["kinds_of_steps", "positions_by_steps"]

_MOST_KINDS = 16
# Entries of the blocks of an operand that are many for each step and number of the state.
_MOST_PER_NUMBER = 16


def kinds_of_steps(known: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Sorts the steps by what is known of their operands.

    Args:
        known: by operand its values at all steps.

    Returns:
        The kind of each step, and the first step of each kind; None where there are too many.
    """
    columns = [value.reshape(len(value), -1).astype(np.int64) for value in known.values()]
    kinds = np.zeros(len(columns[0]), np.int64)
    for column in np.concatenate(columns, 1).T:
        _, numbers = np.unique(column, return_inverse=True)
        joint = kinds * (numbers.max() + 1) + numbers
        _, first, kinds = np.unique(joint, return_index=True, return_inverse=True)
        if len(first) > _MOST_KINDS:
            return None
    return kinds, first


class _Patterns:
    """The patterns of a state by one operand, numbered as they are met; 0 is the empty one."""

    def __init__(self, onward: Sequence[np.ndarray], width: int) -> None:
        self._onward = [each.astype(np.float32) for each in onward]
        self._width = width
        self.all: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}
        self._next: dict[tuple[int, int, int], int] = {}
        self.number(np.zeros((len(onward[0]), width), bool))

    def number(self, pattern: np.ndarray) -> int:
        name = pattern.tobytes()
        if name not in self._numbers:
            if len(self.all) >= MOST_PATTERNS:
                raise Unrepresentable("many different patterns")
            self._numbers[name] = len(self.all)
            self.all.append(pattern)
        return self._numbers[name]

    def after(self, number: int, kind: int, entering: int = 0) -> int:
        """The pattern after one more step, together with one that enters then."""
        key = number, kind, entering
        if key not in self._next:
            moved = self._onward[kind] @ self.all[number].astype(np.float32) > 0
            self._next[key] = self.number(moved | self.all[entering])
        return self._next[key]


def positions_by_steps(
    reaches: Sequence[Reach], kinds: np.ndarray, active: Sequence[bool]
) -> Positions:
    """The positions of all entries of a scan's blocks.

    Args:
        reaches: the patterns of a step of each kind.
        kinds: the kind of each step, by position along the operands.
        active: for each operand whether it is differentiated.

    Raises:
        Unrepresentable: where they are too many, or depend on data.
    """
    return _Walk(reaches, kinds).blocks(active)


class _Walk:
    def __init__(self, reaches: Sequence[Reach], kinds: np.ndarray) -> None:
        self._reaches = reaches
        first = reaches[0]
        first.check_size()
        self._consts, self._carry = first.consts, first.carry
        self._results = range(first.num_results)
        length = len(kinds)
        self._times = np.arange(length)[::-1] if first.reverse else np.arange(length)
        self._kinds = kinds[self._times]
        state = range(self._consts, self._consts + self._carry)
        self._onward = [each.matrix(state, range(self._carry)) for each in reaches]
        # What the result of a step reads of the state before it; the last state is read afterwards.
        self._read = [
            {at: each.matrix(state, [at]).astype(np.float32) for at in self._results}
            for each in reaches
        ]

    def blocks(self, active: Sequence[bool]) -> Positions:
        found: Positions = {}
        for operand, wanted in enumerate(active):
            if wanted:
                for result, parts in self._of(operand).items():
                    rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
                    order = np.lexsort((columns, rows))
                    found[operand, result] = rows[order], columns[order]
        return found

    def _of(self, operand: int) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
        """Rows and columns of the blocks of an operand, in parts."""
        first, carry = self._reaches[0], self._carry
        width = first.width(operand)
        patterns = _Patterns(self._onward, width)
        parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        usual = _MOST_PER_NUMBER * len(self._times) * (first.num_states + width)
        left = max(MOST_ENTRIES, usual)

        def put(result: int, pattern: np.ndarray, times: np.ndarray, columns: np.ndarray) -> None:
            nonlocal left
            r, c = np.nonzero(pattern)
            left -= len(r) * len(times)
            if left < 0:
                raise Unrepresentable("too many entries")
            if len(r):
                height = len(pattern)
                rows = (times[:, None] * height + r).reshape(-1)
                parts.setdefault(result, []).append((rows, (columns[:, None] * width + c).ravel()))

        def read(
            state: np.ndarray | None, kind: int, steps: np.ndarray, columns: np.ndarray
        ) -> None:
            """Puts what steps of one kind read of the states before them, or of an operand."""
            for at in self._results[carry:]:
                pattern = np.zeros((1, width), bool)
                if state is None or operand < self._consts:
                    pattern = self._reaches[kind].matrix([operand], [at])
                if state is not None:
                    pattern = pattern | (self._read[kind][at] @ state.astype(np.float32) > 0)
                put(at, pattern, self._times[steps], columns)

        def finish(state: np.ndarray, column: int) -> None:
            """Puts the last state."""
            for at in range(carry):
                pattern = state[first.starts[at] : first.starts[at + 1]]
                put(at, pattern, np.zeros(1, np.int64), np.array([column]))

        if operand >= self._consts + carry:
            self._sliced(operand, patterns, read, finish)
        else:
            self._from_the_start(operand, patterns, read, finish)
        return parts

    def _sliced(self, operand: int, patterns: _Patterns, read: "_Read", finish: "_Finish") -> None:
        """What enters at each step, by its age; what is forgotten is followed no further."""
        entering = []
        for kind, reach in enumerate(self._reaches):
            entering.append(patterns.number(reach.matrix([operand], range(self._carry))))
            steps = np.nonzero(self._kinds == kind)[0]
            read(None, kind, steps, self._times[steps])
        # The steps by which something has entered, the pattern of it, and when it did.
        steps, age = np.arange(len(self._times)), 0
        numbers = np.asarray(entering)[self._kinds]
        while True:
            alive = numbers > 0
            steps, numbers = steps[alive], numbers[alive]
            if not len(steps):
                return
            if steps[-1] == len(self._times) - 1:
                finish(patterns.all[numbers[-1]], int(self._times[steps[-1] - age]))
                steps, numbers = steps[:-1], numbers[:-1]
            following = np.empty_like(numbers)
            joint = numbers * len(self._reaches) + self._kinds[steps + 1]
            for each in np.unique(joint):
                number, kind = divmod(int(each), len(self._reaches))
                here = joint == each
                at = steps[here]
                read(patterns.all[number], kind, at + 1, self._times[at - age])
                following[here] = patterns.after(number, kind)
            steps, numbers, age = steps + 1, following, age + 1

    def _from_the_start(
        self, operand: int, patterns: _Patterns, read: "_Read", finish: "_Finish"
    ) -> None:
        """What is there at every step, or before the first one."""
        first = self._reaches[0]
        number, entering = 0, [0] * len(self._reaches)
        if operand < self._consts:
            entering = [
                patterns.number(each.matrix([operand], range(self._carry)))
                for each in self._reaches
            ]
        else:
            start = operand - self._consts
            unit = np.eye(first.num_states, dtype=bool)
            number = patterns.number(unit[:, first.starts[start] : first.starts[start + 1]])
        before = []
        for kind in self._kinds.tolist():
            before.append(number)
            number = patterns.after(number, kind, entering[kind])
        finish(patterns.all[number], 0)
        joint = np.asarray(before) * len(self._reaches) + self._kinds
        for each in np.unique(joint):
            number, kind = divmod(int(each), len(self._reaches))
            steps = np.nonzero(joint == each)[0]
            read(patterns.all[number], kind, steps, np.zeros_like(steps))


_Read = Callable[[np.ndarray | None, int, np.ndarray, np.ndarray], None]
_Finish = Callable[[np.ndarray, int], None]
