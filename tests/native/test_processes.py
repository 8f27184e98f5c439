"""Processes that fork, that end, that make thousands of kernels, and that forget functions."""

import gc
import os
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from cases.natively import is_native

pytestmark = pytest.mark.one_version

X = jnp.array([0.3, 0.9, 0.6])


def run(*program):
    """Runs a program, which has to end by itself and well, and to have nothing to say."""
    surroundings = {"JAX_CCE_REGISTRY": "off", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", *program],
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORKED = """
import os, signal, threading, time, warnings
from cases.handlers import called, parabola
from jax_cce.native import compiling

# Python and JAX warn of every fork.
warnings.simplefilter("ignore")
before = parabola(1.0)
assert called(before, 3.0) == 10.0
is_held = threading.Event()

def hold():
    with compiling._lock:
        is_held.set()
        time.sleep(0.2)

def child():
    # Blocked, it would stay when its parent is gone.
    signal.alarm(30)
    # Machine code from before, the same text again, and a new one.
    assert called(before, 4.0) == 17.0
    assert parabola(1.0) == before
    assert called(parabola(2.0), 4.0) == 18.0

for _ in range(3):
    is_held.clear()
    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    process = os.fork()
    if not process:
        try:
            child()
        except BaseException:
            os._exit(1)
        os._exit(0)
    thread.join()
    assert os.waitpid(process, 0)[1] == 0
    assert called(parabola(2.0), 5.0) == 27.0
"""


def test_a_child_compiles_and_runs():
    """Also where it is forked while a thread compiles, which the child does not have.

    Of JAX a forked child has nothing: what XLA compiles and shares out waits for lost threads.
    """
    run(FORKED)


ENDED = """
import sys, threading
import jax, jax.numpy as jnp
import jax_cce
from cases.handlers import called, parabola
from jax_cce.native import emission

# Parts so small that threads of XLA share every batch.
emission._OF_A_PART = 10
jacobian = jax.jit(jax.vmap(jax_cce.jacobian(lambda x: jnp.sin(x) * x[::-1])))
points = jnp.ones((200_000, 3))
assert "jax_cce_" in jacobian.lower(points).as_text()
jacobian(points).block_until_ready()
if "results" in sys.argv:
    results = [jacobian(points + k) for k in range(4)]
if "threads" in sys.argv:
    name, is_running = parabola(1.0), threading.Event()

    def work():
        while True:
            assert called(name, 3.0) == 10.0
            is_running.set()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    is_running.wait()
"""


@pytest.mark.parametrize("what", ["nothing", "results", "threads"])
def test_a_process_ends_while_code_runs(what):
    """Results that nobody waits for, and threads that are still at it.

    These call the code by itself: of what a thread does by JAX then, JAX says FATAL.
    """
    run(ENDED, what)


MANY = """
import jax, jax.numpy as jnp, numpy as np
from cases.handlers import called, parabola

COUNT = 2_000
names = [parabola(float(k)) for k in range(COUNT)]
assert len(set(names)) == COUNT
assert [called(name, 3.0) for name in names] == [9.0 + k for k in range(COUNT)]
assert [parabola(float(k)) for k in range(COUNT)] == names

some, shape = names[::100], jax.ShapeDtypeStruct((1,), "float64")
ours = jax.jit(lambda x: [jax.ffi.ffi_call(name, shape)(x) for name in some])
with jax.enable_x64(True):
    assert [float(x[0]) for x in ours(jnp.array([3.0]))] == [9.0 + k for k in range(0, COUNT, 100)]
"""


def test_thousands_of_kernels():
    run(MANY)


USES = {
    "a call": lambda jacobian: jacobian(X),
    "under jit": lambda jacobian: jax.jit(jacobian)(X),
    "a batch": lambda jacobian: jax.jit(jax.vmap(jacobian))(X[None] + jnp.zeros((5, 1))),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("transform", [jax_cce.jacobian, jax_cce.value_and_jacobian])
def test_functions_are_forgotten(use, transform):
    """Nothing of ours holds a function, its Jacobian or what it closes over; the code stays."""

    class Scale:
        factor = 2.0

    def used():
        scale = Scale()
        fun = lambda x: jnp.sin(scale.factor * x) * x[::-1]  # noqa: E731
        ours = transform(fun)
        assert is_native(ours, X)
        USES[use](ours)
        return [weakref.ref(each) for each in (scale, fun, ours)]

    found = used()
    gc.collect()
    assert [each() for each in found] == [None] * 3
