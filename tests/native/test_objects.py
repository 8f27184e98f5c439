"""Machine code is kept on disk, and never trusted further than its digest."""

import subprocess
import sys

import pytest

from jax_cce.native import objects
from jax_cce.native.objects import compiled_once

PROGRAM = """
import jax, jax.numpy as jnp, jax_cce
from jax_cce.native import compiling

compiled, own = [], compiling._compiled
compiling._compiled = lambda text, level: compiled.append(text) or own(text, level)
points = jnp.linspace(0.1, 0.9, 96).reshape(32, 3)
jacobians = jax.jit(jax.vmap(jax_cce.jacobian(lambda x: jnp.sin(x) * x[::-1])))
assert "jax_cce_" in jacobians.lower(points).as_text()
print(len(compiled), jacobians(points).tobytes().hex())
"""


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "registry"))
    return tmp_path / "registry-native"


def counted(code=b"code"):
    made = []
    return made, lambda: made.append(code) or code


def test_a_second_process_compiles_nothing(directory):
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (first, bits), (second, same_bits) = (run.stdout.split() for run in runs)
    # The kernel, and what all kernels have in common.
    assert (first, second) == ("2", "0")
    assert bits == same_bits
    assert len(list(directory.glob("*.o"))) == 2


def test_code_is_made_once(directory):
    made, make = counted()
    assert [compiled_once("name", make) for _ in range(3)] == [b"code"] * 3
    assert len(made) == 1
    assert compiled_once("other", counted(b"other")[1]) == b"other"


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"", bytes])
def test_what_is_damaged_is_made_again(directory, damage):
    compiled_once("name", counted()[1])
    (path,) = directory.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content) if damage is not bytes else content[:-1] + b"?")
    made, make = counted()
    assert compiled_once("name", make) == b"code"
    assert len(made) == 1
    assert path.read_bytes() == content


def test_the_oldest_go(directory, monkeypatch):
    monkeypatch.setattr(objects, "_MOST_BYTES", 1000)
    for k in range(30):
        assert compiled_once(str(k), lambda k=k: bytes([k]) * 300) == bytes([k]) * 300
    assert {path.stem for path in directory.iterdir()} <= {"27", "28", "29"}


def test_where_nothing_can_be_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for location in ("off", str(tmp_path / "file" / "registry"), "memory://somewhere"):
        monkeypatch.setenv("JAX_CCE_REGISTRY", location)
        made, make = counted()
        assert [compiled_once("name", make) for _ in range(2)] == [b"code"] * 2
        assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
