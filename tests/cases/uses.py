"""Ways in which a Jacobian is used under transformations, single and of few and many points."""

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.sharding import PartitionSpec as P

import jax_cce


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
