"""What looks at pages finds what is wrong with one: in a browser, with a script that stands in for axe-core."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
# Complains of a page that is dark, and of pictures without a text.
AXE = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const without = [...document.images].filter(image => !image.alt);
const found = (id, target) => ({id, help: `help of ${id}`, nodes: [{target: [target], any: [{message: "why"}], all: [],
  none: []}]});
window.axe = {run: async () => ({violations: [...(dark ? [found("dark", "body")] : []),
  ...without.map(image => found("alt", `#${image.id}`))]})};
"""
PAGE = """<!doctype html><html lang="en"><title>t</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><body>{}</body></html>"""


@pytest.fixture(scope="module")
def look() -> ModuleType:
    spec = importlib.util.spec_from_file_location("look", ROOT / ".ci" / "look.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["look"] = module
    spec.loader.exec_module(module)
    return module


def test_axe_is_read_from_itself_or_from_a_wheel(look: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "axe.min.js").write_text(AXE)
    assert look.axe_of(tmp_path / "axe.min.js") == AXE
    for name, inside in (("axe.whl", "some_package/axe.min.js"), ("other.whl", "some_package/else.js")):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr(inside, AXE)
    assert look.axe_of(tmp_path / "axe.whl") == AXE
    with pytest.raises(SystemExit, match=r"other\.whl: has no axe"):
        look.axe_of(tmp_path / "other.whl")


def test_pages_are_one_or_all_of_a_folder(look: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "use").mkdir()
    for name in ("index.html", "404.html", "use/index.html", "use/style.css"):
        (tmp_path / name).touch()
    assert look.pages(tmp_path) == [tmp_path / "index.html", tmp_path / "use" / "index.html"]
    assert look.pages(tmp_path / "404.html") == [tmp_path / "404.html"]
    with pytest.raises(SystemExit, match="no such page"):
        look.pages(tmp_path / "none.html")


@pytest.mark.slow
def test_a_browser_is_asked_about_every_width_and_scheme(
    look: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any(map(shutil.which, look.BROWSERS)):
        pytest.skip("needs Chromium")
    site = tmp_path / "site"
    site.mkdir()
    script = "<script>console.error('went wrong')</script>"
    (site / "index.html").write_text(PAGE.format(f'<img id="a" src="data:,">{script}'))
    (site / "wide.html").write_text(PAGE.format('<div style="width: 500px">x</div>'))
    axe = tmp_path / "axe.min.js"
    axe.write_text(AXE)
    assert look.main([str(site), "--axe", str(axe), "--pictures", str(tmp_path / "seen")]) == 1
    told = capsys.readouterr().out
    every = "index.html 1280 light, index.html 1280 dark, index.html 390 light, index.html 390 dark"
    assert f"alt: help of alt: #a (why)\n    4 times: {every}\n" in told
    assert f"console: went wrong\n    4 times: {every}\n" in told
    assert "dark: help of dark: body (why)\n    4 times: index.html 1280 dark, index.html 390 dark, wide.html" in told
    assert "pixels wider than its window\n    2 times: wide.html 390 light, wide.html 390 dark\n" in told
    assert told.endswith("2 pages, 4 times each: 4 findings\n")
    assert len(list((tmp_path / "seen").glob("*.png"))) == 8
    axe.write_text("window.axe = {run: async () => ({violations: []})};")
    assert look.main([str(site), "--axe", str(axe), "--only", "index"]) == 1
    assert capsys.readouterr().out.endswith("1 pages, 4 times each: 1 findings\n")
    (site / "index.html").write_text(PAGE.format("<p>x</p>"))
    assert look.main([str(site / "index.html"), "--axe", str(axe)]) == 0
