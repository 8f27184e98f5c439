"""The sparse formats store exactly the entries that are not zero for structural reasons.

Each function comes with its number of nonzeros. They are compared with a dense jax.jacrev: with all
entries that are nonzero at one of several random points where positions are static, and with those
at each single point where positions depend on data.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.patterns import DATA, STATIC, Case, constant
from cases.references import jitted_jacrev
from cases.sparsity import assert_bcoo, assert_structured, in_bounds, nonzeros

pytestmark = pytest.mark.one_version

# Values are right in all of these, but some entries that are stored are zero for structural
# reasons, or static positions are treated as ones that depend on data.
_OVERESTIMATED = {
    "one-hot values inside a lax.pad": ["padding with a result"],
    "positions computed by a scan, or chosen by lax.platform_dependent": [
        "interpolation",
        "interpolation by search",
        "diagonal",
    ],
    "scatters whose winners JAX finds at run time": [
        "multiply at duplicates",
        "multiply at unique indices",
    ],
    "a branch index that is known": ["switch"],
    "the place of a window's maximum": ["max pool", "overlapping max pool", "max pool in 2-D"],
    "convolutions with batch groups": ["2-D batch groups"],
    "constants of which less than half are zero": ["constant lower triangle"],
    "zeros in the values of a coefficient": ["rotation about an axis"],
    "the triangle of a linear solve": ["triangular solve"],
}
# The same for the rows whose positions depend on data.
_MASKED = {"gather and fill", "add and drop", "sort after a stencil"}
_REASONS = {name: reason for reason, names in _OVERESTIMATED.items() for name in names}


def _not_yet(reason: str) -> Any:
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"overestimates: {reason}")


def _parametrize(cases: list[Case], reasons: dict[str, str]) -> Any:
    rows = [
        pytest.param(
            case,
            id=case.name,
            marks=[_not_yet(reasons[case.name])] if case.name in reasons else [],
        )
        for case in cases
    ]
    return pytest.mark.parametrize("case", rows)


def _points(case: Case) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=case.shape) for _ in range(case.points)]


@_parametrize(STATIC, _REASONS)
def test_static_positions(case: Case):
    points = _points(case)
    expected = [np.asarray(dense) for dense in map(jax.jit(jax.jacrev(case.fun)), points)]
    union = np.any([nonzeros(dense) for dense in expected], axis=0)
    assert np.count_nonzero(union) == case.nonzeros, "the row of this table is wrong"

    found = jax_cce.jacobian(case.fun, format="bcoo")(points[0])
    assert isinstance(found.indices, np.ndarray)
    assert_bcoo(found, expected[0])
    structured = jax_cce.jacobian(case.fun, format="structured")(points[-1])
    assert_structured(structured, expected[-1])
    np.testing.assert_array_equal(structured.pattern, found.indices)
    # Last, so that a failure above it is one of values and not of structure.
    np.testing.assert_array_equal(found.indices, np.argwhere(union))


@_parametrize(DATA, dict.fromkeys(_MASKED, "masks at positions that depend on data"))
def test_positions_that_depend_on_data(case: Case):
    for x in _points(case):
        expected = jitted_jacrev(case.fun)(x)
        mask = nonzeros(expected)
        assert np.count_nonzero(mask) == case.nonzeros, "the row of this table is wrong"
        found = jax_cce.jacobian(case.fun, format="bcoo")(x)
        assert_bcoo(found, expected)
        np.testing.assert_array_equal(in_bounds(found), np.argwhere(mask))
    structured = jax_cce.jacobian(case.fun, format="structured")(x)
    assert_structured(structured, expected)
    with pytest.raises(ValueError):
        _ = structured.pattern


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_indices_as_an_argument(mode: str, transform: Any, request: pytest.FixtureRequest):
    if mode == "fill" and transform is jax.jit:
        request.applymarker(_not_yet("masks at positions that depend on data"))

    def f(x: jax.Array, at: jax.Array) -> jax.Array:
        return x.at[at].get(mode=mode) ** 2

    x = constant(6)
    outside = [] if mode == "promise_in_bounds" else [6, 9, -9]
    jacobian = transform(jax_cce.jacobian(f, format="bcoo"))
    reference = jax.jit(jax.jacrev(f))
    for index in ([2, 0, 2, -1, *outside], [5, 5, 5, 5, *outside]):
        at = jnp.array(index)
        expected = reference(x, at)
        found = jacobian(x, at)
        assert_bcoo(found, expected)
        np.testing.assert_array_equal(in_bounds(found), np.argwhere(nonzeros(expected)))


@pytest.mark.parametrize("mode", ["clip", "drop", "promise_in_bounds"])
@pytest.mark.parametrize("how", ["add", "set", "min"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_scatter_at_indices_as_an_argument(
    how: str, mode: str, transform: Any, request: pytest.FixtureRequest
):
    if how == "set" or (how == "add" and mode == "drop" and transform is jax.jit):
        request.applymarker(_not_yet("masks at positions that depend on data"))

    def f(x: jax.Array, y: jax.Array, at: jax.Array) -> jax.Array:
        return getattr(x.at[at], how)(jnp.sin(y), mode=mode)

    # Forward mode of JAX 0.10 is itself wrong for extrema at clipped indices.
    inside_only = mode == "promise_in_bounds" or (how, mode) == ("min", "clip")
    outside = [] if inside_only else [6, 9, -9]
    jacobian = transform(jax_cce.jacobian(f, argnums=(0, 1), format="bcoo"))
    reference = jax.jit(jax.jacrev(f, argnums=(0, 1)))
    for index in ([2, 0, 2, -1, *outside], [5, 5, 1, 5, *outside]):
        at = jnp.array(index)
        x, y = constant(6), constant(len(index))
        of_x, of_y = jacobian(x, y, at)
        expected = reference(x, y, at)
        assert_bcoo(of_x, expected[0])
        assert_bcoo(of_y, expected[1])
        # Which entries of x survive is a matter of values on the diagonal.
        np.testing.assert_array_equal(in_bounds(of_x), np.argwhere(np.eye(6)))
        if how != "min":
            np.testing.assert_array_equal(in_bounds(of_y), np.argwhere(nonzeros(expected[1])))
