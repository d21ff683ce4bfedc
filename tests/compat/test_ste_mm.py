"""Scripts of STE-MM run with another import line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.models import randomise
from lmc_fast.compat import ste_mm
from lmc_fast.compat.ste_mm import (
    StoreBN,
    apply_permutation,
    generate_permutation_spec,
    get_permuted_param,
    weight_matching,
    weight_matching_uv,
)


class Net(nn.Module):
    """With what their networks have: maps that are flattened, BatchNorm, and a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)
        self.layer0, self.relu1 = nn.Linear(24, 16), nn.ReLU(inplace=True)
        self.layer1 = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn(self.conv(x)))).flatten(1)
        return self.layer1(self.relu1(self.layer0(x)))


SHAPE = [1, 6, 6]


@pytest.fixture(scope="module")
def nets() -> list[Any]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = Net()
        randomise(net, seed)
        made.append(net.eval())
    return made


@pytest.fixture(scope="module")
def ps(nets: list[Any]) -> Any:
    return generate_permutation_spec(nets[0], [1, *SHAPE])


def inputs() -> Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(7))


def check_moved(before: nn.Module, after: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(after(inputs()), before(inputs()), rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(w, after.state_dict()[k]) for k, w in before.state_dict().items())


def copy_of(net: nn.Module) -> nn.Module:
    twin = Net().eval()
    twin.load_state_dict(net.state_dict())
    return twin


@pytest.mark.parametrize("kind", [weight_matching, weight_matching_uv], ids=lambda kind: kind.__name__)
def test_a_matcher_fits_transforms_and_goes_on(
    kind: Any, nets: list[Any], ps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = nets[:2]
    wm = kind(ps)
    assert wm.fit(a.state_dict(), b.state_dict()) is None and capsys.readouterr().out == ""
    twin = copy_of(b)
    wm.transform(twin)
    check_moved(b, twin)
    left = {k: w for k, w in twin.state_dict().items() if "running" not in k and "tracked" not in k}
    distance = sum(float((a.state_dict()[k] - w).square().sum()) for k, w in left.items()) ** 0.5
    assert wm.metrics["l2_dist"][-1] == pytest.approx(distance, rel=1e-5)
    assert wm.metrics["l2_dist"] == sorted(wm.metrics["l2_dist"], reverse=True)
    # Fitted again it begins where it was: one sweep says that nothing moves.
    found = {p: index.clone() for p, index in wm.perm.items()}
    wm.fit(a.state_dict(), b.state_dict(), max_iter=300)
    assert all(torch.equal(wm.perm[p], index) for p, index in found.items()) and len(wm.metrics["l2_dist"]) == 1
    wm.append_metric("l2_dist", 1.0)
    assert wm.metrics["l2_dist"][-1] == 1.0
    wm.save(tmp_path / "wm_0.pth")
    wm.save(str(tmp_path / "wm_0.pth"))
    for source in (str(tmp_path / "wm_0.pth"), {p: index.float() for p, index in found.items()}):
        other = kind(ps, verbose=True)
        other.load(source)
        assert all(torch.equal(other.perm[p], index) for p, index in found.items())
    other.fit(a.state_dict(), b.state_dict())
    assert "0/init_perm: weight matching sweep 1" in capsys.readouterr().out


def test_a_spec_by_hand_names_a_part(nets: list[Any]) -> None:
    spec = ste_mm.permutation_spec_from_axes_to_perm(
        {"layer0.weight": ("P_0", None), "layer0.bias": ("P_0", None), "layer1.weight": (None, "P_0")}
    )
    state = nets[0].state_dict()
    perm = {"P_0": torch.arange(16).flip(0).float()}
    moved = apply_permutation(spec, perm, state)
    assert moved["conv.weight"] is state["conv.weight"]
    assert torch.equal(get_permuted_param(spec, perm, "layer1.weight", state), state["layer1.weight"].flip(1))
    wm = weight_matching(spec)
    wm.fit(nets[1].state_dict(), state)
    assert list(wm.perm or ()) == ["P_0"]
    nothing = weight_matching(ste_mm.PermutationSpec({}, {}))
    nothing.fit(state, state)
    assert nothing.perm == {} and nothing.metrics == {}


def test_nodes_may_be_left_out(nets: list[Any], ps: Any) -> None:
    name = ps.axes_to_perm["conv.weight"][0]
    fewer = generate_permutation_spec(nets[0], [1, *SHAPE], remove_nodes=[name])
    assert set(fewer.perm_to_axes) == set(ps.perm_to_axes) - {name}


def test_several_networks_are_laid_over_each_other(nets: list[Any]) -> None:
    moved, wms = ste_mm.match_wm(nets, SHAPE, fast_wm=True, verbose=False)
    assert [type(wm) for wm in wms] == [weight_matching_uv] * 3
    for before, after in zip(nets[1:], moved[1:], strict=True):
        check_moved(before, after)

    def spread(models: list[Any]) -> float:
        vectors = [nn.utils.parameters_to_vector(model.parameters()).detach() for model in models]
        return sum(float((one - other).norm()) for one in vectors for other in vectors)

    assert spread(moved) < spread(nets)
    twin = copy_of(nets[1])
    wms[1].transform(twin)
    assert all(torch.equal(w, twin.state_dict()[k]) for k, w in moved[1].state_dict().items())


@pytest.mark.parametrize("mid", [True, False])
def test_permutations_are_learned_by_the_loss(nets: list[Any], mid: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    loader = [
        (torch.randn(8, *SHAPE, generator=generator), torch.randint(0, 4, (8,), generator=generator)) for _ in range(3)
    ]
    moved, wms = ste_mm.ste(nets[0], nets[1:], loader, None, 0.05, 1, mid, "cpu", SHAPE, False)
    assert moved[0] is nets[0] and len(moved) == 3 and [type(wm) for wm in wms] == [weight_matching] * 2
    for before, after in zip(nets[1:], moved[1:], strict=True):
        check_moved(before, after)


def test_statistics_are_kept_aside(nets: list[Any]) -> None:
    params = dict(nets[0].state_dict())
    store = StoreBN()
    assert not any("running" in k for k in store.remove_bn(params))
    assert set(store.repair_bn(params)) == set(nets[0].state_dict())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n, ps: weight_matching(ps).transform(n), ValueError, "fit or load must come first"),
        (lambda n, ps: weight_matching(ps).transform(3), TypeError, "model must be a torch.nn.Module"),
        (lambda n, ps: weight_matching(ps, verbose=1), TypeError, "verbose must be a bool"),
        (lambda n, ps: weight_matching(ps).load(3), TypeError, "arg must be a file, or a dict"),
        (lambda n, ps: generate_permutation_spec("net", [1, 2]), TypeError, "model must be a torch.nn.Module"),
        (lambda n, ps: generate_permutation_spec(n, 3), TypeError, "input_shape must be a sequence of whole numbers"),
        (lambda n, ps: generate_permutation_spec(n, [1, *SHAPE], [0]), TypeError, "remove_nodes must be names"),
        (lambda n, ps: ste_mm.match_wm([n], SHAPE), ValueError, "nets must hold 2 at least, got 1"),
        (lambda n, ps: ste_mm.match_wm(n, SHAPE), TypeError, "nets must be a list of torch.nn.Modules"),
        (lambda n, ps: ste_mm.match_wm([n, 3], SHAPE), TypeError, r"nets\[1\] must be a torch.nn.Module"),
        (lambda n, ps: ste_mm.ste(n, [n], [], None, 0.1, 1, 2, None, SHAPE), TypeError, "mid must be a bool, got 2"),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str, nets: list[Any], ps: Any) -> None:
    with pytest.raises(error, match=message):
        call(nets[0], ps)
