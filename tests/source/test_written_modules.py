"""Jacobians as modules: what they give apart from the package, and how they read."""

import ast
import functools
import pathlib
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from benchmarks import source as written

assert_trees_close = functools.partial(chex.assert_trees_all_close, rtol=1e-10)


def _body(source: jax_cce.Source) -> str:
    """The lines of the function behind the check of its arguments."""
    text = str(source)
    return text[text.index("def jacobian") :]


def _imports(text: str) -> set[str]:
    nodes = ast.walk(ast.parse(text))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


def _agrees(fun, *args, **options):
    """Asserts that a module gives what it stands for, and returns it."""
    source = jax_cce.source(fun, **options)(*args)
    ours = jax.tree.leaves(jax.jit(source.function())(*args))
    case = written.Case("", fun, args, options)
    assert written.difference(list(map(np.asarray, ours)), written.expected(case)) == ""
    assert written.dead_names(str(source)) == []
    return source


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(lambda: written.of_tasks(), id="tasks"),
        pytest.param(lambda: written.of_programs(20), id="programs"),
        pytest.param(lambda: written.of_programs(10, format="bcoo", order="reverse"), id="bcoo"),
    ],
)
def test_modules_give_bit_for_bit_the_same_where_the_package_is_not(cases):
    found = cases()
    sources = {
        case.name: (jax_cce.source(case.fun, **case.options)(*case.args), case.args)
        for case in found
    }
    results = written.run_apart(sources)
    for case in found:
        assert written.difference(results[case.name], written.expected(case)) == "", case.name
        text = str(sources[case.name][0])
        assert written.dead_names(text) == [], case.name
        assert _imports(text) <= {"jax", "pathlib"}, case.name
    if written.ruff() is not None:
        assert written.complaints(str(source) for source, _ in sources.values()) == ""


@pytest.mark.parametrize("form", ["dense", "bcoo"])
def test_scans_whose_derivatives_stack_what_nobody_reads(form):
    def solved(x, forces):
        def step(state, force):
            matrix = jnp.eye(2) * state[0] + 1.0
            state = state + 0.01 * jnp.linalg.solve(matrix, force * state)
            return state, (state[0], force)

        return lax.scan(step, x, forces)

    x, forces = jnp.array([0.4, 0.7]), jnp.linspace(0.1, 1.0, 10).reshape(5, 2)
    _agrees(solved, x, forces, argnums=(0, 1), format=form, order="reverse")
    _agrees(lambda x: jnp.sum(solved(x, forces)[0]), x, format=form)


def test_the_program_that_runs_apart_tells_a_wrong_module_from_a_right_one():
    source = jax_cce.source(jnp.sin)(1.0)
    wrong = jax_cce.Source(str(source).replace("jnp.cos", "jnp.sin"), {}, "sin", None, {})
    broken = jax_cce.Source("import jax_cce\n", {}, "sin", None, {})
    results = written.run_apart({k: (each, (1.0,)) for k, each in enumerate((wrong, broken))})
    expected = written.expected(written.Case("", jnp.sin, (1.0,), {}))
    assert "off by" in written.difference(results[0], expected)
    assert "ModuleNotFoundError" in results[1]


def swing(angle, length):
    energy = jnp.cos(angle) * length
    period = jnp.sqrt(energy) + angle
    return energy * period


def test_a_module_has_the_names_and_lines_of_the_function():
    line = swing.__code__.co_firstlineno
    name = pathlib.Path(__file__).name
    shape = jax.ShapeDtypeStruct((), jnp.float64)
    source = jax_cce.source(swing, (0, 1), order="reverse")(shape, shape)
    body = _body(source)
    assert (
        body
        == f'''\
def jacobian(angle, length):
    """The Jacobian of swing."""
    angle, length = _arrays((angle, "float64[]"), (length, "float64[]"))

    # Values of swing
    v0 = jnp.cos(angle)  # {name}:{line + 1}
    energy = v0 * length
    v2 = jnp.sqrt(energy)  # {name}:{line + 2}
    period = v2 + angle

    # Partial derivatives
    dv0_dangle = -jnp.sin(angle)
    dv2_denergy = 0.5 / v2

    # Eliminate vertex 2: v2, in jnp.sqrt(energy) ({name}:{line + 2})
    dout_denergy = period + energy * dv2_denergy

    # Eliminate vertex 1: energy = jnp.cos(angle) * length ({name}:{line + 1})
    dout_dlength = dout_denergy * v0
    dout_dv0 = dout_denergy * length

    # Eliminate vertex 0: v0, in jnp.cos(angle) ({name}:{line + 1})
    dout_dangle = energy + dout_dv0 * dv0_dangle
    return (dout_dangle, dout_dlength)
'''
    )
    assert "Multiplications of the elimination: 6 (forward 9, reverse 6)." in str(source)


def test_nothing_is_left_of_what_a_cube_needs_to_be_computed():
    source = _agrees(lambda x: x**3, 2.0)
    assert _body(source).endswith("# Partial derivatives\n    return 3.0 * x**2\n")
    assert source.counts == {"multiplications": 2}


def test_orders_differ_in_what_a_diff_shows():
    shape = jax.ShapeDtypeStruct((), jnp.float64)
    one, other = (
        jax_cce.source(swing, (0, 1), order=order)(shape, shape) for order in ("reverse", "forward")
    )
    diff = one.diff(other)
    assert one.diff(one) == ""
    assert "--- Jacobian of swing by angle, length, in reverse order." in diff
    assert "+    dout_dangle" in diff
    # The values and the partial derivatives are the same in both.
    assert "jnp.cos(angle)  #" not in diff


def _loops(x):
    def step(carry, entry):
        following = jnp.tanh(carry * entry)
        return following, following + entry

    last, outputs = lax.scan(step, x[0], x, reverse=True)
    chosen = lax.cond(last > 0, lambda: outputs * last, lambda: jnp.sin(outputs))
    # Forward mode only, as its length depends on values.
    grown = lax.while_loop(lambda y: y < 10, lambda y: y * 2 + x[1], jnp.abs(last) + 1)
    return chosen * grown, lax.switch(jnp.int32(2), [jnp.sin, jnp.cos, jnp.exp], x)


def test_loops_and_choices_are_nested_functions():
    source = _agrees(_loops, jnp.array([0.3, 0.7, -0.2]))
    body = _body(source)
    for call in ("lax.scan(step", "lax.cond(", "lax.while_loop(goes_on, step", "lax.switch("):
        assert call in body
    assert "\n    def step(" in body
    assert "\n    def if_true():" in body


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_updates_in_place(order):
    def f(x, y):
        table = jnp.zeros((3, 2)).at[1].set(x * y).at[:, 0].add(jnp.sin(x[0]))
        return table.at[0, 1].multiply(x[1]) @ y

    args = jnp.array([0.5, 1.5]), jnp.array([2.0, -1.0])
    source = _agrees(f, *args, argnums=(0, 1), order=order)
    assert_trees_close(source.function()(*args), jax.jacrev(f, (0, 1))(*args))


def test_second_derivatives_both_ways():
    def f(x):
        return jnp.sum(jnp.exp(x[1:] * x[:-1])) + x[0] ** 3

    x = jnp.array([0.3, -0.7, 1.1])
    hessian = jax.hessian(f)(x)
    assert_trees_close(_agrees(jax_cce.jacobian(f), x).function()(x), hessian)
    assert_trees_close(_agrees(jax.grad(f), x).function()(x), hessian)
    # A module is a function like any other, and has a module of its own.
    module = jax_cce.source(f)(x).function()
    assert_trees_close(jax.jacrev(module)(x), hessian)
    assert_trees_close(jax_cce.source(module)(x).function()(x), hessian)


def test_trees_of_arguments_results_and_auxiliary_data():
    def f(parameters, x, *, shift):
        hidden = jnp.tanh(parameters["w"] @ x + parameters["layers"][0])
        return {"mean": hidden.mean(), "all": [hidden, None]}, hidden > shift

    parameters = {"w": jnp.ones((2, 3)), "layers": (jnp.array([0.1, -0.2]),)}
    x = jnp.array([0.3, 0.2, 0.1])
    source = jax_cce.source(f, (1, 0), has_aux=True)(parameters, x, shift=0.4)
    ours = source.function()(parameters, x, shift=0.4)
    assert_trees_close(ours, jax.jacrev(f, (1, 0), has_aux=True)(parameters, x, shift=0.4))
    assert '(parameters["w"], "float64[2, 3]")' in str(source)
    assert "def jacobian(parameters, x, *, shift):" in str(source)
    with pytest.raises(TypeError, match=r"for float64\[3\], but got float64\[4\]"):
        source.function()(parameters, jnp.ones(4), shift=0.4)


def test_large_constants_lie_beside_the_module(tmp_path):
    table = np.linspace(0, 1, 40)
    small = np.array([1.0, 2.0])

    def f(x):
        return jnp.sin(x * table)[:2] * small

    source = _agrees(f, 0.3)
    assert [array.shape for array in source.arrays.values()] == [(40,)]
    assert "jnp.array([1.0, 2.0], jnp.float64)" in str(source)
    path = source.save(tmp_path / "slopes.py")
    module = types.ModuleType("slopes")
    module.__file__ = str(path)
    exec(path.read_text(), module.__dict__)
    assert_trees_close(module.jacobian(0.3), jax.jacrev(f)(0.3))
    with pytest.raises(ValueError, match=r"ends in '\.py'"):
        source.save(tmp_path / "slopes.txt")


@pytest.mark.parametrize("format", ["bcoo", "csr", "csc", "values", "auto"])
def test_sparse_formats(format):
    x = jnp.linspace(0.5, 1.5, 50)
    source = _agrees(lambda x: jnp.sin(x[1:]) * x[:-1], x, format=format)
    found = source.function()(x)
    expected = jax_cce.jacobian(lambda x: jnp.sin(x[1:]) * x[:-1], format=format)(x)
    assert type(found) is type(expected)
    if format != "values":
        np.testing.assert_array_equal(found.todense(), expected.todense())


@pytest.mark.parametrize(
    "name", ["RoeFlux_1d", "RobotArm_6DOF", "HumanHeartDipole", "PropaneCombustion", "Perceptron"]
)
def test_tasks_in_numpy(name):
    (case,) = [each for each in written.of_tasks() if each.name == name]
    _in_numpy([case])


def _pendulum(x):
    def step(state, force):
        angle, speed = state
        speed = speed + 0.1 * (force - jnp.sin(angle))
        return (angle + 0.1 * speed, speed), angle * speed

    state, powers = lax.scan(step, (x[0], x[1]), x)
    return jnp.stack([*state, lax.cond(x[0] > 0, jnp.sum, jnp.prod, powers)])


def test_loops_in_numpy():
    x = jnp.array([0.3, -0.1, 0.7, 0.2])
    _in_numpy([written.Case("", _pendulum, (x,), {"order": "forward"})])


def _in_numpy(cases):
    sources = {
        case.name: (
            jax_cce.source(case.fun, **case.options, backend="numpy")(*case.args),
            case.args,
        )
        for case in cases
    }
    results = written.run_apart(sources, "numpy")
    for case in cases:
        text = str(sources[case.name][0])
        assert _imports(text) <= {"numpy", "pathlib"}
        assert written.dead_names(text) == []
        for ours, theirs in zip(results[case.name], written.expected(case), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if written.ruff() is not None:
        assert written.complaints(str(source) for source, _ in sources.values()) == ""


@pytest.mark.parametrize(
    "fun, options, error, match",
    [
        (jnp.sin, {"format": "structured"}, NotImplementedError, "StructuredJacobian"),
        (jnp.sin, {"backend": "torch"}, ValueError, "backend must be"),
        (jnp.sin, {"order": "sideways"}, ValueError, "order"),
        (lambda x: lax.erf(x) ** 2, {"backend": "numpy"}, NotImplementedError, "erf .* for NumPy"),
        (
            lambda x: jax.random.normal(jax.random.key(0)) * x,
            {},
            NotImplementedError,
            "cannot be written",
        ),
        (
            lambda x: jax.debug.print("{}", x) or x**2,
            {},
            NotImplementedError,
            "has effects",
        ),
        (lambda x: jnp.linalg.slogdet(x * jnp.eye(2)), {}, NotImplementedError, "SlogdetResult"),
    ],
    ids=["structured", "backend", "order", "numpy", "keys", "effects", "containers"],
)
def test_what_cannot_be_written_is_refused(fun, options, error, match):
    with pytest.raises(error, match=match):
        jax_cce.source(fun, **options)(0.5)


def test_a_module_for_double_precision_refuses_single():
    source = jax_cce.source(jnp.sin)(jnp.float64(1))
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        source.function()


def test_derivatives_are_told_apart_from_names_that_are_taken():
    def f(l, jnp_):  # noqa: E741
        lax_ = l * jnp_
        return lax_ * jnp.sin(lax_)

    source = _agrees(f, 1.0, 2.0, argnums=(0, 1))
    if written.ruff() is not None:
        assert written.complaints([str(source)]) == ""
