"""What a spec with rotations says of norms: which gains go into which linear maps, and whose means may be taken out."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._checks import check_finite, check_int, check_type, fail_type

__all__ = ["Centre", "Fold", "Reader", "checked_folds", "folds_from_json", "folds_to_json", "names_of", "renamed"]


@dataclass(frozen=True)
class Reader:
    """A linear map that sums over what a norm gives.

    Of a layer's scale, which multiplies what one linear map writes, the readers are that map's weight and bias: `axis`
    is then the dimension that is written.

    Attributes:
        parameter: its weight.
        axis: the dimension of the weight that is summed over.
        bias: what is added to the sums, None where there is nothing.
        offset, outer, inner: where the norm's n units lie on that axis: from `offset` on, as a view (outer, n, inner).
        tied: the other name of the weight where it is tied to one that is used elsewhere, as embeddings are: the
            pure form has two tensors.
    """

    parameter: str
    axis: int
    bias: str | None = None
    offset: int = 0
    outer: int = 1
    inner: int = 1
    tied: str | None = None

    def __post_init__(self) -> None:
        check_type("Reader.parameter", self.parameter, str, "a parameter's name")
        for name, least in (("axis", 0), ("offset", 0), ("outer", 1), ("inner", 1)):
            check_int(f"Reader.{name} of {self.parameter!r}", getattr(self, name), least)
        for name in ("bias", "tied"):
            if getattr(self, name) is not None:
                check_type(
                    f"Reader.{name} of {self.parameter!r}", getattr(self, name), str, "a parameter's name or None"
                )


@dataclass(frozen=True)
class Fold:
    """A norm whose gain goes into the linear maps that read it.

    A norm gives g * x + c with a gain g and a bias c. A reader's sum W (g * x + c) + b is (W g) x + (b + W c): with the
    gain in the weight, and the bias in the reader's, the norm has neither. Where a reader has no bias, the norm keeps
    its own, divided by the gain, and that turns with the norm's units.

    Attributes:
        weight: the norm's gain, [n].
        readers: all that reads the norm.
        bias: the norm's bias, [n], None where it has none.
        keeps_bias: whether the bias stays, as c / g.
        neutral: the weight of a gain of 1: norms with a gain of 1 + weight have 0.
    """

    weight: str
    readers: tuple[Reader, ...]
    bias: str | None = None
    keeps_bias: bool = False
    neutral: float = 1.0

    def __post_init__(self) -> None:
        check_type("Fold.weight", self.weight, str, "a parameter's name")
        if not isinstance(self.readers, (tuple, list)) or not self.readers:
            fail_type(f"Fold.readers of {self.weight!r}", "Readers, one at least", self.readers)
        object.__setattr__(self, "readers", tuple(self.readers))
        for reader in self.readers:
            check_type(f"Fold.readers of {self.weight!r}", reader, Reader, "Readers")
        if self.bias is not None:
            check_type(f"Fold.bias of {self.weight!r}", self.bias, str, "a parameter's name or None")
        check_type(f"Fold.keeps_bias of {self.weight!r}", self.keeps_bias, bool, "True or False")
        object.__setattr__(self, "neutral", float(check_finite(f"Fold.neutral of {self.weight!r}", self.neutral)))
        if self.bias is not None and not self.keeps_bias:
            without = next((reader.parameter for reader in self.readers if reader.bias is None), None)
            if without is not None:
                raise ValueError(
                    f"the bias of norm {self.weight!r} cannot go into {without!r}, which has none: keeps_bias=True"
                )

    @property
    def is_untying(self) -> bool:
        """Whether weights that are tied are two in pure form."""
        return any(reader.tied is not None for reader in self.readers)


@dataclass(frozen=True)
class Centre:
    """A parameter that writes to what LayerNorms alone read: they take its mean out, and so may be done beforehand.

    Attributes:
        parameter: the weight, bias, embedding or position.
        axis: the dimension that it writes along.
    """

    parameter: str
    axis: int

    def __post_init__(self) -> None:
        check_type("Centre.parameter", self.parameter, str, "a parameter's name")
        check_int(f"Centre.axis of {self.parameter!r}", self.axis, 0)


def checked_folds(folds: object) -> tuple[Fold | Centre, ...]:
    """Folds as a tuple; TypeError if they are none, ValueError if a norm stands twice."""
    if isinstance(folds, (Fold, Centre)) or not isinstance(folds, Iterable):
        fail_type("folds", "a sequence of Folds and Centres", folds)
    found = tuple(folds)
    seen: set[str] = set()
    for each in found:
        check_type("folds", each, (Fold, Centre), "a sequence of Folds and Centres")
        if isinstance(each, Fold):
            if each.weight in seen:
                raise ValueError(f"folds must name each norm once, got {each.weight!r} twice")
            seen.add(each.weight)
    return found


def names_of(fold: Fold | Centre, known: Container[str] = ()) -> list[str]:
    """The parameters that a fold names.

    Args:
        known: names of a model's parameters. A reader that is not among them goes by the name that it is tied to, as
            in files, which hold tied weights once.
    """
    if isinstance(fold, Centre):
        return [fold.parameter]
    several = [fold.weight, fold.bias]
    for reader in fold.readers:
        is_there = reader.tied is None or reader.parameter in known
        several += [reader.parameter if is_there else reader.tied, reader.bias]
    return [name for name in several if name is not None]


def renamed(fold: Fold | Centre, called: Callable[[str], str]) -> Fold | Centre:
    """A fold with other names for its parameters."""

    def other(name: str | None) -> str | None:
        return None if name is None else called(name)

    if isinstance(fold, Centre):
        return replace(fold, parameter=called(fold.parameter))
    readers = tuple(
        replace(each, parameter=called(each.parameter), bias=other(each.bias), tied=other(each.tied))
        for each in fold.readers
    )
    return replace(fold, weight=called(fold.weight), bias=other(fold.bias), readers=readers)


_DEFAULTS = {"bias": None, "offset": 0, "outer": 1, "inner": 1, "tied": None}


def folds_to_json(folds: Iterable[Fold | Centre]) -> list[dict[str, Any]]:
    """Folds as plain data for json.dumps."""
    return [_fold_to_json(fold) for fold in folds]


def _fold_to_json(fold: Fold | Centre) -> dict[str, Any]:
    if isinstance(fold, Centre):
        return {"centre": fold.parameter, "axis": fold.axis}
    readers = [
        {
            "parameter": reader.parameter,
            "axis": reader.axis,
            **{name: getattr(reader, name) for name, value in _DEFAULTS.items() if getattr(reader, name) != value},
        }
        for reader in fold.readers
    ]
    bias = {} if fold.bias is None else {"bias": fold.bias, "keeps_bias": fold.keeps_bias}
    neutral = {} if fold.neutral == 1.0 else {"neutral": fold.neutral}
    return {"norm": fold.weight, **bias, **neutral, "readers": readers}


def folds_from_json(data: object) -> tuple[Fold | Centre, ...]:
    """Folds from plain data; ValueError says which is wrong."""
    if not isinstance(data, list):
        raise ValueError("spec: must hold a list under 'folds', if anything")
    found: list[Fold | Centre] = []
    for position, entry in enumerate(data):
        try:
            found.append(_fold_from_json(entry))
        except (TypeError, ValueError) as error:
            raise ValueError(f"spec: folds[{position}]: {error}") from None
    return tuple(found)


def _fold_from_json(entry: Any) -> Fold | Centre:
    if isinstance(entry, Mapping) and set(entry) == {"centre", "axis"}:
        return Centre(entry["centre"], entry["axis"])
    known = {"norm", "readers", "bias", "keeps_bias", "neutral"}
    if not isinstance(entry, Mapping) or not {"norm", "readers"} <= set(entry) <= known:
        raise ValueError("must be {norm, readers} with bias, keeps_bias and neutral if need be, or {centre, axis}")
    readers = []
    for each in entry["readers"] if isinstance(entry["readers"], list) else [None]:
        if not isinstance(each, Mapping) or not {"parameter", "axis"} <= set(each) <= {"parameter", "axis", *_DEFAULTS}:
            raise ValueError("readers must be a list of {parameter, axis} with bias, offset, outer, inner and tied")
        readers.append(Reader(**each))
    more = {name: entry[name] for name in ("bias", "keeps_bias", "neutral") if name in entry}
    return Fold(entry["norm"], tuple(readers), **more)
