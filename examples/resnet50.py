"""torchvision's ResNet-50: what may be permuted in it, two of them matched, and their mean.

Without files the second network is the first with its units in random places and noise in its weights, so that what
matching has to find is known. With files it is yours:

    python examples/resnet50.py
    python examples/resnet50.py --a a.pt --b b.pt          # state dicts of torchvision.models.resnet50
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from planting import planted_pair, recovered
from torchvision.models import resnet50

import lmc_fast as lmc


def main(arguments: Sequence[str] | None = None) -> lmc.Matching:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=Path, help="a state dict")
    parser.add_argument("--b", type=Path, help="another one")
    given = parser.parse_args(arguments)
    if (given.a is None) != (given.b is None):
        parser.error("--a and --b go together")

    torch.manual_seed(0)
    model_a = resnet50(weights=None).eval()
    images = torch.randn(2, 3, 64, 64)
    spec = lmc.derive_spec(model_a, images)
    print(spec.explain())

    moved = None
    if given.a is None:
        model_b, moved = planted_pair(model_a, spec)
    else:
        model_b = resnet50(weights=None).eval()
        for model, path in ((model_a, given.a), (model_b, given.b)):
            model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

    match = lmc.weight_matching(model_a, model_b, spec, progress=True)
    print(match)
    if moved is not None:
        print(recovered(match, moved))

    # Of trained networks: merged = lmc.reestimate_batchnorm(merged, batches of training images)
    merged = lmc.interpolate(model_a, model_b, 0.5, match)
    with torch.no_grad():
        print(f"logits of the mean, and of the first network:\n{merged(images)[:, :4]}\n{model_a(images)[:, :4]}")
    return match


if __name__ == "__main__":
    main()
