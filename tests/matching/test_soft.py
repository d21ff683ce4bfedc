"""Soft permutations: what Sinkhorn leaves before it is rounded, applied to models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

AXES: dict[str, Any] = {"w1": ("P", None), "b1": ("P",), "w2": ("Q", "P"), "w3": (None, "Q"), "steps": ()}


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w1": (4, 3), "b1": (4,), "w2": (3, 4), "w3": (2, 3)}
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {**made, "steps": torch.tensor(7)}


SPEC = lmc.PermutationSpec.from_axes(AXES).bind(tensors(0))


def between(*choices: tuple[float, lmc.Permutations]) -> dict[str, Tensor]:
    """Weighted sums of permutation matrices."""
    return {
        name: sum(share * torch.eye(SPEC.sizes[name], dtype=torch.float64)[choice[name]] for share, choice in choices)  # type: ignore[misc]
        for name in SPEC.groups
    }


def test_units_are_mixed_on_every_axis() -> None:
    b = tensors(1)
    soft = lmc.SoftPermutations(
        SPEC, between((0.75, lmc.Permutations.random(SPEC, 1)), (0.25, lmc.Permutations.random(SPEC, 2)))
    )
    p, q = soft["P"][0], soft["Q"][0]
    found = soft.apply(b)
    expected = {"w1": p @ b["w1"], "b1": p @ b["b1"], "w2": q @ b["w2"] @ p.T, "w3": b["w3"] @ q.T, "steps": b["steps"]}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    assert torch.equal(soft.bound_to(SPEC)["P"], soft["P"])
    assert len(soft) == 2 and list(soft) == ["P", "Q"] and soft.hardness == pytest.approx(0.625)
    assert "2 groups, 62.5 % hard" in repr(soft)


def test_a_hard_one_is_the_permutation() -> None:
    model = models.randomise(models.ConvNet(), seed=1).bfloat16()
    spec = architectures.vgg(model).bind(model)
    choice = lmc.Permutations.random(spec, 3)
    soft = lmc.SoftPermutations(spec, {name: torch.eye(spec.sizes[name])[choice[name]] for name in spec.groups})
    assert soft.hardness == 1.0
    mixed, permuted = soft.apply(model).state_dict(), choice.apply(model).state_dict()
    assert all(
        torch.equal(mixed[name], tensor) and mixed[name].dtype == tensor.dtype for name, tensor in permuted.items()
    )


@pytest.mark.parametrize("loss", ["distance", "midpoint"])
def test_sinkhorn_keeps_them_where_asked(loss: str) -> None:
    a, b = (models.randomise(models.ConvNet(), seed=seed) for seed in (1, 2))
    spec = architectures.vgg(a)
    batches = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 5)]
    options: dict[str, Any] = {"batches": batches, "loss": loss, "steps": 10, "seed": 3}
    hard, kept = (lmc.sinkhorn_matching(a, b, spec, keep_soft=keep, **options) for keep in (False, True))
    assert hard.soft is None and kept.soft is not None and kept.permutations == hard.permutations
    for matrix in kept.soft.values():
        torch.testing.assert_close(matrix.sum(1), torch.ones_like(matrix.sum(1)), rtol=0, atol=1e-5)
        torch.testing.assert_close(matrix.sum(2), torch.ones_like(matrix.sum(2)), rtol=0, atol=1e-5)
    mixed = kept.soft.apply(b)
    assert isinstance(mixed, models.ConvNet) and 0 < kept.soft.hardness < 1
    # What is relaxed comes nearer than any permutation after a few steps, from where all units are alike.
    far = sum(float((p - q).square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    near = sum(float((p - q).square().sum()) for p, q in zip(a.parameters(), mixed.parameters(), strict=True))
    assert near < far


def test_owned_groups_have_a_matrix_for_each_owner() -> None:
    model = models.Attention()
    spec = models.Attention.spec().bind(model)
    owned = next(name for name, group in spec.groups.items() if group.owner is not None)
    choice = lmc.Permutations.random(spec, 1)
    matrices = {}
    for name in spec.groups:
        order = choice[name].reshape(-1, spec.sizes[name])
        owner = spec.groups[name].owner
        if owner is not None:
            order = torch.empty_like(order).index_copy_(0, choice.units(owner), order)
        matrices[name] = torch.eye(spec.sizes[name])[order]
    soft = lmc.SoftPermutations(spec, matrices)
    assert soft[owned].shape[0] == spec.units(owned) // spec.sizes[owned]
    for name, tensor in choice.apply(model.state_dict()).items():
        torch.testing.assert_close(soft.apply(model.state_dict())[name], tensor)


def without(name: str) -> dict[str, Tensor]:
    return {k: v for k, v in between((1.0, lmc.Permutations.identity(SPEC))).items() if k != name}


HALF = torch.full((3, 3), 0.5)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "missing": (lambda: lmc.SoftPermutations(SPEC, without("P")), ValueError, "one entry for each group, but 'P'"),
    "no-tensor": (
        lambda: lmc.SoftPermutations(SPEC, without("Q") | {"Q": [[1]]}),
        TypeError,
        r"matrices\['Q'\] must be a",
    ),
    "shape": (lambda: lmc.SoftPermutations(SPEC, without("Q") | {"Q": torch.eye(2)}), ValueError, r"shape \(1, 3, 3\)"),
    "sums": (lambda: lmc.SoftPermutations(SPEC, without("Q") | {"Q": HALF}), ValueError, "rows and columns sum to 1"),
    "negative": (
        lambda: lmc.SoftPermutations(SPEC, without("Q") | {"Q": 2 * torch.eye(3) - torch.eye(3)[[1, 2, 0]]}),
        ValueError,
        "must be 0 or more",
    ),
    "flag": (lambda: lmc.sinkhorn_matching(tensors(0), tensors(1), SPEC, keep_soft=1), TypeError, "keep_soft must be"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_doubly_stochastic_is_named(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
