"""Truncated hierarchical B-splines against SciPy, a slow truncation, and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

import jax_cce
from jax_cce.splines import THB, open_knots

pytestmark = pytest.mark.one_version

# Repeated inside, unequal, and not repeated at the ends.
REPEATED = {
    0: [0, 1, 3, 4, 8],
    1: [0, 0, 2, 2, 3, 5, 8, 8],
    2: [0, 0, 0, 1, 2, 2, 4, 4, 4, 5, 8, 8, 8],
    3: [0, 0, 0, 0, 1, 2, 2, 4, 4, 4, 6, 8, 8, 8, 8],
    4: [-3, -2, -1, 0, 0, 1, 2, 4, 4, 5, 8, 9, 10, 11, 14],
}
VECTORS = {
    **{f"open-{p}": (open_knots(4, p, 0, 8), p) for p in range(5)},
    **{f"repeated-{p}": (np.array(t, float), p) for p, t in REPEATED.items()},
    "uniform-3": (np.arange(-3.0, 12.0), 3),
}
vectors = pytest.mark.parametrize("knots, degree", VECTORS.values(), ids=VECTORS)


def places(knots, degree):
    """All knots in the domain, both ends, and what lies between."""
    ends = knots[degree], knots[len(knots) - degree - 1]
    inner = knots[(knots >= ends[0]) & (knots <= ends[1])]
    drawn = np.random.default_rng(len(knots)).uniform(*ends, size=50)
    return np.concatenate([inner, drawn])


@vectors
def test_one_level_has_the_values_of_scipy(knots, degree):
    draw = np.random.default_rng(1)
    spline = THB([knots], degree)
    u = places(knots, degree)
    expected = BSpline.design_matrix(u, knots, degree).toarray()
    np.testing.assert_allclose(spline.collocation(u).todense(), expected, atol=1e-14)
    c = draw.normal(size=(spline.size, 2))
    for evaluate in (spline.evaluate, jax.jit(spline.evaluate)):
        np.testing.assert_allclose(evaluate(c, u), expected @ c, atol=1e-13)


def slow_basis(levels, degrees, u):
    """Values of all functions by the definition: dense, and by solving for coefficients."""
    vectors, *regions = levels
    size = [np.unique(t[p : len(t) - p]).size - 1 for t, p in zip(vectors, degrees, strict=True)]
    regions = [*map(np.asarray, regions)]
    inside, grids = [np.ones(size, bool)], [vectors]
    for region in regions:
        inside.append(np.kron(region, np.ones([2] * region.ndim, bool)))
        halved = []
        for t, p in zip(grids[-1], degrees, strict=True):
            ends = np.unique(t[p : len(t) - p])
            halved.append(np.sort(np.concatenate([t, (ends[1:] + ends[:-1]) / 2])))
        grids.append(halved)
    regions.append(np.zeros(inside[-1].shape, bool))

    def design(level, at):
        rows = np.ones((len(at), 1))
        for k, (t, p) in enumerate(zip(grids[level], degrees, strict=True)):
            along = BSpline.design_matrix(at[:, k], t, p).toarray()
            rows = (rows[:, :, None] * along[:, None]).reshape(len(at), -1)
        return rows

    def inner(level):
        """Places inside of each cell of the last level, and the cells of `level` they are in."""
        axes = []
        for t, p in zip(grids[-1], degrees, strict=True):
            ends = np.unique(t[p : len(t) - p])
            shares = (np.arange(p + 1) + 0.5) / (p + 1)
            axes.append((ends[:-1, None] + np.diff(ends)[:, None] * shares).ravel())
        at = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        cells = []
        for k, (t, p) in enumerate(zip(grids[level], degrees, strict=True)):
            ends = np.unique(t[p : len(t) - p])
            cells.append(np.searchsorted(ends, at[:, k], side="right") - 1)
        return at, tuple(cells)

    def supported(level, region):
        at, cells = inner(level)
        return ~(design(level, at)[~region[cells]] != 0).any(0)

    functions = []
    for level in range(len(grids)):
        active = supported(level, inside[level]) & ~supported(level, regions[level])
        rows = np.eye(len(active))[:, active]
        for k in range(level, len(grids) - 1):
            at, _ = inner(0)
            rows = np.linalg.lstsq(design(k + 1, at), design(k, at) @ rows, rcond=None)[0]
            rows[supported(k + 1, inside[k + 1])] = 0
        functions.append(design(len(grids) - 1, u) @ rows)
    return np.concatenate(functions, axis=1)


def region(shape, *boxes):
    cells = np.zeros(shape, bool)
    for box in boxes:
        cells[tuple(slice(*side) for side in box)] = True
    return cells


CURVE = region((8,), [(2, 6)])
FINER = region((16,), [(6, 12)])
SURFACE = region((6, 5), [(0, 4), (1, 5)], [(3, 6), (0, 3)])
SURFACE_FINER = region((12, 10), [(1, 7), (3, 9)])
HIERARCHIES = {
    **{f"curve-{p}": ([(open_knots(8, p),), CURVE, FINER], (p,)) for p in range(4)},
    "curve-repeated": (
        [(np.array(REPEATED[2], float),), region((5,), [(0, 3)]), region((10,), [(0, 5)])],
        (2,),
    ),
    "curve-uniform": ([(np.arange(-3.0, 12.0),), region((8,), [(3, 8)])], (3,)),
    "surface-22": ([(open_knots(6, 2), open_knots(5, 2)), SURFACE, SURFACE_FINER], (2, 2)),
    "surface-31": ([(open_knots(6, 3), open_knots(5, 1)), SURFACE, SURFACE_FINER], (3, 1)),
    "surface-02": ([(open_knots(6, 0), open_knots(5, 2)), SURFACE], (0, 2)),
}
hierarchies = pytest.mark.parametrize("levels, degrees", HIERARCHIES.values(), ids=HIERARCHIES)


def made(levels, degrees):
    """The basis, places with knots and ends among them, and coefficients of two numbers each."""
    knots = levels[0]
    spline = THB([knots if len(knots) > 1 else knots[0], *levels[1:]], degrees)
    draw = np.random.default_rng(0)
    along = [places(t, p) for t, p in zip(knots, degrees, strict=True)]
    # Each axis has its knots beside any places of the other.
    u = np.stack([draw.choice(each, 100) for each in along], -1)
    return spline, u if len(knots) > 1 else u[:, 0], draw.normal(size=(spline.size, 2))


@hierarchies
def test_the_definition(levels, degrees):
    spline, u, c = made(levels, degrees)
    expected = slow_basis(levels, degrees, u.reshape(len(u), -1))
    matrix = spline.collocation(u)
    # At a knot a spline of the cell may be zero.
    along = zip(np.reshape(u, (len(u), -1)).T, levels[0], strict=True)
    inner = ~np.any([np.isin(each, t) for each, t in along], axis=0)
    assert inner.sum() > 40
    stored = np.bincount(np.asarray(matrix.indices)[:, 0], minlength=len(u))
    np.testing.assert_array_equal(stored[inner], np.sum(abs(expected[inner]) > 1e-12, axis=1))
    np.testing.assert_allclose(matrix.todense(), expected, atol=1e-12)
    traced = jax.jit(spline.collocation)(u)
    np.testing.assert_allclose(traced.todense(), expected, atol=1e-12)
    for evaluate in (spline.evaluate, jax.jit(spline.evaluate)):
        np.testing.assert_allclose(evaluate(c, u), expected @ c, atol=1e-11)
    once = jax.vmap(spline.evaluate, (None, 0))(c, u)
    np.testing.assert_allclose(once, expected @ c, atol=1e-11)
    assert spline.evaluate(c[:, 0], u[:1]).shape == (1,)


def random_basis(draw, degrees, levels):
    knots = [open_knots(int(draw.integers(1, 6)), p) for p in degrees]
    inside = np.ones([len(t) - 2 * p - 1 for t, p in zip(knots, degrees, strict=True)], bool)
    regions = []
    for _ in range(levels - 1):
        regions.append(inside & (draw.uniform(size=inside.shape) < draw.uniform(0.3, 1.0)))
        inside = np.kron(regions[-1], np.ones([2] * inside.ndim, bool))
    return THB([knots[0] if len(knots) == 1 else knots, *regions], degrees)


shapes = st.tuples(
    st.integers(0, 2**32), st.lists(st.integers(0, 3), min_size=1, max_size=2), st.integers(1, 4)
)


@pytest.mark.one_version
@given(shapes)
@settings(max_examples=20)
def test_partition_of_unity_and_independence(drawn):
    seed, degrees, levels = drawn
    draw = np.random.default_rng(seed)
    spline = random_basis(draw, degrees, levels)
    cells = spline.cells
    # As many places in each cell as decide a polynomial.
    axes = [(np.arange(p + 1) + draw.uniform(0.2, 0.8)) / (p + 1) for p in degrees]
    inner = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(degrees))
    u = cells.lower[:, None] + inner * (cells.upper - cells.lower)[:, None]
    matrix = spline.collocation(u if len(degrees) > 1 else u[..., 0]).todense()
    assert abs(matrix.sum(1) - 1).max() <= 1e-14
    assert matrix.min() >= 0
    assert np.linalg.matrix_rank(matrix) == spline.size


@pytest.mark.one_version
@given(shapes, st.integers(0, 2))
@settings(max_examples=12)
def test_refinement_leaves_the_function_alone(drawn, around):
    seed, degrees, levels = drawn
    draw = np.random.default_rng(seed)
    spline = random_basis(draw, degrees, levels)
    u = draw.uniform(size=(60, len(degrees)))
    u = u if len(degrees) > 1 else u[:, 0]
    finer = spline
    for _ in range(2):
        finer = finer.refine(draw.uniform(size=len(finer.cells.level)) < 0.3, around=around)
    c = draw.normal(size=(spline.size, 2))
    matrix = spline.prolongation(finer)
    refined = finer.evaluate(matrix @ c, u)
    np.testing.assert_allclose(refined, spline.evaluate(c, u), atol=1e-12)
    # Constants stay constants.
    np.testing.assert_allclose(matrix.todense().sum(1), 1, atol=1e-13)


def test_refine_marks_cells():
    spline = THB([open_knots(8, 3)], 3)
    marked = np.arange(8) == 3
    assert spline.refine(marked).size == spline.size
    finer = spline.refine(marked, around=1)
    # 6 halves hold 3 new splines, and no old one lies in them.
    assert finer.size == spline.size + 3
    np.testing.assert_array_equal(np.bincount(finer.cells.level), [5, 6])
    np.testing.assert_array_equal(finer.locate(np.array([0.0, 0.3, 0.3125, 1.0])), [0, 5, 6, 4])
    np.testing.assert_allclose(finer.cells.lower[6, 0], 0.3125)
    again = THB(finer.levels, 3)
    np.testing.assert_array_equal(again.cells.lower, finer.cells.lower)
    with pytest.raises(ValueError, match="must refine all cells that this one refines"):
        finer.prolongation(spline)
    with pytest.raises(ValueError, match="must have the same knots of level 0 and degrees"):
        spline.prolongation(THB([open_knots(8, 2)], 2))


DIFFERENTIATED = {name: HIERARCHIES[name] for name in ("curve-2", "curve-repeated", "surface-31")}


@pytest.mark.parametrize("levels, degrees", DIFFERENTIATED.values(), ids=DIFFERENTIATED)
def test_derivatives(levels, degrees):
    draw = np.random.default_rng(1)
    spline, _, c = made(levels, degrees)
    ends = [(t[p], t[len(t) - p - 1]) for t, p in zip(levels[0], degrees, strict=True)]
    u = np.stack([draw.uniform(*each, size=9) for each in ends], -1)
    u = u if len(ends) > 1 else u[:, 0]
    vectors = tuple(map(jnp.asarray, levels[0]))
    names = 0, 1, 2

    def evaluate(c, u, knots):
        return spline.evaluate(c, u, knots if len(knots) > 1 else knots[0])

    np.testing.assert_allclose(evaluate(c, u, vectors), spline.evaluate(c, u), atol=1e-13)
    forward = jax.jit(jax.jacfwd(evaluate, names))(c, u, vectors)
    for jacobian in (jax.jacrev, jax_cce.jacobian):
        found = jax.jit(jacobian(evaluate, names))(c, u, vectors)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, forward)
    # Equal knots move together, and the ends stay in place.
    moves = tuple(
        np.cumsum(np.append(0, np.diff(t) != 0) * np.sin(np.arange(len(t)))) for t in levels[0]
    )
    moves = tuple(
        m - m[p] - (m[-p - 1] - m[p]) * (t - t[p]) / (t[-p - 1] - t[p])
        for m, t, p in zip(moves, levels[0], degrees, strict=True)
    )
    directions = draw.normal(size=c.shape), draw.normal(size=u.shape), moves
    at = c, u, vectors
    for k in names:
        still = [jax.tree.map(np.zeros_like, each) for each in directions]
        still[k] = directions[k]

        def along(t, still=still):
            return evaluate(*jax.tree.map(lambda x, d: x + t * d, at, tuple(still)))

        _, exact = jax.jit(lambda t, along=along: jax.jvp(along, (t,), (1.0,)))(0.0)
        step, along = 1e-6, jax.jit(along)
        difference = (along(step) - along(-step)) / (2 * step)
        assert abs(exact).max() > 1e-2
        np.testing.assert_allclose(exact, difference, rtol=1e-6, atol=1e-7)


def test_second_derivatives_and_sides():
    """Of u² as a spline, and of one with a kink in the middle."""
    spline = THB([open_knots(4, 2), [False, True, True, False]], 2)
    u = jnp.linspace(0.0, 1.0, 13)
    matrix = spline.collocation(np.linspace(0, 1, 40)).todense()
    c = jnp.linalg.lstsq(matrix, np.linspace(0, 1, 40) ** 2)[0]
    value = functools.partial(spline.evaluate, c)
    np.testing.assert_allclose(jax.vmap(jax.grad(value))(u), 2 * u, atol=1e-11)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(value)))(u), 2.0, atol=1e-9)
    hat = THB([[0.0, 0.0, 0.5, 1.0, 1.0]], 1)
    slope = jax.grad(functools.partial(hat.evaluate, jnp.array([0.0, 1.0, 0.0])))
    assert [float(slope(x)) for x in (0.0, 0.5, 1.0)] == [2.0, -2.0, -2.0]


def test_a_plain_surface_is_as_sparse_as_its_splines():
    draw = np.random.default_rng(1)
    surface = THB([(open_knots(37, 3), open_knots(37, 3))], 3)
    assert surface.size == 1600
    u, c = draw.uniform(size=(2000, 2)), draw.normal(size=(1600, 3))
    assert surface.collocation(u).nse == 2000 * 16
    by_c = jax_cce.jacobian(surface.evaluate, format="structured")(c, u)
    assert by_c.nnz == 2000 * 16 * 3
    known = jax_cce.jacobian(lambda c: surface.evaluate(c, u), format="bcoo")(c)
    assert known.nse == 2000 * 16 * 3
    by_u = jax_cce.jacobian(surface.evaluate, 1, format="bcoo")(c, u)
    assert by_u.nse == 2000 * 3 * 2
    v = draw.normal(size=c.shape)
    expected = jax.jvp(lambda c: surface.evaluate(c, u), (c,), (v,))[1]
    np.testing.assert_allclose(by_c @ v, expected, atol=1e-12)
    np.testing.assert_allclose(surface.collocation(u) @ v, expected, atol=1e-12)


def test_a_refined_surface_is_sparse():
    draw = np.random.default_rng(1)
    surface = THB(HIERARCHIES["surface-22"][0], 2)
    u, c = draw.uniform(size=(40, 2)), draw.normal(size=(surface.size, 3))
    matrix = surface.collocation(u)
    known = jax_cce.jacobian(lambda c: surface.evaluate(c, u), format="bcoo")(c)
    assert known.nse == 3 * matrix.nse
    dense = jax.jacrev(surface.evaluate)(c, u)
    assert matrix.nse == np.count_nonzero(matrix.todense())
    np.testing.assert_allclose(known.todense(), dense, atol=1e-14)
    # Where places are traced, all rows have as many entries as the longest may have.
    most = jax.jit(surface.collocation)(u).nse // 40
    traced = jax.jit(jax_cce.jacobian(surface.evaluate, format="bcoo"))(c, u)
    assert traced.nse == 3 * 40 * most
    assert most < surface.size / 3
    np.testing.assert_allclose(traced.todense(), dense, atol=1e-14)


def test_a_volume():
    draw = np.random.default_rng(1)
    cells = region((2, 3, 2), [(0, 2), (1, 3), (0, 1)])
    volume = THB([[open_knots(2, 1), open_knots(3, 2), open_knots(2, 0)], cells], (1, 2, 0))
    u = draw.uniform(size=(5, 4, 3))
    np.testing.assert_allclose(volume.evaluate(np.ones(volume.size), u), np.ones((5, 4)))
    expected = slow_basis(volume.levels, volume.degree, u.reshape(-1, 3))
    np.testing.assert_allclose(volume.collocation(u).todense(), expected, atol=1e-12)


def test_dtypes():
    spline = THB([open_knots(8, 2), CURVE], 2)
    c, u = jnp.ones(spline.size, jnp.float32), jnp.linspace(0, 1, 5, dtype=jnp.float32)
    for evaluate in (spline.evaluate, jax.jit(spline.evaluate)):
        assert evaluate(c, u).dtype == jnp.float32
        np.testing.assert_allclose(evaluate(c, u), 1, rtol=1e-6)
        assert evaluate(c, 0.5).shape == ()
    assert spline.evaluate(c, 0.5).dtype == jnp.float32
    # Ends that float32 does not have.
    thirds = THB([open_knots(3, 2, 1 / 3, 0.1 + 1 / 3)], 2)
    ends = np.array([1 / 3, 0.1 + 1 / 3], np.float32)
    for evaluate in (thirds.evaluate, jax.jit(thirds.evaluate)):
        np.testing.assert_allclose(evaluate(c[: thirds.size], ends), 1, rtol=1e-6)
    assert spline.evaluate(jnp.ones(spline.size, int), 0.5).dtype == jnp.float64


def test_outside_of_the_domain():
    spline = THB([open_knots(4, 2)], 2)
    c = jnp.ones(spline.size)
    with pytest.raises(ValueError, match=r"1 of 2 places lie outside of the domain, such as \[1.5"):
        spline.evaluate(c, np.array([0.5, 1.5]))
    found = jax.jit(spline.evaluate)(c, jnp.array([0.5, 1.5, -0.1, np.nan]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True])


@pytest.mark.parametrize(
    "levels, degree, error, message",
    [
        ([], 1, ValueError, "levels must begin with knots"),
        ([[0.0, 1.0, 1.0]], 1, ValueError, "takes a vector of at least 4 knots"),
        ([[0.0, 0.0, 2.0, 1.0, 3.0]], 1, ValueError, "must be finite and not decrease"),
        ([[0.0, 0.0, np.nan, 1.0]], 1, ValueError, "must be finite and not decrease"),
        ([[0, 0, 1, 1, 1, 2, 2]], 1, ValueError, "may repeat 2 times, but 1.0 does more often"),
        ([[0, 1, 1, 2, 3]], 1, ValueError, "first and the last spline must not vanish"),
        ([[0.0, 0.0, 1.0, 1.0]], -1, ValueError, "degree must not be negative"),
        ([["a", "b", "c", "d"]], 1, TypeError, "Knots must be real numbers"),
        ([[0.0, 0.0, 1.0, 1.0]], (1, 1), ValueError, "are 2 degrees, but 1 knot vectors"),
        ([open_knots(4, 1), [1, 0, 0, 0]], 1, TypeError, "region of level 0 must be boolean"),
        ([open_knots(4, 1), [True]], 1, ValueError, r"the shape of its cells, \(4,\), but has"),
        (
            [open_knots(2, 1), [True, False], [False, False, True, False]],
            1,
            ValueError,
            "Level 1 is refined outside of its region",
        ),
    ],
)
def test_errors(levels, degree, error, message):
    with pytest.raises(error, match=message):
        THB(levels, degree)


def test_errors_of_arguments():
    curve, surface = THB([open_knots(4, 1)], 1), THB([(open_knots(4, 1),) * 2], 1)
    c = jnp.ones(5)
    with pytest.raises(ValueError, match=r"c must have 5 coefficients .* has shape \(4,\)"):
        curve.evaluate(c[:4], 0.5)
    with pytest.raises(ValueError, match=r"u must have shape \(..., 2\), but has shape \(3,\)"):
        surface.evaluate(jnp.ones(25), np.ones(3))
    with pytest.raises(ValueError, match=r"knots must have the shapes \[\(7,\)\], but have"):
        curve.evaluate(c, 0.5, jnp.ones(6))
    with pytest.raises(TypeError, match="Places must be real"):
        curve.evaluate(c, 0.5j)
    with pytest.raises(TypeError, match="takes real numbers, but got complex128"):
        curve.evaluate(c + 0j, 0.5)
    with pytest.raises(ValueError, match="marked must be 4 booleans, but is float64"):
        curve.refine(np.ones(4))
    assert "size=25" in repr(surface)
