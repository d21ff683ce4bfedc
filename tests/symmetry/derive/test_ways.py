"""Models that go by their own values: what moves has to move on every way, and what hides its way is not followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.symmetry.derive import tracing

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


class Goes(nn.Module):
    """[batch, 4] -> 6 units -> what a function makes of them, with a layer among them -> 3."""

    def __init__(self, way: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.across, self.down, self.way = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3), way

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.way(self.across, self.up(x)))


def until_it_stays(layer: nn.Linear, h: Tensor) -> Tensor:
    z = torch.zeros_like(h)
    for _ in range(5):
        before, z = z, torch.tanh(0.3 * layer(z) + h)
        if (z - before).norm() < 0.1:
            break
    return z


def until_it_stays_by_a_number(layer: nn.Linear, h: Tensor) -> Tensor:
    z = torch.zeros_like(h)
    for _ in range(5):
        before, z = z, torch.tanh(0.3 * layer(z) + h)
        if abs(-(z - before).norm().item() / (1e-9 + z.norm().item())) < 0.1:
            break
    return z


def checked(layer: nn.Linear, h: Tensor) -> Tensor:
    if torch.isnan(h).any():
        raise ValueError("no number")
    if not torch.equal(h, h.abs()):
        h = h * 2
    return layer(h).relu() if h.max() > 0 else layer(h)


def some_rows(layer: nn.Linear, h: Tensor) -> Tensor:
    """Rows that are large go through the layer, by their places; the others as they are."""
    (rows,) = torch.where(h.sum(1) > 0)
    others = (h.sum(1) <= 0).nonzero()
    h = h.index_add(0, rows, layer(h[rows]))
    return torch.cat([h, h[h.sum(1) > 0, :], h[others[:, 0]] * 2]).mean(0, keepdim=True)


def chosen_entries(layer: nn.Linear, h: Tensor) -> Tensor:
    """The mean of entries that are large, and the places of some."""
    places = h.mean(1).gt(0).nonzero(as_tuple=True)[0]
    return layer(h) - h.masked_select(h.mean(1, keepdim=True) > 0).mean() + h[places].sum(0)


FREE = {way.__name__: way for way in (until_it_stays, until_it_stays_by_a_number, checked, some_rows)}


@pytest.mark.parametrize("name", FREE)
def test_what_moves_on_all_ways_is_found(name: str) -> None:
    spec = lmc.derive_spec(Goes(FREE[name]), X)
    assert sorted(spec.sizes.values()) == ([6, 6] if name == "checked" else [6])
    assert spec.verified is not None and spec.verified.error < 1e-5
    asks = name != "some_rows"
    notes = spec.explain().notes
    assert [note.startswith("the model goes by its own values at test_ways.py:") for note in notes] == [True] * asks


def test_entries_that_a_mask_takes_out_of_their_places_stay() -> None:
    assert not lmc.derive_spec(Goes(chosen_entries), X).axes["up.weight"][0].groups


def by_its_mean(layer: nn.Linear, h: Tensor) -> Tensor:
    return layer(h).relu() if h.mean() > -100 else layer(h.cumsum(1))


def by_its_mean_as_a_number(layer: nn.Linear, h: Tensor) -> Tensor:
    mean = h.mean().item()
    return layer(h).relu() if 2 * (mean + 1) ** 2 - 1 > -100 else layer(h.cumsum(1))


def by_its_first(layer: nn.Linear, h: Tensor) -> Tensor:
    return layer(h).relu() if h[0, 0] > 0 else layer(h.tanh())


def by_all_of_its_first(layer: nn.Linear, h: Tensor) -> Tensor:
    return layer(h).relu() if torch.allclose(h[0], torch.linspace(0, 1, 6, dtype=h.dtype)) else layer(h.tanh())


@pytest.mark.parametrize("way", [by_its_mean, by_its_mean_as_a_number, by_its_first, by_all_of_its_first])
def test_what_one_way_tells_apart_stays(way: Callable[[nn.Linear, Tensor], Tensor]) -> None:
    spec = lmc.derive_spec(Goes(way), X)
    assert not spec.axes["up.weight"][0].groups and not spec.axes["across.weight"][1].groups
    # Behind the way it goes it is free on both.
    assert spec.axes["across.weight"][0].groups == spec.axes["down.weight"][1].groups != ()


def as_a_float(layer: nn.Linear, h: Tensor) -> Tensor:
    return layer(h).relu() if float(h.mean()) > -100 else layer(h.cumsum(1))


def as_a_whole_number(layer: nn.Linear, h: Tensor) -> Tensor:
    for _ in range(int(h.detach().abs().sum().clamp(1, 2).item())):
        h = layer(h).tanh()
    return h


def as_a_count(layer: nn.Linear, h: Tensor) -> Tensor:
    return layer(h).relu() if (h > 0).sum().item() > 2 else layer(h.cumsum(1))


@pytest.mark.parametrize("way", [as_a_float, as_a_whole_number, as_a_count])
def test_a_model_that_hides_its_way_is_not_followed(way: Callable[[nn.Linear, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"strict=False|nothing may be permuted"):
        lmc.derive_spec(Goes(way), X)


def test_a_model_with_too_many_ways_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST_WAYS", 2)
    with pytest.raises(ValueError, match="nothing may be permuted"):
        lmc.derive_spec(Goes(checked), X)


def test_sizes_that_values_decide_need_weights() -> None:
    with pytest.raises(ValueError, match=r"test_ways\.py:\d+.*(gives as many entries as its values say|DataDependent)"):
        lmc.derive_spec(Goes(some_rows).to("meta"), X)


def test_the_model_and_its_hooks_stay_as_they_were() -> None:
    model = Goes(until_it_stays)
    lmc.derive_spec(model, X, verify=False)
    assert not model._forward_pre_hooks and model.training
