"""The vocabulary of the coverage table: a row is one public function with operands to try it on.

A table reads ``lax("sin cos", UNARY)``: for each name, one row that is checked on every case, a
case being one shape per operand. What a function needs beyond its operands (axes, static sizes)
goes into a call, which gets the function as its first argument: ``lax("rev", UNARY, lambda f, x:
f(x, (0,)))``.
"""

from __future__ import annotations

import dataclasses
import importlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]
Case = tuple[Shape, ...]
Domain = Callable[[np.random.Generator, Shape], np.ndarray]

__all__ = [
    "BROADCAST",
    "BROADCAST_FEW",
    "NO_EMPTY",
    "NO_SINGLE",
    "NO_UNEQUAL",
    "PAIRS",
    "UNARY",
    "UNARY_FEW",
    "Domain",
    "Row",
    "Table",
    "boolean",
    "complex_plane",
    "diagonally_dominant",
    "each",
    "index",
    "kinks",
    "parts",
    "positive_definite",
    "symmetric",
    "unit_upper",
    "within",
]


# --- operands ------------------------------------------------------------------------------------


def within(low: float, high: float) -> Domain:
    """Floats drawn uniformly from [low, high); never tied, never exactly zero in practice."""
    return lambda rng, shape: rng.uniform(low, high, shape)


_ANY = within(-1.5, 1.5)


def index(high: int) -> Domain:
    """Integers in [0, high): an operand without a derivative."""
    return lambda rng, shape: rng.integers(0, high, shape)


def kinks(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Floats from {-1, 0, 1}: ties between entries, and functions such as abs exactly at a kink."""
    return rng.integers(-1, 2, shape).astype(float)


def boolean(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Truth values of both kinds."""
    return rng.permutation(np.arange(int(np.prod(shape))) % 2 == 0).reshape(shape)


def complex_plane(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Complex numbers in the open first quadrant, away from branch cuts."""
    return rng.uniform(0.2, 0.8, shape) + 1j * rng.uniform(0.2, 0.8, shape)


def symmetric(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Symmetric matrices with eigenvalues about 1 apart."""
    a = rng.uniform(-0.3, 0.3, shape)
    return (a + np.swapaxes(a, -1, -2)) / 2 + np.diag(np.arange(1.0, shape[-1] + 1))


def positive_definite(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Symmetric positive definite matrices with separated eigenvalues."""
    return symmetric(rng, shape) + np.eye(shape[-1])


def diagonally_dominant(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Well-conditioned matrices, square or not, with separated singular values."""
    rows, columns = shape[-2:]
    return rng.uniform(-0.3, 0.3, shape) + np.eye(rows, columns) * np.arange(2.0, columns + 2)


def unit_upper(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Upper triangular matrices with a diagonal of about one."""
    return np.triu(rng.uniform(0.1, 0.4, shape)) + np.eye(shape[-1])


# --- cases ---------------------------------------------------------------------------------------


def each(*shapes: Shape) -> list[Case]:
    """Cases of functions with one operand."""
    return [(shape,) for shape in shapes]


UNARY = each((3, 4), (), (0, 2))
PAIRS: list[Case] = [((3, 4), (3, 4)), ((), ()), ((0, 2), (0, 2))]
BROADCAST: list[Case] = [((3, 4), (4,)), ((2, 1), (1, 3)), ((), (0, 2))]


# The same sizes in fewer cases, for functions that take XLA seconds to compile.
UNARY_FEW = each((1, 3, 4), (0, 2))
BROADCAST_FEW: list[Case] = [((3, 4), (1, 4)), ((0, 2), (2,))]

# Why a function cannot be tried on some sizes. The tables must try all others.
NO_EMPTY = {"empty": "needs at least one element"}
NO_SINGLE = {"single": "needs more than one element"}
NO_UNEQUAL = {"unequal": "has one operand axis"}


# --- rows ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """One function with the cases on which its Jacobian is compared.

    Attributes:
        namespace: Public module that holds the function, such as ``jax.lax``.
        name: Attribute of that module.
        variant: Tells apart several rows of one function.
        fun: The function of the operands alone.
        cases: One shape per operand, for each case.
        domains: Per operand, where its values come from; one for all if there is only one. Operands
            drawn as integers or truth values are arguments without a derivative.
        reference: ``"rev"``: jax.jacrev. ``"fwd"``: jax.jacfwd, where jacrev cannot. ``"none"``:
            neither can, and all three must refuse.
        rtol: Largest error, relative to the largest entry of the reference.
        holomorphic: Operands and results are complex.
        zero: The derivative is zero everywhere (otherwise the reference must not be).
        nan: The reference holds NaN, which must then stand at the same places.
        lacks: Kinds of sizes that no case has (see `kinds_of_sizes`), with the reason.
    """

    namespace: str
    name: str
    variant: str
    fun: Callable[..., Any]
    cases: tuple[Case, ...]
    domains: tuple[Domain, ...]
    reference: str = "rev"
    rtol: float = 1e-9
    holomorphic: bool = False
    zero: bool = False
    nan: bool = False
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def function(self) -> str:
        """Name as the completeness test and the documentation spell it: ``jax.numpy.sin``."""
        return f"{self.namespace}.{self.name}"

    def __str__(self) -> str:
        return self.function.removeprefix("jax.") + (f"[{self.variant}]" if self.variant else "")

    def operands(self, case: Case) -> tuple[np.ndarray, ...]:
        """Draws one case's operands, the same ones in every run."""
        rng = np.random.default_rng(zlib.crc32(f"{self}{case}".encode()))
        domains = self.domains if len(self.domains) > 1 else self.domains * len(case)
        return tuple(
            np.asarray(domain(rng, shape)) for domain, shape in zip(domains, case, strict=True)
        )

    def argnums(self, case: Case) -> tuple[int, ...]:
        """Every floating (or complex) operand."""
        return tuple(
            i for i, x in enumerate(self.operands(case)) if np.issubdtype(x.dtype, np.inexact)
        )

    def references(self) -> list[Any]:
        """JAX's own Jacobian for every case, all of them compiled as one program."""
        jacobian = {"rev": jax.jacrev, "fwd": jax.jacfwd}[self.reference]

        @jax.jit
        def jacobians(all_operands: list[tuple[Any, ...]]) -> list[Any]:
            return [
                jacobian(self.fun, argnums=self.argnums(case), **options)(*operands)
                for case, operands in zip(self.cases, all_operands, strict=True)
            ]

        options = {"holomorphic": True} if self.holomorphic else {}
        return jacobians([self.operands(case) for case in self.cases])


def kinds_of_sizes(cases: Iterable[Case]) -> set[str]:
    """Which sizes occur: ``"empty"`` axes, ``"single"`` elements, ``"unequal"`` axes."""
    kinds = set()
    for case in cases:
        sizes = {size for shape in case for size in shape}
        if 0 in sizes:
            kinds.add("empty")
        if 1 in sizes or () in case:
            kinds.add("single")
        if len(sizes - {0, 1}) > 1:
            kinds.add("unequal")
    return kinds


class Table:
    """Rows for the functions of one public module.

    A function that this version of JAX does not have gets no row; its name goes to `absent`, for
    the completeness test to hold against the list of functions that come and go between versions.
    """

    def __init__(self, namespace: str):
        self.namespace = namespace
        self.module = importlib.import_module(namespace)
        self.rows: list[Row] = []
        self.absent: list[str] = []

    def __call__(
        self,
        names: str,
        cases: Sequence[Case],
        call: Callable[..., Any] | None = None,
        *,
        variant: str = "",
        domain: Domain | tuple[Domain, ...] = _ANY,
        **options: Any,
    ) -> None:
        """Adds a row for each of the space-separated names."""
        domains = domain if isinstance(domain, tuple) else (domain,)
        for name in names.split():
            function = getattr(self.module, name, None)
            if function is None:
                self.absent.append(f"{self.namespace}.{name}")
                continue
            fun = _bind(call, function) if call else function
            row = Row(self.namespace, name, variant, fun, tuple(cases), domains, **options)
            self.rows.append(row)


def _bind(call: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: call(function, *operands)


def parts(tree: Any) -> Any:
    """Real and imaginary part of complex leaves: the real result that jax.jacrev asks for."""
    return jax.tree.map(
        lambda z: jnp.stack([z.real, z.imag]) if jnp.iscomplexobj(z) else z,
        tree,
    )
