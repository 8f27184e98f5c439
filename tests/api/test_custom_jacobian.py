"""`custom_jacobian`: every form of a Jacobian in every mode, against the plain function's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental.sparse import BCOO

import jax_cce
from cases.agreement import assert_agree
from cases.sparsity import assert_bcoo, assert_structured
from cases.uses import USES

MODES = [jax.jacfwd, jax.jacrev, jax_cce.jacobian]
SIZE = 12
TABLE = jnp.array(np.random.default_rng(0).normal(size=SIZE))
AT = jnp.array([0.5, 3.25, 3.75, 10.0, 6.1])


def plain_look_up(table, at):
    """A cubic through four entries; positions depend on data."""
    cell = jnp.clip(jnp.floor(at).astype(int), 0, SIZE - 4)
    return jnp.sum(table[cell[:, None] + np.arange(4)] * _weights(at - cell), 1)


def _weights(t):
    t = t[:, None]
    nodes = np.arange(4.0)
    factors = [[t - m for m in nodes if m != k] for k in nodes]
    scales = [np.prod([k - m for m in nodes if m != k]) for k in nodes]
    return jnp.concatenate(
        [functools.reduce(jnp.multiply, f) / s for f, s in zip(factors, scales, strict=True)], 1
    )


@jax_cce.custom_jacobian
def look_up(table, at):
    # None of this is ever differentiated.
    return lax.stop_gradient(plain_look_up(table, at))


@look_up.def_jacobian
def _(result, table, at):
    cell = jnp.clip(jnp.floor(at).astype(int), 0, SIZE - 4)
    positions = jnp.stack(
        jnp.broadcast_arrays(jnp.arange(at.size)[:, None], cell[:, None] + np.arange(4)), -1
    )
    weights, slopes = jax.jvp(_weights, (at - cell,), (jnp.ones_like(at),))
    by_table = BCOO((weights.ravel(), positions.reshape(-1, 2)), shape=(at.size, table.size))
    slope = jnp.sum(table[cell[:, None] + np.arange(4)] * slopes, 1)
    return by_table, jax_cce.Bands((0,), slope[None])


def around(function):
    """A program around it, through which the sparsity stays."""
    return lambda table, at: function(jnp.sin(table), at**2 / 12) ** 2 * at


@pytest.mark.parametrize("mode", MODES)
def test_positions_that_depend_on_data(mode):
    for program in (lambda f: f), around:
        found = jax.jit(mode(program(look_up), argnums=(0, 1)))(TABLE, AT)
        assert_agree(found, _by_jax(program)(TABLE, AT))
    assert_agree(mode(look_up)(TABLE, AT), jax.jit(jax.jacrev(plain_look_up))(TABLE, AT))


def _by_jax(program):
    return jax.jit(jax.jacrev(program(plain_look_up), argnums=(0, 1)))


def _is_block(node):
    return isinstance(node, BCOO | jax_cce.StructuredJacobian)


@pytest.mark.parametrize("jit", [False, True])
def test_the_edge_has_the_entries_that_were_given(jit):
    for program in (lambda f: f), around:
        expected = _by_jax(program)(TABLE, AT)
        for format, check in ("bcoo", assert_bcoo), ("structured", assert_structured):
            found = jax_cce.jacobian(program(look_up), argnums=(0, 1), format=format)
            blocks = (jax.jit(found) if jit else found)(TABLE, AT)
            jax.tree.map(check, blocks, expected, is_leaf=_is_block)
            sizes = [b.nse if format == "bcoo" else b.nnz for b in blocks]
            assert sizes == [4 * AT.size, AT.size]


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_orders(order):
    found = jax_cce.jacobian(around(look_up), argnums=(0, 1), order=order)(TABLE, AT)
    assert_agree(found, _by_jax(around)(TABLE, AT))


X = jnp.array([0.7, -1.2, 2.3, 0.4])


def quadratic(x):
    return (x[:, None] * jnp.roll(x, 1)[:, None] * jnp.array([[1.0, 2.0]])).T


def _dense(x):
    return jax.jacrev(quadratic)(x)


def _bands_of(matrix, offsets):
    """Diagonals of a matrix as `Bands` has them."""
    rows, columns = matrix.shape
    at = jnp.arange(columns)
    picked = [
        jnp.where((at - k >= 0) & (at - k < rows), matrix[jnp.clip(at - k, 0, rows - 1), at], 0)
        for k in offsets
    ]
    return jax_cce.Bands(offsets, jnp.stack(picked))


PATTERN = np.argwhere(np.asarray(_dense(X)))
PADDED = np.concatenate([PATTERN, np.full((4, 3), (2, 4, 4))])


def _bcoo(x, indices):
    data = _dense(x).at[tuple(indices.T)].get(mode="fill", fill_value=0)
    return BCOO((data, indices), shape=(2, 4, 4))


FORMS = {
    "dense": _dense,
    "bcoo": lambda x: _bcoo(x, jnp.array(PATTERN)),
    "bcoo, traced": lambda x: _bcoo(x, PADDED + (x[0] > 99).astype(int)),
    "bcoo, batch": lambda x: BCOO.fromdense(_dense(x), nse=8, n_batch=1),
    "bcoo, dense": lambda x: BCOO.fromdense(_dense(x), nse=8, n_dense=1),
    "structured": lambda x: jax_cce.jacobian(quadratic, format="structured")(x),
    "computed bcoo": lambda x: jax_cce.jacobian(quadratic, format="bcoo")(x),
    "bands": lambda x: _bands_of(_dense(x).reshape(8, 4), (-7, -5, -4, -1, 0, 3)),
}
# How many entries are stored: what there is more than 16 is padding or given.
STORED = {"dense": 32, "bcoo, traced": 20, "bcoo, dense": 32, "bands": 17}


def in_form(form):
    function = jax_cce.custom_jacobian(lambda x: lax.stop_gradient(quadratic(x)))
    function.def_jacobian(lambda result, x: (FORMS[form](x),))
    return function


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function = in_form(form)

    def every(f, modes=MODES):
        def results(x):
            tangent, cotangent = jnp.cos(x), jnp.sin(quadratic(x))
            products = jax.jvp(f, (x,), (tangent,)), jax.vjp(f, x)[1](cotangent)
            return products, [mode(f)(x) for mode in modes]

        return jax.jit(results)

    assert_agree(every(function)(X), every(quadratic, [jax.jacrev] * len(MODES))(X))
    found = jax.jit(jax_cce.jacobian(function, format="bcoo"))(X)
    assert_bcoo(found, jax.jit(jax.jacrev(quadratic))(X))
    assert found.nse == STORED.get(form, 16)


@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_second_derivatives(form):
    function = in_form(form)
    expected = jax.jit(jax.hessian(quadratic))(X)
    assert_agree(jax.jit(jax.hessian(function))(X), expected)
    assert_agree(jax.jit(jax.jacrev(jax_cce.jacobian(function)))(X), expected)
    total = [lambda x, f=f: jnp.sum(jnp.sin(f(x))) for f in (function, quadratic)]
    for format in "dense", "bcoo":
        found = jax.jit(jax_cce.hessian(total[0], format=format))(X)
        dense = found.todense() if format == "bcoo" else found
        assert_agree(dense, jax.jit(jax.hessian(total[1]))(X))


def in_all_forms(x):
    every = [in_form(form)(jnp.sin(x)) for form in ("dense", "bcoo, traced", "structured", "bands")]
    return jnp.sum(sum(every) ** 2, 0)


def in_no_form(x):
    return jnp.sum((4 * quadratic(jnp.sin(x))) ** 2, 0)


CHOSEN = [
    "vmap of another axis",
    "nested vmap",
    "vmap of cond",
    "scan of vmap",
    "jvp",
    "grad of vmap",
    "linearize",
    "Jacobian of it",
    "exported",
    "shard_map",
    "explicit mesh",
]


@pytest.mark.parametrize("use", CHOSEN)
def test_under_transformations(use):
    def outcome(jacobian, x):
        return USES[use](jacobian, x)

    if use not in {"exported", "explicit mesh"}:
        outcome = jax.jit(outcome, static_argnums=0)
    found = outcome(jax_cce.jacobian(in_all_forms), X)
    assert_agree(found, outcome(jax.jacrev(in_no_form), X))


@pytest.mark.parametrize("inside", ["scan", "while", "cond", "checkpoint"])
@pytest.mark.parametrize("mode", MODES)
def test_inside_other_programs(inside, mode):
    def program(function):
        def step(x):
            return jnp.cos(jnp.sum(function(x), 0))

        match inside:
            case "scan":
                return lambda x: lax.scan(lambda c, _: (step(c), c[0]), x, None, 3)
            case "while":
                return lambda x: lax.fori_loop(0, 3, lambda _, c: step(c), x)
            case "cond":
                return lambda x: lax.cond(x[0] > 0, step, jnp.sin, x)
            case "checkpoint":
                return jax.checkpoint(lambda x: step(step(x)))
        return None

    found = jax.jit(mode(program(in_all_forms_rows)))(X)
    assert_agree(found, jax.jit(mode(program(lambda x: 4 * quadratic(x))))(X))


def in_all_forms_rows(x):
    return sum(in_form(form)(x) for form in ("dense", "bcoo, traced", "structured", "bands"))


# Random sums of products: out[o] = sum of c x[i] y[j] over triples (o, i, j), some of them equal.
SHAPES = [(), (1,), (3,), (2, 2), (0,), (2, 1, 3)]
WAYS = ["dense", "bcoo", "traced", "structured", "bands"]


@st.composite
def bilinear(draw):
    out, *ins = (draw(st.sampled_from(SHAPES)) for _ in range(3))
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    count = draw(st.integers(0, 7)) if all(math.prod(s) for s in (out, *ins)) else 0
    places = [
        np.stack([numbers.integers(0, n, count) for n in s], 1) if s else np.zeros((count, 0), int)
        for s in (out, *ins)
    ]
    return out, ins, places, numbers.normal(size=count), [draw(st.sampled_from(WAYS)) for _ in ins]


def _plain(case):
    out, _, (at_out, at_x, at_y), c, _ = case

    def function(x, y):
        terms = c * x[tuple(at_x.T)] * y[tuple(at_y.T)]
        return jnp.zeros(out).at[tuple(at_out.T)].add(terms if out else jnp.sum(terms))

    return function


def _given(case):
    """The same with its Jacobian in the forms of the case."""
    out, ins, (at_out, *at), c, ways = case
    plain = _plain(case)
    function = jax_cce.custom_jacobian(lambda x, y: lax.stop_gradient(plain(x, y)))

    @function.def_jacobian
    def _(result, *xs):
        blocks = []
        for k, way in enumerate(ways):
            shape = (*out, *ins[k])
            dense = jax.jit(jax.jacfwd(plain, argnums=k))(*xs)
            if way == "dense":
                blocks.append(dense)
            elif way == "structured":
                blocks.append(jax_cce.jacobian(plain, argnums=k, format="structured")(*xs))
            elif way == "bands":
                rows, columns = math.prod(out), math.prod(ins[k])
                matrix, offsets = dense.reshape(rows, columns), tuple(range(-rows, columns))
                empty = jax_cce.Bands((), jnp.zeros((0, columns)))
                blocks.append(_bands_of(matrix, offsets) if matrix.size else empty)
            else:
                positions = jnp.concatenate([at_out, at[k]], 1)
                if way == "traced":
                    positions = positions + (jnp.sum(xs[0]) > 1e9).astype(int)
                data = jnp.asarray(c) * xs[1 - k][tuple(at[1 - k].T)]
                blocks.append(BCOO((data, positions), shape=shape))
        return blocks

    return function


@given(bilinear(), st.sampled_from(["bcoo", "structured"]))
@settings(max_examples=settings().max_examples // 10)
def test_random_bilinear_functions(case, format):
    _, ins, places, _, ways = case
    args = [jnp.array(np.cos(1.0 + np.arange(math.prod(s))).reshape(s)) for s in ins]

    def around(f):
        return lambda x, y: 3 * f(jnp.sin(x), y) + jnp.sum(x) * 0

    def every(f):
        program = around(f)
        return lambda x, y: [mode(program, argnums=(0, 1))(x, y) for mode in MODES]

    def of_plain(x, y):
        return [jax.jacrev(around(_plain(case)), argnums=(0, 1))(x, y)] * len(MODES)

    found, expected = jax.jit(lambda *args: (every(_given(case))(*args), of_plain(*args)))(*args)
    assert_agree(found, expected)
    blocks = jax_cce.jacobian(_given(case), argnums=(0, 1), format=format)(*args)
    check = assert_bcoo if format == "bcoo" else assert_structured
    for block, way, at, dense in zip(
        blocks, ways, places[1:], jax.jit(jax.jacfwd(_plain(case), (0, 1)))(*args), strict=True
    ):
        check(block, dense)
        if way in ("bcoo", "structured", "traced"):
            together = np.concatenate([places[0], at], 1)
            unique = len(np.unique(together, axis=0)) if together.size else min(len(together), 1)
            stored = block.nse if format == "bcoo" else block.nnz
            # Where they are traced nobody knows which are equal.
            assert stored == (len(together) if way == "traced" and at.size else unique) or (
                way == "traced" and unique <= stored <= len(together)
            )


def test_trees():
    @jax_cce.custom_jacobian
    def function(state, scale):
        return {"a": state["x"] * scale, "b": (state["y"][0] + scale, jnp.argmax(state["x"]))}

    @function.def_jacobian
    def _(result, state, scale):
        x, y = state["x"], state["y"]
        by_y = jnp.zeros((*y.shape, 1)).at[0].set(1.0).reshape(y.shape)
        one = jax_cce.Bands((0,), jnp.full((1, x.size), scale))
        return {
            "a": ({"x": one, "y": None}, x),
            "b": (({"x": None, "y": by_y}, 1), None),
        }

    def plain(state, scale):
        return {"a": state["x"] * scale, "b": (state["y"][0] + scale, jnp.argmax(state["x"]))}

    args = {"x": X, "y": jnp.array([1.0, 2.0])}, jnp.array(3.0)
    for mode in (jax.jacfwd, jax_cce.jacobian):
        found, expected = (
            mode(lambda *args, f=f: (f(*args)["a"], f(*args)["b"][0]), argnums=(0, 1))(*args)
            for f in (function, plain)
        )
        assert_agree(found, expected)
    assert jax.jvp(function, args, args)[1]["b"][1].dtype == jax.dtypes.float0
    assert_agree(function(*args), plain(*args))


def test_arguments_that_are_not_differentiated():
    @functools.partial(jax_cce.custom_jacobian, nondiff_argnums=(0,), nondiff_argnames=("power",))
    def function(inner, x, index, power=2):
        """What it does."""
        return inner(x[index]) ** power

    seen = []

    @function.def_jacobian
    def by_x(result, inner, x, index, power):
        seen.append((inner, power))
        slope = power * inner(x[index]) ** (power - 1) * jnp.cos(x[index])
        positions = jnp.stack([jnp.arange(index.size), index], 1)
        return BCOO((slope, positions), shape=(index.size, x.size)), None

    assert function.__doc__ == "What it does."
    assert by_x.__name__ == "by_x"
    index = jnp.array([2, 0, 2])
    for mode in MODES:
        for call, power in (
            (lambda x: function(jnp.sin, x, index), 2),
            (lambda x: function(jnp.sin, power=3, index=index, x=x), 3),
        ):
            assert_agree(
                mode(call)(X), jax.jit(jax.jacrev(lambda x, n=power: jnp.sin(x[index]) ** n))(X)
            )
            assert seen[-1] == (jnp.sin, power)
    found = jax_cce.jacobian(lambda x: function(jnp.sin, x, index), format="bcoo")(X)
    assert found.nse == 3


def test_none_is_no_dependence():
    @jax_cce.custom_jacobian
    def function(x, y):
        return x * y

    function.def_jacobian(lambda result, x, y: (None, jax_cce.Bands((0,), x[None])))
    for mode in MODES:
        by_x, by_y = mode(function, argnums=(0, 1))(X, X)
        assert_agree(by_x, jnp.zeros((4, 4)))
        assert_agree(by_y, jnp.diag(X))
    assert jax_cce.jacobian(function, format="bcoo")(X, X).nse == 0
    function.def_jacobian(lambda result, x, y: (None, None))
    assert_agree(jax.grad(lambda x: jnp.sum(function(x, x)))(X), jnp.zeros(4))


def test_another_jacobian_is_another_program():
    function = jax_cce.custom_jacobian(lambda x: x**2)
    for factor in (2.0, 5.0):
        function.def_jacobian(
            lambda result, x, factor=factor: (jax_cce.Bands((0,), factor * x[None]),)
        )
        for format in ("dense", "bcoo"):
            found = jax_cce.jacobian(function, format=format)(X)
            dense = found.todense() if format == "bcoo" else found
            assert_agree(dense, jnp.diag(factor * X))


def test_the_result_is_an_argument_and_has_the_given_jacobian_itself():
    exp = jax_cce.custom_jacobian(lambda x: lax.stop_gradient(jnp.exp(x)))
    exp.def_jacobian(lambda result, x: (jax_cce.Bands((0,), result[None]),))
    for n, nested in enumerate([exp, jax.jacfwd(exp), jax.jacrev(jax_cce.jacobian(exp))]):
        plain = [jnp.exp, jax.jacfwd(jnp.exp), jax.jacfwd(jax.jacfwd(jnp.exp))][n]
        assert_agree(nested(X), plain(X))
    hessian = jax_cce.hessian(lambda x: jnp.sum(exp(x)), format="bcoo")(X)
    assert hessian.nse == 4
    assert_agree(hessian.todense(), jnp.diag(jnp.exp(X)))


def test_complex_numbers():
    square = jax_cce.custom_jacobian(lambda z: z**2)
    square.def_jacobian(lambda result, z: (jax_cce.Bands((0,), 2 * z[None]),))
    z = X + 1j * X[::-1]
    for mode in MODES:
        assert_agree(
            mode(square, holomorphic=True)(z),
            jax.jit(jax.jacrev(lambda z: z**2, holomorphic=True))(z),
        )
    turned = jax_cce.custom_jacobian(lambda x: x * 1j)
    turned.def_jacobian(lambda result, x: (jnp.eye(4) * 1j,))
    for mode in (jax.jacfwd, jax_cce.jacobian):
        assert_agree(mode(turned)(X), jax.jit(jax.jacfwd(lambda x: x * 1j))(X))
    power = jax.grad(lambda x: jnp.sum(jnp.abs(turned(x) + 1) ** 2))
    assert_agree(power(X), 2 * X)
    real = jax_cce.custom_jacobian(jnp.real)
    real.def_jacobian(lambda result, z: (jnp.eye(4) + 0j,))
    with pytest.raises(TypeError, match="None, as a real result is not holomorphic, for argument"):
        jax.grad(lambda z: jnp.sum(real(z)))(z)


def test_dtypes():
    """A block may have the dtype of the argument or of the result; blocks of one are no arrays."""
    for kind in (np.float32, np.float64):
        scaled = jax_cce.custom_jacobian(lambda x: x.astype(np.float64) * 2)
        scaled.def_jacobian(lambda result, x, kind=kind: (2 * jnp.eye(4, dtype=kind),))
        x = X.astype(np.float32)
        for mode in MODES:
            assert_agree(mode(scaled)(x), mode(lambda x: x.astype(np.float64) * 2)(x))
    number = jax_cce.custom_jacobian(lambda x: 3 * x)
    number.def_jacobian(lambda result, x: (3,))
    assert_agree(jax.grad(number)(2.0), jax.grad(lambda x: 3 * x)(2.0))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for form in ("dense", "bcoo, traced", "structured", "bands"):
            assert_agree(jax.jacrev(in_form(form))(X), jax.jit(jax.jacrev(quadratic))(X))


def test_native_code_agrees(monkeypatch):
    monkeypatch.setenv("JAX_CCE_NATIVE", "on")
    jax_cce.cache_clear()
    points = X + jnp.arange(70.0)[:, None] / 70
    for transform, x in (lambda f: f, X), (jax.vmap, points):
        found = jax.jit(transform(jax_cce.jacobian(in_all_forms)))(x)
        assert_agree(found, jax.jit(transform(jax.jacrev(in_no_form)))(x))
    stepped = [
        lambda x, f=f: lax.scan(lambda c, _: (jnp.cos(jnp.sum(f(c), 0)), c[0]), x, None, 20)
        for f in (in_all_forms_rows, lambda x: 4 * quadratic(x))
    ]
    assert_agree(jax.jit(jax_cce.jacobian(stepped[0]))(X), jax.jit(jax.jacfwd(stepped[1]))(X))
    jax_cce.cache_clear()


def test_a_check_of_the_given_jacobian():
    jax_cce.check_jacobian(look_up, TABLE, AT, formats=["bcoo"], orders=["reverse"])


def scaled(a, x):
    return jax_cce.jacobian(lambda x: a * x, format="structured")(x)


WRONG = {
    "no tuple": (lambda x, n: x, "a tuple with what each of the 2 arguments has, but returned a "),
    "nothing": (lambda x, n: None, "arguments has, but returned a NoneType"),
    "length": (lambda x, n: (x,), "of the 2 arguments has, but returned a tuple of length 1"),
    "bare bands": (lambda x, n: jax_cce.Bands((0, 1), x), "arguments has, but returned a Bands"),
    "shape": (
        lambda x, n: (jnp.eye(3), None),
        r"a block of shape \(4, 4\) for argument 'x'\['a'\], but returned one of shape \(3, 3\)",
    ),
    "bcoo": (
        lambda x, n: (BCOO.fromdense(jnp.ones((4, 3))), None),
        r"a block of shape \(4, 4\) for .*, but returned one of shape \(4, 3\)",
    ),
    "structured": (
        lambda x, n: (jax_cce.jacobian(lambda x: x[:3], format="structured")(x), None),
        r"a block of shape \(4, 4\) for .*, but returned one of shape \(3, 4\)",
    ),
    "bands": (
        lambda x, n: (jax_cce.Bands((0, 1), x[None]), None),
        r"Bands with data of shape \(2, 4\) for .*, but returned one of shape \(1, 4\)",
    ),
    "offsets": (
        lambda x, n: (jax_cce.Bands((0.5,), x[None]), None),
        r"Bands with integers as offsets for .*, but returned \(0.5,\)",
    ),
    "dtype": (
        lambda x, n: (jnp.eye(4, dtype=np.float32), None),
        "a block of dtype float64 for .*, but returned one of dtype float32",
    ),
    "integers": (
        lambda x, n: (np.eye(4, dtype=int), None),
        "a block of dtype float64 for .*, but returned one of dtype int64",
    ),
    "stacked": (
        lambda x, n: (jax.vmap(lambda a: scaled(a, x))(x), None),
        r"a block of shape \(4, 4\) for .*, but returned one to which jax.vmap has given more axes",
    ),
    "by integers": (lambda x, n: (jnp.eye(4), jnp.ones(4)), "None, as integers have no derivative"),
    "text": (
        lambda x, n: ("eye", None),
        "None, an array, a BCOO, a StructuredJacobian or Bands for .*, but returned a str",
    ),
    "tree": (
        lambda x, n: ({"b": jnp.eye(4)}, None),
        "a pytree like argument 'x', .*, but returned .*b",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
@pytest.mark.parametrize("mode", MODES)
def test_mistakes(problem, mode):
    given, message = WRONG[problem]

    @functools.partial(jax_cce.custom_jacobian, nondiff_argnums=(0,))
    def wrong(factor, x, n):
        return x["a"] * factor

    @wrong.def_jacobian
    def jacobian(result, factor, x, n):
        block = given(x["a"], n)
        is_block = isinstance(block, tuple) and len(block) == 2 and problem not in _WHOLE
        return ({"a": block[0]}, block[1]) if is_block else block

    line = jacobian.__code__.co_firstlineno
    with pytest.raises(TypeError, match=message) as error:
        mode(lambda x: wrong(2.0, {"a": x}, 3))(X)
    assert f"The Jacobian of wrong ({__file__}:{line}) must return" in str(error.value)


_WHOLE = {"bare bands", "tree"}


def test_a_tree_unlike_the_result():
    pair = jax_cce.custom_jacobian(lambda x: (x, 2 * x))
    pair.def_jacobian(lambda result, x: {"a": (1,), "b": (2,)})
    with pytest.raises(TypeError, match=r"must return a pytree like the result, .*, but returned"):
        jax.jacfwd(pair)(1.0)


def test_a_function_without_a_jacobian():
    @jax_cce.custom_jacobian
    def alone(x):
        return x

    with pytest.raises(AttributeError, match="No Jacobian defined for custom_jacobian function al"):
        alone(X)
