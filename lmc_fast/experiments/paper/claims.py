"""The claims of Ito, Yamada, Kumagai (ICLR 2025), what the paper says of each, and the comparisons that it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import comparisons, transformers
from .results import Results, Trials
from .verdicts import Part, Verdict

__all__ = ["BEYOND", "CLAIMS", "Claim", "judge"]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: in the package's list of claims.
        title, statement: what it says.
        paper: what the paper says of it, in short.
        where: in the paper.
        parts: gives the comparisons for one network; for a claim about sweeps `networks` is False.
        why: on what the claim hangs, for a reader whose numbers do not show it.
        remark: says more from the numbers, whatever the verdict; empty where there is nothing to say.
    """

    number: int
    title: str
    statement: str
    paper: str
    where: str
    parts: Callable[[Results, Trials], list[Part]]
    why: str
    networks: bool = True
    remark: Callable[[Results], str] = lambda results: ""


def judge(results: Results) -> dict[int, list[Verdict]]:
    """The verdicts by number of the claim; the sweeps are of the first network."""
    found = {}
    for claim in CLAIMS:
        asked = results.networks if claim.networks else results.networks[:1]
        found[claim.number] = [Verdict(trials.name, tuple(claim.parts(results, trials))) for trials in asked]
    if results.transformers is not None:
        parts = tuple(BEYOND.parts(results, results.transformers))
        found[BEYOND.number] = [Verdict(results.transformers.name, parts)]
    return found


CLAIMS = (
    Claim(
        1,
        "The barrier goes, the distance stays",
        "Weight matching (WM) takes away nearly the whole loss barrier, and yet little of the L2 distance.",
        "Permutations that weight matching finds shorten the L2 distance between two models by little, 6 to 20 % over "
        "the data sets and networks there, while the barrier goes: that the models come nearer is not why.",
        "Ito et al., section 3, table 1",
        comparisons.barrier_without_distance,
        "How much of the barrier is left hangs on width and training (claim 9): narrow or briefly trained networks "
        "keep more of it. With BatchNorm it falls only where statistics are measured again at every point.",
    ),
    Claim(
        2,
        "A second-order picture does not explain it",
        "The Taylor estimate from both ends does not account for the barrier that goes.",
        "If matching brought the models near enough, a second-order expansion around both would tell the barrier. "
        "What it tells is not what is measured: after matching they are still too far apart for it.",
        "Ito et al., section 3.2, table 1",
        comparisons.second_order_falls_short,
        "Where models are small in number of weights or strongly regularised, the permuted ends come close enough for "
        "the expansion to be right to a fraction of the barrier that is left, or barriers differ so much between "
        "pairs that an estimate is no worse than these.",
    ),
    Claim(
        3,
        "Singular values are nearly equal",
        "Models trained apart have nearly the same singular values layer by layer; permutations leave them unchanged.",
        "A permutation turns singular vectors and leaves the singular values of every weight as they are. Those of "
        "models trained apart are almost equal already, so that only directions are left to match.",
        "Ito et al., section 4.2, figure 1",
        comparisons.equal_singular_values,
        "In a narrow layer, or one that few steps have moved from its random start, values are few and scatter more; "
        "the threshold is on the worst layer.",
    ),
    Claim(
        4,
        "Matching aligns the large singular values",
        "Weight matching raises R, and more over large singular values than over all.",
        "To minimise the distance is to maximise the products of singular vectors weighted by both singular values, "
        "so that the vectors of large values are matched first: R is about 0 before, and larger at 0.3 than at 0 "
        "after it.",
        "Ito et al., theorem 4.1, figures 2 and 3",
        comparisons.large_values_first,
        "The difference comes from layers with a few dominant values. Where all values are of one size, both "
        "thresholds take in the same vectors.",
    ),
    Claim(
        5,
        "The merged model keeps the originals' directions",
        "The merged model is closer in R to both originals after weight matching.",
        "With singular vectors of large values turned onto each other, those of the merged model lie nearer to those "
        "of both originals, whose function it keeps by that.",
        "Ito et al., section 4 and figure 15",
        comparisons.merged_is_closer,
        "The mean of two models shares half of each in any case, so that R with an original starts well above 0.",
    ),
    Claim(
        6,
        "Inputs lie along large singular values",
        "Inputs of hidden layers point along the right singular vectors with large singular values.",
        "What a layer is given lies mostly along right singular vectors of large values, so that these decide what it "
        "puts out: when they are matched, outputs are near each other.",
        "Ito et al., theorem 4.2, figure 4",
        comparisons.inputs_along_large_values,
        "Activations behind a ReLU have a large mean, which any one vector may carry; in convolutions every patch of "
        "a map counts, its empty background too.",
    ),
    Claim(
        7,
        "Activation matching does the same",
        "Activation matching (AM) raises R as weight matching does.",
        "Activation matching leads to much the same R as weight matching, and likely works by the same principle.",
        "Ito et al., section 5",
        comparisons.activations_do_the_same,
        "Units that few examples wake correlate by chance, and are placed by chance: with little data activation "
        "matching raises R by less.",
    ),
    Claim(
        8,
        "Straight-through estimation differs",
        "The straight-through estimator (STE) finds as low a barrier between two models with less alignment, and "
        "leaves more of one between two models that were brought to a third.",
        "The straight-through estimator finds permutations of a low barrier that leave R about where it was. Of three "
        "models, two of which are brought to the third, weight matching leaves the smaller barrier between these two.",
        "Ito et al., sections 6.2 and 6.3, table 4",
        comparisons.straight_through_differs,
        "STE projects by weight matching in every step, so that R rises with it too; what it leaves between b and c "
        "hangs on its start and on how far its steps lead away from weight matching's solution.",
        remark=comparisons.searches_below_weight_matching,
    ),
    Claim(
        9,
        "Width, weight decay and learning rate matter",
        "Wider and more regularised models, and those of a larger learning rate, match better.",
        "Wider models, and those trained with larger weight decay and learning rate, are joined more easily.",
        "Ito et al., section 4 and its appendix; of width Ainsworth et al., section 5",
        comparisons.training_matters,
        "The ends of a sweep are compared. Barriers are differences of losses, so that a setting with higher losses "
        "at its ends has larger ones; and on a small data set every setting may already match nearly without one.",
        networks=False,
    ),
)

BEYOND = Claim(
    10,
    "Transformers: rotations, and not distance",
    "Permutations leave transformers apart. Rotations of the residual stream and of heads, learned by the loss on the "
    "line, join them, raise R, and do not leave the weights nearest to each other.",
    "The paper has no transformers: this carries its thought on. Where nothing acts on a stream entry by entry, a "
    "rotation leaves the function as it is and turns singular vectors as no permutation can. Theus et al. find low "
    "barriers by such maps.",
    "Theus et al. (NeurIPS 2025), of rotations; Ito et al., section 4, of singular vectors",
    transformers.rotations,
    "Learning takes steps and data: with few of either it leaves more of a barrier.",
    remark=lambda results: "" if results.transformers is None else transformers.remark(results, results.transformers),
)
