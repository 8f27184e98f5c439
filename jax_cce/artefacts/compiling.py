"""`compile`: from a function and shapes to an artefact."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.export
import numpy as np
from jax.tree_util import tree_flatten, tree_flatten_with_path, tree_unflatten

from jax_cce import jax_internals
from jax_cce.algebra import costs
from jax_cce.api import jacobian_by
from jax_cce.artefacts import executables, machine_code
from jax_cce.artefacts.artefact import Artefact, ArtefactError, versions
from jax_cce.artefacts.blocks import described, inside_of, is_block
from jax_cce.artefacts.sizes import as_text
from jax_cce.execution.calling import plan_within, transformed
from jax_cce.execution.primitive import PLANNED_JACOBIAN
from jax_cce.hessian import hessian_by
from jax_cce.native import compiling
from jax_cce.planning import choosing
from jax_cce.planning.options import Options, Order, OrderRequest, options_of
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import traced_task
from jax_cce.program import calls
from jax_cce.sparse.formats import FormatName

__all__ = ["Transform", "compile"]

_log = logging.getLogger("jax_cce")

Transform = Literal["jacobian", "value_and_jacobian", "hessian"]
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_WITHOUT = "operations of XLA only; machine code of jax_cce, which would need it, is left out"


def compile(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    transform: Transform = "jacobian",
    order: Order = "auto",
    format: FormatName = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    max_bytes: int | None = None,
    chunk_size: int | None = None,
    platforms: Sequence[str] | None = None,
    native: bool = False,
    executable: bool = False,
    vjp_order: int = 0,
) -> Callable[..., Artefact]:
    """Compiles a Jacobian ahead of time, for other processes, machines and platforms.

    The function is traced, its elimination planned, and the program lowered for shapes alone. What
    results is written to a file that plain JAX runs: with neither this package, nor the function,
    nor any search.

    Args:
        fun: as for `jacobian`. What it closes over becomes part of the program.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`; the auxiliary data have to be arrays.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        transform: "jacobian"; "value_and_jacobian", for what that function returns; or "hessian".
        order: as for `jacobian`.
        format: as for `jacobian`.
        search: as for `jacobian`.
        search_budget: as for `jacobian`.
        max_bytes: as for `jacobian`.
        chunk_size: as for `jacobian`.
        platforms: where it is to run, such as ("cpu", "cuda", "tpu"); none of them has to be there.
            None for JAX's default here.
        native: whether it may contain machine code of jax_cce, where the function has such (see
            `jacobian`). It then runs on the same kind of processor only, in processes with the
            same version of jax_cce, which `load` checks.
        executable: whether what XLA compiles is added, which takes most of the time before a first
            result. `load` uses it on the same kind of device and processor with the same version of
            JAX, and compiles the program elsewhere.
        vjp_order: how often the results may be differentiated again, in reverse mode.

    Returns:
        A function with the arguments of `fun` that returns an `Artefact`. Any array among them may
        be a `jax.ShapeDtypeStruct`, of sizes that are symbols too (`jax.export.symbolic_shape`);
        values do not matter.

    Raises:
        TypeError: as `jacobian`, and for arguments that are no arrays, numbers or trees of them.
        ValueError: as `jacobian`; for unknown transforms and platforms; for machine code not on
            the CPU, or together with a vjp_order; for an executable of symbolic sizes; and for
            what `jax.export` refuses.
        ArtefactError: where machine code is asked for on a machine that has none.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[1:] * x[:-1]
        >>> shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> artefact = jax_cce.compile(f)(shape)
        >>> artefact(jnp.array([1.0, 2.0, 3.0]))
        Array([[2., 1., 0.],
               [0., 3., 2.]], dtype=float32)
        >>> artefact.costs["multiplications"]
        0
    """
    calls.check_callable(fun)
    if transform not in get_args(Transform):
        raise ValueError(f"transform must be one of {get_args(Transform)}, but got {transform!r}.")
    platforms = _checked(platforms)
    if native:
        _check_native(platforms, vjp_order)
    options = options_of(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        order=order,
        format=format,
        search=search,
        search_budget=search_budget,
        backend="native" if native else "xla",
        max_bytes=max_bytes,
        chunk_size=chunk_size,
    )

    @functools.wraps(fun)
    def compile_fun(*args: Any, **kwargs: Any) -> Artefact:
        args, kwargs = _shapes_of(args, kwargs)
        key, plan = _planned(fun, options, transform, args, kwargs)
        traced = _Results(fun, options, transform)
        exported, code = _exported(traced, args, kwargs, platforms, native)
        manifest = {
            "function": _name_of(fun),
            "transform": transform,
            "format": options.format.name,
            "versions": versions(),
            "platforms": list(exported.platforms),
            "vjp_order": vjp_order,
            "arguments": [_typed(aval) for aval in exported.in_avals],
            "results": [_typed(aval) for aval in exported.out_avals],
            "blocks": traced.blocks,
            "key": key,
            "method": plan.method,
            "source": plan.source,
            "order": list(plan.order),
            "costs": {name: as_text(plan.cost(name)) for name in get_args(costs.CostName)},
            "code": _code_told(code, native),
            "native": machine_code.conditions(versions()["jax_cce"]) if code else {},
            "executable": executables.conditions(versions()) if executable else {},
        }
        if not native:
            _log.info("Artefact of %s: %s", _name_of(fun), _WITHOUT)
        compiled = executables.serialised(exported) if executable else None
        return Artefact(exported, manifest, traced.beside, code, str(plan), compiled)

    return compile_fun


def _checked(platforms: Sequence[str] | None) -> tuple[str, ...] | None:
    if platforms is None:
        return None
    found = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    # JAX lowers for any other name, too, and nothing runs that.
    if not found or not set(found) <= set(_PLATFORMS):
        raise ValueError(f"platforms must be among {_PLATFORMS}, but got {platforms!r}.")
    return found


def _check_native(platforms: Sequence[str] | None, vjp_order: int) -> None:
    if platforms is not None and tuple(platforms) != ("cpu",):
        raise ValueError(
            f"native=True is for the CPU, but got platforms={tuple(platforms)!r}. Leave out one of "
            "them."
        )
    if vjp_order:
        raise ValueError(
            f"Machine code has no derivative, but got vjp_order={vjp_order!r}. Leave out native."
        )
    if obstacle := compiling.machine().obstacle:
        raise ArtefactError(f"There is no machine code here: {obstacle}. Leave out native=True.")


def _code_told(code: dict[str, bytes], native: bool) -> str:
    if code:
        size = sum(map(len, code.values()))
        return f"machine code of the CPU: {len(code)} kernels, {size:,} bytes"
    return "no part of it has machine code, so that XLA computes all" if native else _WITHOUT


def _name_of(fun: Callable[..., Any]) -> str:
    return getattr(fun, "__name__", type(fun).__name__)


def _typed(aval: Any) -> dict[str, Any]:
    return {"dtype": aval.dtype.name, "shape": [as_text(size) for size in aval.shape]}


def _shapes_of(args: Any, kwargs: Any) -> Any:
    """The arguments as shapes and types."""
    pairs, tree = tree_flatten_with_path((args, kwargs))
    shapes = []
    for path, leaf in pairs:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            shapes.append(leaf)
            continue
        try:
            aval = jax.typeof(leaf)
        except TypeError:
            at = jax.tree_util.keystr(path[1:])
            raise TypeError(
                f"compile takes arrays, numbers and trees of them, but got {leaf!r} of type "
                f"{type(leaf).__name__} (at {at}). Let the function close over it: "
                "functools.partial(fun, ...)."
            ) from None
        weak = bool(getattr(aval, "weak_type", False))
        shapes.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak))
    return tree_unflatten(tree, shapes)


def _planned(
    fun: Callable[..., Any], options: Options, transform: Transform, args: Any, kwargs: Any
) -> tuple[str, Plan]:
    """The key and the plan: of a Hessian those of the outer Jacobian."""
    if transform == "hessian":
        inner = Options(options.contract, OrderRequest(again=True, backend="xla"))
        fun = jacobian_by(fun, inner)

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Plan]:
        task = traced_task(fun, options, args, kwargs)
        within = options.request.max_bytes is not None
        of_arrays = options.request.of_arrays
        plan = plan_within(task, options) if within else choosing.planned(task, of_arrays)
        return task.key, plan

    return calls.from_shapes(planned)(*args, **kwargs)


class _Results:
    """The function that is exported: it returns arrays, and notes what else there is to say.

    Attributes:
        blocks: the description of each leaf of the result.
        beside: the arrays that are written beside the program, by name.
    """

    def __init__(self, fun: Callable[..., Any], options: Options, transform: Transform) -> None:
        self._form, self._transform = options.format, transform
        self._has_aux = options.contract.has_aux
        inside = dataclasses.replace(options, format=inside_of(options.format))
        self._compute: Callable[[Any, Any], tuple[Any, Any, Any]]
        if transform == "hessian":
            self._compute = hessian_by(fun, inside)
        else:
            self._compute = transformed(fun, inside, value=transform == "value_and_jacobian")
        self.__name__ = _name_of(fun)
        self.blocks: list[dict[str, Any]] = []
        self.beside: dict[str, np.ndarray] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._result(args, kwargs)
        leaves, tree = tree_flatten(result, is_leaf=is_block)
        self.blocks, self.beside, returned, first = [], {}, [], 0
        for k, leaf in enumerate(leaves):
            told, found, beside = described(leaf, self._form)
            count = len(jax.tree.leaves(found))
            self.blocks.append({**told, "first": first if count else None})
            self.beside.update({f"{k}.{name}": array for name, array in beside.items()})
            returned.append(found)
            first += count
        return tree_unflatten(tree, returned)

    def _result(self, args: Any, kwargs: Any) -> Any:
        if self._transform == "hessian":
            result, _, aux = self._compute(args, kwargs)
            return (result, aux) if self._has_aux else result
        value, result, aux = self._compute(args, kwargs)
        if self._transform == "jacobian":
            return (result, aux) if self._has_aux else result
        return ((value, aux), result) if self._has_aux else (value, result)


def _exported(
    traced: _Results, args: Any, kwargs: Any, platforms: Sequence[str] | None, native: bool
) -> tuple[jax.export.Exported, dict[str, bytes]]:
    """The program, and the machine code in it."""
    if not native:
        # Each platform gets the same operations.
        rules = ((PLANNED_JACOBIAN, jax_internals.lowered_as_call),)
        return _export(traced, platforms, (), rules)(*args, **kwargs), {}
    with compiling.collecting() as code, jax_internals.exporting_for_here():
        try:
            return _export(traced, ("cpu",), ())(*args, **kwargs), {}
        except ValueError:
            # JAX asks for the names of all foreign functions, which are known now.
            if not code:
                raise
            checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in code]
            return _export(traced, ("cpu",), checks)(*args, **kwargs), code


def _export(
    traced: _Results, platforms: Sequence[str] | None, checks: Any, rules: Any = None
) -> Callable[..., jax.export.Exported]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return traced(*args, **kwargs)

    function.__name__ = traced.__name__
    facts = {} if rules is None else {"_override_lowering_rules": rules}
    return jax.export.export(
        jax.jit(function), platforms=platforms, disabled_checks=checks, **facts
    )
