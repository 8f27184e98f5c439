"""A tool for GradBench (github.com/gradbench/gradbench), which compares automatic differentiation.

`python -m benchmarks.gradbench` reads messages from its input, a line of JSON each, and answers in
the same way: it is what GradBench calls a tool, and takes part in any of these evaluations. Each is
a module with a program in JAX, which `jax_cce` differentiates; definitions and formats of messages
are GradBench's, programs and data are not.
"""

from collections.abc import Mapping

from benchmarks.gradbench import (
    ba,
    det,
    gmm,
    hello,
    ht,
    kmeans,
    llsq,
    lse,
    lstm,
    ode,
    particle,
    saddle,
)
from benchmarks.gradbench.evaluation import Evaluation

EVALUATIONS: Mapping[str, Evaluation] = {
    module.__name__.rpartition(".")[2]: module.EVALUATION
    for module in (ba, det, gmm, hello, ht, kmeans, llsq, lse, lstm, ode, particle, saddle)
}
