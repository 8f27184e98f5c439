"""The corpus of graphs: what the files say holds, and what does not hold is found."""

import dataclasses
import json

import pytest
from jax_cce_search.game import certificates
from jax_cce_search.game.problem import Problem

from benchmarks.corpus import files, graphs
from benchmarks.searches import graph_of
from jax_cce.orders.skeleton import Skeleton, skeleton

pytestmark = pytest.mark.one_version


@pytest.mark.parametrize("path", files.paths(), ids=lambda path: path.stem)
def test_every_order_costs_what_its_file_says(path):
    entry = files.read(path)
    entry.check()
    if entry.is_scalar:
        graph = Skeleton.from_edges(entry.edges, entry.inputs, entry.outputs)
        assert graph.evaluate(entry.best.order) == entry.best.cost
        problem = Problem(graph)
        if entry.groups:
            assert certificates.certified(problem, entry.groups) >= entry.bound
        elif entry.bound_by == "disjoint paths":
            assert problem.bound >= entry.bound
        # No order is below the bound, so neither are these.
        assert entry.replay(entry.vertices) >= entry.bound
        assert entry.replay(entry.vertices[::-1]) >= entry.bound


def test_there_are_graphs_of_every_source():
    stems = [path.stem for path in files.paths()]
    for source, least in (("task", 11), ("suite", 100), ("family", 30), ("random", 8)):
        assert sum(stem.startswith(f"{source}-") for stem in stems) >= least


def test_a_file_is_what_networkx_reads_and_comes_back_the_same():
    document = json.loads((files.FOLDER / "task-greeks.json").read_text())
    assert document["directed"] is True
    assert document["multigraph"] is False
    assert {"id", "role"} <= document["nodes"][0].keys()
    assert {"source", "target"} <= document["edges"][0].keys()
    entry = files.entry_of(document)
    assert files.entry_of(entry.document()) == entry


@pytest.mark.parametrize("name", ["HumanHeartDipole", "Perceptron"])
def test_a_graph_that_is_made_anew_is_the_one_in_the_file(name, tmp_path):
    graph = skeleton(graph_of(name), "multiplications")
    made = graphs.entry(f"task-{name.lower()}", "here", graph, "2026-11-30")
    kept = files.read(files.FOLDER / f"task-{name.lower()}.json")
    assert made.edges.keys() == kept.edges.keys()
    assert (made.inputs, made.vertices, made.outputs) == (kept.inputs, kept.vertices, kept.outputs)
    files.write(made, tmp_path)
    assert files.read(tmp_path / f"task-{name.lower()}.json") == made
    assert kept.bound <= kept.best.cost <= made.best.cost


def test_improving_keeps_what_is_better_and_holds():
    graph = skeleton(graph_of("HumanHeartDipole"), "multiplications")
    made = graphs.entry("dipole", "here", graph, "2026-11-30")
    assert made.best.cost == 172
    found = graphs.improved(made, graph, 2.0, 0, "2026-11-30")
    found.check()
    assert found.best.cost < 172
    assert found.bound >= Problem(graph).bound
    assert graphs.improved(found, graph, 0.0, 0, "2026-12-01").best == found.best


def test_what_does_not_hold_is_found():
    entry = files.read(files.FOLDER / "task-propanecombustion.json")
    best = entry.best
    cheaper = dataclasses.replace(best, cost=best.cost - 1)
    with pytest.raises(files.CorpusError, match=f"costs {best.cost}, and not {best.cost - 1}"):
        dataclasses.replace(entry, best=cheaper).check()
    with pytest.raises(files.CorpusError, match="above the cost"):
        dataclasses.replace(entry, bound=best.cost + 1).check()
    with pytest.raises(files.CorpusError, match="every vertex once"):
        entry.replay(best.order[1:])
    with pytest.raises(files.CorpusError, match="leads back"):
        dataclasses.replace(entry, edges={**entry.edges, (9, 3): 1}).check()
    arrays = files.read(files.FOLDER / "task-perceptron.json")
    with pytest.raises(files.CorpusError, match="is not in the file"):
        dataclasses.replace(arrays, products=dict([*arrays.products.items()][:1])).check()


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(files.CorpusError, match=r"other\.json is no file of the corpus"):
        files.read(path)
    entry = files.read(files.FOLDER / "task-propanecombustion.json")
    path.write_text(json.dumps(entry.document()))
    with pytest.raises(files.CorpusError, match="named 'task-propanecombustion'"):
        files.read(path)
