"""What XLA compiled an artefact's program to, for processes on the same kind of machine.

It is kept beside the program, which runs wherever something differs: another version of XLA,
another processor or device, arguments on another device, or a surrounding trace.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.native import compiling

__all__ = ["MEMBER", "conditions", "fits", "loaded", "serialised"]

MEMBER = "executable.bin"
_log = logging.getLogger("jax_cce")


def conditions(versions: Mapping[str, str]) -> dict[str, str]:
    """What has to be alike where a program is compiled and where it runs."""
    return {
        "jax": versions["jax"],
        "jaxlib": versions["jaxlib"],
        "platform": jax.default_backend(),
        "device": jax_internals.device_kind(),
        "processor": compiling.target(),
    }


def serialised(exported: jax.export.Exported) -> bytes:
    """The compiled program.

    Raises:
        ValueError: where sizes are symbols.
    """
    if jax_internals.is_symbolic(exported.in_avals):
        raise ValueError(
            "executable=True needs sizes that are numbers: XLA compiles for these alone. Compile "
            "an artefact for each size, or leave out executable."
        )
    from jax.experimental import serialize_executable

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in exported.in_avals]
    args, kwargs = tree_unflatten(exported.in_tree, shapes)

    # What JAX's persistent cache gives back cannot be written again: parts of it are missing.
    def anew(*args: Any, **kwargs: Any) -> Any:
        return exported.call(*args, **kwargs)

    anew.__name__ = f"compiled_{secrets.token_hex(8)}"
    compiled = jax.jit(anew).lower(*args, **kwargs).compile()
    return bytes(serialize_executable.serialize(compiled)[0])


def loaded(
    content: bytes,
    exported: jax.export.Exported,
    needed: Mapping[str, str],
    versions: Mapping[str, str],
) -> Callable[..., Any] | None:
    """The compiled program as a function; None where it does not run here.

    Args:
        content: what `serialised` gave.
        exported: the program.
        needed: the conditions where it was compiled.
        versions: the versions here.
    """
    here = conditions(versions)
    other = [what for what, value in needed.items() if here.get(what) != value]
    if other:
        _log.info("An executable is left out, and compiled anew: another %s", ", ".join(other))
        return None
    from jax.experimental import serialize_executable

    try:
        return serialize_executable.deserialize_and_load(
            content, exported.in_tree, exported.out_tree, execution_devices=jax.devices()[:1]
        )
    except Exception:  # what XLA raises depends on what it cannot load
        _log.warning("An executable cannot be loaded, and is compiled anew", exc_info=True)
        return None


def fits(leaves: Sequence[Any]) -> bool:
    """Whether an executable takes these arguments: on the first device, and no part of a trace."""
    first = {jax.devices()[0]}
    return all(
        not jax_internals.is_tracer(leaf)
        and (not isinstance(leaf, jax.Array) or leaf.devices() == first)
        for leaf in leaves
    )
