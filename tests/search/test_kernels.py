"""The compiled loops are there wherever the package can be imported."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.one_version
def test_without_a_place_to_keep_what_is_compiled():
    """As in a container whose file system cannot be written."""
    program = textwrap.dedent(
        """
        from numba.core import caching
        caching.CacheImpl._locator_classes = []
        from jax_cce.orders.skeleton import Skeleton
        from jax_cce_search.game.problem import Problem
        graph = Skeleton.from_edges([(0, 1), (1, 2), (1, 3), (2, 3)], [0], [3])
        print(Problem(graph).compiled.evaluate([[]])[0])
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr
