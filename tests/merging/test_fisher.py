"""Fisher weights, and means of models by weights of their entries, against the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures

Weights = dict[str, Tensor]


def by_hand(model: nn.Module, inputs: Tensor, targets: Tensor) -> Weights:
    """The mean over examples of the squared gradient, one backward pass each."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(inputs, targets, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad.square()
    model.zero_grad(set_to_none=True)
    return {name: total / len(inputs) for name, total in sums.items()}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(11, 1, 8, 8), torch.arange(11) % 5


def test_they_are_the_mean_squares_of_examples_gradients(data: tuple[Tensor, Tensor]) -> None:
    model = models.randomise(models.ConvNet(), seed=0)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = lmc.fisher_weights(model, [(x, y) for x, y in zip(data[0].split(5), data[1].split(5), strict=True)])
    assert model.training and not any(p.requires_grad for p in model.parameters())
    expected = by_hand(models.randomise(models.ConvNet(), seed=0), *data)
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, msg=name)


def test_over_batches_gradients_are_squared_once(data: tuple[Tensor, Tensor]) -> None:
    model = models.randomise(models.ConvNet(), seed=0)
    parts = list(zip(data[0].split(6), data[1].split(6), strict=True))
    found = lmc.fisher_weights(model, parts, over="batches")
    expected = torch.zeros_like(found["classifier.3.weight"])
    for x, y in parts:
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        expected += len(x) / 11 * model.classifier[3].weight.grad.square()
    torch.testing.assert_close(found["classifier.3.weight"], expected)


class Tied(nn.Module):
    """An embedding that is the head too, an entry that nothing uses, and a batch by names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids)).mean(1)


def test_tied_weights_have_one_and_what_is_not_used_has_zeros() -> None:
    model = Tied()
    found = lmc.fisher_weights(model, [{"ids": torch.arange(6).reshape(3, 2), "labels": torch.tensor([0, 1, 5])}])
    assert found["embed.weight"] is found["head.weight"] and float(found["head.weight"].max()) > 0
    assert found["unused"].dtype == torch.float64 and not found["unused"].any() and "count" not in found
    one = lmc.fisher_weights(
        model,
        [torch.arange(6).reshape(3, 2)],
        forward=lambda m, ids: m(ids),
        loss_fn=lambda out, _: out.square().mean(),
    )
    assert float(one["embed.weight"].max()) > 0


def normalised() -> nn.Module:
    return parametrizations.weight_norm(nn.Linear(3, 2))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no-batch": (lambda: lmc.fisher_weights(nn.Linear(3, 2), []), "batches must hold one example at least, got none"),
    "over": (lambda: lmc.fisher_weights(nn.Linear(3, 2), [], over="all"), "over must be one of 'examples', 'batches'"),
    "weight-norm": (
        lambda: lmc.fisher_weights(normalised(), [(torch.ones(1, 3), torch.tensor([0]))]),
        "model must have weights of its own, but 'weight' is weight norm",
    ),
    "not-finite": (
        lambda: lmc.fisher_weights(nn.Linear(3, 2), [(torch.full((2, 3), torch.inf), torch.tensor([0, 1]))]),
        r"the loss must be finite, got nan in batches\[0\], example 0",
    ),
    "no-gradient": (
        lambda: lmc.fisher_weights(
            nn.Linear(3, 2), [(torch.ones(2, 3), torch.tensor([0, 1]))], loss_fn=lambda out, y: out.detach().mean()
        ),
        "loss_fn must give a loss with a gradient",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_that_cannot_be_cut_is_named() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])

    def call(over: str) -> Weights:
        return lmc.fisher_weights(
            nn.Linear(2, 2),
            [packed],
            over=over,
            forward=lambda model, batch: model(batch.data),
            loss_fn=lambda out, _: out.square().mean(),
        )

    with pytest.raises(ValueError, match=r"batches\[0\] must hold tensors with one row for each of its 2 examples"):
        call("examples")
    assert float(call("batches")["bias"].min()) > 0


def random_weights(model: nn.Module, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) for name, p in model.named_parameters()}


@pytest.fixture
def three() -> tuple[list[nn.Module], list[Weights]]:
    made = [models.randomise(models.ConvNet(), seed=seed) for seed in range(3)]
    return made, [random_weights(model, seed) for seed, model in enumerate(made)]


def test_the_mean_is_the_quotient_entry_by_entry(three: tuple[list[nn.Module], list[Weights]]) -> None:
    made, weights = three
    for mapping in weights:
        mapping["features.0.weight"][0] = 0.0
    shares = [0.2, 0.5, 0.3]
    merged = lmc.merge(made, weights=shares, entry_weights=weights).state_dict()
    states = [model.state_dict() for model in made]
    for name in states[0]:
        plain = sum(s * state[name].double() for s, state in zip(shares, states, strict=True))
        expected = plain
        if name in weights[0]:
            below = sum(s * w[name].double() for s, w in zip(shares, weights, strict=True))
            above = sum(
                s * w[name].double() * state[name].double() for s, w, state in zip(shares, weights, states, strict=True)
            )
            expected = torch.where(below > 0, above / below, plain)
        if states[0][name].is_floating_point():
            torch.testing.assert_close(merged[name].double(), expected, atol=1e-5, rtol=1e-5, msg=name)


def test_weights_move_with_the_units(three: tuple[list[nn.Module], list[Weights]]) -> None:
    (a, b, _), (of_a, of_b, _) = three
    spec = architectures.vgg(a).bind(a)
    move = lmc.Permutations.random(spec, 3)
    found = lmc.interpolate(a, b, [0.0, 0.3, 1.0], move, entry_weights=(of_a, of_b))
    moved = {name: move.apply_to(name, weights) for name, weights in of_b.items()}
    expected = lmc.interpolate(a, move.apply(b), [0.0, 0.3, 1.0], entry_weights=(of_a, moved))
    for one, other in zip(found, expected, strict=True):
        for name, tensor in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], tensor)
    torch.testing.assert_close(found[0].features[0].weight, a.features[0].weight)


@pytest.mark.parametrize("size", [1e-30, 1e30], ids=["tiny", "huge"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
def test_only_ratios_count(dtype: torch.dtype, size: float) -> None:
    a, b = ({"w": torch.tensor(value, dtype=dtype)} for value in ([1.0, 2.0, 3.0], [3.0, 4.0, 5.0]))
    weights = [{"w": size * torch.tensor(value, dtype=torch.float64)} for value in ([3.0, 0.0, 0.0], [1.0, 2.0, 0.0])]
    merged = lmc.interpolate(a, b, 0.5, entry_weights=weights)
    assert merged["w"].dtype == dtype and merged["w"].tolist() == [1.5, 4.0, 4.0]
    nothing = [{"w": torch.zeros(3)}] * 2
    assert lmc.interpolate(a, b, 0.5, entry_weights=nothing)["w"].tolist() == [2.0, 3.0, 4.0]


A = {"w": torch.ones(2, 3), "v": torch.ones(2)}
ONES = {"w": torch.ones(2, 3)}
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "one-mapping": (ONES, TypeError, "entry_weights must be a sequence of 2 mappings"),
    "one-of-two": ([ONES], ValueError, "entry_weights must be a sequence of 2 mappings .* got 1"),
    "no-mapping": (
        [ONES, None],
        TypeError,
        r"entry_weights\[1\] must be a mapping from names",
    ),
    "a-list": ([ONES, {"w": [1.0]}], TypeError, r"entry_weights\[1\]\['w'\] must be a tensor, got list"),
    "other-name": ([ONES, {"x": torch.ones(1)}], ValueError, r"entry_weights\[1\] names 'x', which the model lacks"),
    "other-shape": ([ONES, {"w": torch.ones(3, 2)}], ValueError, r"of shape \(2, 3\), as the parameter, got"),
    "integers": ([ONES, {"w": torch.ones(2, 3).long()}], ValueError, "must be floating point of shape"),
    "negative": (
        [ONES, {"w": -torch.ones(2, 3)}],
        ValueError,
        r"entry_weights\[1\]\['w'\] must be finite and 0 or more",
    ),
    "nan": ([{"w": torch.full((2, 3), torch.nan)}, ONES], ValueError, r"\[0\]\['w'\] must be finite and 0 or more"),
    "one-sided": (
        [ONES, {"v": torch.ones(2)}],
        ValueError,
        "same tensors for all models, but 'v' is in only one of 0 and 1",
    ),
}


@pytest.mark.parametrize(("weights", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_entry_weights_that_do_not_fit_are_named(weights: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lmc.merge([A, A], entry_weights=weights)


def test_what_has_no_entrywise_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"that are 0 or more"):
        lmc.interpolate(A, A, 1.5, entry_weights=[ONES, ONES])
    model = normalised()
    with pytest.raises(ValueError, match="take models with weights of their own, but 'weight' is weight norm"):
        lmc.interpolate(model, model, 0.5, entry_weights=[{}, {}])
    group = lmc.Group("P", kind="orthogonal")
    spec = lmc.PermutationSpec.from_axes({"w": (None, "P"), "v": (None,)}, [group]).bind(A)
    with pytest.raises(ValueError, match="entry_weights"):
        lmc.interpolate(A, A, 0.5, lmc.Transforms.identity(spec), entry_weights=[ONES, ONES])


def test_fisher_merging_keeps_what_each_model_knows() -> None:
    """Two linear models, each trained on inputs of its own: their Fisher mean knows both, the plain mean neither."""
    torch.manual_seed(0)
    made, data = [], []
    for half in (0, 1):
        x = torch.zeros(64, 8)
        x[:, 4 * half : 4 * half + 4] = torch.randn(64, 4)
        y = (x[:, 4 * half] > 0).long()
        model = nn.Linear(8, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        made.append(model)
        data.append((x, y))
    fisher = [lmc.fisher_weights(model, [batch]) for model, batch in zip(made, data, strict=True)]
    merged, plain = lmc.merge(made, entry_weights=fisher), lmc.merge(made)
    losses = [lmc.evaluate(model, data)[0] for model in (merged, plain)]
    assert losses[0] < 0.6 * losses[1]
