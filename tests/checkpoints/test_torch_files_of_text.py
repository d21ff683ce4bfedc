"""Files that are no torch files at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmc_fast.checkpoints import load_checkpoint


@pytest.mark.parametrize("text", ["hello", "hidden = 3\n"])
def test_text_is_said_to_be_another_kind_of_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.pt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"model\.pt' is no complete torch file: it is damaged, or another kind"):
        load_checkpoint(path)
