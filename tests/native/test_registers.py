"""What is predicted of the registers of native code, by which benchmarks compare orders."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import machine_code, orders
from benchmarks.tasks import TASKS
from jax_cce.execution.calling import scalars
from jax_cce.native.compiling import machine
from jax_cce.native.scalars import Scalars
from jax_cce.planning.task import task_of

pytestmark = pytest.mark.one_version


@st.composite
def graphs(draw):
    """A graph of sums of inputs and of each other, and which of them are results."""
    graph = Scalars(np.float64)
    nodes = [graph.input(k) for k in range(3)]
    for _ in range(draw(st.integers(1, 9))):
        one, other = (draw(st.sampled_from(nodes)) for _ in range(2))
        nodes.append(graph.make("add", one, other))
    made = nodes[3:]
    return graph, draw(st.lists(st.sampled_from(made), min_size=1, max_size=4, unique=True))


def least_loads(graph, nodes, registers):
    """The least reads of numbers that registers do not hold, by all that may be held."""
    code = [node for node in graph.in_order_of_code(nodes) if not graph.is_given(node)]
    needs = [{k for k in graph.operands(node) if not graph.is_given(k)} for node in code]

    @functools.cache
    def least(at, held):
        if at == len(code):
            return 0
        loads = len(needs[at] - held)
        there = held | needs[at] | {code[at]}
        # Any of them go, and no more stay than there are registers.
        best = len(code) * 3
        members = sorted(there)
        for bits in range(1 << len(members)):
            kept = frozenset(k for j, k in enumerate(members) if bits >> j & 1)
            if len(kept) <= registers:
                best = min(best, least(at + 1, kept))
        return loads + best

    return least(0, frozenset())


@given(graphs(), st.integers(1, 4))
def test_no_choice_of_what_is_held_reads_less(drawn, registers):
    graph, nodes = drawn
    stores, loads = machine_code.traffic(graph, nodes, registers)
    assert loads == least_loads(graph, nodes, registers)
    assert (stores == 0) == (loads == 0)
    assert machine_code.traffic(graph, nodes, 100) == (0, 0)


def test_calls_keep_nothing_in_registers():
    graph = Scalars(np.float64)
    x = graph.input(0)
    doubled = graph.make("add", x, x)
    wanted = [graph.make("mul", doubled, graph.make("sin", doubled))]
    # The sine reads what the product reads again.
    assert machine_code.traffic(graph, wanted, 100) == (1, 1)


def test_code_of_what_needs_no_memory():
    called = orders.Called(lambda x: x * x[::-1], 0, (jnp.arange(2.0),), (jnp.ones((64, 2)),), [0])
    code = machine_code.code_of(called, ())
    assert code.instructions > 0
    assert (code.stores, code.loads) == (0, 0)


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_llvm_writes_about_what_is_predicted(order):
    if machine().bytes != 32:
        pytest.skip("fitted to 16 registers")
    called = orders.of_task(TASKS["RoeFlux_1d"])
    edges = scalars(task_of(called.fun, called.argnums)(*called.point))
    code = machine_code.code_of(called, edges.numbered(order))
    predicted = sum(machine_code.predicted(edges, order))
    assert 0.8 * predicted < code.stores + code.loads < 1.4 * predicted


def test_what_says_nothing_new_explains_nothing_more():
    draw = np.random.default_rng(0)
    additions = draw.uniform(100, 200, 40)
    noise = draw.normal(size=40)
    counts = {"additions": additions, "spills": noise, "predicted spills": additions**2}
    alone, with_noise, _ = machine_code.shares(counts, 3 + 0.1 * additions + noise)
    assert with_noise > alone + 0.05
    alone, with_noise, _ = machine_code.shares(counts, 3 + 0.1 * additions + draw.normal(size=40))
    assert with_noise < alone + 0.02
