"""Orders by the operations that are executed: the compiled loops count what is made."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax_cce_search.game.chains import OfNodes
from jax_cce_search.optimizing import natively
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Search

from benchmarks.tasks import TASKS
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS
from jax_cce.planning.task import task_of

OBJECTIVES = ("native", "operations")


def edges_of(f, argnums, *args):
    edges = scalars(task_of(f, argnums)(*args))
    assert not isinstance(edges, str)
    return edges


def of_task(name):
    task = TASKS[name]
    return edges_of(task.fun, task.argnums, *task.args)


def signs_and_numbers(x):
    """Factors of 1, -1 and 2, negated operands, an output that is a vertex, and one that is an
    input, and what is the same after folding.
    """
    a = -x[0] * x[1]
    b = jnp.sin(a) * 2.0 - a
    c = b * (-a) + (-b) * jnp.cos(x[2])
    d = (c - x[2]) / b
    return jnp.stack([a, b * c, d, c * c - d, x[0], jnp.sqrt(d * d + 1.0)])


CASES = {
    "RoeFlux_1d": lambda: of_task("RoeFlux_1d"),
    "RobotArm_6DOF": lambda: of_task("RobotArm_6DOF"),
    "Greeks": lambda: of_task("Greeks"),
    "signs": lambda: edges_of(signs_and_numbers, 0, jnp.array([0.3, 0.7, 0.2])),
    "float32": lambda: edges_of(
        lambda x: signs_and_numbers(x * 0.1) * 0.3, 0, jnp.array([0.3, 0.7, 0.2], jnp.float32)
    ),
}


@pytest.mark.one_version
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_order_costs_what_is_made(case, objective):
    problem = NativeProblem(CASES[case](), objective)
    random = np.random.default_rng(0)
    orders = [problem.edges.numbered(name) for name in ORDERS]
    orders += [tuple(random.permutation(problem.vertices).tolist()) for _ in range(20)]
    for order in orders:
        assert problem.executed.price(order) == problem.evaluate(order)


@pytest.mark.one_version
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_costs_of_moves_are_those_of_their_orders(case, objective):
    problem = NativeProblem(CASES[case](), objective)
    random = np.random.default_rng(1)
    start = random.permutation(problem.vertices).tolist()
    moves = (1, 2, 5, 100, 1000)
    run = OfNodes(problem.executed, start, sum(moves), 0.05, 0.001)
    assert run.cost == problem.evaluate(start)
    for count in moves:
        run.advance(count, random)
        assert sorted(run.order) == list(problem.vertices)
        assert run.cost == problem.evaluate(run.order)
        assert run.best_cost == problem.evaluate(run.best)


@pytest.mark.one_version
def test_tables_that_are_full_are_made_anew():
    """All that is made is forgotten again and again, and the log is too short at first."""
    edges = of_task("RoeFlux_1d")
    found = []
    for is_small in (False, True):
        executed = NativeProblem(edges).executed
        if is_small:
            executed._room = 2048
            executed.state = executed.state._replace(log=executed.state.log[:500])
        run = OfNodes(executed, range(len(edges.vertices)), 300, 0.01, 0.001)
        run.advance(300, np.random.default_rng(0))
        assert run.cost == edges.price(run.order)
        found.append(run.best_cost)
    assert found[0] == found[1]


@pytest.mark.one_version
@pytest.mark.parametrize(
    "name, objective, most",
    [
        ("RoeFlux_1d", "native", 470),
        ("RobotArm_6DOF", "native", 518),
        ("RoeFlux_1d", "operations", 358),
        ("RobotArm_6DOF", "operations", 190),
    ],
)
def test_what_it_reaches(name, objective, most):
    problem = NativeProblem(of_task(name), objective)
    search = Search(problem, Budget(evaluations=60_000))
    natively.search(search, "annealing")
    assert search.cost <= most
    count = problem.edges.operations if objective == "operations" else problem.edges.price
    assert search.cost == count(search.best)


@pytest.mark.one_version
def test_masks_are_priced_when_an_order_is_offered():
    """The compiled loops do not make them simpler; what is reported is what is made."""

    def masked(x):
        a = jnp.where(x[0] > 0, x[1] * x[2], x[1])
        b = jnp.where(x[0] > 0, jnp.sin(a), 0.0) * x[2]
        c = jnp.where(x[1] > 0, a * b, x[0]) + jnp.maximum(a, b) * jnp.exp(b - a)
        return jnp.stack([a * c, b * c * x[0], jnp.where(x[0] > 0, c, 0.0)])

    problem = NativeProblem(edges_of(masked, 0, jnp.array([0.3, 0.7, 0.2])))
    order = problem.edges.numbered("markowitz")
    assert problem.executed.price(order) != problem.evaluate(order)
    search = Search(problem, Budget(evaluations=3000))
    natively.search(search, "annealing")
    assert search.cost == problem.edges.price(search.best)
    assert search.cost <= min(map(problem.edges.price, ORDERS))


def test_operations_by_hand():
    # The derivatives of x * y * x with respect to x and y are 2 x y, made as a + a, and x * x.
    edges = edges_of(lambda x, y: x * y * x, (0, 1), 0.3, 0.4)
    assert {edges.operations(name) for name in ORDERS} == {3}
