"""Programs that are source: what runs is what is printed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cases.program_scope import NAMESPACE

__all__ = ["Source"]


@dataclasses.dataclass(frozen=True, repr=False)
class Source:
    """A function by its source, which is its `repr`.

    Attributes:
        source: the lines that define `f`.
        namespace: the names that these use.
    """

    source: str
    namespace: ClassVar[Mapping[str, Any]] = NAMESPACE

    @property
    def function(self) -> Callable[..., Any]:
        namespace = dict(self.namespace)
        exec(compile(self.source, "<program>", "exec"), namespace)
        return namespace["f"]

    def __repr__(self) -> str:
        return f"\n{self.source}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints in place of the fields of a dataclass."""
        printer.text(repr(self))
