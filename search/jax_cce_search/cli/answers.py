"""What a command says, and its exit code."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FUNCTION_FAILED",
    "INTERRUPTED",
    "OK",
    "PROBLEMS",
    "WRONG_USAGE",
    "Answer",
    "CommandError",
    "counted",
    "few",
    "first_line",
    "named_error",
    "say",
]

OK, PROBLEMS, WRONG_USAGE, FUNCTION_FAILED = range(4)
# As a shell reports a process that an interrupt ended.
INTERRUPTED = 130

# Characters of an error's message; some print whole programs.
_MOST_MESSAGE = 300


class CommandError(Exception):
    """Ends a command with an exit code and a message for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Answer:
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


def say(answer: Answer, *, as_json: bool) -> None:
    """Prints an answer, for a program or for people."""
    if as_json:
        print(json.dumps(answer.document, indent=2, allow_nan=False))
    elif answer.pretty is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(answer.pretty())
    else:
        print(answer.text.rstrip("\n"))
    sys.stdout.flush()


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things, in words: "1 entry", "2 entries"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def few(names: Sequence[str], most: int = 8) -> str:
    """The first of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "none"


def named_error(error: BaseException) -> str:
    """An error's type and what it says first, on one line."""
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ")


def first_line(error: BaseException) -> str:
    """What an error says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else ""
    return message if len(message) <= _MOST_MESSAGE else f"{message[:_MOST_MESSAGE]} ..."
