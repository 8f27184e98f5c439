"""The two random functions of Lohoff & Neftci, f of arrays and g of scalars, as their graphs.

Each is a list of operations on the values before, numbered from the inputs on, as a generator of
random programs has drawn them; there is no mathematics behind them. Most of their values are
defined at few points only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Published, Task

_SCALAR: dict[str, Callable[..., jax.Array]] = {
    "+": jnp.add,
    "-": jnp.subtract,
    "*": jnp.multiply,
    "/": jnp.divide,
    "^": jnp.power,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "atanh": jnp.arctanh,
    "cos": jnp.cos,
    "exp": jnp.exp,
    "log": jnp.log,
    "neg": jnp.negative,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "square": jnp.square,
    "tan": jnp.tan,
}

# Values 0 to 14 are the inputs, 15 and 16 are one.
_G = """
atan2 15 3; ^ 15 14; atan2 13 17; ^ 17 5; - 9 8; atan 10; * 21 0; - 22 18; ^ 24 11; + 21 12; exp 2;
+ 21 26; ^ 16 17; sin 3; / 2 23; atan2 24 26; - 29 25; atan 33; * 7 27; tan 13; + 27 19; / 7 6;
- 25 34; - 29 6; ^ 35 4; cos 0; - 40 19; / 41 7; - 40 8; atan2 16 43; / 8 30; ^ 37 36; ^ 47 44;
atan2 45 40; atan2 44 13; / 4 34; atan2 41 1; atan2 25 53; + 12 51; ^ 3 48; - 24 32; atanh 48;
atanh 54; atan2 2 26; - 52 18; cos 38; / 8 32; atan2 42 46; sinh 36; - 61 50; ^ 13 39; ^ 37 26;
- 68 43; log 65; ^ 23 58; atan2 50 69; / 20 72; * 41 56; * 39 33; * 61 15; ^ 66 64; atan2 53 25;
- 59 60; atan2 73 41; * 74 46; square 5; atan2 28 62; atan2 39 9; * 4 12; / 57 56; atan2 61 63;
asinh 14; ^ 86 83; asin 66; - 70 79; atan2 37 65; * 67 77; ^ 87 55; square 49; / 92 94; + 15 95;
/ 91 76; atanh 46; * 75 45; / 100 28; + 90 29; atan2 80 84; - 20 91; + 82 90; / 102 103; ^ 75 42;
* 68 62; / 102 1; ^ 98 101; neg 100; / 31 89; / 105 108; - 22 70; * 106 44; - 107 81; ^ 58 115;
- 78 108; tan 87; ^ 87 48; + 105 38
"""
_G_RESULTS = (
    *(121, 71, 85, 88, 93, 96, 97, 99, 104, 109),
    *(110, 111, 112, 113, 114, 116, 117, 118, 119, 120),
)


def _read(text: str) -> list[tuple[str, tuple[int, ...]]]:
    lines = (line.split() for line in text.split(";"))
    return [(name, tuple(map(int, operands))) for name, *operands in lines]


def random_g(*x: jax.Array) -> tuple[jax.Array, ...]:
    """Computes g of fifteen scalars."""
    one = jnp.ones((), jnp.result_type(*x))
    values: list[Any] = [*x, one, one]
    for name, operands in _read(_G):
        values.append(_SCALAR[name](*(values[k] for k in operands)))
    return tuple(values[k] for k in _G_RESULTS)


G = Task(
    name="g",
    fun=random_g,
    # A point where all values are defined; few are.
    args=tuple(
        np.float64(x)
        for x in (
            *(0.9664, -2.5099, -2.7498, 0.7032, 0.8447, 0.7574, -1.3693, 3.3741),
            *(1.0583, 1.0657, 2.1076, 0.2134, 1.2051, 1.1417, -1.3368),
        )
    ),
    argnums=tuple(range(15)),
    published=Published(
        forward=632,
        reverse=566,
        markowitz=451,
        best=416,
        vertices=85,
        lower_bound=395,
        exact=True,
    ),
)


def _column(x: jax.Array) -> jax.Array:
    return jnp.reshape(x, (-1, 1))


def _contracted(x: jax.Array, y: jax.Array, of_x: int, of_y: int) -> jax.Array:
    return jax.lax.dot_general(x, y, (((of_x,), (of_y,)), ((), ())))


def random_f(
    a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes f.

    Args:
      a, b, c, d: Of shapes [4], [2, 3], [4, 4] and [4, 1].
    """
    cubes = c**3
    x6 = _contracted(d, cubes, 0, 0)
    x7 = _contracted(cubes, x6, 0, 1)
    x8 = x6**2
    x9 = _contracted(a, x8, 0, 1)
    roots = jnp.sqrt(a)
    angles = jnp.arccos(x7)
    x13 = _contracted(angles, x8, 1, 0)
    shift = jnp.reshape(x9, (1, 1))
    x14 = angles + shift
    x15 = x14 - jnp.reshape(x9, (1, 1))
    x16 = jnp.cos(x9)
    x18 = jnp.arcsinh(_column(roots) + x13)
    x19 = x15 + jnp.reshape(x16, (1, 1))
    x20 = -b
    x21 = jnp.sqrt(roots)
    x22 = _contracted(x21, x18, 0, 1)
    x24 = jnp.arctan(x19)
    x25 = jnp.square(x24)
    x26 = jnp.cos(x22)
    x27 = jnp.reshape(x16, (1, 1)) - x25
    x28 = jnp.cosh(jnp.tanh(b))
    x29 = jnp.sum(x20, axis=0)
    x30 = jnp.transpose(x28)
    x31 = jnp.sum(x16, axis=0)
    x33 = _column(x29) - x30
    x34 = x31 / x33
    x35 = x13 + _column(roots)
    x36 = _column(x26) * x35
    x37 = x26**2
    x38 = jnp.amax(x34, axis=1)
    x40 = jnp.exp(x27)
    x41 = jax.lax.slice(jnp.sinh(x36), (3, 3), (4, 4))
    x43 = jnp.sum(x37, axis=0) + x38
    x44 = _contracted(x26, x40, 0, 0)
    x46 = _contracted(x24, x15, 1, 1)
    x48 = jax.lax.logistic(jnp.arcsinh(x43))
    x49 = _contracted(x29, x48, 0, 0)
    x50 = _contracted(x22, x21, 0, 0)
    x51 = _contracted(x44, jax.lax.stop_gradient(x41), 0, 1)
    x52 = _contracted(x30, x33, 0, 0)
    x53 = x46 * x50
    x55 = jnp.sqrt(x51)
    x56 = x52 - x49
    x57 = jnp.cosh(jnp.sqrt(x37))
    x58 = -x37
    x59 = _column(x57) + x53
    x60 = jnp.square(x57)
    x61 = jnp.sin(x58)
    x62 = jnp.arctan(x59)
    x65 = jnp.amin(jnp.sum(x62, axis=0), axis=0) - x55
    x67 = jnp.amin(x56, axis=1)
    x68 = _column(x61) - jnp.sqrt(c)
    x69 = _contracted(x60, x61, 0, 0)
    x70 = _contracted(x68, x62, 0, 0)
    x71 = _column(x22) + c
    x73 = _contracted(jax.lax.logistic(x70), x71, 0, 0)
    x74 = x6 / jnp.reshape(x37, (1, 4))
    return x74, x65, x67, x69, x73


F = Task(
    name="f",
    fun=random_f,
    args=tuple(
        np.random.default_rng(0).uniform(0.1, 0.6, shape)
        for shape in ((4,), (2, 3), (4, 4), (4, 1))
    ),
    argnums=(0, 1, 2, 3),
    published=Published(forward=17_728, reverse=8_859, markowitz=12_083, best=5_884),
)
