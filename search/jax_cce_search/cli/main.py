"""`jax-cce`: its commands with their options, and what surrounds the one that runs."""

import argparse
import contextlib
import functools
import importlib.util
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import jax.export

from jax_cce import jax_internals, registry
from jax_cce.algebra import costs
from jax_cce.artefacts.compiling import Transform
from jax_cce.sparse.formats import FORMATS
from jax_cce_search.cli.answers import (
    INTERRUPTED,
    PROBLEMS,
    Answer,
    CommandError,
    named_error,
    say,
)
from jax_cce_search.cli.arguments import (
    ARGS_HELP,
    arguments_option,
    budget_option,
    integers_option,
    order_option,
)
from jax_cce_search.cli.commands import run_compile, run_explain, run_optimize, run_train_policy
from jax_cce_search.cli.demo import run_demo
from jax_cce_search.cli.registry_commands import (
    export_orders,
    import_orders,
    list_orders,
    prune_registry,
    show_orders,
    verify_registry,
)
from jax_cce_search.strategies import STRATEGIES

__all__ = [
    "main",
]

_CODES = """\
exit codes: 0 all is well, 1 the operation found problems, 2 wrong usage, 3 the function failed.
"""


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
        say(answer, as_json=options.json)
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
        code, message = PROBLEMS, named_error(error)
        if isinstance(error, CommandError):
            code, message = error.code, str(error)
        print(f"jax-cce: {message}", file=sys.stderr)
        return code


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
    parser = argparse.ArgumentParser(
        prog="jax-cce",
        description="Elimination orders for exact Jacobians in JAX.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_optimize(commands)
    _add_explain(commands)
    _add_compile(commands)
    _add_train_policy(commands)
    _add_registry(commands)
    _add(
        commands, "demo", run_demo, "show that an order is found once and used by a second process"
    )
    return parser


def _add(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], Answer],
    help: str,
    *parents: argparse.ArgumentParser,
    epilog: str = _CODES,
) -> argparse.ArgumentParser:
    """A command with the options that all have, and those of `parents`."""
    command = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        parents=[_common_options(), *parents],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog,
    )
    command.set_defaults(command=run)
    return command


def _add_optimize(commands: Any) -> None:
    command = _add(
        commands,
        "optimize",
        run_optimize,
        "search for the best order of a function and store it",
        _function_options(),
        _registry_options(),
        epilog=f"{ARGS_HELP}\n{_CODES}",
    )
    command.add_argument(
        "--cost",
        default="runtime",
        choices=["runtime", "native", "memory", *costs.COSTS],
        help="default: %(default)s",
    )
    command.add_argument(
        "--strategy", default="portfolio", choices=[*STRATEGIES], help="default: %(default)s"
    )
    command.add_argument(
        "--budget",
        type=budget_option,
        default=30.0,
        metavar="SECONDS",
        help="seconds to search, or 'none' for no limit; default: %(default)s",
    )
    command.add_argument("--evaluations", type=int, metavar="N", help="orders to look at, at most")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="time under jax.vmap over so many points"
    )
    command.add_argument("--plot", metavar="PATH", help="draw the best cost over time into a file")


def _add_explain(commands: Any) -> None:
    command = _add(
        commands,
        "explain",
        run_explain,
        "report how a Jacobian is computed, and why",
        _function_options(),
        _registry_options(),
        epilog=f"{ARGS_HELP}\n{_CODES}",
    )
    command.add_argument(
        "--order",
        type=order_option,
        default="auto",
        help="a name, or vertices and edges as in 2,0,1 or front(0,1),2,0,1",
    )
    command.add_argument("--markdown", action="store_true", help="print the report in Markdown")
    command.add_argument("--draw", metavar="PATH", help="draw the graph into a file")


def _add_compile(commands: Any) -> None:
    command = _add(
        commands,
        "compile",
        run_compile,
        "write a Jacobian into a file that plain JAX runs in another process",
        _function_options(jax.export.SymbolicScope()),
        _registry_options(),
        epilog=f"{ARGS_HELP}\n{_CODES}",
    )
    command.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="the file that is written"
    )
    command.add_argument(
        "--transform",
        default="jacobian",
        choices=get_args(Transform),
        help="default: %(default)s",
    )
    command.add_argument(
        "--order",
        type=order_option,
        default="auto",
        help="a name, or vertices and edges as in 2,0,1 or front(0,1),2,0,1",
    )
    command.add_argument(
        "--platforms", metavar="P[,P]", help="of cpu, cuda, rocm, tpu; by default the one here"
    )
    command.add_argument(
        "--native", action="store_true", help="with machine code for this kind of processor"
    )
    command.add_argument(
        "--executable", action="store_true", help="with what XLA compiles for this kind of machine"
    )
    command.add_argument(
        "--vjp-order", type=int, default=0, metavar="N", help="how often it is differentiated again"
    )


def _add_train_policy(commands: Any) -> None:
    command = _add(
        commands, "train-policy", run_train_policy, "train a policy for the strategy 'alphazero'"
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="a TOML file, or the name of a shipped one"
    )
    command.add_argument("--out", required=True, metavar="DIRECTORY", help="where its files go")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint there")
    command.add_argument(
        "--seconds", type=float, metavar="S", help="stop after an iteration by then"
    )
    command.add_argument(
        "--coordinator", metavar="HOST:PORT", help="train on several processes, which meet there"
    )
    command.add_argument("--processes", type=int, metavar="N", help="how many there are")
    command.add_argument(
        "--process", type=int, metavar="I", help="which of them this one is, from 0"
    )


def _add_registry(commands: Any) -> None:
    group = commands.add_parser("registry", help="look after the stored orders")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], Answer], help: str
    ) -> argparse.ArgumentParser:
        return _add(commands, name, run, help, _registry_options())

    command = add("list", list_orders, "list the stored orders")
    command.add_argument("--cost", help="only those for this cost")
    command = add("show", show_orders, "show all that is stored for one function")
    command.add_argument("key", metavar="KEY", help="a key, or a unique beginning of one")
    add("verify", verify_registry, "check every file of the registry")
    command = add("export", export_orders, "write the stored orders into one file")
    command.add_argument("path", metavar="PATH")
    command.add_argument("--key", help="only those of the function with this key")
    command.add_argument("--cost", help="only those for this cost")
    command = add("import", import_orders, "store the orders of an exported file")
    command.add_argument("path", metavar="PATH")
    command = add("prune", prune_registry, "remove superseded and damaged files")
    command.add_argument(
        "--older-than-days", type=float, metavar="N", help="remove entries that are older, too"
    )
    command.add_argument("--keep-superseded", action="store_true")
    command.add_argument("--keep-damaged", action="store_true")
    command.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def _common_options() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def _registry_options() -> argparse.ArgumentParser:
    """The options of commands that read or write the registry."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--registry",
        metavar="PATH",
        help="directory or URL in place of JAX_CCE_REGISTRY; 'off' for none",
    )
    return parser


def _function_options(scope: jax.export.SymbolicScope | None = None) -> argparse.ArgumentParser:
    """The options that say what is differentiated.

    Args:
        scope: as for `arguments`.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "target", metavar="MODULE:FUNCTION", help="or path/to/file.py:function; attributes by dots"
    )
    parser.add_argument(
        "--args",
        type=functools.partial(arguments_option, scope=scope),
        action="extend",
        default=[],
        metavar="ARGS",
        help="arguments of the function, see below",
    )
    parser.add_argument(
        "--argnums", type=integers_option, default=0, metavar="N[,N]", help="default: %(default)s"
    )
    parser.add_argument("--format", default="dense", choices=[*FORMATS])
    parser.add_argument("--x64", action="store_true", help="switch on JAX's 64-bit types")
    parser.add_argument("--has-aux", action="store_true", help="as for jax_cce.jacobian")
    parser.add_argument("--holomorphic", action="store_true", help="as for jax_cce.jacobian")
    parser.add_argument("--allow-int", action="store_true", help="as for jax_cce.jacobian")
    return parser


def _version() -> str:
    version = importlib.metadata.version("jax-cross-country")
    return (
        f"jax-cce {version} (jax {jax_internals.jax_version()}, Python {platform.python_version()})"
    )
