"""A ViT of timm: its residual stream and its heads turned onto those of another, by weights alone.

The second network is the first with every group moved by a random element of its kind: permutations of MLP units,
orthogonal maps of the residual stream and of values, of queries with their keys. Of networks trained apart go on by
`activation_matching` and `learned_matching`: docs/use/transformers.md.

    python examples/timm_vit.py --model vit_tiny_patch16_224
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import timm
import torch

import lmc_fast as lmc


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="any of timm's plain vision transformers")
    parser.add_argument("--layers", type=int, default=4, help="how deep to build it")
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = timm.create_model(given.model, pretrained=False, depth=given.layers, num_classes=10).eval()
    images = torch.randn(2, *model.default_cfg["input_size"])
    spec = lmc.derive_spec(model, images, rotations=True)
    print(spec.explain())

    # Gains and biases of norms go into the maps behind them: then the stream may turn.
    model_a = lmc.fold_norms(model, spec)
    model_b = lmc.Transforms.random(spec, seed=1).apply(model_a)
    match = lmc.weight_matching(model_a, model_b, spec)
    print(match)

    turned = match.apply(model_b)
    with torch.no_grad():
        apart = (turned(images) - model(images)).abs().max().item()
    print(f"turned back, its logits differ from the first network's by {apart:.2g}")
    return apart


if __name__ == "__main__":
    main()
