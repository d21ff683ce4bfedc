"""Checkpoints in pure form, which a spec with rotations describes: folded tensor by tensor into a file to read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .._safetensors import write_stream
from ..checkpoints.conversions import Conversion
from ..checkpoints.headers import read_header
from ..checkpoints.mapped import MappedTensors
from ..symmetry import Centre, Fold, PermutationSpec, PureForm
from ..symmetry.pure import TIES
from .inputs import Input
from .memory import give_back

__all__ = ["fold", "folded_bytes", "is_untying", "untie"]


def is_untying(spec: PermutationSpec | str | Path) -> bool:
    """Whether folding by a spec, or by the one in a file, sets tied tensors apart."""
    read = spec if isinstance(spec, PermutationSpec) else PermutationSpec.from_json(spec)
    return bool(PureForm(read.folds).untied)


def untie(each: Input, folds: Sequence[Fold | Centre]) -> None:
    """Give an input that is opened, and not attached yet, a tensor of its own for each that folding sets apart.

    They are written beside those of its last file, and its configuration says that nothing is tied.
    """
    pairs = PureForm(folds).untied.items()
    own = {name: each.tied[name] for pair in pairs for name in pair if name in each.tied}
    each.untied = own
    each.tied = {name: other for name, other in each.tied.items() if name not in own}
    each.conversions = (*each.conversions, *(Conversion((name,), (name,)) for name in own))
    if own and each.files:
        last = list(each.files)[-1]
        each.files = {**each.files, last: [*each.files[last], *own]}
    if pairs and each.config:
        each.config, each.config_changed = _untied(each.config), True


def folded_bytes(each: Input, folds: Sequence[Fold | Centre]) -> int:
    """Bytes of what `fold` writes."""
    return sum(each.shapes[name].nbytes for name in _names(each.shapes, folds))


def fold(each: Input, folds: Sequence[Fold | Centre], scratch: Path) -> None:
    """Put an attached input into pure form: what changes is written to `scratch`, and read from there.

    Raises:
        ValueError: a norm that cannot be folded.
        OSError: the disk is full.
    """
    names = _names(each.tensors, folds)
    if not names:
        return
    pure, path = PureForm(folds), scratch / f"{each.label}-pure.safetensors"

    def content(name: str) -> Iterator[Tensor]:
        give_back()
        yield pure.tensor(name, each.tensors)
        each.let_go()

    if not path.exists():
        entries = {name: (each.tensors[name].dtype, tuple(each.tensors[name].shape)) for name in names}
        write_stream(path, entries, content, {})
    each.read_instead(MappedTensors(read_header(path).tensors))


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says that nothing is tied, also of the parts that say something of it."""
    inside = {name: _untied(part) for name, part in config.items() if isinstance(part, Mapping) and TIES in part}
    return {**config, **inside, TIES: False}


def _names(tensors: Iterable[str], folds: Sequence[Fold | Centre]) -> list[str]:
    held = set(tensors)
    return [name for name in PureForm(folds).names if name in held]
