"""The compiled loops are there wherever the package can be imported."""

import pathlib
import runpy
import subprocess
import sys
import textwrap

import pytest
from jax_cce_search.game import jit


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


def test_kept_code_is_found_by_the_sources_of_all_kernels(tmp_path):
    """Numba itself looks at the file of the function only, not at those of what it calls."""
    copy = tmp_path / "jit.py"
    copy.write_text(pathlib.Path(jit.__file__).read_text())
    other = tmp_path / "kernels.py"
    names = []
    for content in ("one = 1", "one = 2", "one = 1"):
        other.write_text(content)
        kernel = runpy.run_path(str(copy))["jit"](lambda: 0)
        names.append(kernel.py_func.__qualname__)
    assert names[0] == names[2] != names[1]
