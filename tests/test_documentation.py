"""The examples in the README and on the documentation's pages run, and print what they show."""

import doctest
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sessions(page: pathlib.Path) -> list[str]:
    """Returns the interactive sessions of a page, in order."""
    return [block for block in _BLOCK.findall(page.read_text(encoding="utf-8")) if ">>>" in block]


@pytest.mark.parametrize(
    "page", [page for page in _PAGES if sessions(page)], ids=lambda page: page.name
)
def test_examples(page, monkeypatch):
    # A page may set this for itself.
    monkeypatch.setenv("JAX_CCE_REGISTRY", "off")
    # One namespace for a page: it reads from top to bottom.
    test = doctest.DocTestParser().get_doctest(
        "\n".join(sessions(page)), {}, page.name, str(page), 0
    )
    report: list[str] = []
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False
    )
    results = runner.run(test, out=report.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(report)


# Pages whose own code is run when the site is built.
_SCRIPTS = [page for page in _PAGES if "<!-- output -->" in page.read_text(encoding="utf-8")]


@pytest.mark.one_version
@pytest.mark.parametrize("page", _SCRIPTS, ids=lambda page: page.name)
def test_scripts(page, monkeypatch, capsys):
    monkeypatch.setenv("JAX_CCE_REGISTRY", "off")
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```python\n(.*?)^```$(\n\n<!-- output -->$)?", text, re.DOTALL | re.MULTILINE
    )
    for package in re.findall(r"^import (diffrax|lineax|optimistix|scipy)$", text, re.MULTILINE):
        pytest.importorskip(package)
    # What they compare they check first, so that this fails where results differ.
    names: dict[str, object] = {}
    for block, output in blocks:
        exec(compile(block, str(page), "exec"), names)
        printed = capsys.readouterr().out
        assert bool(printed.strip()) == bool(output)


def test_the_readme_has_examples():
    assert sessions(_ROOT / "README.md")
