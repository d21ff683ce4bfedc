"""What is trained and how often, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..recipes import Recipe
from ..transformer_ways import WAYS

__all__ = [
    "METHODS",
    "Network",
    "Settings",
    "Sweep",
    "Transformers",
    "quick_settings",
    "standard_settings",
]

# Every way of matching that is measured, and what the tables call it.
METHODS = {
    "wm": "weight matching (WM)",
    "am": "activation matching (AM)",
    "ste": "straight-through (STE), random start",
    "ste_wm": "straight-through (STE), from WM",
    "sinkhorn": "Sinkhorn, midpoint loss",
}


@dataclass(frozen=True)
class Network:
    """One architecture, trained from three seeds a trial.

    Attributes:
        name: in tables and figures.
        recipe: how it is made and trained.
        trials: triples of models, each from seeds of its own.
        methods: names in `METHODS`; "wm", "am" and "ste" are always among them, as the claims are about these.
        ste_epochs: passes over the training part for straight-through estimation.
        sinkhorn_steps: of Sinkhorn re-basin.
    """

    name: str
    recipe: Recipe
    trials: int
    methods: tuple[str, ...]
    ste_epochs: int = 10
    sinkhorn_steps: int = 60


@dataclass(frozen=True)
class Sweep:
    """One property of a network's recipe, changed over some values.

    Attributes:
        name: "width", "weight_decay" or "learning_rate".
        values: rising.
        trials: pairs of models for each.
        network: the name of one of the settings' networks; empty: the first.
    """

    name: str
    values: tuple[float, ...]
    trials: int
    network: str = ""

    @property
    def key(self) -> str:
        """The name, behind that of the network where it is told: what stages and results go by."""
        return f"{self.network.lower()}-{self.name}" if self.network else self.name

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.network} {self.name}".strip().replace("_", " ")

    def recipe(self, base: Recipe, value: float) -> Recipe:
        """The base recipe with this value."""
        changed: dict[str, Any] = {self.name: int(value) if self.name == "width" else value}
        return replace(base, **changed)


@dataclass(frozen=True)
class Transformers:
    """Pairs of small vision transformers, laid over each other by permutations and by rotations.

    Attributes:
        pairs: of models.
        width, layers: of each.
        least_passes: of training over the data, however large it is.
        steps: of learning at most.
        ways: of `WAYS`; "nothing", one of permutations and "learned" are always among them.
        judging: examples of the training part that no model sees: what learning is judged by.
    """

    pairs: int
    width: int = 64
    layers: int = 3
    least_passes: int = 3
    steps: int = 300
    ways: tuple[str, ...] = WAYS
    judging: int = 180


@dataclass(frozen=True)
class Settings:
    """A whole run.

    Attributes:
        seed: of the first model; all others are derived from it.
        networks: what is measured in full; sweeps start from the first.
        sweeps: for claim 9; those of the first network are judged.
        gammas: thresholds of R; the first is 0.
        lambdas: points of every curve.
        landscape: points along each axis of the loss over the plane of three models; 0: none.
        examples, test_examples: of the data set's two parts as many at most, evenly spaced; None: all.
        transformers: the part on transformers; None: without it.
    """

    seed: int
    networks: tuple[Network, ...]
    sweeps: tuple[Sweep, ...]
    gammas: tuple[float, ...] = (0.0, 0.3)
    lambdas: int = 11
    landscape: int = 15
    examples: int | None = None
    test_examples: int | None = None
    transformers: Transformers | None = None

    def described(self) -> dict[str, Any]:
        """Every setting, as JSON takes it."""
        return {
            "seed": self.seed,
            "networks": [
                {
                    "name": network.name,
                    "recipe": network.recipe.described(),
                    "trials": network.trials,
                    "methods": list(network.methods),
                    "ste_epochs": network.ste_epochs,
                    "sinkhorn_steps": network.sinkhorn_steps,
                }
                for network in self.networks
            ],
            "sweeps": [{"name": s.key, "values": list(s.values), "trials": s.trials} for s in self.sweeps],
            "gammas": list(self.gammas),
            "lambdas": self.lambdas,
            "landscape": self.landscape,
            "examples": [self.examples, self.test_examples],
            "transformers": None if self.transformers is None else asdict(self.transformers),
        }


def standard_settings(seed: int = 0, transformers: bool = False) -> Settings:
    """Five triples of MLPs and four of ResNets, and four sweeps: under half an hour on digits with two cores."""
    mlp = Recipe("mlp", 512, (3,), steps=440, least_epochs=5, learning_rate=2e-3, weight_decay=0.5)
    resnet = Recipe("resnet", 32, (1, 1, 1), steps=220, least_epochs=2, learning_rate=1e-2, weight_decay=1.0)
    return Settings(
        seed=seed,
        networks=(
            Network("MLP", mlp, 5, tuple(METHODS)),
            Network("ResNet", resnet, 4, ("wm", "am", "ste"), ste_epochs=4),
        ),
        sweeps=(
            Sweep("width", (64, 128, 256, 512, 1024), 5),
            Sweep("weight_decay", (0.0, 0.1, 0.5, 1.0), 5),
            Sweep("learning_rate", (5e-4, 1e-3, 2e-3, 4e-3), 5),
            Sweep("width", (4, 8, 16, 32), 4, "ResNet"),
        ),
        transformers=Transformers(pairs=5) if transformers else None,
    )


def quick_settings(seed: int = 0, transformers: bool = False) -> Settings:
    """Three triples of MLPs, and two values in each sweep: under three minutes."""
    mlp = Recipe("mlp", 256, (3,), steps=330, least_epochs=2, learning_rate=2e-3, weight_decay=0.5)
    return Settings(
        seed=seed,
        networks=(Network("MLP", mlp, 3, ("wm", "am", "ste"), ste_epochs=6),),
        sweeps=(
            Sweep("width", (64, 256), 3),
            Sweep("weight_decay", (0.0, 0.5), 3),
            Sweep("learning_rate", (5e-4, 2e-3), 3),
        ),
        lambdas=9,
        landscape=9,
        # What takes time grows with them.
        examples=4000,
        test_examples=1000,
        transformers=Transformers(pairs=3) if transformers else None,
    )
