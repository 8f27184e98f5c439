"""`kalman`: filters and smoothers against the joint Gaussian of all states and readings."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_cce
from jax_cce import kalman

MODES = [jax.jacfwd, jax.jacrev, jax_cce.jacobian]
FORMS = ["covariance", "square_root"]
METHODS = [kalman.filter, kalman.smoother]
every_form = pytest.mark.parametrize("form", FORMS)
every_method = pytest.mark.parametrize("method", METHODS)
# States, numbers read, steps.
SIZES = [(1, 1, 1), (2, 3, 3)]


def factors(n, m, steps, seed=0, *, varying=False):
    """Arrays of a model, of noise and of the initial covariance the factors; and readings."""
    draw = np.random.default_rng(seed).normal

    def array(*shape, steps=steps):
        return draw(size=(steps, *shape) if varying else shape)

    return {
        "matrix": 0.7 * array(n, n, steps=steps - 1),
        "moving": array(n, n, steps=steps - 1),
        "offset": array(n, steps=steps - 1),
        "seen": array(m, n),
        "reading": array(m, m) + 2 * np.eye(m),
        "shift": array(m),
        "mean": draw(size=n),
        "start": draw(size=(n, n)),
        "readings": draw(size=(steps, m)),
    }


def square(root):
    return root @ root.swapaxes(-1, -2)


@functools.partial(jax.jit, static_argnames=("method", "form"))
def estimated(arrays, observed=True, *, method=kalman.filter, form="covariance"):
    spread = square if form == "covariance" else jnp.asarray
    return method(
        kalman.Linear(arrays["matrix"], spread(arrays["moving"]), arrays["offset"]),
        kalman.Linear(arrays["seen"], spread(arrays["reading"]), arrays["shift"]),
        arrays["readings"],
        (arrays["mean"], spread(arrays["start"])),
        observed=observed,
        form=form,
    )


def conditioned(mean, covariance, seen, values):
    """A Gaussian given some of its components."""
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen]).T
    return mean + gain @ (values - mean[seen]), covariance - gain @ covariance[seen]


def expected(arrays, observed):
    """Filtered and smoothed means and covariances, and log-likelihoods, from the joint Gaussian."""
    readings = arrays["readings"]
    (steps, m), n = readings.shape, len(arrays["mean"])
    arrays = {
        name: x
        if name in ("mean", "start", "readings")
        or x.ndim > (1 if name in ("offset", "shift") else 2)
        else np.stack([x] * steps)
        for name, x in arrays.items()
    }
    means, into = [arrays["mean"]], [np.eye(n, steps * n)]
    noise = [square(arrays["start"])]
    for t in range(steps - 1):
        means.append(arrays["matrix"][t] @ means[-1] + arrays["offset"][t])
        into.append(arrays["matrix"][t] @ into[-1] + np.eye(n, steps * n, n * (t + 1)))
        noise.append(square(arrays["moving"][t]))
    noise += [square(root) for root in arrays["reading"]]
    seen, into = arrays["seen"], np.stack(into)
    read = (seen @ into).reshape(steps * m, -1)
    rows = np.block(
        [[into.reshape(steps * n, -1), np.zeros((steps * n, steps * m))], [read, np.eye(steps * m)]]
    )
    spread = np.zeros((steps * (n + m), steps * (n + m)))
    at = 0
    for block in noise:
        spread[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    covariance = rows @ spread @ rows.T
    of_readings = [seen[t] @ means[t] + arrays["shift"][t] for t in range(steps)]
    mean = np.concatenate([*means, *of_readings])
    places = steps * n + np.arange(steps * m).reshape(steps, m)
    results = []
    for t in range(steps):
        states = slice(t * n, (t + 1) * n)
        before, now = places[:t][observed[:t]], places[t][observed[t]]
        centre, width = conditioned(mean, covariance, before, readings[:t][observed[:t]])
        error, width = readings[t][observed[t]] - centre[now], width[np.ix_(now, now)]
        log_likelihood = -0.5 * (
            error @ np.linalg.solve(width, error) + np.linalg.slogdet(2 * np.pi * width)[1]
        )
        found = []
        for known in (t + 1, steps):
            mask = observed[:known]
            centre, width = conditioned(
                mean, covariance, places[:known][mask], readings[:known][mask]
            )
            found += [centre[states], width[states, states]]
        results.append((*found, log_likelihood))
    return [np.stack(x) for x in zip(*results, strict=True)]


def check_against_the_joint(arrays, observed, call, **tolerance):
    means, covariances, smooth_means, smooth_covariances, log_likelihoods = expected(
        arrays, observed
    )
    wanted = {
        kalman.filter: (means, covariances),
        kalman.smoother: (smooth_means, smooth_covariances),
    }
    for method in METHODS:
        for form in FORMS:
            found = call(method=method, form=form)
            for one, other in zip(found[:2], wanted[method], strict=True):
                np.testing.assert_allclose(one, other, **tolerance)
            np.testing.assert_allclose(found.log_likelihoods, log_likelihoods, **tolerance)
            if form == "square_root":
                assert not np.triu(found.factors, 1).any()
                np.testing.assert_allclose(square(found.factors), wanted[method][1], **tolerance)
            else:
                assert found.factors is None


def test_the_joint_gaussian():
    arrays = factors(3, 1, 4)
    observed = np.ones_like(arrays["readings"], bool)
    call = functools.partial(estimated, arrays)
    check_against_the_joint(arrays, observed, call, rtol=1e-10, atol=1e-10)


@given(st.sampled_from(SIZES), st.integers(0, 2**31), st.floats(0, 1))
def test_whatever_is_missing_and_varies(size, seed, share):
    arrays = factors(*size, seed, varying=True)
    observed = np.random.default_rng(seed).uniform(size=arrays["readings"].shape) < share
    call = functools.partial(estimated, arrays, observed)
    check_against_the_joint(arrays, observed, call, rtol=1e-9, atol=1e-9)


@every_form
def test_nan_is_missing(form):
    """Known beforehand, traced, or said by a mask, for components or whole readings."""
    arrays = factors(2, 2, 4)
    observed = np.array([[True, True], [False, False], [True, False], [True, True]])
    nan = {**arrays, "readings": np.where(observed, arrays["readings"], np.nan)}
    how = {"method": kalman.smoother, "form": form}
    wanted = estimated(arrays, observed, **how)
    known = estimated.__wrapped__(nan, None, **how)
    for found in (known, estimated(nan, None, **how), estimated(nan, observed, **how)):
        chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)
    rows = observed[:, :1]
    found, wanted = (estimated(arrays, x, form=form) for x in (rows, np.repeat(rows, 2, 1)))
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


def outputs(arrays, observed=True, *, method=kalman.smoother, form="covariance"):
    """All that depends on covariances only."""
    found = estimated(arrays, observed, method=method, form=form)
    return found.means, found.covariances, found.log_likelihoods


def changed(arrays, case):
    zeros = {name: np.zeros_like(x) for name, x in arrays.items()}
    one = {name: np.outer(x[..., 0], [1.0, 0.0]) for name, x in arrays.items() if x.ndim == 2}
    return {
        "regular": arrays,
        "known at the start": {**arrays, "start": zeros["start"]},
        "in a line at the start": {**arrays, "start": one["start"]},
        "no noise in the state": {**arrays, "moving": zeros["moving"]},
        "noise on a line": {**arrays, "moving": one["moving"], "start": one["start"]},
        "all at once": {**arrays, "moving": one["moving"], "start": zeros["start"]},
        "exact readings": {**arrays, "reading": zeros["reading"]},
    }[case]


CASES = [
    "regular",
    "known at the start",
    "in a line at the start",
    "no noise in the state",
    "noise on a line",
    "all at once",
    "exact readings",
]


def moved(arrays, steps):
    """Each array a step, of its own, in a direction of its own."""
    draw = np.random.default_rng(5).normal
    # Under jit names come in order.
    pairs = zip(sorted(arrays.items()), steps, strict=True)
    return {name: x + step * draw(size=x.shape) for (name, x), step in pairs}


@functools.cache
def jacobian_by_steps(mode, method, form):
    function = functools.partial(outputs, method=method, form=form)
    jacobian = mode(lambda steps, arrays: function(moved(arrays, steps)))
    return functools.partial(jax.jit(jacobian), np.zeros(9))


@functools.cache
def differences(case):
    """The same of the joint Gaussian, which knows nothing of any recursion, for each method."""
    arrays = changed(factors(2, 1, 4), case)
    observed, h = np.ones((4, 1), bool), 1e-3

    def along(step):
        a, b, c, d = (expected(moved(arrays, k * h * step), observed) for k in (-2, -1, 1, 2))
        return [(a - 8 * b + 8 * c - d) / (12 * h) for a, b, c, d in zip(a, b, c, d, strict=True)]

    found = [np.stack(x, -1) for x in zip(*map(along, np.eye(9)), strict=True)]
    return {kalman.filter: [*found[:2], found[4]], kalman.smoother: found[2:]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "mode, method",
    [
        (jax.jacfwd, kalman.filter),
        (jax_cce.jacobian, kalman.filter),
        (jax.jacfwd, kalman.smoother),
        (jax.jacrev, kalman.smoother),
    ],
)
def test_derivatives_where_covariances_are_singular(mode, method, case):
    arrays = changed(factors(2, 1, 4), case)
    by_covariance, by_root = (jacobian_by_steps(mode, method, form)(arrays) for form in FORMS)
    for one, other, wanted in zip(by_covariance, by_root, differences(case)[method], strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-10)


@every_form
def test_log_likelihoods_depend_on_earlier_steps_only(form):
    arrays = factors(2, 2, 4, varying=True)
    observed = np.ones((4, 2), bool)
    observed[1, 0] = observed[2] = False

    def log_likelihoods(per_step):
        return estimated({**arrays, **per_step}, observed, form=form).log_likelihoods

    per_step = {name: arrays[name] for name in ("readings", "seen", "offset")}
    modes = MODES if form == "covariance" else MODES[1:]
    found = [jax.jit(mode(log_likelihoods))(per_step) for mode in modes]
    for name, jacobian in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(jacobian, other[name], rtol=1e-10, atol=1e-11)
        # A transition leads to the reading after it.
        later = 4 - jacobian.shape[1]
        blocks = np.abs(jacobian).reshape(4, 4 - later, -1).max(-1)
        assert not np.triu(blocks, 1 - later).any()
        assert blocks[3, 0] > 0
    assert not found[-1]["readings"][:, ~observed].any()


@pytest.mark.parametrize(
    "mode, method, form",
    [
        (jax_cce.jacobian, kalman.filter, "covariance"),
        (jax.jacrev, kalman.smoother, "covariance"),
        (jax.jacfwd, kalman.smoother, "square_root"),
        (jax.jacrev, kalman.smoother, "square_root"),
    ],
)
def test_missing_readings_have_no_derivative_and_make_none_nan(mode, method, form):
    arrays = factors(2, 2, 3)
    arrays["readings"][0, 1] = arrays["readings"][2] = np.nan
    observed = ~np.isnan(arrays["readings"])

    def function(steps, readings, observed=None):
        now = moved({**arrays, "readings": readings}, steps)
        means, _, log_likelihoods = outputs(
            {**now, "readings": readings}, observed, method=method, form=form
        )
        return means, log_likelihoods

    masked = functools.partial(function, observed=observed)
    args = np.zeros(9), np.where(observed, arrays["readings"], 7.0)
    wanted = jax.jit(jax.jacfwd(masked, (0, 1)))(*args)
    found = jax.jit(mode(function, (0, 1)))(args[0], arrays["readings"])
    chex.assert_trees_all_close(found, wanted, atol=1e-11)
    for _, by_readings in found:
        assert not by_readings[..., ~observed].any()


def by_functions(arrays, observed, method, form):
    spread = square if form == "covariance" else jnp.asarray
    inputs = {name: arrays[name] for name in ("matrix", "offset")}
    found = method(
        kalman.Nonlinear(
            lambda x, u: u["matrix"] @ x + u["offset"], spread(arrays["moving"]), inputs
        ),
        kalman.Nonlinear(
            lambda x, u: u[0] @ x + u[1],
            spread(arrays["reading"]),
            (arrays["seen"], arrays["shift"]),
        ),
        arrays["readings"],
        (arrays["mean"], spread(arrays["start"])),
        observed=observed,
        form=form,
    )
    return found.means, found.covariances, found.log_likelihoods


@every_form
def test_extended_is_linear_for_linear_functions(form):
    arrays = factors(3, 2, 3, varying=True)
    observed = np.array([[True, False], [False, False], [True, True]])
    how = {"observed": observed, "method": kalman.smoother, "form": form}
    functions = functools.partial(by_functions, **how), functools.partial(outputs, **how)

    def total(function, arrays):
        values = function(arrays)
        return sum(jnp.sum(jnp.sin(x)) for x in values), values

    (found, gradient), (wanted, other) = (
        jax.jit(jax.value_and_grad(functools.partial(total, f), has_aux=True))(arrays)
        for f in functions
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(gradient, other, rtol=1e-10, atol=1e-10)


def swing(x):
    return jnp.stack([x[0] + 0.1 * x[1], x[1] - 0.98 * jnp.sin(x[0])])


def height(x):
    return jnp.stack([jnp.sin(x[0]), x[0] * x[1]])


def pendulum_by_hand(readings, noise, reading_noise):
    """The extended filter and the smoother of Rauch, Tung and Striebel, in NumPy."""
    mean, covariance = np.array([1.0, 0.0]), 0.3 * np.eye(2)
    means, covariances, predicted, log_likelihoods = [], [], [], []
    for t, reading in enumerate(readings):
        if t:
            slope = np.array([[1, 0.1], [-0.98 * np.cos(mean[0]), 1]])
            mean = np.array([mean[0] + 0.1 * mean[1], mean[1] - 0.98 * np.sin(mean[0])])
            predicted.append((mean, slope @ covariance @ slope.T + noise, slope))
            covariance = predicted[-1][1]
        seen = np.array([[np.cos(mean[0]), 0], [mean[1], mean[0]]])
        error = reading - [np.sin(mean[0]), mean[0] * mean[1]]
        width = seen @ covariance @ seen.T + reading_noise
        gain = covariance @ seen.T @ np.linalg.inv(width)
        mean, covariance = mean + gain @ error, covariance - gain @ width @ gain.T
        means.append(mean)
        covariances.append(covariance)
        log_likelihoods.append(
            -0.5 * error @ np.linalg.inv(width) @ error
            - 0.5 * np.log(np.linalg.det(2 * np.pi * width))
        )
    smooth = [(mean, covariance)]
    for t in reversed(range(len(predicted))):
        mean, covariance, slope = predicted[t]
        gain = covariances[t] @ slope.T @ np.linalg.inv(covariance)
        after = smooth[-1]
        smooth.append(
            (
                means[t] + gain @ (after[0] - mean),
                covariances[t] + gain @ (after[1] - covariance) @ gain.T,
            )
        )
    smooth_means, smooth_covariances = zip(*smooth[::-1], strict=True)
    filtered = means, covariances, log_likelihoods
    return {
        kalman.filter: [np.stack(x) for x in filtered],
        kalman.smoother: [np.stack(x) for x in (smooth_means, smooth_covariances, log_likelihoods)],
    }


@every_form
def test_an_extended_filter_by_hand(form):
    draw = np.random.default_rng(3).normal
    readings = draw(size=(12, 2))
    roots = 0.3 * draw(size=(2, 3)), 0.2 * draw(size=(2, 2)) + np.eye(2), 0.3**0.5 * np.eye(2)
    wanted = pendulum_by_hand(readings, square(roots[0]), square(roots[1]))
    moving, reading, start = map(square, roots) if form == "covariance" else roots
    model = kalman.Nonlinear(swing, moving), kalman.Nonlinear(height, reading)
    # Functions are static: models are arguments of what is jitted.
    for method in METHODS:
        run = jax.jit(functools.partial(method, form=form))
        found = run(*model, readings, (np.array([1.0, 0.0]), start))
        values = found.means, found.covariances, found.log_likelihoods
        for one, other in zip(values, wanted[method], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_derivatives_of_an_extended_filter():
    model = kalman.Nonlinear(swing, 0.1 * np.eye(2)), kalman.Nonlinear(height, np.eye(2))
    readings = np.random.default_rng(3).normal(size=(5, 2))

    def log_likelihoods(start):
        return kalman.filter(*model, readings, (start, np.zeros((2, 2)))).log_likelihoods

    start = np.array([1.0, 0.1])
    wanted = jax.jacfwd(log_likelihoods)(start)
    for mode in MODES[1:]:
        np.testing.assert_allclose(jax.jit(mode(log_likelihoods))(start), wanted, atol=1e-11)


@pytest.mark.parametrize(
    "mode, method, form",
    [
        (jax.jacrev, kalman.smoother, "square_root"),
        (jax.jacrev, kalman.smoother, "covariance"),
        (jax_cce.jacobian, kalman.filter, "covariance"),
    ],
)
def test_batches(mode, method, form):
    several = [factors(2, 1, 3, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *several)
    values = jax.vmap(functools.partial(estimated, method=method, form=form))(stacked)
    jacobian = jacobian_by_steps(mode, method, form)
    found = jax.vmap(jacobian)(stacked)
    for k, arrays in enumerate(several):
        one = estimated(arrays, method=method, form=form)
        chex.assert_trees_all_close(jax.tree.map(lambda x, k=k: x[k], values), one, atol=1e-12)
        of_one = jax.tree.map(lambda x, k=k: x[k], found)
        chex.assert_trees_all_close(of_one, jacobian(arrays), rtol=1e-10, atol=1e-10)


@every_form
def test_single_precision(form):
    arrays = factors(2, 1, 4)
    single = {name: x.astype("float32") for name, x in arrays.items()}
    found, wanted = (outputs(x, form=form) for x in (single, arrays))
    assert {x.dtype for x in found} == {np.dtype("float32")}
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-4)
    jacobian = jacobian_by_steps(jax.jacrev, kalman.smoother, form)
    chex.assert_trees_all_close(jacobian(single), jacobian(arrays), rtol=1e-3, atol=1e-3)


@every_form
def test_an_unstable_state_over_many_steps(form):
    """Covariances stay symmetric and positive, however rounding errors grow without readings."""
    arrays = {
        "matrix": np.array([[1.3, 0.4], [0.0, 1.2]]),
        "moving": 0.1 * np.eye(2),
        "offset": np.zeros(2),
        "seen": np.array([[1.0, 0.0]]),
        "reading": np.eye(1),
        "shift": np.zeros(1),
        "mean": np.zeros(2),
        "start": np.eye(2),
        "readings": np.zeros((300, 1)),
    }
    for method in METHODS:
        covariances = np.array(estimated(arrays, method=method, form=form).covariances)
        np.testing.assert_array_equal(covariances, covariances.swapaxes(1, 2))
        assert np.linalg.eigvalsh(covariances).min() > 1e-3
        np.testing.assert_allclose(covariances[150], covariances[140], rtol=1e-9)


def test_factors_of_any_width_and_numbers_as_offsets():
    arrays = factors(3, 2, 4)
    wide = {**arrays, "moving": arrays["moving"][:, :1], "start": np.ones((3, 5))}
    for method in METHODS:
        one = estimated(wide, method=method, form="square_root")
        other = estimated(wide, method=method)
        np.testing.assert_allclose(one.means, other.means, atol=1e-12)
        np.testing.assert_allclose(one.covariances, other.covariances, atol=1e-12)
    model = (
        kalman.Linear(arrays["matrix"], square(arrays["moving"]), 2),
        kalman.Linear(arrays["seen"], square(arrays["reading"])),
    )
    found = kalman.filter(*model, arrays["readings"], (arrays["mean"], np.eye(3, dtype=int)))
    arrays |= {"offset": np.full(3, 2.0), "shift": np.zeros(2), "start": np.eye(3)}
    np.testing.assert_allclose(found.means, estimated(arrays).means, atol=1e-12)


@every_form
def test_promotion_by_configuration(form):
    arrays = factors(2, 2, 3)
    arrays["readings"][1, 0] = np.nan
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = outputs(arrays, None, form=form)
    assert all(np.isfinite(x).all() for x in found)


def test_what_does_not_fit():
    arrays = factors(3, 2, 4)

    def call(observed=None, form="covariance", **changes):
        new = {**arrays, **changes}
        transition = kalman.Linear(new["matrix"], new["moving"], new["offset"])
        observation = kalman.Linear(new["seen"], new["reading"], new["shift"])
        transition = changes.get("transition", transition)
        start = new["mean"], new["start"]
        return kalman.filter(
            transition, observation, new["readings"], start, observed=observed, form=form
        )

    for name, x, message in [
        ("readings", np.ones(4), r"readings has shape \(4,\), but has to have shape \(any, any\)"),
        ("readings", np.ones((0, 2)), "readings has no steps"),
        ("mean", np.ones((3, 1)), r"initial mean has shape \(3, 1\)"),
        ("start", np.eye(2), r"initial covariance has shape \(2, 2\), .* shape \(3, 3\)"),
        ("matrix", np.ones((4, 3, 3)), r"transition.matrix has .* \(3, 3\) or \(3, 3, 3\)"),
        ("moving", np.ones((3, 1)), r"transition.noise has shape \(3, 1\), .* \(3, 3\) or"),
        ("offset", np.ones(2), r"transition.offset has shape \(2,\), .* shape \(3\) or \(3, 3\)"),
        ("seen", np.ones((3, 2)), r"observation.matrix has shape \(3, 2\), .* \(2, 3\) or"),
        ("reading", np.ones((3, 2, 2)), r"observation.noise has .* \(2, 2\) or \(4, 2, 2\)"),
        ("shift", np.ones((4, 1)), r"observation.offset has shape \(4, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(**{name: x})
    with pytest.raises(ValueError, match=r"noise has shape \(2, 1\), .* \(3, any\)"):
        call(moving=np.ones((2, 1)), form="square_root")
    with pytest.raises(ValueError, match="form is 'root', but has to be"):
        call(form="root")
    with pytest.raises(ValueError, match=r"observed has shape \(4,\), .* \(4, 2\) or \(4, 1\)"):
        call(observed=np.ones(4, bool))
    with pytest.raises(TypeError, match="observed has to be of bool, but is of int"):
        call(observed=np.ones((4, 2), int))
    with pytest.raises(TypeError, match=r"transition has to be a kalman.Linear .* is a tuple"):
        call(transition=(np.eye(3), np.eye(3)))
    with pytest.raises(TypeError, match=r"mean has to be of real numbers, but is of complex128"):
        call(mean=np.ones(3) * 1j)
    noise, inputs = np.eye(3), {"u": np.ones((4, 1))}
    with pytest.raises(ValueError, match=r"transition.inputs has .* \(4, 1\), .* steps, 3"):
        call(transition=kalman.Nonlinear(lambda x, u: x, noise, inputs))
    with pytest.raises(ValueError, match=r"transition.function .* shape \(3,\), but .* \(2,\)"):
        call(transition=kalman.Nonlinear(lambda x: x[:2], noise))
