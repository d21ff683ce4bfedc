"""Scripts of rethink-re-basin run with another import line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.models import randomise
from lmc_fast.compat import rethink_re_basin as wm

from . import textbook


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def norm_of(kind: str, width: int) -> list[nn.Module]:
    return {"bn": [nn.BatchNorm2d(width)], "ln": [LayerNorm2d(width)]}.get(kind, [])


class VGG(nn.Module):
    def __init__(self, layout: list[int], kind: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for count in layout:
            for _ in range(count):
                conv = nn.Conv2d(before, 5, 3, padding=1, bias=kind != "nobias")
                layers += [conv, *norm_of(kind, 5), nn.ReLU()]
                before = 5
            layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Sequential(nn.Linear(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        bias = kind == "plain"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.norm1 = nn.Sequential() if bias else norm_of(kind, outputs)[0]
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = nn.Sequential() if bias else norm_of(kind, outputs)[0]
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), *norm_of(kind, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, kind: str, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=kind == "plain")
        self.norm1 = nn.Sequential() if kind == "plain" else norm_of(kind, 4)[0]
        before, segments = 4, []
        for width in (4, 6, 8):
            segments.append(nn.Sequential(*[Block(before if j == 0 else width, width, kind) for j in range(blocks)]))
            before = width
        self.segments, self.fc = nn.Sequential(*segments), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.segments(torch.relu(self.norm1(self.conv1(x)))).mean((2, 3)))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate([(12, 16), (16, 14), (14, 5)]):
            self.add_module(f"layer{i}", nn.Linear(inputs, outputs))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.get_submodule("layer0")(x.flatten(1)))
        return self.get_submodule("layer2")(self.relu2(self.get_submodule("layer1")(x)))


class SimpleMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer0, self.layer1 = nn.Linear(12, 16, bias=False), nn.Linear(16, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(torch.relu(self.layer0(x.flatten(1))))


MODELS: dict[str, Any] = {
    "mlp": (MLP, (6, 12)),
    "simple_mlp": (SimpleMLP, (6, 12)),
    "cifar_vgg11": (lambda: VGG([1, 1, 2, 2, 2], ""), (2, 3, 64, 64)),
    "cifar_vgg13_ln": (lambda: VGG([2, 2, 2, 2, 2], "ln"), (2, 3, 64, 64)),
    "cifar_vgg16_bn_4x": (lambda: VGG([2, 2, 3, 3, 3], "bn"), (2, 3, 64, 64)),
    "cifar_vgg19_nobias": (lambda: VGG([2, 2, 4, 4, 4], "nobias"), (2, 3, 64, 64)),
    "cifar_resnet14": (lambda: ResNet("bn"), (2, 3, 8, 8)),
    "ln_cifar_resnet14_2x": (lambda: ResNet("ln"), (2, 3, 8, 8)),
    "plain_cifar_resnet14": (lambda: ResNet("plain"), (2, 3, 8, 8)),
}


def twins(make: Any) -> tuple[nn.Module, nn.Module]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = make()
        randomise(model, seed)
        made.append(model.eval())
    return made[0], made[1]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_known_by_its_name(name: str) -> None:
    make, shape = MODELS[name]
    a, b = twins(make)
    x = torch.randn(shape)
    moved, perm = wm.weight_matching(name, a.state_dict(), b.state_dict(), device="cpu", return_perm=True, tol=1e-12)
    assert perm is not None and any((index != torch.arange(len(index))).any() for index in perm.values())

    def distance(state: dict[str, Tensor]) -> float:
        weights = [k for k in state if "running" not in k and "tracked" not in k]
        return sum(float((a.state_dict()[k] - state[k]).square().sum()) for k in weights)

    assert distance(moved) < distance(b.state_dict())
    with torch.no_grad():
        y = b(x)
        b.load_state_dict(moved)
        torch.testing.assert_close(b(x), y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))


def test_permutations_alone_and_parameters_alone() -> None:
    a, b = (model.state_dict() for model in twins(MLP))
    ps = wm.get_permutation_spec("mlp")
    perm = wm.get_wm_perm(ps, a, b, max_iter=100, init_perm=None, device=torch.device("cpu"))
    arrays = [{k: w.numpy() for k, w in state.items()} for state in (a, b)]
    ours = textbook.objective(ps, {p: index.numpy() for p, index in perm.items()}, *arrays)
    assert ours >= min(textbook.objective(ps, textbook.weight_matching(ps, *arrays, seed=s), *arrays) for s in range(3))
    moved, nothing = wm.weight_matching("mlp", a, b)
    assert nothing is None
    assert all(torch.equal(w, moved[k]) for k, w in wm.apply_permutation(ps, perm, b, device="cpu").items())
    again = wm.get_wm_perm(ps, a, b, init_perm=perm)
    assert all(torch.equal(again[p], perm[p]) for p in perm)


def test_what_a_spec_does_not_name_stays() -> None:
    ps = wm.mlp_permutation_spec(2, bias=False)
    state = {**twins(MLP)[0].state_dict(), "scale": torch.ones(())}
    perm = {"P_0": torch.arange(16).flip(0), "P_1": torch.arange(14)}
    moved = wm.apply_permutation(ps, perm, state)
    assert moved["scale"] is state["scale"] and moved["layer0.bias"] is state["layer0.bias"]
    assert torch.equal(wm.get_permuted_param(ps, perm, "layer0.weight", state), state["layer0.weight"].flip(0))
    assert wm.dense("fc", "P_0", None, bias=False) == {"fc.weight": (None, "P_0")}


@pytest.mark.parametrize("name", ["mlp", "cifar_vgg11", "cifar_resnet14"])
def test_planted_permutations_are_found_by_activations(name: str) -> None:
    make, shape = MODELS[name]
    a, _ = twins(make)
    ps, state = wm.get_permutation_spec(name), a.state_dict()
    generator = torch.Generator().manual_seed(1)
    planted = {
        p: torch.randperm(state[axes[0][0]].shape[axes[0][1]], generator=generator)
        for p, axes in ps.perm_to_axes.items()
    }
    b = make().eval()
    b.load_state_dict(wm.apply_permutation(ps, planted, state))
    loader = [(torch.randn(10, *shape[1:], generator=generator), torch.zeros(10)) for _ in range(2)]
    options: Any = {"print_freq": 1, "device": "cpu", "return_perm": True}
    moved, perm = wm.activation_matching(name, a, b, loader, **options, pre_relu=name != "mlp", type="git")
    assert perm is not None and all(torch.equal(perm[p], planted[p].argsort()) for p in planted)
    assert all(torch.allclose(moved[k].float(), w.float(), atol=1e-6) for k, w in state.items())
    if name == "mlp":
        found = wm.get_am_perm_git(name, a, b, loader, print_freq=1)
        assert all(torch.equal(found[p], perm[p]) for p in perm)
        assert wm.activation_matching(name, a, b, loader, 1)[1] is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: wm.get_permutation_spec("lenet"), ValueError, "model must be simple_mlp, mlp, .*got 'lenet'"),
        (lambda: wm.get_permutation_spec(3), TypeError, "model must be a model's name, got 3"),
        (lambda: wm.get_permutation_spec("cifar_vgg11_gn"), ValueError, "model must be cifar_vgg11, 13, 16 or 19"),
        (lambda: wm.cifar_vgg_permutation_spec("cifar_vgg12"), ValueError, "model must be cifar_vgg11"),
        (lambda: wm.cifar_resnet_permutation_spec("cifar_resnet21"), ValueError, "depth of 6 n . 2 in its name"),
        (lambda: wm.mlp_permutation_spec(0), ValueError, "num_hidden_layers must be"),
        (
            lambda: wm.activation_matching("mlp", MLP(), MLP(), [], 1, type="x"),
            ValueError,
            "type must be None or 'git'",
        ),
        (lambda: wm.get_am_perm("mlp", MLP(), MLP(), [], 1, pre_relu=1), TypeError, "pre_relu must be a bool"),
        (lambda: wm.get_wm_perm("mlp", {}, {}), TypeError, "ps must be a PermutationSpec, got 'mlp'"),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
