"""The ways in which transformers are laid over each other that experiments compare, from nothing to learned turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .._progress import Progress
from ..matching import Matching, activation_matching, learned_matching, weight_matching
from ..symmetry import PermutationSpec, derive_spec, fold_norms, verify_spec, with_signs
from .datasets import Batches, Dataset, Shifted
from .transformers import mean_loss

__all__ = ["WAYS", "Setting", "held_out", "laid_over", "with_heads_permuted"]

WAYS = (
    "nothing",
    "permutations, weights",
    "permutations, activations",
    "stream turned, weights",
    "stream turned, activations",
    "heads turned too, activations",
    "learned",
)


@dataclass(frozen=True)
class Setting:
    """What matching may look at.

    Attributes:
        data: its training part is what is learned from and watched.
        judging: batches that no model was trained on and that are none of the test part's.
        batch: examples of a step of learning.
        learning: more options of `learned_matching`.
        shifts: pixels by which images of a step of learning are moved at most, drawn anew every pass.
        specs: what may be moved in models of one recipe, by what may: found and verified when first asked for.
    """

    data: Dataset
    judging: Iterable[Any]
    batch: int = 128
    learning: dict[str, Any] = field(default_factory=dict)
    shifts: int = 0
    specs: dict[str, PermutationSpec] = field(default_factory=dict)

    def spec(self, way: str, model: nn.Module) -> PermutationSpec:
        """What a way moves in a model."""
        name = way.split(",")[0]
        name = name if name in ("permutations", "stream turned") else "all that turns"
        if name not in self.specs:
            inputs = self.data.train_inputs[:2]
            if name == "stream turned":
                found = with_heads_permuted(self.spec("learned", model))
                verify_spec(model, found, inputs)
            else:
                found = derive_spec(model, inputs, rotations=name != "permutations")
                if name == "all that turns":
                    found = with_signs(model, found, inputs)
            self.specs[name] = found
        return self.specs[name]

    @property
    def training(self) -> Batches | Shifted:
        """The training part in batches of learning, in an order drawn once: neighbours in a text are alike."""
        inputs, targets = self.data.train_inputs, self.data.train_targets
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        batches = Batches(inputs[order], targets[order], self.batch)
        return Shifted(batches, self.shifts) if self.shifts else batches

    @property
    def options(self) -> dict[str, Any]:
        """Options of learning, for two models and for several."""
        return {"loss_fn": mean_loss, "validation": self.judging, **self.learning}


def held_out(data: Dataset, examples: int) -> tuple[Dataset, Batches]:
    """The data set without the last examples of its training part, and these."""
    kept = len(data.train_inputs) - examples
    shorter = replace(data, train_inputs=data.train_inputs[:kept], train_targets=data.train_targets[:kept])
    return shorter, Batches(data.train_inputs[kept:], data.train_targets[kept:], 256)


def laid_over(
    way: str, model_a: nn.Module, model_b: nn.Module, setting: Setting, progress: Progress = False
) -> tuple[nn.Module, nn.Module, Matching | None]:
    """Two models of `transformers`, as a way takes them: as trained or in pure form, the second moved; and how it is
    moved, None where it is not.

    Args:
        way: of `WAYS`.
        progress: of learning.
    """
    if way == "nothing":
        return model_a, model_b, None
    a, b, spec = model_a, model_b, setting.spec(way, model_a)
    if spec.folds:
        a, b = fold_norms(a, spec), fold_norms(b, spec)
    if way.endswith("weights"):
        match = weight_matching(a, b, spec)
    elif way.endswith("activations"):
        match = activation_matching(a, b, setting.data.statistics_batches(), spec)
    else:
        match = learned_matching(a, b, setting.training, spec, progress=progress, **setting.options)
    return a, match.apply(b), match


def with_heads_permuted(spec: PermutationSpec) -> PermutationSpec:
    """The spec with what turns inside of heads permuted alone.

    Planes of rotary embedding, whose order tells their frequency, turn all the same, and units keep their signs.
    """
    groups = {
        name: replace(group, kind="permutation") if group.kind == "orthogonal" and group.owner is not None else group
        for name, group in spec.groups.items()
    }
    return PermutationSpec(groups, spec.axes, spec.unsaved, spec.folds)
