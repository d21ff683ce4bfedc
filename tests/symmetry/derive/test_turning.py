"""What operations leave free to turn: small models, each with one operation between two linear maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry import Fold

F = nn.functional
TURNS, ONES, STAYS = "orthogonal", "orthogonal_keeping_ones", "permutation"


class Net(nn.Module):
    """6 hidden units at each of 3 places, and something done to them."""

    def __init__(self, done: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 5)
        self.vector, self.table = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(3, 6))
        self.square, self.many = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(2, 6, 6))
        self.pair, self.rows = nn.Parameter(torch.randn(7, 6, 6)), nn.Parameter(torch.randn(2, 6))
        self.conv, self.places = nn.Conv1d(6, 7, 2), nn.Linear(3, 2)
        self.done = done

    def forward(self, x: Tensor) -> Tensor:
        h = self.done(self, self.enter(x))
        return self.leave(h) if h.shape[-1] == 6 else h.square()


def kind_of(done: Callable[[Any, Tensor], Tensor], x: Tensor | None = None) -> tuple[str, lmc.PermutationSpec]:
    model = Net(done)
    spec = lmc.derive_spec(model, torch.randn(2, 3, 4) if x is None else x, rotations=True)
    # Every group was tried on the model.
    assert spec.explain().notes == ()
    assert spec.verified is not None
    group = spec.axes["enter.weight"][0].segments[0].group
    return ("" if group is None else spec.groups[group].kind), spec


def rms(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


def standard(h: Tensor) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)


FREE = {
    "nothing": lambda m, h: h,
    "negative": lambda m, h: -h,
    "times a number": lambda m, h: 2.5 * h / 3,
    "plus a parameter": lambda m, h: h + m.vector,
    "plus positions": lambda m, h: h - m.table,
    "plus itself": lambda m, h: h + h.detach().clone() * 0.5,
    "laid out anew": lambda m, h: h.transpose(0, 1).reshape(-1, 6).unsqueeze(0),
    "dropout and casts": lambda m, h: F.dropout(h, 0.5, m.training).to(torch.float64).to(h.dtype),
    "scaled by places": lambda m, h: h * torch.arange(1.0, 4.0)[:, None].to(h.dtype),
    "divided by its length": lambda m, h: F.normalize(h, dim=-1),
    "mean of places": lambda m, h: h.mean(1),
    "sum of places": lambda m, h: h.sum(1),
    "RMS by hand": lambda m, h: rms(h),
    "RMS of torch": lambda m, h: F.rms_norm(h, (6,)),
    "square by a product": lambda m, h: h / (h * h).sum(-1, keepdim=True).sqrt(),
    "square": lambda m, h: h / h.square().mean(-1, keepdim=True),
    "its products with itself": lambda m, h: (h @ h.mT) @ h,
    "masked": lambda m, h: h.masked_fill(torch.tensor([[True], [False], [False]]), 0.0),
    "one of two": lambda m, h: torch.where(torch.tensor([[True], [False], [False]]), h, h + m.vector),
    "attention": lambda m, h: F.scaled_dot_product_attention(h, h + m.vector, h),
    "zeros behind": lambda m, h: F.pad(h, (0, 0, 0, 2))[:, 1:],
    "zeros added": lambda m, h: h + torch.zeros_like(h),
    "beside each other": lambda m, h: torch.cat([h, h * 2, m.rows.expand(2, 2, 6)], dim=1),
    "stacked and picked": lambda m, h: torch.stack([h, 3 * h], dim=2)[:, :, 1].unbind(1)[0],
    "split": lambda m, h: sum(h.split(1, dim=1)),
    "repeated places": lambda m, h: h.repeat_interleave(2, dim=1).repeat(1, 2, 1),
    "looked up": lambda m, h: h[:, torch.tensor([2, 0])].index_select(1, torch.tensor([1])),
    "einsum": lambda m, h: torch.einsum("bpi,oi->bpo", h, m.pair[:, 0]),
    "einsum of three": lambda m, h: torch.einsum("bpi,bqi->bpq", h, h),
    "a bilinear map": lambda m, h: F.bilinear(h, h, m.pair),
    "addmm": lambda m, h: torch.addmm(m.rows[:, 0], h.flatten(0, 1), m.pair[0][:, :2]),
    "baddbmm": lambda m, h: torch.baddbmm(h, h, m.square.expand(2, 6, 6)),
    "matrix": lambda m, h: torch.matmul(h, m.square) @ m.square.T,
    "a convolution": lambda m, h: m.conv(h.mT),
    "pooled": lambda m, h: F.adaptive_avg_pool1d(h.mT, 2).mT,
    "larger": lambda m, h: F.interpolate(h.mT, scale_factor=2.0, mode="linear").mT,
}
KEEPS = {
    "plus a number": lambda m, h: h + 1.5,
    "plus a length": lambda m, h: h + h.square().mean(-1, keepdim=True),
    "mean of units": lambda m, h: h - h.mean(-1, keepdim=True),
    "LayerNorm by hand": lambda m, h: standard(h),
    "LayerNorm of torch": lambda m, h: F.layer_norm(h, (6,)),
    "deviation": lambda m, h: h / h.std(-1, keepdim=True),
    "variance": lambda m, h: h / (h.var(-1, keepdim=True) + 1e-3),
    "a bias over the units": lambda m, h: m.places(h.mT).mT,
    "ones": lambda m, h: h + torch.ones(6, dtype=h.dtype),
    "addmm over units": lambda m, h: torch.addmm(m.rows[:, 0], h[0].T, m.table[:, :2]).T,
}
APART = {
    "a rectifier": lambda m, h: F.relu(h),
    "a softmax": lambda m, h: h.softmax(-1),
    "times itself": lambda m, h: h * h,
    "a square": lambda m, h: h.square(),
    "a cube": lambda m, h: h.pow(3),
    "another length": lambda m, h: h / torch.linalg.vector_norm(h, ord=1, dim=-1, keepdim=True),
    "divided by it": lambda m, h: m.table / (h.abs() + 1),
    "a batch of matrices": lambda m, h: torch.einsum("bpi,oi->bpi", h, m.square),
    "a largest": lambda m, h: h - h.amax(-1, keepdim=True),
    "masked to a number": lambda m, h: h.masked_fill(torch.tensor([[True], [False], [False]]), 1.0) * (h > 0),
    "halves": lambda m, h: h.clamp(min=-1.0),
    "rounded down": lambda m, h: torch.div(h, 0.25, rounding_mode="floor"),
    "a mask of units": lambda m, h: torch.where(h > 0, h, torch.zeros_like(h)),
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_linear_leaves_units_free_to_turn(name: str) -> None:
    assert kind_of(FREE[name])[0] == TURNS


@pytest.mark.parametrize("name", KEEPS)
def test_what_sees_all_units_alike_asks_for_ones(name: str) -> None:
    assert kind_of(KEEPS[name])[0] == ONES


@pytest.mark.parametrize("name", APART)
def test_what_acts_entry_by_entry_leaves_permutations(name: str) -> None:
    kind, spec = kind_of(APART[name])
    assert kind == STAYS
    (told,) = [group for group in spec.explain().groups if ("enter.weight", 0) in group.axes]
    assert "acts entry by entry" in told.stiff


def test_without_being_asked_nothing_turns() -> None:
    spec = lmc.derive_spec(Net(FREE["nothing"]), torch.randn(2, 3, 4))
    assert spec.only_permutes
    assert spec.folds == ()
    assert "turn" not in str(spec.explain())


def test_parts_of_a_dimension_turn_by_themselves() -> None:
    def halves(m: Any, h: Tensor) -> Tensor:
        return torch.cat([F.relu(h[..., :2]), h[..., 2:]], dim=-1)

    model = Net(halves)
    spec = lmc.derive_spec(model, torch.randn(2, 3, 4), rotations=True)
    names = [segment.group for segment in spec.axes["leave.weight"][1].segments]
    assert [spec.groups[str(name)].kind for name in names] == [STAYS, TURNS]
    assert [spec.sizes[str(name)] for name in names] == [2, 4]


def test_heads_stay_apart_and_what_is_in_them_turns() -> None:
    def heads(m: Any, h: Tensor) -> Tensor:
        each = h.unflatten(-1, (2, 3)).transpose(1, 2)
        return F.scaled_dot_product_attention(each, each, each).transpose(1, 2).flatten(2)

    spec = lmc.derive_spec(Net(heads), torch.randn(2, 3, 4), rotations=True)
    (outer,) = spec.axes["enter.weight"][0].segments
    (inner,) = outer.parts
    assert spec.groups[str(outer.group)].kind == STAYS
    assert spec.groups[str(inner.group)] == lmc.Group(str(inner.group), 3, outer.group, TURNS)


class Stacked(nn.Module):
    """Experts in one tensor each, all taken, and a stream around them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 5)
        self.up, self.down = nn.Parameter(torch.randn(3, 7, 6)), nn.Parameter(torch.randn(3, 6, 7))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        units = F.gelu(torch.einsum("bi,eoi->beo", h, self.up))
        return self.leave(h + torch.einsum("beo,eio->bi", units, self.down))


def test_units_of_experts_lie_inside_a_stream_that_turns() -> None:
    model = Stacked()
    spec = lmc.derive_spec(model, torch.randn(2, 4), rotations=True)
    stream = spec.axes["leave.weight"][1].segments[0].group
    assert spec.groups[str(stream)].kind == TURNS
    assert len(spec.groups) == 3
    assert spec.axes["down"][0].dims == 3
    x = torch.randn(2, 4)
    moved = lmc.Transforms.random(spec, seed=1).apply(model)
    assert torch.allclose(moved(x), model(x), atol=1e-5)
    assert not torch.equal(moved.down, model.down)


def test_models_without_weights_are_told_as_well() -> None:
    with torch.device("meta"):
        model = Net(FREE["RMS by hand"])
    spec = lmc.derive_spec(model, torch.empty(2, 3, 4, device="meta"), rotations=True)
    assert spec.verified is None
    assert spec.groups[str(spec.axes["enter.weight"][0].segments[0].group)].kind == TURNS


def test_several_examples_have_to_agree() -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.enter(x)
            return self.leave(h if x.ndim == 3 else F.relu(h))

    model = Branching(FREE["nothing"])
    spec = lmc.derive_spec(model, torch.randn(2, 3, 4), more_inputs=[torch.randn(2, 4)], rotations=True)
    assert spec.groups[str(spec.axes["enter.weight"][0].segments[0].group)].kind == STAYS
    assert not any(isinstance(fold, Fold) for fold in spec.folds)
