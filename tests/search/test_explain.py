"""explain: what it reports is what is computed, where it comes from and what it costs."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_cce_search.naming import structure_name
from jax_cce_search.pictures import curves, drawing, layered_layout
from jax_cce_search.searching import Improvement

import jax_cce
from benchmarks.tasks import TASKS
from jax_cce import jax_internals, registry

pytestmark = pytest.mark.one_version

X = jax.ShapeDtypeStruct((3,), jnp.float64)
NUMBER = jax.ShapeDtypeStruct((), jnp.float64)
ORDERS = ["forward", "reverse", "markowitz", "in use"]


def branched(x, y):
    a = x * y
    b = jnp.sin(a)
    c = jnp.exp(a) + b
    return {"first": b * c * x, "second": c / y}


def operators(x):
    solved = jnp.linalg.solve(jnp.eye(3) * x[0] + 1, x)
    carry, _ = lax.scan(lambda c, v: (jnp.sin(c) * v, None), x.sum(), solved)
    return jnp.tanh(jnp.ones((4, 3)) @ solved) * carry


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1, 1),))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    return registry.default()


def check_reports(e):
    """Every form of a report can be made and says the same."""
    as_text, markdown, html = str(e), e.markdown(), e._repr_html_()
    assert json.loads(json.dumps(e.to_dict(), allow_nan=False))["num_vertices"] == e.num_vertices
    for report in (as_text, markdown, html):
        assert f"{e.num_vertices:,} vertices" in report
        assert all(name in report for name in e.costs)
    assert "<lambda>" not in html
    return as_text


def test_costs_are_those_of_plans():
    e = jax_cce.explain(branched, (0, 1), order="markowitz")(NUMBER, NUMBER)
    assert list(e.costs) == ORDERS
    for name in ORDERS[:3]:
        plan = jax_cce.plan(branched, (0, 1), order=name)(NUMBER, NUMBER)
        for measure, cost in e.costs[name].items():
            assert cost == plan.cost(measure)
    assert set(e.costs["in use"]) == {
        "multiplications",
        "nonunit_multiplications",
        "flops",
        "bytes",
    }
    assert e.costs["in use"] == e.costs["markowitz"]
    assert e.plan.order == jax_cce.plan(branched, (0, 1), order="markowitz")(1.0, 2.0).order
    assert (e.source, e.entry, e.name) == ("given", None, "branched")
    assert e.num_edges == e.plan.num_edges == sum(e.structures.values())
    assert 0 < e.bound <= e.costs["in use"]["multiplications"]
    check_reports(e)


def test_the_dearest_eliminations_add_up():
    e = jax_cce.explain(branched, (0, 1))(NUMBER, NUMBER)
    assert len(e.dearest) == e.num_vertices <= 10
    assert sum(each.multiplications for each in e.dearest) == e.plan.cost("multiplications")
    flops = sum(each.flops for each in e.dearest) + e.assembly
    assert flops == e.plan.cost("flops")
    assert [each.flops for each in e.dearest] == sorted(
        (each.flops for each in e.dearest), reverse=True
    )
    by_vertex = {each.vertex: each for each in e.dearest}
    assert by_vertex[0].primitive == "mul"
    assert by_vertex[1].primitive == "sin"
    for each in e.dearest:
        assert "test_explain.py" in each.line
        assert "branched" in each.line
        assert each.shape == ()


def test_at_most_ten_are_listed():
    task = TASKS["RobotArm_6DOF"]
    e = jax_cce.explain(task.fun, task.argnums, order="forward")(*task.args)
    assert len(e.dearest) == 10
    assert e.bound == 221
    assert "at most 79.6 % more than the best" in check_reports(e)


STRUCTURES = {
    "scalar": (jnp.sin, ()),
    "one": (lambda x: x + 2.0, ()),
    "constant": (lambda x: 3.0 * x, ()),
    "diagonal": (jnp.sin, (3,)),
    "identity": (lambda x: -x, (3,)),
    "layout": (lambda x: x[::-1], (3,)),
    "reduction": (jnp.sum, (3, 4)),
    "broadcast": (lambda x: jnp.broadcast_to(x, (2, 3)), (3,)),
    "vector": (jnp.prod, (3,)),
    "dense": (lambda x: jnp.arange(6.0).reshape(2, 3) @ x, (3,)),
    "block diagonal": (lambda x: x @ jnp.arange(8.0).reshape(4, 2), (3, 4)),
    "weighted reduction": (lambda x: jnp.max(x, axis=1), (3, 4)),
    "weighted broadcast": (lambda x: x[:, None] * jnp.arange(1.0, 5.0), (3,)),
    "gather": (lambda x: x[jnp.array([0, 2, 2])], (3,)),
    "operator": (jnp.cumsum, (3,)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_names(name):
    fun, shape = STRUCTURES[name]
    e = jax_cce.explain(fun)(jax.ShapeDtypeStruct(shape, jnp.float64))
    assert name in e.structures
    check_reports(e)


def test_a_sum_of_terms_has_a_name():
    e = jax_cce.explain(jnp.sin)(X)
    ((block,),) = [to.values() for to in e.plan.graph.successors.values() if to]
    assert structure_name(block, (3,), (3,)) == "diagonal"
    assert structure_name((*block, *block), (3,), (3,)) == "sum of terms"


def test_operators_and_dense_edges_are_listed():
    e = jax_cce.explain(operators)(X)
    assert {"scan", "custom_linear_solve"} <= {edge.primitive for edge in e.operators}
    assert len(e.operators) == e.structures["operator"]
    (scan, *_) = [edge for edge in e.operators if edge.primitive == "scan"]
    assert "test_explain.py" in scan.line
    assert [(edge.primitive, edge.shape) for edge in e.dense] == [("dot_general", (4, 3))]
    text = check_reports(e)
    assert "Operators" in text
    assert "Dense local Jacobians" in text
    assert e.draw() is not None


@pytest.mark.parametrize("fun", [lambda x: x, lambda x: jnp.ones(2), jnp.sin], ids="icn")
def test_nothing_to_eliminate(fun):
    e = jax_cce.explain(fun)(1.0)
    assert (e.num_vertices, e.dearest, e.bound) == (0, (), None)
    check_reports(e)
    assert e.draw() is not None


def test_reverse_order_only():
    e = jax_cce.explain(lambda x: jnp.sin(clipped(jnp.sin(x) * 2)))(X)
    assert list(e.costs) == ["reverse", "in use"]
    assert e.costs["in use"] == e.costs["reverse"]
    assert e.bound is None
    assert "the only way" in check_reports(e)


def test_sparse_formats():
    e = jax_cce.explain(lambda x: jnp.sin(x[1:] * x[:-1]), format="bcoo")(X)
    dense = jax_cce.explain(lambda x: jnp.sin(x[1:] * x[:-1]))(X)
    assert e.costs["in use"]["bytes"] < dense.costs["in use"]["bytes"]


def test_the_entry_of_the_registry_is_shown(store):
    found = jax_cce.optimize(branched, (0, 1), cost="multiplications", budget=1)(NUMBER, NUMBER)
    e = jax_cce.explain(branched, (0, 1))(NUMBER, NUMBER)
    assert e.key == found.entry.key
    assert (e.source, e.entry) == ("user", found.entry)
    assert e.bound == found.bound
    assert e.plan.order == found.order
    text = check_reports(e)
    assert f"registry (user): {found.value:.0f} multiplications" in text
    assert "optimal over vertex orders" in text
    other = jax_cce.explain(branched, (0, 1), order="reverse")(NUMBER, NUMBER)
    assert (other.source, other.entry) == ("given", None)


def test_a_mode_of_jax_is_shown(store):
    found = jax_cce.optimize(branched, (0, 1), cost="multiplications", budget=1)(NUMBER, NUMBER)
    store.put(
        dataclasses.replace(
            found.entry,
            cost="runtime",
            value=1e-6,
            bound=None,
            method="jacrev",
            device=jax_internals.device_kind(),
            times={"jacrev": 1e-6},
            created="",
        )
    )
    e = jax_cce.explain(branched, (0, 1))(NUMBER, NUMBER)
    assert e.plan.method == "jacrev"
    assert e.entry.times == {"jacrev": 1e-6}
    text = check_reports(e)
    assert "runs as jax.jacrev" in text
    assert "1 µs" in text


def test_markup_in_names_is_escaped():
    def named(x):
        return jnp.sin(x) * x

    named.__name__ = "<b>|*"
    e = jax_cce.explain(named)(X)
    assert "&lt;b&gt;|*" in e._repr_html_()
    assert "\\<b\\>\\|\\*" in e.markdown()


def test_arguments_are_checked_as_by_jacobian():
    with pytest.raises(TypeError, match="callable"):
        jax_cce.explain(3)
    with pytest.raises(ValueError, match="order must be one of"):
        jax_cce.explain(branched, order="best")
    with pytest.raises(ValueError, match="permutation"):
        jax_cce.explain(branched, order=(7,))(1.0, 2.0)


# Pictures.


def test_a_graph_is_drawn_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    task = TASKS["RoeFlux_1d"]
    e = jax_cce.explain(task.fun, task.argnums, order="reverse")(*task.args)
    figure = e.draw(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text().startswith("<?xml")
    axes, colors = figure.axes
    assert "order" in colors.get_ylabel()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"scalar", "one", "input", "vertex", "output"} <= set(legend)
    lines = [len(each.get_segments()) for each in axes.collections if hasattr(each, "get_segments")]
    assert sum(lines) == e.num_edges
    assert "matplotlib.pyplot" not in sys.modules


def test_nodes_do_not_lie_on_each_other():
    task = TASKS["RobotArm_6DOF"]
    graph = jax_cce.plan(task.fun, task.argnums, order="reverse")(*task.args).graph
    places, bends = layered_layout.layered_layout(graph)
    assert places.keys() == graph.successors.keys()
    points = np.array(list(places.values()))
    gaps = np.abs(points[:, None] - points[None]).max(-1) + 9 * np.eye(len(points))
    assert gaps.min() > 0.5
    for source, to in graph.successors.items():
        for target in to:
            xs = [places[source][0], *(x for x, _ in bends[source, target]), places[target][0]]
            assert np.all(np.diff(xs) == 1)


def test_large_graphs_are_refused():
    def long(x):
        for _ in range(drawing.MOST_VERTICES + 2):
            x = jnp.sin(x)
        return x

    e = jax_cce.explain(long, order="reverse")(NUMBER)
    with pytest.raises(ValueError, match="smaller shapes"):
        e.draw()


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        jax_cce.explain(jnp.sin)(X).draw()


def test_a_search_is_drawn(tmp_path):
    task = TASKS["RobotArm_6DOF"]
    found = jax_cce.optimize(task.fun, task.argnums, cost="multiplications", budget=2)(*task.args)
    figure = found.plot_search(tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    texts = {text.get_text() for text in axes.texts}
    assert {"forward 397", "reverse 301", "markowitz 288", "lower bound 221"} <= texts
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {each.strategy for each in curves._best_so_far(found)}


def test_strategies_are_compared():
    runs = {
        "one": [Improvement(9, (), 0.0, 1, "one"), Improvement(4, (), 2.0, 9, "one")],
        # Searches side by side report out of time.
        "two": [Improvement(5, (), 3.0, 4, "two"), Improvement(7, (), 0.5, 2, "two")],
        "none": [],
    }
    (axes,) = curves.plot_search(runs).axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["one", "two"]
    costs = [list(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert costs == [[9, 4, 4], [7, 5, 5]]
    with pytest.raises(ValueError, match="nothing to draw"):
        curves.plot_search({"none": []})


def test_every_strategy_on_one_picture(tmp_path):
    explained = jax_cce.explain(lambda x, y: jnp.sin(x * y) * jnp.exp(x) / y, (0, 1))(0.5, 0.7)
    figure = explained.plot_search(tmp_path / "search.svg", seconds=0.2)
    assert (tmp_path / "search.svg").stat().st_size > 1000
    labels = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert {"forward", "annealing", "branch_and_bound", "portfolio"} <= labels


def driven(start, drive):
    def step(state, inputs):
        state = jnp.tanh(0.5 * jnp.roll(state, 1) + jnp.sin(state) + jnp.sum(jnp.cos(inputs)))
        return state, state

    return lax.scan(step, start, drive)[1]


def test_loops_by_their_steps_say_so_and_what_else_would_take(store):
    args = jax.ShapeDtypeStruct((6,), jnp.float64), jax.ShapeDtypeStruct((60, 2), jnp.float64)
    e = jax_cce.explain(driven, (0, 1), backend="xla")(*args)
    assert e.by_steps
    assert list(e.loops) == ["steps", "jacfwd", "jacrev"]
    assert e.loops["steps"] < 0.35 * min(e.loops["jacfwd"], e.loops["jacrev"])
    report = check_reports(e)
    own, *others = (f"{way} {cost:,}" for way, cost in e.loops.items())
    own = own.replace("steps", "the Jacobians of their steps, expected to take")
    assert f"loops: by {own} operations; jax.{'; jax.'.join(others)}" in report
    given = e.to_dict()
    assert given["loops"] == dict(e.loops)
    assert given["by_steps"]


def test_loops_by_a_mode_say_what_their_steps_would_take(store):
    args = jax.ShapeDtypeStruct((6,), jnp.float64), jnp.ones((60, 2))
    e = jax_cce.explain(driven, backend="xla")(*args)
    assert (e.by_steps, e.plan.method) == (False, "jacfwd")
    report = check_reports(e)
    assert f"loops: by jax.jacfwd, expected to take {e.loops['jacfwd']:,} operations" in report
    assert f"jax.jacrev {e.loops['jacrev']:,}" in report
    assert f"the Jacobians of their steps {e.loops['steps']:,}" in report

    def unending(x):
        return lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: 2 * x + jnp.sin(x), x)

    e = jax_cce.explain(unending, backend="xla")(X)
    assert set(e.loops) == {"jacfwd"}
    assert "their steps have no Jacobians of one structure" in check_reports(e)


def test_where_no_loop_is_differentiated_as_one_nothing_is_said_of_loops(store):
    for e in (
        jax_cce.explain(branched, (0, 1))(NUMBER, NUMBER),
        jax_cce.explain(driven, format="bcoo")(X, jnp.ones((4, 2))),
    ):
        assert not e.loops
        assert not e.by_steps
        assert "loops:" not in str(e)
