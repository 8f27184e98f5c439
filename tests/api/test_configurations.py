"""In every configuration of JAX, under every transformation, in every format: what JAX answers."""

import itertools
import os

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from cases.agreement import assert_agree
from cases.blocks import dense
from cases.configurations import (
    CONFIGURATIONS,
    FORMATS,
    FUNCTIONS,
    REVIEWED,
    Cell,
    covering,
    outcomes,
    product,
)

IS_NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
CELLS = product() if IS_NIGHTLY else covering()


def _by_configuration() -> list[tuple[str, str]]:
    return [(c, f) for c in CONFIGURATIONS for f in FUNCTIONS]


@pytest.mark.parametrize("configuration, function", _by_configuration())
def test_the_answer_is_that_of_jax(configuration: str, function: str):
    cells = [c for c in CELLS if (c.configuration, c.function) == (configuration, function)]
    assert cells
    for cell in cells:
        _check(cell)


def _check(cell: Cell) -> None:
    ours, theirs = outcomes(cell)
    if isinstance(ours, Exception):
        if (cell.configuration, cell.function) == ("64 bits inside", "random numbers"):
            # JAX mixes the widths of its bits there, and its caches decide where it notices.
            assert isinstance(theirs, Exception), f"{cell}: {ours!r}"
            return
        assert type(ours) is type(theirs), f"{cell}: {ours!r} is not like {theirs!r}"
        return
    if isinstance(theirs, Exception):
        raise theirs
    assert jax.tree.structure(ours) == jax.tree.structure(theirs), cell
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if FUNCTIONS[cell.function].reference is jax.jacfwd:
            # Which has the dtype of the output.
            their = their.astype(our.dtype)
        if cell.format == "bcoo":
            # JAX's own BCOO.todense() drops the weak type.
            our, their = our.astype(our.dtype), their.astype(their.dtype)
        try:
            assert_agree(our, their, tolerance=_TOLERANCES.get(their.dtype.name, 1e-4))
        except AssertionError as error:
            raise AssertionError(f"{cell}: {error}") from error


# Most arguments have 32 bits; "mixed dtypes" has some of 16.
_TOLERANCES = {"float16": 2e-2, "float64": 1e-4}


def test_every_pair_of_choices_occurs():
    cells = covering()
    assert len(cells) == len(set(cells)) < len(product()) / 20
    for one, other in itertools.combinations(range(4), 2):
        pairs = {(cell[one], cell[other]) for cell in cells}
        assert pairs == {(cell[one], cell[other]) for cell in product()}


def test_compiled_programs_run_where_nothing_may_be_traced():
    x = jnp.arange(3.0)
    for form in FORMATS:
        compiled = jax.jit(lambda x, form=form: dense(jax_cce.jacobian(jnp.sin, format=form)(x)))
        expected = compiled(x)
        with jax.no_tracing():
            assert_agree(compiled(x), expected)


@pytest.mark.skipif(not IS_NIGHTLY, reason="a patch of JAX may bring a flag any day")
def test_every_flag_is_set_in_a_row_or_reviewed():
    rows = set().union(*(each.flags for each in CONFIGURATIONS.values()))
    assert not sorted(
        flag for flag in jax.config.values.keys() - rows if not REVIEWED.fullmatch(flag)
    )
