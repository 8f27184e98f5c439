"""jaxls' costs with our Jacobians: as its own, in the order of columns that it expects.

The package is found where it is installed, or where PYTHONPATH has a checkout of its `src`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jaxls = pytest.importorskip("jaxls")
if not hasattr(jaxls, "VarValues"):
    pytest.skip("this is another package called jaxls", allow_module_level=True)

import jaxlie  # noqa: E402

from jax_cce.jaxls import jacobian  # noqa: E402

pytestmark = pytest.mark.one_version

_RNG = np.random.default_rng(0)


class _Point(jaxls.Var[jax.Array], default_factory=lambda: jnp.zeros(3)): ...


class _Pair(jaxls.Var[dict], default_factory=lambda: {"a": jnp.zeros(2), "b": jnp.ones(())}): ...


def _poses(group: Any, count: int) -> Any:
    return jax.vmap(group.exp)(jnp.asarray(_RNG.normal(size=(count, group.tangent_dim))))


_POSES = _poses(jaxlie.SE3, 9)
_IDS = np.array([0, 2, 3, 5, 7, 11, 20, 21, 40])
_VALUES = jaxls.VarValues.make(
    [
        jaxls.SE3Var(jnp.asarray(_IDS)).with_value(_POSES),
        jaxls.SO2Var(jnp.arange(4)).with_value(_poses(jaxlie.SO2, 4)),
        _Point(jnp.arange(5)).with_value(jnp.asarray(_RNG.normal(size=(5, 3)))),
        _Pair(jnp.arange(3)).with_value(
            {"a": jnp.asarray(_RNG.normal(size=(3, 2))), "b": jnp.asarray(_RNG.normal(size=3))}
        ),
    ]
)
_VARIABLES = [
    jaxls.SE3Var(jnp.asarray(_IDS)), jaxls.SO2Var(jnp.arange(4)), _Point(jnp.arange(5)),
    _Pair(jnp.arange(3)),
]  # fmt: skip


def _between(vals: Any, measured: Any, a: Any, b: Any) -> Any:
    return (measured.inverse() @ (vals[a].inverse() @ vals[b])).log()


def _mixed(vals: Any, turn: Any, nested: Any, pose: Any) -> Any:
    """Several types, nested, the pose's id after that of the one in the tree."""
    point, pair = vals[nested["point"]], vals[nested["more"][0]]
    other = vals[nested["more"][1]]
    seen = vals[pose].apply(point) * pair["b"] + other.translation()
    return jnp.stack([seen[:2] + vals[turn].apply(pair["a"]), jnp.sin(seen[1:])])


def _three(vals: Any, a: Any, b: Any, c: Any) -> Any:
    return jnp.sum(vals[a] ** 2) * vals[b] + jnp.cos(vals[c])


def _by_copies(vals: Any, a: Any, b: Any) -> Any:
    """Reads variables that are not the objects of its arguments, and through a transformation."""
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), a, b)
    first, second = jax.vmap(lambda vals, var: vals[var], in_axes=(None, 0))(vals, both)
    return first * second[::-1] + vals[_Point(b.id + 0)]


def _by_id(vals: Any, a: Any) -> Any:
    return vals[a] * a.id


def _ids(*ids: int) -> Any:
    return jnp.asarray(ids)


_CASES = {
    "ascending ids": (_between, (_poses(jaxlie.SE3, 2), jaxls.SE3Var(_ids(0, 5)),
                                 jaxls.SE3Var(_ids(3, 40)))),
    "descending ids": (_between, (_poses(jaxlie.SE3, 2), jaxls.SE3Var(_ids(21, 40)),
                                  jaxls.SE3Var(_ids(2, 0)))),
    "either": (_between, (_poses(jaxlie.SE3, 3), jaxls.SE3Var(_ids(0, 11, 7)),
                          jaxls.SE3Var(_ids(2, 3, 20)))),
    "a variable twice": (_between, (_poses(jaxlie.SE3, 2), jaxls.SE3Var(_ids(5, 7)),
                                    jaxls.SE3Var(_ids(5, 2)))),
    "types": (_mixed, (jaxls.SO2Var(_ids(1, 3)),
                       {"point": _Point(_ids(4, 0)), "more": [_Pair(_ids(2, 2)),
                                                              jaxls.SE3Var(_ids(20, 0))]},
                       jaxls.SE3Var(_ids(3, 2)))),
    "three": (_three, (_Point(_ids(4, 1, 1)), _Point(_ids(0, 3, 1)), _Point(_ids(2, 0, 1)))),
    "copies": (_by_copies, (_Point(_ids(4, 1)), _Point(_ids(0, 3)))),
    "an id that is read": (_by_id, (_Point(_ids(4, 1)),)),
}  # fmt: skip


def _blocks(how: Any) -> dict[str, Any]:
    """Of each case the blocks of its rows, as jaxls puts them together."""
    costs = [
        jaxls.Cost(residual, args, name=name, **how(residual))
        for name, (residual, args) in _CASES.items()
    ]
    problem = jaxls.LeastSquaresProblem(costs, _VARIABLES).analyze()
    none = (None,) * len(costs)
    matrix = jax.jit(lambda problem, vals: problem._compute_jac_values(vals, none))
    rows = matrix(problem, _VALUES).block_rows
    names = [cost.name for cost in problem._stacked_costs]
    return {name: row.blocks_concat for name, row in zip(names, rows, strict=True)}


@pytest.fixture(scope="module")
def blocks() -> Any:
    """Those of jaxls and ours."""
    with jax.enable_x64(True):
        ways = (lambda _: {"jac_mode": "forward"}, lambda fun: {"jac_custom_fn": jacobian(fun)})
        return [_blocks(how) for how in ways]


@pytest.mark.parametrize("case", _CASES)
def test_is_that_of_jaxls(case, blocks):
    """In its blocks, which preconditioners read: that the sum is right is not enough."""
    expected, found = (each[case] for each in blocks)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_one_cost_by_itself():
    """By jax.jacfwd of the retraction, with ids that are integers."""
    pose, other = jaxls.SE3Var(7), jaxls.SE3Var(3)
    measured = jaxlie.SE3.identity()

    def by_tangents(lower: Any, upper: Any) -> Any:
        values = _VALUES.vals_from_type[jaxls.SE3Var]
        row = lambda k: jax.tree.map(lambda x: x[k], values)  # noqa: E731
        a, b = row(4) @ jaxlie.SE3.exp(upper), row(2) @ jaxlie.SE3.exp(lower)
        return (a.inverse() @ b).log()

    expected = np.hstack(jax.jacfwd(by_tangents, (0, 1))(jnp.zeros(6), jnp.zeros(6)))
    found = jacobian(_between)(_VALUES, measured, pose, other)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["l2_squared", "constraint_geq_zero"])
def test_solves(kind):
    """A pose graph, and with its edges as constraints."""
    start = _poses(jaxlie.SE2, 6)
    variables = jaxls.SE2Var(jnp.arange(6))
    vals = jaxls.VarValues.make([variables.with_value(start)])
    measured = _poses(jaxlie.SE2, 5)
    a, b = jaxls.SE2Var(_ids(1, 1, 3, 3, 5)), jaxls.SE2Var(_ids(0, 2, 2, 4, 4))

    def fixed(vals: Any, var: Any) -> Any:
        return vals[var].log() / 10

    solutions = []
    for how in ({}, {"jac_custom_fn": jacobian(_between)}):
        costs = [
            jaxls.Cost(_between, (measured, a, b), kind=kind, **how),
            jaxls.Cost(fixed, (variables,)),
        ]
        problem = jaxls.LeastSquaresProblem(costs, [variables]).analyze()
        solutions.append(problem.solve(vals, verbose=False, linear_solver="dense_cholesky"))
    for found, expected in zip(*map(jax.tree.leaves, solutions[::-1]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_keyword_arguments():
    found = jacobian(lambda vals, *, scale, at: scale * vals[at])(_VALUES, scale=3.0, at=_Point(1))
    np.testing.assert_allclose(found, 3 * np.eye(3))


def _named_alike() -> Any:
    class Alike(jaxls.Var[jax.Array], default_factory=lambda: jnp.zeros(3)): ...

    return Alike


def test_what_is_refused():
    with pytest.raises(TypeError, match="must return an array, but returned tuple"):
        jacobian(lambda vals, a: (vals[a], None))(_VALUES, _Point(1))
    with pytest.raises(ValueError, match="there is none"):
        jacobian(lambda vals: jnp.ones(3))(_VALUES)
    one, other = (_named_alike() for _ in range(2))
    with pytest.raises(ValueError, match="Rename one"):
        jacobian(lambda vals, a, b: vals[a] + vals[b])(_VALUES, one(0), other(0))
    with pytest.raises(ValueError, match=r"ids of shape \(2,\)"):
        jacobian(lambda vals, a: vals[a].ravel())(_VALUES, _Point(_ids(0, 1)))
