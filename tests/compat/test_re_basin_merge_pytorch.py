"""Scripts of re-basin-merge-pytorch run with another import line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models import randomise
from lmc_fast.compat import re_basin_merge_pytorch as module
from lmc_fast.compat.re_basin_merge_pytorch import (
    IdentityWithParam,
    StoreBN,
    add_identity_to_net,
    apply_permutation,
    flat_weight_matching,
    flat_weight_matching_v2,
    get_permuted_param,
    mlp_permutation_spec,
    remove_identity_from_net,
    weight_matching,
)

from . import textbook


class MLP(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate([(10, 24), (24, 20), (20, 16), (16, 5)]):
            self.add_module(f"layer{i}", nn.Linear(inputs, outputs, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = torch.relu(self.get_submodule(f"layer{i}")(x))
        return self.get_submodule("layer3")(x)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        before = 4
        for stage, width in enumerate((4, 6, 8), 1):
            blocks = [Block(before if j == 0 else width, width) for j in range(3)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


class WideBlock(Block):
    """In pre-activation order."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.bn1 = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(torch.relu(self.bn1(x)))
        return self.conv2(torch.relu(self.bn2(out))) + self.shortcut(x)


class WideResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        before = 4
        for stage, width in enumerate((5, 6, 7), 1):
            blocks = [WideBlock(before if j == 0 else width, width) for j in range(8)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


class VGG(nn.Module):
    """With maps of two by two at the end, of which the classifier has four inputs a channel."""

    def __init__(self, layout: list[int], hidden: list[str]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for count in layout:
            for _ in range(count):
                layers += [nn.Conv2d(before, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()]
                before = 5
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = hidden
        sizes = [20, *[9] * len(hidden), 4]
        for name, inputs, outputs in zip([*hidden, "classifier"], sizes, sizes[1:], strict=False):
            self.add_module(name, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        for name in self.hidden:
            x = torch.relu(self.get_submodule(name)(x))
        return self.get_submodule("classifier")(x)


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.relu(self.conv2(x)).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def twins(make: Any) -> tuple[nn.Module, nn.Module]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = make()
        randomise(model, seed)
        made.append(model.eval())
    return made[0], made[1]


def random_perm(ps: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the scripts' own tests make one."""
    generator = torch.Generator().manual_seed(3)
    return {
        p: torch.randperm(state[axes[0][0]].shape[axes[0][1]], generator=generator)
        for p, axes in ps.perm_to_axes.items()
    }


MODELS = {
    "mlp": (MLP, lambda: mlp_permutation_spec(num_hidden_layers=3, bias_flg=True), (4, 10)),
    "mlp-without-bias": (lambda: MLP(bias=False), lambda: mlp_permutation_spec(3, False), (4, 10)),
    "cnn": (CNN, module.cnn_permutation_spec, (2, 3, 10, 10)),
    "resnet20": (ResNet, module.resnet20_permutation_spec, (2, 3, 8, 8)),
    "resnet20-identities": (lambda: add_identity_to_net(ResNet()), module.resnet20_i_permutation_spec, (2, 3, 8, 8)),
    "resnet50": (WideResNet, module.resnet50_permutation_spec, (2, 3, 4, 4)),
    "vgg11": (lambda: VGG([1, 1, 2, 2, 2], []), module.vgg11_permutation_spec, (2, 3, 64, 64)),
    "vgg16": (
        lambda: VGG([2, 2, 3, 3, 3], ["classifier0", "classifier1"]),
        module.vgg16_permutation_spec,
        (2, 3, 64, 64),
    ),
    "vgg1-16": (lambda: VGG([2, 2, 3, 3, 3], []), module.vgg1_16_permutation_spec, (2, 3, 64, 64)),
}


@pytest.mark.parametrize(("make", "build", "shape"), MODELS.values(), ids=MODELS)
def test_a_spec_names_every_parameter_and_keeps_the_function(make: Any, build: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = make()
    if not any(isinstance(part, IdentityWithParam) for part in model.modules()):
        randomise(model, 0)
    model.eval()
    ps, state, x = build(), model.state_dict(), torch.randn(shape)
    with torch.no_grad():
        y = model(x)
        perm = random_perm(ps, state)
        model.load_state_dict(apply_permutation(ps, perm, state))
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))
    assert all((perm[p] != torch.arange(len(perm[p]))).any() for p in perm)


def test_a_search_returns_permutations_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (model.state_dict() for model in twins(MLP))
    ps = mlp_permutation_spec(3, True)
    perm, metrics = weight_matching(ps, a, b, max_iter=300, init_perm=None, print_flg=False)
    assert capsys.readouterr().out == ""
    arrays = [{k: w.numpy() for k, w in state.items()} for state in (a, b)]
    ours = textbook.objective(ps, {p: index.numpy() for p, index in perm.items()}, *arrays)
    theirs = [textbook.objective(ps, textbook.weight_matching(ps, *arrays, seed=s), *arrays) for s in range(3)]
    assert ours >= min(theirs)
    moved = apply_permutation(ps, perm, b)
    vectors = [torch.cat([state[k].reshape(-1) for k in a]) for state in (a, b, moved)]
    wanted = [float((vectors[0] - other).norm()) / len(vectors[0]) for other in vectors[1:]]
    assert metrics["step"] == list(range(len(metrics["l2_dist"])))
    assert [metrics["l2_dist"][0], metrics["l2_dist"][-1]] == pytest.approx(wanted, rel=1e-5)
    assert metrics["l2_dist"] == sorted(metrics["l2_dist"], reverse=True) and len(metrics["l2_dist"]) > 2
    again, _ = weight_matching(ps, a, b, init_perm={p: index.float() for p, index in perm.items()})
    assert all(torch.equal(again[p], perm[p]) for p in perm) and "0/init_perm" in capsys.readouterr().out


def test_statistics_and_counters_of_a_script_s_own_spec_are_taken() -> None:
    """VGG specs in use name a permutation for a counter that has no dimension."""
    a, b = (model.state_dict() for model in twins(lambda: VGG([1, 1, 2, 2, 2], [])))
    axes = {k: (*e, None) for k, e in module.vgg11_permutation_spec().axes_to_perm.items()}
    axes |= {k: (axes[k.replace("num_batches_tracked", "weight")][0], None) for k in axes if k.endswith("tracked")}
    ps = module.permutation_spec_from_axes_to_perm(axes)
    perm, _ = weight_matching(ps, a, b, print_flg=False)
    plain, _ = weight_matching(module.vgg11_permutation_spec(), a, b, print_flg=False)
    assert all(torch.equal(perm[p], plain[p]) for p in plain)
    moved = apply_permutation(ps, perm, b)
    key = "features.1.num_batches_tracked"
    assert moved[key] is b[key]
    assert torch.equal(moved["features.1.running_var"], b["features.1.running_var"][perm["P_Conv_0"]])
    index = (perm["P_Conv_7"][:, None] * 4 + torch.arange(4)).flatten()
    assert torch.equal(get_permuted_param(ps, perm, "classifier.weight", b), b["classifier.weight"][:, index])


def gradients(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(w.shape, generator=generator) * 0.1 for k, w in state.items() if w.ndim}


def gain(ps: Any, a: dict[str, Tensor], perm: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    moved = apply_permutation(ps, perm, b)
    return sum(float((a[k].double() * moved[k]).sum()) for k in a)


@pytest.mark.parametrize("lam", [1.0, 0.5, 0.0])
def test_flat_searches_maximise_their_objectives(lam: float) -> None:
    a, b = (model.state_dict() for model in twins(MLP))
    ga, gb = gradients(a, 5), gradients(b, 6)
    ps = mlp_permutation_spec(3, True)
    start = {p: torch.arange(a[places[0][0]].shape[0]) for p, places in ps.perm_to_axes.items()}

    def first(perm: dict[str, Tensor]) -> float:
        return lam * gain(ps, a, perm, b) - (1 - lam) * gain(ps, a, perm, gb)

    def second(perm: dict[str, Tensor]) -> float:
        return 2 * lam * gain(ps, a, perm, b) - (1 - lam) / 2 * gain(ps, ga, perm, b)

    for search, objective in ((flat_weight_matching, first), (flat_weight_matching_v2, second)):
        perm, metrics = search(ps, a, b, ga, gb, lam=lam, max_iter=50, init_perm=None, print_flg=False)
        reached = objective(perm)
        assert reached > objective(start)
        # A local optimum: no exchange of two units gains anything.
        rng = np.random.default_rng(0)
        for _ in range(60):
            p = str(rng.choice(list(perm)))
            i, j = rng.choice(len(perm[p]), 2, replace=False)
            other = {**perm, p: perm[p].clone()}
            other[p][[i, j]] = perm[p][[j, i]]
            assert objective(other) <= reached + 1e-4 * abs(reached)
        moved, moved_grad = apply_permutation(ps, perm, b), apply_permutation(ps, perm, gb)
        flat = [sum(float((grad[k] * (a[k] - w[k])).sum()) for k in a) for w, grad in ((b, gb), (moved, moved_grad))]
        assert metrics["flatness"] == pytest.approx(flat, rel=1e-3)
        assert metrics["step"] == [0, 1] and len(metrics["l2_dist"]) == 2


def test_identities_do_not_count_in_the_second_flat_search() -> None:
    models = [add_identity_to_net(model) for model in twins(ResNet)]
    a, b = (model.state_dict() for model in models)
    ps = module.resnet20_i_permutation_spec()
    none = {k: torch.zeros_like(w) for k, w in a.items()}
    perm, _ = flat_weight_matching_v2(ps, a, b, none, none, print_flg=False)
    heavy = {k: 100 * w if k.endswith("identity") else w for k, w in b.items()}
    same, _ = flat_weight_matching_v2(ps, a, heavy, none, none, print_flg=False)
    counted, _ = weight_matching(ps, a, heavy, print_flg=False)
    assert all(torch.equal(perm[p], same[p]) for p in perm)
    assert any(not torch.equal(perm[p], counted[p]) for p in perm)


def test_identities_come_and_go() -> None:
    model = twins(ResNet)[0]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        net = add_identity_to_net(add_identity_to_net(model))
        torch.testing.assert_close(net(x), model(x))
        assert sum(isinstance(part, IdentityWithParam) for part in net.modules()) == 9
        assert set(net.state_dict()) == set(module.resnet20_i_permutation_spec().axes_to_perm)
        back = remove_identity_from_net(net)
    assert {k: w.tolist() for k, w in back.state_dict().items()} == {
        k: w.tolist() for k, w in model.state_dict().items()
    }
    assert not any(isinstance(part, IdentityWithParam) for part in model.modules())


def test_statistics_are_kept_aside() -> None:
    params = dict(twins(ResNet)[0].state_dict())
    before = dict(params)
    store = StoreBN()
    with pytest.raises(ValueError, match="must come after remove_bn"):
        store.repair_bn(params)
    rest = store.remove_bn(params)
    assert rest is params and not any("running" in k for k in params) and store.full_key == list(before)
    assert store.repair_bn(params) is params and set(params) == set(before)
    assert params["bn1.running_var"] is before["bn1.running_var"]


def test_nothing_to_permute_is_nothing_to_search() -> None:
    ps = module.permutation_spec_from_axes_to_perm({"a": (None,)})
    params = {"a": torch.ones(2)}
    assert weight_matching(ps, params, params) == ({}, {"step": [], "l2_dist": []})
    found = flat_weight_matching(ps, params, params, params, params)
    assert found == ({}, {"step": [], "l2_dist": [], "flatness": []})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ps, s: weight_matching(ps, s, s, print_flg=1), TypeError, "print_flg must be a bool, got 1"),
        (lambda ps, s: flat_weight_matching(ps, s, s, s, {}), KeyError, "grad_b must have .* lacks 'layer0.weight'"),
        (lambda ps, s: flat_weight_matching(ps, s, s, 3, s), TypeError, "grad_a must be a dict"),
        (
            lambda ps, s: flat_weight_matching_v2(ps, s, s, {**s, "layer0.bias": torch.ones(2)}, s),
            ValueError,
            r"grad_a\['layer0.bias'\] must have the shape of the parameter, \(24,\), got \(2,\)",
        ),
        (lambda ps, s: flat_weight_matching(ps, s, s, s, s, lam="x"), TypeError, "lam must be a finite number"),
        (lambda ps, s: mlp_permutation_spec(0, True), ValueError, "num_hidden_layers must be"),
        (lambda ps, s: mlp_permutation_spec(3, "yes"), TypeError, "bias_flg must be a bool"),
        (lambda ps, s: add_identity_to_net(s), TypeError, "original_net must be a torch.nn.Module"),
        (lambda ps, s: remove_identity_from_net(s), TypeError, "original_net must be a torch.nn.Module"),
        (lambda ps, s: StoreBN().remove_bn([1]), TypeError, "params must be a dict"),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(mlp_permutation_spec(3), twins(MLP)[0].state_dict())
