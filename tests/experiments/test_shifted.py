"""Images that are moved by a few pixels, for learning to see more of them than there are."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmc_fast.experiments.datasets import Batches, Dataset, Shifted
from lmc_fast.experiments.transformer_ways import Setting

IMAGES = torch.randn(50, 2, 5, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(50)
BATCHES = Batches(IMAGES, TARGETS, 20)


def moved(image: Tensor, pixels: int) -> dict[tuple[int, int], Tensor]:
    """An image [c, h, w] in each of its places, by padding and cutting out."""
    height, width = image.shape[-2:]
    padded = functional.pad(image[None], [pixels] * 4, mode="replicate")[0]
    places = product(range(2 * pixels + 1), repeat=2)
    return {(y, x): padded[:, y : y + height, x : x + width] for y, x in places}


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_every_image_is_one_of_its_places_and_none_is_left_out(pixels: int) -> None:
    seen = set()
    for given, (images, targets) in zip(BATCHES, Shifted(BATCHES, pixels), strict=True):
        assert torch.equal(targets, given[1]) and images.shape == given[0].shape
        for before, image in zip(given[0], images, strict=True):
            places = [place for place, other in moved(before, pixels).items() if torch.equal(other, image)]
            assert len(places) == 1
            seen.update(places)
    # Of 50 images and 25 places some may be missed.
    assert len(seen) >= 0.7 * (2 * pixels + 1) ** 2


def test_every_time_is_another_and_the_same_of_every_object() -> None:
    state = torch.get_rng_state()
    first, again = (Shifted(BATCHES, 1, seed=3) for _ in range(2))
    times = [[images for images, _ in first] for _ in range(3)]
    for time in times:
        assert all(torch.equal(images, same) for images, (same, _) in zip(time, again, strict=True))
    assert not torch.equal(times[0][0], times[1][0]) and not torch.equal(times[1][0], times[2][0])
    assert not torch.equal(times[0][0], next(iter(Shifted(BATCHES, 1, seed=4)))[0])
    assert len(first) == 3 and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pixels": -1}, ValueError, "pixels must be"),
        ({"pixels": 0.5}, TypeError, "pixels must be"),
        ({"pixels": 1, "seed": -1}, ValueError, "seed must be"),
    ],
    ids=["below 0", "no whole number", "seed"],
)
def test_bad_arguments(options: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Shifted(BATCHES, **options)


def test_what_is_learned_from_is_moved_and_what_judges_is_not() -> None:
    data = Dataset("x", IMAGES, TARGETS, IMAGES, TARGETS)
    still, moving = (Setting(data, BATCHES, 50, shifts=shifts) for shifts in (0, 1))
    (images, targets), (others, same) = (next(iter(setting.training)) for setting in (still, moving))
    assert torch.equal(targets, same) and not torch.equal(images, others)
    assert all(
        any(torch.equal(place, other) for place in moved(image, 1).values())
        for image, other in zip(images, others, strict=True)
    )
    assert moving.options["validation"] is BATCHES
