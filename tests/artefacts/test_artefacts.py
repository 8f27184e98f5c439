"""Artefacts: written in one process, and run in another that has nothing but JAX."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from jax_cce.artefacts import container, executables, machine_code
from jax_cce.artefacts.sizes import as_text, symbols_of, value_of
from jax_cce.native import compiling

pytest.importorskip("flatbuffers", reason="JAX writes exported programs with flatbuffers")

X = jnp.array([0.5, -1.0, 2.0, 0.25])
_TRANSFORMS = {
    "jacobian": jax_cce.jacobian,
    "value_and_jacobian": jax_cce.value_and_jacobian,
    "hessian": jax_cce.hessian,
}
# The reference tasks that are compiled in seconds.
_SMALL = ("RoeFlux_1d", "RobotArm_6DOF", "HumanHeartDipole", "PropaneCombustion", "Perceptron")


def _of_tree(tree, scale=2.0):
    """A function of a tree, whose result is a tree of an array and a number."""
    x, y = tree["x"], tree["y"]
    return {"shifted": x[1:] * x[:-1] ** scale + y, "sum": jnp.sum(x**2) * y}


TREE = {"x": X, "y": jnp.asarray(np.float64(2.0))}


def _again(artefact):
    return jax_cce.load(artefact.to_bytes())


def _assert_same(ours, theirs):
    """Asserts that results are the same to the last bit, whatever they consist of."""
    ours, theirs = map(_as_arrays, (ours, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def _as_arrays(tree):
    def is_block(node):
        return hasattr(node, "todense")

    return jax.tree.map(lambda x: x.todense() if is_block(x) else x, tree, is_leaf=is_block)


# --- in another process ---------------------------------------------------------------------------

_PLAIN = """
    import pathlib, sys, zipfile

    sys.modules["jax_cce"] = None  # importing it fails
    import jax, numpy as np

    jax.config.update("jax_enable_x64", True)
    for path in pathlib.Path(sys.argv[1]).glob("*.cce"):
        with zipfile.ZipFile(path) as file:
            exported = jax.export.deserialize(bytearray(file.read("program.bin")))
        with np.load(path.with_suffix(".in.npz")) as given:
            args = [given[name] for name in given.files]
        results = jax.tree.leaves(jax.jit(exported.call)(*args))
        np.savez(path.with_suffix(".out.npz"), *results)
    assert not any(name.startswith("jax_cce") and sys.modules[name] for name in sys.modules)
"""


def _run(script, *arguments, **environment):
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_process_without_this_package_computes_the_same_bits(tmp_path):
    expected = {}
    for name in _SMALL:
        task = TASKS[name]
        artefact = jax_cce.compile(task.fun, task.argnums)(*task.args)
        artefact.save(tmp_path / f"{name}.cce")
        np.savez(tmp_path / f"{name}.in.npz", *task.args)
        compiled = jax.jit(jax_cce.jacobian(task.fun, task.argnums, backend="xla"))
        expected[name] = jax.tree.leaves(compiled(*task.args))
    symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), X.dtype)
    jax_cce.compile(lambda x: jnp.sin(x) * x[0])(symbolic).save(tmp_path / "symbolic.cce")
    np.savez(tmp_path / "symbolic.in.npz", X)
    expected["symbolic"] = [jax.jit(jax.jacrev(lambda x: jnp.sin(x) * x[0]))(X)]
    _run(_PLAIN, tmp_path)
    for name, arrays in expected.items():
        with np.load(tmp_path / f"{name}.out.npz") as found:
            assert len(found.files) == len(arrays)
            for file, array in zip(found.files, arrays, strict=True):
                assert found[file].dtype == array.dtype
                np.testing.assert_array_equal(found[file], array)


def test_plain_jax_reads_the_entries_of_a_sparse_matrix(tmp_path):
    def f(x):
        return x[1:] * x[:-1]

    jax_cce.compile(f, format="bcoo")(X).save(tmp_path / "f.cce")
    found = _run(
        """
        import sys, zipfile
        sys.modules["jax_cce"] = None
        import jax, numpy as np
        from jax.experimental.sparse import BCOO
        jax.config.update("jax_enable_x64", True)
        with zipfile.ZipFile(sys.argv[1]) as file:
            exported = jax.export.deserialize(bytearray(file.read("program.bin")))
            with file.open("beside/0.indices.npy") as indices:
                indices = np.load(indices)
        data = exported.call(np.array([0.5, -1.0, 2.0, 0.25]))
        print(BCOO((data, indices), shape=(3, 4)).todense().tolist())
        """,
        tmp_path / "f.cce",
    )
    assert json.loads(found) == jax.jacrev(f)(X).tolist()


# --- the same as the transformations --------------------------------------------------------------


@pytest.mark.parametrize("transform", _TRANSFORMS)
@pytest.mark.parametrize("format", ["dense", "bcoo", "structured", "values", "csr", "csc", "auto"])
def test_formats_and_trees(format, transform):
    artefact = _again(jax_cce.compile(_of_tree, format=format, transform=transform)(TREE))
    how = {"format": format, "backend": "xla"}
    expected = _TRANSFORMS[transform](_of_tree, **how)(TREE)
    found = artefact(TREE)
    _assert_same(found, expected)
    is_leaf = lambda node: hasattr(node, "todense")  # noqa: E731
    kinds = [list(map(type, jax.tree.leaves(each, is_leaf=is_leaf))) for each in (found, expected)]
    assert kinds[0] == kinds[1]


def test_arguments_by_number_and_name_and_auxiliary_data():
    def f(x, y, *, scale):
        return x * jnp.sin(y) * scale["by"], {"sum": x + y, "none": None}

    scale = {"by": jnp.array(3.0)}
    how = {"argnums": (0, 1), "has_aux": True}
    for format in ("dense", "bcoo"):
        artefact = _again(jax_cce.compile(f, format=format, **how)(X, 2 * X, scale=scale))
        expected = jax.jacrev(f, **how)(X, 2 * X, scale=scale)
        assert_agree(_as_arrays(artefact(X, 2 * X, scale=scale)), expected)


def test_holomorphic_functions_and_integers():
    z = X + 2j * X
    artefact = jax_cce.compile(lambda z: z**2 * z[0], holomorphic=True)(z)
    assert_agree(_again(artefact)(z), jax.jacrev(lambda z: z**2 * z[0], holomorphic=True)(z))
    counts = jnp.arange(4)
    artefact = jax_cce.compile(lambda k, x: k * x, argnums=1)(counts, X)
    assert_agree(_again(artefact)(counts, X), jax.jacrev(lambda x: counts * x)(X))


def test_numbers_of_python_are_arguments():
    artefact = _again(jax_cce.compile(lambda x: jnp.tanh(x) * x)(2.0))
    # Exported programs have no weak types.
    expected = jax.jacrev(lambda x: jnp.tanh(x) * x)(np.float64(3.0))
    assert_agree(artefact(3.0), expected)


def test_positions_that_depend_on_data():
    def f(x):
        return jnp.sort(x) ** 2

    for format in ("bcoo", "structured"):
        artefact = _again(jax_cce.compile(f, format=format)(X))
        for x in (X, X[::-1]):
            assert_agree(artefact(x).todense(), jax.jacrev(f)(x))


def test_structured_blocks_without_coefficients_and_with_tables():
    def f(x):
        return 2 * x, x[np.array([2, 0, 1, 1])] ** 2, {"constant": jnp.ones(2)}, [1j.imag * x]

    artefact = _again(jax_cce.compile(f, format="structured")(X))
    found, expected = artefact(X), jax.jacrev(f)(X)
    assert all(
        isinstance(block, jax_cce.StructuredJacobian)
        for block in jax.tree.leaves(found, is_leaf=lambda node: hasattr(node, "todense"))
    )
    assert_agree(_as_arrays(found), expected)


@pytest.mark.parametrize(
    "f, spec, sizes",
    [
        (lambda x: x[1:] * x[:-1] ** 2, "n", (2, 3, 7)),
        (lambda x: jnp.concatenate([x, x**2]), "n", (1, 4)),
        (lambda x: x[: x.shape[0] // 2] * 3 * x[x.shape[0] // 2 :], "2*n", (2, 6)),
        (lambda x: jnp.sin(x).reshape(-1), "n, m", ((1, 2), (3, 2))),
        (lambda x: lax.scan(lambda c, a: (c * jnp.sin(a), c + a), 1.0, x)[1], "n", (1, 4)),
    ],
    ids=["shifted", "concatenated", "halves", "flattened", "scan"],
)
def test_symbolic_sizes(f, spec, sizes):
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape(spec), X.dtype)
    artefacts = [
        _again(jax_cce.compile(f, format=format)(shape))
        for format in ("dense", "bcoo", "structured")
    ]
    for size in sizes:
        x = jnp.array(np.random.default_rng(0).normal(size=size))
        for artefact in artefacts:
            assert_agree(_as_arrays(artefact(x)), jax.jacrev(f)(x))
    assert any("n" in str(told["shape"]) for told in artefacts[0].manifest["arguments"])


@pytest.mark.one_version
@given(st.integers(1, 9), st.integers(1, 9))
def test_sizes_as_text(n, m):
    sizes = jax.export.symbolic_shape("n, m, 2*n + 1, n*m, n*m^2 - m, 5*n - 3*m")
    given = {"n": n, "m": m}
    sizes = (*sizes, sizes[0] // 2, (sizes[0] + 3) % 4)
    expected = [n, m, 2 * n + 1, n * m, n * m**2 - m, 5 * n - 3 * m, n // 2, (n + 3) % 4]
    texts = list(map(as_text, sizes))
    assert [value_of(text, given) for text in texts] == expected
    said = [texts[2], texts[3]]
    assert symbols_of(zip(said, [expected[2], expected[3]], strict=True)) == given


def test_the_program_runs_under_jit_and_in_loops_and_can_be_differentiated_again():
    def f(x):
        return jnp.tanh(x) * x[0]

    artefact = _again(jax_cce.compile(f, vjp_order=2)(X))

    def twice(jacobian):
        once = jax.grad(lambda x: jnp.sum(jacobian(x) ** 2))
        return jax.grad(lambda x: once(x) @ jnp.arange(4.0))

    assert_agree(twice(artefact)(X), twice(jax.jacrev(f))(X))
    assert_agree(jax.jit(artefact)(X), jax.jacrev(f)(X))
    points = jnp.stack([X, 2 * X])
    assert_agree(lax.map(artefact, points), lax.map(jax.jacrev(f), points))
    with pytest.raises(ValueError, match=r"VJP|vjp"):
        jax.grad(lambda x: jnp.sum(_again(jax_cce.compile(f)(X))(x)))(X)


def test_what_an_artefact_says():
    artefact = jax_cce.compile(_of_tree, order="reverse")(TREE)
    plan = jax_cce.plan(_of_tree, order="reverse")(TREE)
    again = _again(artefact)
    for each in (artefact, again):
        assert each.order == plan.order
        assert each.plan.splitlines()[:3] == str(plan).splitlines()[:3]
        assert each.costs["flops"] == plan.cost("flops")
        assert each.platforms == ("cpu",)
        assert each.native == ()
        assert "args[0]['x'] float64[4]" in str(each)
        assert "machine code of jax_cce, which would need it, is left out" in str(each)
        assert "_of_tree" in repr(each)
    assert again.manifest["versions"]["jax"] == jax.__version__
    assert again.to_bytes() == artefact.to_bytes()


def test_several_platforms_none_of_which_has_to_be_there():
    artefact = _again(jax_cce.compile(jnp.sin, platforms=("cuda", "cpu", "tpu"))(X))
    assert set(artefact.platforms) == {"cuda", "cpu", "tpu"}
    assert_agree(artefact(X), jax.jacrev(jnp.sin)(X))
    elsewhere = _again(jax_cce.compile(jnp.sin, platforms=("cuda", "tpu"))(X))
    with pytest.raises(ValueError, match=r"was exported for platforms.*used on"):
        elsewhere(X)


def test_structured_blocks_are_results_of_programs_that_jax_exports():
    exported = jax.export.export(jax.jit(jax_cce.jacobian(_of_tree, format="structured")))(TREE)
    found = jax.export.deserialize(exported.serialize()).call(TREE)
    assert_agree(_as_arrays(found), jax.jacrev(_of_tree)(TREE))
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), X.dtype)
    symbolic = jax.export.export(jax.jit(jax_cce.jacobian(jnp.sin, format="structured")))(shape)
    with pytest.raises(ValueError, match="symbolic sizes"):
        symbolic.serialize()


# --- what does not fit ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artefact():
    return jax_cce.compile(_of_tree)(TREE)


def test_every_flipped_byte_and_every_cut_is_noticed(artefact, tmp_path):
    content = artefact.to_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(jax_cce.ArtefactError, match=r"damaged|no artefact"):
            jax_cce.load(bytes(damaged))
    for length in (0, 1, 4, 100, len(content) // 2, len(content) - 1):
        path = tmp_path / "cut.cce"
        path.write_bytes(content[:length])
        with pytest.raises(jax_cce.ArtefactError, match=r"cut\.cce is (damaged|no artefact)"):
            jax_cce.load(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        jax_cce.load(tmp_path / "missing.cce")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(jax_cce.ArtefactError, match="another archive"):
        jax_cce.load(other)
    with pytest.raises(jax_cce.ArtefactError, match="no artefact"):
        jax_cce.load(container.packed({"kind": "another"}, {}))
    with pytest.raises(jax_cce.ArtefactError, match=r"no artefact.*program"):
        jax_cce.load(container.packed({}, {}))


def test_newer_versions(artefact):
    manifest, members = container.content_of(artefact.to_bytes(), "it")
    newer = {**manifest, "version": container.VERSION + 1, "versions": {"jax_cce": "9.9"}}
    with pytest.raises(jax_cce.ArtefactError, match=r"version 2.*up to 1.*jax_cce 9\.9"):
        jax_cce.load(container.packed(newer, members))
    # A program that this JAX does not know how to read.
    newer = {**manifest, "versions": {**manifest["versions"], "jax": "9.9.9"}}
    unreadable = {**members, "program.bin": b"\0" * 64}
    with pytest.raises(jax_cce.ArtefactError, match=r"which JAX 9\.9\.9 wrote"):
        jax_cce.load(container.packed(newer, unreadable))


def test_without_flatbuffers(artefact, monkeypatch):
    content = artefact.to_bytes()
    monkeypatch.setitem(sys.modules, "jax._src.export.serialization", None)
    for way in (artefact.to_bytes, lambda: jax_cce.load(content)):
        with pytest.raises(ImportError, match="pip install flatbuffers"):
            way()


@pytest.mark.parametrize(
    "args, message",
    [
        (({"x": X[1:], "y": 2.0},), r"args\[0\]\['x'\] of type float64\[4\], but got float64\[3\]"),
        (({"x": X, "y": 2},), r"args\[0\]\['y'\] of type float64\[\], but got int64\[\]"),
        (({"x": X.astype(np.float32), "y": 2.0},), r"but got float32\[4\]"),
        ((X,), "takes arguments of the tree"),
        (({"x": "text", "y": 2.0},), r"args\[0\]\['x'\], but got 'text' of type str"),
    ],
)
def test_other_arguments(artefact, args, message):
    with pytest.raises(TypeError, match=message):
        artefact(*args)


def test_64_bits_that_are_switched_off(artefact):
    with (
        jax.enable_x64(False),
        pytest.raises(TypeError, match=r"jax\.config\.update.'jax_enable_x64', True"),
    ):
        _again(artefact)({"x": np.ones(4), "y": np.float64(2.0)})


@pytest.mark.parametrize(
    "how, args, message",
    [
        ({"transform": "gradient"}, (X,), "transform must be one of"),
        ({"native": True, "platforms": "cuda"}, (X,), "native=True is for the CPU"),
        ({"native": True, "vjp_order": 1}, (X,), "no derivative"),
        ({"platforms": ("cpu", "gpu")}, (X,), r"among .*, but got \('cpu', 'gpu'\)"),
        ({"platforms": ()}, (X,), "platforms must be among"),
        ({"argnums": 3}, (X,), "argnums must be"),
        ({"format": "lists"}, (X,), "format must be one of"),
        ({"native": True}, (X,), "no machine code here: JAX_CCE_NATIVE switches it off"),
    ],
)
def test_what_compile_refuses(how, args, message):
    with pytest.raises(ValueError, match=message):
        jax_cce.compile(jnp.sin, **how)(*args)


def test_arguments_that_are_no_arrays():
    with pytest.raises(TypeError, match=r"'relu' of type str \(at \[1\]\)"):
        jax_cce.compile(lambda x, name: x)(X, "relu")


def test_a_file_is_written_as_a_whole(artefact, tmp_path, monkeypatch):
    path = tmp_path / "f.cce"
    artefact.save(path)
    before = path.read_bytes()

    def fails(self, content):
        raise OSError("no space left")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fails)
    with pytest.raises(OSError, match="no space left"):
        artefact.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- machine code ---------------------------------------------------------------------------------


def _small(x):
    return jnp.tanh(x) * jnp.sin(x[0])


@pytest.fixture
def natively(monkeypatch):
    monkeypatch.delenv(compiling.VARIABLE, raising=False)
    if obstacle := compiling.machine().obstacle:
        pytest.skip(obstacle)


def test_machine_code_in_another_process(natively, tmp_path):
    # Twice: the second time the kernel is in memory already.
    for name in ("one", "two"):
        artefact = jax_cce.compile(_small, native=True)(X)
        assert len(artefact.native) == 1
        assert "machine code of the CPU: 1 kernels" in str(artefact)
        artefact.save(tmp_path / f"{name}.cce")
    expected = jax.jit(jax_cce.jacobian(_small, backend="native"))(X)
    script = """
        import sys, jax, numpy as np, jax_cce
        jax.config.update("jax_enable_x64", True)
        for path in sys.argv[1:]:
            artefact = jax_cce.load(path)
            assert artefact.native
            found = artefact(np.array([0.5, -1.0, 2.0, 0.25]))
            print(np.asarray(found).tobytes().hex())
    """
    paths = tmp_path / "one.cce", tmp_path / "two.cce"
    found = _run(script, *paths, JAX_CCE_NATIVE="on", JAX_CCE_REGISTRY="off").split()
    assert found == [np.asarray(expected).tobytes().hex()] * 2


def test_machine_code_on_another_machine(natively, monkeypatch):
    conditions = machine_code.conditions
    content = jax_cce.compile(_small, native=True)(X).to_bytes()
    for what in ("processor", "jax_cce", "foreign function interface"):
        here = machine_code.conditions("0.1.0")
        monkeypatch.setattr(
            machine_code, "conditions", lambda _, here=here, what=what: {**here, what: "another"}
        )
        with pytest.raises(jax_cce.ArtefactError, match=f"for {what}.*here it is 'another'"):
            jax_cce.load(content)
        monkeypatch.setattr(machine_code, "conditions", conditions)
    monkeypatch.setenv("JAX_CCE_NATIVE", "off")
    with pytest.raises(jax_cce.ArtefactError, match="there is none here"):
        jax_cce.load(content)


def test_what_has_no_machine_code_runs_without_it(natively):
    artefact = jax_cce.compile(jnp.linalg.eigh, native=True)(jnp.eye(3) + jnp.ones((3, 3)))
    assert artefact.native == ()
    assert "no part of it has machine code" in str(artefact)


# --- what XLA compiled ----------------------------------------------------------------------------


def test_an_executable_in_another_process(tmp_path):
    artefact = jax_cce.compile(_of_tree, executable=True)(TREE)
    assert artefact.is_executable
    artefact.save(tmp_path / "f.cce")
    expected = jax.jit(jax_cce.jacobian(_of_tree, backend="xla"))(TREE)
    script = """
        import sys, jax, numpy as np, jax_cce
        jax.config.update("jax_enable_x64", True)
        artefact = jax_cce.load(sys.argv[1])
        assert artefact.is_executable
        def fails(*args, **kwargs):
            raise AssertionError("XLA compiles")
        object.__setattr__(artefact, "_call", fails)
        found = artefact({"x": np.array([0.5, -1.0, 2.0, 0.25]), "y": 2.0})
        print(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(found)).hex())
    """
    found = _run(script, tmp_path / "f.cce", JAX_CCE_REGISTRY="off").strip()
    assert found == b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(expected)).hex()


def test_where_an_executable_does_not_fit_the_program_is_compiled(monkeypatch):
    artefact = jax_cce.compile(_of_tree, executable=True)(TREE)
    expected = jax.jacrev(_of_tree)(TREE)
    assert_agree(artefact(TREE), expected)
    assert_agree(jax.jit(artefact)(TREE), expected)
    elsewhere = jax.device_put(TREE, jax.devices()[1])
    found = artefact(elsewhere)
    assert_agree(found, expected)
    assert found["sum"]["y"].devices() == {jax.devices()[1]}
    content = artefact.to_bytes()
    conditions = executables.conditions(artefact.manifest["versions"])
    for what in conditions:
        monkeypatch.setattr(
            executables, "conditions", lambda _, what=what: {**conditions, what: "another"}
        )
        other = jax_cce.load(content)
        assert not other.is_executable
    assert_agree(other(TREE), expected)
    monkeypatch.undo()
    manifest, members = container.content_of(content, "it")
    unreadable = container.packed(manifest, {**members, "executable.bin": b"nothing"})
    assert_agree(jax_cce.load(unreadable)(TREE), expected)


def test_an_executable_has_sizes():
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), X.dtype)
    with pytest.raises(ValueError, match="executable=True needs sizes that are numbers"):
        jax_cce.compile(jnp.sin, executable=True)(shape)


def test_other_exports_have_no_machine_code(natively):
    with compiling.collecting() as code:
        exported = jax.export.export(jax.jit(jax_cce.jacobian(_small)))(X)
    assert not code
    assert "jax_cce_" not in exported.mlir_module()
