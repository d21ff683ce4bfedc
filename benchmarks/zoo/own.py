"""Networks of torch's own layers."""

from __future__ import annotations

import torch
from torch import nn

from .. import models, networks
from .hand import free, owning
from .known import Known

__all__ = ["OWN"]

_IMAGE = (2, 3, 8, 12)


def _words() -> torch.Tensor:
    return torch.randint(0, 11, (2, 4))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


OWN: dict[str, Known] = {
    "mlp": Known(lambda: (models.small_mlp(), torch.randn(2, 4)), free(9, 7)),
    # Two convolutions, and the hidden units of the classifier.
    "vgg with BatchNorm": Known(lambda: (models.ConvNet(), torch.randn(2, 1, 8, 8)), free(6, 7, 12)),
    # Of each stage its stream, and what is between the two convolutions of each block.
    "resnet": Known(lambda: (models.small_resnet(), torch.randn(2, 1, 8, 8)), free(4, 4) + free(8, 8, 8)),
    "depthwise": Known(lambda: (models.DepthwiseNet(), torch.randn(2, 2, 5, 5)), free(6)),
    # Groups of the convolution with their inputs and their outputs.
    "grouped convolution": Known(lambda: (models.GroupedNet(), torch.randn(2, 2, 5, 5)), owning(3, 2, 3)),
    "GroupNorm": Known(lambda: (models.GroupNormNet(), torch.randn(2, 2, 5, 5)), owning(3, 2)),
    "experts": Known(lambda: (models.Experts(), torch.randn(2, 5)), owning(3, 4)),
    # What comes out is the stream: heads with their queries and values, and hidden units.
    "nn.TransformerEncoder": Known(lambda: (_encoder(), torch.randn(2, 5, 12)), 2 * (owning(3, 4, 4) + free(20))),
    "pre-activation ResNet": Known(
        lambda: (networks.PreActivationResNet(), torch.randn(_IMAGE)), free(6, 6, 6) + free(10, 10, 10)
    ),
    "WideResNet": Known(lambda: (networks.WideResNet(), torch.randn(_IMAGE)), free(8, 8) + free(16, 16) + free(32, 32)),
    # The stream of 4 goes on; each later stage adds channels that are 0 in the shortcut.
    "ResNet, padded shortcuts": Known(
        lambda: (networks.PaddedResNet(), torch.randn(_IMAGE)),
        free(4, 4) + free(4, 8) + free(8, 16),
    ),
    # The embedded time; by block the norms of both convolutions; what lifts from one size to the next has no norm.
    "GroupNorm U-Net": Known(
        lambda: (networks.GroupNormUNet(), (torch.randn(_IMAGE), torch.randn(2, 1))),
        free(10) + 4 * owning(3, 2) + 6 * owning(3, 4) + free(12, 6),
    ),
    # The stream, and hidden units of tokens and of channels; tokens stay.
    "MLP-Mixer": Known(lambda: (networks.Mixer(), torch.randn(_IMAGE)), free(10) + 2 * free(7, 18)),
    "LSTM": Known(lambda: (networks.Recurrent(), _words()), free(6, 8)),
    "LSTM, two layers, both directions": Known(
        lambda: (networks.Recurrent(num_layers=2, bidirectional=True), _words()), free(6) + 4 * free(8)
    ),
    "GRU, two layers": Known(lambda: (networks.Recurrent(nn.GRU, num_layers=2), _words()), free(6) + 2 * free(8)),
}
