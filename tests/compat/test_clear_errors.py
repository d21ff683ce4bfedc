"""Other packages' names: what does not fit is told with the argument that it is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lmc_fast.compat import git_re_basin, git_re_basin_pytorch

SPEC = git_re_basin_pytorch.permutation_spec_from_axes_to_perm({"a": ("P", None), "b": ("P",), "c": (None, "P")})
PARAMS = {"a": torch.randn(3, 2), "b": torch.randn(3), "c": torch.randn(2, 3)}
PERM = {"P": torch.tensor([2, 0, 1])}


def without(name: str) -> dict[str, Any]:
    return {other: value for other, value in PARAMS.items() if other != name}


def lists(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in params.items()}


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda m: m.weight_matching(SPEC, without("b"), PARAMS), KeyError, "params_a must have .*, but lacks 'b'"),
        (lambda m: m.weight_matching(SPEC, PARAMS, without("c")), KeyError, "params_b must have .*, but lacks 'c'"),
        (lambda m: m.weight_matching(SPEC, lists(PARAMS), PARAMS), TypeError, r"params_a\['a'\] must be a tensor or"),
        (lambda m: m.weight_matching(SPEC, list(PARAMS), PARAMS), TypeError, "params_a must be a dict"),
        (
            lambda m: m.weight_matching(m.PermutationSpec(SPEC.perm_to_axes, {"a": ("P", None)}), PARAMS, PARAMS),
            KeyError,
            r"ps\.axes_to_perm must have .*, but lacks 'b'",
        ),
        (
            lambda m: m.apply_permutation(SPEC, PERM, lists(PARAMS)),
            TypeError,
            r"params\['a'\] must be a tensor",
        ),
        (lambda m: m.apply_permutation(SPEC, PERM, [[1.0]]), TypeError, "params must be a dict"),
        (lambda m: m.apply_permutation(SPEC, {}, PARAMS), KeyError, "perm must have .*, but lacks 'P'"),
        (lambda m: m.apply_permutation(SPEC, [2, 0, 1], PARAMS), TypeError, "perm must be a dict"),
        (lambda m: m.apply_permutation("spec", PERM, PARAMS), TypeError, "ps must be a PermutationSpec"),
        (lambda m: m.apply_permutation(SPEC, PERM, {"d": 1.0}), KeyError, "ps must name every parameter.* lacks 'd'"),
        (lambda m: m.get_permuted_param(SPEC, PERM, "b", without("b")), KeyError, "params must have .* lacks 'b'"),
        (lambda m: m.get_permuted_param(SPEC, PERM, "c", {"c": np.zeros(3)}), ValueError, "axis 1 of 'c', which has 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("module", [git_re_basin, git_re_basin_pytorch], ids=lambda module: module.__name__)
def test_the_argument_is_named(module: Any, run: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(module)
