"""Many models laid over each other on disk: as `match_many` does, resumed from any step, in the memory of few gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lmc_fast as lmc
from lmc_fast.large import merge_checkpoints
from lmc_fast.large.journal import Journal

from .. import forked
from . import models

INSIDE = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": ("G", "H"), "3": (None, "G")})
SHAPES = {"1": (9, 4), "2": (8, 9), "3": (3, 8)}


class Cut(BaseException):
    """The process is gone."""


def states_of(count: int, noise: float | None = None) -> list[dict[str, torch.Tensor]]:
    """Models at random, or permuted copies of one with noise."""
    generator = torch.Generator().manual_seed(3)

    def drawn() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    if noise is None:
        return [drawn() for _ in range(count)]
    first = drawn()
    bound = INSIDE.bind(first)
    others = [lmc.Permutations.random(bound, seed).apply(first) for seed in range(1, count)]
    return [first, *({name: x + noise * drawn()[name] for name, x in other.items()} for other in others)]


def files_of(folder: Path, states: list[dict[str, torch.Tensor]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{k}.safetensors" for k in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    return paths


@pytest.mark.parametrize("noise", [None, 0.4], ids=["unrelated", "planted"])
@pytest.mark.parametrize("method", ["merge_many", "c2m3"])
def test_it_finds_what_match_many_does(tmp_path: Path, method: str, noise: float | None) -> None:
    states = states_of(4, noise)
    paths = files_of(tmp_path, states)
    result = merge_checkpoints(*paths, out=tmp_path / "out.safetensors", spec=INSIDE, method=method)
    wanted = lmc.match_many(states, INSIDE, method=method)
    assert [match.permutations for match in result.matches] == list(wanted.permutations[1:])
    assert all(match.converged and match.method == method for match in result.matches)
    for m, match in enumerate(result.matches, 1):
        assert match.l2_before == pytest.approx(wanted.l2_before[0, m], rel=1e-6)
        assert match.l2_after == pytest.approx(wanted.l2_after[0, m], rel=1e-6)
        moved = match.permutations.apply(states[m])
        assert match.objective == pytest.approx(sum(float((states[0][n] * moved[n]).sum()) for n in SHAPES), rel=1e-5)
    merged = lmc.merge(states, [None, *(match.permutations for match in result.matches)])
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in merged.items())


def test_owned_groups_of_directories_too(tmp_path: Path) -> None:
    states = [models.weights(0), *(models.planted(models.weights(0), seed, noise=1.0)[0] for seed in (1, 2))]
    paths = [models.write_directory(tmp_path / str(k), state) for k, state in enumerate(states)]
    result = merge_checkpoints(*paths, out=tmp_path / "out", spec=models.spec(), method="merge_many")
    wanted = lmc.match_many(states, models.spec(), method="merge_many")
    assert sum(m.objective for m in result.matches) >= 0.99 * sum(
        float(sum((states[0][n] * x).sum() for n, x in wanted.permutations[k].apply(states[k]).items())) for k in (1, 2)
    )


@pytest.mark.parametrize("method", ["merge_many", "c2m3"])
def test_a_run_goes_on_from_any_step(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files_of(tmp_path / "in", states_of(3))
    out = tmp_path / "out.safetensors"
    plain = Journal.add
    steps: list[Any] = []

    def noting(self: Journal, at: Any, found: Any) -> Any:
        steps.append(at)
        return plain(self, at, found)

    def run(**options: Any) -> bytes:
        merge_checkpoints(*paths, out=out, spec=INSIDE, method=method, **options)
        found = out.read_bytes()
        out.unlink()
        return found

    monkeypatch.setattr(Journal, "add", noting)
    whole = run()
    assert sum(at[:2] == ["match all", "sweeps"] for at in steps) >= 6
    count = len(steps)
    for stop in range(1, count, 3):
        left = iter(range(stop))

        def cut(self: Journal, at: Any, found: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise Cut
            return plain(self, at, found)

        monkeypatch.setattr(Journal, "add", cut)
        with pytest.raises(Cut):
            run()
        monkeypatch.setattr(Journal, "add", noting)
        steps.clear()
        assert run(resume=True) == whole
        # What was done is not done again.
        assert len(steps) == count - stop


def test_frozen_groups_stay_in_all_models(tmp_path: Path) -> None:
    paths = files_of(tmp_path, states_of(3))
    result = merge_checkpoints(*paths, out=tmp_path / "o.safetensors", spec=INSIDE, method="merge_many", freeze=["H"])
    for match in result.matches:
        assert torch.equal(match.permutations["H"], torch.arange(9))
        assert not torch.equal(match.permutations["G"], torch.arange(8))
    with pytest.raises(ValueError, match="freeze does not go with method='c2m3'"):
        merge_checkpoints(*paths, out=tmp_path / "p.safetensors", spec=INSIDE, method="c2m3", freeze=["H"])


def test_a_spec_that_c2m3_does_not_take_is_told_before_the_work(tmp_path: Path) -> None:
    paths = [models.write_directory(tmp_path / str(k), models.weights(k)) for k in range(3)]
    with pytest.raises(ValueError, match="method='c2m3' takes groups inside their owners alone"):
        merge_checkpoints(*paths, out=tmp_path / "out", spec=models.spec(), method="c2m3")
    assert not (tmp_path / "out").exists()


def test_sweeps_end_where_they_are_told_to(tmp_path: Path) -> None:
    paths = files_of(tmp_path, states_of(3))
    events: list[dict[str, Any]] = []
    result = merge_checkpoints(
        *paths,
        out=tmp_path / "o.safetensors",
        spec=INSIDE,
        method="merge_many",
        max_sweeps=1,
        listener=events.append,
    )
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert "sweep 1 over all models" in phases
    assert "sweep 2 over all models" not in phases
    assert not any(match.converged for match in result.matches)


PEAK = """
import json, sys
from pathlib import Path
import torch
import lmc_fast as lmc
from lmc_fast.large import merge_checkpoints
from lmc_fast.large.memory import give_back
from lmc_fast.matching.engine.gains import GainCache

def own():
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

torch.set_num_threads(1)
paths, method = sys.argv[2:], sys.argv[1]
most, plain = 0, GainCache.gain
def gain(self, group):
    global most
    found = plain(self, group)
    most = max(most, own())
    return found
GainCache.gain = gain
give_back()
before = own()
spec = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": (None, "H")})
merge_checkpoints(*paths, out=Path(paths[0]).parent / f"out{len(paths)}.safetensors", spec=spec, method=method)
print(json.dumps(most - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the process's own memory is read from Linux' /proc")
def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    units = 1200
    matrix = 4 * units**2
    generator = torch.Generator().manual_seed(0)
    first = {"1": torch.randn(units, 24, generator=generator), "2": torch.randn(24, units, generator=generator)}
    spec = lmc.PermutationSpec.from_axes({"1": ("H", None), "2": (None, "H")}).bind(first)
    states = [first, *(lmc.Permutations.random(spec, seed).apply(first) for seed in range(1, 6))]
    paths = [str(path) for path in files_of(tmp_path, states)]
    peaks = []
    for count in (2, 6):
        done = forked.run(["-c", PEAK, "merge_many", *paths[:count]])
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1]) / matrix)
    # Fifteen pairs would keep fifteen gains; here are the gain of one pair, its part, the sum and a copy in order.
    assert peaks[1] < peaks[0] + 11, peaks
