"""Transforms, cells of recurrent layers, masks, whole matrices, and what is used for its shape alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .side_by_side import Between, Case, Derived, derived

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
ALL, NONE = ((12,), ()), ((), ())


def filtered(h: Tensor) -> Tensor:
    """The lower frequencies along the batch."""
    return torch.fft.irfft(torch.fft.rfft(h, dim=0)[:2], n=5, dim=0)


def with_time(h: Tensor) -> Tensor:
    """A number beside the units, of the shape of the first of them."""
    return torch.cat([h, torch.full_like(h[:, :1] * 2, 0.3)], 1)


def marked(h: Tensor) -> Tensor:
    h = h.view(5, 3, 4).clone()
    h[torch.arange(15).view(5, 3) % 2 == 0] = h[0, 0] * 3
    return h


def erased(h: Tensor) -> Tensor:
    h = h.clone()
    h[torch.arange(5) < 2] = 0.0
    return h


def erased_where_large(h: Tensor) -> Tensor:
    h = h.clone()
    h[h > 1] = 0.5
    return h


# Of 12 units of a layer: what goes on, the sizes of groups without an owner, and of those with one.
OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Sizes]] = {
    "frequencies of the batch": (filtered, ALL),
    "frequencies of units": (lambda h: torch.fft.rfft(h).abs(), NONE),
    "frequencies of rows": (lambda h: torch.fft.fft(h.view(5, 3, 4), dim=1).real, ((4,), ())),
    "two dimensions": (lambda h: torch.fft.fft2(h.view(5, 12, 1, 1).expand(5, 12, 3, 2)).abs(), ALL),
    "the last ones by sizes": (lambda h: torch.fft.fftn(h[:, :, None].expand(5, 12, 3), s=(4,)).abs(), ALL),
    "all dimensions": (lambda h: torch.fft.fftn(h).abs(), NONE),
    "of the shape of a unit": (with_time, ALL),
    "with itself added": (lambda h: (torch.eye(12, dtype=h.dtype) + h[:, :, None] * h[:, None]) @ h[0], ALL),
    "a diagonal that is not square": (lambda h: h @ torch.eye(12, 7, dtype=h.dtype), NONE),
    "rows by a mask": (lambda h: h.view(5, 3, 4)[torch.arange(15).view(5, 3) % 2 == 0][:7], ((4,), ())),
    "written by a mask": (marked, ((4,), ())),
    "a number by a mask": (erased, ALL),
    "a number by a mask of units": (erased_where_large, NONE),
}


def square(h: Tensor) -> Tensor:
    """[12, 12] that can be inverted."""
    return 0.05 * h.t() @ h + torch.eye(12, dtype=h.dtype)


OPERATIONS |= {
    "angles": (lambda h: torch.cosine_similarity(h[:, None], h[None], dim=-1), ALL),
    "angles along the first": (lambda h: torch.cosine_similarity(h[:, :, None], h.sin()[:, :, None]), ALL),
    "distances in pairs": (lambda h: F.pairwise_distance(h, h.sin(), keepdim=True) * torch.dist(h, h.cos()) * h, ALL),
    "dots of vectors": (lambda h: torch.linalg.vecdot(h, h.sin())[:, None] * h, ALL),
    "angles of rows": (lambda h: torch.cosine_similarity(h.view(5, 3, 4), h.sin().view(5, 3, 4), dim=2), ((3,), (4,))),
    "contracted": (lambda h: torch.tensordot(h, h, dims=([1], [1])) + torch.tensordot(h, h, 2), ALL),
    "a power": (lambda h: (torch.linalg.matrix_power(square(h), 3) @ torch.matrix_exp(square(h)) @ h.t()).t(), ALL),
    "determinants": (lambda h: torch.slogdet(square(h))[1] * torch.det(square(h)) * square(h).trace() * h, ALL),
    "an inverse": (lambda h: (torch.linalg.inv(square(h)) @ torch.linalg.pinv(h)).t() + h, ALL),
    "a system": (lambda h: torch.linalg.solve(square(h), h.t()).t() + torch.linalg.solve(square(h), h[0]), ALL),
    "a system from the right": (lambda h: torch.linalg.solve(square(h), h, left=False), NONE),
    "a chain": (lambda h: torch.linalg.multi_dot([h, h.t(), h]), ALL),
    "crossed": (lambda h: torch.linalg.cross(h.view(5, 3, 4), h.sin().view(5, 3, 4), dim=1), ((4,), ())),
    "losses": (lambda h: h * F.mse_loss(h, h.sin()) + F.l1_loss(h, h.cos(), reduction="none"), ALL),
    "Bessel functions": (lambda h: torch.special.i0(h.tanh()) + torch.special.logit(torch.sigmoid(h)), ALL),
}


class Stepped(nn.Module):
    """[batch, time, 4] -> 3: cells, one step after the other."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.down = cell, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.down(state[0] if isinstance(state, tuple) else state)


class Writes(nn.Module):
    """[batch, 4] -> 3: keeps a mean of its units as they go, and clamps its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.up.weight.clamp_(-2, 2)
        h = self.up(x).relu()
        self.mean.lerp_(h.mean(0), 0.1)
        self.count += 1
        return self.down(h - self.mean)


class InTurn(nn.Module):
    """[batch, 6] -> 3: experts of 10 units, whose results are taken in turn and told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.last = nn.Linear(6, 7), nn.Linear(6, 3)
        self.up, self.down = nn.Parameter(torch.zeros(7, 10, 6)), nn.Parameter(torch.zeros(7, 6, 10))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(torch.einsum("tw,ehw->teh", x, self.up))
        x = torch.einsum("teh,ewh,te->tw", inner, self.down, torch.softmax(self.router(x), -1))
        return self.last(torch.stack([x[..., ::2] * x[..., 1::2], x[..., 1::2]], -1).flatten(-2))


CASES = {
    **{name: Case(Between(between), torch.randn(5, 4), *sizes) for name, (between, sizes) in OPERATIONS.items()},
    "LSTM cells": Case(Stepped(nn.LSTMCell(4, 6)), torch.randn(5, 3, 4), (6,)),
    "GRU cells": Case(Stepped(nn.GRUCell(4, 6, bias=False)), torch.randn(5, 3, 4), (6,)),
    "RNN cells": Case(Stepped(nn.RNNCell(4, 6)), torch.randn(5, 3, 4), (6,)),
    "experts behind what comes in turn": Case(InTurn(), torch.randn(5, 6), (7,), (10,)),
    "buffers that are written to": Case(Writes(), torch.randn(5, 4), (6,)),
}


@pytest.fixture(scope="module")
def found() -> Derived:
    return derived(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    assert found.sizes(name) == (CASES[name].roots, CASES[name].owned), found.reasons(name)


def test_all_of_it_holds_on_the_model(found: Derived) -> None:
    assert found.spec.verified is not None and found.spec.verified.error < 1e-6
    assert not found.spec.explain().notes
    assert found.axes("buffers that are written to")["mean"][0].groups


def test_noise_is_another_one_at_every_unit() -> None:
    noisy = {"noise": Case(Between(lambda h: h * torch.rand_like(h)), torch.randn(5, 4), ())}
    told = derived(noisy, verify=False)
    assert told.sizes("noise") == NONE and "holds another number at every place" in told.reasons("noise")
