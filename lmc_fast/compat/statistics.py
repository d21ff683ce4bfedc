"""Running statistics, taken out of a state dict and put back: what scripts of two repositories call StoreBN."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from .._checks import check_type
from .._models import STATISTICS

__all__ = ["StoreBN", "is_statistic"]


def is_statistic(name: str) -> bool:
    """Whether this is the running mean or variance of a BatchNorm."""
    return name.rpartition(".")[2] in STATISTICS


class StoreBN:
    """Keeps the running statistics of a state dict while something else handles the rest.

    Attributes:
        full_key: all names of the dict that was given last, in order; None before that.
        state_dict: the statistics that were taken out of it; None before that.
    """

    def __init__(self) -> None:
        self.full_key: list[str] | None = None
        self.state_dict: dict[str, Any] | None = None

    def remove_bn(self, params: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take the statistics out of `params`, in place, and give it back."""
        check_type("params", params, MutableMapping, "a dict from names to tensors")
        self.full_key = list(params)
        self.state_dict = {name: params.pop(name) for name in self.full_key if is_statistic(name)}
        return params

    def repair_bn(self, params: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Put the statistics back into `params`, in place, and give it back.

        Raises:
            ValueError: nothing was taken out before.
        """
        check_type("params", params, Mapping, "a dict from names to tensors")
        if self.state_dict is None:
            raise ValueError("repair_bn must come after remove_bn, and nothing has been taken out yet")
        params.update(self.state_dict)
        return params
