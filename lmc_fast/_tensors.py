"""Which tensors arithmetic can be done on as they are, which have to be gathered first, and which are refused.

Every tensor of a caller's model comes in through `plain`, and every address that compiled code reads or writes is one
that `addresses` gave out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from operator import attrgetter, le

import torch
from torch import Tensor, UntypedStorage, nn

from ._checks import fail_type

__all__ = [
    "BASES",
    "FLOATS",
    "addresses",
    "addresses_at_once",
    "as_base",
    "check_dense",
    "check_indices",
    "check_indices_at_once",
    "have_same_entries",
    "identities",
    "in_one_run",
    "is_as_stored",
    "obstacle_of",
    "plain",
    "plain_at_once",
    "seen",
    "tensor_identity",
    "unsummable",
]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Numbers in memory that is the tensor's own, with no code of anyone's between.
BASES = frozenset({Tensor, nn.Parameter})
_TAKES = "a dense tensor with data"

_device, _dtype, _is_meta, _is_nested, _layout, _nbytes, _shape = (
    attrgetter(name) for name in ("device", "dtype", "is_meta", "is_nested", "layout", "nbytes", "shape")
)
# Dtypes of real numbers of at most 8 bytes that no other tensor tells how to read.
_ORDINARY = frozenset((*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def plain(argument: str, tensor: Tensor, *, shapes_only: bool = False) -> Tensor:
    """The tensor, detached, as a dense one with memory of its own; nothing is copied where that can be.

    Subclasses that only add methods are seen as the base class; one with `full_tensor()` (DTensor) is gathered, which
    all of its ranks have to do together; a collective under way is waited for; lazy signs and conjugates are computed;
    entries at odd addresses are copied. What was made in inference mode stays so.

    Args:
        argument: what the caller calls it.
        shapes_only: nobody will look at the numbers. Tensors of the meta device and fake ones are taken as well, and
            nothing is gathered: what has no memory here comes back on the meta device.

    Raises:
        ValueError: another wrapper, a tensor inside torch.func's transforms, sparse, nested, quantised, without
            numbers, or of freed memory. The message says which.
    """
    if type(tensor) not in BASES:
        tensor = _unwrapped(argument, tensor, shapes_only)
    obstacle = obstacle_of(tensor, shapes_only=shapes_only)
    if obstacle is not None:
        raise ValueError(f"{argument} must be {_TAKES}, got {obstacle}")
    tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
    elif not shapes_only and tensor.data_ptr() % tensor.element_size():
        tensor = tensor.clone()
    return tensor


def plain_at_once(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """As `plain`, of ordinary real tensors that start where their storages do; None where one is anything else.

    A state dict has hundreds of small tensors: all are looked at together, an attribute at a time.
    """
    # Empty ones have no address, and nothing is wrong with that: they are looked at by themselves.
    if not BASES.issuperset(map(type, tensors)) or not _ORDINARY.issuperset(map(_dtype, tensors)):
        return None
    if _ordinary_addresses(tensors) is None:
        return None
    return list(map(Tensor.detach, tensors))


def is_as_stored(tensor: Tensor) -> bool:
    """Whether `plain` would give back a view of it, and no tensor that is made anew on each call."""
    if _is_wrapper(tensor):
        return False
    with torch._C.DisableTorchFunctionSubclass():
        return not (tensor.is_neg() or tensor.is_conj())


def as_base(tensor: Tensor) -> Tensor:
    """A tensor that `check_dense` lets through as one of the base class, its lazy sign computed."""
    if type(tensor) not in BASES:
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(Tensor)
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def seen(argument: str, tensor: Tensor) -> Tensor:
    """A tensor that has a shape, of the base class and without a lazy sign; compiled code looks for the rest itself."""
    if type(tensor) is Tensor and not (tensor.is_nested or tensor.is_neg()):
        return tensor
    check_dense(argument, tensor)
    return as_base(tensor)


def check_dense(argument: str, tensor: object) -> None:
    """TypeError unless it is a tensor, ValueError unless its numbers can be read where they are: none is gathered."""
    if type(tensor) is not Tensor and not isinstance(tensor, Tensor):
        fail_type(argument, "a tensor", tensor)
    obstacle = obstacle_of(tensor)
    if obstacle is not None:
        raise ValueError(f"{argument} must be {_TAKES}, got {obstacle}")


def check_indices(argument: str, index: Tensor, size: int | None = None) -> None:
    """IndexError unless int64 indices are of a dimension of `size`, or as long as they are; torch would not name it."""
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < (index.numel() if size is None else size)):
        raise IndexError(f"{argument} must hold indices of its dimension")


def check_indices_at_once(named: Sequence[tuple[str, Tensor]]) -> None:
    """`check_indices` of many; those of one device other than the CPU with one wait for it."""
    elsewhere = [index for _, index in named if index.device.type != "cpu" and index.numel()]
    for device in {index.device for index in elsewhere}:
        here = [index for index in elsewhere if index.device == device]
        ends = torch.stack([torch.stack([index.min(), index.max() - index.numel()]) for index in here])
        if bool(((ends[:, 0] < 0) | (ends[:, 1] >= 0)).any()):
            # Which of them it is.
            break
    else:
        named = [(name, index) for name, index in named if index.device.type == "cpu"]
    for name, index in named:
        check_indices(name, index)


def in_one_run(argument: str, tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it whose entries lie in order and side by side; ValueError as `check_dense`."""
    if tensor.is_contiguous():
        return tensor
    check_dense(argument, tensor)
    return tensor.contiguous()


def unsummable(tensor: Tensor) -> str | None:
    """The dtype of a tensor whose entries we do not sum (complex, 8-bit floats and odder ones); None of the others."""
    dtype = tensor.dtype
    return str(dtype) if dtype not in FLOATS and (dtype.is_floating_point or dtype.is_complex) else None


def have_same_entries(one: Tensor, other: Tensor) -> bool:
    """Whether two of `plain` hold the same, bit for bit, of any dtype, wherever they are."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    ours, theirs = (tensor.cpu().contiguous().view(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(ours, theirs)


def addresses(
    argument: str, tensors: Sequence[Tensor], device: torch.device, dtypes: Collection[torch.dtype]
) -> list[int]:
    """Where the entries of tensors start, for compiled code: given out after a look at all that it relies on.

    Raises:
        TypeError: no tensor, or one of another dtype.
        ValueError: one that is not dense, of freed memory, on another device, with a lazy sign, with entries at odd
            addresses, beyond its memory, or too many for 64 bits.
    """
    found = addresses_at_once(tensors, device, dtypes) if len(tensors) > 4 else None
    return [_address(argument, tensor, device, dtypes) for tensor in tensors] if found is None else found


def addresses_at_once(
    tensors: Sequence[Tensor], device: torch.device, dtypes: Collection[torch.dtype]
) -> list[int] | None:
    """As `addresses`, of contiguous tensors that start where their storages do; None where one is anything else.

    A model has hundreds of small tensors: all are looked at together, an attribute at a time.
    """
    if not BASES.issuperset(map(type, tensors)) or not set(map(_dtype, tensors)).issubset(dtypes):
        return None
    if device.type == "meta" or not {device}.issuperset(map(_device, tensors)):
        return None
    return _ordinary_addresses(tensors)


def _ordinary_addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """Where the entries of each begin; None where one is not dense, whole in its memory and aligned, or is empty."""
    if (
        not {torch.strided}.issuperset(map(_layout, tensors))
        or not all(map(Tensor.is_contiguous, tensors))
        or any(map(_is_nested, tensors))
        or any(map(_is_meta, tensors))
        or any(map(Tensor.is_neg, tensors))
        or any(map(Tensor.storage_offset, tensors))
    ):
        return None
    try:
        held = list(map(UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors)))
    except RuntimeError:  # without memory, inside torch.func
        return None
    if not all(map(le, map(_nbytes, tensors), held)):
        return None
    found = list(map(Tensor.data_ptr, tensors))
    return None if not all(found) or any(place & 7 for place in found) else found


def _address(argument: str, tensor: Tensor, device: torch.device, dtypes: Collection[torch.dtype]) -> int:
    check_dense(argument, tensor)
    if tensor.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{argument} must hold {names}, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{argument} must be on {device}, got a tensor on {tensor.device}")
    if tensor.is_neg():
        raise ValueError(f"{argument} must hold computed numbers, got a lazy negative")
    pointer = tensor.data_ptr()
    if pointer & 7 and pointer % tensor.element_size():
        raise ValueError(f"{argument} must lie at multiples of {tensor.element_size()} bytes, got one that does not")
    return pointer


def tensor_identity(tensor: Tensor) -> Hashable:
    """Equal for two names of one tensor (tied weights), different for different tensors.

    Views of some memory that overlap in themselves (expanded ones) are no tied weights, and nothing is that has no
    memory to be told by. Of a DTensor it is this rank's part that tells. Good as long as the tensors live.
    """
    try:
        if _is_wrapper(tensor) and hasattr(tensor, "to_local"):
            with torch.no_grad():
                local = tensor.to_local()
            return (tensor.shape, repr(tensor.placements), *_place(local))  # type: ignore[attr-defined]
        if tensor.numel() == 0 or _is_expanded(tensor):
            return id(tensor)
        if tensor.is_meta or hasattr(tensor, "fake_mode"):
            return _place(tensor)
        pointer = tensor.data_ptr()
    # Without shape or memory.
    except RuntimeError:
        return id(tensor)
    if pointer == 0:
        return id(tensor)
    return (
        tensor.device,
        pointer,
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.is_neg(),
        tensor.is_conj(),
    )


def identities(tensors: Sequence[Tensor]) -> list[Hashable]:
    """Of each what tells it from the others as `tensor_identity` does; of ordinary ones all at once."""
    if BASES.issuperset(map(type, tensors)) and _ORDINARY.issuperset(map(_dtype, tensors)):
        found = _ordinary_addresses(tensors)
        if found is not None:
            return list(zip(map(_device, tensors), found, map(_shape, tensors), map(_dtype, tensors), strict=True))
    return list(map(tensor_identity, tensors))


def _is_expanded(tensor: Tensor) -> bool:
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _place(tensor: Tensor) -> tuple[Hashable, ...]:
    """Where a tensor is in a storage that may hold nothing."""
    storage = tensor.untyped_storage()._cdata
    return (tensor.device, storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether its class takes operations into its own hands: the numbers may be anywhere."""
    return type(tensor) not in BASES and type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def _unwrapped(argument: str, tensor: Tensor, shapes_only: bool) -> Tensor:
    """A tensor of a subclass as one of the base class, gathered or waited for where that takes it; else as it is."""
    if not _is_wrapper(tensor):
        return as_base(tensor)
    if shapes_only and hasattr(tensor, "full_tensor"):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if hasattr(tensor, "full_tensor") and not tensor.is_meta:
        try:
            with torch.no_grad():
                full = tensor.full_tensor()
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"{argument} is a {type(tensor).__name__} that cannot be gathered: {error}") from error
        return full if type(full) is type(tensor) else _maybe_unwrapped(argument, full, shapes_only)
    if hasattr(tensor, "trigger_wait"):
        # What torch's functional collectives return until somebody looks.
        return _maybe_unwrapped(argument, tensor.trigger_wait(), shapes_only)
    return tensor


def _maybe_unwrapped(argument: str, tensor: Tensor, shapes_only: bool) -> Tensor:
    return tensor if type(tensor) in BASES else _unwrapped(argument, tensor, shapes_only)


def obstacle_of(tensor: Tensor, *, shapes_only: bool = False) -> str | None:
    """What stands between us and a tensor's numbers, in words that go behind "got"; None: nothing."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return f"a quantised tensor ({tensor.dtype})"
    if shapes_only and (tensor.is_meta or hasattr(tensor, "fake_mode")):
        return None
    if _is_wrapper(tensor):
        return f"a {type(tensor).__name__}, whose numbers lie elsewhere"
    if tensor.is_meta:
        return "one on the meta device, which holds no numbers"
    try:
        held = tensor.untyped_storage().nbytes()
    # Inside vmap or grad, and on devices with memory that is not told of.
    except RuntimeError:
        return "one without memory of its own (inside torch.func, or of an opaque device)"
    count = tensor.nbytes
    if count == 0:
        return None
    if not tensor.is_contiguous():
        if math.prod(tensor.shape) >= 2**63:
            return f"one of more entries than 64 bits count, of shape {tuple(tensor.shape)}"
        steps = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        count = (steps + 1) * tensor.element_size()
    needed = tensor.storage_offset() * tensor.element_size() + count
    if needed > held:
        return f"one whose memory is freed or cut short ({held} of {needed} bytes)"
    return "one without memory of its own" if tensor.data_ptr() == 0 else None
