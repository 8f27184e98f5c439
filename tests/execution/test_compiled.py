"""Calls without jit: compiled once, and never with a value of an earlier call."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree

X = jnp.array([0.5, -1.5, 2.0])
W = jnp.arange(6.0).reshape(2, 3) / 5

_compilations: list[str] = []


def _record(event: str, duration: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_record)


class Counts:
    """What was looked up and compiled since it was made, or since the last ``reset``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._info, self._compiled = jax_cce.cache_info(), len(_compilations)

    @property
    def hits(self) -> int:
        return jax_cce.cache_info().hits - self._info.hits

    @property
    def misses(self) -> int:
        return jax_cce.cache_info().misses - self._info.misses

    @property
    def compiled(self) -> int:
        return len(_compilations) - self._compiled


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_first_call_compiles_and_the_next_does_not(counts):
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * jnp.tanh(W @ x)[0] * 1.2345)
    first = jacobian(X)
    assert (counts.misses, counts.hits) == (1, 0)
    assert counts.compiled >= 1
    counts.reset()
    second, third = jacobian(X), jacobian(2 * X)
    assert (counts.misses, counts.hits) == (0, 2)
    assert_agree(second, first)
    assert_agree(third, jax.jacrev(jacobian.__wrapped__)(2 * X))


def test_repeated_call_compiles_nothing(counts):
    jacobian = jax_cce.jacobian(lambda t, s: {"y": t["w"] @ t["x"] * s, "s": s})
    args = ({"w": W, "x": X}, 2.0)
    jacobian(*args)
    counts.reset()
    for _ in range(3):
        jacobian(*args)
    assert counts.compiled == 0
    assert counts.misses == 0


def test_size_counts_the_programs():
    before = jax_cce.cache_info()
    jacobian = jax_cce.jacobian(lambda x: jnp.cos(x * 3.25) ** 2)
    jacobian(X)
    jacobian(X)
    after = jax_cce.cache_info()
    assert after.size - before.size <= after.misses - before.misses == 1
    assert after.size >= 1


def test_equal_functions_share_a_program(counts):
    def make():
        return lambda x: jnp.sin(x) / (2.5 + jnp.cos(x))

    expected = jax_cce.jacobian(make())(X)
    counts.reset()
    for _ in range(3):
        assert_agree(jax_cce.jacobian(make())(X), expected)
    assert (counts.misses, counts.hits) == (0, 3)


# How a value that the function closes over may change between two calls.
CLOSURES = {
    "python float": (2.0, 3.0),
    "equal float and its negative": (1.0, -1.0),
    "float to zero": (1.0, 0.0),
    "float to one": (0.5, 1.0),
    "numpy scalar": (np.float64(2.0), np.float64(-5.0)),
    "numpy array": (np.array([1.0, 2.0, 3.0]), np.array([3.0, 0.0, -1.0])),
    "jax array": (jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 0.0, -1.0])),
    "jax scalar": (jnp.float64(2.0), jnp.float64(0.0)),
}


@pytest.mark.parametrize("old, new", CLOSURES.values(), ids=CLOSURES)
def test_changed_closure_is_seen(old, new):
    scale = old

    def f(x):
        return jnp.sin(x * scale) * scale + jnp.sum(x**2)

    jacobian = jax_cce.jacobian(f)
    assert_agree(jacobian(X), jax.jacrev(f)(X))
    scale = new
    assert_agree(jacobian(X), jax.jacrev(f)(X))


@pytest.mark.parametrize("kind", [float, np.float64, jnp.float64, lambda v: jnp.full(3, v)])
def test_changed_closure_does_not_recompile(counts, kind):
    scales = [kind(0.1 * i + 2.5) for i in range(5)]
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * scales[0] + jnp.exp(x) / scales[0])
    jacobian(X)
    counts.reset()
    while len(scales) > 1:
        scales.pop(0)
        jacobian(X)
    assert counts.misses == 0
    assert counts.compiled == 0


def test_mutated_closure_is_seen():
    layers = [jnp.sin]
    scales = [2.0, 3.0]
    table = {"shift": 1.0}

    def f(x):
        for layer in layers:
            x = layer(x) * sum(scales) + table["shift"] * x
        return x

    jacobian = jax_cce.jacobian(f)
    for change in [
        lambda: None,
        lambda: scales.__setitem__(0, -4.0),
        lambda: scales.append(0.5),
        lambda: layers.append(jnp.exp),
        lambda: table.update(shift=0.0),
        lambda: layers.clear(),
    ]:
        change()
        assert_agree(jacobian(X), jax.jacrev(f)(X))


def test_mutated_numpy_array_is_seen():
    scale = np.array([1.0, 2.0, 3.0])
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * scale)
    jacobian(X)
    scale[1] = -7.0
    assert_agree(jacobian(X), jax.jacrev(lambda x: jnp.sin(x) * scale)(X))


@pytest.mark.parametrize(
    "second",
    [
        X[:2],
        jnp.stack([X, X]),
        X.astype(jnp.float32),
        2.0,
        jnp.float64(2.0),
    ],
    ids=["size", "rank", "dtype", "weak scalar", "scalar"],
)
def test_another_type_compiles_again(counts, second):
    def f(x):
        return jnp.sin(x) * jnp.sum(x) * 4.375

    jacobian = jax_cce.jacobian(f)
    jacobian(X)
    counts.reset()
    result = jacobian(second)
    assert counts.misses == 1
    assert_agree(result, jax.jacrev(f)(second))


@pytest.mark.parametrize(
    "options",
    [{"argnums": 1}, {"argnums": (1, 0)}, {"argnums": (0,)}, {"order": "reverse"}],
    ids=str,
)
def test_options_are_part_of_the_key(options):
    def f(x, y):
        return {"z": jnp.sin(x * y) * x}

    assert_agree(jax_cce.jacobian(f, order="forward")(X, 2 * X), jax.jacrev(f)(X, 2 * X))
    ours = jax_cce.jacobian(f, **options)(X, 2 * X)
    options.pop("order", None)
    assert_agree(ours, jax.jacrev(f, **options)(X, 2 * X))


def test_output_tree_is_no_part_of_a_stale_entry():
    trees = [lambda a, b: (a, b), lambda a, b: [b, a], lambda a, b: {"a": a, "b": [b, None, a]}]
    for tree in trees:
        f = lambda x, tree=tree: tree(jnp.sin(x), x * x)  # noqa: E731
        assert_agree(jax_cce.jacobian(f)(X), jax.jacrev(f)(X))


def _with_jvp_factor(factor):
    @jax.custom_jvp
    def g(x):
        return jnp.sin(x)

    g.defjvp(lambda primals, tangents: (g(*primals), factor(tangents[0])))
    return g


def _with_vjp_factor(factor):
    @jax.custom_vjp
    def g(x):
        return jnp.sin(x)

    g.defvjp(lambda x: (jnp.sin(x), None), lambda _, cotangent: (factor(cotangent),))
    return g


@pytest.mark.parametrize("make", [_with_jvp_factor, _with_vjp_factor])
def test_custom_rules_are_part_of_the_key(make):
    # The primal functions are equal; only the rules differ.
    for factor in [lambda t: 2.0 * t, lambda t: 3.0 * t, lambda t: -t, jnp.zeros_like, lambda t: t]:
        f = make(factor)
        assert_agree(jax_cce.jacobian(f)(X), jax.jacrev(f)(X))


@pytest.mark.parametrize("make", [_with_jvp_factor, _with_vjp_factor])
def test_value_that_a_custom_rule_closes_over(make):
    scale = [2.0]
    f = make(lambda t: scale[0] * t)
    jacobian = jax_cce.jacobian(lambda x: f(x) * x)
    for value in [2.0, -3.0, jnp.array([1.0, 0.0, 2.0])]:
        scale[0] = value
        assert_agree(jacobian(X), jax.jacrev(lambda x: f(x) * x)(X))


# Pairs of functions whose equations differ in a parameter only.
PARAMETERS = {
    "axis": (lambda x: jnp.sum(x**2, 0), lambda x: jnp.sum(x**2, 1)),
    "exponent": (lambda x: lax.integer_pow(x, 2), lambda x: lax.integer_pow(x, 3)),
    "permutation": (lambda x: x.T @ x, lambda x: x @ x.T),
    "reversed dimension": (lambda x: x[::-1] * x, lambda x: x[:, ::-1] * x),
    "direction": (lambda x: jnp.cumsum(x, 0) * x, lambda x: lax.cumsum(x, 0, reverse=True) * x),
    "slice": (lambda x: x[:1] * x, lambda x: x[1:2] * x),
    "gather mode": (
        lambda x: x.at[jnp.array([0, 5])].get(mode="clip") ** 2,
        lambda x: x.at[jnp.array([0, 5])].get(mode="fill", fill_value=1.0) ** 2,
    ),
    "comparison": (lambda x: jnp.where(x > 0.5, x, 0), lambda x: jnp.where(x < 0.5, x, 0)),
    "branches": (
        lambda x: lax.cond(x[0, 0] > 1, jnp.sin, jnp.cos, x),
        lambda x: lax.cond(x[0, 0] > 1, jnp.sin, jnp.exp, x),
    ),
    "scan body": (
        lambda x: lax.scan(lambda c, a: (jnp.sin(c * a), a), x[0], x)[0],
        lambda x: lax.scan(lambda c, a: (jnp.cos(c * a), a), x[0], x)[0],
    ),
    "scan direction": (
        lambda x: lax.scan(lambda c, a: (c * a, c), x[0], x),
        lambda x: lax.scan(lambda c, a: (c * a, c), x[0], x, reverse=True),
    ),
    "callback": (
        lambda x: x * jax.pure_callback(lambda: np.float64(2), jax.ShapeDtypeStruct((), float)),
        lambda x: x * jax.pure_callback(lambda: np.float64(3), jax.ShapeDtypeStruct((), float)),
    ),
    "integer constant": (lambda x: x[np.array([0, 1])], lambda x: x[np.array([1, 1])]),
    "order of the operands": (lambda x: x[0] - x[1] * x[0], lambda x: x[1] - x[0] * x[1]),
}


@pytest.mark.parametrize("first, second", PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_are_part_of_the_key(first, second):
    x = jnp.arange(4.0).reshape(2, 2) / 3
    for f in [first, second, first]:
        assert_agree(jax_cce.jacobian(f)(x), jax.jit(jax.jacrev(f))(x))


def test_x64_is_part_of_the_key():
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * 2)
    x = np.arange(3.0, dtype=np.float32)
    for enabled in [True, False, True]:
        with jax.enable_x64(enabled):
            assert_agree(jacobian(x), jax.jacrev(jacobian.__wrapped__)(x))
            assert_agree(jacobian(1.5), jax.jacrev(jacobian.__wrapped__)(1.5))


def test_value_dependent_branches_are_traced_again(counts):
    def f(x):
        return jnp.sin(x) if x > 0 else x**3

    jacobian = jax_cce.jacobian(f)
    for x in [2.0, -2.0, 3.0, -3.0]:
        assert_agree(jacobian(x), jax.jacrev(f)(x))


def test_functions_and_their_arrays_are_released():
    # A program that is kept for later must not keep the caller's data.
    def use():
        data = jnp.arange(1000.0)

        def f(x):
            return jnp.sin(x) * jnp.sum(data) + data[:3]

        jax_cce.jacobian(f)(X)
        return weakref.ref(f), weakref.ref(data)

    references = use()
    gc.collect()
    assert [reference() is None for reference in references] == [True, True]


def test_threads_share_the_cache():
    def f(x, i):
        return jnp.sin(x * (i + 1)) * jnp.sum(x)

    expected = [jax.jacrev(f)(X, float(i)) for i in range(4)]
    results: list[list[jax.Array]] = [[] for _ in expected]

    def work(i: int) -> None:
        jacobian = jax_cce.jacobian(f)
        results[i].extend(jacobian(X, float(i)) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(expected))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, wanted in zip(results, expected, strict=True):
        assert len(found) == 5
        for jacobian in found:
            assert_agree(jacobian, wanted)


def test_value_and_jacobian_is_cached_too(counts):
    function = jax_cce.value_and_jacobian(lambda x: (jnp.sin(x) * 5.5, {"x": x}), has_aux=True)
    twice = 2 * X
    function(X)
    counts.reset()
    function(twice)
    assert (counts.misses, counts.compiled) == (0, 0)


def test_under_jit_nothing_is_compiled_apart(counts):
    jacobian = jax.jit(jax_cce.jacobian(lambda x: jnp.tanh(W @ x) * 6.5))
    x = X * 1.0
    counts.reset()
    jacobian(x)
    assert counts.compiled == 1
