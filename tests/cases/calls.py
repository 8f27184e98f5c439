"""Calls on which every transformation and format keeps the contract of `jax.jacrev`."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cases.agreement import outcome
from cases.references import once


class Case(NamedTuple):
    """One call: ``jacobian(fun, **options)(*args, **kwargs)``."""

    name: str
    fun: Any
    args: tuple[Any, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    kwargs: Mapping[str, Any] = MappingProxyType({})


@once
def outcome_of_jacrev(case: Case) -> Any:
    """The result of `jax.jacrev` on a case, or the exception that it raises."""
    return outcome(jax.jacrev(case.fun, **case.options), *case.args, **case.kwargs)


class Point(NamedTuple):
    x: Any
    y: Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["activation"]
)
@dataclasses.dataclass
class Layer:
    weight: Any
    bias: Any
    activation: str = "tanh"

    def __call__(self, x):
        return getattr(jnp, self.activation)(self.weight @ x + self.bias)


class Cube:
    """A callable object with a method, neither of which is a function."""

    def __call__(self, x):
        return x**3

    def scaled(self, x):
        return 2.0 * x**3


X = jnp.array([0.5, -1.5, 2.0])
Z = jnp.array([0.5 + 1.0j, -1.5 - 0.5j, 2.0j])
A = jnp.arange(12.0).reshape(3, 4) / 7.0
INT = jnp.arange(3)


def _scaled_sum(a, b, c):
    return a * jnp.sum(b**2) * jnp.sin(c)


DTYPES = [
    Case("python int", jnp.sin, (1,)),
    Case("python bool", jnp.sin, (True,)),
    Case("int array", jnp.sin, (INT,)),
    Case("bool array", jnp.sin, (INT > 1,)),
    Case("key", jax.random.normal, (jax.random.key(0),)),
    Case("int leaf", lambda t: t["x"] * t["n"], ({"x": X, "n": INT},)),
    Case("allow_int scalar", lambda n: 2.0 * n, (3,), {"allow_int": True}),
    Case("allow_int array", lambda n: jnp.outer(n, X), (INT,), {"allow_int": True}),
    Case("allow_int uint8", lambda n: 2.0 * n, (INT.astype(jnp.uint8),), {"allow_int": True}),
    Case("allow_int leaf", lambda t: t["x"] * t["n"], ({"x": X, "n": INT},), {"allow_int": True}),
    Case(
        "allow_int argnums",
        lambda n, x: x * n,
        (INT, X),
        {"argnums": (0, 1), "allow_int": True},
    ),
    Case("int output", lambda x: x.astype(int), (X,)),
    Case("python int output", lambda x: 1, (X,)),
    Case("bool output", lambda x: x > 0, (X,)),
    Case("key output", lambda x: jax.random.key(0), (X,)),
    Case("one int output of two", lambda x: (x, x.astype(int)), (X,)),
    Case("string output", lambda x: "no array", (X,)),
    Case("complex to real", lambda z: jnp.abs(z) ** 2 + z.imag, (Z,)),
    Case("complex64 to real", lambda z: z.real * z.imag, (Z.astype(jnp.complex64),)),
    Case("python complex", lambda z: jnp.abs(z) ** 2, (3.0 + 4.0j,)),
    Case("abs of complex", jnp.abs, (Z,)),
    Case("imaginary part", lambda z: (2 * z).imag, (Z,)),
    Case("complex in, both parts out", lambda z: (z.real, z.imag * z.real), (Z,)),
    Case("two complex stages", lambda z: jnp.abs(jnp.exp(1j * jnp.abs(z)) + z), (Z,)),
    Case("complex to real matrix", lambda z: jnp.abs(A.T @ z), (Z,)),
    Case("real through complex", lambda x: jnp.abs(jnp.exp(1j * x) + x), (X,)),
    Case("complex output", lambda z: z * 2, (Z,)),
    Case("real and complex to complex", lambda x, z: x * z, (X, Z), {"argnums": (0, 1)}),
    Case("holomorphic", lambda z: jnp.exp(z) * z**2, (Z,), {"holomorphic": True}),
    Case(
        "holomorphic complex64",
        lambda z: jnp.sin(z) / z,
        (Z.astype(jnp.complex64),),
        {"holomorphic": True},
    ),
    Case(
        "holomorphic tree",
        lambda z, w: {"a": z * w, "b": jnp.exp(z)},
        (3.0 + 4.0j, Z),
        {"argnums": (0, 1), "holomorphic": True},
    ),
    Case("holomorphic real input", lambda x: x * 1j, (X,), {"holomorphic": True}),
    Case("holomorphic int input", lambda x: x * 1j, (3,), {"holomorphic": True}),
    Case("holomorphic real output", lambda z: z.real, (Z,), {"holomorphic": True}),
    Case("weak input", lambda x: x**2, (3.0,)),
    Case("weak array", lambda x: x**2, (jnp.asarray(3.0),)),
    Case("weak input, strong output", lambda x: x * jnp.float32(2), (3.0,)),
    Case("strong input, weak output", lambda x: 2.0, (jnp.float64(3.0),)),
    Case("weak input, vector output", lambda x: x * X, (3.0,)),
    Case("weak vector", lambda x: x**2, (jnp.full(3, 2.0),)),
    Case("numpy scalar", lambda x: x**2, (np.float32(3.0),)),
    Case("numpy float64 is a float", lambda x: x**2, (np.float64(3.0),)),
    Case("numpy array", lambda x: jnp.sin(x) * x, (np.arange(3.0),)),
    Case("numpy 0-d", lambda x: jnp.sin(x) * x, (np.array(2.0),)),
    Case("numpy strided", lambda x: x @ x.T, (np.arange(24.0).reshape(6, 4)[::2].T,)),
    Case("numpy int", jnp.sin, (np.int32(3),)),
    Case("list of floats", lambda x: x[0] * x[1], ([1.0, 2.0],)),
]

SHAPES_AND_TREES = [
    Case("zero-size input", jnp.sin, (jnp.zeros(0),)),
    Case("zero-size input, full output", lambda x: jnp.sum(x, 0), (jnp.zeros((0, 3)),)),
    Case("zero-size output", lambda x: x[:0] ** 2, (X,)),
    Case("zero-size leaf of two", lambda t: (t[0][:0], t[1] * 2), ((X, jnp.zeros((3, 0))),)),
    Case("size one", lambda x: jnp.sum(x, 1) * x[0, 0], (jnp.full((1, 1), 3.0),)),
    Case("identity", lambda x: x, (X,)),
    Case("identity on a tree", lambda t: t, ({"a": X, "b": (A, None)},)),
    Case("independent output", lambda x: jnp.ones(2), (X,)),
    Case("python constant output", lambda x: 1.0, (X,)),
    Case("numpy constant output", lambda x: np.ones(2), (X,)),
    Case("partly independent", lambda x, y: (x, y * 2), (X, A), {"argnums": (0, 1)}),
    Case("one value returned twice", lambda x: {"p": x, "q": x, "r": 2 * x}, (X,)),
    Case("None leaves", lambda t: {"a": t[0] * 2, "b": None}, ((X, None),)),
    Case("namedtuple", lambda p: Point(p.x * p.y, p.y[0]), (Point(X, 2 * X),)),
    Case("dataclass in", lambda layer, x: layer(x), (Layer(A.T, A[0]), X)),
    Case("dataclass out", lambda x: Layer(x**2, jnp.sin(x), "exp"), (X,)),
    Case(
        "partial in",
        lambda p: p(X),
        (jax.tree_util.Partial(jnp.multiply, jnp.float64(3.0)),),
    ),
    Case(
        "nested tree",
        lambda t: [t["w"] @ t["b"][0], (t["b"][1] * 2, {"z": t["w"].T})],
        ({"w": A, "b": [A[0], jnp.float32(2.0)]},),
    ),
    Case("dict order", lambda t: {"b": t["z"], "a": t["y"]}, ({"z": X, "y": A},)),
    Case("string leaf", lambda t: t["x"], ({"x": X, "s": "no array"},)),
    Case("matrix to matrix", lambda a: a.T @ a, (A,)),
]

ARGUMENTS = [
    *(
        Case(f"argnums {argnums!r}", _scaled_sum, (2.0, X, 3.0), {"argnums": argnums})
        for argnums in [
            *(0, 1, 2, -1, -3, True),
            *((0,), [0], (-1,), (0, 2), (2, 0), [1, 0], (-1, 0)),
            *(3, -4, (0, 3), "0", ("0",), 1.0, None),
        ]
    ),
    Case("no argument", lambda: 1.0, ()),
    Case("too few arguments", lambda x, y: x, (X,)),
    Case("unexpected keyword", lambda x: x, (X,), {}, {"y": 1.0}),
    Case("input by keyword", lambda x: x, (), {}, {"x": X}),
    Case("keyword array", lambda x, *, scale: x * scale, (X,), {}, {"scale": A.T[0]}),
    Case("keyword string", lambda x, *, name: getattr(jnp, name)(x), (X,), {}, {"name": "sin"}),
    Case("keyword None", lambda x, *, y=None: x if y is None else y, (X,), {}, {"y": None}),
    Case("default argument", lambda x, y=3.0: x * y, (X,)),
    Case("variadic", lambda *xs: xs[0] * xs[1], (X, 2 * X), {"argnums": (1,)}),
    Case("string argument", lambda x, name: getattr(jnp, name)(x), (X, "cos")),
    Case("callable argument", lambda x, g: g(x) * x, (X, jnp.tanh)),
    Case("type argument", lambda x, kind: x * kind(2), (X, float)),
    Case("object argument", lambda x, obj: obj(x), (X, Cube())),
    Case("unhashable argument", lambda x, d: x * len(d["name"]), (X, {"name": "four"})),
    Case("key argument", lambda x, k: x * jax.random.normal(k, (3,)), (X, jax.random.key(1))),
    Case("int array argument", lambda x, n: x[n] * n, (X, INT)),
    Case("string differentiated", lambda s: 1.0, ("hello",)),
    Case("callable differentiated", lambda g: 1.0, (jnp.sin,)),
    Case("partial", functools.partial(lambda y, x: x * y, 3.0), (X,)),
    Case("callable object", Cube(), (X,)),
    Case("bound method", Cube().scaled, (X,)),
    Case("jitted", jax.jit(lambda x: jnp.sin(x) * x), (X,)),
    Case("static under jit", jax.jit(lambda x, n: x**n, static_argnums=1), (X, 3)),
    Case("no JVP defined", jax.custom_jvp(lambda x: x**2), (X,)),
    Case("no VJP defined", jax.custom_vjp(lambda x: x**2), (X,)),
]

AUX = {"has_aux": True}
AUXILIARY = [
    Case("tuple", lambda x: (x * 2, {"name": "a string", "value": x}), (X,), AUX),
    Case("list", lambda x: [x * 2, x], (X,), AUX),
    Case("intermediates", lambda x: (x[:2], (x, jnp.sin(x), None, x > 0)), (X,), AUX),
    Case("integers", lambda x: (x**2, (x.astype(int), INT)), (X,), AUX),
    Case("callable", lambda x: (x**2, (len, "s")), (X,), AUX),
    Case("empty", lambda x: (x**2, ()), (X,), AUX),
    Case("no pair", lambda x: x * 2, (X,), AUX),
    Case("triple", lambda x: (x, x, x), (X,), AUX),
    Case("pair with argnums", lambda x, y: (x * y, y), (X, 2 * X), {**AUX, "argnums": (1, 0)}),
    Case("int output", lambda x: (1, x), (X,), AUX),
    Case("holomorphic", lambda z: (z**2, z.real), (Z,), {**AUX, "holomorphic": True}),
]


def branch(x):
    if x > 0:
        return jnp.sin(x)
    return x**2


def _halvings(x):
    while x > 1:
        x = x / 2
    return x


CONCRETE = [
    Case("if, one side", branch, (2.0,)),
    Case("if, other side", branch, (-2.0,)),
    Case("while", _halvings, (11.0,)),
    Case("int of the input", lambda x: x * int(x), (jnp.float64(2.0),)),
    Case("range of an argument", lambda x, n: sum(x**i for i in range(n)), (X, 4)),
    Case("iteration", lambda x: math.prod(x), (X,)),
    Case("boolean mask", lambda x: x[x > 0] ** 2, (X,)),
    Case("mask argument", lambda x, mask: x[mask] ** 2, (X, np.array([True, False, True]))),
    Case("nonzero", lambda x: jnp.sin(x[jnp.nonzero(x < 1)]), (X,)),
    Case("static shape argument", lambda x, n: jnp.tile(x, n), (X, 2)),
    Case("choice", lambda x, i: (jnp.sin, jnp.cos)[i](x), (X, jnp.int32(1))),
    Case("numpy on an argument", lambda x, y: x * np.sin(y), (X, np.float64(2.0))),
    Case("value of an argument", lambda x, y: x * np.asarray(y), (X, 2 * X)),
    Case("if with aux", lambda x: (branch(x), "positive" if x > 0 else "no"), (2.0,), AUX),
]
