"""A Jacobian that was compiled ahead of time: called, written to a file, and read again."""

import dataclasses
import functools
import importlib.metadata
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from jax_cce import jax_internals
from jax_cce.artefacts import executables, machine_code
from jax_cce.artefacts.blocks import rebuilt
from jax_cce.artefacts.container import ArtefactError, content_of, packed, read, write
from jax_cce.artefacts.sizes import symbols_of
from jax_cce.eliminations import Item, items_of

__all__ = ["Artefact", "ArtefactError", "load", "versions"]

_PROGRAM = "program.bin"
_BESIDE = "beside/"
_PLAN = "plan.txt"


def versions() -> dict[str, str]:
    """The versions that a program depends on."""
    own = {"jax_cce": importlib.metadata.version("jax-cross-country")}
    return own | {"jax": jax_internals.jax_version(), "jaxlib": jax_internals.jaxlib_version()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Artefact:
    """A Jacobian that is traced, planned and lowered; `compile` makes it, and `load` reads it.

    It is called with the arguments of the function, of the shapes and types that it was made for,
    under `jax.jit` and in loops too. `jax.vmap` raises: JAX has no rule for exported programs.

    Attributes:
        exported: the program, as `jax.export` has it: of plain arrays, see `jax_cce.compile`.
        manifest: all that the file says of it, as JSON has it.
    """

    exported: jax.export.Exported
    manifest: Mapping[str, Any]
    _beside: Mapping[str, np.ndarray]
    _native: Mapping[str, bytes]
    _plan: str
    _compiled: bytes | None = None

    @property
    def platforms(self) -> tuple[str, ...]:
        """Where it runs: "cpu", "cuda", "rocm", "tpu"."""
        return tuple(self.exported.platforms)

    @property
    def plan(self) -> str:
        """The plan as text, as `print(jax_cce.plan(...)(...))` shows it."""
        return self._plan

    @property
    def order(self) -> tuple[Item, ...]:
        """The vertices in the order of their elimination, perhaps edges between (see `Plan`)."""
        return items_of(self.manifest["order"])

    @property
    def costs(self) -> dict[str, int | str]:
        """Each cost of the plan by name; of sizes that are symbols the text of an expression."""
        return dict(self.manifest["costs"])

    @property
    def native(self) -> tuple[str, ...]:
        """The names of the kernels of machine code in it."""
        return tuple(self._native)

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.exported.call)

    @functools.cached_property
    def _executable(self) -> Any:
        if self._compiled is None:
            return None
        needed = self.manifest["executable"]
        return executables.loaded(self._compiled, self.exported, needed, versions())

    @property
    def is_executable(self) -> bool:
        """Whether it holds what XLA compiled, and that runs here."""
        return self._executable is not None

    @functools.cached_property
    def _expected(self) -> list[tuple[str, tuple[Any, ...], np.dtype]]:
        """For each argument its path, its shape and its type."""
        avals = self.exported.in_avals
        places = tree_unflatten(self.exported.in_tree, list(range(len(avals))))
        paths = [_named(path) for path, _ in tree_flatten_with_path(places)[0]]
        return [(path, x.shape, x.dtype) for path, x in zip(paths, avals, strict=True)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The Jacobian at some arguments.

        Raises:
            TypeError: for arguments of another structure, shape or type.
            ValueError: where it was made for other platforms, or for sizes that these are not.
        """
        leaves, tree = tree_flatten((args, kwargs))
        self._check(leaves, tree)
        results = self._results(leaves, args, kwargs)
        blocks = self.manifest["blocks"]
        if all(block["kind"] == "array" for block in blocks):
            return results
        pairs = (
            pair
            for (_, shape, _), leaf in zip(self._expected, leaves, strict=True)
            for pair in zip(map(_plain, shape), np.shape(leaf), strict=True)
        )
        return self._rebuilt(results, symbols_of(pairs))

    def _results(self, leaves: Sequence[Any], args: Any, kwargs: Any) -> Any:
        if self._executable is None or not executables.fits(leaves):
            return self._call(*args, **kwargs)
        arrays = [
            leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype)
            for (_, _, dtype), leaf in zip(self._expected, leaves, strict=True)
        ]
        args, kwargs = tree_unflatten(self.exported.in_tree, arrays)
        return self._executable(*args, **kwargs)

    def _check(self, leaves: Sequence[Any], tree: Any) -> None:
        name = self.manifest["function"]
        if tree != self.exported.in_tree:
            raise TypeError(
                f"The artefact of {name} takes arguments of the tree {self.exported.in_tree}, but "
                f"got {tree}: positional arguments and those by name, in pairs of both."
            )
        for (path, shape, dtype), leaf in zip(self._expected, leaves, strict=True):
            try:
                aval = jax.typeof(leaf)
            except TypeError:
                raise TypeError(
                    f"The artefact of {name} takes an array as {path}, but got {leaf!r} of type "
                    f"{type(leaf).__name__}."
                ) from None
            fits = len(aval.shape) == len(shape) and all(
                not isinstance(size, int) or size == own
                for size, own in zip(shape, aval.shape, strict=True)
            )
            if fits and aval.dtype == dtype:
                continue
            expected = f"{dtype.name}[{','.join(map(str, shape))}]"
            got = f"{aval.dtype.name}[{','.join(map(str, aval.shape))}]"
            hint = ""
            if fits and dtype.itemsize > aval.dtype.itemsize and not _has_wide_types():
                hint = (
                    " JAX's 64-bit types are off here; switch them on before all else: "
                    "jax.config.update('jax_enable_x64', True)."
                )
            raise TypeError(
                f"The artefact of {name} was compiled for {path} of type {expected}, but got {got}."
                + (hint or " Compile another for it, or with a symbolic size.")
            )

    def _rebuilt(self, results: Any, symbols: dict[str, int]) -> Any:
        """The results of the program with every sparse block as it was asked for."""
        blocks = {block["first"]: (k, block) for k, block in enumerate(self.manifest["blocks"])}
        leaves, tree = tree_flatten(results)
        numbered = tree_unflatten(tree, list(range(len(leaves))))

        def is_block(node: Any) -> bool:
            if not isinstance(node, dict) or node.keys() not in ({"data", "indices"}, {_TERMS}):
                return False
            inside = jax.tree.leaves(node)
            at = inside[0] if inside else None
            # One without numbers has no place among the leaves.
            return at in blocks if inside else node == {_TERMS: []}

        nodes, outer = tree_flatten(numbered, is_leaf=is_block)
        empty = iter(self._empty)
        made = []
        for node in nodes:
            inside = jax.tree.leaves(node)
            k, block = blocks.get(inside[0], (None, None)) if inside else next(empty)
            found = jax.tree.map(leaves.__getitem__, node)
            if block is None:
                made.append(found)
                continue
            prefix = f"{k}."
            beside = {
                name.removeprefix(prefix): array
                for name, array in self._beside.items()
                if name.startswith(prefix)
            }
            made.append(rebuilt(block, found, beside, symbols))
        return tree_unflatten(outer, made)

    @property
    def _empty(self) -> list[tuple[int, Any]]:
        return [(k, b) for k, b in enumerate(self.manifest["blocks"]) if b["first"] is None]

    def to_bytes(self) -> bytes:
        """The contents of its file.

        Raises:
            ImportError: where flatbuffers is not installed.
            ValueError: for arguments or results of a type of pytree that `jax.export` was not told
                how to write.
        """
        content = _serialised(self.exported, self.manifest["vjp_order"])
        members = {_PROGRAM: content, _PLAN: self._plan.encode()}
        for name, array in self._beside.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            members[f"{_BESIDE}{name}.npy"] = buffer.getvalue()
        for name, code in self._native.items():
            members[f"{machine_code.PREFIX}{name}.o"] = code
        if self._compiled is not None:
            members[executables.MEMBER] = self._compiled
        return packed(self.manifest, members)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, which `load` and plain JAX read.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            ImportError, ValueError: as `to_bytes`.
            OSError: where it cannot be written.
        """
        write(path, self.to_bytes())

    def __repr__(self) -> str:
        """One line; `print` shows more."""
        told = self.manifest
        code = "machine code" if self._native else "XLA"
        return f"<Artefact: {told['transform']} of {told['function']}, {code}, {self.platforms}>"

    def __str__(self) -> str:
        """What it is, then its plan."""
        told = self.manifest
        made = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        arguments = ", ".join(
            f"{path} {dtype.name}[{','.join(map(str, shape))}]"
            for path, shape, dtype in self._expected
        )
        return "\n".join(
            [
                f"Artefact: {told['transform']} of {told['function']}, format {told['format']}",
                f"  arguments: {arguments or 'none'}",
                f"  platforms: {', '.join(self.platforms)}; made with {made}",
                f"  {told['code']}",
                *(["  with what XLA compiled for this kind of machine"] if self._compiled else []),
                self._plan,
            ]
        )


_TERMS = "coefficients"


def _has_wide_types() -> bool:
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def _plain(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)


def _named(path: Sequence[Any]) -> str:
    """What an argument is called, from its path among (positional ones, those by name)."""
    kind, first, *rest = path
    own = f"args[{first.idx}]" if kind.idx == 0 else str(first.key)
    return own + keystr(tuple(rest))


def _serialised(exported: jax.export.Exported, vjp_order: int) -> bytes:
    try:
        return bytes(exported.serialize(vjp_order=vjp_order))
    except ImportError as error:
        raise _no_flatbuffers(error) from error


def _no_flatbuffers(error: ImportError) -> ImportError:
    return ImportError(
        f"JAX writes and reads exported programs with the package flatbuffers ({error}). "
        "Install it: pip install flatbuffers"
    )


def load(source: str | os.PathLike[str] | bytes) -> Artefact:
    """Reads an artefact that `jax_cce.compile` has made.

    Nothing is traced or planned: XLA compiles the program at the first call, unless the file holds
    what it compiled elsewhere. A file may run any code of its author's, as a program does: load
    none that you do not trust.

    Args:
        source: the path of the file, or its contents.

    Raises:
        ArtefactError: where the file is damaged or no artefact, where it is of a newer version, or
            where its machine code is for another machine; a ValueError.
        ImportError: where flatbuffers is not installed.
        OSError: where the file cannot be read.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> content = jax_cce.compile(lambda x: x**2)(shape).to_bytes()
        >>> jax_cce.load(content)(jnp.array([1.0, 3.0]))
        Array([[2., 0.],
               [0., 6.]], dtype=float32)
    """
    if isinstance(source, bytes | bytearray):
        content, name = bytes(source), "the artefact"
    else:
        content, name = read(source), os.fspath(source)
    manifest, members = content_of(content, name)
    try:
        program, plan = members[_PROGRAM], members[_PLAN].decode()
        made_with, needed = manifest["versions"], manifest["native"]
    except (KeyError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{name} is no artefact of jax_cce: {error!r}.") from error
    here = versions()
    try:
        exported = jax.export.deserialize(bytearray(program))
    except ImportError as error:
        raise _no_flatbuffers(error) from error
    except Exception as error:  # what JAX raises depends on what it cannot read
        raise ArtefactError(
            f"JAX {here['jax']} cannot read the program in {name}, which JAX {made_with['jax']} "
            f"wrote: {error} JAX promises to read what is up to six months older and three weeks "
            "newer. Compile it anew, or install that version."
        ) from error
    code = {
        path.removeprefix(machine_code.PREFIX).removesuffix(".o"): members[path]
        for path in members
        if path.startswith(machine_code.PREFIX)
    }
    if code:
        machine_code.register(needed, code, here["jax_cce"], name)
    beside = {
        path.removeprefix(_BESIDE).removesuffix(".npy"): np.load(
            io.BytesIO(members[path]), allow_pickle=False
        )
        for path in members
        if path.startswith(_BESIDE)
    }
    compiled = members.get(executables.MEMBER)
    return Artefact(exported, manifest, beside, code, plan, compiled)
