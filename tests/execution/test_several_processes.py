"""Several processes with devices of their own compute one Jacobian together."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jaxlib import _jax

from examples import reaction_diffusion

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(_jax, "make_gloo_tcp_collectives"), reason="no collectives between CPU processes"
)
def test_two_processes_gather_nothing_and_find_what_one_finds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = _ROOT / "examples" / "reaction_diffusion.py"
    path = os.pathsep.join([str(_ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""}
    processes = []
    for k in range(2):
        options = f"--size 64 --devices 4 --address {address} --process {k}".split()
        command = [sys.executable, script, *options, "--save", tmp_path / f"{k}.npz"]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
        )
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for k, (process, (out, err)) in enumerate(zip(processes, ended, strict=True)):
        assert process.returncode == 0, err
        assert f"process {k} of 2, 8 devices" in out
        assert re.search(r"residual \S+e-1\d, gathers 0", out), out
    arcs = {
        int(name): arc for k in range(2) for name, arc in np.load(tmp_path / f"{k}.npz").items()
    }
    assert {start: len(arc) for start, arc in arcs.items()} == {8 * k: 8 for k in range(8)}
    found = np.concatenate([arcs[start] for start in sorted(arcs)])
    expected = reaction_diffusion.main(["--size", "64"])
    assert len(expected.addressable_shards) == 8
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found, _alone(64), rtol=1e-9, atol=1e-12)


def _alone(size):
    """The same steps on one device, by JAX's own Jacobian and a dense solve."""
    u = np.sin(np.linspace(0.0, 2 * np.pi, size, endpoint=False))
    for _ in range(3):
        before = u
        for _ in range(5):
            jacobian = jax.jacrev(reaction_diffusion.residual)(u, before)
            u = u - np.linalg.solve(jacobian, reaction_diffusion.residual(u, before))
    return u
