"""The function that a command is about: found, imported and checked."""

import argparse
import contextlib
import difflib
import functools
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jax_cce_search.cli.answers import (
    FUNCTION_FAILED,
    WRONG_USAGE,
    CommandError,
    counted,
    few,
    first_line,
    named_error,
)

__all__ = [
    "called_function",
]

# Types that JAX has only where 64 bits are switched on.
_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})


@contextlib.contextmanager
def called_function(
    options: argparse.Namespace,
) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """The user's function and how it is differentiated, with its failures told from our own."""
    leaves = jax.tree.leaves(options.args)
    dtypes = {leaf.dtype.name for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)}
    wide = not dtypes.isdisjoint(_WIDE)
    path = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        with jax.enable_x64(True) if wide or options.x64 else contextlib.nullcontext():
            fun = _function_at(options.target)
            _check_arguments(fun, options)
            try:
                yield (
                    fun,
                    {
                        "argnums": options.argnums,
                        "has_aux": options.has_aux,
                        "holomorphic": options.holomorphic,
                        "allow_int": options.allow_int,
                        "format": options.format,
                    },
                )
            except Exception as error:
                _raise_for(fun, options.target, error)
                raise
    finally:
        sys.path[:] = path


def _function_at(target: str) -> Callable[..., Any]:
    """The function that a target names: module:function or path/to/file.py:function."""
    where, _, attributes = target.rpartition(":")
    if not where or not attributes:
        raise CommandError(
            WRONG_USAGE,
            f"{target!r} names no function: write module:function or path/to/file.py:function.",
        )
    is_file = where.endswith(".py") or os.sep in where
    module = _loaded_file(where) if is_file else _imported(where)
    value: Any = module
    reached = where
    for name in attributes.split("."):
        if not hasattr(value, name):
            close = difflib.get_close_matches(name, dir(value), n=3)
            there = [each for each in dir(value) if not each.startswith("_")]
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {few(there)}."
            raise CommandError(WRONG_USAGE, f"{reached} has no attribute {name!r}. {hint}")
        reached += f":{name}" if value is module else f".{name}"
        value = getattr(value, name)
    if not callable(value):
        raise CommandError(
            WRONG_USAGE, f"{target} is no function but of type {type(value).__name__}."
        )
    return value


def _imported(name: str) -> types.ModuleType:
    with _importing(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in [name[: dot.start()] for dot in re.finditer(r"\.|$", name)]:
                raise
            raise CommandError(
                WRONG_USAGE,
                f"no module {error.name!r} was found, neither in {os.getcwd()} nor on Python's "
                "path.\n  Change to the directory that it lies in, or name the file: "
                "path/to/file.py:function.",
            ) from error


def _loaded_file(where: str) -> types.ModuleType:
    path = pathlib.Path(where).expanduser()
    if not path.is_file():
        near = (
            sorted(each.name for each in path.parent.glob("*.py")) if path.parent.is_dir() else []
        )
        close = difflib.get_close_matches(path.name, near, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise CommandError(WRONG_USAGE, f"there is no file {path.absolute()}.{hint}")
    # As `python file.py` does, so that modules beside it can be imported.
    sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CommandError(WRONG_USAGE, f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there. A module of that name that is loaded stays.
    sys.modules.setdefault(path.stem, module)
    with _importing(where):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if sys.modules.get(path.stem) is module:
                del sys.modules[path.stem]
            raise
    return module


@contextlib.contextmanager
def _importing(what: str) -> Iterator[None]:
    try:
        yield
    except (CommandError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(
            FUNCTION_FAILED, f"importing {what} failed: {named_error(error)}{_line_of(error)}"
        ) from error


def _line_of(error: BaseException, file: str | None = None) -> str:
    """Where in a file an error came through last; where it was raised if no file is given."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file or (file is None and not frame.filename.startswith("<"))
    ]
    return f"\n  at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _check_arguments(fun: Callable[..., Any], options: argparse.Namespace) -> None:
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*options.args)
    except TypeError as error:
        count = len(options.args)
        given = f"{counted(count, 'argument')} {'was' if count == 1 else 'were'}"
        raise CommandError(
            WRONG_USAGE,
            f"{options.target} takes {signature}, but {given} given by --args: {error}.",
        ) from error


def _raise_for(fun: Callable[..., Any], target: str, error: Exception) -> None:
    """Tells an error of the user's function from an argument that we refuse; others pass."""
    if isinstance(error, CommandError):
        return
    file = _file_of(fun)
    where = _line_of(error, file) if file else ""
    if where:
        raise CommandError(
            FUNCTION_FAILED, f"{target} failed: {named_error(error)}{where}"
        ) from error
    if isinstance(error, TypeError | ValueError):
        raise CommandError(WRONG_USAGE, first_line(error)) from error


def _file_of(fun: Any) -> str | None:
    """The file that a function was written in."""
    fun = inspect.unwrap(fun)
    while isinstance(fun, functools.partial):
        fun = inspect.unwrap(fun.func)
    code = getattr(fun, "__code__", None) or getattr(type(fun).__call__, "__code__", None)
    return code and code.co_filename
