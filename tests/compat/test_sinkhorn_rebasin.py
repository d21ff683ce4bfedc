"""Scripts of sinkhorn-rebasin run with another import line."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.models import randomise
from lmc_fast.compat import sinkhorn_rebasin
from lmc_fast.compat.sinkhorn_rebasin import (
    DistCosineLoss,
    DistL1Loss,
    DistL2Loss,
    MidLoss,
    RebasinNet,
    RndLoss,
    matching,
)


class MLP(nn.Module):
    def __init__(self, num_hidden: int = 2, inputs: int = 1, width: int = 10, outputs: int = 1) -> None:
        super().__init__()
        sizes = [inputs, *[width] * num_hidden]
        layers = [[nn.Linear(i, o), nn.Tanh()] for i, o in pairwise(sizes)]
        self.hidden = nn.Sequential(*[part for pair in layers for part in pair])
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x.float()))


class CNN(nn.Module):
    """With flattened maps, BatchNorm, and heads that own their dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(24, 8)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))).reshape(-1, 1, 8).expand(-1, 3, -1)
        return self.out(self.attention(x, x, x, need_weights=False)[0].sum(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made = MLP(num_hidden=2)
    randomise(made, 0)
    return made


@pytest.fixture(scope="module")
def made(model: nn.Module) -> RebasinNet:
    return RebasinNet(model, input_shape=(1, 1))


def test_the_alignment_script_finds_what_was_planted(model: nn.Module, made: RebasinNet) -> None:
    """As the example with an MLP does it, step by step."""
    before = deepcopy(model.state_dict())
    pi_model = deepcopy(made)
    pi_model.random_init()
    pi_model.eval()
    target_model = deepcopy(pi_model())
    target = pi_model.p[0].data.clone().numpy().astype("uint8")
    x = torch.randn(5, 1)
    with torch.no_grad():
        torch.testing.assert_close(target_model(x), model(x))
    assert not torch.equal(target_model.hidden[0].weight, model.hidden[0].weight)

    pi_model = deepcopy(made)
    pi_model.identity_init()
    pi_model.train()
    assert np.array_equal(pi_model.p[0].data.clone().numpy(), np.eye(10))
    criterion = DistL2Loss(target_model)
    optimizer = torch.optim.AdamW(pi_model.p.parameters(), lr=0.1)
    for _ in range(50):
        pi_model.train()
        loss_training = criterion(pi_model())
        optimizer.zero_grad()
        loss_training.backward()
        optimizer.step()
        pi_model.eval()
        loss_validation = criterion(pi_model())
        if loss_validation == 0:
            break
    assert loss_validation == 0
    pi_model.eval()
    assert np.array_equal(matching(pi_model.p[0].data.clone()).numpy().astype("uint8"), target)
    assert all(torch.equal(w, model.state_dict()[k]) for k, w in before.items())


@pytest.mark.parametrize("loss", [MidLoss, RndLoss], ids=lambda loss: loss.__name__)
def test_the_connectivity_script_lowers_the_loss_of_the_line(loss: Any) -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = MLP(2, inputs=4, width=8, outputs=3)
        randomise(made, seed)
        models.append(made)
    a, b = models
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 4, generator=generator)
    with torch.no_grad():
        y = b(x).argmax(1)
    pi_model = RebasinNet(a, input_shape=(1, 4), l=1.0, tau=1.0, n_iter=20, permutation_type="broadcast")
    pi_model.identity_init()
    pi_model.to("cpu")
    criterion = loss(b, criterion=nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(pi_model.p.parameters(), lr=0.1)
    middle = MidLoss(b, criterion=nn.CrossEntropyLoss())
    pi_model.eval()
    first = float(middle(pi_model(), x, y))
    for _ in range(30):
        pi_model.train()
        value = criterion(pi_model(), x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    pi_model.eval()
    rebased = deepcopy(pi_model())
    assert float(middle(rebased, x, y)) < first
    with torch.no_grad():
        torch.testing.assert_close(rebased(x), a(x), rtol=1e-4, atol=1e-4)


def test_a_soft_network_is_what_its_matrices_say(model: nn.Module) -> None:
    net = RebasinNet(model, input_shape=(1, 1), l=2.0, tau=0.5, n_iter=200)
    matrices = []
    for p in net.p:
        found = (p.detach() * 4).exp()
        for _ in range(500):
            found = found / found.sum(0)
            found = found / found.sum(1, keepdim=True)
        matrices.append(found)
    soft = net()
    order = [net.names.index(net.spec.axes[f"hidden.{i}.weight"][0].groups[0]) for i in (0, 2)]
    one, two = (matrices[i] for i in order)
    state = model.state_dict()
    torch.testing.assert_close(soft.hidden[0].bias, one @ state["hidden.0.bias"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(soft.hidden[2].weight, two @ state["hidden.2.weight"] @ one.T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(soft.output.weight, state["output.weight"] @ two.T, rtol=1e-3, atol=1e-4)
    assert soft.output.weight.grad_fn is not None and torch.equal(soft.output.bias, state["output.bias"])
    # Scripts call it with inputs, too: a vector is one example.
    x = torch.randn(1)
    assert torch.equal(net(x), soft(x[None])) and torch.equal(net(x[None]), soft(x[None]))


def test_heads_flattened_maps_and_statistics_move() -> None:
    torch.manual_seed(0)
    model = CNN()
    randomise(model, 0)
    model.eval()
    net = RebasinNet(model, input_shape=(2, 3, 4, 4))
    assert sorted(tuple(p.shape) for p in net.p)[-1][0] == 8 and any(p.ndim == 3 for p in net.p)
    net.random_init()
    net.eval()
    x = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        moved = net()
        torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-4)
        assert not torch.equal(moved.bn.running_var, model.bn.running_var)
        other = deepcopy(model)
        other.bn.running_mean += 1
        net.update_batchnorm(other)
        torch.testing.assert_close(net()(x), other(x), rtol=1e-4, atol=1e-4)
    net.train()
    assert net.to(torch.float32)._models[1].bn.running_var.requires_grad is False
    assert not isinstance(net._models[1].bn.running_var, nn.Parameter)
    loss = net()(x).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in net.p) and moved.training
    assert not moved.bn.running_mean.requires_grad
    net.zero_grad()
    assert all(p.grad is None or not p.grad.any() for p in net.p)


def test_a_network_moves_in_dtype_with_all_that_it_holds(model: nn.Module, made: RebasinNet) -> None:
    net = deepcopy(made)
    net()
    assert net.double() is net and all(p.dtype == torch.float64 for p in net.parameters())
    assert len(list(net.parameters())) == 2
    assert net().hidden[0].weight.dtype == torch.float64 and next(model.parameters()).dtype == torch.float32
    net.eval()
    assert net().output.weight.dtype == torch.float64


def test_random_numbers_are_the_network_s_own(model: nn.Module, made: RebasinNet) -> None:
    state = torch.get_rng_state()
    one, other = (RebasinNet(model, (1, 1), seed=seed) for seed in (0, 1))
    assert torch.equal(one.p[0], made.p[0]) and not torch.equal(one.p[0], other.p[0])
    one.random_init()
    first = one.p[0].clone()
    one.random_init()
    assert not torch.equal(one.p[0], first) and torch.equal(one.p[0].sum(0), torch.ones(10))
    assert torch.equal(torch.get_rng_state(), state)


def test_permutations_may_stay(model: nn.Module, made: RebasinNet) -> None:
    names = made.names
    none = RebasinNet(model, (1, 1), remove_nodes=names)
    none.eval()
    assert len(none.p) == 0 and torch.equal(none().output.weight, model.output.weight)


def test_losses_are_their_formulas(model: nn.Module) -> None:
    torch.manual_seed(5)
    other = MLP(num_hidden=2)
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    count = sum(p.numel() for p in other.parameters())
    cosines = [1 - nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) + 2 for a, b in pairs]
    wanted: dict[Any, Tensor] = {
        DistL2Loss: sum((a - b).square().sum() for a, b in pairs) / count,
        DistL1Loss: sum((a - b).abs().sum() for a, b in pairs) / count,
        DistCosineLoss: sum(cosines) / count,
    }
    for kind, value in wanted.items():
        criterion = kind()
        with pytest.raises(ValueError, match="modela must be given"):
            criterion(other)
        criterion.set_model(model)
        torch.testing.assert_close(criterion(other), value)
    # The model compared with is no part of the loss, and keeps its gradients.
    assert all(p.requires_grad for p in model.parameters()) and not list(DistL2Loss(model).parameters())
    x, y = torch.randn(6, 1), torch.randn(6, 1)
    middle = deepcopy(other)
    with torch.no_grad():
        for mid, (a, b) in zip(middle.parameters(), pairs, strict=True):
            mid.copy_((a + b) / 2)
    torch.testing.assert_close(MidLoss(model)(other, x, y), nn.functional.mse_loss(middle(x), y))
    random = RndLoss(model, seed=3)
    assert random(other, x, y) != random(other, x, y)
    assert RndLoss(model, seed=3)(other, x, y) == RndLoss(model, seed=3)(other, x, y)


def test_a_loss_of_one_s_own_says_what_it_lacks(model: nn.Module) -> None:
    for base, call in ((sinkhorn_rebasin._Distance, (model,)), (sinkhorn_rebasin._OnTheLine, (model, 0, 0))):
        with pytest.raises(NotImplementedError, match="Mine must define _"):
            type("Mine", (base,), {})(model)(*call)


def test_matching_is_an_assignment() -> None:
    scores = np.array([[1.0, 5.0, 0.0], [4.0, 9.0, 1.0], [0.0, 2.0, 3.0]])
    assert matching(scores).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert matching(torch.from_numpy(scores), maximize=True).tolist() == matching(-scores).tolist()
    assert matching(scores).dtype == torch.int64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: RebasinNet(3, (1, 1)), TypeError, "model must be a torch.nn.Module"),
        (lambda m: RebasinNet(m, 3), TypeError, "input_shape must be a sequence of whole numbers"),
        (lambda m: RebasinNet(m, (1, 1), operator="plain"), ValueError, "operator must be 'implicit'"),
        (lambda m: RebasinNet(m, (1, 1), permutation_type="x"), ValueError, "permutation_type must be"),
        (lambda m: RebasinNet(m, (1, 1), tau=0), ValueError, "tau must be above 0, got 0"),
        (lambda m: RebasinNet(m, (1, 1), n_iter=0), ValueError, "n_iter must be"),
        (lambda m: RebasinNet(m, (1, 1), remove_nodes=[0]), TypeError, "remove_nodes must be names of permutations"),
        (lambda m: DistL2Loss(3), TypeError, "modela must be a torch.nn.Module"),
        (lambda m: DistL1Loss(m)(MLP(3)), ValueError, "only one of them has 'hidden.4.weight'"),
        (lambda m: MidLoss(m)(3, 1, 1), TypeError, "modelb must be a torch.nn.Module"),
        (lambda m: matching(np.eye(2), rows=1), TypeError, "matching takes maximize besides alpha, got rows"),
    ],
    ids=lambda value: "" if callable(value) else None,
)
def test_the_argument_is_named(call: Any, error: type[Exception], message: str, model: nn.Module) -> None:
    with pytest.raises(error, match=message):
        call(model)
