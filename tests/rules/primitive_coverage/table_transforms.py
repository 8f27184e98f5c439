"""Rows for what jax, jax.random and others offer around a function; not held to be complete.

They bring in the primitives that no numerical function leads to: checkpoints, custom derivatives,
references, collectives over devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax as jlax
from rows import NO_EMPTY, NO_SINGLE, NO_UNEQUAL, PAIRS, UNARY, Table, each

core = Table("jax")
debug = Table("jax.debug")
random = Table("jax.random")
ops = Table("jax.ops")
names = Table("jax.ad_checkpoint")
batching = Table("jax.custom_batching")
derivatives = Table("jax.custom_derivatives")

core(
    "jit vmap",
    each((3, 4), (1,), (0, 2)),
    lambda f, x: f(lambda row: jnp.sin(row) * jnp.sum(row))(x),
)
core("checkpoint", UNARY, lambda f, x: f(lambda a: jnp.sin(jnp.sin(a)) * a)(x))
core("grad", UNARY, lambda f, x: f(lambda a: jnp.sum(jnp.sin(a) * a * a))(x))
core("value_and_grad", UNARY, lambda f, x: f(lambda a: jnp.sum(jnp.sin(a) * a))(x))
core(
    "jacfwd jacrev",
    each((3,), (), (0,)),
    lambda f, x: f(lambda a: jnp.sin(a) * jnp.sum(a))(x),
    lacks=NO_UNEQUAL,
)
core(
    "hessian",
    each((3,), (), (0,)),
    lambda f, x: f(lambda a: jnp.prod(jnp.sin(a)))(x),
    lacks=NO_UNEQUAL,
)
core("jvp", PAIRS, lambda f, x, t: f(lambda a: jnp.sin(a) * a, (x,), (t,)))
core("vjp", PAIRS, lambda f, x, t: f(lambda a: jnp.sin(a) * a, x)[1](t))
core("linearize", PAIRS, lambda f, x, t: f(lambda a: jnp.sin(a) * a, x)[1](t))
core("device_put", UNARY, lambda f, x: f(x * x))
core("named_call", UNARY, lambda f, x: f(jnp.sin, name="wave")(x))


def _straight_through(f, x):
    rounded = f(jlax.floor)
    rounded.defjvp(lambda primals, tangents: (jlax.floor(*primals), *tangents))
    return rounded(x) * x


def _straight_through_backward(f, x):
    rounded = f(jlax.floor)
    rounded.defvjp(lambda a: (jlax.floor(a), ()), lambda _, ct: (ct,))
    return rounded(x) * x


core("custom_jvp", UNARY, _straight_through)
core("custom_vjp", UNARY, _straight_through_backward)
core("custom_gradient", UNARY, lambda f, x: f(lambda a: (jnp.sin(a), lambda g: 3.0 * g))(x))
derivatives(
    "linear_call",
    PAIRS,
    lambda f, _, y: f(lambda r, a: r * a, lambda r, ct: r * ct, 2.0, y),
    reference="none",
)
names("checkpoint_name", UNARY, lambda f, x: f(jnp.sin(x), "wave") * x)


def _custom_vmap(f, x):
    sine = f(jnp.sin)
    sine.def_vmap(lambda size, batched, a: (jnp.sin(a), batched[0]))
    return sine(x)


batching("custom_vmap", UNARY, _custom_vmap, reference="fwd")


def _through_reference(f, x):
    ref = f(jnp.sin(x))
    ref[...] = ref[...] * x
    ref[...] += x
    return jax.freeze(ref)


def _of_max_pool(f, x):
    def pool(a):
        return jlax.reduce_window(a, -np.inf, jlax.max, (2, 2), (1, 1), "SAME")

    if f is jax.grad:
        return f(lambda a: jnp.sum(jnp.sin(pool(a))))(x)
    return f(pool, (x,), (jnp.sin(x),))


core("new_ref", UNARY, _through_reference)
debug(
    "callback print",
    UNARY,
    lambda f, x: (f("{}", x.shape) if f is jax.debug.print else f(len, x.shape), x * x)[1],
)

core("grad jvp", each((3, 4), (1, 2), (0, 2)), _of_max_pool, variant="of max pool")
random(
    "normal",
    each((3,)),
    lambda f, x: x * f(jax.random.key(0, impl="rbg"), x.shape, x.dtype),
    lacks=NO_EMPTY | NO_SINGLE | NO_UNEQUAL,
)
ops("segment_sum", each((4, 3), (1,), (0, 2)), lambda f, x: f(x, np.arange(len(x)) // 2, 2))

# --- collectives over devices: under jax.vmap they leave no trace in the jaxpr --------------------


def _over_devices(fun):
    """Runs a function on two devices' blocks of the leading axis, which is named ``i``."""

    def call(f, x):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("i",))
        spec = jax.sharding.PartitionSpec("i")
        return f(fun, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    return call


SHARDS = {"empty": "a device would get no block"} | NO_SINGLE
core(
    "shard_map",
    each((2, 3)),
    _over_devices(lambda block: jnp.sin(jlax.psum(block, "i")) * block),
    variant="psum",
    lacks=SHARDS,
)
core(
    "shard_map",
    each((2, 3)),
    _over_devices(lambda block: jlax.ppermute(jnp.sin(block), "i", [(0, 1), (1, 0)])),
    variant="ppermute",
)
core(
    "shard_map",
    each((2, 3)),
    _over_devices(lambda block: jlax.all_gather(jnp.sin(block), "i", tiled=True)),
    variant="all_gather",
)
core(
    "shard_map",
    each((4, 2)),
    _over_devices(lambda block: jlax.all_to_all(jnp.sin(block), "i", 1, 0, tiled=True)),
    variant="all_to_all",
)
core(
    "shard_map",
    each((4, 3)),
    _over_devices(lambda block: jlax.psum_scatter(jnp.sin(block), "i", tiled=True)),
    variant="psum_scatter",
)

_TABLES = (core, debug, random, ops, names, batching, derivatives)
rows = [row for table in _TABLES for row in table.rows]
absent = [name for table in _TABLES for name in table.absent]
