"""What there is by hand is counted as it is written, and compared with what is found."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import architectures
from benchmarks.run import main
from benchmarks.zoo import MODELS, Hand, Known, free, owning
from benchmarks.zoo.torchvision_models import shuffled


def log10_orders(*sizes: int) -> float:
    return sum(math.log10(math.factorial(size)) for size in sizes)


@pytest.mark.parametrize(
    ("hand", "groups", "owned", "units", "orders", "text"),
    [
        pytest.param(free(), 0, 0, 0, (), "", id="nothing"),
        pytest.param(free(5, 1), 1, 0, 5, (5,), "5", id="one unit is no group"),
        pytest.param(2 * free(5, 3), 4, 0, 16, (5, 5, 3, 3), "2 * (5 + 3)", id="twice"),
        pytest.param(1 * free(5, 3), 2, 0, 8, (5, 3), "5 + 3", id="once"),
        pytest.param(owning(3, 4, 2), 3, 2, 3 + 12 + 6, (3, *(4,) * 3, *(2,) * 3), "3[4, 2]", id="owned"),
        pytest.param(owning(1, 4, 2), 2, 0, 6, (4, 2), "4 + 2", id="an owner of one"),
        pytest.param(
            owning(2, owning(3, 4)), 3, 2, 2 + 6 + 24, (2, *(3,) * 2, *(4,) * 6), "2[3[4]]", id="owned by what is owned"
        ),
        pytest.param(
            free(7) + 2 * (owning(2, 3) + free(9)),
            7,
            2,
            41,
            (7, *(2,) * 2, *(3,) * 4, 9, 9),
            "7 + 2 * (2[3] + 9)",
            id="a stream and layers",
        ),
    ],
)
def test_groups_units_and_orders_are_counted(
    hand: Hand, groups: int, owned: int, units: int, orders: tuple[int, ...], text: str
) -> None:
    assert (hand.groups, hand.owned, hand.units, hand.text) == (groups, owned, units, text)
    assert hand.log10 == pytest.approx(log10_orders(*orders))


def test_channels_that_are_shuffled_are_told_by_where_they_go() -> None:
    # One unit: both branches' channels go into what follows. Two units of 8: of the first one's two branches the first
    # two channels each pass by, the others go through the second branch.
    assert shuffled(3, ((8, 1),), 5).text == "3 + 4 + 4 + 4 + 5"
    assert shuffled(3, ((8, 2),), 5).text == "3 + 2 * 4 + 2 + 2 + 2 + 2 + 4 + 5"


def test_every_model_is_counted_by_hand() -> None:
    counted = [known.hand.groups for models in MODELS.values() for known in models.values()]
    assert min(counted) > 0 and len(counted) >= 71


def known(hand: Hand, why: str = "") -> Known:
    def make() -> tuple[nn.Module, Any]:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)

    return Known(make, hand, why)


@pytest.mark.parametrize(
    ("of", "status"),
    [
        pytest.param(known(free(6)), "ok", id="all"),
        pytest.param(known(free(6, 5)), "fewer than by hand", id="fewer"),
        pytest.param(known(free(6, 5), "as it is"), "ok", id="fewer for a reason"),
        pytest.param(known(free(6), "as it is"), "all found, with a reason why not", id="a reason for nothing"),
        pytest.param(known(free(5)), "more than by hand", id="more"),
        pytest.param(known(owning(2, 3)), "more than by hand", id="more by fewer groups"),
    ],
)
def test_what_is_found_is_compared_with_what_there_is(of: Known, status: str) -> None:
    row = architectures.row_of(of)
    assert (row["status"], row["groups"], row["precision"]) == (status, 1, "float64")
    assert row["error"] < architectures.MOST_ERROR and row["log10_permutations"] == pytest.approx(log10_orders(6))


def broken() -> tuple[nn.Module, Any]:
    return nn.Linear(4, 6), torch.randn(5, 3)


def test_a_model_that_cannot_be_traced_is_a_row_that_says_so() -> None:
    assert architectures.row_of(Known(broken, free(6)))["status"].startswith("not traced: ")


@pytest.mark.parametrize(("make", "code"), [(lambda: known(free(6)), 0), (lambda: known(free(7, 6)), 1)])
def test_rows_are_written_and_kept(
    make: Callable[[], Known], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "torch", {"one": make(), "two": make()})
    monkeypatch.setitem(MODELS, "no such package", {"three": make()})
    arguments = ["architectures", "--only", "one", "--out", str(tmp_path), "--packages", "torch"]
    assert main(arguments) == main([*arguments, "--append"]) == code
    with (tmp_path / "architectures.csv").open(encoding="utf-8") as held:
        rows = list(csv.DictReader(held))
    assert [(row["model"], row["by_hand"], row["analysis"]) for row in rows] == 2 * [
        ("one", str(make().hand.groups), make().hand.text)
    ]
    # A package that is not there is told of, and no error.
    assert main(["architectures", "--out", str(tmp_path), "--packages", "no such package"]) == 0
