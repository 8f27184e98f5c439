"""Kernels without a function of JAX, and calls of their handlers without XLA."""

import ctypes

import numpy as np

from jax_cce.native import compiling, emission
from jax_cce.native.scalars import Scalars
from jax_cce.native.tiles import Operand

__all__ = ["called", "parabola"]


def parabola(constant: float, *, quickly: bool = True) -> str:
    """The name of the kernel of x * x + constant for a single number."""
    assert not compiling.machine().obstacle
    graph = Scalars(np.float64)
    x = graph.input((0, 0))
    result = graph.make("add", graph.make("mul", x, x), graph.number(constant))
    minor = compiling.minor_version()
    text = emission.kernel_text(graph, [Operand(1, 0)], [[result]], 1, "", minor, 2)
    return compiling.registered(text, quickly=quickly)


def called(name: str, x: float) -> float:
    """What such a kernel gives, called as XLA calls it."""
    address = compiling._engines[name].get_function_address("handler")
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
    numbers = ctypes.c_double(x), ctypes.c_double()
    frame = (ctypes.c_void_p * 32)()
    kept = []
    for number, offset in zip(numbers, (emission._ARGUMENTS, emission._RESULTS), strict=True):
        buffer = (ctypes.c_void_p * 5)()
        buffer[emission._DATA // 8] = ctypes.addressof(number)
        array = (ctypes.c_void_p * 1)(ctypes.addressof(buffer))
        frame[offset // 8] = ctypes.addressof(array)
        kept += [buffer, array]
    assert handler(ctypes.addressof(frame)) is None
    return numbers[1].value
