"""Federated averaging of ten clients, each from a start of its own, with matching and without.

Every client sees its own share of the digits (a Dirichlet distribution over classes, as is usual in this field), starts
from its own seed, and sends its weights once. Averaging them as they are gives little, since their hidden units come in
other orders; laid over each other first, they make one model. Further rounds go on from it, where all clients start
from the same weights.

    python examples/federated.py --clients 10 --concentration 1.0 --rounds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import lmc_fast as lmc
from lmc_fast.experiments.datasets import Dataset, digits

CLASSES = 10


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def shares(targets: Tensor, clients: int, concentration: float, seed: int) -> list[Tensor]:
    """For each client the indices of its examples: each class is dealt out by a draw from a Dirichlet distribution."""
    random = np.random.default_rng(seed)
    dealt: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        members = random.permutation(np.flatnonzero(targets.numpy() == label))
        ends = np.cumsum(random.dirichlet([concentration] * clients))[:-1] * len(members)
        for client, some in enumerate(np.split(members, ends.astype(int))):
            dealt[client].append(some)
    return [torch.from_numpy(np.concatenate(some)) for some in dealt]


def train(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int, seed: int) -> nn.Module:
    """Some steps of Adam on one client's examples."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        some = torch.randint(len(inputs), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[some]), targets[some]).backward()
        optimizer.step()
    return model


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument(
        "--concentration", type=float, default=1.0, help="of the Dirichlet draw; small: few classes each"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of training on every client and averaging")
    parser.add_argument("--steps", type=int, default=200, help="of Adam on every client in each round")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)

    data: Dataset = digits()
    parts = shares(data.train_targets, given.clients, given.concentration, given.seed)
    sizes = [len(part) / len(data.train_targets) for part in parts]
    print(f"{given.clients} clients with {', '.join(str(len(part)) for part in parts)} examples", flush=True)

    def trained(start: nn.Module | None, turn: int) -> list[nn.Module]:
        models = []
        for client, part in enumerate(parts):
            torch.manual_seed(given.seed + 1000 * turn + client)
            model = network(given.width)
            if start is not None:
                model.load_state_dict(start.state_dict())
            models.append(train(model, data.train_inputs[part], data.train_targets[part], given.steps, client))
        return models

    def accuracy(model: nn.Module) -> float:
        return lmc.evaluate(model, data.test_batches())[1]

    clients = trained(None, 0)
    spec = lmc.derive_spec(clients[0], data.test_inputs[:2])
    alone = [accuracy(model) for model in clients]
    # Clients count by their examples, as in federated averaging.
    plain = lmc.merge(clients, weights=sizes)
    match = lmc.match_many(clients, spec)
    matched = lmc.merge(clients, match, weights=sizes)
    found = {
        "clients, mean": sum(alone) / len(alone),
        "clients, best": max(alone),
        "averaged": accuracy(plain),
        "matched, averaged": accuracy(matched),
    }
    for turn in range(1, given.rounds):
        # From the same weights units stay where they are, so that nothing has to be matched.
        for name, start in (("averaged", plain), ("matched, averaged", matched)):
            merged = lmc.merge(trained(start, turn), weights=sizes)
            found[f"{name}, round {turn + 1}"] = accuracy(merged)
            if name == "averaged":
                plain = merged
            else:
                matched = merged
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value:.3f}")
    return found


if __name__ == "__main__":
    main()
