"""The short way to a graph of functional operations gives the graph that torch's own way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram, exported_program
from torch.nn import functional as F

from lmc_fast.symmetry.derive import decomposing
from lmc_fast.symmetry.derive.decomposing import decomposed

from .told import TOKENS, Of, program_of, told

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


def _by_torch(program: ExportedProgram) -> dict[str, Any]:
    return told(program.run_decompositions({}))


@pytest.mark.parametrize("of", [TAKEN_APART, KEPT], ids=["what is taken apart", "what is kept"])
def test_the_graph_is_torchs_own(monkeypatch: pytest.MonkeyPatch, of: dict[str, Callable[[Of, Tensor], Any]]) -> None:
    """Also where something is taken apart: without a second trace, and with one for which its own operations alone
    are prepared."""
    with torch.no_grad():
        program = program_of(lambda m, x: [each(m, x.clone()) for each in of.values()])
        kept, wanted = decomposing._kept(program), _by_torch(program)
        assert kept is not None and 0 < len(kept) < 20
        # Nothing is traced.
        with monkeypatch.context() as patched:
            patched.setattr(decomposing, "_kept", None)
            assert told(decomposed(program)) == wanted
        monkeypatch.setattr(decomposing, "lightened", lambda *of: None)
        assert told(decomposed(program)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_TORCH)
def test_what_calls_others_inside_goes_torchs_own_way(name: str) -> None:
    """A branch's graph, or an operation that is made of composite ones."""
    with torch.no_grad():
        program = program_of(BY_TORCH[name])
        assert decomposing._kept(program) is None
        assert told(decomposed(program)) == _by_torch(program)


def _none(program: Any, *, decomp_table: Any, _preserve_ops: Any, joint_loss_index: Any) -> Any:
    """The form that older torches have."""
    raise AssertionError("must not be called")


def _more(program: Any, *, cia_to_decomp: Any, python_decomp_table: Any, something_new: Any) -> Any:
    raise AssertionError("must not be called")


@pytest.mark.parametrize("inner", [None, _none, _more], ids=["none", "older", "with one more argument"])
def test_a_torch_of_another_form_goes_its_own_way(monkeypatch: pytest.MonkeyPatch, inner: Any) -> None:
    """A door that is not there, or asks for what is not known, is not gone through."""
    program, called = program_of(KEPT["convolution"]), []
    monkeypatch.setattr(exported_program, "_decompose_exported_program", inner)
    monkeypatch.setattr(type(program), "run_decompositions", lambda self, table: called.append(table) or self)
    assert decomposed(program).graph is program.graph
    assert called == [{}]


def test_a_torch_without_the_marks_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it where what tells composite operations apart has another name."""
    monkeypatch.delattr(decomposing.exporting, "_is_preservable_cia_op")
    assert decomposing._door() is None
