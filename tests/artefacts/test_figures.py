"""The program that measures artefacts runs, and its contenders give the same bits."""

import pytest

from benchmarks import artefacts
from jax_cce.native import compiling

pytestmark = pytest.mark.one_version


def test_a_task_is_measured(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with flatbuffers")
    monkeypatch.delenv(compiling.VARIABLE, raising=False)
    if obstacle := compiling.machine().obstacle:
        pytest.skip(obstacle)
    ways = {"file, plain JAX", "file, executable", "jax_cce, XLA"}
    chosen = {name: script for name, script in artefacts._WAYS.items() if name in ways}
    monkeypatch.setattr(artefacts, "_WAYS", chosen)
    size, first, imports, same = artefacts.measured("HumanHeartDipole", tmp_path, 1)
    assert same
    assert 1000 < size < 20_000
    assert first.keys() == imports.keys() == ways
