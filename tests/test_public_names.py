"""The public names: where users import them from, and nothing else beside them."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jax_cce
from jax_cce import extend, kalman, linalg, randomized, registry, safe, splines, stochastic, surgery


def test_dir_shows_the_public_names_only():
    assert sorted(dir(jax_cce)) == sorted([*jax_cce.__all__, "__version__"])


@pytest.mark.parametrize(
    "module",
    [jax_cce, extend, kalman, linalg, randomized, registry, safe, splines, stochastic, surgery],
    ids=lambda m: m.__name__,
)
def test_every_public_name_is_there(module):
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jax_cce' has no attribute 'jacobain'"):
        _ = jax_cce.jacobain


def test_the_types_of_the_package_name_the_same():
    stub = pathlib.Path(jax_cce.__file__).with_suffix(".pyi")
    names = {
        alias.asname
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == set(jax_cce.__all__)


def test_former_names_stay():
    assert registry.Entry is registry.StoredOrder
    assert registry.list is registry.entries
    assert registry.Registry.list is registry.Registry.entries
    assert extend.Site is extend.Primals


@pytest.mark.parametrize(
    "heavy", ["jax_cce_search", "jax.experimental.sparse", "scipy", "numba", "rich", "platformdirs"]
)
def test_importing_the_package_leaves_what_takes_long_alone(heavy):
    script = "import jax, sys; before = set(sys.modules); import jax_cce; "
    script += f"print({heavy!r} in set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
