"""How long stages take, roughly, before any has been done: what is left is told from these and from what was done.

Seconds of one thread of a processor that does `SPEED` multiplications and additions a second, and twice as many in
training. Only how stages of one sort compare with each other matters: their pace is learned from those that are done.
"""

from __future__ import annotations

from ..datasets import Dataset
from ..recipes import Recipe
from .settings import Network, Settings, Transformers

__all__ = ["measuring_pair", "measuring_trial", "training", "transformers"]

SPEED = 2e10
# Of one step of training beside its products, of one model evaluated, and of one assignment of a projection.
STEP, CALL, PROJECTION = 0.75e-3, 1.5e-3, 5e-3
# A step of training is a pass forward and two backward; a product of the Taylor estimate is about two steps.
STEPS_IN_TAYLOR = 4


def _work(recipe: Recipe, data: Dataset) -> float:
    """Multiplications and additions of one example, forward."""
    channels, height, width = data.image_shape
    area, w = height * width, recipe.width
    if recipe.kind == "mlp":
        return 2.0 * (channels * area * w + (recipe.blocks[0] - 1) * w * w + w * data.classes)
    # Of a ResNet every stage does the same: four times the weights at a quarter of the places.
    layers = 2 * sum(recipe.blocks) if recipe.kind == "resnet" else 8
    return 2.0 * 9 * w * w * area * layers


def _step(recipe: Recipe, data: Dataset) -> float:
    return STEP + 3 * recipe.batch_size * _work(recipe, data) / (2 * SPEED)


def _evaluation(recipe: Recipe, data: Dataset) -> float:
    return CALL + len(data.test_inputs) * _work(recipe, data) / SPEED


def training(recipe: Recipe, data: Dataset) -> float:
    """Of one model."""
    steps = recipe.epochs(data) * max(1, len(data.train_inputs) // recipe.batch_size)
    return steps * _step(recipe, data)


def measuring_pair(recipe: Recipe, data: Dataset, settings: Settings) -> float:
    """What `measure_pair` does."""
    return 0.05 + 2 * settings.lambdas * _evaluation(recipe, data)


def measuring_trial(network: Network, data: Dataset, settings: Settings, *, landscape: bool) -> float:
    """What `measure_trial` does."""
    recipe = network.recipe
    evaluation, step = _evaluation(recipe, data), _step(recipe, data)
    one_way = (2 * settings.lambdas + 3 * STEPS_IN_TAYLOR) * evaluation
    learned = [method for method in network.methods if method.startswith("ste")]
    batches = max(1, len(data.train_inputs) // recipe.batch_size)
    searches = 2 * len(learned) * network.ste_epochs * batches * (step + PROJECTION)
    if "sinkhorn" in network.methods:
        searches += 2 * network.sinkhorn_steps * (step + 10 * PROJECTION)
    # Of the plane by weight matching, and that by straight-through.
    planes = 2 * settings.landscape**2 * evaluation if landscape else 0.0
    return (1 + len(network.methods)) * one_way + searches + planes


def transformers(part: Transformers, data: Dataset) -> float:
    """Of one pair, trained and laid over each other."""
    return 10.0 + 0.15 * part.steps * (part.width / 64) ** 2 * part.layers / 3 + 2e-3 * len(data.test_inputs)
