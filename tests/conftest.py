"""Every test runs in float64 on eight host devices, so that sharding is tested on any machine."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled and run once each: compile time is all that matters.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test reads or leaves orders in the user's own registry.
os.environ["JAX_CCE_REGISTRY"] = "off"
os.environ.pop("JAX_CCE_REGISTRY_SHARED", None)
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import hypothesis
import jax
import pytest

import jax_cce

jax.config.update("jax_enable_x64", True)

hypothesis.settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, print_blob=True
)
# For a second run of the checks on another JAX.
hypothesis.settings.register_profile(
    "short", max_examples=30, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_dropped():
    """Thousands of executables would else stay in memory until the end of the run."""
    yield
    jax_cce.cache_clear()
    jax.clear_caches()
