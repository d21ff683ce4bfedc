"""Planes that rotary embeddings turn, as models write them; and what looks like them and is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

DIMS, HEADS, PLACES = 8, 3, 5
F = nn.functional


def angles(x: Tensor) -> Tensor:
    inverse = 50.0 ** (-torch.arange(0, DIMS, 2, dtype=x.dtype) / DIMS)
    return torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), inverse)


def halves(x: Tensor) -> Tensor:
    both = torch.cat((angles(x), angles(x)), dim=-1)
    return x * both.cos() + torch.cat((-x[..., DIMS // 2 :], x[..., : DIMS // 2]), dim=-1) * both.sin()


def same_halves(x: Tensor) -> Tensor:
    once = angles(x)
    both = torch.cat((once, once), dim=-1)[None, None]
    one, other = x.chunk(2, dim=-1)
    return both.sin() * torch.cat((-other, one), dim=-1) + both.cos() * 0.5 * x


def by_parts(x: Tensor) -> Tensor:
    cos, sin = angles(x).cos(), angles(x).sin()
    one, other = x[..., : DIMS // 2], x[..., DIMS // 2 :]
    return torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)


def backwards(x: Tensor) -> Tensor:
    cos, sin = angles(x).cos(), angles(x).sin()
    one, other = x.unflatten(-1, (2, DIMS // 2)).unbind(-2)[0], x.unflatten(-1, (2, DIMS // 2)).select(-2, 1)
    one, other = x.split(DIMS // 2, dim=-1)
    return torch.cat((one * cos + other * sin, other * cos - one * sin), dim=-1)


def pairs(x: Tensor) -> Tensor:
    cos, sin = (each.repeat_interleave(2, dim=-1) for each in (angles(x).cos(), angles(x).sin()))
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin


def stacked_pairs(x: Tensor) -> Tensor:
    once = angles(x)
    table = torch.stack((once, once), dim=-1).flatten(-2)
    return x * table.cos() + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).reshape(x.shape) * table.sin()


def pairs_by_parts(x: Tensor) -> Tensor:
    cos, sin = angles(x).cos(), angles(x).sin()
    two = x.reshape(*x.shape[:-1], DIMS // 2, 2)
    one, other = two[..., 0], two[..., 1]
    return torch.stack((one * cos - other * sin, one * sin + other * cos), dim=-1).flatten(-2)


def numbers(x: Tensor) -> Tensor:
    factors = torch.polar(torch.ones_like(angles(x)), angles(x))
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], DIMS // 2, 2))
    return torch.view_as_real(z * factors).flatten(-2)


def in_part(x: Tensor) -> Tensor:
    first, rest = x[..., :4], x[..., 4:]
    once = angles(x)[:, :2]
    both = torch.cat((once, once), dim=-1)
    turned = first * both.cos() + torch.cat((-first[..., 2:], first[..., :2]), dim=-1) * both.sin()
    return torch.cat((turned, rest), dim=-1)


class Attention(nn.Module):
    def __init__(self, turn: Callable[[Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        self.turn = turn
        self.q, self.k, self.v = (nn.Linear(4, HEADS * DIMS) for _ in range(3))
        self.o = nn.Linear(HEADS * DIMS, 2)
        self.norm = nn.RMSNorm(DIMS) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, DIMS)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.turn(self.norm(q)), self.turn(self.norm(k))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


LAYOUTS = {
    halves: {"outer": 2},
    same_halves: {"outer": 2},
    by_parts: {"outer": 2},
    backwards: {"outer": 2},
    pairs: {"inner": 2},
    stacked_pairs: {"inner": 2},
    pairs_by_parts: {"inner": 2},
    numbers: {"inner": 2},
}


def inside(spec: lmc.PermutationSpec, parameter: str) -> tuple[lmc.Segment, ...]:
    (outer,) = spec.axes[parameter][0].segments
    return outer.parts


@pytest.mark.parametrize("turn", LAYOUTS, ids=lambda turn: turn.__name__)
def test_planes_are_found_in_their_layout(turn: Callable[[Tensor], Tensor]) -> None:
    spec = lmc.derive_spec(Attention(turn), torch.randn(2, PLACES, 4), rotations=True)
    assert spec.explain().notes == ()
    assert spec.verified is not None
    (plane,) = inside(spec, "q.weight")
    group = spec.groups[str(plane.group)]
    assert plane == lmc.Segment(group.name, **LAYOUTS[turn])
    assert (group.size, group.kind) == (DIMS // 2, "phases")
    assert inside(spec, "k.bias") == (plane,)
    assert spec.groups[str(group.owner)].size == HEADS
    assert f"{DIMS // 2} planes turn (phases) in each of {HEADS}" in str(spec.explain())


def test_what_is_not_turned_by_places_turns_freely() -> None:
    spec = lmc.derive_spec(Attention(in_part), torch.randn(2, PLACES, 4), rotations=True)
    plane, rest = inside(spec, "q.weight")
    assert [spec.groups[str(each.group)].kind for each in (plane, rest)] == ["phases", "orthogonal"]
    assert [spec.sizes[str(each.group)] for each in (plane, rest)] == [2, 4]
    assert plane.outer == 2


def unsure(x: Tensor) -> Tensor:
    both = torch.cat((angles(x), angles(x) * 1.5), dim=-1)
    return x * both.cos() + torch.cat((-x[..., DIMS // 2 :], x[..., : DIMS // 2]), dim=-1) * both.sin()


def no_turn(x: Tensor) -> Tensor:
    once = angles(x)
    both = torch.cat((once, once), dim=-1)
    return x * both.cos() + torch.cat((x[..., DIMS // 2 :], x[..., : DIMS // 2]), dim=-1) * both.sin()


def mixed(x: Tensor) -> Tensor:
    cos, sin = angles(x).cos(), angles(x).sin()
    one, other = x[..., : DIMS // 2], x[..., DIMS // 2 :]
    return torch.cat((one * cos - other * sin, other * sin + one * cos), dim=-1)


def used_inside(x: Tensor) -> Tensor:
    once = angles(x)
    both = torch.cat((once, once), dim=-1)
    rotated = torch.cat((-x[..., DIMS // 2 :], x[..., : DIMS // 2]), dim=-1)
    return x * both.cos() + rotated * both.sin() + 0.1 * rotated.relu()


def then_bent(x: Tensor) -> Tensor:
    return halves(x).tanh()


def both_layouts(x: Tensor) -> Tensor:
    return pairs(halves(x))


@pytest.mark.parametrize(
    "turn", [unsure, no_turn, mixed, used_inside, then_bent, both_layouts], ids=lambda turn: turn.__name__
)
def test_what_is_not_sure_stays(turn: Callable[[Tensor], Tensor]) -> None:
    spec = lmc.derive_spec(Attention(turn), torch.randn(2, PLACES, 4), rotations=True)
    assert spec.explain().notes == ()
    assert all(segment.group is None for segment in inside(spec, "q.weight"))
    assert {group.kind for group in spec.groups.values()} == {"permutation", "orthogonal"}


def test_norms_of_queries_hold_their_planes() -> None:
    spec = lmc.derive_spec(Attention(halves, norm=True), torch.randn(2, PLACES, 4), rotations=True)
    assert spec.folds == ()
    assert all(segment.group is None for segment in inside(spec, "q.weight"))
    (value,) = inside(spec, "v.weight")
    assert spec.groups[str(value.group)].kind == "orthogonal"
