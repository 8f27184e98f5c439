"""What a module is written from: operations on variables, calls inlined, nothing dead.

A `Block` is a jaxpr that closes over variables of the blocks around it, as a nested function of
Python does: the constants of a loop's step are those variables. Whatever is only a call, a custom
rule among them, is its body here. Two blocks are the same where they compute the same operations
in the same order, whatever their variables are called.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.fence import FENCE, on_cpu
from jax_cce.execution import labels
from jax_cce.execution.labels import Label

__all__ = [
    "Block",
    "Number",
    "Operation",
    "Variable",
    "block_of",
    "difference",
    "traced",
]


class Variable:
    """What an operation computes or a block is given.

    Attributes:
        aval: its abstract value.
        value: the array that it is, for a constant; else None.
        hint: what it is called where it comes from; "" if unknown.
    """

    __slots__ = ("aval", "hint", "value")

    def __init__(self, aval: Any, value: Any = None, hint: str = "") -> None:
        self.aval, self.value, self.hint = aval, value, hint

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.aval.shape)

    @property
    def dtype(self) -> Any:
        """Its dtype."""
        return self.aval.dtype


class Number(NamedTuple):
    """A number that stands in the code.

    Attributes:
        value: a NumPy scalar.
        aval: its abstract value.
    """

    value: Any
    aval: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return ()

    @property
    def dtype(self) -> Any:
        """Its dtype."""
        return self.value.dtype


Atom = Variable | Number


class Operation:
    """One operation of a block.

    Attributes:
        name: the primitive's name.
        primitive: the primitive.
        params: its parameters, without those that hold jaxprs.
        inputs: the operands.
        outputs: the results; None for one that nobody reads.
        bodies: the blocks of control flow, by their parameters.
        equation: the jaxpr equation.
        label: what of a plan it belongs to.
    """

    __slots__ = (
        "bodies",
        "equation",
        "inputs",
        "label",
        "name",
        "outputs",
        "params",
        "primitive",
    )

    def __init__(
        self,
        equation: Any,
        inputs: Sequence[Atom],
        outputs: Sequence[Variable | None],
        bodies: Mapping[str, Sequence["Block"]],
        label: Label | None,
    ) -> None:
        self.equation, self.primitive = equation, equation.primitive
        # The sum of cotangents is a sum.
        self.name = _SAME.get(equation.primitive.name, equation.primitive.name)
        self.params = {
            name: value for name, value in equation.params.items() if not _holds_jaxpr(value)
        }
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.bodies = {name: list(blocks) for name, blocks in bodies.items()}
        self.label = label

    @property
    def read(self) -> Iterator[Variable]:
        """The variables that it reads, those that its bodies read from outside included."""
        yield from (atom for atom in self.inputs if isinstance(atom, Variable))
        for blocks in self.bodies.values():
            for block in blocks:
                yield from block.free


class Block:
    """A straight line of operations.

    Attributes:
        inputs: what it is given.
        operations: the operations in order.
        outputs: what it returns.
    """

    __slots__ = ("inputs", "operations", "outputs")

    def __init__(
        self, inputs: Sequence[Variable], operations: Sequence[Operation], outputs: Sequence[Atom]
    ) -> None:
        self.inputs, self.operations, self.outputs = list(inputs), list(operations), list(outputs)

    @property
    def free(self) -> Iterator[Variable]:
        """The variables that it reads and is not given."""
        own = set(self.inputs)
        for operation in self.operations:
            yield from (each for each in operation.read if each not in own)
            own.update(each for each in operation.outputs if each is not None)
        outputs = (atom for atom in self.outputs if isinstance(atom, Variable))
        yield from (each for each in outputs if each not in own)

    def every(self) -> Iterator[Operation]:
        """All operations, those of bodies included."""
        for operation in self.operations:
            yield operation
            for blocks in operation.bodies.values():
                for block in blocks:
                    yield from block.every()


_SAME = {"add_any": "add", "add_jaxvals": "add"}

# Calls that mean their body where nothing is differentiated, and the parameter that holds it.
_BODIES = {
    **jax_internals.INLINED,
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
# What only says something of a value, or to a compiler that nobody asks.
_NOTHING = {"pvary", "stop_gradient"}


def _holds_jaxpr(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_jaxpr, value))
    return isinstance(value, (*jax_internals.JAXPRS, jax_internals.LazyJaxpr))


def traced(function: Any, arguments: Sequence[Any]) -> tuple[Block, Any]:
    """The block of a function at some arguments, and the tree of shapes that it returns."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return block_of(closed), shapes


def block_of(closed: Any) -> Block:
    """The block of a closed jaxpr."""
    closed = jax_internals.pruned(closed, [True] * len(jax_internals.opened(closed)[0].outvars))
    jaxpr, consts = jax_internals.opened(closed)
    hints = jax_internals.argument_names(jaxpr)
    inputs = [Variable(v.aval, hint=h) for v, h in zip(jaxpr.invars, hints, strict=True)]
    operations, outputs = _walked(jaxpr, consts, inputs)
    return _live(Block(inputs, operations, outputs))


def _constant(value: Any, aval: Any) -> Atom:
    if np.shape(value) == () and np.asarray(value).dtype.kind in "biufc":
        return Number(np.asarray(value, aval.dtype)[()], aval)
    return Variable(aval, value)


def _walked(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Atom], label: Label | None = None
) -> tuple[list[Operation], Sequence[Atom]]:
    """The operations of a jaxpr on some arguments, and what it returns."""
    atoms: dict[Any, Atom] = dict(zip(jaxpr.invars, arguments, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        atoms[var] = _constant(value, var.aval)
    operations: list[Operation] = []

    def read(atom: Any) -> Atom:
        if isinstance(atom, jax_internals.Literal):
            return _constant(atom.val, atom.aval)
        return atoms[atom]

    for eqn in jaxpr.eqns:
        inputs = list(map(read, eqn.invars))
        own = label or labels.label_of(str(eqn.source_info.name_stack))
        name = eqn.primitive.name
        body = eqn.params.get(_BODIES.get(name, ""))
        results: Sequence[Atom]
        if body is not None:
            more, results = _walked(*jax_internals.opened(body), inputs, own)
            operations += more
        elif name == "custom_linear_solve":
            more, results = _solved(eqn, inputs, own)
            operations += more
        elif eqn.primitive is FENCE:
            more, results = [], inputs
            if jax.default_backend() == "cpu":
                avals = [jax_internals.abstract(var.aval) for var in eqn.outvars]
                made = jax.make_jaxpr(on_cpu)(*avals)
                more, results = _walked(*jax_internals.opened(made), inputs, own)
                operations += more
        elif name in _NOTHING or _is_no_conversion(eqn):
            results = inputs
        elif name == "convert_element_type" and isinstance(inputs[0], Number):
            aval = eqn.outvars[0].aval
            results = [Number(np.asarray(inputs[0].value).astype(aval.dtype)[()], aval)]
        elif name == "empty2":
            # Of what JAX leaves unset it makes zeros.
            aval = eqn.outvars[0].aval
            results = [Number(np.zeros((), aval.dtype)[()], aval)]
        elif name == "neg" and isinstance(inputs[0], Number):
            results = [Number(np.negative(inputs[0].value), inputs[0].aval)]
        else:
            variables = [Variable(var.aval) for var in eqn.outvars]
            read_now, bodies = _closed_over(eqn, inputs)
            if name == "cond":
                read_now = [_predicate(read_now[0], operations, len(bodies["branches"]))]
            results = variables
            if name == "scan":
                results = _stacked_once(eqn, bodies["jaxpr"][0], read_now, variables)
                variables = [each for each in variables if each in results]
            operations.append(Operation(eqn, read_now, variables, bodies, own))
        atoms.update(zip(eqn.outvars, results, strict=True))
    return operations, [read(atom) for atom in jaxpr.outvars]


def _is_no_conversion(eqn: Any) -> bool:
    """Whether an equation converts an array to the dtype that it has."""
    if eqn.primitive.name != "convert_element_type":
        return False
    return eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype


def _solved(eqn: Any, inputs: Sequence[Atom], label: Label | None) -> Any:
    """A linear solve by what its author says solves it."""
    counts, bodies = eqn.params["const_lengths"], eqn.params["jaxprs"]
    before = counts.matvec + counts.vecmat
    consts = inputs[before : before + counts.solve]
    right = inputs[sum(counts) :]
    return _walked(*jax_internals.opened(bodies.solve), [*consts, *right], label)


def _closed_over(
    eqn: Any, inputs: Sequence[Atom]
) -> tuple[Sequence[Atom], Mapping[str, Sequence[Block]]]:
    """The operands of an equation of control flow that are no constants of its bodies, and these.

    The operands of other equations are all there are.
    """
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        consts, _ = jax_internals.scan_counts(eqn)
        block = _body(params["jaxpr"], inputs[:consts])
        return inputs[consts:], {"jaxpr": [block]}
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        own = inputs[first + second :]
        return own, {
            "cond_jaxpr": [_body(params["cond_jaxpr"], inputs[:first])],
            "body_jaxpr": [_body(params["body_jaxpr"], inputs[first : first + second])],
        }
    if name == "cond":
        return [inputs[0]], {"branches": [_body(each, inputs[1:]) for each in params["branches"]]}
    return inputs, {}


def _stacked_once(
    eqn: Any, body: Block, inputs: Sequence[Atom], variables: Sequence[Variable]
) -> list[Atom]:
    """The results of a scan, which stacks nothing twice and nothing that it has been given.

    Its body is changed. JAX does the same where a scan is written, but not to its derivatives.

    Args:
        eqn: the equation.
        body: its body.
        inputs: its operands, without the constants of the body.
        variables: its results.
    """
    _, carry = jax_internals.scan_counts(eqn)
    found: dict[Atom, Atom] = dict(zip(body.inputs[carry:], inputs[carry:], strict=True))
    results: list[Atom] = list(variables[:carry])
    kept = list(body.outputs[:carry])
    for atom, variable in zip(body.outputs[carry:], variables[carry:], strict=True):
        known = found.get(atom) if isinstance(atom, Variable) else None
        if known is None:
            kept.append(atom)
            if isinstance(atom, Variable):
                found[atom] = variable
        results.append(variable if known is None else known)
    body.outputs = kept
    return results


def _predicate(index: Atom, operations: Sequence[Operation], count: int) -> Atom:
    """What chooses a branch before JAX makes an index of it, which says the same."""
    for operation in reversed(operations):
        if operation.outputs != [index]:
            continue
        if operation.name == "convert_element_type" and operation.inputs[0].dtype == bool:
            return operation.inputs[0]
        if operation.name == "clamp":
            low, inner, high = operation.inputs
            bounds = [k.value for k in (low, high) if isinstance(k, Number)]
            if bounds == [0, count - 1]:
                return inner
    return index


def _body(closed: Any, consts: Sequence[Atom]) -> Block:
    jaxpr, values = jax_internals.opened(closed)
    hints = jax_internals.argument_names(jaxpr)
    given = [
        Variable(var.aval, hint=hint)
        for var, hint in zip(jaxpr.invars[len(consts) :], hints[len(consts) :], strict=True)
    ]
    operations, outputs = _walked(jaxpr, values, [*consts, *given])
    return _live(Block(given, operations, outputs))


def _live(block: Block) -> Block:
    """The block without what nobody reads."""
    live = {atom for atom in block.outputs if isinstance(atom, Variable)}
    kept = []
    for operation in reversed(block.operations):
        if live.isdisjoint(operation.outputs) and not operation.equation.effects:
            continue
        operation.outputs = [out if out in live else None for out in operation.outputs]
        if operation.name == "scan":
            _prune(operation)
        live.update(operation.read)
        kept.append(operation)
    block.operations = kept[::-1]
    return block


def _prune(scan: Operation) -> None:
    """Takes from a scan what it stacks and nobody reads, and slices that its body does not read."""
    _, carry = jax_internals.scan_counts(scan.equation)
    (body,) = scan.bodies["jaxpr"]
    stays = [k < carry or out is not None for k, out in enumerate(scan.outputs)]
    scan.outputs = list(itertools.compress(scan.outputs, stays))
    body.outputs = list(itertools.compress(body.outputs, stays))
    _live(body)
    read = {atom for operation in body.operations for atom in operation.read}
    read.update(atom for atom in body.outputs if isinstance(atom, Variable))
    stays = [k < carry or name in read for k, name in enumerate(body.inputs)]
    scan.inputs = list(itertools.compress(scan.inputs, stays))
    body.inputs = list(itertools.compress(body.inputs, stays))


def difference(one: Block, other: Block) -> str:
    """Where two blocks compute something else; "" where they do not."""
    numbers: dict[Variable, int] = {}
    others: dict[Variable, int] = {}
    for own, theirs in zip(one.inputs, other.inputs, strict=True):
        numbers[own] = others[theirs] = len(numbers)
    return _difference(one, other, numbers, others)


def _difference(one: Block, other: Block, numbers: Any, others: Any) -> str:
    for own, theirs in itertools.zip_longest(one.operations, other.operations):
        if own is None or theirs is None or own.name != theirs.name:
            names = " and ".join("nothing" if k is None else k.name for k in (own, theirs))
            return f"{names} in one place"
        if len(own.inputs) != len(theirs.inputs) or len(own.outputs) != len(theirs.outputs):
            return f"{own.name} of several operands"
        if not _same_params(own.params, theirs.params):
            return f"the parameters of {own.name}: {own.params} and {theirs.params}"
        for a, b in zip(own.inputs, theirs.inputs, strict=True):
            if not _same_atom(a, b, numbers, others):
                return f"an operand of {own.name}"
        for name, blocks in own.bodies.items():
            for a, b in zip(blocks, theirs.bodies[name], strict=True):
                if len(a.inputs) != len(b.inputs):
                    return f"the inputs of {own.name}"
                for x, y in zip(a.inputs, b.inputs, strict=True):
                    numbers[x] = others[y] = len(numbers)
                found = _difference(a, b, numbers, others)
                if found:
                    return f"{found} inside of {own.name}"
        for a, b in zip(own.outputs, theirs.outputs, strict=True):
            if (a is None) != (b is None):
                return f"which results of {own.name} are read"
            if a is None or b is None:
                continue
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"the type of {own.name}"
            numbers[a] = others[b] = len(numbers)
    if len(one.outputs) != len(other.outputs):
        return "the number of results"
    for a, b in zip(one.outputs, other.outputs, strict=True):
        if not _same_atom(a, b, numbers, others):
            return "a result"
    return ""


def _same_atom(one: Atom, other: Atom, numbers: Any, others: Any) -> bool:
    if isinstance(one, Variable) and isinstance(other, Variable):
        if one in numbers or other in others:
            return numbers.get(one) == others.get(other)
        return one is other or _same_array(one.value, other.value)
    if isinstance(one, Number) and isinstance(other, Number):
        return _same_array(one.value, other.value)
    return False


def _same_array(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tobytes() == other.tobytes()


# What says nothing of the result, or what the tracing of another function writes otherwise.
_ANYHOW = {
    *("jaxpr_effects", "linear", "num_consts", "num_carry", "cond_nconsts", "body_nconsts"),
    *("ft_in", "ft_out", "_split_transpose", "sharding", "out_sharding", "weak_type", "name"),
}


def _same_params(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    for name in (one.keys() | other.keys()) - _ANYHOW:
        a, b = one.get(name), other.get(name)
        if callable(a) and callable(b) and not isinstance(a, type):
            continue
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            if not np.array_equal(np.asarray(a), np.asarray(b)):
                return False
        elif a != b and repr(a) != repr(b):  # NaN is not itself
            return False
    return True
