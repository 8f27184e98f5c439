"""The programs that decide whether the default is never slower than JAX's better mode.

Each family of programs has a module. What is measured is every program in its list, and as many
more, a tenth, drawn by a seed from the families' parametrised makers.
"""

from __future__ import annotations

import numpy as np

from benchmarks.programs import (
    chemistry,
    densities,
    dynamics,
    filters,
    finance,
    fluids,
    geometry,
    linear_algebra,
    loops,
    networks,
    objectives,
    packages,
    reference,
    transforms,
)
from benchmarks.programs.program import Family, Program

__all__ = ["FAMILIES", "Family", "Program", "chosen"]

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        reference,
        dynamics,
        filters,
        finance,
        chemistry,
        fluids,
        geometry,
        networks,
        densities,
        objectives,
        linear_algebra,
        transforms,
        loops,
        packages,
    )
)

# For so many listed programs one is drawn.
_LISTED_PER_DRAWN = 10


def chosen(seed: int) -> list[tuple[Family, Program, bool]]:
    """Every listed program and a tenth more, with the family of each and whether it was drawn.

    Args:
        seed: decides which are drawn.
    """
    listed = [(family, program, False) for family in FAMILIES for program in family.programs]
    labels = {program.label for _, program, _ in listed}
    draw = np.random.default_rng(seed)
    drawn: list[tuple[Family, Program, bool]] = []
    while len(drawn) < round(len(listed) / _LISTED_PER_DRAWN):
        family = FAMILIES[draw.integers(len(FAMILIES))]
        program = family.draw(draw)
        if program.label not in labels:
            labels.add(program.label)
            drawn.append((family, program, True))
    return listed + drawn
