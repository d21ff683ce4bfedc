"""A forward pass without what a comparison of outputs cannot bear: rounding on the way, and noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Exact"]

# By precision, the coarsest first.
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# A standard normal number that is neither 0, which would hide what it is multiplied by, nor 1.
NORMAL = 0.7


class Exact(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, what the model casts to a coarser dtype stays in `dtype`, and noise is constant.

    Layers of language models compute norms in float32, and others cast their inputs: in a float64 copy this brings
    float32's rounding back, or fails where float64 and float32 meet. Constant noise treats all units alike, as
    noise does on the average, so that outputs with and without a permutation can be compared.

    Args:
        dtype: the dtype to stay in; None: dtypes are as the model has them.
        calm: whether noise is made constant.

    Attributes:
        coarsest: the coarsest dtype of a floating point value that was computed; None before anything was.
    """

    def __init__(self, dtype: torch.dtype | None, calm: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.calm = dtype, calm
        self.coarsest: torch.dtype | None = None
        self.lower = () if dtype is None else FLOATS[: FLOATS.index(dtype)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, writes_or_views = _schema(func)
        # Reading the same bits in another dtype is no cast.
        if self.dtype is not None and func is not torch.ops.aten.view.dtype:
            args = tuple(self._raised(arg) for arg in args)
            kwargs = {key: self._raised(arg) for key, arg in kwargs.items()}
            args = args if writes_or_views else self._together(args)
        calmed = CALM.get(name) if self.calm else None
        if calmed is None:
            out = func(*args, **kwargs)
        else:
            # What is drawn from the generator even so is noise of another kind.
            with torch.random.fork_rng([]):
                out = calmed(func, args, kwargs)
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor) and value.dtype in FLOATS:
                known = FLOATS if self.coarsest is None else FLOATS[: FLOATS.index(self.coarsest)]
                self.coarsest = value.dtype if value.dtype in known else self.coarsest
        return out

    def _raised(self, arg: Any) -> Any:
        return self.dtype if isinstance(arg, torch.dtype) and arg in self.lower else arg

    def _together(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Operands of one operation in one dtype: constants that the model keeps as plain tensors are as they were."""
        if not any(isinstance(arg, Tensor) and arg.dtype == self.dtype for arg in args):
            return args
        return tuple(
            arg.to(self.dtype) if isinstance(arg, Tensor) and arg.ndim > 0 and arg.dtype in self.lower else arg
            for arg in args
        )


# Schemas are made anew each time that one is looked at.
@cache
def _schema(func: Any) -> tuple[str, bool]:
    """An operation's name, and whether it writes to what it is given, or returns views of it."""
    schema = func._schema
    return str(schema.name), any(argument.alias_info is not None for argument in schema.arguments)


Calmed = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def _filled(constant: float) -> Calmed:
    """The operation's own result, of its shape and dtype, with the constant in place of its noise."""
    return lambda func, args, kwargs: func(*args, **kwargs).fill_(constant)


def _option(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _uniform(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    low, high = _option(args, kwargs, 1, "from", 0.0), _option(args, kwargs, 2, "to", 1.0)
    return args[0].fill_(0.5 * (low + high))


def _normal_in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mean, std = _option(args, kwargs, 1, "mean", 0.0), _option(args, kwargs, 2, "std", 1.0)
    return args[0].fill_(mean + NORMAL * std)


def _normal(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of tensors of means or deviations, or of numbers and a shape."""
    mean, std = _option(args, kwargs, 0, "mean", 0.0), _option(args, kwargs, 1, "std", 1.0)
    out = func(*args, **kwargs)
    return out.copy_(mean + NORMAL * std) if isinstance(mean, Tensor) or isinstance(std, Tensor) else out.fill_(NORMAL)


def _bernoulli(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = 0.5 if func._schema.name.endswith("_") else args[0]
    p = _option(args, kwargs, 1, "p", given)
    out = func(*args, **kwargs)
    # Most often a mask of what is kept: nothing is dropped.
    return out.copy_(p > 0) if isinstance(p, Tensor) else out.fill_(1.0 if p > 0 else 0.0)


def _dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)


def _multinomial(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].topk(_option(args, kwargs, 1, "num_samples", 1), dim=-1).indices


CALM: dict[str, Calmed] = {
    "aten::rand": _filled(0.5),
    "aten::rand_like": _filled(0.5),
    "aten::uniform_": _uniform,
    "aten::randn": _filled(NORMAL),
    "aten::randn_like": _filled(NORMAL),
    "aten::normal_": _normal_in_place,
    "aten::normal": _normal,
    "aten::exponential_": _filled(1.0),
    "aten::geometric_": _filled(1.0),
    "aten::bernoulli": _bernoulli,
    "aten::bernoulli_": _bernoulli,
    "aten::native_dropout": _dropout,
    "aten::multinomial": _multinomial,
}
