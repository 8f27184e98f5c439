"""What the site does with a page before it is rendered, and checks once it is.

Examples are written as doctests, so that the tests run them. On the site their blocks are marked as
sessions: prompts and outputs are coloured as such, and assets/site.css leaves both out of what the
copy button copies.

A page with `<!-- output -->` behind a block is a script: its blocks without prompts are run when
the site is built, in one process for the page; what a block prints takes the place of the comment.
"""

import functools
import importlib
import inspect
import json
import logging
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

_BLOCK = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)
_SCRIPT = re.compile(
    r"^```python\n(?!>>> )(.*?)^```$(\n\n<!-- output -->$)?", re.DOTALL | re.MULTILINE
)
_END = "-- end of the block --"
# Warnings fail a strict build.
_LOG = logging.getLogger("mkdocs.hooks.site")

_MODULES = ["jax_cce", "jax_cce_search"]
_MODULES += [f"jax_cce.{name}" for name in ("extend", "host", "kalman", "linalg", "lineax")]
_MODULES += ["jax_cce.randomized", "jax_cce.registry", "jax_cce.safe", "jax_cce.splines"]
_MODULES += ["jax_cce.stochastic", "jax_cce.surgery"]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Marks sessions, inserts outputs, and gives pages without sections the room of their list."""
    if not re.search(r"^(## |::: )", markdown, re.MULTILINE):
        page.meta["hide"] = ["toc"]
    if "<!-- output -->" in markdown:
        outputs = iter(_outputs(tuple(block for block, _ in _SCRIPT.findall(markdown))))
        markdown = _SCRIPT.sub(lambda found: _with_output(found, next(outputs)), markdown)
    return _BLOCK.sub("```pycon\n", markdown)


def _with_output(found: re.Match[str], output: str) -> str:
    if not found[2]:
        return found[0]
    where = f"Printed when this page was built, with JAX {_jax_version()} on {_processor()}."
    code = found[0].removesuffix(found[2])
    return f"{code}\n\n```text\n{output.strip()}\n```\n\n{where}\n{{ .printed }}"


@functools.cache
def _outputs(blocks: tuple[str, ...]) -> list[str]:
    """What each block prints."""
    script = f"\nprint({_END!r})\n".join(blocks)
    environment = os.environ | {"JAX_CCE_REGISTRY": "off"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    if run.returncode:
        _LOG.warning("The code of a page failed:\n%s", run.stderr)
    outputs = run.stdout.split(f"{_END}\n")
    return outputs + [""] * (len(blocks) - len(outputs))


@functools.cache
def _jax_version() -> str:
    return importlib.import_module("jax").__version__


@functools.cache
def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    found = path.exists() and re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} processors)"


def on_post_build(config: Any, **_: Any) -> None:
    """Every public name has a heading of its own, by which the search finds it."""
    index = pathlib.Path(config["site_dir"], "search", "search_index.json")
    pages = json.loads(index.read_text(encoding="utf-8"))["docs"]
    headings = {page["location"].partition("#")[2] for page in pages}
    for name in _public_names():
        if name not in headings and name.replace("jax_cce.", "jax_cce_search.") not in headings:
            _LOG.warning("%s has no heading in the reference", name)


def _public_names() -> list[str]:
    """Of functions and classes; former names of others are left out."""
    modules = [(name, importlib.import_module(name)) for name in _MODULES]
    return [
        f"{path}.{name}"
        for path, module in modules
        for name in module.__all__
        if callable(value := getattr(module, name))
        and not inspect.ismodule(value)
        and getattr(value, "__name__", name) == name
    ]
