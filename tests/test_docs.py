"""Every block of code in the documentation runs, and draws the figures that its page shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from .pages import DOCS, blocks, pages, run


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    plt.close("all")


# Which train models, and lay them over each other.
LONG = ("align", "many", "merge", "transformers", "why")
PAGES = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG), id=path.stem) for path in pages()]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_and_draws_its_figures(path: Path, tmp_path: Path) -> None:
    run(path, tmp_path)
    shown = re.findall(r"\]\((?:\.\./)?figures/(.+?\.png)\)", path.read_text(encoding="utf-8"))
    assert sorted(drawn.name for drawn in tmp_path.glob("*.png")) == sorted(shown)
    for name in shown:
        assert (DOCS / "figures" / name).is_file()


def test_the_readme_runs_on_two_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = [
        torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
        for _ in range(2)
    ]
    batches = [(torch.randn(16, 5), torch.arange(16) % 3)]
    given = {
        "model_a": pair[0],
        "model_b": pair[1],
        "example_inputs": torch.randn(4, 5),
        "train_batches": batches,
        "test_batches": batches,
    }
    assert "weight matching" in run(DOCS.parent / "README.md", tmp_path, given)


def test_pages_are_run_as_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# x\n\n```python\nvalue = 2\n```\n\n<!-- not run: it ends -->\n```sh\nexit\n```\n\n"
        "```python\nprint(value + 1)\n```\n"
        "```text\nnot code\n```\n```sh\nlmc-fast --version  # told\n```\n"
    )
    assert [(block.language, block.why_not, block.line) for block in blocks(page)] == [
        ("python", "", 4),
        ("sh", "it ends", 9),
        ("python", "", 13),
        ("sh", "", 19),
    ]
    said = run(page, tmp_path)
    assert said.startswith("3\nlmc-fast, version")


def test_what_fails_names_the_pages_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# x\n\n```python\nraise KeyError('here')\n```\n")
    with pytest.raises(KeyError) as caught:
        run(page, tmp_path)
    assert caught.traceback[-1].lineno == 3
    page.write_text("```sh\nls\n```\n")
    with pytest.raises(ValueError, match="only lmc-fast is run here, got 'ls'"):
        run(page, tmp_path)
