"""Operands in the compiled core: read once, gathered in the cache, written once.

torch writes the gathered tensor and reads it again to cast it, and gathers single entries on one thread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native
from ..._chunks import Gathers
from ..._tensors import addresses, in_one_run
from ..permuted_lerp.native import TYPES

__all__ = ["laid_out"]


def laid_out(tensor: Tensor, gathers: Gathers, out: Tensor | None = None) -> Tensor:
    """`tensor` gathered on every dimension: float64 for float64, else float32; on the CPU, contiguous.

    Args:
        tensor, gathers: as there.
        out: contiguous, of the result's shape and dtype, to be written to; None: new memory.
    """
    # What is made contiguous here has to live until the core is done.
    kept = {d: in_one_run(f"gathers[{d}]", index) for d, index in enumerate(gathers) if index is not None}
    cpu = torch.device("cpu")
    places = dict(zip(kept, addresses("gathers", list(kept.values()), cpu, (torch.int64,)), strict=True))
    sizes = [len(kept[d]) if d in kept else size for d, size in enumerate(tensor.shape)]
    (place,) = addresses("tensor", (tensor,), cpu, TYPES)
    if out is None:
        out = torch.empty(sizes, dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    (to,) = addresses("out", (out,), cpu, (out.dtype,))
    _native.lay_out(
        TYPES[tensor.dtype],
        sizes,
        tensor.shape,
        place,
        tensor.stride(),
        [places.get(d, 0) for d in range(tensor.ndim)],
        to,
        threads=torch.get_num_threads(),
    )
    return out
