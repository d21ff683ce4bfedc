"""Sinkhorn re-basin: the operator and its gradient, soft permutations, and what the search finds."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from benchmarks import models
from lmc_fast import architectures
from lmc_fast.experiments.datasets import Batches, Dataset, digits
from lmc_fast.experiments.models import MLP
from lmc_fast.experiments.training import train
from lmc_fast.matching.engine.sinkhorn_operator import Relaxed, doubly_stochastic
from lmc_fast.matching.sinkhorn import sinkhorn_matching
from lmc_fast.symmetry.mixing import mixed

from ..slow import slow_but
from .test_weight import PLANTED

SIZES = [1, 2, 7, 63]


def scores_of(batch: int, n: int, scale: float, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return (scale * torch.randn(batch, n, n, generator=generator, dtype=torch.float64)).to(dtype)


def unrolled(scores: Tensor, iterations: int) -> Tensor:
    """Plain Sinkhorn in the exponents, which autograd can follow."""
    for _ in range(iterations):
        scores = scores - scores.logsumexp(dim=2, keepdim=True)
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
    return scores.exp()


class TestOperator:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 100.0])
    @pytest.mark.parametrize("n", SIZES)
    def test_rows_and_columns_sum_to_one(self, n: int, scale: float, dtype: torch.dtype) -> None:
        matrix, _ = doubly_stochastic(scores_of(3, n, scale, dtype))
        assert matrix.dtype == dtype and bool((matrix >= 0).all())
        ones = torch.ones(3, n, dtype=dtype)
        torch.testing.assert_close(matrix.sum(dim=1), ones, rtol=0, atol=3e-6)
        torch.testing.assert_close(matrix.sum(dim=2), ones, rtol=0, atol=3e-6)

    @pytest.mark.parametrize("scale", slow_but([1.0, 10.0], lambda scale: scale == 1))
    def test_it_is_what_plain_iterations_come_to(self, scale: float) -> None:
        scores = scores_of(2, 7, scale)
        matrix, columns = doubly_stochastic(scores, tolerance=1e-13)
        torch.testing.assert_close(matrix, unrolled(scores, 2_000 if scale > 1 else 500), rtol=1e-8, atol=1e-12)
        # Of the three factors only the rows' is not given back, and rows sum to 1.
        torch.testing.assert_close(torch.softmax(scores + columns[:, None, :], dim=2), matrix, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("scale", [1e-30, 1e4, 1e8, 1e30])
    def test_extreme_scores_do_not_overflow(self, scale: float) -> None:
        scores = scores_of(2, 9, scale).requires_grad_()
        matrix, _ = doubly_stochastic(scores)
        (grad,) = torch.autograd.grad(matrix.square().sum(), scores)
        assert bool(torch.isfinite(matrix).all()) and bool(torch.isfinite(grad).all())
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(2, 9, dtype=torch.float64), rtol=0, atol=1e-9)

    def test_columns_hold_and_rows_are_near_where_iterations_run_out(self) -> None:
        matrix, _ = doubly_stochastic(scores_of(1, 20, 5.0), iterations=3)
        assert float((matrix.sum(dim=1) - 1).abs().max()) < 1e-12
        assert 1e-6 < float((matrix.sum(dim=2) - 1).abs().max()) < 1

    def test_a_start_at_the_end_is_the_end(self) -> None:
        scores = scores_of(2, 20, 5.0)
        matrix, columns = doubly_stochastic(scores, tolerance=1e-12)
        again, _ = doubly_stochastic(scores, iterations=1, start=columns)
        torch.testing.assert_close(again, matrix, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
    @pytest.mark.parametrize("n", [1, 2, 6])
    def test_the_gradient_by_differences(self, n: int, scale: float) -> None:
        scores = scores_of(2, n, scale).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: doubly_stochastic(x, tolerance=1e-14)[0], scores)

    @pytest.mark.parametrize(("scale", "iterations"), [(0.5, 100), (2.0, 500), (5.0, 5000)])
    def test_the_gradient_through_unrolled_iterations(self, scale: float, iterations: int) -> None:
        scores = scores_of(2, 7, scale).requires_grad_()
        weights = scores_of(2, 7, 1.0).mT
        (expected,) = torch.autograd.grad((unrolled(scores, iterations) * weights).sum(), scores)
        (grad,) = torch.autograd.grad((doubly_stochastic(scores, tolerance=1e-13)[0] * weights).sum(), scores)
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-9)

    def test_a_gradient_that_is_not_the_fixed_points_is_seen(self) -> None:
        """One iteration is another function: the comparison above must tell it from the limit."""
        scores = scores_of(2, 7, 2.0).requires_grad_()
        weights = scores_of(2, 7, 1.0).mT
        (one,) = torch.autograd.grad((unrolled(scores, 1) * weights).sum(), scores)
        (grad,) = torch.autograd.grad((doubly_stochastic(scores, tolerance=1e-13)[0] * weights).sum(), scores)
        assert float((one - grad).abs().max()) > 1e-3

    def test_float32_scores_have_the_gradient_of_float64_ones(self) -> None:
        grads = []
        for dtype in (torch.float32, torch.float64):
            scores = scores_of(2, 33, 3.0, torch.float32).to(dtype).requires_grad_()
            (grad,) = torch.autograd.grad(doubly_stochastic(scores)[0].square().sum(), scores)
            assert grad.dtype == dtype
            grads.append(grad.double())
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def relaxed_at(spec: lmc.PermutationSpec, start: lmc.Permutations | None) -> Relaxed:
    return Relaxed(spec, start, 1.0, 300, torch.device("cpu"), torch.float64)


def as_matrices(permutations: lmc.Permutations) -> dict[str, Tensor]:
    """What a start at permutations comes to when nothing else has a share."""
    relaxed = relaxed_at(permutations.spec, permutations)
    return {
        name: torch.zeros_like(scores).scatter_(2, scores.argmax(dim=2, keepdim=True), 1.0)
        for name, scores in relaxed.scores.items()
    }


class TestRelaxed:
    @pytest.mark.parametrize("kind", PLANTED)
    def test_permutation_matrices_permute(self, kind: str) -> None:
        build, spec_of = PLANTED[kind]
        model = models.randomise(build(), seed=1).double()
        spec = spec_of(model).bind(model)
        permutations = lmc.Permutations.random(spec, 3)
        matrices = as_matrices(permutations)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(
                    mixed(spec, name, tensor, matrices), permutations.apply_to(name, tensor), rtol=0, atol=1e-12
                )

    @pytest.mark.parametrize("kind", PLANTED)
    def test_a_start_is_rounded_to_itself(self, kind: str) -> None:
        build, spec_of = PLANTED[kind]
        model = build()
        spec = spec_of(model).bind(model)
        for seed in range(3):
            start = lmc.Permutations.random(spec, seed)
            relaxed = relaxed_at(spec, start)
            assert relaxed.rounded(relaxed.matrices()) == start

    def test_an_axis_of_repeated_units_is_mixed_in_every_repeat(self) -> None:
        tensor = torch.arange(24.0, dtype=torch.float64).reshape(24, 1)
        # 2 repeats of 3 units of 4 entries.
        spec = lmc.PermutationSpec.from_axes({"w": (lmc.Segment("g", outer=2, inner=4), None)}, model={"w": tensor})
        matrix = doubly_stochastic(scores_of(1, 3, 1.0))[0]
        expected = torch.einsum("uv,ovi->oui", matrix[0], tensor.reshape(2, 3, 4)).reshape(24, 1)
        torch.testing.assert_close(mixed(spec, "w", tensor, {"g": matrix}), expected)


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_permutations_are_found_by_the_distance(kind: str) -> None:
    build, spec_of = PLANTED[kind]
    model = models.randomise(build(), seed=11)
    spec = spec_of(model).bind(model)
    truth = lmc.Permutations.random(spec, 5)
    match = sinkhorn_matching(model, truth.inverse().apply(model), spec, steps=60, patience=2)
    assert match.permutations == truth
    assert match.l2_after == 0.0 and match.l2_before > 0
    assert match.objective == pytest.approx(sum(p.detach().double().square().sum().item() for p in model.parameters()))


def test_state_dicts_of_other_dtypes_are_matched() -> None:
    model = models.randomise(models.small_mlp((33, 17)), seed=0)
    spec = architectures.mlp(model)
    truth = lmc.Permutations.random(spec, 1)
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    match = sinkhorn_matching(state, truth.inverse().apply(state), spec, steps=60, patience=2)
    assert match.permutations == truth and match.l2_after == 0.0


@pytest.fixture(scope="module")
def data() -> Dataset:
    pytest.importorskip("sklearn")
    return digits()


@pytest.fixture(scope="module")
def pair(data: Dataset) -> tuple[nn.Module, nn.Module]:
    first, second = (
        train(lambda: MLP(64, (48,), 10), data, seed=seed, epochs=8, learning_rate=4e-3, weight_decay=0.1)
        for seed in (0, 1)
    )
    return first, second


def batches_of(data: Dataset, examples: int = 1024) -> Batches:
    return Batches(data.train_inputs[:examples], data.train_targets[:examples], 256)


def middle(a: nn.Module, b: nn.Module, batches: Batches, match: lmc.Matching | None) -> float:
    return lmc.evaluate(lmc.interpolate(a, b, 0.5, match), batches)[0]


@pytest.mark.parametrize("loss", ["midpoint", "random"])
def test_the_tasks_loss_lowers_the_middle(loss: str, pair: tuple[nn.Module, nn.Module], data: Dataset) -> None:
    a, b = pair
    spec, batches = architectures.mlp(a), batches_of(data)
    match = sinkhorn_matching(a, b, spec, batches=batches, loss=loss, steps=80)
    matched, test = middle(a, b, batches, match), data.test_batches()
    assert matched < 0.5 * middle(a, b, batches, None)
    assert middle(a, b, test, match) < middle(a, b, test, None)
    assert match.method == f"Sinkhorn, {loss} loss"


def test_what_is_kept_is_no_worse_than_the_start(pair: tuple[nn.Module, nn.Module], data: Dataset) -> None:
    a, b = pair
    batches = batches_of(data)
    start = lmc.weight_matching(a, b, architectures.mlp(a))
    # Steps so large that they lead nowhere.
    match = sinkhorn_matching(
        a,
        b,
        architectures.mlp(a),
        batches=batches,
        loss="midpoint",
        init=start.permutations,
        learning_rate=1e3,
        steps=3,
        check_every=1,
    )
    assert middle(a, b, batches, match) <= middle(a, b, batches, start) * (1 + 1e-5)
    assert len(match.history) == 4 and match.history[-1].moved > 0


@pytest.mark.parametrize("loss", ["distance", "midpoint", "random"])
def test_same_seed_same_result(loss: str, pair: tuple[nn.Module, nn.Module], data: Dataset) -> None:
    a, b = pair
    torch.manual_seed(5)
    state = torch.get_rng_state()
    options = {"batches": batches_of(data, 256), "loss": loss, "init": "random", "steps": 20, "seed": 3}
    first, again = (sinkhorn_matching(a, b, architectures.mlp(a), **options) for _ in range(2))
    assert first.permutations == again.permutations
    assert [sweep.objective for sweep in first.history] == [sweep.objective for sweep in again.history]
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_takes_other_points_of_the_line(pair: tuple[nn.Module, nn.Module], data: Dataset) -> None:
    seen: dict[int, list[float]] = {}
    for seed in (0, 1):
        notes: list[str] = []
        sinkhorn_matching(
            *pair,
            architectures.mlp(pair[0]),
            batches=batches_of(data, 256),
            loss="random",
            steps=5,
            seed=seed,
            progress=lambda note, done, total, notes=notes: notes.append(note),
        )
        seen[seed] = [note.split(",")[0] for note in notes]
    assert len(seen[0]) == 5 and seen[0] != seen[1]


def image_batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


class TestBatchNorm:
    def test_the_callers_models_stay_as_they_are(self) -> None:
        a, b = (models.randomise(models.small_resnet(), seed=seed) for seed in (1, 2))
        a.train()
        a.layer1[0].bn1.eval()
        b.conv1.weight.requires_grad_(False)
        before = [copy.deepcopy(model) for model in (a, b)]
        sinkhorn_matching(a, b, architectures.resnet(a), batches=image_batches(), loss="midpoint", steps=3)
        for model, kept in zip((a, b), before, strict=True):
            assert [part.training for part in model.modules()] == [part.training for part in kept.modules()]
            for name, tensor in kept.state_dict(keep_vars=True).items():
                now = model.state_dict(keep_vars=True)[name]
                assert torch.equal(now, tensor) and now.requires_grad == tensor.requires_grad and now.grad is None

    def test_statistics_are_those_of_the_batch(self) -> None:
        """Running statistics that are far off change nothing."""
        a, b = (models.randomise(models.small_resnet(), seed=seed) for seed in (1, 2))
        spec = architectures.resnet(a)
        options = {"batches": image_batches(), "loss": "midpoint", "steps": 12, "check_every": 3}
        plain = sinkhorn_matching(a, b, spec, **options)
        with torch.no_grad():
            for model in (a, b):
                for name, buffer in model.named_buffers():
                    if name.endswith("running_var"):
                        buffer.mul_(1e6)
        spoiled = sinkhorn_matching(a, b, spec, **options)
        assert spoiled.permutations == plain.permutations

    @pytest.mark.slow
    def test_the_task_finds_a_middle_that_computes_the_same(self) -> None:
        model = models.randomise(models.ConvNet(4, 6), seed=3)
        spec = architectures.vgg(model).bind(model)
        truth = lmc.Permutations.random(spec, 1)
        inputs = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            # Targets that the model itself gives, with the statistics of the batch.
            targets = copy.deepcopy(model).train()(inputs)
        other = truth.inverse().apply(model)
        match = sinkhorn_matching(
            model,
            other,
            spec,
            batches=[(inputs, targets)],
            loss="midpoint",
            loss_fn=nn.functional.mse_loss,
        )

        def error(between: nn.Module) -> float:
            with torch.no_grad():
                return float(nn.functional.mse_loss(between.train()(inputs), targets))

        # Units that are silent here may stand in any order: what counts is the function.
        assert error(lmc.interpolate(model, other, 0.5)) > 0.1
        assert error(lmc.interpolate(model, other, 0.5, match)) < 1e-9


class Tied(nn.Module):
    """Two layers that share one weight, with a group on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.second.weight = self.first.weight
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x)) * torch.relu(self.second(x)))


def test_tied_weights_move_once() -> None:
    model = models.randomise(Tied(), seed=0)
    spec = lmc.PermutationSpec.from_axes(
        {
            "first.weight": ("g", None),
            "first.bias": ("g",),
            "second.weight": ("g", None),
            "second.bias": ("g",),
            "out.weight": (None, "g"),
            "out.bias": (None,),
        },
        model=model,
    )
    truth = lmc.Permutations.random(spec, 2)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batches = [(inputs, model(inputs))]
    for loss in ("distance", "midpoint"):
        match = sinkhorn_matching(
            model, truth.inverse().apply(model), spec, batches=batches, loss=loss, loss_fn=nn.functional.mse_loss
        )
        assert match.permutations == truth


@pytest.mark.gpu
def test_a_device_finds_the_same() -> None:
    model = models.randomise(models.small_resnet(), seed=11)
    spec = architectures.resnet(model).bind(model)
    truth = lmc.Permutations.random(spec, 5)
    other = truth.inverse().apply(model)
    for options in ({"loss": "distance"}, {"loss": "midpoint", "batches": image_batches()}):
        match = sinkhorn_matching(model, other, spec, init=truth, steps=5, device="cuda", **options)
        assert match.permutations == truth


def two_inputs() -> tuple[nn.Module, nn.Module, lmc.PermutationSpec]:
    a, b = (models.randomise(models.small_mlp(), seed=seed) for seed in (1, 2))
    return a, b, architectures.mlp(a)


BATCHES = [(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long))]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "worst"}, ValueError, "loss must be one of 'distance', 'midpoint', 'random', got 'worst'"),
        ({"loss": "midpoint"}, TypeError, "batches must be batches that can be gone through again"),
        ({"loss": "midpoint", "batches": iter(BATCHES)}, TypeError, "batches must be batches that can be gone"),
        ({"loss": "midpoint", "batches": []}, ValueError, "batches must hold one example at least, got none"),
        ({"loss": "midpoint", "batches": [BATCHES[0][0]]}, TypeError, r"batches must be \(inputs, targets\) pairs"),
        ({"loss": "midpoint", "batches": [(BATCHES[0][0], 3)]}, TypeError, "pairs of tensors, got 3"),
        ({"loss": "midpoint", "batches": BATCHES, "loss_fn": None}, TypeError, "loss_fn must be a function"),
        (
            {"loss": "midpoint", "batches": BATCHES, "loss_fn": lambda out, _: out},
            ValueError,
            r"loss_fn must return one number, the mean loss, got shape \(4, 3\)",
        ),
        (
            {"loss": "midpoint", "batches": BATCHES, "loss_fn": lambda out, _: out.sum() / 0},
            ValueError,
            "the loss must be finite, got",
        ),
        ({"init": "best"}, ValueError, "init must be 'uniform', 'identity', 'random' or Permutations, got 'best'"),
        ({"init": 3}, TypeError, "init must be 'uniform', 'identity', 'random' or Permutations, got 3"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"iterations": 0.5}, TypeError, "iterations must be a whole number"),
        ({"check_every": 0}, ValueError, "check_every must be a whole number"),
        ({"patience": 0}, ValueError, "patience must be a whole number"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be above 0, got 0"),
        ({"temperature": -1.0}, ValueError, "temperature must be above 0, got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be a finite number"),
        ({"seed": -1}, ValueError, "seed must be a whole number"),
        ({"device": "nowhere"}, ValueError, "device must be a device of this machine"),
        ({"progress": "yes"}, TypeError, "progress must be a bool or a function"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sinkhorn_matching(*two_inputs(), **options)


def spoil(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in two_inputs()[1].state_dict().items()}
    change(state)
    return state


def test_wrong_models_are_refused() -> None:
    a, b, spec = two_inputs()
    with pytest.raises(TypeError, match=r"model_a must be a torch\.nn\.Module, for a loss of the task"):
        sinkhorn_matching(a.state_dict(), b, spec, loss="midpoint", batches=BATCHES)
    with pytest.raises(TypeError, match="model_b must be a"):
        sinkhorn_matching(a, 3, spec)
    with pytest.raises(ValueError, match=r"model_b must have the tensors of model_a, but lacks '1\.weight'"):
        sinkhorn_matching(a, spoil(lambda state: state.pop("1.weight")), spec)
    with pytest.raises(ValueError, match=r"model_b must have finite weights, but '1\.weight'"):
        sinkhorn_matching(a, spoil(lambda state: state["1.weight"].fill_(float("inf"))), spec)
    with pytest.raises(TypeError, match="spec must be a PermutationSpec"):
        sinkhorn_matching(a, b, {})
    fixed = lmc.PermutationSpec.from_axes({name: (None,) * t.ndim for name, t in a.state_dict().items()})
    with pytest.raises(ValueError, match="spec must have one group at least, got none"):
        sinkhorn_matching(a, b, fixed)
