"""What every result offers beside its attributes: plain data, a table, a form for notebooks, axes to draw on."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Result", "axes_to_draw_on", "plain"]


class Result:
    """A dataclass whose values can be had as plain data.

    Attributes:
        derived: names of the properties that `to_dict` tells beside the fields.
    """

    derived: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data for `json.dumps`: numbers, strings, lists and dicts. Arrays become lists."""
        names = [field.name for field in fields(self)] + list(self.derived)  # type: ignore[arg-type]
        return {name: plain(getattr(self, name)) for name in names}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{html.escape(str(self))}</pre>"


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts of what a result holds."""
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, PurePath):
        return str(value)
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def axes_to_draw_on(axes: Axes | None, *, width: float = 6.4, height: float = 4.2) -> Axes:
    """`axes`, or those of a new figure of pyplot's, which a notebook shows; ImportError names the extra."""
    if axes is not None:
        return axes
    made: Axes = require("matplotlib.pyplot", "demo").subplots(figsize=(width, height))[1]
    return made
