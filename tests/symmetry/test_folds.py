"""What specs say of norms: written, read, bound, edited; and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmc_fast import PermutationSpec
from lmc_fast.symmetry import Centre, Fold, Reader

from .turning import Decoder, spec_of

AXES: dict[str, tuple[str | None, ...]] = {"n": (None,), "c": (None,), "w": (None, "u"), "b": (None,), "e": (None, "u")}
EVERY = (
    Fold("n", (Reader("w", 1, "b", 2, 3, 4, "e"), Reader("e", 1, "b")), "c", False, 0.0),
    Centre("e", 1),
)


def spec_with(*folds: Any) -> PermutationSpec:
    return PermutationSpec.from_axes(AXES, folds=folds)


@pytest.mark.parametrize(
    "folds",
    [EVERY, (Fold("n", (Reader("w", 1),)),), (Fold("n", (Reader("w", 1),), "c", True),)],
    ids=["every field", "least", "keeps its bias"],
)
def test_folds_are_written_and_read(folds: tuple[Fold | Centre, ...]) -> None:
    spec = spec_with(*folds)
    again = PermutationSpec.from_json(spec.to_json())
    assert again == spec
    assert again.folds == folds
    assert hash(again) == hash(spec)
    assert spec != spec_with()
    assert "folds" not in spec_with().to_json()


def test_folds_stay_where_a_spec_is_bound_edited_or_told() -> None:
    model = Decoder()
    spec = spec_of(model)
    assert len([fold for fold in spec.folds if isinstance(fold, Fold)]) == 5
    assert spec.bind(model.state_dict()).folds == spec.folds
    assert spec.edit(pin=["value0", "unit1"], rename={"stream": "s"}).folds == spec.folds
    assert spec.with_origin(None).folds == spec.folds


def test_names_of_wrappers_are_met() -> None:
    model = Decoder(tied=True)
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    folds = spec_of(model, tied=True).bind(wrapped).folds
    last = next(fold for fold in folds if isinstance(fold, Fold) and fold.weight == "module.norm.weight")
    assert last.bias == "module.norm.bias"
    assert last.readers == (Reader("module.head.weight", 1, tied="module.embed.weight"),)
    assert Centre("module.places", 1) in folds


def test_a_tied_reader_may_be_missing() -> None:
    spec = PermutationSpec.from_axes(
        {"n": (None,), "e": (None, "u")}, folds=[Fold("n", (Reader("head", 1, tied="e"),))]
    )
    assert spec.folds[0].readers[0].tied == "e"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ([Fold("x", (Reader("w", 1),))], "must name parameters of the spec, got 'x'"),
        ([Fold("n", (Reader("w", 1, "x"),))], "got 'x'"),
        ([Centre("x", 0)], "got 'x'"),
        ([Fold("n", (Reader("w", 1),)), Fold("n", (Reader("e", 1),))], "each norm once, got 'n' twice"),
        ([Fold("e", (Reader("w", 1),))], "axis 0 of 'e' must be fixed"),
    ],
)
def test_folds_that_do_not_fit_the_spec_are_refused(folds: list[Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spec_with(*folds)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Reader("w", -1), ValueError, "Reader.axis of 'w'"),
        (lambda: Reader("w", 1, inner=0), ValueError, "Reader.inner of 'w'"),
        (lambda: Reader("w", 1, 3), TypeError, "Reader.bias of 'w'"),  # type: ignore[arg-type]
        (lambda: Reader("w", 1, tied=3), TypeError, "Reader.tied of 'w'"),  # type: ignore[arg-type]
        (lambda: Reader(3, 1), TypeError, "Reader.parameter"),  # type: ignore[arg-type]
        (lambda: Fold("n", ()), TypeError, "Fold.readers of 'n'"),
        (lambda: Fold("n", ("w",)), TypeError, "Fold.readers of 'n'"),  # type: ignore[arg-type]
        (lambda: Fold("n", (Reader("w", 1),), "c"), ValueError, "cannot go into 'w', which has none"),
        (lambda: Fold("n", (Reader("w", 1),), 3), TypeError, "Fold.bias of 'n'"),  # type: ignore[arg-type]
        (lambda: Fold("n", (Reader("w", 1),), keeps_bias=1), TypeError, "Fold.keeps_bias"),  # type: ignore[arg-type]
        (lambda: Fold("n", (Reader("w", 1),), neutral=float("nan")), ValueError, "Fold.neutral"),
        (lambda: Centre("w", -2), ValueError, "Centre.axis of 'w'"),
        (lambda: Centre(None, 0), TypeError, "Centre.parameter"),  # type: ignore[arg-type]
        (lambda: spec_with("n"), TypeError, "folds"),
        (lambda: PermutationSpec.from_axes(AXES, folds=EVERY[0]), TypeError, "folds"),  # type: ignore[arg-type]
    ],
)
def test_wrong_folds_name_what_is_wrong(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ({}, "a list under 'folds'"),
        ([{"norm": "n"}], r"folds\[0\]: must be"),
        ([{"centre": "e", "axis": 1}, {"norm": "n", "readers": 3}], r"folds\[1\]: readers must be"),
        ([{"norm": "n", "readers": [{"parameter": "w", "axis": 1, "more": 2}]}], r"folds\[0\]: readers must be"),
        ([{"norm": "n", "readers": [{"parameter": "w", "axis": "1"}]}], r"folds\[0\]: Reader.axis"),
        ([{"centre": "x", "axis": 1}], "got 'x'"),
    ],
)
def test_texts_with_wrong_folds_say_where(folds: Any, says: str) -> None:
    data = json.loads(spec_with().to_json())
    data["folds"] = folds
    with pytest.raises(ValueError, match=says):
        PermutationSpec.from_json(json.dumps(data))


def test_parameters_of_folds_are_told() -> None:
    assert EVERY[0].is_untying  # type: ignore[union-attr]
    assert not Fold("n", (Reader("w", 1),)).is_untying
