"""Seventeen problems of COPS 3.1, a collection of hard nonlinear programs of any size.

E. D. Dolan, J. J. More, T. S. Munson, "Benchmarking Optimization Software with COPS 3.0", technical
report ANL/MCS-TM-273 (2004): those of ExaModels' benchmark (github.com/MadNLP/COPSBenchmark.jl),
with the same variables and constraints. So what is maximised has its sign changed, values at
boundaries are constraints, and so are the collocated values and slopes, which are variables.
"""

from __future__ import annotations

import math

from benchmarks.tasks.cops.collocation import catmix, channel, gasoil, marine, methanol, pinene
from benchmarks.tasks.cops.shapes import camshape, elec, polygon
from benchmarks.tasks.cops.surfaces import bearing, minsurf, torsion
from benchmarks.tasks.cops.trajectories import chain, glider, robot, rocket, steering
from benchmarks.tasks.nonlinear import Family


def _side(n: int) -> int:
    return math.isqrt(n) - 2


FAMILIES = (
    Family("bearing", bearing, _side),
    Family("camshape", camshape),
    Family("catmix", catmix, lambda n: n // 23),
    Family("chain", chain, lambda n: n // 4 - 1),
    Family("channel", channel, lambda n: n // 40),
    Family("elec", elec, lambda n: n // 3, most=1000),
    Family("gasoil", gasoil, lambda n: n // 26),
    Family("glider", glider, lambda n: n // 5 - 1),
    Family("marine", marine, lambda n: n // 32),
    Family("methanol", methanol, lambda n: n // 30),
    Family("minsurf", minsurf, _side),
    Family("pinene", pinene, lambda n: n // 50),
    Family("polygon", polygon, lambda n: n // 2, most=1000),
    Family("robot", robot, lambda n: n // 9 - 1),
    Family("rocket", rocket, lambda n: n // 4 - 1),
    Family("steering", steering, lambda n: n // 5 - 1),
    Family("torsion", torsion, _side),
)
