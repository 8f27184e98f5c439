"""The tool for GradBench: its derivatives against JAX's and NumPy's, and what it answers."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import special, stats

import jax_cce
from benchmarks.gradbench import EVALUATIONS, ba, manual, protocol, table

pytestmark = pytest.mark.one_version

# Small enough for references that loop over scalars.
_SIZES = {
    "ba": (3, 4, 20),
    "det": (5,),
    "gmm": (3, 2, 7),
    "hello": (),
    "ht": (9, 4, False),
    "kmeans": (3, 20, 2),
    "llsq": (8, 5),
    "lse": (9,),
    "lstm": (2, 6, 3),
    "ode": (4, 3),
    "particle": (),
    "saddle": (),
}
_DERIVATIVES = [
    (name, of_function)
    for name, evaluation in EVALUATIONS.items()
    for of_function, function in evaluation.functions.items()
    if function.peers
]


def _data(name, size=None, seed=1):
    return EVALUATIONS[name].drawn(_SIZES[name] if size is None else size, seed)


def _result(name, of_function, data):
    evaluation = EVALUATIONS[name]
    function = evaluation.functions[of_function]
    return jax.jit(function.program)(*evaluation.read(data))


def _sent(name, of_function, data):
    return EVALUATIONS[name].functions[of_function].write(_result(name, of_function, data))


def _along(fun, at, direction):
    """The derivative by a complex step (Squire & Trapp 1998), which cancels nothing."""
    return np.imag(fun(at + 1e-30j * direction)) / 1e-30


def test_every_evaluation_has_a_size():
    assert set(_SIZES) == set(EVALUATIONS)


@pytest.mark.parametrize("name, of_function", _DERIVATIVES)
def test_derivatives_are_jax_s(name, of_function):
    evaluation, data = EVALUATIONS[name], _data(name)
    result = _result(name, of_function, data)
    for peer in evaluation.functions[of_function].peers.values():
        expected = jax.jit(peer)(*evaluation.read(data))
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        assert table.difference(result, expected) < 1e-12


def test_simple_hands_are_differentiated_as_by_jax():
    evaluation, data = EVALUATIONS["ht"], _data("ht", (9, 4, True))
    arguments = evaluation.read(data)
    result = _result("ht", "jacobian", data)
    assert result.shape == (12, 26)
    expected = jax.jit(evaluation.functions["jacobian"].peers["jacfwd"])(*arguments)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)


def test_hello():
    assert _sent("hello", "square", 1.5) == 2.25
    assert _sent("hello", "double", 1.5) == 3.0


def test_lse():
    data = _data("lse")
    assert _sent("lse", "primal", data) == pytest.approx(special.logsumexp(data["x"]), rel=1e-14)
    gradient = _sent("lse", "gradient", data)
    np.testing.assert_allclose(gradient, special.softmax(data["x"]), rtol=1e-13)


def test_llsq():
    data = _data("llsq")
    t = np.linspace(-1, 1, 8)
    powers = np.vander(t, 5, increasing=True)
    residual = powers @ data["x"] - np.sign(t)
    assert _sent("llsq", "primal", data) == pytest.approx(residual @ residual / 2, rel=1e-13)
    np.testing.assert_allclose(_sent("llsq", "gradient", data), powers.T @ residual, rtol=1e-12)


@pytest.mark.parametrize("ell", [1, 2, 5])
def test_det(ell):
    data = _data("det", (ell,))
    matrix = np.reshape(data["A"], (ell, ell))
    value = np.linalg.det(matrix)
    cofactors = (value * np.linalg.inv(matrix).T).ravel()
    assert _sent("det", "primal", data) == pytest.approx(value, rel=1e-11)
    np.testing.assert_allclose(_sent("det", "gradient", data), cofactors, rtol=1e-10, atol=1e-13)


def test_kmeans():
    data = _data("kmeans")
    points, centroids = (np.array(data[name]) for name in ("points", "centroids"))
    squared = np.sum((points[:, None] - centroids) ** 2, 2)
    assert _sent("kmeans", "cost", data) == pytest.approx(squared.min(1).sum(), rel=1e-13)
    nearest = squared.argmin(1)
    # Newton's step leads to the means at once.
    expected = [centroid - points[nearest == k].mean(0) for k, centroid in enumerate(centroids)]
    np.testing.assert_allclose(_sent("kmeans", "dir", data), expected, atol=1e-13)


def test_the_hessian_of_kmeans_is_seen_to_be_diagonal():
    arguments = EVALUATIONS["kmeans"].read(_data("kmeans"))
    cost = EVALUATIONS["kmeans"].functions["cost"].program
    hessian = jax_cce.hessian(cost, format="structured")(*arguments)
    assert hessian.nnz == arguments[0].size


def test_ode():
    data = _data("ode")
    x = np.array(data["x"])
    # The first four components are polynomials that the method integrates exactly.
    expected = np.cumprod(x) * 2.0 ** np.arange(1, 5) / special.factorial(np.arange(1, 5))
    np.testing.assert_allclose(_sent("ode", "primal", data), expected, rtol=1e-13)
    np.testing.assert_allclose(_sent("ode", "gradient", data), expected[-1] / x, rtol=1e-13)


@pytest.mark.parametrize("m", [0, 2])
def test_gmm(m):
    d, k, n = _SIZES["gmm"]
    data = {**_data("gmm"), "m": m, "gamma": 1.3}
    alpha, mu, x = (np.array(data[name]) for name in ("alpha", "mu", "x"))
    factors = np.zeros((k, d, d))
    for factor, q, below in zip(factors, data["q"], data["l"], strict=True):
        entries = iter(below)
        for column in range(d):
            factor[column, column] = np.exp(q[column])
            for row in range(column + 1, d):
                factor[row, column] = next(entries)
    precisions = np.swapaxes(factors, 1, 2) @ factors
    densities = [
        stats.multivariate_normal(mean, np.linalg.inv(precision)).logpdf(x)
        for mean, precision in zip(mu, precisions, strict=True)
    ]
    joint = np.array(densities).T + special.log_softmax(alpha)
    prior = stats.wishart(d + m + 1, np.eye(d) / 1.3**2)
    value = special.logsumexp(joint, axis=1).sum() + sum(map(prior.logpdf, precisions))
    assert _sent("gmm", "objective", data) == pytest.approx(value, rel=1e-12)
    gradient = _sent("gmm", "jacobian", data)
    shares = special.softmax(joint, axis=1)
    of_alpha = shares.sum(0) - n * special.softmax(alpha)
    of_mu = np.einsum("nk,kij,nkj->ki", shares, precisions, x[:, None] - mu)
    np.testing.assert_allclose(gradient["alpha"], of_alpha, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient["mu"], of_mu, rtol=1e-11, atol=1e-12)
    assert np.shape(gradient["q"]) == (k, d)
    assert np.shape(gradient["l"]) == (k, d * (d - 1) // 2)


def _lstm(parameters, data):
    bits, layers = len(data["sequence"][0]), len(data["state"]) // 2
    main, extra = np.split(parameters, [8 * layers * bits])
    main, extra = main.reshape(2 * layers, 4, bits), extra.reshape(3, bits)
    state = np.array(data["state"], complex)
    total = 0.0
    for here, following in zip(data["sequence"][:-1], data["sequence"][1:], strict=True):
        predicted = []
        for b in range(bits):
            signal = here[b] * extra[0, b]
            for layer in range(layers):
                weights, biases = main[2 * layer, :, b], main[2 * layer + 1, :, b]
                hidden, cell = state[2 * layer : 2 * layer + 2, b]
                forget = 1 / (1 + np.exp(-signal * weights[0] - biases[0]))
                take = 1 / (1 + np.exp(-hidden * weights[1] - biases[1]))
                give = 1 / (1 + np.exp(-signal * weights[2] - biases[2]))
                cell = cell * forget + take * np.tanh(hidden * weights[3] + biases[3])
                signal = give * np.tanh(cell)
                state[2 * layer : 2 * layer + 2, b] = signal, cell
            predicted.append(signal * extra[1, b] + extra[2, b])
        total -= np.dot(following, predicted - np.log(2 + np.sum(np.exp(predicted))))
    return total / (bits * (len(data["sequence"]) - 1))


def test_lstm():
    data = _data("lstm")
    parameters = np.concatenate([np.ravel(data[name]) for name in ("main_params", "extra_params")])
    direction = np.random.default_rng(0).normal(size=parameters.shape)
    value = _lstm(parameters, data).real
    assert _sent("lstm", "objective", data) == pytest.approx(value, rel=1e-13)
    slope = np.dot(_sent("lstm", "jacobian", data), direction)
    expected = _along(lambda at: _lstm(at, data), parameters, direction)
    assert slope == pytest.approx(expected, rel=1e-11)


def _about(vector):
    angle = np.sqrt(np.sum(vector**2))
    x, y, z = vector / angle
    crossed = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * crossed + (1 - np.cos(angle)) * crossed @ crossed


def _hand(variables, data):
    """Errors of the complicated variant, one vertex after the other."""
    model, pose = data["data"]["model"], variables[2:]
    absolutes = []
    for bone, parent in enumerate(model["parents"]):
        finger, joint = divmod(bone - 2, 4)
        x, z = 0.0, 0.0
        if bone >= 2 and joint < 3:
            x = pose[6 + 4 * finger + (joint and joint + 1)]
            z = pose[6 + 4 * finger + 1] if joint == 0 else 0.0
        turn = np.eye(4, dtype=complex)
        about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        turn[:3, :3] = about_z @ about_x
        own = np.array(model["base_relatives"][bone]) @ turn
        absolutes.append(own if parent < 0 else absolutes[parent] @ own)
    vertices = []
    for position, weights in zip(model["base_positions"], model["weights"], strict=True):
        moved = sum(
            weight * (absolute @ np.array(inverse) @ position)
            for weight, absolute, inverse in zip(
                weights, absolutes, model["inverse_base_absolutes"], strict=True
            )
        )
        vertices.append(_about(pose[:3]) @ moved[:3] + pose[3:6])
    errors = []
    touches = zip(data["data"]["correspondences"], data["data"]["points"], data["us"], strict=True)
    for triangle, point, us in touches:
        a, b, c = (vertices[k] for k in model["triangles"][triangle])
        u, v = us + variables[:2]
        errors.append(point - (u * a + v * b + (1 - u - v) * c))
    return np.concatenate(errors)


def test_ht():
    data = _data("ht")
    variables = np.concatenate([np.zeros(2), data["theta"]])
    direction = np.random.default_rng(0).normal(size=28)
    value = _hand(variables, data).real
    np.testing.assert_allclose(_sent("ht", "objective", data), value, rtol=1e-12, atol=1e-13)
    slopes = np.array(_sent("ht", "jacobian", data)) @ direction
    expected = _along(lambda at: _hand(at, data), variables, direction)
    np.testing.assert_allclose(slopes, expected, rtol=1e-11, atol=1e-12)


def test_a_hand_that_hardly_turns_is_not_turned():
    data = _data("ht")
    data["theta"][:3] = [0.0, 0.0, 0.0]
    jacobian = np.array(_sent("ht", "jacobian", data))
    assert np.isfinite(jacobian).all()
    assert not jacobian[:, 2:5].any()


def test_a_hand_of_other_bones_is_refused():
    data = _data("ht")
    data["data"]["model"]["parents"] = [-1, 0]
    with pytest.raises(ValueError, match="22 bones, got 2"):
        _result("ht", "jacobian", data)


def _reprojection(row, seen):
    camera, point, weight = np.split(row, [11, 14])
    x, y, depth = _about(camera[:3]) @ (point - camera[3:6])
    image = np.array([x, y]) / depth
    squared = np.sum(image**2)
    distorted = image * (1 + camera[9] * squared + camera[10] * squared**2)
    return weight * (distorted * camera[6] + camera[7:9] - seen)


def test_ba():
    data = _data("ba")
    _, m, p = _SIZES["ba"]
    row = np.array([*data["cam"], *data["x"], data["w"]])
    value = _reprojection(row, data["feat"])
    sent = _sent("ba", "objective", data)
    np.testing.assert_allclose(sent["reproj_error"]["elements"], value, rtol=1e-12)
    assert sent["reproj_error"]["repeated"] == p
    assert sent["w_err"] == {"element": pytest.approx(1 - data["w"] ** 2), "repeated": p}
    jacobian = _sent("ba", "jacobian", data)
    assert jacobian["rows"] == [*range(0, 450, 15), 30 * p + p]
    assert jacobian["cols"] == [*range(11), 33, 34, 35, 33 + 3 * m] * 2 + [33 + 3 * m + p - 1]
    expected = [_along(lambda at: _reprojection(at, data["feat"]), row, e) for e in np.eye(15)]
    np.testing.assert_allclose(jacobian["vals"][:30], np.ravel(np.transpose(expected)), atol=1e-11)
    assert jacobian["vals"][30] == -2 * data["w"]


def test_a_camera_that_is_not_turned_is_differentiated():
    data = _data("ba")
    data["cam"][:3] = [0.0, 0.0, 0.0]
    row = np.array([*data["cam"], *data["x"], data["w"]])
    values = np.array(_sent("ba", "jacobian", data)["vals"][:30]).reshape(2, 15)
    for k in range(15):
        # Next to no rotation is one: the formula divides by its angle.
        steps = [
            row + sign * 1e-5 * np.eye(15)[k] + 1e-12 * (np.arange(15) < 3) for sign in (1, -1)
        ]
        above, below = (_reprojection(each, data["feat"]) for each in steps)
        np.testing.assert_allclose(values[:, k], (above - below) / 2e-5, rtol=1e-5, atol=1e-5)


def test_the_sparse_jacobian_of_all_errors_is_the_compressed_one():
    *variables, seen, pairs = EVALUATIONS["ba"].read(_data("ba"))
    objective = EVALUATIONS["ba"].functions["objective"].program

    @jax.jit
    def sparse(*variables):
        jacobian = jax_cce.jacobian(objective, argnums=(0, 1, 2), format="bcoo")
        return jacobian(*variables, seen, pairs)

    blocks, rows = sparse(*variables), 3 * len(seen)
    by_rows = [
        np.concatenate(
            [np.reshape(block.todense(), (block.shape[0] * size, -1)) for block in of], 1
        )
        for of, size in zip(blocks, (2, 1), strict=True)
    ]
    compressed = _result("ba", "jacobian", _data("ba"))
    dense = np.zeros((rows, sum(map(np.size, variables))))
    entries = np.diff(compressed.rows)
    dense[np.repeat(np.arange(rows), entries), compressed.columns] = compressed.values
    np.testing.assert_allclose(dense, np.concatenate(by_rows), rtol=1e-12, atol=1e-12)
    # What is zero whatever the input is one entry in each row: the other coordinate's centre.
    stored = sum(block.nse for of in blocks for block in of)
    assert stored == len(compressed.values) - 2 * len(seen)


@pytest.mark.parametrize("of_function", ["ff", "fr", "rf", "rr", "auto"])
def test_what_nested_derivatives_find(of_function):
    # The results that GradBench's evaluations expect, which they compare to 1e-4.
    assert _sent("particle", of_function, {"w": 0.0}) == pytest.approx(0.2071918746486116, abs=1e-9)
    saddle = _sent("saddle", of_function, {"start": [1.0, 1.0]})
    np.testing.assert_allclose(saddle, [8.246324826140356e-06] * 4, rtol=1e-9)


def _answers(*messages):
    lines = [json.dumps({"id": k, **message}) for k, message in enumerate(messages)]
    return [json.loads(answer) for answer in protocol.answers(lines)]


def test_messages_are_answered():
    data = {**_data("lse"), "min_runs": 3, "min_seconds": 0}
    evaluate = {"kind": "evaluate", "module": "lse", "function": "gradient", "input": data}
    answers = _answers(
        {"kind": "start", "eval": "lse"},
        {"kind": "define", "module": "lse"},
        {"kind": "define", "module": "nothing"},
        evaluate,
        {"kind": "analysis", "of": 3, "valid": True},
        {**evaluate, "function": "hessian"},
        {**evaluate, "input": {"y": 1}},
    )
    assert [answer["id"] for answer in answers] == list(range(7))
    assert answers[0] == {"id": 0, "tool": "jax_cce"}
    assert answers[1] == {"id": 1, "success": True}
    assert answers[2] == {"id": 2, "success": False, "error": "there is no nothing"}
    assert answers[3]["success"]
    np.testing.assert_allclose(answers[3]["output"], special.softmax(data["x"]), rtol=1e-13)
    assert [timing["name"] for timing in answers[3]["timings"]] == ["evaluate"] * 3
    assert all(timing["nanoseconds"] > 0 for timing in answers[3]["timings"])
    assert answers[4] == {"id": 4}
    assert answers[5] == {"id": 5, "success": False, "error": "there is no lse.hessian"}
    assert not answers[6]["success"]
    assert "KeyError" in answers[6]["error"]


def test_runs_last_as_long_as_they_should():
    data = {**_data("lse", (11,)), "min_runs": 1, "min_seconds": 0.3}
    evaluate = {"kind": "evaluate", "module": "lse", "function": "primal", "input": data}
    (answer,) = _answers(evaluate)
    taken = [timing["nanoseconds"] for timing in answer["timings"]]
    assert sum(taken) >= 0.3e9 > sum(taken[:-1])
    # The first has compiled.
    assert taken[0] > 10 * np.median(taken)


def test_the_tool_answers_each_line_before_the_next():
    command = [sys.executable, "-m", "benchmarks.gradbench"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as tool:
        x = 1.0
        for k, of_function in enumerate(["square", "double"] * 2):
            message = {"id": k, "kind": "evaluate", "module": "hello", "function": of_function}
            print(json.dumps({**message, "input": x}), file=tool.stdin, flush=True)
            answer = json.loads(tool.stdout.readline())
            assert answer["success"]
            x = answer["output"]
        tool.stdin.close()
        assert tool.wait(60) == 0
    assert x == 8.0


def test_the_table_names_the_better_of_jax_s_methods():
    text = table.measured(["hello"], turns=2)
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    assert cells[:2] == ["hello, double", "one number"]
    assert cells[4] == "grad"
    assert float(cells[-1]) < 1e-12


def test_rotations_are_those_of_rodrigues():
    vector, point = np.array([0.3, -0.2, 0.5]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(ba.rotate(vector, point), _about(vector) @ point, rtol=1e-13)


def test_without_programs_by_hand_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make -C tools/manual"):
        manual.measured(["ba"], str(tmp_path))
