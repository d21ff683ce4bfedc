"""Scripts of the package rebasin run with another import line."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import randomise
from lmc_fast.compat.rebasin import MergeMany, PermutationCoordinateDescent, interpolation, utils


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(torch.relu(self.bn(self.conv(x))).flatten(1))))


def nets(count: int) -> list[nn.Module]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = Net()
        randomise(net, seed)
        made.append(net.eval())
    return made


X = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def distance(a: nn.Module, b: nn.Module) -> float:
    return sum(float((p - q).detach().square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_model_is_laid_over_another_in_place(capfd: pytest.CaptureFixture[str]) -> None:
    model_a, model_b = nets(2)
    original, kept = deepcopy(model_b), deepcopy(model_a)
    pcd = PermutationCoordinateDescent(model_a, model_b, X)
    with pytest.raises(ValueError, match="calculate_permutations must come first"):
        pcd.apply_permutations()
    pcd.rebasin()
    assert distance(model_a, model_b) < distance(model_a, original) and distance(model_a, kept) == 0
    with torch.no_grad():
        torch.testing.assert_close(model_b(X), original(X), rtol=1e-4, atol=1e-4)
    assert capfd.readouterr().err == ""
    again = PermutationCoordinateDescent(
        model_a, original, input_data_b=X, input_data_a=X, device_a="cpu", device_b="cpu", logging_level="info"
    )
    again.calculate_permutations(max_iterations=100)
    again.apply_permutations()
    assert distance(original, model_b) == 0 and capfd.readouterr().err != ""


def test_several_models_are_merged(tmp_path: Path) -> None:
    models = nets(3)
    originals = [deepcopy(model) for model in models]
    merge = MergeMany(models=models, working_model=Net().eval(), input_data=X, device="cpu")
    with pytest.raises(AttributeError, match="call run first"):
        _ = merge.merged_model
    merged = merge.run(max_iterations=50)
    assert merged is merge.merged_model and distance(merged, merge.working_model) == 0
    with torch.no_grad():
        for before, after in zip(originals, models, strict=True):
            torch.testing.assert_close(after(X), before(X), rtol=1e-4, atol=1e-4)
        assert distance(models[1], originals[1]) > 0
        for name, w in merged.named_parameters():
            torch.testing.assert_close(w, torch.stack([dict(m.named_parameters())[name] for m in models]).mean(0))
    files = [tmp_path / f"{i}.pt" for i in range(3)]
    for model, path in zip(originals, files, strict=True):
        torch.save(model.state_dict(), path)
    from_files = MergeMany([files[0], str(files[1]), files[2]], Net().eval(), X).run(50)
    assert distance(from_files, merged) == 0
    written = torch.load(files[1], weights_only=True)
    assert all(torch.equal(w, models[1].state_dict()[k]) for k, w in written.items())


def test_models_in_between_are_judged_and_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = nets(3)
    asked = []

    def eval_fn(model: nn.Module, device: Any) -> float:
        asked.append(device)
        return float(model.get_submodule("fc2").bias.detach().sum())  # type: ignore[union-attr, operator]

    lerp = interpolation.LerpSimple(
        models=models,
        eval_fn=eval_fn,
        eval_mode="max",
        devices=["cpu", "cpu", "cpu"],
        device_interp="cpu",
        savedir=tmp_path,
        logging_level=logging.INFO,
    )
    lerp.interpolate(steps=3)
    assert capfd.readouterr().err != ""
    assert asked == [torch.device("cpu")] * 6
    files = sorted(path.name for path in tmp_path.iterdir())
    shares = [f"{(i + 1) / 5:.3f}" for i in range(3)]
    assert files == [f"interp_models_{i}_{i + 1}_perc_{share}.pt" for i in (0, 1) for share in shares]
    read = torch.load(tmp_path / "interp_models_1_2_perc_0.400.pt", weights_only=True)
    one, other = models[1].state_dict(), models[2].state_dict()
    assert all(torch.allclose(w, torch.lerp(one[k], other[k], 0.4)) for k, w in read.items() if w.is_floating_point())
    biases = [model.state_dict()["fc2.bias"].sum() for model in models]
    wanted = [float(torch.lerp(biases[i], biases[i + 1], (k + 1) / 5)) for k in range(3) for i in (0, 1)]
    assert lerp.metrics_interpolated == pytest.approx(wanted, abs=1e-5)
    assert lerp.best_metric == max(lerp.metrics_interpolated) and lerp.best_model is not None
    assert eval_fn(lerp.best_model, None) == lerp.best_metric
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    small = interpolation.LerpSimple(models[:2])
    small.interpolate(steps=1, savedir=str(other_folder))
    assert len(list(other_folder.iterdir())) == 1 and small.metrics_interpolated == [0.0] and small.best_metric == 0.0
    with pytest.raises(NotImplementedError, match="Interpolation must say how"):
        interpolation.Interpolation(models).interpolate()


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(24.0), torch.randn(24, 1, 4, 4) + 3), batch_size=4)


@pytest.mark.parametrize(
    ("options", "count"), [({}, 6), ({"dataset_percentage": 0.4}, 3), ({"iterations": 2}, 2)], ids=str
)
def test_statistics_are_measured_again(options: dict[str, Any], count: int, capfd: pytest.CaptureFixture[str]) -> None:
    (net,) = nets(1)
    loader = batches()
    utils.recalculate_batch_norms(net, loader, input_indices=[1], device="cpu", verbose=False, **options)
    seen = torch.cat([x for _, x in list(loader)[:count]])
    conv: Any = net.get_submodule("conv")
    with torch.no_grad():
        maps = conv(seen)
    torch.testing.assert_close(net.state_dict()["bn.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert not net.training and capfd.readouterr().err == ""


def test_models_in_between_have_statistics_of_their_own() -> None:
    models = nets(2)
    loader = batches()
    lerp = interpolation.LerpSimple(models, train_dataloader=loader, input_indices=1, dataset_iterations=6)
    lerp.eval_fn = lambda model, device: float(model.state_dict()["bn.running_mean"].sum())
    lerp.interpolate(steps=1)
    assert lerp.best_model is not None
    conv: Any = lerp.best_model.get_submodule("conv")
    with torch.no_grad():
        wanted = conv(torch.cat([x for _, x in loader])).mean((0, 2, 3)).sum()
    assert lerp.metrics_interpolated == pytest.approx([float(wanted)], rel=1e-4)
    plain = nn.Linear(2, 2)
    utils.recalculate_batch_norms(plain, iter(()), 0)
    bare = DataLoader(torch.randn(8, 1, 4, 4), batch_size=4)  # type: ignore[arg-type]
    (net,) = nets(1)
    before = net.state_dict()["bn.running_mean"].clone()
    utils.recalculate_batch_norms(net, bare, 0, None, True)
    assert not torch.equal(net.state_dict()["bn.running_mean"], before)


def test_levels_have_names_and_numbers() -> None:
    assert [utils.parse_logging_level(level) for level in ("debug", "WARN", 40, logging.INFO)] == [10, 30, 40, 20]


A, B = nets(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: PermutationCoordinateDescent(3, A, X), TypeError, "model_a must be a torch.nn.Module"),
        (lambda p: PermutationCoordinateDescent(A, 3, X), TypeError, "model_b must be a torch.nn.Module"),
        (lambda p: PermutationCoordinateDescent(A, B, X, logging_level=3), ValueError, "logging_level must be"),
        (lambda p: PermutationCoordinateDescent(A, B, X, logging_level="loud"), ValueError, "got 'loud'"),
        (lambda p: PermutationCoordinateDescent(A, B, X, logging_level=None), TypeError, "logging_level must be"),
        (lambda p: MergeMany(A, A, X), TypeError, "models must be a sequence of modules or of files"),
        (lambda p: MergeMany([A], A, X), ValueError, "models must hold two at least, got 1"),
        (lambda p: MergeMany([A, 3], A, X), TypeError, r"models\[1\] must be a torch.nn.Module or a file"),
        (lambda p: MergeMany([A, B], 3, X), TypeError, "working_model must be a torch.nn.Module"),
        (lambda p: interpolation.LerpSimple(A), TypeError, "models must be a sequence of torch.nn.Modules"),
        (lambda p: interpolation.LerpSimple([A]), ValueError, "models must hold two at least"),
        (lambda p: interpolation.LerpSimple([A, 3]), TypeError, r"models\[1\] must be a torch.nn.Module"),
        (lambda p: interpolation.LerpSimple([A, B], eval_fn=0), TypeError, "eval_fn must be a function"),
        (lambda p: interpolation.LerpSimple([A, B], eval_mode="x"), ValueError, "eval_mode must be 'min' or 'max'"),
        (lambda p: interpolation.LerpSimple([A, B], devices=["cpu"]), ValueError, "devices must name one for each"),
        (lambda p: interpolation.LerpSimple([A, B], dataset_percentage=1.5), ValueError, "dataset_percentage must be"),
        (lambda p: interpolation.LerpSimple([A, B], input_indices=["x"]), TypeError, "input_indices must be"),
        (lambda p: interpolation.LerpSimple([A, B], savedir=p / "no"), ValueError, "savedir must be a folder that is"),
        (lambda p: interpolation.LerpSimple([A, B], savedir=0), TypeError, "savedir must be a folder"),
        (lambda p: interpolation.LerpSimple([A, B]).interpolate(0), ValueError, "steps must be"),
        (lambda p: utils.recalculate_batch_norms(3, [], 0), TypeError, "model must be a torch.nn.Module"),
        (
            lambda p: utils.recalculate_batch_norms(A, iter([X]), 0, dataset_percentage=0.5),
            TypeError,
            "dataloader must be a loader that has a length",
        ),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        call(tmp_path)
