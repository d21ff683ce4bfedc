"""The names of the package sinkhorn-rebasin (fagp/sinkhorn-rebasin): a network with learnable permutations, and losses.

That is the code of Pena et al., "Re-basin via implicit Sinkhorn differentiation" (CVPR 2023), under the MIT licence;
nothing of its text is here. ``from lmc_fast.compat.sinkhorn_rebasin import RebasinNet, matching, DistL2Loss`` in place
of ``from rebasin import RebasinNet, matching`` and ``from rebasin.loss import DistL2Loss``.

The same: names, call forms, the parameters ``p``, the objective of each loss, soft matrices in training mode and
permutations in eval mode. Different: what may be permuted is found by `lmc_fast.derive_spec`, which knows flattened
maps and the groups of norms and convolutions; losses change neither model; random numbers are from a seed of the
network's or loss's own; a permutation that goes inside another (a head's dimensions) has one matrix for each unit of
that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import symmetry
from .._checks import check_finite, check_int, check_type
from .._copies import copied
from .._models import tensors_of
from ..assignment import linear_sum_assignment
from ..matching.engine.sinkhorn_operator import Relaxed, doubly_stochastic, mixed
from .arrays import tensor_of
from .specs import derived_spec, random_inputs
from .statistics import is_statistic

__all__ = ["DistCosineLoss", "DistL1Loss", "DistL2Loss", "MidLoss", "RebasinNet", "RndLoss", "matching"]


def matching(alpha: Any, **kwargs: Any) -> Tensor:
    """The permutation matrix of greatest inner product with `alpha`: int64 [n, n] on the CPU.

    Args:
        alpha: [n, n], a tensor or an array.
        kwargs: as of `scipy.optimize.linear_sum_assignment`, which is called on ``-alpha`` in the original:
            ``maximize=True`` asks for the smallest.
    """
    scores = tensor_of("alpha", alpha).cpu()
    unknown = next((name for name in kwargs if name != "maximize"), None)
    if unknown is not None:
        raise TypeError(f"matching takes maximize besides alpha, got {unknown}")
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=not kwargs.get("maximize", False))
    matrix = torch.zeros(scores.shape, dtype=torch.int64)
    matrix[torch.as_tensor(rows), torch.as_tensor(columns)] = 1
    return matrix


class RebasinNet(nn.Module):
    """A model whose units are mixed by doubly stochastic matrices with a gradient, or permuted.

    In training mode a call gives the model with every permutation relaxed to the doubly stochastic matrix
    exp(l p / tau + f + g); in eval mode with the permutations of greatest inner product with the scores p. It is the
    same module in each call, with other tensors: copy it to keep it.

    Args:
        model: copied, and left as it is.
        input_shape: of an example input, with the batch.
        remove_nodes: names of permutations that are to stay in place; numbers of nodes of the original's graphs mean
            nothing here.
        l: scales the scores.
        tau: how soft the matrices are.
        n_iter: iterations of Sinkhorn's at most; the original's all.
        operator: "implicit".
        permutation_type: "mat_mul" or "broadcast"; permuted by gathering in either case.
        seed: of the first scores, and of `random_init`.

    Attributes:
        p: one parameter for each permutation, [units, units] (of one inside another [owner units, units, units]).
        names: of the permutations, in the order of `p`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or what `lmc_fast.derive_spec` says.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[int],
        remove_nodes: Sequence[str] = (),
        l: float = 1.0,  # noqa: E741 - the name that scripts use
        tau: float = 1.0,
        n_iter: int = 20,
        operator: str = "implicit",
        permutation_type: str = "mat_mul",
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_type("model", model, nn.Module, "a torch.nn.Module")
        if operator != "implicit":
            raise ValueError(f"operator must be 'implicit', got {operator!r}")
        if permutation_type not in ("mat_mul", "broadcast"):
            raise ValueError(f"permutation_type must be 'mat_mul' or 'broadcast', got {permutation_type!r}")
        self.l, self.tau = check_finite("l", l), check_finite("tau", tau)
        if self.tau <= 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        self.n_iter = check_int("n_iter", n_iter, 1)
        for name in remove_nodes:
            check_type("remove_nodes", name, str, "names of permutations")
        self._rng = np.random.default_rng(check_int("seed", seed, 0))
        inputs = random_inputs("input_shape", input_shape, model)
        self.spec = derived_spec(model, inputs, leave_out=remove_nodes, argument="remove_nodes").whole
        self.names = list(self.spec.groups)
        # In a tuple: they are no parts of this module, whose only parameters are the scores.
        self._models = (copied(model), copied(model))
        like = next(model.parameters(), torch.empty(0))
        shapes = [self._shape(name) for name in self.names]
        noise = [torch.from_numpy(0.1 * self._rng.standard_normal(shape)) for shape in shapes]
        self.p = nn.ParameterList(
            [(torch.eye(shape[-1]) + more).to(like) for shape, more in zip(shapes, noise, strict=True)]
        )

    def _shape(self, name: str) -> tuple[int, ...]:
        size = self.spec.sizes[name]
        return (size, size) if self.spec.groups[name].owner is None else (self.spec.units(name) // size, size, size)

    def random_init(self) -> None:
        """Set all scores to those of random permutations."""
        for p in self.p:
            order = torch.from_numpy(self._rng.random(p.shape[:-1]).argsort(-1))
            p.data = torch.eye(p.shape[-1])[order].to(p.data)

    def identity_init(self) -> None:
        """Set all scores to those of the identity."""
        for p in self.p:
            p.data = torch.eye(p.shape[-1]).expand(p.shape).to(p.data, copy=True)

    def update_batchnorm(self, model: nn.Module) -> None:
        """Take over the running statistics of `model`, which is of the same architecture."""
        given = tensors_of("model", model)
        for name, own in self._models[0].state_dict().items():
            if is_statistic(name):
                own.copy_(given[name])

    def permutations(self) -> symmetry.Permutations:
        """The permutations of the scores as they are, as `lmc_fast.Matching.permutations` has them."""
        scores = {name: self._batched(p).detach() for name, p in zip(self.names, self.p, strict=True)}
        if any(group.owner is not None for group in self.spec.groups.values()):
            scores = {name: matrix.detach() for name, matrix in self._matrices().items()}
        first = next(iter(scores.values()), torch.empty(0))
        return Relaxed(self.spec, None, self.tau, self.n_iter, first.device, first.dtype).rounded(scores)

    def forward(self, x: Tensor | None = None) -> Any:
        """The model with its units mixed or permuted; its outputs, where it is given inputs."""
        output = self._models[1]
        moved = self._mixed() if self.training else self._permuted()
        output.train(self.training)
        for name, tensor in moved.items():
            path, _, attribute = name.rpartition(".")
            part = output.get_submodule(path)
            if attribute in part._parameters:
                # Not set as an attribute, which takes leaves alone: these have a gradient to hand on.
                part._parameters[attribute] = tensor  # type: ignore[assignment]
            else:
                part._buffers[attribute] = tensor
        if x is None:
            return output
        return output(x.unsqueeze(0) if x.ndim == 1 else x)

    def _tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, tensor, whether it is a parameter) of the model as it was given."""
        for name, p in self._models[0].named_parameters(remove_duplicate=False):
            yield name, p.detach(), True
        for name, buffer in self._models[0].named_buffers(remove_duplicate=False):
            yield name, buffer, False

    def _mixed(self) -> dict[str, Tensor]:
        matrices = self._matrices()
        still = {name: matrix.detach() for name, matrix in matrices.items()}
        found = {}
        for name, w, is_parameter in self._tensors():
            moves = name in self.spec.axes and w.is_floating_point()
            by = {group: m.to(w.dtype) for group, m in (matrices if is_parameter else still).items()} if moves else {}
            found[name] = mixed(self.spec, name, w, by) if moves else w
            # Scripts write into what they are given.
            found[name] = w.clone() if found[name] is w else found[name]
        return found

    def _permuted(self) -> dict[str, Tensor]:
        choice = self.permutations()
        found: dict[str, Tensor] = {}
        for name, w, is_parameter in self._tensors():
            moved = choice.apply_to(name, w) if name in self.spec.axes else w.clone()
            found[name] = nn.Parameter(moved, requires_grad=False) if is_parameter else moved
        return found

    def _matrices(self) -> dict[str, Tensor]:
        return {
            name: doubly_stochastic(self._batched(p) * self.l / self.tau, iterations=self.n_iter)[0]
            for name, p in zip(self.names, self.p, strict=True)
        }

    @staticmethod
    def _batched(p: Tensor) -> Tensor:
        return p[None] if p.ndim == 2 else p

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> RebasinNet:
        # The given model goes where the scores go: `to`, `cuda` and their kin all come through here.
        self._models[0]._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        for part in self._models[1].modules():
            # What has a history is no leaf, and the next call replaces it.
            for name, w in part._parameters.items():
                part._parameters[name] = None if w is None else nn.Parameter(fn(w.detach()), requires_grad=False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else fn(buffer.detach())
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return self


class _Loss(nn.Module):
    """A loss against one model, which stays as it is.

    Args:
        modela: the model; None: it is given by `set_model`.
    """

    def __init__(self, modela: nn.Module | None = None) -> None:
        super().__init__()
        self._held: tuple[nn.Module, ...] = ()
        if modela is not None:
            self.set_model(modela)

    @property
    def modela(self) -> nn.Module:
        """The model that is compared with."""
        if not self._held:
            raise ValueError("modela must be given, at the beginning or by set_model, and is not")
        return self._held[0]

    def set_model(self, modela: nn.Module) -> None:
        """Compare with another model from now on."""
        check_type("modela", modela, nn.Module, "a torch.nn.Module")
        self._held = (modela,)

    def _pairs(self, modelb: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
        """(name, model a's, model b's) of all parameters."""
        check_type("modelb", modelb, nn.Module, "a torch.nn.Module")
        mine, given = dict(self.modela.named_parameters()), dict(modelb.named_parameters())
        other = next((name for name in {**mine, **given} if name not in mine or name not in given), None)
        if other is not None:
            raise ValueError(f"modelb must have the parameters of modela, but only one of them has {other!r}")
        return [(name, w.detach().to(given[name].device), given[name]) for name, w in mine.items()]


class _Distance(_Loss):
    """A sum over parameters, divided by how many numbers they are."""

    def forward(self, modelb: nn.Module) -> Tensor:
        """The loss of `modelb`, with a gradient to its parameters."""
        pairs = self._pairs(modelb)
        total: Tensor = torch.stack([self._of(a, b) for _, a, b in pairs]).sum()
        return total.div(sum(a.numel() for _, a, _ in pairs))

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        """What one parameter adds to the sum."""
        raise NotImplementedError(f"{type(self).__name__} must define _of")


class DistL2Loss(_Distance):
    """The mean squared difference of all weights."""

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum()


class DistL1Loss(_Distance):
    """The mean absolute difference of all weights."""

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().sum()


class DistCosineLoss(_Distance):
    """3 minus the cosine of each parameter, summed and divided by how many numbers they are, as in the original."""

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        norms = (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)).clamp_min(1e-8)
        cosine: Tensor = (a * b).sum() / norms
        return 3 - cosine


class _OnTheLine(_Loss):
    """The loss of the task at a point between model a and a model.

    Args:
        modela: as of the class.
        criterion: of (outputs, targets); None: the mean squared error.
    """

    def __init__(self, modela: nn.Module | None = None, criterion: Callable[..., Tensor] | None = None) -> None:
        super().__init__(modela)
        self.criterion = nn.MSELoss() if criterion is None else criterion

    def forward(self, modelb: nn.Module, input: Any, target: Any) -> Tensor:
        """The loss of a batch, with a gradient to the parameters of `modelb`, which stay as they are."""
        lam = self._point()
        between: Mapping[str, Tensor] = {name: b + lam * (a - b) for name, a, b in self._pairs(modelb)}
        loss: Tensor = self.criterion(torch.func.functional_call(modelb, dict(between), (input,)), target)
        return loss

    def _point(self) -> float:
        """The share of model a."""
        raise NotImplementedError(f"{type(self).__name__} must define _point")


class MidLoss(_OnTheLine):
    """The loss of the task half-way between model a and a model."""

    def _point(self) -> float:
        return 0.5


class RndLoss(_OnTheLine):
    """The loss of the task at a random point between model a and a model, another in each call.

    Args:
        seed: of the points.
    """

    def __init__(
        self, modela: nn.Module | None = None, criterion: Callable[..., Tensor] | None = None, *, seed: int = 0
    ) -> None:
        super().__init__(modela, criterion)
        self._rng = np.random.default_rng(check_int("seed", seed, 0))

    def _point(self) -> float:
        return float(self._rng.random())
