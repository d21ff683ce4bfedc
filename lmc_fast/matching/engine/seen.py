"""What the functions of several models see of their tensors: effective weights, and each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..._derived import derived_weights, effective_tensors
from ..._models import Model, counted_names, equal_names, unwrapped
from ..._tensors import unsummable
from ...symmetry import PermutationSpec

__all__ = ["Seen", "seen"]


@dataclass(frozen=True)
class Seen:
    """Models as matching looks at them.

    Attributes:
        spec: bound; as the one that was given, with effective weights in the place of what they are computed from.
        tensors: of each model, by the names of this spec.
        names: what counts in distances: every weight once, no buffers, nothing that is not summed (integers, floats of
            8 bits, complex numbers).
        renamed: names of tensors that effective weights are computed from, with the weights' names.
    """

    spec: PermutationSpec
    tensors: list[dict[str, Tensor]]
    names: list[str]
    renamed: dict[str, str]


def seen(models: Sequence[Model], tensors: Sequence[dict[str, Tensor]], spec: PermutationSpec) -> Seen:
    """Look at models with these tensors, all by the names of the first.

    Args:
        models: as the caller gave them; the first module among them tells how weights are computed and tied.
        tensors: of each, by name; taken as they are where no weight is derived.
        spec: bound to them.
    """
    module = next((model for model in models if isinstance(model, nn.Module)), None)
    told: Model = tensors[0] if module is None else unwrapped("model", module)
    # A weight whose axes the spec does not tell stays what it is made of.
    derived = [one for one in derived_weights(told, tensors[0]) if one.main in spec.axes]
    renamed = {source: one.name for one in derived for source in one.sources}
    if derived:
        tensors = [effective_tensors(of_model, derived) for of_model in tensors]
        axes = {name: axes for name, axes in spec.axes.items() if name not in renamed}
        spec = PermutationSpec(spec.groups, axes | {one.name: spec.axes[one.main] for one in derived}, folds=spec.folds)
    counted = set.intersection(
        *(set(counted_names(model, of_model)) for model, of_model in zip(models, tensors, strict=True))
    )
    names = [
        name
        for name in tensors[0]
        if name in counted and not any(unsummable(of_model[name]) is not None for of_model in tensors)
    ]
    if module is None:
        again = equal_names(tensors, names, spec.axes)
        names = [name for name in names if name not in again]
    return Seen(spec, list(tensors), names, renamed)
