"""The short way to a graph of functional operations gives the graph that torch's own way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, exported_program
from torch.nn import functional as F

from lmc_fast.symmetry.derive import decomposing
from lmc_fast.symmetry.derive.decomposing import decomposed

BATCH, TOKENS, WIDTH = 2, 5, 12


class Of(nn.Module):
    """A function of a value, with some layers at hand."""

    def __init__(self, forward: Callable[[Of, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.batch, self.drop = nn.BatchNorm1d(TOKENS), nn.Dropout(0.5)
        self.conv, self.attention = nn.Conv1d(TOKENS, 4, 3), nn.MultiheadAttention(WIDTH, 3, batch_first=True)
        self.lstm = nn.LSTM(WIDTH, 7, batch_first=True)
        self.register_buffer("scale", torch.ones(WIDTH), persistent=False)
        self.of = forward

    def forward(self, x: Tensor) -> Any:
        return self.of(self, x)


# Operations that torch does not keep whole, whatever it is told: what they are made of has to be the same.
TAKEN_APART: dict[str, Callable[[Of, Tensor], Any]] = {
    "reshape": lambda m, x: m.linear(x).transpose(0, 1).reshape(TOKENS, 6, -1),
    "flatten and unflatten": lambda m, x: m.linear(x).flatten(1).unflatten(1, (TOKENS, 3, -1)),
    "contiguous": lambda m, x: m.linear(x).transpose(0, 1).contiguous(),
    "to another type": lambda m, x: m.linear(x).to(torch.float64).type_as(x),
    "as others are": lambda m, x: x[:, :1].expand_as(x).view_as(m.linear(x)) + x[0].reshape_as(x[1]),
    "chunk and narrow": lambda m, x: m.linear(x).chunk(3, -1)[1] + x.narrow(-1, 2, 4),
    "dimensions moved": lambda m, x: m.linear(x).movedim(0, 2).swapaxes(0, 1).swapdims(1, 2).mT,
    "turned about": lambda m, x: m.linear(x)[0].T,
    "dropout": lambda m, x: m.drop(m.linear(x)),
}
KEPT: dict[str, Callable[[Of, Tensor], Any]] = {
    "linear and norms": lambda m, x: F.gelu(m.norm(m.linear(x))) * m.scale + m.batch(x),
    "convolution": lambda m, x: F.relu(m.conv(x)).mean(-1),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, m.linear(x), x).softmax(-1),
    "attention of torch": lambda m, x: m.attention(x, x, x)[0],
    "lstm": lambda m, x: m.lstm(x)[0],
    "einsum and matmul": lambda m, x: torch.einsum("btw,vw->btv", x, m.linear.weight) @ m.linear.weight,
    "in place": lambda m, x: m.linear(x).relu_().add_(1).mul_(m.scale),
}
# What may call composite operations inside goes torch's own way.
BY_TORCH: dict[str, Callable[[Of, Tensor], Any]] = {
    "two branches": lambda m, x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)),
    "parts of several sizes": lambda m, x: m.linear(x).tensor_split(5, -1),
}


def _program(of: Callable[[Of, Tensor], Any]) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(Of(of).eval(), (torch.randn(BATCH, TOKENS, WIDTH),), strict=False)


def _told(program: ExportedProgram) -> list[Any]:
    """What a walk reads of a program: operations with their arguments, shapes and lines, and what its inputs are."""
    lines = [str(program.graph), str(program.graph_signature)]
    for node in program.graph.nodes:
        value = node.meta.get("val")
        shapes = [each.shape for each in (value if isinstance(value, (list, tuple)) else [value]) if each is not None]
        lines.append((node.name, node.op, str(node.target), shapes, node.meta.get("stack_trace")))
    return lines


@pytest.mark.parametrize("of", [TAKEN_APART, KEPT], ids=["what is taken apart", "what is kept"])
def test_the_graph_is_torchs_own(of: dict[str, Callable[[Of, Tensor], Any]]) -> None:
    """Also where something is taken apart, and on the short way: only its own operations are prepared."""
    with torch.no_grad():
        program = _program(lambda m, x: [each(m, x.clone()) for each in of.values()])
        kept = decomposing._kept(program)
        assert kept is not None and 0 < len(kept) < 20
        assert _told(decomposed(program)) == _told(program.run_decompositions({}))


@pytest.mark.parametrize("name", BY_TORCH)
def test_what_calls_others_inside_goes_torchs_own_way(name: str) -> None:
    """A branch's graph, or an operation that is made of composite ones."""
    with torch.no_grad():
        program = _program(BY_TORCH[name])
        assert decomposing._kept(program) is None
        assert _told(decomposed(program)) == _told(program.run_decompositions({}))


def _none(program: Any, *, decomp_table: Any, _preserve_ops: Any, joint_loss_index: Any) -> Any:
    """The form that older torches have."""
    raise AssertionError("must not be called")


def _more(program: Any, *, cia_to_decomp: Any, python_decomp_table: Any, something_new: Any) -> Any:
    raise AssertionError("must not be called")


@pytest.mark.parametrize("inner", [None, _none, _more], ids=["none", "older", "with one more argument"])
def test_a_torch_of_another_form_goes_its_own_way(monkeypatch: pytest.MonkeyPatch, inner: Any) -> None:
    """A door that is not there, or asks for what is not known, is not gone through."""
    program, called = _program(KEPT["convolution"]), []
    monkeypatch.setattr(exported_program, "_decompose_exported_program", inner)
    monkeypatch.setattr(type(program), "run_decompositions", lambda self, table: called.append(table) or self)
    assert decomposed(program) is program
    assert called == [{}]


def test_a_torch_without_the_marks_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it where what tells composite operations apart has another name."""
    monkeypatch.delattr(decomposing.exporting, "_is_preservable_cia_op")
    assert decomposing._door() is None
