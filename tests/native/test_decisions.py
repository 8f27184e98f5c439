"""Decisions are recalled for the same program only, and say nothing of another."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.natively import is_native
from jax_cce.native import decisions, kernels, objects
from jax_cce.program import tracing

X = jnp.array([0.3, 0.9, 0.6])


@pytest.fixture(autouse=True)
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "registry"))
    return tmp_path / "registry-native"


@pytest.fixture
def written(monkeypatch):
    """The functions that kernels were written for."""
    found, own = [], kernels.written
    monkeypatch.setattr(kernels, "written", lambda f, s, **kw: found.append(f) or own(f, s, **kw))
    return found


def forget():
    """Leaves nothing of earlier calls in memory."""
    jax_cce.cache_clear()
    jax.clear_caches()


def name_of(f, *args, facts=()):
    program, constants = tracing.trace(f, args or (X,), differentiated=True)
    return decisions.name_of(program, constants, *facts)


def with_rule(factor, symbolic_zeros=False):
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    def rule(primals, tangents):
        return f(*primals), factor * tangents[0]

    f.defjvp(rule, symbolic_zeros=symbolic_zeros)
    return f


def with_pullback(factor):
    f = jax.custom_vjp(lambda x: jnp.sin(x))
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, seed: (factor * seed * x,))
    return f


def scanned(step, length=30):
    return lambda x: lax.scan(lambda c, k: (step(c) * k, c[0]), x, jnp.arange(float(length)))


def solved(factor):
    def f(x):
        return lax.custom_linear_solve(
            lambda y: factor * y, x, lambda _, y: y / factor, symmetric=True
        )

    return f


ALIKE_BUT_FOR_ONE_THING = {
    "a number": lambda k: lambda x: x * (2.0 + k * 2**-50),
    "the sign of a zero": lambda k: lambda x: x / (0.0 if k else -0.0),
    "NaN": lambda k: lambda x: jnp.where(x > (np.nan if k else 0.0), x, x * x),
    "an integer": lambda k: lambda x: x ** (3 + k),
    "an axis": lambda k: lambda x: jnp.cumsum(jnp.outer(x, x), axis=k),
    "an operation": lambda k: jnp.sin if k else jnp.cos,
    "operands": lambda k: lambda x: x[k] / x[1 - k],
    "outputs": lambda k: lambda x: (jnp.sin(x), jnp.cos(x))[:: 1 - 2 * k],
    "a type": lambda k: lambda x: x.astype("float32" if k else "float64") * 1.0,
    "a rule": lambda k: with_rule(0.5 + k),
    "a pullback": lambda k: with_pullback(0.5 + k),
    "a number in a loop": lambda k: scanned(lambda c: c * (0.5 + k)),
    "the length of a loop": lambda k: scanned(jnp.sin, 30 + k),
    "a rule in a loop": lambda k: scanned(with_rule(0.5 + k)),
    "a branch": lambda k: lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x * (2.0 + k), x),
    "a rule in a branch": lambda k: lambda x: lax.cond(x[0] > 0, jnp.sin, with_rule(2.0 + k), x),
    "a condition": lambda k: lambda x: lax.while_loop(lambda c: c[0] < 5.0 + k, lambda c: 2 * c, x),
    "a solver": lambda k: solved(2.0 + k),
    "a table in a loop": lambda k: scanned(lambda c: c * np.array([0.1, 0.2, 0.3 + k])),
    "places": lambda k: lambda x: x[np.array([0, 1 + k])],
}


@pytest.mark.parametrize("what", ALIKE_BUT_FOR_ONE_THING)
def test_names_tell_programs_apart(what):
    make = ALIKE_BUT_FOR_ONE_THING[what]
    one, same, other = map(name_of, (make(0), make(0), make(1)))
    assert one is not None
    assert one == same != other


@pytest.mark.parametrize(
    "one, other",
    [
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((None,), ("None",)),
        ((0.0,), (-0.0,)),
        (((1,), 2), ((1, 2),)),
        (("a", "b"), ("ab", "")),
        ((np.array([1.0, np.nan]),), (np.array([1.0, 2.0]),)),
        ((np.zeros(2),), (np.zeros((2, 1)),)),
        ((np.zeros(2),), (np.zeros(2, "float32"),)),
        ((np.zeros(2),), (-np.zeros(2),)),
    ],
)
def test_names_tell_facts_apart(one, other):
    names = [name_of(jnp.sin, facts=facts) for facts in (one, one, other)]
    assert names[0] is not None
    assert names[0] == names[1] != names[2]


def test_what_cannot_be_told_exactly_is_not_kept(monkeypatch, directory):
    assert name_of(jnp.sin, facts=(object(),)) is None
    assert name_of(with_rule(0.5, symbolic_zeros=True)) is None
    assert name_of(scanned(with_rule(0.5, symbolic_zeros=True))) is None
    assert name_of(jnp.sin) is not None
    monkeypatch.setattr(decisions.book, "is_described_elsewhere", lambda _: True)
    assert name_of(jnp.sin) is None
    monkeypatch.setenv("JAX_CCE_REGISTRY", "off")
    assert name_of(jnp.cos) is None


def test_names_are_the_same_in_all_processes(directory):
    program = (
        "import jax.numpy as jnp; from jax_cce.native import decisions;"
        "from jax_cce.program import tracing; import jax; jax.config.update('jax_enable_x64', 1);"
        "f = lambda x: jnp.where(x > 1, jnp.sin(x) @ x, x[jnp.array([2, 1, 0])]);"
        "print(decisions.name_of(*tracing.trace(f, (jnp.ones(3),)), ('a', None)))"
    )
    names = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(names) == 1
    assert len(names.pop().strip()) == 32


@pytest.mark.parametrize("batch", [None, 20])
def test_kernels_are_written_once(written, batch):
    def fun(x):
        return jnp.sin(x) * x[::-1] / (1 + x[0])

    def result():
        forget()
        x = X if batch is None else X + jnp.linspace(0, 1, batch)[:, None]
        ours, theirs = jax_cce.jacobian(lambda x: fun(x)), jax.jacfwd(fun)
        if batch is not None:
            ours, theirs = jax.vmap(ours), jax.vmap(theirs)
        assert is_native(ours, x)
        found = jax.jit(ours)(x)
        assert_agree(found, theirs(x))
        return found

    first = result()
    count = len(written)
    assert count
    np.testing.assert_array_equal(result(), first)
    assert len(written) == count


def test_refusals_are_kept(written):
    def fun(x):
        return jax.scipy.special.i0e(x) * x

    for _ in range(2):
        forget()
        assert not is_native(jax_cce.jacobian(lambda x: fun(x)), X)
        count = len(written)
    assert count <= 1


def test_code_that_is_gone_is_made_again(written, directory, monkeypatch):
    def fun(x):
        return jnp.cos(x) * x[::-1]

    for _ in range(2):
        forget()
        assert is_native(jax_cce.jacobian(lambda x: fun(x)), X)
        for path in directory.glob("*.o"):
            path.unlink()
        # As in another process.
        monkeypatch.setattr(kernels.compiling, "_engines", dict[str, object]())
        monkeypatch.setattr(kernels.compiling.jax.ffi, "register_ffi_target", lambda *_, **__: None)
    assert len(written) == 2


def test_that_a_process_is_full_is_no_decision(monkeypatch, directory):
    monkeypatch.setattr(kernels.compiling, "_MOST_KERNELS", 0)
    assert not is_native(jax_cce.jacobian(lambda x: jnp.tanh(x) * x[0] * 0.123), X)
    assert not list(directory.glob(f"*.{decisions._KIND}"))


def test_what_is_damaged_is_decided_again(written, directory):
    def fun(x):
        return jnp.exp(x) * x[::-1]

    for _ in range(2):
        forget()
        assert is_native(jax_cce.jacobian(lambda x: fun(x)), X)
        for path in directory.glob(f"*.{decisions._KIND}"):
            path.write_bytes(path.read_bytes()[:-1])
    assert len(written) == 2
    assert objects.read("nothing") is None
