"""Loops that carry the tangents of their state along.

The body of a loop is extended by the tangents of what it carries and reads, in whichever order of
elimination is the cheapest for a step, and the results of the loop depend directly on what the
tangents are tangents of. No state is stored. For a single point, the directions of the tangents
take the lanes that are the points otherwise: a tangent then is a vector, of one number for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jax_cce.native.directions import groups_of, packed, width_of
from jax_cce.native.loops import MOST_CARRIED, Loop, Place, most_stacked
from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import Scalars

__all__ = ["extended", "spread"]

# For the nodes of a loop's operands that depend on some inputs, the derivatives that are not zero.
_Tangents = Mapping[int, Mapping[int, int]]


def extended(
    graph: Scalars,
    node: int,
    inputs: Sequence[int],
    tangents: _Tangents,
    jacobian: Callable[..., tuple[list[list[int]], str]],
    dependence: Callable[[Scalars, Mapping[int, int], Sequence[int]], list[int]],
) -> Callable[[Place], dict[int, int]]:
    """Extends a loop by the tangents of what it carries.

    Args:
        graph: the graph around it.
        node: the loop.
        inputs: what the tangents are tangents of.
        tangents: for each operand that depends on them the derivative by each that is not zero.
        jacobian: gives the derivatives of a step (`jacobians.jacobian`).
        dependence: on which inputs, as a set of bits, outputs of a graph depend.

    Returns:
        The derivatives of a result, by input.

    Raises:
        Unsupported: where there are too many.
    """
    loop: Loop = graph.params[node]
    body = loop.body
    initial, entering, rows = loop.split(graph.args[node])
    kinds = loop.operands(graph.args[node])
    depends = _dependences(loop, kinds, inputs, tangents, dependence)
    groups = groups_of(graph, inputs)
    body.packed = graph.packed or width_of(graph, inputs)
    directions = [body.input(("direction", k)) for k in range(len(groups))]
    new: dict[str, list[list[int]]] = {kind: [] for kind in kinds}
    given: dict[int, dict[int, int]] = {}
    # For each carry, and for each result, which of the new ones is its tangent in which group.
    carried: dict[int, dict[int, int]] = {k: {} for k in range(len(initial))}
    stacked: dict[int, dict[int, int]] = {k: {} for k in range(len(loop.results))}
    for kind, every in kinds.items():
        for k, nodes in enumerate(every):
            for g, group in enumerate(groups):
                if depends[kind, k].isdisjoint(group):
                    continue
                at = len(every) + len(new[kind])
                of_steps = [tangents.get(each, {}) for each in nodes]
                new[kind].append([packed(graph, body.packed, group, each) for each in of_steps])
                given.setdefault(body.input((kind, k)), {})[directions[g]] = body.input((kind, at))
                if kind == "carry":
                    carried[k][g] = at
    if body.packed and len(new["carry"]) * body.packed > MOST_CARRIED:
        raise Unsupported("a loop carries too many tangents")
    derivatives, _ = jacobian(body, directions, [*loop.carries, *loop.results], given)
    of_results = derivatives[len(initial) :]
    results = list(loop.results)
    for k, row in enumerate(of_results):
        for g, each in enumerate(row):
            if each != body.zero:
                stacked[k][g] = len(results)
                results.append(each)
    whole = replace(
        loop,
        carries=[*loop.carries, *(derivatives[k][g] for k, own in carried.items() for g in own)],
        results=results,
        entering=loop.entering + len(new["entering"]),
        rows=[*loop.rows, *map(len, new["row"])],
        width=body.packed,
        wide=loop.wide | _wide(loop, kinds, new, len(results)) if body.packed else loop.wide,
    )
    width = max(1, body.packed)
    for count in (len(results) - len(loop.results), len(new["row"])):
        if count * width * loop.length > most_stacked(graph):
            raise Unsupported("a loop reads or stacks too many numbers")
    args = [
        *initial,
        *(x for (x,) in new["carry"]),
        *entering,
        *(x for (x,) in new["entering"]),
        *(x for row in (*rows, *new["row"]) for x in row),
    ]
    instead = graph.instead[node] = graph.loop(whole, args)

    def derivatives_of(where: Place) -> dict[int, int]:
        kind, k, *step = where
        found: dict[int, int] = {}
        for g, at in (carried if kind == "carry" else stacked)[k].items():
            if kind == "carry" and whole.carries[at] == body.zero:
                continue
            tangent = graph.result(instead, (kind, at, *step))
            for lane, column in enumerate(groups[g]):
                if graph.packed or not body.packed:
                    found[column] = tangent
                elif column in depends[kind, k]:
                    found[column] = graph.make("lane", tangent, param=lane)
        return found

    return derivatives_of


def _dependences(
    loop: Loop,
    kinds: Mapping[str, Sequence[Sequence[int]]],
    inputs: Sequence[int],
    tangents: _Tangents,
    dependence: Callable[[Scalars, Mapping[int, int], Sequence[int]], list[int]],
) -> dict[Place, set[int]]:
    """The inputs that what is carried, enters, is read and is stacked depends on in any step."""
    body, bit = loop.body, {column: 1 << k for k, column in enumerate(inputs)}
    places = [(kind, k) for kind, every in kinds.items() for k in range(len(every))]
    bits = {
        body.input((kind, k)): sum(
            bit[column] for column in set().union(*(tangents.get(x, ()) for x in kinds[kind][k]))
        )
        for kind, k in places
    }
    spread(loop, bits, dependence)
    found = {place: bits[body.input(place)] for place in places}
    for k, own in enumerate(dependence(body, bits, loop.results)):
        found["stacked", k] = own
    return {
        place: {column for column, one in bit.items() if one & own} for place, own in found.items()
    }


def spread(
    loop: Loop,
    bits: dict[int, int],
    dependence: Callable[[Scalars, Mapping[int, int], Sequence[int]], list[int]],
) -> None:
    """Has carries depend on what their next values do, in any step.

    Args:
        loop: the loop.
        bits: for each input of its body the set of bits that it depends on; those of carries grow.
        dependence: see `extended`.
    """
    body, before = loop.body, None
    slots = [body.input(("carry", k)) for k in range(len(loop.carries))]
    while bits != before:
        before = dict(bits)
        for slot, own in zip(slots, dependence(body, bits, loop.carries), strict=True):
            bits[slot] |= own


def _wide(
    loop: Loop,
    kinds: Mapping[str, Sequence[Sequence[int]]],
    new: Mapping[str, Sequence[Sequence[int]]],
    num_results: int,
) -> frozenset[Place]:
    """The places of the new inputs and results."""
    found = [
        (kind, k)
        for kind, every in kinds.items()
        for k in range(len(every), len(every) + len(new[kind]))
    ]
    found += [("stacked", k) for k in range(len(loop.results), num_results)]
    return frozenset(found)
