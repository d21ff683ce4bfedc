"""What each of several processes does, as plain data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lmc_fast import Group, PermutationSpec, Segment
from lmc_fast.cli import cli
from lmc_fast.large.plan import Plan, plan_of
from lmc_fast.large.watch import Rates
from lmc_fast.matching.engine.terms import COLUMNS, PIECE

from . import models

HIDDEN, UNITS, LAYERS, WORDS = 256, 640, 12, 2000


def llama() -> tuple[PermutationSpec, dict[str, torch.Tensor]]:
    """One of 12 layers in bf16, without numbers."""
    shapes = {"embed": (WORDS, HIDDEN), "head": (WORDS, HIDDEN)}
    axes: dict[str, tuple[object, ...]] = {"embed": (None, "D"), "head": (None, "D")}
    groups = [Group("D", HIDDEN)]
    for k in range(LAYERS):
        shapes |= {f"{k}.v": (HIDDEN, HIDDEN), f"{k}.o": (HIDDEN, HIDDEN), f"{k}.norm": (HIDDEN,)}
        shapes |= {f"{k}.up": (UNITS, HIDDEN), f"{k}.down": (HIDDEN, UNITS)}
        groups.append(Group(f"h{k}", 8))
        axes |= {
            f"{k}.v": (Segment(f"h{k}", inner=HIDDEN // 8), "D"),
            f"{k}.o": ("D", Segment(f"h{k}", inner=HIDDEN // 8)),
        }
        axes |= {f"{k}.norm": ("D",), f"{k}.up": (f"F{k}", "D"), f"{k}.down": ("D", f"F{k}")}
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
    return PermutationSpec.from_axes(axes, groups).bind(tensors), tensors  # type: ignore[arg-type]


def plan(ranks: int) -> Plan:
    spec, tensors = llama()
    return plan_of(spec, tensors, ranks=ranks, rates=Rates(read=1e9, written=1e9, operations=1e12))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_bytes_are_shared_out_and_groups_stay_together(ranks: int) -> None:
    whole, found = plan(1), plan(ranks).ranks
    assert whole.ranks is None
    assert found is not None
    assert found.ranks == ranks
    assert sum(found.read) == sum(whole.nbytes)
    assert max(found.read) < 1.4 * sum(whole.nbytes) / ranks
    assert sum(found.operations) == pytest.approx(whole.operations)
    # Of each layer the heads and the hidden units.
    assert found.groups_apart == 2 * LAYERS
    assert len({found.owner["3.up"], found.owner["3.down"]}) == 1
    # Partial gains of the stream alone: each rank but one sends one, in whole numbers of 8 bytes.
    assert found.traffic == sum(found.received) == (ranks - 1) * 8 * HIDDEN**2
    assert set(found.sent) == {0, 8 * HIDDEN**2}
    assert found.choices == sum(-(-16 * size // 3) for size in (HIDDEN, *[8] * LAYERS, *[UNITS] * LAYERS))
    assert found.seconds < 0.75 * whole.seconds


def test_ranks_beyond_the_parts_have_nothing_to_do() -> None:
    found = plan(64).ranks
    assert found is not None
    assert min(found.read) == 0
    assert min(found.operations) == 0


def test_a_group_of_several_parts_is_held_in_float64_as_well() -> None:
    groups = {group.name: group for group in plan(1).groups}
    assert groups["D"].parts > 20
    assert groups["F3"].parts == 1
    # A gain and a part of it of 4 bytes an entry, and a sum over parts of 8; and the operands' pieces.
    pieces = 2 * min(WORDS, max(COLUMNS, PIECE // HIDDEN)) * 4 * HIDDEN
    assert groups["D"].memory == 16 * HIDDEN**2 + pieces
    assert groups["F3"].memory < 4 * UNITS**2 + 2 * 512 * 4 * UNITS + 1


def test_few_ranks_have_a_line_each_and_many_have_three() -> None:
    few, many = str(plan(4)).splitlines(), str(plan(32)).splitlines()
    assert [line.split()[0] for line in few[-7:-3]] == ["0", "1", "2", "3"]
    assert [line.split()[0] for line in many[-6:-3]] == ["least", "mean", "most"]
    assert f"{2 * LAYERS} groups are solved where all their tensors are, 1 from partial gains" in "\n".join(many)
    assert "in a sweep over all groups 1.5 MiB of partial gains are sent" in "\n".join(few)
    assert many[-1].startswith("expected: ")


def test_other_names_of_a_tensor_are_no_work() -> None:
    spec, tensors = llama()
    whole = plan_of(spec, tensors)
    less = plan_of(spec, tensors, left_out=["head"])
    assert next(g for g in less.groups if g.name == "D").tensors == tuple(
        name for name in next(g for g in whole.groups if g.name == "D").tensors if name != "head"
    )


def test_the_command_prints_it_without_launching_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a = models.weights(0)
    for name in ("A", "B"):
        models.write_directory(tmp_path / name, a)
    models.spec().to_json("spec.json")
    done = CliRunner().invoke(cli, ["merge", "A", "B", "--spec", "spec.json", "--dry-run", "--ranks", "64"])
    assert done.exit_code == 0, done.output
    assert "on 64 ranks: 4 groups are solved where all their tensors are" in done.stdout
