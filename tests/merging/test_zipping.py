"""ZipIt: merged trunks with both heads, against the plain matrices and on models that are alike."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures


def network(seed: int, width: int = 9) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    ).eval()


@pytest.fixture(scope="module")
def data() -> Tensor:
    return torch.randn(200, 5, generator=torch.Generator().manual_seed(9))


def stacked(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """S of both models [2 n, n], and M = D^-1 S^T [n, 2 n], written down."""
    s = nn.functional.one_hot(labels.reshape(-1), count).float()
    return s, s.T / s.sum(0)[:, None]


def both(a: nn.Module, b: nn.Module) -> Tensor:
    return torch.block_diag(a.weight, b.weight)


def test_everything_merged_is_the_plain_product(data: Tensor) -> None:
    a, b = network(0), network(1)
    found = lmc.zip_models(a, b, [data], example_inputs=data[:2])
    merged = found.model
    assert type(merged) is nn.Sequential and isinstance(merged, nn.Sequential)
    names = list(found.clusters)
    (s0, m0), (s1, m1), (s2, m2) = (
        stacked(found.clusters[name], of) for name, of in zip(names, (9, 9, 7), strict=True)
    )
    torch.testing.assert_close(merged[0].weight, m0 @ torch.cat([a[0].weight, b[0].weight]))
    torch.testing.assert_close(merged[0].bias, m0 @ torch.cat([a[0].bias, b[0].bias]))
    torch.testing.assert_close(merged[2].weight, m1 @ both(a[2], b[2]) @ s0)
    torch.testing.assert_close(merged[4].weight, m2 @ both(a[4], b[4]) @ s1)
    torch.testing.assert_close(merged[6].weight, 0.5 * torch.cat([a[6].weight, b[6].weight], 1) @ s2)
    torch.testing.assert_close(merged[6].bias, 0.5 * (a[6].bias + b[6].bias))
    inside = [sum(of[k] for of in found.within.values()) for k in (0, 1)]
    assert f"{inside[0]} units of model a and {inside[1]} of model b" in str(found) and sum(inside) > 0


def test_clusters_are_by_correlation_within_and_across(data: Tensor) -> None:
    a, b = network(0), network(1)
    with torch.no_grad():
        # Unit 4 of a is unit 2 of a, but for its size.
        a[0].weight[4], a[0].bias[4] = 2 * a[0].weight[2], 2 * a[0].bias[2]
    found = lmc.zip_models(a, b, [data], architectures.mlp(a), within=0.2)
    first = next(iter(found.clusters.values()))
    assert first[0, 4] == first[0, 2]
    shown = torch.cat([a[1](a[0](data)), b[1](b[0](data))], 1).T
    from lmc_fast.merging.clusters import clusters_of

    expected = clusters_of(torch.corrcoef(shown).nan_to_num().double().detach().numpy(), 9, within=0.2)
    assert first.reshape(-1).tolist() == expected.tolist()


@pytest.mark.parametrize("up_to", ["0", "1", "3", "4", "6", None])
def test_a_permuted_copy_loses_nothing(data: Tensor, up_to: str | None) -> None:
    a = network(0)
    spec = architectures.mlp(a).bind(a)
    b = lmc.Permutations.random(spec, 1).apply(a)
    found = lmc.zip_models(a, b, [data], spec, up_to=up_to, within=0.0)
    outputs = found.model(data)
    for output in (outputs,) if up_to is None else outputs:
        torch.testing.assert_close(output, a(data), atol=1e-5, rtol=1e-4)
    assert all(inside == (0, 0) for inside in found.within.values())


def test_heads_get_what_their_clusters_have(data: Tensor) -> None:
    a, b = network(0), network(1)
    found = lmc.zip_models(a, b, [data], architectures.mlp(a), up_to="3")
    assert isinstance(found.model, nn.Module) and len(found.clusters) == 2
    (s0, m0), (s1, m1) = (stacked(of, 9) for of in found.clusters.values())
    hidden = torch.relu(data @ (m0 @ torch.cat([a[0].weight, b[0].weight])).T + m0 @ torch.cat([a[0].bias, b[0].bias]))
    hidden = torch.relu(hidden @ (m1 @ both(a[2], b[2]) @ s0).T + m1 @ torch.cat([a[2].bias, b[2].bias]))
    for output, model, s in zip(found.model(data), (a, b), (s1[:9], s1[9:]), strict=True):
        torch.testing.assert_close(output, model[4:](hidden @ s.T), atol=1e-5, rtol=1e-4)


def convnets() -> tuple[nn.Module, nn.Module, Tensor]:
    a, b = (models.randomise(models.ConvNet(), seed=seed) for seed in (0, 1))
    return a, b, torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("up_to", ["features.0", "features.3", "features", "classifier.2"])
def test_maps_norms_and_flattened_units(up_to: str) -> None:
    a, _, x = convnets()
    spec = architectures.vgg(a).bind(a)
    b = lmc.Permutations.random(spec, 1).apply(a)
    zipped = lmc.zip_models(a, b, [x], spec, up_to=up_to, within=0.0).model
    for output in zipped(x):
        torch.testing.assert_close(output, a(x), atol=1e-4, rtol=1e-4)
    count = sum(p.numel() for p in zipped.parameters())
    assert sum(p.numel() for p in a.parameters()) < count < 2 * sum(p.numel() for p in a.parameters())


def test_residual_networks_at_the_end_of_a_stage() -> None:
    a = models.randomise(models.small_resnet(), seed=0)
    x = torch.randn(12, 1, 8, 8)
    spec = architectures.resnet(a).bind(a)
    b = lmc.Permutations.random(spec, 1).apply(a)
    stage = next(name for name, part in a.named_modules() if isinstance(part, nn.Sequential))
    zipped = lmc.zip_models(a, b, [x], spec, up_to=stage, within=0.0).model
    for output in zipped(x):
        torch.testing.assert_close(output, a(x), atol=1e-4, rtol=1e-4)


def test_a_zipped_model_is_a_module_like_others() -> None:
    a, b, x = convnets()
    zipped = lmc.zip_models(a, b, [x], architectures.vgg(a), up_to="features.6").model
    before = zipped(x)
    again = copy.deepcopy(zipped)
    with torch.no_grad():
        again.trunk.features[0].weight.zero_()
    assert torch.equal(zipped(x)[0], before[0]) and not torch.allclose(again(x)[0], before[0])
    stored = io.BytesIO()
    torch.save(zipped, stored)
    stored.seek(0)
    assert torch.equal(torch.load(stored, weights_only=False)(x)[1], before[1])
    again.load_state_dict(zipped.state_dict())
    assert torch.equal(again(x)[1], before[1])
    # Both outputs train the trunk.
    sum(output.square().sum() for output in zipped(x)).backward()
    assert float(zipped.trunk.features[0].weight.grad.abs().max()) > 0
    assert not zipped.training and not any(part.training for part in zipped.modules())
    # Batches are read as for the models: targets are no argument.
    fresh = lmc.reestimate_batchnorm(zipped, [(x, torch.arange(len(x)))])
    assert not torch.equal(fresh.trunk.features[1].running_mean, zipped.trunk.features[1].running_mean)


@pytest.mark.parametrize("up_to", ["0", "2", "6"])
def test_what_writes_in_place_spoils_nothing(up_to: str, data: Tensor) -> None:
    a, b = network(0), network(1)
    plain = lmc.zip_models(a, b, [data], architectures.mlp(a), up_to=up_to).model(data)
    for model in (a, b):
        for k in (1, 3, 5):
            model[k] = nn.ReLU(inplace=True)
        # Behind what gives the logits, where no units are gathered.
        model.append(nn.Sigmoid() if up_to != "6" else nn.Hardtanh(-9, 9, inplace=True))
    zipped = lmc.zip_models(a, b, [data], architectures.mlp(network(0)), up_to=up_to).model
    for output, expected in zip(zipped(data), plain, strict=True):
        torch.testing.assert_close(output, expected.sigmoid() if up_to != "6" else expected)
    sum(output.sum() for output in zipped(data)).backward()


def test_the_trunk_runs_once() -> None:
    a, b, x = convnets()
    zipped = lmc.zip_models(a, b, [x], architectures.vgg(a), up_to="features.6").model
    runs: list[str] = []
    for name, part in zipped.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(lambda *_, name=name: runs.append(name))
    zipped(x)
    assert runs == [
        "trunk.features.0",
        "trunk.features.4",
        *(f"heads.{k}.classifier.{i}" for k in (0, 1) for i in (1, 3)),
    ]


def test_threads_share_it() -> None:
    a, b, x = convnets()
    zipped = lmc.zip_models(a, b, [x], architectures.vgg(a), up_to="features.6").model
    expected = {k: zipped(x[k : k + 3]) for k in range(4)}
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(10):
            if not all(torch.equal(p, q) for p, q in zip(zipped(x[k : k + 3]), expected[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Around(nn.Module):
    """A way around the middle; a layer that runs twice; a parameter that no layer has."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up, self.middle, self.down = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        if kind == "bare":
            self.bare = nn.Parameter(torch.zeros(5))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        h = self.relu(self.up(x + self.bare if self.kind == "bare" else x))
        g = self.relu(self.middle(h))
        return self.down(g + h if self.kind == "around" else g)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(6, 5)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(x @ self.w.T))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x)) + torch.relu(self.second(x)))


def around(kind: str, **options: Any) -> Callable[[Tensor], Any]:
    def call(data: Tensor) -> Any:
        torch.manual_seed(0)
        pair = Around(kind), Around(kind)
        # Nothing moves: what is refused is so before that counts.
        spec = lmc.PermutationSpec.from_axes({name: (None,) * p.ndim for name, p in pair[0].named_parameters()})
        return lmc.zip_models(*pair, [data], spec, **options)

    return call


def attention(data: Tensor) -> Any:
    model = models.Attention()
    return lmc.zip_models(model, model, [torch.randn(2, 4, 6)], models.Attention.spec())


def normed(data: Tensor) -> Any:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3))
    return lmc.zip_models(model, model, [data])


class Joined(nn.Module):
    """Two groups on one dimension, and maybe a norm that never runs."""

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(5, 4), nn.Linear(5, 3), nn.Linear(7, 3)
        self.together = nn.Identity()
        if idle:
            self.idle = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.together(torch.cat([self.one(x), self.two(x)], 1))))


def joined(data: Tensor) -> Any:
    return lmc.zip_models(Joined(False), Joined(False), [data], example_inputs=data[:2], up_to="together")


def idle(data: Tensor) -> Any:
    axes: dict[str, Any] = {f"{layer}.weight": (None, None) for layer in ("one", "two", "out")}
    axes |= {f"{layer}.bias": (None,) for layer in ("one", "two", "out")}
    spec = lmc.PermutationSpec.from_axes({**axes, "idle.weight": ("U",), "idle.bias": ("U",)})
    return lmc.zip_models(Joined(True), Joined(True), [data], spec)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "two-groups": (joined, "up_to must give the units of one group along one dimension, but 'together' does not"),
    "never-seen": (idle, "no operation shows the units of group 'U' alone"),
    "around": (around("around", up_to="middle"), "what is behind 'middle' has other ways to the inputs"),
    "twice": (around("plain", up_to="relu"), "a module that runs once and gives one tensor, but 'relu' runs 2 times"),
    "bare": (around("bare", up_to="middle"), "'bare' belongs to a module that does not run before or behind"),
    "no-module": (around("plain", up_to="sideways"), "up_to must name a module of the models, got 'sideways'"),
    "again": (around("plain", again=1.5), r"again must be in 0..1, got 1.5"),
    "within": (around("plain", within=-1), r"within must be in 0..1, got -1"),
    "parameter": (lambda x: lmc.zip_models(Bare(), Bare(), [x]), "how they use their units, but 'w' is of Bare"),
    "tied": (lambda x: lmc.zip_models(Tied(), Tied(), [x]), "'first.weight' and 'second.weight' are tied: untie"),
    "owned": (attention, "spec must have groups that nothing owns, but"),
    "weight-norm": (normed, "must have weights of its own, but '0.weight' is weight norm"),
    "no-batches": (lambda x: lmc.zip_models(network(0), network(1), [], example_inputs=x[:2]), "batches must hold one"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_zipped_is_named(call: Callable[[Tensor], Any], message: str, data: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        call(data)


def test_a_state_dict_has_no_activations(data: Tensor) -> None:
    with pytest.raises(TypeError, match=r"model_b must be a torch\.nn\.Module"):
        lmc.zip_models(network(0), network(1).state_dict(), [data])  # type: ignore[arg-type]
