"""Two Llamas with grouped queries, merged on disk: directories in, a directory out that `from_pretrained` reads.

python examples/llama.py
python examples/llama.py --a DIRECTORY --b DIRECTORY --out merged    # checkpoints of your own, larger than memory
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from planting import planted_pair
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import lmc_fast as lmc

CONFIG = LlamaConfig(
    vocab_size=199, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
    num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Two directories: a small Llama, and the same with its units elsewhere and noise."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    spec = lmc.derive_spec(model, {"input_ids": torch.arange(12)[None], "use_cache": False})
    print(spec.explain())
    other, _ = planted_pair(model, spec)
    model.save_pretrained(folder / "a")
    other.save_pretrained(folder / "b")
    return folder / "a", folder / "b"


def main(arguments: Sequence[str] | None = None) -> lmc.MergeResult:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=Path, help="a model directory")
    parser.add_argument("--b", type=Path, help="another one")
    parser.add_argument("--out", type=Path, help="where to write the merged one")
    given = parser.parse_args(arguments)
    if (given.a is None) != (given.b is None):
        parser.error("--a and --b go together")

    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        a, b = write_pair(folder) if given.a is None else (given.a, given.b)
        out = given.out or folder / "merged"
        # What `lmc-fast merge A B -o OUT` does; with dry_run=True the plan alone.
        result = lmc.merge_checkpoints(a, b, out=out)
        print(result)
        merged, first = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (out, a))
        tokens = torch.arange(1, 13)[None]
        with torch.no_grad():
            ours, theirs = merged(tokens).logits, first(tokens).logits
        # Near 1 for two that are the same but for noise; of models trained apart, ask your own evaluation.
        print(
            f"cosine of the logits of the mean and of the first: {torch.cosine_similarity(ours, theirs, -1).mean():.3f}"
        )
    return result


if __name__ == "__main__":
    main()
