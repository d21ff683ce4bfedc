"""Modules put together at random: layers, views, attention, norms, joins, convolutions, experts, recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Several", "Step", "random_module", "random_modules"]

# Batch, tokens, height and width are no width, no head and no group.
BATCH, TOKENS, PLACES = 4, 5, (6, 8)


class Draws:
    """Random choices of a seed's own."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def of(self, *choices: object) -> object:
        return choices[self.below(len(choices))]

    def number(self, *choices: int) -> int:
        return choices[self.below(len(choices))]

    def coin(self) -> bool:
        return self.below(2) == 1


class Step(nn.Module):
    """A part that takes [..., width], or [batch, width, height, width]; `hidden` names axes that are free."""

    hidden: tuple[tuple[str, int], ...] = ()

    def __init__(self, width: int, leaving: int | None = None) -> None:
        super().__init__()
        self.width, self.leaving = width, width if leaving is None else leaving


class Linear(Step):
    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width, draws.number(6, 12, 18, 24))
        self.layer = nn.Linear(width, self.leaving, bias=draws.coin())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Pointwise(Step):
    KINDS: tuple[Callable[[Tensor], Tensor], ...] = (
        torch.relu,
        F.gelu,
        torch.tanh,
        F.hardswish,
        F.logsigmoid,
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: x.masked_fill(x > 1, 0.5),
        lambda x: x * torch.softmax(x, -1),
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: x / (1 + x.norm(dim=-1, keepdim=True)),
        lambda x: x + torch.full(x.shape[-1:], 2.0),
        lambda x: x * x.var(-1, keepdim=True).clamp(max=2),
        lambda x: F.normalize(x, dim=-1) + x.amax(-1, keepdim=True),
    )

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(len(self.KINDS))

    def forward(self, x: Tensor) -> Tensor:
        return self.KINDS[self.kind](x)


class Told(Step):
    """Units told apart, all or some of them."""

    KINDS: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x + x.flip(-1),
        lambda x: x * x.roll(1, -1),
        lambda x: x + 0.1 * x.cumsum(-1),
        lambda x: x + x[..., :1],
        lambda x: torch.cat([x[..., :2], x[..., 2:] * 2], -1),
        lambda x: x + torch.linspace(0, 1, x.shape[-1]),
        lambda x: F.pad(x[..., 1:], (0, 1)),
        lambda x: x + F.pad(x[..., : x.shape[-1] // 2], (x.shape[-1] // 2, 0)),
        lambda x: torch.cat([x[..., ::2], x[..., 1::2]], -1),
        lambda x: torch.stack([x[..., ::2] * x[..., 1::2], x[..., 1::2]], -1).flatten(-2),
        lambda x: x.sort(-1).values + x,
        lambda x: x + x.gather(-1, x.argmax(-1, keepdim=True)),
        lambda x: x * (x.argmax(-1, keepdim=True) == torch.arange(x.shape[-1])),
        lambda x: x + x.argmax(-1, keepdim=True) / 7,
        lambda x: x.scatter(-1, x.topk(2, dim=-1).indices, 0.5),
        lambda x: x * x.topk(3, dim=-1).values.sum(-1, keepdim=True),
        lambda x: x + (torch.tril(x.unsqueeze(-1) * x.unsqueeze(-2)).sum(-1)),
        lambda x: x[..., torch.arange(x.shape[-1] - 1, -1, -1)] - x,
        lambda x: torch.cat([x[..., [1, 2]], x[..., [0]] * 2, x[..., 3:]], -1),
        lambda x: x * x.new_ones(x.shape[-1]).cumsum(0),
        lambda x: x @ x.new_ones(x.shape[-1], x.shape[-1]).tril(),
        lambda x: x @ torch.diag_embed(x.new_ones(x.shape[-1])) + x.new_zeros(x.shape[-1]),
        lambda x: x + F.pad(x.new_ones(x.shape[-1] - 2), (1, 1)),
    )

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(len(self.KINDS))

    def forward(self, x: Tensor) -> Tensor:
        return self.KINDS[self.kind](x)


class Norm(Step):
    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        affine = draws.coin()
        self.layer = draws.of(
            nn.LayerNorm(width, elementwise_affine=affine), nn.RMSNorm(width, elementwise_affine=affine)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Residual(Step):
    """Hidden units between two linear maps, perhaps gated, perhaps used twice, perhaps split for nothing, or two layers
    of them with one constant."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(7)
        fused = 2 if self.kind in (1, 2) else 1
        self.up, self.down = nn.Linear(width, 10 * fused), nn.Linear(10, width)
        self.hidden = (("up.weight", 0), ("down.weight", 1))
        if self.kind == 6:
            self.other, self.back = nn.Linear(width, 10), nn.Linear(10, width)
            self.hidden += (("other.weight", 0), ("back.weight", 1))

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.kind == 1:
            gate, up = up.chunk(2, -1)
            up = F.silu(gate) * up
        elif self.kind == 2:
            up = F.glu(up, -1)
        elif self.kind == 3:
            return x + self.down(torch.tanh(up)) + self.down(torch.relu(self.up(2 * x)))
        elif self.kind == 4:
            up = up.unflatten(-1, (2, 5)).movedim(-2, 0) * 2
            return x + self.down(torch.relu(up).movedim(0, -2).flatten(-2))
        elif self.kind == 5:
            up = torch.tanh(up.unflatten(-1, (2, 5)))
            return x + self.down((up / (1 + up.sum((-1, -2), keepdim=True))).flatten(-2))
        elif self.kind == 6:
            constant = x.new_zeros(10).unsqueeze(0) + 1.5
            return x + self.down(torch.tanh(up * constant)) - self.back(torch.tanh(self.other(x) * constant))
        return x + self.down(torch.tanh(up))


class Join(Step):
    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width, width + 6 if width < 18 else width)
        self.kind = draws.below(3)
        self.layer = nn.Linear(width, self.leaving - width or 6)

    def forward(self, x: Tensor) -> Tensor:
        other = torch.sigmoid(self.layer(x))
        if self.leaving == self.width:
            return torch.cat([other, x[..., 6:]], -1)
        parts = [x, other] if self.kind else [other, x]
        return torch.cat(parts, -1) if self.kind < 2 else x.new_zeros(()) + torch.cat(parts, -1)


class Halves(Step):
    KINDS: tuple[Callable[[Tensor, Tensor], list[Tensor]], ...] = (
        lambda a, b: [b, a],
        lambda a, b: [a * b, b],
        lambda a, b: [a, torch.relu(b)],
        lambda a, b: [a + b, a - b],
    )

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(len(self.KINDS))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.KINDS[self.kind](*x.chunk(2, -1)), -1)


class Heads(Step):
    """Views as heads by units, with something that mixes heads, or units, or neither."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.heads = draws.number(2, 3)
        each = width // self.heads
        self.kind, self.after = draws.below(28), draws.below(5)
        self.first, self.mix = nn.Linear(width, width), nn.Linear(each, each)
        self.back = nn.Linear(self.heads, each)
        self.over, self.stacked = nn.Linear(self.heads, self.heads), nn.Parameter(torch.zeros(self.heads, each, each))
        self.scale = nn.Parameter(torch.zeros(each))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(-1, (self.heads, -1))
        other = (
            lambda: torch.tanh(self.mix(h)),
            lambda: self.over(h.transpose(-1, -2)).transpose(-1, -2),
            lambda: torch.softmax(h @ h.transpose(-1, -2), -1) @ h,
            lambda: torch.einsum("...hi,hio->...ho", h, self.stacked),
            lambda: torch.cat([h, h.mean(-2, keepdim=True)], -2)[..., 1:, :],
            lambda: h * torch.softmax(h, -2),
            lambda: F.layer_norm(h, h.shape[-1:]) * self.scale,
            lambda: h + h[..., :1, :],
            lambda: torch.stack([h.select(-2, 0) * 2, *h.unbind(-2)[1:]], -2),
            lambda: h + h.sum((-1, -2), keepdim=True),
            lambda: (h.transpose(-1, -2) @ h).mean(-1, keepdim=True).transpose(-1, -2) + h,
            lambda: (h @ h.transpose(-1, -2)).sum(-1, keepdim=True) + h * self.scale,
            lambda: h + h.flip(-2),
            lambda: h.cumsum(-2),
            lambda: h * h.roll(1, -2),
            lambda: h.sort(-2).values,
            lambda: h.sort(-2, descending=True).values * h.softmax(-1),
            lambda: h + h.gather(-2, h.argmax(-2, keepdim=True)),
            lambda: h + h.take_along_dim(h.norm(dim=-1, keepdim=True).argmax(-2, keepdim=True), -2),
            lambda: torch.einsum("...hi,...hj,...j->...hi", h, h, h.amax(-2)),
            lambda: self.back(torch.einsum("...hi,...gi->...hg", h, h)),
            lambda: h.tril() + h.mean(-1, keepdim=True),
            lambda: torch.cdist(h, h).sum(-1, keepdim=True) * h,
            lambda: torch.cat([h[..., [0], :] * 2, torch.tanh(h[..., 1:, :])], -2),
            lambda: self.cut(lambda h: [h[..., 1:, :], torch.tanh(h[..., :1, :])], x),
            lambda: self.cut(lambda h: [h[..., [-1], :] * h[..., :-1, :], torch.tanh(h[..., [-1], :])], x),
            lambda: self.cut(lambda h: [h[..., :1, :], self.mix(h[..., 1:, :])], x),
            lambda: F.bilinear(h, h, self.stacked.sum(0).expand(h.shape[-1], -1, -1)),
        )[self.kind]()
        if self.after == 1:
            other = other.transpose(-1, -2)
        elif self.after == 2:
            parts = other.unbind(-2)
            return torch.cat([torch.tanh(parts[-1]), *parts[:-1]], -1)
        elif self.after == 3:
            return torch.cat([other[..., k, :] * (k + 1) for k in range(self.heads)], -1)
        elif self.after == 4:
            return (other * other[..., -1:, :]).flatten(-2)
        return other.flatten(-2)

    def cut(self, parts: Callable[[Tensor], list[Tensor]], x: Tensor) -> Tensor:
        """Runs of heads, of a view that nothing else uses."""
        return torch.cat(parts(self.first(x).unflatten(-1, (self.heads, -1))), -2)


class Stacked(Step):
    """Parameters of several parts in one tensor."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(4)
        self.weights = nn.Parameter(torch.zeros(3, width, width))
        self.single = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return torch.tanh(torch.tanh(x @ self.weights[0]) @ self.weights[1]) @ self.weights[2]
        if self.kind == 1:
            one, two, three = self.weights.unbind(0)
            return torch.tanh(x @ (one + two)) @ three
        if self.kind == 2:
            return torch.tanh(self.single(x)) @ self.single.weight + torch.sigmoid(self.single(x))
        return F.linear(F.linear(x, self.weights[0]), self.weights[1] / self.weights[1].norm(dim=1, keepdim=True))


class Experts(Step):
    """Experts by their numbers, or all of them by their shares."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind, self.experts = draws.below(5), 7
        self.router = nn.Linear(width, self.experts, bias=False)
        self.up = nn.Parameter(torch.zeros(self.experts, 10, width))
        self.down = nn.Parameter(torch.zeros(self.experts, width, 10))
        self.scale = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        share, chosen = torch.softmax(self.router(flat), -1).topk(1 if self.kind == 4 else 2, -1)
        if self.kind == 0:
            shares = torch.softmax(self.router(flat), -1)
            inner = torch.tanh(torch.einsum("tw,ehw->teh", flat, self.up))
            return torch.einsum("teh,ewh,te->tw", inner, self.down, shares).view_as(x)
        inner = torch.tanh(torch.einsum("tw,tkhw->tkh", flat, self.up[chosen]))
        if self.kind == 1:
            inner = inner * self.scale
        elif self.kind == 2:
            inner = inner + inner[:, :1]
        elif self.kind == 3:
            inner = inner + inner.mean(0, keepdim=True)
        return torch.einsum("tkh,tkwh,tk->tw", inner, self.down[chosen], share).view_as(x) + x


class Attention(Step):
    """Over tokens, in the layouts and with the extras that people use."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.heads, self.each = draws.number(2, 3, 6), 4
        self.layout, self.extra, self.by_hand = draws.below(6), draws.below(7), draws.coin()
        inner = self.heads * self.each
        # Layout 4: two query heads for every head of keys and values; layout 5: one of these for all.
        self.query = nn.Linear(width, inner * (2 if self.layout == 4 else 1))
        self.fused = nn.Linear(width, inner * (2 if self.layout == 4 else 3))
        self.out = nn.Linear(inner * (2 if self.layout == 4 else 1), width)
        self.norm = nn.RMSNorm(self.each)
        self.bias = nn.Parameter(torch.zeros(self.heads, TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        q, k, v = self.parts(x)
        scale = 0.5
        bias = None
        if self.extra == 1:
            q, k = self.norm(q), self.norm(k)
        elif self.extra == 2:
            q, k = rotated(q), rotated(k)
        elif self.extra == 3:
            q, k = interleaved(q), interleaved(k)
        elif self.extra == 4 and self.layout != 4:
            bias = self.bias
        elif self.extra == 5:
            bias = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        elif self.extra == 6:
            v = v * F.softmax(v, 1)
        if self.by_hand:
            scores = (q @ k.transpose(-1, -2)) * scale
            out = torch.softmax(scores if bias is None else scores + bias, -1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
        return x + self.out(out.transpose(1, 2).flatten(-2))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused, n, d = self.fused(x), self.heads, self.each
        if self.layout == 0:
            q, k, v = (part.unflatten(-1, (n, d)).transpose(1, 2) for part in fused.chunk(3, -1))
        elif self.layout == 1:
            q, k, v = fused.view(*x.shape[:2], n, 3 * d).transpose(1, 2).chunk(3, -1)
        elif self.layout == 2:
            q, k, v = fused.view(*x.shape[:2], 3, n, d).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.layout == 3:
            fused = fused.view(*x.shape[:2], n, 3, d)
            q, k, v = (fused[..., part, :].transpose(1, 2) for part in range(3))
        elif self.layout == 5:
            fused = fused[..., : (n + 2) * d].view(*x.shape[:2], n + 2, d)
            q, k, v = (
                part.transpose(1, 2).expand(-1, n, -1, -1)
                for part in (fused[..., :-2, :], fused[..., [-2], :], fused[..., [-1], :])
            )
        else:
            q = self.query(x).unflatten(-1, (2 * n, d)).transpose(1, 2)
            k, v = (part.unflatten(-1, (n, d)).transpose(1, 2) for part in fused.chunk(2, -1))
            k, v = (
                part[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape)
                if self.by_hand
                else part.repeat_interleave(2, 1)
                for part in (k, v)
            )
        return q, k, v


def rotated(x: Tensor) -> Tensor:
    """[batch, heads, tokens, d]: halves turned by their places."""
    half = x.shape[-1] // 2
    angle = torch.arange(TOKENS)[:, None] * torch.arange(1, half + 1)
    angle = torch.cat([angle, angle], -1).to(x.dtype)
    return x * angle.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * angle.sin()


def interleaved(x: Tensor) -> Tensor:
    """[batch, heads, tokens, d]: neighbours turned by their places."""
    angle = (torch.arange(TOKENS)[:, None] * torch.arange(1, x.shape[-1] // 2 + 1)).to(x.dtype)
    one, two = x[..., ::2], x[..., 1::2]
    turned = torch.stack([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], -1)
    return turned.flatten(-2)


class Tokens(Step):
    """What acts along the tokens."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width)
        self.kind = draws.below(6)
        self.layer, self.places = nn.Linear(TOKENS, TOKENS), nn.Parameter(torch.zeros(TOKENS, width))
        self.recurrent = draws.of(nn.LSTM, nn.GRU)(
            width, width // 2, batch_first=True, bidirectional=True, num_layers=draws.number(1, 2)
        )
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=draws.number(1, 3, width))

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        return (
            lambda: x + self.layer(x.transpose(1, 2)).transpose(1, 2),
            lambda: x + self.places,
            lambda: x.cumsum(1),
            lambda: self.recurrent(x)[0],
            lambda: x + self.conv(x.transpose(1, 2)).transpose(1, 2),
            lambda: x * torch.sigmoid(x.mean(1, keepdim=True)),
        )[self.kind]()


class Maps(Step):
    """What acts on maps [batch, width, height, width]."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__(width, draws.number(6, 12, 18))
        self.kind, groups = draws.below(11), draws.number(1, 2, 3, 6)
        leaving = self.leaving
        self.conv = nn.Conv2d(width, leaving, 3, padding=1, groups=groups, bias=draws.coin())
        self.turned = nn.ConvTranspose2d(width, leaving, 3, padding=1, groups=groups)
        self.depth = nn.Conv2d(leaving, leaving, 3, padding=1, groups=leaving)
        self.norm = draws.of(
            nn.BatchNorm2d(leaving), nn.GroupNorm(draws.number(2, 3), leaving), nn.InstanceNorm2d(leaving, affine=True)
        )
        self.squeeze = nn.Sequential(nn.Conv2d(leaving, 10, 1), nn.SiLU(), nn.Conv2d(10, leaving, 1), nn.Sigmoid())
        self.shrink, self.grow = nn.Conv2d(leaving, 10, 1), nn.Conv2d(10, leaving, 1)
        self.slope = nn.Parameter(torch.zeros(leaving))
        self.hidden = (("shrink.weight", 0), ("grow.weight", 1)) if self.kind == 4 else ()

    def forward(self, x: Tensor) -> Tensor:
        y = self.turned(x) if self.kind == 3 else self.conv(x)
        return (
            lambda: torch.relu(self.norm(y)),
            lambda: y * self.squeeze(y.mean((2, 3), keepdim=True)),
            lambda: self.depth(F.prelu(y, self.slope)),
            lambda: torch.relu(y),
            lambda: y + self.grow(F.gelu(self.shrink(y))),
            lambda: F.channel_shuffle(y, 3),
            lambda: F.interpolate(F.max_pool2d(y, 2), scale_factor=2),
            lambda: y.roll((1, 2), (2, 3)),
            lambda: torch.cat([y[:, self.leaving // 2 :], torch.tanh(y[:, : self.leaving // 2])], 1),
            lambda: (
                F.pixel_unshuffle(F.pixel_shuffle(torch.cat([y, y], 1)[:, : 4 * (self.leaving // 4)], 2), 2).sum(
                    1, keepdim=True
                )
                + y
            ),
            lambda: F.conv2d(y, standardised(self.depth.weight), groups=self.leaving, padding=1),
        )[self.kind]()


class Narrow(Step):
    """Hidden channels between two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.shrink, self.grow = nn.Conv2d(width, 10, 1), nn.Conv2d(10, width, 1)
        self.hidden = (("shrink.weight", 0), ("grow.weight", 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.grow(F.gelu(self.shrink(x)))


def standardised(weight: Tensor) -> Tensor:
    """[out, in, ...] with mean 0 and variance 1 for each of out."""
    var, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
    return (weight - mean) / (var + 1e-5).sqrt()


class Module(nn.Module):
    """Steps one after the other, then numbers."""

    def __init__(self, steps: list[Step], kind: str, draws: Draws) -> None:
        super().__init__()
        self.steps, self.kind, self.ends = nn.ModuleList(steps), kind, draws.below(3)
        width = steps[-1].leaving
        flat = width * (PLACES[0] * PLACES[1] if kind == "map" else TOKENS if kind == "tokens" else 1)
        self.last = nn.Linear(flat if self.ends == 0 else width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        if self.ends == 0:
            return self.last(x.flatten(1))
        if self.kind == "map":
            return self.last(x.mean((2, 3)) if self.ends == 1 else x.flatten(2).transpose(1, 2))
        return self.last(x.mean(1) if self.kind == "tokens" and self.ends == 1 else x)

    def free(self) -> list[tuple[str, int]]:
        """(parameter, axis) of hidden units that are known to be free."""
        return [(f"steps.{k}.{name}", axis) for k, step in enumerate(self.steps) for name, axis in step.hidden]


USUAL = (Linear, Linear, Pointwise, Pointwise, Told, Norm, Residual, Join, Halves, Heads, Heads, Stacked, Experts)
KINDS: dict[str, tuple[type[Step], ...]] = {
    "vector": USUAL,
    "tokens": (*USUAL, Attention, Attention, Attention, Attention, Tokens, Tokens),
    "map": (Maps,),
}


def random_module(seed: int) -> tuple[Module, Tensor]:
    """A module of a few steps, and inputs for it."""
    draws = Draws(seed)
    kind = str(draws.of("vector", "tokens", "map"))
    width, steps = 3 if kind == "map" else 6, list[Step]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(draws.number(2, 3, 4, 5)):
            if kind == "map" and width % 6:
                steps.append(Start(width))
                width = steps[-1].leaving
            made = KINDS[kind][draws.below(len(KINDS[kind]))](draws, width)
            steps.append(made)
            width = made.leaving
        if seed % 10 == 0:
            # Something is known of each lot of modules.
            steps.append(Narrow(width) if kind == "map" else Residual(draws, width))
        module = Module(steps, kind, draws).eval()
        shape = {"vector": (BATCH, 6), "tokens": (BATCH, TOKENS, 6), "map": (BATCH, 3, *PLACES)}[kind]
        return module, torch.randn(shape)


class Several(nn.Module):
    """Modules side by side, each with inputs of its own: one trace for all of them."""

    def __init__(self, modules: list[Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [module(x) for module, x in zip(self.each, inputs, strict=True)]

    def free(self) -> list[tuple[str, int]]:
        """(parameter, axis) of hidden units that are known to be free."""
        return [(f"each.{k}.{name}", axis) for k, module in enumerate(self.each) for name, axis in module.free()]


def random_modules(start: int, count: int) -> tuple[Several, tuple[Tensor, ...]]:
    """Those of the seeds from `start` on as one."""
    made = [random_module(seed) for seed in range(start, start + count)]
    return Several([module for module, _ in made]).eval(), tuple(inputs for _, inputs in made)


class Start(Step):
    """From an image's channels to a width."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 12)
        self.conv = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
