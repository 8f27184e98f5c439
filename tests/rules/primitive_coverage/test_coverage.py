"""Every differentiable function of JAX's public numerical modules, against JAX's own Jacobian."""

from __future__ import annotations

import collections
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import chex
import excluded
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jax_core
from rows import Row, kinds_of_sizes
from tables import ABSENT, NAMESPACES, ROWS

import jax_cce

DIFFERENTIABLE = [row for row in ROWS if row.reference != "none"]
REFUSED = [row for row in ROWS if row.reference == "none"]


def _assert_same(got: Any, reference: Any, row: Row, where: str) -> None:
    """Same pytree, shapes and dtypes; values within the row's tolerance."""
    chex.assert_trees_all_equal_structs(got, reference, custom_message=where)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, reference, custom_message=where)
    leaves = jax.tree_util.tree_leaves_with_path(reference)
    scale = max((_largest(leaf) for _, leaf in leaves), default=0.0)
    for (path, expected), actual in zip(leaves, jax.tree.leaves(got), strict=True):
        at = f"{where}, leaf {jax.tree_util.keystr(path)}"
        expected, actual = np.asarray(expected), np.asarray(actual)
        undefined = np.isnan(expected)
        assert row.nan or np.all(np.isfinite(expected)), f"{at}: the reference is not finite"
        np.testing.assert_array_equal(np.isnan(actual), undefined, err_msg=f"{at}: NaN")
        error = np.abs(np.where(undefined, 0, actual - expected))
        if np.any(error > row.rtol * scale):
            worst = np.unravel_index(np.argmax(error), error.shape)
            pytest.fail(
                f"{at}: entry {tuple(map(int, worst))} is {actual[worst]!r}, JAX has "
                f"{expected[worst]!r}; {np.sum(error > row.rtol * scale)} of {error.size} entries "
                f"are off by more than {row.rtol * scale:.1e}"
            )


def _largest(leaf: Any) -> float:
    return float(np.max(np.abs(np.nan_to_num(np.asarray(leaf))), initial=0.0))


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)
def test_jacobian_equals_jax(row: Row) -> None:
    references = row.references()
    options = {"holomorphic": True} if row.holomorphic else {}

    # One program for all cases, because compiling takes most of the time.
    @jax.jit
    def jacobians(all_operands: list[tuple[Any, ...]]) -> list[Any]:
        return [
            jax_cce.jacobian(row.fun, argnums=row.argnums(case), **options)(*operands)
            for case, operands in zip(row.cases, all_operands, strict=True)
        ]

    ours = jacobians([row.operands(case) for case in row.cases])
    some_nonzero = any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(references))
    assert some_nonzero != row.zero, "the row misstates whether the derivative is zero everywhere"
    for case, jacobian, reference in zip(row.cases, ours, references, strict=True):
        _assert_same(jacobian, reference, row, f"{row} on shapes {case}")


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_what_jax_refuses_is_refused(row: Row) -> None:
    operands, argnums = row.operands(row.cases[0]), row.argnums(row.cases[0])
    for jacobian in (jax.jacrev, jax.jacfwd, jax_cce.jacobian):
        with pytest.raises((NotImplementedError, TypeError, ValueError)):
            jacobian(row.fun, argnums=argnums)(*operands)


# --- the table is complete -----------------------------------------------------------------------


def _public_functions(namespace: str) -> set[str]:
    module = sys.modules[namespace]
    return {
        f"{namespace}.{name}"
        for name in dir(module)
        if not name.startswith("_")
        and callable(value := getattr(module, name))
        and not inspect.isclass(value)
        and not isinstance(value, types.ModuleType)
        and not isinstance(value, type(jnp.float32))  # dtypes are callable objects
    }


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_function_has_a_row_or_a_reason(namespace: str) -> None:
    public = _public_functions(namespace)
    with_row = {row.function for row in ROWS if row.namespace == namespace}
    without_row = {name for name in excluded.EXCLUDED if name.rpartition(".")[0] == namespace}
    assert with_row & without_row == set(), "both in the table and excluded"
    assert public - with_row - without_row == set(), "neither in the table nor excluded"


def test_absent_functions_belong_to_another_version_of_jax() -> None:
    public = set().union(*map(_public_functions, NAMESPACES))
    missing = ({*ABSENT} | {*excluded.EXCLUDED}) - public
    version = jax.__version_info__[:2]
    for name in sorted(missing):
        ours = version < excluded.ADDED.get(name, (0, 0)) or version >= excluded.REMOVED.get(
            name, (99, 0)
        )
        assert ours, f"{name}: not in JAX {jax.__version__}, no other version is named"


def test_table_is_large_and_its_rows_are_distinct() -> None:
    assert len({row.function for row in DIFFERENTIABLE}) >= 500
    repeated = [name for name, count in collections.Counter(map(str, ROWS)).items() if count > 1]
    assert repeated == []


def test_each_function_is_tried_on_all_kinds_of_sizes() -> None:
    """Axes of size 0, of size 1 and unequal ones; a row that cannot says why."""
    tried, lacking = collections.defaultdict(set), collections.defaultdict(set)
    for row in DIFFERENTIABLE:
        tried[row.function] |= kinds_of_sizes(row.cases)
        lacking[row.function] |= set(row.lacks)
    for name, kinds in tried.items():
        assert {"empty", "single", "unequal"} - kinds == lacking[name], name


# --- every differentiable primitive occurs in the table ------------------------------------------


def _primitives(jaxpr: Any) -> set[str]:
    """Names of all primitives in a jaxpr and in those nested in its equations' parameters."""
    found, pending = set(), [jaxpr]
    while pending:
        value = pending.pop()
        if isinstance(value, jax_core.Jaxpr | jax_core.ClosedJaxpr):
            found |= {eqn.primitive.name for eqn in value.eqns}
            pending += [parameter for eqn in value.eqns for parameter in eqn.params.values()]
        elif isinstance(value, tuple | list):
            pending += value
    return found


def _differentiable_primitives() -> set[str]:
    """Those JAX itself gives a derivative, asked in a process where nobody else has added one."""
    command = (
        "import jax.numpy, jax.scipy.special; from jax._src.interpreters import ad; "
        "print(*{primitive.name for primitive in ad.primitive_jvps})"
    )
    run = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_every_differentiable_primitive_has_a_row_or_a_reason() -> None:
    found = set()
    for row in ROWS:
        found |= _primitives(jax.make_jaxpr(row.fun)(*row.operands(row.cases[0])))
    differentiable = _differentiable_primitives()
    assert len(differentiable) > 150
    assert differentiable - found - set(excluded.EXCLUDED_PRIMITIVES) == set(), "in no row"


# --- the page in the documentation ---------------------------------------------------------------


@pytest.mark.one_version
def test_documented_coverage_is_up_to_date() -> None:
    path = pathlib.Path(__file__).parents[3] / "docs" / "generate_coverage.py"
    spec = importlib.util.spec_from_file_location("generate_coverage", path)
    generate_coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_coverage)
    committed = generate_coverage.PAGE.read_text(encoding="utf-8")
    recorded = re.search(r"with JAX (\S+);", committed)[1]
    if recorded != jax.__version__:
        pytest.skip(f"docs/coverage.md was generated with JAX {recorded}")
    assert committed == generate_coverage.page(), "run python docs/generate_coverage.py"
