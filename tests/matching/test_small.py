"""Descents in the compiled core go where those by torch go, and what the core does not take goes by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import _native, architectures
from lmc_fast.matching.engine import descent as descents
from lmc_fast.matching.engine.descent import CoordinateDescent
from lmc_fast.matching.engine.leading import is_worth_leading
from lmc_fast.matching.engine.small import SmallDescent, small_descent

from .around import Around, InTurn

Build = tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]

TAKEN: dict[str, Build] = {
    "mlp": (lambda: models.small_mlp((33, 17)), architectures.mlp),
    "mlp-of-one-unit": (lambda: models.small_mlp((1, 2)), architectures.mlp),
    "wide-mlp": (lambda: models.small_mlp((150, 140)), architectures.mlp),
    "flatten": (models.ConvNet, architectures.vgg),
    "shared-groups": (models.small_resnet, architectures.resnet),
    "segments": (models.Concat, lambda m: models.Concat.spec()),
    "depthwise": (models.DepthwiseNet, lambda m: models.DepthwiseNet.spec()),
    "around-each-other": (Around, lambda m: Around.spec()),
    "in-turn": (InTurn, lambda m: InTurn.spec()),
}
NOT_TAKEN: dict[str, Build] = {
    "heads": (models.Attention, lambda m: models.Attention.spec()),
    "experts": (models.Experts, lambda m: models.Experts.spec()),
    "groupnorm": (models.GroupNormNet, lambda m: models.GroupNormNet.spec()),
}
SEARCHES = ("coordinate_descent", "frank_wolfe")
INITS = ("anchored", "identity", "random")


def pair_of(build: Build) -> tuple[dict[str, Tensor], dict[str, Tensor], lmc.PermutationSpec]:
    a, b = (models.randomise(build[0](), seed) for seed in (1, 2))
    return a.state_dict(), b.state_dict(), build[1](a).bind(a)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the core took each of the searches that it was asked to."""
    found: list[bool] = []

    def asking(layout: CoordinateDescent, room: int) -> SmallDescent | None:
        small = small_descent(layout, room)
        found.append(small is not None)
        return small

    monkeypatch.setattr(descents, "small_descent", asking)
    yield found


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descents, "small_descent", lambda *_: None)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", TAKEN)
def test_the_core_goes_where_torch_goes(
    name: str, search: str, init: str, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, spec = pair_of(TAKEN[name])
    match = lmc.weight_matching(a, b, spec, search=search, init=init, seed=3)
    assert asked == [True]
    by_torch(monkeypatch)
    other = lmc.weight_matching(a, b, spec, search=search, init=init, seed=3)
    assert match.permutations == other.permutations and match.converged and other.converged
    assert match.objective == other.objective
    assert [(step.moved, step.solved) for step in match.history] == [
        (step.moved, step.solved) for step in other.history
    ]


@pytest.mark.parametrize("name", TAKEN)
def test_options_are_those_of_torch(name: str, asked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, spec = pair_of(TAKEN[name])
    options = {
        "freeze": [next(iter(spec.groups))],
        "weights": {next(iter(a)): 0.5},
        "max_sweeps": 1,
        "search": "coordinate_descent",
    }
    match = lmc.weight_matching(a, b, spec, **options)
    assert asked == [True]
    by_torch(monkeypatch)
    assert match.permutations == lmc.weight_matching(a, b, spec, **options).permutations


@pytest.mark.parametrize("name", TAKEN)
def test_threads_change_nothing(name: str) -> None:
    a, b, spec = pair_of(TAKEN[name])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(lmc.weight_matching(a, b, spec, search="coordinate_descent"))
    finally:
        torch.set_num_threads(before)
    assert found[0].permutations == found[1].permutations == found[2].permutations
    assert found[0].objective == found[1].objective == found[2].objective


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_groups_inside_others_go_by_torch(name: str, asked: list[bool]) -> None:
    a, _, spec = pair_of(NOT_TAKEN[name])
    truth = lmc.Permutations.random(spec, 1)
    match = lmc.weight_matching(a, truth.inverse().apply(a), spec)
    assert asked == [False] and match.permutations == truth


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_numbers_go_by_torch(dtype: torch.dtype, asked: list[bool]) -> None:
    a, b, spec = pair_of(TAKEN["mlp"])
    match = lmc.weight_matching(*({k: v.to(dtype) for k, v in side.items()} for side in (a, b)), spec)
    assert asked == [False] and match.converged


def test_one_group_on_two_axes_goes_by_torch(asked: list[bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    a = {"w": torch.randn(9, 9, generator=generator)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", "p")}).bind(a)
    truth = lmc.Permutations.random(spec, 1)
    lmc.weight_matching(a, truth.inverse().apply(a), spec)
    assert asked == [False]


def test_large_groups_go_by_torch(asked: list[bool]) -> None:
    a = {"w": torch.randn(513, 2, generator=torch.Generator().manual_seed(0))}
    lmc.weight_matching(a, a, lmc.PermutationSpec.from_axes({"w": ("p", None)}))
    assert asked == [False]


def test_gains_without_room_go_by_torch() -> None:
    a, b, spec = pair_of(TAKEN["mlp"])
    start = lmc.Permutations.identity(spec)
    names = dict.fromkeys(spec.axes, 1.0)
    layout = CoordinateDescent(spec, a, b, names, start, (), None)
    assert small_descent(layout, 33**2 + 17**2) is not None
    assert small_descent(layout, 33**2 + 17**2 - 1) is None


def test_weights_are_read_where_they_lie(asked: list[bool]) -> None:
    """Any strides, leaves that want gradients, and no entry is written."""
    a, b, spec = pair_of(TAKEN["flatten"])
    plain = lmc.weight_matching(a, b, spec)

    def spread(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0)
        wide[..., ::2] = tensor
        return wide[..., ::2].requires_grad_()

    odd = [{name: spread(tensor) for name, tensor in side.items()} for side in (a, b)]
    match = lmc.weight_matching(*odd, spec)
    turned = {k: v.transpose(0, 1).contiguous().transpose(0, 1) if v.ndim > 1 else v for k, v in b.items()}
    assert match.permutations == plain.permutations == lmc.weight_matching(a, turned, spec).permutations
    assert asked == [True, True, True]
    for side, given in zip((a, b), odd, strict=True):
        assert all(torch.equal(side[name], given[name]) for name in side)


def test_a_gain_that_is_off_is_summed_anew(asked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it never should be: here since a weight is written to in the middle of the search."""
    a, b, spec = pair_of(TAKEN["wide-mlp"])
    looked: list[set[str]] = []
    look = SmallDescent.forget_off

    def looking(small: SmallDescent) -> set[str]:
        if not looked:
            held = small._layout.a
            next(tensor for tensor in held.values() if tensor.ndim == 2).mul_(1.5)
        looked.append(look(small))
        return looked[-1]

    monkeypatch.setattr(SmallDescent, "forget_off", looking)
    match = lmc.weight_matching(a, b, spec, search="coordinate_descent", init="identity")
    assert looked[0] and not looked[-1] and match.converged


@pytest.mark.parametrize(
    ("shape", "fixed", "worth"),
    [((256, 256), 4, True), ((128, 128, 3, 3), 4, False), ((130, 400), 400, True), ((512, 512, 3, 3), 4, True)],
    ids=["mlp", "convolutions", "few-columns", "wide-convolutions"],
)
def test_leading_parts_are_left_out_where_factoring_takes_long(shape: tuple[int, ...], fixed: int, worth: bool) -> None:
    """Told by sizes alone: by what gains and assignments take."""
    shapes = {"in": (shape[0], fixed), "w": shape, "v": (shape[1], shape[0], *shape[2:])}
    still = (None,) * (len(shape) - 2)
    axes = {"in": ("p", None), "w": ("p", "q", *still), "v": ("q", "p", *still)}
    tensors = {name: torch.zeros(size) for name, size in shapes.items()}
    spec = lmc.PermutationSpec.from_axes(axes).bind(tensors)
    start = lmc.Permutations.identity(spec)
    layout = CoordinateDescent(spec, tensors, tensors, dict.fromkeys(axes, 1.0), start, (), None)
    assert is_worth_leading(layout.a, layout.leaves) == worth


# The core itself.

AXES = [(3, 2, 2, [(0, 1, 1)]), (2, 1, 1, [(-1, 1, 2)])]


def tiny(held: list[Tensor], groups: list[object] | None = None, axes: list[object] | None = None) -> _native.Descent:
    a, b = held
    groups = [(3, 0.0, [(0, 0, 0, 1, 1, 0, 1)], [])] if groups is None else groups
    return _native.Descent([(a.data_ptr(), b.data_ptr(), axes or AXES)], groups, 0.7, 4.0)


@pytest.fixture
def held() -> list[Tensor]:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    return [a, a[[1, 2, 0]].clone()]


def test_the_core_finds_what_was_moved(held: list[Tensor]) -> None:
    core = tiny(held)
    core.set_stale([0])
    assert core.sweep([[0]]) == (6.0, 3, 1, False)
    assert core.choice(0).tolist() == [2, 0, 1]
    assert core.sweep([[0]]) == (0.0, 0, 0, False) and core.check() == []
    core.choose(0, np.arange(3))
    core.anchor([(0, [])])
    assert core.choice(0).tolist() == [0, 1, 2]
    core.anchor([(0, [0])])
    assert core.choice(0).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("groups", "axes", "named"),
    [
        ([(4, 0.0, [(0, 0, 0, 1, 1, 0, 1)], [])], None, "segments"),
        ([(3, 0.0, [(0, 0, 1, 1, 1, 0, 1)], [])], None, "leaves"),
        ([(3, 0.0, [(1, 0, 0, 1, 1, 0, 1)], [])], None, "leaves"),
        ([(3, 0.0, [], [1])], None, "neighbours"),
        ([(0, 0.0, [], [])], None, "units"),
        (None, [(3, 2, 2, [(1, 1, 1)]), AXES[1]], "segments"),
    ],
)
def test_what_does_not_fit_is_refused(
    groups: list[object] | None, axes: list[object] | None, named: str, held: list[Tensor]
) -> None:
    with pytest.raises(ValueError, match=f"{named} do not fit"):
        tiny(held, groups, axes)


def test_calls_are_checked(held: list[Tensor]) -> None:
    core = tiny(held)
    for call in (
        lambda: core.choice(1),
        lambda: core.sweep([[-1]]),
        lambda: core.set_stale([3]),
        lambda: core.forget(1),
    ):
        with pytest.raises(IndexError, match="group must be below 1"):
            call()
    with pytest.raises(ValueError, match="permutation"):
        core.choose(0, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="choice must have length 3, got 2"):
        core.choose(0, np.arange(2))
    with pytest.raises(ValueError, match="leaves must ascend"):
        core.anchor([(0, [1])])
    with pytest.raises(ValueError, match="threads must be 0 or more"):
        core.sweep([[0]], threads=-1)


def test_nan_is_named(held: list[Tensor]) -> None:
    held[1][0, 0] = float("nan")
    with pytest.raises(ValueError, match="gain must not hold NaN"):
        tiny(held).sweep([[0]])
