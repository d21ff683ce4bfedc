"""Activation matching sees units where they are computed, whatever code computes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from torch.utils._python_dispatch import _disable_current_modes

import lmc_fast as lmc
from benchmarks import models, transformer_kinds
from benchmarks.planted import with_noise
from lmc_fast._calls import Calls
from lmc_fast.matching.activations.crossing import activation_gains
from lmc_fast.matching.activations.seeing import Weights, spots_used
from lmc_fast.matching.activations.trial import steady_spots
from lmc_fast.matching.engine.nested import units_at_places

from ..small_transformers import GPT, TOKENS, Bert, Llama, ViT


class NormedQueries(nn.Module):
    """Query and key norms, one for all heads: samples there come head by head."""

    def __init__(self, heads: int = 4, dim: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(6, heads * dim) for _ in range(3))
        self.q_norm, self.k_norm, self.o = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Linear(heads * dim, 6)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, 6]
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Bare(nn.Module):
    """Parameters without layers, in all kinds of products; scaled weights; one that is cut into two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.both = nn.Parameter(torch.zeros(4, 9)), nn.Parameter(torch.zeros(22, 9))
        self.shift, self.scale = nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(9))
        self.by_head, self.last = nn.Parameter(torch.zeros(3, 11, 5)), nn.Parameter(torch.zeros(15, 2))

    def forward(self, x: Tensor) -> Tensor:  # [batch, 4]
        x = self.scale * torch.relu(x @ self.first * 2.0 + self.shift)
        gate, up = (F.linear(x, part) for part in self.both.chunk(2))
        x = torch.einsum("bi,hio->bho", torch.sigmoid(gate) * up, self.by_head)
        return torch.relu(x).flatten(1) @ self.last


class Kept(nn.Sequential):
    """A plain net whose layers may be parametrised."""

    def __init__(self, wrap: Callable[[nn.Module], Any] = lambda layer: layer) -> None:
        # No bias: nothing but weights shows units.
        sizes = ((4, 13), (13, 12), (12, 3))
        first, second, last = (nn.Linear(*size, bias=False) for size in sizes)
        super().__init__(first, nn.Tanh(), second, nn.Tanh(), last)
        for layer in (first, second, last):
            wrap(layer)


def ids() -> list[Tensor]:
    return [torch.randint(0, 30, (count, TOKENS)) for count in (40, 1, 23)]


def numbers(*shape: int) -> Callable[[], list[Tensor]]:
    return lambda: [torch.randn(count, *shape) for count in (150, 1, 64)]


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Tensor]]]] = {
    "gpt": (GPT, ids),
    "bert": (Bert, ids),
    "vit": (ViT, numbers(3, 8, 8)),
    "llama-grouped-queries": (Llama, ids),
    "one-norm-for-all-heads": (NormedQueries, numbers(TOKENS, 6)),
    "bare-parameters": (Bare, numbers(4)),
}


def made(kind: str, seed: int = 0) -> tuple[nn.Module, list[Tensor], lmc.PermutationSpec]:
    build, draw = KINDS[kind]
    torch.manual_seed(seed)
    model, batches = build(), draw()
    models.randomise(model, seed)
    return model.eval(), batches, derived(kind).bind(model)


@cache
def derived(kind: str) -> lmc.PermutationSpec:
    build, draw = KINDS[kind]
    # Whoever is first to ask draws what all others do.
    with torch.random.fork_rng(devices=[]):
        return lmc.derive_spec(models.randomise(build(), 0), draw()[0][:3])


def planted(model: nn.Module, spec: lmc.PermutationSpec, seed: int = 5) -> tuple[nn.Module, lmc.Permutations]:
    truth = lmc.Permutations.random(spec, seed)
    return truth.inverse().apply(model), truth


@pytest.mark.parametrize("watch", ["inputs", "outputs"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_permutations_are_found(kind: str, watch: str) -> None:
    model, batches, spec = made(kind)
    other, truth = planted(model, spec)
    assert len(spec.groups) >= 2
    match = lmc.activation_matching(model, other, batches, spec, watch=watch)
    assert match.permutations == truth
    assert match.l2_after < 1e-5


WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "weight-norm": weight_norm,
    "old-weight-norm": nn.utils.weight_norm,
    "spectral-norm": spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    "standardised": lambda layer: register_parametrization(layer, "weight", Standardised()),
}


class Standardised(nn.Module):
    """Weights less the mean of each unit's, over their deviation."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)


def by_size(model: nn.Module, groups: dict[int, str]) -> lmc.PermutationSpec:
    """A spec by hand: an axis carries the group of its size."""
    return lmc.PermutationSpec.from_axes(
        {name: tuple(groups.get(size) for size in tensor.shape) for name, tensor in model.state_dict().items()}
    ).bind(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("watch", ["inputs", "outputs"])
@pytest.mark.parametrize("kind", WRAPS)
def test_weights_that_are_computed(kind: str, watch: str) -> None:
    torch.manual_seed(0)
    model = Kept(WRAPS[kind]).eval()
    spec, batches = by_size(model, {13: "P", 12: "Q"}), numbers(4)()
    other, truth = planted(model, spec)
    assert lmc.activation_matching(model, other, batches, spec, watch=watch).permutations == truth


@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "llama-grouped-queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_with_noise(kind: str, dtype: torch.dtype) -> None:
    model, batches, spec = made(kind)
    other, truth = planted(model, spec)
    other.load_state_dict(with_noise(other.state_dict(), 0.05, 1))
    if kind == "vit":
        batches = [batch.to(dtype) for batch in batches]
    match = lmc.activation_matching(model.to(dtype), other.to(dtype), batches, spec)
    assert match.permutations == truth


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = models.randomise(Kept(), 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + 1


class Half(nn.Module):
    """A part of which is compiled by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


FUSED: list[str] = []


def fused(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
    """What a compiler makes: its operations cannot be seen from outside."""

    def run(*args: Any) -> Any:
        FUSED.append("run")
        with _disable_current_modes():
            return graph(*args)

    return run


def in_place(model: Half) -> nn.Module:
    model.body.compile(backend=fused)
    return model


def a_part(model: Half) -> nn.Module:
    model.body = torch.compile(model.body, backend=fused)  # type: ignore[assignment]
    return model


def the_whole(model: Half) -> nn.Module:
    return torch.compile(model, backend=fused)  # type: ignore[return-value]


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 and later")
@pytest.mark.parametrize("wrap", [in_place, a_part, the_whole], ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "run-before"])
def test_compiled_models(wrap: Callable[[Half], nn.Module], warm: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, batches = Half(), numbers(4)()
    spec = by_size(model, {13: "P", 12: "Q"})
    other, truth = planted(model, spec)
    with torch.no_grad():
        wanted = model(batches[0])
    wrapped = [wrap(model), wrap(other)]
    if warm:
        with torch.no_grad():
            for each in wrapped:
                each.eval()
                for batch in batches:
                    each(batch)
    match = lmc.activation_matching(*wrapped, batches, spec)
    assert all(torch.equal(match.permutations[name], truth[name]) for name in spec.groups)
    FUSED.clear()
    with torch.no_grad():
        torch.testing.assert_close(wrapped[0].eval()(batches[0]), wanted)
    assert FUSED, "what was compiled is no more"


def test_wrapped_for_parallel_runs(tmp_path: Any) -> None:
    model, batches, spec = made("llama-grouped-queries")
    other, truth = planted(model, spec)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        both = [nn.parallel.DistributedDataParallel(each) for each in (model, other)]
        match = lmc.activation_matching(*both, batches, spec)
    finally:
        torch.distributed.destroy_process_group()
    assert match.permutations == truth


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, torch.enable_grad], ids=lambda mode: mode.__name__
)
def test_forward_in_modes_of_its_own(mode: Callable[[], Any]) -> None:
    model, batches, spec = made("llama-grouped-queries")
    other, truth = planted(model, spec)

    def forward(module: nn.Module, batch: Tensor) -> Tensor:
        with mode(), torch.autocast("cpu", torch.bfloat16):
            return module(batch)

    assert lmc.activation_matching(model, other, batches, spec, forward=forward).permutations == truth


def test_models_are_not_touched_and_other_threads_are_not_seen() -> None:
    model, batches, spec = made("bert")
    other, truth = planted(model, spec)
    stop, failed = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            with torch.no_grad():
                if not torch.isfinite(model(batches[2])).all() or any(p._forward_hooks for p in model.modules()):
                    failed.append("disturbed")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        match = lmc.activation_matching(model, other, batches, spec)
    finally:
        stop.set()
        thread.join()
    assert match.permutations == truth and not failed


class Recurrent(nn.Module):
    """An LSTM, whose hidden units move with all gates, and a layer that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 9, batch_first=True), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, 4]
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("watch", ["inputs", "outputs"])
def test_hidden_units_of_an_lstm(watch: str) -> None:
    torch.manual_seed(0)
    gates = lmc.Segment("P", outer=4)
    axes = {"weight_ih": (gates, None), "weight_hh": (gates, "P"), "bias_ih": (gates,), "bias_hh": (gates,)}
    spec = lmc.PermutationSpec.from_axes(
        {**{f"lstm.{name}_l0": of for name, of in axes.items()}, "head.weight": (None, "P"), "head.bias": (None,)}
    )
    model = Recurrent()
    spec = spec.bind(model)
    other, truth = planted(model, spec)
    assert lmc.activation_matching(model, other, numbers(6, 4)(), spec, watch=watch).permutations == truth


class Centres(nn.Module):
    """Hidden units that are distances from centres, by an operation that is known for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(8, 4))
        self.weights = nn.Parameter(torch.zeros(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(torch.exp(-torch.cdist(x, self.centres)), self.weights)


class Routed(nn.Module):
    """Each example goes through one of several experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(4, 3), nn.Parameter(torch.zeros(3, 5, 4))
        self.back = nn.Parameter(torch.zeros(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:  # [batch, 4]
        scores = self.router(x)
        best, out = scores.argmax(dim=1), x.new_zeros(len(x), 2)
        for expert in range(3):
            here = best == expert
            out[here] = torch.relu(F.linear(x[here], self.experts[expert])) @ self.back[expert]
        return out * scores.logsumexp(dim=1, keepdim=True)

    @staticmethod
    def spec() -> lmc.PermutationSpec:
        stacked = lmc.Axis((lmc.Segment("unit"),), dims=2)
        return lmc.PermutationSpec.from_axes(
            {
                "router.weight": ("expert", None),
                "router.bias": ("expert",),
                "experts": (stacked, None),
                "back": (stacked, None),
            },
            [lmc.Group("expert"), lmc.Group("unit", 5, owner="expert")],
        )


def test_an_operation_that_is_not_known_is_named() -> None:
    a, b = (models.randomise(Centres(), seed) for seed in (0, 1))
    spec = lmc.PermutationSpec.from_axes({"centres": ("P", None), "weights": (None, "P")})
    message = r"shows the units of group 'P' \(on centres, weights\).*: aten._\w+ does not show .*unseen='keep'"
    with pytest.raises(ValueError, match=message):
        lmc.activation_matching(a, b, numbers(4)(), spec)
    kept = lmc.activation_matching(a, b, numbers(4)(), spec, unseen="keep")
    assert kept.permutations == lmc.Permutations.identity(spec.bind(a))


def test_units_that_are_used_a_part_at_a_time_are_placed_by_their_weights() -> None:
    model, batches = models.randomise(Routed(), 0), numbers(4)()
    spec = Routed.spec().bind(model)
    other, truth = planted(model, spec)
    with pytest.raises(ValueError, match=r"'unit' .*uses only some of the units on 'experts' at a time"):
        lmc.activation_matching(model, other, batches, spec)
    kept = lmc.activation_matching(model, other, batches, spec, unseen="keep").permutations
    assert torch.equal(kept["expert"], truth["expert"])
    assert (kept["unit"] == torch.arange(5)).all()
    placed = lmc.activation_matching(model, other, batches, spec, unseen="weights")
    assert placed.permutations == truth and placed.l2_after == 0


def test_a_norm_whose_samples_come_in_the_order_of_heads_is_left_out() -> None:
    model, batches, spec = made("one-norm-for-all-heads")
    calls = Calls(model)
    weights, missed = Weights(model, spec), {}
    batch = calls.read_one("batches", 0, batches[0])
    used = spots_used(model, calls, batch, weights, missed)
    steady = steady_spots(model, calls, batch, spec, weights, used, missed)
    assert {spot.module for spot in used} - {spot.module for spot in steady} == {"q_norm", "k_norm"}
    assert "order of other groups' units" in missed["q_norm.weight", 0]


def test_what_comes_in_another_order_does_not_count() -> None:
    model, batches, spec = made("one-norm-for-all-heads")
    other, truth = planted(model, spec)
    for watch in ("inputs", "outputs"):
        for units, gain in activation_gains(model, other, batches, spec, "correlation", watch).items():
            at = units_at_places(spec, units, truth.choices)
            torch.testing.assert_close(torch.from_numpy(gain[range(len(at)), at]), torch.ones(len(at)).double())


def test_only_examples_count() -> None:
    model, batches, spec = made("bare-parameters")
    other, _ = planted(model, spec)
    found = [
        lmc.activation_matching(model, other, some, spec).history[0].objective
        for some in (batches, [batches[0][:0], *batches, batches[0][:0]])
    ]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="batches must hold one example at least, got none"):
        lmc.activation_matching(model, other, [batches[0][:0]] * 2, spec)


def test_a_group_of_one_unit_has_its_place() -> None:
    model = models.randomise(nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 2)), 0)
    spec = lmc.PermutationSpec.from_axes(
        {
            "0.weight": ("P", None),
            "0.bias": ("P",),
            "2.weight": ("Q", "P"),
            "2.bias": ("Q",),
            "4.weight": (None, "Q"),
            "4.bias": (None,),
        }
    ).bind(model)
    other, truth = planted(model, spec)
    assert lmc.activation_matching(model, other, numbers(4)(), spec).permutations == truth


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", transformer_kinds.KINDS)
def test_those_of_transformers(kind: str, dtype: torch.dtype) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformer_kinds.KINDS[kind]()
    spec = transformer_kinds.spec_of(kind).bind(model)
    other, truth = planted(model, spec)
    other.load_state_dict(with_noise(other.state_dict(), 0.05, 1))
    batches = [torch.randn(40, 3, 32, 32).to(dtype) if kind == "vit" else torch.randint(0, 200, (60, 9))]
    match = lmc.activation_matching(model.to(dtype), other.to(dtype), batches, spec, unseen="weights")
    assert match.permutations == truth


class Picked(nn.Module):
    """Rows picked by numbers, a padded weight, a vector for a weight, a buffer that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.zeros(30, 11)), nn.Parameter(torch.zeros(30, 11))
        self.mixed, self.last = nn.Parameter(torch.zeros(9, 11)), nn.Parameter(torch.zeros(9))

    def forward(self, ids: Tensor) -> Tensor:  # [batch]
        kept = torch.zeros(len(ids), 11)
        kept[:] = self.one[ids] * torch.index_select(self.two, 0, ids)
        x = torch.relu(F.linear(kept, F.pad(self.mixed, (0, 0, 0, 2))))[:, :9]
        return x @ self.last + (self.last * torch.relu(F.linear(kept, self.mixed))).sum(1)


@pytest.mark.parametrize("watch", ["inputs", "outputs"])
def test_rows_that_are_picked_and_weights_that_are_padded(watch: str) -> None:
    model = models.randomise(Picked(), 0)
    spec = by_size(model, {11: "P", 9: "Q"})
    other, truth = planted(model, spec)
    batches = [torch.randint(0, 30, (200,))]
    assert lmc.activation_matching(model, other, batches, spec, watch=watch).permutations == truth
