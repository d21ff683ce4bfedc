"""The temperature at which a classifier's logits fit best, and models whose logits are divided by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._batches import ABSENT, check_batches
from .._calls import Calls, Forward, in_eval, logits_of, plain_targets
from .._checks import check_finite, describe
from .._models import copied, unwrapped
from .._modes import neutral
from .._results import Result

__all__ = ["TemperatureFit", "Tempered", "calibrate_temperature"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Of temperatures: where the loss falls all the way, as with answers that are all right, it ends there.
LEAST, MOST = 0.01, 100.0
# Steps of Newton and of halving, far more than are needed.
STEPS = 200
# Targets that count for nothing, as torch's cross entropy has them.
IGNORED = -100


class Tempered(nn.Module):
    """A module whose logits are divided by a temperature.

    Attributes:
        module: computes the logits: a tensor, or an output that has them as `logits`.
        temperature: above 0.
    """

    def __init__(self, module: nn.Module, temperature: float) -> None:
        super().__init__()
        self.module = module
        self.temperature = check_finite("temperature", temperature)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")

    @property
    def reads_as(self) -> nn.Module:
        """The module whose arguments this one takes."""
        return self.module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self.module(*args, **kwargs)
        logits = logits_of(outputs)
        if logits is None:
            raise TypeError(f"module must give logits, or outputs that have them, got {describe(outputs)}")
        if isinstance(outputs, Tensor):
            return logits / self.temperature
        # A loss that came with the logits is not that of these.
        changes = {"logits": logits / self.temperature, "loss": None}
        if is_dataclass(outputs) and not isinstance(outputs, type):
            names = {field.name for field in fields(outputs)}
            return replace(outputs, **{name: value for name, value in changes.items() if name in names})
        if isinstance(outputs, Mapping):
            return {name: changes.get(name, value) for name, value in outputs.items()}
        tempered = copy(outputs)
        vars(tempered).update({name: value for name, value in changes.items() if hasattr(outputs, name)})
        return tempered

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:.4g}"


@dataclass(frozen=True)
class TemperatureFit(Result):
    """What a temperature does to the cross entropy of a classifier.

    Attributes:
        temperature: the best one, by which logits are divided.
        loss_before, loss: cross entropy of the logits as they are, and at this temperature.
        accuracy: share of right answers, which no temperature changes.
        targets: how many there were.
    """

    temperature: float
    loss_before: float
    loss: float
    accuracy: float
    targets: int

    def apply(self, model: ModuleT, layer: str | None = None) -> ModuleT | Tempered:
        """A new model whose logits are divided by the temperature.

        Args:
            model: a module; left as it is.
            layer: name of the layer that gives the logits (Linear or a convolution), whose weight and bias are divided
                then: a model of the same class. None: a `Tempered` around a copy.

        Raises:
            TypeError: `model` is no module.
            ValueError: there is no such layer, or its weight is computed from others or another layer's too.
        """
        module = copied(unwrapped("model", model))
        if layer is None:
            return Tempered(module, self.temperature)
        parts = dict(module.named_modules())
        last = parts.get(layer)
        weight = getattr(last, "weight", None)
        if last is None or not isinstance(weight, nn.Parameter):
            raise ValueError(f"layer must name a layer with a weight of its own, got {layer!r}")
        users = sum(any(p is weight for p in part.parameters(recurse=False)) for part in parts.values())
        if users > 1:
            raise ValueError(f"layer must have a weight of its own, but that of {layer!r} is another layer's too")
        with torch.no_grad():
            for parameter in last.parameters(recurse=False):
                parameter.div_(self.temperature)
        return module  # type: ignore[return-value]

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.4g}: loss {self.loss_before:.4f} -> {self.loss:.4f}, accuracy "
            f"{self.accuracy:.4f} of {self.targets} answers"
        )


@neutral
def calibrate_temperature(
    model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None
) -> TemperatureFit:
    """The temperature T that makes the cross entropy of softmax(logits / T) least.

    Merged classifiers answer with too little confidence: their logits have shrunk, and their loss is above that of the
    models that they were merged from even where their answers are as good. Networks that are wide enough connect
    without permutations once this is put right (Ito, Yamada, Chijiwa, Kumagai, "Do We Really Need Permutations? Impact
    of Width Expansion on Linear Mode Connectivity", 2025, arXiv 2510.08023); temperature scaling is Guo et al.'s ("On
    Calibration of Modern Neural Networks", ICML 2017). The loss is convex in 1 / T, and its least is found by Newton's
    method in float64, from one pass over the data whose logits are kept.

    Args:
        model: a module; run in eval mode, without gradients. Calibrate on data that are not those of the test.
        batches: (inputs, targets) pairs, targets integers of the logits' shape without classes. `_batches` tells what
            else a batch may be. Targets of -100 do not count.
        forward: (model, batch) -> outputs, where a batch is not to be read by that rule.

    Returns:
        A `TemperatureFit`, of a temperature between 0.01 and 100: at an end where the least lies beyond.

    Raises:
        TypeError: `model` is no module, or a batch is not covered by the rule.
        ValueError: no targets, logits and targets that do not fit, or logits that are not finite.
    """
    model = unwrapped("model", model)
    batches = check_batches("batches", batches, again=False)
    calls = Calls(model, forward, nn.functional.cross_entropy)
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    with in_eval(model), torch.no_grad():
        for batch in calls.read("batches", batches):
            scores, right = _rows(logits_of(calls.outputs(model, batch)), plain_targets(batch), batch.where)
            counts = right != IGNORED
            logits.append(scores[counts])
            targets.append(right[counts])
    if not sum(map(len, targets)):
        raise ValueError("batches must hold one target at least, got none")
    scores, right = torch.cat(logits).double(), torch.cat(targets)
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("logits must be finite, but model gives others")
    if not bool(((right >= 0) & (right < scores.shape[1])).all()):
        raise ValueError(f"targets must be classes from 0 to {scores.shape[1] - 1}, or {IGNORED}")
    temperature = 1.0 / _sharpness(scores, right)
    entropy = nn.functional.cross_entropy
    return TemperatureFit(
        temperature=temperature,
        loss_before=float(entropy(scores, right)),
        loss=float(entropy(scores / temperature, right)),
        accuracy=float((scores.argmax(dim=1) == right).double().mean()),
        targets=len(right),
    )


def _rows(logits: Tensor | None, targets: Any, where: str) -> tuple[Tensor, Tensor]:
    """Logits as [answers, classes] and targets as int64 [answers]."""
    if logits is not None and isinstance(targets, Tensor) and not targets.is_floating_point():
        if logits.ndim > 1 and logits.shape[:-1] == targets.shape:
            return logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long()
        if logits.ndim > 2 and (logits.shape[0], *logits.shape[2:]) == tuple(targets.shape):
            # As torch's cross entropy has positions: behind the classes.
            return logits.movedim(1, -1).reshape(-1, logits.shape[1]), targets.reshape(-1).long()
    got = " and ".join("no targets" if each is ABSENT else describe(each) for each in (logits, targets))
    raise ValueError(f"{where} must give logits with one row of classes for each integer target, got {got}")


def _sharpness(logits: Tensor, targets: Tensor) -> float:
    """The 1 / T between 1 / MOST and 1 / LEAST that makes the mean cross entropy least.

    Its derivative by s = 1 / T is the mean of E_p[z] - z_target, and its second one the mean of Var_p[z].
    """
    chosen = logits.gather(1, targets[:, None])
    # Which changes nothing but where differences of large numbers are taken.
    centred = logits - chosen
    low, high = 1.0 / MOST, 1.0 / LEAST

    def derivatives(s: float) -> tuple[float, float]:
        p = torch.softmax(s * centred, dim=1)
        mean = (p * centred).sum(dim=1)
        spread = (p * (centred - mean[:, None]).square()).sum(dim=1)
        return float(mean.mean()), float(spread.mean())

    if derivatives(low)[0] >= 0:
        return low
    if derivatives(high)[0] <= 0:
        return high
    s = 1.0
    for _ in range(STEPS):
        slope, curvature = derivatives(s)
        low, high = (s, high) if slope < 0 else (low, s)
        step = s - slope / curvature if curvature > 0 else 0.0
        new = step if low < step < high else 0.5 * (low + high)
        s, moved = new, abs(new - s)
        if moved <= 1e-12 * s:
            break
    return s
