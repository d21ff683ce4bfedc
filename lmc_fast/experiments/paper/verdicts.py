"""Comparisons over independent trials, and verdicts of them by Student's t.

A part of a verdict is a mean over trials, and a threshold that it must pass. Whether it does is Student's t-test of one
sample on one side, at `LEVEL`: with three trials the mean must lie 4.3 standard errors beyond, with five 2.8. A verdict
is good where every part is, which needs no correction for their number (Berger, "Multiparameter hypothesis testing and
acceptance sampling", Technometrics 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..._extras import require
from ...report.tables import Stat

__all__ = ["LEVEL", "Part", "Verdict"]

LEVEL = 0.025
# What is said of a part, by whether it and all others hold.
WORDS = {"yes": "holds", "open": "is not settled here", "no": "does not hold here"}


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        text: what is measured.
        stat: over the trials.
        threshold: which the mean must be above, or below.
        above: which of the two.
        why: where the threshold comes from.
    """

    text: str
    stat: Stat
    threshold: float
    above: bool = True
    why: str = "the paper tells which is larger"

    @property
    def right(self) -> bool:
        """Whether the mean is on the right side."""
        return self.stat.mean > self.threshold if self.above else self.stat.mean < self.threshold

    @property
    def p(self) -> float:
        """How likely a mean this far on the right side is by chance alone; nan for a single trial.

        Student's t-test of one sample, on one side (`scipy.stats.ttest_1samp`).
        """
        if self.stat.n == 1:
            return math.nan
        distance = (self.stat.mean - self.threshold) * (1 if self.above else -1)
        if self.stat.error == 0:
            return 0.0 if distance > 0 else 1.0
        # The distribution function alone: scipy.stats takes longer to import than verdicts to compute.
        return float(require("scipy.special", "demo").stdtr(self.stat.n - 1, -distance / self.stat.error))

    @property
    def holds(self) -> bool:
        """Whether chance alone would be rarer than `LEVEL`."""
        return self.p < LEVEL

    def __str__(self) -> str:
        side = "above" if self.above else "below"
        return f"{self.text}: {self.stat}, must be {side} {self.threshold:g} ({self.why}); {_chance(self.p)}"


def _chance(p: float) -> str:
    if math.isnan(p):
        return "one trial settles nothing"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


@dataclass(frozen=True)
class Verdict:
    """What came out for one network; `line` says it."""

    network: str
    parts: tuple[Part, ...]

    @property
    def state(self) -> str:
        """ "yes" where every part holds, "no" where a mean is on the wrong side, or else "open": too few trials."""
        if not self.parts or not all(part.right for part in self.parts):
            return "no"
        return "yes" if all(part.holds for part in self.parts) else "open"

    @property
    def holds(self) -> bool:
        """Whether every part does."""
        return self.state == "yes"

    @property
    def word(self) -> str:
        """The verdict in a word or few."""
        return WORDS[self.state]

    @property
    def detail(self) -> str:
        """That of the weakest part, and how many trials there were."""
        if not self.parts:
            return "nothing was measured"
        # A single trial's p is no number.
        weakest = max(self.parts, key=lambda part: (not part.right, 2.0 if math.isnan(part.p) else part.p))
        trials = "1 trial" if weakest.stat.n == 1 else f"{weakest.stat.n} trials"
        return f"weakest part {_chance(weakest.p)}, {trials}"

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.network}: {self.word} ({self.detail})"
