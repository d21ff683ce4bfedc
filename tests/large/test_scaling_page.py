"""docs/use/scaling.md says what the plan says."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.checkpoint_pairs import LlamaSize, llama_spec
from lmc_fast.large.plan import plan_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "use" / "scaling.md"


def test_the_page_has_the_plan_of_405b_on_64_ranks() -> None:
    size = LlamaSize(16384, 53248, 128, 8, 126, 128256)
    shapes = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in size.shapes().items()}
    plan = plan_of(llama_spec(size).bind(shapes), shapes, ranks=64)
    text = PAGE.read_text(encoding="utf-8")
    lines = str(plan).splitlines()
    # Times are of the machine, and groups have the names that the spec gives them.
    told = [line for line in lines if line and not line.startswith(("expected", "stream", "kv0", "f0"))]
    assert len(told) > 10
    for line in told:
        assert line in text
    ranks = plan.ranks
    assert ranks is not None
    shares = [sum(shapes[name].nbytes for name in ("lm_head.weight",)) / sum(x.nbytes for x in shapes.values())]
    shares.append(sum(shapes[f"model.layers.0.mlp.{n}_proj.weight"].nbytes for n in ("gate", "up", "down")))
    shares[1] /= sum(x.nbytes for x in shapes.values())
    assert f"1/{1 / max(shares):.0f} of the model" in text
    assert max(ranks.received) == 6 * 8 * size.hidden**2
