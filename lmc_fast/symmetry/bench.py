"""A copy of a model that is run again and again at other weights, so that its outputs can be compared."""

from __future__ import annotations

import copy
import math
import random
import types
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._models import STATISTICS, copied, load_tensors, tensors_of, unsaved_buffers
from .._modes import as_caller, uncompiled
from .._references import deep_copied
from .calls import Call, tensors_in, with_tensors_changed
from .exact import FLOATS, Exact

__all__ = ["FAILURES", "SCALES", "Bench", "CannotVerifyError", "Weights", "generators_kept", "is_number"]

Weights = dict[str, Tensor]
# What a forward pass raises that does not take these inputs, this dtype, or the memory that is left.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Weights at which the outputs are finite are looked for at these scales.
SCALES = (1.0, 0.3, 0.1, 0.01)


class CannotVerifyError(ValueError):
    """A model whose outputs cannot be compared, so that nothing is known of the spec."""


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the global generators of torch, numpy and Python back as they were."""
    # Forward passes use numpy's global generator still.
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def _seed_generators() -> None:
    """Seed those global generators that there are; `torch.manual_seed` would seed a GPU's when it starts later, too."""
    torch.default_generator.manual_seed(0)
    for devices in (torch.cuda, torch.xpu):
        if devices.is_initialized():
            devices.manual_seed_all(0)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def _generators(is_calm: bool) -> list[Any]:
    """What tells whether global generators have been drawn from: a GPU's too, unless noise is constant."""
    # Noise that takes one of few values may be the same twice.
    of_numpy = np.random.get_state()  # noqa: NPY002
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_initialized() and not is_calm:  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return [random.getstate(), *([np.asarray(part).tolist() for part in (*of_numpy, *states)])]


def is_number(tensor: Tensor) -> bool:
    """Whether a tensor holds floating point or complex numbers that can be drawn and compared."""
    return tensor.dtype in FLOATS or tensor.is_complex()


@dataclass(frozen=True)
class _Attribute:
    """An attribute of a part of a module that holds tensors or arrays and is neither parameter nor saved buffer."""

    part: str
    name: str
    is_deleted: bool = False

    def _place(self, module: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        part = module.get_submodule(self.part)
        return part, part._buffers if self.name in part._buffers else vars(part)

    def empty(self, module: nn.Module) -> None:
        part, values = self._place(module)
        value = values[self.name]
        if self.is_deleted or isinstance(vars(type(part)).get(self.name), cached_property):
            del values[self.name]
        elif isinstance(value, (dict, list)):
            values[self.name] = type(value)()
        elif isinstance(value, (Tensor, np.ndarray, tuple)):
            values[self.name] = None
        else:
            # An object of its own: one that cannot be copied deeply is the caller's still.
            values[self.name] = emptied = copy.copy(value)
            for name in [name for name, held in vars(value).items() if _holds_tensors(held)]:
                setattr(emptied, name, None)

    def is_filled(self, module: nn.Module) -> bool:
        return _keeps_tensors(self._place(module)[1].get(self.name))


def _keeps_tensors(value: object) -> bool:
    """Whether it holds one, or is an object with attributes that do."""
    if _holds_tensors(value):
        return True
    is_object = not isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType))
    return is_object and any(_holds_tensors(held) for held in getattr(value, "__dict__", {}).values())


def _holds_tensors(value: object, within: tuple[int, ...] = ()) -> bool:
    """Whether nested containers hold one; `within` tells containers around this one, which may stand in themselves."""
    items = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(items, (list, tuple)) and id(value) not in within:
        return any(_holds_tensors(item, (*within, id(value))) for item in items)
    return isinstance(value, (Tensor, np.ndarray))


def _attributes(module: nn.Module, weights: Collection[str]) -> Iterator[_Attribute]:
    internal = vars(nn.Module()).keys()
    for prefix, part in module.named_modules():
        names = [name for name, value in vars(part).items() if name not in internal and _keeps_tensors(value)]
        names += [name for name in part._non_persistent_buffers_set if part._buffers.get(name) is not None]
        for name in names:
            if (f"{prefix}.{name}" if prefix else name) not in weights:
                yield _Attribute(prefix, name)


def _sharing_weights(module: nn.Module) -> nn.Module:
    """A copy of all of a module but its weights, which are the same tensors."""
    try:
        return deep_copied(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    except FAILURES:
        # What cannot be copied in this way is copied as a whole.
        return copied(module)


class Bench:
    """One model, one call of it, in one precision.

    Args:
        module: left as it is.
        call: the forward pass; each run gets a copy of what it takes.
        dtype: what parameters and inputs are cast to, and what the forward pass is kept in; None: as they are.
        buffers: names of unsaved buffers that belong to the weights.

    Attributes:
        dtype: the dtype above, or the coarsest one that the model has.
        is_fresh: whether every run takes a copy of its own, since the forward pass remembers earlier ones.
        is_calm: whether noise is made constant, since the forward pass is random.
        is_seeded: whether the generators are seeded before every run, since it is random even so.
        emptied: attributes that held what an earlier call had computed; the copies begin without.
        coarsest: the coarsest dtype of a value in the last run.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        dtype: torch.dtype | None,
        buffers: tuple[str, ...],
    ) -> None:
        self.module, self.kept_in, self.buffers = module, dtype, buffers
        self.is_fresh = self.is_calm = self.is_seeded = False
        self.emptied: list[_Attribute] = []
        self.coarsest: torch.dtype | None = None
        self._use(self._unused())
        own = [tensor.dtype for tensor in self._tensors(self.used).values() if tensor.dtype in FLOATS]
        self.dtype = dtype or min(own, key=FLOATS.index, default=torch.float32)
        device = next((tensor.device for tensor in self._tensors(self.used).values()), torch.device("cpu"))

        def prepared(tensor: Tensor) -> Tensor:
            is_cast = dtype is not None and tensor.is_floating_point()
            return tensor.detach().to(device, dtype if is_cast else tensor.dtype, copy=True)

        with torch.inference_mode(False):
            self.call = Call(with_tensors_changed(call.given, prepared), call.run)

    def beside(self, module: nn.Module) -> Bench:
        """A bench of another module, which runs as this one does after `settle`."""
        other = Bench(module, self.call, self.kept_in, self.buffers)
        other.is_fresh, other.is_calm, other.is_seeded = self.is_fresh, self.is_calm, self.is_seeded
        other.emptied = self.emptied
        other._use(other._unused())
        return other

    def _use(self, module: nn.Module) -> None:
        """Take a copy for all runs that need none of their own."""
        self.used = module
        self._slots = self._plain_slots(module)
        # By name the object that was loaded last, and the version of the module's tensor after that.
        self._held: dict[str, tuple[int, int]] = {}
        self._kept: Weights = {}

    def _plain_slots(self, module: nn.Module) -> Weights | None:
        """The module's own tensors by name, where loading is no more than copying into these; None elsewhere."""
        for part in module.modules():
            loads = type(part)._load_from_state_dict
            hooks = (part._load_state_dict_pre_hooks, part._load_state_dict_post_hooks, part._state_dict_hooks)
            if not loads.__module__.startswith("torch.nn.modules.") or any(hooks):
                return None
        if type(module).load_state_dict is not nn.Module.load_state_dict:
            return None
        own: Weights = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        names = self._tensors(module)
        return {name: own[name] for name in names} if names.keys() <= own.keys() else None

    def _unused(self) -> nn.Module:
        """A copy that has never run, in the precision asked for."""
        try:
            module = copied(self.module)
        except FAILURES as error:
            raise CannotVerifyError(f"model cannot be copied: {type(error).__name__}: {error}") from error
        if self.kept_in is not None:
            module = module.double() if self.kept_in == torch.float64 else module.float()
        for attribute in self.emptied:
            attribute.empty(module)
        return module.eval().requires_grad_(False)

    def _tensors(self, module: nn.Module) -> Weights:
        unsaved = unsaved_buffers(module) if self.buffers else {}
        return tensors_of("model", module) | {name: unsaved[name].detach() for name in self.buffers}

    def draw(self, rng: np.random.Generator, scale: float = 1.0) -> Weights:
        """Random weights at a scale that keeps activations alive, positive random variances; all tensors, copied."""
        weights = {}
        for name, tensor in self._tensors(self.used).items():
            if not is_number(tensor):
                weights[name] = tensor.clone()
                continue
            values = torch.from_numpy(np.asarray(rng.standard_normal(tuple(tensor.shape), np.float32)))
            if tensor.is_complex():
                values = torch.complex(
                    values, torch.from_numpy(np.asarray(rng.standard_normal(tuple(tensor.shape), np.float32)))
                )
            kind = name.rpartition(".")[2]
            if kind == STATISTICS[1]:
                values = 0.5 + torch.from_numpy(np.asarray(rng.random(tuple(tensor.shape))))
            elif tensor.ndim > 1:
                values.mul_(scale / max(1, math.prod(tensor.shape[1:])) ** 0.5)
            else:
                values = (1.0 if kind == "weight" else 0.25 * scale) + 0.5 * scale * values
            weights[name] = values.to(tensor.device, tensor.dtype)
        # Names of one tied tensor hold one thing.
        slots = self._slots
        if slots is not None:
            last = {id(slots[name]): tensor for name, tensor in weights.items()}
            return {name: last[id(slots[name])] for name in weights}
        self._load(self.used, weights)
        return {name: tensor.clone() for name, tensor in self._tensors(self.used).items()}

    def _load(self, module: nn.Module, weights: Weights) -> None:
        load_tensors(module, {name: weight for name, weight in weights.items() if name not in self.buffers})
        if self.buffers:
            unsaved = unsaved_buffers(module)
            with torch.no_grad():
                for name in self.buffers:
                    unsaved[name].copy_(weights[name])

    def run(self, weights: Weights) -> list[Tensor]:
        """The outputs at these weights: floating point ones as float64, complex ones as pairs, integer ones as they
        are; on the CPU."""
        if self.is_fresh:
            module = self._unused()
            self._load(module, weights)
            return self._forward(module)
        self._bring(weights)
        return self._forward(self.used)

    def _bring(self, weights: Weights) -> None:
        """Load weights into the module that is used again and again: those that it does not hold already."""
        slots = self._slots
        if slots is None:
            self._load(self.used, weights)
            return
        with torch.no_grad():
            for name, weight in weights.items():
                slot = slots[name]
                # A forward pass that writes to its weights is seen by the slot's version.
                if self._held.get(name, (None, 0)) != (id(weight), slot._version):
                    slot.copy_(weight)
        self._held = {name: (id(weight), slots[name]._version) for name, weight in weights.items()}
        # Numbers of objects are theirs as long as they are kept.
        self._kept = weights

    def _forward(self, module: nn.Module) -> list[Tensor]:
        given = with_tensors_changed(self.call.given, torch.clone)
        if self.is_seeded:
            _seed_generators()
        with uncompiled(), torch.no_grad(), as_caller(), Exact(self.kept_in, self.is_calm) as watch:
            returned = self.call.run(module, given)
        self.coarsest = watch.coarsest
        outputs = []
        for tensor in tensors_in(returned):
            tensor = tensor.detach()
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor.resolve_conj())
            outputs.append(tensor.to("cpu", torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True))
        floats = [tensor for tensor in outputs if tensor.is_floating_point() and tensor.numel()]
        if not outputs:
            raise CannotVerifyError(
                "model must return a floating point tensor, or a tuple, list, dict or dataclass with one, got a "
                f"{type(returned).__name__}"
            )
        # Of logits and what is read off them, the logits tell more.
        return floats or [tensor.to(torch.float64) for tensor in outputs]

    def settle(self, rng: np.random.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Find out how to run the model so that the same weights give the same outputs, whatever ran before.

        Returns:
            The outputs at two draws of weights.

        Raises:
            CannotVerifyError: there is no such way.
            One of FAILURES: the forward pass fails.
        """
        first, second = self.draw(rng), self.draw(rng)
        self.run(first)
        self._empty_caches(first)
        for is_fresh, is_calm, is_seeded in (
            (False, False, False),
            (False, True, False),
            (True, False, False),
            (True, True, False),
            (False, True, True),
            (True, True, True),
        ):
            self.is_fresh, self.is_calm, self.is_seeded = is_fresh, is_calm, is_seeded
            before = _generators(is_calm)
            outputs = self.run(first)
            is_random = not is_seeded and _generators(is_calm) != before
            if is_random or not self._same(outputs, self.run(first)):
                continue
            others = self.run(second)
            if is_fresh or self._same(others, self._on_a_copy(second)):
                return outputs, others
        raise CannotVerifyError(
            "model cannot be compared with itself: the same weights and inputs give different outputs, with the "
            "generators of torch, numpy and Python seeded as well"
        )

    def _on_a_copy(self, weights: Weights) -> list[Tensor]:
        """The outputs of a copy that has not run before."""
        module = self._unused()
        self._load(module, weights)
        return self._forward(module)

    def _empty_caches(self, weights: Weights) -> None:
        """Find the attributes that are no weights, and that the forward pass fills again where they are empty.

        The caller's model may have run: what it computed from its weights then is in every copy.
        """
        found: list[_Attribute] = []
        attributes = list(_attributes(self.module, self.buffers))
        if not attributes:
            return
        loaded = self._unused()
        self._load(loaded, weights)
        for attribute in attributes:
            for way in (attribute, _Attribute(attribute.part, attribute.name, is_deleted=True)):
                module = _sharing_weights(loaded)
                try:
                    way.empty(module)
                    self._forward(module)
                except FAILURES:
                    continue
                if way.is_filled(module):
                    found.append(way)
                    break
        self.emptied = found
        if found:
            self._use(self._unused())

    def _same(self, outputs: list[Tensor], others: list[Tensor]) -> bool:
        if [tensor.shape for tensor in outputs] != [tensor.shape for tensor in others]:
            return False
        allowed = min(1e3 * torch.finfo(self.dtype).eps, 0.02)
        for one, other in zip(outputs, others, strict=True):
            scale = float(one[torch.isfinite(one)].abs().max()) if bool(torch.isfinite(one).any()) else 1.0
            if not torch.allclose(one, other, rtol=0.0, atol=allowed * scale, equal_nan=True):
                return False
        return True
