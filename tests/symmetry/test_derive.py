"""Specs of any module from its graph: what is found, what stays and why, and that nothing false is let free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lmc_fast as lmc
from benchmarks import models
from lmc_fast.experiments.models import ResNet
from lmc_fast.symmetry.derive import look
from lmc_fast.symmetry.derive.look import Dims, Look
from lmc_fast.symmetry.derive.table import table

from ..slow import slow_but
from .derive.side_by_side import Case, Derived, derived, side_by_side


def image(size: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, size, size)


# Of each model its inputs and, by hand, the sizes of roots and of what they own.
KNOWN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], list[int], list[int]]] = {
    "mlp": (models.small_mlp, lambda: torch.randn(2, 4), [9, 7], []),
    "convolutions and a flatten": (models.ConvNet, lambda: image(8), [6, 7, 12], []),
    "residual": (lambda: ResNet(1, 4, (1, 2), 3), lambda: image(8), [4, 4, 8, 8, 8], []),
    "attention in one matrix": (models.Attention, lambda: torch.randn(2, 5, 6), [3], [4, 4]),
    "a transformer's block": (models.TransformerBlock, lambda: torch.randn(2, 7, 5), [16, 4, 24], [4, 4]),
    "branches": (models.Concat, lambda: torch.randn(2, 4), [5, 7], []),
    "depthwise": (models.DepthwiseNet, lambda: image(5, 2), [6], []),
    "grouped": (models.GroupedNet, lambda: image(5, 2), [3], [2, 3]),
    "experts": (models.Experts, lambda: torch.randn(2, 5), [3], [4]),
    "group norm": (models.GroupNormNet, lambda: image(5, 2), [3], [2]),
    "torch's encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), 2, enable_nested_tensor=False
        ),
        lambda: torch.randn(2, 5, 12),
        [3, 20, 3, 20],
        [4, 4, 4, 4],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_exists_is_found_and_proven(name: str) -> None:
    build, inputs, roots, owned = KNOWN[name]
    model = models.randomise(build(), 0)
    spec = lmc.derive_spec(model, inputs())
    sizes = {kind: sorted(spec.sizes[g] for g in spec.groups if (g in spec.roots) == kind) for kind in (True, False)}
    assert sizes == {True: sorted(roots), False: sorted(owned)}
    assert spec.verified is not None and spec.verified.error < 1e-10
    assert set(spec.axes) == {n for n, t in model.state_dict().items() if t.is_floating_point()}


@pytest.mark.parametrize("name", ["mlp", "convolutions and a flatten", "residual"])
def test_builders_and_derivation_agree(name: str) -> None:
    build, inputs, *_ = KNOWN[name]
    model = build()
    builder = {"mlp": "mlp", "residual": "resnet"}.get(name, "vgg")
    spec, built = lmc.derive_spec(model, inputs()), getattr(lmc.architectures, builder)(model).bind(model)

    def carried(of: lmc.PermutationSpec) -> dict[tuple[str, int], frozenset[tuple[str, int]]]:
        """For every axis all that carry the same group."""
        places: dict[str, set[tuple[str, int]]] = {}
        for parameter, axes in of.axes.items():
            for position, axis in enumerate(axes):
                for group in axis.groups:
                    places.setdefault(group, set()).add((parameter, position))
        return {place: frozenset(group) for group in places.values() for place in group}

    assert carried(spec) == carried(built)


def test_planted_permutations_are_found_by_a_derived_spec() -> None:
    for seed in range(3):
        model = models.randomise(models.TransformerBlock(), seed)
        spec = lmc.derive_spec(model, torch.randn(2, 7, 5))
        truth = lmc.Permutations.random(spec, seed)
        found = lmc.weight_matching(model, truth.inverse().apply(model), spec)
        assert found.permutations == truth


class Tells(nn.Module):
    """Two layers with something between that tells units apart, or not."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 6, out: int = 6) -> None:
        super().__init__()
        self.up, self.down, self.between = nn.Linear(4, width), nn.Linear(out, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(self.up(x)))


FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu and a sum": lambda h: F.gelu(h) + 0.5 * h,
    "softmax": lambda h: torch.softmax(h, -1),
    "norm": lambda h: h / h.norm(dim=-1, keepdim=True),
    "layer norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "mean taken off": lambda h: h - h.mean(-1, keepdim=True),
    "a view and back": lambda h: h.view(-1, 1, 6).squeeze(1).reshape(-1, 6),
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "a constant added": lambda h: h + torch.full((6,), 2.0),
    "sorted": lambda h: h.sort(-1).values,
    "a product of itself": lambda h: (h.unsqueeze(-1) @ h.unsqueeze(-2)).sum(-1),
}
PINNED: dict[str, Callable[[Tensor], Tensor]] = {
    "places added": lambda h: h + torch.arange(6.0),
    "flipped": lambda h: h + h.flip(-1),
    "rolled": lambda h: h + h.roll(1, -1),
    "cumulated": lambda h: h.cumsum(-1),
    "looked up": lambda h: h[:, torch.tensor([1, 0, 2, 3, 5, 4])],
    "lower triangle": lambda h: (h.unsqueeze(-1) * h.unsqueeze(-2)).tril().sum(-1),
    "differences": lambda h: F.pad(h.diff(dim=-1), (0, 1)),
    "the largest": lambda h: h + h.argmax(-1, keepdim=True),
}


@cache
def together(free: bool) -> Derived:
    cases = {name: Case(Tells(between), torch.randn(5, 4), ()) for name, between in (FREE if free else PINNED).items()}
    return derived(cases, verify=free)


@pytest.mark.parametrize("name", FREE)
def test_units_that_are_treated_alike_are_free(name: str) -> None:
    assert together(True).sizes(name) == ((6,), ())


@pytest.mark.parametrize("name", PINNED)
def test_units_that_are_told_apart_stay_and_the_line_is_named(name: str) -> None:
    roots, owned = together(False).sizes(name)
    assert 6 not in roots + owned
    fixed, place = together(False).spec.explain().fixed, f"each.{list(PINNED).index(name)}.up.weight"
    reasons = [reason for axis in fixed if axis.parameter == place for reason in axis.reasons]
    assert any("test_derive.py" in reason for reason in reasons), reasons


def test_units_that_are_laid_over_their_neighbours_stay() -> None:
    spec = lmc.derive_spec(Tells(lambda h: F.pad(h[:, 1:] - h[:, :-1], (0, 1))), torch.randn(5, 4))
    assert not spec.groups
    assert "slice: is cut into single units: up.weight[0]" in str(spec.explain())


def test_only_units_that_are_picked_stay() -> None:
    spec = lmc.derive_spec(Tells(lambda h: h * h[:, :1] + h[:, 2:3]), torch.randn(5, 4))
    assert [spec.sizes[group] for group in spec.groups] == [3]


def test_halves_that_are_exchanged_move_together() -> None:
    def halves(h: Tensor) -> Tensor:
        first, second = h.chunk(2, -1)
        return torch.cat([second, first], -1) * h

    spec = lmc.derive_spec(Tells(halves), torch.randn(5, 4))
    assert [spec.sizes[group] for group in spec.groups] == [3]


def test_an_operation_without_a_rule_pins_and_is_told() -> None:
    spec = lmc.derive_spec(Tells(lambda h: h * torch.quantile(h, 0.5, dim=-1, keepdim=True)), torch.randn(5, 4))
    assert not spec.groups
    assert any("no rule" in note for note in spec.explain().notes)


def test_inputs_tied_weights_meta_and_what_cannot_be_traced() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight
            self.aux = nn.Linear(8, 5)

        def forward(self, ids: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
            h = self.embed(ids)
            h = h + self.down(torch.relu(self.up(h)))
            return {"logits": self.head(h if scale is None else h * scale)}

    ids = torch.randint(0, 11, (2, 7))
    model = Language()
    specs = [
        lmc.derive_spec(model, ids),
        lmc.derive_spec(model, (ids,)),
        lmc.derive_spec(model, {"ids": ids, "scale": torch.ones(())}),
        lmc.derive_spec(Language().to("meta"), ids),
    ]
    for spec in specs:
        assert sorted(spec.sizes[group] for group in spec.groups) == [8, 12]
        assert spec.axes["embed.weight"] == spec.axes["head.weight"] and not spec.axes["aux.weight"][1].groups
        assert spec.axes == specs[0].axes
    assert specs[-1].verified is None and specs[0].verified is not None

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match=r"model must be one that torch\.export can trace"):
        lmc.derive_spec(Branches(), torch.randn(2, 3))


def test_an_explanation_prints_and_is_data() -> None:
    spec = lmc.derive_spec(models.Attention(), torch.randn(2, 5, 6))
    told = spec.explain()
    text = str(told)
    assert "in each of 3" in text and "output: is what the model gives: out.weight[0], out.bias[0]" in text
    assert told.to_dict()["groups"][0]["size"] == 3
    # 3! orders of heads, 4! of each head's query and key dimensions, 4! of its value dimensions.
    assert 10**told.log10_permutations == pytest.approx(6 * 24**3 * 24**3)
    by_hand = models.Attention.spec().bind(models.Attention()).explain()
    assert by_hand.log10_permutations == pytest.approx(told.log10_permutations)
    with pytest.raises(ValueError, match="must be bound"):
        models.small_mlp() and lmc.PermutationSpec.from_axes({"w": ("P", None)}).explain()


def random_module(seed: int) -> tuple[nn.Module, Tensor]:
    """A composition of layers, views, norms and sums at random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.steps, width = nn.ModuleList(), [], 6
            for _ in range(draw(3, 5, 7)):
                kinds = ["linear", "linear", "relu", "norm", "residual", "cat", "flip", "softmax", "split"]
                step = draw(*kinds, *(["heads", "mix"] if width % 3 == 0 else []))
                following = draw(6, 12, 18) if step in ("linear", "cat") else width
                layer: nn.Module = nn.Identity()
                if step == "linear":
                    layer = nn.Linear(width, following)
                elif step == "norm":
                    layer = nn.LayerNorm(width) if draw(0, 1) else nn.BatchNorm1d(width)
                elif step == "residual":
                    layer = nn.Sequential(nn.Linear(width, 10), nn.Tanh(), nn.Linear(10, width))
                elif step == "cat":
                    layer, following = nn.Linear(width, 4), width + 4
                elif step == "heads":
                    layer = nn.Linear(width, width)
                elif step == "mix":
                    layer = nn.Linear(width // 3, width // 3)
                self.layers.append(layer)
                self.steps.append(step)
                width = following
            self.last = nn.Linear(width, 5)

        def forward(self, x: Tensor) -> Tensor:  # [batch, 6]
            for step, layer in zip(self.steps, self.layers, strict=True):
                if step in ("linear", "norm"):
                    x = layer(x)
                elif step == "relu":
                    x = torch.relu(x)
                elif step == "residual":
                    x = x + layer(x)
                elif step == "cat":
                    x = torch.cat([x, torch.sigmoid(layer(x))], -1)
                elif step == "flip":
                    x = x + x.flip(-1)
                elif step == "softmax":
                    x = x * torch.softmax(x, -1)
                elif step == "split":
                    first, second = x.chunk(2, -1)
                    x = torch.cat([first * second, second], -1)
                elif step == "heads":
                    parts = layer(x).unflatten(-1, (3, -1))
                    x = (torch.softmax(parts @ parts.transpose(-1, -2), -1) @ parts).flatten(-2)
                elif step == "mix":
                    x = torch.tanh(layer(x.unflatten(-1, (3, -1)))).flatten(-2)
            return self.last(x)

    torch.manual_seed(seed)
    return Random().eval(), torch.randn(4, 6, generator=generator)


# By another generator than that of derive/test_rules_random.py, which tries two hundred with --slow.
@pytest.mark.parametrize("start", slow_but(range(0, 40, 10), lambda start: start == 0))
def test_no_false_symmetry_in_random_modules(start: int) -> None:
    cases = {str(seed): Case(*random_module(seed), ()) for seed in range(start, start + 10)}
    together, inputs = side_by_side(cases)
    spec = lmc.derive_spec(together, inputs, verify=False)
    assert spec.groups and lmc.verify_spec(together, spec, inputs) < 1e-10


WRONG: Mapping[str, tuple[str, Callable[[Look], Dims]]] = {
    "a pinned dimension let free": ("aten.cumsum", lambda look: look.of(look.tensors()[0])),
    "a broadcast misread": ("aten.linear", lambda look: [*look.dims("input")[:-1], look.terms.atom(look.shape[-1])]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught_by_trying(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, rule = WRONG[name]
    monkeypatch.setitem(look.RULES, op, rule)
    model, inputs = Tells(lambda h: h.cumsum(-1)), torch.randn(5, 4)
    wrong = lmc.derive_spec(model, inputs, verify=False)
    assert wrong.groups
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(model, wrong, inputs)
    tried = lmc.derive_spec(model, inputs)
    assert len(tried.groups) < len(wrong.groups)
    assert any("please report" in note for note in tried.explain().notes)


def test_an_owner_that_is_none_is_caught_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixed(nn.Module):
        """Parts that attend to each other: what is summed over the parts is no part's own."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.up(x).unflatten(-1, (3, 2))
            return self.down((torch.softmax(parts @ parts.transpose(-1, -2), -1) @ parts).flatten(-2))

    model, inputs = Mixed(), torch.randn(5, 4)
    assert all(group.owner is None for group in lmc.derive_spec(model, inputs).groups.values())
    usual = look.RULES["aten.matmul"]

    def hides_what_is_summed(at: Look) -> Any:
        found = usual(at)
        at.inside.clear()
        return found

    monkeypatch.setitem(look.RULES, "aten.matmul", hides_what_is_summed)
    wrong = lmc.derive_spec(model, inputs, verify=False)
    assert any(group.owner is not None for group in wrong.groups.values())
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(model, wrong, inputs)
    assert any("please report" in note for note in lmc.derive_spec(model, inputs).explain().notes)


def test_the_page_on_specs_and_the_table_of_rules_say_what_is() -> None:
    root = Path(__file__).parent.parent.parent
    told = str(lmc.derive_spec(models.Attention(), torch.randn(2, 5, 6)).explain())
    assert told in (root / "docs" / "use" / "specs.md").read_text(encoding="utf-8")
    assert (root / "docs" / "rules.md").read_text(encoding="utf-8") == table()
    assert all((rule.__doc__ or "").strip() for rule in look.RULES.values())
