"""JAX's own answers, computed once for each case however many tests compare with them."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

__all__ = ["jitted_hessian", "jitted_jacrev", "once"]

Subject = TypeVar("Subject")
Answer = TypeVar("Answer")


def once(compute: Callable[[Subject], Answer]) -> Callable[[Subject], Answer]:
    """`compute`, whose answer for an object is kept. Cases need be neither hashable nor equal.

    Not for answers that depend on a setting of JAX, such as 64-bit types.
    """
    # The object is kept beside its answer, so that its id stays its own.
    answers: dict[int, tuple[Subject, Answer]] = {}

    def answer(subject: Subject) -> Answer:
        if id(subject) not in answers:
            answers[id(subject)] = subject, compute(subject)
        return answers[id(subject)][1]

    return answer


@once
def jitted_jacrev(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(jax.jacrev(fun))`, the same object each time: traced and compiled once."""
    return jax.jit(jax.jacrev(fun))


@once
def jitted_hessian(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(jax.hessian(fun))`, the same object each time: traced and compiled once."""
    return jax.jit(jax.hessian(fun))
