"""verify_spec blames the spec for nothing that is the model's doing, and for all that is the spec's."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import Group, PermutationSpec, Segment, architectures
from lmc_fast.symmetry.exact import Exact

F = nn.functional


class Net(nn.Module):
    """Three layers; variants below change the forward pass only, so that one spec serves all."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def head(self, h: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(h)))

    def forward(self, x: Any) -> Any:
        return self.head(F.relu(self.fc1(x)))


class FloatNorm(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x).float()
        return self.head((h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype))


class Casts(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class HalfInside(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc1(x)).to(torch.bfloat16).to(x.dtype))


class FloatTable(Net):
    """A constant that is no buffer stays in float32 when the model is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.table)


class Autocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


class OnlyFloat(Net):
    dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        assert self.fc1.weight.dtype == self.dtype, "written for one dtype"
        return super().forward(x.to(self.dtype))


class OnlyBfloat(OnlyFloat):
    dtype = torch.bfloat16


class NumpyNorm(Net):
    """Rounds to float32 where torch does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x).numpy().astype(np.float32)
        h = h / np.square(h).sum(-1, keepdims=True, dtype=np.float32)
        return self.head(torch.from_numpy(h).to(self.fc2.weight.dtype))


class Dropout(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.fc1(x)), 0.5))


class Bernoulli(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.fc1(x))
        return self.head(h * torch.empty_like(h).bernoulli_(0.7) * torch.bernoulli(torch.full_like(h, 0.5)))


class Noise(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        h = h + 0.1 * torch.randn_like(h) + torch.rand(h.shape) + torch.empty_like(h).uniform_(1, 3)
        return self.head(h + torch.normal(h, 0.1) + torch.empty_like(h).normal_(1, 2).exponential_())


class OwnGenerator(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seed = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seed += 1
        h = self.fc1(x)
        return self.head(h + torch.randn(h.shape, generator=torch.Generator().manual_seed(self.seed)))


class Shuffled(Net):
    """Random, and not in its units."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[torch.randperm(len(x))]


class CachedWeight(Net):
    cache: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, "cache", None) is None:
            self.cache = self.fc2.weight.detach().clone()
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), self.cache, self.fc2.bias)))


class CachedInDict(Net):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        weight = self.cache.setdefault("fc2", self.fc2.weight.detach().clone())
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), weight, self.fc2.bias)))


class CachedInArray(Net):
    kept: np.ndarray

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "kept"):
            self.kept = self.fc2.weight.detach().double().numpy().copy()
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), torch.from_numpy(self.kept).to(x), self.fc2.bias)))


class CachedInObject(Net):
    def __init__(self) -> None:
        super().__init__()
        # A lock: the object is shared by copies, and must be left as it is.
        self.kept = types.SimpleNamespace(weight=None, lock=threading.Lock())

    def forward(self, x: Tensor) -> Tensor:
        if self.kept.weight is None:
            self.kept.weight = self.fc2.weight.detach().clone()
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), self.kept.weight.to(x), self.fc2.bias)))


class CachedProperty(Net):
    @functools.cached_property
    def weight(self) -> Tensor:
        return self.fc2.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), self.weight, self.fc2.bias)))


class CachedCall(Net):
    @functools.cache  # noqa: B019
    def weight(self) -> Tensor:
        return self.fc2.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), self.weight(), self.fc2.bias)))


class CachedBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.fc2.weight.detach().clone()
        return self.fc3(F.relu(F.linear(F.relu(self.fc1(x)), self.kept, self.fc2.bias)))


class Growing(Net):
    """Keys and values of a language model: every call adds to them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(F.relu(self.fc1(x)).detach())
        return self.head(torch.cat(self.seen))


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.add_(1))


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


Pair = collections.namedtuple("Pair", ["first", "second"])


class Outputs(Net):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(super().forward(x))


def masked(value: float) -> Callable[[Tensor], Tensor]:
    return lambda out: out.masked_fill(torch.tensor([True, False, False]), value)


class Named(Net):
    def forward(self, input_values: Tensor, scale: float = 1.0) -> Tensor:
        return scale * super().forward(input_values)


class FromDict(Net):
    def forward(self, batch: Any) -> Tensor:
        return super().forward(batch["x"])


class SameName(Net):
    """Takes a dict under a name that stands in the dict."""

    def forward(self, x: Any) -> Tensor:
        assert isinstance(x, dict), "takes a dict"
        return super().forward(x["x"])


class Gated(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.gate) * self.fc1(x))


class Explodes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(x).exp()).exp().exp())


class InferenceInside(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return super().forward(x.float())


def inference_model() -> nn.Module:
    with torch.inference_mode():
        return Net()


def has_run(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model(torch.randn(4, 5))
    return model


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))

# A model, what it is called with, and what must be said of it.
CASES: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "plain": (Net, X, ""),
    "train-no-grad": (lambda: Net().train().requires_grad_(False), X, ""),
    "inference-tensors": (inference_model, X, ""),
    "half": (lambda: Net().half(), X.half(), ""),
    "bfloat16": (lambda: Net().bfloat16(), X.bfloat16(), ""),
    "norm-in-float32": (FloatNorm, X, ""),
    "norm-in-float32-of-bfloat16": (lambda: FloatNorm().bfloat16(), X.bfloat16(), ""),
    "casts-inputs": (Casts, X, ""),
    "bfloat16-inside": (HalfInside, X, ""),
    "float32-constant": (FloatTable, X, ""),
    "autocast-inside": (Autocast, X, ""),
    "inference-mode-inside": (InferenceInside, X, ""),
    "only-float32": (OnlyFloat, X, "does not run in float64"),
    "only-bfloat16": (lambda: OnlyBfloat().bfloat16(), X, "does not run in float64"),
    "float32-in-numpy": (NumpyNorm, X, "are rounding"),
    "dropout-in-eval": (Dropout, X, "noise made constant"),
    "bernoulli": (Bernoulli, X, "noise made constant"),
    "noise": (Noise, X, "noise made constant"),
    "own-generator": (OwnGenerator, X, "noise made constant"),
    "cached-weight": (CachedWeight, X, "every run had a copy"),
    "cached-weight-has-run": (lambda: has_run(CachedWeight()), X, "emptied: cache"),
    "cached-in-dict-has-run": (lambda: has_run(CachedInDict()), X, "emptied: cache"),
    "cached-in-array-has-run": (lambda: has_run(CachedInArray()), X, "emptied: kept"),
    "cached-in-object-has-run": (lambda: has_run(CachedInObject()), X, "emptied: kept"),
    "cached-property-has-run": (lambda: has_run(CachedProperty()), X, "emptied: weight"),
    "cached-call-has-run": (lambda: has_run(CachedCall()), X, "every run had a copy"),
    "cached-buffer-has-run": (lambda: has_run(CachedBuffer()), X, "emptied: kept"),
    "growing": (Growing, X, "every run had a copy"),
    "growing-has-run": (lambda: has_run(Growing()), X, "emptied: seen"),
    "inputs-in-place": (InPlace, X, ""),
    "dataclass-out": (lambda: Outputs(Output), X, ""),
    "namedtuple-out": (lambda: Outputs(lambda out: Pair("text", {"a": [out]})), X, ""),
    "ordered-dict-out": (lambda: Outputs(lambda out: collections.OrderedDict(logits=out, count=3)), X, ""),
    "numpy-out": (lambda: Outputs(lambda out: out.numpy()), X, ""),
    "number-out": (lambda: Outputs(lambda out: out.sum().item()), X, ""),
    "complex-out": (lambda: Outputs(torch.fft.fft), X, ""),
    "classes-out": (lambda: Outputs(lambda out: out.argmax(-1)), torch.randn(64, 5), ""),
    "mask-of-large-numbers": (lambda: Outputs(masked(-1e30)), X, ""),
    "mask-of-infinity": (lambda: Outputs(masked(float("-inf"))), X, ""),
    "keywords": (Named, {"input_values": X, "scale": 2.0}, ""),
    "keywords-in-user-dict": (Named, collections.UserDict(input_values=X), ""),
    "dict-as-argument": (FromDict, {"x": X}, ""),
    "user-dict-as-argument": (FromDict, (collections.UserDict(x=X),), ""),
    "dict-by-its-own-key": (SameName, {"x": X}, ""),
    "numpy-in": (Net, X.numpy(), ""),
    "numpy-float64-in": (Net, [X.numpy().astype(np.float64)], ""),
    "explodes": (Explodes, 3 * X, ""),
}


def spec_of(wrong: str | None = None) -> PermutationSpec:
    spec = architectures.mlp(Net())
    return spec if wrong is None else PermutationSpec.from_axes(dict(spec.axes) | {wrong: (None,)})


def frozen(value: Any) -> Any:
    """What a caller could see of inputs."""
    if isinstance(value, (dict, collections.UserDict)):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value


@pytest.mark.parametrize(("make", "inputs", "note"), CASES.values(), ids=CASES.keys())
def test_a_right_spec_passes_and_it_is_said_how(make: Callable[[], nn.Module], inputs: Any, note: str) -> None:
    model, spec, before = make(), spec_of(), frozen(inputs)
    training, tensors = model.training, {name: t.clone() for name, t in model.state_dict().items()}
    attributes = {key: len(value) for key, value in vars(model).items() if isinstance(value, (list, dict))}
    error = lmc.verify_spec(model, spec, inputs)
    verified = spec.verified
    assert type(error) is float and verified is not None and verified.error == error
    assert verified.precision == "float64" or "does not run in float64" in note
    assert error < (1e-12 if verified.precision == "float64" and "rounding" not in note else 0.05)
    assert note in verified.note and (note or not verified.note)
    assert model.training == training and frozen(inputs) == before
    assert all(torch.equal(t, tensors[name]) for name, t in model.state_dict().items())
    assert {key: len(value) for key, value in vars(model).items() if isinstance(value, (list, dict))} == attributes


@pytest.mark.parametrize("wrong", ["fc1.bias", "fc2.bias"])
@pytest.mark.parametrize(("make", "inputs", "note"), CASES.values(), ids=CASES.keys())
def test_a_wrong_spec_is_blamed_all_the_same(make: Callable[[], nn.Module], inputs: Any, note: str, wrong: str) -> None:
    spec = spec_of(wrong)
    with pytest.raises(lmc.SymmetryError) as error:
        lmc.verify_spec(make(), spec, inputs)
    assert error.value.group == wrong.removesuffix(".bias") and error.value.error > 1e-4
    assert spec.verified is None


class TestRandom:
    def test_noise_outside_of_units_is_seeded(self) -> None:
        spec = spec_of()
        assert lmc.verify_spec(Shuffled(), spec, X) < 1e-12
        assert spec.verified is not None and "was seeded" in spec.verified.note

    @pytest.mark.parametrize("wrong", [None, "fc1.bias"], ids=["right", "wrong"])
    def test_noise_that_cannot_be_calmed_blames_nobody(self, wrong: str | None) -> None:
        class NumpyNoise(Net):
            def forward(self, x: Tensor) -> Tensor:
                h = self.fc1(x)
                return self.head(h + torch.from_numpy(np.random.standard_normal(h.shape)))  # noqa: NPY002

        with pytest.raises(ValueError, match="its forward pass is random") as error:
            lmc.verify_spec(NumpyNoise(), spec_of(wrong), X)
        assert not isinstance(error.value, lmc.SymmetryError)

    def test_outputs_that_never_come_back_are_said_to_be(self) -> None:
        calls = [0]

        class Counts(Net):
            def forward(self, x: Tensor) -> Tensor:
                calls[0] += 1
                return calls[0] * super().forward(x)

        with pytest.raises(ValueError, match="the same weights and inputs give different outputs"):
            lmc.verify_spec(Counts(), spec_of(), X)

    @pytest.mark.parametrize("model", [Net, Dropout, Shuffled], ids=lambda kind: kind.__name__)
    def test_the_callers_generators_stay(self, model: type[nn.Module]) -> None:
        net, spec = model(), spec_of()
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        lmc.verify_spec(net, spec, X)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]  # noqa: NPY002

    def test_constants_in_place_of_noise(self) -> None:
        with Exact(None, calm=True):
            assert torch.empty(3).uniform_(2, 4).tolist() == [3, 3, 3]
            assert torch.rand(2).tolist() == [0.5, 0.5]
            assert torch.normal(2.0, 1.0, (2,)).unique().numel() == 1
            torch.testing.assert_close(torch.normal(torch.zeros(2), 2.0), torch.full((2,), 1.4))
            torch.testing.assert_close(torch.empty(2).normal_(1, 2), torch.full((2,), 2.4))
            assert torch.bernoulli(torch.tensor([0.0, 0.2])).tolist() == [0, 1]
            assert torch.empty(2).bernoulli_().tolist() == [1, 1] and torch.empty(2).bernoulli_(0).tolist() == [0, 0]
            assert torch.multinomial(torch.tensor([0.1, 0.7, 0.2]), 2).tolist() == [1, 2]
            assert F.dropout(torch.ones(50), 0.5).unique().numel() == 1


class TestWhatCannotBeRun:
    @pytest.mark.parametrize(
        ("model", "inputs", "message"),
        [
            (Net(), torch.randn(3, 4), r"inputs \[3, 4\], but its forward pass fails .* cannot be multiplied"),
            (Net(), (), "inputs none, but its forward pass fails .* missing 1 required positional argument"),
            (FromDict(), {"y": X}, "fails in float64 and in its own dtype: KeyError: 'x'"),
            (Outputs(lambda out: "text"), X, "must return a floating point tensor.* got a str"),
            (Outputs(lambda out: out * float("nan")), X, "outputs that are not finite at random weights"),
            (Outputs(lambda out: torch.ones(3)), X, "the same outputs at other weights"),
        ],
        ids=["shape", "nothing", "key", "text", "nan", "constant"],
    )
    def test_is_named(self, model: nn.Module, inputs: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            lmc.verify_spec(model, spec_of(), inputs)
        assert not isinstance(error.value, lmc.SymmetryError)

    def test_a_model_that_is_no_module(self) -> None:
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
            lmc.verify_spec(Net().state_dict(), spec_of(), X)  # type: ignore[arg-type]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    was = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(was)


def float32_inside(model: nn.Module) -> nn.Module:
    """What layers return goes through float32 and a norm-like scale that is computed there."""

    def through(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out.float().mul(1.0).to(out.dtype)

    for part in model.modules():
        if not list(part.children()):
            part.register_forward_hook(through)
    return model


def own_dtype(model: nn.Module) -> nn.Module:
    """Runs in float32 only."""

    def check(module: nn.Module, args: Any) -> None:
        assert next(module.parameters()).dtype == torch.float32

    model.register_forward_pre_hook(check)
    return model


def with_dropout(model: nn.Module) -> nn.Module:
    """Drops what layers return, in eval mode as well."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda module, args, out: F.dropout(out, 0.3))
    return model


def changed(spec: PermutationSpec, changes: dict[str, Any], *groups: Group) -> PermutationSpec:
    axes = dict(spec.axes) | changes
    return PermutationSpec.from_axes(axes, groups or [g for g in spec.groups.values() if g.owner or g.size])


def across_heads() -> PermutationSpec:
    fused = (Segment("q"), Segment("q"), Segment("v"))
    axes = {"qkv.weight": (fused, None), "qkv.bias": (fused,), "out.weight": (None, "v"), "out.bias": (None,)}
    return PermutationSpec.from_axes(axes, [Group("q", 12), Group("v", 12)])


def flat_group_norm() -> PermutationSpec:
    axes = {name: tuple("c" if "channel" in axis.groups else None for axis in axes) for name, axes in
            models.GroupNormNet.spec().axes.items()}  # fmt: skip
    return PermutationSpec.from_axes(axes)


def dense_grouped() -> PermutationSpec:
    axes = {name: tuple("o" if "output" in axis.groups else None for axis in axes) for name, axes in
            models.GroupedNet.spec().axes.items()}  # fmt: skip
    return PermutationSpec.from_axes(axes)


def by_position_only() -> PermutationSpec:
    """The flatten's entries taken as if a place owned its channels, and not a channel its places."""
    spec = architectures.vgg(models.ConvNet())
    return changed(spec, {"classifier.1.weight": ("classifier.1", Segment("features.4", outer=4))})


def permuted_classes() -> PermutationSpec:
    spec = architectures.vgg(models.ConvNet())
    return changed(spec, {"classifier.3.weight": ("classes", "classifier.1"), "classifier.3.bias": ("classes",)})


def still_statistics(kind: str) -> Callable[[], PermutationSpec]:
    return lambda: changed(architectures.vgg(models.ConvNet()), {f"features.1.{kind}": (None,)})


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TRAPS: dict[str, tuple[Callable[[], nn.Module], Callable[[], PermutationSpec], Tensor]] = {
    "running-mean-stays": (models.ConvNet, still_statistics("running_mean"), IMAGES),
    "running-var-stays": (models.ConvNet, still_statistics("running_var"), IMAGES),
    "flatten": (models.ConvNet, by_position_only, IMAGES),
    "classes": (models.ConvNet, permuted_classes, IMAGES),
    "grouped-convolution": (models.GroupedNet, dense_grouped, torch.randn(2, 2, 5, 5)),
    "group-norm": (models.GroupNormNet, flat_group_norm, torch.randn(2, 2, 5, 5)),
    "heads": (models.Attention, across_heads, torch.randn(2, 5, 6)),
}


@pytest.mark.parametrize(
    "way", [lambda model: model, float32_inside, own_dtype, with_dropout], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(("make", "wrong", "inputs"), TRAPS.values(), ids=TRAPS.keys())
def test_the_traps_of_the_field_are_caught(
    make: Callable[[], nn.Module],
    wrong: Callable[[], PermutationSpec],
    inputs: Tensor,
    way: Callable[[nn.Module], nn.Module],
) -> None:
    with pytest.raises(lmc.SymmetryError) as error:
        lmc.verify_spec(way(make()), wrong(), inputs)
    assert error.value.error > 1e-3


RIGHT: dict[str, tuple[Callable[[], nn.Module], Callable[[], PermutationSpec], Tensor]] = {
    "vgg": (models.ConvNet, lambda: architectures.vgg(models.ConvNet()), IMAGES),
    "resnet": (models.small_resnet, lambda: architectures.resnet(models.small_resnet()), IMAGES),
    "attention": (models.Attention, models.Attention.spec, torch.randn(2, 5, 6)),
    "block": (models.TransformerBlock, models.TransformerBlock.spec, torch.randn(2, 5, 5)),
    "experts": (models.Experts, models.Experts.spec, torch.randn(4, 5)),
    "group-norm": (models.GroupNormNet, models.GroupNormNet.spec, torch.randn(2, 2, 5, 5)),
    "grouped": (models.GroupedNet, models.GroupedNet.spec, torch.randn(2, 2, 5, 5)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", [float32_inside, own_dtype, with_dropout], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("make", "spec", "inputs"), RIGHT.values(), ids=RIGHT.keys())
def test_right_specs_of_all_kinds_pass(
    make: Callable[[], nn.Module],
    spec: Callable[[], PermutationSpec],
    inputs: Tensor,
    way: Callable[[nn.Module], nn.Module],
    seed: int,
) -> None:
    assert lmc.verify_spec(way(make()), spec(), inputs, seed=seed) < 1e-4


def test_one_group_that_is_written_as_two_is_caught() -> None:
    """Two units each: permuted both, they move together by luck."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3))
    axes = {"0.weight": ("p", None), "0.bias": ("p",), "2.weight": (None, "q"), "2.bias": (None,)}
    for seed in range(10):
        with pytest.raises(lmc.SymmetryError):
            lmc.verify_spec(model, PermutationSpec.from_axes(axes), torch.randn(5, 3), seed=seed)


def test_a_deep_model_in_bfloat16_alone() -> None:
    """Rounding of a hundredth must not be blamed, nor a wrong axis missed."""

    class Deep(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            assert self[0].weight.dtype == torch.bfloat16
            return super().forward(x.bfloat16())

    layers = [part for _ in range(6) for part in (nn.Linear(16, 16), nn.Tanh())]
    model = Deep(*layers, nn.Linear(16, 4)).bfloat16()
    axes = dict(architectures.mlp(model).axes)
    inputs = torch.randn(8, 16)
    for seed in range(5):
        assert lmc.verify_spec(model, PermutationSpec.from_axes(axes), inputs, seed=seed) < 0.2
        with pytest.raises(lmc.SymmetryError, match="group '6'"):
            lmc.verify_spec(model, PermutationSpec.from_axes(axes | {"6.weight": (None, "4")}), inputs, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_under_another_default_dtype(dtype: torch.dtype) -> None:
    model = Net()
    with default_dtype(dtype):
        assert lmc.verify_spec(model, spec_of().bind(model), X) < 1e-12


def test_a_gate_at_zero_hides_nothing() -> None:
    axes = {**spec_of().axes, "gate": ()}
    assert lmc.verify_spec(Gated(), PermutationSpec.from_axes(axes), X) < 1e-12
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(Gated(), PermutationSpec.from_axes(axes | {"fc1.bias": (None,)}), X)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8)),
        (nn.Sequential(nn.Linear(3, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))), torch.randn(2, 3)),
    ],
    ids=["lstm", "transformer", "weight-norm"],
)
def test_other_forward_passes_run(model: nn.Module, inputs: Tensor) -> None:
    fixed = {name: (None,) * tensor.ndim for name, tensor in model.state_dict().items()}
    spec = PermutationSpec.from_axes(fixed)
    assert lmc.verify_spec(model, spec, inputs) == 0
    assert spec.verified is not None and spec.verified.precision == "float64"


def test_an_lstm_that_is_permuted_wrongly() -> None:
    """One gate's units moved, and the others' not."""
    model = nn.LSTM(3, 4, batch_first=True)
    gates = (Segment("h"), Segment.fixed(4), Segment.fixed(4), Segment.fixed(4))
    axes = {name: (gates, *[None] * (tensor.ndim - 1)) for name, tensor in model.state_dict().items()}
    with pytest.raises(lmc.SymmetryError):
        lmc.verify_spec(model, PermutationSpec.from_axes(axes), torch.randn(2, 5, 3))


class TestRecord:
    def test_what_it_says(self) -> None:
        model, spec = Net(), spec_of()
        lmc.verify_spec(model, spec, X)
        verified = spec.verified
        assert verified is not None
        assert (verified.by, verified.model, verified.inputs) == ("verify_spec", "Net", "[4, 5]")
        assert verified.version == lmc.__version__ and verified.precision == "float64"
        assert str(verified).startswith("verified by verify_spec on Net, inputs [4, 5], largest change ")

    def test_it_goes_along_and_is_no_part_of_equality(self, tmp_path: Any) -> None:
        model, spec = Net(), spec_of()
        lmc.verify_spec(model, spec, X)
        assert spec.bind(model).verified == spec.verified
        assert spec == spec_of() and hash(spec) == hash(spec_of())
        # A file may have been edited, and another spec is another one.
        assert PermutationSpec.from_json(spec.to_json(tmp_path / "spec.json")).verified is None
        assert dataclasses.replace(spec, axes=dict(spec.axes) | {"fc1.bias": (None,)}).verified is None
