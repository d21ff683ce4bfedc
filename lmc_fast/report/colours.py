"""Colours of figures and pages, light and dark: one for one method, whatever the figure."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["COLOURS", "GRID", "INK", "LAYERS", "PALETTE", "PAPER", "Colour", "colour_of", "declared", "themed"]


@dataclass(frozen=True)
class Colour:
    """A colour under one name.

    Attributes:
        name: of the CSS variable, without its dashes.
        light, dark: hexadecimal, on a white page and on a dark one.
    """

    name: str
    light: str
    dark: str


# Told apart by lightness as well as by hue (after Okabe and Ito).
_LINES = (
    Colour("line-blue", "#1f5f99", "#86b8ee"),
    Colour("line-orange", "#b85c00", "#f2a24a"),
    Colour("line-green", "#2a7d4f", "#6ccf9c"),
    Colour("line-purple", "#8b3f8f", "#d79bdc"),
    Colour("line-grey", "#6b6b6b", "#b5b8bd"),
    Colour("line-red", "#b3452c", "#f0896b"),
    Colour("line-teal", "#0f7c86", "#5cc9d3"),
)
# One hue that no method has, from dark to light: what follows upon each other.
_LAYERS = (
    Colour("layer-1", "#33380a", "#f0f5c4"),
    Colour("layer-2", "#5a6118", "#c6ce80"),
    Colour("layer-3", "#757d22", "#9ea64e"),
    Colour("layer-4", "#8a9130", "#7f8738"),
)
_PAGE = (
    Colour("ink", "#1c1e21", "#e6e7e9"),
    Colour("soft", "#55595f", "#a9adb3"),
    Colour("line", "#d9dce0", "#3a3e44"),
    Colour("paper", "#ffffff", "#16181b"),
    Colour("shade", "#f5f6f7", "#1f2226"),
    Colour("yes", "#1a6b3c", "#7fd1a0"),
    Colour("no", "#9c3412", "#f0a27f"),
    Colour("open", "#6f5200", "#e3c268"),
    Colour("link", "#1f5f98", "#8fc1f0"),
    Colour("grid", "#b0b3b8", "#5a5f66"),
)
PALETTE = _PAGE + _LINES + _LAYERS
INK, PAPER, GRID = (next(c.light for c in _PAGE if c.name == name) for name in ("ink", "paper", "grid"))
# What figures are drawn in, by place; they go round.
COLOURS = tuple(colour.light for colour in _LINES)
LAYERS = tuple(colour.light for colour in _LAYERS)
BLUE, ORANGE, GREEN, PURPLE, GREY, RED, TEAL = COLOURS
# By the names of methods, short and long, and of the ways of laying transformers over each other.
_OF = {
    "none": RED,
    "not permuted": RED,
    "as they are": RED,
    "nothing": RED,
    "wm": BLUE,
    "permuted": BLUE,
    "b permuted": BLUE,
    "am": GREEN,
    "ste": ORANGE,
    "ste_wm": PURPLE,
    "sinkhorn": GREY,
    "permutations, weights": BLUE,
    "permutations, activations": GREEN,
    "stream turned, weights": GREY,
    "stream turned, activations": PURPLE,
    "heads turned too, activations": TEAL,
    "learned": ORANGE,
}
# By what is drawn; the page's own colours but for these two are in no figure.
_IN_FIGURES = {c.light: c.name for c in (*_LINES, *_LAYERS, *_PAGE) if c in _LINES + _LAYERS or c.light in (INK, GRID)}


def colour_of(name: str) -> str:
    """The colour of a method or a way, by any of its names.

    Raises:
        KeyError: a name that is none of theirs.
    """
    return _OF[name]


def themed(svg: str) -> str:
    """An svg element that takes its colours from the variables of the page it stands in, if that has any."""
    return re.sub(
        r"#[0-9a-f]{6}",
        lambda found: f"var(--{name}, {found[0]})" if (name := _IN_FIGURES.get(found[0])) else found[0],
        svg,
    )


def declared() -> str:
    """CSS: all variables, light and dark."""
    light, dark = (
        " ".join(f"--{colour.name}: {getattr(colour, scheme)};" for colour in PALETTE) for scheme in ("light", "dark")
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )
