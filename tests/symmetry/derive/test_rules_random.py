"""No false symmetry, and none missed that is known by construction, in modules put together at random."""

from __future__ import annotations

import pytest

import lmc_fast as lmc

from .random_modules import random_modules

# So many modules are traced together.
EACH = 10


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    starts = range(0, metafunc.config.getoption("--modules"), EACH)
    marked = [pytest.param(start, marks=[pytest.mark.slow] if start >= EACH else []) for start in starts]
    metafunc.parametrize("start", marked)


def test_nothing_false_is_let_free_and_nothing_known_is_missed(start: int) -> None:
    model, inputs = random_modules(start, EACH)
    spec = lmc.derive_spec(model, inputs, verify=False)
    assert not spec.explain().notes
    assert lmc.verify_spec(model, spec, inputs) < 1e-10
    assert model.free(), "no module of these has units that are known to be free"
    for parameter, position in model.free():
        segments = spec.axes[parameter][position].segments
        assert segments and all(spec.sizes[segment.group or ""] == 10 for segment in segments), parameter
