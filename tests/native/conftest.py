"""Native code is switched on, and that it cannot be made is an error."""

import logging

import pytest

import jax_cce
from jax_cce.native import compiling


@pytest.fixture(autouse=True)
def natively(monkeypatch, caplog):
    """Switches native code on, where there is any."""
    monkeypatch.setenv(compiling.VARIABLE, "on")
    host = compiling.machine()
    if host.obstacle or not host.bytes:
        pytest.skip(host.obstacle or "the machine has no vectors of functions")
    jax_cce.cache_clear()
    with caplog.at_level(logging.WARNING, "jax_cce"):
        yield
    jax_cce.cache_clear()


@pytest.fixture
def quiet(caplog):
    """Asserts that no code was given up for an error."""
    yield
    # The text is that of this phase alone.
    assert not [r for r in caplog.get_records("call") if "no native code" in r.getMessage()]
