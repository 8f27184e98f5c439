"""The command line, `jax-cce`: optimise and explain functions, and look after the registry."""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jax_cce
from jax_cce import costs, orders, registry, tracing
from jax_cce.registry import Entry
from jax_cce_search.explanation import aligned, explain
from jax_cce_search.optimization import Optimized, optimize
from jax_cce_search.strategies import STRATEGIES

__all__ = ["arguments", "main"]

OK, PROBLEMS, WRONG_USAGE, FUNCTION_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

_ARGS_HELP = """\
arguments of the function, given by --args:
  Numbers, lists, tuples and dictionaries as in Python or JSON, and arrays by their type and shape:
  f32[3,4], f64[], i32[5]. Several are separated by spaces, or by repeating --args. What is only
  planned or counted needs no values, so shapes are enough. An argument of 64 bits switches on JAX's
  64-bit types.

examples:
  jax-cce optimize model:residual --args "f64[3] f64[3,4]" --argnums 0,1 --cost flops
  jax-cce explain path/to/model.py:Arm.forward --args "f32[6]" --args "{'mass': 2.0}" --draw arm.svg
"""

_CODES = """\
exit codes: 0 all is well, 1 the operation found problems, 2 wrong usage, 3 the function failed.
"""

_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "bool": "bool",
}
_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})
_NAMES = {"true": True, "false": False, "null": None, "nan": math.nan, "inf": math.inf}
_SHORT_KEY = 12
_MOST_MESSAGE = 300


class _FailureError(Exception):
    """Ends a command with an exit code and a message for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class _Answer:
    """What a command says.

    Attributes:
        document: for --json.
        text: for people.
        code: the exit code.
        pretty: makes what rich shows on a terminal instead of the text.
    """

    document: Any
    text: str
    code: int = OK
    pretty: Callable[[], Any] | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments, without the name of the program; those of the process by default.

    Returns:
        The exit code: 0 all is well, 1 the operation found problems, 3 the user's function failed.

    Raises:
        SystemExit: with code 2 for wrong usage, and with code 0 after --help and --version.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        with _surroundings(options):
            answer = options.command(options)
        _print(answer, as_json=options.json)
        return answer.code
    except BrokenPipeError:
        # The reader has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEMS
    except KeyboardInterrupt:
        print("jax-cce: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if options.traceback:
            traceback.print_exc()
        code = getattr(error, "code", PROBLEMS) if isinstance(error, _FailureError) else PROBLEMS
        message = str(error) if isinstance(error, _FailureError) else _named_error(error)
        print(f"jax-cce: {message}", file=sys.stderr)
        return code


def _print(answer: _Answer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.document, indent=2, allow_nan=False))
    elif answer.pretty is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(answer.pretty())
    else:
        print(answer.text.rstrip("\n"))
    sys.stdout.flush()


@contextlib.contextmanager
def _surroundings(options: argparse.Namespace) -> Iterator[None]:
    """What a command finds around it: the registry, warnings as lines, and a free stdout."""

    def shown(message: Warning | str, *_: Any) -> None:
        print(f"jax-cce: warning: {message}", file=sys.stderr)

    old = os.environ.get("JAX_CCE_REGISTRY")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", registry.RegistryWarning)
        warnings.showwarning = shown  # type: ignore[assignment]
        if options.json:
            # What the user's module prints must not come before the document.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if getattr(options, "registry", None) is not None:
            os.environ["JAX_CCE_REGISTRY"] = options.registry
        try:
            yield
        finally:
            if old is None:
                os.environ.pop("JAX_CCE_REGISTRY", None)
            else:
                os.environ["JAX_CCE_REGISTRY"] = old


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="jax-cce",
        description="Elimination orders for exact Jacobians in JAX.",
        epilog=_CODES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=_version())
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("--traceback", action="store_true", help="show where an error came from")
    stored = argparse.ArgumentParser(add_help=False)
    stored.add_argument(
        "--registry",
        metavar="PATH",
        help="directory or URL in place of JAX_CCE_REGISTRY; 'off' for none",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, help: str, *parents: Any, to: Any = commands) -> Any:
        made = to.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            parents=[common, *parents],
            formatter_class=raw,
            epilog=_ARGS_HELP + "\n" + _CODES if "called" in parents_of(parents) else _CODES,
        )
        made.set_defaults(command=command)
        return made

    called = _called_parser()

    def parents_of(parents: Sequence[Any]) -> list[str]:
        return ["called" for parent in parents if parent is called]

    made = add(
        "optimize",
        _optimize,
        "search for the best order of a function and store it",
        called,
        stored,
    )
    made.add_argument(
        "--cost", default="runtime", choices=["runtime", *costs.COSTS], help="default: %(default)s"
    )
    made.add_argument(
        "--strategy", default="portfolio", choices=[*STRATEGIES], help="default: %(default)s"
    )
    made.add_argument(
        "--budget",
        type=_budget,
        default=30.0,
        metavar="SECONDS",
        help="seconds to search, or 'none' for no limit; default: %(default)s",
    )
    made.add_argument("--evaluations", type=int, metavar="N", help="orders to look at, at most")
    made.add_argument("--seed", type=int, default=0, metavar="N")
    made.add_argument(
        "--batch-size", type=int, metavar="N", help="time under jax.vmap over so many points"
    )
    made.add_argument("--plot", metavar="PATH", help="draw the best cost over time into a file")

    made = add("explain", _explain, "report how a Jacobian is computed, and why", called, stored)
    made.add_argument(
        "--order", type=_order, default="auto", help="a name, or vertices as in 2,0,1"
    )
    made.add_argument("--markdown", action="store_true", help="print the report in Markdown")
    made.add_argument("--draw", metavar="PATH", help="draw the graph into a file")

    made = add("train-policy", _train_policy, "train a policy for the strategy 'alphazero'")
    made.add_argument(
        "--config", required=True, metavar="FILE", help="a TOML file, or the name of a shipped one"
    )
    made.add_argument("--out", required=True, metavar="DIRECTORY", help="where its files go")
    made.add_argument("--resume", action="store_true", help="go on from the checkpoint there")
    made.add_argument("--seconds", type=float, metavar="S", help="stop after an iteration by then")
    made.add_argument(
        "--coordinator", metavar="HOST:PORT", help="train on several processes, which meet there"
    )
    made.add_argument("--processes", type=int, metavar="N", help="how many there are")
    made.add_argument("--process", type=int, metavar="I", help="which of them this one is, from 0")

    group = commands.add_parser("registry", help="look after the stored orders")
    sub = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    made = add("list", _list, "list the stored orders", stored, to=sub)
    made.add_argument("--cost", help="only those for this cost")
    made = add("show", _show, "show all that is stored for one function", stored, to=sub)
    made.add_argument("key", metavar="KEY", help="a key, or a unique beginning of one")
    add("verify", _verify, "check every file of the registry", stored, to=sub)
    made = add("export", _export, "write the stored orders into one file", stored, to=sub)
    made.add_argument("path", metavar="PATH")
    made.add_argument("--key", help="only those of the function with this key")
    made.add_argument("--cost", help="only those for this cost")
    made = add("import", _import, "store the orders of an exported file", stored, to=sub)
    made.add_argument("path", metavar="PATH")
    made = add("prune", _prune, "remove superseded and damaged files", stored, to=sub)
    made.add_argument(
        "--older-than-days", type=float, metavar="N", help="remove entries that are older, too"
    )
    made.add_argument("--keep-superseded", action="store_true")
    made.add_argument("--keep-damaged", action="store_true")
    made.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    add("demo", _demo, "show that an order is found once and used by a second process")
    return parser


def _called_parser() -> argparse.ArgumentParser:
    """The options that say what is differentiated."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "target", metavar="MODULE:FUNCTION", help="or path/to/file.py:function; attributes by dots"
    )
    parser.add_argument(
        "--args",
        type=_arguments,
        action="extend",
        default=[],
        metavar="ARGS",
        help="arguments of the function, see below",
    )
    parser.add_argument(
        "--argnums", type=_integers, default=0, metavar="N[,N]", help="default: %(default)s"
    )
    parser.add_argument("--format", default="dense", choices=["dense", "bcoo", "structured"])
    parser.add_argument("--x64", action="store_true", help="switch on JAX's 64-bit types")
    parser.add_argument("--has-aux", action="store_true", help="as for jax_cce.jacobian")
    parser.add_argument("--holomorphic", action="store_true", help="as for jax_cce.jacobian")
    parser.add_argument("--allow-int", action="store_true", help="as for jax_cce.jacobian")
    return parser


def _version() -> str:
    version = importlib.metadata.version("jax-cross-country")
    return f"jax-cce {version} (jax {tracing.jax_version()}, Python {platform.python_version()})"


# Values of options.


def _integers(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        numbers = ()
    if not numbers:
        raise argparse.ArgumentTypeError(f"expected integers such as 0 or 0,1, but got {text!r}")
    return numbers if "," in text else numbers[0]


def _order(text: str) -> str | tuple[int, ...]:
    if text in orders.ORDERS:
        return text
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*", text):
        names = ", ".join(orders.ORDERS)
        raise argparse.ArgumentTypeError(
            f"expected {names}, or vertices such as 2,0,1, but got {text!r}"
        )
    return tuple(int(each) for each in text.split(",") if each.strip())


def _budget(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected seconds such as 30, or none, but got {text!r}"
        ) from None


def _arguments(text: str) -> list[Any]:
    try:
        return arguments(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def arguments(text: str) -> list[Any]:
    """The arguments of a function as the command line has them.

    Args:
        text: literals of Python or JSON, and arrays by type and shape such as "f32[3,4]",
            separated by spaces or commas. Nothing in it is executed.

    Returns:
        The values, with a `jax.ShapeDtypeStruct` for each array.

    Raises:
        ValueError: for anything else.

    Example:
        >>> arguments("f32[2,3] {'rate': 0.5, 'at': [1, i32[]]}")
        [ShapeDtypeStruct(shape=(2, 3), dtype=float32),
         {'rate': 0.5, 'at': [1, ShapeDtypeStruct(shape=(), dtype=int32)]}]
    """
    values = []
    for item in _items(text):
        # An empty pair of brackets is no Python; quoted text is left as it is.
        python = re.sub(
            r"(\"[^\"]*\"|'[^']*')|(?<=\w)\[\s*\]", lambda match: match[1] or "[()]", item
        )
        try:
            node = ast.parse(python, mode="eval").body
        except (SyntaxError, ValueError):
            raise ValueError(
                f"{item!r} is neither a literal such as 2.0 or [1, 2] nor an array such as f32[3,4]"
            ) from None
        values.append(_value(node, item))
    return values


def _items(text: str) -> list[str]:
    """The parts of a text that spaces or commas outside of brackets and quotes separate."""
    items, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[({":
            depth += 1
        elif sign in "])}":
            depth -= 1
        elif depth <= 0 and (sign.isspace() or sign == ","):
            items.append("")
            continue
        items[-1] += sign
    return [item for item in items if item]


def _value(node: ast.AST, item: str) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | complex() | str() | None as value):
            return value
        case ast.List(elts=elements):
            return [_value(each, item) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(each, item) for each in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_value(key, item): _value(each, item) for key, each in pairs if key}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _value(operand, item)
            if isinstance(value, int | float | complex):
                return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            # How Python writes a complex number.
            real, imaginary = _value(left, item), _value(right, item)
            if isinstance(real, int | float) and isinstance(imaginary, complex):
                return real - imaginary if isinstance(sign, ast.Sub) else real + imaginary
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Subscript(value=ast.Name(id=name), slice=shape):
            return _array(name, shape, item)
    written = ast.unparse(node)
    raise ValueError(
        f"{written!r} in {item!r} is neither a literal such as 2.0 or [1, 2] nor an array such as "
        "f32[3,4]"
    )


def _array(name: str, shape: ast.AST, item: str) -> jax.ShapeDtypeStruct:
    dtype = name if name in _DTYPES.values() else _DTYPES.get(name)
    if dtype is None:
        raise ValueError(
            f"{name!r} in {item!r} is no type of array; there are {', '.join(_DTYPES)}"
        )
    extents = shape.elts if isinstance(shape, ast.Tuple) else [shape]
    sizes = [each.value if isinstance(each, ast.Constant) else None for each in extents]
    if not all(type(size) is int for size in sizes):
        raise ValueError(f"the shape in {item!r} must be of whole numbers, as in {name}[3,4]")
    return jax.ShapeDtypeStruct(tuple(sizes), jnp.dtype(dtype))


# The user's function.


@contextlib.contextmanager
def _function(options: argparse.Namespace) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """The user's function and how it is differentiated, with its failures told from our own."""
    leaves = jax.tree.leaves(options.args)
    dtypes = {leaf.dtype.name for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)}
    wide = not dtypes.isdisjoint(_WIDE)
    path = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        with jax.enable_x64(True) if wide or options.x64 else contextlib.nullcontext():
            fun = _found(options.target)
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
                _report(fun, options.target, error)
                raise
    finally:
        sys.path[:] = path


def _found(target: str) -> Callable[..., Any]:
    where, _, attributes = target.rpartition(":")
    if not where or not attributes:
        raise _FailureError(
            WRONG_USAGE,
            f"{target!r} names no function: write module:function or path/to/file.py:function.",
        )
    is_file = where.endswith(".py") or os.sep in where
    module = _loaded_file(where) if is_file else _imported(where)
    found: Any = module
    reached = where
    for name in attributes.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, dir(found), n=3)
            there = [each for each in dir(found) if not each.startswith("_")]
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {_few(there)}."
            raise _FailureError(WRONG_USAGE, f"{reached} has no attribute {name!r}. {hint}")
        reached += f":{name}" if found is module else f".{name}"
        found = getattr(found, name)
    if not callable(found):
        raise _FailureError(
            WRONG_USAGE, f"{target} is no function but of type {type(found).__name__}."
        )
    return found


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "none"


def _imported(name: str) -> types.ModuleType:
    with _importing(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in [name[: dot.start()] for dot in re.finditer(r"\.|$", name)]:
                raise
            raise _FailureError(
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
        raise _FailureError(WRONG_USAGE, f"there is no file {path.absolute()}.{hint}")
    # As `python file.py` does, so that modules beside it can be imported.
    sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise _FailureError(WRONG_USAGE, f"{path} is no Python file.")
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
    except (_FailureError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise _FailureError(
            FUNCTION_FAILED, f"importing {what} failed: {_named_error(error)}{_line_of(error)}"
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
        given = f"{_counted(count, 'argument')} {'was' if count == 1 else 'were'}"
        raise _FailureError(
            WRONG_USAGE,
            f"{options.target} takes {signature}, but {given} given by --args: {error}.",
        ) from error


def _report(fun: Callable[..., Any], target: str, error: Exception) -> None:
    """Raises what tells an error of the user's function from an argument that we refuse."""
    if isinstance(error, _FailureError):
        return
    file = _file_of(fun)
    where = _line_of(error, file) if file else ""
    if where:
        raise _FailureError(
            FUNCTION_FAILED, f"{target} failed: {_named_error(error)}{where}"
        ) from error
    if isinstance(error, TypeError | ValueError):
        raise _FailureError(WRONG_USAGE, _first_line(error)) from error


def _file_of(fun: Any) -> str | None:
    fun = inspect.unwrap(fun)
    while isinstance(fun, functools.partial):
        fun = inspect.unwrap(fun.func)
    code = getattr(fun, "__code__", None) or getattr(type(fun).__call__, "__code__", None)
    return code and code.co_filename


def _named_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}".rstrip(": ")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else ""
    return message if len(message) <= _MOST_MESSAGE else f"{message[:_MOST_MESSAGE]} ..."


# The commands.


def _optimize(options: argparse.Namespace) -> _Answer:
    with _function(options) as (fun, how):
        found = optimize(
            fun,
            **how,
            cost=options.cost,
            strategy=options.strategy,
            budget=options.budget,
            evaluations=options.evaluations,
            seed=options.seed,
            batch_size=options.batch_size,
        )(*options.args)
        if options.plot:
            found.plot_search(options.plot)
    entry = found.entry
    answer = registry.default().found(
        entry.key, entry.cost, device=entry.device, batch=entry.batch, vertices=entry.order
    )
    layer = answer[1] if answer else "memory"
    if layer == "memory":
        kept = "kept in this process only: set JAX_CCE_REGISTRY to a writable directory"
    else:
        kept = f"stored in the registry ({layer}) as {entry.key[:_SHORT_KEY]}"
    document = _found_document(found) | {"layer": layer}
    return _Answer(document, f"{found}\n  {kept}")


def _found_document(found: Optimized) -> dict[str, Any]:
    return {
        "name": found.name,
        "entry": dataclasses.asdict(found.entry),
        "value": found.value,
        "bound": found.bound,
        "gap": found.gap,
        "status": found.status,
        "reference": dict(found.reference),
        "times": dict(found.times),
        "failures": dict(found.failures),
        "improvements": [
            {name: value for name, value in each._asdict().items() if name != "order"}
            for each in found.improvements
        ],
        "seconds": found.seconds,
        "evaluations": found.evaluations,
        "interrupted": found.interrupted,
    }


def _explain(options: argparse.Namespace) -> _Answer:
    with _function(options) as (fun, how):
        explanation = explain(fun, **how, order=options.order)(*options.args)
        if options.draw:
            explanation.draw(options.draw)

    def pretty() -> Any:
        from rich.markdown import Markdown

        return Markdown(explanation.markdown())

    if options.markdown:
        return _Answer(explanation.to_dict(), explanation.markdown())
    return _Answer(explanation.to_dict(), str(explanation), OK, pretty)


def _list(options: argparse.Namespace) -> _Answer:
    entries = registry.list(cost=options.cost)
    header = ("key", "name", "cost", "value", "bound", "strategy", "device", "created")
    rows = [
        (
            entry.key[:_SHORT_KEY],
            entry.name,
            entry.cost,
            _amount(entry, entry.value),
            "" if entry.bound is None else _amount(entry, entry.bound),
            entry.strategy,
            entry.device or "",
            entry.created[:19].replace("T", " "),
        )
        for entry in entries
    ]

    def pretty() -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        columns = zip(header, zip(*rows, strict=True), strict=True)
        shown = {name: cells for name, cells in columns if any(cells)}
        if "created" in shown:
            shown["created"] = tuple(cell[: len("2026-01-01")] for cell in shown["created"])
        for name in shown:
            # On a narrow terminal the rest is shortened; half a key or cost would be of no use.
            whole = name in ("key", "value", "bound", "created")
            justify: Any = "right" if name in ("value", "bound") else "left"
            table.add_column(name, no_wrap=whole, overflow="ellipsis", justify=justify)
        for row in zip(*shown.values(), strict=True):
            table.add_row(*map(Text, row))
        return table

    text = "\n".join(aligned(header, rows)) if rows else "The registry holds no orders."
    document = {"entries": [dataclasses.asdict(entry) for entry in entries]}
    return _Answer(document, text, OK, pretty if rows else None)


def _amount(entry: Entry, amount: float) -> str:
    return f"{amount:.3g} s" if entry.cost == "runtime" else f"{amount:,.0f}"


def _show(options: argparse.Namespace) -> _Answer:
    entries = [entry for entry in registry.list() if entry.key.startswith(options.key.lower())]
    keys = sorted({entry.key for entry in entries})
    if not keys:
        raise _FailureError(
            PROBLEMS,
            f"no key in the registry begins with {options.key!r}. "
            "`jax-cce registry list` shows what there is.",
        )
    if len(keys) > 1:
        raise _FailureError(
            PROBLEMS,
            f"{len(keys)} keys begin with {options.key!r}: "
            f"{_few([key[:_SHORT_KEY] for key in keys])}. Give more digits.",
        )
    parts = []
    for entry in entries:
        facts = dataclasses.asdict(entry)
        facts["order"] = " ".join(map(str, entry.order)) or "(nothing to eliminate)"
        for name in ("times", "versions"):
            facts[name] = ", ".join(f"{key} {value}" for key, value in facts[name].items())
        lines = [f"{name}: {value}" for name, value in facts.items() if value not in (None, "")]
        parts.append("\n".join(lines))
    document = {"entries": [dataclasses.asdict(entry) for entry in entries]}
    return _Answer(document, "\n\n".join(parts))


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _verify(options: argparse.Namespace) -> _Answer:
    problems = registry.verify()
    found = f"{_counted(len(problems), 'problem')} found."
    text = "\n".join([*problems, found if problems else "All files are sound."])
    return _Answer({"problems": problems}, text, PROBLEMS if problems else OK)


def _export(options: argparse.Namespace) -> _Answer:
    count = registry.export(options.path, key=options.key, cost=options.cost)
    return _Answer(
        {"path": options.path, "exported": count},
        f"{_counted(count, 'entry', 'entries')} written to {options.path}.",
    )


def _import(options: argparse.Namespace) -> _Answer:
    count = registry.import_(options.path)
    document = {"path": options.path, "stored": count}
    return _Answer(document, f"{_counted(count, 'entry', 'entries')} stored, new or better.")


def _prune(options: argparse.Namespace) -> _Answer:
    removed = registry.prune(
        older_than_days=options.older_than_days,
        superseded=not options.keep_superseded,
        damaged=not options.keep_damaged,
        dry_run=options.dry_run,
    )
    done = "would be removed" if options.dry_run else "removed"
    document = {"removed": removed, "dry_run": options.dry_run}
    return _Answer(document, "\n".join([*removed, f"{_counted(len(removed), 'file')} {done}."]))


def _flow(a: Any, b: Any, c: Any) -> Any:
    """What the demonstration differentiates."""
    u = jnp.sin(a * b)
    v = jnp.exp(u) * c
    w = jnp.tanh(u * v)
    p = w * u + v
    q = jnp.cos(p) * w
    return p * q, q / v, jnp.log(p * p + 1) * w, p - q


def _train_policy(options: argparse.Namespace) -> _Answer:
    from jax_cce_search.alphazero import configuration, trainer

    told = options.coordinator, options.processes, options.process
    if any(one is not None for one in told) and None in told:
        raise _FailureError(
            WRONG_USAGE, "--coordinator, --processes and --process belong together: give all three."
        )
    try:
        settings = configuration.load(options.config)
    except (FileNotFoundError, ValueError) as error:
        raise _FailureError(WRONG_USAGE, str(error)) from error
    jax.config.update("jax_num_cpu_devices", settings.devices)
    if options.coordinator is not None:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)

    def tell(metrics: trainer.Metrics) -> None:
        if not sys.stderr.isatty() and jax.process_index() == 0:
            print(json.dumps(metrics), file=sys.stderr, flush=True)

    run = trainer.train(
        settings, options.out, resume=options.resume, seconds=options.seconds, callback=tell
    )
    found = run.validate()
    document = {"directory": str(run.directory), "iterations": run.iteration, **found}
    text = f"{run.directory}/policy: {run.iteration} iterations in {run.seconds:.0f} s.\n"
    if found:
        text += (
            f"Alone it costs {found['validation_to_markowitz']:.3f} of minimal Markowitz on graphs "
            f"that it did not learn from, and less on {100 * found['validation_better']:.0f} %.\n"
        )
    text += f"Use it: JAX_CCE_POLICY={run.directory}/policy"
    return _Answer(document, text)


def _demo(options: argparse.Namespace) -> _Answer:
    shapes = [jax.ShapeDtypeStruct((), jnp.float32)] * 3
    old = os.environ.get("JAX_CCE_REGISTRY")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["JAX_CCE_REGISTRY"] = directory
        try:
            before = jax_cce.plan(_flow, (0, 1, 2))(*shapes)
            begin = time.perf_counter()
            found = optimize(_flow, (0, 1, 2), cost="multiplications", budget=2, progress=False)(
                *shapes
            )
            seconds = time.perf_counter() - begin
            second = _second_run()
        finally:
            if old is None:
                del os.environ["JAX_CCE_REGISTRY"]
            else:
                os.environ["JAX_CCE_REGISTRY"] = old
    count = second["costs"]["in use"]["multiplications"]
    is_same = second["source"] == "user" and second["order"] == list(found.order)
    text = "\n".join(
        [
            f"A function of 3 inputs and 4 outputs, {before.num_vertices} vertices. "
            "Multiplications for its Jacobian:",
            *(f"  {name:<10} {cost:>4}" for name, cost in found.reference.items()),
            f"  {'auto':<10} {before.cost('multiplications'):>4}, before anything is stored",
            f"First run, this process: optimize finds {found.value:.0f} ({found.status}) in "
            f"{seconds:.1f} s and stores the order.",
            f"Second run, a new process: the order comes from the registry ({second['source']}), "
            f"{count} multiplications, without a search."
            if is_same
            else f"Second run, a new process: not answered by the registry ({second['source']}).",
        ]
    )
    document = {
        "reference": dict(found.reference),
        "first": _found_document(found),
        "second": {"source": second["source"], "order": second["order"], "multiplications": count},
    }
    return _Answer(document, text, OK if is_same else PROBLEMS)


def _second_run() -> dict[str, Any]:
    """What another process does with the same function."""
    target = f"{_flow.__module__ if __name__ != '__main__' else 'jax_cce_search.cli'}:_flow"
    command = ["explain", target, "--args", "f32[] f32[] f32[]", "--argnums", "0,1,2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "jax_cce_search.cli", *command], capture_output=True, text=True
    )
    if done.returncode:
        raise _FailureError(PROBLEMS, f"the second process failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
