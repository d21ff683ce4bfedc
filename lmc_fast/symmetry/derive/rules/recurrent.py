"""Recurrent layers: hidden units move with all of their gates, of every layer and direction for themselves."""

from __future__ import annotations

from ..look import Dims, Look, rule
from ..terms import Term

__all__ = ["recurrent"]

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*(f"aten.{name}" for name in GATES))
def recurrent(look: Look) -> list[Dims]:
    """[batch, time, i], states [layers, batch, h], weights [gates * h, i], [gates * h, h] -> [batch, time, h]."""
    if not isinstance(look["params"], (list, tuple)) or "batch_first" not in look.arguments:
        return look.all_pinned("sequences of several lengths laid end to end")
    terms, dims, shapes = look.terms, look.dims("input"), look.shapes
    states = [look.of(state) for state in (look["hx"] if isinstance(look["hx"], (list, tuple)) else [look["hx"]])]
    weights = [look.of(node) for node in look["params"]]
    directions = 2 if look["bidirectional"] else 1
    each = len(weights) // (int(look["num_layers"]) * directions)
    time = 1 if look["batch_first"] and len(dims) == 3 else 0
    look.pin([dims[time]], "one step after the other")
    look.mixed(dims, time)
    # The states of all layers stand in one value: its units are another layer's at every index.
    ends = [[terms.atom(size) for size in shape] for shape in shapes[1:]]
    look.pin([of[0] for of in (*states, *ends)], "each is another layer's")
    entering, leaving = dims[-1], []
    for number in range(len(weights) // each):
        hidden, given = _cell(look, weights[number * each : (number + 1) * each], entering)
        leaving.append(given)
        for of, unit in zip((*states, *ends), (given, hidden) * 2 if len(ends) == 2 else (given, given), strict=True):
            terms.unify(terms.instance(of[-1], of[0], number), unit, look.why("states of the layer"))
        if len(leaving) == directions:
            entering, leaving = terms.sum(leaving), []
    return [[*dims[:-1], entering], *ends]


@rule(*(f"aten.{name}_cell" for name in GATES))
def cell(look: Look) -> list[Dims]:
    """[batch, i], states [batch, h], weights [gates * h, i], [gates * h, h] -> [batch, h]: one step."""
    dims = look.dims("input")
    states = [look.of(state) for state in (look["hx"] if isinstance(look["hx"], (list, tuple)) else [look["hx"]])]
    weights = [look.dims(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh") if look.has(name)]
    hidden, _ = _cell(look, weights, dims[-1])
    result = [*dims[:-1], hidden]
    for state in states:
        result = look.broadcast([result, state])
    return [list(result) for _ in look.shapes]


def _cell(look: Look, weights: list[Dims], entering: Term) -> tuple[Term, Term]:
    """Of one layer in one direction the hidden units, and those that it gives: the same, or these projected."""
    terms = look.terms
    inward, across, *rest = weights
    projection = rest.pop() if len(rest) % 2 else None
    gates = GATES[look.name.removeprefix("aten.").removesuffix("_cell")]
    hidden = terms.atom(inward[0].size // gates)
    both = terms.product([look.told(gates, "gates"), hidden])
    for dims in (inward, across, *rest):
        terms.unify(dims[0], both, look.why("gates of hidden units"))
    given = hidden if projection is None else projection[0]
    if projection is not None:
        terms.unify(projection[1], hidden, look.why("summed over"))
    terms.unify(across[1], given, look.why("summed over"))
    look.same(inward[1], entering, "summed over")
    look.inside += [[hidden, across[1]], [hidden, entering]]
    return hidden, given
