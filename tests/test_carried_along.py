"""Entries that nothing sums and no group touches: every function carries them along, as files do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

KINDS = [torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2]
AXES = {"0.weight": ("P", None), "0.bias": ("P",), "2.weight": (None, "P"), "2.bias": (None,)}


class Net(nn.Sequential):
    """Keeps phases, or scales of 8 bits, beside its weights."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
        self.register_buffer("kept", torch.tensor([0.5, -1.0, 2.0, 0.0]).to(dtype))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture(params=KINDS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("named", [False, True], ids=["left-out", "named"])
@pytest.mark.parametrize("as_state", [False, True], ids=["module", "state-dict"])
def test_every_matcher_takes_them(dtype: torch.dtype, named: bool, as_state: bool) -> None:
    nets = [Net(dtype, seed) for seed in range(3)]
    spec = lmc.PermutationSpec.from_axes(AXES | ({"kept": (None,)} if named else {})).bind(nets[0])
    batches, targets = [torch.randn(16, 4) for _ in range(2)], torch.randint(0, 3, (16,))
    pairs = [(batch, targets) for batch in batches]
    models = [dict(net.state_dict()) if as_state else net for net in nets]
    a, b, _ = models
    match = lmc.weight_matching(a, b, spec)
    assert match.l2_after <= match.l2_before
    plain = lmc.weight_matching(
        *({n: t for n, t in net.state_dict().items() if n != "kept"} for net in nets[:2]),
        lmc.PermutationSpec.from_axes(AXES),
    )
    assert match.objective == plain.objective and match.l2_after == plain.l2_after
    lmc.weight_matching(a, b, spec, search="frank_wolfe")
    lmc.match_many(models, spec)
    lmc.sinkhorn_matching(a, b, spec, steps=2)
    if not as_state:
        lmc.activation_matching(a, b, batches, spec)
        lmc.straight_through_matching(a, b, pairs, spec, epochs=1)
    moved = match.apply(b)
    for merged in (moved, lmc.interpolate(a, b, 0.3, match), lmc.interpolate(a, b, 0.3), lmc.merge(models)):
        state = merged if isinstance(merged, dict) else merged.state_dict()
        assert state["kept"].dtype == dtype and torch.equal(bits(state["kept"]), bits(nets[0].kept))


def test_different_ones_have_no_mean(dtype: torch.dtype) -> None:
    a, b = Net(dtype, 0), Net(dtype, 1)
    b.kept = torch.zeros(4).to(dtype)
    assert lmc.weight_matching(a, b, lmc.PermutationSpec.from_axes(AXES)).l2_after > 0
    with pytest.raises(ValueError, match=r"model_a\['kept'\] must be a dense .* or the same in all models, got torch"):
        lmc.interpolate(a, b, 0.5)
    with pytest.raises(ValueError, match=r"models\[0\]\['kept'\] must be a dense"):
        lmc.merge([a, a, b])


def test_those_that_a_group_touches_are_refused(dtype: torch.dtype) -> None:
    state = Net(dtype, 0).state_dict()
    state["kept"] = torch.zeros(9).to(dtype)
    spec = lmc.PermutationSpec.from_axes({**AXES, "kept": ("P",)})
    with pytest.raises(ValueError, match=r"model_a\['kept'\] must be a dense float16"):
        lmc.weight_matching(state, state, spec)
    with pytest.raises(ValueError, match="match must leave what has no mean where it is, but moves 'kept', which is t"):
        lmc.interpolate(state, state, 0.5, lmc.Permutations.random(spec.bind(state), 0))
