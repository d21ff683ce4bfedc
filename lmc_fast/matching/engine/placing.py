"""Groups of discrete kinds that follow the loss while others turn, straight through the choice of their elements.

A hat is a free copy of the moved model. It goes down the gradient that the loss has by the model itself, as if nothing
had been chosen, and groups are where the model lies nearest to it (Bengio et al., "Estimating or propagating gradients
through stochastic neurons", 2013; for permutations: Ainsworth et al., "Git Re-Basin", ICLR 2023, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from ...symmetry import PermutationSpec
from ...symmetry.kinds import KINDS
from ...symmetry.views import Leaf
from .elements import best_elements
from .layout import Layout
from .turned_gains import TurnedGains

__all__ = ["Placing", "placed_roots"]


def placed_roots(spec: PermutationSpec) -> list[str]:
    """Root groups whose units, and all that these own, change places and signs alone.

    Heads whose maps turn are none: what turns in one of them is not what does so in another.
    """
    return [
        root
        for root in spec.roots
        if all(KINDS[group.kind].moves_whole for name, group in spec.groups.items() if spec.root_of(name) == root)
    ]


class Placing:
    """The hat of one model, and where its groups are for that.

    Groups that lie inside others that do not own them stay where they are.

    Args:
        spec: bound.
        tensors: model b's, by name; read.
        names: those that count.
        start: model b's as it is moved at the beginning; what counts of it is copied.
        device: where to compute.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        tensors: Mapping[str, Tensor],
        names: Sequence[str],
        start: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        roots = placed_roots(spec)
        on = [name for name in names if not set(roots).isdisjoint(chain(*spec.roots_of(name)))]
        self.spec = spec
        self.hat = {name: start[name].detach().clone(memory_format=torch.contiguous_format) for name in on}
        layout = Layout(spec, self.hat, tensors, dict.fromkeys(on, 1.0), (), device)
        of_roots = {root: [leaf for units in layout.units[root] for leaf in layout.leaves[units]] for root in roots}
        self.leaves: dict[str, list[Leaf]] = {
            root: found for root, found in of_roots.items() if found and not any(leaf.beside for leaf in found)
        }
        views = {name: spec.view(name, tensor) for name, tensor in self.hat.items()}
        self.gains = TurnedGains(spec, views, layout.b, layout.trees)

    def see(self, grads: Mapping[str, Tensor], share: float) -> None:
        """Set the hat's gradients, from those of the loss at a point of which the model has a share."""
        for name, tensor in self.hat.items():
            tensor.grad = (share * grads[name]).to(tensor)

    @torch.no_grad()
    def best(self, elements: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The groups' elements with which the model lies nearest to the hat, of those that have another one now.

        Args:
            elements: of all groups, on the hat's device.
        """
        found: dict[str, Tensor] = {}
        for root, leaves in self.leaves.items():
            gains = self.gains.factors(leaves, elements, torch.float32)
            best, gained = best_elements(self.spec, root, gains, elements)
            if gained > 0:
                found |= {name: element for name, element in best.items() if not torch.equal(element, elements[name])}
        return found
