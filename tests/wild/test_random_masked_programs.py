"""Random programs with masks and custom rules: finite in every order where a mode of JAX is."""

import os
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import jax_cce
from cases.masked_programs import MaskedProgram, masked_programs
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import read

# A search, not a check: it comes upon programs that docs/explanation/promises.md excludes.
pytestmark = pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="runs in the nightly profile"
)


def _orders(program: MaskedProgram, seed: int) -> dict[str, dict[str, Any]]:
    """Named orders and a random one, and the formats."""
    ways: dict[str, dict[str, Any]] = {"auto": {}, "reverse": {"order": "reverse"}}
    ways["structured"] = {"format": "structured"}
    if not program.of_rows:
        ways |= {"forward": {"order": "forward"}}
        argnums, rng = range(len(program.args)), np.random.default_rng(seed)
        for form in ("dense", "bcoo"):
            plan = jax_cce.plan(program.function, argnums, format=form)(*program.args)
            order = rng.permutation(plan.vertices).tolist()
            ways[f"random {form}"] = {"order": order, "format": form}
    return ways


def _dense(tree: Any) -> tuple[Any, ...]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: hasattr(x, "todense"))
    return tuple(x.todense() if hasattr(x, "todense") else x for x in leaves)


def _is_finite(leaves: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in leaves)


def _selects_finite(program: MaskedProgram) -> bool:
    """Whether selections result in finite values, as promised, or in an infinite constant."""
    flat, constants = tracing.trace(lambda *args: [program.function(*args)], program.args)
    _, varied = passes.dependent(flat.equations, range(flat.num_inputs))
    values = passes.values(flat, constants, program.args)
    passes.fill(values, flat.equations)
    for equation in flat.equations:
        if equation.name == "select_n":
            fixed = [k for k in equation.inputs if isinstance(k, Literal) or k not in varied]
            if _is_finite(read(values, k) for k in fixed) and not _is_finite(
                values[k] for k in equation.outputs
            ):
                return False
    return True


def check(program: MaskedProgram, seed: int) -> bool:
    """Asserts that it is finite in every order if it is in a mode of JAX; whether it is."""
    f, argnums = program.function, tuple(range(len(program.args)))
    ways = _orders(program, seed)
    modes = [jax.jacrev, jax.jacfwd] if program.has_forward_mode else [jax.jacrev]

    def evaluate(*args: Any) -> Any:
        ours = {
            name: _dense(jax_cce.jacobian(f, argnums, **way)(*args)) for name, way in ways.items()
        }
        references = [_dense(mode(f, argnums)(*args)) for mode in modes]
        return _dense(f(*args)), references, ours

    compiled = jax.jit(evaluate, compiler_options={"xla_backend_optimization_level": 0})
    value, references, ours = compiled(*program.args)
    finite = [reference for reference in references if _is_finite(reference)]
    if not _is_finite(value) or not _selects_finite(program):
        return False
    # An operator is applied in one direction, which need not be that of the finite mode.
    if not finite or (program.has_operator and len(finite) < 2):
        return False
    wrong = {}
    for name, leaves in ours.items():
        for our, their in zip(leaves, finite[0], strict=True):
            scale = 1e-7 * np.abs(their).max(initial=1)
            if not np.allclose(our, their, rtol=1e-7, atol=scale):
                wrong[name] = f"{ways[name]}\n{our}\nis not\n{their}"
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())
    return True


@pytest.mark.parametrize("with_rules", [False, True], ids=["masks", "rules"])
@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_what_a_mode_of_jax_finds_finite_is_finite_in_every_order(
    data: st.DataObject, seed: int, with_rules: bool
):
    assume(check(data.draw(masked_programs(with_rules)), seed))
