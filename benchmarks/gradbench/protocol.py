"""What a tool of GradBench answers to the messages of an evaluation."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from benchmarks.gradbench import EVALUATIONS
from benchmarks.gradbench.evaluation import Function, Json

_NANO = 10**9


def answers(lines: Iterable[str]) -> Iterator[str]:
    """Answers messages, one a line, each before the next is read."""
    for line in lines:
        message = json.loads(line)
        yield json.dumps({"id": message["id"], **_answer(message)})


def _answer(message: Json) -> Json:
    kind = message["kind"]
    if kind == "start":
        return {"tool": "jax_cce"}
    if kind == "define":
        return {"success": True} if message["module"] in EVALUATIONS else _unknown(message)
    return _evaluated(message) if kind == "evaluate" else {}


def _unknown(message: Json) -> Json:
    asked = ".".join(message[key] for key in ("module", "function") if key in message)
    return {"success": False, "error": f"there is no {asked}"}


def _evaluated(message: Json) -> Json:
    evaluation = EVALUATIONS.get(message["module"])
    function = evaluation and evaluation.functions.get(message["function"])
    if not (evaluation and function):
        return _unknown(message)
    try:
        return _timed(function, evaluation.read, message["input"])
    except Exception:
        return {"success": False, "error": traceback.format_exc()}


def _timed(function: Function, read: Callable[[Json], tuple[Any, ...]], data: Json) -> Json:
    """Runs as often and as long as the input asks for; the first run compiles, and counts."""
    limits = data if isinstance(data, dict) else {}
    runs, least = limits.get("min_runs", 1), limits.get("min_seconds", 0) * _NANO
    arguments = jax.device_put(read(data))
    jax.block_until_ready(arguments)
    program = jax.jit(function.program)
    taken: list[int] = []
    while len(taken) < runs or sum(taken) < least:
        start = time.perf_counter_ns()
        result = jax.block_until_ready(program(*arguments))
        taken.append(time.perf_counter_ns() - start)
    timings = [{"name": "evaluate", "nanoseconds": each} for each in taken]
    return {"success": True, "output": function.write(result), "timings": timings}
