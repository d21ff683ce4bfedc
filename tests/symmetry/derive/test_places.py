"""Where units come to lie, against the numbers themselves: each unit holds its own number, and is looked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lmc_fast.symmetry.derive.graph import export
from lmc_fast.symmetry.derive.places import Place, after_shape, onward, origin, shape_of

SHAPE, UNITS = (2, 3, 6), 6


class Does(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def followed(function: Callable[[Tensor], Tensor], dim: int, is_affine: bool = True) -> list[Place] | None:
    """The places in the function's result of the units of one dimension of its argument; None where they are lost."""
    graph = export(Does(function), (torch.randn(SHAPE),), {}).graph
    given = next(node for node in graph.nodes if node.op == "placeholder" and node.name == "x")
    (result,) = graph.output_node().args[0]
    ahead, found = [(given, Place(dim))], []
    while ahead:
        node, place = ahead.pop()
        if node is result:
            found.append(place)
            continue
        for user in (user for user in node.users if user.meta.get("val") is not None):
            steps = onward(user, node, place, is_affine=is_affine)
            if steps is None:
                return None
            ahead += steps
    return found


def check(function: Callable[[Tensor], Tensor], places: list[Place], is_affine: bool) -> None:
    """The numbers of the units stand where they are said to be."""
    numbers = torch.arange(1.0, UNITS + 1).expand(SHAPE)
    out = function(numbers)
    for place in places:
        run = out.narrow(place.dim, place.offset, place.outer * UNITS * place.inner)
        each = run.unflatten(place.dim, (place.outer, UNITS, place.inner)).movedim(place.dim + 1, -1)
        if not is_affine:
            each = each / each[..., :1]
        assert torch.allclose(each, torch.arange(1.0, UNITS + 1).expand(each.shape))


LAID: dict[str, Callable[[Tensor], Tensor]] = {
    "copied": lambda x: x.clone().contiguous().to(torch.float64).to(x.dtype),
    "turned": lambda x: x.transpose(0, 1).permute(2, 0, 1).mT,
    "joined ahead": lambda x: x.reshape(6, 6),
    "joined": lambda x: x.flatten(1),
    "joined behind": lambda x: x.mT.reshape(2, 18),
    "around": lambda x: x.mT.reshape(36),
    "singles": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1),
    "expanded": lambda x: x.expand(4, 2, 3, 6).repeat(1, 2, 1, 1),
    "runs": lambda x: x[:, 1:].narrow(0, 0, 1),
    "each again": lambda x: x.repeat_interleave(2, dim=1),
    "picked": lambda x: x[:, 1].select(0, 1),
    "looked up": lambda x: x[:, torch.tensor([2, 0])].index_select(0, torch.tensor([1])),
    "looked up at two places": lambda x: x.mT[torch.tensor([1, 0])][:, :, torch.tensor([[0, 1]])],
    "split": lambda x: x.split([1, 2], dim=1)[1].chunk(2, dim=0)[0].unbind(1)[1],
    "unbound behind": lambda x: x.unbind(0)[1].mT.unbind(-1)[0],
    "mean": lambda x: x.mean(1, keepdim=True).mean(0),
    "beside": lambda x: torch.cat([x, torch.zeros(2, 3, 5), x], dim=-1),
    "matrix": lambda x: x[0].t().T,
}


@pytest.mark.parametrize("name", LAID)
def test_units_lie_where_they_are_said_to_be(name: str) -> None:
    places = followed(LAID[name], 2)
    assert places
    check(LAID[name], places, is_affine=True)


SCALED: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda x: -(2.5 * x / 3),
    "places": lambda x: x * torch.arange(1.0, 4.0)[:, None],
    "places, the other way": lambda x: torch.arange(1.0, 4.0)[:, None] * x,
    "one factor more": lambda x: torch.ones(4, 1, 1, 1) * x,
    "a sum": lambda x: x.sum(1),
}


@pytest.mark.parametrize("name", SCALED)
def test_what_scales_all_units_alike_loses_what_is_added_to_them(name: str) -> None:
    places = followed(SCALED[name], 2, is_affine=False)
    assert places
    check(SCALED[name], places, is_affine=False)
    assert followed(SCALED[name], 2) is None


LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "cut by a view": lambda x: x.reshape(2, 9, 2),
    "summed": lambda x: x.sum(2),
    "split": lambda x: x.split(3, dim=2)[0],
    "cut": lambda x: x[..., 1:],
    "picked": lambda x: x[..., 1],
    "looked up": lambda x: x[..., torch.tensor([1, 0])],
    "looked up elsewhere, too": lambda x: x[torch.tensor([1, 0]), :, torch.tensor([2, 3])],
    "joined elsewhere": lambda x: torch.cat([x, x], dim=1),
    "repeated": lambda x: x.repeat(1, 1, 2),
    "each again": lambda x: x.repeat_interleave(2, dim=2),
    "bent": lambda x: x.relu(),
    "scaled apart": lambda x: x * torch.arange(6.0),
    "times itself": lambda x: x * x,
    "divided by it": lambda x: torch.ones(6) / x,
}


@pytest.mark.parametrize("name", LOST)
def test_units_that_are_cut_or_told_apart_are_lost(name: str) -> None:
    assert followed(LOST[name], 2, is_affine=False) is None


def test_a_view_behind_others_is_no_view() -> None:
    assert after_shape(Place(1, offset=3), (2, 12), (24,)) is None
    assert after_shape(Place(1, offset=3), (2, 12), (1, 2, 12)) == Place(2, offset=3)


def test_a_weight_is_known_by_where_it_comes_from() -> None:
    def function(x: Tensor) -> Tensor:
        return x.permute(2, 0, 1)[:, torch.tensor([1, 0])].unsqueeze(0).contiguous()

    graph = export(Does(function), (torch.randn(SHAPE),), {}).graph
    (result,) = graph.output_node().args[0]
    given = next(node for node in graph.nodes if node.op == "placeholder" and node.name == "x")
    assert shape_of(result) == [1, 6, 2, 3]
    assert origin(result, 1) == (given, 2)
    assert origin(result, 3) == (given, 1)
    # Some of these were looked up.
    assert origin(result, 2) is None
    assert origin(3, 0) is None


def test_a_sum_of_weights_comes_from_none() -> None:
    graph = export(Does(lambda x: (x + 1).mT), (torch.randn(SHAPE),), {}).graph
    (result,) = graph.output_node().args[0]
    assert origin(result, 1) is None
