"""Operands laid out in memory that is given for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmc_fast.ops.laid_out import laid_out


def there(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(sizes, torch.nan, dtype=dtype)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("gathers", [(None, None), (None, torch.tensor([3, 1]))], ids=["as it is", "gathered"])
def test_they_are_written_where_they_are_wanted(
    backend: str, dtype: torch.dtype, gathers: tuple[Tensor | None, ...]
) -> None:
    tensor = torch.arange(20.0).reshape(4, 5).T.to(dtype)
    out = there(5, 4 if gathers[1] is None else 2)
    assert laid_out(tensor, gathers, torch.float32, out=out, backend=backend) is out
    wanted = tensor if gathers[1] is None else tensor.index_select(1, gathers[1])
    assert torch.equal(out, wanted.float())


@pytest.mark.parametrize(
    "out",
    [there(2, 4), there(3, 4, dtype=torch.float64), there(4, 3).T, there(3, 4).to("meta")],
    ids=["another shape", "another dtype", "not in one run", "without memory"],
)
def test_memory_that_does_not_fit_is_refused(out: Tensor) -> None:
    with pytest.raises(ValueError, match="out must be"):
        laid_out(torch.zeros(3, 4, dtype=torch.bfloat16), (None, None), torch.float32, out=out)


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="out must be a tensor"):
        laid_out(torch.zeros(3, dtype=torch.bfloat16), (None,), torch.float32, out=[0.0] * 3)  # type: ignore[arg-type]
