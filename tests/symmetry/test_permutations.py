"""Applying, inverting and composing permutations on every kind of axis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec], tuple[int, ...]]] = {
    "mlp": (models.small_mlp, architectures.mlp, (5, 4)),
    "mlp-of-one-unit": (lambda: models.small_mlp((1, 2)), architectures.mlp, (5, 4)),
    "mlp-wide": (lambda: models.small_mlp((63, 1000)), architectures.mlp, (5, 4)),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg, (2, 1, 8, 8)),
    "resnet": (models.small_resnet, architectures.resnet, (2, 1, 8, 8)),
    "attention": (models.Attention, lambda m: models.Attention.spec(), (2, 5, 6)),
    "experts": (models.Experts, lambda m: models.Experts.spec(), (4, 5)),
    "concat": (models.Concat, lambda m: models.Concat.spec(), (4, 4)),
    "depthwise": (models.DepthwiseNet, lambda m: models.DepthwiseNet.spec(), (2, 2, 5, 5)),
    "grouped": (models.GroupedNet, lambda m: models.GroupedNet.spec(), (2, 2, 5, 5)),
    "grouped-free": (models.FreeGroupedNet, lambda m: models.FreeGroupedNet.spec(), (2, 2, 5, 5)),
    "grouped-query": (models.GroupedQueryAttention, lambda m: models.GroupedQueryAttention.spec(), (2, 5, 7)),
    "grouped-query-rotary": (
        lambda: models.GroupedQueryAttention(rotary=True),
        lambda m: models.GroupedQueryAttention.spec(rotary=True),
        (2, 5, 7),
    ),
    "shared-inputs": (models.SharedInputs, lambda m: models.SharedInputs.spec(), (3, 4)),
    "groupnorm": (models.GroupNormNet, lambda m: models.GroupNormNet.spec(), (2, 2, 5, 5)),
}


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> tuple[nn.Module, lmc.PermutationSpec, Tensor]:
    build, spec, shape = KINDS[request.param]
    model = models.randomise(build(), seed=3)
    return model, spec(model).bind(model), torch.randn(shape)


def test_a_permuted_model_computes_the_same(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, inputs = kind
    model, inputs = model.double(), inputs.double()
    for seed in range(5):
        permuted = lmc.Permutations.random(spec, seed).apply(model)
        torch.testing.assert_close(permuted(inputs), model(inputs), rtol=1e-10, atol=1e-10)


def test_every_group_moves_something(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, _ = kind
    state = model.state_dict()
    for name in spec.groups:
        if spec.sizes[name] == 1:
            continue
        choice = torch.arange(spec.sizes[name]).roll(1).expand(spec.shape(name))
        permuted = lmc.Permutations(spec, {name: choice}).apply(state)
        moved = {key for key in state if not torch.equal(permuted[key], state[key])}
        touched = {key for key, axes in spec.axes.items() if any(name in axis.groups for axis in axes)}
        assert moved == touched


def test_the_inverse_undoes(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, _ = kind
    state = model.state_dict()
    permutation = lmc.Permutations.random(spec, 7)
    back = permutation.inverse().apply(permutation.apply(state))
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert permutation.after(permutation.inverse()) == lmc.Permutations.identity(spec)


def test_composition_is_one_after_the_other(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, _ = kind
    state = model.state_dict()
    first, second = lmc.Permutations.random(spec, 1), lmc.Permutations.random(spec, 2)
    one_by_one = second.apply(first.apply(state))
    at_once = second.after(first).apply(state)
    assert all(torch.equal(at_once[name], tensor) for name, tensor in one_by_one.items())


def test_the_model_stays_as_it_was(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, _ = kind
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    permuted = lmc.Permutations.random(spec, 5).apply(model)
    with torch.no_grad():
        for tensor in permuted.state_dict().values():
            tensor.zero_()
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_even_the_identity_copies_a_state_dict(kind: tuple[nn.Module, lmc.PermutationSpec, Tensor]) -> None:
    model, spec, _ = kind
    state = model.state_dict() | {"count": torch.tensor(3)}
    permuted = lmc.Permutations.identity(spec).apply(state)
    assert all(torch.equal(permuted[name], tensor) for name, tensor in state.items())
    assert all(permuted[name].data_ptr() != tensor.data_ptr() for name, tensor in state.items())


def test_gradients_stay_behind() -> None:
    model = models.small_mlp()
    model[1].weight.grad = torch.ones(9, 4)
    permuted = lmc.Permutations.random(architectures.mlp(model), 1).apply(model)
    assert permuted[1].weight.grad is None and model[1].weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_and_strides_are_kept(dtype: torch.dtype) -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(4, 3)})
    tensor = torch.randn(3, 4).to(dtype).T
    permuted = lmc.Permutations(spec, {"p": [2, 0, 1, 3]}).apply({"w": tensor})["w"]
    assert permuted.dtype == dtype
    assert torch.equal(permuted, tensor[[2, 0, 1, 3]])


def test_gathers_as_the_field_does() -> None:
    """perm[i] is the unit that is put at place i."""
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(3, 1)})
    permutation = lmc.Permutations(spec, {"p": [2, 0, 1]})
    assert permutation.index("w", 0).tolist() == [2, 0, 1]
    assert permutation.apply({"w": torch.tensor([[10.0], [11.0], [12.0]])})["w"].flatten().tolist() == [
        12,
        10,
        11,
    ]


def test_index_of_a_view_repeats_and_carries() -> None:
    segment = lmc.Segment("p", outer=2, inner=3)
    spec = lmc.PermutationSpec.from_axes({"w": (segment,)}, [lmc.Group("p", 2)], model={"w": torch.zeros(12)})
    assert lmc.Permutations(spec, {"p": [1, 0]}).index("w", 0).tolist() == [
        3,
        4,
        5,
        0,
        1,
        2,
        9,
        10,
        11,
        6,
        7,
        8,
    ]


def test_running_statistics_move_with_their_units() -> None:
    """The trap: statistics left behind, because the spec of research code does not list them."""
    model = models.randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed=0)
    plain = {
        "0.weight": ("p", None),
        "0.bias": ("p",),
        "1.weight": ("p",),
        "1.bias": ("p",),
        "2.weight": (None, "p"),
        "2.bias": (None,),
    }
    spec = lmc.PermutationSpec.from_axes(plain, model=model)
    permuted = lmc.Permutations(spec, {"p": [3, 1, 0, 2]}).apply(model)
    inputs = torch.randn(6, 3)
    torch.testing.assert_close(permuted(inputs), model(inputs))
    assert torch.equal(permuted[1].running_mean, model[1].running_mean[[3, 1, 0, 2]])


def test_statistics_move_even_if_the_spec_was_bound_without_them() -> None:
    model = models.randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed=0)
    weights = dict(model.named_parameters())
    spec = lmc.PermutationSpec.from_axes(
        {name: ("p",) if tensor.ndim == 1 else ("p", None) for name, tensor in weights.items() if name[0] != "2"}
        | {"2.weight": (None, "p"), "2.bias": (None,)},
        model=weights,
    )
    permuted = lmc.Permutations.random(spec, 1).apply(model)
    inputs = torch.randn(6, 3)
    torch.testing.assert_close(permuted(inputs), model(inputs))


def test_choices_are_checked() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(3, 1)})
    with pytest.raises(ValueError, match=r"group 'q', which the spec lacks"):
        lmc.Permutations(spec, {"q": [0]})
    with pytest.raises(ValueError, match=r"choices\['p'\] must have shape \(3,\), got \(2,\)"):
        lmc.Permutations(spec, {"p": [0, 1]})
    with pytest.raises(ValueError, match=r"must hold each of 0\.\.2 once"):
        lmc.Permutations(spec, {"p": [0, 1, 1]})
    with pytest.raises(TypeError, match=r"choices\['p'\] must be integers"):
        lmc.Permutations(spec, {"p": [0.0, 1.0, 2.0]})
    for wrong in ([0, [1, 2]], torch.zeros(3, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match=r"choices\['p'\] must be integers"):
            lmc.Permutations(spec, {"p": wrong})
    with pytest.raises(TypeError, match="spec must be a PermutationSpec"):
        lmc.Permutations("spec")  # type: ignore[arg-type]


def test_index_names_what_it_was_asked_for() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(3, 1)})
    permutation = lmc.Permutations.identity(spec)
    with pytest.raises(ValueError, match="parameter must be one of the spec's, got 'v'"):
        permutation.index("v", 0)
    with pytest.raises(TypeError, match="axis must be a whole number"):
        permutation.index("w", "0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"axis must be in 0\.\.1 of 'w', got 2"):
        permutation.index("w", 2)


def test_callers_arrays_are_copied() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p",)}, model={"w": torch.zeros(3)})
    mine = torch.tensor([2, 0, 1])
    permutation = lmc.Permutations(spec, {"p": mine})
    mine.zero_()
    permutation["p"].zero_()
    permutation.units("p").zero_()
    assert permutation["p"].tolist() == [2, 0, 1]
    assert permutation["p"].dtype == torch.int64


def test_another_specs_permutations_do_not_compose() -> None:
    one = lmc.PermutationSpec.from_axes({"w": ("p",)}, model={"w": torch.zeros(3)})
    other = lmc.PermutationSpec.from_axes({"w": ("p",)}, model={"w": torch.zeros(4)})
    with pytest.raises(ValueError, match="same spec"):
        lmc.Permutations.identity(one).after(lmc.Permutations.identity(other))


def test_equal_means_of_the_same_spec() -> None:
    one = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(3, 1)})
    other = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(3, 2)})
    assert lmc.Permutations.identity(one) == lmc.Permutations.identity(one)
    assert lmc.Permutations.identity(one) != lmc.Permutations.identity(other)
    assert len({one, other, one.bind({"w": torch.zeros(3, 1)})}) == 2
    assert lmc.Permutations.identity(one) != "p" and "0 of 3 units moved" in repr(lmc.Permutations.identity(one))


def test_random_choices_leave_the_global_generators_alone() -> None:
    spec = lmc.PermutationSpec.from_axes({"w": ("p",)}, model={"w": torch.zeros(50)})
    state = torch.get_rng_state()
    assert lmc.Permutations.random(spec, 1) == lmc.Permutations.random(spec, 1)
    assert lmc.Permutations.random(spec, 1) != lmc.Permutations.random(spec, 2)
    assert torch.equal(torch.get_rng_state(), state)
