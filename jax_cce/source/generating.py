"""Jacobians as modules of readable code, which import nothing of this package."""

import ast
import collections
import difflib
import importlib.metadata
import inspect
import os
import pathlib
import re
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jax_cce import jax_internals, reports
from jax_cce.api import jacobian_by
from jax_cce.execution import labels
from jax_cce.planning.options import Options, Order, options_of
from jax_cce.planning.plans import Plan, make
from jax_cce.program import calls
from jax_cce.source import code
from jax_cce.source.code import Block, Operation, Variable
from jax_cce.source.control import InJax
from jax_cce.source.expressions import WIDTH, folded, number
from jax_cce.source.in_jax import dtype_name
from jax_cce.source.in_numpy import InNumPy
from jax_cce.source.naming import (
    Names,
    identifier,
    line_of,
    name_values,
    slot_names,
    variable_names,
)
from jax_cce.source.writing import Language, Unwritten, Writer
from jax_cce.sparse.formats import FormatName

__all__ = ["Source", "SourceBackend", "source"]

SourceBackend = Literal["jax", "numpy"]

# Arrays of more entries are not written out, but saved beside the module.
_WRITTEN_OUT = 16
_FUNCTION = "jacobian"


@dataclass(frozen=True, repr=False)
class Source:
    """A module that computes a Jacobian; `str` is its text.

    Attributes:
        text: the text.
        arrays: the large constants that it reads from a file beside it, by their names there.
        name: the name of the differentiated function.
        plan: the plan that it was written from; None where JAX differentiates the function while
            it runs, without one.
        counts: how many scalar operations the module executes, by kind, one step of each loop.
    """

    text: str
    arrays: Mapping[str, np.ndarray]
    name: str
    plan: Plan | None
    counts: Mapping[str, int]

    def __str__(self) -> str:
        """The text of the module."""
        return self.text

    def __repr__(self) -> str:
        """One line."""
        return f"<Source: Jacobian of {self.name}, {self.text.count(chr(10)):,} lines>"

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the module, and beside it the file of its large constants, if it has such.

        Args:
            path: of the module, with the ending ".py".

        Returns:
            The path.

        Raises:
            ValueError: for another ending.
        """
        path = pathlib.Path(path)
        if path.suffix != ".py":
            raise ValueError(f"A module's path ends in '.py', but got {str(path)!r}.")
        if self.arrays:
            np.savez(path.with_suffix(".npz"), **self.arrays)  # type: ignore[arg-type]
        path.write_text(self.text, encoding="utf-8")
        return path

    def function(self) -> Callable[..., Any]:
        """The function of the module, which takes the arguments of the differentiated one."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(pathlib.Path(folder) / f"{_FUNCTION}.py")
            scope: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
            exec(compile(self.text, str(path), "exec"), scope)
        return scope[_FUNCTION]

    def diff(self, other: "Source") -> str:
        """What another source has otherwise, as a unified diff of the two texts.

        Args:
            other: as of the same function in another order.
        """
        pair = self.text.splitlines(), other.text.splitlines()
        return "\n".join(difflib.unified_diff(*pair, self._title, other._title, lineterm="", n=2))

    @property
    def _title(self) -> str:
        return self.text[3:].partition("\n")[0]


def source(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    backend: SourceBackend = "jax",
) -> Callable[..., Source]:
    """The Jacobian of `fun` as a module that one can read, keep and run without this package.

    Its function `jacobian` takes the arguments of `fun`, of the shapes and dtypes that it was
    written for, and refuses others. Under `jax.jit` it computes the same operations in the same
    order as `jax.jit(jax_cce.jacobian(fun, ...))` does where XLA compiles that, and so the same
    numbers. What it returns is of the same dtypes, but never weakly typed.

    Values have the names that the variables of `fun` have, or v7 for vertex 7 of the plan; a
    derivative of y by x is dy_dx. Comments say from which line of `fun` an operation is, and which
    vertex is eliminated.

    Args:
        fun: as for `jacobian`. The custom rules of functions that it calls have been applied in
            the module; its own derivative knows nothing of them.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`; the auxiliary data are arrays then.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        order: as for `jacobian`.
        format: as for `jacobian`. "bcoo", "csr" and "csc" import `jax.experimental.sparse`.
        backend: "jax": the module imports JAX only. "numpy": it imports NumPy only, and gives the
            same numbers within rounding; dense Jacobians and "values" only.

    Returns:
        A function with the arguments of `fun`, any array of which may be a
        `jax.ShapeDtypeStruct`, that returns a `Source`.

    Raises:
        NotImplementedError: where an operation cannot be written: random keys, callbacks, effects,
            kernels; with "numpy" what has no counterpart there; and for containers in the result
            other than dictionaries, lists and tuples.
        TypeError, ValueError: what `jacobian` raises.

    Source: the idea of a derivative as readable code is that of van Merriënboer, Moldovan &
    Wiltschko, "Tangent: Automatic differentiation using source-code transformation for
    dynamically typed array programming", NeurIPS 2018.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> x = jax.ShapeDtypeStruct((), jnp.float32)
        >>> module = jax_cce.source(lambda x: x**3)(x)
        >>> print(str(module)[str(module).index("    # Part"):])
            # Partial derivatives
            return 3.0 * x**2
        <BLANKLINE>
        >>> print(module.function()(jnp.float32(2.0)))
        12.0
    """
    calls.check_callable(fun)
    if backend not in ("jax", "numpy"):
        raise ValueError(f'backend must be "jax" or "numpy", but got {backend!r}.')
    if format == "structured":
        raise NotImplementedError(
            'A module without jax_cce has no StructuredJacobian. Take format="bcoo", or "values".'
        )
    options = options_of(
        argnums, has_aux, holomorphic, allow_int, order=order, format=format, backend="xla"
    )

    def written(*args: Any, **kwargs: Any) -> Source:
        return _Module(fun, options, args, kwargs, backend).source()

    return written


class _Leaf:
    """An array among the arguments.

    Args:
        parameter: the parameter that holds it.
        position: which positional argument that is; None for a keyword.
        path: where in the argument it is.
        value: the array, or what stands for one.
    """

    def __init__(self, parameter: str, position: int | None, path: Any, value: Any) -> None:
        self.parameter, self.position, self.path = parameter, position, path
        self.aval = jax.typeof(value) if not _is_shape(value) else _aval_of(value)

    @property
    def access(self) -> str:
        """How it is read from the parameter."""
        return self.parameter + jax.tree_util.keystr(self.path).replace("'", '"')

    @property
    def is_accessible(self) -> bool:
        """Whether that can be written."""
        known = (jax.tree_util.DictKey, jax.tree_util.SequenceKey, jax.tree_util.GetAttrKey)
        return all(isinstance(key, known) for key in self.path)


def _is_shape(value: Any) -> bool:
    return isinstance(value, jax.ShapeDtypeStruct)


def _aval_of(value: jax.ShapeDtypeStruct) -> Any:
    return jax.make_jaxpr(lambda x: x)(value).in_avals[0]


def _is_array(value: Any) -> bool:
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex, jax.ShapeDtypeStruct)
    return isinstance(value, kinds)


class _Module:
    """One module, from a function and its arguments."""

    def __init__(
        self,
        fun: Callable[..., Any],
        options: Options,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: str,
    ) -> None:
        self._fun, self._options, self._backend = fun, options, backend
        self._title = getattr(fun, "__name__", type(fun).__name__)
        if self._title == "<lambda>":
            self._title = "a function"
        self._names = Names()
        for name in ("jax", "jnp", "np", "lax", "pathlib", _FUNCTION):
            self._names.new(name)
        self._parameters = [self._names.new(name) for name in _positional(fun, len(args))]
        self._keywords = {name: self._names.new(name) for name in kwargs}
        paths, self._tree = jax.tree_util.tree_flatten_with_path((args, kwargs))
        self._leaves: list[_Leaf] = []
        self._values = [value for _, value in paths]
        self._dynamic = [k for k, value in enumerate(self._values) if _is_array(value)]
        for k in self._dynamic:
            (where, which, *path), value = paths[k]
            if where.idx == 0:
                leaf = _Leaf(self._parameters[which.idx], which.idx, tuple(path), value)
            else:
                leaf = _Leaf(self._keywords[which.key], None, tuple(path), value)
            self._leaves.append(leaf)
        self._avals = [jax_internals.abstract(leaf.aval) for leaf in self._leaves]
        self._constants: dict[int, str] = {}
        self._tables: list[str] = []
        self._arrays: dict[str, np.ndarray] = {}

    def source(self) -> Source:
        """Writes it."""
        function = jacobian_by(self._fun, self._options)
        with labels.labelled() as found:
            self._block, self._shapes = code.traced(self._of_leaves(function), self._avals)
        self._check()
        marks = [op.label.plan for op in self._block.operations if op.label is not None]
        self._number = collections.Counter(marks).most_common(1)[0][0] if marks else -1
        self._plan = found.plans[self._number] if found.plans else None
        name_values(self._block.operations)
        self._name_parts()
        try:
            text = self._text()
        except Unwritten as error:
            (operation,) = error.args
            raise NotImplementedError(
                f"The operation {operation.name} ({_where(operation)}) cannot be written in a "
                f"module for {'NumPy' if self._backend == 'numpy' else 'JAX'}."
            ) from None
        counts = _counts(self._block)
        result = Source(text, self._arrays, self._title, self._plan, counts)
        if self._backend == "jax":
            self._verify(result)
        return result

    def _of_leaves(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def of_leaves(*leaves: Any) -> Any:
            values = list(self._values)
            for k, leaf in zip(self._dynamic, leaves, strict=True):
                values[k] = leaf
            args, kwargs = jax.tree.unflatten(self._tree, values)
            return function(*args, **kwargs)

        return of_leaves

    def _check(self) -> None:
        for operation in self._block.every():
            if operation.equation.effects:
                raise NotImplementedError(
                    f"The operation {operation.name} ({_where(operation)}) has effects, which a "
                    "module does not have. Leave it out of the function."
                )

    def _verify(self, written: Source) -> None:
        """Makes sure that the module is the program that was traced."""
        block, _ = code.traced(self._of_leaves(written.function()), self._avals)
        if found := code.difference(self._block, block):
            raise NotImplementedError(
                f"The Jacobian of {self._title} cannot be written exactly; what was written "
                f"differs in {found}. jax_cce.jacobian computes it."
            )

    def _name_parts(self) -> None:
        """Names what the plan computes."""
        self._variables: dict[int, str] = {}
        plan = self._plan
        if plan is None or self._number < 0:
            return
        program = plan.graph.program
        positions = calls.positions(self._options.contract.argnums, len(self._parameters))
        inputs = [
            identifier(leaf.access)
            for position in positions
            for leaf in self._leaves
            if leaf.position == position
        ]
        if len(inputs) != program.num_inputs:
            inputs = [f"x{k}" for k in range(program.num_inputs)]
        self._variables = variable_names(plan, self._number, self._block, inputs)
        slots = slot_names(plan, self._variables)
        for operation, after in zip(
            self._block.operations, [*self._block.operations[1:], None], strict=True
        ):
            label = operation.label
            if label is None or label.kind != "step" or label.plan != self._number:
                continue
            if (after is not None and after.label == label) or len(operation.outputs) != 1:
                continue
            (slot, *rest) = plan.steps[label.place].slots
            if not rest and operation.outputs[0] is not None:
                operation.outputs[0].hint = slots.get(slot, f"c{slot}")

    def _section_of(self, operation: Operation) -> str:
        """The heading of what an operation belongs to."""
        label, plan = operation.label, self._plan
        if plan is None or self._number < 0:
            return ""
        if label is None or label.plan != self._number:
            return "The Jacobian"
        if label.kind == "value":
            return f"Values of {self._title}"
        step = plan.steps[label.place]
        if step.vertex is not None:
            return self._elimination(step.vertex)
        return "Partial derivatives" if step.place in ("local", "lookup") else "The Jacobian"

    def _elimination(self, vertex: int) -> str:
        assert self._plan is not None
        program = self._plan.graph.program
        variable = vertex + program.first_computed
        equation = next((each for each in program.equations if variable in each.outputs), None)
        if equation is None:
            return f"Eliminate vertex {vertex}"
        line = line_of(equation.origin)
        text = f"{self._variables.get(variable, f'v{vertex}')} = {equation.name}"
        if line is not None and line.text:
            named = f"{line.target} =" if line.target else f"v{vertex}, in"
            text = f"{named} {line.text}"
            if len(text) > 60:
                text = f"{text[:57]}..."
        place = f" ({line.place})" if line is not None else ""
        return f"Eliminate vertex {vertex}: {text}{place}"

    def _text(self) -> str:
        language: Language = InNumPy() if self._backend == "numpy" else InJax()
        writer = Writer(language, self._names, self._section_of, self._constant)
        writer.lines += self._opening(writer)
        writer.body(self._block, 4)
        outputs = iter([writer.text(atom) for atom in self._block.outputs])
        returned = self._tree_text(self._shapes, outputs)
        writer.add(f"return {returned}", 4)
        body = "\n".join(writer.lines)
        module = "np" if self._backend == "numpy" else "jnp"
        checks = _ARRAYS.replace("jnp", module) if "_arrays(" in body else ""
        parameters = [*self._parameters]
        if self._keywords:
            parameters += ["*", *(f"{name}" for name in self._keywords.values())]
        head = folded(f"def {_FUNCTION}({', '.join(parameters)}):", 0)
        doc = f'    """The Jacobian of {self._title}."""'
        function = "\n".join([*head, doc, body])
        tables = "\n".join(self._tables)
        if self._arrays:
            load = f'_saved = {module}.load(pathlib.Path(__file__).with_suffix(".npz"))'
            tables = f"{load}\n{tables}"
        guard = self._guard()
        code_text = "\n".join([guard, tables, checks, function])
        parts = [self._header(), _imports(code_text), guard, tables]
        text = "\n\n".join(part for part in parts if part)
        for part in (checks, function):
            text += f"\n\n\n{part}" if part else ""
        return re.sub(r"\n{4,}", "\n\n\n", text).rstrip() + "\n"

    def _opening(self, writer: Writer) -> list[str]:
        """The statements that take the arguments apart and check them."""
        read = {x for op in self._block.operations for x in op.read}
        read |= {x for x in self._block.outputs if isinstance(x, Variable)}
        names, parts = [], []
        for leaf, variable in zip(self._leaves, self._block.inputs, strict=True):
            if variable not in read:
                continue
            if not leaf.is_accessible:
                raise NotImplementedError(
                    f"The argument {leaf.parameter} is a container that this module could not "
                    "take apart. Pass dictionaries, lists, tuples and arrays."
                )
            if leaf.path:
                names.append(writer.name(variable, identifier(leaf.access)))
            else:
                names.append(leaf.parameter)
                writer.call(variable, leaf.parameter)
            expected = f'"{np.dtype(leaf.aval.dtype).name}{list(leaf.aval.shape)}"'
            parts.append(f"({leaf.access}, {expected})")
        if not names:
            return []
        left = names[0] if len(names) == 1 else ", ".join(names)
        right = f"_arrays({', '.join(parts)})"
        return folded(f"({left},) = {right}" if len(names) == 1 else f"{left} = {right}", 4)

    def _constant(self, variable: Variable) -> str:
        """The name of an array that is known."""
        key = id(variable.value)
        if key in self._constants:
            return self._constants[key]
        array = np.asarray(variable.value)
        if array.dtype.kind not in "biufcV" or array.dtype.names:
            raise NotImplementedError(
                f"A constant of dtype {variable.dtype} cannot be written; random keys are an "
                "argument of the function, or outside of it."
            )
        name = self._constants[key] = self._names.new("C1")
        module = "np" if self._backend == "numpy" else "jnp"
        dtype = dtype_name(array.dtype).replace("jnp", module)
        is_plain = array.dtype.kind in "biu" or (
            array.dtype.kind in "f" and bool(np.all(np.isfinite(array)))
        )
        if array.size and (array.size > _WRITTEN_OUT or not is_plain):
            native = array.dtype.kind != "V"
            self._arrays[name] = array if native else array.astype(np.float32)
            text = f'{module}.asarray(_saved["{name}"])'
            if not native:
                text += f".astype({dtype})"
        elif not array.size:
            text = f"{module}.zeros({array.shape!r}, {dtype})"
        else:
            text = f"{module}.array({_listed(array)}, {dtype})"
        self._tables += folded(f"{name} = {text}", 0)
        return name

    def _tree_text(self, tree: Any, leaves: Any) -> str:
        """The result, from the texts of its leaves."""
        if tree is None:
            return "None"
        if isinstance(tree, jax.ShapeDtypeStruct):
            return next(leaves)
        if type(tree) is dict:
            parts = [
                f"{_key_text(key)}: {self._tree_text(tree[key], leaves)}" for key in sorted(tree)
            ]
            return f"{{{', '.join(parts)}}}"
        if type(tree) in (list, tuple):
            parts = [self._tree_text(each, leaves) for each in tree]
            if type(tree) is list:
                return f"[{', '.join(parts)}]"
            return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
        name = type(tree).__name__
        if name in ("BCOO", "BCSR", "CSC"):
            if self._backend == "numpy":
                raise NotImplementedError(
                    f'NumPy has no {name} matrices. Take format="values", whose places '
                    "jax_cce.pattern gives."
                )
            arrays = [next(leaves) for _ in jax.tree.leaves(tree)]
            facts = f"shape={tuple(tree.shape)!r}"
            if name != "CSC":
                facts += f", indices_sorted={tree.indices_sorted}"
                facts += f", unique_indices={tree.unique_indices}"
            return f"{name}(({', '.join(arrays)}), {facts})"
        raise NotImplementedError(
            f"The result has a container of type {type(tree).__name__}, which the module does not "
            "know. Return dictionaries, lists and tuples."
        )

    def _guard(self) -> str:
        """Refuses to run where JAX would compute in single precision."""
        if self._backend == "numpy":
            return ""
        variables = [x for op in self._block.operations for x in (*op.inputs, *op.outputs)]
        avals = [x.aval for x in (*variables, *self._block.inputs) if x is not None]
        if not any(np.dtype(aval.dtype).name in _WIDE for aval in avals if _has_plain_dtype(aval)):
            return ""
        return _GUARD

    def _header(self) -> str:
        """The docstring of the module."""
        types = ", ".join(
            f"{leaf.access}: {np.dtype(leaf.aval.dtype).name}{list(leaf.aval.shape)}"
            if _has_plain_dtype(leaf.aval)
            else leaf.access
            for leaf in self._leaves
        )
        argnums = self._options.contract.argnums
        wrt = [self._parameters[k] for k in calls.positions(argnums, len(self._parameters))]
        asked = self._options.request.order
        asked_text = f"{asked} order" if isinstance(asked, str) else "a given order"
        if asked == "auto":
            asked_text = "the order that was found"
        title = f"Jacobian of {self._title} by {', '.join(wrt)}, in {asked_text}."
        lines = [*_wrapped(title), ""]
        version = importlib.metadata.version("jax-cross-country")
        facts = f"Written by jax_cce {version} with JAX {jax_internals.jax_version()}, for {types}."
        lines += _wrapped(facts)
        plan = self._plan
        lines.append("")
        if plan is not None and plan.method == "elimination" and not plan.remark:
            shown = " ".join(reports.shortened(plan.order, 24, 4)) or "nothing to eliminate"
            lines += _wrapped(f"Elimination order ({plan.source}): {shown}.")
            own = plan.cost("multiplications")
            ways = {name: make(plan.graph, name) for name in ("forward", "reverse")}
            others = ", ".join(f"{k} {p.cost('multiplications'):,}" for k, p in ways.items())
            lines.append(f"Multiplications of the elimination: {own:,} ({others}).")
            flops = ", ".join(f"{k} {p.cost('flops'):,}" for k, p in ways.items())
            lines.append(f"Its operations: {plan.cost('flops'):,} ({flops}).")
        elif plan is not None and plan.method != "elimination":
            lines += _wrapped(f"By {plan.how_mode}, {plan.why_mode}.")
        counts = ", ".join(
            f"{count:,} {kind.removesuffix('s') if count == 1 else kind}"
            for kind, count in _counts(self._block).items()
        )
        lines += _wrapped(f"All that is computed here: {counts or 'nothing'}.")
        return '"""' + "\n".join(lines).strip() + '\n"""'


_WIDE = {"float64", "int64", "uint64", "complex128"}
_GUARD = """\
if not jax.config.jax_enable_x64:
    raise RuntimeError('This module is for double precision: set "jax_enable_x64" before.')"""
_ARRAYS = '''\
def _arrays(*arguments):
    """The arguments as arrays, of the types that this module is for."""
    for value, expected in arguments:
        found = f"{jnp.result_type(value)}{list(jnp.shape(value))}"
        if found != expected:
            raise TypeError(f"This Jacobian is for {expected}, but got {found}.")
    return [jnp.asarray(value) for value, _ in arguments]'''


def _has_plain_dtype(aval: Any) -> bool:
    return isinstance(aval.dtype, np.dtype)


_IMPORTED = {
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "lax": "from jax import lax",
}


def _imports(text: str) -> str:
    """The imports that a text needs."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    own = [line for name, line in _IMPORTED.items() if name in used]
    if sparse := sorted(used & {"BCOO", "BCSR", "CSC"}):
        own.append(f"from jax.experimental.sparse import {', '.join(sparse)}")
    groups = ["import pathlib"] if "pathlib" in used else []
    return "\n\n".join([*groups, "\n".join(own)])


def _positional(fun: Callable[..., Any], count: int) -> list[str]:
    """Names of the positional arguments of a function."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in parameters if each.kind in kinds][:count]
    rest = [each.name for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
    first = len(names)
    return names + [f"{rest[0] if rest else 'x'}_{k}" for k in range(count - first)]


def _where(operation: Operation) -> str:
    return jax_internals.source_line(operation.equation) or "of unknown origin"


def _key_text(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) and '"' not in key and "\\" not in key else repr(key)


def _listed(array: np.ndarray) -> str:
    """The entries of an array as nested lists."""
    if array.ndim:
        return f"[{', '.join(map(_listed, array))}]"
    return number(array[()], "jnp").text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)


_COUNTED = {
    "multiplications": {"mul", "square", "integer_pow"},
    "additions": {"add", "sub", "reduce_sum", "cumsum"},
    "divisions": {"div"},
    "other functions": {
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "erf"),
        *("erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma", "digamma", "log", "log1p", "pow"),
        *("logistic", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh"),
    },
}


def _counts(block: Block, times: int = 1) -> dict[str, int]:
    """How many scalar operations a block executes.

    Of a choice the last branch counts, of a while loop one step.
    """
    counts: collections.Counter[str] = collections.Counter()
    for operation in block.operations:
        sizes = [int(np.prod(x.shape)) for x in operation.outputs if x is not None]
        size = max(sizes, default=0)
        if operation.name == "dot_general":
            (axes, _), _ = operation.params["dimension_numbers"]
            inner = int(np.prod([operation.inputs[0].shape[k] for k in axes]))
            counts["multiplications"] += times * size * inner
            counts["additions"] += times * size * max(inner - 1, 0)
        elif operation.name in ("reduce_sum", "integer_pow"):
            if operation.name == "reduce_sum":
                before = int(np.prod(operation.inputs[0].shape))
                counts["additions"] += times * max(before - size, 0)
            else:
                y = abs(operation.params["y"])
                counts["multiplications"] += times * size * (y.bit_length() + y.bit_count() - 2)
        else:
            for kind, names in _COUNTED.items():
                if operation.name in names:
                    counts[kind] += times * size
        steps = operation.params.get("length", 1) if operation.name == "scan" else 1
        for blocks in operation.bodies.values():
            counts.update(_counts(blocks[-1], times * steps))
    return {kind: counts[kind] for kind in _COUNTED if counts[kind]}
