"""NumPy scalars, rank 0, size 0 and size 1: everywhere a mask, a size, a stride or an offset is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from jax_cce.algebra.terms import Affine, Term, canonical

FORMATS = ("dense", "bcoo", "structured")
SHAPES = ((), (1,), (0,), (2, 1), (0, 2))
# What JAX keeps in an equation's parameters as it is given.
_0, _1, _2 = np.int64(0), np.int64(1), np.int32(2)


def _mask(shape, period):
    """Ones with a zero at every `period`-th place; zeros only for a period of 1."""
    size = int(np.prod(shape))
    return (np.arange(size).reshape(shape) % period > 0).astype(float)


def _entry(x):
    """The first entry, or zero of an empty array."""
    return x.reshape(-1)[:1].sum()


def _pad(x, low, high, interior):
    return lax.pad(x, jnp.zeros((), x.dtype), [(low, high, interior)] * x.ndim)


MASKS = {
    "entry of zeros": lambda x: _entry(x) * jnp.zeros(3)[0] + x,
    "entry of ones": lambda x: _entry(x) * jnp.ones(3)[_0] + x**2,
    "times zeros": lambda x: x * jnp.asarray(_mask(x.shape, 1)),
    "times a mask": lambda x: x**2 * jnp.asarray(_mask(x.shape, 2)),
    "where": lambda x: jnp.where(jnp.asarray(_mask(x.shape, 2)) > 0, jnp.sin(x), x),
    "select by rank 0": lambda x: lax.select_n(jnp.asarray(True), x, x**2),
    "select by an integer": lambda x: lax.select_n(jnp.asarray(1), x, x**2, x),
    "product of rank 0": lambda x: lax.dot_general(
        jnp.zeros(2)[0], x.sum(), dimension_numbers=(((), ()), ((), ()))
    ),
    "contraction with zeros": lambda x: jnp.tensordot(jnp.asarray(_mask(x.shape, 1)), x, x.ndim),
    "outer product with a mask": lambda x: jnp.tensordot(jnp.asarray(_mask((2, 9), 3)), x, 0),
    "masked sum": lambda x: jnp.sum(x**2, where=jnp.asarray(_mask(x.shape, 2)) > 0),
    "branches": lambda x: lax.cond(x.sum() > 0, lambda y: y * jnp.zeros(()), lambda y: y**2, x),
    "cross product": lambda x: jnp.cross(jnp.stack([_entry(x)] * 3), jnp.array([1.0, 0.0, 0.0])),
}

POSITIONS = {
    "a scalar index that is filled": lambda x: (
        x.ravel().at[np.array(7)].get(mode="fill", fill_value=0.0) * x
    ),
    "an index of rank 0": lambda x: x.ravel().at[_0].get(mode="fill", fill_value=0.0) + x,
    "no index": lambda x: jnp.take(x.ravel(), np.zeros((0,), int), mode="fill"),
    "one index of rank 2": lambda x: x.ravel().at[np.array([[9]])].get(mode="fill", fill_value=0.0),
    "a scalar update that is dropped": lambda x: (
        (x.ravel() ** 2).at[np.int64(9)].set(x.sum(), mode="drop")
    ),
    "an update at a scalar": lambda x: (x.ravel() ** 2).at[_0].add(_entry(x), mode="drop"),
    "an update of all": lambda x: (x**2).at[()].set(jnp.sin(x)),
    "a repetition of none": lambda x: jnp.repeat(x.ravel(), 0) ** 2,
    "a triangle": lambda x: jnp.tril(jnp.outer(x, x), _1),
}

PARAMETERS = {
    "slice": lambda x: lax.slice(x, [_0] * x.ndim, list(map(np.int64, x.shape)), [_2] * x.ndim),
    "pad": lambda x: _pad(x, _1, _2, _1) ** 2,
    "negative pad": lambda x: _pad(jnp.sin(_pad(x, _1, _2, _1)), -_1, _0, _1),
    "scan of pads": lambda x: lax.associative_scan(jnp.add, x.ravel() ** 2, reverse=True),
    "gradient of a scan of pads": jax.grad(
        lambda x: jnp.sum(jnp.log(1 + lax.associative_scan(jnp.multiply, x.ravel() + 1)))
    ),
    "reverse": lambda x: lax.rev(x, tuple(np.arange(x.ndim))) * x,
    "transpose": lambda x: jnp.sin(lax.transpose(x, np.arange(x.ndim)[::-1])),
    "reshape": lambda x: lax.reshape(x, (np.int64(x.size), _1)) ** 2,
    "broadcast": lambda x: lax.broadcast(x, (_2, _1)) ** 2,
    "concatenate": lambda x: lax.concatenate([x.ravel(), jnp.zeros((0,)), x.ravel() ** 2], _0),
    "split": lambda x: jnp.concatenate(jnp.split(x.ravel(), [_0, _1])[::-1]) ** 2,
    "roll": lambda x: jnp.roll(x, _1) * x,
    "tile": lambda x: jnp.tile(x, np.array([2, 1])) ** 2,
    "cumulative sum": lambda x: jnp.cumsum(x.ravel(), axis=_0) ** 2,
    "diagonal": lambda x: jnp.diag(x.ravel(), _1) ** 2,
    "dynamic slice": lambda x: lax.dynamic_slice(
        x, [_0] * x.ndim, [np.int64(min(1, size)) for size in x.shape]
    ),
    "segments": lambda x: jax.ops.segment_sum(x.ravel() ** 2, np.arange(x.size) % 2, _2),
    "convolution": lambda x: lax.conv_general_dilated(
        jnp.pad(x.ravel(), (1, 0))[None, None],
        jnp.array([[[1.0, 0.0, 2.0]]]),
        (_2,),
        [(_1, _2)],
        (_1,),
        (_2,),
    ),
    "window": lambda x: lax.reduce_window(
        x.ravel(), 0.0, lax.add, (_2,), (_1,), [(_1, _0)], base_dilation=(_1,)
    ),
}


def _works(function, x):
    """Whether JAX takes the function at this shape."""
    try:
        jax.eval_shape(jax.jacrev(function), x)
    except (TypeError, ValueError, IndexError):
        return False
    return True


def _checked(functions, x):
    """Compares all functions at once in all formats: most of the time goes into compilation."""
    functions = {name: f for name, f in functions.items() if _works(f, x)}
    assert functions

    def both(x):
        def every(x):
            return {name: function(x) for name, function in functions.items()}

        ours = {
            form: jax.tree.map(
                lambda block: block.todense() if hasattr(block, "todense") else block,
                jax_cce.jacobian(every, format=form)(x),
                is_leaf=lambda leaf: hasattr(leaf, "todense"),
            )
            for form in FORMATS
        }
        return ours, jax.jacrev(every)(x)

    ours, theirs = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(x)
    for form in FORMATS:
        for name in functions:
            np.testing.assert_allclose(
                ours[form][name], theirs[name], rtol=1e-10, atol=1e-12, err_msg=f"{name}, {form}"
            )


@pytest.mark.parametrize("functions", [MASKS, POSITIONS, PARAMETERS], ids=["m", "i", "p"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_shapes_and_numpy_scalars_agree_with_jax(functions, shape):
    size = int(np.prod(shape))
    _checked(functions, jnp.asarray(0.3 + 0.37 * np.arange(size).reshape(shape)))


@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_a_factor_that_is_zero_leaves_no_entry(form):
    jacobian = jax_cce.jacobian(lambda x: x[0] * jnp.zeros(3)[0] + x[1], format=form)
    entries = jacobian(jnp.ones(3))
    assert (entries.nse if form == "bcoo" else entries.nnz) == 1
    np.testing.assert_array_equal(entries.todense(), [0, 1, 0])


@pytest.mark.parametrize("form", FORMATS)
def test_the_gradient_of_a_cox_likelihood(form):
    features = jnp.arange(18.0).reshape(6, 3) % 5 / 4
    events = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])

    def likelihood(b):
        at_risk = lax.associative_scan(jnp.add, jnp.exp(features @ b), reverse=True)
        return -jnp.sum(events * (features @ b - jnp.log(at_risk)))

    ours = jax_cce.jacobian(jax.grad(likelihood), format=form)(jnp.ones(3))
    ours = ours if form == "dense" else ours.todense()
    np.testing.assert_allclose(ours, jax.hessian(likelihood)(jnp.ones(3)), rtol=1e-10)


def test_the_hessian_takes_them_too():
    def f(x):
        padded = jnp.sin(_pad(x, _1, _2, _1)) * jnp.zeros(2)[_0]
        return jnp.sum(padded) + jnp.sum(x.at[_0].get(mode="fill", fill_value=0.0) * x**2)

    x = jnp.arange(1.0, 4.0)
    for form in FORMATS:
        ours = jax_cce.hessian(f, format=form)(x)
        ours = ours if form == "dense" else ours.todense()
        np.testing.assert_allclose(ours, jax.hessian(f)(x), rtol=1e-10, atol=1e-12)


_integers = st.sampled_from([int, np.int32, np.int64, np.uint8])


@given(st.tuples(*[_integers] * 5), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_a_canonical_term_holds_integers_of_python_only(types, size, offset, stride):
    one, two, three, four, five = types
    maps = (Affine(one(offset), ((0, two(stride)), (1, three(1)))),)
    found = canonical(Term((four(size), five(3)), maps, maps, None))
    assert found is not None
    term, _ = found
    numbers = [*term.sizes]
    for affine in term.out_map + term.in_map:
        numbers += [affine.offset, *(number for pair in affine.strides for number in pair)]
    assert {type(number) for number in numbers} == {int}
