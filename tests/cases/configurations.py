"""The matrix of configurations, transformations, formats and functions, with JAX's answers.

A *cell* is one choice from each of four tables. What JAX answers in the same configuration is right
in every cell. A new flag of a new JAX is one more row of `CONFIGURATIONS`.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

import jax_cce
from cases.agreement import outcome
from cases.blocks import dense

__all__ = [
    "CONFIGURATIONS",
    "FORMATS",
    "FUNCTIONS",
    "REVIEWED",
    "TRANSFORMATIONS",
    "Cell",
    "covering",
    "outcomes",
    "product",
]


# --- functions -----------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function, its arguments, and what it is differentiated for.

    Attributes:
        fun: the function.
        args: its arguments, NumPy arrays of 32 bits that every configuration takes for the same.
        options: as for `jax.jacrev`.
        reference: `jax.jacrev`, or `jax.jacfwd` where only that has an answer.
        second: `jax.hessian`, or what has an answer.
    """

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    reference: Any = jax.jacrev
    second: Any = jax.hessian


def _array(*shape: int) -> np.ndarray:
    size = int(np.prod(shape))
    return (0.3 + np.arange(size, dtype=np.float32) * 0.37 % 1.0).reshape(shape)


_X, _A = _array(3), _array(3, 3)


@jax.custom_jvp
def _with_jvp(x):
    return jnp.sin(x) * x


_with_jvp.defjvp(lambda p, t: (_with_jvp(p[0]), t[0] * jnp.cos(p[0])))


@jax.custom_vjp
def _with_vjp(x):
    return jnp.sum(x * x)


_with_vjp.defvjp(lambda x: (_with_vjp(x), x), lambda x, g: (g * x,))


def _scan(x):
    return lax.scan(lambda c, a: (c * jnp.sin(a), c + a), x[0], x)


def _while(x):
    def step(pair):
        return pair[0] + jnp.int32(1), pair[1] * x[0] + x[1]

    return lax.while_loop(lambda pair: pair[0] < 3, step, (jnp.int32(0), x[2]))[1]


def _network(x, a):
    return jnp.tanh(a @ jax.nn.relu(a @ x)) / 2


def _factored(a):
    # No factorisation is asked of JAX for more than it differentiates under "raise".
    factor = jnp.linalg.cholesky(a @ a.T + jnp.eye(3, dtype=a.dtype))
    return lax.linalg.triangular_solve(factor, a, left_side=True, lower=True)


def _mixed(tree):
    low, high = tree["low"], tree["high"]
    return {"a": high * lax.convert_element_type(low, high.dtype) ** 2, "b": high[::-1]}


_mixed_args = ({"low": _X.astype(np.float16), "high": _X},)

FUNCTIONS: dict[str, Function] = {
    "elementwise": Function(lambda x: jnp.sin(x) * jnp.exp(x) + x**2, (_X,)),
    "network": Function(_network, (_X, _A), {"argnums": (0, 1)}),
    "gather and scatter": Function(
        lambda x: (
            x.at[jnp.array([0, 2])].add(x[:2] ** 2) * jnp.take(x, jnp.array([2, 1, 0]), mode="fill")
        ),
        (_X,),
    ),
    "scan": Function(_scan, (_X,)),
    "while": Function(_while, (_X,), {}, jax.jacfwd, lambda f: jax.jacfwd(jax.jacfwd(f))),
    "cond": Function(lambda x: lax.cond(x[0] > 0, lambda y: y * y[0], lambda y: y, x), (_X,)),
    "custom_jvp": Function(lambda x: _with_jvp(x) * x, (_X,)),
    "custom_vjp": Function(
        lambda x: _with_vjp(x) * x, (_X,), {}, jax.jacrev, lambda f: jax.jacrev(jax.jacrev(f))
    ),
    "fft": Function(lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2, (_X,)),
    "factorisation": Function(_factored, (_A,)),
    "cumsum and sort": Function(lambda x: jnp.sort(jnp.cumsum(x)) * x[::-1], (_X,)),
    "integers": Function(
        lambda n, x: x * lax.convert_element_type(n, x.dtype),
        (np.int32(2), _X),
        {"argnums": (0, 1), "allow_int": True},
    ),
    "mixed dtypes": Function(_mixed, _mixed_args),
    "convolution": Function(lambda x: jnp.convolve(x, x[:2]), (_X,)),
    "random numbers": Function(lambda x: x * jax.random.normal(jax.random.key(0), (3,)), (_X,)),
    "max and where": Function(lambda x: jnp.where(x > 0.5, x, 2 * x) * jnp.max(x), (_X,)),
    "python number": Function(lambda x: jnp.sin(x) * x, (0.5,)),
}


# --- transformations -----------------------------------------------------------------------------


class Transformation(NamedTuple):
    """How a Jacobian is asked for.

    Attributes:
        apply: the answer of a function of arrays at some arguments.
        of: from a function, its options and the format to what has to be applied.
        reference: the same of JAX, from a `Function`.
    """

    apply: Callable[[Any, Any], Any]
    of: Callable[..., Any] = jax_cce.jacobian
    reference: Callable[[Any], Any] = lambda f: f.reference(f.fun, **_kept(f))


def _kept(function: Function) -> dict[str, Any]:
    """The options that JAX's function has: `jax.jacfwd` and `jax.hessian` take no integers."""
    options = dict(function.options)
    if function.reference is jax.jacfwd:
        options.pop("allow_int", None)
    return options


def _stacked(args: Any) -> Any:
    return jax.tree.map(lambda x: jnp.stack([x, x]) if not isinstance(x, float) else x, args)


def _mapped(function: Any, args: Any) -> Any:
    axes = tuple(None if isinstance(arg, float) else 0 for arg in args)
    if all(axis is None for axis in axes):
        return function(*args)
    return jax.vmap(function, axes)(*_stacked(args))


def _derivative(function: Any, args: Any) -> Any:
    """A directional derivative, forward since a loop has no other."""
    leaves, tree = jax.tree.flatten(args)
    moving = [
        k for k, leaf in enumerate(leaves) if np.issubdtype(np.asarray(leaf).dtype, np.floating)
    ]

    def of_moving(*varied: Any) -> Any:
        full = list(leaves)
        for k, value in zip(moving, varied, strict=True):
            full[k] = value
        blocks = jax.tree.leaves(function(*jax.tree.unflatten(tree, full)))
        return [block for block in blocks if jnp.issubdtype(block.dtype, np.floating)]

    at = tuple(jnp.asarray(leaves[k]) for k in moving)
    return jax.jit(lambda at: jax.jvp(of_moving, at, tuple(map(jnp.ones_like, at))))(at)


def _exported(function: Any, args: Any) -> Any:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.typeof(x).dtype), args)
    return export.export(jax.jit(function))(*shapes).call(*args)


def _second(function: Function) -> Any:
    options = dict(function.options)
    options.pop("allow_int", None)
    return function.second(function.fun, **options)


def _hessian(fun: Any, *, format: str, allow_int: bool = False, **options: Any) -> Any:
    return jax_cce.hessian(fun, format=format, **options)


TRANSFORMATIONS: dict[str, Transformation] = {
    "eager": Transformation(lambda function, args: function(*args)),
    "jit": Transformation(lambda function, args: jax.jit(function)(*args)),
    "vmap": Transformation(_mapped),
    "vmap of jit": Transformation(lambda function, args: _mapped(jax.jit(function), args)),
    "jit of vmap": Transformation(
        lambda function, args: jax.jit(lambda *args: _mapped(function, args))(*args)
    ),
    "derivative": Transformation(_derivative),
    "lower and compile": Transformation(
        lambda function, args: jax.jit(function).lower(*args).compile()(*args)
    ),
    "export": Transformation(_exported),
    "value_and_jacobian": Transformation(
        lambda function, args: function(*args),
        jax_cce.value_and_jacobian,
        lambda f: (
            lambda *args: (
                f.fun(*jax.tree.map(jnp.asarray, args)),
                f.reference(f.fun, **_kept(f))(*args),
            )
        ),
    ),
    "hessian": Transformation(lambda function, args: function(*args), _hessian, _second),
}

FORMATS = ("dense", "bcoo", "structured")


# --- configurations ------------------------------------------------------------------------------


class Configuration(NamedTuple):
    """Flags of JAX that are set around everything, and whether 64 bits are set inside.

    Attributes:
        flags: names and values; those that this version lacks are left out.
        inside: whether the function enables or disables 64-bit types, None for neither.
    """

    flags: dict[str, Any]
    inside: bool | None = None

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """Sets the flags."""
        before = {
            name: getattr(jax.config, name) for name in self.flags if name in jax.config.values
        }
        for name in before:
            jax.config.update(name, self.flags[name])
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)

    def function(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with 64-bit types enabled or disabled inside."""
        if self.inside is None:
            return fun
        dtype = {True: np.float64, False: np.float32}[self.inside]

        def inside(*args: Any) -> Any:
            with jax.enable_x64(self.inside):
                return fun(*jax.tree.map(lambda x: _as_dtype(x, np.dtype(dtype)), args))

        return inside


def _as_dtype(x: Any, dtype: np.dtype) -> Any:
    return (
        lax.convert_element_type(x, dtype) if jax.typeof(x).dtype in (np.float32, np.float64) else x
    )


# The tests run with 64-bit types enabled and default flags else. Flags that have nothing to do with
# each other share a row, so that the rows are few; one row sets what must not matter.
CONFIGURATIONS: dict[str, Configuration] = {
    "default": Configuration({}),
    "32 bits": Configuration({"jax_enable_x64": False}),
    "64 bits inside": Configuration({"jax_enable_x64": False}, True),
    "32 bits inside": Configuration({}, False),
    "strict promotion": Configuration({"jax_numpy_dtype_promotion": "strict"}),
    "no rank promotion": Configuration({"jax_numpy_rank_promotion": "raise"}),
    "neither promotion, 32 bits": Configuration(
        {
            "jax_numpy_dtype_promotion": "strict",
            "jax_numpy_rank_promotion": "raise",
            "jax_enable_x64": False,
        }
    ),
    "leaks and checks": Configuration({"jax_check_tracer_leaks": True, "jax_enable_checks": True}),
    "nans and infs": Configuration({"jax_debug_nans": True, "jax_debug_infs": True}),
    "no jit": Configuration({"jax_disable_jit": True}),
    "precision": Configuration(
        {"jax_default_matmul_precision": "highest", "jax_allow_f16_reductions": False}
    ),
    "other random numbers": Configuration(
        {
            "jax_default_prng_impl": "rbg",
            "jax_enable_custom_prng": True,
            "jax_threefry_partitionable": False,
            "jax_random_seed_offset": 1,
            "jax_legacy_prng_key": "error",
            "jax_debug_key_reuse": True,
        }
    ),
    "other ways to trace": Configuration(
        {
            "jax_use_direct_linearize": False,
            "jax_use_simplified_jaxpr_constants": True,
            "jax_softmax_custom_jvp": True,
            "eager_constant_folding": True,
            "jax_explicit_x64_dtypes": "allow",
        }
    ),
    "coming primitives": Configuration(
        {"jax_remat3": True, "jax_scan3": True, "jax_custom_jvp3": True}
    ),
    "coming custom_vjp": Configuration({"jax_custom_vjp3": True, "jax_disable_bwd_checks": True}),
    "other ways to lower": Configuration(
        {
            "jax_high_dynamic_range_gumbel": True,
            "jax_use_hlo_logistic_lowering": True,
            "jax_accurate_erf_inv": True,
            "jax_use_rgv3": True,
            "jax_remat_barrier_no_cotangents": True,
            "jax_embedded_constants_max_bytes": 0,
            "jax_captured_constants_warn_bytes": 0,
        }
    ),
    "typing of meshes": Configuration(
        {
            "jax_remove_size_one_mesh_axis_from_type": True,
            "jax_auto_pcast": False,
            "jax_disable_vmap_shmap_error": True,
        }
    ),
    "what must not matter": Configuration(
        {
            "jax_check_static_indices": True,
            "jax_log_compiles": True,
            "jax_mutable_array_checks": False,
            "jax_traceback_filtering": "off",
            "jax_explain_cache_misses": True,
        }
    ),
}

# What other flags are about: devices and processes, compiling, caches of executables, messages, or
# one library. Nothing that is traced or differentiated depends on them.
REVIEWED = re.compile(
    "|".join(
        (
            "jax_.*(backend|cuda|rocm|oneapi|gpu|mosaic|pallas|platform|device|magma|mock|topology).*",
            "jax_.*(distributed|cross_host|host|mtls|proxy|preemption|recoverability|collectives).*",
            "jax_.*(compil|optimiz|pgle|memory_fitting|xla|cache|shardy|fusion|dispatch|executable).*",
            "jax_.*(log|dump|traceback|debug_info|leaked|source|hlo_source|pprint|profil|frames).*",
            "jax_.*(guard|thread|transfer|serialization|pjrt|export).*",
            "jax_(bcoo_cusparse_lowering|use_ragged_dot.*|ragged_dot.*|use_emit_pipeline_primitive)",
            # How programs run and fail, and what is refused before anything is traced.
            "jax_(error_checking_behavior_.*|no_execution|no_tracing|raise_on_ppermute_sort_diff)",
            "jax_(refs_to_pins|use_cpp_shard_args|remove_custom_partitioning_ptr.*|disallow_mesh_context_manager)",
            "jax2tf_.*|mock_num_gpu_processes|check_vma",
        )
    )
)


# --- cells ---------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One choice from each table, by name."""

    configuration: str
    transformation: str
    format: str
    function: str


_TABLES: tuple[Sequence[str], ...] = (
    tuple(CONFIGURATIONS),
    tuple(TRANSFORMATIONS),
    FORMATS,
    tuple(FUNCTIONS),
)


def product() -> list[Cell]:
    """All cells."""
    return list(itertools.starmap(Cell, itertools.product(*_TABLES)))


def covering() -> list[Cell]:
    """Few cells in which every pair of choices from two tables occurs.

    Every pair from the two longest tables is one cell, in which the shorter tables take turns; what
    is then left of the pairs is filled greedily.
    """
    cells: list[Cell] = []
    left = {
        (one, two, x, y)
        for one, two in itertools.combinations(range(4), 2)
        for x in _TABLES[one]
        for y in _TABLES[two]
    }

    def gain(cell: Cell) -> int:
        return sum((i, j, cell[i], cell[j]) in left for i, j in _PLACES)

    def add(cell: Cell) -> None:
        cells.append(cell)
        left.difference_update((i, j, cell[i], cell[j]) for i, j in _PLACES)

    for configuration, function in itertools.product(_TABLES[0], _TABLES[3]):
        add(
            max(
                (Cell(configuration, t, f, function) for t in _TABLES[1] for f in FORMATS),
                key=gain,
            )
        )
    while left:
        i, j, x, y = min(left)
        fixed = [
            (choice,) if k == i else table
            for k, table, choice in zip(range(4), _TABLES, (x,) * 4, strict=True)
        ]
        fixed[j] = (y,)
        add(max(itertools.starmap(Cell, itertools.product(*fixed)), key=gain))
    return cells


_PLACES = tuple(itertools.combinations(range(4), 2))


def outcomes(cell: Cell) -> tuple[Any, Any]:
    """What we answer in a cell and what JAX does, or the exceptions that are raised."""
    configuration = CONFIGURATIONS[cell.configuration]
    function, transformation = FUNCTIONS[cell.function], TRANSFORMATIONS[cell.transformation]
    function = function._replace(fun=configuration.function(function.fun))
    of_ours = transformation.of(function.fun, format=cell.format, **function.options)
    with configuration.set():
        ours = outcome(transformation.apply, lambda *args: dense(of_ours(*args)), function.args)
        theirs = _of_jax(cell, function, transformation)
    if isinstance(theirs, Exception) and not isinstance(ours, Exception):
        # What JAX does not answer here, it may in its default configuration.
        theirs = _of_jax(cell, function, transformation)
    return ours, theirs


def _of_jax(cell: Cell, function: Function, transformation: Transformation) -> Any:
    reference = transformation.reference(function)
    jitted = reference if cell.configuration == "no jit" else jax.jit(reference)
    return outcome(transformation.apply, jitted, function.args)
