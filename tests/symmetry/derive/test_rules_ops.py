"""What operations do to the units that go through them, each between two layers: known by hand, and tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from .side_by_side import Between, Case, Derived, derived

ALL, NONE = ((12,), ()), ((), ())
Sizes = tuple[tuple[int, ...], tuple[int, ...]]


def told_by_values(h: Tensor) -> Tensor:
    """Entries picked by the numbers of the largest."""
    return h.gather(-1, torch.softmax(h, -1).topk(3, -1).indices)


def three_parts(h: Tensor) -> Tensor:
    return torch.cat([part * (k + 1) for k, part in enumerate(h.split([3, 4, 5], -1))], -1)


def runs_of_rows(h: Tensor) -> Tensor:
    """Of three rows of four the first two, and the last."""
    rows = h.view(-1, 3, 4)
    first, last = rows[:, :2], rows[:, [-1]]
    return torch.cat([torch.tanh(first * first.sum(-1, keepdim=True)).flatten(1), last.flatten(1)], -1)


def runs_and_rows(h: Tensor) -> Tensor:
    """The same, of rows that are used as a whole too."""
    rows = h.view(-1, 3, 4)
    return torch.cat([rows[:, :2].flatten(1), rows[:, [-1]].flatten(1), rows.sum(1)], -1)


def runs_of_all(h: Tensor) -> Tensor:
    """As older torch writes them: dimensions that are not indexed are sliced from end to end."""
    rows = torch.ops.aten.slice.Tensor(h.view(-1, 3, 4), 0, 0, 2**63 - 1)
    rows, other = torch.ops.aten.slice.Tensor(rows, 2, 0, 2**63 - 1), torch.ops.aten.slice.Tensor(rows, 1, 0, 3)
    first = rows[:, :2]
    return torch.cat([torch.tanh(first * first.sum(-1, keepdim=True)).flatten(1), other[:, [-1]].flatten(1)], -1)


def runs_of_columns(h: Tensor) -> Tensor:
    """Of three rows the first columns, and the others."""
    rows = h.view(-1, 3, 2, 2)
    return torch.cat([rows[:, :, :1].flatten(1), rows[:, :, 1:].mean(1).flatten(1)], -1)


def places(h: Tensor) -> Tensor:
    """[5, 2, 3, 2]: places of a map, for each of a batch."""
    return torch.linspace(-0.9, 0.9, 60).view(5, 2, 3, 2).to(h.dtype)


def numbered(h: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(h.argmax(-1), 12) * h


# Of 12 units of a layer: what goes on, the sizes of groups without an owner, and of those with one.
OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Sizes]] = {
    # Entry by entry.
    "hardswish": (F.hardswish, ALL),
    "log-sigmoid and rsub": (lambda h: torch.rsub(F.logsigmoid(h), 1.0), ALL),
    "masked_fill": (lambda h: h.masked_fill(h > 1, 0.5), ALL),
    "dropout": (lambda h: F.dropout(h, 0.5, False), ALL),
    "type and back": (lambda h: h.double().to(h.dtype).clone().contiguous(), ALL),
    "prelu": (lambda h: F.prelu(h, h.new_full((12,), 0.2)), ALL),
    "prelu of one": (lambda h: F.prelu(h, h.new_full((1,), 0.2)), ALL),
    "glu": (F.glu, ((6,), ())),
    "complex numbers": (lambda h: torch.view_as_real(torch.view_as_complex(h.view(-1, 6, 2)) * 1j), ((6,), ())),
    "compared": (lambda h: h * (h == h.amax(-1, keepdim=True)), ALL),
    # Reductions.
    "softmax of heads": (lambda h: h.view(-1, 3, 4) * torch.softmax(h.view(-1, 3, 4), 1), ((3, 4), ())),
    "log-sum-exp": (lambda h: h - h.logsumexp(-1, keepdim=True), ALL),
    "variance and mean": (lambda h: torch.cat(torch.var_mean(h, -1, keepdim=True), -1), ALL),
    "of all": (lambda h: (h * h.mean()).sum(-1, keepdim=True), ALL),
    "norm": (lambda h: torch.linalg.vector_norm(h, dim=-1, keepdim=True) * h, ALL),
    "extremes": (lambda h: torch.cat([h.aminmax(dim=-1).max[:, None], h.amin(-1, True)], -1), ALL),
    "cumulated": (lambda h: h.cumsum(-1), NONE),
    "differences": (lambda h: h.diff(dim=-1), NONE),
    # By their values.
    "the largest three": (lambda h: h.topk(3, -1).values, ALL),
    "the largest three in any order": (lambda h: h.topk(3, -1, sorted=False).values.sum(-1, keepdim=True), ALL),
    "in order": (lambda h: h.sort(-1).values, ALL),
    "median": (lambda h: h.median(-1, keepdim=True).values, ALL),
    "median of all": (lambda h: h.median() + h, ALL),
    "largest of all": (lambda h: h.max() + h, ALL),
    "larger of two": (lambda h: torch.max(h, torch.tanh(h)), ALL),
    "number of the largest": (lambda h: h.argmax(-1, keepdim=True) / 3.0, NONE),
    "number of the largest of all": (lambda h: h + h.argmax() / 3.0, NONE),
    "place in the order": (lambda h: h.argsort(-1) / 5.0, NONE),
    "gathered by their values": (told_by_values, ALL),
    "gathered by rectified values": (lambda h: h.gather(-1, torch.relu(h).topk(3, -1).indices), NONE),
    "one-hot": (numbered, ALL),
    "one-hot of more": (lambda h: F.one_hot(h.argmax(-1), 14) * 1.0, NONE),
    "numbers compared": (lambda h: h * (h.argmax(-1, keepdim=True) == torch.arange(12)), ALL),
    "numbers compared with one": (lambda h: h * (h.argmax(-1, keepdim=True) == 3), NONE),
    "scattered": (lambda h: h.scatter(-1, h.topk(2, -1).indices, 0.5), ALL),
    "scattered values": (lambda h: h.scatter(-1, h.topk(2, -1).indices, torch.tanh(h.topk(2, -1).values)), ALL),
    "scattered to places": (lambda h: h.scatter_add(-1, torch.tensor([[1, 3]] * 5), h[:, :2]), NONE),
    "added at places": (lambda h: h.index_add(-1, torch.tensor([1, 3]), h[:, 4:6]), NONE),
    "looked up": (lambda h: h[:, torch.tensor([1, 0, 2, 3, 5, 4])], NONE),
    "looked up in a run": (lambda h: h[:, [3, 4, 5]], ((3, 3, 6), ())),
    "looked up in a run from behind": (lambda h: h[:, [-3, -2]], ((2, 9), ())),
    "looked up around the end": (lambda h: h[:, [-1, 0]], NONE),
    "looked up by a mask": (lambda h: h[torch.tensor([True] * 5)].view(5, 12), ALL),
    "runs of rows": (runs_of_rows, ((2, 4), (4,))),
    "runs of rows, sliced from end to end": (runs_of_all, ((2, 4), (4,))),
    "runs of rows, and all rows": (runs_and_rows, ((2, 4), ())),
    "runs of columns": (runs_of_columns, ((2, 3), (2,))),
    "looked up in two dimensions": (lambda h: h.view(-1, 3, 4)[:, torch.tensor([1, 0]), torch.tensor([3, 3])], NONE),
    "looked up around one": (lambda h: h.view(-1, 3, 2, 2)[:, torch.tensor([1, 0]), :, torch.tensor([1, 1])], NONE),
    "index_select": (lambda h: h.index_select(1, torch.tensor([2, 2, 7])), NONE),
    "of every batch one": (lambda h: h[torch.arange(5), h.argmax(-1)][:, None] * h, ALL),
    "take_along_dim": (lambda h: h * h.take_along_dim(h.argmax(-1, keepdim=True), -1), ALL),
    "along all": (lambda h: h + h.take_along_dim(torch.tensor([3])), NONE),
    "looked up in a book": (lambda h: F.embedding(torch.cdist(h, h).argmin(-1), h), ALL),
    # Views.
    "flatten and unflatten": (lambda h: h.unflatten(-1, (3, 4)).flatten(1), ALL),
    "split in three for nothing": (lambda h: torch.tanh(h.view(-1, 2, 3, 2)).flatten(1), ALL),
    "split, and the sum of all taken": (
        lambda h: (h.view(-1, 3, 4) / (1 + h.view(-1, 3, 4).sum((1, 2), keepdim=True))).flatten(1),
        ALL,
    ),
    "split, and sums of rows taken": (
        lambda h: (h.view(-1, 3, 4) / (1 + h.view(-1, 3, 4).sum(2, keepdim=True))).flatten(1),
        ((3,), (4,)),
    ),
    "split, and sums of columns taken": (
        lambda h: (h.view(-1, 3, 4) / (1 + h.view(-1, 3, 4).sum(1, keepdim=True))).flatten(1),
        ((3, 4), ()),
    ),
    "split in three, and sums over the last two taken": (
        lambda h: (h.view(-1, 2, 3, 2) * h.view(-1, 2, 3, 2).mean((2, 3), keepdim=True)).flatten(1),
        ((2,), (6,)),
    ),
    "split, and each with each": (
        lambda h: (h.view(-1, 3, 4) * torch.softmax(h.view(-1, 3, 4).flatten(1), -1).view(-1, 3, 4)).flatten(1),
        ALL,
    ),
    "shuffled and back": (
        lambda h: F.channel_shuffle(F.channel_shuffle(h[..., None, None], 3), 4).flatten(1),
        ALL,
    ),
    "transposed": (lambda h: h.view(-1, 3, 4).transpose(1, 2) + 0.0, ((3, 4), ())),
    "permuted": (lambda h: h.view(-1, 3, 4).permute(2, 0, 1).permute(1, 2, 0).contiguous(), ALL),
    "t": (lambda h: h.t().t(), ALL),
    "expanded": (lambda h: h[:, None].expand(-1, 2, -1), ((2, 12), ())),
    "repeated": (lambda h: h.repeat(1, 2), ((2, 12), ())),
    "repeated side by side": (lambda h: h.repeat_interleave(2, -1), ((12,), (2,))),
    "repeated as it comes": (lambda h: h.repeat_interleave(torch.arange(12), -1, output_size=66), NONE),
    "repeated flat": (lambda h: h.repeat_interleave(2).view(5, 24), ((12,), (2,))),
    "no common parts": (lambda h: (h.view(-1, 4, 3) @ h.view(-1, 3, 4)).flatten(1)[:, :7], NONE),
    "squeezed": (lambda h: h[:, None, :, None].squeeze(-1).squeeze(1), ALL),
    "channel shuffle": (lambda h: F.channel_shuffle(h[..., None, None], 3).flatten(1), ((3, 4), ())),
    "pixel shuffle and back": (
        lambda h: F.pixel_unshuffle(F.pixel_shuffle(h[..., None, None].expand(-1, -1, 2, 2), 2), 2),
        ((3,), ()),
    ),
    # Joining and cutting.
    "stacked": (lambda h: torch.stack([h, torch.tanh(h)], 1), ALL),
    "concatenated with none": (lambda h: torch.cat([h[:, :0], h], -1), ALL),
    "cut in three": (
        lambda h: torch.cat([part * (k + 1) for k, part in enumerate(h.split([3, 4, 5], -1))], -1),
        ((3, 4, 5), ()),
    ),
    "from behind": (lambda h: h[:, -5:], ((5, 7), ())),
    # Units on both sides that nobody reads may change places too.
    "narrow": (lambda h: h.narrow(1, 2, 4), ((4, 8), ())),
    "every other": (lambda h: h[:, ::2] * h[:, 1::2], ((6,), ())),
    "every fifth": (lambda h: h[:, ::5], NONE),
    "one of them": (lambda h: h.select(1, 4)[:, None] * h, NONE),
    "unbound": (lambda h: torch.cat(h.view(-1, 3, 4).unbind(1), -1), ((4, 4, 4), ())),
    "padded": (lambda h: F.pad(h, (1, 2)), ((3, 12), ())),
    "padded and cut": (lambda h: F.pad(h, (1, -2)), ((2, 10), ())),
    "padded with their own": (lambda h: F.pad(h[:, None], (1, 2), mode="reflect"), NONE),
    "flipped": (lambda h: h * h.flip(-1), NONE),
    "rolled": (lambda h: h * h.roll(1, -1), NONE),
    "rolled flat": (lambda h: h * h.roll(1), NONE),
    "lower triangle": (lambda h: (h[:, :, None] * h[:, None]).tril().sum(-1), NONE),
    "diagonal": (lambda h: (h[:, :, None] * torch.tanh(h[:, None])).diagonal(dim1=1, dim2=2), ALL),
    "diagonal of a rectangle": (lambda h: (h[:, :, None] * h[:, None, :5]).diagonal(dim1=1, dim2=2), NONE),
    "beside the diagonal": (lambda h: (h[:, :, None] * h[:, None]).diagonal(1, 1, 2), NONE),
    "a diagonal made": (lambda h: torch.diag_embed(h).sum(-1), ALL),
    "windows": (lambda h: h.unfold(-1, 3, 3).sum(-1), NONE),
    # Values that are made.
    "a constant": (lambda h: h + torch.full((12,), 2.0) + torch.zeros_like(h), ALL),
    "a diagonal of ones": (lambda h: h @ torch.diag_embed(h.new_ones(12)), ALL),
    "a triangle of ones": (lambda h: h @ h.new_ones(12, 12).tril(), NONE),
    "ones cumulated": (lambda h: h * h.new_ones(12).cumsum(0), NONE),
    "places": (lambda h: h + torch.arange(12), NONE),
    "places from one": (lambda h: h + torch.arange(1, 13), NONE),
    "places of its own": (lambda h: h + torch.linspace(0, 1, 12), NONE),
    "a mask of places": (lambda h: h * (torch.arange(12) > 4), NONE),
    # Products.
    "outer product": (lambda h: (h[:, :, None] @ h[:, None]).sum(-1), ALL),
    "einsum with dots": (lambda h: torch.einsum("...i,...j,j->...i", h, h, h.new_ones(12)), ALL),
    "einsum without arrow": (lambda h: torch.einsum("bi,bi->b", h, h)[:, None] * h, ALL),
    "baddbmm": (lambda h: torch.baddbmm(h[:, :, None], h[:, :, None] * h[:, None], h[:, :, None]), ALL),
    "addmm": (lambda h: torch.addmm(h, h @ h.t(), h), ALL),
    "addbmm": (lambda h: torch.addbmm(h, h[None] @ h.t()[None], h[None]), ALL),
    "distances": (lambda h: torch.cdist(h, h) @ h, ALL),
    "dot": (lambda h: torch.mv(h, h[0])[:, None] * torch.dot(h[0], h[1]) * h, ALL),
    "outer of two": (lambda h: torch.outer(h[0], h[1]) @ h[2] + h, ALL),
    "heads with each other": (lambda h: h.view(-1, 3, 4) @ h.view(-1, 3, 4).transpose(1, 2), ((4,), ())),
    # Without a rule.
    "unknown": (lambda h: torch.linalg.svdvals(h[:, :, None] * h[:, None]), NONE),
}
IMAGES: dict[str, tuple[Callable[[Tensor], Tensor], Sizes]] = {
    "max pool with its numbers": (lambda h: F.max_pool2d(h, 2, return_indices=True)[0], ALL),
    "pooled to a size": (lambda h: F.adaptive_avg_pool2d(h, 2), ALL),
    "resampled": (lambda h: F.interpolate(h, scale_factor=2), ALL),
    "padded with copies": (lambda h: F.pad(h, (1, 1, 1, 1), mode="replicate"), ALL),
    "patches": (lambda h: F.fold(F.unfold(h, 2, stride=2) * 2, (4, 6), 2, stride=2), ALL),
    "sampled": (lambda h: F.grid_sample(h, places(h), align_corners=False), ALL),
    "instance norm": (lambda h: F.instance_norm(h), ALL),
    "normed by the batch": (lambda h: F.batch_norm(h, None, None, training=True), ALL),
    "group norm": (lambda h: F.group_norm(h, 3), ((3,), (4,))),
    "group norm of all": (lambda h: F.group_norm(h, 1), ALL),
    "rolled windows": (
        lambda h: h.roll((1, 2), (2, 3)).view(5, 12, 2, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).softmax(-1).mean((1, 2)),
        ALL,
    ),
    "squeezed and excited": (lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)), ALL),
}


class OfImages(Between):
    """The same with 1 by 1 convolutions: [batch, 4, 4, 6]."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__(lambda h: h)
        self.up, self.between = torch.nn.Conv2d(4, 12, 1), between
        self.down = torch.nn.Linear(int(between(torch.ones(5, 12, 4, 6)).flatten(1).shape[1]), 3)


CASES = {
    **{name: Case(Between(between), torch.randn(5, 4), *sizes) for name, (between, sizes) in OPERATIONS.items()},
    **{name: Case(OfImages(between), torch.randn(5, 4, 4, 6), *sizes) for name, (between, sizes) in IMAGES.items()},
}


@pytest.fixture(scope="module")
def found() -> Derived:
    return derived(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    assert found.sizes(name) == (CASES[name].roots, CASES[name].owned), found.reasons(name)


def test_all_of_it_holds_on_the_model(found: Derived) -> None:
    assert found.spec.verified is not None and found.spec.verified.error < 1e-10
    assert found.spec.explain().notes == ("aten.linalg_svdvals has no rule: what it touches stays (1 times)",)
