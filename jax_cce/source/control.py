"""Control flow of JAX as calls of nested functions."""

from collections.abc import Sequence

from jax_cce import jax_internals
from jax_cce.source import in_jax
from jax_cce.source.code import Block, Number, Operation
from jax_cce.source.expressions import Expression
from jax_cce.source.writing import Writer, packed

__all__ = ["InJax", "carried"]


class InJax:
    """Operations of JAX in code that imports JAX."""

    def form_of(self, operation: Operation) -> tuple[str, int] | None:
        """The form of an operation."""
        return in_jax.form_of(operation)

    def form_of_two(self, first: Operation, second: Operation) -> tuple[str, int] | None:
        """The form of two operations."""
        return in_jax.form_of_two(first, second)

    def number(self, x: Number) -> Expression:
        """A number that has its dtype."""
        return in_jax.typed_number(x)

    def control(
        self, writer: Writer, operation: Operation, results: Sequence[str], indent: int
    ) -> bool:
        """Writes a scan, a while loop or a choice."""
        write = {"scan": _scan, "while": _while, "cond": _cond}.get(operation.name)
        if write is not None:
            write(writer, operation, results, indent)
        return write is not None


def _given(writer: Writer, block: Block, start: int, end: int, parameter: str) -> tuple[str, str]:
    """Names of some inputs of a block: the parameter that holds them, and what unpacks it."""
    inputs = block.inputs[start:end]
    read = {x for op in block.operations for x in op.read} | set(block.outputs)
    names = [writer.name(x, x.hint or parameter) if x in read else "_" for x in inputs]
    if len(names) == 1:
        return names[0], ""
    if not names or set(names) == {"_"}:
        return "_", ""
    parameter = writer.names.new(parameter)
    return parameter, f"{', '.join(names)} = {parameter}"


def _parameters(*names: str) -> list[str]:
    """Parameters, of which several may not be read."""
    return [f"_{k}" if name == "_" and k else name for k, name in enumerate(names)]


def _scan(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    (block,) = operation.bodies["jaxpr"]
    params = operation.params
    count = carried(operation)
    carry, first = _given(writer, block, 0, count, "carry")
    each, second = _given(writer, block, count, len(block.inputs), "each")
    has_each, has_rest = len(block.inputs) > count, len(block.outputs) > count

    def returns(values: list[str]) -> str:
        rest = packed(values[count:]) if has_rest else "None"
        return f"{packed(values[:count])}, {rest}"

    before = [line for line in (first, second) if line]
    name = writer.function("step", _parameters(carry, each), block, indent, before, returns)
    given = [writer.text(x) for x in operation.inputs]
    facts = [name, packed(given[:count])]
    facts.append(packed(given[count:]) if has_each else "None")
    if not has_each:
        facts.append(f"length={params['length']}")
    if params["reverse"]:
        facts.append("reverse=True")
    if params.get("unroll", 1) != 1:
        facts.append(f"unroll={params['unroll']}")
    last = _unpacked(results[count:]) if has_rest else "_"
    left = f"{_unpacked(results[:count])}, {last}"
    writer.add(f"{left} = lax.scan({', '.join(facts)})", indent)


def carried(operation: Operation) -> int:
    """How many values a scan carries from step to step."""
    return jax_internals.scan_counts(operation.equation)[1]


def _unpacked(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return "_" if set(names) <= {"_"} else f"({', '.join(names)})"


def _while(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    (test,), (block,) = operation.bodies["cond_jaxpr"], operation.bodies["body_jaxpr"]
    functions = []
    for wanted, each in (("goes_on", test), ("step", block)):
        state, first = _given(writer, each, 0, len(each.inputs), "state")
        before = [first] if first else []
        functions.append(
            writer.function(
                wanted,
                [state],
                each,
                indent,
                before,
                (lambda values: values[0]) if wanted == "goes_on" else packed,
            )
        )
    given = packed([writer.text(x) for x in operation.inputs])
    left = ", ".join(results) if set(results) != {"_"} else "_"
    writer.add(f"{left} = lax.while_loop({', '.join(functions)}, {given})", indent)


def _cond(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    branches = operation.bodies["branches"]
    (chosen,) = operation.inputs
    is_truth = chosen.dtype == bool
    wanted = ("otherwise", "if_true") if is_truth else ("case",) * len(branches)
    names = [
        writer.function(name, [], block, indent, returns=packed)
        for name, block in zip(wanted, branches, strict=True)
    ]
    if is_truth:
        call = f"lax.cond({writer.text(chosen)}, {names[1]}, {names[0]})"
    else:
        call = f"lax.switch({writer.text(chosen)}, [{', '.join(names)}])"
    left = ", ".join(results) if set(results) != {"_"} else "_"
    writer.add(f"{left} = {call}", indent)
