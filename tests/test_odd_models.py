"""Models that copy, save or name their tensors in ways of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import prune

import lmc_fast as lmc

INPUTS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS, torch.arange(12) % 3)]
AXES: dict[str, tuple[str | None, ...]] = {
    "fc1.weight": ("P", None),
    "fc1.bias": ("P",),
    "fc2.weight": ("Q", "P"),
    "fc2.bias": ("Q",),
    "fc3.weight": (None, "Q"),
    "fc3.bias": (None,),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return out


class CopiesItself(Net):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        return self


class SharesItsBase(Net):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesItsBase:
        twin = SharesItsBase()
        twin.fc1 = self.fc1
        twin.fc2.load_state_dict(self.fc2.state_dict())
        twin.fc3.weight, twin.fc3.bias = self.fc3.weight, self.fc3.bias
        return twin


class RefusesToBeCopied(Net):
    def __deepcopy__(self, memo: dict[int, Any]) -> RefusesToBeCopied:
        raise NotImplementedError("no copies")


class Slotted(Net):
    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "scale", torch.ones(1, requires_grad=True) * 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale.detach()


class Renamed(Net):
    def __init__(self) -> None:
        super().__init__()
        self._register_state_dict_hook(
            lambda module, state, prefix, local: OrderedDict((k.replace("fc", "layer"), v) for k, v in state.items())
        )
        self._register_load_state_dict_pre_hook(self._names_back)

    def _names_back(self, state: dict[str, Tensor], *_: Any) -> None:
        for name in list(state):
            if name.startswith("layer"):
                state[name.replace("layer", "fc")] = state.pop(name)


class SavesInPart(Net):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if not name.startswith("fc3")}


class CountsCalls(Net):
    """Writes to a floating point buffer whenever it runs."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x)


class WithEmpty(Net):
    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(0, 7))


def checkpointed() -> nn.Module:
    model = Net()
    model.fc2 = checkpoint_wrapper(model.fc2)  # type: ignore[assignment]
    return model


RENAMED = {name.replace("fc", "layer"): axes for name, axes in AXES.items()}
PART = {
    name: axes if name != "fc2.weight" else (None, "P") for name, axes in AXES.items() if not name.startswith("fc3")
}
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "copies itself": (CopiesItself, AXES),
    "shares its base": (SharesItsBase, AXES),
    "refuses copies": (RefusesToBeCopied, AXES),
    "slots": (Slotted, AXES),
    "renamed by hooks": (Renamed, RENAMED),
    "saves a part": (SavesInPart, {**PART, "fc2.bias": (None,)}),
    "writes to a buffer": (CountsCalls, {**AXES, "seen": (None,)}),
    "an empty parameter": (WithEmpty, {**AXES, "none": (None, "Q")}),
    "checkpointed part": (checkpointed, AXES),
}


def three(make: Callable[[], nn.Module]) -> list[nn.Module]:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(make().eval())
    # Parts that are not saved are not matched either: they have to be those of one base.
    if isinstance(models[0], SavesInPart):
        for model in models[1:]:
            model.fc3 = models[0].fc3
    return models


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_matched_merged_and_left_as_it_was(kind: str) -> None:
    make, axes = KINDS[kind]
    a, b, c = three(make)
    spec = lmc.PermutationSpec.from_axes(axes)
    lmc.verify_spec(a, spec, INPUTS)
    before = [{name: p.detach().clone() for name, p in model.named_parameters()} for model in (a, b, c)]
    with torch.no_grad():
        expected = a(INPUTS), b(INPUTS)
    match = lmc.weight_matching(a, b, spec)
    moved = match.apply(b)
    first, last = lmc.interpolate(a, b, [0.0, 1.0], match)
    with torch.no_grad():
        torch.testing.assert_close(moved(INPUTS), expected[1])
        torch.testing.assert_close(first(INPUTS), expected[0])
        torch.testing.assert_close(last(INPUTS), expected[1])
    assert moved is not b
    lmc.merge([a, b, c], lmc.match_many([a, b, c], spec))
    lmc.reestimate_batchnorm(a, BATCHES)
    for model, parameters in zip((a, b, c), before, strict=True):
        assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_its_loss_is_that_of_its_weights(kind: str) -> None:
    make, axes = KINDS[kind]
    a, b, _ = three(make)
    spec = lmc.PermutationSpec.from_axes(axes)
    match = lmc.weight_matching(a, b, spec)
    with torch.no_grad():
        ends = [float(nn.functional.cross_entropy(model(INPUTS), BATCHES[0][1])) for model in (a, b)]
    curve = lmc.loss_barrier(a, b, BATCHES, match, lambdas=3)
    assert [float(curve.loss[0]), float(curve.loss[-1])] == pytest.approx(ends, rel=1e-5)
    taylor = lmc.taylor_barrier(a, b, BATCHES, match, lambdas=3)
    assert [taylor.a.loss, taylor.b.loss] == pytest.approx(ends, rel=1e-5)
    h = 1e-2
    near = lmc.loss_barrier(a, b, BATCHES, match, lambdas=[0.0, h, 1.0]).loss[1]
    foretold = ends[0] + h * taylor.a.slope + h * h / 2 * taylor.a.curvature
    assert float(near) == pytest.approx(foretold, abs=1e-4)
    for learned in (
        lmc.straight_through_matching(a, b, BATCHES, spec, epochs=1),
        lmc.sinkhorn_matching(a, b, spec, batches=BATCHES, loss="midpoint", steps=2),
        lmc.activation_matching(a, b, BATCHES, spec),
    ):
        with torch.no_grad():
            torch.testing.assert_close(learned.apply(b)(INPUTS), b(INPUTS))


def test_a_module_that_does_not_take_its_own_state_is_refused() -> None:
    class Loses(Net):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {f"saved.{name}": tensor for name, tensor in super().state_dict(*args, **kwargs).items()}

    a, b, _ = three(Loses)
    spec = lmc.PermutationSpec.from_axes({f"saved.{name}": axes for name, axes in AXES.items()})
    match = lmc.weight_matching(a, b, spec)
    with pytest.raises(ValueError, match="model must take its own state dict"):
        match.apply(b)


def test_repair_names_a_pruned_bias() -> None:
    a, b, _ = three(Net)
    for model in (a, b):
        prune.random_unstructured(model.fc1, "bias", 0.5)
    axes = {name: of for name, of in AXES.items() if name != "fc1.bias"}
    spec = lmc.PermutationSpec.from_axes({**axes, "fc1.bias_orig": ("P",), "fc1.bias_mask": ("P",)})
    match = lmc.weight_matching(a, b, spec)
    with pytest.raises(ValueError, match="the bias of 'fc1' is parametrised"):
        lmc.repair(lmc.interpolate(a, b, 0.5, match), [a, b], BATCHES, [None, match])
