"""Checkpoints merged on disk: what is found, what is written, and that it is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lmc_fast as lmc
from lmc_fast._files import write_text
from lmc_fast.large import MergeResult, merge_checkpoints, plan_merge, writing

from . import models


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a = models.weights(0)
    b, _ = models.planted(a, 1)
    return models.write_directory(tmp_path / "A", a), models.write_directory(tmp_path / "B", b, shards=2)


def merged(pair: tuple[Path, Path], out: Path, **options: Any) -> MergeResult:
    return merge_checkpoints(*pair, out=out, spec=models.spec(), **options)


def test_the_planted_permutation_is_found_and_the_mean_is_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (models.read_directory(path) for path in pair)
    back = models.planted(models.weights(0), 1)[1]
    result = merged(pair, tmp_path / "out", lam=0.25)
    assert result.matches[0].permutations == back
    wanted = lmc.interpolate(a, b, 0.25, back)
    found = models.read_directory(tmp_path / "out")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert result.matches[0].converged
    assert result.matches[0].objective == pytest.approx(lmc.weight_matching(a, b, models.spec()).objective)
    assert result.matches[0].l2_after == pytest.approx(lmc.weight_matching(a, b, models.spec()).l2_after)
    assert "wrote" in str(result)
    assert not list(tmp_path.glob(".*"))


def test_the_directory_is_complete(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = merged(pair, tmp_path / "out")
    names = set(models.contents(tmp_path / "out"))
    assert names == {
        *("config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"),
        *("README.md", "SHA256SUMS", "lmc_fast/matching-b.safetensors"),
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| B | 0.5 |" in card
    assert f"lmc_fast {lmc.__version__}, torch {torch.__version__}" in card
    for line in (tmp_path / "out" / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
        assert result.checksums[name] == digest
        names.discard(name)
    assert names == {"SHA256SUMS"}
    again = lmc.weight_matching(*(models.read_directory(path) for path in pair), models.spec())
    saved = type(again).load(tmp_path / "out" / "lmc_fast" / "matching-b.safetensors")
    assert saved.permutations == again.permutations


def test_code_goes_along_only_where_it_is_trusted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    merged(pair, tmp_path / "out", trust_remote_code=True)
    assert (tmp_path / "out" / "modeling_toy.py").is_file()


@pytest.mark.parametrize("search", ["auto", "spectral", "coordinate_descent"])
def test_every_search_finds_it(pair: tuple[Path, Path], tmp_path: Path, search: str) -> None:
    back = models.planted(models.weights(0), 1)[1]
    assert merged(pair, tmp_path / "out", search=search).matches[0].permutations == back


def test_frank_wolfe_moves_all_groups_at_once(tmp_path: Path) -> None:
    # It takes groups inside their owners alone.
    spec = lmc.PermutationSpec.from_axes({"1.weight": ("H", None), "2.weight": (None, "H")})
    generator = torch.Generator().manual_seed(0)
    a = {name: torch.randn(9, 9, generator=generator) for name in ("1.weight", "2.weight")}
    back = lmc.Permutations.random(spec.bind(a), 5)
    save_file(a, tmp_path / "a.safetensors")
    save_file(back.inverse().apply(a), tmp_path / "b.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    result = merge_checkpoints(*files, out=tmp_path / "out.safetensors", spec=spec, search="frank_wolfe")
    assert result.matches[0].permutations == back
    assert torch.allclose(load_file(tmp_path / "out.safetensors")["1.weight"], a["1.weight"])


def test_leading_parts_that_stand_out_lead(tmp_path: Path) -> None:
    spec = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": ("G", "H"), "3": (None, "G")})
    generator = torch.Generator().manual_seed(0)
    size = 160

    def low_rank() -> torch.Tensor:
        thin = torch.randn(size, 4, generator=generator)
        return thin @ torch.randn(4, size, generator=generator) + 0.1 * torch.randn(size, size, generator=generator)

    a = {name: low_rank() for name in ("1", "2", "3")}
    back = lmc.Permutations.random(spec.bind(a), 5)
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, state in zip(files, (a, back.inverse().apply(a)), strict=True):
        save_file(state, path)
    phases: list[str] = []
    result = merge_checkpoints(
        *files, out=tmp_path / "out.safetensors", spec=spec, listener=lambda event: phases.append(event["phase"])
    )
    assert "leading parts" in phases
    assert result.matches[0].permutations == back


def test_models_that_lie_over_each_other_stay(tmp_path: Path) -> None:
    a = models.weights(0)
    paths = [models.write_directory(tmp_path / name, a) for name in ("A", "B")]
    result = merged((paths[0], paths[1]), tmp_path / "out")
    assert result.matches[0].permutations.moved == 0
    assert result.matches[0].l2_after == 0


def test_a_pass_outwards_that_ends_lower_is_taken_back(tmp_path: Path) -> None:
    """Seen from the first layer alone the units are exchanged; the second one says far louder that they are not."""
    a = {"1": torch.eye(4), "2": 10 * torch.eye(4)}
    b = {"1": torch.eye(4).roll(1, 0), "2": 10 * torch.eye(4)}
    spec = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": ("G", "H")})
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, state in zip(files, (a, b), strict=True):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    result = merge_checkpoints(*files, out=tmp_path / "o.safetensors", spec=spec, max_sweeps=1)
    assert result.matches[0].objective >= sum(float((a[name] * b[name]).sum()) for name in a)


def test_frozen_groups_stay(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = merged(pair, tmp_path / "out", freeze=["F0", "D"]).matches[0].permutations
    assert found["F0"].tolist() == list(range(models.UNITS))
    assert found["D"].tolist() == list(range(models.HIDDEN))
    assert found["F1"].tolist() != list(range(models.UNITS))


def test_align_only_writes_the_second_model_in_its_own_form(pair: tuple[Path, Path], tmp_path: Path) -> None:
    merged(pair, tmp_path / "out", align_only=True)
    back = models.planted(models.weights(0), 1)[1]
    wanted = back.apply(models.read_directory(pair[1]))
    found = models.read_directory(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors*")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_another_dtype_is_rounded_once_and_told(pair: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    a, b = (models.read_directory(path) for path in pair)
    back = models.planted(models.weights(0), 1)[1]
    merged(pair, tmp_path / "out", dtype=dtype)
    kind = getattr(torch, dtype)
    wide = torch.promote_types(kind, torch.float32)
    moved = back.apply(b)
    for name, tensor in models.read_directory(tmp_path / "out").items():
        assert tensor.dtype == kind
        wanted = (0.5 * a[name].to(wide) + 0.5 * moved[name].to(wide)).to(kind)
        assert torch.equal(tensor, wanted), name
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == dtype


@pytest.mark.parametrize("size", [1, 2000, 10**9], ids=["a tensor each", "some", "one"])
def test_shards_have_the_size_that_was_asked_for(pair: tuple[Path, Path], tmp_path: Path, size: int) -> None:
    merged(pair, tmp_path / "out", shard_size=size)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    tensors = models.read_directory(tmp_path / "out")
    assert set(tensors) == set(models.shapes())
    if size == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
        return
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= size
        assert all(index["weight_map"][name] == file.name for name in held)


def test_small_blocks_give_the_same(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(pair, tmp_path / "whole")
    monkeypatch.setattr(writing, "BLOCK", 100)
    merged(pair, tmp_path / "blocks")
    assert models.contents(tmp_path / "whole") == models.contents(tmp_path / "blocks")


def test_mixed_dtypes_are_let_through_and_said(tmp_path: Path) -> None:
    a = models.weights(0, torch.bfloat16)
    b = {name: tensor.float() for name, tensor in models.planted(a, 1)[0].items()}
    pair = models.write_directory(tmp_path / "A", a), models.write_directory(tmp_path / "B", b)
    result = merged(pair, tmp_path / "out")
    assert "holds bfloat16" in result.notes[0]
    assert "holds float32" in result.notes[0]
    back = result.matches[0].permutations
    for name, tensor in models.read_directory(tmp_path / "out").items():
        wanted = 0.5 * a[name].float() + 0.5 * back.apply_to(name, b[name])
        assert torch.equal(tensor, wanted.bfloat16())


def test_entries_that_are_no_weights_are_the_first_models(tmp_path: Path) -> None:
    a = models.weights(0)
    b = models.planted(a, 1)[0]
    a |= {"steps": torch.tensor(3), "scale": torch.randn(3).to(torch.float8_e4m3fn), "count": torch.tensor(2.0)}
    b |= {"steps": torch.tensor(5), "scale": torch.randn(3).to(torch.float8_e4m3fn), "count": torch.tensor(4.0)}
    pair = models.write_directory(tmp_path / "A", a), models.write_directory(tmp_path / "B", b)
    axes = {**models.spec().axes, "count": (), "scale": (lmc.Axis(),)}
    merge_checkpoints(*pair, out=tmp_path / "out", spec=lmc.PermutationSpec(models.spec().groups, axes))
    found = models.read_directory(tmp_path / "out")
    assert found["steps"] == 3
    assert found["count"] == 3.0
    assert torch.equal(found["scale"].view(torch.uint8), a["scale"].view(torch.uint8))


def test_integers_move_with_their_units(tmp_path: Path) -> None:
    a = models.weights(0)
    b, back = models.planted(a, 1)
    a["0.kept"] = torch.arange(models.UNITS)
    b["0.kept"] = back.inverse().apply_to("0.up.bias", a["0.kept"])
    pair = models.write_directory(tmp_path / "A", a), models.write_directory(tmp_path / "B", b)
    spec = lmc.PermutationSpec(models.spec().groups, {**models.spec().axes, "0.kept": ("F0",)})  # type: ignore[dict-item]
    merge_checkpoints(*pair, out=tmp_path / "out", spec=spec, align_only=True)
    assert torch.equal(models.read_directory(tmp_path / "out")["0.kept"], a["0.kept"])


def several(tmp_path: Path, count: int = 3) -> list[Path]:
    a = models.weights(0)
    states = [a, *(models.planted(a, seed)[0] for seed in range(1, count))]
    return [models.write_directory(tmp_path / str(k), state) for k, state in enumerate(states)]


@pytest.mark.parametrize("method", ["wm", "merge_many"])
def test_several_models_are_laid_over_the_first(tmp_path: Path, method: str) -> None:
    paths = several(tmp_path)
    result = merge_checkpoints(
        paths[0], *paths[1:], out=tmp_path / "out", spec=models.spec(), method=method, weights=[0.5, 0.3, 0.2]
    )
    backs = [models.planted(models.weights(0), seed)[1] for seed in (1, 2)]
    assert [match.permutations for match in result.matches] == backs
    wanted = lmc.merge([models.read_directory(path) for path in paths], [None, *backs], weights=[0.5, 0.3, 0.2])
    found = models.read_directory(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_c2m3_is_what_match_many_does(tmp_path: Path) -> None:
    spec = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": (None, "H")})
    states = [{name: torch.randn(6, 6) for name in ("1", "2")} for _ in range(3)]
    files = []
    for k, state in enumerate(states):
        files.append(tmp_path / f"{k}.safetensors")
        save_file(state, files[-1])
    result = merge_checkpoints(files[0], *files[1:], out=tmp_path / "o.safetensors", spec=spec, method="c2m3")
    wanted = lmc.match_many(states, spec, method="c2m3")
    assert [match.permutations for match in result.matches] == list(wanted.permutations[1:])


def test_files_go_in_and_one_comes_out(tmp_path: Path) -> None:
    a = models.weights(0)
    b, back = models.planted(a, 1)
    save_file(a, tmp_path / "a.safetensors", {"origin": "here"})
    torch.save({"model": b}, tmp_path / "b.pt")
    models.spec().to_json(tmp_path / "spec.json")
    result = merge_checkpoints(
        tmp_path / "a.safetensors",
        str(tmp_path / "b.pt"),
        out=tmp_path / "out.safetensors",
        spec=tmp_path / "spec.json",
        key="model",
    )
    assert result.matches[0].permutations == back
    found, wanted = load_file(tmp_path / "out.safetensors"), lmc.interpolate(a, b, 0.5, back)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_an_index_of_several_files_goes_in(pair: tuple[Path, Path], tmp_path: Path) -> None:
    save_file(models.weights(0), tmp_path / "a.safetensors")
    index = pair[1] / "model.safetensors.index.json"
    merge_checkpoints(tmp_path / "a.safetensors", index, out=tmp_path / "out.safetensors", spec=models.spec())
    assert set(load_file(tmp_path / "out.safetensors")) == set(models.shapes())


def test_the_hubs_cache_of_links_works(pair: tuple[Path, Path], tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(pair[1].iterdir())):
        if path.is_file():
            (blobs / str(number)).write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    merged((pair[0], snapshot), tmp_path / "out")
    merged((snapshot, pair[0]), tmp_path / "turned")
    assert not any(path.is_symlink() for path in (tmp_path / "turned").rglob("*"))
    assert set(models.read_directory(tmp_path / "out")) == set(models.shapes())


def test_force_replaces_and_nothing_else_does(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"exists already: force=True \(--force\) replaces it"):
        merged(pair, tmp_path / "out")
    assert (tmp_path / "out" / "old").is_file()
    merged(pair, tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "old").exists()
    assert not list(tmp_path.glob(".*"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def shape_of(b: Path, name: str, shape: tuple[int, ...]) -> None:
    state = models.read_directory(b)
    state[name] = torch.zeros(shape)
    for file in b.glob("model*"):
        file.unlink()
    save_file(state, b / "model.safetensors")


def value_in(b: Path, value: float) -> None:
    state = models.read_directory(b)
    state["1.up.weight"][3, 4] = value
    for file in b.glob("model*"):
        file.unlink()
    save_file(state, b / "model.safetensors")


def told(b: Path, **changes: Any) -> None:
    config = json.loads((b / "config.json").read_text(encoding="utf-8"))
    write_text(b / "config.json", json.dumps({**config, **changes}))


def index_of(b: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = b / "model.safetensors.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    change(index["weight_map"])
    path.write_text(json.dumps(index), encoding="utf-8")


def overlapping(b: Path) -> None:
    path = next(b.glob("model-00001*"))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    one = max(names, key=lambda name: header[name]["data_offsets"][0])
    begin, end = header[one]["data_offsets"]
    header[one]["data_offsets"] = [begin - 4, end - 4]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def pickled(b: Path) -> None:
    for path in b.glob("model*"):
        path.unlink()


SHARD = "model-00001-of-00002.safetensors"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (
        lambda b: told(b, architectures=["Other"]),
        r"is \['Toy'\] in .* \['Other'\]",
    ),
    "another type": (lambda b: told(b, model_type="other"), "model_type is 'toy' in"),
    "a missing shard": (lambda b: (b / SHARD).unlink(), "which is not there"),
    "a truncated shard": (lambda b: cut(b / SHARD), f"{SHARD}' is no complete safetensors file"),
    "an index that lies": (lambda b: index_of(b, lambda m: m.update(x=SHARD)), "says that 'x' is in"),
    "an index that leads out": (
        lambda b: index_of(b, lambda m: m.update(x="../../x.safetensors")),
        "must name safetensors files beside it",
    ),
    "an index of a hundred thousand": (
        lambda b: index_of(b, lambda m: m.update({f"x{k}": SHARD for k in range(10**5)})),
        "says that 'x0' is in",
    ),
    "another shape": (lambda b: shape_of(b, "0.up.weight", (3, 12)), r"'0.up.weight' is \(20, 12\) in .* \(3, 12\)"),
    "another vocabulary": (
        lambda b: (shape_of(b, "embed.weight", (13, 12)), told(b, vocab_size=13)),
        r"their vocabularies differ: 11 and 13",
    ),
    "a tensor too many": (lambda b: shape_of(b, "more", (2,)), "has 'more', which .* lacks"),
    "nan": (lambda b: value_in(b, float("nan")), "'1.up.weight' holds nan or infinity"),
    "infinity": (lambda b: value_in(b, float("inf")), "'1.up.weight' holds nan or infinity"),
    "no config": (lambda b: (b / "config.json").unlink(), "has no config.json"),
    "a config that is none": (lambda b: (b / "config.json").write_text("{", encoding="utf-8"), "is no complete JSON"),
    "code of its own": (
        lambda b: told(b, auto_map={"AutoModel": "x.Y"}),
        r"code of its own .*\(--trust-remote-code\)",
    ),
    "tensors that overlap": (overlapping, "overlaps another tensor"),
    "a pickle": (pickled, "pickles, which are not read"),
    "nothing": (lambda b: shutil.rmtree(b), "does not exist"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told_in_a_sentence_and_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(pair[1])
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=message) as caught:
        merged(pair, tmp_path / "out")
    assert len(str(caught.value)) < 600
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "am"}, "method must be one of 'wm', 'merge_many', 'c2m3', 'none', got 'am'"),
        ({"search": "random"}, "search must be one of"),
        ({"dtype": "int8"}, "dtype must be one of 'bfloat16'"),
        ({"lam": 0.5, "weights": [0.5, 0.5]}, "lam is for two models, and not beside weights"),
        ({"weights": [1.0]}, "weights must have one entry for each of the 2 models, got 1"),
        ({"weights": [0.5, 0.6]}, "weights must sum to 1"),
        ({"align_only": True, "lam": 0.5}, "align_only takes two models, and neither lam nor weights"),
        ({"shard_size": 0}, "shard_size must be"),
        ({"freeze": ["Z"]}, "freeze names group 'Z'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merged(pair, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_freeze_takes_names(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="freeze must be names of groups, got the string 'D'"):
        merged(pair, tmp_path / "out", freeze="D")


OUTPUTS: dict[str, tuple[Callable[[Path, tuple[Path, Path]], Path], str]] = {
    "an input": (lambda _, pair: pair[1], "must lie apart from the inputs"),
    "a link to an input": (lambda tmp, pair: linked(tmp / "link", pair[0]), "must lie apart from the inputs"),
    "inside an input": (lambda _, pair: pair[0] / "out", "must lie apart from the inputs"),
    "around the inputs": (lambda tmp, _: tmp, "must lie apart from the inputs"),
    "a file": (lambda tmp, _: written(tmp / "file"), "is a file, and is not replaced by a folder"),
    "a link": (lambda tmp, _: linked(tmp / "link", tmp / "elsewhere"), "is a link, and is not replaced"),
    "in no folder": (lambda tmp, _: tmp / "none" / "out", "the folder of output .* does not exist"),
}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def written(path: Path) -> Path:
    path.write_text("kept", encoding="utf-8")
    return path


@pytest.mark.parametrize(("place", "message"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_outputs_that_will_not_do_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, place: Callable[[Path, tuple[Path, Path]], Path], message: str
) -> None:
    out = place(tmp_path, pair)
    before = models.contents(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        merged(pair, out, force=True)
    assert models.contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        merged(pair, tmp_path / "locked" / "out")


def test_files_and_directories_do_not_go_together(pair: tuple[Path, Path], tmp_path: Path) -> None:
    save_file(models.weights(0), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="must be all directories or all files"):
        merge_checkpoints(pair[0], tmp_path / "b.safetensors", out=tmp_path / "out", spec=models.spec())
    with pytest.raises(ValueError, match=r"must end in \.safetensors, as the inputs are files"):
        merge_checkpoints(tmp_path / "b.safetensors", pair[0], out=tmp_path / "out", spec=models.spec())


def test_a_file_needs_a_spec_and_one_that_fits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(models.weights(0), tmp_path / f"{name}.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    with pytest.raises(ValueError, match="does not tell its spec, being a file"):
        merge_checkpoints(*files, out=tmp_path / "out.safetensors")
    lmc.PermutationSpec.from_axes({"other": ("H",)}).to_json(tmp_path / "spec.json")
    with pytest.raises(ValueError, match=r"spec .*spec\.json.*'other'"):
        merge_checkpoints(*files, out=tmp_path / "out.safetensors", spec=tmp_path / "spec.json")


def test_weights_that_are_derived_are_refused(tmp_path: Path) -> None:
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 4))
    for name in ("a", "b"):
        save_file(module.state_dict(), tmp_path / f"{name}.safetensors")
    axes = {"bias": ("H",), "parametrizations.weight.original0": ("H", None)}
    axes["parametrizations.weight.original1"] = ("H", None)
    with pytest.raises(ValueError, match="which are not merged by file"):
        merge_checkpoints(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            out=tmp_path / "out.safetensors",
            spec=lmc.PermutationSpec.from_axes(axes),
        )
    assert not (tmp_path / "out.safetensors").exists()


def test_a_disk_that_is_too_small_is_told_before_the_work(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left on device") as caught:
        merged(pair, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "B"]


def test_the_plan_tells_what_will_be_done(pair: tuple[Path, Path]) -> None:
    plan = plan_merge(*pair, spec=models.spec(), ranks=4)
    count = sum(torch.Size(shape).numel() for shape in models.shapes().values())
    assert plan.parameters == count
    assert plan.nbytes == (4 * count, 4 * count)
    assert plan.written == 4 * count
    assert [group.name for group in plan.groups] == ["D", "kv0", "kv1", "F0", "F1"]
    units = next(group for group in plan.groups if group.name == "F0")
    assert units.units == {"F0": models.UNITS}
    assert units.tensors == ("0.up.weight", "0.up.bias", "0.down.weight")
    # Every entry of the three with every unit.
    assert units.operations == 2 * models.UNITS * (2 * models.UNITS * models.HIDDEN + models.UNITS)
    assert plan.ranks is not None
    assert sum(plan.ranks.read) == sum(plan.nbytes)
    assert plan.nbytes[0] / 4 <= max(plan.ranks.read) / 2 < plan.nbytes[0]
    text = str(plan)
    for said in ("F0", "one sweep over all groups", "own memory", "on 4 ranks", "output"):
        assert said in text
