"""What torch's layers refuse is said with the batch's name; what is compiled is differentiated as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lmc_fast as lmc

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(7) % 3


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(words).mean(1))
        return out


def untracked() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


REFUSED: dict[str, tuple[Callable[[], nn.Module], list[Any], int]] = {
    "a last batch of one": (untracked, [(X[:6], Y[:6]), (X[6:], Y[6:])], 1),
    "words beyond the vocabulary": (Words, [(torch.full((7, 2), 5), Y)], 0),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("call", [lmc.evaluate, lambda m, b: lmc.loss_barrier(m, m, b, lambdas=2)], ids=["one", "two"])
def test_the_batch_is_named(kind: str, call: Callable[[nn.Module, Any], object]) -> None:
    make, batches, index = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"batches\[{index}\] must fit the model"):
        call(make(), batches)


def test_what_the_model_says_itself_stays_what_it_is() -> None:
    class Particular(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise IndexError("no such thing")

    with pytest.raises(IndexError, match=r"^no such thing$"):
        lmc.evaluate(Particular(5, 3), [(X, Y)])


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 can run compiled parts as written")
def test_compiled_losses_and_parts_have_second_derivatives() -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    compiled = torch.compile(loss, backend="eager")
    expected = lmc.taylor_barrier(a, b, [(X, Y)], loss_fn=loss)
    assert lmc.taylor_barrier(a, b, [(X, Y)], loss_fn=compiled).a.curvature == pytest.approx(expected.a.curvature)
    trace = lmc.hessian_trace(a, [(X, Y)], loss_fn=loss, probes=2).trace
    assert lmc.hessian_trace(a, [(X, Y)], loss_fn=compiled, probes=2).trace == pytest.approx(trace)
