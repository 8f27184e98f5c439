"""XLA's foreign function interface is as the text of kernels has it; threads share batches."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.natively import is_native
from jax_cce.native import emission, threads

HEADER = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
SIZES = {"size_t": 8, "int64_t": 8, "int32_t": 4, "int": 4}


def layout(name):
    """The byte offsets of a structure's fields, by name, and its size."""
    text = re.sub(r"//[^\n]*", "", HEADER.read_text(encoding="utf-8"))
    found = re.search(rf"struct {name} \{{(.*?)\}}", text, re.DOTALL)
    assert found is not None, name
    offsets, at = {}, 0
    for line in found[1].split(";"):
        line = line.strip()
        if not line:
            continue
        if field := re.match(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)", line):
            size, label = 8, field[1].removeprefix("XLA_FFI_")
        else:
            kind, label = re.match(r"(?:const )?(.*?)(\w+)$", line, re.DOTALL).groups()
            kind = kind.strip()
            if f"struct {kind} {{" in text:
                _, size = layout(kind)
            else:
                # What is no structure and none of these is an enumeration.
                size = 8 if kind.endswith("*") else SIZES.get(kind, 4)
        at += -at % min(size, 8)
        offsets[label] = at
        at += size
    return offsets, at + -at % 8


def test_structures():
    frame, _ = layout("XLA_FFI_CallFrame")
    arguments, _ = layout("XLA_FFI_Args")
    results, _ = layout("XLA_FFI_Rets")
    buffer, _ = layout("XLA_FFI_Buffer")
    metadata, _ = layout("XLA_FFI_Metadata")
    version, _ = layout("XLA_FFI_Api_Version")
    assert frame["extension_start"] == emission._EXTENSION
    assert frame["args"] + arguments["args"] == emission._ARGUMENTS
    assert frame["rets"] + results["rets"] == emission._RESULTS
    assert (buffer["data"], buffer["dims"]) == (emission._DATA, emission._DIMENSIONS)
    assert layout("XLA_FFI_Metadata_Extension")[0]["metadata"] == emission._METADATA
    assert metadata["api_version"] + version["major_version"] == emission._MAJOR
    assert metadata["api_version"] + version["minor_version"] == emission._MINOR
    assert (frame["api"], frame["ctx"]) == (threads._API, threads._CONTEXT)
    assert frame["future"] == threads._FUTURE


def test_functions():
    api, _ = layout("XLA_FFI_Api")
    assert api["Error_Destroy"] == threads._DESTROY
    assert api["ThreadPool_Schedule"] == threads._SCHEDULE
    assert api["ThreadPool_NumThreads"] == threads._NUM_THREADS
    assert api["Future_Create"] == threads._CREATE
    assert api["Future_SetAvailable"] == threads._SET_AVAILABLE
    fields = {
        "Error_Destroy": ("error",),
        "ThreadPool_Schedule": ("ctx", "task", "data"),
        "ThreadPool_NumThreads": ("ctx", "num_threads"),
        "Future_Create": ("future",),
        "Future_SetAvailable": ("future",),
    }
    for name, own in fields.items():
        offsets, _ = layout(f"XLA_FFI_{name}_Args")
        assert list(offsets) == ["struct_size", "extension_start", *own]


def fun(x, scale):
    return jnp.sin(x * scale) * x[::-1] + jnp.exp(-x * x)


@pytest.mark.parametrize("points", [5, 16, 17, 64, 1001, 20_000])
def test_threads_give_the_same(points, monkeypatch, quiet):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(points, 3)))
    jacobian = jax.vmap(jax_cce.value_and_jacobian(fun), in_axes=(0, None))
    alone = jax.jit(jacobian)(x, 1.5)
    jax_cce.cache_clear()
    monkeypatch.setattr(emission, "_OF_A_PART", 10)
    shared = jax.jit(lambda x, scale: jacobian(x, scale))
    assert is_native(shared, x, 1.5)
    for _ in range(20):
        for one, other in zip(alone, shared(x, 1.5), strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_within_other_operations(monkeypatch, quiet):
    """What follows waits for all parts, also in loops, and the arrays stay until then."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3_000, 3)))

    def steps(x):
        def step(x, _):
            slope = jax.vmap(jax_cce.jacobian(fun), in_axes=(0, None))(x, 1.5)
            return x - 0.1 * jnp.einsum("pij,pj->pi", slope, x), jnp.sum(slope)

        return jax.lax.scan(step, x, None, length=30)

    alone = jax.jit(steps)(x)
    jax_cce.cache_clear()
    monkeypatch.setattr(emission, "_OF_A_PART", 10)
    for one, other in zip(alone, jax.jit(lambda x: steps(x))(x), strict=True):
        np.testing.assert_array_equal(one, other)
