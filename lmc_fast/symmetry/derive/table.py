"""The table of rules: `python -m lmc_fast.symmetry.derive.table` prints docs/rules.md."""

from __future__ import annotations

from . import rules
from .look import RULES, Rule

__all__ = ["table"]


def table() -> str:
    """Every rule with the operations that it is for and what it does to axes, by family, as Markdown."""
    lines = [
        "# What operations do to axes",
        "",
        "Made by `python -m lmc_fast.symmetry.derive.table` from the rules in `lmc_fast/symmetry/derive/rules/`.",
        "Operations that torch marks as entry by entry (`torch.Tag.pointwise`) go by `broadcast`; any other pins the",
        "axes that it touches. Rules are tried by `tests/symmetry/derive/`.",
        "",
        "| family | operations | rule |",
        "| --- | --- | --- |",
    ]
    found: dict[Rule, list[str]] = {}
    for name, rule in RULES.items():
        found.setdefault(rule, []).append(name.removeprefix("aten."))
    for family in rules.__all__:
        for rule, names in found.items():
            if rule.__module__.rpartition(".")[2] == family:
                told = " ".join((rule.__doc__ or "").split())
                lines.append(f"| {family} | {', '.join(f'`{name}`' for name in names)} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
