"""Cosines between the singular vectors of two models, and between inputs of layers and singular vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .._backend import check_device
from .._batches import check_batches, count_of
from .._calls import Calls, Forward, check_forward, in_eval
from .._checks import check_int, check_type
from .._models import Model, own_names, unwrapped
from .._modes import neutral
from .._progress import Progress, tracking
from .._results import Result, axes_to_draw_on
from ..matching.activations.watching import Place, run, watching
from ..matching.results.matching import Match, choice_of
from .factors import LayerFactors, SpectralFactors, decomposed_pair, laid_over, singular_factors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["InputAlignment", "LayerInputs", "VectorCosines", "input_alignment", "vector_cosines"]

Array = NDArray[np.float64]

# Entries of inputs that are looked at in one go.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class VectorCosines:
    """|<u_a,i, P u_b,j>| and |<v_a,i, Q v_b,j>| of one weight, for its largest singular values.

    Attributes:
        name: of the parameter.
        left, right: float64 [vectors of a, vectors of b], by falling singular value.
        values_a, values_b: float64, the singular values.
    """

    name: str
    left: Array = field(repr=False)
    right: Array = field(repr=False)
    values_a: Array = field(repr=False)
    values_b: Array = field(repr=False)


@neutral
def vector_cosines(
    model_a: Model | SpectralFactors,
    model_b: Model | SpectralFactors,
    match: Match = None,
    *,
    top: int = 32,
    parameters: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> dict[str, VectorCosines]:
    """Cosine maps between the first singular vectors of two models' weights, model b laid over model a.

    Args:
        top: how many vectors, those of the largest singular values; a weight that has fewer shows all.
        model_a, model_b, match, parameters, device, progress: as for `spectral_alignment`.

    Returns:
        `VectorCosines` by weight. Signs are arbitrary, hence absolute values; inside a repeated singular value the
        vectors are arbitrary too, and only the sum of squares over it means something.

    Raises:
        TypeError, ValueError: as `spectral_alignment`.
    """
    most = check_int("top", top, 1)
    choice = choice_of("match", match)
    a, b = decomposed_pair(model_a, model_b, choice, parameters, check_device("device", device), progress)
    found = {}
    for name, ours in a.items():
        theirs, (rows, columns) = laid_over(choice, b[name])
        left, right = _cosines(ours.u, theirs.u, rows, most), _cosines(ours.v, theirs.v, columns, most)
        values = [layer.s[:most].double().cpu().numpy() for layer in (ours, theirs)]
        found[name] = VectorCosines(name, left, right, *values)
    return found


def _cosines(a: Tensor, b: Tensor, index: Tensor | None, most: int) -> Array:
    b = b[:, :most].to(a.device)
    if index is not None:
        b = b.index_select(0, index.to(a.device))
    cosines: Array = (a[:, :most].T @ b).abs().double().cpu().numpy()
    return cosines


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """How the inputs z of a layer lie to the right singular vectors of its weight.

    Attributes:
        name: of the weight.
        cosines: float64 [r], mean over the samples of |<v_i, z>| / ||z||, by falling singular value.
        values: float64 [r], the singular values.
        samples: how many inputs were not zero; of a convolution every patch is one.
        random: sqrt(2 / (pi * columns)), the mean for a z of random direction (of many entries).
    """

    name: str
    cosines: Array = field(repr=False)
    values: Array = field(repr=False)
    samples: int
    random: float


@dataclass(frozen=True)
class InputAlignment(Result):
    """`LayerInputs` of every layer, in the order of the run.

    Attributes:
        layers: one entry for each.
    """

    layers: tuple[LayerInputs, ...]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the mean cosine of each layer's inputs with its right singular vectors, by rank.

        Args:
            axes: of matplotlib, to draw on; None: of a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed; the message names the extra.
        """
        axes = axes_to_draw_on(axes)
        for layer in self.layers:
            ranks = range(1, len(layer.cosines) + 1)
            (line,) = axes.plot(ranks, layer.cosines, label=layer.name.removesuffix(".weight"))
            axes.axhline(layer.random, linestyle=":", linewidth=1, color=line.get_color())
        axes.set(xscale="log", xlabel="rank of the singular vector", ylabel="mean cosine with inputs (dotted: random)")
        axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        width = max(6, *(len(layer.name) for layer in self.layers))
        lines = [f"{'weight':<{width}}  {'first 5 %':>9}  {'all':>7}  {'random':>7}  samples"]
        for layer in self.layers:
            first = layer.cosines[: max(1, len(layer.cosines) // 20)].mean()
            lines.append(
                f"{layer.name:<{width}}  {first:>9.4f}  {layer.cosines.mean():>7.4f}  {layer.random:>7.4f}  "
                f"{layer.samples}"
            )
        return "\n".join(lines)


@neutral
def input_alignment(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    factors: SpectralFactors | None = None,
    parameters: Sequence[str] | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> InputAlignment:
    """How the inputs z of every layer lie to the right singular vectors v_i of its weight: mean |<v_i, z>| / ||z||.

    Ito et al. (ICLR 2025), section 4: inputs of hidden layers point along the vectors with large singular values.
    Layers are Linear and convolutions; a convolution sees patches, every position of a map is a sample, as is every
    token. Inputs that are zero have no direction and do not count. To permute or to turn a model moves inputs and
    vectors alike: it has the same alignment in all its forms, but for its norms, that are folded or not.

    Inputs are seen where a layer is called as a module. Left out is what else multiplies with a weight: functions of
    bare parameters or of a layer's weight, and layers of other classes, such as the Conv1D of GPT-2, stacked experts,
    and the projections inside of `torch.nn.MultiheadAttention`.

    Args:
        model: a module; run in eval mode, left as it is.
        batches: inputs, or (inputs, targets) pairs; gone through once, batch by batch. `_batches` tells what else a
            batch may be.
        factors: the model's, all of them (gamma = 0); None: computed.
        parameters: names of layers' weights; None: of every Linear and convolution.
        forward: (model, batch) -> outputs, where a batch is not to be read by the rule of `_batches`.
        device: where to compute the factors; None: where the model is.
        progress: True for a bar, or a function (description, done, total).

    Returns:
        An `InputAlignment`; layers that the model does not run are left out.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no batches, inputs that are not finite, or names that are no layer's weight.
    """
    model = unwrapped("model", model)
    batches = check_batches("batches", batches)
    check_forward(forward)
    layers = _layers(model)
    if parameters is not None:
        for name in parameters:
            if name not in layers:
                raise ValueError(f"parameters must name weights of Linear or convolution layers, got {name!r}")
        layers = {name: layers[name] for name in parameters}
    if not layers:
        raise ValueError("model must have Linear or convolution layers, got none")
    if factors is None:
        factors = singular_factors(model, parameters=list(layers), device=device, progress=progress)
    check_type("factors", factors, SpectralFactors, "SpectralFactors or None")
    for name in factors:
        factors[name].check_reaches(0)
    seen = {name: _Seen(factors[name], layer) for name, (_, layer) in layers.items() if name in factors}
    places = {Place(layers[name][0], "input", -1, name, 1): of for name, of in seen.items()}
    ran: dict[str, None] = {}

    def see(place: Place, shown: Tensor) -> None:
        places[place].add(shown)
        ran[place.parameter] = None

    calls, count = Calls(model, forward), 0
    with in_eval(model), tracking(progress, "inputs", count_of(batches)) as advance, watching(model, places, see):
        for batch in calls.read("batches", batches):
            run(model, calls, batch)
            count += 1
            advance("")
    if count == 0:
        raise ValueError("batches must hold one batch at least, got none")
    return InputAlignment(tuple(seen[name].result() for name in ran))


def _layers(model: nn.Module) -> dict[str, tuple[str, nn.Linear | _ConvNd]]:
    """Layers, with their own names, by what the state dict calls their weights."""
    saved_as = {own: saved for saved, own in own_names(model).items()}
    found: dict[str, tuple[str, nn.Linear | _ConvNd]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd):
            weight = f"{name}.weight".lstrip(".")
            found[saved_as.get(weight, weight)] = name, module
    return found


class _Seen:
    """Sums over the inputs of a layer."""

    def __init__(self, factors: LayerFactors, layer: nn.Linear | _ConvNd) -> None:
        self.factors, self.layer = factors, layer
        self.total = torch.zeros(factors.s.numel(), dtype=torch.float64, device=factors.s.device)
        self.count = 0

    def add(self, shown: Tensor) -> None:
        """Count the inputs `shown`, as the layer takes them; raises ValueError where one is not finite."""
        v = self.factors.v
        shown = shown.detach()
        for samples in _samples(shown if shown.layout is torch.strided else shown.to_dense(), self.layer):
            z = samples.to(v.device, v.dtype)
            norms = torch.linalg.vector_norm(z, dim=1)
            if not bool(torch.isfinite(norms).all()):
                raise ValueError(f"inputs must be finite, but those of {self.factors.name!r} are not")
            z = z[norms > 0] / norms[norms > 0].unsqueeze(1)
            # [samples, r]
            self.total += (z @ v).abs().sum(0, dtype=torch.float64)
            self.count += z.shape[0]

    def result(self) -> LayerInputs:
        cosines: Array = (self.total / max(1, self.count)).cpu().numpy()
        values: Array = self.factors.s.double().cpu().numpy()
        return LayerInputs(
            self.factors.name, cosines, values, self.count, float(np.sqrt(2 / (np.pi * self.factors.shape[1])))
        )


def _samples(shown: Tensor, layer: nn.Linear | _ConvNd) -> Iterable[Tensor]:
    """The inputs as [samples, columns of the weight's matrix], some at a time."""
    if isinstance(layer, nn.Linear):
        flat = shown.reshape(-1, shown.shape[-1])
        yield from torch.split(flat, max(1, _AT_ONCE // max(1, flat.shape[1])))
        return
    dims = len(layer.kernel_size)
    if shown.ndim == dims + 1:
        shown = shown.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patch = layer.weight[0].numel() * layer.groups
    positions = max(1, shown[0, 0].numel())
    for part in torch.split(shown, max(1, _AT_ONCE // (patch * positions))):
        part = functional.pad(part, layer._reversed_padding_repeated_twice, mode=mode)
        for d, (size, step, spread) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
            part = part.unfold(2 + d, (size - 1) * spread + 1, step)[..., ::spread]
        # [batch, groups, channels of a group, positions, kernel] -> a sample for each position and group
        part = torch.unflatten(part, 1, (layer.groups, -1))
        part = part.movedim(2, 2 + dims)
        yield part.reshape(-1, layer.weight[0].numel())
