"""Primitives of a user's own: described in each way, they get all that JAX's own get."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import jax_cce
from cases.agreement import assert_agree
from jax_cce import caches, extend
from jax_cce.planning.task import task_of
from jax_cce.rules import book


def primitive(name: str, function: Callable[..., Any]) -> Primitive:
    """A primitive that computes what a function does and has no derivative in JAX."""
    new = Primitive(name)

    def abstract(*avals: Any, **params: Any) -> Any:
        out = jax.eval_shape(lambda *xs: function(*xs, **params), *avals)
        return jax.core.ShapedArray(out.shape, out.dtype)

    new.def_abstract_eval(abstract)
    new.def_impl(lambda *xs, **params: function(*xs, **params))
    mlir.register_lowering(new, mlir.lower_fun(function, multiple_results=False))

    def batched(args: Any, axes: Any, **params: Any) -> Any:
        return jax.vmap(lambda *xs: function(*xs, **params), in_axes=axes)(*args), 0

    batching.primitive_batchers[new] = batched
    return new


class Twin(NamedTuple):
    """A described primitive beside a function of JAX that computes the same."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    args: tuple[Any, ...]


def _slope() -> Twin:
    soft_p = primitive("soft", lambda x: x * lax.logistic(x))
    extend.define_elementwise(soft_p, lambda x, out: lax.logistic(x) + out * (1 - lax.logistic(x)))
    return Twin(soft_p.bind, jax.nn.silu, (jnp.linspace(-1.0, 2.0, 4),))


def _difference() -> Twin:
    minus_p = primitive("minus", lax.sub)
    extend.define_elementwise(minus_p, 1, -1)
    x = jnp.linspace(-1.0, 2.0, 4)
    return Twin(minus_p.bind, lax.sub, (x, x * x))


def _swap() -> Twin:
    swap_p = primitive("swap", lambda x: jnp.swapaxes(x, 0, 1))
    extend.define_layout(swap_p, lambda x: np.swapaxes(x, 0, 1))
    return Twin(swap_p.bind, lambda x: lax.transpose(x, (1, 0)), (jnp.arange(6.0).reshape(2, 3),))


def _beside() -> Twin:
    beside_p = primitive("beside", lambda x, y: jnp.concatenate([x, y], 1))
    extend.define_layout(beside_p, lambda x, y: np.concatenate([x, y], 1))
    args = jnp.arange(6.0).reshape(2, 3), jnp.arange(4.0).reshape(2, 2)
    return Twin(beside_p.bind, lambda x, y: lax.concatenate([x, y], 1), args)


def _fold_up() -> Twin:
    fold_p = primitive("fold_up", lambda x, rows: x.reshape(rows, -1))
    extend.define_layout(fold_p, lambda x, rows: x.reshape(rows, -1))
    return Twin(
        lambda x: fold_p.bind(x, rows=3), lambda x: lax.reshape(x, (3, 4)), (jnp.arange(12.0),)
    )


def _row_sums() -> Twin:
    rows_p = primitive("row_sums", lambda x: jnp.sum(x, 1))

    def terms(equation: extend.Equation, operand: int) -> extend.Term:
        i, j = extend.along(0), extend.along(1)
        return extend.Term(equation.in_avals[operand].shape, (i,), (i, j), None, layout=True)

    extend.define_linear(rows_p, terms, entries="sums")
    return Twin(rows_p.bind, lambda x: lax.reduce_sum(x, (1,)), (jnp.arange(6.0).reshape(2, 3),))


def _window() -> Twin:
    window_p = primitive("window", lambda x, start, size: x[start : start + size])

    def rule(equation: extend.Equation, active: tuple[bool, ...]) -> extend.LocalJacobian:
        start, size = equation.params["start"], equation.params["size"]
        term = extend.Term(
            (size,), (extend.along(0),), (extend.along(0, start),), None, layout=True
        )
        return extend.LocalJacobian({(0, 0): extend.local_term(term)})

    extend.register_rule(window_p, rule, entries="selects")
    return Twin(
        lambda x: window_p.bind(x, start=1, size=3),
        lambda x: lax.dynamic_slice(x, (1,), (3,)),
        (jnp.arange(5.0),),
    )


TWINS = {
    "elementwise": _slope,
    "elementwise, linear": _difference,
    "layout": _swap,
    "layout of two": _beside,
    "layout with parameters": _fold_up,
    "linear": _row_sums,
    "full": _window,
}
_twins = pytest.mark.parametrize("make", TWINS.values(), ids=TWINS)


def _around(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program with operations before and after a function."""
    return lambda *xs: jnp.sin(function(*(x * x for x in xs))) * 2


@_twins
@pytest.mark.parametrize("format", ["dense", "bcoo", "structured"])
def test_the_jacobian_is_that_of_the_twin(make: Callable[[], Twin], format: Any):
    ours, theirs, args = make()
    argnums = tuple(range(len(args)))

    def dense(block: Any) -> Any:
        return block if format == "dense" else block.todense()

    def is_block(node: Any) -> bool:
        return hasattr(node, "todense")

    blocks = jax_cce.jacobian(_around(ours), argnums, format=format)(*args)
    expected = jax.jacrev(_around(theirs), argnums)(*args)
    assert_agree(jax.tree.map(dense, blocks, is_leaf=is_block), expected)


@_twins
def test_structural_zeros_are_those_of_the_twin(make: Callable[[], Twin]):
    ours, theirs, args = make()
    mine, its = (jax_cce.jacobian(_around(f), format="bcoo")(*args) for f in (ours, theirs))
    np.testing.assert_array_equal(mine.indices, its.indices)
    assert mine.nse < math.prod(mine.shape)


@_twins
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("cost", ["multiplications", "nonunit_multiplications", "flops", "bytes"])
def test_the_cost_is_that_of_the_twin(make: Callable[[], Twin], order: Any, cost: Any):
    ours, theirs, args = make()
    argnums = tuple(range(len(args)))
    # The twin's own equation may be a call of several.
    if make is not _slope:
        mine, its = (jax_cce.plan(_around(f), argnums, order)(*args) for f in (ours, theirs))
        assert mine.cost(cost) == its.cost(cost)
    assert jax_cce.plan(_around(ours), argnums, order)(*args).operators == ()


@_twins
def test_small_arrays_are_scalarised_as_for_the_twin(make: Callable[[], Twin]):
    ours, theirs, args = make()

    def masked(function: Callable[..., Any]) -> Callable[..., Any]:
        # Known zeros among the entries, so that taking arrays apart gains something.
        def fun(*xs: Any) -> Any:
            y = function(*(x * (np.arange(x.size).reshape(x.shape) % 2.0) for x in xs))
            return y * y

        return fun

    argnums = tuple(range(len(args)))
    mine, its = (task_of(masked(f), argnums)(*args).graphs for f in (ours, theirs))
    assert True in mine
    assert True in its
    # The twin's own equation may be a call of several.
    if make is not _slope:
        ours, theirs = (
            sorted(e.name for e in graphs[True].program.equations) for graphs in (mine, its)
        )
        assert len(ours) == len(theirs)


def test_a_linear_primitive_keeps_a_pullback_linear():
    half_p = primitive("half", lambda x: 0.5 * x)
    ad.deflinear2(half_p, lambda ct, x: [half_p.bind(ct)])

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (half_p.bind(ct) * x,))
    x = jnp.linspace(0.1, 1.0, 3)
    before = jax_cce.plan(f)(x)
    assert before.graph.reverse_only
    extend.define_linear(half_p)
    after = jax_cce.plan(f)(x)
    assert not after.graph.reverse_only
    assert_agree(jax_cce.jacobian(f)(x), jax.jacrev(f)(x))


def test_a_rule_that_is_registered_again_takes_effect_at_once():
    again_p = primitive("again", lambda x: 2 * x)
    extend.register_rule(again_p, extend.elementwise_rule(2.0))
    jacobian = jax_cce.jacobian(again_p.bind)
    x = jnp.ones(2)
    assert_agree(jacobian(x), 2 * jnp.eye(2))
    extend.register_rule(again_p, extend.elementwise_rule(3.0))
    assert_agree(jacobian(x), 3 * jnp.eye(2))
    extend.define_elementwise(again_p, lambda x: 4 + 0 * x)
    assert_agree(jacobian(x), 4 * jnp.eye(2))


def _term(size: int = 3, *, coefficient: bool = False) -> extend.Term:
    i = extend.along(0)
    return extend.Term((size,), (i,), (i,), (0,) if coefficient else None)


def _edge(term: extend.Term, **how: Any) -> Any:
    return lambda equation, active: extend.LocalJacobian({(0, 0): extend.local_term(term, **how)})


MISTAKES = {
    "no local Jacobian": (
        lambda equation, active: {(0, 0): ()},
        "a LocalJacobian, but returned {(0, 0): ()}",
    ),
    "missing key": (
        lambda equation, active: extend.LocalJacobian({0: ()}),  # type: ignore[dict-item]
        "edges with keys (operand, result), but returned the key 0",
    ),
    "an operand that is not there": (
        lambda equation, active: extend.LocalJacobian({(1, 0): extend.local_term(_term())}),
        "edges between its 1 operands and 1 results, but returned the key (1, 0)",
    ),
    "wrong shape of a coefficient": (
        _edge(_term(coefficient=True), value=lambda primals: jnp.ones(4)),
        "a coefficient of shape (3,) for term 0 of edge (0, 0), but raised ValueError: "
        "an array of shape (4,) where (3,) is wanted",
    ),
    "wrong shape of a term": (
        _edge(_term(4)),
        "positions in [0, 3) in out_map in term 0 of edge (0, 0), but returned positions from 0 "
        "to 3",
    ),
    "wrong number of maps": (
        lambda equation, active: extend.LocalJacobian(
            {(0, 0): extend.local_term(_term()._replace(in_map=(extend.along(0),) * 2))}
        ),
        "one map for each axis of (3,) in in_map in term 0 of edge (0, 0), but returned 2 of them",
    ),
    "wrong number of terms": (
        lambda equation, active: extend.LocalJacobian(
            {(0, 0): extend.local_term(_term())[0]}  # type: ignore[dict-item]
        ),
        "a tuple of LocalTerm for edge (0, 0), but returned LocalTerm(",
    ),
    "wrong number of partials": (
        extend.elementwise_rule(1.0, 2.0),
        "a LocalJacobian, but raised ValueError: 2 partials for 1 operands",
    ),
    "a tracer as scale": (
        lambda equation, active: _edge(_term(), scale=jnp.ones(()))(equation, active),
        "a static number as scale in term 0 of edge (0, 0), but returned the array",
    ),
    "a tracer as size": (
        lambda equation, active: jax.jit(lambda n: _edge(_term(n))(equation, active))(3),
        "a LocalJacobian, but raised ",
    ),
    "an exception inside": (
        lambda equation, active: equation.params["nothing"],
        "a LocalJacobian, but raised KeyError: 'nothing'",
    ),
    "an exception in a coefficient": (
        _edge(_term(coefficient=True), value=lambda primals: primals.ins[1]),
        "a coefficient of shape (3,) for term 0 of edge (0, 0), but raised IndexError: ",
    ),
    "a value without axes": (
        lambda equation, active: extend.LocalJacobian(
            {(0, 0): (extend.LocalTerm(_term(), 1, lambda primals: jnp.ones(())),)}
        ),
        "both a value and its axes, or neither in term 0 of edge (0, 0), but returned a value and "
        "no axes",
    ),
}


@pytest.mark.parametrize("rule, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_where_it_was_made(rule: Any, message: str):
    wrong_p = primitive("wrong", lambda x: 2 * x)
    extend.register_rule(wrong_p, rule)
    with pytest.raises(extend.RuleError) as raised:
        jax_cce.jacobian(wrong_p.bind)(jnp.ones(3))
    text = str(raised.value)
    assert re.match(r"The rule of primitive 'wrong' \(.*test_extend\.py:\d+\) must return ", text)
    assert message in text


def _reversed_through(operation: Callable[..., Any]) -> Callable[..., Any]:
    back_p = primitive("back", lambda x: x[::-1])
    extend.define_layout(back_p, operation)
    return back_p.bind


COMPUTED = {
    "negated": lambda x: -x[::-1],
    "scaled": lambda x: 2 * x[::-1],
    "sorted by value": lambda x: np.flip(np.sort(x)),
    "a constant among them": lambda x: np.concatenate([[0], x[1::-1]]),
    "of another type": lambda x: x[::-1] * 1.0,
}


@pytest.mark.parametrize("operation", COMPUTED.values(), ids=COMPUTED)
def test_a_layout_that_computes_is_refused(operation: Callable[..., Any]):
    with pytest.raises(extend.RuleError, match="entries that are not entries of its operands"):
        jax_cce.jacobian(_reversed_through(operation))(jnp.ones(3))


def test_a_layout_of_another_shape_is_refused():
    with pytest.raises(
        extend.RuleError, match=r"of shape \(2,\), the primitive one of shape \(3,\)"
    ):
        jax_cce.jacobian(_reversed_through(lambda x: x[:2]))(jnp.ones(3))


MISTAKES_ON_OBJECTS = {
    "computes": (lambda x: x[::-1] + 0, "entries of its operands, but raised TypeError: "),
    "another shape": (lambda x: x[:2], "results of shapes [(3,)], but returned shapes [(2,)]"),
    "a constant": (
        lambda x: np.array([0.0, x[1], x[0]], dtype=object),
        "entries of its operands, but returned 0.0",
    ),
}


@pytest.mark.parametrize(
    "operation, message", MISTAKES_ON_OBJECTS.values(), ids=MISTAKES_ON_OBJECTS
)
def test_a_layout_of_entries_taken_apart_is_checked(operation: Callable[..., Any], message: str):
    layout = _reversed_through(lambda x: operation(x) if x.dtype == object else x[::-1])

    def fun(x: jax.Array) -> jax.Array:
        y = layout(x * np.array([0.0, 1.0, 0.0]))
        return y * y

    with pytest.raises(extend.RuleError, match=re.escape(message)):
        jax_cce.jacobian(fun)(jnp.ones(3))


@pytest.mark.parametrize("position", [0, 1])
def test_a_layout_may_give_a_bare_entry(position: int):
    pick_p = primitive("pick", lambda x: x[position])
    extend.define_layout(pick_p, lambda x: x[position], takes_parts=True)

    def square(pick: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: pick(x * np.array([0.0, 1.0, 0.0])) ** 2 * x[0]

    x = jnp.arange(1.0, 4.0)
    expected = jax.jacrev(square(lambda x: x[position]))(x)
    assert_agree(jax_cce.jacobian(square(pick_p.bind))(x), expected)


def test_terms_that_are_none_are_refused():
    double_p = primitive("double", lambda x: 2 * x)
    extend.define_linear(double_p, lambda equation, operand: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(extend.RuleError, match="neither a Term, nor terms, nor None for operand 0"):
        jax_cce.jacobian(double_p.bind)(jnp.ones(3))


def test_a_partial_reads_what_has_a_name():
    with pytest.raises(TypeError, match=r"among x, y, z, out, params.*but got 't'"):
        extend.define_elementwise(primitive("cube", lambda x: x**3), lambda t: 3 * t * t)
    power_p = primitive("power", lambda x: x**3)
    extend.define_elementwise(power_p, lambda x, n=3: n * x ** (n - 1))
    x = jnp.linspace(0.0, 1.0, 3)
    assert_agree(jax_cce.jacobian(power_p.bind)(x), jax.jacrev(lambda x: x**3)(x))


def test_a_rule_may_leave_an_equation_to_jax():
    def rule(equation: extend.Equation, active: tuple[bool, ...]) -> extend.LocalJacobian:
        raise extend.Unrepresentable("not this one")

    third_p = primitive("third", lambda x: x / 3)
    ad.deflinear2(third_p, lambda ct, x: [third_p.bind(ct)])
    extend.register_rule(third_p, rule)
    x = jnp.ones(3)
    assert_agree(jax_cce.jacobian(third_p.bind)(x), jax.jacrev(third_p.bind)(x))


@pytest.mark.parametrize(
    "define",
    [extend.define_elementwise, extend.define_layout, extend.define_linear, extend.register_rule],
)
def test_what_is_no_primitive_or_no_function_is_refused(define: Any):
    with pytest.raises(TypeError, match=f"{define.__name__} requires a jax.extend.core.Primitive"):
        define("sin", lambda x: x)
    if define is not extend.define_elementwise:
        with pytest.raises(TypeError, match="requires a callable rule, but got 3"):
            define(Primitive("nothing"), 3)


@pytest.fixture
def sine(monkeypatch: pytest.MonkeyPatch):
    """JAX's sine, whose description is restored afterwards."""
    monkeypatch.setitem(book._records, lax.sin_p, book._records[lax.sin_p])
    yield lax.sin_p
    monkeypatch.undo()
    caches.next_generation()


@pytest.mark.parametrize("format", ["dense", "bcoo"])
def test_a_rule_for_a_primitive_of_jax_takes_the_place_of_ours(sine: Any, format: Any):
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x), format=format)
    x = jnp.linspace(0.0, 1.0, 3)
    before = jacobian(x)
    extend.register_rule(sine, extend.elementwise_rule(7.0))
    after = jacobian(x)
    if format == "bcoo":
        before, after = before.todense(), after.todense()
    assert_agree(before, jnp.diag(jnp.cos(x)))
    assert_agree(after, 7 * jnp.eye(3))


def test_what_else_is_known_of_a_primitive_of_jax_stays(sine: Any):
    before = book.record(sine)
    extend.register_rule(sine, lambda equation, active: extend.LocalJacobian({}))
    after = book.record(sine)
    assert after.rule is not before.rule
    assert (after.entrywise, after.holomorphic) == (before.entrywise, before.holomorphic)


def test_a_description_of_ones_own_primitive_is_forgotten_with_the_next():
    changing_p = primitive("changing", lambda x: 2 * x)
    extend.define_linear(changing_p, entries="sums")
    extend.register_rule(changing_p, lambda equation, active: extend.LocalJacobian({}))
    assert book.record(changing_p).linear is None
    assert book.record(changing_p).entrywise is None
