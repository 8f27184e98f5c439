"""Under a trace the planned Jacobian is one equation, which JAX transforms as any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import checkify
from jax.extend import core as jex_core

import jax_cce
from cases.agreement import assert_agree
from cases.uses import FEW, FUNCTIONS, MANY, USES, X, banded, dense
from jax_cce.execution.primitive import PLANNED_JACOBIAN


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
