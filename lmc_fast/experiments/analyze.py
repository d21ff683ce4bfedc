"""`lmc-fast analyze`: singular values and vectors of any two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import check_new_folder, write_folder, write_text
from ..analysis import (
    DistanceDecomposition,
    SpectralAlignment,
    distance_decomposition,
    singular_factors,
    spectral_alignment,
)
from ..checkpoints.files import read_checkpoint
from ..matching import Matching, weight_matching
from ..report.colours import LAYERS, colour_of
from ..report.figures import Line, Panel, Series, intervals_figure, lines_figure, save_figure
from ..report.tables import Cell, Stat, Table
from ..symmetry import PermutationSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CheckpointAnalysis", "analyze_checkpoints"]

# Lines of one panel that can be told apart.
MOST_LINES = len(LAYERS)


@dataclass(frozen=True, eq=False)
class CheckpointAnalysis:
    """What is measured of two checkpoints; prints as a table.

    Attributes:
        before: R of a and b as they are.
        after: R of a and the permuted b; None without a matching.
        distances: by weight, after permuting where there is a matching.
        match: the matching that was given or found.
        folder: where tables and figures were written; None where they were not.
    """

    before: SpectralAlignment
    after: SpectralAlignment | None
    distances: DistanceDecomposition
    match: Matching | None
    folder: Path | None = None

    def table(self) -> Table:
        """One row a weight, and one for all."""
        aligned = [self.before] if self.after is None else [self.before, self.after]
        when = [""] if self.after is None else [" before", " after"]
        heads = ["weight", "rows", "columns", "L2 distance", *(["L2 after"] if self.after else []), "least"]
        heads += [f"R({gamma:g}){w}" for gamma in self.before.gammas for w in when]
        layers = {layer.name: layer for layer in self.distances.layers}
        rows: list[tuple[Cell, ...]] = []
        for i, layer in enumerate(self.before.layers):
            distance = layers[layer.name]
            lengths = [distance.before, *([distance.after] if self.after else []), distance.bound]
            r = [found.layers[i].r[g] for g in range(len(self.before.gammas)) for found in aligned]
            rows.append((layer.name, *layer.shape, *lengths, *r))
        overall = self.distances.overall
        lengths = [overall.before, *([overall.after] if self.after else []), overall.bound]
        r = [found.overall[g] for g in range(len(self.before.gammas)) for found in aligned]
        rows.append(("over all", "", "", *lengths, *r))
        return Table("alignment", "R and distances by weight", tuple(heads), tuple(rows))

    def text(self, width: int | None = None) -> str:
        """The matching and the table, for a terminal of so many columns; None: as wide as they are."""
        table = self.table().text(width)
        return table if self.match is None else f"{self.match}\n{table}"

    def __str__(self) -> str:
        return self.text()


def analyze_checkpoints(
    model_a: Path,
    model_b: Path,
    *,
    match: Path | None = None,
    spec: Path | None = None,
    gamma: float = 0.3,
    out: Path | None = None,
    key: str | None = None,
) -> CheckpointAnalysis:
    """Compare two checkpoints' weights by their singular values and vectors.

    Args:
        model_a, model_b: safetensors files, or torch files of tensors only.
        match: a file of `Matching.save` for model b.
        spec: a spec (JSON), by which b is matched by weights first; not together with `match`.
        gamma: threshold of R, beside 0.
        out: folder for ``alignment.csv``, ``singular-values.csv`` and figures; must not exist.
        key: of the state dict in the torch files, as for `load_checkpoint`.

    Raises:
        FileNotFoundError: a file that is not there.
        FileExistsError: `out` exists.
        ValueError: damaged files, models of different shapes, or both of `match` and `spec`.
        ImportError: an optional package is missing; the message names the extra.
    """
    if match is not None and spec is not None:
        raise ValueError("match and spec must not be given together: a matching brings its spec")
    if out is not None:
        check_new_folder(out)
    tensors_a, tensors_b = (read_checkpoint(path, key=key).tensors for path in (model_a, model_b))
    found = None
    if match is not None:
        found = Matching.load(match)
    elif spec is not None:
        found = weight_matching(tensors_a, tensors_b, PermutationSpec.from_json(spec))
    known = None if found is None else found.choice.spec
    a, b = (singular_factors(tensors, spec=known) for tensors in (tensors_a, tensors_b))
    gammas = (0.0, gamma) if gamma else (0.0,)
    analysis = CheckpointAnalysis(
        before=spectral_alignment(a, b, gammas=gammas),
        after=None if found is None else spectral_alignment(a, b, found, gammas=gammas),
        distances=distance_decomposition(a, b, found),
        match=found,
    )
    if out is None:
        return analysis
    values = {name: [of[name].s.double().tolist() for of in (a, b)] for name in a}
    return replace(analysis, folder=_write(out, analysis, values))


def _write(out: Path, analysis: CheckpointAnalysis, values: dict[str, list[list[float]]]) -> Path:
    """Write tables and figures; return the folder that they are in."""
    rows: list[tuple[Cell, ...]] = [
        (name, rank, *pair)
        for name, both in values.items()
        for rank, pair in enumerate(zip(*both, strict=True), start=1)
    ]
    spectra = Table("singular-values", "Singular values", ("weight", "rank", "a", "b"), tuple(rows))
    names = sorted(sorted(values, key=lambda name: -len(values[name][0]))[:MOST_LINES], key=list(values).index)
    lines = [
        Line(f"{name}, {model}", range(1, len(s) + 1), s, style=style, colour=LAYERS[place])
        for place, name in enumerate(names)
        for model, style, s in zip("ab", ("-", ":"), values[name], strict=True)
    ]
    panel = Panel("", "rank", "singular value", lines, x_scale="log")

    def fill(aside: Path) -> None:
        for table in (analysis.table(), spectra):
            write_text(aside / f"{table.name}.csv", table.csv())
        save_figure(lines_figure([panel], height=4.5), aside, "singular-values")
        save_figure(_alignment_figure(analysis), aside, "alignment")

    return write_folder(out, fill)


def _alignment_figure(analysis: CheckpointAnalysis) -> Figure:
    last = len(analysis.before.gammas) - 1
    shown = {"as they are": analysis.before}
    if analysis.after is not None:
        shown["b permuted"] = analysis.after
    series = [
        Series(label, [Stat.of([layer.r[last]]) for layer in found.layers], colour_of(label))
        for label, found in shown.items()
    ]
    groups = [layer.name for layer in analysis.before.layers]
    return intervals_figure(groups, series, f"R({analysis.before.gammas[last]:g})")
