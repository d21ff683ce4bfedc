"""Matchings with rotations: kept in files, printed, and told from those of permutations."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lmc_fast as lmc
from lmc_fast import Permutations, PermutationSpec, Transforms
from lmc_fast.symmetry.transforms import between, choice_for, random_choice

from ..slow import slow_but
from ..symmetry.test_transforms import attention_spec
from .test_turning import another


def matched() -> lmc.Matching:
    spec, a = attention_spec()
    return lmc.weight_matching(a, another(a), spec, max_sweeps=2)


def test_a_matching_is_what_it_was_when_it_is_read(tmp_path: Path) -> None:
    match = matched()
    match.save(tmp_path / "m.safetensors")
    read = lmc.Matching.load(tmp_path / "m.safetensors")
    assert read.choice == match.choice and isinstance(read.choice, Transforms)
    assert (read.objective, read.l2_after, read.history) == (match.objective, match.l2_after, match.history)
    tensors = load_file(tmp_path / "m.safetensors")
    assert set(tensors) == {f"element.{name}" for name in match.choice}
    assert tensors["element.stream"].dtype == torch.float64 and tensors["element.kv"].dtype == torch.int64


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    match = matched()
    object.__setattr__(match, "choice", choice_for(match.choice.spec))
    path = tmp_path / "m.safetensors"
    match.choice._elements["stream"][0] = 2.0
    match.save(path)
    with pytest.raises(ValueError, match=r"elements\['stream'\] must be orthogonal"):
        lmc.Matching.load(path)
    del match.choice._elements["stream"]
    match.save(path, overwrite=True)
    with pytest.raises(ValueError, match="one element for each group"):
        lmc.Matching.load(path)


def test_it_tells_what_took_part() -> None:
    match = matched()
    told = str(match)
    assert "6 groups: 2 permutation, 1 phases, 1 orthogonal, 1 orthogonal_keeping_ones, 1 signed" in told
    with pytest.raises(ValueError, match=r"Matching.permutations takes groups of permutations alone, but 'plane'"):
        _ = match.permutations


def test_a_choice_of_permutations_is_one_in_either_form() -> None:
    spec = PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(4, 2)})
    permutations = Permutations.random(spec, 1)
    match = lmc.Matching(Transforms(spec, permutations), 0.0, 1.0, 1.0, True, (), 0.0, "none")
    assert match.permutations == permutations
    assert lmc.Matching(permutations, 0.0, 1.0, 1.0, True, (), 0.0, "none").permutations is permutations


def test_between_two_choices() -> None:
    spec, model = attention_spec()
    onto, of = random_choice(spec, 1), random_choice(spec, 2)
    direct = between(onto, of)
    for name, tensor in onto.apply(direct.apply(model)).items():
        assert torch.allclose(tensor, of.apply(model)[name])
    plain = PermutationSpec.from_axes({"w": ("p", None)}, model={"w": torch.zeros(4, 2)})
    one, two = random_choice(plain, 1), random_choice(plain, 2)
    assert isinstance(one, Permutations) and isinstance(two, Permutations)
    assert between(one, two) == one.inverse().after(two)


@pytest.mark.parametrize("method", ["merge_many", "pairwise"])
@pytest.mark.parametrize("init", slow_but(["anchored", "identity", "random"], lambda init: init == "anchored"))
def test_many_models(method: str, init: str, tmp_path: Path) -> None:
    spec, model = attention_spec()
    others = [Transforms.random(spec, seed).apply(model) for seed in (1, 2)]
    # Noise of their own: no two are the same.
    models = [{n: x + 0.05 * another(model, 7 + k)[n] for n, x in m.items()} for k, m in enumerate([*others, model])]
    many = lmc.match_many(models, spec, method=method, init=init, reference=1)
    assert many.permutations[1] == Transforms.identity(spec)
    laid = many.apply(models)
    for i in range(3):
        for j in range(3):
            distance = sum(float((laid[i][n] - laid[j][n]).square().sum()) for n in model) ** 0.5
            assert many.l2_after[i, j] == pytest.approx(distance, abs=1e-5)
            onto = many.pairwise(i, j).apply(models[j])
            assert sum(float((models[i][n] - onto[n]).square().sum()) for n in model) ** 0.5 == pytest.approx(
                distance, abs=1e-5
            )
    if init == "anchored":
        assert many.l2_after.max() < 0.1 * many.l2_before.max()
    assert many.objective == pytest.approx(
        sum(float((laid[i][n] * laid[j][n]).sum()) for i, j in ((0, 1), (0, 2), (1, 2)) for n in model)
    )
    objectives = [sweep.objective for sweep in many.history]
    assert method == "pairwise" or all(y >= x - 1e-9 for x, y in itertools.pairwise(objectives))
    many.save(tmp_path / "m.safetensors")
    read = lmc.ManyMatching.load(tmp_path / "m.safetensors")
    assert read.permutations == many.permutations and "1 phases" in str(read)
    again = lmc.match_many(models, spec, method=method, init=read, reference=1, max_sweeps=1)
    assert method == "pairwise" or again.objective >= many.objective - 1e-6
    middle = lmc.merge(models, many)
    assert torch.allclose(middle["q"], (laid[0]["q"] + laid[1]["q"] + laid[2]["q"]) / 3)


@pytest.mark.slow
def test_all_pairs_gain_no_less_than_laid_over_the_first() -> None:
    spec, model = attention_spec()
    models = [another(model, seed) for seed in (11, 12, 13)]
    pairwise = lmc.match_many(models, spec, method="pairwise")
    together = lmc.match_many(models, spec)
    assert together.objective >= pairwise.objective - 1e-9
    assert together.objective > lmc.match_many(models, spec, init="identity", max_sweeps=1).objective


def test_starts_are_checked() -> None:
    spec, model = attention_spec()
    with pytest.raises(TypeError, match=r"init\[1\] must be Permutations or Transforms"):
        lmc.match_many([model, model], spec, init=[Transforms.identity(spec), "identity"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="Permutations, Transforms or a result, got 'best'"):
        lmc.match_many([model, model], spec, init="best")
