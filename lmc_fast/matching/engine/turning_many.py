"""Several models of which groups turn, each in turn over the sum of the others, in one frame that is none's.

The objective is sum over pairs k < m of <g_k(theta_k), g_m(theta_m)>; with all other models held, it is that of weight
matching between their sum and model m (Ainsworth et al., "Git Re-Basin", ICLR 2023, algorithm 3).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..._progress import Progress, tracking
from ...symmetry import PermutationSpec
from ...symmetry.transforms import Choice, choice_for, moved
from .steps import Step
from .sums import squared_norm
from .turning import TurningDescent, is_still

__all__ = ["TurningMany"]


class TurningMany:
    """The state of one search over several models: what carries each into the common frame.

    Args:
        spec: bound.
        models: the tensors of each; read, never written.
        names: the parameters that count.
        starts: where each begins.
        device: where to compute.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        models: Sequence[Mapping[str, Tensor]],
        names: Sequence[str],
        starts: Sequence[Choice],
        device: torch.device,
    ) -> None:
        self.spec, self.names, self.device = spec, names, device
        self.models = [{name: model[name].to(device) for name in names} for model in models]
        self.elements = [{name: element.to(device) for name, element in start.items()} for start in starts]

    @property
    def choices(self) -> list[Choice]:
        """What carries each model into the common frame."""
        return [choice_for(self.spec, elements) for elements in self.elements]

    def run(self, max_sweeps: int, progress: Progress) -> tuple[list[Step], bool]:
        """Lay each model over the others until that gains next to nothing; the steps, and whether that was reached."""
        steps: list[Step] = []
        reached, still = self.objective(), False
        # Distances of all pairs together: each model is in as many as there are others.
        squares = (len(self.models) - 1) * sum(squared_norm(x) for model in self.models for x in model.values())
        with tracking(progress, "many models", max_sweeps) as advance:
            while not still and len(steps) < max_sweeps:
                began, step = time.perf_counter(), Step()
                for m in range(len(self.models)):
                    self._lay(m, step)
                step.seconds = time.perf_counter() - began
                steps.append(step)
                reached += step.gained
                still = is_still(step.gained, reached, squares)
                note = f"sweep {len(steps)}: {step.moved} units moved, objective {step.gained:+.4g}"
                advance(note, moved=step.moved, solved=step.solved, gained=step.gained)
        return steps, still

    def objective(self) -> float:
        """The sum over all pairs, in float64."""
        total = 0.0
        for name in self.names:
            laid = [self._moved(m, name) for m in range(len(self.models))]
            # Each pair once: half of what the square of the sum has beside the squares.
            squares = sum(float(x.square().sum()) for x in laid)
            total += (float(torch.stack(laid).sum(0).square().sum()) - squares) / 2
        return total

    def _lay(self, m: int, step: Step) -> None:
        """Put one model where it lies best over the sum of the others: one sweep over all of its groups."""
        others = [k for k in range(len(self.models)) if k != m]
        total = {name: torch.stack([self._moved(k, name) for k in others]).sum(0) for name in self.names}
        start = choice_for(self.spec, self.elements[m])
        descent = TurningDescent(
            self.spec, total, self.models[m], dict.fromkeys(self.names, 1.0), start, (), self.device
        )
        for root in descent.in_order():
            gained, count = descent.improve(root)
            step.solved += 1
            step.gained += gained
            step.moved += count
        self.elements[m] = descent.elements

    def _moved(self, m: int, name: str) -> Tensor:
        return moved(self.spec, name, self.models[m][name].double(), self.elements[m])
