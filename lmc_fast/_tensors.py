"""Which tensors arithmetic can be done on as they are, which have to be gathered first, and which are refused."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

__all__ = ["plain", "tensor_identity"]


def plain(argument: str, tensor: Tensor) -> Tensor:
    """The tensor, detached, as a dense one with storage of its own on a device; ValueError for what cannot be that."""
    return tensor.detach()


def tensor_identity(tensor: Tensor) -> Hashable:
    """Equal for two names of one tensor (tied weights), different for different tensors."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
