"""Small arrays entry by entry: the same function and Jacobian, for fewer operations."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from benchmarks.tasks import TASKS, robot_arm_matrices
from jax_cce import jax_internals
from jax_cce.algebra.steps import Stack
from jax_cce.execution.emit import emit
from jax_cce.graph import building, scalarising
from jax_cce.jax_internals import Literal
from jax_cce.planning import plans
from jax_cce.program import known_values, passes, tracing
from jax_cce.program.flat import Program

pytestmark = pytest.mark.one_version

LAYOUT = {"broadcast_in_dim", "concatenate", "convert_element_type", "reshape", "rev", "slice"}
LAYOUT |= {"squeeze", "stack", "unstack"}


def traced(f: Callable[..., Any], args: Sequence[Any], *, hoist: bool = False) -> tuple[Any, Any]:
    """The program of a function, with what is known noted, and its constants."""
    program, constants = tracing.trace(lambda *xs: jax.tree.leaves(f(*xs)), args, hoist=hoist)
    known = known_values.known_constants(program, constants, sparse=True)
    return known_values.fold(program, known, sparse=True), constants


def planned(program: Program) -> plans.Plan:
    """A plan without the assembly of dense blocks."""
    inputs = range(program.num_inputs)
    return plans.make(building.build(program, inputs, program.outputs, sparse=True), "auto")


def flops(program: Program) -> int:
    """The arithmetic of a plan, without that which puts many terms into one array."""
    plan = planned(program)
    return plan.cost("flops") - sum(step.flops for step in plan.steps if isinstance(step, Stack))


def arithmetic(program: Program) -> collections.Counter[str]:
    """How often each primitive occurs that computes something."""
    names = collections.Counter(equation.name for equation in program.equations)
    return collections.Counter({k: n for k, n in names.items() if k not in LAYOUT})


def assert_well_formed(expanded: Program, program: Program) -> None:
    """Asserts that variables are numbered and typed as `Program` says, without dead equations.

    Source lines come from the given program.
    """
    first = program.first_computed
    assert (expanded.num_inputs, expanded.first_computed) == (program.num_inputs, first)
    assert expanded.avals[:first] == program.avals[:first]
    assert [str(expanded.aval(k)) for k in expanded.outputs] == [
        str(program.aval(k)) for k in program.outputs
    ]
    origins = {id(equation.origin) for equation in program.equations}
    used = {k for k in expanded.outputs if not isinstance(k, Literal)}
    made = first
    for equation in expanded.equations:
        assert equation.in_avals == tuple(map(expanded.aval, equation.inputs))
        assert equation.out_avals == tuple(map(expanded.aval, equation.outputs))
        assert id(equation.origin) in origins
        operands = [k for k in equation.inputs if not isinstance(k, Literal)]
        assert all(k < made for k in operands)
        assert equation.outputs == tuple(range(made, made + len(equation.outputs)))
        made += len(equation.outputs)
        used.update(operands)
    assert made == len(expanded.avals)
    assert all(not used.isdisjoint(equation.outputs) for equation in expanded.equations)


def assert_equivalent(
    f: Callable[..., Any],
    args: Sequence[Any],
    program: Program,
    constants: Sequence[Any],
    rtol: float = 1e-10,
) -> None:
    """Asserts that a program computes a function, and elimination on it the function's Jacobian."""
    plan = planned(program)

    @jax.jit
    def evaluate(constants: Any, *xs: Any) -> Any:
        values, blocks = emit(plan, constants, xs)
        rows = [
            [
                jnp.zeros(np.shape(value) + np.shape(x)) if block is None else block.todense()
                for k, x in enumerate(xs)
                for block in [blocks.get((at, k))]
            ]
            for at, value in enumerate(values)
        ]
        expected = jax.jacrev(lambda *ys: jax.tree.leaves(f(*ys)), tuple(range(len(xs))))(*xs)
        return (values, rows), (jax.tree.leaves(f(*xs)), expected)

    ours, theirs = map(jax.tree.leaves, evaluate(constants, *args))
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for our, their in zip(ours, theirs, strict=True):
        atol = rtol * max(1.0, float(np.max(np.abs(their), initial=0)))
        np.testing.assert_allclose(our, their, rtol=rtol, atol=atol)
    for our, their in zip(ours, theirs[: len(plan.graph.outputs)], strict=False):
        assert our.aval == their.aval  # in the weak type, too


def about_x(t):
    c, s = jnp.cos(t), jnp.sin(t)
    return jnp.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def about_z(t):
    c, s = jnp.cos(t), jnp.sin(t)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def about_z_by_updates(t):
    turn = jnp.eye(3).at[0, 0].set(jnp.cos(t)).at[1, 1].set(jnp.cos(t))
    return turn.at[0, 1].set(-jnp.sin(t)).at[1, 0].set(jnp.sin(t))


def skew(w):
    x, y, z = w
    return jnp.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def square(matrix):
    return matrix @ matrix


def rodrigues(w):
    angle = jnp.linalg.norm(w)
    k = skew(w / angle)
    return jnp.eye(3) + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * k @ k


def quaternion(q):
    """The rotation of a quaternion, by the square of its length."""
    w, v = q[0], q[1:]
    return (w * w - v @ v) * jnp.eye(3) + 2 * jnp.outer(v, v) + 2 * w * skew(v)


def pose(rotation, place):
    top = jnp.concatenate([rotation, place[:, None]], axis=1)
    return jnp.concatenate([top, jnp.array([[0.0, 0.0, 0.0, 1.0]])])


def inverse(transform):
    rotation = transform[:3, :3].T
    return pose(rotation, -rotation @ transform[:3, 3])


def on_point(transform, p):
    return (transform @ jnp.append(p, 1.0))[:3]


def inertia(t, moments):
    rotation = about_z(t) @ about_x(0.5 * t)
    return jnp.trace(rotation @ jnp.diag(moments) @ rotation.T) + rotation[2] @ moments


def moved_corner(t, x):
    corner = lax.dynamic_update_slice(jnp.eye(3), about_z(t)[:2, :2], (1, 1))
    return corner @ lax.dynamic_slice(x, (1,), (3,))


def tiled(t, x):
    block = jnp.stack([jnp.stack([t, jnp.zeros(())]), jnp.ones(2)])
    return jnp.tile(block, (1, 2)) @ x


CONSTANT = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.3], [0.0, 0.0, 2.0]])
P, Q = np.array([0.3, -1.2, 0.7]), np.array([0.8, 0.1, -0.4, 0.5])
R = np.array([1.1, 0.2, -0.6])


class Case(NamedTuple):
    """A function, its arguments, and by hand the products of scalars that it needs."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    products: int


CASES = {
    "rotation": Case(lambda t, p: about_z(t) @ p, (0.4, P), 4),
    "rotation of a row": Case(lambda t, p: p @ about_z(t), (0.4, P), 4),
    "single precision": Case(
        lambda t, p: about_z(t) @ p, (np.float32(0.4), P.astype(np.float32)), 4
    ),
    "one-hot updates": Case(lambda t, p: about_z_by_updates(t) @ p, (0.4, P), 4),
    "two rotations": Case(lambda t, u: about_z(t) @ about_x(u), (0.4, -0.3), 4),
    "transposed": Case(lambda t, u: about_z(t) @ about_z(u).T, (0.4, 0.2), 4),
    "contraction of first axes": Case(
        lambda t, u: jnp.einsum("ki,kj->ij", about_z(t), about_x(u)), (0.4, 0.2), 4
    ),
    "batch of products": Case(
        lambda t, x: jnp.einsum("bij,bj->bi", about_z(t)[None, :2], x[None]), (0.4, P), 4
    ),
    "cross product": Case(lambda w, p: skew(w) @ p, (P, R), 6),
    "square of a cross product": Case(lambda w: square(skew(w)), (P,), 6),
    # The squared norm, three times three scaled entries, and products of those with others:
    # three on the diagonal, six off it.
    "Rodrigues": Case(rodrigues, (P,), 1 + 3 + 3 + 9),
    # w * w, the two array products of the outer product, 2 * w, and its products with entries.
    "quaternion": Case(quaternion, (Q,), 1 + 2 + 1 + 3),
    "transforms": Case(
        lambda t, u, p: pose(about_z(t), p) @ pose(about_x(u), p), (0.4, 0.2, P), 4 + 4
    ),
    "inverse transform": Case(lambda t, p: inverse(pose(about_z(t), p)), (0.4, P), 4),
    "transform of a point": Case(lambda t, p, q: on_point(pose(about_z(t), p), q), (0.4, P, R), 4),
    # Half the angle, 4 for the rotation, then the 8 entries that are not zero, twice.
    "inertia": Case(inertia, (0.4, P), 1 + 4 + 8 + 8),
    "constant matrix": Case(lambda p: jnp.sin(CONSTANT @ p), (P,), 2),
    "product with a constant": Case(lambda t: about_z(t) @ CONSTANT, (0.4,), 2),
    "written and added rows": Case(
        lambda a, x: jnp.zeros((3, 3)).at[:2, 1].set(a[0]).at[2].add(a[1]) @ x, (P[:2], R), 1 + 3
    ),
    "padding": Case(lambda x: jnp.pad(x, 1)[2:] * jnp.pad(x, 1)[:-2], (P,), 1),
    "padding with a number": Case(
        lambda x: lax.pad(x, 2.0, ((1, -1, 0), (0, 1, 1))) @ jnp.array([1.0, 1.0, -1.0, 0.0]),
        (CONSTANT[:2, :2] + 0.5,),
        0,
    ),
    "reversed and strided": Case(lambda t, x: about_z(t)[::-1, ::2] @ x[::2], (0.4, P), 2),
    "gather and sum": Case(
        lambda t: jnp.sum(about_z(t)[np.array([0, 2, 0])] * CONSTANT, axis=1), (0.4,), 0
    ),
    "dynamic slices at known places": Case(moved_corner, (0.4, Q), 4),
    "stacked and tiled": Case(tiled, (0.4, Q), 2),
    "split": Case(lambda t, x: jnp.split(about_z(t), [1, 2])[1] @ x, (0.4, P), 2),
    "unpacked": Case(lambda t, x: sum(row @ x for row in about_z(t)), (0.4, P), 4),
    "mask": Case(lambda m, x: jnp.tril(m, -1) @ x, (CONSTANT + 0.1, P), 3),
    # Two entries are zero in both.
    "selection at run time": Case(
        lambda t, x: jnp.where(t > 0, about_z(t), about_x(t)) @ x, (0.4, P), 7
    ),
    # exp(0) is 1; exp(1) is no entry that saves a product.
    "functions of entries": Case(
        lambda t, x: jnp.exp(about_z(t)) @ jnp.sqrt(jnp.diag(x**2)), (0.4, P), 5
    ),
}


@pytest.mark.parametrize("hoist", [False, True], ids=["literals", "hoisted"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_function_and_jacobian_with_the_products_of_the_scalar_form(case, hoist):
    program, constants = traced(case.f, case.args, hoist=hoist)
    expanded = scalarising.expand(program)
    assert_well_formed(expanded, program)
    single = any(np.asarray(arg).dtype == np.float32 for arg in case.args)
    assert_equivalent(case.f, case.args, expanded, constants, 1e-6 if single else 1e-10)
    assert arithmetic(expanded)["mul"] == case.products


@pytest.mark.parametrize("name", ["two rotations", "transforms", "quaternion", "inertia"])
def test_jacobian_for_less_than_half_the_operations(name):
    program, _ = traced(*CASES[name][:2])
    assert 2 * flops(scalarising.expand(program)) < flops(program)


def _both_ways(x, y, _):
    return jnp.stack([x * y, y * x, jnp.zeros(())])


# What is left of an operation on x = (x0, x1, x2) and known numbers.
FOLDED = [
    (lambda x: x * np.array([0.0, 1.0, -1.0]), {"neg": 1}),
    (lambda x: np.array([0.0, 1.0, -1.0]) * x, {"neg": 1}),
    (lambda x: x + jnp.array([0.0, 0.0, 1.0]), {"add": 1}),
    (lambda x: x - jnp.array([0.0, 0.0, 1.0]), {"sub": 1}),
    (lambda x: jnp.array([0.0, 1.0, 1.0]) - x, {"neg": 1, "sub": 2}),
    (lambda x: x / jnp.array([1.0, -1.0, 2.0]), {"neg": 1, "div": 1}),
    # 0 / x may be NaN for a finite x.
    (lambda x: jnp.zeros(3) / x, {"div": 3}),
    (lambda x: -(jnp.array([-1.0, 1.0, 0.0]) * x), {"neg": 1}),
    (lambda x: (jnp.array([-1.0, 1.0, 0.0]) * x) ** 2, {"neg": 1, "integer_pow": 2}),
    (lambda x: (jnp.array([-1.0, 1.0, 0.0]) * x) * x[::-1], {"mul": 2, "neg": 1}),
    (lambda x: (jnp.array([-1.0, 1.0, 0.0]) * x) + x[::-1], {"sub": 1, "add": 1}),
    (lambda x: x[::-1] - jnp.array([-1.0, -1.0, 0.0]) * x, {"add": 2}),
    (lambda x: jnp.maximum(x, jnp.zeros(3)), {"max": 3}),
    (lambda x: jnp.where(np.array([True, False, True]), x, 0.0) * x, {"mul": 2}),
    (lambda x: jnp.cos(x * np.array([0.0, 1.0, 1.0])) - 1.0, {"cos": 2, "sub": 2}),
    (lambda x: _both_ways(*x) * 2.0, {"mul": 2}),
]


@pytest.mark.parametrize("f, left", FOLDED)
def test_folding(f, left):
    program, constants = traced(f, (P,))
    expanded = scalarising.expand(program)
    assert arithmetic(expanded) == left
    assert_equivalent(f, (P,), expanded, constants)


UNCHANGED = {
    "scalars": (lambda t: jnp.sin(t) * 2.0 + 0.0 * t, (0.4,)),
    "array without known entries": (lambda x: jnp.sin(x) @ jnp.outer(x, x) * 2.0, (P,)),
    "matrix that is only built": (about_z, (0.4,)),
    "matrix that is only sliced": (lambda t: about_z(t)[:2, 1:].T, (0.4,)),
    "matrix of variables": (lambda t, x: jnp.array([[t, t * t], [1 / t, t]]) @ x, (0.4, P[:2])),
    "batch": (jax.vmap(lambda t, x: about_z(t) @ x), (np.ones(4), np.ones((4, 3)))),
    "large matrix": (lambda x: jnp.eye(5) @ x, (np.ones(5),)),
    "integers": (lambda x: x + (jnp.eye(3, dtype=int) @ jnp.arange(3)).sum(), (0.4,)),
    "half precision": (lambda x: jnp.eye(3, dtype=x.dtype) @ x, (P.astype(np.float16),)),
    "mixed precision": (
        lambda x: lax.dot(jnp.eye(3, dtype=x.dtype), x, preferred_element_type=np.float64),
        (P.astype(np.float32),),
    ),
    "complex": (lambda x: jnp.eye(3) @ x, (P + 1j,)),
    "empty": (lambda x: jnp.zeros((3, 0)) @ x[:0] + x, (P,)),
    "traced index": (lambda x: jnp.cos(x)[jnp.argsort(x)], (P,)),
    "index out of bounds": (
        lambda x: jnp.stack([x[0], jnp.ones(())]).at[np.array([0, 7])].get(mode="fill"),
        (P,),
    ),
    "unsupported primitive": (lambda t: jnp.linalg.qr(about_z(t))[1], (0.4,)),
}


@pytest.mark.parametrize("f, args", UNCHANGED.values(), ids=UNCHANGED)
def test_none_where_nothing_is_gained(f, args):
    program, _ = traced(f, args)
    assert program.equations
    assert scalarising.expand(program) is None


def test_batch_of_matrices_stays_whole_beside_an_expanded_one():
    def f(t, angles):
        return jax.vmap(about_z)(angles) @ (about_z(t) @ P)

    args = 0.4, np.linspace(0, 1, 4)
    program, constants = traced(f, args)
    expanded = scalarising.expand(program)
    assert arithmetic(expanded)["dot_general"] == 1
    assert max(jax_internals.size(aval) for aval in expanded.avals) == 4 * 3 * 3
    assert_equivalent(f, args, expanded, constants)


def test_entries_are_taken_apart_and_joined_once():
    def f(t, x):
        y = about_z(t) @ x  # x is taken apart, y is joined
        return jnp.linalg.qr(jnp.outer(y, y) + jnp.eye(3))[1], jnp.cumsum(y), y, about_x(t) @ x

    args = 0.4, P
    program, constants = traced(f, args)
    expanded = scalarising.expand(program)
    pieces = [e for e in expanded.equations if e.name == "slice" and e.inputs == (1,)]
    assert len(pieces) == 3
    made = expanded.outputs[2]
    assert sum(made in equation.inputs for equation in expanded.equations) == 3
    assert [e.name for e in expanded.equations if made in e.outputs] == ["concatenate"]
    assert_equivalent(f, args, expanded, constants)


def test_layout_of_an_array_is_kept_for_those_who_need_the_array():
    def f(t, x):
        homogeneous = jnp.append(x, 1.0)
        return pose(about_z(t), P) @ homogeneous, jnp.cumsum(homogeneous)

    args = 0.4, P
    program, constants = traced(f, args)
    expanded = scalarising.expand(program)
    (whole,) = [e for e in expanded.equations if e.name == "cumsum"]
    (joined,) = [e for e in expanded.equations if whole.inputs[0] in e.outputs]
    assert joined.name == "concatenate"
    assert joined.inputs[0] == 1  # the argument as it is
    assert_equivalent(f, args, expanded, constants)


def test_what_is_known_stays_noted_at_equations_that_are_kept():
    index = np.array([2, 0, 0])

    def f(t, x):
        return jnp.cumsum(about_z(t) @ x)[index] * jnp.arange(60.0)[:3]

    program, _ = traced(f, (0.4, P))
    for kept in [program, scalarising.expand(program)]:
        (gather,) = [e for e in kept.equations if e.name == "gather"]
        np.testing.assert_array_equal(np.ravel(gather.known[1]), index)


def test_effects_are_kept():
    def f(t, x):
        jax.debug.print("{}", t)
        return about_z(t) @ x

    program, _ = traced(f, (0.4, P))
    assert any(e.origin.effects for e in scalarising.expand(program).equations)


@pytest.mark.parametrize(
    "f", [lambda t: jnp.stack([t, 0.0]) * 0.0, lambda t: 0.0 * t], ids=["0", "1"]
)
def test_outputs_that_are_known(f):
    def both(t):
        return f(t), about_z(t) @ P

    program, constants = traced(both, (0.4,))
    expanded = scalarising.expand(program)
    assert_well_formed(expanded, program)
    assert_equivalent(both, (0.4,), expanded, constants)


def test_a_structural_zero_stays_zero_beside_infinities():
    def f(t):
        return jnp.array([[t, 0.0], [0.0, 1.0]]) @ jnp.array([1 / t, t])

    zero = jnp.zeros(())
    program, constants = traced(f, (zero,))
    (value,) = passes.evaluate(scalarising.expand(program), constants, (zero,))
    np.testing.assert_array_equal(value, [np.nan, 0.0])
    np.testing.assert_array_equal(f(zero), [np.nan, np.nan])


def test_while_something_else_is_traced():
    def f(t, p):
        program, constants = traced(lambda t, p: about_z(t) @ jnp.exp(about_x(0.5)) @ p, (t, p))
        return passes.evaluate(scalarising.expand(program), constants, (t, p))[0]

    expected = about_z(0.4) @ jnp.exp(about_x(0.5)) @ P
    np.testing.assert_allclose(jax.jit(f)(0.4, P), expected, rtol=1e-12)


def test_the_limit_is_that_of_what_is_known():
    assert scalarising.MOST_ENTRIES == known_values.SMALL


ARM, MATRICES = TASKS["RobotArm_6DOF"], robot_arm_matrices.TASK


def test_robot_arm_of_matrices_equals_the_scalar_one():
    t1, _, _, t4, t5, _ = MATRICES.args
    expected = np.array(ARM.fun(*ARM.args))
    # The published form has the other sign at one term of y.
    expected[1] -= 2 * 185 * np.sin(t5) * np.cos(t1) * np.sin(t4)
    np.testing.assert_allclose(MATRICES.fun(*MATRICES.args), expected, rtol=1e-12)


def test_robot_arm_of_matrices_costs_what_the_scalar_one_costs():
    scalar, _ = traced(ARM.fun, ARM.args)
    program, constants = traced(MATRICES.fun, MATRICES.args)
    expanded = scalarising.expand(program)
    assert_equivalent(MATRICES.fun, MATRICES.args, expanded, constants)
    assert flops(expanded) <= 1.1 * flops(scalar)
    assert flops(program) > 2 * flops(scalar)
    assert scalarising.expand(scalar) is None


# Random programs on scalars, vectors and matrices of at most three rows, some entries known.

_KNOWN = (0.0, 0.0, 0.0, 1.0, -1.0, 0.5)


def _matrix(values: Sequence[Any], i: int, j: int, k: int) -> Any:
    """A matrix of known numbers and scalars, as the digits of k say."""
    scalars = [value for value in values if value.shape == ()]
    rows = []
    for _ in range(1 + i % 3):
        rows.append([])
        for _ in range(1 + j % 3):
            k, digit = divmod(k, 9)
            known = digit < len(_KNOWN)
            rows[-1].append(_KNOWN[digit] if known else scalars[(digit + k) % len(scalars)])
            k = k or i + j + 1
    return jnp.array(rows)


def _pair(combine: Callable[..., Any]) -> Callable[..., Any]:
    def step(values: Sequence[Any], i: int, j: int, k: int) -> Any:
        x = values[i % len(values)]
        fitting = [y for y in values if _fits(combine, x, y)]
        return combine(x, fitting[j % len(fitting)]) if fitting else x

    return step


def _fits(combine: Callable[..., Any], x: Any, y: Any) -> bool:
    try:
        return math.prod(jax.eval_shape(combine, x, y).shape) <= 12
    except (TypeError, ValueError):
        return False


def _single(apply: Callable[[Any, int, int], Any]) -> Callable[..., Any]:
    return lambda values, i, j, k: apply(values[i % len(values)], j, k)


def _place(x: Any, j: int, k: int) -> tuple[int, ...]:
    return tuple((j, k)[axis % 2] % size for axis, size in enumerate(x.shape))


def _masked(x: Any, j: int, k: int) -> Any:
    mask = np.arange(x.size).reshape(x.shape) % (2 + j % 2) == 0
    return jnp.where(mask, x, (0.0, 1.0, 2.0 * x)[k % 3])


def _shifted(x: Any, j: int, k: int) -> Any:
    if not x.ndim:
        return x
    return jnp.pad(x[j % 2 :] if len(x) > 1 else x, [(k % 2, j % 2)] + [(0, 0)] * (x.ndim - 1))


STEPS: tuple[Callable[..., Any], ...] = (
    _matrix,
    _matrix,
    _pair(jnp.matmul),
    _pair(jnp.matmul),
    _pair(lambda x, y: x + y),
    _pair(lambda x, y: x - y),
    _pair(lambda x, y: x * y),
    _pair(lambda x, y: x / (y * y + 1.0)),
    _pair(lambda x, y: jnp.concatenate([x, y])),
    _pair(lambda x, y: jnp.stack([x, y], axis=-1)),
    _pair(lambda x, y: jnp.where(y > 0.2, x, 0.5 * y)),
    _single(lambda x, j, k: (jnp.sin, jnp.cos, jnp.tanh, jnp.negative, jnp.exp)[j % 5](x / 2)),
    _single(lambda x, j, k: x.T if j % 2 else x[..., None]),
    _single(lambda x, j, k: x[_place(x, j, k)[: 1 + j % 2]]),
    _single(lambda x, j, k: x.at[_place(x, j, k)].set((0.0, 1.0, x.ravel()[0])[k % 3])),
    _single(lambda x, j, k: x.at[_place(x, k, j)[:1]].add((1.0, x.ravel()[-1])[k % 2])),
    _single(lambda x, j, k: jnp.sum(x, axis=None if k % 3 else _place(x, 0, 0)[: j % 2])),
    _single(lambda x, j, k: x.reshape(-1)[:: (-1) ** j]),
    _single(_masked),
    _single(_shifted),
)


def random_function(steps: Sequence[tuple[int, ...]]) -> Callable[..., Any]:
    """A matrix, a product with it, and some more steps."""
    (_, number, first, second), *more = steps

    def f(a, b, v):
        values = [a, b, v]
        for kind, i, j, k in [(0, 2, 2, number), (2, 3, first, second), *more]:
            value = STEPS[kind](values, i, j, k)
            if value.size <= 12:
                values.append(value)
        return values[4], values[-2], values[-1]

    return f


NUMBER = st.integers(0, 2**20)
RANDOM_STEPS = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), NUMBER, NUMBER, NUMBER), min_size=3, max_size=9
)
ARGS = jnp.asarray(0.6), jnp.asarray(-0.4), jnp.asarray([0.9, -0.2, 0.5])


@settings(max_examples=settings().max_examples // 2)
@given(RANDOM_STEPS)
def test_random_programs(steps):
    f = random_function(steps)
    program, constants = traced(f, ARGS)
    expanded = scalarising.expand(program)
    if expanded is not None:
        assert_well_formed(expanded, program)
        assert_equivalent(f, ARGS, expanded, constants, 1e-9)


def test_the_random_programs_are_worth_trying():
    expanded = collections.Counter[bool]()
    seen = collections.Counter[str]()

    draw = np.random.default_rng(0)
    for _ in range(100):
        steps = draw.integers(0, (len(STEPS), 2**20, 2**20, 2**20), (draw.integers(3, 10), 4))
        program, _ = traced(random_function(steps.tolist()), ARGS)
        expanded[scalarising.expand(program) is not None] += 1
        seen.update(equation.name for equation in program.equations)
    assert expanded[True] > 3 * expanded[False]
    supported = {"dot_general", "concatenate", "stack", "scatter", "scatter-add", "select_n", "pad"}
    assert supported | {"reduce_sum", "rev", "transpose", "mul", "div", "reshape"} <= set(seen)
