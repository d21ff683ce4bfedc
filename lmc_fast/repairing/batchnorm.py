"""Running statistics of BatchNorm and InstanceNorm, measured anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from .._batches import Batch, check_batches, count_of
from .._calls import Calls, Forward, check_forward
from .._models import copied, modes_kept, tensors_of, unwrapped
from .._modes import neutral
from .._norms import Norm, first_of, tracked, values_per_channel
from .._progress import Progress, tracking
from ..matching.activations.moments import Moments
from ..matching.activations.watching import entries_first, run

__all__ = ["has_batchnorm", "reestimate_batchnorm", "reestimate_in_place"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model holds a BatchNorm or InstanceNorm that keeps running statistics."""
    return any(True for _ in tracked(model))


@neutral
def reestimate_batchnorm(
    model: ModuleT, batches: Iterable[Any], *, forward: Forward | None = None, progress: Progress = False
) -> ModuleT:
    """A copy of `model` whose BatchNorm statistics are those of `batches`.

    The mean of a merged model's activations is not the mean of its parents' means, and their variance is smaller
    (Jordan et al., "REPAIR", ICLR 2023, section 3): running statistics have to be measured again. Every example
    counts alike, whatever the sizes of the batches: means and (unbiased) variances are those that one batch of all
    examples would have, summed in float64. During the pass each layer normalises by the statistics of the batch that
    it sees, as in training; a batch with one value for each channel, which has no variance, by those of the batches
    before it. Everything else runs in eval mode, without gradients. InstanceNorm with running statistics is treated
    likewise: the mean over instances of their means and variances.

    Args:
        model: a module; left as it is. One without BatchNorm comes back as a plain copy.
        batches: inputs, or (inputs, targets) pairs, one batch at least; `_batches` tells what else a batch may be.
        forward: (model, batch) -> outputs, where a batch is not to be read by that rule.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        A new module, in the training mode that `model` is in. Layers that the pass does not reach keep what they have.

    Raises:
        TypeError: `model` is no module, or `batches` is a batch itself.
        ValueError: no batches, or none with two values for each channel of a BatchNorm.
    """
    model = cast(ModuleT, unwrapped("model", model))
    batches = check_batches("batches", batches)
    check_forward(forward)
    # For what they refuse, before anything is copied.
    tensors_of("model", model)
    module = copied(model)
    reestimate_in_place(module, batches, forward=forward, progress=progress)
    return module


def reestimate_in_place(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    argument: str = "batches",
    progress: Progress = False,
) -> None:
    """As `reestimate_batchnorm`, on the module itself."""
    layers = dict(tracked(module))
    if not layers:
        return
    calls, seen, too_small = Calls(module, forward), 0, []
    with modes_kept(module), tracking(progress, "BatchNorm statistics", count_of(batches)) as advance:
        for part in module.modules():
            part.training = False
        with _estimating(layers) as estimates:

            def see(batch: Batch) -> None:
                run(module, calls, batch)
                for estimate in estimates:
                    estimate.commit()

            for batch in calls.read(argument, batches):
                try:
                    see(batch)
                except _NoStatistics:
                    too_small.append(batch)
                seen += 1
                advance("")
            for batch in too_small:
                try:
                    see(batch)
                except _NoStatistics as error:
                    raise ValueError(f"{argument} must hold two examples at least in one batch: {error}") from None
        if seen == 0:
            raise ValueError(f"{argument} must hold one batch at least, got none")
        for estimate in estimates:
            estimate.write()


class _NoStatistics(Exception):
    """Ends a forward pass in front of a layer that has nothing to normalise by yet."""


@contextlib.contextmanager
def _estimating(layers: Mapping[str, Norm]) -> Iterator[list[_Estimate]]:
    """Let layers show what they get, and normalise by it; their options are put back at the end."""
    estimates = [
        (_OfInstances if isinstance(layer, _InstanceNorm) else _Estimate)(name, layer) for name, layer in layers.items()
    ]
    kept = {layer: (layer.momentum, layer.running_mean, layer.running_var) for layer in layers.values()}
    handles = [each.layer.register_forward_pre_hook(each.see, with_kwargs=True) for each in estimates]
    try:
        for layer, (_, mean, variance) in kept.items():
            # Its own are written to on the way, and stay where the pass does not come to an end.
            assert mean is not None and variance is not None
            layer.momentum, layer.running_mean, layer.running_var = 0.0, mean.clone(), variance.clone()
        yield estimates
    finally:
        for handle in handles:
            handle.remove()
        for layer, (momentum, mean, variance) in kept.items():
            layer.momentum, layer.running_mean, layer.running_var = momentum, mean, variance


class _Estimate:
    """The running statistics of a layer, measured anew.

    What a batch shows is taken up at its end: one that is not gone through with leaves no trace.
    """

    def __init__(self, name: str, layer: Norm) -> None:
        self.name, self.layer = name, layer
        self.sums, self.calls = Moments(), 0
        self.fresh: list[Moments] = []

    def see(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take up an input, and let the layer normalise it by its own statistics, or by those so far."""
        shown = first_of(args, kwargs).detach()
        few = self.values(shown) < 2
        if few and self.sums.count < 2:
            raise _NoStatistics(f"{self.name!r} gets one value for each channel, which has no variance")
        self.fresh.append(self.moments(shown))
        # Set here and not by train(): layers that are kept frozen override that. One that is synchronised would wait
        # for other processes.
        layer.training = not few and not isinstance(layer, nn.SyncBatchNorm)
        if not layer.training:
            mean, variance = self.statistics(self.sums) if few else _biased(self.fresh[-1])
            self.layer.running_mean.copy_(mean)  # type: ignore[union-attr]
            self.layer.running_var.copy_(variance)  # type: ignore[union-attr]

    def values(self, shown: Tensor) -> int:
        return values_per_channel(shown)

    def moments(self, shown: Tensor) -> Moments:
        return Moments.of(entries_first(shown, 1))

    def statistics(self, sums: Moments) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance."""
        return sums.mean, sums.squares / (sums.count - 1)

    def commit(self) -> None:
        """Take up what the last batch has shown."""
        for moments in self.fresh:
            self.sums.join(moments)
        self.calls += len(self.fresh)
        self.fresh = []

    def write(self) -> None:
        """Give the layer its statistics; one that has not run keeps those that it has."""
        if self.calls:
            mean, variance = self.statistics(self.sums)
            self.layer.running_mean.copy_(mean)  # type: ignore[union-attr]
            self.layer.running_var.copy_(variance)  # type: ignore[union-attr]
            if self.layer.num_batches_tracked is not None:
                self.layer.num_batches_tracked.fill_(self.calls)


class _OfInstances(_Estimate):
    """Those of an InstanceNorm: the mean over instances of their means and variances."""

    def values(self, shown: Tensor) -> int:
        return self._instances(shown).shape[2]

    def moments(self, shown: Tensor) -> Moments:
        instances = self._instances(shown).double()
        sums = Moments()
        sums.count = instances.shape[0]
        sums.mean = instances.mean(dim=2).mean(dim=0)
        # Variances are kept as their mean.
        sums.squares = instances.var(dim=2).mean(dim=0)
        return sums

    def commit(self) -> None:
        """Take up what the last batch has shown."""
        for one in self.fresh:
            share = one.count / max(1, self.sums.count + one.count)
            self.sums.mean = self.sums.mean.to(one.mean.device).lerp(one.mean, share)
            self.sums.squares = self.sums.squares.to(one.mean.device).lerp(one.squares, share)
            self.sums.count += one.count
        self.calls += len(self.fresh)
        self.fresh = []

    def statistics(self, sums: Moments) -> tuple[Tensor, Tensor]:
        """Means of means and of variances."""
        return sums.mean, sums.squares

    def _instances(self, shown: Tensor) -> Tensor:
        """[instances, channels, positions]; what is one instance comes without the first."""
        dims = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
        wanted = next((count for kind, count in dims.items() if isinstance(self.layer, kind)), shown.ndim)
        return (shown.unsqueeze(0) if shown.ndim < wanted else shown).flatten(2)


def _biased(moments: Moments) -> tuple[Tensor, Tensor]:
    return moments.mean, moments.squares / moments.count
