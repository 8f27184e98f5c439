"""What becomes of the blocks of a Jacobian in an exported program, and how they are made again.

A program returns arrays. A dense block is one. Of a sparse block whose pattern is known only the
numbers are, and its indices lie beside the program; where the pattern depends on data, or on sizes
that are symbols, the program returns a dictionary of both. A structured block is a dictionary of
its coefficients, and its terms are described beside the program.
"""

import base64
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Lookup, Term
from jax_cce.artefacts.sizes import as_text, value_of
from jax_cce.sparse.coordinates import Coordinates
from jax_cce.sparse.formats import DENSE, STRUCTURED, Format
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["Described", "described", "inside_of", "is_block", "rebuilt"]

# A description as JSON has it, what the program returns, and the arrays beside it, by name.
Described = tuple[dict[str, Any], Any, dict[str, np.ndarray]]
_Sizes = Callable[[Any], Any]


class _Inside(Format):
    """The blocks of a sparse format as they come out of a program."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self.inside, self.places = form.inside, form.places  # type: ignore[method-assign]
        self.sparse, self.shared = form.sparse, form.shared  # type: ignore[misc]

    def inside(self, block: StructuredJacobian) -> Any:
        """As the format has it."""
        return self._form.inside(block)


def inside_of(form: Format) -> Format:
    """The format whose blocks are those of another on their way to a matrix."""
    return form if form in (DENSE, STRUCTURED) else _Inside(form)


def is_block(node: Any) -> bool:
    """Whether a node of a tree is a block that is no array."""
    return isinstance(node, StructuredJacobian | Coordinates)


def described(block: Any, form: Format) -> Described:
    """What an exported program returns of a block, and what is written beside it.

    Args:
        block: an array, entries on their way to a matrix, or a structured block.
        form: the format that is asked for.
    """
    if isinstance(block, StructuredJacobian):
        arrays, static = jax.tree_util.tree_flatten(block)[0], _static_of(block)
        return {"kind": "structured", **_written(static)}, {"coefficients": arrays}, {}
    if not isinstance(block, Coordinates):
        return {"kind": "array"}, block, {}
    if not block.has_pattern:
        bcoo = block.to_bcoo()
        shape = [as_text(size) for size in bcoo.shape]
        return (
            {"kind": "indices", "shape": shape},
            {"data": bcoo.data, "indices": bcoo.indices},
            {},
        )
    matrix = block.matrix
    if form.name in ("csr", "csc"):
        # Entries by columns are those of the transposed block by rows.
        told = {"kind": form.name, "shape": list(matrix.shape)}
        return told, block.data, {"crossing": matrix.columns, "begins": matrix.indptr}
    kind = "values" if form.name == "values" else "bcoo"
    facts = {"kind": kind, "shape": [*matrix.out_shape, *matrix.in_shape]}
    axes = [
        axis
        for places, shape in ((matrix.rows, matrix.out_shape), (matrix.columns, matrix.in_shape))
        if shape
        for axis in np.unravel_index(places, shape)
    ]
    indices = np.stack(axes, -1) if axes else np.zeros((matrix.nnz, 0))
    return facts, block.data, {"indices": indices.astype(np.int32)}


def rebuilt(
    told: Mapping[str, Any], found: Any, beside: Mapping[str, np.ndarray], symbols: dict[str, int]
) -> Any:
    """The block that a caller gets.

    Args:
        told: its description.
        found: what the program returned of it.
        beside: the arrays beside it, by name.
        symbols: the values of sizes that are symbols.
    """
    kind = told["kind"]
    if kind in ("array", "values"):
        return found
    if kind == "structured":
        static = _read(told, lambda size: value_of(size, symbols))
        return StructuredJacobian.tree_unflatten(static, found["coefficients"])
    from jax.experimental import sparse  # takes a while to import

    shape = tuple(value_of(size, symbols) for size in told["shape"])
    if kind == "csc":
        return sparse.CSC.tree_unflatten(
            {"shape": shape[::-1]}, (found, beside["crossing"], beside["begins"])
        )
    facts = {"shape": shape, "indices_sorted": True, "unique_indices": True}
    if kind == "csr":
        return sparse.BCSR.tree_unflatten(facts, (found, beside["crossing"], beside["begins"]))
    if kind == "bcoo":
        return sparse.BCOO.tree_unflatten(facts, (found, beside["indices"]))
    return sparse.BCOO.tree_unflatten(facts, (found["data"], found["indices"]))


# --- the static part of a structured block as JSON has it -------------------------------------


def _static_of(block: StructuredJacobian) -> Any:
    return block.tree_flatten_with_keys()[1]


def _written(static: Any) -> dict[str, Any]:
    out_shape, in_shape, dtype, pieces, weak_type = static
    return {
        "out_shape": list(map(as_text, out_shape)),
        "in_shape": list(map(as_text, in_shape)),
        "dtype": np.dtype(dtype).name,
        "weak_type": weak_type,
        "pieces": [
            [_written_term(piece.term), _written_number(piece.scale), piece.slot]
            for piece in pieces
        ],
    }


def _read(told: Mapping[str, Any], size: _Sizes) -> Any:
    return (
        tuple(map(size, told["out_shape"])),
        tuple(map(size, told["in_shape"])),
        np.dtype(told["dtype"]),
        tuple(
            Piece(_read_term(term, size), _read_number(scale, size), slot)
            for term, scale, slot in told["pieces"]
        ),
        told["weak_type"],
    )


def _written_term(term: Term) -> list[Any]:
    return [
        list(map(as_text, term.sizes)),
        list(map(_written_affine, term.out_map)),
        list(map(_written_affine, term.in_map)),
        None if term.axes is None else list(term.axes),
        bool(term.layout),
        [
            [list(each.axes), as_text(each.size), _written_table(each.table)]
            for each in term.lookups
        ],
    ]


def _read_term(told: Sequence[Any], size: _Sizes) -> Term:
    sizes, out_map, in_map, axes, layout, lookups = told
    affine = functools.partial(_read_affine, size=size)
    return Term(
        tuple(map(size, sizes)),
        tuple(map(affine, out_map)),
        tuple(map(affine, in_map)),
        None if axes is None else tuple(axes),
        layout,
        tuple(Lookup(tuple(own), size(many), _read_table(table)) for own, many, table in lookups),
    )


def _written_affine(affine: Affine) -> list[Any]:
    return [
        as_text(affine.offset),
        [[int(variable), as_text(stride)] for variable, stride in affine.strides],
    ]


def _read_affine(told: Sequence[Any], size: _Sizes) -> Affine:
    offset, strides = told
    return Affine(size(offset), tuple((variable, size(stride)) for variable, stride in strides))


def _written_number(scale: Any) -> Any:
    scale = scale.item() if isinstance(scale, np.generic) else scale
    if isinstance(scale, float | complex):
        return [type(scale).__name__, repr(scale)]
    return as_text(scale)


def _read_number(told: Any, size: _Sizes) -> Any:
    if isinstance(told, list):
        kind, text = told
        return {"float": float, "complex": complex}[kind](text)
    return size(told)


def _written_table(table: Any) -> Any:
    if not isinstance(table, Table):
        return table
    buffer = io.BytesIO()
    np.save(buffer, table.values, allow_pickle=False)
    return {"npy": base64.b64encode(buffer.getvalue()).decode()}


def _read_table(told: Any) -> Any:
    if isinstance(told, int):
        return told
    content = base64.b64decode(told["npy"])
    return Table(np.load(io.BytesIO(content), allow_pickle=False))


# --- structured blocks among the results of what others export --------------------------------


def _serialised(static: Any) -> bytes:
    told = _written(static)
    text = json.dumps(told)
    if any(isinstance(size, str) for size in (*told["out_shape"], *told["in_shape"])):
        raise ValueError(
            "A StructuredJacobian of symbolic sizes cannot be the result of a serialised program, "
            "whose results do not know their sizes. Return its todense(), or use "
            'jax_cce.compile(..., format="structured").'
        )
    return text.encode()


def _deserialised(content: bytes) -> Any:
    return _read(json.loads(content), int)


# So that `jax.export` writes functions that take or return structured blocks.
jax.export.register_pytree_node_serialization(
    StructuredJacobian,
    serialized_name="jax_cce.StructuredJacobian",
    serialize_auxdata=_serialised,
    deserialize_auxdata=_deserialised,
)
