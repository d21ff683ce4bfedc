"""Weight matching finds planted permutations, never loses ground, and counts what it should."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.matching.engine.nested import best_choices

PLANTED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], lmc.PermutationSpec]]] = {
    "mlp": (lambda: models.small_mlp((33, 17)), architectures.mlp),
    "mlp-of-one-unit": (lambda: models.small_mlp((1, 2)), architectures.mlp),
    "conv-flatten-linear": (models.ConvNet, architectures.vgg),
    "resnet": (models.small_resnet, architectures.resnet),
    "attention": (models.Attention, lambda m: models.Attention.spec()),
    "experts": (models.Experts, lambda m: models.Experts.spec()),
    "concat": (models.Concat, lambda m: models.Concat.spec()),
    "depthwise": (models.DepthwiseNet, lambda m: models.DepthwiseNet.spec()),
    "grouped": (models.GroupedNet, lambda m: models.GroupedNet.spec()),
    "groupnorm": (models.GroupNormNet, lambda m: models.GroupNormNet.spec()),
}


@pytest.fixture(params=PLANTED, ids=str)
def planted(request: pytest.FixtureRequest) -> tuple[nn.Module, lmc.PermutationSpec]:
    build, spec = PLANTED[request.param]
    model = models.randomise(build(), seed=11)
    return model, spec(model).bind(model)


def test_a_matching_undoes_a_planted_permutation(planted: tuple[nn.Module, lmc.PermutationSpec]) -> None:
    """From a start at the truth nothing moves; from elsewhere the best of a few starts finds it again."""
    model, spec = planted
    truth = lmc.Permutations.random(spec, 5)
    other = truth.inverse().apply(model)
    best = max(
        (lmc.weight_matching(model, other, spec, init="random", seed=seed) for seed in range(12)),
        key=lambda match: match.objective,
    )
    assert best.permutations == truth
    assert best.converged and best.l2_after == pytest.approx(0.0, abs=1e-6)
    at_truth = lmc.weight_matching(model, other, spec, init=truth)
    assert at_truth.permutations == truth and at_truth.history[0].moved == 0


def test_an_anchored_start_is_the_planted_permutation(planted: tuple[nn.Module, lmc.PermutationSpec]) -> None:
    """Found in the first pass, so that not one sweep moves anything."""
    model, spec = planted
    for seed in range(5):
        truth = lmc.Permutations.random(spec, seed)
        match = lmc.weight_matching(model, truth.inverse().apply(model), spec)
        assert match.permutations == truth and match.history[0].moved == 0


def test_restarts_keep_the_best_and_are_reproducible() -> None:
    a, b = (models.randomise(models.small_mlp((20, 20, 20)), seed=s) for s in (1, 2))
    spec = architectures.mlp(a)
    singles = [lmc.weight_matching(a, b, spec)]
    singles += [lmc.weight_matching(a, b, spec, init="random", seed=seed) for seed in (1, 2, 3)]
    best = lmc.weight_matching(a, b, spec, restarts=4)
    assert best.objective == max(match.objective for match in singles)
    assert best.permutations == lmc.weight_matching(a, b, spec, restarts=4).permutations


def test_the_objective_never_falls_and_ends(planted: tuple[nn.Module, lmc.PermutationSpec]) -> None:
    model, spec = planted
    other = models.randomise(copy.deepcopy(model), seed=12)
    for seed in range(4):
        match = lmc.weight_matching(model, other, spec, init="random", seed=seed)
        objectives = [sweep.objective for sweep in match.history]
        assert match.converged and all(b >= a for a, b in itertools.pairwise(objectives))
        assert match.objective == pytest.approx(objectives[-1], rel=1e-5)


def test_it_is_as_good_as_every_permutation_of_a_small_group() -> None:
    a, b = (models.randomise(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), seed=s) for s in (1, 2))
    spec = architectures.mlp(a)
    match = lmc.weight_matching(a, b, spec)
    distances = []
    for choice in itertools.permutations(range(5)):
        permuted = lmc.Permutations(spec, {"0": choice}).apply(b)
        pairs = zip(a.parameters(), permuted.parameters(), strict=True)
        distances.append(sum((p - q).double().square().sum().item() for p, q in pairs) ** 0.5)
    assert match.l2_after == pytest.approx(min(distances), rel=1e-6)


def test_nested_choices_are_exact() -> None:
    """An owner of 3 with groups of 2 and 3 inside: no other choice of all three gains more."""
    spec = lmc.PermutationSpec.from_axes(
        {"w": ("head",), "u": ("two",), "v": ("three",)},
        [lmc.Group("head", 3), lmc.Group("two", 2, owner="head"), lmc.Group("three", 3, owner="head")],
        model={"w": torch.zeros(3), "u": torch.zeros(6), "v": torch.zeros(9)},
    )
    gains = {"head": torch.randn(3, 3).numpy(), "two": torch.randn(6, 6).numpy(), "three": torch.randn(9, 9).numpy()}
    identity = lmc.Permutations.identity(spec).choices
    choices, gained = best_choices(spec, "head", gains, identity)
    permutations = lmc.Permutations(spec, choices)

    def total(p: lmc.Permutations) -> float:
        return sum(float(gains[g][range(len(gains[g])), p.units(g).numpy()].sum()) for g in gains)

    best = -float("inf")
    for head in itertools.permutations(range(3)):
        value = sum(gains["head"][i, head[i]] for i in range(3))
        for i in range(3):
            for name, size in (("two", 2), ("three", 3)):
                block = gains[name][i * size : (i + 1) * size, head[i] * size : (head[i] + 1) * size]
                value += max(sum(block[r, c] for r, c in enumerate(p)) for p in itertools.permutations(range(size)))
        best = max(best, float(value))
    assert total(permutations) == pytest.approx(best, rel=1e-5)
    assert gained == pytest.approx(best - total(lmc.Permutations.identity(spec)), rel=1e-5)


def test_the_l2_identity_holds(planted: tuple[nn.Module, lmc.PermutationSpec]) -> None:
    """||a - pi(b)||^2 = ||a||^2 + ||b||^2 - 2 <a, pi(b)>, over the weights and nothing else."""
    model, spec = planted
    other = models.randomise(copy.deepcopy(model), seed=13)
    match = lmc.weight_matching(model, other, spec)
    squares = sum(p.double().square().sum().item() for m in (model, other) for p in m.parameters())
    assert match.l2_after**2 == pytest.approx(squares - 2 * match.objective, rel=1e-9)
    direct = sum(
        (p.double() - q.double()).square().sum().item()
        for p, q in zip(model.parameters(), match.apply(other).parameters(), strict=True)
    )
    assert match.l2_after == pytest.approx(direct**0.5, rel=1e-9)


def test_biases_and_norms_count() -> None:
    """The trap: bias and norm terms that never count. Here nothing else tells the units apart."""
    state = {
        "0.weight": torch.ones(4, 2),
        "0.bias": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "1.weight": torch.tensor([1.0, 1.0, 5.0, 5.0]),
        "2.weight": torch.ones(3, 4),
    }
    spec = lmc.PermutationSpec.from_axes(
        {"0.weight": ("p", None), "0.bias": ("p",), "1.weight": ("p",), "2.weight": (None, "p")}, model=state
    )
    truth = lmc.Permutations(spec, {"p": [3, 1, 0, 2]})
    assert lmc.weight_matching(state, truth.inverse().apply(state), spec).permutations == truth


def test_running_statistics_do_not_count() -> None:
    """The trap: statistics in the objective. Weights say identity, statistics say otherwise, a thousand times."""
    model = models.randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed=0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        model[1].running_mean.copy_(1000 * torch.arange(4.0))
        other[1].running_mean.copy_(1000 * torch.arange(4.0).flip(0))
    spec = architectures.mlp(model)
    for a, b in ((model, other), (model.state_dict(), other.state_dict()), (model, other.state_dict())):
        match = lmc.weight_matching(a, b, spec)
        assert match.permutations.moved == 0 and match.l2_before == 0.0
        assert match.l2_reduction == 0.0


def test_a_group_without_entries_stays_where_it_is() -> None:
    state = {"w": torch.zeros(3, 0), "v": torch.zeros(0, 3), "u": torch.randn(2, 2)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None), "v": (None, "p"), "u": ("q", None)}, model=state)
    other = {**state, "u": state["u"].flip(0)}
    match = lmc.weight_matching(state, other, spec)
    assert match.converged and match.permutations["p"].tolist() == [0, 1, 2]
    assert match.permutations["q"].tolist() == [1, 0]


def test_tied_weights_count_once() -> None:
    table = torch.randn(5, 4)
    other = torch.randn(5, 4)
    spec = {"in.weight": (None, "p"), "out.weight": (None, "p")}
    tied = lmc.weight_matching(
        {"in.weight": table, "out.weight": table},
        {"in.weight": other, "out.weight": other},
        lmc.PermutationSpec.from_axes(spec),
    )
    assert tied.l2_before == pytest.approx(float((table.double() - other.double()).norm()))


def test_both_axes_in_one_group_never_lose() -> None:
    """A residual Linear reads and writes one stream: gains are a linearisation there."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            {"in": torch.randn(8, 3, generator=generator), "w": 3 * torch.randn(8, 8, generator=generator)}
            for _ in range(2)
        )
        spec = lmc.PermutationSpec.from_axes({"in": ("p", None), "w": ("p", "p")}, model=a)
        match = lmc.weight_matching(a, b, spec, init="random", seed=seed)
        objectives = [sweep.objective for sweep in match.history]
        assert match.converged and all(y >= x for x, y in itertools.pairwise(objectives))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = models.randomise(models.small_mlp((33, 17)), seed=1).to(dtype)
    spec = architectures.mlp(model)
    truth = lmc.Permutations.random(spec, 2)
    match = lmc.weight_matching(model, truth.inverse().apply(model), spec)
    assert match.permutations == truth
    assert all(tensor.dtype == dtype for tensor in match.apply(model.state_dict()).values())


def test_an_exact_float64_gain_is_not_lost_to_float32() -> None:
    """Entries that differ below float32's precision still decide in float64."""
    a = {"w": torch.tensor([[1.0], [1.0 + 1e-5]], dtype=torch.float64)}
    b = {"w": a["w"].flip(0)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model=a)
    # The gain of the exchange is 1e-10 of the objective.
    assert lmc.weight_matching(a, b, spec).permutations["p"].tolist() == [1, 0]


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40], ids=["tiny", "huge"])
def test_progress_is_relative_to_the_weights(scale: float) -> None:
    """The trap: an absolute 1e-12 stops early on small weights, and never on large ones."""
    a, b = (models.randomise(models.small_mlp((33, 17)), seed=s).state_dict() for s in (1, 2))
    spec = architectures.mlp(a)
    plain = lmc.weight_matching(a, b, spec)
    scaled = lmc.weight_matching({k: scale * v for k, v in a.items()}, {k: scale * v for k, v in b.items()}, spec)
    assert scaled.permutations == plain.permutations
    assert len(scaled.history) == len(plain.history) and scaled.converged


def test_same_seed_same_result_and_global_generators_stay(planted: tuple[nn.Module, lmc.PermutationSpec]) -> None:
    model, spec = planted
    other = models.randomise(copy.deepcopy(model), seed=21)
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    runs = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        runs.append(lmc.weight_matching(model, other, spec, init="random", seed=4))
    torch.set_num_threads(threads)
    assert runs[0].permutations == runs[1].permutations == runs[2].permutations
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_of_the_callers_is_changed() -> None:
    """The trap: `init_perm` changed in place."""
    a, b = (models.randomise(models.small_resnet(), seed=s).train() for s in (1, 2))
    spec = architectures.resnet(a)
    start = lmc.Permutations.random(spec, 1)
    kept = [{k: v.clone() for k, v in m.state_dict().items()} for m in (a, b)]
    kept_start = start.choices
    match = lmc.weight_matching(a, b, spec, init=start)
    match.apply(b)
    lmc.interpolate(a, b, 0.5, match)
    assert match.permutations != start
    assert all((start.choices[name] == choice).all() for name, choice in kept_start.items())
    for model, state in zip((a, b), kept, strict=True):
        assert model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_seed_decides_random_starts_and_nothing_else() -> None:
    a, b = (models.randomise(models.small_mlp((40, 40, 40, 40)), seed=s) for s in (1, 2))
    spec = architectures.mlp(a)
    for init, found in (("random", 4), ("identity", 1), ("anchored", 1)):
        objectives = {lmc.weight_matching(a, b, spec, init=init, seed=seed).objective for seed in range(4)}
        assert len(objectives) == found


def test_a_gain_below_rounding_is_no_progress() -> None:
    """Exchanging two units that differ by less than a sum's rounding gains nothing that can be known."""
    row = 1 + torch.rand(1, 4000)
    a = {"w": torch.cat([row, row * (1 + 1e-7)])}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model=a)
    assert lmc.weight_matching(a, {"w": a["w"].flip(0)}, spec).permutations.moved == 0


def test_weights_whose_products_overflow_are_refused() -> None:
    state = {"w": torch.full((2, 2), 1e22)}
    spec = lmc.PermutationSpec.from_axes({"w": ("p", None)}, model=state)
    with pytest.raises(ValueError, match=r"weights of group 'p' must be smaller: .* overflow torch\.float32|float32"):
        lmc.weight_matching(state, state, spec)
    double = {"w": state["w"].double()}
    assert lmc.weight_matching(double, double, spec).converged


def test_few_sweeps_are_said_to_be_few() -> None:
    a, b = (models.randomise(models.small_mlp((64, 64)), seed=s) for s in (1, 2))
    match = lmc.weight_matching(a, b, architectures.mlp(a), init="identity", max_sweeps=1)
    assert not match.converged and len(match.history) == 1
    assert "not converged after 1 sweep in" in str(match)
    assert "converged" in repr(match) and "history" not in repr(match)


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int]] = []
    a, b = (models.randomise(models.small_mlp(), seed=s) for s in (1, 2))
    match = lmc.weight_matching(
        a, b, architectures.mlp(a), progress=lambda text, done, total: seen.append((text, done, total))
    )
    assert [done for _, done, _ in seen] == list(range(1, len(match.history) + 1))
    assert all(text.startswith("weight matching sweep") and total == 100 for text, _, total in seen)


class TestBadInput:
    def setup_method(self) -> None:
        self.model = models.small_mlp()
        self.spec = architectures.mlp(self.model)

    def test_models_of_different_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"model_b must have the shapes of model_a, but '1\.weight' is \(9, 4\)"):
            lmc.weight_matching(models.small_mlp((8, 7)), self.model, self.spec)
        state = self.model.state_dict()
        fewer = {name: tensor for name, tensor in state.items() if name != "5.bias"}
        with pytest.raises(ValueError, match=r"model_b must have the tensors of model_a, but lacks '5\.bias'"):
            lmc.weight_matching(state, fewer, self.spec)
        with pytest.raises(ValueError, match=r"model_b must have .* but has '5\.bias' as well"):
            lmc.weight_matching(fewer, state, self.spec)

    def test_a_spec_for_another_model(self) -> None:
        with pytest.raises(ValueError, match=r"the spec names parameter '1\.weight', which the model lacks"):
            lmc.weight_matching(models.Concat(), models.Concat(), self.spec)

    def test_weights_that_are_not_finite(self) -> None:
        broken = copy.deepcopy(self.model)
        with torch.no_grad():
            broken[3].weight[0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"model_b must have finite weights, but '3\.weight'"):
            lmc.weight_matching(self.model, broken, self.spec)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"init": "best"},
                ValueError,
                "init must be 'anchored', 'identity', 'random', Permutations or Transforms, got 'best'",
            ),
            ({"init": 3}, TypeError, "init must be"),
            ({"max_sweeps": 0}, ValueError, "max_sweeps must be a whole number of at least 1, got 0"),
            ({"max_sweeps": 1.5}, TypeError, "max_sweeps must be a whole number"),
            ({"seed": -1}, ValueError, "seed must be"),
            ({"restarts": 0}, ValueError, "restarts must be a whole number of at least 1, got 0"),
            ({"device": 3}, TypeError, "device must be a torch.device, its name or None, got 3"),
            ({"device": "abacus"}, ValueError, "device must be a device of this machine, got 'abacus'"),
            ({"device": "hpu"}, ValueError, "device must be a device of this machine, got 'hpu'"),
            ({"progress": "yes"}, TypeError, "progress must be a bool or a function"),
        ],
        ids=str,
    )
    def test_options(self, options: dict[str, object], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            lmc.weight_matching(self.model, self.model, self.spec, **options)  # type: ignore[arg-type]

    def test_arguments_of_the_wrong_kind(self) -> None:
        with pytest.raises(TypeError, match=r"model_a must be a torch\.nn\.Module or a state dict, got 3"):
            lmc.weight_matching(3, self.model, self.spec)  # type: ignore[type-var]
        with pytest.raises(TypeError, match="spec must be a PermutationSpec, got a dict"):
            lmc.weight_matching(self.model, self.model, {})  # type: ignore[arg-type]

    def test_a_start_of_another_model(self) -> None:
        other = architectures.mlp(models.small_mlp((8, 7)))
        with pytest.raises(ValueError, match=r"choices\['1'\] must have shape \(9,\), got \(8,\)"):
            lmc.weight_matching(self.model, self.model, self.spec, init=lmc.Permutations.identity(other))
