"""The digest of a Jacobian task: the same wherever the task is the same, on any supported JAX."""

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from benchmarks.tasks import TASKS
from cases.programs import Program, programs
from jax_cce.program import calls, known_values
from jax_cce.registry import keys

X = jax.ShapeDtypeStruct((3,), np.float64)
M = jax.ShapeDtypeStruct((3, 4), np.float64)
S = jax.ShapeDtypeStruct((), np.float64)


def task(
    fun: Callable[..., Any],
    *args: Any,
    argnums: Any = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    hoist: bool = False,
    sparse: bool = False,
    name: Callable[..., str] = keys.digest,
) -> str:
    """The digest that a plan of `fun` on arrays, or on shapes, is found under."""
    args = jax.tree.map(_array, args)
    contract = calls.Contract(argnums, has_aux, holomorphic)
    call = calls.Call(fun, contract, args, {})
    traced = calls.trace_call(call, hoist=hoist)
    known = known_values.known_constants(traced.program, traced.constants, sparse=sparse)
    return name(
        traced.program,
        num_values=traced.num_values,
        known=known,
        sparse=sparse,
        holomorphic=holomorphic,
    )


def _array(leaf: Any) -> Any:
    return jnp.ones(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf


def text(fun: Callable[..., Any], *args: Any, **options: Any) -> str:
    return task(fun, *args, name=keys.canonical, **options)


def test_text():
    table = jnp.array([0.0, 1.0, 0.5])

    def f(x):
        y = jnp.sin(x) * 2.5
        return y + table, jnp.where(y > 0, jax.nn.relu(x), y)

    expected = textwrap.dedent("""\
        schema=1 num_values=2 sparse=False holomorphic=False
        in float64[3]
        v0:float64[3] = sin i0
        v1:float64[3] = mul v0 float64[]
        v2:float64[3] = add v1 c0:float64[3]=HASH
        v3:bool[3] = gt v1 0:float64[]
        v4:float64[3] = custom_jvp_call[body1] i0
        v5:float64[3] = select_n v3 v1 v4
        out v2 v5
        body0
        in float64[3]
        v0:float64[3] = max i0 0:float64[]
        out v0
        body1
        in float64[3] float64[3]
        v0:float64[3] = custom_jvp_call[body0] i0
        v1:bool[3] = gt i0 0:float64[]
        v2:float64[3] = broadcast_in_dim[broadcast_dimensions=() shape=(3)] 0:float64[]
        v3:float64[3] = select_n v1 v2 i1
        out v0 v3
    """)
    assert re.sub("=[0-9a-f]{16}", "=HASH", text(f, X)) == expected


def scalars(a, b, c):
    d = a * b
    return jnp.sin(d) * c - d / a, jnp.exp(d) ** 3


def perceptron(params, x):
    for weight, bias in params[:-1]:
        x = jnp.tanh(weight @ x + bias)
    weight, bias = params[-1]
    return jnp.sum(jax.nn.softmax(weight @ x + bias) ** 2)


def recurrent(weight, xs):
    return lax.scan(lambda h, x: (jnp.tanh(weight @ h + x), h[0]), xs[0], xs, unroll=2)


def indexed(x):
    at = jnp.array([2, 0])
    return x[at] * x[:2, ::2].sum(), x.at[at, 1].add(2 * x[0, 0]), jnp.take(x, at, axis=1)


def branches(x):
    return lax.cond(x[0] > 0, jnp.sin, lambda y: y * y, x)


def looped(x):
    return lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: 2 * c + 1, x)


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, x), lambda x, g: (jnp.clip(g, -1, 1),))


LAYER = jax.ShapeDtypeStruct((3, 3), np.float64), X

GOLDEN: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any, str]] = {
    "scalars": (
        scalars,
        (S, S, S),
        (0, 1, 2),
        "5d0a0a24005083da24f7c2a5cfb34a34838de07928b45d11e43efc95ead341bf",
    ),
    "RoeFlux_1d": (
        TASKS["RoeFlux_1d"].fun,
        TASKS["RoeFlux_1d"].args,
        (0, 1, 2, 3, 4, 5),
        "7c8f36e7453b1ab8a52153a5d497ed5ba91e3688a7b3dfefc74fafd367b5e1b1",
    ),
    "RobotArm_6DOF": (
        TASKS["RobotArm_6DOF"].fun,
        TASKS["RobotArm_6DOF"].args,
        (0, 1),
        "4206a44b1895d38d0d58d68137495116840601115440f0e1b7659bd341e789ea",
    ),
    "perceptron": (
        perceptron,
        ([LAYER, LAYER], X),
        0,
        "e5f8b02cecb78bbe36a8d6a905dc422779da8505b8c4c1870e8a0aef0ef1d767",
    ),
    "scan": (
        recurrent,
        (LAYER[0], LAYER[0]),
        (0, 1),
        "0b4a1f267e522fc669910ea8096d597da31bfe94ea65a018f86fbe20ba876d70",
    ),
    "indexing": (
        indexed,
        (M,),
        0,
        "0eef6feb7d5fe24f9a6f5b603e40acbee51f1e951c2ac5ef505a5de851656148",
    ),
    "relu": (
        lambda x: jax.nn.relu(jnp.sin(x)),
        (X,),
        0,
        "3ef3679d57c8ea2a0506a8ba23f416005ad577d2dd09eedc8b217ed7c94569cc",
    ),
    "logaddexp": (
        jnp.logaddexp,
        (X, X),
        (0, 1),
        "dd4ca7b7f249b8e2ae97399d000ccb0cfd98980708aeea61035a9f0690e79031",
    ),
    "custom_vjp": (
        lambda x: clipped(x * x),
        (X,),
        0,
        "3e58eca606438bcef60bfae1d35f52cb07bc31ecebf3d685d98086d8973ec2b4",
    ),
    "cond": (branches, (X,), 0, "c68953bae5fccd1e9bdc0c81e7b700ee3d9db45a8e0f0d06763fe8fc7ce71486"),
    "while": (looped, (X,), 0, "278e2b918b7016a8773a1aff08ebd980bd72c73b7169689c27147f394322e9e7"),
    "fft": (
        lambda x: jnp.real(jnp.fft.fft(x)),
        (X,),
        0,
        "b43d2dab2f3c45af5d7fa3c2f2eefa9f4d34487f62a3f3349ed29cba0425385b",
    ),
    "random": (
        lambda x: x * jax.random.normal(jax.random.key(0), x.shape),
        (X,),
        0,
        "999eb92486e5c0392cd362615ef2aead7f9fcf9acd631a3f8c4f6f946e41ee73",
    ),
    "linear algebra": (
        lambda m: jnp.linalg.solve(m, m[0]),
        (LAYER[0],),
        0,
        "67f5aa6fa29f1562c7d7a95787de5c769653ccafe331445157df0b99f6b96b3e",
    ),
    "composite": (
        lambda x: lax.composite(jnp.sin, "a.b")(x),
        (X,),
        0,
        "40fee43e6010b3fe572e1be1cf268c29c40aee327fa7c0f2b9586ee380fdab64",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("hoist", [False, True])
def test_golden(name, hoist):
    """Orders on disk stay valid: a change here asks for a new `keys._SCHEMA`."""
    fun, args, argnums, expected = GOLDEN[name]
    assert task(fun, *args, argnums=argnums, hoist=hoist) == expected


def _hashed(x):
    return jnp.sin(x) * 2.5


def _with_jit(x):
    return jax.jit(lambda y: jax.jit(jnp.sin)(y) * 2.5)(x)


def _with_checkpoint(x):
    return jax.checkpoint(lambda z: jnp.sin(z) * 2.5)(x)


def _from_dead_code(x):
    jnp.cos(x)
    return jnp.sin(x) * 2.5


NUMBER = jnp.float64(2)

SAME: dict[str, Callable[..., Any]] = {
    "lambda": lambda somewhere: jnp.sin(somewhere) * 2.5,
    "value": lambda x: jnp.sin(x) * 3.5,
    "number in an array": lambda x: jnp.sin(x) * NUMBER,
    "NumPy number": lambda x: jnp.sin(x) * np.float64(7),
    "NaN": lambda x: jnp.sin(x) * float("nan"),
    "jit": _with_jit,
    "checkpoint": _with_checkpoint,
    "dead code": _from_dead_code,
}


@pytest.mark.one_version
@pytest.mark.parametrize("other", SAME)
@pytest.mark.parametrize("hoist", [False, True])
def test_same(other, hoist):
    assert text(SAME[other], X, hoist=hoist) == text(_hashed, X)


def test_values_of_arrays_do_not_matter():
    def of(table, **options):
        return task(lambda x: x * jnp.asarray(table) + jnp.asarray(table)[0], X, **options)

    assert of([2.0, 3.0, 4.0]) == of([5.0, 6.0, 7.0])
    assert of([2.0, 0.0, 4.0]) == of([5.0, 0.0, 7.0])
    # Zeros, ones and minus ones are structure.
    known = [[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [2.0, 4.0, 0.0], [2.0, 1.0, 4.0], [2.0, -1.0, 4.0]]
    assert len({of(table) for table in known}) == len(known)
    # Where structural zeros matter, so do masks and indices.
    assert of([True, True, False]) == of([True, False, True])
    assert of([True, True, False], sparse=True) != of([True, False, True], sparse=True)


def test_weak_type_does_not_matter():
    assert task(jnp.sin, 1.0) == task(jnp.sin, jnp.float64(1))


def test_constants_are_told_apart():
    table, other = jnp.array([2.0, 3.0, 4.0]), jnp.array([5.0, 6.0, 7.0])
    assert task(lambda x: x * table + table, X) != task(lambda x: x * table + other, X)
    # Numbered by first use: the constants' own order is that of the trace.
    assert task(lambda x: x * table + other, X) == task(lambda x: x * other + table, X)


DIFFERENT: dict[str, tuple[Any, ...]] = {
    "shape": ((jnp.sin, X), (jnp.sin, jax.ShapeDtypeStruct((4,), np.float64))),
    "rank": ((jnp.sin, X), (jnp.sin, jax.ShapeDtypeStruct((3, 1), np.float64))),
    "dtype": ((jnp.sin, X), (jnp.sin, jax.ShapeDtypeStruct((3,), np.float32))),
    "primitive": ((jnp.sin, X), (jnp.cos, X)),
    "parameter": ((lambda x: x**2, X), (lambda x: x**3, X), (lambda x: x**4, X)),
    "axis": ((lambda m: m.sum(0), M), (lambda m: m.sum(1), M)),
    "unit": (
        (lambda x: x * 2.5, X),
        (lambda x: x * 1.0, X),
        (lambda x: x * -1.0, X),
        (lambda x: x * 0.0, X),
    ),
    "operands": ((lambda x, y: jnp.sin(x) / y, X, X), (lambda x, y: y / jnp.sin(x), X, X)),
    "topology": (
        (lambda x: jnp.exp(jnp.sin(x)) * jnp.sin(x), X),
        (lambda x: (lambda y: jnp.exp(y) * y)(jnp.sin(x)), X),
    ),
    "order of outputs": (
        (lambda x: (jnp.sin(x), jnp.cos(x)), X),
        (lambda x: (lambda s, c: (c, s))(jnp.sin(x), jnp.cos(x)), X),
    ),
    "body": (
        (lambda x: lax.map(jnp.sin, x), X),
        (lambda x: lax.map(jnp.cos, x), X),
        (lambda x: lax.map(lambda y: 2.5 * y, x), X),
        (lambda x: lax.map(lambda y: 1.0 * y, x), X),
    ),
    "mode": (
        (lambda x: jnp.take(x, jnp.array([0]), mode="clip"), X),
        (lambda x: jnp.take(x, jnp.array([0]), mode="fill"), X),
    ),
}


@pytest.mark.one_version
@pytest.mark.parametrize("what", DIFFERENT)
def test_different(what):
    cases = DIFFERENT[what]
    assert len({task(*case) for case in cases}) == len(cases)


def test_task_is_part():
    def f(x, y):
        return jnp.sin(x) * y

    variants = [
        {},
        {"argnums": 1},
        {"argnums": (0, 1)},
        {"argnums": (1, 0)},
        {"sparse": True},
    ]
    assert len({task(f, X, X, **options) for options in variants}) == len(variants)

    z = jax.ShapeDtypeStruct((3,), np.complex128)
    assert "holomorphic=True" in text(jnp.sin, z, holomorphic=True)

    def pair(x):
        return jnp.sin(x), jnp.cos(x)

    assert task(pair, X) != task(pair, X, has_aux=True)


def _custom(factor: float, derivative: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @jax.custom_jvp
    def f(x):
        return x * factor

    f.defjvp(lambda primals, tangents: (f(*primals), derivative(primals[0]) * tangents[0]))
    return f


def test_custom_derivatives():
    assert task(_custom(2.5, jnp.cos), X) == task(_custom(3.5, jnp.cos), X)
    assert task(_custom(2.5, jnp.cos), X) != task(_custom(2.5, jnp.sin), X)
    assert task(_custom(2.5, jnp.cos), X) != task(_custom(1.0, jnp.cos), X)

    def refuse(x):
        raise NotImplementedError

    # Where it is not differentiated it needs no rule.
    refusing = _custom(1.0, refuse)
    body = "in float64[]\nv0:float64[] = mul i0 1:float64[]\n"
    assert body in text(lambda x: x * refusing(jnp.ones(())), X)


def test_traced_constants():
    """Under jit the constants are tracers, of which only the abstract value is known."""
    found = []

    @jax.jit
    def compute(x, y):
        found.append(task(lambda x: x * y, x))
        return x

    compute(jnp.ones(3), jnp.ones(3))
    table = jnp.array([2.0, 3.0, 4.0])
    assert found == [task(lambda x: x * table, X)]


def test_parameters_of_foreign_types():
    """What is not understood counts by its type: no address may come in."""

    class Foreign:
        pass

    def of(value):
        return keys._Writer()._param(value)

    assert of(Foreign()) == of(Foreign())
    assert of(lambda: 0) == of(len) == "function"
    assert of((1, True, 1.0)) == "(1,True,1.0)"
    assert of({"b": [1], "a": {3, 20}}) == "{'a':{20,3},'b':(1)}"
    assert of(np.dtype("float32")) == of(jnp.float32) == "float32"
    assert of(lax.GatherScatterMode.CLIP) == "GatherScatterMode.CLIP"
    assert of(np.arange(3)) == of(np.arange(6)[:3].copy()) != of(np.arange(3) + 1)
    assert of(np.int32(3)) == "3"
    recursive: list[Any] = []
    recursive.append(recursive)
    assert of(recursive).endswith("list" + ")" * 10)


SCRIPT = """
import jax, jax.numpy as jnp
from jax import lax
from jax_cce.program import calls, known_values, tracing
from jax_cce.registry import keys

def f(x):
    at = jnp.array([1, 0])
    y = lax.scan(lambda c, y: (c * y, jax.nn.softplus(c)), x[0], x)[1]
    return [y[at] * 2.5, jnp.linalg.inv(jnp.outer(y, x)), lax.psum(x, "a")]

program, constants = tracing.trace(
    jax.vmap(f, axis_name="a"), [jax.ShapeDtypeStruct((2, 3), jnp.float64)]
)
known = known_values.known_constants(program, constants, sparse=True)
print(keys.digest(program, num_values=3, known=known, sparse=True))
"""


@pytest.mark.one_version
def test_same_in_every_run():
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "JAX_ENABLE_X64": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ["1", "2"]
    ]
    digests = {run.communicate()[0].strip() for run in runs}
    assert len(digests) == 1
    assert re.fullmatch("[0-9a-f]{64}", digests.pop())


@settings(max_examples=40)
@given(programs())
def test_random_programs(program: Program):
    """Written again under other names, with its numbers as constants: the same text."""
    source = re.sub(r"\b([vxn])(\d+[bc]?)\b", r"renamed_\2_\1", program.source)
    again = dataclasses.replace(program, source=source)
    options = {"argnums": program.argnums, "has_aux": program.has_aux}
    written = text(program.function, *program.args, **options)
    assert written == text(program.function, *program.args, **options, hoist=True)
    assert written == text(again.function, *program.args, **options)
