"""A BERT of transformers: what may be permuted in it, a second one matched, and their mean.

python examples/bert.py
python examples/bert.py --a DIRECTORY --b DIRECTORY    # two model directories of your own
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from planting import planted_pair, recovered
from transformers import BertConfig, BertForMaskedLM

import lmc_fast as lmc

CONFIG = BertConfig(
    vocab_size=211, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=40, tie_word_embeddings=True,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> lmc.Matching:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", help="a model directory")
    parser.add_argument("--b", help="another one")
    given = parser.parse_args(arguments)
    if (given.a is None) != (given.b is None):
        parser.error("--a and --b go together")

    torch.manual_seed(0)
    model_a = BertForMaskedLM(CONFIG) if given.a is None else BertForMaskedLM.from_pretrained(given.a)
    model_a = model_a.eval()
    # As a tokenizer gives it; the example reaches all places that are to move.
    tokens = torch.randint(5, model_a.config.vocab_size, (2, model_a.config.max_position_embeddings))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    spec = lmc.derive_spec(model_a, inputs)
    print(spec.explain())

    moved = None
    if given.b is None:
        model_b, moved = planted_pair(model_a, spec)
    else:
        model_b = BertForMaskedLM.from_pretrained(given.b).eval()
    match = lmc.weight_matching(model_a, model_b, spec)
    print(match)
    if moved is not None:
        print(recovered(match, moved))

    merged = lmc.interpolate(model_a, model_b, 0.5, match)
    with torch.no_grad():
        ours, theirs = merged(**inputs).logits, model_a(**inputs).logits
    agree = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    print(f"the mean predicts the first network's word at {agree:.1%} of all places")
    return match


if __name__ == "__main__":
    main()
