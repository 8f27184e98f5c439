"""Every test runs in float64 on eight host devices, so that sharding is tested on any machine.

The folders are the rooms of `jax_cce` and `jax_cce_search`: what a module does is tested in the
folder of its room. Beside them lie

- `api`: the public transformations against the contract of `jax.jacrev`;
- `rules/primitive_coverage`: a table row for each public differentiable function of JAX;
- `native`: native code, against JAX and under all uses that the other tests have;
- `search`, `learned`: the searches and their reports, and the policy that learns;
- `contracts`: what we assume about JAX, by name, so that a new JAX fails there first;
- `wild`: whole programs: reference tasks, examples, random ones, and what others got wrong;
- `cases`: functions, random programs, strategies and comparisons that several modules share.
"""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled and run once each: compile time is all that matters.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test reads or leaves orders in the user's own registry.
os.environ["JAX_CCE_REGISTRY"] = "off"
os.environ.pop("JAX_CCE_REGISTRY_SHARED", None)
# What is tested is what XLA is given; the tests of native code, in `native`, switch it on.
os.environ["JAX_CCE_NATIVE"] = "off"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_parallel_codegen_split_count=1",
        # The older code generator compiles in half to two thirds of the time. JAX 0.12 has only the
        # newer one, so that each of them serves one of the two runs of the checks.
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else "",
    ]
).strip()

import collections
import gc
import pathlib
import shutil
import sys
import threading

import hypothesis
import jax
import platformdirs
import pytest
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir

import jax_cce

jax.config.update("jax_enable_x64", True)

hypothesis.settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, print_blob=True
)
# For a second run of the checks on another JAX.
hypothesis.settings.register_profile(
    "short", max_examples=30, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
# For a search of hours.
hypothesis.settings.register_profile("long", max_examples=10_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_HERE = pathlib.Path(__file__).parent
_LARGEST_CACHE = 2**30


class _LastContext(threading.local):
    """The context in which this thread lowers programs, and for how many more."""

    context: ir.Context
    left: int = 0


_LAST, _new_context = _LastContext(), mlir.make_ir_context


def _make_ir_context() -> ir.Context:
    """A context for several programs: a new one takes 5 ms, as much as all else for a small one."""
    if ir.Context.current is not None:
        # A program within another, into which a module of the same context would go.
        return _new_context()
    if not _LAST.left:
        _LAST.context, _LAST.left = _new_context(), 20
    _LAST.left -= 1
    return _LAST.context


# Newer versions do so themselves.
if jax.__version_info__ < (0, 12):
    mlir.make_ir_context = _make_ir_context


def pytest_configure(config: pytest.Config) -> None:
    """Keeps what XLA compiles from run to run, which saves most of a second run's time.

    JAX_CCE_TESTS_CACHE names the directory; "off" compiles everything anew.

    Raises:
        pytest.UsageError: where two test files have one name, of which only one would be collected
            in a run of all, whichever are asked for here.
    """
    names = collections.Counter(path.name for path in _HERE.rglob("test_*.py"))
    repeated = [name for name, often in names.items() if often > 1]
    if repeated:
        raise pytest.UsageError(f"Test files need names of their own: {', '.join(repeated)}.")
    named = os.environ.get("JAX_CCE_TESTS_CACHE")
    if named == "off":
        return
    root = pathlib.Path(named) if named else platformdirs.user_cache_path("jax_cce-tests")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    cache = root / f"python-{python}-jax-{jax.__version__}"
    is_worker = hasattr(config, "workerinput")
    if not is_worker and cache.is_dir():
        # JAX's own bound looks at every file on every write.
        size = sum(entry.stat().st_size for entry in os.scandir(cache))
        if size > _LARGEST_CACHE:
            shutil.rmtree(cache)
    for option, value in {
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }.items():
        jax.config.update(option, value)
        # For the processes that tests start.
        os.environ[option.upper()] = str(value)


def pytest_collection_finish() -> None:
    """Takes what imports and tables have left out of garbage collection, and collects less often.

    Tracing allocates fast and drops little in cycles: collecting takes a tenth of the time else.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_dropped():
    """Thousands of executables would else stay in memory until the end of the run."""
    yield
    jax_cce.cache_clear()
    jax.clear_caches()
