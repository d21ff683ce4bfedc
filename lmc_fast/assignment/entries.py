"""From what the caller has to a matrix that the core reads, in place where it can."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .._checks import fail_type, fail_value
from .._tensors import as_base, obstacle_of

__all__ = [
    "LARGEST",
    "SCALE_DOWN",
    "Floats",
    "array_of",
    "as_float",
    "entries_of",
    "matching_of",
    "matrix_of",
    "numbers_of",
    "vector_of",
]

Floats: TypeAlias = "NDArray[np.float32] | NDArray[np.float64]"

# The core takes entries and duals up to here.
LARGEST = 2.0**960
# Brings every finite float64 below that; a power of two keeps the order of the sums.
SCALE_DOWN = -100

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

_KINDS = {2: "a matrix", 3: "a batch of matrices"}


def entries_of(argument: str, values: ArrayLike | torch.Tensor, dimensions: int) -> NDArray[np.generic]:
    """Return real numbers of 2 or 3 dimensions as an array: a view where that can be, never the caller's to change.

    Raises:
        TypeError: something else than real numbers, or a tensor that is sparse or has no data.
        ValueError: another number of dimensions, or nested sequences of uneven length.
    """
    takes = f"{_KINDS[dimensions]} of real numbers"
    entries = array_of(argument, values, takes)
    if entries.dtype.kind not in "biuf":
        fail_type(argument, takes, entries)
    if entries.ndim != dimensions:
        fail_value(argument, f"{_KINDS[dimensions]}, of {dimensions} dimensions", entries)
    return entries


def array_of(argument: str, values: object, takes: str) -> NDArray[Any]:
    """Return an array, a tensor or nested sequences as an array of any dimensions: a view where that can be.

    Raises:
        TypeError: a tensor that is complex or has no dense data, a masked array with masked entries, or what numpy
            cannot read.
        ValueError: nested sequences of uneven length.
    """
    if isinstance(values, torch.Tensor):
        return _array_of_tensor(argument, values, takes)
    # numpy would hand on what lies under the mask.
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise TypeError(f"{argument} must be {takes}, got a masked array with masked entries: fill them first")
    try:
        return np.asarray(values)
    except ValueError as error:
        message = f"{argument} must be {takes}, got a {type(values).__name__} that is not one: {error}"
        raise ValueError(message) from error
    # Lists of tensors that are on a GPU, in a graph or without data.
    except (TypeError, RuntimeError, OverflowError) as error:
        message = f"{argument} must be {takes}, got a {type(values).__name__} that is not one: {error}"
        raise TypeError(message) from error


def _array_of_tensor(argument: str, values: torch.Tensor, takes: str) -> NDArray[Any]:
    obstacle = obstacle_of(values)
    if obstacle is not None:
        raise TypeError(f"{argument} must be a dense tensor with data, got {obstacle}")
    if values.is_complex():
        fail_type(argument, takes, values)
    values = as_base(values)
    if values.is_floating_point() and values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32)  # numpy has no bfloat16
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array


def matrix_of(argument: str, values: ArrayLike | torch.Tensor) -> Floats:
    """Return a matrix of real numbers in a dtype and a layout that the core reads: `values` itself where it can be.

    Raises:
        TypeError, ValueError: as `entries_of`.
    """
    if (
        type(values) is np.ndarray
        and (values.dtype is _FLOAT32 or values.dtype is _FLOAT64)
        and values.flags.carray
        and values.ndim == 2
        and values.shape[0] <= values.shape[1]
    ):
        # As below, in a third of a microsecond: all of a 32 x 32 solve takes four.
        return values
    return _readable(as_float(entries_of(argument, values, 2)))


def as_float(entries: NDArray[np.generic]) -> Floats:
    """Cast to float32 what float32 holds exactly, everything else to float64; float32 and float64 are not copied."""
    kind, size = entries.dtype.kind, entries.dtype.itemsize
    if kind == "b" or size <= (4 if kind == "f" else 2):
        return entries.astype(np.float32, copy=False)
    return entries.astype(np.float64, copy=False)


def _readable(matrix: Floats) -> Floats:
    """Return `matrix` if the core can walk along its longer side, else a copy that it can."""
    rows, columns = matrix.shape
    by_rows = rows <= columns and _walks(matrix)
    by_columns = columns <= rows and _walks(matrix.T)
    if matrix.flags.aligned and (by_rows or by_columns):
        return matrix
    copied: Floats = matrix.copy(order="C" if rows <= columns else "F")
    return copied


def _walks(matrix: Floats) -> bool:
    rows, columns = matrix.shape
    row_step, column_step = matrix.strides
    size = matrix.itemsize
    return rows == 0 or ((columns <= 1 or column_step == size) and (rows <= 1 or row_step % size == 0))


def vector_of(argument: str, values: object, length: int) -> NDArray[Any]:
    """Return `values` as a vector of real numbers.

    Raises:
        TypeError: something else than real numbers.
        ValueError: another shape than (length,).
    """
    vector = array_of(argument, values, "a vector of real numbers")
    if vector.dtype.kind not in "biuf":
        fail_type(argument, "a vector of real numbers", vector)
    if vector.shape != (length,):
        fail_value(argument, f"a vector of length {length}", vector)
    return vector


def matching_of(argument: str, values: object, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the column of each row as int64 [n]: distinct columns below m, or -1 for none.

    Raises:
        TypeError: something else than whole numbers.
        ValueError: another length, a column out of range, or one that two rows have.
    """
    vector = vector_of(argument, values, shape[0])
    if vector.dtype.kind not in "iu" and vector.size:
        fail_type(argument, "a vector of whole numbers", vector)
    matching = _as_int64(vector)
    taken = matching[matching != -1]
    if taken.size and (taken.min() < 0 or taken.max() >= shape[1]):
        wrong = taken[(taken < 0) | (taken >= shape[1])][0]
        raise ValueError(f"{argument} must hold columns from 0 to {shape[1] - 1}, or -1 for none, got {wrong}")
    if taken.size and np.bincount(taken).max() > 1:
        raise ValueError(f"{argument} must hold distinct columns, got one for two rows")
    return matching


def numbers_of(argument: str, values: object, end: int) -> NDArray[np.int64]:
    """Return whole numbers from 0 to end - 1 as int64 [k], ascending and distinct; none for None.

    Raises:
        TypeError: something else than whole numbers.
        ValueError: another number of dimensions, or a number out of range.
    """
    if values is None:
        return np.empty(0, np.int64)
    numbers = array_of(argument, values, "a vector of whole numbers")
    if numbers.dtype.kind not in "iu" and numbers.size:
        fail_type(argument, "a vector of whole numbers", numbers)
    if numbers.ndim != 1:
        fail_value(argument, "a vector, of 1 dimension", numbers)
    distinct = _as_int64(np.unique(numbers))
    wrong = distinct[(distinct < 0) | (distinct >= end)]
    if wrong.size:
        raise ValueError(f"{argument} must hold numbers from 0 to {end - 1}, got {wrong[0]}")
    return distinct


def _as_int64(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """As int64; what is beyond stays out of any range, and does not wrap around into one."""
    if numbers.dtype == np.uint64:
        numbers = np.minimum(numbers, np.uint64(np.iinfo(np.int64).max))
    whole: NDArray[np.int64] = numbers.astype(np.int64)
    return whole
