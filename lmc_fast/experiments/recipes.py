"""What decides a trained model: its architecture and how it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn import functional

from ..symmetry import PermutationSpec, architectures
from .datasets import Dataset
from .models import MLP, VGG11, ResNet

__all__ = ["Recipe"]

SPECS = {"mlp": architectures.mlp, "vgg11": architectures.vgg, "resnet": architectures.resnet}


@dataclass(frozen=True)
class Recipe:
    """An architecture and its training, for any data set.

    Attributes:
        kind: "mlp", "vgg11" or "resnet".
        width: units of each hidden layer, or channels of the first one.
        blocks: hidden layers of an MLP as one number, blocks in each stage of a ResNet; VGG11 has none to choose.
        steps: of training, rounded to whole passes over the data.
        least_epochs: passes at least, however large the data.
        learning_rate, weight_decay, batch_size, sam_rho: as for `train`.
    """

    kind: str
    width: int
    blocks: tuple[int, ...]
    steps: int
    least_epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int = 64
    sam_rho: float = 0.0

    loss_fn = staticmethod(functional.cross_entropy)

    def __post_init__(self) -> None:
        if self.kind not in SPECS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, SPECS))}, got {self.kind!r}")

    def build(self, data: Dataset) -> nn.Module:
        """The untrained model; weights come from torch's global generator, as `train` seeds it."""
        channels, height, width = data.image_shape
        if self.kind == "mlp":
            (layers,) = self.blocks
            return MLP(channels * height * width, (self.width,) * layers, data.classes)
        if self.kind == "resnet":
            return ResNet(channels, self.width, self.blocks, data.classes)
        return VGG11(channels, self.width, width, data.classes)

    def spec(self, model: nn.Module) -> PermutationSpec:
        """What may be permuted in a model of this recipe."""
        return SPECS[self.kind](model)

    def epochs(self, data: Dataset) -> int:
        """Passes over this data."""
        per_epoch = max(1, len(data.train_inputs) // self.batch_size)
        return max(self.least_epochs, round(self.steps / per_epoch))

    def described(self) -> dict[str, Any]:
        """Every attribute, as JSON takes it."""
        told = {**asdict(self), "blocks": list(self.blocks)}
        if not self.sam_rho:
            # As models were named that were trained before there was a choice.
            del told["sam_rho"]
        return told
