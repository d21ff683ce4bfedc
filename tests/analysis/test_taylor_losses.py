"""The second-order estimate of every loss that torch has, and of layers that forward-mode derivatives do not reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import lmc_fast as lmc
from lmc_fast.analysis import twice
from lmc_fast.analysis.taylor import hessian_vector_product

functional = nn.functional
GENERATOR = torch.Generator().manual_seed(0)
N = 12


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


CLASSES = torch.randint(0, 3, (N,), generator=GENERATOR)
REALS, SIGNS, BITS = draw(N, 3), draw(N, 3).sign(), (draw(N, 3) > 0).double()
SHARES = draw(N, 3).softmax(1)
X = draw(N, 5)

Loss = Callable[[Tensor, Tensor], Tensor]
# Loss, targets, and what stands behind the last layer.
LOSSES: dict[str, tuple[Loss, Tensor, nn.Module]] = {
    "mse_loss": (functional.mse_loss, REALS, nn.Identity()),
    "l1_loss": (functional.l1_loss, REALS, nn.Identity()),
    "smooth_l1_loss": (functional.smooth_l1_loss, REALS, nn.Identity()),
    "huber_loss": (functional.huber_loss, REALS, nn.Identity()),
    "cross_entropy": (functional.cross_entropy, CLASSES, nn.Identity()),
    "cross_entropy of shares": (functional.cross_entropy, SHARES, nn.Identity()),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, nn.Identity()),
    "partial": (partial(functional.cross_entropy, label_smoothing=0.1), CLASSES, nn.Identity()),
    "nll_loss": (functional.nll_loss, CLASSES, nn.LogSoftmax(1)),
    "binary_cross_entropy": (functional.binary_cross_entropy, BITS, nn.Sigmoid()),
    "with_logits": (functional.binary_cross_entropy_with_logits, BITS, nn.Identity()),
    "kl_div": (nn.KLDivLoss(reduction="batchmean"), SHARES, nn.LogSoftmax(1)),
    "poisson_nll_loss": (functional.poisson_nll_loss, BITS, nn.Identity()),
    "gaussian_nll_loss": (
        lambda o, t: functional.gaussian_nll_loss(o[:, :1], t[:, :1], functional.softplus(o[:, 1:2])),
        REALS,
        nn.Identity(),
    ),
    "soft_margin_loss": (functional.soft_margin_loss, SIGNS, nn.Identity()),
    "multilabel_soft_margin_loss": (functional.multilabel_soft_margin_loss, BITS, nn.Identity()),
    "hinge_embedding_loss": (functional.hinge_embedding_loss, SIGNS, nn.Identity()),
    "cosine_embedding_loss": (
        lambda o, t: functional.cosine_embedding_loss(o, t, torch.ones(N)),
        REALS,
        nn.Identity(),
    ),
    "margin_ranking_loss": (
        lambda o, t: functional.margin_ranking_loss(o[:, 0], o[:, 1], t[:, 0]),
        SIGNS,
        nn.Identity(),
    ),
    "triplet_margin_loss": (lambda o, t: functional.triplet_margin_loss(o, t, t.flip(0)), REALS, nn.Identity()),
    "multi_margin_loss": (functional.multi_margin_loss, CLASSES, nn.Identity()),
    "MultiMarginLoss, squared": (
        nn.MultiMarginLoss(p=2, weight=torch.tensor([1.0, 2, 3]).double()),
        CLASSES,
        nn.Tanh(),
    ),
    "multilabel_margin_loss": (functional.multilabel_margin_loss, torch.tensor([[0, 2, -1]] * N), nn.Identity()),
    "ctc_loss": (
        lambda o, t: functional.ctc_loss(
            o.reshape(6, 2, 3).log_softmax(-1), torch.tensor([[1, 2], [1, 1]]), (6, 5), (2, 2)
        ),
        REALS,
        nn.Identity(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_products_are_those_of_the_gradient_along_the_line(name: str) -> None:
    loss_fn, targets, last = LOSSES[name]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3), last).double()
    state = dict(model.state_dict())
    direction = {key: torch.randn_like(p) for key, p in model.named_parameters()}
    found = hessian_vector_product(model, state, direction, X, targets, loss_fn)

    def gradient(shift: float) -> list[Tensor]:
        point = {key: (state[key] + shift * direction[key]).requires_grad_() for key in direction}
        return list(torch.autograd.grad(loss_fn(functional_call(model, point, (X,)), targets), list(point.values())))

    assert float(found[0]) == pytest.approx(float(loss_fn(model(X), targets)))
    h, size = 1e-5, 0.0
    for low, slope, high, key in zip(gradient(-h), gradient(0.0), gradient(h), direction, strict=True):
        torch.testing.assert_close(found[1][key], slope)
        torch.testing.assert_close(found[2][key], (high - low) / (2 * h), rtol=3e-5, atol=1e-6)
        size += float(found[2][key].norm())
    assert size > 0.1


def test_a_loss_of_torch_is_the_same_loss_by_hand() -> None:
    a, b = (nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double() for _ in range(2))
    theirs = lmc.taylor_barrier(a, b, [(X, REALS)], loss_fn=functional.mse_loss)
    mine = lmc.taylor_barrier(a, b, [(X, REALS)], loss_fn=lambda o, t: (o - t).square().mean())
    for end in ("a", "b"):
        for part in ("loss", "slope", "curvature"):
            assert getattr(getattr(theirs, end), part) == pytest.approx(getattr(getattr(mine, end), part), rel=1e-10)


@pytest.mark.parametrize("name", ["cross_entropy", "mse_loss"])
def test_models_that_were_made_in_inference_mode(name: str) -> None:
    with torch.inference_mode():
        model = nn.Linear(5, 3).double()
    loss_fn, targets, _ = LOSSES[name]
    assert lmc.taylor_barrier(model, model, [(X, targets)], loss_fn=loss_fn).a.loss > 0


class Net(nn.Module):
    """A part that may be checkpointed, one that is not used, and a head that is linear in its weights."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.fc1, self.fc2, self.aux = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "plain":
            return self.fc2(torch.tanh(self.fc1(x)))
        return self.fc2(checkpoint(lambda z: torch.tanh(self.fc1(z)), x, use_reentrant=self.how == "reentrant"))


def test_checkpointed_models_have_the_estimate_of_plain_ones() -> None:
    plain = [Net().double() for _ in range(2)]
    kept = [Net("not reentrant").double() for _ in range(2)]
    for model, twin in zip(kept, plain, strict=True):
        model.load_state_dict(twin.state_dict())
    wanted, found = (lmc.taylor_barrier(*models, [(X, CLASSES)]) for models in (plain, kept))
    for end in ("a", "b"):
        for part in ("loss", "slope", "curvature"):
            assert getattr(getattr(found, end), part) == pytest.approx(getattr(getattr(wanted, end), part), rel=1e-10)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_is_named() -> None:
    model = Net("reentrant").double()
    with pytest.raises(ValueError, match="reentrant activation checkpointing has none"):
        lmc.taylor_barrier(model, model, [(X, CLASSES)])


def test_what_torch_differentiates_but_once_is_named() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh()).double()
    with pytest.raises(ValueError, match="model_a and loss_fn must have second derivatives, but a function in them"):
        lmc.taylor_barrier(
            model, model, [(X, CLASSES)], loss_fn=lambda o, t: functional.cross_entropy(Once.apply(o), t)
        )


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    a, b = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        # Not for functorch, for the other way to be taken.
        return Keeping.apply(outputs).mean()

    found = lmc.taylor_barrier(a, b, [(X, CLASSES)], loss_fn=loss)
    assert found.a.curvature == found.b.curvature == 0 and found.a.slope == pytest.approx(found.b.slope)
    assert found.a.slope == pytest.approx(found.b.loss - found.a.loss)


class Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_written_anew_are_those_of_torch(reduction: str) -> None:
    scores, weight = draw(N, 4).requires_grad_(), draw(4).abs()
    classes = torch.randint(0, 4, (N,), generator=GENERATOR)
    labels = torch.stack([torch.randperm(4, generator=GENERATOR) for _ in range(N)])
    labels[:4, 2:], labels[4, 0] = -1, -1
    logits = draw(9, 4, 5).requires_grad_()
    logs = logits.log_softmax(-1)
    rows = torch.randint(1, 5, (4, 4), generator=GENERATOR)
    rows[0] = 2
    lengths, sizes = torch.tensor([9, 9, 7, 3]), torch.tensor([4, 3, 0, 3])
    ends = torch.cat([row[:size] for row, size in zip(rows, sizes, strict=True)])
    cases: list[tuple[str, Tensor, tuple[Any, ...], dict[str, Any]]] = [
        ("multi_margin_loss", scores, (classes,), {}),
        ("multi_margin_loss", scores, (classes,), {"p": 2, "margin": 0.5, "weight": weight}),
        ("multilabel_margin_loss", scores, (labels,), {}),
        ("ctc_loss", logs, (rows, lengths, sizes), {}),
        ("ctc_loss", logs, (ends, tuple(lengths.tolist()), tuple(sizes.tolist())), {"zero_infinity": True}),
        ("ctc_loss", logs, (rows % 4, lengths, sizes), {"blank": 4}),
    ]
    for name, given, args, options in cases:
        mine, theirs = (
            getattr(where, name)(given, *args, reduction=reduction, **options) for where in (twice, functional)
        )
        torch.testing.assert_close(mine, theirs)
        point = logits if given is logs else given
        grads = [torch.autograd.grad(value.sum(), point, retain_graph=True)[0] for value in (mine, theirs)]
        torch.testing.assert_close(*grads)


def test_one_example_and_a_path_that_does_not_fit() -> None:
    logs = draw(3, 5).log_softmax(-1)
    for size in (2, 3):
        # Two equal labels need a blank between them: three steps hold two of them, not three.
        args = (logs, torch.ones(size, dtype=torch.long), torch.tensor(3), torch.tensor(size))
        assert twice.ctc_loss(*args).item() == pytest.approx(functional.ctc_loss(*args).item())
    assert twice.ctc_loss(*args, zero_infinity=True).item() == 0
    scores = draw(4)
    for name, target in (
        ("multi_margin_loss", torch.tensor(2)),
        ("multilabel_margin_loss", torch.tensor([1, -1, 0, 0])),
    ):
        mine, theirs = (getattr(where, name)(scores, target, size_average=False) for where in (twice, functional))
        torch.testing.assert_close(mine, theirs)
