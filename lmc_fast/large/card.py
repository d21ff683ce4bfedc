"""The model card of a merged checkpoint: what was done, of what, with which versions. Same run, same text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._version import __version__
from ..matching import Matching
from .inputs import Input

__all__ = ["card_of"]


def card_of(
    inputs: Sequence[Input],
    weights: Sequence[float],
    matches: Sequence[Matching | None],
    *,
    title: str,
    what: str,
    options: Sequence[str] = (),
) -> str:
    """The text of README.md.

    Args:
        inputs: the models.
        weights: of each in the sum.
        matches: what brought each onto the first; None where it stayed.
        title: first line.
        what: a sentence on what was done.
        options: lines on what was chosen.
    """
    lines = ["---", "tags:", "- merge", "- lmc_fast", "base_model:"]
    lines += [f"- {_quoted(each.path.name)}" for each in inputs]
    lines += ["---", "", f"# {title}", "", what, "", "| model | weight | units moved | L2 distance to the first |"]
    lines += ["| --- | --- | --- | --- |"]
    for each, weight, match in zip(inputs, weights, matches, strict=True):
        moved, distance = "-", "-"
        if match is not None:
            moved = f"{match.choice.moved} of {match.choice.total}"
            distance = f"{match.l2_before:.6g} -> {match.l2_after:.6g}"
        lines.append(f"| {each.path.name} | {weight:g} | {moved} | {distance} |")
    lines += ["", *(f"- {option}" for option in options)]
    lines += [
        f"- made with lmc_fast {__version__}, torch {torch.__version__}",
        "- checksums of all files are in SHA256SUMS (`sha256sum -c SHA256SUMS`)",
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
