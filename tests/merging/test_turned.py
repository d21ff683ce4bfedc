"""What is made of models that are turned: sums, barriers, carried fine-tunes, against plain ones of turned weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast import Group, PermutationSpec, Transforms
from lmc_fast.symmetry.transforms import moved_along

from ..matching.test_turning import another
from ..symmetry.test_transforms import attention_spec

Model = dict[str, Tensor]


def test_interpolation_is_the_sum_of_turned_weights() -> None:
    spec, a = attention_spec()
    b, choice = another(a), Transforms.random(spec, 3)
    match = lmc.Matching(choice, 0.0, 1.0, 1.0, True, (), 0.0, "none")
    moved = choice.apply(b)
    for given in (choice, match):
        middle, end = lmc.interpolate(a, b, [0.25, 1.0], given)
        for name in a:
            assert torch.allclose(middle[name], 0.75 * a[name] + 0.25 * moved[name])
            assert torch.allclose(end[name], moved[name])
    merged = lmc.merge([b, a], [choice, None], weights=[0.4, 0.6])
    assert all(torch.allclose(merged[name], 0.4 * moved[name] + 0.6 * a[name]) for name in a)


def test_narrow_weights_are_rounded_once() -> None:
    spec, a = attention_spec()
    narrow = [{name: x.to(torch.bfloat16) for name, x in model.items()} for model in (a, another(a))]
    choice = Transforms.random(spec, 3)
    middle = lmc.interpolate(*narrow, 0.5, choice)
    for name, tensor in middle.items():
        exact = (narrow[0][name].double() + choice.apply_to(name, narrow[1][name].double())) / 2
        assert tensor.dtype == torch.bfloat16
        assert bool(((tensor.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()), name


def test_a_fine_tune_is_carried_over() -> None:
    spec, base = attention_spec()
    choice = Transforms.random(spec, 4)
    tuned = {name: x + 0.1 * another(base)[name] for name, x in base.items()}
    new = choice.apply(base)
    carried = lmc.rebase(tuned, base, new, choice, alpha=0.5)
    for name in base:
        assert torch.allclose(carried[name], new[name] + 0.5 * choice.apply_to(name, tuned[name] - base[name]))


def test_an_adapter_is_carried_over() -> None:
    """B A, moved, is the product of the moved factors."""
    spec, model = attention_spec()
    weights = {f"{name}.weight" if tensor.ndim == 2 else name: tensor for name, tensor in model.items()}
    renamed = PermutationSpec(
        spec.groups, {f"{name}.weight" if len(axes) == 2 else name: axes for name, axes in spec.axes.items()}
    ).bind(weights)
    choice = Transforms.random(renamed, 5)
    generator = torch.Generator().manual_seed(0)
    for name in ("q", "k", "v", "o", "up", "down"):
        out, into = model[name].shape
        a, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, into), (out, 2)))
        adapter = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        carried = lmc.rebase(adapter, weights, choice.apply(weights), choice)
        product = carried[f"base_model.model.{name}.lora_B.weight"] @ carried[f"base_model.model.{name}.lora_A.weight"]
        assert torch.allclose(product, choice.apply_to(f"{name}.weight", b @ a))
        with pytest.raises(ValueError, match=f"must have {into} entries along dimension 1"):
            lmc.rebase({**adapter, f"base_model.model.{name}.lora_A.weight": a[:, 1:]}, weights, weights, choice)


def test_any_tensor_can_be_moved_along_an_axis() -> None:
    spec, model = attention_spec()
    choice = Transforms.random(spec, 6)
    both = moved_along(choice, "o", 1, moved_along(choice, "o", 0, model["o"], 0), 1)
    assert torch.allclose(both, choice.apply_to("o", model["o"]))
    stacked = torch.stack([model["o"], 2 * model["o"]], dim=1)  # [width, 2, rows]
    moved = moved_along(choice, "o", 1, stacked, 2)
    assert torch.allclose(moved[:, 1], 2 * moved_along(choice, "o", 1, model["o"], 1))


def linear() -> tuple[nn.Module, nn.Module, PermutationSpec]:
    """Two linear maps one after the other: what lies between them may turn."""
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double() for _ in range(2))
    axes = {"0.weight": ("p", None), "0.bias": ("p",), "1.weight": (None, "p"), "1.bias": (None,)}
    return a, b, PermutationSpec.from_axes(axes, [Group("p", kind="orthogonal")], model=a)


BATCHES = [(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 2)]


def in_place_of(choice: Transforms) -> list[Callable[[nn.Module, nn.Module, object], object]]:
    """What is said of b as the choice moves it."""
    return [
        lambda a, b, match: lmc.loss_barrier(a, b, BATCHES, match, lambdas=5).loss.tolist(),
        lambda a, b, match: lmc.taylor_barrier(a, b, BATCHES, match).barrier,
        lambda a, b, match: lmc.loss_landscape([a, b, turned(a)], BATCHES, [None, match, None], points=3).loss.tolist(),
        lambda a, b, match: [
            x.tolist()
            for x in lmc.repair(lmc.interpolate(a, b, 0.5, match), [a, b], BATCHES, [None, match], spec=linear()[2])
            .state_dict()
            .values()
        ],
    ]


def turned(model: nn.Module) -> nn.Module:
    return Transforms.random(linear()[2], 9).apply(model)


@pytest.mark.parametrize("which", range(4), ids=["barrier", "taylor", "landscape", "repair"])
def test_what_looks_at_matched_models_sees_them_turned(which: int) -> None:
    a, b, spec = linear()
    choice = Transforms.random(spec, 2)
    measure = in_place_of(choice)[which]
    match = lmc.Matching(choice, 0.0, 1.0, 1.0, True, (), 0.0, "none")
    expected = measure(a, choice.apply(b), None)
    for given in (choice, match):
        assert torch.allclose(*(torch.as_tensor(flat(x)) for x in (measure(a, b, given), expected)))
    assert not torch.allclose(*(torch.as_tensor(flat(x)) for x in (measure(a, b, None), expected)))


def flat(value: object) -> list[float]:
    return [x for part in value for x in flat(part)] if isinstance(value, list) else [float(value)]  # type: ignore[arg-type]
