"""verify_spec draws elements of every kind, and finds what would change under them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Segment, SymmetryError
from lmc_fast.symmetry import Centre, Fold, Reader

from ..slow import slow_but
from .turning import Decoder, spec_of, tokens


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rotary", ["", "halves", "interleaved"], ids=["learned places", "halves", "pairs"])
@pytest.mark.parametrize("norm", slow_but(["layer", "rms", "gemma"], lambda norm: norm == "rms"))
def test_right_specs_pass_without_the_model_being_folded(norm: str, rotary: str, tied: bool) -> None:
    model = Decoder(norm, rotary, tied)
    spec = spec_of(model, norm, rotary, tied)
    assert lmc.verify_spec(model, spec, tokens()) < 1e-12
    assert spec.verified is not None


def with_kinds(spec: PermutationSpec, kinds: Mapping[str, str], folds: Any = None) -> PermutationSpec:
    groups = {
        name: Group(name, group.size, group.owner, kinds.get(name, group.kind)) for name, group in spec.groups.items()
    }
    return PermutationSpec(groups, spec.axes, spec.unsaved, spec.folds if folds is None else folds)


def test_a_norm_that_was_not_folded_is_found() -> None:
    model = Decoder("rms", "halves")
    spec = spec_of(model, "rms", "halves")
    left = tuple(fold for fold in spec.folds if not (isinstance(fold, Fold) and fold.weight == "blocks.1.norm2.weight"))
    with pytest.raises(SymmetryError, match=r"turning group 'stream'.*a norm's gain that is not folded") as caught:
        lmc.verify_spec(model, with_kinds(spec, {}, left), tokens())
    assert caught.value.group == "stream"
    assert not caught.value.is_fold


def test_a_gain_left_over_in_one_reader_is_found() -> None:
    model = Decoder("rms", "halves")
    spec = spec_of(model, "rms", "halves")
    folds = [
        Fold(fold.weight, fold.readers[:2]) if isinstance(fold, Fold) and len(fold.readers) > 2 else fold
        for fold in spec.folds
    ]
    with pytest.raises(SymmetryError, match=r"folding norm 'blocks.0.norm1.weight' into .*read elsewhere") as caught:
        lmc.verify_spec(model, with_kinds(spec, {}, tuple(folds)), tokens())
    assert caught.value.is_fold
    assert caught.value.group == "blocks.0.norm1.weight"


class Scaled(Decoder):
    """A gain on what a block writes."""

    def __init__(self) -> None:
        super().__init__("rms")
        self.gain = nn.Parameter(torch.ones(12))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.gain * self.blocks[0](x)
        return self.head(self.norm(self.blocks[1](x)))


def test_a_gain_of_a_layer_is_found() -> None:
    model = Scaled()
    spec = spec_of(model, "rms")
    with pytest.raises(SymmetryError, match="turning group 'stream'"):
        lmc.verify_spec(model, spec, tokens())


@pytest.mark.parametrize("rotary", ["halves", "interleaved"])
def test_a_rotary_axis_that_is_said_to_turn_is_found(rotary: str) -> None:
    model = Decoder("rms", rotary)
    spec = spec_of(model, "rms", "")
    with pytest.raises(SymmetryError, match=r"turning group 'key0'") as caught:
        lmc.verify_spec(model, spec, tokens())
    assert caught.value.group == "key0"


def test_planes_of_the_other_layout_are_found() -> None:
    model = Decoder("rms", "halves")
    with pytest.raises(SymmetryError, match=r"turning group 'key0'"):
        lmc.verify_spec(model, spec_of(model, "rms", "interleaved"), tokens())


def test_planes_that_are_said_to_change_places_are_found() -> None:
    model = Decoder("rms", "halves")
    spec = spec_of(model, "rms", "halves")
    with pytest.raises(SymmetryError, match=r"permuting group 'key1'"):
        lmc.verify_spec(model, with_kinds(spec, {"key1": "permutation"}), tokens())


def test_the_ones_of_a_layer_norm_have_to_be_held() -> None:
    model = Decoder("layer")
    with pytest.raises(SymmetryError, match="turning group 'stream'"):
        lmc.verify_spec(model, with_kinds(spec_of(model), {"stream": "orthogonal"}), tokens())


def test_a_mean_that_counts_is_found() -> None:
    model = Decoder("rms")
    spec = spec_of(model, "rms")
    folds = (*spec.folds, Centre("places", 1))
    with pytest.raises(SymmetryError, match=r"taking the mean out of 'places' .*not only LayerNorms") as caught:
        lmc.verify_spec(model, with_kinds(spec, {}, folds), tokens())
    assert caught.value.is_fold


class Odd(nn.Module):
    """Units of an odd function, and of one that is not."""

    def __init__(self, is_odd: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 3)
        self.act = torch.tanh if is_odd else torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def test_signs_are_tried() -> None:
    spec = PermutationSpec.from_axes(
        {"up.weight": ("u", None), "up.bias": ("u",), "down.weight": (None, "u"), "down.bias": (None,)},
        [Group("u", kind="signed")],
        model=Odd(True),
    )
    assert lmc.verify_spec(Odd(True), spec, torch.randn(4, 5)) < 1e-12
    with pytest.raises(SymmetryError, match="permuting and negating group 'u'"):
        lmc.verify_spec(Odd(False), spec, torch.randn(4, 5))


def test_an_axis_that_is_missing_is_found() -> None:
    model = Decoder("rms")
    spec = spec_of(model, "rms")
    axes = {**spec.axes, "places": tuple(lmc.Axis((Segment.fixed(size),)) for size in (9, 12))}
    with pytest.raises(SymmetryError, match="turning group 'stream'"):
        lmc.verify_spec(model, PermutationSpec(spec.groups, axes, folds=spec.folds), tokens())


class Ties(Decoder):
    """Computes something else once its weights are untied."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * (2.0 if self.head.weight is self.embed.weight else 1.0)


def test_untying_that_changes_the_model_is_found() -> None:
    model = Ties("rms", tied=True)
    with pytest.raises(SymmetryError, match=r"folding norm 'norm.weight'.*untied, before anything is folded"):
        lmc.verify_spec(model, spec_of(model, "rms", tied=True), tokens())


class Float(Decoder):
    """Runs in float32 alone."""

    def forward(self, tokens: Tensor) -> Tensor:
        assert self.embed.weight.dtype == torch.float32, "written for one dtype"
        return super().forward(tokens)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_rounding_is_no_fault_of_a_rotation(norm: str) -> None:
    model = Float(norm)
    spec = spec_of(model, norm)
    assert 0 < lmc.verify_spec(model, spec, tokens()) < 1e-3
    with pytest.raises(SymmetryError):
        lmc.verify_spec(model, with_kinds(spec, {"unit0": "orthogonal"}), tokens())


def test_readers_are_named_by_their_parameters() -> None:
    error = SymmetryError.of_fold(Fold("n", (Reader("w", 1), Reader("v", 0))), 0.5, "seen")
    assert "'n' into 'w', 'v' changes the model's outputs by 0.5" in str(error)
    assert "(seen)" in str(error)
