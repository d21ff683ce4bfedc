"""What a GPU is to reach, by rows of `gpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .solvers import OURS

__all__ = ["AHEAD", "GOALS", "ON_CPU", "ON_GPU", "Goal", "judged"]

ON_CPU = f"{OURS}, on the CPU"
ON_GPU = OURS
AHEAD = ", host ahead"


class Goal:
    """A figure of some row's, and how large it is to be.

    Args:
        name: what it is called in the table.
        least: what is to be reached.
        figure: what is reached, from a function that finds rows by their fields; None where they are not there.
    """

    def __init__(self, name: str, least: float, figure: Callable[[Callable[..., float | None]], float | None]) -> None:
        self.name, self.least, self.figure = name, least, figure


def _over(above: Mapping[str, str], below: Mapping[str, str]) -> Callable[[Callable[..., float | None]], float | None]:
    """One median over another."""

    def figure(find: Callable[..., float | None]) -> float | None:
        slow, fast = find("p50_ms", **above), find("p50_ms", **below)
        return None if slow is None or fast is None else slow / fast

    return figure


def _gain(dtype: str, solver: str) -> dict[str, str]:
    return {"family": "gain matrix, units on rows", "n": "4096", "dtype": dtype, "solver": solver}


def _correction(dtype: str, solver: str) -> dict[str, str]:
    return {"family": "gain matrix, correction of 5 %", "n": "4096", "dtype": dtype, "solver": solver}


def _matching(name: str, solver: str) -> dict[str, str]:
    return {"family": "matching", "label": name, "solver": solver, "part": ""}


_MODELS = ("interpolation of resnet50", "interpolation of transformer, 32 layers of 2048")
GOALS = (
    Goal(
        "gain matrix in bfloat16, by the library: share of the library's product",
        0.75,
        _over(_gain("bfloat16", f"torch product alone{AHEAD}"), _gain("bfloat16", f"{OURS}, library{AHEAD}")),
    ),
    Goal(
        "gain matrix in bfloat16, by tiles: share of the library's product",
        0.75,
        _over(_gain("bfloat16", f"torch product alone{AHEAD}"), _gain("bfloat16", f"{OURS}{AHEAD}")),
    ),
    Goal(
        "gain matrix in float32: times torch's gather and product",
        2.5,
        _over(_gain("float32", f"torch gather and product{AHEAD}"), _gain("float32", f"{OURS}{AHEAD}")),
    ),
    *(
        Goal(
            f"correction of 5 % in {dtype}{how and ', by the library'}: times the whole product",
            8,
            _over(_correction(dtype, f"{OURS}{how}, anew{AHEAD}"), _correction(dtype, f"{OURS}{how}{AHEAD}")),
        )
        for dtype, how in (("float32", ""), ("bfloat16", ""), ("bfloat16", ", library"))
    ),
    *(
        Goal(
            f"interpolation in {dtype}: share of a copy's bandwidth",
            0.85,
            lambda find, dtype=dtype: find(
                "of_roofline", family="interpolation", n="4096", dtype=dtype, solver=f"{OURS}{AHEAD}"
            ),
        )
        for dtype in ("float32", "bfloat16")
    ),
    *(
        Goal(
            f"{family}: times torch eager",
            5,
            _over({"family": family, "solver": "torch eager"}, {"family": family, "solver": OURS}),
        )
        for family in _MODELS
    ),
    *(
        Goal(f"matching of {name}: times the CPU", 8, _over(_matching(name, ON_CPU), _matching(name, ON_GPU)))
        for name in ("mlp-2048", "vgg16")
    ),
    Goal(
        "matching of llama-7b: times faster than 60 s",
        1,
        lambda find: None if (ms := find("p50_ms", **_matching("llama-7b", ON_GPU))) is None else 60e3 / ms,
    ),
)


def judged(rows: list[dict[str, str]]) -> Iterator[tuple[Goal, float | None]]:
    """Every goal with what was reached, by the last of the rows that tell it; None: not measured."""

    def find(column: str, **fields: str) -> float | None:
        for row in reversed(rows):
            if row.get(column) and all(row.get(name, "") == value for name, value in fields.items()):
                return float(row[column])
        return None

    for goal in GOALS:
        yield goal, goal.figure(find)
