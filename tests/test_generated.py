"""Pages and pictures that a program writes are those that it writes today: see `make generated`.

The page of the coverage has its test in `primitive_coverage`, beside the table that it is written
from.
"""

import importlib.util
import pathlib
import re
import sys

import matplotlib
import pytest

from benchmarks import policies, searches, suite_report

_DOCS = next(p for p in pathlib.Path(__file__).parents if (p / "mkdocs.yml").exists()) / "docs"
_PICTURES = _DOCS / "pictures"

pytestmark = pytest.mark.one_version


def _program(name: str):
    spec = importlib.util.spec_from_file_location(name, _DOCS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def _unnamed(path: pathlib.Path) -> str:
    """A picture without the names of its clipping paths: they change with a last digit."""
    return re.sub(r'"(?:url\(#)?p[0-9a-f]{10}\)?"', "", _text(path))


def test_the_house():
    house = _program("house")
    drawn = house.picture(house.House.of(_DOCS.parent))
    assert _text(_PICTURES / "house.svg") == drawn, "run make house"


def test_the_spy_plots():
    drawn = _program("spy").picture()
    assert _text(_PICTURES / "spy.svg") == drawn, "run make generated"


def test_the_speed_ups():
    speed_ups = _program("speed_ups")
    drawn = speed_ups.picture(*speed_ups.read(_text(speed_ups.PAGE)))
    assert _text(_PICTURES / "speed-ups.svg") == drawn, "run make generated"


def test_the_programs(tmp_path):
    results = suite_report.loaded(suite_report.KEPT)
    assert _text(suite_report.PAGE) == suite_report.documentation(results), "run make generated"
    readme = _text(suite_report.README)
    assert readme == suite_report.readme(readme, results), "run make generated"
    suite_report.draw(results, tmp_path / "programs.svg")
    if matplotlib.__version__ in _text(suite_report.PICTURE):
        drawn = _text(tmp_path / "programs.svg")
        assert _text(suite_report.PICTURE) == drawn, "run make generated"


@pytest.mark.parametrize("benchmark", [searches, policies], ids=lambda each: each.__name__)
def test_the_tables_of_kept_runs(benchmark):
    assert _text(benchmark.PAGE) == benchmark.page(benchmark.kept_runs()), "run make generated"


@pytest.mark.parametrize(
    "picture, draw",
    [
        (
            searches.PICTURE,
            lambda path: searches.draw(searches.results_of(searches.kept_runs()), path),
        ),
        (
            policies.PICTURE,
            lambda path: policies.draw(sorted(policies.CURVES.glob("*.jsonl")), path),
        ),
    ],
    ids=["searches", "training"],
)
def test_the_curves_of_kept_runs(picture, draw, tmp_path):
    if f"Matplotlib v{matplotlib.__version__}," not in _text(picture):
        pytest.skip(f"{picture.name} was drawn by another version of matplotlib")
    draw(tmp_path / "drawn.svg")
    assert _unnamed(tmp_path / "drawn.svg") == _unnamed(picture), "run make generated"


# --- what the report on the house says ----------------------------------------------------------


def _checkout(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_between_rooms_are_counted(tmp_path):
    house = _program("house")
    root = _checkout(
        tmp_path,
        {
            "jax_cce/__init__.py": "from jax_cce.upper import f, g\nfrom jax_cce import lower\n",
            "jax_cce/upper.py": "from jax_cce.lower import a\nfrom .lower.b import h\nimport os\n",
            "jax_cce/lower/__init__.py": '"""Lower."""\n',
            "jax_cce/lower/a.py": "def inside():\n    from . import b\n",
            "jax_cce/lower/b.py": "",
        },
    )
    found = house.House.of(root)
    assert found.rooms == ["jax_cce.(public names)", "jax_cce.upper", "jax_cce.lower"]
    assert found.between == {
        ("jax_cce.(public names)", "jax_cce.upper"): 1,
        ("jax_cce.(public names)", "jax_cce.lower"): 1,
        ("jax_cce.upper", "jax_cce.lower"): 2,
    }
    assert found.imports["jax_cce.lower.a"] == {"jax_cce.lower.b"}
    assert "No cycle between modules." in house.report(found)
    assert 'class="upward"' not in house.picture(found)


def test_cycles_are_named(tmp_path):
    house = _program("house")
    found = house.House.of(
        _checkout(
            tmp_path,
            {
                "jax_cce/__init__.py": "",
                "jax_cce/a.py": "import jax_cce.b\n",
                "jax_cce/b.py": "from jax_cce import c\n",
                "jax_cce/c.py": "from jax_cce.a import f\n",
            },
        )
    )
    said = house.report(found)
    assert "Modules that import each other: jax_cce.a, jax_cce.b, jax_cce.c." in said
    assert "which stands above it" in said
    assert 'class="upward"' in house.picture(found)
