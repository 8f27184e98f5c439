"""What is asked of a randomised derivative, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from jax_cce.eliminations import has_edges
from jax_cce.orders import named
from jax_cce.program import calls
from jax_cce.program.calls import Contract
from jax_cce.randomized.draws import METHODS, Method
from jax_cce.randomized.sites import Choice

__all__ = ["Keep", "Order", "Request", "Sites", "request_of"]

Keep: TypeAlias = float | Sequence[float]
Sites: TypeAlias = Literal["saved", "cut", "vertices"] | int | Sequence[str]
Order: TypeAlias = Literal["auto", "forward", "markowitz", "reverse"] | Sequence[int]

_NAMED = ("saved", "cut", "vertices")


@dataclass(frozen=True)
class Request:
    """What is asked of a randomised derivative."""

    contract: Contract
    keep: Keep
    sites: Sites
    method: Method
    share: bool
    order: Order | None

    @property
    def is_exact(self) -> bool:
        """Whether everything is kept."""
        return isinstance(self.keep, int | float) and self.keep == 1

    @property
    def part(self) -> float:
        """What an elimination keeps."""
        return float(self.keep) if isinstance(self.keep, int | float) else float(self.keep[0])

    @property
    def eliminates(self) -> bool:
        """Whether products of an elimination are sampled."""
        return self.sites in ("cut", "vertices") or calls.is_index(self.sites)

    def choice(self, keep: Keep | None = None) -> Choice:
        """Which coefficients of the reverse mode are kept in part."""
        names = None if self.sites == "saved" else frozenset(self.sites)  # type: ignore[arg-type]
        return Choice(names, self.keep if keep is None else keep, self.method, self.share)


def request_of(
    argnums: Any,
    has_aux: bool,
    keep: Any,
    sites: Any,
    method: Any,
    share: bool,
    order: Any = None,
) -> Request:
    """The arguments of the public transformations, checked.

    Raises:
        TypeError: for names of sites that are no strings.
        ValueError: for values out of range, and for what does not go together.
    """
    checked = None if order is None else named.check(order)
    if checked is not None and not isinstance(checked, str) and has_edges(checked):
        raise ValueError(
            "Products are sampled vertex by vertex, so that order takes vertices, and no edges by "
            f"themselves, but got {order!r}."
        )
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, but got {method!r}.")
    keeps = [keep] if isinstance(keep, int | float) else list(keep)
    for each in keeps:
        if not 0 < each <= 1:
            raise ValueError(
                f"keep is the part that is kept, above 0 and at most 1, but got {each!r}."
            )
    if isinstance(sites, str) and sites not in _NAMED:
        names = ", ".join(map(repr, _NAMED))
        raise ValueError(
            f"sites must be one of {names}, a vertex, or names of checkpoint_name in a tuple, but "
            f"got {sites!r}. A single name is a tuple of one: ({sites!r},)."
        )
    if not isinstance(sites, str) and not calls.is_index(sites):
        sites = tuple(sites)
        if not all(isinstance(name, str) for name in sites):
            raise TypeError(f"Names of sites are strings, but got {sites!r}.")
    request = Request(
        Contract(argnums, has_aux),
        keep if isinstance(keep, int | float) else tuple(keeps),
        sites,
        method,
        bool(share),
        checked,  # type: ignore[arg-type]
    )
    if order is not None and not request.eliminates:
        raise ValueError(
            f"An order is one of elimination: it goes with sites='cut', 'vertices' or a vertex, "
            f"but sites is {sites!r}."
        )
    if request.eliminates and len(keeps) > 1:
        raise ValueError("Products of an elimination take one keep for all.")
    return request
