"""Gains of norms that are folded into what reads them, and those that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry import Centre, Fold, Reader

from ...slow import slow_but
from ..turning import Decoder, spec_of, tokens

F = nn.functional
WIDTH = 6


def folds_of(spec: lmc.PermutationSpec) -> list[Fold]:
    return [fold for fold in spec.folds if isinstance(fold, Fold)]


DECODERS = [
    *(("layer", "", False), ("layer", "", True), ("rms", "halves", False), ("rms", "halves", True)),
    *(("gemma", "interleaved", False), ("gemma", "interleaved", True)),
]


@pytest.mark.parametrize(("norm", "rotary", "tied"), slow_but(DECODERS, DECODERS[::3].__contains__))
def test_a_decoder_is_derived_as_by_hand(norm: str, rotary: str, tied: bool) -> None:
    model = Decoder(norm, rotary, tied).eval()
    spec, known = lmc.derive_spec(model, tokens(), rotations=True), spec_of(model, norm, rotary, tied)
    assert spec.explain().notes == ()
    assert spec.verified is not None
    assert set(spec.folds) == set(known.folds)
    # Rows of positions that these inputs do not reach are a group of their own.
    found = {name: group for name, group in spec.groups.items() if name != "places"}
    assert sorted((g.size, g.kind) for g in found.values()) == sorted((g.size, g.kind) for g in known.groups.values())
    pure = lmc.fold_norms(model, spec, example_inputs=tokens())
    turned = lmc.Transforms.random(spec).apply(pure)
    assert torch.allclose(turned(tokens()), model(tokens()), atol=1e-4)


class Reads(nn.Module):
    """A stream of 6, a norm with a gain of its own, and what reads it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.enter, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)
        self.linear, self.flat, self.conv = nn.Linear(WIDTH, 5), nn.Linear(3 * WIDTH, 5), nn.Conv1d(WIDTH, 5, 2)
        self.matrix, self.many = nn.Parameter(torch.randn(WIDTH, 5)), nn.Parameter(torch.randn(2, 5, WIDTH))
        self.beside, self.padded = nn.Linear(4 + 2 * WIDTH, 5), nn.Conv1d(WIDTH, 5, 3, padding=1)
        self.bias, self.scale = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.enter(x)
        h: Any = self.norm(stream)
        return getattr(self, self.how)(x, stream, h)

    def by_linear(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(h.transpose(0, 1)[1:].contiguous()) + self.linear(F.dropout(h.mean(1), 0.1, self.training))

    def by_flat(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.flat(h.flatten(1))

    def by_columns(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.flat(h.mT.reshape(h.shape[0], -1))

    def by_conv(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.conv(h.permute(0, 2, 1))

    def by_padded(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.padded(h.mT)

    def by_addmm(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return torch.addmm(self.bias, h.view(-1, WIDTH), self.matrix)

    def by_matmul(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return 2.0 * (h * x.sum(-1, keepdim=True)) @ self.matrix

    def by_bmm(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return torch.bmm(self.many, h.mT)

    def by_einsum(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return torch.einsum("bpi,eoi->bpeo", h, self.many)

    def by_cat(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.beside(torch.cat([h[:, 0], x[:, 0], h.mean(1)], dim=-1))

    def by_pieces(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        one, _, three = h.unbind(1)
        return self.linear(one) + self.linear(h.split([1, 2], dim=1)[1][:, 0]) * self.linear(three)

    def by_sum(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return (
            self.linear(h.sum(1))
            + self.linear(h[:, torch.tensor([0, 2])].repeat_interleave(2, 1).index_select(1, torch.tensor([1])))[:, 0]
        )

    def by_activation(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(F.gelu(h))

    def by_stream(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(stream + h)

    def by_itself(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return h @ h.mT

    def as_output(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return torch.cat([self.linear(h), h], dim=-1)

    def by_two(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(h) + self.linear(stream)

    def by_gain(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(h) + self.norm.weight.sum()

    def by_scale(self, x: Tensor, stream: Tensor, h: Tensor) -> Tensor:
        return self.linear(stream + self.scale * F.dropout(self.enter(x).flatten(0, 1).view(stream.shape), 0.0))


LINEAR = {
    "by_flat": Reader("flat.weight", 1, "flat.bias", outer=3),
    "by_columns": Reader("flat.weight", 1, "flat.bias", inner=3),
    "by_conv": Reader("conv.weight", 1, "conv.bias"),
    "by_addmm": Reader("matrix", 0, "bias"),
    "by_padded": Reader("padded.weight", 1),
    "by_matmul": Reader("matrix", 0),
    "by_bmm": Reader("many", 2),
    "by_einsum": Reader("many", 2),
}
KEEPING = ("by_padded", "by_matmul", "by_bmm", "by_einsum")


@pytest.mark.parametrize("how", LINEAR)
def test_readers_are_found_with_their_axes(how: str) -> None:
    torch.manual_seed(0)
    model = Reads(how).eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2.0), model.norm.bias.normal_()
    x = torch.randn(2, 3, 4)
    spec = lmc.derive_spec(model, x, rotations=True)
    assert spec.explain().notes == ()
    assert folds_of(spec) == [Fold("norm.weight", (LINEAR[how],), "norm.bias", how in KEEPING)]
    pure = lmc.fold_norms(model, spec)
    assert torch.allclose(pure(x), model(x), atol=1e-4)
    assert torch.allclose(lmc.Transforms.random(spec).apply(pure)(x), model(x), atol=1e-4)
    assert Centre("enter.weight", 0) in spec.folds


def test_one_reader_may_read_at_several_places() -> None:
    x = torch.randn(2, 3, 4)
    several = {
        "by_linear": {Reader("linear.weight", 1, "linear.bias")},
        "by_pieces": {Reader("linear.weight", 1, "linear.bias")},
        "by_cat": {Reader("beside.weight", 1, "beside.bias"), Reader("beside.weight", 1, "beside.bias", offset=10)},
    }
    for how, readers in several.items():
        spec = lmc.derive_spec(Reads(how), x, rotations=True)
        assert set(folds_of(spec)[0].readers) == readers
        assert not folds_of(spec)[0].keeps_bias
    spec = lmc.derive_spec(Reads("by_sum"), x, rotations=True)
    assert folds_of(spec)[0].keeps_bias


REFUSED = {
    "by_activation": "this is no linear map",
    "by_stream": "this is no linear map",
    "by_itself": "this is no linear map",
    "by_two": "'linear.weight' is used elsewhere as well",
    "by_gain": "'norm.weight' is used elsewhere as well",
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_gain_that_cannot_be_folded_leaves_permutations_and_says_why(how: str) -> None:
    spec = lmc.derive_spec(Reads(how), torch.randn(2, 3, 4), rotations=True)
    assert spec.folds == ()
    (group,) = [group for group in spec.explain().groups if ("enter.weight", 0) in group.axes]
    assert group.kind == "permutation"
    assert "gain 'norm.weight' acts entry by entry and cannot be folded" in group.stiff
    assert REFUSED[how] in group.stiff
    assert "test_gains.py:" in group.stiff
    assert group.stiff in str(spec.explain())


def test_what_the_model_gives_stays() -> None:
    spec = lmc.derive_spec(Reads("as_output"), torch.randn(2, 3, 4), rotations=True)
    assert spec.folds == ()
    assert spec.axes["enter.weight"][0].is_fixed


class Scaled(nn.Module):
    """Blocks whose outputs are scaled, as vision transformers have them."""

    def __init__(self, written: str = "once") -> None:
        super().__init__()
        self.written = written
        self.enter, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.leave = nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH), nn.Linear(WIDTH, 3)
        self.scale, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        block = self.down(F.gelu(self.up(self.norm(h))))
        if self.written == "twice":
            h = h + block
        if self.written == "bent":
            block = F.relu(block)
        return self.leave(F.layer_norm(h + self.scale * F.dropout(block, 0.1, self.training), (WIDTH,)))


def test_the_scale_of_a_layer_goes_into_what_it_scales() -> None:
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(2, 3, 4)
    spec = lmc.derive_spec(model, x, rotations=True)
    scale = next(fold for fold in folds_of(spec) if fold.weight == "scale")
    assert set(scale.readers) == {Reader("down.weight", 0), Reader("down.bias", 0)}
    # Past the scale, which is 1 then, a mean is still taken out.
    assert {Centre("down.weight", 0), Centre("down.bias", 0)} <= set(spec.folds)
    pure = lmc.fold_norms(model, spec, example_inputs=x)
    assert bool((pure.scale == 1).all())
    assert torch.allclose(lmc.Transforms.random(spec).apply(pure)(x), model(x), atol=1e-4)


@pytest.mark.parametrize("written", ["twice", "bent"])
def test_a_scale_of_what_others_read_as_well_stays(written: str) -> None:
    spec = lmc.derive_spec(Scaled(written), torch.randn(2, 3, 4), rotations=True)
    assert spec.folds == ()
    assert all(group.kind == "permutation" for group in spec.groups.values())


class Shared(nn.Module):
    """One norm, one map, used again and again; or by several names."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.enter, self.norm, self.other = nn.Linear(4, WIDTH), nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.map, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        if how == "tied gains":
            self.other.weight = self.norm.weight
        self.again = nn.Linear(WIDTH, WIDTH)
        if how in ("tied maps", "tied apart"):
            self.again.weight = self.map.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        second = self.norm if self.how in ("one norm", "tied maps") else self.other
        maps = (self.map, self.map if self.how in ("one norm", "two norms") else self.again)
        h = h + maps[0](self.norm(h))
        return self.leave(F.rms_norm(h + maps[1](h if self.how == "tied apart" else second(h)), (WIDTH,)))


def test_shared_norms_and_maps_are_folded_where_all_agree() -> None:
    x = torch.randn(2, 4)
    one = lmc.derive_spec(Shared("one norm"), x, rotations=True)
    assert folds_of(one) == [Fold("norm.weight", (Reader("map.weight", 1),))]
    tied = lmc.derive_spec(Shared("tied maps"), x, rotations=True)
    assert set(folds_of(tied)[0].readers) == {Reader("map.weight", 1), Reader("again.weight", 1)}
    apart = lmc.derive_spec(Shared("tied apart"), x, rotations=True)
    assert folds_of(apart) == [Fold("norm.weight", (Reader("map.weight", 1, tied="again.weight"),))]
    for spec in (one, tied, apart):
        assert spec.verified is not None
        assert spec.explain().notes == ()


@pytest.mark.parametrize("how", ["two norms", "tied gains"])
def test_shared_norms_and_maps_that_do_not_agree_stay(how: str) -> None:
    spec = lmc.derive_spec(Shared(how), torch.randn(2, 4), rotations=True)
    assert spec.folds == ()
    assert all(group.kind == "permutation" for group in spec.groups.values())


def test_a_post_norm_stream_stays_and_its_heads_turn() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 7, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 12), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
    model = nn.Sequential(*model, nn.Linear(12, 3)).eval()
    spec = lmc.derive_spec(model, torch.randn(2, 5, 4), rotations=True)
    kinds = sorted((group.size, group.kind) for group in spec.groups.values())
    assert kinds == [(2, "permutation"), (6, "orthogonal"), (6, "orthogonal"), (7, "permutation"), (12, "permutation")]
    assert "norm1.weight' acts entry by entry and cannot be folded" in str(spec.explain())


def test_a_pre_norm_stream_turns() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 7, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(12), enable_nested_tensor=False)
    model = nn.Sequential(nn.Linear(4, 12), encoder, nn.Linear(12, 3)).eval()
    x = torch.randn(2, 5, 4)
    spec = lmc.derive_spec(model, x, rotations=True)
    assert (12, "orthogonal_keeping_ones") in {(group.size, group.kind) for group in spec.groups.values()}
    pure = lmc.fold_norms(model, spec, example_inputs=x)
    assert torch.allclose(lmc.Transforms.random(spec).apply(pure)(x), model(x), atol=1e-4)
    told = str(spec.explain())
    assert "12 turn (orthogonal, keeping ones)" in told
    assert "what is folded:\n   1.layers.0: norm1.weight into self_attn.in_proj_weight" in told
    assert "fold: goes into what reads the norm" in told
