"""The command line: what it prints, what it exits with, and that its errors help."""

import argparse
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax_cce_search.cli import main
from jax_cce_search.cli.arguments import arguments, order_option

import jax_cce
from jax_cce import registry

pytestmark = pytest.mark.one_version

MODULE = """
import jax.numpy as jnp

print("the module speaks")

def branched(x, y):
    a = x * y
    b = jnp.sin(a)
    c = jnp.exp(a) + b
    return b * c * x, c / y

def fails(x):
    raise RuntimeError("no such luck\\nand more")

def wrong_shapes(x):
    return x @ jnp.ones((7, 7))

def by_value(x):
    return x if x > 0 else -x

class Arm:
    def forward(angles, options):
        return jnp.cumsum(jnp.sin(angles)) * options["length"]

number = 3
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A registry of this test's own, without the entries that come with the package."""
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    directory = tmp_path / "registry"
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(directory))
    return directory


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current directory."""
    name = "functions_of_test_cli"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    path, old = list(sys.path), os.environ["JAX_CCE_REGISTRY"]
    yield name
    sys.modules.pop(name, None)
    # A command leaves nothing behind.
    assert sys.path == path
    assert os.environ["JAX_CCE_REGISTRY"] == old


@pytest.fixture
def run(capsys):
    """Runs a command; returns its exit code, what it printed, and what it complained of."""

    def run(*argv):
        try:
            code = main.main(argv)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


QUICK = "--args", "f32[] f32[]", "--argnums", "0,1", "--cost", "multiplications", "--budget", "1"


def test_optimize_stores_what_explain_finds(run, store, module):
    code, out, err = run("optimize", f"{module}:branched", *QUICK)
    assert (code, err) == (0, "")
    assert "multiplications, optimal" in out
    assert "stored in the registry (user)" in out
    (entry,) = registry.entries()
    assert entry.key[:12] in out
    code, out, _ = run(
        "explain", f"{module}:branched", "--args", "f32[] f32[]", "--argnums", "0,1", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert (document["source"], document["key"]) == ("user", entry.key)
    assert document["entry"]["strategy"] == entry.strategy


def test_optimize_in_json(run, store, module, tmp_path):
    plot = tmp_path / "search.svg"
    code, out, err = run(
        "optimize", f"{module}:branched", *QUICK, "--json", "--plot", str(plot), "--seed", "3"
    )
    document = json.loads(out)
    assert (code, err) == (0, "the module speaks\n")
    assert document["status"] == "optimal over vertex orders"
    assert document["value"] == document["bound"] < document["reference"]["reverse"]
    assert document["entry"]["seed"] == 3
    assert document["layer"] == "user"
    assert {"cost", "seconds", "evaluations", "strategy"} == set(document["improvements"][0])
    assert plot.exists()


def test_a_registry_that_is_switched_off(run, module):
    code, out, _ = run("optimize", f"{module}:branched", *QUICK, "--registry", "off")
    assert code == 0
    assert "in this process only" in out


def test_the_registry_can_be_named(run, module, tmp_path):
    other = tmp_path / "other"
    code, _, _ = run("optimize", f"{module}:branched", *QUICK, "--registry", str(other))
    assert code == 0
    assert list(other.rglob("*.json"))
    code, out, _ = run("registry", "list", "--registry", str(other), "--json")
    assert "branched" in [entry["name"] for entry in json.loads(out)["entries"]]


def test_optimize_by_measured_time(run, store, module):
    code, out, _ = run(
        "optimize", f"{module}:branched", "--args", "f32[4] f32[4]", "--budget", "1", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["entry"]["method"] in ("elimination", "jacfwd", "jacrev")
    assert min(document["times"].values()) == document["value"]
    code, out, _ = run("registry", "list", "--cost", "runtime")
    assert code == 0
    assert f"{document['value']:.3g} s" in out


def test_explain_prints_text_and_markdown_and_draws(run, module, tmp_path):
    picture = tmp_path / "graph.png"
    target = f"{module}.py:Arm.forward"
    arguments = "--args", "f64[5]", "--args", "{'length': 2.0}"
    code, out, err = run("explain", target, *arguments, "--draw", str(picture))
    assert (code, err) == (0, "")
    assert "Jacobian of forward" in out
    assert "cumsum" in out
    assert f"{module}.py" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run("explain", target, *arguments, "--markdown", "--order", "reverse")
    assert code == 0
    assert "| in use |" in out
    forward = json.loads(run("explain", target, *arguments, "--json", "--order", "forward")[1])
    order = forward["order"][::-1]
    given = "--order", ",".join(map(str, order))
    document = json.loads(run("explain", target, *arguments, "--json", *given)[1])
    assert (document["order"], document["source"]) == (order, "given")
    assert document["costs"]["in use"] == document["costs"]["reverse"]


@pytest.mark.parametrize("spec, expected", [("f64[]", True), ("f32[]", False), ("1.5", False)])
def test_arguments_of_64_bits_switch_them_on(run, module, monkeypatch, spec, expected):
    seen = []

    def plain(fun, **_):
        seen.append(jax.config.jax_enable_x64)
        return jax_cce.explain(fun)

    monkeypatch.setattr("jax_cce_search.cli.commands.explain", plain)
    with jax.enable_x64(False):
        code, _, _ = run("explain", f"{module}:branched", "--args", spec, "--args", "2.0")
        assert not jax.config.jax_enable_x64
        run("explain", f"{module}:branched", "--args", f"{spec} 2.0", "--x64")
    assert code == 0
    assert seen == [expected, True]


def test_the_registry_from_end_to_end(run, store, module, tmp_path):
    assert run("registry", "list") == (0, "The registry holds no orders.\n", "")
    for argnums in ("0,1", "0"):
        run("optimize", f"{module}:branched", *QUICK, "--argnums", argnums)
    keys = [entry.key for entry in registry.entries()]
    code, out, _ = run("registry", "list")
    header, *rows = out.splitlines()
    assert header.split() == [
        "key",
        "name",
        "cost",
        "value",
        "bound",
        "strategy",
        "device",
        "origin",
        "created",
    ]
    # The newest first.
    newest = sorted(registry.entries(), key=lambda entry: entry.created, reverse=True)
    assert [row.split()[:3] for row in rows] == [
        [entry.key[:12], "branched", "multiplications"] for entry in newest
    ]
    assert all(row.split()[-3] == "user" for row in rows)
    assert "no orders for cost 'speed'" in run("registry", "list", "--cost", "speed")[1]

    code, out, _ = run("registry", "show", keys[0][:8])
    assert code == 0
    assert f"key: {keys[0]}" in out
    assert "order: " in out
    code, out, _ = run("registry", "show", keys[1], "--json")
    assert [entry["key"] for entry in json.loads(out)["entries"]] == [keys[1]]
    code, out, err = run("registry", "show", "")
    assert (code, out) == (1, "")
    assert "2 keys begin with" in err
    code, _, err = run("registry", "show", "zz")
    assert code == 1
    assert "jax-cce registry list" in err

    exported = tmp_path / "export.json"
    assert run("registry", "export", str(exported)) == (
        0,
        f"2 entries written to {exported}.\n",
        "",
    )
    other = "--registry", str(tmp_path / "other")
    assert (
        run("registry", "import", str(exported), *other)[1] == "2 entries stored, new or better.\n"
    )
    assert run("registry", "import", str(exported), *other)[1].startswith("0 entries")
    code, out, _ = run("registry", "list", "--json", *other)
    assert [entry["key"] for entry in json.loads(out)["entries"]] == keys

    assert run("registry", "verify") == (0, "All files are sound.\n", "")
    (damaged,) = store.rglob(f"{keys[0]}*.json")
    damaged.write_text("{")
    code, out, _ = run("registry", "verify")
    assert code == 1
    assert str(damaged) in out
    assert "1 problem found" in out
    code, out, _ = run("registry", "verify", "--json")
    assert code == 1
    assert len(json.loads(out)["problems"]) == 1
    code, out, err = run("registry", "list", "--json")
    assert (code, len(json.loads(out)["entries"])) == (0, 1)
    assert err.startswith("jax-cce: warning: ")
    assert "jax-cce registry prune" in err

    code, out, _ = run("registry", "prune", "--dry-run")
    assert out == f"{damaged}\n1 file would be removed.\n"
    assert damaged.exists()
    assert run("registry", "prune", "--keep-damaged")[1] == "0 files removed.\n"
    code, out, _ = run("registry", "prune", "--json")
    assert json.loads(out) == {"removed": [str(damaged)], "dry_run": False}
    assert not damaged.exists()


def test_on_a_terminal_keys_stay_whole(run, store, module, monkeypatch):
    run("optimize", f"{module}:branched", *QUICK)
    (entry,) = registry.entries()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    out = run("registry", "list")[1]
    assert entry.key[:12] in out
    assert "device" not in out
    code, out, _ = run("explain", f"{module}:branched", *QUICK[:4])
    assert code == 0
    assert "Dearest eliminations" in out


def test_files_that_cannot_be_used_are_named(run, store, tmp_path):
    code, out, err = run("registry", "import", str(tmp_path / "missing.json"))
    assert (code, out) == (1, "")
    assert "missing.json cannot be read (No such file or directory)" in err
    assert "FileNotFoundError" not in err
    (tmp_path / "other.json").write_text("[]")
    code, _, err = run("registry", "import", str(tmp_path / "other.json"))
    assert code == 1
    assert "jax-cce registry export" in err


ONE = "--args", "2.0"
TWO = "--args", "f32[] f32[]"
WRONG = {
    "no function": (2, ["{m}"], "write module:function"),
    "no module": (2, ["no_such_module:f"], "no module 'no_such_module' was found, neither in"),
    "no submodule": (2, ["json.no_such:f"], "no module 'json.no_such'"),
    "no file": (2, ["{m}x.py:f"], "Did you mean {m}.py?"),
    "no attribute": (2, ["{m}:brunched"], "Did you mean branched?"),
    "nothing like it": (2, ["{m}:zzz"], "There are: Arm, branched, by_value"),
    "no attribute of a class": (2, ["{m}:Arm.backward"], "{m}:Arm has no attribute 'backward'"),
    "no callable": (2, ["{m}:number"], "no function but of type int"),
    "too few arguments": (2, ["{m}:branched", *ONE], "takes (x, y), but 1 argument was given"),
    "too many arguments": (2, ["{m}:fails", *TWO], "takes (x), but 2 arguments were given"),
    "argnums": (2, ["{m}:branched", *TWO, "--argnums", "5"], "argnums"),
    "dtype": (2, ["{m}:branched", "--args", "i32[] f32[]"], "int32"),
    "order": (2, ["{m}:branched", *TWO, "--order", "9"], "permutation"),
    "the function fails": (3, ["{m}:fails", *ONE], "failed: RuntimeError: no such luck\n"),
    "shapes": (3, ["{m}:wrong_shapes", "--args", "f32[3]"], "failed: TypeError: dot_general"),
    "control flow": (3, ["{m}:by_value", "--args", "f32[]"], "failed: TracerBoolConversionError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_help(run, module, case):
    code, argv, message = WRONG[case]
    argv = ["explain", *(each.format(m=module) for each in argv)]
    got, out, err = run(*argv)
    assert message.format(m=module) in err
    assert got == code
    assert out.replace("the module speaks\n", "") == ""
    assert "Traceback" not in err
    assert 1 <= len(err.splitlines()) <= 2
    if code == 3:
        assert f"{module}.py:" in err
    assert "Traceback" in run(*argv, "--traceback")[2]


def test_a_module_that_fails(run, module, tmp_path):
    (tmp_path / "broken.py").write_text("import not_there\n")
    for target in ("broken:f", "broken.py:f"):
        code, _, err = run("explain", target)
        assert code == 3
        assert "importing broken" in err
        assert "No module named 'not_there'" in err
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    code, _, err = run("explain", "leaves.py:f")
    assert code == 3
    assert f"{tmp_path / 'leaves.py'}:1" in err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explain"],
        ["registry"],
        ["explain", "json:dumps", "--args", "g32[3]"],
        ["explain", "json:dumps", "--argnums", "a"],
        ["explain", "json:dumps", "--order", "best"],
        ["optimize", "json:dumps", "--cost", "money"],
        ["optimize", "json:dumps", "--strategy", "hope"],
        ["optimize", "json:dumps", "--budget", "long"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert "usage: jax-cce" in err


def test_demo(run):
    code, out, err = run("demo", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["second"]["source"] == "user"
    assert document["second"]["order"] == document["first"]["entry"]["order"]


def test_the_module_runs_as_a_program(tmp_path):
    for argv, expected in [("--version", "jax-cce "), ("--help", "exit codes: 0")]:
        done = subprocess.run(
            [sys.executable, "-m", "jax_cce_search.cli", argv], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert done.stderr == ""


# Arguments.

F32 = jax.ShapeDtypeStruct((3, 4), jnp.float32)
PARSED = {
    "": [],
    "2": [2],
    "-1.5 +2": [-1.5, 2],
    "1e-3, 2": [1e-3, 2],
    "f32[3,4]": [F32],
    " float32[3, 4] ": [F32],
    "[f32[3,4], 1]": [[F32, 1]],
    "f64[] i32[ 5 ]": [
        jax.ShapeDtypeStruct((), jnp.float64),
        jax.ShapeDtypeStruct((5,), jnp.int32),
    ],
    "bool[2] c64[] bf16[0]": [
        jax.ShapeDtypeStruct((2,), jnp.bool_),
        jax.ShapeDtypeStruct((), jnp.complex64),
        jax.ShapeDtypeStruct((0,), jnp.bfloat16),
    ],
    "(1, 2) [3, [4]]": [(1, 2), [3, [4]]],
    "{'a': f32[3,4], \"b\": [true, null]}": [{"a": F32, "b": [True, None]}],
    "'f64[] x' True None": ["f64[] x", True, None],
    "1+2j 3-1j 2j": [1 + 2j, 3 - 1j, 2j],
    "-inf": [-math.inf],
}


@pytest.mark.parametrize("text", PARSED)
def test_arguments_are_parsed(text):
    assert arguments(text) == PARSED[text]


@pytest.mark.parametrize(
    "text, message",
    [
        ("f32", "neither a literal"),
        ("g32[3]", "'g32' in 'g32\\[3\\]' is no type of array; there are f16"),
        ("f32[a]", "whole numbers"),
        ("f32[-1]", "whole numbers"),
        ("f32[True]", "whole numbers"),
        ("f32[2:3]", "whole numbers"),
        ("__import__('os')", "neither a literal"),
        ("[x for x in y]", "neither a literal"),
        ("f32[3", "neither a literal"),
        ("{**a}", "neither a literal"),
        ("-'a'", "neither a literal"),
        ("2**9", "neither a literal"),
        ("x.y[3]", "neither a literal"),
    ],
)
def test_what_is_no_argument_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        arguments(text)


# --- compile --------------------------------------------------------------------------------------


def test_compile_writes_a_file_that_is_loaded(run, module, tmp_path):
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with flatbuffers")
    path = tmp_path / "branched.cce"
    code, out, _ = run(
        "compile", f"{module}:branched", "--args", "f64[n] f64[]", "-o", str(path), "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["bytes"] == path.stat().st_size
    assert document["arguments"][0] == {"dtype": "float64", "shape": ["n"]}
    artefact = jax_cce.load(path)
    expected = jax.jacrev(sys.modules[module].branched)
    for size in (1, 3):
        x, y = jnp.arange(1.0, 1.0 + size), jnp.array(0.5)
        for ours, theirs in zip(artefact(x, y), expected(x, y), strict=True):
            assert jnp.allclose(ours, theirs, rtol=1e-12)
    code, out, _ = run(
        *("compile", f"{module}:branched", "--args", "f64[3] f64[]", "-o", str(path)),
        *("--transform", "value_and_jacobian", "--order", "reverse", "--platforms", "cpu,tpu"),
    )
    assert code == 0
    assert out.startswith(f"{path}: ")
    assert "value_and_jacobian of branched" in out
    assert jax_cce.load(path).platforms == ("cpu", "tpu")


def test_compile_says_what_is_wrong(run, module, tmp_path):
    path = tmp_path / "nothing.cce"
    asked = "compile", f"{module}:branched", "-o", str(path), "--args"
    assert run(*asked, "f64[3] f64[]", "--platforms", "abacus")[0] == 2
    assert run(*asked, "f64[3, n*] f64[]")[0] == 2
    code, _, err = run("compile", f"{module}:fails", "-o", str(path), "--args", "f64[3]")
    assert (code, "no such luck" in err) == (3, True)
    assert not path.exists()
    assert run("explain", f"{module}:branched", "--args", "f64[n] f64[]")[0] == 2


@pytest.mark.parametrize(
    "text, order",
    [
        ("markowitz", "markowitz"),
        ("2,0,1", (2, 0, 1)),
        ("front(0,1), 2, back(-1, 0),0,", (("front", 0, 1), 2, ("back", -1, 0), 0)),
    ],
)
def test_orders_on_the_command_line(text, order):
    assert order_option(text) == order


@pytest.mark.parametrize("text", ["", "2,x", "front(0),1", "front(0,1", "left(0,1)", "-1"])
def test_what_is_no_order_on_the_command_line(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected auto, .* but got"):
        order_option(text)
