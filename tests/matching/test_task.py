"""Losses of a task whose weights are given: which gradients they have, and what is left as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lmc_fast as lmc
from lmc_fast.experiments.processes import one_thread
from lmc_fast.matching.engine.task import TaskLoss

CPU = torch.device("cpu")
B = [(torch.randn(12, 5), torch.randint(0, 3, (12,)))]


class Net(nn.Module):
    """An embedding of numbers or of floats, a part that may be checkpointed, and one that is not used."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.fc1, self.mid, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.aux = nn.Linear(8, 2)
        self.drop = nn.Dropout(0.5)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.relu(self.mid(torch.relu(self.fc1(x))))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "plain":
            return self.fc2(self.drop(self.hidden(x)))
        x = checkpoint(self.hidden, x, use_reentrant=self.how == "reentrant")
        return self.fc2(self.drop(x))


SPEC = lmc.PermutationSpec.from_axes(
    {
        "fc1.weight": ("P", None),
        "fc1.bias": ("P",),
        "mid.weight": ("Q", "P"),
        "mid.bias": ("Q",),
        "fc2.weight": (None, "Q"),
        "fc2.bias": (None,),
        "aux.weight": (None, "Q"),
        "aux.bias": (None,),
    }
)
KINDS = ["plain", "not reentrant", "reentrant"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch says so of every reentrant pass without gradients.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        yield


def by_hand(weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    points = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(Net().eval(), points, (B[0][0],)), B[0][1])
    grads = torch.autograd.grad(loss, list(points.values()), materialize_grads=True, allow_unused=True)
    return loss, dict(zip(points, grads, strict=True))


@pytest.mark.parametrize("how", KINDS)
def test_gradients_are_those_of_the_given_weights(how: str) -> None:
    model, other = Net(how), Net()
    weights = {name: tensor.detach().clone() for name, tensor in other.named_parameters()}
    task = TaskLoss(model, B, nn.functional.cross_entropy, list(weights), CPU)
    (batch,) = task.once()
    wanted, grads = by_hand(weights)
    # The first call finds out how the second is to be done.
    for _ in range(2):
        loss, got = task.gradient(weights, batch)
        assert loss == wanted.item() and got.keys() == grads.keys()
        assert all(torch.equal(got[name], grads[name]) for name in grads)
    assert bool((got["aux.weight"] == 0).all()) and bool((got["fc1.weight"] != 0).any())
    assert all(not tensor.requires_grad and tensor.grad is None for tensor in weights.values())
    assert all(p.grad is None for p in model.parameters()) and not B[0][0].requires_grad


@pytest.mark.parametrize("name", ["straight-through", "sinkhorn", "ste_mm"])
def test_checkpointed_models_are_matched_as_plain_ones(name: str) -> None:
    def found(how: str) -> Any:
        torch.manual_seed(4)
        a, b = Net(how), Net(how)
        if name == "straight-through":
            match = lmc.straight_through_matching(a, b, B, SPEC, epochs=3, init="random", learning_rate=0.05)
        elif name == "sinkhorn":
            match = lmc.sinkhorn_matching(
                a, b, SPEC, batches=B, loss="midpoint", steps=20, check_every=2, init="random"
            )
        else:
            many = lmc.match_many([a, b, Net(how)], SPEC, method="ste_mm", batches=B, epochs=2, init="random")
            return many.permutations, many.objective
        return match.permutations, [step.objective for step in match.history]

    wanted = found("plain")
    assert found("not reentrant") == wanted
    assert found("reentrant") == wanted


def test_gradients_of_the_callers_own_tensors_stay() -> None:
    """A loss with weights of its own, over a forward pass that asks for a backward pass of all of them."""
    teacher = nn.Linear(5, 3)
    teacher.weight.grad = torch.ones(3, 5)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, teacher(B[0][0]))

    model = Net("reentrant")
    names = [name for name, _ in model.named_parameters()]
    task = TaskLoss(model, B, loss, names, CPU)
    (batch,) = task.once()
    task.gradient(dict(model.state_dict()), batch)
    assert torch.equal(teacher.weight.grad, torch.ones(3, 5)) and teacher.bias.grad is None


def test_inputs_that_are_written_to() -> None:
    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone()[:, :5].mul_(1.0) if self.how == "plain" else x.mul_(1.0))

    model = InPlace("reentrant")
    task = TaskLoss(model, B, nn.functional.cross_entropy, [name for name, _ in model.named_parameters()], CPU)
    (batch,) = task.once()
    assert task.gradient(dict(model.state_dict()), batch)[0] == pytest.approx(task.mean_loss(dict(model.state_dict())))


def test_tied_weights_of_half_precision() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    model = Tied().bfloat16()
    weights = {"one.weight": model.one.weight.detach().float()}
    batches = [(B[0][0].bfloat16(), B[0][1])]
    task = TaskLoss(model, batches, nn.functional.cross_entropy, ["one.weight", "two.weight"], CPU)
    (batch,) = task.once()
    loss, grads = task.gradient(weights, batch)
    assert grads["one.weight"].dtype == torch.float32 and loss == pytest.approx(task.mean_loss(weights))


def test_models_that_were_made_in_inference_mode() -> None:
    with torch.inference_mode():
        a, b = Net(), Net()
    lmc.straight_through_matching(a, b, B, SPEC, epochs=1)
    lmc.sinkhorn_matching(a, b, SPEC, batches=B, loss="midpoint", steps=2)


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 6, num_layers=2, dropout=0.5, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(self.rnn(x)[0][:, -1])))


def recurrent(kind: str, device: str) -> None:
    """Both searches, the second-order estimate against differences of the loss, and the barrier."""
    torch.manual_seed(0)
    a, b = Recurrent(kind).double().to(device), Recurrent(kind).double().to(device)
    axes: dict[str, Any] = {name: (None,) * tensor.ndim for name, tensor in a.state_dict().items()}
    axes |= {"fc1.weight": ("P", None), "fc1.bias": ("P",), "fc2.weight": (None, "P")}
    spec = lmc.PermutationSpec.from_axes(axes)
    batches = [(torch.randn(8, 4, 5).double(), torch.randint(0, 3, (8,)))]
    lmc.straight_through_matching(a, b, batches, spec, epochs=1)
    lmc.sinkhorn_matching(a, b, spec, batches=batches, loss="midpoint", steps=2)
    names = [name for name, _ in a.named_parameters()]
    task = TaskLoss(a, batches, nn.functional.cross_entropy, names, torch.device(device))
    # Dropout is off.
    (batch,) = task.once()
    assert task.gradient(dict(a.state_dict()), batch)[0] == pytest.approx(lmc.evaluate(a, batches)[0], rel=1e-9)
    found, h = lmc.taylor_barrier(a, b, batches).a, 1e-3
    low, middle, high = (lmc.evaluate(lmc.interpolate(a, b, d), batches)[0] for d in (-h, 0.0, h))
    assert found.loss == pytest.approx(middle, rel=1e-9)
    assert found.slope == pytest.approx((high - low) / (2 * h), rel=1e-4)
    assert found.curvature == pytest.approx((high - 2 * middle + low) / h**2, rel=1e-4)
    # Another model's weights give another loss: the layer's own copies of them are not what counts.
    assert lmc.loss_barrier(a, b, batches, lambdas=3).loss[-1] == pytest.approx(lmc.evaluate(b, batches)[0], rel=1e-9)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers(kind: str) -> None:
    recurrent(kind, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers_on_a_gpu(kind: str) -> None:
    recurrent(kind, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["straight-through", "activation", "repair", "taylor"])
def test_batches_go_to_the_gpu(name: str) -> None:
    a, b = Net().cuda(), Net().cuda()
    batches = [{"x": B[0][0].numpy(), "labels": B[0][1].numpy()}]
    if name == "straight-through":
        lmc.straight_through_matching(a, b, batches, SPEC, epochs=1)
    elif name == "activation":
        lmc.activation_matching(a, b, batches, SPEC)
    elif name == "repair":
        lmc.repair(lmc.interpolate(a, b, 0.5), [a, b], batches, spec=SPEC)
    else:
        assert lmc.taylor_barrier(a, b, batches).a.loss == pytest.approx(lmc.evaluate(a, batches)[0], rel=1e-5)


def trained_net(seed: int, *, mode: bool) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3)]
    return nn.Sequential(*layers).train(mode)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_threads_may_share_models(training: bool) -> None:
    """To the bit, and so with operations of one thread: how many share one out changes its rounding."""
    with one_thread():
        share_models(training)


def share_models(training: bool) -> None:
    a, b = trained_net(0, mode=training), trained_net(1, mode=training)
    spec = lmc.architectures.mlp(a)
    batches = [(torch.randn(32, 6), torch.zeros(32, dtype=torch.long)) for _ in range(6)]
    kept = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    functions = [
        lambda: lmc.activation_matching(a, b, batches, spec).permutations,
        lambda: [layer.cosines.tolist() for layer in lmc.input_alignment(a, batches).layers],
        lambda: lmc.evaluate(a, batches),
        lambda: lmc.loss_barrier(a, b, batches, lambdas=3).loss.tolist(),
        lambda: lmc.repair(a, [a, b], batches, spec=spec)[0].bias.tolist(),
        lambda: lmc.taylor_barrier(a, b, batches[:1]).a,
    ]
    wanted = [function() for function in functions]
    with ThreadPoolExecutor(6, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # Twice each, so that the same function meets itself too.
        found = list(pool.map(lambda k: functions[k % 6](), range(24)))
    assert [result == wanted[k % 6] for k, result in enumerate(found)] == [True] * 24
    assert all(part.training == training for model in (a, b) for part in model.modules())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in a.state_dict().items())
    assert not any(part._forward_hooks for model in (a, b) for part in model.modules())
