"""numpy arrays as files of other machines and other programs give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import lmc_fast as lmc
from lmc_fast.compat.git_re_basin import PermutationSpec, weight_matching

AXES: dict[str, tuple[str | None, ...]] = {"fc1.weight": ("P", None), "fc2.weight": (None, "P")}
SPEC = PermutationSpec({"P": [("fc1.weight", 0), ("fc2.weight", 1)]}, AXES)


def params(seed: int, dtype: str) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"fc1.weight": (8, 5), "fc2.weight": (3, 8)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [">f4", ">f8", "longdouble"])
def test_parameters_of_any_byte_order_and_width(dtype: str) -> None:
    found = weight_matching(SPEC, params(0, dtype), params(1, dtype), silent=True)
    usual = weight_matching(SPEC, params(0, "float64"), params(1, "float64"), silent=True)
    assert np.array_equal(found["P"], usual["P"])


@pytest.mark.parametrize("given", [None, 3, nn.Linear(2, 2)], ids=["None", "number", "module"])
def test_what_holds_no_parameters_is_named(given: Any) -> None:
    with pytest.raises(TypeError, match="params_b must be a dict from names"):
        weight_matching(SPEC, params(0, "float32"), given, silent=True)


def test_batches_of_another_byte_order() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = np.random.default_rng(0).standard_normal((12, 5)).astype("float32"), np.arange(12) % 3
    assert lmc.evaluate(model, [(x.astype(">f4"), y.astype(">i8"))]) == lmc.evaluate(model, [(x, y)])
    lmc.verify_spec(model, lmc.architectures.mlp(model), x.astype(">f4"))
