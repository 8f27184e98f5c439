"""What a command says, and its exit code."""

import json
import sys
from collections.abc import Callable
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
    "say",
]

OK, PROBLEMS, WRONG_USAGE, FUNCTION_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


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
    if as_json:
        print(json.dumps(answer.document, indent=2, allow_nan=False))
    elif answer.pretty is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(answer.pretty())
    else:
        print(answer.text.rstrip("\n"))
    sys.stdout.flush()
