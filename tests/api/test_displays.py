"""What plans, stored orders and Jacobians show of themselves: right numbers, in bounded texts."""

import re
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from jax_cce.algebra import costs
from jax_cce.registry import Registry, StoredOrder, StoredOrders
from jax_cce.reports import Section, shortened

SVG = "{http://www.w3.org/2000/svg}"


def structured(fun, x):
    return jax_cce.jacobian(fun, format="structured")(x)


def drawn(shown):
    """The picture in HTML, parsed."""
    html = shown._repr_html_()
    picture = re.search(r"<svg.*</svg>", html, re.DOTALL)
    assert len(html) < 8000
    return ElementTree.fromstring(picture[0])


def marked(picture):
    """The cells of a picture in bins, as a Boolean array."""
    wide, high = map(int, picture.get("viewBox").split()[2:])
    cells = np.zeros((high, wide), bool)
    for path in picture.findall(f"{SVG}g/{SVG}path"):
        for column, row, many in re.findall(r"M(\d+) (\d+)h(\d+)", path.get("d")):
            cells[int(row), int(column) : int(column) + int(many)] = True
    return cells


def products(x):
    return x[1:] * x[:-1]


def laplacian(u):
    padded = jnp.pad(u, 1)
    across = padded[1:-1, 2:] + padded[1:-1, :-2]
    return padded[2:, 1:-1] + padded[:-2, 1:-1] + across - 4 * u + u**2


def reactions(c):
    rate = c[0] * c[1]
    return jnp.stack([-rate, -rate, rate - c[2]])


def chain(x):
    for _ in range(100):
        x = jnp.sin(x) * x[::-1]
    return x


def test_a_long_plan_is_short():
    plan = jax_cce.plan(chain)(jax.ShapeDtypeStruct((5,), jnp.float32))
    count = len(plan.steps)
    assert count > 1000
    assert len(repr(plan)) < 250
    assert len(str(plan)) < 3000
    for text in (repr(plan), str(plan)):
        assert f"{plan.num_vertices:,} vertices" in text
        assert f"{plan.cost('flops'):,} flops" in text
        assert f"{plan.cost():,} multiplications" in text
    lines = str(plan).splitlines()
    shown = [line for line in lines if line.startswith("  [")]
    (more,) = (line for line in lines if "plan.listing()" in line)
    assert len(shown) + int(re.search(r"([\d,]+) more", more)[1].replace(",", "")) == count
    assert str(plan.steps[0]) in shown[0]
    assert str(plan.steps[-1]) in shown[-1]
    listing = plan.listing()
    assert all(str(step) in listing for step in plan.steps)
    assert " ".join(map(str, plan.order)) in listing
    html = plan._repr_html_()
    assert len(html) < 50_000
    assert html.count("<details>") == 1
    for name in costs.COSTS:
        assert f">{plan.cost(name):,}</td><td>{costs.UNITS[name]}<" in html
    assert f"{plan.peak_bytes:,} bytes" in html
    assert f"({plan.source})" in html


def test_an_empty_plan_says_so():
    plan = jax_cce.plan(lambda x: x)(1.0)
    assert "0 vertices" in repr(plan)
    assert "nothing to eliminate" in str(plan)
    assert "nothing to eliminate" in plan._repr_html_()


def test_html_escapes_names():
    cells = (("<td>",),)
    html = Section("<b>&", ("<i>",), ("<em>",), cells, folded=True).html()
    for name in ("<b>", "<i>", "<em>", "<td><td>"):
        assert name not in html
    assert all(f"&lt;{name}&gt;" in html for name in ("b", "i", "em", "td"))
    assert "color" not in html
    entry = StoredOrder("0" * 64, "flops", (0,), 1, name="<lambda>", strategy="<script>")
    for shown in (entry, StoredOrders([(entry, "user")])):
        assert "&lt;lambda&gt;" in shown._repr_html_()
        assert not re.search("<lambda>|<script>", shown._repr_html_())


def test_shortened_lists_say_what_is_left_out():
    assert shortened(range(6), 3, 2) == list("012345")
    assert shortened(range(1007), 3, 2, see="here") == [
        *"012",
        "... 1,002 more (here)",
        "1005",
        "1006",
    ]
    assert shortened(range(7), 0, 0) == ["... 7 more"]


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("flops", 1335, "1,335 flops"),
        ("nonunit_multiplications", 2.0, "2 nonunit multiplications"),
        ("runtime", 2.5, "2.5 s"),
        ("runtime", 0.00271, "2.71 ms"),
        ("runtime", 27.1e-6, "27.1 µs"),
        ("runtime", 0.0, "0 ns"),
        ("memory", 4096, "4,096 bytes"),
        ("native", 88, "88 additions"),
        ("of_my_own", 3, "3 of my own"),
    ],
)
def test_costs_have_units(name, value, text):
    assert costs.with_unit(name, value) == text


def test_contenders_are_multiples_of_the_best():
    rows = costs.compared("runtime", {"slow": 3e-3, "fast": 2e-3})
    assert rows == (("fast", "2 ms", "1.00"), ("slow", "3 ms", "1.50"))
    assert costs.compared("flops", {"free": 0, "dear": 1})[1] == ("dear", "1 flops", "")
    assert costs.compared("flops", {}) == ()


def order_of(name, created, **facts):
    key = name.encode().hex().ljust(64, "0")
    return StoredOrder(key, "flops", tuple(range(500)), 1234, created=created, name=name, **facts)


def test_a_stored_order_is_short():
    entry = order_of("f", "2026-01-01", strategy="beam", times={"slow": 3e-3, "fast": 2e-3})
    assert len(repr(entry)) < 100
    for text in (repr(entry), str(entry), entry._repr_html_()):
        assert "f: 1,234 flops" in text
        assert "500" in text
        assert "498" not in text
    assert str(entry).index("fast") < str(entry).index("slow")
    assert entry.key in str(entry)


def test_own_orders_stand_before_those_of_the_package_and_new_ones_before_old_ones(tmp_path):
    for layer, names in {"shipped": "dc", "user": "ab"}.items():
        registry = Registry(tmp_path / layer)
        for k, name in enumerate(names):
            registry.put(order_of(name, f"2026-01-0{1 + k}"))
    held = Registry(tmp_path / "user", shipped=tmp_path / "shipped").entries()
    assert isinstance(held, list)
    assert held == sorted(held, key=lambda entry: entry.key)
    assert [entry.name for entry in held.newest_first(shipped=False)] == ["b", "a"]
    for text in (repr(held), held._repr_html_()):
        places = [text.index(each) for each in ("Your orders: 2", "2026-01-02", "2026-01-01")]
        places.append(text.index("come with the package: 2"))
        assert places == sorted(places)
        assert text.count("1,234 flops") == 4
        assert len(text) < 3000
    assert {held.layer(entry) for entry in held} == {"user", "shipped"}
    both = Registry(tmp_path / "user", shipped=tmp_path / "shipped")
    assert all(both.layer_of(entry) == held.layer(entry) for entry in held)
    assert both.layer_of(order_of("none", "")) == ""
    assert held[:1] == [held[0]]
    many = StoredOrders((order_of(f"f{k}", "2026-01-01"), "user") for k in range(1000))
    assert len(repr(many)) < 15_000
    assert "1,000" in repr(many)
    assert "no such orders" in repr(Registry().entries())


@pytest.mark.parametrize(
    "fun, shape, words",
    [
        (products, (100,), "[99] x [100], float32: 2 diagonals (0, 1), 198 of 9,900 entries"),
        (jnp.sin, (3,), "[3] x [3], float32: the diagonal, 3 of 9 entries"),
        (
            laplacian,
            (9, 9),
            "[9, 9] x [9, 9], float32: 5 diagonals (-9, -1, 0, 1, 9), 369 of 6,561 entries",
        ),
        (
            jax.vmap(reactions),
            (50, 3),
            "[50, 3] x [50, 3], float32: 50 blocks of 3 x 3, 350 of 22,500 entries",
        ),
        (lambda x: jnp.sum(x**2), (7,), "[] x [7], float32: all 7 entries"),
        (lambda x: x**2, (), "[] x [], float32: 1 entry"),
        (lambda x: jnp.ones(3) * 2, (4,), "[3] x [4], float32: no entries"),
        (jnp.sin, (0,), "[0] x [0], float32: no entries"),
    ],
)
def test_jacobians_and_patterns_say_their_structure(fun, shape, words):
    x = jnp.ones(shape, jnp.float32)
    jacobian = structured(fun, x)
    assert repr(jacobian) == f"StructuredJacobian({words})"
    assert repr(jacobian.matrix_pattern) == f"Pattern({words.replace(', float32', '')})"
    for shown in (jacobian, jacobian.matrix_pattern):
        assert words.split(": ")[1] in shown._repr_html_()


@pytest.mark.parametrize(
    "fun, shape",
    [
        (products, (12,)),
        (laplacian, (5, 6)),
        (jax.vmap(reactions), (10, 3)),
        (jnp.cumsum, (40,)),
        (lambda x: x[np.array([3, 0, 3, 8])] ** 2, (9,)),
        (lambda x: jnp.outer(x, x), (5,)),
        (lambda x: jnp.zeros(3), (4,)),
    ],
)
def test_small_pictures_show_every_entry(fun, shape):
    x = jnp.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    jacobian = structured(fun, x)
    matrix = jacobian.matrix_pattern
    expected = np.zeros(matrix.shape, bool)
    expected[matrix.rows, matrix.columns] = True
    for shown in (jacobian, matrix):
        np.testing.assert_array_equal(marked(drawn(shown)), expected)


def test_diagonals_of_a_large_stencil_are_lines():
    jacobian = structured(laplacian, jnp.ones((300, 300)))
    expected = [
        (0, 300, 89700, 90000),
        (0, 1, 89999, 90000),
        (0, 0, 90000, 90000),
        (1, 0, 90000, 89999),
        (300, 0, 90000, 89700),
    ]
    for shown in (jacobian, jacobian.matrix_pattern):
        (path,) = drawn(shown).findall(f"{SVG}path")
        lines = re.findall(r"M(\d+) (\d+)L(\d+) (\d+)", path.get("d"))
        assert sorted(tuple(map(int, line)) for line in lines) == sorted(expected)


@pytest.mark.parametrize(
    "fun, count",
    [
        (products, 1_999_998),
        (lambda x: jnp.sin(x[np.arange(1_000_000) * 7919 % 1_000_000]), 1_000_000),
        (lambda x: jax.vmap(reactions)(x.reshape(-1, 4)), 1_750_000),
        (lambda x: jnp.sum(x**2), 1_000_000),
    ],
    ids=["stencil", "gather", "blocks", "row"],
)
def test_pictures_of_a_million_are_small(fun, count):
    jacobian = structured(fun, jnp.ones(1_000_000))
    assert len(repr(jacobian)) < 150
    assert f"{count:,}" in repr(jacobian)
    picture = drawn(jacobian)
    assert float(picture.get("width")) <= 240
    assert float(picture.get("height")) <= 240
    assert picture.findtext(f"{SVG}title").endswith("x 1000000")


@pytest.mark.parametrize("size, share", [(40, 0.5), (77, 0.15), (80, 0.3), (100, 0.05)])
def test_the_worst_patterns_make_small_pictures(size, share):
    mask = np.random.default_rng(0).random((size, size)) < share
    jacobian = structured(lambda x: (jnp.asarray(mask * 1.0) @ x) ** 2, jnp.ones(size))
    rows, columns = np.nonzero(mask)
    bins = np.zeros((40, 40), bool)
    bins[rows * 40 // size, columns * 40 // size] = True
    np.testing.assert_array_equal(marked(drawn(jacobian)), bins)


def test_full_matrices_are_not_enumerated():
    matrix = np.ones((3000, 3000), np.float32)
    jacobian = structured(lambda x: matrix @ x, jnp.ones(3000))
    assert "all 9,000,000 entries" in repr(jacobian)
    (path,) = drawn(jacobian).findall(f"{SVG}path")
    assert path.get("d") == "M0 0.5h1"


def test_many_unknowns_take_no_time_to_name():
    shape = jax.ShapeDtypeStruct((10**8,), jnp.float32)
    jacobian = jax.eval_shape(jax_cce.jacobian(products, format="structured"), shape)
    assert "199,999,998 of 9,999,999,900,000,000 entries" in repr(jacobian)
    assert len(drawn(jacobian).findall(f"{SVG}path")) == 1


@pytest.mark.parametrize(
    "fun, words, is_drawn",
    [
        (products, "2 diagonals (0, 1), 8 of 20 entries", True),
        (jnp.sort, "1 term, at positions that depend on data, at most 5 of 25 entries", False),
    ],
)
def test_nothing_is_computed_under_jit(fun, words, is_drawn):
    seen = []

    def program(show):
        def traced(x):
            jacobian = structured(fun, x)
            show(jacobian)
            return jacobian

        return str(jax.make_jaxpr(traced)(jnp.ones(5)))

    def show(jacobian):
        seen.extend([repr(jacobian), jacobian._repr_html_()])

    assert program(show) == program(lambda jacobian: None)
    assert all(words in text for text in seen)
    assert ("<svg" in seen[1]) == is_drawn


def test_stacked_jacobians_and_those_without_arrays_are_named():
    stacked = jax.vmap(jax_cce.jacobian(products, format="structured"))(jnp.ones((3, 5)))
    words = "[4] x [5], float32: 2 diagonals (0, 1), 8 of 20 entries"
    dtype = str(stacked.dtype)
    words = words.replace("float32", dtype)
    assert repr(stacked) == f"StructuredJacobian({words}, stacked)"
    assert "stacked" in stacked._repr_html_()
    for leaf in (None, object(), jax.ShapeDtypeStruct((), dtype)):
        hollow = jax.tree.map(lambda _, leaf=leaf: leaf, stacked)
        assert words in repr(hollow)
        drawn(hollow)
