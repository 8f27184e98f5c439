"""One module knows JAX's internals and versions, so that an upgrade of JAX changes one file."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PACKAGES = (_ROOT / "jax_cce", _ROOT / "search" / "jax_cce_search")
_ALLOWED = _ROOT / "jax_cce" / "jax_internals.py"
_MODULES = sorted(path for package in _PACKAGES for path in package.rglob("*.py"))

_INTERNAL = ("jax._src", "jaxlib.xla_client", "jaxlib.xla_extension")
_VERSIONS = {"__version__", "__version_info__"}
_DISTRIBUTIONS = {"jax", "jaxlib"}


def offences(source: str) -> list[str]:
    """Returns the lines of a module that reach into JAX's internals or ask for its version."""
    lines = source.splitlines()
    return [
        f"{node.lineno}: {lines[node.lineno - 1].strip()}"
        for node in ast.walk(ast.parse(source))
        if _offends(node)
    ]


def _offends(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(_is_internal(alias.name) for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            imported = {alias.name for alias in names}
            return any(_is_internal(f"{module}.{name}") for name in imported) or (
                module.split(".")[0] in _DISTRIBUTIONS and bool(imported & {*_VERSIONS, "version"})
            )
        case ast.Attribute(attr="_src"):
            return True
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            return name in _DISTRIBUTIONS and attribute in {*_VERSIONS, "version"}
        case ast.Call(
            func=ast.Name(id="version") | ast.Attribute(attr="version"),
            args=[ast.Constant(value=name)],
        ):
            return name in _DISTRIBUTIONS
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            # importlib.import_module("jax._src.core"), pytest.importorskip(...), __import__(...)
            return _is_internal(name)
    return False


def _is_internal(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _INTERNAL)


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_one_module_knows_jax_internals_and_versions(path):
    if path != _ALLOWED:
        assert offences(path.read_text(encoding="utf-8")) == []


def test_every_package_is_looked_at():
    assert {package for package in _PACKAGES if (package / "__init__.py") in _MODULES} == set(
        _PACKAGES
    )
    assert _ALLOWED in _MODULES


@pytest.mark.parametrize(
    "source",
    [
        "import jax._src.core",
        "import jax._src as internals",
        "from jax import _src",
        "from jax._src import ad_util, core",
        "from jax._src.interpreters import (\n    partial_eval as pe,\n)",
        "import jax\ncore = jax._src.core",
        "import importlib\ncore = importlib.import_module('jax._src.core')",
        "import jax\nnew = jax.__version_info__ >= (0, 11)",
        "from jax import __version__",
        "from jax.version import __version_info__ as version",
        "import importlib.metadata\nnew = importlib.metadata.version('jaxlib')",
        "from importlib.metadata import version\nnew = version('jax')",
    ],
)
def test_an_offence_is_found(source):
    assert len(offences(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""jax._src is named in a docstring, which is no use of it."""',
        "import jax\nfrom jax import lax\nfrom jax.extend import core",
        "__version__ = '0.1.0'",
        "from importlib.metadata import version\nours = version('jax-cross-country')",
    ],
)
def test_public_use_is_no_offence(source):
    assert offences(source) == []
