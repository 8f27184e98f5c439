"""Masks over singularities: a result that one of JAX's modes finds finite is finite in every order.

Forward mode drops what a mask hides on its way to the outputs, reverse mode on its way to the
inputs, so that a function may be differentiated by both, by one or by neither. Other orders compose
coefficients between masks, where 0 * inf must not arise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jax_cce
from cases.agreement import assert_agree


class Case(NamedTuple):
    fun: Callable[..., Any]
    args: tuple[Any, ...]


CASES: dict[str, Case] = {}


def case(*args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(fun: Callable[..., Any]) -> Callable[..., Any]:
        CASES[fun.__name__] = Case(fun, args)
        return fun

    return add


R = jnp.array([[0.0, 0.0], [1.1, 0.1], [0.2, 1.2], [1.3, 1.4]])
X = jnp.array([1.5, 0.0, -2.0, 0.25])
Q = jnp.array([1.0, -2.0, 0.5, 1.5])
EYE = jnp.eye(4, dtype=bool)


def squared(R):
    return jnp.sum((R[:, None] - R[None]) ** 2, -1)


def safe_distance(R):
    d2 = squared(R)
    return jnp.where(d2 > 0, jnp.sqrt(jnp.where(d2 > 0, d2, 0.0)), 0.0)


@case(R)
def lennard_jones(R):
    """With a cutoff and a mask, as in jax-md."""
    d = safe_distance(R)
    e = 4 * ((1 / d) ** 12 - (1 / d) ** 6)
    e = jnp.where(d < 1.6, e, 0.0)
    return jnp.sum(jnp.where(EYE, 0.0, e))


@case(R)
def smooth_cutoff(R):
    d = safe_distance(R)
    e = (6 - d**2) ** 2 / d**6
    return jnp.sum(jnp.where(EYE, 0.0, e), 0)


@case(R)
def yukawa(R):
    d = safe_distance(R)
    return jnp.sum(jnp.where(EYE, 0.0, jnp.exp(-d) / d))


@case(R)
def charges(R):
    """Without a safe distance: only forward mode is finite."""
    r = jnp.sqrt(squared(R))
    return jnp.sum(jnp.where(r > 0, Q[:, None] * Q / r, 0.0))


@case(R)
def pairs_of_a_list(R):
    """A neighbour list whose unused places name the particle itself."""
    at = jnp.array([[1, 2, 3], [0, 2, 1], [0, 1, 2], [3, 3, 3]])
    d = R[:, None] - R[at]
    used = at != jnp.arange(4)[:, None]
    r = jnp.sqrt(jnp.sum(d * d, -1))
    return jnp.sum(jnp.where(used, jnp.exp(-r) / r**3, 0.0), 1)


@case(X)
def logarithm(x):
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 0.0)) ** 2 * x, x)


@case(X)
def logarithm_masked_after(x):
    return jnp.where(x > 0, jnp.sin(3.0 * jnp.log(x)) * x**2, 0.0)


@case(X)
def root_masked_before(x):
    """Only reverse mode is finite."""
    y = jnp.where(x > 0, x, 0.0)
    return 3.0 * jnp.sqrt(2.0 * y) * 1.5


@case(X)
def root_masked_before_and_bounded(x):
    y = jnp.where(x > 0, x, 0.0)
    return jnp.minimum(1 / (3.0 * y), 5.0) * 2.0


@case(X)
def quotient(x):
    y = jnp.where(x != 0, x, 0.0)
    return jnp.where(x != 0, (jnp.sin(y) / y) ** 2 * y, 1.0)


@case(X)
def power(x):
    y = jnp.where(x > 0, x, 0.0)
    return jnp.where(x > 0, (2 * y) ** 0.5 * y**-1.5, y)


@case(X)
def inverse_cosine(x):
    inside = jnp.abs(x) < 1
    y = jnp.where(inside, x, 1.0)
    return jnp.where(inside, jnp.arccos(y) ** 2 / (1 - y**2), 0.0)


@case(X)
def arctangent_of_two(x):
    y = jnp.where(x > 0, x, 0.0)
    return jnp.where(x > 0, jnp.arctan2(2 * y, 3 * y**2) * y, 0.0)


@case(jnp.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))
def norms(v):
    some = jnp.any(v != 0, -1)
    n = jnp.linalg.norm(jnp.where(some[:, None], v, 0.0), axis=-1)
    return n * n + n


@case(jnp.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))
def norms_by_products(v):
    def one(v):
        some = jnp.any(v != 0)
        w = jnp.where(some, v, 0.0)
        return 2.0 * jnp.sqrt(w @ w) * 0.5

    return jax.vmap(one)(v)


@case(jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, -1.0]]))
def unit_quaternions(q):
    def one(q):
        n2 = jnp.sum(q**2)
        n = jnp.sqrt(n2)
        u = jnp.where(n > 0, q / n, jnp.array([1.0, 0.0, 0.0, 0.0]))
        w, v = u[0], u[1:]
        return jnp.stack([w * w - v @ v, 2 * w * v[0], 2 * v[1] * v[2]])

    return jax.vmap(one)(q)


@case(jnp.array([0.0, 0.0, 0.0]))
def rotation_vector(v):
    """Rodrigues' formula at the identity, by a safe angle."""
    t2 = jnp.sum(v**2)
    small = t2 < 1e-12
    t = jnp.sqrt(jnp.where(small, 1.0, t2))
    a = jnp.where(small, 1 - t2 / 6, jnp.sin(t) / t)
    b = jnp.where(small, 0.5 - t2 / 24, (1 - jnp.cos(t)) / t**2)
    K = jnp.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return jnp.eye(3) + a * K + b * K @ K


@case(jnp.array([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0], [2.0, 0.3, 0.2]]))
def masked_softmax(x):
    """A row without any entry has NaN for its weights, which a mask hides."""
    mask = jnp.array([[True, True, False], [False, False, False], [True, False, False]])
    logits = jnp.where(mask, 2.0 * x, -jnp.inf)
    e = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    p = e / jnp.sum(e, -1, keepdims=True)
    return jnp.where(mask.any(-1, keepdims=True), p, 0.0) * x


@case(jnp.array([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0], [2.0, 0.3, 0.2]]))
def masked_attention(x):
    mask = jnp.array([[True, True, False], [False, True, False], [False, False, False]])
    logits = jnp.where(mask, x @ x.T, -jnp.inf)
    p = jax.nn.softmax(logits, axis=-1)
    p = jnp.where(mask.any(-1, keepdims=True), p, 0.0)
    return p @ jnp.tanh(x)


@case(jnp.array([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0]]))
def logsumexp_of_masked(x):
    mask = jnp.array([[True, True, False], [True, False, False]])
    return jax.nn.logsumexp(jnp.where(mask, x, -jnp.inf), axis=-1) ** 2


@case(X)
def huber(x):
    a = jnp.abs(x)
    return jnp.where(a < 1, 0.5 * x * x, a - 0.5) * jnp.sqrt(1 + x**2)


@case(X)
def pseudo_huber_at_its_kink(x):
    y = x - 0.25
    return jnp.where(y == 0, 0.0, jnp.sqrt(jnp.where(y == 0, 0.0, y * y)) ** 1.5)


@case(jnp.array([0.1, 0.5, 1.0, 2.0]))
def tukey(x):
    inside = x < 1
    u = jnp.where(inside, x, 0.0)
    return jnp.where(inside, 1 - (1 - u**2) ** 3 / (1 + jnp.sqrt(u)), 1.0)


@case(jnp.array([1.0, 2.0, -3.0, 0.5]))
def masked_means_of_segments(x):
    segment = jnp.array([0, 0, 2, 2])
    count = jnp.zeros(3).at[segment].add(jnp.array([1.0, 1.0, 1.0, 1.0]))
    total = jnp.zeros(3).at[segment].add(x)
    mean = jnp.where(count > 0, total / count, 0.0)
    return jnp.where(count > 0, (mean / total) ** 2 * mean, 0.0)


@case(jnp.array([1000.0, 2.0, -3.0, 0.5]))
def overflow_in_the_other_branch(x):
    return jnp.where(x < 700, 3.0 * jnp.expm1(x * 1.0) ** 2 * jnp.exp(-x), x)


@case(jnp.array([1.0, 2.0]))
def missing_data(p):
    """NaN among the data, masked after it has met the parameters."""
    y = jnp.array([1.0, jnp.nan, 2.0, jnp.nan, 0.5])
    t = jnp.arange(5.0)
    r = (y - p[0] * jnp.exp(-p[1] * t)) ** 2 * y
    return jnp.sum(jnp.where(jnp.isnan(y), 0.0, r))


@case(X)
def masked_steps(x):
    def step(c, a):
        b = jnp.where(a > 0, a, 1.0)
        c = jnp.where(a > 0, c * jnp.sqrt(b) + jnp.log(b), c)
        return c, c * a

    last, every = lax.scan(step, 1.0 + x[0], x)
    return jnp.concatenate([every, last[None]])


@case(X)
def steps_masked_after(x):
    def step(c, a):
        c = jnp.where(a > 0, c / a + jnp.log(a), c)
        return c, c

    return lax.scan(step, 1.0 + x[0], x)[1]


@case(X)
def steps_masked_before(x):
    def step(c, a):
        b = jnp.where(a > 0, a, 0.0)
        return c + jnp.sqrt(2.0 * b) * c, c

    return lax.scan(step, 1.0 + x[0], x)[1]


@case(X)
def mapped_cond(x):
    def one(x):
        return lax.cond(x > 0, lambda x: jnp.log(x) * jnp.sqrt(x) / x, lambda x: x, x)

    return jax.vmap(one)(x)


@case(X)
def cond_of_cond(x):
    def one(x):
        y = lax.cond(x > 0, lambda x: x, lambda x: 0.0 * x, x)
        return lax.cond(x > 0, lambda y: jnp.sqrt(y) / y**2, lambda y: y, y) * x

    return jax.vmap(one)(x)


@case(X, jnp.array(0.0))
def safe_division_by_a_scalar(x, s):
    return jnp.where(s > 0, jnp.sin(x / s) * x / s**2, x * s)


@case(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
def operator_between_masks(A):
    def one(A, good):
        B = jnp.where(good, A, 0.0)
        L = jnp.linalg.cholesky(B)
        return jnp.where(good, jnp.sum(jnp.log(jnp.diag(L)) ** 2), 0.0)

    return jax.vmap(one, (None, 0))(A, jnp.array([True, False]))


@case(X)
def custom_rule_with_masks(x):
    @jax.custom_jvp
    def root(x):
        return jnp.sqrt(x)

    @root.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        y = root(x)
        t = jnp.where(x > 0, t, 0.0)
        return y, t * 0.5 * x / (y * y * y)

    return 2.0 * root(jnp.where(x > 0, 3.0 * x, 0.0))


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"order": "markowitz"},
    {"order": "reverse"},
    {"format": "bcoo", "order": "markowitz"},
    {"format": "structured", "order": "forward"},
)


def dense(J: Any) -> list[Any]:
    leaves = jax.tree.leaves(J, is_leaf=lambda x: hasattr(x, "todense"))
    return [x.todense() if hasattr(x, "todense") else x for x in leaves]


def check(fun: Callable[..., Any], args: tuple[Any, ...], ways: Sequence[dict[str, Any]]) -> bool:
    """Asserts that all ways agree with a mode of JAX that is finite; whether one is."""
    argnums = tuple(range(len(args)))

    @jax.jit
    def evaluate(*args: Any) -> Any:
        modes = [dense(mode(fun, argnums)(*args)) for mode in (jax.jacrev, jax.jacfwd)]
        return modes, [dense(jax_cce.jacobian(fun, argnums, **way)(*args)) for way in ways]

    modes, ours = evaluate(*args)
    finite = [leaves for leaves in modes if all(np.isfinite(x).all() for x in leaves)]
    if not finite:
        return False
    for way, leaves in zip(ways, ours, strict=True):
        for our, their in zip(leaves, finite[0], strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-9, atol=1e-9, err_msg=str(way))
    return True


@case(jnp.zeros(3))
def mask_in_a_branch(x):
    """Beside a singularity and what it is multiplied with; forward mode is finite."""
    safe = lambda a: jnp.where(a > 0, jnp.log(a), 0.0) * a  # noqa: E731
    return jnp.sum(x * lax.cond(x[0] > 0, jnp.sqrt, safe, x))


@case(jnp.zeros(3))
def masks_in_branches_of_a_loop(x):
    branches = [jnp.sin, lambda a: jnp.where(a > 0, jnp.sqrt(a), 0.0) * a]
    return lax.scan(lambda c, a: (c, lax.switch(1, branches, a) * c), x[0], x)[1]


@pytest.mark.parametrize("name", CASES)
def test_a_finite_jacobian_is_finite_in_every_order(name: str):
    assert check(*CASES[name], WAYS)


@pytest.mark.parametrize("name", ["smooth_cutoff", "quotient", "masked_softmax", "huber"])
def test_a_finite_hessian_is_finite_in_every_order(name: str):
    fun, args = CASES[name]
    gradient = jax.grad(lambda *args: jnp.sum(fun(*args)), range(len(args)))
    assert check(gradient, args, WAYS[:2])
    # As called: the inner Jacobian is ours, too.
    value = lambda *args: jnp.sum(fun(*args))  # noqa: E731
    for form in ("dense", "bcoo"):
        ours = jax_cce.hessian(value, range(len(args)), format=form)(*args)
        theirs = jax.hessian(value, range(len(args)))(*args)
        for our, their in zip(dense(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-9, atol=1e-9)


def test_what_is_undefined_in_both_modes_stays_so():
    for fun, x in (
        (lambda x: jnp.sqrt(jnp.sum(x**2)), jnp.zeros(2)),
        (lambda x: jnp.where(x > -1, jnp.sqrt(x * x), 0.0), jnp.zeros(2)),
        (lambda x: jnp.maximum(x, 0.0) * jnp.log(x), jnp.zeros(2)),
    ):
        J = jax.jacrev(fun)(x), jax.jacfwd(fun)(x)
        assert not np.isfinite(J[0]).all()
        assert not np.isfinite(J[1]).all()
        for order in ("auto", "markowitz", "forward", "reverse"):
            ours = np.diag(np.atleast_2d(jax_cce.jacobian(fun, order=order)(x)))
            assert not np.isfinite(ours).any(), order


def test_programs_without_hidden_singularities_pay_nothing():
    W = jnp.eye(3)
    for fun in (
        lambda x: W @ jax.nn.relu(W @ jax.nn.relu(W @ x)),
        lambda x: x[1:] / x[:-1],
        lambda x: jnp.where(x > 0, 3.0 * x, 2.0 * x) / 3.0,
        lambda x: jnp.log(jnp.where(x > 0, x, 1.0 - x)),
        lambda x: jnp.clip(x, -1.0, 1.0) * 2.0,
    ):
        paths = jax_cce.plan(fun)(jnp.ones(3)).graph.open_paths
        assert not paths
        assert not paths.sites


def test_both_cases_of_a_choice_lead_on():
    """What is read by either case is live, and what both give is reached."""
    fun = lambda x: jnp.sqrt(jnp.where((y := 1 / x) > 1, jnp.sin(y), y * y))  # noqa: E731
    plan = jax_cce.plan(fun)(jnp.ones(3))
    guarded = {plan.graph.program.equations[site].name for site, _ in plan.graph.open_paths.guarded}
    assert not guarded & {"div", "sqrt"}


_OVERFLOWS = jnp.array([1000.0, 0.0, 1.0])
_BEHIND_A_SUM = {
    "softmax without a shift": lambda x: jnp.where(x > -1, 0.0, x / jnp.sum(jnp.exp(x))),
    "then a product": lambda x: jnp.where(x > -1, 0.0, x / jnp.sum(jnp.exp(x))) * x,
    "scalar mask": lambda x: jnp.where(jnp.sum(x) > 0, 0.0, jnp.log(jnp.sum(jnp.exp(x)))) + x[0],
    "matrix": lambda x: jnp.where(jnp.ones(2, bool), 0.0, jnp.ones((2, 3)) @ jnp.expm1(x)),
    "mean": lambda x: jnp.where(x[0] > 0, x[1], jnp.mean(jnp.cosh(x))),
}


@pytest.mark.parametrize("name", _BEHIND_A_SUM)
@pytest.mark.parametrize("order", ["auto", "forward", "reverse", "markowitz"])
def test_an_overflow_before_a_sum_that_a_mask_hides(name, order):
    fun = _BEHIND_A_SUM[name]
    expected = jax.jacfwd(fun)(_OVERFLOWS)
    assert jnp.isfinite(expected).all()
    for form in ("dense", "bcoo"):
        found = jax_cce.jacobian(fun, order=order, format=form)(_OVERFLOWS)
        assert_agree(found if form == "dense" else found.todense(), expected)
