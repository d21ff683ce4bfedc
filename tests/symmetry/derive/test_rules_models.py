"""Layers in the forms in which libraries write them: what is free in each is known by hand, and tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.networks import GroupNormUNet, Mixer, PaddedResNet, PreActivationResNet, Recurrent, WideResNet

from ...slow import slow_but
from .side_by_side import Case, Derived, asked, derived

BATCH, TOKENS, WIDTH, HEADS, EACH = 2, 7, 10, 3, 4


class Attention(nn.Module):
    """[batch, tokens, width] -> [batch, width]: query, key and value as a function makes them, over all tokens."""

    def __init__(
        self,
        parts: Callable[[Attention, Tensor], tuple[Tensor, Tensor, Tensor]],
        inner: int = 3 * HEADS * EACH,
        heads: int = HEADS,
        **options: object,
    ) -> None:
        super().__init__()
        self.first, self.fused = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, inner)
        self.out, self.head = nn.Linear(heads * EACH, WIDTH), nn.Linear(WIDTH, 5)
        self.norm = nn.RMSNorm(EACH)
        self.table = nn.Embedding(2 * TOKENS, heads)
        self.parts, self.options = parts, options

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = self.parts(self, x)
        bias = self.options.get("bias")
        mask = None if bias is None else bias(self, q)
        options = {name: value for name, value in self.options.items() if name != "bias"}
        out = F.scaled_dot_product_attention(q, k, v, mask, **options).transpose(1, 2).flatten(2)
        return self.head((x + self.out(out)).mean(1))


def blocked(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = of.fused(x).split(HEADS * EACH, -1)
    return tuple(part.view(BATCH, TOKENS, HEADS, EACH).transpose(1, 2) for part in (q, k, v))


def per_head(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return of.fused(x).view(BATCH, TOKENS, HEADS, 3 * EACH).transpose(1, 2).chunk(3, -1)


def one_of_three(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return of.fused(x).view(BATCH, TOKENS, 3, HEADS, EACH).permute(2, 0, 3, 1, 4).unbind(0)


def three_in_each(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fused = of.fused(x).view(BATCH, TOKENS, HEADS, 3, EACH)
    return tuple(fused[..., part, :].transpose(1, 2) for part in range(3))


def normed(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = blocked(of, x)
    return of.norm(q), of.norm(k), v


def angles(count: int, dtype: torch.dtype) -> Tensor:
    return (torch.arange(TOKENS)[:, None] * torch.linspace(0.1, 1.0, count)).to(dtype)


def rotary(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Halves turned; what is not is of width 0, as Phi-3 has it."""

    def turned(part: Tensor) -> Tensor:
        angle = angles(EACH // 2, part.dtype)
        angle = torch.cat([angle, angle], -1)
        turning, passing = part[..., :EACH], part[..., EACH:]
        half = torch.cat([-turning[..., EACH // 2 :], turning[..., : EACH // 2]], -1)
        return torch.cat([turning * angle.cos() + half * angle.sin(), passing], -1)

    q, k, v = blocked(of, x)
    return turned(q), turned(k), v


def every_other(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours turned, of half of the dimensions, as GPT-J has it."""

    def turned(part: Tensor) -> Tensor:
        turning, passing = part[..., :2], part[..., 2:]
        angle = angles(1, part.dtype).repeat_interleave(2, -1)
        half = torch.stack((-turning[..., 1::2], turning[..., ::2]), -1).flatten(-2)
        return torch.cat([turning * angle.cos() + half * angle.sin(), passing], -1)

    q, k, v = blocked(of, x)
    return turned(q), turned(k), v


def grouped(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two query heads for each of three heads of keys and values, repeated by expand and reshape."""
    q, k, v = of.fused(x).split([6 * EACH, 3 * EACH, 3 * EACH], -1)
    q = q.view(BATCH, TOKENS, 6, EACH).transpose(1, 2)
    k, v = (part.view(BATCH, TOKENS, 3, EACH).transpose(1, 2) for part in (k, v))
    return q, *(part[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for part in (k, v))


def not_repeated(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = of.fused(x).split([6 * EACH, 3 * EACH, 3 * EACH], -1)
    parts = ((q, 6), (k, 3), (v, 3))
    return tuple(part.view(BATCH, TOKENS, heads, EACH).transpose(1, 2) for part, heads in parts)


def one_for_all(of: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One head of keys and values for all query heads, picked by lists of one, as Falcon has it."""
    fused = of.fused(x).view(BATCH, TOKENS, HEADS + 2, EACH)
    parts = fused[..., :-2, :], fused[..., [-2], :], fused[..., [-1], :]
    return tuple(part.transpose(1, 2).expand(-1, HEADS, -1, -1) for part in parts)


def by_distance(of: Attention, q: Tensor) -> Tensor:
    """A slope of its own for every head, as ALiBi has it."""
    slopes = 2.0 ** -torch.arange(1, HEADS + 1)
    return (slopes[:, None, None] * (torch.arange(TOKENS) - TOKENS)).to(q.dtype)


def by_table(of: Attention, q: Tensor) -> Tensor:
    """A bias for every distance and head, learned."""
    distance = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS
    return of.table(distance).permute(2, 0, 1)


class Routed(nn.Module):
    """Experts by the numbers of the largest shares: [tokens, width] -> [tokens, classes]."""

    def __init__(self, apply: Callable[[Routed, Tensor, Tensor, Tensor], Tensor], experts: int = 6) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, 5)
        self.router, self.apply_experts = nn.Linear(8, experts, bias=False), apply
        self.up, self.down = nn.Parameter(torch.zeros(experts, 12, 8)), nn.Parameter(torch.zeros(experts, 8, 6))
        self.correction = nn.Parameter(torch.zeros(experts))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        shares, chosen = self.chosen(torch.softmax(self.router(x), -1))
        return self.head(x + self.apply_experts(self, x, shares, chosen))

    def chosen(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        return shares.topk(2, -1)


class InGroups(Routed):
    """Only those of the two best of three groups are chosen from, as DeepSeek has it."""

    def chosen(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        of = shares + self.correction
        best = of.view(-1, 3, 2).topk(2, -1).values.sum(-1).topk(2, -1, sorted=False).indices
        mask = torch.zeros(len(shares), 3).scatter(1, best, 1).unsqueeze(-1).expand(-1, 3, 2).reshape(-1, 6)
        chosen = of.masked_fill(~mask.bool(), float("-inf")).topk(2, -1, sorted=False).indices
        shares = shares.gather(1, chosen)
        return shares / shares.sum(-1, keepdim=True), chosen


def looked_up(of: Routed, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
    """Every token's own matrices."""
    tokens, flat = x.repeat_interleave(2, 0), chosen.view(-1)
    gate, up = torch.bmm(of.up[flat], tokens.unsqueeze(-1)).squeeze(-1).chunk(2, -1)
    out = torch.bmm(of.down[flat], (F.silu(gate) * up).unsqueeze(-1)).squeeze(-1)
    return (out * shares.view(-1, 1)).view(len(x), 2, -1).sum(1)


def in_order(
    of: Routed, x: Tensor, shares: Tensor, chosen: Tensor, multiply: Callable[..., Tensor] | None = None
) -> Tensor:
    """Tokens in the order of their experts, and back; without a product of groups, by what each of them counts."""
    numbers, order = chosen.view(-1).sort()
    tokens = x[order // 2]
    gate, up = torch.bmm(of.up[numbers], tokens.unsqueeze(-1)).squeeze(-1).chunk(2, -1)
    out = torch.bmm(of.down[numbers], (F.silu(gate) * up).unsqueeze(-1)).squeeze(-1) * shares.view(-1)[order][:, None]
    back = torch.empty_like(order).index_put((order,), torch.arange(len(order)))
    return out[back].view(len(x), 2, -1).sum(1)


def shared_inside(of: Routed, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
    """Units of the first expert are added to those of the second: one order for all experts. The others are unused."""
    hidden = torch.einsum("tw,tkhw->tkh", x, of.up[chosen])[..., :6]
    hidden = hidden + hidden[:, :1]
    return torch.einsum("tkh,tkwh,tk->tw", hidden, of.down[chosen], shares)


def by_all(of: Routed, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
    """Every expert for every token, weighed by one-hot numbers."""
    weight = (F.one_hot(chosen, 6) * shares.unsqueeze(-1)).sum(1)
    gate, up = torch.einsum("tw,ehw->teh", x, of.up).chunk(2, -1)
    return torch.einsum("teh,ewh,te->tw", torch.sigmoid(gate) * up, of.down, weight)


class Shifted(nn.Module):
    """Swin's windows, shifted and padded, with a mean at the end: [batch, 4, 6, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fused, self.out = nn.Linear(WIDTH, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.reduction, self.head = nn.Linear(32, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        padded = F.pad(x, (0, 0, 0, 3, 0, 2)).roll((-1, -1), (1, 2))
        windows = padded.view(BATCH, 2, 3, 3, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 8)
        q, k, v = self.fused(windows).reshape(-1, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
        out = (torch.softmax(q @ k.transpose(-1, -2), -1) @ v).transpose(1, 2).reshape(-1, 9, 8)
        out = self.out(out).view(BATCH, 2, 3, 3, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(BATCH, 6, 9, 8)
        x = x + out.roll((1, 1), (1, 2))[:, :4, :6]
        merged = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.reduction(merged).mean((1, 2)))


class GPT2(nn.Module):
    """Weights as [in, out], by addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Parameter(torch.zeros(WIDTH, 8)), nn.Parameter(torch.zeros(8, 12))
        self.bias, self.down, self.head = (
            nn.Parameter(torch.zeros(12)),
            nn.Parameter(torch.zeros(12, 8)),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.first
        return self.head(x + F.gelu(torch.addmm(self.bias, x, self.up)) @ self.down)


class Stacked(nn.Module):
    """Layers in one parameter, each taken out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(WIDTH, 6), nn.Parameter(torch.zeros(3, 6, 6))
        self.both, self.head = nn.Parameter(torch.zeros(2, 6)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer, weight in enumerate(self.layers.unbind(0)):
            x = torch.tanh(x @ weight) if layer else torch.tanh(x @ weight) * self.both.select(0, 1)
        return self.head(x * self.both[0])


class Sequence(nn.Sequential):
    """Layers with nothing between."""


def squeeze(width: int) -> nn.Module:
    return Sequence(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1), nn.Hardsigmoid()
    )


class Excited(nn.Module):
    """An inverted residual with a depthwise convolution and squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1)
        self.depth, self.norm, self.squeeze = (
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.BatchNorm2d(12),
            squeeze(12),
        )
        self.project, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.hardswish(self.norm(self.depth(F.hardswish(self.expand(x)))))
        return self.head((x + self.project(y * self.squeeze(y))).mean((2, 3)))


class Standardised(nn.Module):
    """Convolutions by weights of mean 0 and variance 1, by reductions and by a batch norm of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 5)
        self.gain = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.one.weight, (1, 2, 3), keepdim=True)
        x = torch.relu(F.conv2d(x, (self.one.weight - mean) / torch.sqrt(var + 1e-5), self.one.bias))
        flat = self.two.weight.reshape(1, 8, -1)
        weight = F.batch_norm(flat, None, None, self.gain, training=True).reshape(self.two.weight.shape)
        return self.head(F.conv2d(x, weight).mean((2, 3)))


class Convolved(nn.Module):
    """Convolutions of one, two and three dimensions, back and forth, in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 6, 3, groups=2), nn.ConvTranspose1d(6, 8, 2, groups=2)
        self.three, self.four = nn.ConvTranspose1d(8, 3, 2), nn.Conv3d(3, 4, 1)
        self.norm, self.head = nn.InstanceNorm3d(4, affine=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 2, time]
        x = torch.relu(self.three(torch.relu(self.two(torch.relu(self.one(x))))))
        return self.head((self.norm(self.four(x[..., None, None].expand(-1, -1, -1, 2, 2))) ** 2).mean((2, 3, 4)))


class Twice(nn.Module):
    """One layer used twice, and one whose weight is used again the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.round = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 9)
        self.bilinear, self.head = nn.Bilinear(6, 6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.again(torch.tanh(self.again(self.first(x)))))
        x = torch.tanh(self.round(x)) @ self.round.weight
        return self.head(self.bilinear(x, torch.relu(x)))


class States(nn.Module):
    """The last states of a recurrent layer of two layers, one of them taken out."""

    def __init__(self, kind: type[nn.RNNBase], takes: Callable[[Tensor], Tensor], **options: object) -> None:
        super().__init__()
        self.layer, self.takes = kind(4, 6, 2, **options), takes
        self.head = nn.Linear(self.takes(torch.zeros(2, BATCH, 6)).shape[-1], 5)

    def forward(self, x: Tensor) -> Tensor:  # [time, batch, 4]
        states = self.layer(x)[1]
        return self.head(self.takes(states[0] if isinstance(states, tuple) else states))


class Buffers(nn.Module):
    """A buffer that moves, one that is in no state dict, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 5)
        self.register_buffer("scale", torch.zeros(6))
        self.register_buffer("unsaved", torch.linspace(0, 1, 8), persistent=False)
        self.register_buffer("calls", torch.tensor([3, 1]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)) * self.scale * self.calls.sum()
        return self.head(torch.tanh(self.second(x)) * self.unsaved)


class OneConstant(nn.Module):
    """Layers to whose units one constant is added, made once: no two units of theirs are one for that."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(WIDTH, 6) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(6, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        constant = x.new_zeros(6).unsqueeze(0) + x.new_full((1, 6), 0.5)
        return sum(down(torch.tanh(up(x) * constant)) for up, down in zip(self.up, self.down, strict=True))


def written() -> nn.Module:
    """Parts of a value written anew."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 9), nn.Linear(9, 4), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x))
            g = h.clone()
            g[:, 2:6] = torch.sigmoid(self.second(h))
            g[:, -1] = h[:, 1]
            return self.head(g)

    return Written()


X, IMAGE, IDS = torch.randn(BATCH, TOKENS, WIDTH), torch.randn(2, 3, 8, 12), torch.randint(0, 11, (3, 4))
STREAM, ONE = WIDTH, (EACH, EACH)
CASES = {
    "blocked": Case(Attention(blocked), X, (3, 10), ONE),
    "per head": Case(Attention(per_head), X, (3, 10), ONE),
    "one of three": Case(Attention(one_of_three), X, (3, 10), ONE),
    # A head's three parts stand inside it: one order of heads for all of them.
    "three in each": Case(Attention(three_in_each), X, (3, 10), ONE),
    "causal": Case(Attention(blocked, is_causal=True), X, (3, 10), ONE),
    # The norm's weights are one for all heads.
    "normed queries and keys": Case(Attention(normed), X, (3, 4, 10), (4,)),
    "rotary": Case(Attention(rotary), X, (3, 10), (4,)),
    # Of four dimensions two are turned, and two are not.
    "rotary of every other": Case(Attention(every_other), X, (3, 10), (2, 4)),
    "grouped queries": Case(Attention(grouped, 12 * EACH, 6), X, (3, 10), (2, 4, 4)),
    "grouped queries in one operation": Case(
        Attention(not_repeated, 12 * EACH, 6, enable_gqa=True), X, (3, 10), (2, 4, 4)
    ),
    "one key and value for all heads": Case(Attention(one_for_all, (HEADS + 2) * EACH), X, (3, 4, 4, 10)),
    "slopes of heads": Case(Attention(per_head, bias=by_distance), X, (*(4,) * 6, 10)),
    "slopes of heads, three in each": Case(Attention(three_in_each, bias=by_distance), X, (*(4,) * 6, 10)),
    "a table of distances": Case(Attention(blocked, bias=by_table), X, (3, 10), ONE),
    "experts looked up": Case(Routed(looked_up), torch.randn(TOKENS, WIDTH), (6, 8), (6,)),
    "experts in order": Case(Routed(in_order), torch.randn(TOKENS, WIDTH), (6, 8), (6,)),
    "experts in groups": Case(InGroups(looked_up), torch.randn(TOKENS, WIDTH), (3, 8), (2, 6)),
    "experts that share": Case(Routed(shared_inside), torch.randn(TOKENS, WIDTH), (6, 6, 8), (6,)),
    "experts by one-hot numbers": Case(Routed(by_all), torch.randn(TOKENS, WIDTH), (6, 8), (6,)),
    "shifted windows": Case(Shifted(), torch.randn(BATCH, 4, 6, WIDTH), (2, 8, 12), ONE),
    "addmm": Case(GPT2(), torch.randn(5, WIDTH), (8, 12)),
    "stacked layers": Case(Stacked(), torch.randn(5, WIDTH), (6, 6, 6, 6)),
    "squeeze and excite": Case(Excited(), IMAGE, (3, 8, 12)),
    "standardised": Case(Standardised(), IMAGE, (6, 8)),
    "convolutions": Case(Convolved(), torch.randn(2, 2, 9), (3, 3, 3, 4, 4, 4)),
    "twice": Case(Twice(), torch.randn(5, 4), (6, 7, 9)),
    "buffers": Case(Buffers(), torch.randn(5, 4), (6,)),
    "one constant for all": Case(OneConstant(), torch.randn(5, WIDTH), (6, 6, 6)),
    "written": Case(written(), torch.randn(5, 4), ()),
    "weight norm": Case(
        Sequence(parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4), (6,)
    ),
    "spectral norm": Case(
        Sequence(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4), (6,)
    ),
    "pre-activation": Case(PreActivationResNet(), IMAGE, (6, 6, 6, 10, 10, 10)),
    "wide": Case(WideResNet(), IMAGE, (8, 8, 16, 16, 32, 32)),
    # Channels of zeros come on both sides of the shortcut, and change places with each other.
    "padded shortcuts": Case(PaddedResNet(), IMAGE, (4, 4, 4, 8, 8, 16)),
    "U-Net": Case(GroupNormUNet(), (IMAGE, torch.randn(2, 1)), (*(3,) * 10, 6, 10, 12), (2, 2, 2, 2, *(4,) * 6)),
    "mixer": Case(Mixer(), IMAGE, (7, 7, 10, 18, 18)),
    "LSTM": Case(Recurrent(), IDS, (6, 8)),
    "LSTM in both directions": Case(Recurrent(num_layers=2, bidirectional=True), IDS, (6, 8, 8, 8, 8)),
    "LSTM with projections": Case(Recurrent(proj_size=3, num_layers=2), IDS, (3, 3, 6, 8, 8)),
    "GRU": Case(Recurrent(nn.GRU, num_layers=2, bias=False), IDS, (6, 8, 8)),
    "RNN": Case(Recurrent(nn.RNN), IDS, (6, 8)),
    "one layer's states": Case(States(nn.LSTM, lambda h: h[-1]), torch.randn(5, BATCH, 4), (6, 6)),
    # Layers are taken together with their states.
    "all layers' states": Case(States(nn.GRU, lambda h: h.sum(0)), torch.randn(5, BATCH, 4), (6,)),
}


# Which are much as one before.
ALIKE = {
    *("one of three", "three in each", "rotary of every other", "grouped queries in one operation"),
    *("slopes of heads, three in each", "experts in order", "experts that share", "experts by one-hot numbers"),
    *("spectral norm", "pre-activation", "wide", "U-Net", "LSTM in both directions", "LSTM with projections", "GRU"),
    *("RNN", "all layers' states"),
}


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Derived:
    return derived(asked(CASES, request))


@pytest.mark.parametrize("name", slow_but(CASES, lambda name: name not in ALIKE))
def test_what_is_known_by_hand_is_found(name: str, found: Derived) -> None:
    assert found.sizes(name) == (CASES[name].roots, CASES[name].owned), found.reasons(name)


def test_all_of_it_holds_on_the_model(found: Derived) -> None:
    assert found.spec.verified is not None and found.spec.verified.error < 1e-10
    assert not found.spec.explain().notes
