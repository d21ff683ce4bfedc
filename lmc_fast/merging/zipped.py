"""A module of a merged trunk and the heads of two models behind it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._nested import mapped

__all__ = ["Gathered", "Recalled", "Zipped", "heads_of", "without"]


class _Tape:
    """What the trunk's modules gave in the run of each thread, by name, in the order of their calls."""

    def __init__(self) -> None:
        self._runs: dict[int, dict[str, Iterator[Any]]] = {}

    @contextlib.contextmanager
    def played(self, records: Mapping[str, Sequence[Any]]) -> Iterator[None]:
        here = threading.get_ident()
        self._runs[here] = {name: iter(outputs) for name, outputs in records.items()}
        try:
            yield
        finally:
            del self._runs[here]

    def next_of(self, name: str) -> Any:
        return next(self._runs[threading.get_ident()][name])


class Gathered(nn.Module):
    """Carries a tensor from merged units to those of one model: every unit gets what its cluster has.

    Attributes:
        dim: the dimension that runs over the units' entries.
        index: int64 [entries].
    """

    index: Tensor

    def __init__(self, dim: int, index: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("index", index)

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.dim, self.index)


class Recalled(nn.Module):
    """Stands in a head for a module of the trunk, and gives what that gave."""

    def __init__(self, tape: _Tape, name: str, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.tape, self.name, self.behind = tape, name, behind

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # A copy: what comes next may write to it in place, and the other head is given it too.
        output = mapped(self.tape.next_of(self.name), lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)
        return output if self.behind is None else self.behind(output)


class _Reached(Exception):
    """Ends the trunk's run."""


class Zipped(nn.Module):
    """Computes a merged trunk once, and both models' outputs from it.

    Called as the models are, it gives a tuple of their outputs. It can be trained, copied and saved (whole, or as a
    state dict) as any module.

    Attributes:
        trunk: the models' class with merged weights, and nothing behind the layer `up_to`.
        heads: of each model what lies behind it; where the trunk was, they recall what it gave.
        up_to: name of the last layer that is merged.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module], up_to: str, names: Sequence[str]) -> None:
        super().__init__()
        self.trunk, self.heads, self.up_to = trunk, nn.ModuleList(heads), up_to
        self._names = tuple(names)
        # One for all stand-ins, also in a copy of this module.
        self._tape = next(part.tape for part in heads[0].modules() if isinstance(part, Recalled))

    @property
    def reads_as(self) -> nn.Module:
        """The module whose arguments this one takes."""
        return self.trunk

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        records: dict[str, list[Any]] = {name: [] for name in self._names}
        with self._recording(records), contextlib.suppress(_Reached):
            self.trunk(*args, **kwargs)
        outputs = []
        for head in self.heads:
            with self._tape.played(records):
                outputs.append(head(*args, **kwargs))
        return tuple(outputs)

    @contextlib.contextmanager
    def _recording(self, records: dict[str, list[Any]]) -> Iterator[None]:
        here = threading.get_ident()

        def hook_of(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                # Another thread may be running the same trunk.
                if threading.get_ident() == here:
                    records[name].append(output)
                    if name == self.up_to:
                        raise _Reached

            return hook

        handles = []
        try:
            for name in self._names:
                handles.append(self.trunk.get_submodule(name).register_forward_hook(hook_of(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def without(module: nn.Module, names: Mapping[str, nn.Module]) -> None:
    """Put other modules in the place of those of these names."""
    for name, other in names.items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, other)


def heads_of(models: Sequence[nn.Module], names: Sequence[str], up_to: str, behind: Sequence[nn.Module | None]) -> None:
    """Put stand-ins in the place of the trunk's modules, in the models themselves.

    Args:
        names: of the trunk's modules that no other one of it holds.
        behind: of each model what its boundary's output goes through.
    """
    tape = _Tape()
    for model, last in zip(models, behind, strict=True):
        without(model, {name: Recalled(tape, name, last if name == up_to else None) for name in names})
