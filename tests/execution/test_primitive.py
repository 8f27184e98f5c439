"""Under a trace the planned Jacobian is one equation, which JAX transforms as any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import checkify
from jax.extend import core as jex_core
from jax.sharding import PartitionSpec as P

import jax_cce
from cases.agreement import assert_agree
from jax_cce.execution.primitive import PLANNED_JACOBIAN


def dense(x):
    """Every result depends on every number, at points as well as in batches by single entries."""
    a, b, c, d = x
    total = a * b + jnp.tanh(c * d)
    return jnp.array([total * a, total / (1 + b**2), jnp.cos(total) * c, total**2 * d])


def banded(x):
    return {"roll": jnp.roll(x, 1) * x[::-1] - x, "sum": jnp.sum(jnp.sin(x) * x)}


def stepped(x):
    """A loop, for which the mode depends on the number of points."""
    return lax.scan(lambda c, _: (jnp.sin(c) * x[0] + c[::-1], c[0]), x, None, 5)


def with_integers(x):
    return jnp.where(jnp.arange(4) == jnp.argmax(x), x, x**2) * jnp.sum(x)


FUNCTIONS = [dense, banded, stepped, with_integers]
X = jnp.array([0.3, 0.9, 1.7, 0.4])
FEW = X + jnp.arange(3.0)[:, None] / 7
MANY = X + jnp.arange(70.0)[:, None] % 9 / 11


def _total(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree))


def _sharded(f, x):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(jax.vmap(f), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    return jax.jit(mapped)(MANY + x)


def _under_a_mesh(f, x):
    kind = jax.sharding.AxisType.Explicit
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(kind,))):
        return jax.jit(jax.vmap(f))(jax.sharding.reshard(MANY + x, P("data")))


# From a Jacobian, which may be under jit, and a point to what is compared.
USES = {
    "call": lambda f, x: f(x),
    "vmap of few": lambda f, x: jax.vmap(f)(FEW + x),
    "vmap of many": lambda f, x: jax.vmap(f)(MANY + x),
    "vmap of another axis": lambda f, x: jax.vmap(f, 1, -1)((MANY + x).T),
    "nested vmap": lambda f, x: jax.vmap(jax.vmap(f))((MANY + x).reshape(10, 7, 4)),
    "vmap of a shift": lambda f, x: jax.vmap(lambda s: f(x + s))(jnp.arange(70.0)),
    "vmap of scan": lambda f, x: jax.vmap(
        lambda x: lax.scan(lambda c, y: (c, f(y + c)), x[0], FEW)[1]
    )(MANY + x),
    "vmap of while": lambda f, x: jax.vmap(
        lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(x + s[0])), (0, f(x)))
    )(MANY + x),
    "vmap of cond": lambda f, x: jax.vmap(
        lambda x: lax.cond(x[0] > 1, f, lambda x: jax.tree.map(jnp.negative, f(x)), x)
    )(MANY + x),
    "scan of vmap": lambda f, x: lax.scan(
        lambda c, _: (c + 0.1, jax.vmap(f)(c)), MANY + x, None, 2
    ),
    "jvp": lambda f, x: jax.jvp(f, (x,), (jnp.cos(x),)),
    "jvp of vmap": lambda f, x: jax.jvp(jax.vmap(f), (MANY + x,), (jnp.cos(MANY),)),
    "vmap of grad": lambda f, x: jax.vmap(jax.grad(lambda x: _total(f(x))))(MANY + x),
    "grad of vmap": lambda f, x: jax.grad(lambda x: _total(jax.vmap(f)(MANY + x)))(x),
    "linearize": lambda f, x: jax.linearize(f, x)[1](jnp.cos(x)),
    "vjp": lambda f, x: jax.vjp(f, x)[1](f(x + 1)),
    "checkpoint": lambda f, x: jax.grad(lambda x: _total(jax.checkpoint(f)(x)))(x),
    "Hessian of it": lambda f, x: jax.hessian(lambda x: _total(f(x)))(x),
    "Jacobian of it": lambda f, x: jax_cce.jacobian(f)(x),
    "donated": lambda f, x: jax.jit(f, donate_argnums=0)(jnp.array(x, copy=True)),
    "ahead of time": lambda f, x: jax.jit(jax.vmap(f)).lower(MANY).compile()(MANY + x),
    "exported": lambda f, x: export.export(jax.jit(jax.vmap(f)))(MANY).call(MANY + x),
    "shard_map": _sharded,
    "explicit mesh": _under_a_mesh,
    "one output of it": lambda f, x: jax.vmap(lambda x: jax.tree.leaves(f(x))[0])(MANY + x),
    "value of no use": lambda f, x: jax.jit(lambda x: (f(x), x)[1])(x),
}


@pytest.mark.filterwarnings("ignore:Some donated buffers")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_it_agrees_with_jax_under(use, f):
    ours = USES[use](jax.jit(jax_cce.jacobian(f)), X)
    assert_agree(ours, USES[use](jax.jit(jax.jacfwd(f)), X), tolerance=1e-9)


def _equations(fun, *args):
    """All equations of a traced function, inside of others too, the bodies of ours excepted."""
    pending, found = [jax.make_jaxpr(fun)(*args).jaxpr], []
    while pending:
        for equation in pending.pop().eqns:
            found.append(equation)
            if equation.primitive is not PLANNED_JACOBIAN:
                pending += jex_core.jaxprs_in_params(equation.params)
    return found


def _planned(fun, *args):
    return [each for each in _equations(fun, *args) if each.primitive is PLANNED_JACOBIAN]


def test_under_jit_it_is_one_equation():
    (equation,) = _planned(jax.jit(jax_cce.jacobian(banded)), X)
    assert [var.aval.shape for var in equation.outvars] == [(4, 4), (4,)]
    (equation,) = _planned(jax.jit(jax_cce.value_and_jacobian(dense)), X)
    assert [var.aval.shape for var in equation.outvars] == [(4,), (4, 4)]


def test_of_many_points_it_is_planned_anew():
    def terms(points):
        jacobian = jax.jit(jax_cce.jacobian(dense, order="reverse"))
        (equation,) = _planned(jax.vmap(jacobian), points)
        return str(equation.params["body"])

    # Of few points a sum of pads is one loop; of many, single entries are kept and written once.
    assert "pad[" in terms(FEW)
    assert "pad[" not in terms(MANY)
    seen_before = jax.vmap(jax_cce.jacobian(dense, order="reverse"))
    assert "pad[" not in str(jax.make_jaxpr(seen_before)(MANY))


def test_it_is_dropped_where_nobody_reads_it():
    def unread(x):
        return (jax.jit(jax_cce.value_and_jacobian(dense))(x), x + 1)[1]

    def value(x):
        return jax.jit(jax_cce.value_and_jacobian(dense, order="reverse"))(x)[0]

    assert "tanh" not in jax.jit(unread).lower(X).as_text()
    text = jax.jit(value).lower(X).as_text()
    assert "tanh" in text
    assert "stablehlo.sine" not in text
    for points in (FEW, MANY):
        mapped = jax.jit(jax.vmap(value))
        assert "stablehlo.sine" not in mapped.lower(points).as_text()
        assert_agree(mapped(points), jax.vmap(dense)(points))


def test_inside_a_scan_what_is_not_read_is_not_computed():
    def last(x):
        def step(x, _):
            value, jac = jax_cce.value_and_jacobian(dense, order="reverse")(x)
            return value, jac

        return lax.scan(step, x, None, 3)[0]

    assert "stablehlo.sine" not in jax.jit(last).lower(X).as_text()


@pytest.mark.parametrize("name", ["a callback", "an axis", "a sparse format", "a symbolic size"])
def test_what_it_cannot_hold_stays_plain(name):
    f, x = dense, X
    jacobian = jax_cce.jacobian(f)
    if name == "a callback":

        def f(x):
            jax.debug.callback(lambda x: None, x[0])
            return dense(x)

        jacobian = jax_cce.jacobian(f)
    elif name == "an axis":

        def f(x):
            return lax.pmean(dense(x), "points")

        jacobian, x = jax.vmap(jax.jit(jax_cce.jacobian(f)), axis_name="points"), FEW
    elif name == "a sparse format":
        jacobian = jax_cce.jacobian(f, format="bcoo")
    else:
        (n,) = export.symbolic_shape("n")
        x = jax.ShapeDtypeStruct((n,), X.dtype)
        jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * x)
    assert not _planned(jacobian, x)


def test_a_numpy_argument_beside_a_traced_one_stays_a_constant():
    def jacobian(x):
        return jax_cce.jacobian(lambda x, y: jnp.outer(x, y), argnums=(0, 1))(x, np.arange(3.0))

    (equation,) = _planned(jacobian, X)
    assert len(equation.invars) == 1
    assert_agree(
        jax.jit(jacobian)(X),
        jax.jacfwd(lambda x, y: jnp.outer(x, y), argnums=(0, 1))(X, jnp.arange(3.0)),
    )


def test_checkify_looks_inside():
    checked = checkify.checkify(
        jax.jit(jax_cce.jacobian(lambda x: jnp.log(x) * x[0])), errors=checkify.float_checks
    )
    assert checked(X)[0].get() is None
    assert "nan" in checked(-X)[0].get()


def test_without_jit_it_runs_operation_by_operation():
    program = jax.make_jaxpr(jax_cce.jacobian(banded))(X)
    with jax.disable_jit():
        found = jax.core.eval_jaxpr(program.jaxpr, program.consts, X)
    assert_agree(found, jax.tree.leaves(jax.jacfwd(banded)(X)))


def test_the_precision_is_that_of_the_trace():
    @jax.jit
    def jacobian(x):
        with jax.default_matmul_precision("highest"):
            return jax_cce.jacobian(lambda x: jnp.tanh(x @ x) @ x)(x)

    def precisions(points):
        (equation,) = _planned(jax.vmap(jacobian), points)
        dots = str(equation.params["body"])
        return dots.count("dot_general["), dots.count("precision=None")

    dots, unsaid = precisions(jnp.ones((70, 3, 3)))
    assert dots
    assert not unsaid
