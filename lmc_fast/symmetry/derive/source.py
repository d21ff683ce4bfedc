"""A spec from the graphs of a model, tried on nothing yet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor, nn

from ..explain import Origin
from ..folds import Centre, Fold
from ..groups import Axis, Segment
from ..spec import PermutationSpec
from .build import Built, build
from .forms import Form
from .gains import Gains
from .graph import Walked, pin_unused, walk
from .terms import Pin, Terms
from .tracing import Traced

__all__ = ["Source", "identities_of"]

_FOLDED = "goes into what reads the norm, and is the same everywhere then"


class Source:
    """A model that specs are made of.

    Args:
        module: as it was given.
        form: in which it was traced.
        state: its tensors, by name.
        rotations: whether to find what turns.
    """

    def __init__(self, module: nn.Module, form: Form, state: Mapping[str, Tensor], rotations: bool) -> None:
        self.module, self.form, self.state, self.rotations = module, form, state, rotations
        self.identities = identities_of(module, state)

    def built(self, traced: Sequence[Traced], refused: Mapping[str, Pin] | None = None) -> PermutationSpec:
        """The spec of several calls of the model: what moves in the graphs of all of them.

        Args:
            refused: gains of norms that must not be folded, with the reasons.
        """
        bare = {
            name for name, each in _named(self.form.module).items() if any(id(each) in found.bare for found in traced)
        }
        gains = self._gains(traced, refused or {})
        walked, built = self._walked(traced, bare, gains)
        while gains is not None and self._refuse_idle(gains, walked, built):
            walked, built = self._walked(traced, bare, gains)
        axes = dict(built.spec.axes)
        pinned = {name: [[str(why) for why in each] for each in entries] for name, entries in built.pinned.items()}
        for name, tensor in self.state.items():
            if name not in axes and tensor.is_floating_point():
                axes[name] = tuple(Axis() for _ in tensor.shape)
                is_bare = name in bare
                why = "untraced: is used by code that cannot be traced" if is_bare else "nothing: no operation uses it"
                pinned[name] = [[why] for _ in tensor.shape]
        notes = list(dict.fromkeys(note for each in traced for note in each.notes))
        notes += [
            f"{name} has no rule: what it touches stays ({count} times)" for name, count in walked.unknown.items()
        ]
        folds: list[Fold | Centre] = [] if gains is None else [*_folds(gains), *_centres(gains, built)]
        spec = PermutationSpec(built.spec.groups, axes, folds=tuple(folds)).bind(self.state)
        stiff = {name: str(atom.stiff) for name, atom in built.atoms.items() if atom.stiff is not None}
        return spec.with_origin(Origin(pinned, tuple(notes), stiff))

    def _gains(self, traced: Sequence[Traced], refused: Mapping[str, Pin]) -> Gains | None:
        if not self.rotations:
            return None
        gains = Gains(self.identities)
        for piece in (piece for each in traced for piece in each.pieces):
            gains.see(piece.program, piece.prefix)
        gains.settle()
        for name, why in refused.items():
            if name in gains.gains:
                gains.gains[name].why = why
        gains.check_shared()
        return gains

    def _walked(self, traced: Sequence[Traced], bare: set[str], gains: Gains | None) -> tuple[Walked, Built]:
        walked = Walked(Terms(), {}, gains=gains)
        for piece in (piece for each in traced for piece in each.pieces):
            walk(piece.program, self.state, self.identities, walked, piece.prefix)
        pin_unused(walked)
        for name in bare & walked.parameters.keys():
            for term in walked.parameters[name]:
                walked.terms.pin(term, Pin("untraced", "", "is used by code that cannot be traced"))
        for gain in () if gains is None else gains.gains.values():
            own = [gain.weight] if gain.keeps_bias or gain.bias is None else [gain.weight, gain.bias]
            for name in own if gain.why is None else ():
                for term in walked.parameters[name]:
                    walked.terms.pin(term, Pin("fold", "", _FOLDED))
        return walked, build(walked, list(self.state))

    def _refuse_idle(self, gains: Gains, walked: Walked, built: Built) -> bool:
        """Refuse the gains whose units do not turn anyway; whether there were any."""
        kinds = {atom: built.spec.groups[name].kind for name, atom in built.atoms.items()}
        found = False
        for gain in gains.gains.values():
            if gain.why is not None:
                continue
            given = [walked.gained[output][-1] for output in gain.outputs if output in walked.gained]
            dims = [walked.terms.replaced(term, built.whole) for term in given]
            atoms = [atom for term in dims for atom in walked.terms.atoms(term)]
            if not any(kinds.get(atom, "permutation").startswith("orthogonal") for atom in atoms):
                whys = [atom.pin or atom.stiff for atom in atoms]
                gain.why = next((why for why in whys if why is not None), None) or Pin("nothing", "", "nothing turns")
                found = True
        if found:
            gains.check_shared()
        return found


def _folds(gains: Gains) -> list[Fold]:
    return [gains.folds(gain) for gain in gains.gains.values() if gain.why is None]


def _centres(gains: Gains, built: Built) -> list[Centre]:
    """Parameters whose mean over a stream that LayerNorms alone read may be taken out."""
    spec, found = built.spec, []
    untied = {reader.parameter for fold in _folds(gains) for reader in fold.readers if reader.tied is not None}
    for name, axes in spec.axes.items():
        for dim, axis in enumerate(axes):
            group = axis.segments[0].group
            if group is None or axis != Axis((Segment(group),)) or name in untied:
                continue
            if spec.groups[group].kind == "orthogonal_keeping_ones" and spec.groups[group].owner is None:
                if any(each.dims > 1 for each in axes) or not gains.is_mean_free(name, dim):
                    continue
                found.append(Centre(name, dim))
    return found


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def identities_of(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Hashable]:
    """Equal for names of one tensor."""
    found: dict[str, Hashable] = {name: name for name in state}
    for named in (module.named_parameters, module.named_buffers):
        found |= {name: id(tensor) for name, tensor in named(remove_duplicate=False) if name in state}
    return found
