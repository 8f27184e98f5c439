"""Steps: what each says of itself is what it does."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from jax_cce.algebra import steps
from jax_cce.algebra.steps import Step
from jax_cce.algebra.steps.step import Run


def _clip(x):
    return jnp.cumsum(jnp.sin(x)) * x


def _shifted(x):
    y = jnp.sin(x)
    return y[1:] * y[:-1] + (y * y)[1:], jnp.flip(y)


def _looked_up(x):
    at = jnp.argsort(x)
    return jnp.sort(x * x)[at] * x, x[at][at]


PROGRAMS = {
    f"{name}, {format}": jax_cce.plan(fun, order=order, format=format)
    for name, fun in {"clip": _clip, "shifted": _shifted, "looked up": _looked_up}.items()
    for format in ("dense", "bcoo")
    for order in ("reverse",)
}
X = jnp.linspace(0.2, 1.0, 5)


def kinds():
    """All final classes of steps of this room."""
    pending, final = [Step], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith(steps.__name__):
            final.add(kind)
    return final


@pytest.mark.parametrize("planned", PROGRAMS.values(), ids=PROGRAMS)
def test_a_step_reads_what_it_says_and_fills_its_slots(planned):
    plan = planned(X)

    class Watched(dict):
        def __getitem__(self, slot):
            read.add(slot)
            return super().__getitem__(slot)

    read: set[int] = set()

    def run(x):
        from jax_cce.program import passes
        from jax_cce.rules.local import LocalSites, Primals

        program, sites = plan.graph.program, {}

        def evaluated(site, equation, ins):
            local, residuals = plan.graph.sites[site], ()
            if local is not None and local.evaluate is not None:
                outs, residuals = local.evaluate(ins)
            else:
                outs = passes.bind(equation, ins)
            sites[site] = Primals(equation, ins, outs, residuals)
            return outs

        passes.fill(passes.values(program, (), [x]), program.equations, evaluated)
        values = LocalSites(lambda site: plan.graph.sites[site].edges, sites.__getitem__)
        arrays = Run(x.dtype, values, {})
        arrays.slots = Watched()
        for step in plan.steps:
            read.clear()
            results = step.run(arrays)
            assert len(results) == len(step.slots)
            assert read == set(step.reads), step
            arrays.slots.update(zip(step.slots, results, strict=True))
        return 0

    jax.make_jaxpr(run)(X)


@pytest.mark.parametrize("planned", PROGRAMS.values(), ids=PROGRAMS)
def test_a_plan_costs_what_its_steps_say(planned):
    plan = planned(X)
    assert plan.cost("flops") == sum(step.flops for step in plan.steps)
    assert plan.cost("bytes") == 8 * sum(step.moved for step in plan.steps)


def test_every_kind_of_step_is_public_and_frozen():
    assert {kind.__name__ for kind in kinds()} <= set(steps.__all__)
    for kind in kinds():
        assert isinstance(kind.name, str)
        assert kind.__dataclass_params__.frozen


def test_needed_steps_keep_their_order():
    plan = PROGRAMS["shifted, bcoo"](X)
    wanted = {slot for step in plan.steps[-1:] for slot in step.slots}
    kept, others = steps.needed(plan.steps, wanted)
    assert [step for step in plan.steps if step in kept] == kept
    assert len(kept) + len(others) == len(plan.steps)
    assert not any(wanted & set(step.slots) for step in others)


def test_the_text_of_a_step_names_place_slots_and_content():
    texts = [str(step) for step in PROGRAMS["clip, dense"](X).steps]
    assert texts[0].startswith("[local] c0 = d out[0] / d in[")
    assert any("vjp of cumsum" in text or "jvp of cumsum" in text for text in texts)


def test_static_coefficients_are_numbers():
    arrays = Run(np.float64, None, {})
    from jax_cce.algebra.blocks import Piece
    from jax_cce.algebra.terms import identity

    assert arrays.coefficient(Piece(identity((3,)), 2.5, None)) == 2.5
    with pytest.raises(AssertionError, match="these steps belong to no equations"):
        _ = arrays.sites
