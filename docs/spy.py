"""Draws where Jacobians have entries, as notebooks show it: docs/pictures/spy.svg.

python docs/spy.py                # prints the Jacobians in words
python docs/spy.py --svg PATH     # writes the picture
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce

_PANEL, _GAP, _TEXT = 240, 40, 50
_PICTURE = re.compile(r"<svg.*</svg>", re.DOTALL)


def _laplacian(u: Any) -> Any:
    padded = jnp.pad(u, 1)
    across = padded[1:-1, 2:] + padded[1:-1, :-2]
    return padded[2:, 1:-1] + padded[:-2, 1:-1] + across - 4 * u + u**2


def _reactions(c: Any) -> Any:
    rate = c[0] * c[1]
    return jnp.stack([-rate, -rate, rate - c[2]])


def _springs(x: Any) -> Any:
    ends = np.random.default_rng(0).integers(0, 300, (2, 600))
    return (x[ends[0]] - x[ends[1]]) ** 2


# What is differentiated, and the shape of its argument.
PROGRAMS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "a stencil on a grid": (_laplacian, (12, 12)),
    "one function at many points": (jax.vmap(_reactions), (10, 3)),
    "springs between points": (_springs, (300,)),
}


def jacobians() -> dict[str, jax_cce.StructuredJacobian]:
    """The Jacobian of each program."""
    return {
        name: jax_cce.jacobian(program, format="structured")(jnp.ones(shape, jnp.float32))
        for name, (program, shape) in PROGRAMS.items()
    }


def picture() -> str:
    """The panels side by side."""
    panels = []
    for k, (name, jacobian) in enumerate(jacobians().items()):
        drawn = _PICTURE.search(jacobian._repr_html_())
        assert drawn is not None
        words = repr(jacobian).split(": ", 1)[1].removesuffix(")")
        panels.append(
            f'<g transform="translate({k * (_PANEL + _GAP)} 0)">'
            f'<text y="15">{escape(name)}</text><text y="33" font-size="10">{escape(words)}</text>'
            f'<g transform="translate(0 {_TEXT})">{drawn[0]}</g></g>'
        )
    wide, high = len(panels) * (_PANEL + _GAP) + _GAP, _PANEL + _TEXT + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        f'viewBox="-20 0 {wide} {high}" color="#1f4e79" font-family="sans-serif" font-size="13">\n'
        f'<rect x="-20" width="{wide}" height="{high}" fill="white"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def main() -> None:
    """Prints the words, or writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--svg", type=Path, metavar="PATH")
    options = parser.parse_args()
    if options.svg:
        options.svg.write_text(picture(), encoding="utf-8")
    else:
        for name, jacobian in jacobians().items():
            print(f"{name}: {jacobian}")


if __name__ == "__main__":
    main()
