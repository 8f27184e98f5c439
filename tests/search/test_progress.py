"""Progress: one cost with its unit, as a bar or as a few lines, and only where it is wanted."""

import dataclasses
import re
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from jax_cce_search import progress
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Search

import jax_cce


def searched(measure="flops"):
    plan = jax_cce.plan(lambda x: jnp.sin(x) * x)(jax.ShapeDtypeStruct((), jnp.float32))
    search = Search(Problem.of(plan.graph, measure), strategy="forward")
    search.offer(search.problem.vertices)
    return search


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def shown(monkeypatch):
    """What a notebook shows, one list for each display; IPython need not be installed."""
    displays = []

    class Handle:
        def __init__(self, first):
            displays.append([first])
            self.own = displays[-1]

        def update(self, new, raw=False):
            self.own.append(new)

    def display(first, display_id):
        assert display_id is True
        return Handle(first)

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return displays


def test_plain_lines_are_few(capsys, clock):
    with progress.line("title", 100, None, transient=True) as show:
        for second in range(25):
            clock[0] = second
            show(second, f"at {second}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"title, {k} s: at {k}" for k in (0, 10, 20)]
    assert "\x1b" not in err


def test_nothing_is_shown_of_what_is_short_or_not_wanted(capsys):
    for seconds, wanted in [(1.0, None), (60.0, False), (None, False)]:
        search = searched()
        with progress.shown([search], seconds, wanted):
            assert search.on_tick is None
        with progress.announced("timing", seconds, wanted):
            pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "measure, unit", [("flops", "flops"), ("runtime_model", "ps by the runtime model")]
)
def test_a_search_says_its_cost_with_the_unit(capsys, measure, unit):
    first, second = Search(searched().problem, strategy="beam"), searched(measure)
    with progress.shown([first, second], 60.0, None):
        pass
    with progress.shown([second], 60.0, True):
        second.on_tick(second)
    with progress.announced("timing 3 Jacobians", None, None):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "jax_cce, 0 s: search 1 of 2, beam: no order yet",
        f"jax_cce, 0 s: forward: best {second.cost:,} {unit}",
        "jax_cce, 0 s: timing 3 Jacobians",
    ]


def test_a_notebook_has_one_display_that_is_updated(shown, clock, capsys):
    with progress.line("<title>", 10, None, transient=False) as show:
        for second in range(4):
            clock[0] = second
            show(second, f"at {second}")
            show(second, "too soon after the last")
    assert capsys.readouterr() == ("", "")
    (display,) = shown
    texts = [repr(each) for each in display]
    assert texts[0] == "<title>"
    assert texts[1:-1] == [f"<title>: at {k}" for k in range(1, 4)]
    assert texts[-1] == "<title>: too soon after the last"
    html = display[-2]._repr_html_()
    assert 'value="0.300"' in html
    assert "&lt;title&gt;" in html
    with progress.line("gone", None, True, transient=True):
        pass
    assert "value" not in shown[1][0]._repr_html_()
    assert shown[1][-1] == {"text/plain": ""}


def test_outside_a_kernel_ipython_is_no_notebook(shown, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    with progress.line("title", 10, None, transient=True) as show:
        show(1.0, "plain")
    assert shown == []
    assert "title, 0 s: plain" in capsys.readouterr().err


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress.line("[b]title", 10, None, transient=False) as show:
        show(5.0, "[i]best 3 flops")
    err = capsys.readouterr().err
    assert "[b]title" in err
    assert "[i]best 3 flops" in err


def test_what_a_search_found_is_short_and_says_where_it_is_kept(tmp_path):
    def f(x):
        for _ in range(30):
            x = jnp.sin(x) * x[::-1]
        return x

    store = jax_cce.registry.Registry(tmp_path)
    found = jax_cce.optimize(
        f, cost="flops", strategy="reverse", evaluations=1, budget=None, registry=store
    )(jnp.ones(3))
    assert (found.layer, store.layer_of(found.entry)) == ("user", "user")
    assert len(repr(found)) < 100
    html = found._repr_html_()
    for text in (str(found), html):
        assert f"{found.value:,} flops" in text
        assert f"registry (user) as {found.entry.key[:12]}" in text
        assert f"order of {len(found.order):,} vertices" in text
        assert len(text) < 2500
        costs = {**found.reference, "this order": found.value}
        places = [text.index(f"{cost:,} flops") for cost in sorted(costs.values())]
        assert all(name in text for name in costs)
        assert len(places) == 4
    best = min(costs.values())
    rows = dict(re.findall(r"^  (\w[\w ]*?)  .* flops +([\d.]+)$", str(found), re.MULTILINE))
    assert {name: float(ratio) for name, ratio in rows.items()} == pytest.approx(
        {name: cost / best for name, cost in costs.items()}, abs=0.005
    )
    timed = dataclasses.replace(
        found,
        entry=dataclasses.replace(found.entry, cost="runtime", device="cpu"),
        value=2e-3,
        times={"jacrev": 3e-3, "native": 2e-3},
        failures={"<jacfwd>": "ValueError: none"},
        layer="memory",
    )
    assert str(timed).index("native") < str(timed).index("jacrev")
    assert "1.50" in str(timed)
    assert "in this process only" in str(timed)
    assert "&lt;jacfwd&gt; failed" in timed._repr_html_()
