"""Shortcuts that hold their identity as a parameter, so that the stream may have another order behind every block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_int, check_type
from .._copies import copied
from .._models import ModelT
from .._modes import neutral

__all__ = [
    "IdentityWithParam",
    "add_identity_shortcut_recursive",
    "add_identity_to_net",
    "remove_identity_from_net",
    "remove_identity_shortcut_recursive",
]


class IdentityWithParam(nn.Module):
    """Multiplies the channels of maps [batch, channels, height, width] by a matrix: the identity, until it is permuted.

    Attributes:
        identity: [channels, channels], without a gradient.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.identity = nn.Parameter(torch.eye(check_int("in_channels", in_channels, 1)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", self.identity, x)


def _is_block(module: nn.Module) -> bool:
    """Whether this is a residual block as the repository's models have it: two convolutions, and a shortcut."""
    return all(isinstance(getattr(module, part, None), nn.Module) for part in ("conv1", "conv2", "shortcut"))


def _has_identity(shortcut: Any) -> bool:
    return isinstance(shortcut, nn.Sequential) and len(shortcut) == 2 and isinstance(shortcut[1], IdentityWithParam)


def add_identity_shortcut_recursive(module: nn.Module) -> None:
    """Put an `IdentityWithParam` behind the shortcut of every residual block in `module`, in place; once only.

    A block is known by its parts ``conv1``, ``conv2`` and ``shortcut``, not by its class.
    """
    check_type("module", module, nn.Module, "a torch.nn.Module")
    for block in [part for part in module.modules() if _is_block(part)]:
        if not _has_identity(block.shortcut):
            last: Any = block.conv2
            identity = IdentityWithParam(last.out_channels).to(last.weight)
            shortcut: Any = block.shortcut
            block.shortcut = nn.Sequential(shortcut, identity)


def remove_identity_shortcut_recursive(module: nn.Module) -> None:
    """Take out what `add_identity_shortcut_recursive` put in, in place; names are again what they were before that.

    Identities that were permuted are lost with this: the model computes the same only if they are identities still.
    """
    check_type("module", module, nn.Module, "a torch.nn.Module")
    for block in [part for part in module.modules() if _is_block(part)]:
        shortcut: Any = block.shortcut
        if _has_identity(shortcut):
            block.shortcut = shortcut[0]


@neutral
def add_identity_to_net(original_net: ModelT) -> ModelT:
    """A copy of a network in which every residual block has an `IdentityWithParam` behind its shortcut."""
    check_type("original_net", original_net, nn.Module, "a torch.nn.Module")
    net: Any = copied(original_net)  # type: ignore[type-var]
    add_identity_shortcut_recursive(net)
    return net  # type: ignore[no-any-return]


@neutral
def remove_identity_from_net(original_net: ModelT) -> ModelT:
    """A copy of a network without what `add_identity_to_net` put in."""
    check_type("original_net", original_net, nn.Module, "a torch.nn.Module")
    net: Any = copied(original_net)  # type: ignore[type-var]
    remove_identity_shortcut_recursive(net)
    return net  # type: ignore[no-any-return]
