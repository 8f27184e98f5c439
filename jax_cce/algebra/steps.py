"""Steps: the computations that a recorder notes, and how they are carried out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import coefficients, placement
from jax_cce.algebra.blocks import Piece, slots_of
from jax_cce.algebra.coefficients import array_of, symbol_values
from jax_cce.algebra.placement import Placed, placed
from jax_cce.algebra.symbols import Read
from jax_cce.algebra.terms import Term

__all__ = [
    "Step",
    "needed",
    "run",
]


class Step(NamedTuple):
    """One recorded computation.

    Attributes:
        kind: "local", "lookup", "symbol", "multiply", "add", "merge", "dense", "columns",
            "reorder", "jvp" or "vjp".
        slots: the slots that the step fills.
        detail: what `run` needs, by kind.
        flops: operations executed.
        moved: numbers read and written.
        vertex: the vertex whose elimination the step belongs to; None for local coefficients and
            the final assembly.
    """

    kind: str
    slots: tuple[int, ...]
    detail: Any
    flops: int
    moved: int
    vertex: int | None

    def __str__(self) -> str:
        where = "assembly" if self.vertex is None else f"v{self.vertex}"
        where = self.kind if self.kind == "local" else where
        slots = ", ".join(f"c{slot}" for slot in self.slots)
        return f"[{where}] {slots} = {_describe(self)}"


def _describe(step: Step) -> str:
    detail = step.detail
    if step.kind == "local":
        site, (operand, output, _), term = detail
        block = f"d out[{output}] / d in[{operand}] of equation {site}"
        return f"{block} -> {list(term.coefficient_shape)}"
    if step.kind == "lookup":
        return f"index array {detail[2]} of equation {detail[0]}"
    if step.kind == "symbol":
        return f"positions -> {[detail[1][axis] for axis in detail[0].axes]}"
    if step.kind == "multiply":
        product, later, earlier, _ = detail
        factors = " * ".join(f"c{slot}" for slot in (later, earlier) if slot is not None)
        summed = product.sizes[len(product.term.sizes) :]
        over = f", summed over {list(summed)}" if summed else ""
        return f"{factors} -> {list(product.term.coefficient_shape)}{over}"
    if step.kind == "reorder":
        return f"c{detail[0]} with its axes in order {list(detail[1])}"
    if step.kind in ("jvp", "vjp"):
        operator, site, _, seed, columns = detail
        return f"{step.kind} of {operator.name} (equation {site}), {columns} x seed c{seed}"
    pieces = detail[0]
    shape = detail[1].term.sizes if step.kind == "merge" else detail[1]
    terms = (
        f"{p.scale:g}" + (f"*c{p.slot}" if p.slot is not None else "")
        if isinstance(p.scale, (int, float))
        else f"{p.scale}*c{p.slot}"
        for p in pieces
    )
    return f"{step.kind}({' + '.join(terms)}) -> {list(shape)}"


def needed(steps: Sequence[Step], wanted: Iterable[int]) -> list[Step]:
    """The steps on which the wanted slots depend, in order."""
    live = set(wanted)
    kept = []
    for step in reversed(steps):
        if not live.isdisjoint(step.slots):
            kept.append(step)
            live.update(_reads(step))
    kept.reverse()
    return kept


def _reads(step: Step) -> list[int]:
    if step.kind in ("local", "lookup"):
        return []
    if step.kind == "multiply":
        _, later, earlier, symbols = step.detail
        slots = (later, earlier, *symbols)
    elif step.kind == "symbol":
        symbol, _, reads, _ = step.detail
        slots = tuple(table for _, table in reads)
        if isinstance(symbol.source, Read):
            slots = (*slots, symbol.source.table)
    elif step.kind in ("jvp", "vjp"):
        slots = (step.detail[3],)
    elif step.kind == "reorder":
        slots = (step.detail[0],)
    else:
        slots = tuple(slot for piece in step.detail[0] for slot in slots_of(piece))
    return [slot for slot in slots if isinstance(slot, int)]


def run(
    steps: Sequence[Step],
    dtype: Any,
    *,
    local: Callable[[Any, Any, Term], Any] | None = None,
    lookup: Callable[[Any, Any, int], Any] | None = None,
    site: Callable[[Any], Any] | None = None,
    slots: Mapping[int, Any] | None = None,
) -> dict[int, Any]:
    """Carries out recorded steps on arrays.

    Args:
        steps: from a `Recorder`.
        dtype: what static coefficients and masks become where numbers are needed.
        local: the coefficient array of a site's local Jacobian.
        lookup: an index array of a site's local Jacobian.
        site: what an operator's jvp and vjp receive.
        slots: arrays of the tape's reserved slots.

    Returns:
        The array in each slot.
    """
    slots = dict(slots or {})

    def located(piece: Piece) -> Placed:
        if piece.slot is None:
            return placed(piece.term, lax.full((), piece.scale, dtype), slots)
        array = coefficients.scaled(slots[piece.slot], piece.scale, dtype)
        return placed(piece.term, array, slots)

    for kind, names, detail, *_ in steps:
        if kind == "multiply":
            product, later, earlier, symbols = detail
            values = {
                -1 - k: (symbol.axes, array_of(table, slots, jnp))
                for k, (symbol, table) in enumerate(zip(product.symbols, symbols, strict=True))
            }
            slots[names[0]] = coefficients.multiply(
                product,
                None if later is None else slots[later],
                None if earlier is None else slots[earlier],
                dtype,
                values,
            )
        elif kind == "symbol":
            symbol, sizes, reads, axes_of = detail
            slots[names[0]] = symbol_values(symbol, sizes, axes_of, reads, slots, jnp)
        elif kind == "lookup":
            slots[names[0]] = lookup(*detail)  # type: ignore[misc]
        elif kind == "local":
            slots[names[0]] = local(*detail)  # type: ignore[misc]
        elif kind == "merge":
            pieces, union = detail
            total = None
            for piece, start in zip(pieces, union.starts, strict=True):
                item = located(piece)
                term = piece.term
                full = coefficients.align(
                    item.array, item.axes, tuple(range(len(term.sizes))), term.sizes
                )
                config = [
                    (low, size - low - own, 0)
                    for low, own, size in zip(start, term.sizes, union.term.sizes, strict=True)
                ]
                full = lax.pad(full, lax.full_like(full, 0, shape=()), config)
                total = full if total is None else lax.add(*coefficients.promote(total, full))
            slots[names[0]] = total
        elif kind == "add":
            slots[names[0]] = _sum(detail, slots, dtype)
        elif kind == "dense":
            pieces, shape, term = detail
            total = placement.dense_sum([located(piece) for piece in pieces], shape)
            slots[names[0]] = lax.reshape(total, term.coefficient_shape)
        elif kind == "columns":
            (piece,), shape, maps = detail
            slots[names[0]] = placement.materialise(located(piece)._replace(maps=maps), shape)
        elif kind == "reorder":
            slot, order, shape = detail
            array = lax.squeeze(
                slots[slot], [axis for axis, size in enumerate(slots[slot].shape) if size == 1]
            )
            slots[names[0]] = lax.reshape(lax.transpose(array, order), shape)
        else:
            operator, where, position, seed, columns = detail
            forward = kind == "jvp"
            apply, shape = (
                (operator.jvp, operator.in_shapes[position])
                if forward
                else (operator.vjp, operator.out_shapes[position])
            )
            array = slots[seed]
            batch = array.shape[: array.ndim - len(shape)]
            here = site(where)  # type: ignore[misc]

            def one(vector: Any, apply: Any = apply, here: Any = here, at: Any = position) -> Any:
                return apply(here, at, vector)

            results = jax.vmap(one)(lax.reshape(array, (columns, *shape)))
            targets = operator.out_shapes if forward else operator.in_shapes
            for name, index in zip(names, targets, strict=True):
                result = jax_internals.replicated(results[index])
                slots[name] = lax.reshape(result, (*batch, *result.shape[1:]))
    return slots


def _sum(detail: Any, slots: dict[int, Any], dtype: Any) -> Any:
    pieces, _, term = detail
    # Positive terms first, so that the sum starts without a negation.
    total = None
    for piece in sorted(pieces, key=lambda p: p.scale == -1):
        subtract = total is not None and piece.scale == -1 and piece.slot is not None
        scale = 1 if subtract else piece.scale
        if piece.slot is None:
            like = dtype if total is None else total.dtype
            array = lax.full((), scale, like)
        else:
            array = coefficients.scaled(slots[piece.slot], scale, dtype)
        array = coefficients.align(array, piece.term.axes or (), term.axes, term.sizes)
        if total is None:
            total = array
        else:
            total = (lax.sub if subtract else lax.add)(*coefficients.promote(total, array))
    return total
